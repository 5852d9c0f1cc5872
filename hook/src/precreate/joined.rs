//! Whether a container joins a user namespace in which its root is the machine's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::asked::idmap::has_machines_root;
use crate::asked::oci;
use crate::base::message::Call;
use crate::base::namespace::Namespace;

/// Whether the container of `config` joins a user namespace, another than the engine's own, whose root is
/// root here too, as where this stage has made it for another container; or one of which that cannot be
/// told.
pub(super) fn may_join_machines_root(config: &oci::Config) -> bool {
    let namespaces = config.linux.iter().flat_map(|linux| &linux.namespaces).flatten();
    let mut joined = namespaces.filter(|ns| ns.kind == "user").filter_map(|ns| ns.path.as_ref());
    joined.any(|path| is_machines_root(path).unwrap_or(true))
}

/// Whether root of the user namespace `path`, another than ours, is root here. Fails where that cannot be
/// told.
fn is_machines_root(path: &Path) -> Result<bool> {
    let namespace = rustix::fs::stat(path).call(|| format!("stat {}", path.display()))?;
    if Namespace::of_file(namespace) == Namespace::ours("user")? {
        return Ok(false);
    }
    let map = uid_map_beside(path).context("the namespace has no process")?;
    let map = std::fs::read_to_string(&map).with_context(|| format!("read {}", map.display()))?;
    Ok(has_machines_root(&map))
}

/// The `uid_map` of the process whose user namespace `path` is, if it is `/proc/PID/ns/user`. Elsewhere, as
/// on a bind mount of such a file, the kernel tells a namespace's map to nobody outside.
fn uid_map_beside(path: &Path) -> Option<PathBuf> {
    let process = path.parent().filter(|_| path.ends_with("ns/user"))?.parent()?;
    let pid = process.strip_prefix("/proc").ok()?.to_str()?;
    pid.parse::<u32>().is_ok().then(|| process.join("uid_map"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_beside_a_process_only() {
        assert_eq!(uid_map_beside(Path::new("/proc/7/ns/user")), Some("/proc/7/uid_map".into()));
        for path in [
            "/proc/self/ns/user",
            "/proc/7/task/8/ns/user",
            "/x/proc/7/ns/user",
            "/run/7/ns/user",
            "/proc/7/ns/net",
            "proc/7/ns/user",
            "/proc/7/../8/ns/user",
            "ns/user",
            "/",
        ] {
            assert_eq!(uid_map_beside(Path::new(path)), None, "{path}");
        }
    }
}
