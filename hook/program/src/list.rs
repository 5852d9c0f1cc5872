//! `toolbx-arch list`: the targets, and the emulator that each one has here.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use toolbx_arch::arch::arguments::Arguments;
use toolbx_arch::arch::binfmt::{Entry, serving};
use toolbx_arch::arch::{self, ARCHES, Arch};
use toolbx_arch::base::message;
use toolbx_arch::host::emulator::{self, Emulator};
use toolbx_arch::host::instance::Visible;
use toolbx_arch::host::policy::Policy;
use toolbx_arch::host::prepared::Prepared;
use toolbx_arch::host::trust::Host;

use crate::args::List;
use crate::{caller, terminal};

/// A target, and what this machine has for it.
pub struct TargetStatus {
    pub arch: &'static Arch,
    /// What the hook would use, or why it would use nothing.
    pub emulator: Result<Emulator>,
    /// Its prepared copy.
    pub copy: Prepared,
    /// What it is told, by the policy.
    pub arguments: Arguments,
    /// What the policy says.
    pub is_allowed: bool,
    /// What the host runs its programs with, if it does.
    pub host_handler: Option<Entry>,
}

pub fn run(arguments: &List) -> Result<()> {
    let targets = targets(&caller::become_hooks_caller()?)?;
    let wanted = wanted(&arguments.only)?;
    let targets: Vec<_> = targets.iter().filter(|target| wanted.contains(&target.arch)).collect();
    if arguments.json {
        terminal::print_json(&targets.iter().map(|target| target.to_json()).collect());
    } else {
        let title =
            ["TARGET", "EMULATOR", "VERSION", "COPY", "ARGUMENTS", "HOST HANDLER", "OTHER NAMES"];
        let rows: Vec<_> = std::iter::once(title.map(str::to_owned))
            .chain(targets.iter().map(|target| target.to_row()))
            .collect();
        terminal::print(&terminal::columns(&rows));
    }
    Ok(())
}

/// Those that are named; all, if none is.
pub fn wanted(names: &[String]) -> Result<Vec<&'static Arch>> {
    if names.is_empty() {
        return Ok(ARCHES.iter().collect());
    }
    let find = |name: &String| match arch::find(name) {
        Some(arch) => Ok(arch),
        None => bail!("{}", arch::unknown(name)),
    };
    names.iter().map(find).collect()
}

/// All targets, as the hook would see them on `host`.
pub fn targets(host: &Host) -> Result<Vec<TargetStatus>> {
    let policy = Policy::load(host)?;
    let visible = Visible::of_the_engine().transpose()?;
    let entries = visible.map(|visible| visible.entries).unwrap_or_default();
    let target = |arch: &'static Arch| {
        let emulator = emulator::find(arch, &policy, host);
        TargetStatus {
            arch,
            copy: emulator.as_ref().map_or(Prepared::Missing, |found| Prepared::of(found, host)),
            emulator,
            arguments: policy.arguments(arch),
            is_allowed: policy.allows(arch),
            host_handler: serving(&entries, arch).cloned(),
        }
    };
    Ok(ARCHES.iter().map(target).collect())
}

impl TargetStatus {
    /// Whether an emulator for it would ever be used.
    pub fn is_used(&self) -> bool {
        self.is_allowed && !self.arch.is_native()
    }

    fn to_row(&self) -> [String; 7] {
        let others = self.arch.names().filter(|name| *name != self.arch.name);
        let others: Vec<_> = others.collect();
        let (emulator, version) = match &self.emulator {
            _ if self.arch.is_native() => ("native".to_owned(), None),
            _ if !self.is_allowed => ("not allowed by the policy".to_owned(), None),
            Ok(emulator) => (emulator.path.display().to_string(), version(&emulator.path)),
            Err(why) if is_missing(why) => ("-".to_owned(), None),
            Err(_) => ("unusable, see doctor".to_owned(), None),
        };
        let handler = self.host_handler.as_ref().map(|entry| {
            let why = entry.hindrance().map(|why| format!(" ({why})")).unwrap_or_default();
            format!("{}{why}", entry.name.display())
        });
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let usable = self.is_used() && self.emulator.is_ok();
        let copy = usable.then(|| self.copy.name().to_owned());
        let arguments = self.arguments.to_string();
        let arguments =
            (usable && !arguments.is_empty()).then(|| arguments.trim_start().to_owned());
        [
            self.arch.name.to_owned(),
            emulator,
            or_dash(version),
            or_dash(copy),
            or_dash(arguments),
            or_dash(handler),
            others.join(" "),
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "target": self.arch.name,
            "names": self.arch.names().collect::<Vec<_>>(),
            "native": self.arch.is_native(),
            "allowed": self.is_allowed,
            "emulator": self.emulator.as_ref().ok().map(|emulator| json!({
                "path": emulator.path.display().to_string(),
                "version": version(&emulator.path),
                "copy": self.copy.name(),
                "stale": if let Prepared::Stale(why) = &self.copy { Some(why) } else { None },
                "arguments": self.arguments.to_string().trim_start(),
            })),
            "problem": self.emulator.as_ref().err().filter(|_| self.is_used()).map(message::line),
            "host_handler": self.host_handler.as_ref().map(|entry| json!({
                "name": entry.name.display().to_string(),
                "interpreter": entry.interpreter.to_string(),
                "flags": entry.flags,
            })),
        })
    }
}

/// Whether nothing was found, rather than something that cannot be used.
pub fn is_missing(why: &anyhow::Error) -> bool {
    why.downcast_ref::<emulator::Missing>().is_some()
}

/// What a program says of its version, for example `7.2.22`.
pub fn version(program: impl AsRef<OsStr>) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "qemu-aarch64 version 7.2.22 (Debian 1:7.2+dfsg-7)", "Docker version 28.2.2, build e6534b4"
    let (_, version) = text.lines().next()?.split_once(" version ")?;
    Some(version.split_whitespace().next()?.trim_end_matches(',').to_owned())
}
