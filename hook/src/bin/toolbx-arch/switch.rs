//! `toolbx-arch enable` and `disable`: puts drop-ins, and a file that names their directory, beside
//! what is there, and takes them away again. No file of anybody else is changed.
//!
//! What the package installed in Podman's default directory is overridden by a drop-in of the same
//! name in a directory that is read later (oci-hooks(5)).

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::FlockOperation;
use toolbx_arch::message::Call;

use crate::args::{Enable, Where};
use crate::hooks_d::{DropIns, Named, OURS, OURS_PRECREATE};
use crate::person::Person;
use crate::{containers_conf, terminal};

const ALWAYS: &str = include_str!("../../../../hooks.d/50-toolbx-arch.json");
const ANNOTATED: &str = include_str!("../../../../hooks.d/annotation-only/50-toolbx-arch.json");
const PRECREATE: &str = include_str!("../../../../podman-hooks.d/50-toolbx-arch-userns.json");
const PRECREATE_ANNOTATED: &str =
    include_str!("../../../../podman-hooks.d/annotation-only/50-toolbx-arch-userns.json");
/// A drop-in that never runs; what it would run has to exist all the same.
const OFF: &str = r#"{
    "version": "1.0.0",
    "hook": {"path": "/usr/bin/true"},
    "when": {"always": false},
    "stages": ["createRuntime"]
}
"#;
/// The file that names our directory.
const CONF: &str = "50-toolbx-arch.conf";

/// What is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Off,
    On { for_all: bool, precreate: bool },
}

impl Wish {
    /// The text of the drop-in that is called `name`, if there is to be one.
    fn text(self, name: &str) -> Option<&'static str> {
        match (name, self) {
            (OURS, Self::On { for_all: true, .. }) => Some(ALWAYS),
            (OURS, Self::On { for_all: false, .. }) => Some(ANNOTATED),
            (OURS_PRECREATE, Self::On { for_all: true, precreate: true }) => Some(PRECREATE),
            (OURS_PRECREATE, Self::On { for_all: false, precreate: true }) => {
                Some(PRECREATE_ANNOTATED)
            }
            _ => None,
        }
    }
}

pub fn enable(arguments: &Enable) -> Result<()> {
    let wish = Wish::On { for_all: !arguments.annotation_only, precreate: arguments.precreate };
    switch(wish, &arguments.whose)
}

pub fn disable(arguments: &Where) -> Result<()> {
    switch(Wish::Off, arguments)
}

fn switch(wish: Wish, whose: &Where) -> Result<()> {
    let person = Person::calling()?;
    let place = Place::of(&person, whose)?;
    // Somebody else who switches waits until we are done.
    let _lock = if whose.dry_run { None } else { Some(place.lock()?) };
    let namings = containers_conf::namings(Path::new("/"), person.config())?;
    let changes = place.changes(wish, namings)?;
    for change in &changes {
        if !whose.dry_run {
            change.make()?;
        }
        terminal::print(&change.said(whose.dry_run));
    }
    if changes.is_empty() {
        terminal::print("Nothing is to be changed.\n");
    } else if !whose.dry_run {
        terminal::print("Containers that are started from now on follow it.\n");
    }
    if !whose.dry_run {
        place.tidy();
    }
    Ok(())
}

/// Where our files go.
struct Place {
    /// Our own configuration.
    directory: PathBuf,
    /// Podman's.
    containers: PathBuf,
    /// A directory above both, which is there.
    above: PathBuf,
}

impl Place {
    fn of(person: &Person, whose: &Where) -> Result<Self> {
        let (above, parent) = match person.config() {
            Some(config) if !whose.system => {
                (config.parent().context("no home directory")?.to_owned(), config.to_owned())
            }
            None if !whose.user => ("/etc".into(), "/etc".into()),
            Some(_) => bail!("what is below /etc is root's; run it with sudo, or with --user"),
            None => bail!("root's containers follow what is below /etc; run it without --user"),
        };
        Ok(Self {
            directory: parent.join("toolbx-arch"),
            containers: parent.join("containers"),
            above,
        })
    }

    fn hooks(&self) -> PathBuf {
        self.directory.join("hooks.d")
    }

    fn conf(&self) -> PathBuf {
        self.containers.join("containers.conf.d").join(CONF)
    }

    fn lock(&self) -> Result<File> {
        let above = self.above.display();
        let directory = File::open(&self.above).call(|| format!("open {above}"))?;
        rustix::fs::flock(&directory, FlockOperation::LockExclusive)
            .call(|| format!("lock {above}"))?;
        Ok(directory)
    }

    /// What is to be done so that `wish` holds, in an order that never leaves a container start
    /// without what it needs.
    fn changes(
        &self,
        wish: Wish,
        mut namings: Vec<containers_conf::Naming>,
    ) -> Result<Vec<Change>> {
        let conf = self.conf();
        let later = namings.iter().rev().take_while(|naming| naming.file != conf);
        let later =
            later.filter(|naming| naming.file > conf && naming.file.starts_with(&self.containers));
        let overriding =
            later.filter(|naming| !naming.appends).map(|naming| naming.file.clone()).last();
        namings.retain(|naming| naming.file != conf);
        let mut directories = containers_conf::hook_directories(&namings);
        directories.retain(|directory| *directory != self.hooks());
        let others = DropIns::read(directories.clone());

        let ours: Vec<_> = [OURS, OURS_PRECREATE]
            .into_iter()
            .map(|name| (self.hooks().join(name), text(name, wish, &others)))
            .collect();
        let is_needed = ours.iter().any(|(_, text)| text.is_some());
        if let (true, Some(file)) = (is_needed, &overriding) {
            bail!(
                "{} names hooks_dir, and is read after ours; add {} to it there",
                file.display(),
                self.hooks().display()
            );
        }
        if is_needed && wish != Wish::Off {
            ensure_installed()?;
        }
        let (written, removed): (Vec<_>, Vec<_>) = ours
            .into_iter()
            .map(|(file, text)| Change { file, text: text.map(str::to_owned) })
            .partition(Change::writes);
        directories.push(self.hooks());
        let text = is_needed.then(|| conf_text(&directories));
        let conf = Change { file: conf, text };
        Ok(written.into_iter().chain([conf]).chain(removed).filter(Change::is_due).collect())
    }

    /// Takes our directories away where nothing is in them.
    fn tidy(&self) {
        let _ = std::fs::remove_dir(self.hooks());
        let _ = std::fs::remove_dir(&self.directory);
    }
}

/// What our own drop-in called `name` has to say so that `wish` holds, beside what the `others` do.
/// `None` where none is needed.
fn text(name: &str, wish: Wish, others: &DropIns) -> Option<&'static str> {
    match (wish.text(name), others.named(name)) {
        (Some(text), Some(Named::On(file))) if is_same(file, text) => None,
        (Some(text), _) => Some(text),
        (None, None | Some(Named::Off)) => None,
        (None, Some(_)) => Some(OFF),
    }
}

fn is_same(file: &Path, text: &str) -> bool {
    std::fs::read_to_string(file).is_ok_and(|there| there == text)
}

/// A drop-in whose hook is missing would stop every container.
fn ensure_installed() -> Result<()> {
    let hook = Path::new("/usr/libexec/oci/hooks.d/toolbx-arch-hook");
    ensure!(
        rustix::fs::access(hook, rustix::fs::Access::EXEC_OK).is_ok(),
        "{} is not there, and a drop-in without it would stop every container; install toolbx-arch",
        hook.display()
    );
    Ok(())
}

fn conf_text(directories: &[PathBuf]) -> String {
    // A string of JSON is one of TOML, too.
    let quoted = directories.iter().map(|path| format!("{:?}", path.to_string_lossy()));
    format!(
        "# toolbx-arch disable takes this file away.\n[engine]\nhooks_dir = [{}]\n",
        quoted.collect::<Vec<_>>().join(", ")
    )
}

/// A file that is to have this content, or not to be.
#[derive(Debug)]
struct Change {
    file: PathBuf,
    text: Option<String>,
}

impl Change {
    fn writes(&self) -> bool {
        self.text.is_some()
    }

    /// Whether it is not so already.
    fn is_due(&self) -> bool {
        match &self.text {
            Some(text) => !is_same(&self.file, text),
            None => self.file.symlink_metadata().is_ok(),
        }
    }

    fn make(&self) -> Result<()> {
        match &self.text {
            Some(text) => write(&self.file, text),
            None => match std::fs::remove_file(&self.file) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                removed => removed.call(|| format!("remove {}", self.file.display())),
            },
        }
    }

    fn said(&self, dry_run: bool) -> String {
        match (&self.text, dry_run) {
            (Some(text), true) => {
                format!("would write {}:\n{}", self.file.display(), Indented(text))
            }
            (None, true) => format!("would remove {}\n", self.file.display()),
            (Some(_), false) => format!("wrote {}\n", self.file.display()),
            (None, false) => format!("removed {}\n", self.file.display()),
        }
    }
}

struct Indented<'a>(&'a str);

impl fmt::Display for Indented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.lines().try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// Writes a file so that readers see the old one or the new one, and nothing in between.
pub fn write(file: &Path, text: &str) -> Result<()> {
    let directory = file.parent().context("a file without a directory")?;
    std::fs::create_dir_all(directory).call(|| format!("mkdir {}", directory.display()))?;
    let new = file.with_extension("new"); // no engine reads a file of that name
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| std::fs::rename(&new, file));
    if renamed.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    renamed.call(|| format!("write {}", file.display()))
}
