//! Whose binfmt_misc instance a container uses.

use anyhow::Result;
use rustix::fs::Stat;

use crate::message::Call;
use crate::trust::Caller;

/// Whose instance it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A user namespace of this container alone.
    Private,
    /// A user namespace that other containers live in too.
    Shared,
    /// The initial user namespace: the machine's own instance, never written.
    Host,
}

/// The inode of the initial user namespace (`PROC_USER_INIT_INO` in the kernel).
///
/// Not recognised by its `uid_map`: an identity-mapped namespace shows the very same one.
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// A namespace, as /proc shows it: device and inode of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    /// The device of the nsfs file.
    pub dev: u64,
    /// Its inode, which is the namespace's number.
    pub ino: u64,
}

impl Namespace {
    /// The one of this `kind`, for example `user`, that the hook is in.
    pub fn ours(kind: &str) -> Result<Self> {
        let path = format!("/proc/self/ns/{kind}");
        rustix::fs::stat(&path).map(Self::of_file).call(|| format!("stat {path}"))
    }

    /// The one that a file of /proc with this `stat` stands for.
    #[must_use]
    pub fn of_file(stat: Stat) -> Self {
        Self { dev: stat.st_dev, ino: stat.st_ino }
    }

    /// Whether it is the machine's own user namespace.
    #[must_use]
    pub fn is_initial_user(self) -> bool {
        self.ino == INITIAL_USER_NAMESPACE
    }
}

impl Scope {
    /// The scope of a container that lives in `container`, when the hook runs in `ours`, and
    /// config.json says that the namespace was `made_for_it`.
    ///
    /// Whatever is not certain to be private is taken for shared, which never gives flag C.
    #[must_use]
    pub fn of(container: Namespace, ours: Namespace, made_for_it: bool) -> Self {
        if container.is_initial_user() {
            Self::Host
        } else if container != ours && made_for_it {
            Self::Private
        } else {
            Self::Shared
        }
    }

    /// The scope of a container that is given no user namespace, for an engine that is `caller`.
    #[must_use]
    pub fn without_user_namespace(caller: Caller) -> Self {
        match caller {
            Caller::Root => Self::Host,
            Caller::User { .. } => Self::Shared,
        }
    }

    /// The scope's name, as the log and the documentation write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Shared => "shared",
            Self::Host => "host",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_namespace_made_for_the_container_is_private() {
        let host = Namespace { dev: 4, ino: INITIAL_USER_NAMESPACE };
        let podman = Namespace { dev: 4, ino: 4_026_532_000 };
        let container = Namespace { dev: 4, ino: 4_026_532_001 };
        for (what, theirs, ours, made_for_it, scope) in [
            ("rootful", host, host, false, Scope::Host),
            ("rootful, and config.json lies", host, host, true, Scope::Host),
            ("rootful --userns=auto", container, host, true, Scope::Private),
            ("rootful --userns=container:X", container, host, false, Scope::Shared),
            ("rootless", podman, podman, false, Scope::Shared),
            ("rootless, and config.json lies", podman, podman, true, Scope::Shared),
            ("rootless --userns=keep-id", container, podman, true, Scope::Private),
            ("rootless in a pod with a user namespace", container, podman, false, Scope::Shared),
        ] {
            assert_eq!(Scope::of(theirs, ours, made_for_it), scope, "{what}");
        }
    }
}
