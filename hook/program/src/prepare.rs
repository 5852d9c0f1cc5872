//! `toolbx-arch prepare`: makes copies of the emulators with the launcher in them, for the hook to use.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde_json::{Value, json};
use toolbx_arch::apply::wrap;
use toolbx_arch::base::message::{self, Call};
use toolbx_arch::host::emulator::{self, Emulator};
use toolbx_arch::host::launcher;
use toolbx_arch::host::policy::{Launcher, Policy};
use toolbx_arch::host::prepared::{CopyRecord, DIRECTORY, Prepared};
use toolbx_arch::host::selinux::SelinuxLabel;
use toolbx_arch::host::trust::Host;

use crate::args::Prepare;
use crate::list::{self, TargetStatus};
use crate::{caller, terminal};

/// What to do where `/usr` cannot be written.
const IN_AN_IMAGE: &str = "if /usr comes as an image, let its Containerfile RUN toolbx-arch prepare when the \
                           emulators are in it; until then the hook makes copies in memory";
/// For root alone to open: whoever can open a file can lock it, and keep others waiting.
const LOCK: &str = ".lock";
/// Where earlier versions had the copies: relabelled there, they could not be executed in containers.
const FORMER_DIRECTORY: &str = "/var/lib/toolbx-arch/emulators";
/// What a copy is called while it is written. No emulator's name begins with a dot.
const UNFINISHED: &str = ".unfinished";

pub fn run(arguments: &Prepare) -> Result<ExitCode> {
    let host = caller::become_hooks_caller()?;
    let lock = if arguments.check { None } else { lock()? };
    if !arguments.check {
        clear_former()?;
    }
    let targets = list::targets(&host)?;
    let may_be = launcher::is_available() && Policy::load(&host)?.launcher != Launcher::Never;
    let named = list::wanted(&arguments.only)?;
    let is_named = |target: &TargetStatus| named.contains(&target.arch);
    let is_whole = arguments.only.is_empty();
    if !is_whole {
        targets.iter().filter(|target| is_named(target)).try_for_each(ensure_usable)?;
    }
    let sources = if may_be { sources(&targets) } else { BTreeMap::new() };
    let wanted = sources.iter().filter(|(_, source)| source.targets.iter().copied().any(is_named));
    let mut steps: Vec<_> = wanted.map(|(name, source)| Step::of(name, source)).collect();
    if is_whole {
        steps.extend(needless(&sources)?);
    }
    let nothing_to_do = steps.iter().all(|step| matches!(step.todo, Todo::Nothing));
    ensure!(
        arguments.check || nothing_to_do || lock.is_some(),
        "{DIRECTORY} is on a read-only file system; {IN_AN_IMAGE}"
    );
    let outcomes = steps.iter().map(|step| {
        let outcome = if arguments.check { Ok(step.todo.name()) } else { step.done(&host) };
        if !arguments.json {
            tell(step, &outcome);
        }
        outcome
    });
    let outcomes: Vec<_> = outcomes.collect();
    if arguments.json {
        let copies = steps.iter().zip(&outcomes).map(|(step, outcome)| step.to_json(outcome));
        terminal::print_json(
            &json!({"directory": DIRECTORY, "copies": copies.collect::<Vec<_>>()}),
        );
    } else if nothing_to_do {
        terminal::print(&nothing_done(steps.len(), may_be));
    }
    let is_good = outcomes.iter().all(Result::is_ok) && (nothing_to_do || !arguments.check);
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Why there was nothing to do.
fn nothing_done(fresh: usize, may_be: bool) -> String {
    match fresh {
        _ if !launcher::is_available() => {
            "nothing to prepare: there is no launcher for this machine's processor\n".into()
        }
        _ if !may_be => "nothing to prepare: the policy's launcher says never\n".into(),
        0 => format!("nothing to prepare: no emulator was found; {}\n", emulator::INSTALL),
        _ => format!("nothing to prepare: {fresh} in {DIRECTORY}, all fresh\n"),
    }
}

fn ensure_usable(target: &TargetStatus) -> Result<()> {
    let name = target.arch.name;
    match &target.emulator {
        _ if target.arch.is_native() => bail!("{name} is this machine's own, and not emulated"),
        _ if !target.is_allowed => {
            bail!("the policy does not allow {name}; add it to the policy's architectures")
        }
        Err(why) => bail!("{}", message::line(why)),
        Ok(_) => Ok(()),
    }
}

/// An emulator that may have a copy.
struct PreparedFrom<'a> {
    emulator: &'a Emulator,
    copy: &'a Prepared,
    /// What it is for.
    targets: Vec<&'a TargetStatus>,
}

/// By the names of their copies.
fn sources(targets: &[TargetStatus]) -> BTreeMap<OsString, PreparedFrom<'_>> {
    let mut sources: BTreeMap<OsString, PreparedFrom> = BTreeMap::new();
    for target in targets.iter().filter(|target| target.is_used()) {
        let Ok(emulator) = &target.emulator else { continue };
        let name = emulator.path.file_name().unwrap_or_default().to_owned();
        let source = PreparedFrom { emulator, copy: &target.copy, targets: Vec::new() };
        sources.entry(name).or_insert(source).targets.push(target);
    }
    sources
}

/// A copy, and what is to be done about it.
struct Step<'a> {
    name: OsString,
    targets: Vec<&'static str>,
    todo: Todo<'a>,
}

enum Todo<'a> {
    /// It is as it should be.
    Nothing,
    /// It is to be made; in place of one that is stale, for that reason.
    Make(&'a Emulator, Option<&'a str>),
    /// Nothing has a use for it.
    Remove,
}

impl<'a> Step<'a> {
    fn of(name: &OsString, source: &PreparedFrom<'a>) -> Self {
        let todo = match source.copy {
            Prepared::Fresh(_) => Todo::Nothing,
            Prepared::Stale(why) => Todo::Make(source.emulator, Some(why)),
            Prepared::Missing => Todo::Make(source.emulator, None),
        };
        let targets = source.targets.iter().map(|target| target.arch.name).collect();
        Self { name: name.clone(), targets, todo }
    }

    /// Does what is to be done. Returns how the copy is then.
    fn done(&self, host: &Host) -> Result<&'static str> {
        match self.todo {
            Todo::Nothing => Ok("fresh"),
            Todo::Make(emulator, _) => make(emulator, host).map(|()| "prepared"),
            Todo::Remove => {
                let path = Path::new(DIRECTORY).join(&self.name);
                std::fs::remove_file(&path).call(|| format!("remove {}", path.display()))?;
                Ok("removed")
            }
        }
    }

    fn to_json(&self, outcome: &Result<&'static str>) -> Value {
        let stale = if let Todo::Make(_, why) = self.todo { why } else { None };
        json!({
            "name": self.name.to_string_lossy(),
            "targets": self.targets,
            "state": outcome.as_ref().map_or("failed", |state| state),
            "stale": stale,
            "problem": outcome.as_ref().err().map(message::line),
        })
    }
}

impl Todo<'_> {
    /// How the copy is now.
    fn name(&self) -> &'static str {
        match self {
            Self::Nothing => "fresh",
            Self::Make(_, Some(_)) => "stale",
            Self::Make(_, None) => "missing",
            Self::Remove => "needless",
        }
    }
}

/// The copies that nothing has a use for: their emulators are gone, or not allowed.
fn needless(sources: &BTreeMap<OsString, PreparedFrom>) -> Result<Vec<Step<'static>>> {
    let entries = match std::fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.call(|| format!("read {DIRECTORY}"))?,
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    let is_ours = |name: &OsString| name == LOCK || name == UNFINISHED;
    Ok(names
        .filter(|name| !sources.contains_key(name) && !is_ours(name))
        .map(|name| Step { name, targets: Vec::new(), todo: Todo::Remove })
        .collect())
}

/// Makes the copy of `emulator`, under another name first, so that the hook sees a whole one or none.
fn make(emulator: &Emulator, host: &Host) -> Result<()> {
    let path = Prepared::path(emulator);
    let unfinished = path.with_file_name(UNFINISHED);
    let made = write(emulator, &unfinished).and_then(|()| {
        std::fs::rename(&unfinished, &path).call(|| format!("rename to {}", path.display()))
    });
    if made.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    made.with_context(|| format!("prepare {}", emulator.path.display()))?;
    // What is wrong may be the directory, or the emulator has changed meanwhile.
    match Prepared::of(emulator, host) {
        Prepared::Stale(why) => bail!("{why}"),
        Prepared::Fresh(_) | Prepared::Missing => Ok(()),
    }
}

fn write(emulator: &Emulator, to: &Path) -> Result<()> {
    let Emulator { file: source, program, .. } = emulator;
    let record = CopyRecord::new(emulator, emulator::sha256(source)?)?;
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(to);
    let file = file.call(|| format!("create {}", to.display()))?;
    wrap::wrap(source, program, &file)?;
    record.append(&file)?;
    SelinuxLabel::of(source)?.give(&file)?;
    // Not the bits that would give somebody rights: an emulator needs none.
    let mode = source.metadata().call(|| "fstat".into())?.mode() & 0o755;
    file.set_permissions(Permissions::from_mode(mode)).call(|| "fchmod".into())?;
    file.sync_all().call(|| "fsync".into())
}

/// Makes the directory, waits for whoever else is at work there, and takes away what a killed one has
/// left. Held as long as it is open. There is none where nothing can be written.
fn lock() -> Result<Option<File>> {
    let directory = Path::new(DIRECTORY);
    let path = directory.join(LOCK);
    let lock = std::fs::create_dir_all(directory).and_then(|()| {
        File::options().write(true).create(true).truncate(false).mode(0o600).open(&path)
    });
    if lock.as_ref().is_err_and(|error| error.kind() == ErrorKind::ReadOnlyFilesystem) {
        return Ok(None);
    }
    let lock = lock.call(|| format!("open {}", path.display())).context("run it as root")?;
    wait_for(&lock, &path)?;
    let unfinished = directory.join(UNFINISHED);
    gone(std::fs::remove_file(&unfinished), &unfinished)?;
    Ok(Some(lock))
}

/// Takes away what an earlier version has left.
fn clear_former() -> Result<()> {
    let former = Path::new(FORMER_DIRECTORY);
    gone(std::fs::remove_dir_all(former), former)?;
    let _ = former.parent().map(std::fs::remove_dir); // others' files may be in it
    Ok(())
}

/// What came of removing what may be at `path`.
fn gone(removed: std::io::Result<()>, path: &Path) -> Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.call(|| format!("remove {}", path.display())),
    }
}

/// Takes the lock `path`; says so, if somebody else holds it, who need not be visible to whoever waits.
fn wait_for(lock: &File, path: &Path) -> Result<()> {
    if rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
        let path = path.display();
        eprintln!("toolbx-arch: waiting for another toolbx-arch prepare, which has locked {path}");
    }
    rustix::fs::flock(lock, FlockOperation::LockExclusive)
        .call(|| format!("flock {}", path.display()))
}

/// A line for what is not as before, or not as it should be.
fn tell(step: &Step, outcome: &Result<&'static str>) {
    match outcome {
        Err(why) => eprintln!("toolbx-arch: error: {}", message::line(why)),
        Ok("fresh") => {}
        Ok(state) => {
            let why = match step.todo {
                Todo::Make(_, Some(why)) if *state == "stale" => format!(": {why}"),
                _ => String::new(),
            };
            terminal::print(&format!("{state} {}{why}\n", step.name.to_string_lossy()));
        }
    }
}
