//! The plan for a container that is there, opened.

use std::path::Path;
use std::rc::Rc;

use anyhow::{Result, ensure};

use crate::asked::decide::UsernsWish;
use crate::asked::evidence::Evidence;
use crate::asked::hook_arguments::HookArguments;
use crate::asked::oci::State;
use crate::asked::runtime;
use crate::container::created::{Created, Place};
use crate::container::keep::Keep;
use crate::container::places::Container;
use crate::host::instance::{BINFMT_MISC, Visible};
use crate::host::machine::Machine;
use crate::host::scope::Scope;
use crate::plan::carry::{Carry, carries};
use crate::plan::{Decision, InstanceChoice, Plan, decide, meet, or_leave};

/// A plan, and all that it takes to carry it out.
#[derive(Debug)]
pub struct Work {
    /// What is to be done.
    pub plan: Plan,
    /// The container.
    pub container: Container,
    /// What the container has without us.
    pub visible: Option<Rc<Visible>>,
    /// What is to be registered in the place of that, since the mount would hide it.
    pub carries: Vec<Carry>,
    /// What of it cannot be; with the reason.
    pub lost: Vec<String>,
    /// Where to keep the instance, so that what was registered again outlives this container.
    pub keep: Option<Keep>,
}

/// Decides what is to be done for the container that was found as `created`, and opens what that takes. Says
/// by which evidence, too.
///
/// Fails where the container cannot have what it asks for, or what its first program needs. Whoever asks
/// for nothing is not stopped by anything.
pub fn plan(
    created: Created,
    state: &State,
    given: &HookArguments,
) -> (Evidence, Result<Decision<Box<Work>>>) {
    let machine = Machine::default();
    let evidence = Evidence::of(&created, &machine);
    let decision = decide(&evidence, &machine, |need, wish| {
        let place = created.place?;
        let instance = instance_of(&place, &machine)?;
        let needs_exec = wish.userns != Some(UsernsWish::Private);
        let open = || {
            if needs_exec {
                ensure_can_exec(state, given)?;
            }
            let (policy, host) = (machine.policy()?, machine.host()?);
            let container = Container::open(place, instance.scope, state, given, policy, host)?;
            Ok((container.setting, container))
        };
        let decision = meet(need, wish, instance, &machine, open)?;
        Ok(decision.map(|(plan, container)| Box::new(work(plan, container, instance, &machine))))
    });
    let decision = or_leave(decision, &evidence, &machine);
    (evidence, decision)
}

/// Which instance the container at `place` would use.
fn instance_of(place: &Place, machine: &Machine) -> Result<InstanceChoice> {
    let ours = machine.host()?.user_namespace;
    let theirs = place.process.user_namespace()?;
    let scope = Scope::of(theirs, ours, place.bundle.config.has_own_user_namespace());
    Ok(InstanceChoice { scope, is_ours: scope == Scope::Shared && theirs == ours })
}

fn work(plan: Plan, container: Container, instance: InstanceChoice, machine: &Machine) -> Work {
    let handlers = machine.handlers();
    let unread = handlers.as_ref().err().map(|why| format!("the handlers of the engine: {why:#}"));
    let visible = handlers.unwrap_or_default();
    let (carries, mut lost) = carries(visible.as_deref(), &plan.emulations, &plan.setting, machine);
    lost.extend(unread);
    let keep = instance.is_ours.then(|| Keep::at(Path::new(BINFMT_MISC))).flatten();
    Work { plan, container, visible, carries, lost, keep }
}

/// Fails where nothing could ever be executed in the container after its start: runc before 1.3
/// enters the user namespace before a network namespace from outside of it.
fn ensure_can_exec(state: &State, given: &HookArguments) -> Result<()> {
    ensure!(
        !given.enters_network
            || runtime::can_exec_into_foreign_network(&runtime::command_line(), &state.oci_version),
        "runc before 1.3 cannot exec (nor run health checks) in a container whose user namespace \
         is younger than its network; use crun, runc 1.3, --userns=auto or --network=none, or do \
         without exec: --annotation toolbx.arch.userns=private"
    );
    Ok(())
}
