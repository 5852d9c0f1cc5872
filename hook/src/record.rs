//! What the log is told of one run: a line of JSON, and how bad it is.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Error;
use serde::Serialize;
use serde_json::Value;

use crate::apply::Carried;
use crate::base::message;
use crate::host::scope::Scope;
use crate::log::{Log, Severity};
use crate::plan::{Emulation, Plan};

/// What became of a container at one stage. toolbx-arch-hook(8) describes the members.
#[derive(Debug, Serialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum Outcome {
    /// It says `none`.
    Off,
    /// The host runs the architectures itself.
    Native,
    /// It is started without emulation, for this reason.
    Left {
        /// In a line.
        why: String,
    },
    /// Handlers that are there serve it.
    Inherited {
        /// Whose they are.
        scope: Scope,
        /// Why none is registered, if one was to be.
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// It is emulated.
    Emulated(Emulated),
    /// It is not started.
    Refused {
        /// In a line.
        error: String,
    },
    /// At the stage `precreate`: it gets a user namespace.
    Userns {
        /// What it cannot have in one.
        warnings: Value,
    },
    /// At the stage `precreate`: it stays as the engine made it, though it was to be changed.
    Engine {
        /// In a line.
        why: String,
        /// Whether nobody could see what it asks for.
        #[serde(skip)]
        is_unread: bool,
    },
}

impl Outcome {
    /// It is refused, for this reason.
    #[must_use]
    pub fn refused(error: &Error) -> Self {
        Self::Refused { error: message::line(error) }
    }

    /// It is emulated as this plan says.
    #[must_use]
    pub fn emulated(plan: &Plan, carried: &Carried) -> Self {
        let name =
            |(source, says): &(crate::asked::decide::Source, String)| (source.name(), says.clone());
        Self::Emulated(Emulated {
            scope: plan.setting.scope,
            sources: plan.wish.sources.iter().map(name).collect(),
            warning: plan.wish.contradiction.clone(),
            not_shown: plan.emulations.iter().find_map(|emulation| emulation.not_shown),
            targets: plan.emulations.iter().map(Target::of).collect(),
            carried: message::list(&carried.over),
            lost: message::list(&carried.lost),
        })
    }

    /// How bad it is.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::Refused { .. } => Severity::LOG_ERR,
            Self::Emulated(emulated) if emulated.warning.is_some() => Severity::LOG_WARNING,
            Self::Userns { warnings } if warnings.as_array().is_some_and(|all| !all.is_empty()) => {
                Severity::LOG_WARNING
            }
            Self::Engine { is_unread: true, .. } => Severity::LOG_WARNING,
            _ => Severity::LOG_INFO,
        }
    }
}

/// How a container is emulated.
#[derive(Debug, Serialize)]
pub struct Emulated {
    scope: Scope,
    /// What each source says.
    sources: BTreeMap<&'static str, String>,
    /// Where they contradict each other.
    warning: Option<String>,
    not_shown: Option<&'static str>,
    targets: Vec<Target>,
    carried: Value,
    lost: Value,
}

/// How programs of one architecture are run.
#[derive(Debug, Serialize)]
struct Target {
    #[serde(rename = "target")]
    name: &'static str,
    emulator: String,
    interpreter: String,
    launcher: &'static str,
    unprepared: Option<String>,
    arguments: String,
    flags: &'static str,
}

impl Target {
    fn of(emulation: &Emulation) -> Self {
        let Emulation { emulator, handler, launch, .. } = emulation;
        Self {
            name: handler.arch.name,
            emulator: emulator.path.display().to_string(),
            interpreter: handler.interpreter.to_string(),
            launcher: launch.form.name(),
            unprepared: launch.unprepared.clone(),
            arguments: launch.arguments.to_string().trim_start().to_owned(),
            flags: handler.flags(),
        }
    }
}

/// A line of the log.
#[derive(Serialize)]
struct Record<'a> {
    #[serde(flatten)]
    outcome: &'a Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<&'static str>,
    /// Its id, if that could be learnt.
    container: Option<&'a str>,
    /// How long it took, in microseconds.
    us: u64,
}

/// Leaves a record in the log: what became of `container` at `stage` (create-runtime if that is not named), in a
/// run that began at `start`.
pub fn leave(
    outcome: &Outcome,
    stage: Option<&'static str>,
    container: Option<&str>,
    start: Instant,
) {
    let us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    let record = Record { outcome, stage, container, us };
    if let Ok(text) = serde_json::to_string(&record) {
        Log::connect().send(outcome.severity(), &text);
    }
}
