//! A process's mounts, as /proc/PID/mountinfo tells them (`proc_pid_mountinfo`(5)).

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, StatxFlags};

use crate::message::Call;

/// The number of the mount that `fd` lies on.
pub fn mount_id(fd: impl AsFd) -> Result<u64> {
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .map(|statx| statx.stx_mnt_id)
        .call(|| "statx a mount id".into())
}

/// Our own mountinfo; what is no UTF-8 replaced.
pub fn own() -> Result<String> {
    const PATH: &str = "/proc/self/mountinfo";
    // As much as most have, so that few calls read it.
    let mut text = Vec::with_capacity(16 * 1024);
    File::open(PATH)
        .and_then(|mut file| file.read_to_end(&mut text))
        .call(|| format!("read {PATH}"))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Whether the mount that `fd` lies on passes mounts on to others, by a process's mountinfo.
pub fn is_shared(fd: impl AsFd, mountinfo: &str) -> Result<bool> {
    Ok(Mount::find(mountinfo, mount_id(fd)?)?.shared)
}

/// The mount points of a process, by its mountinfo, in the order in which they were mounted.
#[must_use]
pub fn mount_points(mountinfo: &str) -> Vec<PathBuf> {
    mountinfo.lines().filter_map(Mount::parse).map(|mount| mount.path()).collect()
}

/// A path as mountinfo writes it: blanks and backslashes are octal there (`seq_path` in the kernel).
fn unescaped(path: &str) -> PathBuf {
    let mut parts = path.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..3).and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend(&part.as_bytes()[3..]);
            }
            None => bytes.extend(part.as_bytes()),
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// A line of mountinfo (see `proc_pid_mountinfo`(5)).
#[derive(Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Its number.
    pub id: u64,
    /// The number of the mount that it is mounted on.
    pub parent: u64,
    /// Which directory of the file system is mounted.
    pub root: &'a str,
    /// Where it is mounted, as mountinfo writes it.
    pub point: &'a str,
    /// Whether mounts on it are passed on to its peers.
    pub shared: bool,
}

impl<'a> Mount<'a> {
    /// Understands a line.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        let parent = fields.next()?.parse().ok()?;
        let (root, point) = (fields.nth(1)?, fields.next()?);
        // Behind the options, optional fields up to a lone "-".
        let shared =
            fields.skip(1).take_while(|field| *field != "-").any(|f| f.starts_with("shared:"));
        Some(Self { id, parent, root, point, shared })
    }

    /// Where it is mounted, as seen by the process whose mountinfo it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        unescaped(self.point)
    }

    /// The mount `id`. Fails if there is none.
    pub fn find(mountinfo: &'a str, id: u64) -> Result<Self> {
        let mut mounts = mountinfo.lines().filter_map(Self::parse);
        mounts
            .find(|mount| mount.id == id)
            .with_context(|| format!("mount {id} is not in mountinfo"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn reads_mountinfo() {
        let mountinfo = "\
22 1 0:21 / /proc rw,relatime shared:5 - proc proc rw
23 1 0:22 / /proc rw,relatime - proc proc rw
24 1 0:23 /a /shared:9 rw,relatime master:5 - tmpfs shared:1 rw
25 1 254:24 / /x rw shared:7 master:5 - tmpfs x rw
broken
";
        for (id, shared) in [(22, true), (23, false), (24, false), (25, true)] {
            assert_eq!(Mount::find(mountinfo, id).unwrap().shared, shared, "mount {id}");
        }
        assert_eq!(Mount::find(mountinfo, 24).unwrap().root, "/a");
        assert_eq!(Mount::find(mountinfo, 24).unwrap().path(), Path::new("/shared:9"));
        assert_eq!(Mount::find(mountinfo, 25).unwrap().parent, 1);
        assert!(Mount::find(mountinfo, 2).is_err());
    }

    #[test]
    fn knows_mount_points() {
        let mountinfo = "\
22 1 0:21 / /sys rw - sysfs sysfs rw
23 22 0:22 / /sys/a\\040b\\134c rw shared:1 - tmpfs x rw
";
        assert_eq!(mount_points(mountinfo), ["/sys", "/sys/a b\\c"].map(PathBuf::from));
    }
}
