//! Finds out for which architecture a container's programs are: looks up what it will execute, as
//! the runtime and the kernel will, and reads ELF headers. What an image declares does not matter.
//!
//! Works below an open root directory, follows no link out of it, opens regular files only, and
//! reads a few hundred bytes of a few of them.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};

use crate::arch::{self, Arch};
use crate::oci::Command;

/// As much of a file as the kernel reads to find out what it is (`BINPRM_BUF_SIZE`).
const HEAD: usize = 256;
/// How often `#!` may lead to another script (`exec_binprm`: five rewrites in all).
const SCRIPTS_MAX: usize = 5;
/// More directories than any PATH has; keeps the time bounded.
const PATH_MAX: usize = 256;
/// Where the runtimes look if a container has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// One of these is in nearly every image: a shell, or the loader of its programs.
const USUAL: [&str; 14] = [
    "/bin/sh",
    "/bin/busybox",
    "/usr/bin/env",
    "/sbin/init",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-linux-armhf.so.3",
    "/lib64/ld64.so.2",
    "/lib/ld64.so.1",
    "/lib/ld-linux-riscv64-lp64d.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
    "/lib/ld-musl-armhf.so.1",
    "/lib/ld.so.1",
];
/// A file system that does not answer must not keep a container from starting, or failing, by
/// itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// A program of the container, and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// Its architecture: the host's own, too.
    pub arch: &'static Arch,
    /// Where it is in the container; for a script, its interpreter.
    pub program: PathBuf,
    /// Whether it is the very program that the container begins with.
    pub is_first: bool,
}

/// Looks at the programs of the container whose root directory is `root`, and which begins with
/// `command`, until one is found that tells. `None` where none does, or where the file system does
/// not answer within three seconds.
///
/// A native program that lies on another mount than the rest was put there by the engine or the
/// user: an init, a tool, Toolbx. Then what it will run tells, or what is usually in an image.
#[must_use]
pub fn detect(root: OwnedFd, command: Command) -> Option<Detected> {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = sender.send(detect_in(&Root { dir: root }, &command));
    });
    let detected = receiver.recv_timeout(PATIENCE).ok()?;
    // A process with two threads cannot enter a user namespace.
    thread.join().ok()?;
    detected
}

fn detect_in(root: &Root, command: &Command) -> Option<Detected> {
    let first = root.look_up(command.args.first()?, command)?;
    let tells = |found: &Found| !found.is_native() || found.is_of_image;
    if let Some(detected) = root.follow(&first, &command.cwd).filter(tells) {
        return Some(detected.detected(true));
    }
    // What an init is to run follows a "--".
    let mut rest = command.args.iter().skip_while(|arg| *arg != "--").skip(1);
    let next = rest.next().and_then(|arg| root.look_up(arg, command));
    let usual = USUAL.iter().map(|path| Some(PathBuf::from(path)));
    std::iter::once(next)
        .chain(usual)
        .flatten()
        .filter_map(|path| root.follow(&path, &command.cwd))
        .find(tells)
        .map(|found| found.detected(false))
}

/// An ELF file.
struct Found {
    arch: &'static Arch,
    path: PathBuf,
    /// Whether it lies on the mount of the root directory.
    is_of_image: bool,
}

impl Found {
    fn is_native(&self) -> bool {
        self.arch.is_native()
    }

    fn detected(self, is_first: bool) -> Detected {
        Detected { arch: self.arch, program: self.path, is_first }
    }
}

/// What the first bytes of a file say.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Elf(&'static Arch),
    Script(PathBuf),
    Other,
}

/// A container's root directory.
struct Root {
    dir: OwnedFd,
}

impl Root {
    /// Where a command's name leads, as execvpe(3) has it. `None` if nowhere.
    fn look_up(&self, name: &str, command: &Command) -> Option<PathBuf> {
        if name.is_empty() {
            return None;
        }
        if name.contains('/') {
            return Some(command.cwd.join(name));
        }
        let path = command.env.iter().find_map(|variable| variable.strip_prefix("PATH="));
        path.unwrap_or(DEFAULT_PATH)
            .split(':')
            .take(PATH_MAX)
            .map(|directory| command.cwd.join(directory).join(name))
            .find(|path| self.open(path).is_some())
    }

    /// The ELF file at `path`, or the one that the script there leads to; relative names begin at
    /// `cwd`.
    fn follow(&self, path: &Path, cwd: &Path) -> Option<Found> {
        let mut path = path.to_owned();
        for _ in 0..=SCRIPTS_MAX {
            let (file, mount) = self.open(&path)?;
            match kind(&head(&file)) {
                Kind::Elf(arch) => {
                    let is_of_image = mount == mount_id(&self.dir)?;
                    return Some(Found { arch, path, is_of_image });
                }
                Kind::Script(interpreter) => path = cwd.join(interpreter),
                Kind::Other => return None,
            }
        }
        None
    }

    /// Opens a regular file that somebody may execute; with the id of its mount.
    fn open(&self, path: &Path) -> Option<(File, u64)> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let found = rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), resolve).ok()?;
        let stat = rustix::fs::fstat(&found).ok()?;
        let is_program = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_mode & 0o111 != 0;
        if !is_program {
            return None;
        }
        let mount = mount_id(&found)?;
        // Not by its name again: the descriptor's magic link leads to the very file.
        let link = format!("/proc/self/fd/{}", found.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Some((File::from(rustix::fs::open(link, flags, Mode::empty()).ok()?), mount))
    }
}

fn mount_id(fd: &OwnedFd) -> Option<u64> {
    let statx = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    Some(statx.stx_mnt_id)
}

/// The first bytes of a file: 256, or all that it has.
fn head(file: &File) -> Vec<u8> {
    let mut head = vec![0; HEAD];
    let mut length = 0;
    while length < HEAD {
        match file.read_at(&mut head[length..], length as u64) {
            Ok(0) | Err(_) => break,
            Ok(more) => length += more,
        }
    }
    head.truncate(length);
    head
}

/// What the kernel would take a file for that begins with `head` (`load_elf_binary`, `load_script`).
fn kind(head: &[u8]) -> Kind {
    if let Some(arch) = arch::of_header(head) {
        return Kind::Elf(arch);
    }
    let Some(line) = head.strip_prefix(b"#!") else { return Kind::Other };
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let end = line.iter().position(|byte| *byte == b'\n');
    let line = line[..end.unwrap_or(line.len())].trim_ascii_start();
    let name = line.split(|byte| is_blank(byte) || *byte == 0).next().unwrap_or_default();
    // Without an end within what was read, a name may be longer.
    let is_cut = end.is_none() && name.len() == line.len() && head.len() == HEAD;
    if name.is_empty() || is_cut {
        return Kind::Other;
    }
    Kind::Script(PathBuf::from(OsStr::from_bytes(name)))
}

#[cfg(test)]
mod tests;
