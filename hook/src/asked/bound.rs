//! File systems that can be mounted only with rights over the namespace that they show. Where a
//! container has none, `precreate` has the engine's bound in their place.

use std::path::Path;

use rustix::fs::{FsWord, PROC_SUPER_MAGIC};

/// `SYSFS_MAGIC` (include/uapi/linux/magic.h).
const SYSFS_MAGIC: FsWord = 0x6265_6572;

/// Such a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// It shows a network namespace.
    Sysfs,
    /// It shows a pid namespace.
    Proc,
}

impl Bound {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Sysfs, Self::Proc];

    /// As config.json writes it.
    #[must_use]
    pub fn fs_type(self) -> &'static str {
        match self {
            Self::Sysfs => "sysfs",
            Self::Proc => "proc",
        }
    }

    /// As `fstatfs` writes it.
    #[must_use]
    pub fn magic(self) -> FsWord {
        match self {
            Self::Sysfs => SYSFS_MAGIC,
            Self::Proc => PROC_SUPER_MAGIC,
        }
    }

    /// Where the engine has it, and where a container is to have it.
    #[must_use]
    pub fn path(self) -> &'static Path {
        Path::new(match self {
            Self::Sysfs => "/sys",
            Self::Proc => "/proc",
        })
    }
}
