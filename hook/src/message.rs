//! How errors are worded.
//!
//! A failed system call reads like a line of strace:
//! `openat2 proc/sys/fs of container 3f2a: ELOOP: Too many symbolic links encountered`.
//! Text that a container's author chose is escaped and cut, so that it stays within its line.

use anyhow::{Result, anyhow};

/// Adds the call and its object to a system call's error.
pub trait Call<T> {
    /// `call` says which call on which object, without the error.
    fn call(self, call: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Call<T> for rustix::io::Result<T> {
    fn call(self, call: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| {
            anyhow!("{}: {}", call(), nix::errno::Errno::from_raw(errno.raw_os_error()))
        })
    }
}

impl<T> Call<T> for std::io::Result<T> {
    fn call(self, call: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| match error.raw_os_error() {
            Some(errno) => anyhow!("{}: {}", call(), nix::errno::Errno::from_raw(errno)),
            None => anyhow!("{}: {error}", call()),
        })
    }
}

/// Hostile text, made fit for one line of a log: quoted, escaped, and cut after 64 characters.
#[must_use]
pub fn shown(text: &str) -> String {
    const MAX: usize = 64;
    let cut: String = text.chars().take(MAX).collect();
    let dots = if cut.len() < text.len() { "…" } else { "" };
    format!("\"{}{dots}\"", cut.escape_debug())
}
