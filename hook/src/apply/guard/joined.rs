//! Containers that join a user namespace which `precreate` has made for another one.

use std::iter::once;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, OFlags, ResolveFlags};

use super::{Guards, Tree};
use crate::asked::bound::Bound;
use crate::asked::oci;
use crate::base::lookup;
use crate::base::message::{self, Call};
use crate::base::namespace::Namespace;
use crate::container::mounts::Mount;
use crate::container::process::Process;

/// Protects the machine from a container that has joined a user namespace which `precreate` has made for
/// another one: its config.json is not ours, and its root is the machine's in what it shows of the
/// machine. `asked` are the mounts of its config.json.
///
/// Every procfs and every sysfs shows the machine's kernel, whoever has mounted it for which namespace.
/// So there may be one of each, in its place: the procfs of the container's own pid namespace, in which
/// the engine's paths are read-only, and a sysfs, which becomes read-only here.
///
/// Fails where any other is shown, and where anything cannot be examined.
pub fn protect_from_joined(
    process: &Process,
    rootfs: &OwnedFd,
    asked: &[oci::Mount],
) -> Result<()> {
    let mounts = process.mountinfo()?;
    let tree = Tree::of(&mounts, rootfs)?;
    let proc = in_place(Bound::Proc, &tree)?;
    if let Some(whole) = proc.into_iter().find(|mount| mount.root == Path::new("/")) {
        let place = tree.open(whole, rootfs)?;
        let is_own = is_of_own_pid_namespace(&place.fd, process).with_context(|| refusal(whole))?;
        ensure!(is_own, refusal(whole));
    }
    let mut guards = Guards::for_nodes(rootfs, &tree)?;
    let sysfs = in_place(Bound::Sysfs, &tree)?;
    for mount in &sysfs {
        guards.read_only.push(tree.open(mount, rootfs)?.fd);
    }
    if !sysfs.is_empty() {
        guards.add(Bound::Sysfs, rootfs, &tree, asked)?;
    }
    guards.put_up(process)
}

/// The mounts that show a file system of this kind, and that can be reached: the whole of one, where
/// `bound` belongs, and parts of the same, each where it is in the whole.
///
/// Fails where there is another one.
fn in_place<'a>(bound: Bound, tree: &Tree<'a>) -> Result<Vec<&'a Mount>> {
    let place = tree.root.point.join(bound.path().strip_prefix("/")?);
    let is_shown = |mount: &&Mount| mount.shows == Some(bound) && !tree.is_hidden(mount);
    let shown: Vec<_> = once(tree.root).chain(tree.below()).filter(is_shown).collect();
    let is_whole = |mount: &&&Mount| mount.point == place && mount.parent == tree.root.id;
    let whole = shown.iter().find(is_whole);
    for mount in &shown {
        let path = mount.point.strip_prefix(&place);
        let is_in_place = path.is_ok_and(|path| mount.root == Path::new("/").join(path))
            && whole.is_some_and(|whole| whole.device == mount.device);
        ensure!(is_in_place, refusal(mount));
    }
    Ok(shown)
}

/// Whether the procfs that is open as `proc` shows the pid namespace of the container's first process, and
/// that is not the engine's.
///
/// Told by its process 1, which is the first one of the pid namespace that the procfs was mounted for.
fn is_of_own_pid_namespace(proc: &OwnedFd, process: &Process) -> Result<bool> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let shown = lookup::location(proc, "1/ns", OFlags::DIRECTORY, resolve)
        .and_then(|of_first| rustix::fs::statat(&of_first, "pid", AtFlags::empty()))
        .map(Namespace::of_file)
        .call(|| "stat 1/ns/pid there".into())?;
    Ok(shown == process.pid_namespace()? && shown != Namespace::ours("pid")?)
}

/// Why a container that shows this is not started.
fn refusal(mount: &Mount) -> String {
    format!(
        "{} in the container shows the machine, and its root is the machine's too, by a user namespace \
         that was made for another container; leave out --pid=host and volumes of /proc or /sys, or do \
         not join that namespace",
        message::path(&mount.point)
    )
}
