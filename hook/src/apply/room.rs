//! Where the kernel finds the files that handlers are to hold.
//!
//! With flag F it opens what is registered, by its name, when that is registered. Somebody who can
//! change a directory could have it find another file than the one that was checked. So the hook
//! registers from a [`Room`]: a file system in memory that nobody else can reach, in which each name is
//! a link to an open descriptor.
//!
//! Such a descriptor is [pinned](Pins): it lies on a read-only mount of its own that is in no mount
//! namespace, nor among the detached mounts. The mount of a running emulator can be found by
//! /proc/PID/exe; were it in any of these, somebody with `CAP_SYS_ADMIN` could clone it, and make the
//! clone writable.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};

use crate::apply::detached;
use crate::apply::wrap;
use crate::arch::interpreter::Interpreter;
use crate::base::kernel;
use crate::base::message::Call;
use crate::container::mounts;
use crate::host::emulator::Emulator;
use crate::host::selinux::SelinuxLabel;

/// Where a room has the descriptors of its process, and a process its own.
const DESCRIPTORS: &str = "descriptors";
const OWN_DESCRIPTORS: &str = "/proc/self/fd";
/// How what is in memory is mounted.
const IN_MEMORY: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// The files that handlers are to hold, by what is registered.
#[derive(Debug)]
pub struct Pins {
    files: BTreeMap<PathBuf, OwnedFd>,
    /// A clone of the mount of this process's /proc/self/fd.
    descriptors: OwnedFd,
}

impl Pins {
    /// None yet. To be called, as [`Pins::hold`], before anything is entered: later mounts of the host
    /// cannot be cloned.
    pub fn none() -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let own = rustix::fs::open(OWN_DESCRIPTORS, flags, Mode::empty())
            .call(|| format!("open {OWN_DESCRIPTORS}"))?;
        let descriptors =
            detached::inert_clone_of(own).call(|| format!("clone {OWN_DESCRIPTORS}"))?;
        Ok(Self { files: BTreeMap::new(), descriptors })
    }

    /// Has the handler with this `interpreter` hold `file`, which is open already.
    pub fn hold(&mut self, interpreter: &Interpreter, file: &File) -> Result<()> {
        let pinned = pinned(file).call(|| format!("clone {interpreter}"))?;
        self.files.insert(interpreter.to_path(), pinned);
        Ok(())
    }

    /// Has handlers hold copies of `emulators`, with the launcher in them, which are made here: in
    /// memory of the user namespace that the process is in.
    pub fn copy<'a>(
        &mut self,
        emulators: impl IntoIterator<Item = (&'a Interpreter, &'a Emulator)>,
    ) -> Result<()> {
        let mut emulators = emulators.into_iter().peekable();
        if emulators.peek().is_none() {
            return Ok(());
        }
        let store = in_memory("copies of emulators")?;
        for (interpreter, emulator) in emulators {
            let name = interpreter.to_path();
            let copy = copy(&store, &name, emulator)?;
            self.files.insert(name, copy);
        }
        // What is open on it keeps it, in no namespace.
        kernel::make_read_only(&store).call(|| "mount_setattr copies of emulators".into())
    }
}

/// `file` on a mount of its own, which is in no namespace: it leaves that of the detached mounts with the
/// descriptor that it was cloned by, and lives by another.
fn pinned(file: &File) -> rustix::io::Result<OwnedFd> {
    let clone = detached::inert_clone_of(file)?;
    rustix::mount::open_tree(
        clone,
        "",
        OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
}

/// A file system in memory, of the user namespace that the process is in.
fn in_memory(what: &str) -> Result<OwnedFd> {
    let file_system = detached::file_system("tmpfs")?;
    detached::mount(file_system, IN_MEMORY).call(|| format!("fsmount a tmpfs for {what}"))
}

/// Makes a copy of `emulator` with the launcher in it: the file `name` in `store`.
fn copy(store: &OwnedFd, name: &Path, emulator: &Emulator) -> Result<OwnedFd> {
    let of = || format!("a copy of {}", emulator.path.display());
    let open = |flags| {
        let mode = Mode::from_raw_mode(0o555);
        rustix::fs::openat(store, name, flags | OFlags::CLOEXEC, mode)
    };
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let file = File::from(open(create).call(|| format!("create {}", of()))?);
    // Where SELinux does not let us, it may let the container execute the copy all the same.
    let _ = SelinuxLabel::of(&emulator.file).and_then(|label| label.give(&file));
    wrap::wrap(&emulator.file, &emulator.program, &file).with_context(of)?;
    open(OFlags::PATH).call(|| format!("open {}", of()))
}

/// A root directory in which the names of [`Pins`] lead to what they stand for.
#[derive(Debug)]
pub struct Room {
    dir: OwnedFd,
    pins: Pins,
    /// The mount namespace that the process has left, if it had to, for one of its own.
    pub left: Option<OwnedFd>,
}

impl Room {
    /// Makes one for `pins`, of the user namespace that the process is in.
    pub fn new(pins: Pins) -> Result<Self> {
        let dir = in_memory("the names of emulators")?;
        let mode = Mode::from_raw_mode(0o755);
        rustix::fs::mkdirat(&dir, DESCRIPTORS, mode).call(|| format!("mkdir {DESCRIPTORS}"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::openat(&dir, DESCRIPTORS, flags, Mode::empty())
            .call(|| format!("open {DESCRIPTORS}"))?;
        let left = match detached::attach(&pins.descriptors, &place) {
            // Before Linux 6.15 nothing can be mounted on what is attached nowhere itself.
            Err(Errno::INVAL) => {
                let left = attach_in_own_namespace(&dir)?;
                detached::attach(&pins.descriptors, &place).map(|()| Some(left))
            }
            attached => attached.map(|()| None),
        }
        .call(|| format!("move_mount {OWN_DESCRIPTORS}"))?;
        let room = Self { dir, pins, left };
        room.pins.files.iter().try_for_each(|(name, file)| room.link(name, file))?;
        Ok(room)
    }

    /// Has `name` in it lead to `file`.
    fn link(&self, name: &Path, file: impl AsFd) -> Result<()> {
        let name = name.strip_prefix("/").unwrap_or(name);
        let call = |call: &str| format!("{call} {} for an emulator", name.display());
        let mut parents: Vec<_> = name.ancestors().skip(1).collect();
        parents.pop(); // the room itself
        for parent in parents.into_iter().rev() {
            match rustix::fs::mkdirat(&self.dir, parent, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).call(|| call("mkdir")),
            }
        }
        let target = format!("/{DESCRIPTORS}/{}", file.as_fd().as_raw_fd());
        rustix::fs::symlinkat(target, &self.dir, name).call(|| call("symlink"))
    }

    /// Makes it this process's root and working directory.
    pub fn enter(&self) -> Result<()> {
        rustix::process::fchdir(&self.dir).call(|| "fchdir to the names of emulators".into())?;
        rustix::process::chroot(".").call(|| "chroot to the names of emulators".into())
    }
}

/// Attaches `room` in a mount namespace of the process's own, which ends with it. Returns the one that
/// it leaves.
fn attach_in_own_namespace(room: &OwnedFd) -> Result<OwnedFd> {
    let left = mounts::own_namespace()?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)
        .map_err(std::io::Error::from)
        .call(|| "unshare a mount namespace".into())?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).call(|| "make / private".into())?;
    rustix::mount::move_mount(room, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .call(|| "move_mount a tmpfs for the names of emulators".into())?;
    Ok(left)
}
