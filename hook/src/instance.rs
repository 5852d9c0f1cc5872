//! A binfmt_misc instance through an open directory: its entries, and registering new ones.
//! Mounts nothing.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::arch::Arch;
use crate::binfmt::{Entry, Handler, serving};
use crate::container::BINFMTFS_MAGIC;
use crate::kernel;
use crate::message::Call;
use crate::mounts::{self, Mounts};

/// Where a binfmt_misc is mounted, on a host as in a container.
pub const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";
/// Why there may be no room for one more (Linux 7.3), and what to do.
const FULL: &str = "there may be no more handlers than the sysctl user.max_binfmt_misc_interpreters says, \
                    those of the machine included; raise it, or take handlers of the machine away";
/// How often a name is taken back from whoever takes it at the same time.
const REPLACE_MAX: usize = 8;
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
enum Found {
    /// This entry.
    Understood(Entry),
    /// An entry that cannot be understood, and whether it takes part at exec.
    Obscure { enabled: bool },
}

/// Where an instance can be kept mounted beyond a container's life: in the mount namespace of the
/// engine.
#[derive(Debug)]
pub struct Keep {
    /// That namespace.
    pub mount_namespace: OwnedFd,
    /// Its `/proc/sys/fs/binfmt_misc`.
    pub place: OwnedFd,
}

impl Keep {
    /// In the mount namespace of this process, at `path`. `None` where a mount there could reach
    /// other namespaces, or nothing can be mounted.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        let mount_namespace = mounts::own_namespace().ok()?;
        let namespace = kernel::mount_namespace_id(&mount_namespace).ok();
        let (_, mount) = Mounts::of(namespace, &place, mounts::own).ok()?;
        (!mount.shared).then_some(Self { mount_namespace, place })
    }
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
                Some(Found::Understood(entry)) => entries.push(entry),
                Some(Found::Obscure { enabled: true }) => {
                    obscure = obscure.or(Some(entries.len()));
                }
                // The latter has gone meanwhile.
                Some(Found::Obscure { enabled: false }) | None => {}
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
    fn entry(&self, name: &OsStr) -> Result<Option<Found>> {
        let mut text = Vec::with_capacity(ENTRY_USUAL);
        match self.open(name, OFlags::RDONLY) {
            Ok(file) => file.take(ENTRY_MAX).read_to_end(&mut text),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => Err(errno.into()),
        }
        .call(|| format!("read binfmt_misc/{}", name.display()))?;
        let enabled = !text.starts_with(b"disabled\n");
        Ok(Some(Entry::parse(name, &text).map_or(Found::Obscure { enabled }, Found::Understood)))
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

    /// Fails if the whole instance is switched off.
    pub fn ensure_on(&self) -> Result<()> {
        ensure!(
            self.is_on()?,
            "binfmt_misc is switched off in this user namespace, which other containers share; \
             start this container in one of its own: --userns=auto or --userns=keep-id"
        );
        Ok(())
    }

    /// Registers `handler`, unless it is there already. Fails where its name is taken by something
    /// else.
    pub fn register(&self, handler: &Handler) -> Result<()> {
        let name = handler.name();
        let written = self.write(OsStr::new("register"), &handler.entry().line()?);
        if written == Err(Errno::EXIST) {
            // By an earlier container, or by one that starts at the same time.
            return self.reuse(&name, handler);
        }
        let emulator = handler.emulator.display();
        done(written, || format!("register {name} with emulator {emulator} in binfmt_misc"))
    }

    /// Registers again what another instance had, unless something of that name is here already.
    pub fn carry_over(&self, entry: &Entry) -> Result<()> {
        match self.write(OsStr::new("register"), &entry.without_credentials().line()?) {
            Err(Errno::EXIST) => Ok(()),
            written => done(written, || format!("register {}", entry.interpreter.display())),
        }
    }

    /// Makes sure that the entry `name` is what `handler` asks for, and takes part at exec.
    fn reuse(&self, name: &str, handler: &Handler) -> Result<()> {
        match self.entry(OsStr::new(name))? {
            // It may hold another file of that path.
            Some(Found::Understood(entry)) if entry.is_like(handler) && handler.pinned => {
                self.replace(name, handler)
            }
            Some(Found::Understood(entry)) if entry.is_like(handler) && entry.enabled => Ok(()),
            Some(Found::Understood(entry)) if entry.is_like(handler) => {
                self.write(OsStr::new(name), b"1").call(|| format!("enable binfmt_misc/{name}"))
            }
            Some(Found::Understood(entry)) => Err(conflict(handler, &entry)),
            Some(Found::Obscure { .. }) => {
                bail!("binfmt_misc/{name} cannot be understood, and is not ours")
            }
            None => bail!("binfmt_misc/{name} has gone meanwhile; start the container again"),
        }
    }

    /// Registers `handler` anew, in place of the entry `name`. Meanwhile it is there under a name of this
    /// process's own: other containers rely on it.
    fn replace(&self, name: &str, handler: &Handler) -> Result<()> {
        let entry = handler.entry();
        let meanwhile =
            Entry { name: format!("{name}.{}", std::process::id()).into(), ..entry.clone() };
        self.register_anew(&meanwhile)?;
        let replaced = self.remove(&entry.name).and_then(|()| self.register_anew(&entry));
        // If that failed, it is better than none.
        replaced.and_then(|()| self.remove(&meanwhile.name))
    }

    /// Registers `entry`, and nothing that somebody else has registered by its name.
    fn register_anew(&self, entry: &Entry) -> Result<()> {
        let line = entry.line()?;
        let mut written = self.write(OsStr::new("register"), &line);
        for _ in 0..REPLACE_MAX {
            if written != Err(Errno::EXIST) {
                break;
            }
            self.remove(&entry.name)?;
            written = self.write(OsStr::new("register"), &line);
        }
        done(written, || format!("replace binfmt_misc/{}", entry.name.display()))
    }

    /// Takes the entry `name` away, if it is there.
    fn remove(&self, name: &OsStr) -> Result<()> {
        match self.write(name, b"-1") {
            Err(Errno::NOENT) => Ok(()),
            removed => removed.call(|| format!("remove binfmt_misc/{}", name.display())),
        }
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

/// What came of the `call` by which something was to be registered.
fn done(written: rustix::io::Result<()>, call: impl FnOnce() -> String) -> Result<()> {
    let is_full = written == Err(Errno::NOSPC);
    let written = written.call(call);
    if is_full { written.context(FULL) } else { written }
}

/// Fails where other containers rely on another of the `entries` for the programs of `handler`: the
/// kernel prefers what is registered last, so ours would take them away. Fails too where the name
/// is taken.
pub fn ensure_free(entries: &[Entry], handler: &Handler) -> Result<()> {
    let relied_on = serving(entries, handler.arch).filter(|entry| entry.works_in_containers());
    let namesake = entries.iter().find(|entry| entry.name == *handler.name());
    match relied_on.into_iter().chain(namesake).find(|entry| !entry.is_like(handler)) {
        Some(other) => Err(conflict(handler, other)),
        None => Ok(()),
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
