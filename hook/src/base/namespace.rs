//! A namespace, told from others by the device and inode of its file in /proc.

use anyhow::Result;
use rustix::fs::Stat;

use crate::base::message::Call;

/// The inode of the initial user namespace (`PROC_USER_INIT_INO` in the kernel).
///
/// Not recognised by its `uid_map`: an identity-mapped namespace shows the very same one.
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// A namespace, as /proc shows it: device and inode of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    /// The device of the nsfs file.
    pub dev: u64,
    /// Its inode, which is the namespace's number.
    pub ino: u64,
}

impl Namespace {
    /// The one of this `kind`, for example `user`, that the hook is in.
    pub fn ours(kind: &str) -> Result<Self> {
        let path = format!("/proc/self/ns/{kind}");
        rustix::fs::stat(&path).map(Self::of_file).call(|| format!("stat {path}"))
    }

    /// The one that a file of /proc with this `stat` stands for.
    #[must_use]
    pub fn of_file(stat: Stat) -> Self {
        Self { dev: stat.st_dev, ino: stat.st_ino }
    }

    /// Whether it is the machine's own user namespace.
    #[must_use]
    pub fn is_initial_user(self) -> bool {
        self.ino == INITIAL_USER_NAMESPACE
    }
}
