//! What is printed: marks, colour on a terminal only, columns.

use std::fmt::Write as _;
use std::io::{ErrorKind, IsTerminal, Write};

use toolbx_arch::base::message;

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// As it should be.
    Good,
    /// It works, but for something.
    Warning,
    /// It does not work.
    Bad,
}

impl Mark {
    /// As a character, green, yellow or red if there may be colour.
    pub fn show(self, colour: bool) -> String {
        let (sign, code) = match self {
            Self::Good => ('✓', 32),
            Self::Warning => ('!', 33),
            Self::Bad => ('✗', 31),
        };
        if colour { format!("\u{1b}[{code}m{sign}\u{1b}[m") } else { sign.into() }
    }

    /// As programs read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Bad => "error",
        }
    }
}

/// Whether standard output may be coloured: a terminal, and nobody asked for none
/// (<https://no-color.org>).
pub fn has_colour() -> bool {
    let asked_for_none = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    std::io::stdout().is_terminal() && !asked_for_none && !is_dumb
}

/// Writes lines to standard output, with everything escaped that would be more than text: much of it
/// comes from images.
pub fn print(text: &str) {
    write(&message::lines(text));
}

/// Writes text with colours of our own, of which `text` makes what is printed when it is handed a
/// function for all that is not ours.
pub fn print_coloured(text: impl FnOnce(fn(&str) -> String) -> String) {
    write(&text(message::lines));
}

/// Writes to standard output, or ends the program; a reader who has gone is no error.
fn write(text: &str) {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("toolbx-arch: error: write to standard output: {error}");
            std::process::exit(1);
        }
        _ => {}
    }
}

/// Writes JSON to standard output, for people to read too.
pub fn print_json(value: &serde_json::Value) {
    write(&safe_json(value));
}

fn safe_json(value: &serde_json::Value) -> String {
    let mut json = String::new();
    for c in format!("{value:#}\n").chars() {
        if c != '\n' && message::is_active(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(json, "\\u{unit:04x}");
            }
        } else {
            json.push(c);
        }
    }
    json
}

/// Rows as lines, each column but the last one as wide as its widest cell.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "bcd", "e"], ["fghü", "", "ij"], ["k", "l", ""]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows), "a     bcd  e\nfghü       ij\nk     l\n");
    }

    #[test]
    fn json_is_text_only() {
        let value = serde_json::json!({"a": "\u{9b}\u{e0001}ü\u{1b}"});
        let text = safe_json(&value);
        assert!(text.chars().all(|c| c == '\n' || !message::is_active(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn colour_changes_nothing_else() {
        assert_eq!(Mark::Bad.show(false), "✗");
        assert_eq!(Mark::Bad.show(true), "\u{1b}[31m✗\u{1b}[m");
    }
}
