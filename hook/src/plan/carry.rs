//! The first mount of binfmt_misc in a user namespace hides the handlers that were visible there. Which of the
//! targets that they serve get a handler of ours in their place, so that nobody loses what worked.
//!
//! Never the same handlers: anybody in a shared namespace may have registered them, and what matches
//! more than a target's programs could match the machine's own.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::arch::binfmt::{Entry, serving};
use crate::arch::{ARCHES, Arch};
use crate::asked::decide::{Told, Wish};
use crate::container::setting::Setting;
use crate::host::emulator;
use crate::host::instance::Visible;
use crate::host::machine::Machine;
use crate::plan::emulation::Emulation;

/// Why most handlers are lost.
const SERVES_NOTHING: &str = "no target has its programs run by it";
/// How many handlers that are lost are named at most: anybody may have registered thousands.
const LOST_MAX: usize = 100;

/// A handler of ours in the place of one that will be hidden.
#[derive(Debug)]
pub struct Carry {
    /// What it is, and holds.
    pub emulation: Emulation,
    /// What the hidden one is called.
    pub hidden: String,
}

/// What goes on, of what would be hidden, and what is lost; with the reason. Left out without a word: what is
/// switched off, and what our own `emulations` are for.
pub(super) fn carries(
    visible: Option<&Visible>,
    emulations: &[Emulation],
    setting: &Setting,
    machine: &Machine,
) -> (Vec<Carry>, Vec<String>) {
    let entries = visible.map(|visible| &*visible.entries).unwrap_or_default();
    let is_ours = |entry: &Entry| emulations.iter().any(|ours| entry.serves(ours.handler.arch));
    let foreign = ARCHES.iter().filter(|arch| !arch.is_native());
    let served: Vec<_> = foreign.filter_map(|arch| Some((arch, serving(entries, arch)?))).collect();
    let (mut carries, mut lost) = (Vec::new(), Vec::new());
    for entry in entries.iter().filter(|entry| entry.enabled && !is_ours(entry)) {
        let hidden = entry.name.to_string_lossy().into_owned();
        let mut targets = served.iter().filter(|(_, by)| std::ptr::eq(*by, entry)).peekable();
        if targets.peek().is_none() {
            lost.push(format!("{hidden}: {SERVES_NOTHING}"));
        }
        for (arch, _) in targets {
            match in_place(arch, setting, machine) {
                Ok(emulation) => carries.push(Carry { emulation, hidden: hidden.clone() }),
                Err(why) => lost.push(format!("{hidden}: {why:#}")),
            }
        }
        lost.truncate(LOST_MAX);
    }
    (carries, lost)
}

/// A handler of ours for `arch`, as the policy has it. Without flag C, since rights are not handed on, and
/// without a copy of the emulator that would be made for this container alone. Fails where there is no
/// emulator.
fn in_place(arch: &'static Arch, setting: &Setting, machine: &Machine) -> Result<Emulation> {
    let policy = machine.policy()?;
    let emulator = emulator::find(arch, policy, machine.host()?)?;
    let told = Told { arguments: policy.arguments(arch), asked: false };
    let wish = Wish {
        targets: vec![arch],
        arguments: BTreeMap::from([(arch.name, told)]),
        as_found: true,
        userns: None,
        sources: Vec::new(),
        contradiction: None,
    };
    let setting = Setting { shows_none: Some("nobody has asked for it"), ..*setting };
    let mut emulation = Emulation::new(arch, emulator, &wish, &setting, false, machine)?;
    emulation.handler.credentials = false;
    Ok(emulation)
}
