//! Prepared copies of emulators, with the launcher in them: which file each was made from, and whether
//! it may be used. Each ends in a [`Record`]. Changes nothing.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use rustix::fs::StatVfsMountFlags;
use serde::{Deserialize, Serialize};

use crate::arch::binfmt::hex;
use crate::base::message::{self, Call};
use crate::host::emulator::Emulator;
use crate::host::launcher;
use crate::host::policy::Sha256Sum;
use crate::host::selinux::SelinuxLabel;
use crate::host::trust::Host;

/// Where prepared copies are, under the names of the emulators. `SELinux`'s policies label what lies
/// there like the programs in `/usr/bin`; and where `/usr` is an image, the copies are in it, with the
/// emulators that they are made from.
pub const DIRECTORY: &str = "/usr/libexec/toolbx-arch/emulators";
/// Changes with the way in which copies are made.
const FORMAT: u32 = 1;
/// The size of a record, which blanks fill up: enough for a path of half a page.
const RECORD_LEN: usize = 3072;

/// What a prepared copy says of itself, at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyRecord {
    /// How it was made.
    format: u32,
    /// The sum of the launcher in it.
    launcher: String,
    /// What it was made from.
    source: CopySource,
    /// The sum of that file.
    sha256: String,
}

/// Which file an emulator is, without reading all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CopySource {
    /// Where it is.
    path: PathBuf,
    /// In bytes.
    size: u64,
    /// Seconds and nanoseconds.
    mtime: (i64, i64),
    /// In hexadecimal, if it has one.
    build_id: Option<String>,
}

impl CopyRecord {
    /// Of a copy of `emulator`, whose sum is `sha256`, that is made now.
    pub fn new(emulator: &Emulator, sha256: Sha256Sum) -> Result<Self> {
        Ok(Self {
            format: FORMAT,
            launcher: launcher::SHA256.into(),
            source: CopySource::of(emulator)?,
            sha256: sha256.to_string(),
        })
    }

    /// The one at the end of `file`, if there is one.
    fn read(file: &File) -> Option<Self> {
        let length = file.metadata().ok()?.len();
        let mut text = [0; RECORD_LEN];
        file.read_exact_at(&mut text, length.checked_sub(RECORD_LEN as u64)?).ok()?;
        serde_json::from_slice(text.trim_ascii_end()).ok()
    }

    /// Appends it to `file`.
    pub fn append(&self, mut file: &File) -> Result<()> {
        let mut text = serde_json::to_vec(self)?;
        ensure!(text.len() <= RECORD_LEN, "the record does not fit into {RECORD_LEN} bytes");
        text.resize(RECORD_LEN, b' ');
        file.seek(SeekFrom::End(0)).call(|| "lseek".into())?;
        file.write_all(&text).call(|| "write".into())
    }

    /// Whether a copy made from `emulator` now would be the same.
    fn is_of(&self, emulator: &Emulator) -> bool {
        self.format == FORMAT
            && self.launcher == launcher::SHA256
            && CopySource::of(emulator).is_ok_and(|now| self.source.is_still(&now))
            && emulator.sha256.is_none_or(|sum| sum.to_string() == self.sha256)
    }
}

impl CopySource {
    fn of(emulator: &Emulator) -> Result<Self> {
        let metadata = emulator.file.metadata().call(|| "fstat".into())?;
        Ok(Self {
            path: emulator.path.clone(),
            size: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            build_id: emulator.program.build_id.as_deref().map(hex),
        })
    }

    /// Whether the file is this one `now`. Where `/usr` comes as an image (ostree) no file keeps its time,
    /// and the build ID has to do.
    fn is_still(&self, now: &Self) -> bool {
        let has_no_time = now.mtime == (0, 0) && now.build_id.is_some();
        (self.mtime == now.mtime || has_no_time)
            && (&self.path, self.size, &self.build_id) == (&now.path, now.size, &now.build_id)
    }
}

/// What there is of the prepared copy of an emulator.
#[derive(Debug)]
pub enum Prepared {
    /// One to be used: made from the emulator as it is now, and nobody but root can write it.
    Fresh(File),
    /// One that is not to be used, for this reason.
    Stale(String),
    /// None.
    Missing,
}

impl Prepared {
    /// Where that of `emulator` is, if there is one.
    #[must_use]
    pub fn path(emulator: &Emulator) -> PathBuf {
        Path::new(DIRECTORY).join(emulator.path.file_name().unwrap_or_default())
    }

    /// Looks for that of `emulator`. One of another file of that name is none.
    #[must_use]
    pub fn of(emulator: &Emulator, host: &Host) -> Self {
        let path = Self::path(emulator);
        match host.open(&path, &["usr"]) {
            Ok(None) => Self::Missing,
            Ok(Some(_)) if !launcher::is_available() => Self::Missing,
            Ok(Some(file)) => Self::opened(file, &path, emulator),
            Err(why) => Self::Stale(message::line(&why)),
        }
    }

    fn opened(file: File, path: &Path, emulator: &Emulator) -> Self {
        let record = CopyRecord::read(&file);
        if record.as_ref().is_some_and(|record| record.source.path != emulator.path) {
            return Self::Missing;
        }
        match ensure_fresh(&file, record.as_ref(), emulator) {
            Ok(()) => Self::Fresh(file),
            Err(why) => Self::Stale(format!("{} {}", path.display(), message::line(&why))),
        }
    }

    /// As people and programs are told it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fresh(_) => "fresh",
            Self::Stale(_) => "stale",
            Self::Missing => "missing",
        }
    }
}

/// Fails, saying why, if the copy that is open as `file` is not to be used for `emulator`.
fn ensure_fresh(file: &File, record: Option<&CopyRecord>, emulator: &Emulator) -> Result<()> {
    ensure!(!is_noexec(file), "is on a file system mounted noexec");
    ensure!(
        record.is_some_and(|record| record.is_of(emulator)),
        "is not made from {} as it is now",
        emulator.path.display()
    );
    let metadata = file.metadata().call(|| "fstat".into())?;
    ensure!(metadata.mode() & 0o111 != 0, "is not executable");
    // With another one, containers that may execute the emulator may not execute its copy: every
    // foreign program would be killed before its first instruction.
    let (label, emulators) = (SelinuxLabel::of(file)?, SelinuxLabel::of(&emulator.file)?);
    ensure!(
        label == emulators,
        "has another SELinux label than its emulator: {label} instead of {emulators}"
    );
    Ok(())
}

/// Whether nothing on the mount of `file` can be executed.
fn is_noexec(file: &File) -> bool {
    rustix::fs::fstatvfs(file).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::NOEXEC))
}
