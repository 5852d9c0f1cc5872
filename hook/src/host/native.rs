//! Which architectures this machine's kernel runs without an emulator.

use std::path::Path;

use crate::arch::{Arch, Compat, find};

impl Arch {
    /// Whether this machine's kernel runs the target's programs without an emulator.
    #[must_use]
    pub fn is_native(&self) -> bool {
        self == host_arch()
            || self.may_be_native()
                && match self.compat {
                    Compat::Never => false,
                    Compat::Ia32 => kernel_runs_ia32(Path::new("/proc")),
                    Compat::Aarch32 => kernel_runs_aarch32(),
                }
    }

    /// Whether it is of the same family as this machine, so that the kernel may run its programs in
    /// a way that cannot be asked for.
    #[must_use]
    pub fn may_be_native(&self) -> bool {
        self.family == host_arch().family
    }
}

/// The architecture that this program was built for, which is the host's own.
#[must_use]
pub fn host_arch() -> &'static Arch {
    let name = match std::env::consts::ARCH {
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        name => name,
    };
    find(name).expect("the project is built for hosts of the table only")
}

/// Whether an `x86_64` kernel runs i386 programs, from what it shows below `proc`.
///
/// `abi/vsyscall32` exists where IA-32 emulation is built in (arch/x86/entry/vdso/vdso32-setup.c);
/// since Linux 6.7 `ia32_emulation=` on the kernel's command line can turn it off. Executing a
/// program is the only other way to ask, and the hook starts none. Unreadable means no.
fn kernel_runs_ia32(proc: &Path) -> bool {
    let built = proc.join("sys/abi/vsyscall32").exists();
    let off = std::fs::read_to_string(proc.join("cmdline")).map_or(true, |line| {
        line.split_ascii_whitespace()
            .rev() // the last one counts
            .find_map(|word| word.strip_prefix("ia32_emulation="))
            .is_some_and(|value| {
                // The spellings that kstrtobool() takes for false.
                value.starts_with(['n', 'N', 'f', 'F', '0']) || value.eq_ignore_ascii_case("off")
            })
    });
    built && !off
}

/// Whether an aarch64 kernel runs 32-bit arm programs: `personality(PER_LINUX32)` is EINVAL where
/// the processor has no `AArch32` at EL0 (arch/arm64/kernel/sys.c).
fn kernel_runs_aarch32() -> bool {
    use nix::sys::personality::{self, Persona};
    const PER_LINUX32: i32 = 8;
    let Ok(before) = personality::get() else { return false };
    let runs = personality::set(Persona::from_bits_retain(PER_LINUX32)).is_ok();
    // Putting back what was there cannot fail.
    let _ = personality::set(before);
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_native_and_others_are_not() {
        assert!(host_arch().is_native());
        let foreign = if host_arch().name == "s390x" { "aarch64" } else { "s390x" };
        assert!(!find(foreign).unwrap().is_native());
    }

    #[test]
    fn asks_the_kernel_about_ia32() {
        let root = std::env::temp_dir().join(format!("toolbx-arch-ia32-{}", std::process::id()));
        std::fs::create_dir_all(root.join("sys/abi")).unwrap();
        let answer = |line: &str| {
            std::fs::write(root.join("cmdline"), line).unwrap();
            kernel_runs_ia32(&root)
        };
        assert!(!answer("quiet"), "not built in");
        std::fs::write(root.join("sys/abi/vsyscall32"), "1").unwrap();
        assert!(answer("quiet ro"));
        assert!(!answer("quiet ia32_emulation=off"));
        assert!(!answer("ia32_emulation=1 ia32_emulation=0 quiet"), "the last one counts");
        assert!(answer("ia32_emulation=off ia32_emulation=true"));
        std::fs::remove_file(root.join("cmdline")).unwrap();
        assert!(!kernel_runs_ia32(&root), "unreadable");
        std::fs::remove_dir_all(root).unwrap();
    }
}
