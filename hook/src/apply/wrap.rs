//! Puts the launcher into copies of emulators.
//!
//! A wrapped emulator is the file itself with one more segment at its end: the launcher, the distance
//! from there to the emulator's entry point, and the program headers, which have grown by one. The
//! ELF header leads to both.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};
use goblin::elf::program_header::{PF_R, PF_X, PT_LOAD, PT_PHDR, ProgramHeader};

use crate::arch::elf::{self, Program};
use crate::base::message::Call;
use crate::host::launcher::LAUNCHER;

/// The smallest page of any machine that runs the launcher, and more than the largest (64 KiB).
const ALIGNMENTS: std::ops::RangeInclusive<u64> = 4096..=64 << 20;
/// The size of a program header (`e_phentsize`), and offsets in the ELF header, of 64-bit files.
const PROGRAM_HEADER_LEN: usize = 56;
const E_PHOFF: u64 = 32;
const E_PHNUM: u64 = 56;

/// Writes `emulator` with the launcher in it to `to`, which is empty.
///
/// Fails where the file is not what its headers say, or has the launcher in it already, and where it
/// cannot be written.
pub fn wrap(mut emulator: &File, program: &Program, mut to: &File) -> Result<()> {
    let length = emulator.metadata().call(|| "fstat".into())?.len();
    ensure!(
        !has_launcher(emulator, program),
        "has the launcher in it already; use the emulator itself"
    );
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

/// Whether it begins with the launcher: whatever segment its entry point lies in.
fn has_launcher(file: &File, program: &Program) -> bool {
    let begins_there = |segment: &ProgramHeader| {
        let into = program.entry.checked_sub(segment.p_vaddr)?;
        let at = segment.p_offset.checked_add(into)?;
        let mut bytes = vec![0; LAUNCHER.len()];
        let is_there = into < segment.p_filesz && file.read_exact_at(&mut bytes, at).is_ok();
        Some(is_there && bytes == LAUNCHER)
    };
    let mut loaded = program.segments.iter().filter(|segment| segment.p_type == PT_LOAD);
    loaded.any(|segment| begins_there(segment) == Some(true))
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
