//! Whose binfmt_misc instance a container uses.

use serde::Serialize;

use crate::base::namespace::Namespace;
use crate::host::trust::Caller;

/// Whose instance it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// A user namespace of this container alone.
    Private,
    /// A user namespace that other containers live in too.
    Shared,
    /// The initial user namespace: the machine's own instance, never written.
    Host,
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
        let host = Namespace { dev: 4, ino: 0xEFFF_FFFD };
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
