//! The host, as far as the hook may rely on it: on whose behalf it runs, and files like emulators and
//! policies.
//!
//! A file is trusted if nobody but the administrator (or, rootless, the caller) could have put it
//! there. Every directory on its path is looked at, symbolic links included, and each is opened
//! once, relative to the one before, so that what was checked is what is used. A directory that was
//! looked at is not looked at again: most paths have the same ones.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::base::message::Call;
use crate::base::namespace::Namespace;

/// On whose behalf the hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// The administrator, in the initial user namespace: only root's files are trusted.
    Root,
    /// Somebody in a user namespace of theirs, whose uid 0 is themselves. Everybody else's files,
    /// root's too, show this overflow uid.
    User {
        /// `/proc/sys/kernel/overflowuid`.
        overflow_uid: u32,
    },
}

impl Caller {
    /// On whose behalf this process runs, by the user namespace it is in.
    pub fn current() -> Result<Self> {
        Self::in_namespace(Namespace::ours("user")?)
    }

    fn in_namespace(user_namespace: Namespace) -> Result<Self> {
        const OVERFLOW: &str = "/proc/sys/kernel/overflowuid";
        if user_namespace.is_initial_user() {
            return Ok(Self::Root);
        }
        let text = std::fs::read_to_string(OVERFLOW).call(|| format!("read {OVERFLOW}"))?;
        let overflow_uid = text.trim_end().parse().with_context(|| format!("parse {OVERFLOW}"))?;
        Ok(Self::User { overflow_uid })
    }
}

/// As many symbolic links as the kernel follows on one path (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// The host, as this process sees it.
#[derive(Debug)]
pub struct Host {
    /// On whose behalf this process runs.
    pub caller: Caller,
    /// The user namespace that it is in.
    pub user_namespace: Namespace,
    root: Rc<KnownDirectory>,
}

/// A directory of the host.
#[derive(Debug)]
struct KnownDirectory {
    /// Its name in the one that it is in; / has none.
    name: OsString,
    fd: OwnedFd,
    /// How somebody else could change what is in it.
    problem: Option<String>,
    /// The directories in it that were looked at.
    known: RefCell<Vec<Rc<KnownDirectory>>>,
}

impl KnownDirectory {
    fn known(&self, name: &OsStr) -> Option<Rc<Self>> {
        self.known.borrow().iter().find(|directory| directory.name == name).cloned()
    }
}

impl Host {
    /// As this process sees it now. No longer true after it enters another namespace or root.
    pub fn current() -> Result<Self> {
        let user_namespace = Namespace::ours("user")?;
        let caller = Caller::in_namespace(user_namespace)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/", flags, Mode::empty()).call(|| "open /".into())?;
        let stat = rustix::fs::fstat(&fd).call(|| "stat /".into())?;
        let problem = problem(caller, &stat, || "/".into());
        let (name, known) = (OsString::new(), RefCell::default());
        Ok(Self {
            caller,
            user_namespace,
            root: Rc::new(KnownDirectory { name, fd, problem, known }),
        })
    }

    /// Opens the regular file at the absolute `path` for reading. Below the directories `system` of /
    /// an owner who is not in the caller's user namespace is taken for root.
    ///
    /// `Ok(None)` if there is none. Fails, naming what is wrong and the command that mends it, if
    /// somebody else could write the file, a directory or a link on its path, and if it is no file.
    pub fn open(&self, path: &Path, system: &[&str]) -> Result<Option<File>> {
        ensure!(path.is_absolute(), "{} is not an absolute path", path.display());
        let mut walk = Walk {
            host: self,
            path,
            system,
            behind: Vec::new(),
            end: None,
            problem: self.root.problem.clone(),
            links: 0,
        };
        if !walk.follow(path)? {
            return Ok(None);
        }
        // Only now: what is wrong with a directory does not matter where there is no file.
        if let Some(problem) = walk.problem {
            bail!(problem);
        }
        match walk.end {
            Some(End::File(file)) => Ok(Some(file)),
            Some(End::Location(location)) => {
                // Not by its name again: the magic link leads to the very file that was checked.
                let link = format!("/proc/self/fd/{}", location.as_raw_fd());
                let file = rustix::fs::open(link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .call(|| format!("open {}", path.display()))?;
                Ok(Some(file.into()))
            }
            Some(End::Other) => bail!("{} is neither a file nor a directory", path.display()),
            None => bail!("{} is a directory, not a file", path.display()),
        }
    }
}

/// A path being followed, component by component.
struct Walk<'a> {
    host: &'a Host,
    path: &'a Path,
    system: &'a [&'a str],
    /// The directories below / that lead here.
    behind: Vec<Rc<KnownDirectory>>,
    /// What is at the end, if that is no directory.
    end: Option<End>,
    /// What is wrong with the first thing on the path that somebody else could change.
    problem: Option<String>,
    links: usize,
}

/// What is no directory.
enum End {
    /// A regular file, open for reading.
    File(File),
    /// A regular file, open as a location only (`O_PATH`).
    Location(OwnedFd),
    Other,
}

/// Where a component of a path leads.
enum Leads {
    /// To a directory, or the end.
    On,
    /// It does not exist.
    Nowhere,
    /// To this path, from where the link is.
    Link(PathBuf),
}

impl Walk<'_> {
    /// Follows `path` from here on. `false` if it does not exist.
    fn follow(&mut self, path: &Path) -> Result<bool> {
        let mut components = path.components();
        while let Some(component) = components.next() {
            match component {
                Component::RootDir => self.behind.clear(),
                Component::ParentDir if self.end.is_some() => return Ok(false),
                Component::ParentDir => drop(self.behind.pop()),
                Component::CurDir | Component::Prefix(_) => {}
                Component::Normal(name) => match self
                    .step(name, components.as_path() == Path::new(""))?
                {
                    Leads::On => {}
                    Leads::Nowhere => return Ok(false),
                    Leads::Link(target) => return self.follow(&target.join(components.as_path())),
                },
            }
        }
        Ok(true)
    }

    /// Follows one component; `is_last` if nothing comes after it.
    fn step(&mut self, name: &OsStr, is_last: bool) -> Result<Leads> {
        if self.end.is_some() {
            return Ok(Leads::Nowhere); // there is nothing below what is no directory
        }
        let parent = Rc::clone(self.behind.last().unwrap_or(&self.host.root));
        if let Some(known) = parent.known(name) {
            self.enter(known);
            return Ok(Leads::On);
        }
        let call = |call: &str| format!("{call} {}", self.here(name).display());
        let (fd, is_readable) = match self.open(&parent, name, is_last) {
            Err(Errno::NOENT) => return Ok(Leads::Nowhere),
            opened => opened.call(|| call("open"))?,
        };
        let stat = rustix::fs::fstat(&fd).call(|| call("stat"))?;
        let problem = || problem(self.host.caller, &stat, || self.here(name));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => return self.link(name, &fd, &stat),
            FileType::Directory => {
                let (problem, name, known) = (problem(), name.to_owned(), RefCell::default());
                let directory = Rc::new(KnownDirectory { name, fd, problem, known });
                parent.known.borrow_mut().push(Rc::clone(&directory));
                self.enter(directory);
            }
            FileType::RegularFile => {
                self.note(problem().or_else(|| self.unknown_owner(name, &stat)));
                self.end = Some(if is_readable { End::File(fd.into()) } else { End::Location(fd) });
            }
            _ => self.end = Some(End::Other),
        }
        Ok(Leads::On)
    }

    /// Opens `name` in `parent`; of a link, the link itself. Returns whether it can be read: if it is the last
    /// one, and certainly nobody else has put it there, since opening some things has an effect.
    /// Otherwise it is open as a location only.
    fn open(
        &self,
        parent: &KnownDirectory,
        name: &OsStr,
        is_last: bool,
    ) -> rustix::io::Result<(OwnedFd, bool)> {
        let open = |how| {
            let flags = how | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&parent.fd, name, flags, Mode::empty())
        };
        let is_certain = self.host.caller == Caller::Root || self.is_in_system();
        if is_last && is_certain && self.problem.is_none() {
            match open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
                Ok(fd) => return Ok((fd, true)),
                Err(Errno::NOENT) => return Err(Errno::NOENT),
                Err(_) => {} // a link, for example
            }
        }
        Ok((open(OFlags::PATH)?, false))
    }

    fn enter(&mut self, directory: Rc<KnownDirectory>) {
        self.note(directory.problem.clone());
        self.behind.push(directory);
    }

    fn link(&mut self, name: &OsStr, fd: &OwnedFd, stat: &Stat) -> Result<Leads> {
        self.note(foreign_owner(self.host.caller, stat, || self.here(name)));
        self.links += 1;
        ensure!(self.links <= LINKS_MAX, "{}: too many symbolic links", self.path.display());
        let target = rustix::fs::readlinkat(fd, "", Vec::new())
            .call(|| format!("readlink {}", self.here(name).display()))?;
        Ok(Leads::Link(PathBuf::from(OsString::from_vec(target.into_bytes()))))
    }

    /// Remembers what is wrong, if nothing was before.
    fn note(&mut self, problem: Option<String>) {
        if self.problem.is_none() {
            self.problem = problem;
        }
    }

    /// What is wrong, if the file's owner is not known to be root. Below the system's directories an
    /// overflow owner is; elsewhere it may be anybody.
    fn unknown_owner(&self, name: &OsStr, stat: &Stat) -> Option<String> {
        (stat.st_uid != 0 && !self.is_in_system()).then(|| {
            format!(
                "{} belongs to somebody else, who could replace it; use a file of your own, or one \
                 below /usr",
                self.here(name).display()
            )
        })
    }

    /// Whether this is below one of the system's directories.
    fn is_in_system(&self) -> bool {
        let top = self.behind.first().and_then(|top| top.name.to_str());
        top.is_some_and(|top| self.system.contains(&top))
    }

    fn here(&self, name: &OsStr) -> PathBuf {
        let behind: PathBuf = self.behind.iter().map(|directory| &directory.name).collect();
        Path::new("/").join(behind).join(name)
    }
}

/// How somebody else could change the file or directory `here`: by owning it, or by writing it.
fn problem(caller: Caller, stat: &Stat, here: impl Fn() -> PathBuf) -> Option<String> {
    foreign_owner(caller, stat, &here).or_else(|| {
        (stat.st_mode & 0o022 != 0).then(|| {
            let here = here();
            format!(
                "{0} may be written by others than its owner (mode {1:04o}), who could put another \
                 file there; {2}",
                here.display(),
                stat.st_mode & 0o7777,
                mend(stat, || format!("run: chmod go-w {}", here.display()))
            )
        })
    })
}

fn foreign_owner(caller: Caller, stat: &Stat, here: impl Fn() -> PathBuf) -> Option<String> {
    let is_trusted = match caller {
        Caller::Root => stat.st_uid == 0,
        Caller::User { overflow_uid } => stat.st_uid == 0 || stat.st_uid == overflow_uid,
    };
    (!is_trusted).then(|| {
        let here = here();
        format!(
            "{} belongs to uid {}, who could replace it; {}",
            here.display(),
            stat.st_uid,
            mend(stat, || format!("run: chown root {}", here.display()))
        )
    })
}

/// How to mend a file, or what to do where a directory, on which much else may depend, is wrong.
fn mend(stat: &Stat, command: impl FnOnce() -> String) -> String {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            "use another directory, or make this one writable by its owner only".into()
        }
        _ => command(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_directory_is_not_forgotten() {
        let directory =
            std::env::temp_dir().join(format!("toolbx-arch trust-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
        let (missing, file) = (directory.join("missing"), directory.join("file"));
        std::fs::write(&file, "").unwrap();
        let host = Host::current().unwrap();
        // What is not there does not matter; and may be there the next time.
        assert!(host.open(&missing, &["tmp"]).unwrap().is_none());
        let name = directory.file_name().unwrap();
        for path in [&file, &file, &directory.join("..").join(name).join("file")] {
            let why = host.open(path, &["tmp"]).unwrap_err().to_string();
            assert!(why.contains("may be written by others"), "{why}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_file_can_be_read_however_it_is_reached() {
        // One that is root's everywhere, by its own path and by links.
        let file = std::fs::canonicalize("/bin/sh").unwrap();
        let host = Host::current().unwrap();
        for path in [&*file, Path::new("/bin/sh")] {
            let mut magic = [0; 4];
            let mut file = host.open(path, &["usr"]).unwrap().expect("there is a shell");
            std::io::Read::read_exact(&mut file, &mut magic).unwrap();
            assert_eq!(&magic, b"\x7fELF", "{}", path.display());
        }
    }
}
