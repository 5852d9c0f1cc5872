//! Where handlers can outlive a container.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::base::kernel;
use crate::container::mounts::{self, Mounts};

/// Where an instance can be kept mounted beyond a container's life: in the mount namespace of the
/// engine.
#[derive(Debug)]
pub struct Keep {
    /// That namespace.
    pub mount_namespace: OwnedFd,
    /// Its `/proc/sys/fs/binfmt_misc`.
    pub place: OwnedFd,
}

impl Keep {
    /// In the mount namespace of this process, at `path`. `None` where a mount there could reach
    /// other namespaces, or nothing can be mounted.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        let mount_namespace = mounts::own_namespace().ok()?;
        let namespace = kernel::mount_namespace_id(&mount_namespace).ok();
        let (_, mount) = Mounts::of(namespace, &place, mounts::own).ok()?;
        (!mount.shared).then_some(Self { mount_namespace, place })
    }
}
