//! What of a config.json decides how its container can have a user namespace.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use serde::Deserialize;

use crate::asked::bound::Bound;
use crate::asked::idmap::IdMapping;
use crate::asked::oci::{Namespace, or_default};
use crate::base::message::{self, shown};
use crate::precreate::devices::Device;

/// Those parts that decide how its container can have a user namespace.
#[derive(Debug, Default, Deserialize)]
pub(super) struct FullConfig {
    pub(super) process: Option<FullProcess>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) mounts: Vec<FullMount>,
    pub(super) linux: Option<FullLinux>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct FullProcess {
    pub(super) capabilities: Option<Capabilities>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Capabilities {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) bounding: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct FullMount {
    pub(super) destination: PathBuf,
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    pub(super) fs_type: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) options: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FullLinux {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) namespaces: Vec<Namespace>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) uid_mappings: Vec<IdMapping>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) gid_mappings: Vec<IdMapping>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) sysctl: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) devices: Vec<Device>,
}

/// Which network a container uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    /// One that the runtime makes, in the new user namespace.
    RuntimeMade,
    /// One that the engine has made for it, outside.
    EngineMade,
    /// Another container's, or one that the user named.
    Joined,
    /// The engine's own: the host's.
    Host,
}

impl FullConfig {
    pub(super) fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| malformed(&error))
    }

    pub(super) fn namespace(&self, kind: &str) -> Option<&Namespace> {
        self.linux.iter().flat_map(|linux| &linux.namespaces).find(|ns| ns.kind == kind)
    }

    /// Fails where the engine gives the container mappings that the kernel would refuse.
    pub(super) fn ensure_mappings_are_apart(&self) -> Result<()> {
        let linux = self.linux.as_ref();
        for (what, mappings) in [
            ("uid", linux.map(|linux| &linux.uid_mappings)),
            ("gid", linux.map(|linux| &linux.gid_mappings)),
        ] {
            for (i, a) in mappings.iter().copied().flatten().enumerate() {
                let before = mappings.iter().copied().flatten().take(i);
                if let Some(b) = before.into_iter().find(|b| a.overlaps(b)) {
                    bail!(
                        "config.json's {what} mappings overlap: {b} and {a}; correct --{what}map"
                    );
                }
            }
        }
        Ok(())
    }

    pub(super) fn mounts_of(&self, bound: Bound) -> impl Iterator<Item = &FullMount> {
        self.mounts.iter().filter(move |mount| is_of(mount, bound))
    }

    /// Fails where a file system that becomes a bind has options that only a mount of its own can
    /// have, or is to be at a place that is not looked after.
    pub(super) fn ensure_can_be_bound(&self, bound: Bound) -> Result<()> {
        let path = bound.path().display();
        if let Some(mount) = self.mounts_of(bound).find(|mount| mount.destination != bound.path()) {
            bail!(
                "its {} at {} cannot be mounted in a user namespace that does not own what it \
                 shows; mount it at {path}, or use --userns=auto",
                bound.fs_type(),
                message::path(&mount.destination)
            );
        }
        let mut options = self.mounts_of(bound).flat_map(|mount| &mount.options);
        match options.find(|option| option.contains('=')) {
            None => Ok(()),
            Some(option) => bail!(
                "its {path} with the option {} cannot be mounted in a user namespace that does not \
                 own what it shows; leave out the option, or use --userns=auto",
                shown(option)
            ),
        }
    }

    pub(super) fn may(&self, capability: &str) -> bool {
        let capabilities = self.process.iter().flat_map(|process| &process.capabilities);
        capabilities.flat_map(|sets| &sets.bounding).any(|name| name == capability)
    }

    pub(super) fn network(&self) -> Network {
        match self.namespace("network").map(|ns| &ns.path) {
            None => Network::Host,
            Some(None) => Network::RuntimeMade,
            Some(Some(path)) if is_made_by_podman(path) => Network::EngineMade,
            Some(Some(_)) => Network::Joined,
        }
    }
}

/// Podman makes the network namespaces of containers in a directory `netns`, as `netns-UUID`.
fn is_made_by_podman(path: &Path) -> bool {
    let is_uuid = |text: &str| {
        text.len() == 36
            && text.char_indices().all(|(i, c)| match i {
                8 | 13 | 18 | 23 => c == '-',
                _ => c.is_ascii_hexdigit(),
            })
    };
    path.parent().is_some_and(|directory| directory.ends_with("netns"))
        && path
            .file_name()
            .and_then(OsStr::to_str)
            .is_some_and(|name| name.strip_prefix("netns-").is_some_and(is_uuid))
}

pub(super) fn is_of(mount: &FullMount, bound: Bound) -> bool {
    mount.fs_type == bound.fs_type()
}

pub(super) fn malformed(error: &serde_json::Error) -> anyhow::Error {
    anyhow!("config.json on standard input: {error}")
}
