//! Enters a container as its root, with no right left that the rest does not need.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets, ThreadNameSpaceType};

use crate::base::child;
use crate::base::message::Call;
use crate::container::places::Container;

/// Enters the container's user and mount namespaces as their root, with no right left that the
/// rest does not need.
pub(super) fn enter(container: &Container) -> Result<()> {
    // From here on nobody in the container may trace us, or get a core of us into its files.
    forbid_tracing()?;
    let mut namespaces = ThreadNameSpaceType::MOUNT;
    if container.enters_user_namespace {
        // EINVAL for the one the process is in already.
        namespaces |= ThreadNameSpaceType::USER;
    }
    rustix::thread::move_into_thread_name_spaces(container.process.pidfd.as_fd(), namespaces)
        .call(|| format!("setns into container {}", container.id))?;
    if container.enters_user_namespace {
        become_root()?;
        // The change of ids has put both back.
        forbid_tracing()?;
        child::end_with_parent()?;
    }
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_CHROOT;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: needed,
            permitted: needed,
            inheritable: CapabilitySet::empty(),
        },
    )
    .call(|| "capset".into())?;
    rustix::thread::set_no_new_privs(true).call(|| "prctl PR_SET_NO_NEW_PRIVS".into())
}

fn forbid_tracing() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .call(|| "prctl PR_SET_DUMPABLE".into())
}

/// Takes uid and gid 0 of the user namespace: after entering it the process has the overflow ids,
/// and creating a file with them is EOVERFLOW.
fn become_root() -> Result<()> {
    match rustix::thread::set_thread_groups(&[]) {
        // Where the namespace denies setgroups, the groups stay; they give no right here.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(errno).call(|| "setgroups".into()),
    }
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .call(|| "setresgid 0".into())
        .and_then(|()| {
            rustix::thread::set_thread_res_uid(uid, uid, uid).call(|| "setresuid 0".into())
        })
        .context("the container's user namespace has no root; map uid and gid 0")
}
