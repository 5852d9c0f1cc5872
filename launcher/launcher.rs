//! The launcher: a few instructions that run before the emulator's own.
//!
//! A wrapped emulator (`hook/src/host/launcher.rs`) is a static emulator with this as its ELF entry point.
//! The kernel maps the whole file; the launcher edits what the kernel has put on the stack (the
//! arguments, the environment, the auxiliary vector) and jumps to the emulator's own entry point. So
//! the emulator gets options that the guest does not see, and in a set-user-ID run nothing by which
//! the caller could steer it. An ordinary run whose standard streams are open makes no system call here.
//!
//! It has no libc, no writable data, no relocations and no way to panic: `launcher.ld` and the linker
//! refuse it otherwise. Sources: `fs/binfmt_misc.c` (`load_misc_binary`), `fs/binfmt_elf.c`
//! (`create_elf_tables`), the System V ABI's chapter "Process Initialization" of both processors.
//!
//! Prepared copies of emulators are known by the sum of these bytes, and have to be made again when it
//! changes. Functions and statics stand there in the order of their symbols' names, so it changes, too,
//! when one of them moves to another module.
#![no_std]
#![no_builtins] // a loop must not become a call of memcpy or strlen: there is none
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))] // for others it is not written
#![allow(unsafe_code)] // it edits memory that the kernel has laid out, and there is no libc for its calls

use core::arch::global_asm;

use name::{PATH_MAX, name_of};
use start::{AT_ENTRY, AT_EXECFD, AT_NULL, AT_SECURE, Start};
use system_call::{nr, system_call};

mod name;
mod start;
mod system_call;

/// `include/uapi/asm-generic/resource.h`
const RLIMIT_CORE: usize = 4;
/// `include/uapi/linux/fcntl.h`
const F_DUPFD: usize = 0;
const STDERR: usize = 2;
/// The first descriptor that is no standard stream.
const FIRST_FREE: usize = 3;
/// What a shell says of a program that could not be executed.
const EXIT_NOT_EXECUTED: usize = 126;

/// The variables that a set-user-ID emulator must not see, by the beginning of their names; a NUL
/// after each, and one more. QEMU obeys its own: some make it write files. The others steer the C
/// library, which would drop them itself; but an emulator may be linked with another one.
static DROPPED: [u8; 27] = *b"QEMU_\0LD_\0GLIBC_TUNABLES=\0\0";
/// Ends QEMU's options: what follows is the program, whatever its name looks like.
static END_OF_OPTIONS: [u8; 3] = *b"--\0";
/// No file has this name, so nothing can be executed by it (`getname` refuses it: ENOENT); where a
/// call takes it (`AT_EMPTY_PATH`), it stands for the descriptor.
static EMPTY: [u8; 1] = [0];
/// Said where a copy is executed for anything else than what it is for.
static REFUSAL: [u8; 102] =
    *b"toolbx-arch: this copy of the emulator runs what the kernel gives it; execute the emulator's own file\n";
/// Where the kernel shows what a descriptor was opened from.
static DESCRIPTORS: [u8; 14] = *b"/proc/self/fd/";

// Where the kernel begins. Its stack pointer leads to the number of arguments. Below it, room is made
// for the edited copy; below that are the stack frames of the functions. In the word after the
// launcher, `wrap` leaves the distance from there to the emulator's entry point.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".section .text.entry, \"ax\"",
    ".globl launcher_entry",
    "launcher_entry:",
    "endbr64",                      // a place to jump to, where the processor checks that
    "mov rbx, rsp",                 // the kernel's stack, 16-aligned; kept over calls
    "lea r12, [rip + entry_distance]",
    "add r12, [r12]",               // the emulator's entry point
    "mov rdi, rsp",
    "call {room}",
    "sub rsp, rax",                 // a multiple of 16
    "mov rdi, rbx",
    "mov rsi, rsp",
    "mov rdx, r12",
    "call {edit}",
    "mov rsp, rax",                 // the stack that the emulator is to have
    "xor edx, edx",                 // nothing to call at exit, as Linux says it (ELF_PLAT_INIT)
    "jmp r12",
    ".text",
    room = sym room,
    edit = sym edit,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".section .text.entry, \"ax\"",
    ".globl launcher_entry",
    "launcher_entry:",
    "hint #34",                     // bti c: a place to jump to, where the processor checks that
    "mov x19, sp",                  // the kernel's stack, 16-aligned; kept over calls
    "adr x20, entry_distance",
    "ldr x0, [x20]",
    "add x20, x20, x0",             // the emulator's entry point
    "mov x0, sp",
    "bl {room}",
    "sub x1, x19, x0",              // a multiple of 16
    "mov sp, x1",
    "mov x0, x19",
    "mov x2, x20",
    "bl {edit}",
    "mov sp, x0",                   // the stack that the emulator is to have
    "mov x0, #0",                   // nothing to call at exit, as Linux says it
    "mov x29, #0",                  // the outermost frame
    "mov x30, #0",
    "mov x16, x20",                 // through x16 a place marked "bti c" may be jumped to
    "br x16",
    ".text",
    room = sym room,
    edit = sym edit,
);

/// How many bytes an edited copy can take, and a path: a multiple of 16.
///
/// # Safety
///
/// As for [`Start::at`].
unsafe extern "C" fn room(sp: *mut usize) -> usize {
    // SAFETY: `sp` leads to a `Start`: `AT_NULL` ends the pairs, and the first argument, if there is one,
    // ends in NUL.
    unsafe {
        let start = Start::at(sp);
        let mut end = start.auxv;
        while *end != AT_NULL {
            end = end.add(2);
        }
        // Each word of the emulator's options takes a byte of the string and one to end it.
        let options = if start.argc > 0 { length(*start.argv as *const u8) / 2 + 1 } else { 0 };
        let words = (end.add(2) as usize - sp as usize) / size_of::<usize>() + options + 1;
        (words * size_of::<usize>() + PATH_MAX).next_multiple_of(16)
    }
}

/// Writes the stack that the emulator is to have to `to`, with `room` bytes below the kernel's, `sp`.
/// Returns the one to be used.
///
/// # Safety
///
/// As for [`Start::at`]; `to` is [`room`] bytes below `sp`, and nothing else uses the memory between.
unsafe extern "C" fn edit(sp: *mut usize, to: *mut usize, entry: usize) -> *mut usize {
    // SAFETY: `sp` leads to a `Start`, of which no argument after the last is looked at. `room` has counted
    // the copy, which begins at `to`, and the path, whose buffer ends at `sp`. The system calls get memory
    // that is there while they last, and close a descriptor that only the auxiliary vector tells of.
    unsafe {
        let start = Start::at(sp);
        // The kernel has told where the launcher begins.
        let told = start.value_of(AT_ENTRY);
        if !told.is_null() {
            *told = entry;
        }
        // The kernel opens the program for a handler with flag O or C. Without that the emulator was
        // executed by itself: by somebody who wants to know its version; or by a guest, perhaps with
        // rights, through a name in /proc that QEMU does not know for one of the guest's program.
        // That guest's first argument is no program to be emulated.
        let execfd = start.value_of(AT_EXECFD);
        if execfd.is_null() {
            if start.argc == 2 && **(start.argv.add(1) as *const *const u8) == b'-' {
                return sp;
            }
            let (text, length) = (&raw const REFUSAL as usize, REFUSAL.len());
            system_call(nr::WRITE, [STDERR, text, length, 0, 0]);
            exit();
        }
        // A user or group that changed, capabilities of a file, or what a security module says.
        let secure = start.value_of(AT_SECURE);
        let secure = !secure.is_null() && *secure != 0;
        // A caller who closed the standard streams gets the program there; QEMU before 9.1 takes 0
        // for no descriptor, and opens the program by its name, which the caller can change meanwhile.
        if *execfd < FIRST_FREE {
            let moved = system_call(nr::FCNTL, [*execfd, F_DUPFD, FIRST_FREE, 0, 0]);
            if moved >= 0 {
                system_call(nr::CLOSE, [*execfd, 0, 0, 0, 0]);
                *execfd = moved.cast_unsigned();
            } else if secure {
                exit();
            }
        }
        if secure {
            // QEMU writes core files of its guests by itself, where the caller says, through links. The
            // hard limit goes too: from outside, a process of the same ids could raise the soft one.
            let none = [0_usize; 2];
            if system_call(nr::PRLIMIT64, [0, RLIMIT_CORE, none.as_ptr() as usize, 0, 0]) != 0 {
                exit();
            }
            // The program's name is the caller's choice; QEMU goes by it for /proc/self/exe.
            if start.argc > 1 {
                *start.argv.add(1) = name_of(*execfd, sp.cast::<u8>().sub(PATH_MAX)) as usize;
            }
        }
        write(&start, secure, to);
        to
    }
}

/// Writes the edited copy: the emulator's options, `--`, the program and its arguments, the
/// environment, the auxiliary vector.
///
/// # Safety
///
/// From `to` on there is memory for as much as `room` counts for this `start`, and nothing else uses it.
unsafe fn write(start: &Start, secure: bool, to: *mut usize) {
    // SAFETY: a null or `AT_NULL` ends each list of a `Start`, a NUL each string, of which the first may be
    // written; `room` has counted each word of the copy.
    unsafe {
        let first = to.add(1);
        let mut next = first;
        if start.argc > 0 {
            next = write_options(*start.argv as *mut u8, secure, next);
            *next = &raw const END_OF_OPTIONS as usize;
            next = next.add(1);
            let mut argument = start.argv.add(1);
            while *argument != 0 {
                *next = *argument;
                next = next.add(1);
                argument = argument.add(1);
            }
        }
        *to = (next as usize - first as usize) / size_of::<usize>();
        *next = 0;
        next = next.add(1);
        let mut variable = start.envp;
        while *variable != 0 {
            if !(secure && is_dropped(*variable as *const u8)) {
                *next = *variable;
                next = next.add(1);
            }
            variable = variable.add(1);
        }
        *next = 0;
        next = next.add(1);
        let mut pair = start.auxv;
        loop {
            *next = *pair;
            *next.add(1) = *pair.add(1);
            if *pair == AT_NULL {
                return;
            }
            next = next.add(2);
            pair = pair.add(2);
        }
    }
}

/// Splits the handler's interpreter, which the kernel gives as the first argument, at its blanks:
/// `qemu-aarch64 -cpu max ! -strace`. What stands after `!` is not for set-user-ID runs. Returns where
/// the next argument goes.
///
/// # Safety
///
/// `text` ends in NUL and may be written. From `next` on there is memory for a pointer to each word.
unsafe fn write_options(mut text: *mut u8, secure: bool, mut next: *mut usize) -> *mut usize {
    // SAFETY: the NUL ends the last word, and after any other character there is one more. A pointer is
    // written at most once for a word.
    unsafe {
        let mut is_left_out = false;
        loop {
            let word = text;
            while *text != 0 && *text != b' ' {
                text = text.add(1);
            }
            let is_last = *text == 0;
            *text = 0;
            if *word == b'!' && *word.add(1) == 0 {
                is_left_out = secure;
            } else if *word != 0 && !is_left_out {
                *next = word as usize;
                next = next.add(1);
            }
            if is_last {
                return next;
            }
            text = text.add(1);
        }
    }
}

/// Whether a set-user-ID emulator must not see this variable.
///
/// # Safety
///
/// `variable` ends in NUL.
unsafe fn is_dropped(variable: *const u8) -> bool {
    // SAFETY: both strings end in NUL, and the first NUL or difference ends their comparison. `DROPPED`
    // ends in an empty string, after which nothing is read.
    unsafe {
        let mut prefix = (&raw const DROPPED).cast::<u8>();
        while *prefix != 0 {
            let mut i = 0;
            while *prefix.add(i) != 0 && *variable.add(i) == *prefix.add(i) {
                i += 1;
            }
            if *prefix.add(i) == 0 {
                return true;
            }
            prefix = prefix.add(length(prefix) + 1);
        }
        false
    }
}

/// How many bytes stand before the NUL.
///
/// # Safety
///
/// `text` ends in NUL.
unsafe fn length(text: *const u8) -> usize {
    // SAFETY: nothing is read after the NUL.
    unsafe {
        let mut length = 0;
        while *text.add(length) != 0 {
            length += 1;
        }
        length
    }
}

fn exit() -> ! {
    loop {
        // SAFETY: it does not come back.
        unsafe { system_call(nr::EXIT_GROUP, [EXIT_NOT_EXECUTED, 0, 0, 0, 0]) };
    }
}
