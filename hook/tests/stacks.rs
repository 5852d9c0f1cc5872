//! The launcher's bytes on stacks as the kernel could make them. See also `wrapped.rs`.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#![allow(unsafe_code)] // what is tested is machine code that edits raw memory

use std::arch::global_asm;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::Mutex;

use nix::libc;
use rustix::process::WaitOptions;
use toolbx_arch::host::launcher::LAUNCHER;

const AT_NULL: usize = 0;
const AT_EXECFD: usize = 2;
const AT_FLAGS: usize = 8;
const AT_ENTRY: usize = 9;
const AT_SECURE: usize = 23;
const AT_PAGESZ: usize = 6;

// run_launcher(stack, launcher): jumps to the launcher with that stack pointer. It ends at `landing`,
// where an emulator would begin, and the stack pointer there is what run_launcher returns.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl run_launcher, landing",
    "run_launcher:",
    "push rbx; push rbp; push r12; push r13; push r14; push r15",
    "mov [rip + saved_stack], rsp",
    "mov rsp, rdi",
    "mov edx, 1", // the emulator must find 0 there
    "jmp rsi",
    "landing:",
    "mov rax, rsp",
    "mov rsp, [rip + saved_stack]",
    "test edx, edx; jz 1f; ud2; 1:",
    "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
    "ret",
    ".lcomm saved_stack, 8",
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl run_launcher, landing",
    "run_launcher:",
    "stp x29, x30, [sp, #-16]!; stp x19, x20, [sp, #-16]!; stp x21, x22, [sp, #-16]!",
    "stp x23, x24, [sp, #-16]!; stp x25, x26, [sp, #-16]!; stp x27, x28, [sp, #-16]!",
    "adrp x2, saved_stack; add x2, x2, :lo12:saved_stack; mov x3, sp; str x3, [x2]",
    "mov sp, x0",
    "br x1",
    "landing:",
    "cbz x0, 1f; brk #1; 1:", // the emulator must find 0 there
    "mov x0, sp",
    "adrp x2, saved_stack; add x2, x2, :lo12:saved_stack; ldr x3, [x2]; mov sp, x3",
    "ldp x27, x28, [sp], #16; ldp x25, x26, [sp], #16; ldp x23, x24, [sp], #16",
    "ldp x21, x22, [sp], #16; ldp x19, x20, [sp], #16; ldp x29, x30, [sp], #16",
    "ret",
    ".lcomm saved_stack, 8",
);
unsafe extern "C" {
    fn run_launcher(stack: *const usize, launcher: *const u8) -> *const usize;
    fn landing();
}

/// There is one saved stack pointer.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What a program finds on its stack.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stack {
    argv: Vec<String>,
    envp: Vec<String>,
    auxv: Vec<(usize, usize)>,
}

fn stack(argv: &[&str], envp: &[&str], auxv: &[(usize, usize)]) -> Stack {
    let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
    Stack { argv: owned(argv), envp: owned(envp), auxv: auxv.to_vec() }
}

impl Stack {
    /// What the launcher makes of it.
    fn launched(&self) -> Self {
        let _turn = ONE_AT_A_TIME.lock();
        self.launched_alone()
    }

    /// The same, for whoever has the turn.
    fn launched_alone(&self) -> Self {
        let strings = |list: &[String]| -> Vec<*mut i8> {
            list.iter().map(|text| CString::new(text.as_str()).unwrap().into_raw().cast()).collect()
        };
        let (argv, envp) = (strings(&self.argv), strings(&self.envp));
        let mut words = vec![argv.len()];
        for list in [&argv, &envp] {
            words.extend(list.iter().map(|text| *text as usize));
            words.push(0);
        }
        words.extend(self.auxv.iter().flat_map(|(kind, value)| [*kind, *value]));
        words.extend([AT_NULL, 0]);
        // Room below for the launcher, as the kernel leaves it, and the kernel's alignment.
        let room = 2 * words.len() + 16 * 1024;
        let mut memory = vec![0_usize; room + words.len() + 2];
        let top =
            if (memory.as_ptr() as usize + room * 8).is_multiple_of(16) { room } else { room + 1 };
        memory[top..top + words.len()].copy_from_slice(&words);
        let code = executable();
        // SAFETY: the launcher reads the stack that was built, writes to the room below it, and jumps
        // to `landing`, which gives this function its stack and registers back.
        let result = unsafe { run_launcher(&raw const memory[top], code) };
        assert_eq!(result as usize % 16, 0, "stack pointer");
        // SAFETY: what the launcher has made is in `memory`, or points to the strings above.
        unsafe { Self::read(result) }
    }

    /// What a program would find there.
    ///
    /// # Safety
    ///
    /// `at` leads to lists as the kernel makes them: of strings up to a null, of pairs up to `AT_NULL`.
    unsafe fn read(mut at: *const usize) -> Self {
        unsafe fn next(at: &mut *const usize) -> usize {
            // SAFETY: the caller has not read the last word yet.
            unsafe {
                let word = **at;
                *at = at.add(1);
                word
            }
        }
        unsafe fn list(at: &mut *const usize) -> Vec<String> {
            let mut list = Vec::new();
            // SAFETY: a null ends the list, and what comes before it are strings that end in NUL.
            unsafe {
                loop {
                    match next(at) {
                        0 => return list,
                        text => {
                            let text = CStr::from_ptr(text as *const _);
                            list.push(text.to_str().unwrap().to_owned());
                        }
                    }
                }
            }
        }
        // SAFETY: the number of arguments comes first, then the two lists of strings, and nothing is read
        // after `AT_NULL` and its value.
        unsafe {
            let count = next(&mut at);
            let (argv, envp) = (list(&mut at), list(&mut at));
            assert_eq!(argv.len(), count, "argc");
            let mut auxv = Vec::new();
            loop {
                match (next(&mut at), next(&mut at)) {
                    (AT_NULL, _) => return Self { argv, envp, auxv },
                    pair => auxv.push(pair),
                }
            }
        }
    }
}

/// The launcher in memory that can be executed, on a page, with the way to `landing` behind it.
fn executable() -> *const u8 {
    let length = LAUNCHER.len() + 8;
    #[allow(clippy::cast_ptr_alignment)] // the launcher's length is a multiple of 8
    // SAFETY: a new mapping of our own, written before it is made executable.
    unsafe {
        let (read, write, exec) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let code =
            libc::mmap(std::ptr::null_mut(), length, read | write, flags, -1, 0).cast::<u8>();
        std::ptr::copy_nonoverlapping(LAUNCHER.as_ptr(), code, LAUNCHER.len());
        let word = code.add(LAUNCHER.len());
        word.cast::<usize>().write((landing as *const () as usize).wrapping_sub(word as usize));
        assert_eq!(libc::mprotect(code.cast(), length, read | exec), 0);
        code
    }
}

fn entry() -> usize {
    landing as *const () as usize
}

#[test]
fn what_was_executed_by_itself_may_tell_its_version() {
    for auxv in [
        vec![(AT_ENTRY, 5), (AT_SECURE, 0), (AT_FLAGS, 0)],
        vec![(AT_ENTRY, 5), (AT_SECURE, 1)],
        vec![(AT_ENTRY, 5), (AT_FLAGS, 1)],
    ] {
        let given = stack(&["qemu-aarch64 -cpu max", "--version"], &["QEMU_LOG=x", "A="], &auxv);
        let mut expected = given.clone();
        expected.auxv[0].1 = entry();
        assert_eq!(given.launched(), expected);
    }
}

/// It ends the process, so in another one.
#[test]
fn what_was_executed_by_itself_may_do_nothing_else() {
    let cases: [&[&str]; 5] =
        [&[], &["qemu"], &["qemu", "program"], &["qemu", "-D", "x"], &["qemu", ""]];
    for case in cases {
        let given = stack(case, &[], &[(AT_ENTRY, 5)]);
        let (mut says, to) = std::io::pipe().unwrap();
        // Taken here: in the child nobody would give it back.
        let turn = ONE_AT_A_TIME.lock();
        let Some(child) = toolbx_arch::base::kernel::fork().unwrap() else {
            // SAFETY: standard error is not used by anything else in this process, which ends here.
            unsafe {
                libc::dup2(to.as_raw_fd(), 2);
                given.launched_alone();
                libc::_exit(0)
            }
        };
        drop((to, turn));
        let mut said = String::new();
        says.read_to_string(&mut said).unwrap();
        let (_, status) =
            rustix::process::waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(126), "{case:?}");
        assert!(
            said.starts_with("toolbx-arch: this copy") && said.ends_with("own file\n"),
            "{said}"
        );
    }
}

#[test]
fn options_go_before_the_program() {
    let auxv = [(AT_PAGESZ, 4096), (AT_EXECFD, 7), (AT_FLAGS, 1), (AT_ENTRY, 5), (AT_SECURE, 0)];
    let environment = ["A=1", "QEMU_LOG=x", "LD_PRELOAD=y", "", "=", "noequals"];
    for (interpreter, options) in [
        ("qemu", vec!["qemu"]),
        ("/usr/bin/qemu", vec!["/usr/bin/qemu"]),
        ("qemu -cpu max,pauth=off", vec!["qemu", "-cpu", "max,pauth=off"]),
        ("qemu  -s   8M ", vec!["qemu", "-s", "8M"]),
        ("qemu -cpu max ! -strace", vec!["qemu", "-cpu", "max", "-strace"]),
        ("a/b c/d", vec!["a/b", "c/d"]),
        ("!", vec![]),
        ("", vec![]),
    ] {
        // As many arguments as make both alignments of the stack.
        for arguments in [vec!["/bin/-D"], vec!["-D", "", "-x"], vec!["-D", "a b", "-x", "--"]] {
            let argv = [vec![interpreter], arguments.clone()].concat();
            let launched = stack(&argv, &environment, &auxv).launched();
            let argv = [options.clone(), vec!["--"], arguments].concat();
            let mut expected = stack(&argv, &environment, &auxv);
            expected.auxv[3].1 = entry();
            assert_eq!(launched, expected, "{interpreter:?}");
        }
    }
}

#[test]
fn many_arguments_and_variables() {
    let argv: Vec<String> = (0..200_000).map(|n| format!("{n}")).collect();
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let blanks = " -x".repeat(80);
    let with_name = [&[&*blanks], &argv[..]].concat();
    let given = stack(&with_name, &argv, &[(AT_EXECFD, 3)]);
    let launched = given.launched();
    assert_eq!(launched.argv.len(), 80 + 1 + argv.len());
    assert_eq!(
        (&launched.argv[80..82], &launched.argv[82..]),
        (&["--", "0"].map(String::from)[..], &given.argv[2..])
    );
    assert_eq!((launched.envp, launched.auxv), (given.envp, given.auxv));
}

#[test]
fn no_arguments_at_all() {
    let launched = stack(&[], &["A=1"], &[(AT_EXECFD, 3), (AT_SECURE, 1)]).launched();
    assert_eq!(launched, stack(&[], &["A=1"], &[(AT_EXECFD, 3), (AT_SECURE, 1)]));
    let launched = stack(&["qemu"], &[], &[(AT_EXECFD, 3), (AT_SECURE, 1)]).launched();
    assert_eq!(launched, stack(&["qemu", "--"], &[], &[(AT_EXECFD, 3), (AT_SECURE, 1)]));
}

/// In one test: descriptors and limits are the whole process's.
#[test]
fn set_user_id_runs() {
    let core_limit = || {
        let mut limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
        // SAFETY: the pointer is to a structure of ours.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit) }, 0);
        (limit.rlim_cur, limit.rlim_max)
    };
    // In directories that are root's alone; the machine's own shell is.
    let program = std::fs::canonicalize("/bin/sh").unwrap();
    let file = File::open(&program).unwrap();
    let fd = usize::try_from(file.as_raw_fd()).unwrap();
    let given = stack(
        &["qemu -cpu max ! -strace", "-D", "-su"],
        &[
            "QEMU_LOG=1",
            "A=1",
            "LD_X=1",
            "QEMU",
            "GLIBC_TUNABLES=x",
            "GLIBC_TUNABLESX=1",
            "QEM_=1",
            "=QEMU_",
            "QEMU_",
        ],
        &[(AT_EXECFD, fd), (AT_SECURE, 1), (AT_FLAGS, 1)],
    );
    let name = program.to_str().unwrap();
    assert_eq!(
        given.launched(),
        stack(
            &["qemu", "-cpu", "max", "--", name, "-su"],
            &["A=1", "QEMU", "GLIBC_TUNABLESX=1", "QEM_=1", "=QEMU_"],
            &given.auxv,
        )
    );
    assert_eq!(core_limit(), (0, 0), "soft and hard");

    // What has no name, or one that says so, or one that others can give to another file, gets a name
    // that leads nowhere.
    let directory = std::env::temp_dir(); // everybody's
    let path = directory.join(format!("stacks-test-{}", std::process::id()));
    let others = File::create(&path).unwrap();
    let gone = File::create(path.with_extension("gone")).unwrap();
    std::fs::remove_file(path.with_extension("gone")).unwrap();
    for fd in [others.as_raw_fd(), gone.as_raw_fd(), 999_999, i32::MAX] {
        let fd = usize::try_from(fd).unwrap();
        let launched =
            stack(&["qemu", "-D", "x"], &[], &[(AT_EXECFD, fd), (AT_SECURE, 1)]).launched();
        assert_eq!(launched.argv, ["qemu", "--", "", "x"]);
    }
    std::fs::remove_file(path).unwrap();

    closed_standard_streams(&file, name);
}

fn closed_standard_streams(file: &File, name: &str) {
    // SAFETY: what is closed here is put back from its duplicate.
    unsafe {
        for low in 0..3 {
            let kept = libc::dup(low);
            assert_eq!(libc::dup2(file.as_raw_fd(), low), low);
            for secure in [0, 1] {
                assert_eq!(libc::dup2(file.as_raw_fd(), low), low);
                let auxv = [(AT_EXECFD, usize::try_from(low).unwrap()), (AT_SECURE, secure)];
                let launched = stack(&["qemu", "./-D", "x"], &[], &auxv).launched();
                let moved = i32::try_from(launched.auxv[0].1).unwrap();
                assert!(moved > 2, "{moved}");
                assert_eq!(launched.argv[2], ["./-D", name][secure].to_owned());
                assert_eq!(libc::fcntl(low, libc::F_GETFD), -1, "{low} is closed");
                assert_eq!(libc::close(moved), 0);
            }
            assert_eq!(libc::dup2(kept, low), low);
            libc::close(kept);
        }
    }
}
