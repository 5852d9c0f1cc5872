//! What a handler names as its emulator: a path, or, with the launcher, the emulator's name and all that it is
//! told (docs/architecture.md, "The name is the command line").

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::arch::arguments::Arguments;

/// Where everything of ours is in a container.
pub const VISIBLE_DIR: &str = "/dev/.toolbx-arch";
/// The longest name of a file, in bytes (`include/uapi/linux/limits.h`).
const NAME_MAX: usize = 255;

/// What a handler names as its emulator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interpreter {
    /// The path of a file; of a host's handler, or of an emulator without the launcher.
    Path(PathBuf),
    /// An emulator with the launcher in it.
    Launched {
        /// The emulator's file name.
        emulator: String,
        /// What it is told.
        arguments: Arguments,
    },
}

impl Interpreter {
    /// The emulator of this file name with the launcher in it, which tells it these `arguments`. Fails where
    /// that is longer than the name of a file can be.
    pub fn launched(emulator: &str, arguments: Arguments) -> Result<Self> {
        let interpreter = Self::Launched { emulator: emulator.to_owned(), arguments };
        let length = interpreter.to_string().len();
        ensure!(
            length <= NAME_MAX,
            "the arguments of {emulator} take {length} bytes with its name, of {NAME_MAX} that there are; \
             shorten the annotations toolbx.arch.* or the policy's emulator_arguments"
        );
        Ok(interpreter)
    }

    /// Understands what an instance says. What is not to the byte as we write it, which somebody else may have
    /// registered, is a path.
    #[must_use]
    pub fn parse(text: &OsStr) -> Self {
        let launched = || {
            let text = text.to_str().filter(|text| !text.contains('/'))?;
            let (emulator, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
            let arguments = Arguments::parse(rest)?;
            Some(Self::Launched { emulator: emulator.to_owned(), arguments })
        };
        launched().unwrap_or_else(|| Self::Path(text.into()))
    }

    /// What is registered, and where the kernel looks for it.
    #[must_use]
    pub fn to_path(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            Self::Launched { .. } => self.to_string().into(),
        }
    }

    /// Whether it is the emulator that is at `path` on the host.
    #[must_use]
    pub fn is_emulator(&self, path: &Path) -> bool {
        match self {
            Self::Path(ours) => host_path(ours) == path,
            Self::Launched { emulator, .. } => path.file_name() == Some(emulator.as_ref()),
        }
    }
}

impl fmt::Display for Interpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Launched { emulator, arguments } => write!(f, "{emulator}{arguments}"),
        }
    }
}

/// The emulator's visible path of a host path: below the directory that the hook makes in the
/// container's /dev.
#[must_use]
pub fn visible_path(host: &Path) -> PathBuf {
    Path::new(VISIBLE_DIR).join(host.strip_prefix("/").unwrap_or(host))
}

/// The host path of an emulator that is registered by its visible path or by its host path.
fn host_path(interpreter: &Path) -> PathBuf {
    Path::new("/").join(interpreter.strip_prefix(VISIBLE_DIR).unwrap_or(interpreter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_paths_mirror_the_host() {
        let path = visible_path(Path::new("/usr/bin/qemu-arm-static"));
        assert_eq!(path, Path::new("/dev/.toolbx-arch/usr/bin/qemu-arm-static"));
    }

    #[test]
    fn a_name_holds_what_it_holds() {
        let cpu = Arguments::parse(" -cpu max").unwrap();
        let launched = Interpreter::launched("qemu", cpu.clone()).unwrap();
        assert_eq!(launched.to_path(), Path::new("qemu -cpu max"));
        for (text, is_launched) in [
            ("qemu -cpu max", true),
            ("qemu", true),
            ("qemu -cpu max ", false),
            ("qemu -g 1234", false),
            ("/bin/qemu", false),
            ("/bin/qemu -cpu max", false),
        ] {
            let parsed = Interpreter::parse(text.as_ref());
            assert_eq!(matches!(parsed, Interpreter::Launched { .. }), is_launched, "{text}");
            assert_eq!(parsed.to_path(), Path::new(text));
            assert_eq!(parsed.to_string(), text);
        }
        let longest = 255 - " -cpu max".len();
        assert!(Interpreter::launched(&"q".repeat(longest), cpu.clone()).is_ok());
        assert!(Interpreter::launched(&"q".repeat(longest + 1), cpu).is_err());
    }

    #[test]
    fn our_own_paths_lead_to_the_host() {
        for (text, emulator, is_it) in [
            ("/dev/.toolbx-arch/usr/bin/q", "/usr/bin/q", true),
            ("/usr/bin/q", "/usr/bin/q", true),
            ("q -cpu max", "/usr/bin/q", true),
            ("/bin/q", "/usr/bin/q", false),
            ("other", "/usr/bin/q", false),
        ] {
            let interpreter = Interpreter::parse(text.as_ref());
            assert_eq!(interpreter.is_emulator(Path::new(emulator)), is_it, "{text}");
        }
    }
}
