//! Where the machine has a container's device nodes: a runtime that may make none binds them.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::base::message::shown;

/// An element of config.json's `linux.devices`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Device {
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
pub(super) fn elsewhere(devices: &[Device]) -> Result<BTreeMap<PathBuf, PathBuf>> {
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
