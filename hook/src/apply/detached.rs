//! Mounts that are attached nowhere: new file systems, and clones of what is mounted.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use crate::base::kernel;
use crate::base::message::Call;

/// Makes a file system of the user namespace that the process is in, ready to be mounted.
pub fn file_system(kind: &str) -> Result<OwnedFd> {
    let opened = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC);
    let is_unknown = matches!(opened, Err(Errno::NODEV));
    let opened = opened.call(|| format!("fsopen {kind}"));
    let opened = if is_unknown {
        opened.with_context(|| format!("the kernel has no {kind}; run: modprobe {kind}"))?
    } else {
        opened?
    };
    let created = rustix::mount::fsconfig_create(&opened);
    let is_refused = created == Err(Errno::PERM);
    let created = created.call(|| format!("mount {kind}"));
    if is_refused { created.with_context(|| refused(kind)) } else { created }.map(|()| opened)
}

/// Why the kernel may refuse a mount, and what to do.
fn refused(kind: &str) -> String {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    format!(
        "the kernel ({release}) refuses a {kind} of the container's own; this takes Linux 6.7 \
         or later, and no seccomp filter or security module in the way"
    )
}

/// The mount of a new file system.
pub fn mount(file_system: impl AsFd, attributes: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    rustix::mount::fsmount(file_system.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A mount of what `place` shows.
pub fn clone_of(place: impl AsFd) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(place, "", flags)
}

/// The same, read-only and private.
pub fn inert_clone_of(place: impl AsFd) -> rustix::io::Result<OwnedFd> {
    let clone = clone_of(place)?;
    kernel::make_inert(&clone)?;
    Ok(clone)
}

/// Attaches `mount` at the opened place.
pub fn attach(mount: impl AsFd, place: impl AsFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", place, "", flags)
}
