//! The name that QEMU is given for a set-user-ID program, in place of the caller's.

use core::mem::MaybeUninit;

use crate::system_call::{nr, system_call};
use crate::{DESCRIPTORS, EMPTY};

// include/uapi/linux/fcntl.h
const AT_FDCWD: usize = (-100_isize).cast_unsigned();
const AT_SYMLINK_NOFOLLOW: usize = 0x100;
const AT_EMPTY_PATH: usize = 0x1000;
/// What statx(2) is to tell, and where it stands (`include/uapi/linux/stat.h`).
const STATX_MODE_UID_INO: usize = 0x2 | 0x8 | 0x100;
const STATX_LEN: usize = 256;
const STX_UID: usize = 20;
const STX_MODE: usize = 28;
const STX_INO: usize = 32;
const STX_DEV: usize = 136;
/// The write permissions of group and others.
const GO_WRITE: u8 = 0o022;
/// The longest path that the kernel gives or takes, its NUL included (`include/uapi/linux/limits.h`).
pub(crate) const PATH_MAX: usize = 4096;

/// The path of what the descriptor was opened from, as the kernel knows it, written to `buffer` of
/// `PATH_MAX` bytes. A name that leads nowhere, if there is no /proc, if the file has no path (any
/// more), and if somebody but root could put another file there.
///
/// # Safety
///
/// `buffer` has these bytes, and nothing else uses them.
pub(crate) unsafe fn name_of(fd: usize, buffer: *mut u8) -> *const u8 {
    // SAFETY: `link` has room for the directory, at most 20 digits, and the NUL. The kernel writes `taken`
    // bytes to `buffer`, and is given one less than there are, so that a NUL has its place after them;
    // they are read if there are any.
    unsafe {
        let mut link = [0_u8; 40]; // enough for the directory, and for any number
        let link = link.as_mut_ptr();
        let mut i = 0;
        while i < DESCRIPTORS.len() {
            *link.add(i) = *(&raw const DESCRIPTORS).cast::<u8>().add(i);
            i += 1;
        }
        // The digits, the last one first; the NUL after them is there.
        let mut rest = fd;
        while rest >= 10 {
            rest /= 10;
            i += 1;
        }
        rest = fd;
        loop {
            #[allow(clippy::cast_possible_truncation)] // it is a digit
            let digit = (rest % 10) as u8;
            *link.add(i) = b'0' + digit;
            rest /= 10;
            if rest == 0 {
                break;
            }
            i -= 1;
        }
        let taken = system_call(
            nr::READLINKAT,
            [AT_FDCWD, link as usize, buffer as usize, PATH_MAX - 1, 0],
        );
        // A file that is gone ends in " (deleted)", one of another root begins with "(unreachable)".
        // Who names a file so that it looks like that cannot have its path.
        if taken <= 0 || *buffer != b'/' || *buffer.add(taken.cast_unsigned() - 1) == b')' {
            return (&raw const EMPTY).cast();
        }
        *buffer.add(taken.cast_unsigned()) = 0;
        if is_roots_alone(buffer) && leads_to(buffer, fd) {
            buffer
        } else {
            (&raw const EMPTY).cast()
        }
    }
}

/// Whether every directory of this absolute path belongs to root, and nobody else may write it.
///
/// # Safety
///
/// `path` ends in NUL and may be written.
unsafe fn is_roots_alone(path: *mut u8) -> bool {
    // SAFETY: after a slash there is another byte, if only the NUL, which may be written and is put back.
    // `status` is read only after `look` has filled it.
    unsafe {
        let mut status = Status::uninit();
        let mut end = path;
        while *end != 0 {
            if *end == b'/' {
                // The path up to this slash and with it.
                let after = end.add(1);
                let kept = *after;
                *after = 0;
                let is_known = look(AT_FDCWD, path, &mut status);
                *after = kept;
                if !is_known || !is_roots(&status) {
                    return false;
                }
            }
            end = end.add(1);
        }
        true
    }
}

/// Whether what was looked at belongs to root, and nobody else may write it.
///
/// # Safety
///
/// `look` has filled `status`.
unsafe fn is_roots(status: &Status) -> bool {
    // SAFETY: all of `status` is there, and both places are in it.
    unsafe {
        let status = status.as_ptr().cast::<u8>();
        let owner = status.add(STX_UID).cast::<u32>().read_unaligned();
        owner == 0 && *status.add(STX_MODE) & GO_WRITE == 0
    }
}

/// Whether the path is that of this very file. Where /proc is not mounted, it may have come from
/// somebody who made a directory of that name.
///
/// # Safety
///
/// `path` ends in NUL.
unsafe fn leads_to(path: *const u8, fd: usize) -> bool {
    // SAFETY: both paths end in NUL. Words are read only after `look` has filled what they are in.
    unsafe {
        let (mut there, mut here) = (Status::uninit(), Status::uninit());
        let are_known =
            look(AT_FDCWD, path, &mut there) && look(fd, (&raw const EMPTY).cast(), &mut here);
        let word = |status: &Status, at| {
            status.as_ptr().cast::<u8>().add(at).cast::<u64>().read_unaligned()
        };
        are_known
            && word(&there, STX_INO) == word(&here, STX_INO)
            && word(&there, STX_DEV) == word(&here, STX_DEV)
    }
}

/// Not set to zero before it is written, which would be a call of memset.
type Status = MaybeUninit<[u8; STATX_LEN]>;

/// What is at `path`, or, if that is empty, what is open as `at`. Whether that could be told; if so, all
/// of `status` is filled.
///
/// # Safety
///
/// `path` ends in NUL.
unsafe fn look(at: usize, path: *const u8, status: &mut Status) -> bool {
    // SAFETY: the kernel reads a path that ends in NUL, and writes a `struct statx`, which is as large as
    // a `Status`.
    unsafe {
        let flags = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH;
        let status = status.as_mut_ptr() as usize;
        system_call(nr::STATX, [at, path as usize, flags, STATX_MODE_UID_INO, status]) == 0
    }
}
