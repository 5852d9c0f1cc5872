//! Where emulators are to run, as far as that matters to them: of a container that is there, or of one that may
//! be started.

use crate::host::emulator::Emulator;
use crate::host::policy::{Credentials, Policy};
use crate::host::scope::Scope;
use crate::host::trust::Caller;

/// What matters of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Whose instance it uses.
    pub scope: Scope,
    /// Whose uid 0 is that of our user namespace.
    pub caller: Caller,
    /// Whether that uid 0 is somebody in the container's user namespace.
    pub maps_our_root: bool,
    /// Why no emulator is shown in it, if none is.
    pub shows_none: Option<&'static str>,
}

impl Setting {
    /// Whether somebody in the container is the machine's root as far as files go.
    #[must_use]
    pub fn has_hosts_root(&self) -> bool {
        self.caller == Caller::Root && self.maps_our_root
    }

    /// Whether handlers may have flag C, if `policy` agrees and they are safe.
    #[must_use]
    pub fn may_have_credentials(&self, policy: &Policy) -> bool {
        self.scope == Scope::Private
            && policy.credentials != Credentials::Never
            && !self.has_hosts_root()
    }

    /// Why no emulator is shown where `policy` is in force, if so: nor in a /dev that is not the container's
    /// own.
    #[must_use]
    pub fn shows_none(policy: &Policy, has_own_dev: bool) -> Option<&'static str> {
        if !policy.show_emulator {
            return Some("the policy says so");
        }
        (!has_own_dev).then_some("the container's /dev is not a tmpfs of its own")
    }

    /// Why the file of `emulator` is not shown, if so. Not to somebody who owns it: with
    /// `CAP_SYS_ADMIN` they could make the mount writable, and change the host's file.
    ///
    /// A trusted emulator belongs to uid 0 of our namespace, or to somebody who is not in it.
    #[must_use]
    pub fn hides(&self, emulator: &Emulator) -> Option<&'static str> {
        let is_owner = self.maps_our_root && emulator.belongs_to_root;
        let owned =
            is_owner.then_some("its owner is somebody in the container, who could change it");
        self.shows_none.or(owned)
    }
}
