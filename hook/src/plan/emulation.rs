//! Which emulator runs the programs of a target, in which form, and what it is told.

use std::fs::File;

use anyhow::{Result, ensure};

use crate::arch::Arch;
use crate::arch::arguments::Arguments;
use crate::arch::binfmt::Handler;
use crate::arch::interpreter::{Interpreter, visible_path};
use crate::asked::decide::{Told, Wish};
use crate::container::setting::Setting;
use crate::host::emulator::{self, Emulator};
use crate::host::launcher;
use crate::host::machine::Machine;
use crate::host::policy::{Credentials, Launcher, Policy};
use crate::host::prepared::Prepared;
use crate::host::trust::Host;

/// How many emulators are copied for one container at most: each takes 10 to 17 MB, which are not
/// counted as the container's.
const COPIES_MAX: usize = 4;

/// Which form of its emulator a handler holds.
#[derive(Debug)]
pub enum Form {
    /// The emulator's file itself.
    Plain,
    /// With the launcher in it, prepared.
    Prepared(File),
    /// With the launcher in it, made for this container.
    Copy,
}

impl Form {
    /// As the log and the documentation write it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Plain => "none",
            Self::Prepared(_) => "prepared",
            Self::Copy => "copy",
        }
    }
}

/// One target, the emulator on the host, and the handler in the container.
#[derive(Debug)]
pub struct Emulation {
    /// The checked file on the host.
    pub emulator: Emulator,
    /// What is to be registered.
    pub handler: Handler,
    /// How the emulator is started.
    pub launch: Launch,
    /// Why the emulator's file is not shown in the container, if it is not.
    pub not_shown: Option<&'static str>,
}

/// How an emulator is started.
#[derive(Debug)]
pub struct Launch {
    /// What the handler holds.
    pub form: Form,
    /// What the emulator is told; nothing without the launcher.
    pub arguments: Arguments,
    /// Why there is no prepared copy, where there could be one.
    pub unprepared: Option<String>,
}

/// The emulators and handlers for `targets`; if those are all that there are, without those that have
/// no emulator.
pub(super) fn emulations(
    targets: &[&'static Arch],
    wish: &Wish,
    setting: &Setting,
    machine: &Machine,
) -> Result<Vec<Emulation>> {
    let (policy, host) = (machine.policy()?, machine.host()?);
    let (mut emulations, mut missing) = (Vec::new(), None);
    let mut copies = COPIES_MAX;
    for arch in targets {
        match emulator::find(arch, policy, host) {
            Err(why) if wish.as_found => missing = missing.or(Some(why)),
            emulator => {
                let may_copy = copies > 0;
                let emulation = Emulation::new(arch, emulator?, wish, setting, may_copy, machine)?;
                copies -= usize::from(matches!(emulation.launch.form, Form::Copy));
                emulations.push(emulation);
            }
        }
    }
    match missing {
        Some(why) if emulations.is_empty() => Err(why),
        _ => Ok(emulations),
    }
}

impl Emulation {
    /// How programs of `arch` are run by `emulator` in `setting`, as `wish` wants it. A copy of it may be made
    /// for this container if it `may_copy`.
    ///
    /// Fails where an annotation asks for arguments that it cannot have.
    pub fn new(
        arch: &'static Arch,
        emulator: Emulator,
        wish: &Wish,
        setting: &Setting,
        may_copy: bool,
        machine: &Machine,
    ) -> Result<Self> {
        let policy = machine.policy()?;
        let credentials = setting.may_have_credentials(policy);
        let not_shown = setting.hides(&emulator);
        let launch = launch(&emulator, arch, wish, Needs { credentials, may_copy }, machine)?;
        let is_plain = matches!(launch.form, Form::Plain);
        let name = emulator.path.file_name().unwrap_or_default().to_string_lossy();
        let interpreter = match not_shown {
            _ if !is_plain => Interpreter::launched(&name, launch.arguments.clone())?,
            None => Interpreter::Path(visible_path(&emulator.path)),
            Some(_) => Interpreter::Path(emulator.path.clone()),
        };
        // A plain QEMU can be told to write files where a set-user-ID program runs as the container's
        // root.
        let is_safe = !is_plain || policy.credentials == Credentials::Private;
        let handler = Handler {
            arch,
            interpreter,
            emulator: emulator.path.clone(),
            credentials: credentials && is_safe,
            sum_required: policy.emulator_sha256.get(arch.name).is_some(),
            arguments_asked: wish.told(arch).asked,
        };
        Ok(Self { emulator, handler, launch, not_shown })
    }

    /// The file that the handler is to hold. `None` where that is a copy yet to be made.
    #[must_use]
    pub fn held(&self) -> Option<&File> {
        match &self.launch.form {
            Form::Plain => Some(&self.emulator.file),
            Form::Prepared(file) => Some(file),
            Form::Copy => None,
        }
    }
}

/// Why an emulator may need the launcher, and at what price.
#[derive(Debug, Clone, Copy)]
struct Needs {
    /// It is to have flag C, if that is safe.
    credentials: bool,
    /// A copy may be made for this container.
    may_copy: bool,
}

/// How `emulator` is to be started for programs of `arch`: with the launcher, where that can be and
/// makes a difference, for arguments or for flag C.
///
/// Fails where an annotation asks for arguments that it cannot have.
fn launch(
    emulator: &Emulator,
    arch: &Arch,
    wish: &Wish,
    needs: Needs,
    machine: &Machine,
) -> Result<Launch> {
    let (policy, host) = (machine.policy()?, machine.host()?);
    let Told { arguments, asked } = wish.told(arch);
    // Nobody needs every emulator that there is so much that all are copied.
    let matters = asked || !wish.as_found && (needs.credentials || !arguments.is_empty());
    let (form, unprepared) = form(emulator, matters && needs.may_copy, policy, host);
    if !matches!(form, Form::Plain) {
        return Ok(Launch { form, arguments, unprepared });
    }
    ensure!(
        !asked || arguments.is_empty(),
        "the emulator {} can be told nothing without the launcher ({}); prepare it, remove the \
         annotations toolbx.arch.*, or set the policy's launcher to copy",
        emulator.path.display(),
        unprepared.as_deref().unwrap_or("the policy says never")
    );
    Ok(Launch { form, arguments: Arguments::default(), unprepared })
}

/// In which form `emulator` is to be used, and why it is not prepared, if it is not. Copied only if it
/// `may_be_copied` and the policy agrees.
fn form(
    emulator: &Emulator,
    may_be_copied: bool,
    policy: &Policy,
    host: &Host,
) -> (Form, Option<String>) {
    if policy.launcher == Launcher::Never {
        return (Form::Plain, None);
    }
    if !launcher::is_available() {
        return (Form::Plain, Some("there is no launcher for this machine's processor".into()));
    }
    let why = match Prepared::of(emulator, host) {
        Prepared::Fresh(file) => return (Form::Prepared(file), None),
        Prepared::Stale(why) => why,
        Prepared::Missing => "there is no prepared copy".into(),
    };
    let may_be_copied = may_be_copied && policy.launcher == Launcher::Copy;
    let form = if may_be_copied { Form::Copy } else { Form::Plain };
    (form, Some(format!("{why}; run: sudo toolbx-arch prepare")))
}
