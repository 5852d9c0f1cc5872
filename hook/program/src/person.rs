//! Who calls.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toolbx_arch::host::trust::Caller;

/// Whoever calls.
pub struct Person {
    uid: u32,
    /// As in /etc/passwd; the uid where that does not know them.
    name: String,
    /// Where the configuration of their own containers is; the machine's root has none.
    config: Option<PathBuf>,
}

impl Person {
    /// Whoever calls; an ordinary user is one in a user namespace too. Fails where they have no home
    /// directory.
    pub fn calling() -> Result<Self> {
        let uid = rustix::process::geteuid().as_raw();
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = name_of(uid, &passwd).map_or_else(|| uid.to_string(), str::to_owned);
        let is_root = uid == 0 && Caller::current()? == Caller::Root;
        let config = if is_root { None } else { Some(config_home()?) };
        Ok(Self { uid, name, config })
    }

    /// Whether it is the machine's root.
    pub fn is_root(&self) -> bool {
        self.config.is_none()
    }

    /// Where the configuration of their own containers is; root's is the machine's.
    pub fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// The name that counts in /etc/subuid: for root's containers it is Podman's own.
    pub fn name_in_subuid(&self) -> &str {
        if self.is_root() { "containers" } else { &self.name }
    }

    /// Whether the text of /etc/subuid or /etc/subgid gives them a range: subuid(5).
    pub fn is_in(&self, ranges: &str) -> bool {
        let uid = self.uid.to_string();
        ranges
            .lines()
            .filter_map(|line| line.split(':').next())
            .any(|owner| owner == self.name_in_subuid() || !self.is_root() && owner == uid)
    }
}

/// As many ids as a user mostly gets (`SUB_UID_COUNT` of login.defs(5)), the first and the last, behind
/// all that the files, like /etc/subuid, give to somebody.
pub fn free_ids(files: &[&str]) -> (u64, u64) {
    let texts = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
    let end = texts.filter_map(|text| end_of(&text)).max().unwrap_or(0).max(100_000);
    (end, end + 65535)
}

/// The id behind the last range.
fn end_of(ranges: &str) -> Option<u64> {
    let end = |line: &str| {
        let mut numbers = line.split(':').skip(1).map(str::parse::<u64>);
        Some(numbers.next()?.ok()? + numbers.next()?.ok()?)
    };
    ranges.lines().filter_map(end).filter(|end| *end < 1 << 31).max()
}

/// Where a user's configuration is, by the XDG Base Directory Specification.
fn config_home() -> Result<PathBuf> {
    let named = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    if let Some(path) = named.filter(|path| path.is_absolute()) {
        return Ok(path);
    }
    let home = std::env::home_dir().context("HOME names no home directory")?;
    Ok(home.join(".config"))
}

fn name_of(uid: u32, passwd: &str) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_name_and_its_ranges() {
        let passwd = "root:x:0:0::/root:/bin/sh\nbroken\nann:x:1001:1001::/home/ann:/bin/sh\n";
        assert_eq!(name_of(1001, passwd), Some("ann"));
        assert_eq!(name_of(5, passwd), None);
        let ann =
            Person { uid: 1001, name: "ann".into(), config: Some("/home/ann/.config".into()) };
        for (ranges, is_in) in
            [("ann:1:2\n", true), ("bob:1:2\n1001:1:2\n", true), ("", false), ("anna:1:2", false)]
        {
            assert_eq!(ann.is_in(ranges), is_in, "{ranges}");
        }
        assert_eq!(
            end_of("a:100000:65536\nbroken\nb:165536:65536\nc:2147483647:2147483648\n"),
            Some(231_072)
        );
        let root = Person { uid: 0, name: "root".into(), config: None };
        assert!(root.is_in("containers:1:2\n") && !root.is_in("root:1:2\n0:1:2\n"));
    }
}
