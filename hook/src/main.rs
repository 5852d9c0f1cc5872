//! toolbx-arch-hook, started by OCI runtimes. See toolbx-arch-hook(8).

use std::io::Write;

use dlmalloc::GlobalDlmalloc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, Resource, Rlimit};
use toolbx_arch::asked::hook_arguments::HookArguments;
use toolbx_arch::base::{kernel, message};
use toolbx_arch::hook;
use toolbx_arch::precreate::{self, Whom};

const HELP: &str = "\
toolbx-arch-hook: makes containers of another CPU architecture run (an OCI runtime hook)

Usage:
  toolbx-arch-hook create-runtime   handle the container whose state is on standard input
  toolbx-arch-hook prestart         the same, for runtimes that know only that stage
  toolbx-arch-hook precreate [--annotated]
                                    rewrite the config.json on standard input: a user namespace
                                    of its own for a container that is to be emulated, and,
                                    with --annotated, has an annotation (Podman)
  toolbx-arch-hook --help | --version

Runtimes start it; to make one do so: podman run --annotation toolbx.arch=arm64 IMAGE
Exit status: 0 done or nothing to do, 1 the container cannot have what it asked for, 2 usage.
Whether it works here: toolbx-arch doctor
More: toolbx-arch-hook(8), toolbx-arch-policy(5)
";

/// Takes memory from the kernel in larger pieces, and keeps it. musl's own allocator calls mmap and
/// munmap every few blocks.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

/// Exit statuses.
const DONE: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;

fn main() -> std::process::ExitCode {
    isolate();
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).into()
}

/// Does what the arguments say. Returns the exit status.
fn run(arguments: &[&str]) -> u8 {
    match arguments {
        ["create-runtime" | "prestart", given @ ..] => HookArguments::from_arguments(given)
            .map_or_else(|| not_a_command(arguments), |given| create_runtime(&given)),
        ["precreate"] => precreate(Whom::All),
        ["precreate", "--annotated"] => precreate(Whom::Annotated),
        ["--help" | "-h" | "help"] => show(HELP),
        ["--version" | "-V"] => show(concat!("toolbx-arch-hook ", env!("CARGO_PKG_VERSION"), "\n")),
        _ => not_a_command(arguments),
    }
}

fn not_a_command(arguments: &[&str]) -> u8 {
    let given = arguments.join(" ");
    complain(&format!("toolbx-arch-hook: error: not a command: {given:?}\n\n{HELP}"));
    USAGE
}

fn create_runtime(given: &HookArguments) -> u8 {
    match hook::run(given) {
        Ok(()) => DONE,
        Err(error) => {
            complain(&format!("toolbx-arch-hook: error: {}\n", message::line(&error)));
            FAILED
        }
    }
}

fn precreate(whom: Whom) -> u8 {
    match precreate::run(whom) {
        Ok(warnings) => {
            for warning in warnings {
                complain_to_engine(&format!("toolbx-arch-hook: warning: {warning}\n"));
            }
            DONE
        }
        Err(error) => {
            complain_to_engine(&format!("toolbx-arch-hook: error: {}\n", message::line(&error)));
            FAILED
        }
    }
}

/// Sheds what a runtime may have left the hook: descriptors, blocked signals, limits, umask, a
/// directory.
fn isolate() {
    kernel::close_from(3);
    // A reader who has gone is no reason to end without a word, nor is a limit on the size of files.
    let blocked = SigSet::from_iter([Signal::SIGPIPE, Signal::SIGXFSZ]);
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None);
    // A core file would be written where we are then, which may be a container.
    let _ =
        rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // Each device node of a container takes a descriptor, and a copy of an emulator 17 MB.
    for resource in [Resource::Nofile, Resource::Fsize] {
        let limit = rustix::process::getrlimit(resource);
        let raised = Rlimit { current: limit.maximum, ..limit };
        let _ = rustix::process::setrlimit(resource, raised);
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let _ = std::env::set_current_dir("/");
}

/// Writes to standard error; that nobody hears it must not change the exit status.
fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Writes to standard error, and, since Podman gives the stage `precreate` none, to Podman's own.
fn complain_to_engine(text: &str) {
    complain(text);
    // The number of /dev/null (Documentation/admin-guide/devices.txt of the kernel).
    let null = rustix::fs::makedev(1, 3);
    if rustix::fs::fstat(std::io::stderr()).is_ok_and(|stat| stat.st_rdev == null) {
        let _ = write_to_parents_stderr(text.as_bytes());
    }
}

/// Through a duplicate of the parent's descriptor: opened anew, one that is for reading only could
/// be written.
fn write_to_parents_stderr(text: &[u8]) -> rustix::io::Result<()> {
    let parent = rustix::process::getppid().ok_or(Errno::SRCH)?;
    let parent = rustix::process::pidfd_open(parent, PidfdFlags::empty())?;
    let stderr = rustix::process::pidfd_getfd(parent, 2, PidfdGetfdFlags::empty())?;
    // A terminal or a pipe that nobody reads must not make us wait.
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    if fds[0].revents().contains(PollFlags::OUT) {
        rustix::io::write(&stderr, text)?;
    }
    Ok(())
}

/// Writes to standard output; a reader who has gone is no error.
fn show(text: &str) -> u8 {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    DONE
}
