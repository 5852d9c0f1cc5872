//! What is to be done to a container, and what would be done to one that may be started: decided by the same
//! rules for every subject. Changes nothing.

mod carry;
mod emulation;
mod foresee;
mod work;

use std::rc::Rc;

use anyhow::{Error, Result, bail, ensure};

use crate::arch::Arch;
use crate::arch::binfmt::serving;
use crate::asked::decide::{self, Request, UsernsWish, Wish};
use crate::asked::detect::Detected;
use crate::asked::evidence::{Evidence, Need};
use crate::base::message;
use crate::container::setting::Setting;
use crate::host::instance::Visible;
use crate::host::machine::Machine;
use crate::host::policy::Policy;
use crate::host::scope::Scope;

pub use self::carry::Carry;
pub use self::emulation::{Emulation, Form, Launch};
pub use self::foresee::{OwnUserNamespace, Prospect, foresee};
pub use self::work::{Work, plan};

/// What is to be done to a container, as far as that can be told before it is there.
#[derive(Debug)]
pub struct Plan {
    /// Who wants it.
    pub need: Need,
    /// Whether the container may be started without us, where this fails.
    pub can_do_without: bool,
    /// What is wanted, and why.
    pub wish: Wish,
    /// Where the emulators are to run.
    pub setting: Setting,
    /// What is to be registered; at least one.
    pub emulations: Vec<Emulation>,
}

impl Plan {
    /// Whether these handlers would do, without ours. Not where the policy names the very emulator.
    #[must_use]
    pub fn is_served_by(&self, visible: &Visible) -> bool {
        self.emulations.iter().map(|emulation| &emulation.handler).all(|handler| {
            !handler.sum_required && !handler.arguments_asked && visible.serves(handler.arch)
        })
    }
}

/// What was decided; where something is to be done, `P` says what.
#[derive(Debug)]
pub enum Decision<P> {
    /// Nothing was asked for.
    NotAsked,
    /// Nothing asks for anything, and what the programs are cannot be seen, for this reason.
    Unseen(String),
    /// The container says `none`.
    Off,
    /// The host runs the architectures itself.
    Native,
    /// Handlers that are there already serve the container.
    Inherited(Scope),
    /// Nobody asked, and it cannot be had, for this reason.
    Left(String),
    /// This is to be done.
    Emulate(P),
}

impl<P> Decision<P> {
    /// The same decision, with something else for what is to be done.
    pub fn map<Q>(self, other: impl FnOnce(P) -> Q) -> Decision<Q> {
        match self {
            Self::NotAsked => Decision::NotAsked,
            Self::Unseen(why) => Decision::Unseen(why),
            Self::Off => Decision::Off,
            Self::Native => Decision::Native,
            Self::Inherited(scope) => Decision::Inherited(scope),
            Self::Left(why) => Decision::Left(why),
            Self::Emulate(plan) => Decision::Emulate(other(plan)),
        }
    }
}

/// Decides by the `evidence`; `meet` says how a wish for emulation is met.
///
/// Fails where that cannot be done. Whoever asks for nothing is not stopped by anything.
pub fn decide<P>(
    evidence: &Evidence,
    machine: &Machine,
    meet: impl FnOnce(Need, Wish) -> Result<Decision<P>>,
) -> Result<Decision<P>> {
    if evidence.says_none() {
        return Ok(Decision::Off);
    }
    let Some(need) = evidence.need() else {
        return Ok(evidence.unseen.clone().map_or(Decision::NotAsked, Decision::Unseen));
    };
    let request =
        machine.policy().and_then(|policy| decide::decide(evidence, policy, Arch::is_native));
    match request? {
        Request::Nothing => Ok(Decision::NotAsked),
        Request::Native => Ok(Decision::Native),
        Request::Emulate(wish) => meet(need, wish),
    }
}

/// The same decision; but where a container that can do without would have been refused, it is left alone.
fn or_leave<P>(
    decision: Result<Decision<P>>,
    evidence: &Evidence,
    machine: &Machine,
) -> Result<Decision<P>> {
    decision.or_else(|why| left(evidence, machine, why).map(Decision::Left))
}

/// The instance that a container would use.
#[derive(Debug, Clone, Copy)]
struct InstanceChoice {
    scope: Scope,
    /// Whether that is the one of the engine's own processes.
    is_ours: bool,
}

/// Says how a `wish` is met in this instance. `open` is asked for what more of the container is needed, if
/// anything is to be registered.
fn meet<C>(
    need: Need,
    wish: Wish,
    instance: InstanceChoice,
    machine: &Machine,
    open: impl FnOnce() -> Result<(Setting, C)>,
) -> Result<Decision<(Plan, C)>> {
    let InstanceChoice { scope, is_ours } = instance;
    ensure_in_scope(&wish, scope)?;
    if scope == Scope::Host {
        ensure_served_by_host(machine.handlers()?.as_deref(), &wish.targets)?;
        return Ok(Decision::Inherited(scope));
    }
    // What cannot be read cannot be relied on, but the container can do without it. One that shares our
    // handlers takes what is there, if it may.
    let visible = machine.handlers().ok().flatten().filter(|_| is_ours);
    let missing = missing(&wish, visible.as_deref(), machine.policy()?);
    if missing.is_empty() {
        return Ok(Decision::Inherited(scope));
    }
    let (setting, opened) = open()?;
    let emulations = emulation::emulations(&missing, &wish, &setting, machine)?;
    let Some(first) = emulations.first() else { return Ok(Decision::Inherited(scope)) };
    let can_do_without = can_do_without(need, first.handler.arch, machine);
    let plan = Plan { need, can_do_without, wish, setting, emulations };
    Ok(Decision::Emulate((plan, opened)))
}

/// What becomes of a container that cannot have what it needs, for this reason: it is left as it is,
/// if it may do without. Fails otherwise.
fn left(evidence: &Evidence, machine: &Machine, why: Error) -> Result<String> {
    let Some(need) = evidence.need() else { return Err(why) };
    match &evidence.detected {
        None if need == Need::OtherPrograms => Ok(message::line(&why)),
        Some(Detected { arch, .. }) if can_do_without(need, arch, machine) => {
            Ok(message::line(&why))
        }
        Some(Detected { arch, program, .. }) if need == Need::FirstProgram => {
            Err(why.context(format!(
                "{} is a program for {}, which this machine does not run by itself",
                message::path(program),
                arch.name
            )))
        }
        _ => Err(why),
    }
}

/// Whether the container may do its work without us: nobody asked, and its programs of `arch` do not
/// matter much, or may run in a way that we cannot judge: by the kernel itself, or by handlers that are
/// there.
fn can_do_without(need: Need, arch: &Arch, machine: &Machine) -> bool {
    match need {
        Need::Asked => false,
        Need::OtherPrograms => true,
        Need::FirstProgram => arch.may_be_native() || may_run_by(machine.handlers(), arch),
    }
}

/// Whether these handlers may run programs of `arch` in a container: without flag F they do, if the image
/// brings the emulator.
fn may_run_by(handlers: Result<Option<Rc<Visible>>>, arch: &Arch) -> bool {
    match handlers {
        Ok(None) => false,
        Err(_) => true,
        Ok(Some(visible)) => visible.obscure.is_some() || serving(&visible.entries, arch).is_some(),
    }
}

/// Those of the wanted targets that the handlers which are there do not serve, or not as it is asked.
fn missing(wish: &Wish, visible: Option<&Visible>, policy: &Policy) -> Vec<&'static Arch> {
    let is_served = |arch: &Arch| {
        policy.emulator_sha256.get(arch.name).is_none()
            && !wish.told(arch).asked
            && visible.is_some_and(|visible| visible.serves(arch))
    };
    wish.targets.iter().copied().filter(|arch| !is_served(arch)).collect()
}

/// Fails where a container in `scope` cannot have what annotations ask for.
fn ensure_in_scope(wish: &Wish, scope: Scope) -> Result<()> {
    let asked = wish.targets.iter().find(|arch| wish.told(arch).asked);
    if let (Scope::Host, Some(arch)) = (scope, asked) {
        bail!(
            "annotations toolbx.arch.*: the container has no user namespace of its own, so what the \
             emulator of {} is told is not for it to say; run it with --userns=auto, or as an \
             ordinary user, or see PLAIN SUDO PODMAN RUN in toolbx-arch-hook(8)",
            arch.name
        );
    }
    ensure!(
        scope == Scope::Private || wish.userns != Some(UsernsWish::Private),
        "annotation toolbx.arch.userns=private: the container has no user namespace of its own; \
         let Podman give it one, see PLAIN SUDO PODMAN RUN in toolbx-arch-hook(8), or run it with \
         --userns=auto or --userns=keep-id"
    );
    Ok(())
}

/// Scope host: the machine's instance is never written, so its handlers must do.
///
/// `visible` is what is registered on the host, if anything. Fails, with what to do, where a
/// working handler for one of `targets` is missing.
pub fn ensure_served_by_host(visible: Option<&Visible>, targets: &[&'static Arch]) -> Result<()> {
    match visible.map_or(targets.first().copied(), |visible| visible.lacks(targets)) {
        None => Ok(()),
        Some(arch) => bail!(
            "the container has no user namespace of its own, so a handler for {} would be \
             registered for the whole machine; run it with --userns=auto (a build: with \
             --userns-uid-map and --userns-gid-map 0:0:4294967294; Docker: with userns-remap; \
             Kubernetes: with hostUsers: false), or as an ordinary user, or register a handler with flag F on the host, or see PLAIN SUDO PODMAN RUN in \
             toolbx-arch-hook(8)",
            arch.name
        ),
    }
}
