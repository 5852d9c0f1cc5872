//! `toolbx-arch explain`: why a container or an image is emulated, or is not. Reads only.
//!
//! For a running container this is the very plan that the hook would apply now. Of others, whose
//! files are mounted nowhere and which have no process, the same functions tell as much as can be
//! known before a start.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use toolbx_arch::arch::Arch;
use toolbx_arch::arch::arguments::Arguments;
use toolbx_arch::arch::binfmt::visible_path;
use toolbx_arch::asked::detect::Detected;
use toolbx_arch::asked::hook_arguments::Orders;
use toolbx_arch::asked::labels;
use toolbx_arch::asked::oci::{Root, State};
use toolbx_arch::asked::request::{self, Evidence, Request};
use toolbx_arch::asked::toolbx;
use toolbx_arch::base::message;
use toolbx_arch::hook::{self, Decision, Emulation, Needs};
use toolbx_arch::host::emulator;
use toolbx_arch::host::instance::Visible;
use toolbx_arch::host::policy::{self, Credentials, Policy};
use toolbx_arch::host::scope::Scope;
use toolbx_arch::host::trust::{Caller, LazyHost};

use crate::args::Explain;
use crate::subject::Subject;
use crate::{caller, history, podman, terminal};

pub fn run(arguments: &Explain) -> Result<()> {
    let subject = match (&arguments.bundle, &arguments.name) {
        (Some(directory), _) => {
            caller::become_hooks_caller()?;
            Subject::of_bundle(directory)?
        }
        (None, Some(_)) if caller::is_plain_user()? => return Err(podman::unshare()),
        (None, name) => Subject::find(name.as_deref().unwrap_or_default())?,
    };
    let explanation = subject.explain()?;
    if arguments.json {
        terminal::print_json(&explanation.to_json());
    } else {
        terminal::print(&explanation.to_text());
    }
    Ok(())
}

impl Subject {
    fn explain(self) -> Result<Explanation> {
        let caller = Caller::current()?;
        let id = self.id.clone();
        let title = self.title.clone();
        let (refused, missing) = (self.calling.refused.clone(), self.calling.missing);
        let (evidence, notes, outcome) = match self.pid {
            Some(pid) => self.examine(pid),
            None => self.foresee(),
        };
        let outcome = match (refused, missing) {
            (Some(why), _) => Err(anyhow!(
                "a drop-in is broken, so Podman refuses the container, or starts it without hooks: {why}"
            )),
            (None, Some(why)) => Ok(Outcome::NotCalled(why)),
            (None, None) => outcome,
        };
        let warning = outcome.as_ref().ok().and_then(Outcome::warning);
        let (policies, no_own) = policy::present(caller);
        let no_own = no_own.map(|why| format!("no policy of your own is looked for: {why}"));
        Ok(Explanation {
            title,
            evidence,
            policies,
            outcome,
            notes: notes.into_iter().chain(warning).chain(no_own).collect(),
            last_start: id.as_deref().map(history::last_start),
        })
    }

    /// What the hook would do if the container, which runs, were started now.
    fn examine(self, pid: i32) -> (Evidence, Vec<String>, Result<Outcome>) {
        let mut bundle = self.bundle;
        // As its own processes see it.
        bundle.config.root = Some(Root { path: "/".into() });
        let state = State {
            id: self.id.unwrap_or_default(),
            pid,
            bundle: bundle.path.clone(),
            ..State::default()
        };
        let orders = Orders { devices: self.devices, ..Orders::default() };
        let (evidence, decision) = hook::examine(&state, bundle, &orders);
        (evidence, Vec::new(), decision.map(Outcome::from))
    }

    /// What can be told without a process.
    fn foresee(self) -> (Evidence, Vec<String>, Result<Outcome>) {
        let command = self.bundle.config.command.as_ref();
        let host = LazyHost::default();
        let (detected, unseen) = match self.detect() {
            Ok(detected) => (detected, None),
            Err(why) => (None, Some(message::line(&why))),
        };
        let mut evidence = Evidence {
            devices: self.devices,
            annotations: self.bundle.config.annotations.clone().unwrap_or_default(),
            label: None,
            toolbx: command.and_then(toolbx::architecture),
            detected,
        };
        if evidence.may_have_label() {
            let find = |host| match self.label {
                Some(label) => labels::listened_to(label, host),
                None => labels::find(&self.bundle.path, host),
            };
            evidence.label = host.get().ok().and_then(find);
        }
        let outcome = match (evidence.need(), &unseen) {
            _ if evidence.says_none() => Ok(Outcome::Off),
            (None, Some(_)) => Ok(Outcome::Unknown),
            (None, None) => Ok(Outcome::NotAsked),
            (Some(need), _) => {
                foresee(&evidence, self.has_own_user_namespace, self.calling.precreate, &host)
                    .or_else(|why| {
                        hook::left(need, evidence.detected.as_ref(), why).map(Outcome::Left)
                    })
            }
        };
        (evidence, unseen.into_iter().collect(), outcome)
    }

    /// What its programs are. Fails where its files cannot be looked at.
    fn detect(&self) -> Result<Option<Detected>> {
        const WHAT: &str = "its files cannot be looked at";
        let files = self.files.as_ref().context("config.json names no rootfs").context(WHAT)?;
        let Some(command) = &self.bundle.config.command else { return Ok(None) };
        files.detect(command).context(WHAT)
    }
}

/// What comes of a start.
enum Outcome {
    /// The hook is not called, for this reason.
    NotCalled(&'static str),
    /// Nothing asks for anything, and what the programs are cannot be seen.
    Unknown,
    NotAsked,
    Off,
    Native,
    Left(String),
    Inherited(Scope),
    Emulated {
        scope: Scope,
        targets: Vec<Target>,
        /// The source that came first.
        by: Option<&'static str>,
        warning: Option<String>,
    },
}

/// A target that is emulated.
struct Target {
    arch: &'static Arch,
    emulator: PathBuf,
    arguments: Arguments,
    /// Once that is known.
    handler: Option<Handler>,
}

/// How a target's handler is registered.
struct Handler {
    flags: &'static str,
    launcher: &'static str,
    /// Where the emulator's file is to be seen.
    shown: String,
}

impl From<Decision> for Outcome {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::NotAsked => Self::NotAsked,
            Decision::Off => Self::Off,
            Decision::Native => Self::Native,
            Decision::Left(why) => Self::Left(why),
            Decision::Inherited(scope) => Self::Inherited(scope),
            Decision::Emulate(plan) => Self::Emulated {
                scope: plan.container.scope,
                targets: plan.emulations.iter().map(Target::from).collect(),
                by: plan.wish.sources.first().map(|(source, _)| *source),
                warning: plan.wish.contradiction,
            },
        }
    }
}

impl From<&Emulation> for Target {
    fn from(emulation: &Emulation) -> Self {
        let Emulation { emulator, handler, launch, not_shown } = emulation;
        let shown = match not_shown {
            None => format!("shown at {}", visible_path(&emulator.path).display()),
            Some(why) => format!("not shown: {why}"),
        };
        Self {
            arch: handler.arch,
            emulator: emulator.path.clone(),
            arguments: launch.arguments.clone(),
            handler: Some(Handler { flags: handler.flags(), launcher: launch.form.name(), shown }),
        }
    }
}

/// What would be decided for a container, as far as its process does not matter: if it has a user
/// namespace of its own, or, should it need one, the stage `precreate` to give it one.
fn foresee(
    evidence: &Evidence,
    has_own: bool,
    precreate: bool,
    host: &LazyHost,
) -> Result<Outcome> {
    let host = host.get()?;
    let policy = Policy::load(host)?;
    let wish = match request::decide(evidence, &policy, Arch::is_native)? {
        Request::Nothing => return Ok(Outcome::NotAsked),
        Request::Off => return Ok(Outcome::Off),
        Request::Native => return Ok(Outcome::Native),
        Request::Emulate(wish) => wish,
    };
    let without = Scope::without_user_namespace(host.caller);
    let gets_one = precreate && request::gets_user_namespace(&wish, &policy, without);
    let scope = if has_own || gets_one { Scope::Private } else { without };
    hook::ensure_in_scope(&wish, scope)?;
    let engines = Visible::of_the_engine();
    if scope == Scope::Host {
        return hook::inherit(engines.transpose()?.as_ref(), &wish.targets).map(Outcome::from);
    }
    let visible = engines.as_ref().and_then(|visible| visible.as_ref().ok());
    let missing = hook::missing(&wish, visible.filter(|_| scope == Scope::Shared), &policy);
    if missing.is_empty() {
        return Ok(Outcome::Inherited(scope));
    }
    let find = |arch: &&'static Arch| -> Result<Target> {
        let emulator = emulator::find(arch, &policy, host)?;
        let may_have_credentials =
            scope == Scope::Private && policy.credentials != Credentials::Never;
        let needs = Needs { credentials: may_have_credentials, may_copy: true };
        let launch = hook::launch(&emulator, arch, &wish, needs, &policy, host)?;
        let (emulator, arguments) = (emulator.path, launch.arguments);
        Ok(Target { arch, emulator, arguments, handler: None })
    };
    let mut targets = Vec::new();
    let mut left_out = None;
    for target in missing.iter().map(find) {
        match target {
            Err(why) if wish.as_found => left_out = left_out.or(Some(why)),
            target => targets.push(target?),
        }
    }
    if let (Some(why), true) = (left_out, targets.is_empty()) {
        return Err(why);
    }
    let by = wish.sources.first().map(|(source, _)| *source);
    Ok(Outcome::Emulated { scope, targets, by, warning: wish.contradiction })
}

impl Outcome {
    fn name(&self) -> &'static str {
        match self {
            Self::NotCalled(_) => "not_called",
            Self::Unknown => "unknown",
            Self::NotAsked => "not_asked",
            Self::Off => "off",
            Self::Native => "native",
            Self::Left(_) => "left",
            Self::Inherited(_) => "inherited",
            Self::Emulated { .. } => "emulated",
        }
    }

    fn scope(&self) -> Option<Scope> {
        match self {
            Self::Inherited(scope) | Self::Emulated { scope, .. } => Some(*scope),
            _ => None,
        }
    }

    fn targets(&self) -> &[Target] {
        if let Self::Emulated { targets, .. } = self { targets } else { &[] }
    }

    fn warning(&self) -> Option<String> {
        if let Self::Emulated { warning, .. } = self { warning.clone() } else { None }
    }

    /// What it means, in a sentence.
    fn sentence(&self) -> String {
        match self {
            Self::NotCalled(why) => format!("left alone: {why}"),
            Self::Unknown => {
                "not to be foreseen: nothing asks for another architecture, and for which \
                              one its programs are is not known"
                    .to_owned()
            }
            Self::NotAsked => {
                "left alone: nothing asks for another architecture, and no program of \
                               one was seen"
                    .to_owned()
            }
            Self::Off => "left alone, as it says itself".to_owned(),
            Self::Native => "left alone: this machine runs what is asked for itself".to_owned(),
            Self::Left(why) => format!("started without emulation: {why}"),
            Self::Inherited(scope) => format!(
                "emulated by handlers that are there already, in scope {}: {}",
                scope.name(),
                meaning(*scope)
            ),
            Self::Emulated { scope, by, .. } => {
                let by = by.map(|by| format!(", decided by {by}")).unwrap_or_default();
                format!("emulated, in scope {}{by}: {}", scope.name(), meaning(*scope))
            }
        }
    }
}

/// Whose handlers they are.
fn meaning(scope: Scope) -> &'static str {
    match scope {
        Scope::Private => "the handlers are the container's own",
        Scope::Shared => "the handlers are those of a user namespace that other containers share",
        Scope::Host => "the handlers are the machine's",
    }
}

/// All that is to be told.
struct Explanation {
    title: String,
    evidence: Evidence,
    /// The policy files that there are.
    policies: Vec<PathBuf>,
    outcome: Result<Outcome>,
    notes: Vec<String>,
    /// Of a container.
    last_start: Option<Result<Option<history::Record>>>,
}

impl Explanation {
    /// Each source, the one that comes first at the front, and what it says.
    fn sources(&self) -> Vec<(String, Option<String>)> {
        let Evidence { annotations, devices, label, toolbx, detected } = &self.evidence;
        let fixed = ["toolbx.arch", "toolbox-arch"];
        let other = annotations.keys().filter(|key| !fixed.contains(&key.as_str()));
        let annotation = |key: &str| {
            let value = annotations.get(key).map(|value| message::shown(value));
            (format!("annotation {}", message::path(key.as_ref())), value)
        };
        let mut sources: Vec<_> = fixed.iter().map(|key| annotation(key)).collect();
        sources.extend(other.map(|key| annotation(key)));
        let names: Vec<_> = devices.iter().map(|arch| arch.name).collect();
        sources.push(("CDI devices".into(), (!names.is_empty()).then(|| names.join(" "))));
        sources.push((
            label.as_ref().map_or(labels::OF_CONTAINER, |label| label.source).into(),
            label.as_ref().map(|label| message::shown(&label.value)),
        ));
        sources.push(("Toolbx's arguments".into(), toolbx.map(|arch| arch.name.to_owned())));
        let (what, found) = match detected {
            None => ("programs", None),
            Some(found) => (
                if found.is_first { "first program" } else { "other programs" },
                Some(format!("{} is for {}", message::path(&found.program), found.arch.name)),
            ),
        };
        sources.push((what.into(), found));
        sources
    }

    fn to_text(&self) -> String {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let mut rows: Vec<_> = self
            .sources()
            .into_iter()
            .map(|(source, said)| [format!("  {source}"), or_dash(said)])
            .collect();
        let policies: Vec<_> =
            self.policies.iter().map(|path| path.display().to_string()).collect();
        let policies = if policies.is_empty() { "built in".into() } else { policies.join(", ") };
        rows.push(["  policy".into(), policies]);
        let decision = match &self.outcome {
            Ok(outcome) => outcome.sentence(),
            Err(why) => format!("refused: {}", message::line(why)),
        };
        let targets = self.outcome.iter().flat_map(Outcome::targets).map(Target::to_row);
        let notes = self.notes.iter().map(|note| format!("  note: {note}\n"));
        format!(
            "{}\n{}{decision}\n{}{}{}",
            self.title,
            terminal::columns(&rows),
            terminal::columns(&targets.collect::<Vec<_>>()),
            notes.collect::<String>(),
            self.last_start.iter().map(last_start).collect::<String>(),
        )
    }

    fn to_json(&self) -> Value {
        let sources = self.sources().into_iter();
        let sources = sources.map(|(source, says)| json!({"source": source, "says": says}));
        let outcome = self.outcome.as_ref();
        json!({
            "subject": self.title,
            "sources": sources.collect::<Vec<_>>(),
            "detected": self.evidence.detected.as_ref().map(|found| json!({
                "target": found.arch.name,
                "program": message::path(&found.program),
                "first": found.is_first,
            })),
            "policy": self.policies.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
            "decision": outcome.map_or("refused", Outcome::name),
            "why": outcome.map_or_else(message::line, Outcome::sentence),
            "scope": outcome.ok().and_then(Outcome::scope).map(Scope::name),
            "targets": outcome.iter().flat_map(|outcome| outcome.targets()).map(Target::to_json)
                .collect::<Vec<_>>(),
            "notes": self.notes,
            "last_start": self.last_start.as_ref().map(|last| match last {
                Ok(record) => json!(record.as_ref().map(history::Record::to_json)),
                Err(why) => json!({"unreadable": message::line(why)}),
            }),
        })
    }
}

impl Target {
    fn to_row(&self) -> [String; 3] {
        let handler = self.handler.as_ref().map(|Handler { flags, launcher, shown }| {
            format!("flags {flags}, launcher {launcher}, {shown}")
        });
        let name = format!("  {}", self.arch.name);
        let emulator = format!("{}{}", self.emulator.display(), self.arguments);
        [name, emulator, handler.unwrap_or_default()]
    }

    fn to_json(&self) -> Value {
        json!({
            "target": self.arch.name,
            "emulator": self.emulator.display().to_string(),
            "arguments": self.arguments.to_string().trim_start(),
            "launcher": self.handler.as_ref().map(|handler| handler.launcher),
            "flags": self.handler.as_ref().map(|handler| handler.flags),
        })
    }
}

fn last_start(found: &Result<Option<history::Record>>) -> String {
    match found {
        Ok(Some(record)) => format!("last start: {}\n", record.to_text()),
        Ok(None) => "last start: nothing that you may read in the log; a container that asks for \
                     nothing leaves no record, and others may be shown by: sudo journalctl -t \
                     toolbx-arch-hook\n"
            .into(),
        Err(why) => format!("last start: {}\n", message::line(why)),
    }
}
