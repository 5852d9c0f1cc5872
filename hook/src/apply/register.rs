//! Registering handlers in a binfmt_misc instance, in place of others, or beside them. Mounts nothing.

use std::ffi::OsStr;
use std::io::Write;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::arch::binfmt::{Entry, Handler, serving};
use crate::base::message::Call;
use crate::host::instance::{EntryFile, Instance};

/// Why there may be no room for one more (Linux 7.3), and what to do.
const FULL: &str = "there may be no more handlers than the sysctl user.max_binfmt_misc_interpreters says, \
                    those of the machine included; raise it, or take handlers of the machine away";
/// How often a name is taken back from whoever takes it at the same time.
const REPLACE_MAX: usize = 8;

impl Instance {
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

    /// Makes sure that the entry `name` is what `handler` asks for, and takes part at exec.
    fn reuse(&self, name: &str, handler: &Handler) -> Result<()> {
        match self.entry(OsStr::new(name))? {
            // It may hold another file of that path.
            Some(EntryFile::Understood(entry))
                if entry.is_like(handler) && handler.sum_required =>
            {
                self.replace(name, handler)
            }
            Some(EntryFile::Understood(entry)) if entry.is_like(handler) && entry.enabled => Ok(()),
            Some(EntryFile::Understood(entry)) if entry.is_like(handler) => {
                self.write(OsStr::new(name), b"1").call(|| format!("enable binfmt_misc/{name}"))
            }
            Some(EntryFile::Understood(entry)) => Err(conflict(handler, &entry)),
            Some(EntryFile::Obscure { .. }) => {
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
        other.interpreter,
        other.name.display()
    )
}
