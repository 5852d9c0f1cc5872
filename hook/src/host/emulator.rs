//! Finds the emulator of a target on the host, and refuses one that could not work in a container
//! or that somebody else could replace. Changes nothing.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::arch::elf::Program;
use crate::arch::{self, Arch};
use crate::base::message::Call;
use crate::host::native;
use crate::host::policy::{Policy, Sha256Sum};
use crate::host::trust::Host;

/// An emulator that passed every check. The open file is the one that was checked.
#[derive(Debug)]
pub struct Emulator {
    /// Where the policy's directories and names found it on the host.
    pub path: PathBuf,
    /// The file, open for reading.
    pub file: File,
    /// What its headers say.
    pub program: Program,
    /// Its sum, if the policy requires one.
    pub sha256: Option<Sha256Sum>,
    /// Whether its owner is uid 0 of our user namespace.
    pub belongs_to_root: bool,
}

/// What is known of a file that passed every check.
struct Checked {
    program: Program,
    sha256: Option<Sha256Sum>,
    owner: u32,
}

/// Why there is no emulator: the policy's directories have no file of its name.
#[derive(Debug)]
pub struct Missing(&'static Arch);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no emulator for {} on this machine; {INSTALL}", self.0.name)
    }
}

impl std::error::Error for Missing {}

/// Says what to install; the end of every error of this module about a missing emulator.
pub const INSTALL: &str = "install the package qemu-user-static (Debian 12, Ubuntu, Fedora) or \
                       qemu-user (Debian 13), or name another directory in the policy's \
                       emulator_directories";

/// As much of a file as holds the headers of most emulators, and the note with their build ID (Debian 12's
/// QEMU: 836 bytes).
const HEAD: usize = 1024;

/// The first emulator for `arch` in the policy's directories that can be used.
///
/// Fails where there is none: with [`Missing`] if nothing was found, and otherwise naming every
/// candidate and what is wrong with it.
pub fn find(arch: &'static Arch, policy: &Policy, host: &Host) -> Result<Emulator> {
    let mut refused = Vec::new();
    for path in candidates(arch, policy) {
        let file = match host.open(&path, &["usr"]) {
            Ok(None) => continue,
            Ok(Some(file)) => file,
            Err(error) => {
                refused.push(format!("{error:#}"));
                continue;
            }
        };
        match check(&file, arch, policy) {
            Ok(Checked { program, sha256, owner }) => {
                return Ok(Emulator { path, file, program, sha256, belongs_to_root: owner == 0 });
            }
            Err(error) => refused.push(format!("{} {error:#}", path.display())),
        }
    }
    ensure!(!refused.is_empty(), Missing(arch));
    refused.dedup();
    bail!("no usable emulator for {}: {}; or {INSTALL}", arch.name, refused.join("; "))
}

/// Every path where the policy lets the emulator be, in order.
fn candidates(arch: &Arch, policy: &Policy) -> impl Iterator<Item = PathBuf> {
    policy.emulator_directories.iter().flat_map(move |directory| {
        policy.emulator_names.iter().map(move |name| directory.path().join(name.of(arch)))
    })
}

/// Whether the file can run in any container, and has a sum that the policy requires.
fn check(file: &File, arch: &Arch, policy: &Policy) -> Result<Checked> {
    let metadata = file.metadata().call(|| "fstat".into())?;
    ensure!(metadata.mode() & 0o111 != 0, "is not executable; run: chmod a+x on it");
    let program = Program::read(reader(file)).context("is not a program")?;
    let ours = native::host_arch();
    ensure!(
        ours.pattern.matches(&program.header),
        "is a program for {}, this machine is {}",
        arch::of_header(&program.header).map_or("another machine", |arch| arch.name),
        ours.name
    );
    ensure!(program.executable, "is an ELF file, but not a program");
    // The kernel would look for its loader inside the container.
    ensure!(
        !program.dynamic,
        "is linked dynamically, so its loader would be missing in the container"
    );
    let mut sum = None;
    if let Some(required) = policy.emulator_sha256.get(arch.name) {
        let found = *sum.insert(sha256(file)?);
        ensure!(
            required.contains(&found),
            "has the SHA-256 sum {found}, which the policy's emulator_sha256 does not list for {}; add it there",
            arch.name
        );
    }
    Ok(Checked { program, sha256: sum, owner: metadata.uid() })
}

/// What [`Program::read`] reads `file` by. What lies in its first bytes is read by one call.
fn reader(file: &File) -> impl Fn(&mut [u8], u64) -> std::io::Result<()> {
    let mut head = vec![0; HEAD];
    let length = file.read_at(&mut head, 0).unwrap_or(0);
    head.truncate(length);
    move |buffer, offset| {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match head.get(start..start.saturating_add(buffer.len())) {
            Some(piece) => buffer.copy_from_slice(piece),
            None => file.read_exact_at(buffer, offset)?,
        }
        Ok(())
    }
}

/// The sum of all of `file`.
pub fn sha256(mut file: &File) -> Result<Sha256Sum> {
    file.rewind().call(|| "lseek".into())?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer).call(|| "read".into())? {
            0 => return Ok(Sha256Sum::new(hasher.finalize().into())),
            n => hasher.update(&buffer[..n]),
        }
    }
}
