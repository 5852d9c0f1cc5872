//! A binfmt_misc instance through an open directory: its entries, and registering new ones.
//! Mounts nothing.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Result, anyhow, bail, ensure};
use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::arch::Arch;
use crate::binfmt::{Entry, Handler, serving};
use crate::container::BINFMTFS_MAGIC;
use crate::message::Call;

/// Files of an instance that are not entries.
const CONTROL_FILES: [&str; 4] = [".", "..", "register", "status"];
/// More than the text of any entry: interpreter, magic and mask fit into a register line.
const ENTRY_MAX: u64 = 16 * 1024;

/// The root directory of a binfmt_misc mount.
#[derive(Debug)]
pub struct Instance {
    dir: OwnedFd,
}

impl Instance {
    /// Takes `dir` for an instance. Fails if it is none.
    pub fn new(dir: OwnedFd) -> Result<Self> {
        let fs = rustix::fs::fstatfs(&dir).call(|| "fstatfs binfmt_misc".into())?;
        ensure!(
            fs.f_type == BINFMTFS_MAGIC,
            "the mount is not a binfmt_misc, but {:#x}",
            fs.f_type
        );
        Ok(Self { dir })
    }

    /// The instance that is mounted at `path`, if one is. An automount there is not triggered.
    #[must_use]
    pub fn mounted_at(path: &Path) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Self::new(rustix::fs::open(path, flags, Mode::empty()).ok()?).ok()
    }

    /// Its entries, the newest, which the kernel tries first, at the front. Those that vanish
    /// meanwhile, and those this project cannot understand, are left out.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&self.dir, ".", flags, Mode::empty())
            .call(|| "open binfmt_misc".into())?;
        let mut entries = Vec::new();
        for file in Dir::new(dir).call(|| "read binfmt_misc".into())? {
            let file = file.call(|| "read binfmt_misc".into())?;
            let name = OsStr::from_bytes(file.file_name().to_bytes());
            if !CONTROL_FILES.iter().any(|control| name == *control) {
                entries.extend(self.entry(name)?);
            }
        }
        Ok(entries)
    }

    /// The entry `name`, if there is one.
    fn entry(&self, name: &OsStr) -> Result<Option<Entry>> {
        let mut text = Vec::new();
        match self.open(name, OFlags::RDONLY) {
            Ok(file) => file.take(ENTRY_MAX).read_to_end(&mut text),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => Err(errno.into()),
        }
        .call(|| format!("read binfmt_misc/{}", name.display()))?;
        Ok(Entry::parse(name, &text))
    }

    /// Whether this instance runs programs of `arch` in containers too.
    pub fn serves(&self, arch: &Arch) -> Result<bool> {
        let globally_on = {
            let mut text = String::new();
            let mut file = self
                .open(OsStr::new("status"), OFlags::RDONLY)
                .call(|| "open binfmt_misc/status".into())?;
            file.read_to_string(&mut text).call(|| "read binfmt_misc/status".into())?;
            text.trim_end() == "enabled"
        };
        let entries = self.entries()?;
        Ok(globally_on && serving(&entries, arch).is_some_and(Entry::works_in_containers))
    }

    /// Registers `handler`, unless it is there already. `true` if it was not.
    ///
    /// Fails, changing nothing, where another emulator is registered for the same programs: this
    /// would take them away from the containers that rely on it.
    pub fn register(&self, handler: &Handler) -> Result<bool> {
        if let Some(other) = serving(&self.entries()?, handler.arch)
            && !other.is_like(handler)
        {
            return Err(conflict(handler, other));
        }
        let name = handler.name();
        match self.write(OsStr::new("register"), &handler.line()?) {
            Ok(()) => Ok(true),
            // By an earlier container, or by one that starts at the same time.
            Err(Errno::EXIST) => self.reuse(&name, handler).map(|()| false),
            Err(errno) => Err(errno).call(|| {
                format!(
                    "register {name} with emulator {} in binfmt_misc",
                    handler.interpreter.display()
                )
            }),
        }
    }

    /// Makes sure that the entry `name` is what `handler` asks for, and takes part at exec.
    fn reuse(&self, name: &str, handler: &Handler) -> Result<()> {
        match self.entry(OsStr::new(name))? {
            Some(entry) if entry.is_like(handler) && entry.enabled => Ok(()),
            Some(entry) if entry.is_like(handler) => {
                self.write(OsStr::new(name), b"1").call(|| format!("enable binfmt_misc/{name}"))
            }
            Some(entry) => Err(conflict(handler, &entry)),
            None => bail!("binfmt_misc/{name} cannot be understood, and is not ours"),
        }
    }

    /// Takes the entry of `handler` away. Best effort: part of undoing.
    pub fn unregister(&self, handler: &Handler) {
        let _ = self.write(OsStr::new(&handler.name()), b"-1");
    }

    fn open(&self, name: &OsStr, flags: OFlags) -> rustix::io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, name, flags, Mode::empty()).map(File::from)
    }

    fn write(&self, name: &OsStr, text: &[u8]) -> rustix::io::Result<()> {
        // In one call: the kernel takes every write for a whole line.
        let mut file = self.open(name, OFlags::WRONLY)?;
        file.write(text)
            .map(|_| ())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

fn conflict(handler: &Handler, other: &Entry) -> anyhow::Error {
    anyhow!(
        "this user namespace already runs {} programs with {} (handler {}), and other containers \
         rely on it; start this container in a user namespace of its own: --userns=auto or \
         --userns=keep-id",
        handler.arch.name,
        other.interpreter.display(),
        other.name.display()
    )
}
