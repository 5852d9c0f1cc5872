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

/// An error as one line that a terminal can be shown: what control characters a container managed
/// to get into it are escaped, and it is cut after 2,000 characters.
#[must_use]
pub fn line(error: &anyhow::Error) -> String {
    const MAX: usize = 2000;
    let mut line = String::new();
    for c in format!("{error:#}").chars().take(MAX) {
        // Format characters can turn the direction of text, or hide it.
        let plain = !c.is_control()
            && !matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}');
        if plain { line.push(c) } else { line.extend(c.escape_unicode()) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        let error = anyhow!("a\n\u{1b}[31mb\u{9b}\u{202e}ü").context("x");
        assert_eq!(line(&error), "x: a\\u{a}\\u{1b}[31mb\\u{9b}\\u{202e}ü");
        assert!(line(&anyhow!("{}", "y".repeat(1_000_000))).len() <= 2000);
    }

    #[test]
    fn hostile_text_is_cut_and_escaped() {
        assert_eq!(shown("a\n\"b"), "\"a\\n\\\"b\"");
        assert_eq!(shown(&"x".repeat(100)), format!("\"{}…\"", "x".repeat(64)));
    }
}
