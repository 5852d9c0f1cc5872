//! Mappings of ids into a user namespace, and the one that `precreate` gives.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// An element of config.json's `uidMappings` and `gidMappings`, and a line of a `uid_map`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// The first id in the namespace.
    #[serde(rename = "containerID")]
    pub container: u32,
    /// The first id outside.
    #[serde(rename = "hostID")]
    pub host: u32,
    /// How many.
    pub size: u32,
}

impl IdMapping {
    /// Whether the kernel would refuse both in one map.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: u32, b: u32| {
            let (a, b) = (u64::from(a), u64::from(b));
            a < b + u64::from(other.size) && b < a + u64::from(self.size)
        };
        meet(self.container, other.container) || meet(self.host, other.host)
    }

    /// Understands a `uid_map` or `gid_map`.
    pub fn parse(map: &str) -> Result<Vec<Self>> {
        map.lines()
            .map(|line| {
                let mut fields = line.split_ascii_whitespace().map(str::parse);
                match std::array::from_fn(|_| fields.next()) {
                    [Some(Ok(container)), Some(Ok(host)), Some(Ok(size))] => {
                        Ok(Self { container, host, size })
                    }
                    _ => bail!("cannot understand the id mapping {line:?}"),
                }
            })
            .collect()
    }

    /// The identity over the ids that this `uid_map` or `gid_map` of ours has; line by line, since the
    /// kernel takes no mapping that spans two of its parent's.
    ///
    /// Without the very last id, which nobody uses: by the whole range, runtimes and systemd in the
    /// container would take its namespace for the initial one, and try what they may not.
    pub fn identity(map: &str) -> Result<Vec<Self>> {
        let identity = |Self { container, size, .. }| Self {
            container,
            host: container,
            size: u32::min(size, u32::MAX - 1),
        };
        Ok(Self::parse(map)?.into_iter().map(identity).collect())
    }
}

/// Whether a namespace with this `uid_map`, as it is read here, where `ours` is the map, could be one
/// that `precreate` has asked for.
pub fn is_from_precreate(uid_map: &str, ours: &str) -> Result<bool> {
    Ok(IdMapping::parse(uid_map)? == IdMapping::identity(ours)?)
}

/// Whether uid 0 of a namespace with this `uid_map`, as it is read here, is uid 0 here.
#[must_use]
pub fn has_machines_root(uid_map: &str) -> bool {
    // Not understood, or not written yet: assume the worse.
    uid_map.is_empty()
        || IdMapping::parse(uid_map)
            .map_or(true, |map| map.iter().any(|line| line.container == 0 && line.host == 0))
}

/// Whether a `uid_map`, read from outside its namespace, has a user for `uid` of outside.
#[must_use]
pub fn maps_uid(uid_map: &str, uid: u32) -> bool {
    // Not understood: assume the worse.
    IdMapping::parse(uid_map)
        .map_or(true, |map| map.iter().any(|line| uid >= line.host && uid - line.host < line.size))
}

impl std::fmt::Display for IdMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.container, self.host, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_who_is_mapped() {
        for (map, mapped) in [
            ("0 2000000 65536\n", false),
            ("0 1 1000\n1000 0 1\n1001 1001 64536\n", true),
            ("0 0 4294967295\n", true),
            ("", false),
            ("nonsense\n", true),
        ] {
            assert_eq!(maps_uid(map, 0), mapped, "{map}");
        }
    }

    #[test]
    fn knows_whose_root_is_ours() {
        for (map, is_ours) in [
            ("         0          0 4294967294\n", true),
            ("1 1 65535\n0 0 1\n", true),
            ("0 2000000 65536\n", false),
            ("0 1 1000\n1000 0 1\n", false),
            ("", true),
            ("nonsense\n", true),
        ] {
            assert_eq!(has_machines_root(map), is_ours, "{map}");
        }
    }

    #[test]
    fn knows_what_precreate_asks_for() {
        const MACHINES: &str = "         0          0 4294967295\n";
        const ALICES: &str = "0 1000 1\n1 100000 65536\n";
        for (map, ours, is_ours) in [
            ("0 0 4294967294\n", MACHINES, true),
            (MACHINES, MACHINES, false),
            ("0 0 65536\n", MACHINES, false),
            ("0 2000000 65536\n", MACHINES, false),
            ("0 0 1\n1 1 65536\n", ALICES, true),
            ("0 0 65537\n", ALICES, false),
            ("", MACHINES, false),
        ] {
            assert_eq!(is_from_precreate(map, ours).unwrap(), is_ours, "{map} in {ours}");
        }
        assert!(is_from_precreate("0 0 x\n", MACHINES).is_err());
    }
}
