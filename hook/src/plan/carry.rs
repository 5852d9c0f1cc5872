//! Which of the handlers that a mount would hide are to be registered again.

use std::fs::File;
use std::path::{Component, Path};

use anyhow::{Context, Result, bail, ensure};

use crate::arch::arguments::Arguments;
use crate::arch::binfmt::{Entry, handler_name, serving};
use crate::arch::{ARCHES, Arch};
use crate::host::emulator::{self, Emulator};
use crate::host::instance::Visible;
use crate::host::machine::Machine;
use crate::plan::emulation::{COPIES_MAX, Emulation, Form, form};

/// Why most handlers are lost.
const SERVES_NOTHING: &str = "no target has its programs run by it";
/// How many handlers that are lost are named at most: anybody may have registered thousands.
const LOST_MAX: usize = 100;

/// A handler to be registered again, the emulator that it is to hold already open.
#[derive(Debug)]
pub struct Carry {
    /// What is to be registered.
    pub entry: Entry,
    /// What it holds.
    pub holds: Held,
}

/// What a handler holds.
#[derive(Debug)]
pub enum Held {
    /// This file of the host.
    File(File),
    /// A copy of this emulator with the launcher in it, which is to be made.
    Copy(Emulator),
}

/// What of the visible handlers is to be registered again, and what cannot be: for each target that ours
/// are not for, the one that serves it.
///
/// Left out without a word: what is switched off, and what our own handlers are for.
pub(super) fn carries(
    visible: Option<&Visible>,
    emulations: &[Emulation],
    machine: &Machine,
) -> (Vec<Carry>, Vec<String>) {
    let entries = visible.map(|visible| &*visible.entries).unwrap_or_default();
    let is_ours = |entry: &Entry| emulations.iter().any(|ours| entry.serves(ours.handler.arch));
    let served = ARCHES.iter().filter(|arch| !arch.is_native());
    let served: Vec<_> = served.filter_map(|arch| Some((arch, serving(entries, arch)?))).collect();
    let (mut carries, mut lost) = (Vec::new(), Vec::new());
    let ours = emulations.iter().filter(|ours| matches!(ours.launch.form, Form::Copy)).count();
    let mut copies = COPIES_MAX.saturating_sub(ours);
    for entry in entries.iter().filter(|entry| entry.enabled && !is_ours(entry)) {
        let targets = served.iter().filter(|(_, serving)| std::ptr::eq(*serving, entry));
        let target = targets.map(|(arch, _)| *arch).max_by_key(|arch| entry.is_for(arch));
        let opened =
            target.context(SERVES_NOTHING).and_then(|arch| carry(entry, arch, copies > 0, machine));
        match opened {
            Ok(carry) => {
                copies -= usize::from(matches!(carry.holds, Held::Copy(_)));
                carries.push(carry);
            }
            Err(error) if lost.len() < LOST_MAX => {
                lost.push(format!("{}: {error:#}", entry.name.display()));
            }
            Err(_) => {}
        }
    }
    (carries, lost)
}

/// Opens what `entry`, which serves `arch`, is to hold, as strictly as any emulator. Anybody in a shared
/// namespace may have registered it.
fn carry(entry: &Entry, arch: &Arch, may_copy: bool, machine: &Machine) -> Result<Carry> {
    ensure!(entry.is_for(arch), "it may be for more than programs of {}", arch.name);
    ensure!(
        ARCHES.iter().all(|other| *entry.name != *handler_name(other) || other == arch),
        "it has the name of another target's"
    );
    if let Some(hindrance) = entry.hindrance() {
        bail!("it is {hindrance}, which containers cannot use");
    }
    let holds = match entry.launched() {
        Some((name, arguments)) => launched_program(entry, name, &arguments, may_copy, machine)?,
        None => Held::File(program_at(&entry.host_path(), entry, machine)?),
    };
    Ok(Carry { entry: entry.clone(), holds })
}

/// The emulator of one of our own handlers with the launcher: it has no path, but its `name`, and says
/// which target it is for. What it is told must be what the policy lets a container have.
fn launched_program(
    entry: &Entry,
    name: &str,
    arguments: &Arguments,
    may_copy: bool,
    machine: &Machine,
) -> Result<Held> {
    let (policy, host) = (machine.policy()?, machine.host()?);
    let arch = ARCHES.iter().find(|arch| entry.is_for(arch)).context("it is for no target")?;
    ensure!(entry.name == *handler_name(arch), "it is not ours");
    let emulator = emulator::find(arch, policy, host)?;
    ensure!(
        emulator.path.file_name() == Some(name.as_ref()),
        "the emulator for {} is {} here",
        arch.name,
        emulator.path.display()
    );
    ensure!(
        arguments
            .differences(&policy.arguments(arch))
            .all(|a| policy.lets_annotations_set(a, arch)),
        "the policy does not let its arguments be set"
    );
    match form(&emulator, may_copy, policy, host) {
        (Form::Prepared(file), _) => Ok(Held::File(file)),
        (Form::Copy, _) => Ok(Held::Copy(emulator)),
        (Form::Plain, _) if arguments.is_empty() => Ok(Held::File(emulator.file)),
        (Form::Plain, why) => bail!("{}", why.unwrap_or_else(|| "it has no launcher".into())),
    }
}

/// The file of the host at `path`, which `entry` names.
fn program_at(path: &Path, entry: &Entry, machine: &Machine) -> Result<File> {
    let plain = |component| matches!(component, Component::RootDir | Component::Normal(_));
    ensure!(
        entry.interpreter.is_absolute() && entry.interpreter.components().all(plain),
        "{} is not a plain absolute path",
        entry.interpreter.display()
    );
    machine.host()?.open(path, &["usr"])?.with_context(|| format!("no {} here", path.display()))
}
