//! Puts the launcher (`launcher/launcher.rs`) into copies of emulators, and knows those copies again.
//!
//! A wrapped emulator is the file itself with one more segment at its end: the launcher, the distance
//! from there to the emulator's entry point, and the program headers, which have grown by one. The
//! ELF header leads to both. Whoever prepares copies for all containers appends a [`Record`] of what
//! the copy was made from.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use goblin::elf::program_header::{PF_R, PF_X, PT_LOAD, PT_PHDR, ProgramHeader};
use rustix::fs::{StatVfsMountFlags, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::binfmt::hex;
use crate::elf::{self, Program};
use crate::emulator::Emulator;
use crate::message::{self, Call};
use crate::policy::Sha256Sum;
use crate::trust::{self, Caller};

/// The launcher. Empty for a machine that it is not written for.
pub const LAUNCHER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/launcher"));
/// Where prepared copies are, under the names of the emulators.
pub const PREPARED: &str = "/var/lib/toolbx-arch/emulators";
/// Changes with the way in which copies are made.
const FORMAT: u32 = 1;
/// The size of a record, which blanks fill up: enough for a path of half a page.
const RECORD_LEN: usize = 3072;
/// The smallest page of any machine that runs the launcher, and more than the largest (64 KiB).
const ALIGNMENTS: std::ops::RangeInclusive<u64> = 4096..=64 << 20;
/// The size of a program header (`e_phentsize`), and offsets in the ELF header, of 64-bit files.
const PROGRAM_HEADER_LEN: usize = 56;
const E_PHOFF: u64 = 32;
const E_PHNUM: u64 = 56;

/// Whether there is a launcher for this machine.
#[must_use]
pub fn is_available() -> bool {
    !LAUNCHER.is_empty()
}

/// Writes `emulator` with the launcher in it to `to`, which is empty.
///
/// Fails where the file is not what its headers say, or is a prepared copy, and where it cannot be
/// written.
pub fn wrap(mut emulator: &File, program: &Program, mut to: &File) -> Result<()> {
    let length = emulator.metadata().call(|| "fstat".into())?.len();
    ensure!(Record::read(emulator).is_none(), "is a prepared copy; name the emulator itself");
    let segment = segment(program, length)?;
    emulator.rewind().call(|| "lseek".into())?;
    std::io::copy(&mut emulator, &mut to).call(|| "copy".into())?;
    let mut bytes = LAUNCHER.to_vec();
    let word = segment.p_vaddr.wrapping_add(bytes.len() as u64);
    bytes.extend(program.entry.wrapping_sub(word).to_le_bytes());
    let table = bytes.len() as u64;
    let headers = with_segment(program, &segment, table);
    bytes.extend(headers.iter().flat_map(header_bytes));
    let count = u16::try_from(headers.len()).context("too many program headers")?;
    to.seek(SeekFrom::Start(segment.p_offset)).call(|| "lseek".into())?;
    to.write_all(&bytes).call(|| "write".into())?;
    let patches: [(u64, &[u8]); 3] = [
        (elf::E_ENTRY as u64, &segment.p_vaddr.to_le_bytes()),
        (E_PHOFF, &(segment.p_offset + table).to_le_bytes()),
        (E_PHNUM, &count.to_le_bytes()),
    ];
    patches.iter().try_for_each(|(at, bytes)| to.write_all_at(bytes, *at)).call(|| "write".into())
}

/// The segment that is added: behind everything else, in the file of `length` bytes and in memory.
fn segment(program: &Program, length: u64) -> Result<ProgramHeader> {
    let loaded = || program.segments.iter().filter(|segment| segment.p_type == PT_LOAD);
    let is_whole = |segment: &ProgramHeader| {
        segment.p_offset.checked_add(segment.p_filesz).is_some_and(|end| end <= length)
    };
    ensure!(loaded().all(is_whole), "is cut off: its segments are longer than the file");
    let alignment = loaded().map(|segment| segment.p_align).max().context("has no segment")?;
    let alignment = alignment.max(*ALIGNMENTS.start());
    let end = loaded().try_fold(0, |end: u64, segment| {
        Some(end.max(segment.p_vaddr.checked_add(segment.p_memsz)?))
    });
    let after = |end: u64| end.checked_next_multiple_of(alignment);
    let (true, Some(address), Some(offset)) =
        (ALIGNMENTS.contains(&alignment), end.and_then(after), after(length))
    else {
        bail!("has segments that no program has");
    };
    // The table has one header more than there were.
    let table = (program.segments.len() + 1) * PROGRAM_HEADER_LEN;
    let size = (LAUNCHER.len() + size_of::<u64>() + table) as u64;
    Ok(ProgramHeader {
        p_type: PT_LOAD,
        p_flags: PF_R | PF_X,
        p_offset: offset,
        p_vaddr: address,
        p_paddr: address,
        p_filesz: size,
        p_memsz: size,
        p_align: alignment,
    })
}

/// The program's headers with `segment` among them. They will stand `table` bytes behind its
/// beginning, which the header that tells where they are has to say.
fn with_segment(program: &Program, segment: &ProgramHeader, table: u64) -> Vec<ProgramHeader> {
    let mut headers = program.segments.clone();
    // Loaded segments stand in the order of their addresses (System V ABI).
    let last = headers.iter().rposition(|header| header.p_type == PT_LOAD);
    headers.insert(last.map_or(0, |last| last + 1), segment.clone());
    let size = (headers.len() * PROGRAM_HEADER_LEN) as u64;
    for header in headers.iter_mut().filter(|header| header.p_type == PT_PHDR) {
        header.p_offset = segment.p_offset + table;
        header.p_vaddr = segment.p_vaddr + table;
        header.p_paddr = header.p_vaddr;
        (header.p_filesz, header.p_memsz) = (size, size);
    }
    headers
}

/// As it stands in a 64-bit little-endian file.
fn header_bytes(header: &ProgramHeader) -> Vec<u8> {
    let words = [
        header.p_offset,
        header.p_vaddr,
        header.p_paddr,
        header.p_filesz,
        header.p_memsz,
        header.p_align,
    ];
    let halves = [header.p_type, header.p_flags];
    let halves = halves.into_iter().flat_map(u32::to_le_bytes);
    halves.chain(words.into_iter().flat_map(u64::to_le_bytes)).collect()
}

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
            launcher: launcher_sum(),
            source: Source::of(emulator)?,
            sha256: sha256.to_string(),
        })
    }

    /// The one at the end of `file`, if there is one.
    #[must_use]
    pub fn read(file: &File) -> Option<Self> {
        let length = file.metadata().ok()?.len();
        let mut text = [0; RECORD_LEN];
        file.read_exact_at(&mut text, length.checked_sub(RECORD_LEN as u64)?).ok()?;
        serde_json::from_slice(&text).ok()
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
            && self.launcher == launcher_sum()
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

fn launcher_sum() -> String {
    Sha256Sum::new(Sha256::digest(LAUNCHER).into()).to_string()
}

/// What there is of the prepared copy of an emulator.
#[derive(Debug)]
pub enum Copy {
    /// One to be used: made from the emulator as it is now, and nobody but root can write it.
    Fresh(File),
    /// One that is not to be used, for this reason.
    Stale(String),
    /// None.
    Missing,
}

impl Copy {
    /// Where that of `emulator` is, if there is one.
    #[must_use]
    pub fn path(emulator: &Emulator) -> PathBuf {
        Path::new(PREPARED).join(emulator.path.file_name().unwrap_or_default())
    }

    /// Looks for that of `emulator`. One of another file of that name is none.
    #[must_use]
    pub fn of(emulator: &Emulator, caller: Caller) -> Self {
        let path = Self::path(emulator);
        match trust::open(&path, caller, &["var"]) {
            Ok(None) => Self::Missing,
            Ok(Some(_)) if !is_available() => Self::Missing,
            Ok(Some(file)) => Self::opened(file, &path, emulator),
            Err(why) => Self::Stale(message::line(&why)),
        }
    }

    fn opened(file: File, path: &Path, emulator: &Emulator) -> Self {
        if is_noexec(&file) {
            return Self::Stale(format!("{} is on a file system mounted noexec", path.display()));
        }
        let record = Record::read(&file);
        let is_executable = file.metadata().is_ok_and(|metadata| metadata.mode() & 0o111 != 0);
        match record {
            Some(record) if record.source.path != emulator.path => Self::Missing,
            Some(record) if record.is_of(emulator) && is_executable => Self::Fresh(file),
            Some(record) if record.is_of(emulator) => {
                Self::Stale(format!("{} is not executable", path.display()))
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

/// Gives `to` the label by which `SELinux` lets containers execute `from`.
pub fn copy_label(from: &File, to: &File) -> Result<()> {
    const LABEL: &str = "security.selinux";
    let mut label = [0; 4096];
    match rustix::fs::fgetxattr(from, LABEL, &mut label) {
        Ok(length) => rustix::fs::fsetxattr(to, LABEL, &label[..length], XattrFlags::empty())
            .call(|| format!("fsetxattr {LABEL}")),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno).call(|| format!("fgetxattr {LABEL}")),
    }
}
