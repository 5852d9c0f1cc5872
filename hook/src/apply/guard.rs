//! Guards in the place of those that `precreate` takes away.
//!
//! A runtime refuses a /proc or /sys that is a link, makes device nodes that are the container's own, and
//! knows what is mounted below /proc and /sys, since it has mounted them itself. Nothing of that holds
//! for what is bound from the machine instead (docs/security.md has the whole list). So, before a
//! program of the container runs, it is looked at what has come of it, by descriptors, and made
//! harmless. What cannot be looked at is an error: the container is not to be started then.

mod joined;

pub use joined::protect_from_joined;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::mount::MountAttrFlags;
use rustix::thread::ThreadNameSpaceType;

use crate::apply::detached;
use crate::asked::bound::Bound;
use crate::asked::oci;
use crate::base::kernel;
use crate::base::lookup;
use crate::base::message::{self, Call};
use crate::base::mount_id::mount_id;
use crate::container::mounts::{self, Mount};
use crate::container::process::Process;

/// Puts up the guards for a container that `precreate` has changed: for what is `bound` there, and
/// for its device nodes. `asked` are the mounts of its config.json.
///
/// Fails where something of the machine's is not where it should be, or cannot be examined.
pub fn put_up(
    process: &Process,
    rootfs: &OwnedFd,
    bound: &[Bound],
    asked: &[oci::Mount],
) -> Result<()> {
    let mounts = process.mountinfo()?;
    let tree = Tree::of(&mounts, rootfs)?;
    let mut guards = Guards::for_nodes(rootfs, &tree)?;
    for bound in bound {
        guards.add(*bound, rootfs, &tree, asked)?;
    }
    guards.put_up(process)
}

/// Makes the machine's device nodes in the container read-only, so that its root, who owns them, changes
/// neither their mode nor their owner. What is read from the devices and written to them is not
/// affected.
pub fn protect_devices(process: &Process, rootfs: &OwnedFd) -> Result<()> {
    put_up(process, rootfs, &[], &[])
}

/// What is to be done, by descriptors in the container's mount namespace.
#[derive(Debug, Default)]
struct Guards {
    /// Mounts that become read-only.
    read_only: Vec<OwnedFd>,
    /// Places on which nothing is to be seen any more.
    covered: Vec<Place>,
}

/// A place in the container, open as a location.
#[derive(Debug)]
struct Place {
    fd: OwnedFd,
    mount: u64,
    kind: FileType,
}

impl Place {
    /// `path` below `dir`, through no link. Nobody is asked who may not answer.
    fn find(dir: &OwnedFd, path: &Path) -> rustix::io::Result<Self> {
        let fd = lookup::plain_location(dir, path)?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = rustix::fs::statx(&fd, "", flags, StatxFlags::TYPE | StatxFlags::MNT_ID)?;
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        Ok(Self { fd, mount: stat.stx_mnt_id, kind })
    }
}

/// The mounts of a container: that of its root directory, and those below.
struct Tree<'a> {
    all: BTreeMap<u64, &'a Mount>,
    root: &'a Mount,
    /// For each that is covered as a whole: what lies on it.
    covers: BTreeMap<u64, BTreeSet<u64>>,
}

impl<'a> Tree<'a> {
    fn of(mounts: &'a [Mount], rootfs: &OwnedFd) -> Result<Self> {
        Self::with_root(mounts, mount_id(rootfs)?)
    }

    fn with_root(mounts: &'a [Mount], root: u64) -> Result<Self> {
        let root = Mount::find(mounts, root)?;
        let all: BTreeMap<_, _> = mounts.iter().map(|mount| (mount.id, mount)).collect();
        let is_on_whole =
            |mount: &&Mount| all.get(&mount.parent).is_some_and(|on| on.point == mount.point);
        let mut covers: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for cover in mounts.iter().filter(is_on_whole) {
            covers.entry(cover.parent).or_default().insert(cover.id);
        }
        Ok(Self { all, root, covers })
    }

    /// `mount`, what it is mounted on, and so on, up to the container's root directory, which is left out.
    fn way_to(&self, mount: &'a Mount) -> impl Iterator<Item = &'a Mount> {
        let up = |mount: &&'a Mount| self.all.get(&mount.parent).copied();
        let way = std::iter::successors(Some(mount), up);
        way.take(self.all.len()).take_while(|on| on.id != self.root.id)
    }

    /// Those below the root directory.
    fn below(&self) -> impl Iterator<Item = &'a Mount> {
        let is_below = |mount: &&'a Mount| {
            self.way_to(mount).last().is_some_and(|lowest| lowest.parent == self.root.id)
        };
        self.all.values().copied().filter(is_below)
    }

    /// Whether nobody can reach it, whatever is renamed: it is covered as a whole, or something on the way
    /// to it is, and by what is not on that way itself.
    fn is_hidden(&self, mount: &'a Mount) -> bool {
        let mut next = None;
        self.way_to(mount).any(|on| {
            let next = next.replace(on.id);
            let is_on_way = |covers: &BTreeSet<u64>| next.is_some_and(|id| covers.contains(&id));
            self.covers.get(&on.id).is_some_and(|covers| !is_on_way(covers))
        })
    }

    /// Opens what `mount` shows.
    fn open(&self, mount: &Mount, rootfs: &OwnedFd) -> Result<Place> {
        let call = || format!("openat2 {}, a mount of the container", message::path(&mount.point));
        let path = mount.point.strip_prefix(&self.root.point).with_context(call)?;
        let place = Place::find(rootfs, path).call(call)?;
        ensure!(place.mount == mount.id, "{}: something else is there", call());
        Ok(place)
    }
}

/// The device nodes and pipes that are mounts of their own: a runtime that may make none binds those of
/// the machine.
fn device_nodes(rootfs: &OwnedFd, tree: &Tree) -> Result<Vec<OwnedFd>> {
    // A whole file system is no node; and those of volumes need not even answer.
    let may_be_node = |mount: &&Mount| mount.root != Path::new("/") && !tree.is_hidden(mount);
    let is_node = |place: &Place| {
        matches!(place.kind, FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo)
    };
    let mut nodes = Vec::new();
    for mount in tree.below().filter(may_be_node) {
        let place = tree.open(mount, rootfs)?;
        if is_node(&place) {
            nodes.push(place.fd);
        }
    }
    Ok(nodes)
}

impl Guards {
    /// Those for the machine's device nodes.
    fn for_nodes(rootfs: &OwnedFd, tree: &Tree) -> Result<Self> {
        let read_only = device_nodes(rootfs, tree).context(
            "the machine's device nodes in the container cannot be looked after; use --userns=auto, or \
             leave out the volume or device there",
        )?;
        Ok(Self { read_only, ..Self::default() })
    }

    /// Adds those for one file system that is bound from the machine; `asked` as in [`put_up`].
    fn add(
        &mut self,
        bound: Bound,
        rootfs: &OwnedFd,
        tree: &Tree,
        asked: &[oci::Mount],
    ) -> Result<()> {
        self.examine(bound, rootfs, tree, asked).with_context(|| {
            format!(
                "the machine's {0} in the container; use --userns=auto, or a network and pid \
                 namespace of the container's own",
                bound.path().display()
            )
        })
    }

    fn examine(
        &mut self,
        bound: Bound,
        rootfs: &OwnedFd,
        tree: &Tree,
        asked: &[oci::Mount],
    ) -> Result<()> {
        let path = bound.path();
        let name = path.strip_prefix("/")?;
        let place = Place::find(rootfs, name).call(|| format!("openat2 {}", path.display()))?;
        let mount = tree.all.get(&place.mount).context("it is on no mount of the container")?;
        let fs = rustix::fs::fstatfs(&place.fd).call(|| format!("fstatfs {}", path.display()))?;
        ensure!(
            fs.f_type == bound.magic()
                && mount.root == Path::new("/")
                && mount.parent == tree.root.id
                && !mount.shared,
            "{} is not what was to be mounted there",
            path.display()
        );
        let Along { same, others } = came_along(bound, mount, &place, tree, asked)?;
        self.covered.extend(others);
        // Of /proc, the runtime makes read-only what it finds in config.json, after it has set sysctls there.
        if bound == Bound::Sysfs {
            self.read_only.extend(same.into_iter().chain([place]).map(|place| place.fd));
        }
        Ok(())
    }

    /// Enters the container's mount namespace, does it, and comes back.
    fn put_up(&self, process: &Process) -> Result<()> {
        if self.read_only.is_empty() && self.covered.is_empty() {
            return Ok(());
        }
        let covers: Vec<_> = self.covered.iter().map(cover_for).collect::<Result<_>>()?;
        let ours = mounts::own_namespace()?;
        rustix::thread::move_into_thread_name_spaces(
            process.pidfd.as_fd(),
            ThreadNameSpaceType::MOUNT,
        )
        .call(|| "setns into the container's mounts".into())?;
        let done = self.put_up_inside(&covers);
        mounts::enter_again(&ours, "engine")?;
        done
    }

    fn put_up_inside(&self, covers: &[OwnedFd]) -> Result<()> {
        for mount in &self.read_only {
            kernel::make_read_only(mount).call(|| "mount_setattr /sys or a device node".into())?;
        }
        for (place, cover) in self.covered.iter().zip(covers) {
            detached::attach(cover, &place.fd)
                .call(|| "cover what came along with /proc or /sys".into())?;
        }
        Ok(())
    }
}

/// What is mounted below the engine's /sys or /proc, and came along.
#[derive(Debug, Default)]
struct Along {
    /// What shows the very place that it lies on.
    same: Vec<Place>,
    /// What is not in the file system that the container was to get, and its root may be root there.
    others: Vec<Place>,
}

/// What came along with `mount`. Not where config.json has a mount of its own.
fn came_along(
    bound: Bound,
    mount: &Mount,
    place: &Place,
    tree: &Tree,
    asked: &[oci::Mount],
) -> Result<Along> {
    let is_asked = |path: &Path| {
        let mut below = asked.iter().filter_map(|m| m.destination.strip_prefix(bound.path()).ok());
        below.any(|asked| asked != Path::new("") && path.starts_with(asked))
    };
    let (mut came, mut on) = (Along::default(), vec![mount.id]);
    while let Some(id) = on.pop() {
        for along in tree.all.values().filter(|other| other.parent == id) {
            let path = along.point.strip_prefix(&mount.point)?;
            let is_same = along.device == mount.device && along.root == Path::new("/").join(path);
            if !is_same && is_asked(path) {
                continue;
            }
            let call = || format!("openat2 {}", message::path(&bound.path().join(path)));
            let there = Place::find(&place.fd, path).call(call)?;
            ensure!(there.mount != id, "{}: it is not mounted there", call());
            if is_same {
                came.same.push(there);
                on.push(along.id);
            } else {
                came.others.push(there);
            }
        }
    }
    Ok(came)
}

/// A detached mount in which there is nothing, to lie on `place`.
fn cover_for(place: &Place) -> Result<OwnedFd> {
    if place.kind == FileType::Directory {
        return nothing();
    }
    // With nodev it cannot be opened.
    let null = rustix::fs::open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .call(|| "open /dev/null".into())?;
    detached::inert_clone_of(null).call(|| "clone /dev/null".into())
}

/// An empty directory that nobody can write.
fn nothing() -> Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let empty = detached::file_system("tmpfs")?;
    detached::mount(empty, attributes).call(|| "fsmount an empty tmpfs".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_a_cover_is_not_hidden() {
        // Each mount: its number, what it is mounted on, where, and whether it is hidden.
        let told = [
            (1, 0, "/", None),
            (2, 1, "/host", None),
            (10, 1, "/c", None),
            // A stack, and what lies on each of its parts.
            (20, 10, "/c/dev", Some(true)),
            (21, 20, "/c/dev/shm", Some(true)),
            (22, 20, "/c/dev", Some(true)),
            (23, 22, "/c/dev/null", Some(true)),
            (24, 22, "/c/dev", Some(false)),
            (25, 24, "/c/dev/null", Some(false)),
            (26, 24, "/c/dev/b", Some(true)),
            (27, 26, "/c/dev/b", Some(false)),
            (28, 27, "/c/dev/b/node", Some(false)),
            // Not as a whole: what is renamed may come to be seen.
            (30, 10, "/c/x/y", Some(false)),
            (31, 10, "/c/x", Some(false)),
        ];
        let line = |(id, parent, point, _): (u64, u64, &str, Option<bool>)| {
            format!("{id} {parent} 0:{id} / {point} rw - tmpfs x rw\n")
        };
        let mounts = mounts::parse(told.map(line).concat().as_bytes()).unwrap();
        let tree = Tree::with_root(&mounts, 10).unwrap();
        let below: BTreeMap<_, _> = tree.below().map(|mount| (mount.id, mount)).collect();
        for (id, _, point, is_hidden) in told {
            let found = below.get(&id).map(|mount| tree.is_hidden(mount));
            assert_eq!(found, is_hidden, "{id} at {point}");
        }
    }
}
