//! The plan for what is no container yet, or not running: by the same rules, as far as they do not depend on
//! its process.

use anyhow::Result;

use crate::asked::decide::gets_user_namespace;
use crate::asked::evidence::Evidence;
use crate::container::setting::Setting;
use crate::host::machine::Machine;
use crate::host::scope::Scope;
use crate::plan::{Decision, InstanceChoice, Plan, decide, meet, or_leave};

/// A user namespace that the engine would make for the container alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnUserNamespace {
    /// Whether uid 0 of our user namespace is somebody in it.
    pub maps_our_root: bool,
}

/// What is known of a start that has not happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prospect {
    /// The user namespace that the engine would give it, if any.
    pub user_namespace: Option<OwnUserNamespace>,
    /// Whether the stage `precreate` would give it one, should it need one.
    pub precreate: bool,
    /// Whether its /dev would be a tmpfs of its own.
    pub has_own_dev: bool,
}

/// Decides by the `evidence` what would become of a start with this `prospect`. Fails where it would be
/// refused.
pub fn foresee(
    evidence: &Evidence,
    prospect: Prospect,
    machine: &Machine,
) -> Result<Decision<Plan>> {
    let decision = decide(evidence, machine, |need, wish| {
        let (caller, policy) = (machine.host()?.caller, machine.policy()?);
        let without = Scope::without_user_namespace(caller);
        let is_given = prospect.precreate && gets_user_namespace(&wish, policy, without);
        // What precreate gives maps every id to itself.
        let given = is_given.then_some(OwnUserNamespace { maps_our_root: true });
        let own = prospect.user_namespace.or(given);
        let scope = if own.is_some() { Scope::Private } else { without };
        let setting = Setting {
            scope,
            caller,
            maps_our_root: own.is_none_or(|own| own.maps_our_root),
            shows_none: Setting::shows_none(policy, prospect.has_own_dev),
        };
        let instance = InstanceChoice { scope, is_ours: scope == Scope::Shared };
        let decision = meet(need, wish, instance, machine, || Ok((setting, ())))?;
        Ok(decision.map(|(plan, ())| plan))
    });
    or_leave(decision, evidence, machine)
}
