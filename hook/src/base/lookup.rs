//! Looks names up below a directory whose content somebody hostile may change at any time.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// How often a look-up is tried that a rename came in between of. One process that renames without a
/// pause disturbs some 7 of 100,000 look-ups.
const TRIES: usize = 64;

/// openat2(2), tried again where it says so: with a `..` on the way it cannot tell whether that left
/// `dir`, if anything was renamed meanwhile.
pub fn openat2(
    dir: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let open = || rustix::fs::openat2(dir.as_fd(), path, flags | OFlags::CLOEXEC, mode, resolve);
    let mut tries = std::iter::repeat_with(open).take(TRIES);
    tries.find(|opened| !matches!(opened, Err(Errno::AGAIN))).unwrap_or(Err(Errno::AGAIN))
}

/// `path` below `dir` as a mere location (`O_PATH`), resolved as `resolve` says.
pub fn location(
    dir: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
    openat2(dir, path, flags | OFlags::PATH, Mode::empty(), resolve)
}

/// `path` below `dir` as a mere location, reached through no link and not a link itself. An automount
/// there is not triggered.
pub fn plain_location(dir: impl AsFd, path: impl Arg + Copy) -> rustix::io::Result<OwnedFd> {
    // Not O_NOFOLLOW: with that, O_PATH opens a link itself.
    location(dir, path, OFlags::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_is_renamed_meanwhile_is_found() {
        let top = std::env::temp_dir().join(format!("toolbx-arch lookup-{}", std::process::id()));
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        std::fs::write(top.join("file"), "").unwrap();
        std::fs::create_dir_all(top.join("x")).unwrap();
        let mut renaming = Command::new("python3")
            .args(["-c", "import os, sys\nwhile True: os.rename('x', 'y'); os.rename('y', 'x')"])
            .current_dir(&top)
            .stdin(Stdio::null())
            .spawn()
            .expect("python3 is there");
        let mut is_renaming = || renaming.try_wait().unwrap().is_none();
        while top.join("x").exists() {
            assert!(is_renaming(), "python3 has ended");
        }
        let root = rustix::fs::open(&top, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let path = Path::new("a/b/../../a/../file");
        let lost = (0..200_000)
            .filter(|_| location(&root, path, OFlags::empty(), ResolveFlags::IN_ROOT).is_err())
            .count();
        assert!(is_renaming(), "python3 has ended");
        renaming.kill().and_then(|()| renaming.wait()).unwrap();
        std::fs::remove_dir_all(&top).unwrap();
        assert_eq!(lost, 0);
    }

    #[test]
    fn a_plain_location_is_no_link_and_behind_none() {
        let root = rustix::fs::open("/proc/self", OFlags::PATH, Mode::empty()).unwrap();
        for (path, error) in [
            ("status", None),
            ("task", None),
            ("exe", Some(Errno::LOOP)),
            ("root/etc", Some(Errno::LOOP)),
            ("../self", Some(Errno::XDEV)),
            ("nothing", Some(Errno::NOENT)),
        ] {
            assert_eq!(plain_location(&root, path).err(), error, "{path}");
        }
    }
}
