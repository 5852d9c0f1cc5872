//! The architecture table: the one place that knows targets, their names and their ELF headers.
//!
//! Look-up, registration and what `toolbx-arch list` shows all come from [`ARCHES`].
//! A file is recognised with the same magic and mask that the kernel is given, so the two cannot
//! disagree.
//!
//! Source of the patterns: QEMU's `scripts/qemu-binfmt-conf.sh`. Source of the OCI names: Go's
//! `GOARCH` values, which the OCI image specification refers to.

use std::fmt;

use crate::arch::elf::{self, Class, Data, e_ident};
use crate::base::message::shown;

/// A foreign (or native) architecture that an emulator exists for: a row of [`ARCHES`].
#[derive(Debug, PartialEq, Eq)]
pub struct Arch {
    /// The target's name as QEMU writes it; handlers are named after it.
    pub name: &'static str,
    /// NAME in `qemu-NAME`, the emulator's file name. Differs from `name` for i486 only.
    pub emulator: &'static str,
    /// The name in OCI images (`GOARCH`), where one exists.
    pub oci: Option<&'static str>,
    /// Further names: OCI variants, `uname -m`, Debian.
    pub aliases: &'static [&'static str],
    /// What the first bytes of the target's programs look like.
    pub pattern: Pattern,
    /// Hosts of the same family may run the target's programs themselves.
    pub family: &'static str,
    /// Whether a host other than the target itself runs it without help.
    pub(crate) compat: Compat,
}

/// What must hold for another host of the same family to run the target's programs.
///
/// "Same family" is not "runs natively": where the kernel cannot be asked, the answer is no, and
/// the program is emulated, slower but right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compat {
    /// No other host runs it, or there is no way to ask.
    Never,
    /// An `x86_64` kernel built and booted with IA-32 emulation.
    Ia32,
    /// An aarch64 kernel on a processor that has `AArch32` at EL0.
    Aarch32,
}

/// The first bytes of a file, and which of their bits count: what binfmt_misc calls magic and mask.
///
/// Bits outside the mask are zero in the magic.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    magic: [u8; Self::MAX],
    mask: [u8; Self::MAX],
    len: usize,
}

impl Pattern {
    /// The longest pattern: up to and including `e_flags` of a 32-bit header.
    const MAX: usize = 40;
    /// The usual pattern: up to and including `e_machine`.
    const USUAL: usize = 20;

    /// The pattern that fits most targets: ELF magic, class, byte order, version, `e_machine`.
    ///
    /// Two bytes are looser. `EI_OSABI` is ignored, since Linux programs say 0 (System V) or
    /// 3 (GNU). Of `e_type` the lowest bit is ignored, so that `ET_EXEC` (2) and `ET_DYN` (3,
    /// position-independent programs) both match. `EI_ABIVERSION` and the padding must be zero.
    const fn elf(class: Class, data: Data, machine: u16) -> Self {
        let mut magic = [0; Self::MAX];
        let mut mask = [0; Self::MAX];
        let ident = [0x7f, b'E', b'L', b'F', class as u8, data as u8, elf::EV_CURRENT];
        let mut i = 0;
        while i < ident.len() {
            magic[i] = ident[i];
            i += 1;
        }
        let (e_type, e_type_mask, e_machine) = match data {
            Data::Lsb => ([2, 0], [0xfe, 0xff], machine.to_le_bytes()),
            Data::Msb => ([0, 2], [0xff, 0xfe], machine.to_be_bytes()),
        };
        i = 0;
        while i < Self::USUAL {
            mask[i] = 0xff;
            i += 1;
        }
        mask[e_ident::OSABI] = 0;
        i = 0;
        while i < 2 {
            magic[elf::E_TYPE + i] = e_type[i];
            mask[elf::E_TYPE + i] = e_type_mask[i];
            magic[elf::E_MACHINE + i] = e_machine[i];
            i += 1;
        }
        Self { magic, mask, len: Self::USUAL }
    }

    /// The same pattern, with only the bits of `mask` counting at `offset`.
    const fn with_mask(mut self, offset: usize, mask: u8) -> Self {
        self.mask[offset] = mask;
        self.magic[offset] &= mask;
        self
    }

    /// The same pattern, which also tells the 32-bit MIPS calling conventions n32 and o32 apart, by
    /// `EF_MIPS_ABI2` in `e_flags`. As published, it wants `e_version` 1 and ignores
    /// `EI_ABIVERSION`.
    const fn with_mips_abi(mut self, data: Data, n32: bool) -> Self {
        const EF_MIPS_ABI2: u8 = 0x20;
        // Where the lowest byte of e_version (at 20) and of e_flags (at 36) is.
        let (version, flags) = match data {
            Data::Lsb => (20, 36),
            Data::Msb => (23, 39),
        };
        let mut i = Self::USUAL;
        while i < elf::E_ENTRY {
            self.mask[i] = 0xff;
            i += 1;
        }
        self.magic[version] = elf::EV_CURRENT;
        self.magic[flags] = if n32 { EF_MIPS_ABI2 } else { 0 };
        self.mask[flags] = EF_MIPS_ABI2;
        self.len = Self::MAX;
        self.with_mask(e_ident::ABIVERSION, 0)
    }

    /// The bytes to compare with, in file order from offset 0.
    #[must_use]
    pub fn magic(&self) -> &[u8] {
        &self.magic[..self.len]
    }

    /// Which bits of [`Self::magic`] count; of the same length.
    #[must_use]
    pub fn mask(&self) -> &[u8] {
        &self.mask[..self.len]
    }

    /// Whether a file that begins with `bytes` matches, as binfmt_misc decides it. The kernel
    /// compares against a zero-filled buffer, so a file that is too short matches only if the
    /// missing bytes may be zero.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.magic()
            .iter()
            .zip(self.mask())
            .enumerate()
            .all(|(i, (magic, mask))| (bytes.get(i).copied().unwrap_or(0) ^ magic) & mask == 0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?}/{:02x?}", self.magic(), self.mask())
    }
}

const fn arch(name: &'static str, class: Class, data: Data, machine: u16) -> Arch {
    Arch {
        name,
        emulator: name,
        oci: None,
        aliases: &[],
        pattern: Pattern::elf(class, data, machine),
        family: name,
        compat: Compat::Never,
    }
}

/// The beginnings of rows that differ from the usual pattern.
impl Arch {
    /// Only the bits of `mask` count at `offset`.
    const fn with_mask(mut self, offset: usize, mask: u8) -> Self {
        self.pattern = self.pattern.with_mask(offset, mask);
        self
    }

    /// `EI_DATA` and `EI_VERSION` without their lowest bit, as published for x86 and alpha. The
    /// kernel's own ELF loader looks at neither byte.
    const fn with_loose_ident(self) -> Self {
        self.with_mask(e_ident::DATA, 0xfe).with_mask(e_ident::VERSION, 0xfe)
    }
}

const fn mips(name: &'static str, data: Data, n32: bool) -> Arch {
    let mut row = arch(name, Class::Elf32, data, 8);
    row.pattern = row.pattern.with_mips_abi(data, n32);
    row
}

use Class::{Elf32, Elf64};
use Data::{Lsb, Msb};

/// Every target, in the order of QEMU's script. 34 rows.
pub static ARCHES: [Arch; 34] = [
    Arch {
        oci: Some("386"),
        aliases: &["x86", "i586", "i686"],
        compat: Compat::Ia32,
        ..arch("i386", Elf32, Lsb, 3).with_loose_ident()
    },
    Arch {
        // EM_486 (6) is obsolete, but Linux and QEMU still take such a file for an i386 one.
        emulator: "i386",
        compat: Compat::Ia32,
        family: "i386",
        ..arch("i486", Elf32, Lsb, 6).with_loose_ident()
    },
    Arch {
        oci: Some("amd64"),
        aliases: &["x86-64", "amd64/v1", "amd64/v2", "amd64/v3", "amd64/v4"],
        family: "i386",
        ..arch("x86_64", Elf64, Lsb, 62).with_loose_ident()
    },
    arch("alpha", Elf64, Lsb, 0x9026).with_loose_ident(),
    Arch {
        oci: Some("arm"),
        aliases: &[
            "arm/v5", "arm/v6", "arm/v7", "arm/v8", "armel", "armhf", "armv5tel", "armv6l",
            "armv7l", "armv8l", "arm32v5", "arm32v6", "arm32v7",
        ],
        compat: Compat::Aarch32,
        ..arch("arm", Elf32, Lsb, 40)
    },
    Arch { oci: Some("armbe"), aliases: &["armv7b"], ..arch("armeb", Elf32, Msb, 40) },
    Arch { oci: Some("sparc"), ..arch("sparc", Elf32, Msb, 2) },
    Arch { family: "sparc", ..arch("sparc32plus", Elf32, Msb, 18) },
    Arch { oci: Some("sparc64"), family: "sparc", ..arch("sparc64", Elf64, Msb, 43) },
    Arch { oci: Some("ppc"), aliases: &["powerpc"], ..arch("ppc", Elf32, Msb, 20) },
    Arch {
        oci: Some("ppc64"),
        aliases: &["powerpc64"],
        family: "ppc",
        ..arch("ppc64", Elf64, Msb, 21)
    },
    Arch {
        oci: Some("ppc64le"),
        aliases: &["ppc64el", "powerpc64le"],
        family: "ppcle",
        // The high byte of e_machine is ignored, as published; 0x15 alone is this machine.
        ..arch("ppc64le", Elf64, Lsb, 21).with_mask(elf::E_MACHINE + 1, 0)
    },
    arch("m68k", Elf32, Msb, 4).with_mask(e_ident::VERSION, 0xfe),
    Arch { oci: Some("mips"), ..mips("mips", Msb, false) },
    Arch { oci: Some("mipsle"), family: "mips", ..mips("mipsel", Lsb, false) },
    Arch { oci: Some("mips64p32"), family: "mips", ..mips("mipsn32", Msb, true) },
    Arch { oci: Some("mips64p32le"), family: "mips", ..mips("mipsn32el", Lsb, true) },
    Arch {
        oci: Some("mips64"),
        family: "mips",
        // EI_ABIVERSION is ignored: MIPS toolchains count ABI extensions in it.
        ..arch("mips64", Elf64, Msb, 8).with_mask(e_ident::ABIVERSION, 0)
    },
    Arch {
        oci: Some("mips64le"),
        family: "mips",
        ..arch("mips64el", Elf64, Lsb, 8).with_mask(e_ident::ABIVERSION, 0)
    },
    arch("sh4", Elf32, Lsb, 42),
    Arch { family: "sh4", ..arch("sh4eb", Elf32, Msb, 42) },
    Arch { oci: Some("s390x"), ..arch("s390x", Elf64, Msb, 22) },
    Arch {
        oci: Some("arm64"),
        aliases: &["arm64/v8", "arm64v8"],
        family: "arm",
        ..arch("aarch64", Elf64, Lsb, 183)
    },
    Arch { oci: Some("arm64be"), family: "armeb", ..arch("aarch64_be", Elf64, Msb, 183) },
    Arch { aliases: &["parisc"], ..arch("hppa", Elf32, Msb, 15) },
    arch("riscv32", Elf32, Lsb, 243),
    Arch { oci: Some("riscv64"), ..arch("riscv64", Elf64, Lsb, 243) },
    arch("xtensa", Elf32, Lsb, 94),
    arch("xtensaeb", Elf32, Msb, 94),
    // 0xbaab is EM_MICROBLAZE as it was before one was assigned (189). The published big-endian
    // pattern has e_type in little-endian order, which no big-endian file can match; ours is right.
    arch("microblaze", Elf32, Msb, 0xbaab),
    arch("microblazeel", Elf32, Lsb, 0xbaab),
    Arch { aliases: &["openrisc"], ..arch("or1k", Elf32, Msb, 92) },
    arch("hexagon", Elf32, Lsb, 164),
    Arch {
        oci: Some("loong64"),
        family: "loongarch",
        // EI_OSABI 0 to 3 (the two low bits are ignored) and any EI_ABIVERSION, as published.
        ..arch("loongarch64", Elf64, Lsb, 258)
            .with_mask(e_ident::OSABI, 0xfc)
            .with_mask(e_ident::ABIVERSION, 0)
    },
];

impl Arch {
    /// All names of the row: QEMU's, the OCI one, then the rest.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.oci).chain(self.aliases.iter().copied())
    }
}

/// The row that any of its names belongs to, in upper or lower case, with or without the
/// `linux/` of a platform. `None` if there is no such name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Arch> {
    let name = name.strip_prefix("linux/").unwrap_or(name);
    ARCHES.iter().find(|arch| arch.names().any(|known| known.eq_ignore_ascii_case(name)))
}

/// The known name that is written most like `name`, to suggest it in an error.
fn nearest(name: &str) -> Option<&'static str> {
    // Comparing takes time that grows with the length, and no known name is longer than 12.
    const MAX: usize = 32;
    if name.len() > MAX {
        return None;
    }
    let name = name.to_ascii_lowercase();
    ARCHES
        .iter()
        .flat_map(Arch::names)
        .map(|known| (strsim::jaro_winkler(&name, known), known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

/// What to say of a name that [`find`] does not know: the nearest one, and how to see them all.
#[must_use]
pub fn unknown(name: &str) -> String {
    let nearest = nearest(name).map(|known| format!("did you mean {known}? ")).unwrap_or_default();
    format!("unknown architecture {}; {nearest}toolbx-arch list shows all names", shown(name))
}

/// The row whose programs look like `bytes`, the beginning of a file.
#[must_use]
pub fn of_header(bytes: &[u8]) -> Option<&'static Arch> {
    ARCHES.iter().find(|arch| arch.pattern.matches(bytes))
}

#[cfg(test)]
mod tests;
