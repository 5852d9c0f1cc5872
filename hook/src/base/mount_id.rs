//! Which mount a descriptor lies on, by number.

use std::os::fd::AsFd;

use anyhow::Result;
use linux_raw_sys::general::STATX_MNT_ID_UNIQUE;
use rustix::fs::{AtFlags, StatxFlags};

use crate::base::message::Call;

/// The number of the mount that `fd` lies on.
pub fn mount_id(fd: impl AsFd) -> Result<u64> {
    statx_mount_id(fd, StatxFlags::MNT_ID)
}

/// The same, of a kind that is never used again (Linux 6.8). statmount wants those.
pub fn unique_mount_id(fd: impl AsFd) -> Result<u64> {
    statx_mount_id(fd, StatxFlags::from_bits_retain(STATX_MNT_ID_UNIQUE))
}

fn statx_mount_id(fd: impl AsFd, kind: StatxFlags) -> Result<u64> {
    // The kernel knows it by itself; a file system that does not answer is not asked.
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, kind)
        .map(|statx| statx.stx_mnt_id)
        .call(|| "statx a mount id".into())
}
