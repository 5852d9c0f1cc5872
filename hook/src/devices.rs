//! The machine's device nodes in a container: a runtime that may make none binds them.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::thread::ThreadNameSpaceType;
use serde::Deserialize;

use crate::container::Process;
use crate::kernel;
use crate::message::{Call, shown};
use crate::mounts::{self, Mount, mount_id};
use crate::oci::Config;

/// An element of config.json's `linux.devices`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Device {
    /// Where the container is to have it.
    pub path: PathBuf,
    /// `c` and `u` for a character device, `b` for a block device, `p` for a FIFO.
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    major: u32,
    #[serde(default)]
    minor: u32,
}

impl Device {
    fn is(&self, node: &Metadata) -> bool {
        let same_kind = match &*self.kind {
            "c" | "u" => node.file_type().is_char_device(),
            "b" => node.file_type().is_block_device(),
            _ => false,
        };
        same_kind && node.rdev() == rustix::fs::makedev(self.major, self.minor)
    }
}

/// For each of `devices` that the machine does not have at the same path: a path below `/dev` where
/// it does. Runtimes bind what is at the same path, whatever that is.
///
/// Fails on a device that has no node there.
pub fn elsewhere(devices: &[Device]) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let is_at_its_path =
        |device: &Device| std::fs::metadata(&device.path).is_ok_and(|node| device.is(&node));
    let mut missing: Vec<_> = devices.iter().filter(|device| device.kind != "p").collect();
    missing.retain(|device| !is_at_its_path(device));
    if missing.is_empty() {
        return Ok(BTreeMap::new());
    }
    let nodes = files(Path::new("/dev"));
    let found = |device: &Device| {
        let node = nodes.iter().find(|(_, node)| device.is(node));
        let (path, _) = node.with_context(|| {
            format!(
                "its device {} ({} {}:{}) has no node in /dev, and a user namespace can have none \
                 made; make one in /dev",
                shown(&device.path.to_string_lossy()),
                shown(&device.kind),
                device.major,
                device.minor
            )
        })?;
        Ok((device.path.clone(), path.clone()))
    };
    missing.into_iter().map(found).collect()
}

/// Makes the nodes that the runtime has bound into the container read-only, so that its root, who
/// owns the machine's nodes too, changes neither their mode nor their owner. What is read from the
/// devices and written to them is not affected.
///
/// Not where config.json has a mount for one: that was asked for as it is. Fails where the kernel
/// refuses.
pub fn protect(process: &Process, rootfs: &OwnedFd, config: &Config) -> Result<()> {
    let nodes = bound_nodes(process, rootfs, config)?;
    if nodes.is_empty() {
        return Ok(());
    }
    let ours = mounts::own_namespace()?;
    rustix::thread::move_into_thread_name_spaces(process.pidfd.as_fd(), ThreadNameSpaceType::MOUNT)
        .call(|| "setns into the container's mounts".into())?;
    let protected = nodes.iter().try_for_each(kernel::make_read_only);
    mounts::enter_again(&ours, "engine")?;
    protected.call(|| "mount_setattr the container's device nodes".into())
}

/// The device nodes that are mounts of their own below `rootfs`, but for those of config.json.
fn bound_nodes(process: &Process, rootfs: &OwnedFd, config: &Config) -> Result<Vec<OwnedFd>> {
    let mounts = process.read("mountinfo")?;
    let top = Mount::find(&mounts, mount_id(rootfs)?)?.point;
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(rootfs, path, flags, Mode::empty(), resolve).ok()
    };
    // By its name: a link of the image must not make another node of it.
    let is_asked_for = |path: &Path| {
        let mut mounts = config.mounts.iter().flatten();
        mounts.any(|mount| mount.destination.strip_prefix("/") == Ok(path))
    };
    let node = |mount: Mount| {
        let path = mount.point.strip_prefix(&top).ok().filter(|path| !is_asked_for(path))?;
        let node = open(path)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&node).ok()?.st_mode);
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        // Not what something else is mounted over.
        (is_device && mount_id(&node).ok()? == mount.id).then_some(node)
    };
    Ok(mounts.lines().filter_map(Mount::parse).filter_map(node).collect())
}

/// What is below `directory`, on the same file system, and is no directory.
fn files(directory: &Path) -> Vec<(PathBuf, Metadata)> {
    // Others may be anybody's: /dev/shm, a mount of FUSE.
    let device = std::fs::metadata(directory).map(|metadata| metadata.dev()).ok();
    let (mut directories, mut files) = (vec![directory.to_owned()], Vec::new());
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if Some(metadata.dev()) != device => {}
                Ok(metadata) if metadata.is_dir() => directories.push(entry.path()),
                Ok(metadata) => files.push((entry.path(), metadata)),
                Err(_) => {}
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_by_their_numbers() {
        let device = |path: &str, kind: &str, minor| Device {
            path: path.into(),
            kind: kind.to_owned(),
            major: 1,
            minor,
        };
        let found = elsewhere(&[
            device("/dev/null", "c", 3),
            device("/dev/word", "c", 3),
            device("/dev/full", "c", 5),
            device("/tmp/fifo", "p", 0),
        ]);
        let expected = [("/dev/word", "/dev/null"), ("/dev/full", "/dev/zero")];
        assert_eq!(found.unwrap(), expected.map(|(a, b)| (a.into(), b.into())).into());
        let error = elsewhere(&[device("/dev/null", "b", 3)]).unwrap_err().to_string();
        assert!(error.starts_with(r#"its device "/dev/null" ("b" 1:3) has no node"#), "{error}");
    }
}
