//! Podman's stage `precreate`: gives a container that is to be emulated a user namespace of its
//! own, by rewriting the config.json that Podman is about to hand to the runtime.
//!
//! The mapping is the identity, so files, volumes and users stay as they are. What a runtime cannot
//! do in such a namespace is arranged otherwise, left to `create-runtime` ([`HookArguments`]), or said.

mod config;
mod devices;
mod edit;
mod json;
mod rewrite;

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};

use crate::arch::Arch;
use crate::asked::annotations::Annotations;
use crate::asked::decide::{Wish, gets_user_namespace};
use crate::asked::detect::{self, Detected};
use crate::asked::evidence::{Evidence, Need, Subject};
use crate::asked::hook_arguments::HookArguments;
use crate::asked::labels::{self, Label};
use crate::asked::oci::{self, Command, Input};
use crate::base::message::{self, Call};
use crate::host::emulator;
use crate::host::instance::Visible;
use crate::host::machine::Machine;
use crate::host::scope::Scope;
use crate::host::trust::Host;
use crate::plan::{self, Decision};
use crate::record::{self, Outcome};

use self::config::FullConfig;
use self::rewrite::{Surroundings, ensure_lands_where_it_should};

/// How this stage is called in the log.
const STAGE: &str = "precreate";

/// How the container ends up otherwise than Podman made it.
#[derive(Debug)]
struct Rewritten {
    /// Its config.json.
    text: String,
    /// What it cannot have.
    warnings: Vec<String>,
}

/// Reads a config.json from standard input and writes it to standard output, rewritten where its
/// container is to get a user namespace, to the byte as it was where not.
///
/// Returns what the user should be warned of. Fails, and writes nothing, where the container cannot
/// have what it asked for. Leaves a record in the log where there is anything to tell.
pub fn run() -> Result<Vec<String>> {
    let start = Instant::now();
    let mut input = std::io::stdin().lock();
    let text = match Input::read(&mut input)? {
        Input::Text(text) => text,
        Input::TooLarge(beginning) => {
            let why = "config.json is larger than 16 MiB".to_owned();
            record::leave(&Outcome::Engine { why, is_unread: true }, Some(STAGE), None, start);
            return pass_on((&*beginning).chain(input)).map(|()| Vec::new());
        }
    };
    let mut id = None;
    let decision = Starting::parse(&text).and_then(|starting| {
        id = starting.id().map(str::to_owned);
        decide(&text, &starting)
    });
    let told = match &decision {
        Ok(Decision::Emulate(rewritten)) => {
            Some(Outcome::Userns { warnings: message::list(&rewritten.warnings) })
        }
        Ok(Decision::Left(why)) => Some(Outcome::Engine { why: why.clone(), is_unread: false }),
        // The rest is for create-runtime to tell.
        Ok(_) => None,
        Err(why) => Some(Outcome::refused(why)),
    };
    if let Some(told) = told {
        record::leave(&told, Some(STAGE), id.as_deref(), start);
    }
    match decision? {
        Decision::Emulate(Rewritten { text, warnings }) => {
            pass_on(text.as_bytes()).map(|()| warnings)
        }
        _ => pass_on(text.as_bytes()).map(|()| Vec::new()),
    }
}

/// Writes a config.json to standard output.
fn pass_on(mut config: impl Read) -> Result<()> {
    let mut out = std::io::stdout().lock();
    std::io::copy(&mut config, &mut out)
        .and_then(|_| out.flush())
        .context("write config.json to standard output")
}

/// A container that Podman is about to hand to the runtime: the subject of this stage.
#[derive(Debug)]
struct Starting {
    config: oci::Config,
}

impl Starting {
    fn parse(text: &str) -> Result<Self> {
        let config =
            oci::Config::parse(text.as_bytes()).context("config.json on standard input")?;
        Ok(Self { config })
    }

    /// The container's id, which Podman puts at the end of the cgroup's name.
    fn id(&self) -> Option<&str> {
        let cgroup = self.config.linux.as_ref()?.cgroup.as_ref()?.to_str()?;
        let id = cgroup.rsplit(['/', ':', '-']).next()?;
        let id = id.strip_suffix(".scope").unwrap_or(id);
        (id.len() == 64).then_some(id)
    }

    /// The container's root directory, which Podman has mounted by now; its volumes are not there yet.
    fn open_root(&self) -> Result<OwnedFd> {
        let root = self.config.root.as_ref().filter(|root| root.path.is_absolute());
        let path = &root.context("config.json names no root directory")?.path;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).call(|| format!("open {}", path.display()))
    }
}

impl Subject for Starting {
    fn annotations(&self) -> Annotations {
        self.config.annotations.clone().unwrap_or_default()
    }

    fn devices(&self) -> Vec<&'static Arch> {
        HookArguments::of_config(&self.config).devices
    }

    fn command(&self) -> Option<&Command> {
        self.config.command.as_ref()
    }

    fn detect(&self, command: &Command) -> Result<Option<Detected>> {
        Ok(detect::detect(self.open_root()?.as_fd(), command))
    }

    fn label(&self, host: &Host) -> Option<Label> {
        let root = &self.config.root.as_ref()?.path;
        labels::find(&labels::bundle_of(self.id()?, root)?, host)
    }
}

/// Decides what is to become of the config.json `text`, which is that of the container `starting`.
fn decide(text: &str, starting: &Starting) -> Result<Decision<Rewritten>> {
    let machine = Machine::default();
    let evidence = Evidence::of(starting, &machine);
    let decision = plan::decide(&evidence, &machine, |need, wish| {
        give_user_namespace(text, starting, need, &wish, &machine)
    });
    match evidence.need() {
        None | Some(Need::Asked) => decision,
        // The container can do without: create-runtime says what is to be said.
        Some(_) => Ok(decision.unwrap_or_else(|why| Decision::Left(message::line(&why)))),
    }
}

/// Gives the container a user namespace, if it is to have one.
fn give_user_namespace(
    text: &str,
    starting: &Starting,
    need: Need,
    wish: &Wish,
    machine: &Machine,
) -> Result<Decision<Rewritten>> {
    let (policy, host) = (machine.policy()?, machine.host()?);
    let scope = Scope::without_user_namespace(host.caller);
    if !gets_user_namespace(wish, policy, scope) {
        return Ok(Decision::NotAsked);
    }
    // Whoever asked hears from create-runtime what is missing.
    if need != Need::Asked {
        wish.targets.iter().try_for_each(|arch| emulator::find(arch, policy, host).map(drop))?;
    }
    let config = FullConfig::parse(text)?;
    config.ensure_mappings_are_apart()?;
    if config.namespace("user").is_some() {
        return Ok(Decision::NotAsked);
    }
    match rewritten(text, starting, &config, scope) {
        Ok(rewritten) => Ok(Decision::Emulate(rewritten)),
        // Nobody insists, and the container can be served as it is.
        Err(why) if wish.userns.is_none() && is_served_by(scope, &wish.targets, machine) => {
            Ok(Decision::Left(message::line(&why)))
        }
        Err(why) => Err(why.context("no user namespace of its own for this container")),
    }
}

fn rewritten(
    text: &str,
    starting: &Starting,
    config: &FullConfig,
    scope: Scope,
) -> Result<Rewritten> {
    let rewrite = rewrite::plan(config, &Surroundings::current(scope, config)?)?;
    ensure_lands_where_it_should(&starting.open_root()?, config, &rewrite.left.bound)?;
    Ok(Rewritten { text: edit::apply(text, &rewrite)?, warnings: rewrite.warnings })
}

/// Whether containers without a user namespace can be served in `scope`.
fn is_served_by(scope: Scope, targets: &[&'static Arch], machine: &Machine) -> bool {
    let serves_all = |visible: &Visible| visible.lacks(targets).is_none();
    scope != Scope::Host
        || machine.handlers().is_ok_and(|visible| visible.as_deref().is_some_and(serves_all))
}

#[cfg(test)]
mod tests;
