//! System calls that neither rustix nor nix has. The only `unsafe` code of the project: it passes
//! integers and one fully initialised structure to the kernel, which checks them.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use nix::libc;
use rustix::io::Errno;

/// Closes every descriptor from `first` on. To be called before anything is opened: what owns such
/// a descriptor would not notice. Errors are ignored: Linux before 5.9 lacks the call,
/// and a descriptor that stays open does no harm to a program that starts no other.
pub fn close_from(first: u32) {
    // SAFETY: no owned descriptor exists yet when main calls this, so none is closed behind its
    // owner's back; the arguments are plain integers.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Makes a detached mount read-only, nosuid, nodev and private (Linux 5.12).
///
/// Private matters most: a clone stays in the peer group of the mount it was made from, so that
/// what a container's root mounts on it would appear on the host.
pub fn make_inert(mount: impl AsFd) -> rustix::io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the path is a NUL-terminated constant, and the pointer and the size describe
    // `attributes`, which lives until the call returns and which the kernel only reads.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    }
}
