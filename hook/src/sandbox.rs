//! Makes a [`Plan`] true: enters the container's namespaces, mounts the binfmt_misc of its user
//! namespace, registers the handlers. With [`crate::instance`], which writes them, the only module
//! that changes kernel state.
//!
//! The process stays where it entered; it is to exit after [`apply`].

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use rustix::thread::{CapabilitySet, CapabilitySets, ThreadNameSpaceType};

use crate::binfmt::{Handler, VISIBLE_DIR};
use crate::container::{Container, EmulatorPlace, MountPoint};
use crate::hook::{Emulation, Plan};
use crate::instance::Instance;
use crate::kernel;
use crate::message::Call;

/// Where the instance goes, in our own directory, if the container's /proc may not get a mount.
const HIDDEN_INSTANCE: &str = "binfmt_misc";

/// Does what `plan` says.
///
/// If it fails, no handler of ours is left. What it mounted is in the container's mount namespace,
/// which the runtime destroys with a container whose hook failed.
pub fn apply(plan: &Plan) -> Result<()> {
    let clones = match plan.container.emulator_place {
        // On this side: the emulator's mount belongs to our mount namespace.
        EmulatorPlace::Dev(_) => plan.emulations.iter().map(detach).collect::<Result<Vec<_>>>()?,
        EmulatorPlace::Nowhere(_) => Vec::new(),
    };
    enter(&plan.container)?;
    if let EmulatorPlace::Dev(dev) = &plan.container.emulator_place {
        for (emulation, clone) in plan.emulations.iter().zip(&clones) {
            show(dev, &emulation.handler.interpreter, clone)?;
        }
        change_root(&plan.container)?;
    }
    // Otherwise the root stays that of the mount namespace, which still shows the host's whole tree
    // (the container has not yet moved into its own), and so the emulator by its path on the host.
    let instance = mount(MountAttrFlags::empty(), &plan.container)?;
    let instance = Instance::new(instance)?;
    let mut added = Vec::new();
    let done =
        register(&instance, &plan.emulations, &mut added).and_then(|()| attach(&plan.container));
    if done.is_err() {
        for handler in added {
            instance.unregister(handler);
        }
    }
    done
}

/// A copy of the emulator's mount, read-only, private and attached nowhere. It is made from the
/// descriptor that was checked, not from the path.
fn detach(emulation: &Emulation) -> Result<OwnedFd> {
    let emulator = &emulation.emulator;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let clone = rustix::mount::open_tree(&emulator.file, "", flags)
        .call(|| format!("open_tree {}", emulator.path.display()))?;
    kernel::make_inert(&clone).call(|| format!("mount_setattr {}", emulator.path.display()))?;
    Ok(clone)
}

/// Enters the container's user and mount namespaces as their root, with no right left that the
/// rest does not need.
fn enter(container: &Container) -> Result<()> {
    let mut namespaces = ThreadNameSpaceType::MOUNT;
    if container.enters_user_namespace {
        // EINVAL for the one the process is in already.
        namespaces |= ThreadNameSpaceType::USER;
    }
    rustix::thread::move_into_thread_name_spaces(container.pidfd.as_fd(), namespaces)
        .call(|| format!("setns into container {}", container.id))?;
    if container.enters_user_namespace {
        become_root()?;
    }
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_CHROOT;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: needed,
            permitted: needed,
            inheritable: CapabilitySet::empty(),
        },
    )
    .call(|| "capset".into())?;
    rustix::thread::set_no_new_privs(true).call(|| "prctl PR_SET_NO_NEW_PRIVS".into())
}

/// Takes uid and gid 0 of the user namespace: after entering it the process has the overflow ids,
/// and creating a file with them is EOVERFLOW.
fn become_root() -> Result<()> {
    match rustix::thread::set_thread_groups(&[]) {
        // Where the namespace denies setgroups, the groups stay; they give no right here.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(errno).call(|| "setgroups".into()),
    }
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid).call(|| "setresgid 0".into())?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).call(|| "setresuid 0".into())
}

/// Attaches an emulator at its visible path, which is made in the container's /dev.
fn show(dev: &OwnedFd, visible: &Path, clone: &OwnedFd) -> Result<()> {
    let call = |call: &str| format!("{call} {} in the container", visible.display());
    let (directory, file) = visible.parent().zip(visible.file_name()).context("no file name")?;
    let directory = make_directories(dev, directory)?;
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let place = step(&directory, file, create).call(|| call("create"))?;
    move_mount(clone, &place).call(|| call("move_mount"))
}

/// Makes the directories of `path`, an absolute path below /dev, and opens the last one.
///
/// Every step is relative to the directory before and stays on that very mount: a volume that
/// happens to be on the way gets nothing.
fn make_directories(dev: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    let call = |call: &str| format!("{call} {} in the container", path.display());
    let mut directory = dev.try_clone().call(|| call("dup"))?;
    for name in path.strip_prefix("/dev")? {
        match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).call(|| call("mkdir")),
        }
        directory =
            step(&directory, name, OFlags::PATH | OFlags::DIRECTORY).call(|| call("openat2"))?;
    }
    Ok(directory)
}

/// Attaches a detached mount at the opened place.
fn move_mount(mount: &OwnedFd, place: &OwnedFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", place, "", flags)
}

/// Opens `name` in `dir`, on the same mount and not through a link.
fn step(dir: &OwnedFd, name: &OsStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let mode = if flags.contains(OFlags::CREATE) { 0o444 } else { 0 };
    rustix::fs::openat2(dir, name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(mode), resolve)
}

/// Makes the container's root our own, so that the kernel looks a handler's emulator up there.
fn change_root(container: &Container) -> Result<()> {
    let of = || format!("the rootfs of container {}", container.id);
    rustix::process::fchdir(&container.rootfs).call(|| format!("fchdir {}", of()))?;
    rustix::process::chroot(".").call(|| format!("chroot {}", of()))?;
    rustix::process::chdir("/").call(|| format!("chdir {}", of()))
}

/// Mounts the binfmt_misc of the user namespace the process is in, attached nowhere yet. Every
/// mount of it in one user namespace shows the same instance.
fn mount(attributes: MountAttrFlags, container: &Container) -> Result<OwnedFd> {
    let call = |call: &str| format!("{call} binfmt_misc for container {}", container.id);
    let context = rustix::mount::fsopen("binfmt_misc", FsOpenFlags::FSOPEN_CLOEXEC);
    let context = match context {
        Err(Errno::NODEV) => context
            .call(|| call("fsopen"))
            .context("the kernel has no binfmt_misc; run: modprobe binfmt_misc"),
        context => context.call(|| call("fsopen")),
    }?;
    match rustix::mount::fsconfig_create(&context) {
        Ok(()) => {}
        Err(errno @ Errno::PERM) => {
            return Err(errno).call(|| call("mount")).with_context(refused_mount);
        }
        Err(errno) => return Err(errno).call(|| call("mount")),
    }
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .call(|| call("fsmount"))
}

/// Why the kernel may refuse the mount, and what to do.
fn refused_mount() -> String {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    format!(
        "the kernel ({release}) refuses a binfmt_misc of the container's own; this takes Linux 6.7 \
         or later, and no seccomp filter or security module in the way"
    )
}

/// Registers every handler, and notes those that were not there before.
fn register<'a>(
    instance: &Instance,
    emulations: &'a [Emulation],
    added: &mut Vec<&'a Handler>,
) -> Result<()> {
    for Emulation { emulator, handler } in emulations {
        let path = &handler.interpreter;
        let changed = || format!("{} is no longer the emulator that was checked", path.display());
        ensure!(emulator.is_at(path)?, changed());
        if instance.register(handler)? {
            added.push(handler);
        }
        // The kernel looked the path up for itself, in between.
        ensure!(emulator.is_at(path)?, changed());
    }
    Ok(())
}

/// Attaches the instance in the container, where its handlers live as long as that mount.
///
/// Read-only: the container's root would otherwise need no capability to write it.
fn attach(container: &Container) -> Result<()> {
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    // A second mount of the same instance. Making the first one read-only would be EBUSY as long
    // as a writer of `register` is open.
    let mount = mount(read_only, container)?;
    let place = match &container.mount_point {
        MountPoint::Proc(place) => place,
        MountPoint::Dev(dev) => {
            &make_directories(dev, &Path::new(VISIBLE_DIR).join(HIDDEN_INSTANCE))?
        }
    };
    move_mount(&mount, place).call(|| format!("mount binfmt_misc in container {}", container.id))
}
