//! What the hook wrote into the machine's log.
//!
//! Anybody may write there, and say that they are the hook. A syslog daemon's file tells nothing of who did.
//! In the journal a record counts if root or the caller sent it, to the socket of syslog, and the journal saw
//! neither another program send it nor a container's process; it may be forged unless the journal saw the
//! hook, outside of every container.
//!
//! The journal has the uid from the kernel, with the record. What program that was, and in which cgroup, it
//! looks up in /proc afterwards (systemd.journal-fields(7)), where the hook, and whoever is as quick, has often
//! ended. A container that was given the journal's socket has a uid that counts if its root is the machine's, or
//! its user's; a program of the hook's name too, if it likes. But its cgroup bears its id.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use serde_json::{Map, Value};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};
use toolbx_arch::asked::idmap::IdMapping;
use toolbx_arch::base::message;
use toolbx_arch::host::trust::Caller;

use crate::hooks_d::HOOK;

/// Where syslog daemons write, where there is no journal.
const FILES: [&str; 2] = ["/var/log/syslog", "/var/log/messages"];
/// As much of such a file is read, from its end.
const TAIL: u64 = 4 * 1024 * 1024;
/// As many of the hook's records are looked at in the journal.
const RECORDS: &str = "10000";
/// How many hexadecimal digits a container's id has: with Podman, Docker, CRI-O and Kubernetes' containerd.
const ID_DIGITS: usize = 64;

/// Why others than the hook could have written a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// The log does not tell who wrote.
    AnyUser,
    /// The writer had ended before the journal looked what it was.
    Unseen,
}

impl Doubt {
    fn says(self) -> &'static str {
        match self {
            Self::AnyUser => " (in a log that any user can write to)",
            Self::Unseen => {
                " (by root or you; a container that was given the journal's socket could have \
                 written it, too)"
            }
        }
    }
}

/// What the hook did at a start.
#[derive(Debug)]
pub struct Record {
    /// What stands in front of it in the log: mostly the time.
    pub when: String,
    /// `decision`, `error` and so on; see toolbx-arch-hook(8).
    pub fields: Value,
    /// Why others than the hook could have written it, if they could.
    pub doubt: Option<Doubt>,
}

impl Record {
    /// A line of a syslog daemon's file.
    fn of_line(line: &str) -> Option<Self> {
        let (before, after) = line.split_once("toolbx-arch-hook")?;
        let fields = serde_json::from_str(after.split_once("]: ")?.1).ok()?;
        Some(Self { when: before.trim_end().to_owned(), fields, doubt: Some(Doubt::AnyUser) })
    }

    /// An entry of the journal, as `journalctl --output=json` writes it. `None` where it is not the hook's.
    fn of_entry(entry: &str) -> Option<Self> {
        let entry: Map<String, Value> = serde_json::from_str(entry).ok()?;
        // What is no text there is a list of bytes.
        let seen = |field: &str| entry.get(field).map(|value| value.as_str().unwrap_or_default());
        let (program, cgroup) = (seen("_EXE"), seen("_SYSTEMD_CGROUP"));
        if program.is_some_and(|program| !is_hook(program)) || cgroup.is_some_and(is_of_container) {
            return None;
        }
        let was_seen = program.is_some() && cgroup.is_some();
        Some(Self {
            when: local_time(seen("__REALTIME_TIMESTAMP")?)?.format(&Rfc3339).ok()?,
            fields: serde_json::from_str(seen("MESSAGE")?).ok()?,
            doubt: (!was_seen).then_some(Doubt::Unseen),
        })
    }

    pub fn to_json(&self) -> Value {
        let mut fields = self.fields.clone();
        fields["may_be_forged"] = self.doubt.is_some().into();
        fields
    }

    /// In a line.
    pub fn to_text(&self) -> String {
        let field = |name: &str| self.fields[name].as_str().unwrap_or_default();
        let why = [field("error"), field("why"), field("warning")];
        let why = why.iter().find(|why| !why.is_empty()).map(|why| format!(": {why}"));
        let doubt = self.doubt.map(Doubt::says).unwrap_or_default();
        let line = format!("{} {}{}{doubt}", self.when, field("decision"), why.unwrap_or_default());
        // Whoever wrote it, it goes to a terminal.
        message::line(&anyhow::anyhow!(line))
    }
}

fn is_hook(program: &str) -> bool {
    Path::new(program).file_name() == Path::new(HOOK).file_name()
}

/// Whether a process in this cgroup is a container's: one on the way to it is named after a container, and not
/// after the conmon that watches it and that the hook is started by.
fn is_of_container(cgroup: &str) -> bool {
    let has_id = |name: &str| {
        let mut words = name.split(|c: char| !c.is_ascii_hexdigit());
        words.any(|word| word.len() == ID_DIGITS)
    };
    cgroup.split('/').any(|name| has_id(name) && !name.contains("conmon"))
}

/// The time `microseconds` after the beginning of 1970, in this machine's time zone, to the second.
fn local_time(microseconds: &str) -> Option<OffsetDateTime> {
    let seconds = microseconds.parse::<i64>().ok()? / 1_000_000;
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    Some(time.to_offset(UtcOffset::local_offset_at(time).unwrap_or(UtcOffset::UTC)))
}

/// What the hook did at the last start of the container `id`, if the log says so. Fails where no
/// log can be read.
pub fn last_start(id: &str) -> Result<Option<Record>> {
    type Understand = fn(&str) -> Option<Record>;
    let journal = journal().map(|log| (log, Record::of_entry as Understand));
    let Some((log, understand)) = journal.or_else(|| Some((files()?, Record::of_line as _))) else {
        bail!("the log cannot be read; sudo journalctl -t toolbx-arch-hook shows it")
    };
    let lines = log.lines().rev().filter(|line| line.contains(id));
    Ok(lines.filter_map(understand).find(|record| record.fields["container"] == id))
}

/// The entries of systemd's journal, if there is one and we may read it: of all that say to be the hook's,
/// those that root or the caller sent to the socket of syslog.
fn journal() -> Option<String> {
    let mut command = Command::new("journalctl");
    // Without --all, what is longer than 4 KiB is left out.
    command.args(["--quiet", "--no-pager", "--all", "--output=json", "--lines", RECORDS]);
    command.args(["--identifier=toolbx-arch-hook", "_TRANSPORT=syslog", "_UID=0"]);
    // Several of one field: any of them.
    command.args(own_uid().map(|uid| format!("_UID={uid}")));
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The caller's uid, as the machine counts, if that is an ordinary user.
fn own_uid() -> Option<u32> {
    match Caller::current().ok()? {
        Caller::Root => None,
        Caller::User { .. } => {
            let map = std::fs::read_to_string("/proc/self/uid_map").ok()?;
            let map = IdMapping::parse(&map).ok()?;
            map.iter().find(|line| line.container == 0).map(|line| line.host)
        }
    }
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
    use serde_json::json;

    use super::*;

    #[test]
    fn understands_a_line_of_a_log() {
        let line = r#"Nov 21 19:00:00 host toolbx-arch-hook[5]: {"container":"3f","decision":"refused","error":"no emulator"}"#;
        let record = Record::of_line(line).unwrap();
        assert_eq!(record.fields["container"], "3f");
        assert_eq!(
            record.to_text(),
            "Nov 21 19:00:00 host refused: no emulator (in a log that any user can write to)"
        );
        for wrong in ["", "toolbx-arch-hook", "toolbx-arch-hook[1]: {", "other[1]: {}"] {
            assert!(Record::of_line(wrong).is_none(), "{wrong}");
        }
    }

    /// What the journal of systemd 252 has written, but for the names.
    fn entry() -> Value {
        json!({
            "SYSLOG_FACILITY": "3", "_PID": "8", "SYSLOG_PID": "5", "_UID": "0", "_GID": "0",
            "MESSAGE": r#"{"container":"3f","decision":"native"}"#, "_TRANSPORT": "syslog",
            "_COMM": "toolbx-arch-hoo", "_EXE": HOOK, "_SYSTEMD_CGROUP": "/user.slice/user-1000.slice",
            "__REALTIME_TIMESTAMP": "1796073400874211", "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": "toolbx-arch-hook",
        })
    }

    #[test]
    fn what_the_journal_saw_decides() {
        let id = "0123456789abcdef".repeat(4);
        let in_cgroup = |cgroup: &str| ("_SYSTEMD_CGROUP", json!(cgroup.replace("ID", &id)));
        let conmon = "/machine.slice/libpod-conmon-ID.scope";
        let (hooks, unseen) = (Some(None), Some(Some(Doubt::Unseen)));
        for ((field, value), expected) in [
            (("_GID", json!("0")), hooks),
            (in_cgroup(conmon), hooks),
            (in_cgroup("/system.slice/containerd.service"), hooks),
            (in_cgroup("/machine.slice/libpod-ID.scope/container"), None),
            (in_cgroup("/system.slice/docker-ID.scope"), None),
            (in_cgroup("/docker/ID"), None),
            (in_cgroup(&format!("/libpod-ID.scope{conmon}")), None),
            (("_SYSTEMD_CGROUP", Value::Null), unseen),
            (("_EXE", json!("/usr/bin/logger")), None),
            (("_EXE", json!([255, 1])), None),
            (("_EXE", Value::Null), unseen),
            (("MESSAGE", json!([123, 255, 125])), None),
            (("MESSAGE", json!("{")), None),
            (("__REALTIME_TIMESTAMP", json!("x")), None),
        ] {
            let mut entry = entry();
            entry[field] = value;
            if entry[field].is_null() {
                entry.as_object_mut().unwrap().remove(field);
            }
            let record = Record::of_entry(&entry.to_string());
            assert_eq!(record.map(|record| record.doubt), expected, "{entry}");
        }
    }

    #[test]
    fn the_time_is_that_of_the_entry() {
        let time = local_time("1796073400874211").unwrap();
        assert_eq!(time.unix_timestamp(), 1_796_073_400);
        let record = Record::of_entry(&entry().to_string()).unwrap();
        assert_eq!(record.to_text(), format!("{} native", time.format(&Rfc3339).unwrap()));
    }
}
