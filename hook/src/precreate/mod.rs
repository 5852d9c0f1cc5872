//! Podman's stage `precreate`: gives a container that is to be emulated a user namespace of its
//! own, by rewriting the config.json that Podman is about to hand to the runtime.
//!
//! The mapping is the identity, so files, volumes and users stay as they are. What a runtime cannot
//! do in such a namespace is arranged otherwise, left to `create-runtime` ([`HookArguments`]), or said.
//!
//! What guards the machine then is `create-runtime`. Whoever gets such a namespace, or joins one, has it
//! called by what this stage writes, whatever drop-ins the engine reads.

mod config;
mod devices;
mod edit;
mod joined;
mod json;
mod rewrite;

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags};

use crate::arch::Arch;
use crate::asked::annotations::Annotations;
use crate::asked::decide::{Wish, gets_user_namespace};
use crate::asked::detect::{self, Detected};
use crate::asked::evidence::{Evidence, Need, Subject};
use crate::asked::hook_arguments::{HookArguments, is_called_by};
use crate::asked::labels::{self, Label};
use crate::asked::oci::{self, Command};
use crate::base::message::{self, Call};
use crate::host::emulator;
use crate::host::instance::Visible;
use crate::host::machine::Machine;
use crate::host::scope::Scope;
use crate::host::trust::Host;
use crate::plan::{self, Decision};
use crate::record::{self, Outcome};

use self::config::FullConfig;
use self::joined::may_join_machines_root;
use self::rewrite::{Surroundings, ensure_lands_where_it_should};

/// How this stage is called in the log.
const STAGE: &str = "precreate";

/// Who is given a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// Whoever is to be emulated.
    All,
    /// Of these, whoever has an annotation of ours.
    Annotated,
}

/// What becomes of a container's config.json.
#[derive(Debug, PartialEq, Eq)]
pub enum NewConfig {
    /// It stays as it is, to the byte.
    Unchanged,
    /// This. Our hook is called, and nothing else is changed.
    Guarded(String),
    /// One with a user namespace.
    Rewritten(Rewritten),
}

/// A config.json with a user namespace for its container.
#[derive(Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The whole of it.
    pub text: String,
    /// What the container cannot have in there.
    pub warnings: Vec<String>,
}

/// Reads a config.json from standard input, and writes what becomes of it to standard output.
///
/// Returns what the user should be warned of. Fails, and writes nothing, where [`consider`] does.
pub fn run(whom: Whom) -> Result<Vec<String>> {
    let start = Instant::now();
    let text = oci::read_config(std::io::stdin().lock())?;
    let (text, warnings) = match consider(&text, whom, start)? {
        NewConfig::Unchanged => (text, Vec::new()),
        NewConfig::Guarded(text) => (text, Vec::new()),
        NewConfig::Rewritten(Rewritten { text, warnings }) => (text, warnings),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("write config.json to standard output")?;
    Ok(warnings)
}

/// Decides what becomes of the config.json `text`. Leaves a record in the log where there is anything to
/// tell, of a run that began at `start`.
///
/// Fails where the container cannot have what it asked for, or the machine could not be guarded from it.
pub fn consider(text: &str, whom: Whom, start: Instant) -> Result<NewConfig> {
    let starting = Starting::parse(text);
    let id = starting.as_ref().ok().and_then(|starting| starting.id().map(str::to_owned));
    let considered = starting.and_then(|starting| consider_starting(text, &starting, whom));
    let told = match &considered {
        Ok((_, told)) => told.as_ref(),
        Err(why) => Some(&Outcome::refused(why)),
    };
    if let Some(told) = told {
        record::leave(told, Some(STAGE), id.as_deref(), start);
    }
    considered.map(|(config, _)| config)
}

/// The same, for the container `starting`; and what there is to tell. The rest is for create-runtime to tell.
fn consider_starting(
    text: &str,
    starting: &Starting,
    whom: Whom,
) -> Result<(NewConfig, Option<Outcome>)> {
    let told = if whom == Whom::Annotated && starting.annotations().is_empty() {
        None
    } else if text.len() as u64 > oci::CONFIG_MAX {
        let why = "config.json is larger than 16 MiB".to_owned();
        Some(Outcome::Engine { why, is_unread: true })
    } else {
        match decide(text, starting)? {
            Decision::Emulate(rewritten) => {
                let warnings = message::list(&rewritten.warnings);
                return Ok((NewConfig::Rewritten(rewritten), Some(Outcome::Userns { warnings })));
            }
            Decision::Left(why) => Some(Outcome::Engine { why, is_unread: false }),
            _ => None,
        }
    };
    Ok((guarded(text, &starting.config)?, told))
}

/// Has our hook called for a container of `config` that may be root of the machine by the user namespace
/// which it joins.
fn guarded(text: &str, config: &oci::Config) -> Result<NewConfig> {
    if is_called_by(config) || !may_join_machines_root(config) {
        return Ok(NewConfig::Unchanged);
    }
    edit::guard(text, &this_program()?).map(NewConfig::Guarded)
}

/// A path to the program that this process runs, for the runtime to start.
///
/// Fails where none leads to it, as while its package is upgraded.
fn this_program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("read /proc/self/exe")?;
    let file = |path| rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino));
    let running = file(c"/proc/self/exe").call(|| "stat /proc/self/exe".into())?;
    ensure!(
        path.is_absolute()
            && rustix::fs::stat(&path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == running),
        "toolbx-arch-hook is to be called for this container, and {} is another one by now; start the \
         container again",
        message::path(&path)
    );
    Ok(path)
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
    let text = edit::apply(text, &rewrite, &this_program()?)?;
    Ok(Rewritten { text, warnings: rewrite.warnings })
}

/// Whether containers without a user namespace can be served in `scope`.
fn is_served_by(scope: Scope, targets: &[&'static Arch], machine: &Machine) -> bool {
    let serves_all = |visible: &Visible| visible.lacks(targets).is_none();
    scope != Scope::Host
        || machine.handlers().is_ok_and(|visible| visible.as_deref().is_some_and(serves_all))
}

#[cfg(test)]
mod tests;
