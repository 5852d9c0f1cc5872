//! A root file system that is mounted nowhere: the layers of an image or of a container that does
//! not run, put together for reading. It goes when the descriptor does.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use toolbx_arch::message::Call;

/// The directory `path`.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).call(|| format!("open {}", path.display()))
}

/// The directories `layers`, the uppermost first, as one. Needs `CAP_SYS_ADMIN` for our mount
/// namespace, and Linux 6.7 (`lowerdir+`).
pub fn put_together(layers: &[PathBuf]) -> Result<OwnedFd> {
    ensure!(!layers.is_empty(), "its storage driver is not overlay");
    if let [only] = layers {
        return open(only);
    }
    let call = |call: &str| format!("{call} overlay");
    let context =
        rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).call(|| call("fsopen"))?;
    for layer in layers {
        rustix::mount::fsconfig_set_string(&context, "lowerdir+", layer)
            .call(|| format!("add {} to an overlay", layer.display()))?;
    }
    rustix::mount::fsconfig_create(&context).call(|| call("mount"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .call(|| call("fsmount"))
}
