//! How errors are worded.
//!
//! A failed system call reads like a line of strace:
//! `openat2 proc/sys/fs of container 3f2a: ELOOP: Too many symbolic links encountered`.
//! Text that a container's author chose is escaped and cut, so that it stays within its line.

use std::path::Path;

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

/// An error as one line, of 2,000 bytes at most.
#[must_use]
pub fn line(error: &anyhow::Error) -> String {
    plain(&format!("{error:#}"), 2000)
}

/// Names or reasons for the log: each a line of 200 bytes at most, and not more than fit into a
/// datagram.
#[must_use]
pub fn list(lines: &[String]) -> serde_json::Value {
    lines.iter().take(64).map(|line| plain(line, 200)).collect()
}

/// A path of a container, of 200 bytes at most: what is more than text to a terminal is escaped.
#[must_use]
pub fn path(path: &Path) -> String {
    plain(&path.to_string_lossy(), 200)
}

/// Whether a character is more than text to a terminal.
#[must_use]
pub fn is_active(c: char) -> bool {
    // Format characters can turn the direction of text, or hide it.
    let is_format = matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
    c.is_control() || is_format
}

/// Lines with everything escaped that would be more than text to a terminal.
#[must_use]
pub fn lines(text: &str) -> String {
    let mut lines = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && is_active(c) { lines.extend(c.escape_unicode()) } else { lines.push(c) }
    }
    lines
}

/// Text with everything escaped that would be more than text to a terminal, and cut.
fn plain(text: &str, max: usize) -> String {
    let mut line = String::new();
    for c in text.chars() {
        let escaped: String = if is_active(c) { c.escape_unicode().collect() } else { c.into() };
        if line.len() + escaped.len() > max {
            break;
        }
        line += &escaped;
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
