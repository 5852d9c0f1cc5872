//! The keys of the policy. This is the only place of the code that lists them: what a file may say, what
//! comes of several files, and what the tests hold the documentation against follow from it.
//!
//! A key's value where no file has one stands in `policies/default.json`, its form in
//! `policies/policy.schema.json`, and its meaning in toolbx-arch-policy(5).

use serde::Deserialize;

use super::sum::Sums;
use super::values::{
    Allowed, Annotation, ByTarget, Credentials, Directory, Launcher, NamePattern, Userns,
};
use crate::arch::arguments::{Argument, Arguments};

macro_rules! keys {
    ($($(#[doc = $what:literal])+ $key:ident: $value:ty,)+) => {
        /// The policy in force.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Policy {
            $($(#[doc = $what])+ pub $key: $value,)+
        }

        /// A policy file: the same keys, each of which may be missing.
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct Layer {
            /// For editors; not used.
            #[serde(rename = "$schema")]
            _schema: Option<String>,
            $($key: Option<$value>,)+
        }

        impl Layer {
            /// The keys of this file, and those of `below` that it does not have.
            pub(super) fn over(self, below: Self) -> Self {
                Self { _schema: None, $($key: self.$key.or(below.$key),)+ }
            }

            /// Whether no key is missing.
            pub(super) fn is_complete(&self) -> bool {
                $(self.$key.is_some())&&+
            }

            /// A policy, if no key is missing.
            pub(super) fn complete(self) -> Option<Policy> {
                Some(Policy { $($key: self.$key?,)+ })
            }
        }

        /// Their names, in the order of the documentation.
        #[cfg(test)]
        pub(super) const KEYS: &[&str] = &[$(stringify!($key),)+];
    };
}

keys! {
    /// Where emulators are looked for, in order.
    emulator_directories: Vec<Directory>,
    /// Under which names, in order, in each directory.
    emulator_names: Vec<NamePattern>,
    /// By target: the emulator's file must have one of these sums.
    emulator_sha256: Sums,
    /// Which architectures may be emulated.
    architectures: Vec<Allowed>,
    /// When a set-user-ID program keeps its rights under emulation.
    credentials: Credentials,
    /// Which emulators have the launcher in them.
    launcher: Launcher,
    /// What emulators are told, by target, if no annotation says otherwise.
    emulator_arguments: ByTarget<Arguments>,
    /// What of that annotations may set.
    argument_annotations: ByTarget<Vec<Argument>>,
    /// Whether the emulator's file is shown in the container.
    show_emulator: bool,
    /// Whether containers that ask for nothing are looked into.
    detect: bool,
    /// Which foreign containers get a user namespace of their own, where Podman runs our stage
    /// `precreate`.
    userns: Userns,
    /// The annotations that are listened to.
    annotations: Vec<Annotation>,
}
