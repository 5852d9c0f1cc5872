//! Prepared copies of emulators, with the launcher in them: which file each was made from, and whether
//! it may be used. Each ends in a [`Record`]. Changes nothing.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use rustix::fs::StatVfsMountFlags;
use serde::{Deserialize, Serialize};

use crate::binfmt::hex;
use crate::emulator::Emulator;
use crate::launcher;
use crate::message::{self, Call};
use crate::policy::Sha256Sum;
use crate::trust::Host;

/// Where prepared copies are, under the names of the emulators.
pub const DIRECTORY: &str = "/var/lib/toolbx-arch/emulators";
/// Changes with the way in which copies are made.
const FORMAT: u32 = 1;
/// The size of a record, which blanks fill up: enough for a path of half a page.
const RECORD_LEN: usize = 3072;

/// What a prepared copy says of itself, at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// How it was made.
    format: u32,
    /// The sum of the launcher in it.
    launcher: String,
    /// What it was made from.
    source: Source,
    /// The sum of that file.
    sha256: String,
}

/// Which file an emulator is, without reading all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    /// Where it is.
    path: PathBuf,
    /// In bytes.
    size: u64,
    /// Seconds and nanoseconds. Some systems set all to the same.
    mtime: (i64, i64),
    /// In hexadecimal, if it has one.
    build_id: Option<String>,
}

impl Record {
    /// Of a copy of `emulator`, whose sum is `sha256`, that is made now.
    pub fn new(emulator: &Emulator, sha256: Sha256Sum) -> Result<Self> {
        Ok(Self {
            format: FORMAT,
            launcher: launcher::SHA256.into(),
            source: Source::of(emulator)?,
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
            && Source::of(emulator).is_ok_and(|source| source == self.source)
            && emulator.sha256.is_none_or(|sum| sum.to_string() == self.sha256)
    }
}

impl Source {
    fn of(emulator: &Emulator) -> Result<Self> {
        let metadata = emulator.file.metadata().call(|| "fstat".into())?;
        Ok(Self {
            path: emulator.path.clone(),
            size: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            build_id: emulator.program.build_id.as_deref().map(hex),
        })
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
        match host.open(&path, &["var"]) {
            Ok(None) => Self::Missing,
            Ok(Some(_)) if !launcher::is_available() => Self::Missing,
            Ok(Some(file)) => Self::opened(file, &path, emulator),
            Err(why) => Self::Stale(message::line(&why)),
        }
    }

    fn opened(file: File, path: &Path, emulator: &Emulator) -> Self {
        if is_noexec(&file) {
            return Self::Stale(format!("{} is on a file system mounted noexec", path.display()));
        }
        let is_executable = file.metadata().is_ok_and(|metadata| metadata.mode() & 0o111 != 0);
        match Record::read(&file) {
            Some(record) if record.source.path != emulator.path => Self::Missing,
            Some(record) if record.is_of(emulator) => {
                if is_executable {
                    Self::Fresh(file)
                } else {
                    Self::Stale(format!("{} is not executable", path.display()))
                }
            }
            _ => Self::Stale(format!(
                "{} is not made from {} as it is now",
                path.display(),
                emulator.path.display()
            )),
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

/// Whether nothing on the mount of `file` can be executed.
fn is_noexec(file: &File) -> bool {
    rustix::fs::fstatvfs(file).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::NOEXEC))
}
