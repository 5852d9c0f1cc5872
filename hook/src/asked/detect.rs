//! Finds out for which architecture a container's programs are: looks up what it will execute, as
//! the runtime and the kernel will, and reads ELF headers. What an image declares does not matter.
//!
//! Works below an open root directory, follows no link out of it, opens regular files only, and
//! reads a few hundred bytes of a few of them.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FileType, FsWord, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::arch::{self, Arch};
use crate::asked::oci::Command;
use crate::base::child;
use crate::base::lookup;
use crate::base::mount_id::mount_id;

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
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Longer than any name and path (`PATH_MAX`).
pub const LINE_MAX: u64 = 8 * 1024;
/// File systems that need nobody else in order to answer (linux/magic.h): overlayfs, tmpfs, ext4,
/// XFS, Btrfs. Where what they lie on does not answer, the container could not be started either.
const PROMPT: [FsWord; 5] = [0x794c_7630, 0x0102_1994, 0xef53, 0x5846_5342, 0x9123_683e];

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
pub fn detect(root: BorrowedFd, command: &Command) -> Option<Detected> {
    let is_prompt = rustix::fs::fstatfs(root).is_ok_and(|statfs| PROMPT.contains(&statfs.f_type));
    let mut root = RootDirectory { dir: root, stays_on_mount: true, left_mount: Cell::new(false) };
    if is_prompt {
        let detected = detect_in(&root, command);
        if !root.left_mount.get() {
            return detected;
        }
    }
    root.stays_on_mount = false;
    let look = || detect_in(&root, command).map(|detected| detected.to_line()).unwrap_or_default();
    Detected::from_line(&child::answer(PATIENCE, LINE_MAX, look).ok()??)
}

fn detect_in(root: &RootDirectory, command: &Command) -> Option<Detected> {
    let name = command.args.first()?;
    let first = root.look_up(name, command);
    if first.is_none() && !name.contains('/') {
        return None; // nothing will be executed
    }
    let follow = |program: Executable| root.follow(program, &command.cwd);
    let tells = |found: &FoundProgram| !found.is_native() || found.is_of_image;
    if let Some(detected) = first.and_then(follow).filter(tells) {
        return Some(detected.detected(true));
    }
    // What an init is to run follows a "--".
    let mut rest = command.args.iter().skip_while(|arg| *arg != "--").skip(1);
    let next = rest.next().and_then(|arg| root.look_up(arg, command));
    let usual = USUAL.iter().map(|path| root.find(path.into()));
    std::iter::once(next)
        .chain(usual)
        .flatten()
        .filter_map(follow)
        .find(tells)
        .map(|found| found.detected(false))
}

impl Detected {
    /// For another process, which understands it by [`Self::from_line`].
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        let is_first = if self.is_first { "first" } else { "other" };
        let start = format!("{}\0{is_first}\0", self.arch.name);
        [start.as_bytes(), self.program.as_os_str().as_bytes()].concat()
    }

    /// What [`Self::to_line`] wrote.
    #[must_use]
    pub fn from_line(line: &[u8]) -> Option<Self> {
        let mut fields = line.splitn(3, |byte| *byte == 0);
        let arch = arch::find(str::from_utf8(fields.next()?).ok()?)?;
        let is_first = fields.next()? == b"first";
        let program = Path::new(OsStr::from_bytes(fields.next()?)).to_owned();
        Some(Self { arch, program, is_first })
    }
}

/// An ELF file.
struct FoundProgram {
    arch: &'static Arch,
    path: PathBuf,
    /// Whether it lies on the mount of the root directory.
    is_of_image: bool,
}

impl FoundProgram {
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

/// A regular file that somebody may execute.
struct Executable {
    path: PathBuf,
    /// Open as a location only (`O_PATH`).
    fd: OwnedFd,
}

impl Executable {
    /// Opens it for reading.
    fn open(&self) -> Option<File> {
        // Not by its name again: the descriptor's magic link leads to the very file.
        let link = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::open(link, flags, Mode::empty()).ok().map(File::from)
    }
}

/// A container's root directory.
struct RootDirectory<'a> {
    dir: BorrowedFd<'a>,
    /// Whether to open nothing on other mounts, whatever they are.
    stays_on_mount: bool,
    /// Whether there was something on another mount to be opened.
    left_mount: Cell<bool>,
}

impl RootDirectory<'_> {
    /// The program that a command's name leads to, as execvpe(3) has it.
    fn look_up(&self, name: &str, command: &Command) -> Option<Executable> {
        if name.is_empty() {
            return None;
        }
        if name.contains('/') {
            return self.find(command.cwd.join(name));
        }
        let path = command.env.iter().find_map(|variable| variable.strip_prefix("PATH="));
        path.unwrap_or(DEFAULT_PATH)
            .split(':')
            .take(PATH_MAX)
            .map(|directory| command.cwd.join(directory).join(name))
            .find_map(|path| self.find(path))
    }

    /// The ELF file that `program` is, or that a script leads to; relative names begin at `cwd`.
    fn follow(&self, mut program: Executable, cwd: &Path) -> Option<FoundProgram> {
        for _ in 0..=SCRIPTS_MAX {
            match kind(&head(&program.open()?)) {
                Kind::Elf(arch) => {
                    let is_of_image = mount_id(&program.fd).ok()? == mount_id(self.dir).ok()?;
                    return Some(FoundProgram { arch, path: program.path, is_of_image });
                }
                Kind::Script(interpreter) => program = self.find(cwd.join(interpreter))?,
                Kind::Other => return None,
            }
        }
        None
    }

    /// The regular file at `path`, if somebody may execute it.
    fn find(&self, path: PathBuf) -> Option<Executable> {
        let mut resolve = ResolveFlags::IN_ROOT;
        resolve.set(ResolveFlags::NO_XDEV, self.stays_on_mount);
        let found = lookup::location(self.dir, &path, OFlags::empty(), resolve);
        if self.stays_on_mount && found.as_ref().is_err_and(|errno| *errno == Errno::XDEV) {
            self.left_mount.set(true);
        }
        let fd = found.ok()?;
        let stat = rustix::fs::fstat(&fd).ok()?;
        let is_program = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_mode & 0o111 != 0;
        is_program.then_some(Executable { path, fd })
    }
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
    let line = &line[..end.unwrap_or(line.len())];
    // A carriage return is part of a name, as Linux has it.
    let start = line.iter().position(|byte| !is_blank(byte)).unwrap_or(line.len());
    let line = &line[start..];
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
