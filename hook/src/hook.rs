//! The hook itself: reads and decides ([`plan`]), then does ([`run`]), and says what it did.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::arch::Arch;
use crate::binfmt::{Handler, visible_path};
use crate::container::{Container, EmulatorPlace, Process};
use crate::emulator::{self, Emulator};
use crate::instance::{HOST_INSTANCE, Instance, Keep, Visible};
use crate::log::{Log, Severity};
use crate::message;
use crate::oci::{Bundle, State};
use crate::policy::{Credentials, Policy};
use crate::request::{self, Request};
use crate::sandbox::{self, Applied};
use crate::scope::Scope;
use crate::trust::Caller;

/// What is to be done to a container. Made by [`plan`], which changes nothing.
#[derive(Debug)]
pub struct Plan {
    /// The container.
    pub container: Container,
    /// What is to be registered; at least one.
    pub emulations: Vec<Emulation>,
    /// What the container has without us, and would lose by the mount: to be registered again.
    pub visible: Option<Visible>,
    /// Where to keep the instance, so that what was registered again outlives this container.
    pub keep: Option<Keep>,
}

impl Plan {
    /// Whether the handlers that are visible without us would do.
    #[must_use]
    pub fn is_served_without_us(&self) -> bool {
        let visible = self.visible.as_ref();
        self.emulations
            .iter()
            .all(|emulation| visible.is_some_and(|visible| visible.serves(emulation.handler.arch)))
    }
}

/// One target, the emulator on the host, and the handler in the container.
#[derive(Debug)]
pub struct Emulation {
    /// The checked file on the host.
    pub emulator: Emulator,
    /// What is to be registered.
    pub handler: Handler,
}

/// What was decided for a container.
#[derive(Debug)]
pub enum Decision {
    /// Nothing was asked for.
    NotAsked,
    /// The container says `none`.
    Off,
    /// The host runs the architectures itself.
    Native,
    /// Handlers that are there already serve the container.
    Inherited(Scope),
    /// This is to be done.
    Emulate(Box<Plan>),
}

/// Runs the hook for the container whose state arrives on standard input.
///
/// Leaves one record in the log, unless the container asked for nothing. Fails where the container
/// asked for something that it cannot have.
pub fn run() -> Result<()> {
    let start = Instant::now();
    let log = Log::connect();
    let mut id = Value::Null;
    let served = State::read(std::io::stdin().lock()).and_then(|state| {
        id = state.id.as_str().into();
        serve(&state)
    });
    let (severity, mut record) = match &served {
        Ok(None) => return Ok(()),
        Ok(Some(record)) => (Severity::Info, record.clone()),
        Err(error) => {
            (Severity::Error, json!({"decision": "refused", "error": message::line(error)}))
        }
    };
    record["container"] = id;
    record["us"] = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX).into();
    log.send(severity, &record.to_string());
    served.map(|_| ())
}

/// Plans and applies. Returns the record for the log, if there is anything to tell.
fn serve(state: &State) -> Result<Option<Value>> {
    let decision = plan(state)?;
    let mut record = record(&decision);
    if let (Decision::Emulate(plan), Some(record)) = (&decision, &mut record) {
        match sandbox::apply(plan)? {
            Applied::Whole(carried) => {
                record["carried"] = carried.over.into();
                record["lost"] = carried.lost.into();
            }
            Applied::Inherited(why) => {
                *record = json!({
                    "decision": "inherited", "scope": plan.container.scope.name(), "why": why
                });
            }
        }
    }
    Ok(record)
}

/// Decides what is to be done for the container of `state`. Reads only.
pub fn plan(state: &State) -> Result<Decision> {
    let bundle = match state.annotations {
        Some(_) => None,
        None => Some(find_bundle(state)?),
    };
    let annotations = match &bundle {
        None => state.annotations.clone(),
        Some(bundle) => bundle.config.annotations.clone(),
    }
    .unwrap_or_default();
    if annotations.is_empty() {
        return Ok(Decision::NotAsked);
    }
    let caller = Caller::current()?;
    let policy = Policy::load(caller)?;
    let targets = match request::decide(&annotations, &policy, Arch::is_native)? {
        Request::Nothing => return Ok(Decision::NotAsked),
        Request::Off => return Ok(Decision::Off),
        Request::Native => return Ok(Decision::Native),
        Request::Emulate(targets) => targets,
    };
    let bundle = bundle.map_or_else(|| find_bundle(state), Ok)?;
    let process = Process::open(state)?;
    let scope = process.scope(&bundle)?;
    let visible = Instance::mounted_at(Path::new(HOST_INSTANCE))
        .map(|instance| instance.visible())
        .transpose()?;
    if scope == Scope::Host {
        return inherit(visible.as_ref(), &targets);
    }
    // A container that shares our handlers takes what is there, if it may.
    let shares_ours = scope == Scope::Shared && process.is_in_our_user_namespace()?;
    let is_served = |arch: &Arch| {
        shares_ours
            && policy.emulator_sha256.get(arch.name).is_none()
            && visible.as_ref().is_some_and(|visible| visible.serves(arch))
    };
    let missing: Vec<_> = targets.into_iter().filter(|arch| !is_served(arch)).collect();
    if missing.is_empty() {
        return Ok(Decision::Inherited(scope));
    }
    let container = Container::open(process, scope, state, &bundle, &policy)?;
    let emulations = missing
        .into_iter()
        .map(|arch| emulation(arch, &container, &policy, caller))
        .collect::<Result<_>>()?;
    let keep = shares_ours.then(|| Keep::at(Path::new(HOST_INSTANCE))).flatten();
    Ok(Decision::Emulate(Box::new(Plan { container, emulations, visible, keep })))
}

fn find_bundle(state: &State) -> Result<Bundle> {
    let runtime = format!("/proc/{}/cmdline", std::os::unix::process::parent_id());
    Bundle::find(state, &std::fs::read(runtime).unwrap_or_default())
}

fn emulation(
    arch: &'static Arch,
    container: &Container,
    policy: &Policy,
    caller: Caller,
) -> Result<Emulation> {
    let emulator = emulator::find(arch, policy, caller)?;
    let interpreter = match container.emulator_place {
        EmulatorPlace::Dev(_) if !container.maps_owner_of(&emulator) => {
            visible_path(&emulator.path)
        }
        _ => emulator.path.clone(),
    };
    let credentials =
        container.scope == Scope::Private && policy.credentials == Credentials::Private;
    Ok(Emulation { emulator, handler: Handler { arch, interpreter, credentials } })
}

/// Scope host: the machine's instance is never written, so its handlers must do.
///
/// `visible` is what is registered on the host, if anything. Fails, with what to do, where a
/// working handler for one of `targets` is missing.
pub fn inherit(visible: Option<&Visible>, targets: &[&'static Arch]) -> Result<Decision> {
    match targets.iter().find(|arch| !visible.is_some_and(|visible| visible.serves(arch))) {
        None => Ok(Decision::Inherited(Scope::Host)),
        Some(arch) => bail!(
            "the container has no user namespace of its own, so a handler for {} would be \
             registered for the whole machine; run it with --userns=auto, or as an ordinary user, \
             or register a handler with flag F on the host",
            arch.name
        ),
    }
}

/// The log record of a decision; `None` where nothing was asked for.
fn record(decision: &Decision) -> Option<Value> {
    Some(match decision {
        Decision::NotAsked => return None,
        Decision::Off => json!({"decision": "off"}),
        Decision::Native => json!({"decision": "native"}),
        Decision::Inherited(scope) => json!({"decision": "inherited", "scope": scope.name()}),
        Decision::Emulate(plan) => json!({
            "decision": "emulated",
            "scope": plan.container.scope.name(),
            "not_shown": match plan.container.emulator_place {
                EmulatorPlace::Dev(_) => Value::Null,
                EmulatorPlace::Nowhere(why) => why.into(),
            },
            "targets": plan.emulations.iter().map(|Emulation { emulator, handler }| json!({
                "target": handler.arch.name,
                "emulator": emulator.path.display().to_string(),
                "interpreter": handler.interpreter.display().to_string(),
                "flags": handler.flags(),
            })).collect::<Vec<_>>(),
        }),
    })
}
