//! What the hook wrote into the machine's log.
//!
//! Anybody may write there, and say that they are the hook. The journal knows who wrote; a syslog
//! daemon's file does not.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::process::Command;

use anyhow::{Result, bail};
use serde_json::Value;
use toolbx_arch::base::message;
use toolbx_arch::host::trust::Caller;

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
    /// Whether others than the hook could have written it.
    pub may_be_forged: bool,
}

impl Record {
    fn parse(line: &str, may_be_forged: bool) -> Option<Self> {
        let (before, after) = line.split_once("toolbx-arch-hook")?;
        let fields = serde_json::from_str(after.split_once("]: ")?.1).ok()?;
        Some(Self { when: before.trim_end().to_owned(), fields, may_be_forged })
    }

    pub fn to_json(&self) -> Value {
        let mut fields = self.fields.clone();
        fields["may_be_forged"] = self.may_be_forged.into();
        fields
    }

    /// In a line.
    pub fn to_text(&self) -> String {
        let field = |name: &str| self.fields[name].as_str().unwrap_or_default();
        let why = [field("error"), field("why"), field("warning")];
        let why = why.iter().find(|why| !why.is_empty()).map(|why| format!(": {why}"));
        let doubt = if self.may_be_forged { " (in a log that any user can write to)" } else { "" };
        let line = format!("{} {}{}{doubt}", self.when, field("decision"), why.unwrap_or_default());
        // Whoever wrote it, it goes to a terminal.
        message::line(&anyhow::anyhow!(line))
    }
}

/// What the hook did at the last start of the container `id`, if the log says so. Fails where no
/// log can be read.
pub fn last_start(id: &str) -> Result<Option<Record>> {
    let journal = journal().map(|log| (log, false));
    let Some((log, may_be_forged)) = journal.or_else(|| Some((files()?, true))) else {
        bail!("the log cannot be read; sudo journalctl -t toolbx-arch-hook shows it")
    };
    let lines = log.lines().rev().filter(|line| line.contains(id));
    let mut records = lines.filter_map(|line| Record::parse(line, may_be_forged));
    Ok(records.find(|record| record.fields["container"] == id))
}

/// The hook's records in systemd's journal, if there is one and we may read it: of all that say to be,
/// those that root or the caller wrote.
fn journal() -> Option<String> {
    let ours = own_uids()?;
    let is_ours = |uid: &u32| ours.iter().any(|range| range.contains(uid));
    let writers = journalctl(&["--field=_UID".to_owned()])?;
    let writers = writers.lines().filter_map(|line| line.parse().ok()).filter(is_ours);
    let mut arguments = ["--output=short-iso", "--lines", RECORDS].map(str::to_owned).to_vec();
    arguments.push("--identifier=toolbx-arch-hook".to_owned());
    let options = arguments.len();
    // Several of one field: any of them.
    arguments.extend(writers.map(|uid| format!("_UID={uid}")));
    if arguments.len() == options { None } else { journalctl(&arguments) }
}

fn journalctl(arguments: &[String]) -> Option<String> {
    let output =
        Command::new("journalctl").args(["--quiet", "--no-pager"]).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The uids, as the machine counts, by which root's hook or the caller's writes: in a container's user
/// namespace it is that container's root.
fn own_uids() -> Option<Vec<Range<u32>>> {
    let mut uids: Vec<Range<u32>> = match Caller::current().ok()? {
        // Podman's own (containers-storage.conf(5), `root-auto-userns-user`).
        Caller::Root => std::fs::read_to_string("/etc/subuid")
            .unwrap_or_default()
            .lines()
            .filter_map(|line| range(line.strip_prefix("containers:")?.split(':')))
            .collect(),
        Caller::User { .. } => std::fs::read_to_string("/proc/self/uid_map")
            .ok()?
            .lines()
            .filter_map(|line| range(line.split_ascii_whitespace().skip(1)))
            .collect(),
    };
    uids.push(0..1);
    Some(uids)
}

/// From its first number and its length.
fn range<'a>(mut fields: impl Iterator<Item = &'a str>) -> Option<Range<u32>> {
    let (first, size) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(first..first.checked_add(size)?)
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
    fn ranges_are_whole() {
        assert_eq!(range("100000:65536".split(':')), Some(100_000..165_536));
        for wrong in ["", "1", "x:1", "1:x", "4294967295:2", "-1:5"] {
            assert_eq!(range(wrong.split(':')), None, "{wrong}");
        }
    }

    #[test]
    fn understands_a_line_of_a_log() {
        let line = r#"Nov 21 19:00:00 host toolbx-arch-hook[5]: {"container":"3f","decision":"refused","error":"no emulator"}"#;
        let record = Record::parse(line, false).unwrap();
        assert_eq!(record.fields["container"], "3f");
        assert_eq!(record.to_text(), "Nov 21 19:00:00 host refused: no emulator");
        let doubted = Record { may_be_forged: true, ..record }.to_text();
        assert!(doubted.ends_with(" (in a log that any user can write to)"), "{doubted}");
        for wrong in ["", "toolbx-arch-hook", "toolbx-arch-hook[1]: {", "other[1]: {}"] {
            assert!(Record::parse(wrong, false).is_none(), "{wrong}");
        }
    }
}
