//! A process's mounts: one by one, as statmount(2) tells them, or all, as /proc/PID/mountinfo does
//! (`proc_pid_mountinfo`(5)), which takes as long as there are many: those of the host are among them.
//!
//! Paths are bytes, as the kernel has them: an image chooses names, and need not choose text.

use std::ffi::{CStr, OsString};
use std::fs::File;
use std::io::Read;
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result};
use linux_raw_sys::general::{
    MS_SHARED, STATMOUNT_MNT_BASIC, STATMOUNT_MNT_POINT, STATMOUNT_MNT_ROOT, STATMOUNT_SB_BASIC,
    statmount,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::LinkNameSpaceType;

use crate::asked::bound::Bound;
use crate::base::kernel;
use crate::base::message::{Call, shown};
use crate::base::mount_id::{mount_id, unique_mount_id};

/// Room for what statmount tells: its fixed part, and two paths.
const STATMOUNT_MAX: usize = size_of::<statmount>() + 2 * 4096;

/// Our own mounts, in the order in which they were mounted.
pub fn own() -> Result<Vec<Mount>> {
    const PATH: &str = "/proc/self/mountinfo";
    // As much as most have, so that few calls read it.
    let mut text = Vec::with_capacity(16 * 1024);
    File::open(PATH)
        .and_then(|mut file| file.read_to_end(&mut text))
        .call(|| format!("read {PATH}"))?;
    parse(&text)
}

/// The mount namespace that this process is in.
pub fn own_namespace() -> Result<OwnedFd> {
    const PATH: &str = "/proc/self/ns/mnt";
    rustix::fs::open(PATH, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .call(|| format!("open {PATH}"))
}

/// Goes back to a mount namespace that this process was in, which is `whose`.
pub fn enter_again(namespace: &OwnedFd, whose: &str) -> Result<()> {
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .call(|| format!("setns back into the {whose}'s mount namespace"))
}

/// The mounts that a mountinfo tells of. Fails where a line is not understood: there might be
/// anything.
pub fn parse(mountinfo: &[u8]) -> Result<Vec<Mount>> {
    let mount = |line: &[u8]| {
        Mount::parse(line).with_context(|| {
            format!("mountinfo has the line {}", shown(&String::from_utf8_lossy(line)))
        })
    };
    mountinfo.strip_suffix(b"\n").unwrap_or(mountinfo).split(|b| *b == b'\n').map(mount).collect()
}

/// The mounts of a process.
#[derive(Debug)]
pub enum Mounts {
    /// Those of the mount namespace with this number: the kernel tells of each that it is asked for.
    Namespace(u64),
    /// These are all.
    Listed(Vec<Mount>),
}

impl Mounts {
    /// The mounts of a mount namespace, and the one that `place` lies on: by the kernel, if it has given the
    /// `namespace` a number, or else of those that are `listed`. Fails if `place` is on none of them.
    pub fn of(
        namespace: Option<u64>,
        place: impl AsFd,
        listed: impl FnOnce() -> Result<Vec<Mount>>,
    ) -> Result<(Self, Mount)> {
        if let Some(mounts) = namespace.map(Self::Namespace)
            && let Ok(mount) = mounts.at(&place)
        {
            return Ok((mounts, mount));
        }
        let mounts = Self::Listed(listed()?);
        let mount = mounts.at(place)?;
        Ok((mounts, mount))
    }

    /// The mount that `place` lies on. Fails if it is not among these.
    pub fn at(&self, place: impl AsFd) -> Result<Mount> {
        match self {
            Self::Namespace(_) => self.find(unique_mount_id(place)?),
            Self::Listed(_) => self.find(mount_id(place)?),
        }
    }

    /// The mount that `mount`, one of these, is mounted on. Fails if it is not to be seen.
    pub fn under(&self, mount: &Mount) -> Result<Mount> {
        self.find(mount.parent)
    }

    fn find(&self, id: u64) -> Result<Mount> {
        match self {
            Self::Namespace(namespace) => {
                Mount::told_by_kernel(*namespace, id).call(|| format!("statmount {id}"))
            }
            Self::Listed(mounts) => Mount::find(mounts, id).cloned(),
        }
    }
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its mount ID. The kernel has two kinds: those in mountinfo are used again, those that statmount
    /// wants are not.
    pub id: u64,
    /// That of the mount that it is mounted on, of the same kind.
    pub parent: u64,
    /// Which file system it shows.
    pub device: (u32, u32),
    /// Which directory or file of that.
    pub root: PathBuf,
    /// Where it is mounted, as seen by the process whose mount it is.
    pub point: PathBuf,
    /// Whether mounts on it are passed on to its peers.
    pub shared: bool,
    /// If that file system is one of these.
    pub shows: Option<Bound>,
}

impl Mount {
    /// Understands a line of mountinfo.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = number(fields.next()?)?;
        let parent = number(fields.next()?)?;
        let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let (root, point) = (unescaped(fields.next()?), unescaped(fields.next()?));
        // Behind the options, optional fields up to a lone "-".
        let mut shared = false;
        for field in fields.by_ref().skip(1).take_while(|field| *field != b"-") {
            shared |= field.starts_with(b"shared:");
        }
        let fs_type = fields.next()?;
        let shows = Bound::ALL.into_iter().find(|bound| bound.fs_type().as_bytes() == fs_type);
        Some(Self { id, parent, device, root, point, shared, shows })
    }

    /// The one of `mounts` with this `id`. Fails if there is none.
    pub fn find(mounts: &[Self], id: u64) -> Result<&Self> {
        mounts
            .iter()
            .find(|mount| mount.id == id)
            .with_context(|| format!("mount {id} is not in mountinfo"))
    }

    /// The mount `id` of a mount namespace, both by the numbers that statmount knows them by.
    fn told_by_kernel(namespace: u64, id: u64) -> rustix::io::Result<Self> {
        let mask = u64::from(
            STATMOUNT_SB_BASIC | STATMOUNT_MNT_BASIC | STATMOUNT_MNT_ROOT | STATMOUNT_MNT_POINT,
        );
        let mut told = [0; STATMOUNT_MAX];
        kernel::statmount(namespace, id, mask, &mut told)?;
        let told = StatmountText(&told);
        if told.u64(offset_of!(statmount, mask)) & mask != mask {
            return Err(Errno::NOTSUP);
        }
        // So Linux 6.12 says it where another mount than / comes first in the namespace, as on a machine
        // that runs from its initramfs.
        let point = told.path(offset_of!(statmount, mnt_point));
        if point.as_os_str().is_empty() {
            return Err(Errno::NOTSUP);
        }
        let magic = told.u64(offset_of!(statmount, sb_magic));
        Ok(Self {
            id,
            parent: told.u64(offset_of!(statmount, mnt_parent_id)),
            device: (
                told.u32(offset_of!(statmount, sb_dev_major)),
                told.u32(offset_of!(statmount, sb_dev_minor)),
            ),
            root: told.path(offset_of!(statmount, mnt_root)),
            point,
            shared: told.u64(offset_of!(statmount, mnt_propagation)) & u64::from(MS_SHARED) != 0,
            shows: Bound::ALL.into_iter().find(|bound| u64::try_from(bound.magic()) == Ok(magic)),
        })
    }
}

/// A `struct statmount` of the kernel, with the strings behind it.
struct StatmountText<'a>(&'a [u8; STATMOUNT_MAX]);

impl StatmountText<'_> {
    fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.bytes(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.bytes(offset))
    }

    /// The path whose place among the strings stands at `offset`.
    fn path(&self, offset: usize) -> PathBuf {
        let start = size_of::<statmount>() + self.u32(offset) as usize;
        let string = self.0.get(start..).and_then(|rest| CStr::from_bytes_until_nul(rest).ok());
        PathBuf::from(OsString::from_vec(string.unwrap_or_default().to_bytes().to_vec()))
    }

    fn bytes<const N: usize>(&self, offset: usize) -> [u8; N] {
        std::array::from_fn(|i| self.0[offset + i])
    }
}

fn number<T: FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A path as mountinfo writes it: blanks and backslashes are octal there (`seq_path` in the kernel).
fn unescaped(path: &[u8]) -> PathBuf {
    let mut parts = path.split(|byte| *byte == b'\\');
    let mut bytes = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let octal = part.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend(&part[3..]);
            }
            None => bytes.extend(part),
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_kernel_and_mountinfo_agree() {
        for path in ["/", "/proc/self/mountinfo", "/dev/null", "/sys"] {
            let place = OwnedFd::from(File::open(path).unwrap());
            let namespace = File::open("/proc/self/ns/mnt").unwrap();
            let namespace = kernel::mount_namespace_id(namespace).expect("this takes Linux 6.11");
            let (told, mount) = Mounts::of(Some(namespace), &place, || panic!("not told")).unwrap();
            for mount in [told.at(&place), told.under(&mount)] {
                let Ok(Mount { id: _, parent: _, device, root, point, shared, shows }) = mount
                else {
                    assert_eq!(path, "/", "what the root is mounted on is not to be seen");
                    continue;
                };
                assert!(
                    own().unwrap().iter().any(|m| (m.device, &m.root, &m.point, m.shared, m.shows)
                        == (device, &root, &point, shared, shows)),
                    "{path}: {device:?} {root:?} {point:?}"
                );
            }
        }
    }

    #[test]
    fn reads_mountinfo() {
        let mountinfo = b"\
22 1 0:21 / /proc rw,relatime shared:5 - proc proc rw
23 1 0:22 / /proc rw,relatime - proc proc rw
24 1 0:23 /a /shared:9 rw,relatime master:5 - tmpfs shared:1 rw
25 1 254:24 / /x rw shared:7 master:5 - tmpfs x rw
26 22 0:22 / /sys/a\\040b\\134c\\012\xff rw shared:1 - tmpfs x rw
";
        let mounts = parse(mountinfo).unwrap();
        for (id, shared) in [(22, true), (23, false), (24, false), (25, true)] {
            assert_eq!(Mount::find(&mounts, id).unwrap().shared, shared, "mount {id}");
        }
        let mount = Mount::find(&mounts, 24).unwrap();
        assert_eq!((&*mount.root, &*mount.point), (Path::new("/a"), Path::new("/shared:9")));
        assert_eq!((mount.device, mount.shows), ((0, 23), None));
        assert_eq!(Mount::find(&mounts, 22).unwrap().shows, Some(Bound::Proc));
        assert_eq!(Mount::find(&mounts, 25).unwrap().parent, 1);
        assert!(Mount::find(&mounts, 2).is_err());
        let point = &Mount::find(&mounts, 26).unwrap().point;
        assert_eq!(point.as_os_str().as_bytes(), b"/sys/a b\\c\n\xff", "by its bytes");
    }

    #[test]
    fn a_line_that_is_not_understood_is_not_left_out() {
        for line in [
            "broken",
            "22 1 0:21 /",
            "22 1 0:21 / /proc rw shared:1",
            "x 1 0:21 / /proc rw - proc proc rw",
            "22 1 0 / / r",
        ] {
            let mountinfo = format!("23 1 0:22 / /proc rw,relatime - proc proc rw\n{line}\n");
            let error = parse(mountinfo.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(line), "{error}");
        }
    }
}
