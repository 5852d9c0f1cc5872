//! The process that will become a container's first, and what /proc tells of it.

use std::cell::OnceCell;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::asked::idmap::{self, maps_uid};
use crate::asked::oci::State;
use crate::base::kernel;
use crate::base::message::Call;
use crate::base::namespace::Namespace;
use crate::container::mounts::{self, Mount, Mounts};

/// As much as one call reads of a file in /proc at most: a page (`seq_read_iter` in the kernel).
const PROC_READ: usize = 4 * 1024;

/// A process, by descriptors that stay its own even if its pid is used again.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    /// Its directory in /proc.
    dir: OwnedFd,
    mount_namespace: Namespace,
    /// The number by which the kernel tells of its mounts (Linux 6.11). Not a descriptor: a look at a file system
    /// that hangs can outlive us, and would keep all mounts of the container.
    mount_namespace_id: Option<u64>,
    /// Once it was asked for.
    user_namespace: OnceCell<Namespace>,
    /// To enter its namespaces by.
    pub pidfd: OwnedFd,
}

/// Whether the process `pid`, of which anything else could not be looked at, may be a container's in
/// such a user namespace as [`Process::is_in_precreates_namespace`] finds.
///
/// It is not if it has ended, or shares our mount namespace. Where the kernel does not say, it may be.
#[must_use]
pub fn may_be_in_precreates_namespace(pid: i32) -> bool {
    let namespace =
        |of: &str, kind| rustix::fs::stat(format!("/proc/{of}/ns/{kind}")).map(Namespace::of_file);
    // Most containers are in our user namespace. That takes no descriptor to see, so that none of them is
    // stopped where there are no more of these (EMFILE, ENFILE), nor where there is no pidfd_open
    // (ENOSYS).
    for kind in ["user", "mnt"] {
        match (namespace(&pid.to_string(), kind), namespace("self", kind)) {
            (Err(Errno::NOENT | Errno::SRCH), Ok(_)) => return false,
            (Ok(theirs), Ok(ours)) if theirs == ours => return false,
            _ => {}
        }
    }
    // Everybody may read this, also of a process that they may not trace (EACCES above). It fails only in
    // another user namespace, or one that could not be told from ours, for lack of descriptors or memory.
    let map = |of: &str| std::fs::read_to_string(format!("/proc/{of}/uid_map"));
    match (map(&pid.to_string()), map("self")) {
        (Ok(theirs), Ok(ours)) => {
            // Ours itself has our map; what is made in another one never has all of it.
            theirs != ours && idmap::has_machines_root(&theirs)
                || idmap::is_from_precreate(&theirs, &ours).unwrap_or(true)
        }
        _ => true,
    }
}

impl Process {
    /// The process that will become the first of the container.
    ///
    /// Fails if it is gone, or shares our mount namespace: then it is no container's.
    pub fn open(state: &State) -> Result<Self> {
        let process =
            Self::with_pid(state.pid).with_context(|| format!("container {}", state.id))?;
        ensure!(
            process.mount_namespace != Namespace::ours("mnt")?,
            "process {} is no container's: it shares the hook's mount namespace",
            state.pid
        );
        Ok(process)
    }

    fn with_pid(pid: i32) -> Result<Self> {
        let valid = Pid::from_raw(pid).context("pid 0")?;
        let pidfd = rustix::process::pidfd_open(valid, PidfdFlags::empty())
            .call(|| format!("pidfd_open process {pid}"))?;
        let dir = rustix::fs::open(
            format!("/proc/{pid}"),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .call(|| format!("open /proc/{pid}"))?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = rustix::fs::openat(&dir, "ns/mnt", flags, Mode::empty())
            .call(|| format!("open /proc/{pid}/ns/mnt"))?;
        let stat = rustix::fs::fstat(&namespace).call(|| format!("fstat /proc/{pid}/ns/mnt"))?;
        Ok(Self {
            pid,
            dir,
            mount_namespace: Namespace::of_file(stat),
            mount_namespace_id: kernel::mount_namespace_id(&namespace).ok(),
            user_namespace: OnceCell::new(),
            pidfd,
        })
    }

    /// The user namespace that it is in.
    pub fn user_namespace(&self) -> Result<Namespace> {
        if let Some(known) = self.user_namespace.get() {
            return Ok(*known);
        }
        let found = self.namespace("user")?;
        Ok(*self.user_namespace.get_or_init(|| found))
    }

    /// Whether it is in the network namespace that the hook is in.
    pub fn is_in_our_network_namespace(&self) -> Result<bool> {
        Ok(self.namespace("net")? == Namespace::ours("net")?)
    }

    /// Fails if the process has ended: then what was opened may be another's.
    pub(crate) fn ensure_alive(&self) -> Result<()> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let ended = rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
            .call(|| format!("poll the pidfd of process {}", self.pid))?;
        ensure!(
            ended == 0,
            "the container's process {} has ended; start the container again",
            self.pid
        );
        Ok(())
    }

    pub(crate) fn open_path(&self, name: &str) -> Result<OwnedFd> {
        rustix::fs::openat(&self.dir, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .call(|| format!("open /proc/{}/{name}", self.pid))
    }

    /// The pid namespace that it is in.
    pub fn pid_namespace(&self) -> Result<Namespace> {
        self.namespace("pid")
    }

    fn namespace(&self, kind: &str) -> Result<Namespace> {
        rustix::fs::statat(&self.dir, format!("ns/{kind}"), AtFlags::empty())
            .map(Namespace::of_file)
            .call(|| format!("stat /proc/{}/ns/{kind}", self.pid))
    }

    /// Its mounts, and the one of them that `place` lies on.
    pub(crate) fn mounts(&self, place: &OwnedFd) -> Result<(Mounts, Mount)> {
        Mounts::of(self.mount_namespace_id, place, || self.mountinfo())
    }

    /// All its mounts, those of the host among them.
    pub fn mountinfo(&self) -> Result<Vec<Mount>> {
        mounts::parse(&self.read("mountinfo")?)
            .with_context(|| format!("read /proc/{}/mountinfo", self.pid))
    }

    /// Whether somebody in its user namespace is the `uid` of ours.
    pub(crate) fn maps_uid(&self, uid: u32) -> Result<bool> {
        Ok(maps_uid(&String::from_utf8_lossy(&self.read("uid_map")?), uid))
    }

    /// Whether its user namespace is another than ours, and such as `precreate` asks for: everybody in
    /// there is who they are outside; or one whose root is ours and that was made in yet another one, as a
    /// container can that has one from `precreate`. What an engine makes, it makes in ours.
    pub fn is_in_precreates_namespace(&self) -> Result<bool> {
        if self.user_namespace()? == Namespace::ours("user")? {
            return Ok(false);
        }
        let ours = std::fs::read_to_string("/proc/self/uid_map").call(|| "read uid_map".into())?;
        let map = self.read("uid_map")?;
        let map = String::from_utf8_lossy(&map);
        Ok(idmap::is_from_precreate(&map, &ours)?
            || idmap::has_machines_root(&map) && self.is_in_nested_namespace()?)
    }

    /// Whether its user namespace was made in another one than ours.
    fn is_in_nested_namespace(&self) -> Result<bool> {
        let call = || format!("NS_GET_PARENT of /proc/{}/ns/user", self.pid);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace =
            rustix::fs::openat(&self.dir, "ns/user", flags, Mode::empty()).call(call)?;
        let parent = kernel::parent_namespace(&namespace).call(call)?;
        let parent = rustix::fs::fstat(&parent).call(call)?;
        Ok(Namespace::of_file(parent) != Namespace::ours("user")?)
    }

    /// A file of its directory in /proc.
    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let call = || format!("read /proc/{}/{name}", self.pid);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.dir, name, flags, Mode::empty()).call(call)?;
        let mut text = Vec::with_capacity(PROC_READ);
        File::from(fd).read_to_end(&mut text).call(call)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn started(command: &[&str]) -> Child {
        let mut started = Command::new(command[0]);
        started.args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn who_has_ended_or_is_no_container_needs_no_guards() {
        let may_be = |process: &Child| {
            may_be_in_precreates_namespace(process.id().try_into().expect("pids are small"))
        };
        let mut neighbour = started(&["cat"]);
        assert!(!may_be(&neighbour), "it is in our namespaces");
        neighbour.kill().unwrap();
        // Not waited for: a zombie, which standard output's end tells of.
        neighbour.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
        assert!(!may_be(&neighbour), "it ends");
        neighbour.wait().unwrap();
        assert!(!may_be(&neighbour), "it has ended");
    }

    #[test]
    fn a_map_other_than_precreates_needs_no_guards() {
        let mut process =
            started(&["unshare", "--user", "--map-user=1000", "--mount", "sh", "-c", "echo; cat"]);
        let mut ready = [0];
        process.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        let pid = process.id().try_into().expect("pids are small");
        assert!(!may_be_in_precreates_namespace(pid));
        process.kill().and_then(|()| process.wait()).unwrap();
    }
}
