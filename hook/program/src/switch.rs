//! `toolbx-arch enable` and `disable`: one file of Podman's configuration, which names directories of
//! drop-ins. No file of anybody else is changed, and the drop-ins go when the package goes; a
//! directory that is missing stops no container.
//!
//! What is in Podman's default directory is overridden by a drop-in of the same name in a directory
//! that is read later (oci-hooks(5)).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use toolbx_arch::base::message::Call;

use crate::args::{Enable, Where};
use crate::containers_conf::{self, Naming};
use crate::hooks_d::{self, Calls, DropIns, PRECREATE, SERVING};
use crate::person::Person;
use crate::{files, terminal};

/// Where our drop-ins are, a directory for each choice.
const CHOICES: &str = "/usr/share/toolbx-arch/hooks.d";
/// The file that names some of them.
const CONF: &str = "toolbx-arch.conf";

/// What is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Off,
    On { for_all: bool, precreate: bool },
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
    // Nothing is locked: what our file is to say does not depend on what it says, and it is replaced
    // whole, so of two who switch at once the last one wins.
    let namings = containers_conf::namings(Path::new("/"), person.config(), Some(&place.conf))?;
    let (others, later) = place.others(&namings);
    let text = wish.conf(&others)?;
    if let (Some(_), Some(later)) = (&text, later) {
        bail!(
            "{} names hooks_dir, and is read after {}; remove hooks_dir there, or name in it what \
             this shows: toolbx-arch {} --dry-run",
            later.display(),
            place.conf.display(),
            if wish == Wish::Off { "disable" } else { "enable" }
        );
    }
    if whose.dry_run {
        terminal::print(&foretold(&place.conf, text.as_deref()));
    } else {
        terminal::print(&make(&place.conf, text.as_deref())?);
    }
    Ok(())
}

impl Wish {
    /// What our file has to say beside what `others` say already; none if nothing is missing. Fails
    /// where that would not do.
    fn conf(self, others: &DropIns) -> Result<Option<String>> {
        ensure!(
            self == Self::Off || hooks_d::is_hook_there(),
            "{} is not there, and a drop-in without it would stop every container; install toolbx-arch",
            hooks_d::HOOK
        );
        let choices = self.choices(others);
        if choices.is_empty() {
            return Ok(None);
        }
        let mut directories = others.directories.clone();
        directories.extend(choices.iter().map(|choice| Path::new(CHOICES).join(choice)));
        let drop_ins = DropIns::read(directories);
        match (self, drop_ins.calls(&SERVING)) {
            (Self::Off, Calls::All(file) | Calls::Annotated(file)) => bail!(
                "{} has the hook called too, and only a file of the same name could override it; \
                 remove it",
                file.display()
            ),
            (Self::On { .. }, Calls::None) => {
                bail!("{CHOICES} is incomplete; install toolbx-arch again")
            }
            _ => Ok(Some(text(&drop_ins.directories)?)),
        }
    }

    /// The directories below [`CHOICES`] that are needed beside `others`.
    fn choices(self, others: &DropIns) -> Vec<&'static str> {
        let (serving, precreate) = (others.calls(&SERVING), others.calls(&[PRECREATE]));
        match self {
            Self::Off => {
                let is_on = serving != Calls::None || precreate != Calls::None;
                (is_on || others.has_broken_of_ours()).then_some("off").into_iter().collect()
            }
            Self::On { for_all, precreate: wants_precreate } => {
                let is_so = |calls: &Calls| match calls {
                    Calls::All(_) => for_all,
                    Calls::Annotated(_) => !for_all,
                    Calls::None => false,
                };
                let (all, precreate_all) = if for_all {
                    ("all", "precreate")
                } else {
                    ("annotation-only", "precreate-annotation-only")
                };
                let serving = (!is_so(&serving)).then_some(all);
                let precreate = (wants_precreate && !is_so(&precreate)).then_some(precreate_all);
                serving.into_iter().chain(precreate).collect()
            }
        }
    }
}

/// Where our file goes.
struct Place {
    conf: PathBuf,
}

impl Place {
    fn of(person: &Person, whose: &Where) -> Result<Self> {
        let parent = match person.config() {
            Some(config) if !whose.system => config,
            None if !whose.user => Path::new("/etc"),
            Some(_) => bail!("what is below /etc is root's; run it with sudo, or with --user"),
            None => bail!("root's containers follow what is below /etc; run it without --user"),
        };
        Ok(Self { conf: parent.join("containers/containers.conf.d").join(CONF) })
    }

    /// What would hold without our file; and the file, if any, that is read after ours and replaces
    /// what it says.
    fn others(&self, namings: &[Naming]) -> (DropIns, Option<PathBuf>) {
        let overrides = |naming: &&Naming| {
            naming.file.parent() == self.conf.parent() && naming.file > self.conf && !naming.appends
        };
        let later = namings.iter().find(overrides).map(|naming| naming.file.clone());
        (DropIns::read(containers_conf::hook_directories(namings)), later)
    }
}

/// The content of our file.
fn text(directories: &[PathBuf]) -> Result<String> {
    // A string of JSON is one of TOML, too.
    let quoted: Result<Vec<_>, _> =
        directories.iter().map(|path| serde_json::to_string(&path.to_string_lossy())).collect();
    Ok(format!(
        "# By toolbx-arch enable and disable.\n[engine]\nhooks_dir = [{}]\n",
        quoted?.join(", ")
    ))
}

/// Whether the file is as it should be.
fn is_so(file: &Path, text: Option<&str>) -> bool {
    match text {
        Some(text) => std::fs::read_to_string(file).is_ok_and(|there| there == text),
        None => file.symlink_metadata().is_err(),
    }
}

const NOTHING: &str = "Nothing is to be changed.\n";

fn foretold(file: &Path, text: Option<&str>) -> String {
    match text {
        _ if is_so(file, text) => NOTHING.to_owned(),
        Some(text) => format!("would write {}:\n{text}", file.display()),
        None => format!("would remove {}\n", file.display()),
    }
}

/// Makes the file so, and says what was done.
fn make(file: &Path, text: Option<&str>) -> Result<String> {
    let done = match text {
        _ if is_so(file, text) => return Ok(NOTHING.to_owned()),
        Some(text) => {
            files::write(file, text)?;
            "wrote"
        }
        None => match std::fs::remove_file(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(NOTHING.to_owned()),
            removed => removed.call(|| format!("remove {}", file.display())).map(|()| "removed")?,
        },
    };
    Ok(format!("{done} {}\nContainers that are started from now on follow it.\n", file.display()))
}
