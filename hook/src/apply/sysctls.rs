//! Sets what `precreate` took out of config.json, since the runtime has no right to: sysctls of a
//! network namespace that belongs to another user namespace than the container.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::thread::ThreadNameSpaceType;

use crate::base::lookup;
use crate::base::message::{Call, shown};
use crate::container::process::Process;

/// Sets `sysctls` in the network namespace of the container's `process`, and stays there.
///
/// Fails where that namespace is the engine's own, on any that is not a network's, and where the
/// kernel refuses; those before it are set by then.
pub fn set_sysctls(process: &Process, sysctls: &BTreeMap<String, String>) -> Result<()> {
    // Our own /proc shows the network of whoever looks.
    const DIRECTORY: &str = "/proc/sys/net";
    ensure!(
        !process.is_in_our_network_namespace()?,
        "sysctls are to be set in the container's network, but that is the engine's own"
    );
    rustix::thread::move_into_thread_name_spaces(
        process.pidfd.as_fd(),
        ThreadNameSpaceType::NETWORK,
    )
    .call(|| "setns into the container's network".into())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        rustix::fs::open(DIRECTORY, flags, Mode::empty()).call(|| format!("open {DIRECTORY}"))?;
    for (key, value) in sysctls {
        let call = || format!("set sysctl {}={}", shown(key), shown(value));
        let path = path(key);
        let path =
            path.strip_prefix("net").with_context(|| format!("{}: not of a network", call()))?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let file = lookup::openat2(&directory, path, OFlags::WRONLY, Mode::empty(), resolve);
        let file = file.call(call)?;
        File::from(file).write_all(value.as_bytes()).call(call)?;
    }
    Ok(())
}

/// The path of a sysctl below /proc/sys, as sysctl(8) reads names: whichever of `.` and `/` comes
/// first separates, and the other one stands for it within a part.
fn path(key: &str) -> PathBuf {
    match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'.' => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect::<String>()
            .into(),
        _ => key.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_are_named_as_by_sysctl() {
        for (key, expected) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net", "net"),
        ] {
            assert_eq!(path(key), PathBuf::from(expected));
        }
    }
}
