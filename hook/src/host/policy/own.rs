//! The policy of the caller's own: which file it is.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::base::message::{self, Call};
use crate::host::trust::Caller;

/// Below the user's home.
const USER_FILE: &str = ".config/toolbx-arch/policy.json";

/// A policy of the caller's own.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// Root has none.
    None,
    /// There is no home directory in which it could be.
    Homeless(u32),
    /// This file; it need not be there.
    At(PathBuf),
}

impl Own {
    /// Fails where nobody can say which home directory the caller has: then there may be a policy.
    pub(super) fn of(caller: Caller) -> Result<Self> {
        if caller == Caller::Root {
            return Ok(Self::None);
        }
        let read = |path: &str| std::fs::read_to_string(path).call(|| format!("read {path}"));
        let map = read("/proc/self/uid_map")?;
        let uid = outer_uid(&map).context("/proc/self/uid_map has no uid 0")?;
        let home = match home_of(uid, &std::fs::read_to_string("/etc/passwd").unwrap_or_default()) {
            Some(home) => Some(home),
            None => engines_home().with_context(|| {
                format!("where the policy of uid {uid} is, who is not in /etc/passwd")
            })?,
        };
        Ok(home.map_or(Self::Homeless(uid), |home| Self::At(home.join(USER_FILE))))
    }

    /// The file, if there can be one.
    pub(super) fn file(self) -> Option<PathBuf> {
        if let Self::At(file) = self { Some(file) } else { None }
    }
}

/// Why somebody has no policy who has no home directory.
pub(super) fn homeless(uid: u32) -> String {
    format!("uid {uid} has no home directory: neither /etc/passwd nor the engine's HOME names one")
}

/// The home directory as the engine knows it, which asks the C library, and so a directory service:
/// `HOME` of this process, which a drop-in's `env` mostly takes away, or of its parent, the runtime. It
/// is the user's own to set, as the policy that it leads to is.
fn engines_home() -> Result<Option<PathBuf>> {
    let mut home = std::env::var_os("HOME");
    if home.is_none() {
        let path = format!("/proc/{}/environ", std::os::unix::process::parent_id());
        home = home_in(&std::fs::read(&path).call(|| format!("read {path}"))?);
    }
    let Some(home) = home.filter(|home| !home.is_empty()).map(PathBuf::from) else {
        return Ok(None);
    };
    ensure!(home.is_absolute(), "HOME is no absolute path: {}", message::path(&home));
    Ok(Some(home))
}

/// `HOME` in an environment, as the kernel tells it.
pub(super) fn home_in(environment: &[u8]) -> Option<OsString> {
    let mut variables = environment.split(|byte| *byte == 0);
    let home = variables.find_map(|variable| variable.strip_prefix(b"HOME="))?;
    Some(OsStr::from_bytes(home).to_owned())
}

/// The uid, in the parent namespace, of uid 0: second number of the first line of a `uid_map`.
pub(super) fn outer_uid(uid_map: &str) -> Option<u32> {
    uid_map.lines().next()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

pub(super) fn home_of(uid: u32, passwd: &str) -> Option<PathBuf> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let home = Path::new(*fields.get(5)?);
        (fields[2].parse() == Ok(uid) && home.is_absolute()).then(|| home.to_owned())
    })
}
