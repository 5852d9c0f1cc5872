//! System calls, without a C library.

use core::arch::asm;

/// The kernel's numbers: `arch/x86/entry/syscalls/syscall_64.tbl`, `include/uapi/asm-generic/unistd.h`.
#[cfg(target_arch = "x86_64")]
pub(crate) mod nr {
    pub(crate) const WRITE: usize = 1;
    pub(crate) const CLOSE: usize = 3;
    pub(crate) const FCNTL: usize = 72;
    pub(crate) const EXIT_GROUP: usize = 231;
    pub(crate) const READLINKAT: usize = 267;
    pub(crate) const PRLIMIT64: usize = 302;
    pub(crate) const STATX: usize = 332;
}
#[cfg(target_arch = "aarch64")]
pub(crate) mod nr {
    pub(crate) const FCNTL: usize = 25;
    pub(crate) const CLOSE: usize = 57;
    pub(crate) const WRITE: usize = 64;
    pub(crate) const READLINKAT: usize = 78;
    pub(crate) const EXIT_GROUP: usize = 94;
    pub(crate) const PRLIMIT64: usize = 261;
    pub(crate) const STATX: usize = 291;
}

/// Returns what the kernel does: a negative number is an error's.
///
/// # Safety
///
/// The arguments are what the call of this number takes. What they point to is memory that the call may
/// read or write, and nothing relies on a descriptor that it closes.
pub(crate) unsafe fn system_call(number: usize, arguments: [usize; 5]) -> isize {
    let [first, second, third, fourth, fifth] = arguments;
    let result: isize;
    // SAFETY: the caller vouches for what the call does. The number is in rax, the arguments are in rdi,
    // rsi, rdx, r10, r8; rcx and r11 are lost (ABI AMD64, A.2.1).
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number.cast_signed() => result, in("rdi") first, in("rsi") second,
            in("rdx") third, in("r10") fourth, in("r8") fifth, lateout("rcx") _, lateout("r11") _,
            options(nostack));
    }
    // SAFETY: the caller vouches for what the call does. The number is in x8, the arguments are in x0 and
    // what follows it, the result is in x0 (arch/arm64/kernel/syscall.c).
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") first.cast_signed() => result, in("x1") second,
            in("x2") third, in("x3") fourth, in("x4") fifth, options(nostack));
    }
    result
}
