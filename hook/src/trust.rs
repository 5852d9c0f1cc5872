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

use anyhow::{Result, bail, ensure};
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::message::Call;

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

/// Where an unknown owner is taken for the administrator: nobody else has files there.
const SYSTEM_DIRECTORIES: [&str; 2] = ["usr", "etc"];
/// As many symbolic links as the kernel follows on one path (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// Opens the regular file at the absolute `path` for reading.
///
/// `Ok(None)` if there is none. Fails, naming what is wrong and the command that mends it, if
/// somebody else could write the file, a directory or a link on its path, and if it is no file.
pub fn open(path: &Path, caller: Caller) -> Result<Option<File>> {
    let mut walk = Walk::start(path, caller)?;
    while let Some(name) = walk.ahead.pop_front() {
        if !walk.step(name)? {
            return Ok(None);
        }
    }
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
    /// What is still to be followed.
    ahead: VecDeque<OsString>,
    /// The directories from / to here, with their names.
    behind: Vec<(OsString, OwnedFd)>,
    /// The file at the end.
    file: Option<OwnedFd>,
    links: usize,
}

impl<'a> Walk<'a> {
    fn start(path: &'a Path, caller: Caller) -> Result<Self> {
        ensure!(path.is_absolute(), "{} is not an absolute path", path.display());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, Mode::empty()).call(|| "open /".into())?;
        let ahead = components(path);
        Ok(Self {
            path,
            caller,
            ahead,
            behind: vec![(OsString::new(), root)],
            file: None,
            links: 0,
        })
    }

    /// Follows one component. `false` if it does not exist.
    fn step(&mut self, name: OsString) -> Result<bool> {
        ensure!(self.file.is_none(), "{} goes through a file", self.path.display());
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
                self.check(&name, &stat)?;
                self.behind.push((name, fd));
            }
            FileType::RegularFile => {
                self.check(&name, &stat)?;
                self.check_unknown_owner(&name, &stat)?;
                self.file = Some(fd);
            }
            _ => bail!("{} is neither a file nor a directory", self.here(&name).display()),
        }
        Ok(true)
    }

    fn follow(&mut self, name: &OsString, fd: &OwnedFd, stat: &Stat) -> Result<()> {
        self.check_owner(name, stat)?;
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

    /// Refuses what somebody else owns or may write.
    fn check(&self, name: &OsString, stat: &Stat) -> Result<()> {
        self.check_owner(name, stat)?;
        ensure!(
            stat.st_mode & 0o022 == 0,
            "{0} may be written by others than its owner (mode {1:04o}), who could put another \
             file there; run: chmod go-w {0}",
            self.here(name).display(),
            stat.st_mode & 0o7777
        );
        Ok(())
    }

    fn check_owner(&self, name: &OsString, stat: &Stat) -> Result<()> {
        let trusted = match self.caller {
            Caller::Root => stat.st_uid == 0,
            Caller::User { overflow_uid } => stat.st_uid == 0 || stat.st_uid == overflow_uid,
        };
        ensure!(
            trusted,
            "{0} belongs to uid {1}, who could replace it; run: chown root {0}",
            self.here(name).display(),
            stat.st_uid
        );
        Ok(())
    }

    /// Below the system's directories an overflow owner is root; elsewhere it may be anybody.
    fn check_unknown_owner(&self, name: &OsString, stat: &Stat) -> Result<()> {
        let top = self.behind.get(1).and_then(|(name, _)| name.to_str()).unwrap_or_default();
        ensure!(
            stat.st_uid == 0 || SYSTEM_DIRECTORIES.contains(&top),
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

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}
