//! System calls that neither rustix nor nix has, or has in a safe form. The only `unsafe` code of the hook; the
//! launcher, which has no library below it, is the rest of the project's.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use linux_raw_sys::general::{MNT_ID_REQ_SIZE_VER1, mnt_id_req};
use nix::libc;
use nix::unistd::ForkResult;
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, ioctl, opcode};
use rustix::process::Pid;

/// Its number, on every architecture but alpha. libc lacks it.
const SYS_STATMOUNT: libc::c_long = 457;

/// Closes every descriptor from `first` on. To be called before anything is opened: what owns such
/// a descriptor would not notice. Errors are ignored: Linux before 5.9 lacks the call,
/// and a descriptor that stays open does no harm to a program that starts no other.
pub fn close_from(first: u32) {
    // SAFETY: no owned descriptor exists yet when main calls this, so none is closed behind its
    // owner's back; the arguments are plain integers.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// A copy of this process (fork(2)): the child's pid, or `None` in the child.
///
/// No thread is ever started in the hook.
pub fn fork() -> rustix::io::Result<Option<Pid>> {
    // SAFETY: with a single thread, no lock can be held by one that the child lacks, so the child
    // may go on like any program.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Parent { child }) => Ok(Pid::from_raw(child.as_raw())),
        Ok(ForkResult::Child) => Ok(None),
        Err(errno) => Err(Errno::from_raw_os_error(errno as i32)),
    }
}

/// Makes a detached mount read-only, nosuid, nodev and private (Linux 5.12).
///
/// Private matters most: a clone stays in the peer group of the mount it was made from, so that
/// what a container's root mounts on it would appear on the host.
pub fn make_inert(mount: impl AsFd) -> rustix::io::Result<()> {
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    mount_setattr(mount, attributes, libc::MS_PRIVATE)
}

/// Makes the mount that is open as `mount` read-only (Linux 5.12).
pub fn make_read_only(mount: impl AsFd) -> rustix::io::Result<()> {
    mount_setattr(mount, libc::MOUNT_ATTR_RDONLY, 0)
}

/// The number of the mount namespace that is open as `namespace` (Linux 6.11).
pub fn mount_namespace_id(namespace: impl AsFd) -> rustix::io::Result<u64> {
    // NS_GET_MNTNS_ID, include/uapi/linux/nsfs.h.
    const REQUEST: Opcode = opcode::read::<u64>(0xb7, 5);
    // SAFETY: the request writes a u64; on a namespace's descriptor no other has that number.
    unsafe { ioctl(namespace, Getter::<REQUEST, u64>::new()) }
}

/// The namespace in which that of `user_namespace` was made. Fails with EPERM where that is none of ours.
pub fn parent_namespace(user_namespace: impl AsFd) -> rustix::io::Result<OwnedFd> {
    // NS_GET_PARENT, include/uapi/linux/nsfs.h.
    const REQUEST: Opcode = opcode::none(0xb7, 2);
    // SAFETY: the request takes no argument.
    let result =
        unsafe { libc::syscall(libc::SYS_ioctl, user_namespace.as_fd().as_raw_fd(), REQUEST) };
    done(result.min(0))?;
    let parent = i32::try_from(result).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel has just opened it, so that nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(parent) })
}

/// Writes what the kernel tells of a mount to `told`: a `struct statmount` and its strings, for what
/// `mask` asks for. Both numbers are those that are never used again (Linux 6.11).
pub fn statmount(namespace: u64, mount: u64, mask: u64, told: &mut [u8]) -> rustix::io::Result<()> {
    let request = mnt_id_req {
        size: MNT_ID_REQ_SIZE_VER1,
        spare: 0,
        mnt_id: mount,
        param: mask,
        mnt_ns_id: namespace,
    };
    // SAFETY: the kernel reads `request`, whose size is in it, and writes no more to `told` than its
    // length; both live until the call returns.
    let result = unsafe {
        libc::syscall(SYS_STATMOUNT, &raw const request, told.as_mut_ptr(), told.len(), 0)
    };
    done(result)
}

/// Asks for a page of memory that may be both written and executed, as every emulator does for the code
/// that it makes, and gives it back.
pub fn try_executable_memory() -> rustix::io::Result<()> {
    const SIZE: usize = 4096;
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping, where the kernel chooses, takes no other memory's place, and nothing has a
    // reference into it when it goes.
    let unmapped = unsafe {
        let page = libc::mmap(std::ptr::null_mut(), SIZE, protection, flags, -1, 0);
        if page == libc::MAP_FAILED { -1 } else { libc::munmap(page, SIZE) }
    };
    done(unmapped.into())
}

fn mount_setattr(mount: impl AsFd, attr_set: u64, propagation: u64) -> rustix::io::Result<()> {
    let attributes = libc::mount_attr { attr_set, attr_clr: 0, propagation, userns_fd: 0 };
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
    done(result)
}

/// What a system call has returned, where success is 0.
fn done(result: libc::c_long) -> rustix::io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    }
}
