//! A tiny program for each target, which does nothing but exit with [`STATUS`]: what an emulator,
//! or the kernel, can be tried with. Pure.
//!
//! Each is an ELF header, one segment, and the two or three instructions of an `exit` system call.
//! Class, byte order and `e_machine` come from the target's [`Pattern`], so a probe is always
//! recognised as the target's program.
//!
//! Sources: for the numbers of `exit`, Linux's `syscall*.tbl` below `arch/` and, for the targets
//! that say 93, `include/uapi/asm-generic/unistd.h`. For the registers, syscall(2), and the
//! `entry.S` or its like of the targets that it leaves out (hexagon, microblaze, or1k,
//! loongarch64). The code is what GNU as and LLVM make of the text beside it; that of microblaze,
//! loongarch64 and big-endian xtensa follows the instruction formats in their manuals.

use goblin::elf::program_header::{PF_R, PF_X, PT_LOAD};

use crate::arch::binfmt::unhex;
use crate::arch::elf::{Class, Data, E_MACHINE, EV_CURRENT, e_ident};
use crate::arch::{Arch, Pattern};

/// The exit status of every probe.
pub const STATUS: u8 = 42;

/// Where a probe is loaded: a multiple of [`ALIGN`], above the usual `vm.mmap_min_addr`, and
/// within every target's address space.
const BASE: u64 = 0x40_0000;
/// The largest page of any target, 256 KiB: hexagon (`PAGE_SIZE_256KB`), ppc (`PPC_256K_PAGES`).
const ALIGN: u64 = 0x4_0000;

/// What a target's probe has of its own.
struct Probe {
    /// The target, as in [`Arch::name`].
    name: &'static str,
    /// `e_flags`, as far as Linux or QEMU read them.
    flags: u32,
    /// The machine code in hexadecimal, as it is in memory; a blank after each instruction.
    code: &'static str,
}

const fn probe(name: &'static str, flags: u32, code: &'static str) -> Probe {
    Probe { name, flags, code }
}

const EF_ARM_EABI_VER5: u32 = 0x0500_0000;
/// Big-endian data, but little-endian code, as of `ARMv6`.
const EF_ARM_BE8: u32 = 0x0080_0000;
const EF_MIPS_ABI_O32: u32 = 0x1000;
const EF_MIPS_ABI2: u32 = 0x20;
/// `ELFv2`, in both byte orders: in `ELFv1`, `e_entry` is where a function descriptor is.
const EF_PPC64_ABI2: u32 = 2;
/// QEMU refuses a program that does not say for which version of the processor it is.
const EF_HEXAGON_V60: u32 = 0x60;

// The code that several targets share, byte for byte.
const I386: &str = "bb2a000000 b801000000 cd80"; // mov $42, %ebx; mov $1, %eax; int $0x80
const ARM: &str = "2a00a0e3 0170a0e3 000000ef"; // mov r0, #42; mov r7, #1; svc #0
const SPARC: &str = "9010202a 82102001 91d02010"; // mov 42, %o0; mov 1, %g1; ta 0x10
const PPC: &str = "3860002a 38000001 44000002"; // li 3, 42; li 0, 1; sc
const AARCH64: &str = "400580d2 a80b80d2 010000d4"; // mov x0, #42; mov x8, #93; svc #0
const RISCV: &str = "1305a002 9308d005 73000000"; // li a0, 42; li a7, 93; ecall

/// One row per target, in the order of [`crate::arch::ARCHES`].
static PROBES: [Probe; 34] = [
    probe("i386", 0, I386),
    probe("i486", 0, I386),
    probe("x86_64", 0, "bf2a000000 b83c000000 0f05"), // mov $42, %edi; mov $60, %eax; syscall
    probe("alpha", 0, "2a001f22 01001f20 83000000"),  // lda $16, 42; lda $0, 1; call_pal 0x83
    probe("arm", EF_ARM_EABI_VER5, ARM),
    probe("armeb", EF_ARM_EABI_VER5 | EF_ARM_BE8, ARM),
    probe("sparc", 0, SPARC),
    probe("sparc32plus", 0, SPARC),
    probe("sparc64", 0, "9010202a 82102001 91d0206d"), // mov 42, %o0; mov 1, %g1; ta 0x6d
    probe("ppc", 0, PPC),
    probe("ppc64", EF_PPC64_ABI2, PPC),
    probe("ppc64le", EF_PPC64_ABI2, "2a006038 01000038 02000044"), // as PPC
    probe("m68k", 0, "722a 7001 4e40"), // moveq #42, %d1; moveq #1, %d0; trap #0
    // li $4, 42; li $2, NUMBER; syscall, where NUMBER is 4001 (o32), 6058 (n32) or 5058 (n64).
    probe("mips", EF_MIPS_ABI_O32, "2404002a 24020fa1 0000000c"),
    probe("mipsel", EF_MIPS_ABI_O32, "2a000424 a10f0224 0c000000"),
    probe("mipsn32", EF_MIPS_ABI2, "2404002a 240217aa 0000000c"),
    probe("mipsn32el", EF_MIPS_ABI2, "2a000424 aa170224 0c000000"),
    probe("mips64", 0, "2404002a 240213c2 0000000c"),
    probe("mips64el", 0, "2a000424 c2130224 0c000000"),
    // mov #42, r4; mov #1, r3; trapa #0x11, which is 0x10 and the number of arguments.
    probe("sh4", 0, "2ae4 01e3 11c3"),
    probe("sh4eb", 0, "e42a e301 c311"),
    probe("s390x", 0, "a729002a 0a01"), // lghi %r2, 42; svc 1
    probe("aarch64", 0, AARCH64),
    probe("aarch64_be", 0, AARCH64), // code is little-endian all the same
    // ldi 42, %r26; ble 0x100(%sr2, %r0); ldi 1, %r20, which is in the branch's delay slot.
    probe("hppa", 0, "341a0054 e4008200 34140002"),
    probe("riscv32", 0, RISCV),
    probe("riscv64", 0, RISCV),
    // movi a6, 42; movi a2, 118; syscall
    probe("xtensa", 0, "62a02a 22a076 005000"),
    probe("xtensaeb", 0, "260a2a 220a76 000500"),
    // addik r5, r0, 42; addik r12, r0, 1; brki r14, 8
    probe("microblaze", 0, "30a0002a 31800001 b9cc0008"),
    probe("microblazeel", 0, "2a00a030 01008031 0800ccb9"),
    // l.addi r3, r0, 42; l.addi r11, r0, 93; l.sys 1
    probe("or1k", 0, "9c60002a 9d60005d 20000001"),
    // { r0 = #42 } { r6 = #93 } { trap0(#1) }
    probe("hexagon", EF_HEXAGON_V60, "40c50078 a6cb0078 04c00054"),
    // ori $a0, $zero, 42; ori $a7, $zero, 93; syscall 0
    probe("loongarch64", 0, "04a88003 0b748103 00002b00"),
];

/// A static program for `arch` that exits with [`STATUS`], as the content of a file of less than
/// 200 bytes. `None` for a target without a probe; every row of [`crate::arch::ARCHES`] has one.
#[must_use]
pub fn program(arch: &Arch) -> Option<Vec<u8>> {
    let probe = PROBES.iter().find(|probe| probe.name == arch.name)?;
    let code = unhex(probe.code.replace(' ', "").as_bytes())?;
    let mut file = Writer::new(&arch.pattern);
    file.header(probe.flags);
    file.segment(code.len());
    file.bytes.extend(code);
    Some(file.bytes)
}

/// A file to be, to which fields are appended in the target's byte order.
struct Writer {
    bytes: Vec<u8>,
    class: Class,
    data: Data,
}

impl Writer {
    /// Begins with what a pattern says: `e_ident`, `e_type` and `e_machine`.
    fn new(pattern: &Pattern) -> Self {
        let mut bytes = pattern.magic()[..E_MACHINE + 2].to_vec();
        let class =
            if bytes[e_ident::CLASS] == Class::Elf64 as u8 { Class::Elf64 } else { Class::Elf32 };
        let data = if bytes[e_ident::DATA] == Data::Msb as u8 { Data::Msb } else { Data::Lsb };
        // Patterns may leave out their lowest bits.
        bytes[e_ident::DATA] = data as u8;
        bytes[e_ident::VERSION] = EV_CURRENT;
        Self { bytes, class, data }
    }

    /// The rest of the ELF header: the program header follows it, then the code. No sections.
    fn header(&mut self, flags: u32) {
        let (header, segment) = self.sizes();
        self.word(EV_CURRENT.into()); // e_version
        self.address(BASE + header + segment); // e_entry
        self.address(header); // e_phoff
        self.address(0); // e_shoff
        self.word(flags);
        // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx
        for value in [header, segment, 1, 0, 0, 0] {
            self.put(value, 2);
        }
    }

    /// The program header: the whole file, with `code_len` bytes of code, is loaded.
    fn segment(&mut self, code_len: usize) {
        let (header, segment) = self.sizes();
        let len = header + segment + code_len as u64;
        self.word(PT_LOAD);
        if self.class == Class::Elf64 {
            self.word(PF_R | PF_X);
        }
        // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz
        for value in [0, BASE, BASE, len, len] {
            self.address(value);
        }
        if self.class == Class::Elf32 {
            self.word(PF_R | PF_X);
        }
        self.address(ALIGN);
    }

    /// The sizes of an ELF header and of a program header, in bytes.
    fn sizes(&self) -> (u64, u64) {
        match self.class {
            Class::Elf32 => (52, 32),
            Class::Elf64 => (64, 56),
        }
    }

    fn word(&mut self, value: u32) {
        self.put(value.into(), 4);
    }

    fn address(&mut self, value: u64) {
        self.put(value, if self.class == Class::Elf64 { 8 } else { 4 });
    }

    /// Appends the `size` low bytes of `value`.
    fn put(&mut self, value: u64, size: usize) {
        match self.data {
            Data::Lsb => self.bytes.extend(&value.to_le_bytes()[..size]),
            Data::Msb => self.bytes.extend(&value.to_be_bytes()[8 - size..]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::elf::Program;
    use crate::arch::{ARCHES, of_header};

    #[test]
    fn every_target_has_a_small_static_program_of_its_own() {
        for arch in &ARCHES {
            let file = program(arch).unwrap_or_else(|| panic!("{}: no probe", arch.name));
            assert!(file.len() < 200, "{}: {} bytes", arch.name, file.len());
            assert_eq!(of_header(&file), Some(arch));
            let read = |buffer: &mut [u8], offset| {
                let start = usize::try_from(offset).unwrap();
                buffer.copy_from_slice(&file[start..start + buffer.len()]);
                Ok(())
            };
            let program = Program::read(read).unwrap();
            assert!(program.executable && !program.dynamic, "{}", arch.name);
        }
    }

    #[test]
    fn rows_are_in_the_order_of_the_architecture_table() {
        assert!(PROBES.iter().map(|probe| probe.name).eq(ARCHES.iter().map(|arch| arch.name)));
    }

    #[test]
    fn segments_fit_every_page_size() {
        assert!(ALIGN.is_power_of_two() && BASE.is_multiple_of(ALIGN));
    }
}
