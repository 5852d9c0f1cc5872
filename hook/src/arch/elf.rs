//! The few facts about ELF files that the project needs: where the header's fields are, whether a
//! file is a statically linked program, where it is loaded, and its build-id. Pure.

use anyhow::{Context, Result};
use goblin::elf::header::{ET_DYN, ET_EXEC};
use goblin::elf::note::{NT_GNU_BUILD_ID, NoteDataIterator};
use goblin::elf::program_header::{PT_INTERP, PT_NOTE, ProgramHeader};

/// Offsets in `e_ident`, the header's first 16 bytes.
pub mod e_ident {
    /// The size of addresses.
    pub const CLASS: usize = 4;
    /// Byte order.
    pub const DATA: usize = 5;
    /// Version of the header.
    pub const VERSION: usize = 6;
    /// Operating system or ABI.
    pub const OSABI: usize = 7;
    /// Version of that ABI.
    pub const ABIVERSION: usize = 8;
}

/// Offset of `e_type`, two bytes.
pub const E_TYPE: usize = 16;
/// Offset of `e_machine`, two bytes.
pub const E_MACHINE: usize = 18;
/// Offset of `e_entry`, which ends the part that all headers share.
pub const E_ENTRY: usize = 24;
/// The only version there is, in `EI_VERSION` and `e_version`.
pub const EV_CURRENT: u8 = 1;

/// `EI_CLASS`: the size of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// 32 bits.
    Elf32 = 1,
    /// 64 bits.
    Elf64 = 2,
}

/// `EI_DATA`: the byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Data {
    /// Least significant byte first.
    Lsb = 1,
    /// Most significant byte first.
    Msb = 2,
}

/// The size of a 64-bit header, which is larger than a 32-bit one.
const HEADER_LEN: usize = 64;
/// The most bytes of program headers that Linux loads (`ELF_MIN_ALIGN` aside, `load_elf_phdrs`).
const PROGRAM_HEADERS_MAX: usize = 65_536;
/// More than the notes of any program take.
const NOTES_MAX: u64 = 64 * 1024;

/// What a file's ELF header and program headers say.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// The file's first bytes, to be compared with a [`crate::arch::Pattern`].
    pub header: [u8; HEADER_LEN],
    /// Whether it is a program: `ET_EXEC` or `ET_DYN`.
    pub executable: bool,
    /// Whether it names a dynamic loader (`PT_INTERP`).
    pub dynamic: bool,
    /// Where it begins (`e_entry`).
    pub entry: u64,
    /// The program headers.
    pub segments: Vec<ProgramHeader>,
    /// What tells this build of it from any other (`NT_GNU_BUILD_ID`), if there is such a note.
    pub build_id: Option<Vec<u8>>,
}

impl Program {
    /// Reads what is needed through `read_at(buffer, offset)`, which fills the buffer from a file.
    ///
    /// Fails where the file cannot be read, is shorter than its headers, or is not ELF.
    pub fn read(read_at: impl Fn(&mut [u8], u64) -> std::io::Result<()>) -> Result<Self> {
        let mut header = [0; HEADER_LEN];
        read_at(&mut header, 0).context("shorter than an ELF header")?;
        let elf = goblin::elf::Elf::parse_header(&header).context("not an ELF file")?;
        let context = goblin::container::Ctx::new(elf.container()?, elf.endianness()?);
        anyhow::ensure!(
            usize::from(elf.e_phentsize) == ProgramHeader::size(context),
            "its program headers have a size that Linux does not load ({})",
            elf.e_phentsize
        );
        let table_len = usize::from(elf.e_phnum) * usize::from(elf.e_phentsize);
        anyhow::ensure!(table_len <= PROGRAM_HEADERS_MAX, "more program headers than Linux loads");
        let mut table = vec![0; table_len];
        read_at(&mut table, elf.e_phoff).context("cut off before its program headers")?;
        let segments = ProgramHeader::parse(&table, 0, elf.e_phnum.into(), context)
            .context("malformed program headers")?;
        Ok(Self {
            header,
            executable: matches!(elf.e_type, ET_EXEC | ET_DYN),
            dynamic: segments.iter().any(|header| header.p_type == PT_INTERP),
            entry: elf.e_entry,
            build_id: segments.iter().find_map(|segment| build_id(segment, context, &read_at)),
            segments,
        })
    }
}

/// The build-id, if it is among the notes of this segment.
fn build_id(
    segment: &ProgramHeader,
    context: goblin::container::Ctx,
    read_at: impl Fn(&mut [u8], u64) -> std::io::Result<()>,
) -> Option<Vec<u8>> {
    if segment.p_type != PT_NOTE || segment.p_filesz > NOTES_MAX {
        return None;
    }
    let mut data = vec![0; usize::try_from(segment.p_filesz).ok()?];
    read_at(&mut data, segment.p_offset).ok()?;
    let alignment = usize::try_from(segment.p_align.clamp(4, 8)).ok()?;
    let notes =
        NoteDataIterator { data: &data, size: data.len(), offset: 0, ctx: (alignment, context) };
    notes
        .filter_map(Result::ok)
        .find(|note| note.name == "GNU" && note.n_type == NT_GNU_BUILD_ID)
        .map(|note| note.desc.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Program> {
        Program::read(|buffer, offset| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            (&bytes[start..]).read_exact(buffer)
        })
    }
    use std::io::Read as _;

    /// A 64-bit little-endian header with one program header of type `p_type` behind it.
    fn file(e_type: u8, p_type: u8) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN + 56];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[E_TYPE] = e_type;
        bytes[E_MACHINE] = 62;
        bytes[32] = 64; // e_phoff
        bytes[54] = 56; // e_phentsize
        bytes[56] = 1; // e_phnum
        bytes[HEADER_LEN] = p_type;
        bytes
    }

    #[test]
    fn tells_static_from_dynamic() {
        for (e_type, p_type, executable, dynamic) in [
            (2, 1, true, false),  // ET_EXEC, PT_LOAD: static
            (3, 1, true, false),  // ET_DYN: static-pie
            (3, 3, true, true),   // PT_INTERP: dynamic
            (1, 1, false, false), // ET_REL: an object file
        ] {
            let program = read(&file(e_type, p_type)).unwrap();
            assert_eq!((program.executable, program.dynamic), (executable, dynamic));
        }
    }

    #[test]
    fn refuses_every_cut() {
        let whole = file(2, 1);
        for len in 0..whole.len() {
            assert!(read(&whole[..len]).is_err(), "cut at {len}");
        }
        assert!(read(b"#!/bin/sh\n").is_err());
    }

    #[test]
    fn refuses_headers_of_another_size_than_linux_loads() {
        for size in [0, 32, 55, 57, 112] {
            let mut other = file(2, 1);
            other.extend([0; 64]);
            other[54] = size;
            let error = read(&other).unwrap_err().to_string();
            assert!(error.contains("a size that Linux does not load"), "{size}: {error}");
        }
    }

    #[test]
    fn refuses_headers_out_of_reach() {
        let mut far = file(2, 1);
        far[32..40].copy_from_slice(&(1u64 << 63).to_le_bytes());
        assert!(read(&far).is_err());
        let mut many = file(2, 1);
        many[56..58].copy_from_slice(&u16::MAX.to_le_bytes());
        assert!(read(&many).is_err());
    }
}
