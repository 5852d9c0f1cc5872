//! `toolbx-arch explain`: why a container or an image is emulated, or is not. Reads only.
//!
//! This is the very decision of the hook: for a running container what it would do now; for others, whose
//! files are mounted nowhere and which have no process, by the same rules, as much as can be known before a
//! start. Nothing is decided here.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use toolbx_arch::arch::interpreter::visible_path;
use toolbx_arch::asked::evidence::Evidence;
use toolbx_arch::asked::labels;
use toolbx_arch::asked::oci::{Root, State};
use toolbx_arch::base::message;
use toolbx_arch::container::created::Created;
use toolbx_arch::host::machine::Machine;
use toolbx_arch::host::policy;
use toolbx_arch::host::scope::Scope;
use toolbx_arch::host::trust::Caller;
use toolbx_arch::plan::{self, Decision, Emulation, Plan};

use crate::args::Explain;
use crate::topic::Topic;
use crate::{caller, history, podman, terminal};

pub fn run(arguments: &Explain) -> Result<()> {
    let topic = match (&arguments.bundle, &arguments.name) {
        (Some(directory), _) => {
            caller::become_hooks_caller()?;
            Topic::of_bundle(directory)?
        }
        (None, Some(_)) if caller::is_plain_user()? => return Err(podman::unshare()),
        (None, name) => Topic::find(name.as_deref().unwrap_or_default())?,
    };
    let explanation = topic.explain()?;
    if arguments.json {
        terminal::print_json(&explanation.to_json());
    } else {
        terminal::print(&explanation.to_text());
    }
    Ok(())
}

impl Topic {
    fn explain(self) -> Result<Explanation> {
        let caller = Caller::current()?;
        let (policies, no_own) = policy::present(caller);
        let no_own = no_own.map(|why| format!("no policy of your own is looked for: {why}"));
        let (evidence, decision) = match self.pid {
            Some(pid) => self.examine(pid),
            None => self.foresee(),
        };
        let fate = match (&self.calling.refused, self.calling.missing) {
            (Some(why), _) => Err(anyhow!(
                "a drop-in is broken, so Podman refuses the container, or starts it without hooks: {why}"
            )),
            (None, Some(why)) => Ok(Fate::NotCalled(why)),
            (None, None) => decision.map(Fate::Decided),
        };
        let warning = fate.as_ref().ok().and_then(Fate::plan);
        let warning = warning.and_then(|plan| plan.wish.contradiction.clone());
        let notes = evidence.unseen.clone().into_iter().chain(warning).chain(no_own).collect();
        let last_start = self.id.as_deref().map(history::last_start);
        Ok(Explanation { title: self.title, evidence, policies, fate, notes, last_start })
    }

    /// What the hook would do if the container, which runs, were started now.
    fn examine(&self, pid: i32) -> (Evidence, Result<Decision<Plan>>) {
        let mut bundle = self.bundle.clone();
        // As its own processes see it.
        bundle.config.root = Some(Root { path: "/".into() });
        let id = self.id.clone().unwrap_or_default();
        let state = State { id, pid, bundle: bundle.path.clone(), ..State::default() };
        let container = Created::running(&state, bundle, self.given.devices.clone());
        let (evidence, decision) = plan::plan(container, &state, &self.given);
        (evidence, decision.map(|decision| decision.map(|work| work.plan)))
    }

    /// What can be told without a process.
    fn foresee(&self) -> (Evidence, Result<Decision<Plan>>) {
        let machine = Machine::default();
        let evidence = Evidence::of(self, &machine);
        let decision = plan::foresee(&evidence, self.prospect(), &machine);
        (evidence, decision)
    }
}

/// What comes of a start.
enum Fate {
    /// The hook is not called, for this reason.
    NotCalled(&'static str),
    /// The hook decides so.
    Decided(Decision<Plan>),
}

impl Fate {
    fn name(&self) -> &'static str {
        match self {
            Self::NotCalled(_) => "not_called",
            Self::Decided(decision) => match decision {
                Decision::Unseen(_) => "unknown",
                Decision::NotAsked => "not_asked",
                Decision::Off => "off",
                Decision::Native => "native",
                Decision::Left(_) => "left",
                Decision::Inherited(_) => "inherited",
                Decision::Emulate(_) => "emulated",
            },
        }
    }

    fn plan(&self) -> Option<&Plan> {
        if let Self::Decided(Decision::Emulate(plan)) = self { Some(plan) } else { None }
    }

    fn scope(&self) -> Option<Scope> {
        match self {
            Self::Decided(Decision::Inherited(scope)) => Some(*scope),
            _ => self.plan().map(|plan| plan.setting.scope),
        }
    }

    fn emulations(&self) -> &[Emulation] {
        self.plan().map_or(&[], |plan| &plan.emulations)
    }

    /// What it means, in a sentence.
    fn sentence(&self) -> String {
        match self {
            Self::NotCalled(why) => format!("left alone: {why}"),
            Self::Decided(decision) => sentence(decision),
        }
    }
}

/// What a decision means.
fn sentence(decision: &Decision<Plan>) -> String {
    match decision {
        Decision::Unseen(_) => {
            "not to be foreseen: nothing asks for another architecture, and for which \
                              one its programs are is not known"
                .to_owned()
        }
        Decision::NotAsked => {
            "left alone: nothing asks for another architecture, and no program of one was \
                               seen"
                .to_owned()
        }
        Decision::Off => "left alone, as it says itself".to_owned(),
        Decision::Native => "left alone: this machine runs what is asked for itself".to_owned(),
        Decision::Left(why) => format!("started without emulation: {why}"),
        Decision::Inherited(scope) => format!(
            "emulated by handlers that are there already, in scope {}: {}",
            scope.name(),
            meaning(*scope)
        ),
        Decision::Emulate(plan) => {
            let scope = plan.setting.scope;
            let by = plan.wish.sources.first();
            let by = by.map(|(source, _)| format!(", decided by {}", source.name()));
            let by = by.unwrap_or_default();
            format!("emulated, in scope {}{by}: {}", scope.name(), meaning(scope))
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
    fate: Result<Fate>,
    notes: Vec<String>,
    /// Of a container.
    last_start: Option<Result<Option<history::Record>>>,
}

impl Explanation {
    /// Each source, the one that comes first at the front, and what it says.
    fn sources(&self) -> Vec<(String, Option<String>)> {
        let Evidence { annotations, devices, label, toolbx, detected, .. } = &self.evidence;
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
        let decision = match &self.fate {
            Ok(fate) => fate.sentence(),
            Err(why) => format!("refused: {}", message::line(why)),
        };
        let targets = self.fate.iter().flat_map(Fate::emulations).map(to_row);
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
        let fate = self.fate.as_ref();
        json!({
            "subject": self.title,
            "sources": sources.collect::<Vec<_>>(),
            "detected": self.evidence.detected.as_ref().map(|found| json!({
                "target": found.arch.name,
                "program": message::path(&found.program),
                "first": found.is_first,
            })),
            "policy": self.policies.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
            "decision": fate.map_or("refused", Fate::name),
            "why": fate.map_or_else(message::line, Fate::sentence),
            "scope": fate.ok().and_then(Fate::scope).map(Scope::name),
            "targets": fate.iter().flat_map(|fate| fate.emulations()).map(to_json).collect::<Vec<_>>(),
            "notes": self.notes,
            "last_start": self.last_start.as_ref().map(|last| match last {
                Ok(record) => json!(record.as_ref().map(history::Record::to_json)),
                Err(why) => json!({"unreadable": message::line(why)}),
            }),
        })
    }
}

/// How an emulation is told in a table.
fn to_row(emulation: &Emulation) -> [String; 3] {
    let Emulation { emulator, handler, launch, not_shown } = emulation;
    let shown = match not_shown {
        None => format!("shown at {}", visible_path(&emulator.path).display()),
        Some(why) => format!("not shown: {why}"),
    };
    [
        format!("  {}", handler.arch.name),
        format!("{}{}", emulator.path.display(), launch.arguments),
        format!("flags {}, launcher {}, {shown}", handler.flags(), launch.form.name()),
    ]
}

fn to_json(emulation: &Emulation) -> Value {
    let Emulation { emulator, handler, launch, .. } = emulation;
    json!({
        "target": handler.arch.name,
        "emulator": emulator.path.display().to_string(),
        "arguments": launch.arguments.to_string().trim_start(),
        "launcher": launch.form.name(),
        "flags": handler.flags(),
    })
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
