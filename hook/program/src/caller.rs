//! Sees the machine as the hook would see it for the person who calls.

use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::sched::CloneFlags;
use toolbx_arch::base::message::Call;
use toolbx_arch::host::trust::{Caller, Host};

/// This very program, to be started anew.
pub fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("find this program")
}

/// Whether an ordinary user calls, outside of any user namespace. The hook would then run in one of
/// theirs.
pub fn is_plain_user() -> Result<bool> {
    Ok(Caller::current()? == Caller::Root && !rustix::process::geteuid().is_root())
}

/// Enters a user namespace in which the caller is root, as the hook's is in rootless Podman; root
/// stays where they are. Returns the host as the hook would see it, which trusts the same files.
///
/// Not to be called before a program that needs the caller's own rights is started.
pub fn become_hooks_caller() -> Result<Host> {
    become_root(false)
}

/// The same, with mounts of its own, as rootless Podman's are: those of the caller may not be cloned.
pub fn become_engine() -> Result<Host> {
    become_root(true)
}

fn become_root(and_mount: bool) -> Result<Host> {
    if is_plain_user()? {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        enter_user_namespace(&format!("0 {uid} 1\n"), &format!("0 {gid} 1\n"), and_mount)?;
    }
    Host::current()
}

/// Enters a new user namespace with these maps (`user_namespaces`(7)), and a new mount namespace
/// with it if asked.
pub fn enter_user_namespace(uid_map: &str, gid_map: &str, and_mount: bool) -> Result<()> {
    let mut flags = CloneFlags::CLONE_NEWUSER;
    flags.set(CloneFlags::CLONE_NEWNS, and_mount);
    nix::sched::unshare(flags)
        .map_err(std::io::Error::from)
        .call(|| "unshare a user namespace".into())
        .context(REFUSED)?;
    // Whoever maps no more than themselves may not, otherwise, map a group.
    std::fs::write("/proc/self/setgroups", "deny").call(|| "write setgroups".into())?;
    std::fs::write("/proc/self/uid_map", uid_map)
        .call(|| "write uid_map".into())
        .context(REFUSED)?;
    std::fs::write("/proc/self/gid_map", gid_map).call(|| "write gid_map".into())
}

const REFUSED: &str = "no user namespace is to be had; see toolbx-arch doctor";
