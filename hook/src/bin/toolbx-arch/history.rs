//! What the hook wrote into the machine's log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::process::Command;

use anyhow::{Result, bail};
use serde_json::Value;
use toolbx_arch::message;

/// Where syslog daemons write, where there is no journal.
const FILES: [&str; 2] = ["/var/log/syslog", "/var/log/messages"];
/// As much of such a file is read, from its end.
const TAIL: u64 = 4 * 1024 * 1024;
/// As many of the hook's records are looked at in the journal.
const RECORDS: &str = "10000";

/// What the hook did at a start.
pub struct Record {
    /// What stands in front of it in the log: mostly the time.
    pub when: String,
    /// `decision`, `error` and so on; see toolbx-arch-hook(8).
    pub fields: Value,
}

impl Record {
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once("toolbx-arch-hook")?;
        let fields = serde_json::from_str(after.split_once("]: ")?.1).ok()?;
        Some(Self { when: before.trim_end().to_owned(), fields })
    }

    /// In a line.
    pub fn to_text(&self) -> String {
        let field = |name: &str| self.fields[name].as_str().unwrap_or_default();
        let why = [field("error"), field("why"), field("warning")];
        let why = why.iter().find(|why| !why.is_empty()).map(|why| format!(": {why}"));
        let line = format!("{} {}{}", self.when, field("decision"), why.unwrap_or_default());
        // Anybody may write to the log.
        message::line(&anyhow::anyhow!(line))
    }
}

/// What the hook did at the last start of the container `id`, if the log says so. Fails where no
/// log can be read.
pub fn last_start(id: &str) -> Result<Option<Record>> {
    let Some(log) = journal().or_else(files) else {
        bail!("the log cannot be read; sudo journalctl -t toolbx-arch-hook shows it")
    };
    let mut records = log.lines().rev().filter(|line| line.contains(id)).filter_map(Record::parse);
    Ok(records.find(|record| record.fields["container"] == id))
}

/// The hook's records in systemd's journal, if there is one and we may read it.
fn journal() -> Option<String> {
    let output = Command::new("journalctl")
        .args(["--quiet", "--no-pager", "--output=short-iso", "--lines", RECORDS])
        .args(["--identifier", "toolbx-arch-hook"])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

fn files() -> Option<String> {
    FILES.iter().find_map(|path| tail(path).ok())
}

fn tail(path: &str) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_a_line_of_a_log() {
        let line = r#"Nov 21 19:00:00 host toolbx-arch-hook[5]: {"container":"3f","decision":"refused","error":"no emulator"}"#;
        let record = Record::parse(line).unwrap();
        assert_eq!(record.fields["container"], "3f");
        assert_eq!(record.to_text(), "Nov 21 19:00:00 host refused: no emulator");
        for wrong in ["", "toolbx-arch-hook", "toolbx-arch-hook[1]: {", "other[1]: {}"] {
            assert!(Record::parse(wrong).is_none(), "{wrong}");
        }
    }
}
