//! Directories and files of ours in the container's /dev, a tmpfs of its own, and the emulators that are
//! shown there.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::apply::detached;
use crate::arch::interpreter::VISIBLE_DIR;
use crate::base::lookup;
use crate::base::message::Call;

/// Attaches emulators at their paths below `at`, which is the directory `top`.
pub(super) fn show(top: &OwnedFd, at: &Path, emulators: &BTreeMap<PathBuf, OwnedFd>) -> Result<()> {
    places(top, at, emulators)?.iter().try_for_each(|(clone, place)| {
        detached::attach(clone, place).call(|| "move_mount an emulator".into())
    })
}

/// A detached mount of an emulator, and the file that it is to lie on.
type Placed<'a> = (&'a OwnedFd, OwnedFd);

/// Makes a file for each emulator at its path below `at`, which is the directory `top`; a relative path
/// is one in there. Without those that are shown there already.
fn places<'a>(
    top: &OwnedFd,
    at: &Path,
    emulators: &'a BTreeMap<PathBuf, OwnedFd>,
) -> Result<Vec<Placed<'a>>> {
    let mut placed = Vec::with_capacity(emulators.len());
    // They come by directory, mostly one.
    let mut last: Option<(&Path, OwnedFd)> = None;
    for (path, clone) in emulators {
        let (parent, file) = path.parent().zip(path.file_name()).context("no file name")?;
        let directory = match last.take() {
            Some((same, directory)) if same == parent => directory,
            _ => make_directories(top, parent.strip_prefix(at).unwrap_or(parent))?,
        };
        let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        match step(&directory, file, create, 0o444) {
            // By the hook that another drop-in or device has had called for the same container.
            Err(Errno::EXIST | Errno::XDEV) if shows(&directory, file, clone) => {}
            place => placed.push((
                clone,
                place
                    .call(|| format!("create {} for an emulator", path.display()))
                    .with_context(taken)?,
            )),
        }
        last = Some((parent, directory));
    }
    Ok(placed)
}

/// Whether `name` in `dir` is the very file that `clone` shows.
fn shows(dir: &OwnedFd, name: &OsStr, clone: &OwnedFd) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let (there, ours) = (rustix::fs::statat(dir, name, flags), rustix::fs::fstat(clone));
    matches!((there, ours), (Ok(there), Ok(ours))
        if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino))
}

/// Makes the directories of the relative `path` below `top`, and opens the last one.
///
/// Every step is relative to the directory before and stays on that very mount: a volume that
/// happens to be on the way gets nothing.
pub(super) fn make_directories(top: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    let call = |call: &str| format!("{call} {} for an emulator", path.display());
    let mut directory = top.try_clone().call(|| call("dup"))?;
    for name in path {
        match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).call(|| call("mkdir")),
        }
        directory = step(&directory, name, OFlags::PATH | OFlags::DIRECTORY, 0)
            .call(|| call("openat2"))
            .with_context(taken)?;
    }
    Ok(directory)
}

/// What to do where something is in our way.
fn taken() -> String {
    format!("{VISIBLE_DIR} is for this hook alone; put nothing there")
}

/// Opens `name` in `dir`, on the same mount and not through a link. If it creates a file, with `mode`.
fn step(dir: &OwnedFd, name: &OsStr, flags: OFlags, mode: u32) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    lookup::openat2(dir, name, flags, Mode::from_raw_mode(mode), resolve)
}
