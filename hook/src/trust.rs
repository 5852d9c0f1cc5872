//! Opens files of the host that the hook relies on: emulators and policies.
//!
//! A file is trusted if nobody but the administrator (or, rootless, the caller) could have put it
//! there. Every directory on its path is looked at, symbolic links included, and each is opened
//! once, relative to the one before, so that what was checked is what is used.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::message::Call;
use crate::scope::INITIAL_USER_NAMESPACE;

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
        const NAMESPACE: &str = "/proc/self/ns/user";
        const OVERFLOW: &str = "/proc/sys/kernel/overflowuid";
        let namespace = rustix::fs::stat(NAMESPACE).call(|| format!("stat {NAMESPACE}"))?;
        if namespace.st_ino == INITIAL_USER_NAMESPACE {
            return Ok(Self::Root);
        }
        let text = std::fs::read_to_string(OVERFLOW).call(|| format!("read {OVERFLOW}"))?;
        let overflow_uid = text.trim_end().parse().with_context(|| format!("parse {OVERFLOW}"))?;
        Ok(Self::User { overflow_uid })
    }
}

/// As many symbolic links as the kernel follows on one path (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// Opens the regular file at the absolute `path` for reading. Below the directories `system` of /
/// an owner who is not in the caller's user namespace is taken for root.
///
/// `Ok(None)` if there is none. Fails, naming what is wrong and the command that mends it, if
/// somebody else could write the file, a directory or a link on its path, and if it is no file.
pub fn open(path: &Path, caller: Caller, system: &[&str]) -> Result<Option<File>> {
    let mut walk = Walk::start(path, caller, system)?;
    while let Some(name) = walk.ahead.pop_front() {
        if !walk.step(name)? {
            return Ok(None);
        }
    }
    // Only now: what is wrong with a directory does not matter where there is no file.
    walk.problem.map_or(Ok(()), Err)?;
    let Some(found) = walk.file else { bail!("{} is a directory, not a file", path.display()) };
    // Not by its name again: the descriptor's magic link leads to the very file that was checked.
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = rustix::fs::open(link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .call(|| format!("open {}", path.display()))?;
    Ok(Some(File::from(file)))
}

/// A path being followed, component by component.
struct Walk<'a> {
    path: &'a Path,
    caller: Caller,
    system: &'a [&'a str],
    /// What is still to be followed.
    ahead: VecDeque<OsString>,
    /// The directories from / to here, with their names.
    behind: Vec<(OsString, OwnedFd)>,
    /// The file at the end.
    file: Option<OwnedFd>,
    /// The first thing on the path that somebody else could change.
    problem: Option<anyhow::Error>,
    links: usize,
}

impl<'a> Walk<'a> {
    fn start(path: &'a Path, caller: Caller, system: &'a [&'a str]) -> Result<Self> {
        ensure!(path.is_absolute(), "{} is not an absolute path", path.display());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, Mode::empty()).call(|| "open /".into())?;
        let ahead = components(path);
        let stat = rustix::fs::fstat(&root).call(|| "stat /".into())?;
        let mut walk = Self {
            path,
            caller,
            system,
            ahead,
            behind: vec![(OsString::new(), root)],
            file: None,
            problem: None,
            links: 0,
        };
        walk.note(walk.check(&OsString::new(), &stat));
        Ok(walk)
    }

    /// Follows one component. `false` if it does not exist.
    fn step(&mut self, name: OsString) -> Result<bool> {
        if self.file.is_some() {
            return Ok(false); // a file is no directory, so there is nothing below it
        }
        if name == ".." {
            self.behind.truncate(self.behind.len().saturating_sub(1).max(1));
            return Ok(true);
        }
        let parent = self.behind.last().map_or(CWD, |(_, fd)| fd.as_fd());
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(parent, &name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(false),
            fd => fd.call(|| format!("open {}", self.here(&name).display()))?,
        };
        let stat =
            rustix::fs::fstat(&fd).call(|| format!("stat {}", self.here(&name).display()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => self.follow(&name, &fd, &stat)?,
            FileType::Directory => {
                self.note(self.check(&name, &stat));
                self.behind.push((name, fd));
            }
            FileType::RegularFile => {
                self.note(self.check(&name, &stat));
                self.note(self.check_unknown_owner(&name, &stat));
                self.file = Some(fd);
            }
            _ if !self.ahead.is_empty() => return Ok(false),
            _ => bail!("{} is neither a file nor a directory", self.here(&name).display()),
        }
        Ok(true)
    }

    fn follow(&mut self, name: &OsString, fd: &OwnedFd, stat: &Stat) -> Result<()> {
        self.note(self.check_owner(name, stat));
        self.links += 1;
        ensure!(self.links <= LINKS_MAX, "{}: too many symbolic links", self.path.display());
        let target = rustix::fs::readlinkat(fd, "", Vec::new())
            .call(|| format!("readlink {}", self.here(name).display()))?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            self.behind.truncate(1);
        }
        for component in components(&target).into_iter().rev() {
            self.ahead.push_front(component);
        }
        Ok(())
    }

    fn note(&mut self, checked: Result<()>) {
        if let Err(problem) = checked {
            self.problem.get_or_insert(problem);
        }
    }

    /// Refuses what somebody else owns or may write.
    fn check(&self, name: &OsString, stat: &Stat) -> Result<()> {
        self.check_owner(name, stat)?;
        let here = self.here(name);
        ensure!(
            stat.st_mode & 0o022 == 0,
            "{0} may be written by others than its owner (mode {1:04o}), who could put another \
             file there; {2}",
            here.display(),
            stat.st_mode & 0o7777,
            mend(stat, || format!("run: chmod go-w {}", here.display()))
        );
        Ok(())
    }

    fn check_owner(&self, name: &OsString, stat: &Stat) -> Result<()> {
        let trusted = match self.caller {
            Caller::Root => stat.st_uid == 0,
            Caller::User { overflow_uid } => stat.st_uid == 0 || stat.st_uid == overflow_uid,
        };
        let here = self.here(name);
        ensure!(
            trusted,
            "{} belongs to uid {}, who could replace it; {}",
            here.display(),
            stat.st_uid,
            mend(stat, || format!("run: chown root {}", here.display()))
        );
        Ok(())
    }

    /// Below the system's directories an overflow owner is root; elsewhere it may be anybody.
    fn check_unknown_owner(&self, name: &OsString, stat: &Stat) -> Result<()> {
        let top = self.behind.get(1).and_then(|(name, _)| name.to_str()).unwrap_or_default();
        ensure!(
            stat.st_uid == 0 || self.system.contains(&top),
            "{} belongs to somebody else, who could replace it; use a file of your own, or one \
             below /usr",
            self.here(name).display()
        );
        Ok(())
    }

    fn here(&self, name: &OsString) -> PathBuf {
        let behind: PathBuf = self.behind.iter().map(|(name, _)| name).collect();
        Path::new("/").join(behind).join(name)
    }
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

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}
