//! The hook itself: finds the container, decides ([`plan`]), does it ([`apply`]), and says what it did.

use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::apply::{self, Applied, guard, sysctls};
use crate::asked::hook_arguments::HookArguments;
use crate::asked::oci::State;
use crate::base::message;
use crate::container::created::{Created, Place};
use crate::container::process;
use crate::plan::{self, Decision, Work};
use crate::record::{self, Outcome};

/// Runs the hook for the container whose state arrives on standard input, with what it was `given` for
/// arguments.
///
/// Leaves one record in the log, unless the container asked for nothing. Fails where the container
/// asked for something that it cannot have.
pub fn run(given: &HookArguments) -> Result<()> {
    let start = Instant::now();
    let mut id = None;
    let outcome = State::read(std::io::stdin().lock()).and_then(|state| {
        id = Some(state.id.clone());
        serve(&state, given)
    });
    let told = match &outcome {
        Ok(None) => return Ok(()),
        Ok(Some(outcome)) => outcome,
        Err(why) => &Outcome::refused(why),
    };
    record::leave(told, None, id.as_deref(), start);
    outcome.map(drop)
}

/// Does what the container of `state` needs. Returns what there is to tell, if anything.
///
/// Fails where the container cannot have what it asks for, or what its first program needs, and where
/// what `precreate` has begun cannot be brought to its end. Whoever asks for nothing is not stopped by
/// anything else.
fn serve(state: &State, given: &HookArguments) -> Result<Option<Outcome>> {
    let created = Created::find(state, given);
    match &created.place {
        Ok(place) => do_what_precreate_left(place, given)?,
        Err(_) if needs_guards(state, given) => return created.place.map(|_| None),
        Err(_) => {}
    }
    let (_, decision) = plan::plan(created, state, given);
    Ok(match decision? {
        Decision::NotAsked | Decision::Unseen(_) => None,
        Decision::Off => Some(Outcome::Off),
        Decision::Native => Some(Outcome::Native),
        Decision::Left(why) => Some(Outcome::Left { why }),
        Decision::Inherited(scope) => Some(Outcome::Inherited { scope, why: None }),
        Decision::Emulate(work) => Some(emulate(&work, given)?),
    })
}

/// Carries the plan out.
fn emulate(work: &Work, given: &HookArguments) -> Result<Outcome> {
    let Work { plan, container, .. } = work;
    // One whose map, another than precreate's, has the machine's root: its nodes are the machine's too.
    if plan.setting.has_hosts_root() && !given.owns_host_files {
        match guard::protect_devices(&container.process, &container.rootfs) {
            Err(why) if plan.can_do_without => {
                return Ok(Outcome::Left { why: message::line(&why) });
            }
            protected => protected?,
        }
    }
    match apply::apply(work)? {
        Applied::Whole(carried) => Ok(Outcome::emulated(plan, &carried)),
        Applied::Inherited(why) => {
            Ok(Outcome::Inherited { scope: plan.setting.scope, why: Some(why) })
        }
        // What precreate has begun is to be brought to its end.
        Applied::Refused(why) if plan.can_do_without && *given == HookArguments::default() => {
            Ok(Outcome::Left { why })
        }
        Applied::Refused(why) | Applied::Failed(why) => Err(anyhow!(why)),
    }
}

/// Does what `precreate` has left to this stage, whatever is decided here: it may have seen another
/// program than the one that a volume puts in its place. And protects the machine from a container that
/// has joined a user namespace which precreate has made for another one.
fn do_what_precreate_left(place: &Place, given: &HookArguments) -> Result<()> {
    let Place { process, rootfs, bundle } = place;
    let asked = bundle.config.mounts.as_deref().unwrap_or_default();
    if given.owns_host_files {
        guard::put_up(process, rootfs, &given.bound, asked)?;
    } else if process.is_in_precreates_namespace()? {
        // One that was asked for with such a map is the engine's to guard, but for the nodes.
        if bundle.config.has_own_user_namespace() {
            guard::protect_devices(process, rootfs)?;
        } else {
            guard::protect_from_joined(process, rootfs, asked)?;
        }
    }
    if !given.sysctls.is_empty() {
        sysctls::set_sysctls(process, &given.sysctls)?;
    }
    Ok(())
}

/// Whether the container, which could not be looked at, must not be started then.
fn needs_guards(state: &State, given: &HookArguments) -> bool {
    given.owns_host_files
        || !given.sysctls.is_empty()
        || process::may_be_in_precreates_namespace(state.pid)
}
