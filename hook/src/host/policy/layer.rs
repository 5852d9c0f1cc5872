//! One file of the policy: found, read and understood.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};

use super::keys::Layer;
use crate::host::trust::Host;

/// What holds where no file says anything else. It is installed too, as the first of the files.
pub(super) const DEFAULT: &str = include_str!("../../../../policies/default.json");
/// More than any policy needs; keeps the hook's memory bounded.
const FILE_MAX: u64 = 1024 * 1024;

impl Layer {
    /// The default; it has every key.
    pub(super) fn built_in() -> Self {
        serde_json::from_str(DEFAULT).expect("the default is a policy")
    }

    /// What the file `path` of `host` says, or `None` where there is no such file.
    ///
    /// Fails where it cannot be read, is not a policy, or (see [`Host`]) may be written by somebody else.
    pub(super) fn read(path: &Path, host: &Host) -> Result<Option<Self>> {
        let text = read(path, host).context("policy")?;
        text.map(|text| Self::parse(&text, path)).transpose()
    }

    /// What `text` says, the content of the file `path`.
    ///
    /// The error names file, line and key.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self> {
        // serde would take a list for an object with its values in order.
        ensure!(
            !text.trim_start().starts_with('['),
            "policy {}:1: a list; a policy is an object: {{\"KEY\": VALUE, …}}",
            path.display()
        );
        serde_json::from_str(text).map_err(|error| locate(&error, text, path))
    }
}

/// The file's text, or `None` where there is no such file.
fn read(path: &Path, host: &Host) -> Result<Option<String>> {
    let Some(file) = host.open(path, &["usr", "etc"])? else { return Ok(None) };
    let mut text = String::with_capacity(1024);
    let length = file
        .take(FILE_MAX + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("read {}", path.display()))?;
    ensure!(length as u64 <= FILE_MAX, "{} is larger than 1 MiB", path.display());
    Ok(Some(text))
}

/// `FILE:LINE: key "KEY": what is wrong`.
fn locate(error: &serde_json::Error, text: &str, path: &Path) -> anyhow::Error {
    let (line, column) = (error.line(), error.column());
    // serde_json ends its message with the position, which stands in front here.
    let message = error.to_string();
    let message =
        message.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&message);
    let key = key_before(text, line, column).map(|key| format!(" key {key}:")).unwrap_or_default();
    anyhow!("policy {}:{line}:{key} {message}", path.display())
}

/// The last key, with its quotes, that begins before a position of `text`; line and column count
/// from 1.
fn key_before(text: &str, line: usize, column: usize) -> Option<&str> {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let before = text.get(..(start + column).min(text.len()))?;
    let mut quotes = before.match_indices('"').map(|(i, _)| i);
    let mut last = None;
    while let (Some(open), Some(close)) = (quotes.next(), quotes.next()) {
        if text[close + 1..].trim_start().starts_with(':') {
            last = Some(&text[open..=close]);
        }
    }
    last
}
