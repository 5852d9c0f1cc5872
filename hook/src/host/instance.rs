//! A binfmt_misc instance through an open directory, and the handlers in it. Only looks; what writes is in
//! [`crate::apply::register`].

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Result, ensure};
use rustix::fs::{Dir, FsWord, Mode, OFlags};
use rustix::io::Errno;

use crate::arch::Arch;
use crate::arch::binfmt::{Entry, serving};
use crate::base::message::Call;

/// Its file system type, as `fstatfs` names it (include/uapi/linux/magic.h).
pub const BINFMTFS_MAGIC: FsWord = 0x4249_4e4d;
/// Where a binfmt_misc is mounted, on a host as in a container.
pub const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";
/// Files of an instance that are not entries.
const CONTROL_FILES: [&str; 4] = [".", "..", "register", "status"];
/// More than anybody needs; keeps the hook's time (a second or so for these) and memory bounded.
const ENTRIES_MAX: usize = 16 * 1024;
/// More than the text of any entry: interpreter, magic and mask fit into a register line.
const ENTRY_MAX: u64 = 16 * 1024;
/// As much as most entries have, so that one call reads them.
const ENTRY_USUAL: usize = 512;

/// The handlers that a container would have without us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visible {
    /// Which instance they are in.
    pub device: u64,
    /// The handlers, the newest first.
    pub entries: Vec<Entry>,
    /// Where there is one that cannot be understood (as those of type B, of Linux 7.3): how many are newer
    /// than the newest such. What is older is not to be relied on.
    pub obscure: Option<usize>,
}

impl Visible {
    /// What the engine's own processes have, if an instance is mounted where they look.
    #[must_use]
    pub fn of_the_engine() -> Option<Result<Self>> {
        Instance::mounted_at(Path::new(BINFMT_MISC)).map(|instance| instance.visible())
    }

    /// The first of `targets` whose programs do not run in containers.
    #[must_use]
    pub fn lacks(&self, targets: &[&'static Arch]) -> Option<&'static Arch> {
        targets.iter().copied().find(|arch| !self.serves(arch))
    }

    /// Whether programs of `arch` run in containers too.
    #[must_use]
    pub fn serves(&self, arch: &Arch) -> bool {
        let known = self.obscure.unwrap_or(self.entries.len());
        serving(&self.entries[..known], arch).is_some_and(Entry::works_in_containers)
    }
}

/// What a file of an instance is.
#[derive(Debug)]
pub(crate) enum EntryFile {
    /// This entry.
    Understood(Entry),
    /// An entry that cannot be understood, and whether it takes part at exec.
    Obscure { enabled: bool },
}

/// The root directory of a binfmt_misc mount.
#[derive(Debug)]
pub struct Instance {
    dir: OwnedFd,
}

impl AsFd for Instance {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
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

    /// Its entries, the newest, which the kernel tries first, at the front; and how many come before the
    /// first enabled one, if any, that cannot be understood.
    fn read(&self) -> Result<(Vec<Entry>, Option<usize>)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&self.dir, ".", flags, Mode::empty())
            .call(|| "open binfmt_misc".into())?;
        let (mut entries, mut obscure) = (Vec::new(), None);
        for file in Dir::new(dir).call(|| "read binfmt_misc".into())? {
            let file = file.call(|| "read binfmt_misc".into())?;
            let name = OsStr::from_bytes(file.file_name().to_bytes());
            if CONTROL_FILES.iter().any(|control| name == *control) {
                continue;
            }
            match self.entry(name)? {
                Some(EntryFile::Understood(entry)) => entries.push(entry),
                Some(EntryFile::Obscure { enabled: true }) => {
                    obscure = obscure.or(Some(entries.len()));
                }
                // The latter has gone meanwhile.
                Some(EntryFile::Obscure { enabled: false }) | None => {}
            }
            ensure!(
                entries.len() <= ENTRIES_MAX,
                "binfmt_misc has more than {ENTRIES_MAX} handlers; remove what is not needed"
            );
        }
        Ok((entries, obscure))
    }

    /// Its entries, as far as they can be understood, the newest first.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        Ok(self.read()?.0)
    }

    /// The entry `name`, if there is one.
    pub(crate) fn entry(&self, name: &OsStr) -> Result<Option<EntryFile>> {
        let mut text = Vec::with_capacity(ENTRY_USUAL);
        match self.open(name, OFlags::RDONLY) {
            Ok(file) => file.take(ENTRY_MAX).read_to_end(&mut text),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => Err(errno.into()),
        }
        .call(|| format!("read binfmt_misc/{}", name.display()))?;
        let enabled = !text.starts_with(b"disabled\n");
        Ok(Some(
            Entry::parse(name, &text).map_or(EntryFile::Obscure { enabled }, EntryFile::Understood),
        ))
    }

    /// Whether it takes part at exec at all.
    pub fn is_on(&self) -> Result<bool> {
        let mut text = String::new();
        let mut file = self
            .open(OsStr::new("status"), OFlags::RDONLY)
            .call(|| "open binfmt_misc/status".into())?;
        file.read_to_string(&mut text).call(|| "read binfmt_misc/status".into())?;
        Ok(text.trim_end() == "enabled")
    }

    /// All that there is to know of it. Nothing, if it is switched off.
    pub fn visible(&self) -> Result<Visible> {
        let (entries, obscure) = if self.is_on()? { self.read()? } else { (Vec::new(), None) };
        Ok(Visible { device: self.device()?, entries, obscure })
    }

    /// Which instance it is: all mounts of one have the same device number.
    pub fn device(&self) -> Result<u64> {
        Ok(rustix::fs::fstat(&self.dir).call(|| "fstat binfmt_misc".into())?.st_dev)
    }

    pub(crate) fn open(&self, name: &OsStr, flags: OFlags) -> rustix::io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, name, flags, Mode::empty()).map(File::from)
    }
}
