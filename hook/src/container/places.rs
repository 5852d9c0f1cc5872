//! The container as it lies before us when the hook is called: its namespaces and mounts exist,
//! its first program has not been executed. Everything is opened here, once, through
//! `/proc/PID/root` and without entering; nothing is changed.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FileType, FsWord, PROC_SUPER_MAGIC};

use crate::asked::bound::Bound;
use crate::asked::hook_arguments::HookArguments;
use crate::asked::oci::{Bundle, State};
use crate::asked::toolbx;
use crate::base::lookup;
use crate::base::message::Call;
use crate::container::created::Place;
use crate::container::mounts::{Mount, Mounts};
use crate::container::process::Process;
use crate::container::setting::Setting;
use crate::host::instance::BINFMTFS_MAGIC;
use crate::host::policy::Policy;
use crate::host::scope::Scope;
use crate::host::trust::Host;

/// File system types, as `fstatfs` names them (include/uapi/linux/magic.h).
const AUTOFS_SUPER_MAGIC: FsWord = 0x0187;
const TMPFS_MAGIC: FsWord = 0x0102_1994;
/// A container that is being created. The descriptors stay valid after its namespaces are entered.
#[derive(Debug)]
pub struct Container {
    /// The container's id, as messages name it.
    pub id: String,
    /// Its process, to enter its namespaces by.
    pub process: Process,
    /// The directory that will become its root.
    pub rootfs: OwnedFd,
    /// Whether its user namespace is another than ours.
    pub enters_user_namespace: bool,
    /// What matters to emulators.
    pub setting: Setting,
    /// Where binfmt_misc is to be mounted.
    pub mount_point: MountPoint,
    /// Whether a program in it mounts binfmt_misc itself, so that ours must not be seen there.
    pub mounts_itself: bool,
    /// Where its emulators go.
    pub emulator_place: EmulatorPlace,
}

/// Where a container's binfmt_misc is to be mounted.
#[derive(Debug)]
pub enum MountPoint {
    /// On this directory: the container's `/proc/sys/fs/binfmt_misc`.
    Proc(OwnedFd),
    /// Out of the way below this directory, the container's /dev. The handlers work all the same.
    Dev(OwnedFd),
}

/// Where a container's emulators go.
#[derive(Debug)]
pub enum EmulatorPlace {
    /// Shown below this directory, the container's /dev.
    Dev(OwnedFd),
    /// Not shown: flag F alone carries the emulator. With the reason.
    Nowhere(&'static str),
}

impl EmulatorPlace {
    /// Why they are not shown, if so.
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Dev(_) => None,
            Self::Nowhere(why) => Some(why),
        }
    }
}

impl Container {
    /// Opens the container that is at `place`, to be served in `scope`, where `precreate` has left
    /// `orders`.
    ///
    /// Fails if the process is gone, if its mounts cannot be told, and if the place where binfmt_misc
    /// is to be mounted is anything else than it should be.
    pub fn open(
        place: Place,
        scope: Scope,
        state: &State,
        orders: &HookArguments,
        policy: &Policy,
        host: &Host,
    ) -> Result<Self> {
        let Place { bundle, process, rootfs } = place;
        let (mounts, below) = process.mounts(&rootfs)?;
        let is_own_dev = |dev: &OwnedFd| is_made_for_container(dev, &below, &mounts, &process);
        let emulator_place = emulator_place(&rootfs, &bundle, policy, is_own_dev);
        let may_be_covered = orders.bound.contains(&Bound::Proc);
        let mount_point =
            open_mount_point(&rootfs, &state.id, &mounts, &emulator_place, may_be_covered)?;
        let enters_user_namespace = process.user_namespace()? != host.user_namespace;
        let maps_our_root = !enters_user_namespace || process.maps_uid(0)?;
        process.ensure_alive()?;
        let setting = Setting {
            scope,
            caller: host.caller,
            maps_our_root,
            shows_none: emulator_place.reason(),
        };
        Ok(Self {
            id: state.id.clone(),
            enters_user_namespace,
            setting,
            mount_point,
            mounts_itself: bundle.config.command.as_ref().is_some_and(toolbx::is_toolbx),
            emulator_place,
            process,
            rootfs,
        })
    }
}

/// Opens the place where binfmt_misc is to be mounted, and makes sure that it is one. The machine's own
/// `may_be_covered` there, by a tmpfs of ours.
fn open_mount_point(
    rootfs: &OwnedFd,
    id: &str,
    mounts: &Mounts,
    place: &EmulatorPlace,
    may_be_covered: bool,
) -> Result<MountPoint> {
    const DIRECTORY: &str = "proc/sys/fs";
    let of = format!("of container {id}");
    let parent =
        lookup::plain_location(rootfs, DIRECTORY).call(|| format!("openat2 {DIRECTORY} {of}"))?;
    ensure!(
        fs_type(&parent, DIRECTORY)? == PROC_SUPER_MAGIC,
        "/{DIRECTORY} {of} is not on procfs; mount a procfs on /proc of the container"
    );
    // Not O_DIRECTORY: that would trigger an automount, on the host, if there is one here.
    let directory = lookup::plain_location(&parent, "binfmt_misc")
        .call(|| format!("openat2 {DIRECTORY}/binfmt_misc {of}"))
        .context("the kernel has no binfmt_misc; run: modprobe binfmt_misc")?;
    let stat = rustix::fs::fstat(&directory).call(|| format!("fstat binfmt_misc {of}"))?;
    let known = [PROC_SUPER_MAGIC, AUTOFS_SUPER_MAGIC, BINFMTFS_MAGIC];
    let is_known = |fs| known.contains(&fs) || may_be_covered && fs == TMPFS_MAGIC;
    ensure!(
        FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && is_known(fs_type(&directory, "binfmt_misc")?),
        "/{DIRECTORY}/binfmt_misc {of} is not a directory of procfs, autofs or binfmt_misc; mount \
         nothing else there"
    );
    if !mounts.at(&directory)?.shared {
        return Ok(MountPoint::Proc(directory));
    }
    // A mount there would reach the host.
    match place {
        EmulatorPlace::Dev(dev) => {
            Ok(MountPoint::Dev(dev.try_clone().call(|| format!("dup /dev {of}"))?))
        }
        EmulatorPlace::Nowhere(why) => bail!(
            "/{DIRECTORY}/binfmt_misc {of} lies on a mount with shared propagation, so a mount \
             there would reach the host, and {why}; do not mount /proc as a shared volume"
        ),
    }
}

/// Decides where the container's emulators can be shown: in its /dev, if that is a tmpfs of its
/// own, so that neither the image nor the host gets anything of it.
fn emulator_place(
    rootfs: &OwnedFd,
    bundle: &Bundle,
    policy: &Policy,
    is_own_dev: impl FnOnce(&OwnedFd) -> Result<bool>,
) -> EmulatorPlace {
    if let Some(why) = Setting::shows_none(policy, bundle.config.has_own_dev()) {
        return EmulatorPlace::Nowhere(why);
    }
    let Ok(dev) = lookup::plain_location(rootfs, "dev") else {
        return EmulatorPlace::Nowhere("the container's /dev is not a plain directory");
    };
    // config.json is believed no further than what is there: a link in the image can make a volume
    // land on /dev, after the tmpfs.
    match is_own_dev(&dev) {
        Ok(true) => EmulatorPlace::Dev(dev),
        Ok(false) => EmulatorPlace::Nowhere("the container's /dev is not a tmpfs made for it"),
        Err(_) => EmulatorPlace::Nowhere("the container's /dev cannot be examined"),
    }
}

/// Whether `dev` is the tmpfs that the runtime has mounted on `below`, the mount of the rootfs, and
/// passes nothing on to others. Anything else is the host's, a volume, or the image.
///
/// The runtime mounts it on the rootfs itself. What was there before would be what it is mounted on,
/// and what came after is mounted on it: neither has the rootfs for its parent. Nor may a volume have
/// come to lie over the whole rootfs, with a /dev of its own: then there are two at that path.
fn is_made_for_container(
    dev: &OwnedFd,
    below: &Mount,
    mounts: &Mounts,
    process: &Process,
) -> Result<bool> {
    let mount = mounts.at(dev)?;
    Ok(fs_type(dev, "dev")? == TMPFS_MAGIC
        && mount.parent == below.id
        && mount.root == Path::new("/")
        && !mount.shared
        && (is_of_image(below, mounts).unwrap_or(false) || is_alone(&mount, &process.mountinfo()?)))
}

/// Whether the mount `rootfs` is certainly the runtime's own, of an image: a whole file system, mounted by
/// the engine, and once more on itself by the runtime (runc's `prepareRoot`, crun's `do_mounts`). A
/// volume over it would be a third mount at that path.
fn is_of_image(rootfs: &Mount, mounts: &Mounts) -> Result<bool> {
    let engines = mounts.under(rootfs)?;
    let is_whole = |mount: &Mount| mount.root == Path::new("/");
    Ok(is_whole(rootfs)
        && is_whole(&engines)
        && (engines.device, &engines.point) == (rootfs.device, &rootfs.point)
        && mounts.under(&engines)?.point != rootfs.point)
}

/// Whether `mount` is the only one at its path, of `all` mounts of the process that has it.
fn is_alone(mount: &Mount, all: &[Mount]) -> bool {
    all.iter().filter(|other| other.point == mount.point).count() == 1
}

fn fs_type(fd: impl AsFd, what: &str) -> Result<FsWord> {
    Ok(rustix::fs::fstatfs(fd).call(|| format!("fstatfs {what}"))?.f_type)
}
