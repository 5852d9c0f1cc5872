//! A root file system that is mounted nowhere: the layers of an image or of a container that does
//! not run, put together for reading. It goes when the descriptor does.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use toolbx_arch::asked::detect::{self, Detected, LINE_MAX, PATIENCE};
use toolbx_arch::asked::oci::Command;
use toolbx_arch::base::child;
use toolbx_arch::base::message::{self, Call};

/// Where a root file system is.
pub enum Rootfs {
    Directory(PathBuf),
    /// Directories that are to be put together, the uppermost first.
    Layers(Vec<PathBuf>),
}

impl Rootfs {
    /// What the programs of a container that begins with `command` are, if they tell.
    ///
    /// Fails where its files cannot be looked at; after three seconds, if they lie on a file system
    /// that does not answer.
    pub fn detect(&self, command: &Command) -> Result<Option<Detected>> {
        let look = || match self.open() {
            Ok(root) => {
                let detected = detect::detect(root.as_fd(), command);
                detected.map(|detected| [FOUND, &detected.to_line()].concat()).unwrap_or_default()
            }
            Err(why) => message::line(&why).into_bytes(),
        };
        let answer = child::answer(PATIENCE, LINE_MAX, look)?
            .context("they do not answer within three seconds")?;
        match answer.strip_prefix(FOUND) {
            Some(line) => Ok(Detected::from_line(line)),
            None if answer.is_empty() => Ok(None),
            None => Err(anyhow!(String::from_utf8_lossy(&answer).into_owned())),
        }
    }

    fn open(&self) -> Result<OwnedFd> {
        match self {
            Self::Directory(path) => open(path),
            Self::Layers(layers) => put_together(layers),
        }
    }
}

/// In front of what was found; no message of ours begins so.
const FOUND: &[u8] = b"\0";

/// The directory `path`.
fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).call(|| format!("open {}", path.display()))
}

/// The directories `layers`, the uppermost first, as one. Needs `CAP_SYS_ADMIN` for our mount
/// namespace, and Linux 6.7 (`lowerdir+`).
fn put_together(layers: &[PathBuf]) -> Result<OwnedFd> {
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
    rustix::mount::fsconfig_create(&context)
        .call(|| call("mount"))
        .context("put its layers together, which takes Linux 6.7 or later")?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .call(|| call("fsmount"))
}
