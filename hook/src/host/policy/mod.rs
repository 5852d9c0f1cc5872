//! The policy: which emulators, which architectures, which rights, and what an annotation may
//! decide. JSON files, each of which overrides the ones before it key by key.
//!
//! [`keys`] lists the keys, `policies/policy.schema.json` and toolbx-arch-policy(5) describe them.

mod keys;
mod layer;
mod own;
mod sum;
mod values;

use std::path::PathBuf;

use anyhow::Result;

use crate::arch::Arch;
use crate::arch::arguments::{Argument, Arguments};
use crate::base::message;
use crate::host::trust::{Caller, Host};
use keys::Layer;
pub use keys::Policy;
use own::Own;
pub use sum::{Sha256Sum, Sums};
pub use values::{
    Allowed, Annotation, ByTarget, Credentials, Directory, Launcher, NamePattern, Userns,
};

/// Read in this order; the user's own comes last.
const SYSTEM_FILES: [&str; 2] =
    ["/usr/share/toolbx-arch/policy.json", "/etc/toolbx-arch/policy.json"];

impl Policy {
    /// The policy in force on `host`: the built-in default, the system's files, and the caller's own.
    ///
    /// Fails where a file that exists cannot be read, is not a policy, or (see [`Host`]) may be
    /// written by somebody else.
    pub fn load(host: &Host) -> Result<Self> {
        let own = Own::of(host.caller)?.file();
        let mut said = Layer::default();
        for path in system_files().chain(own) {
            if let Some(layer) = Layer::read(&path, host)? {
                said = layer.over(said);
            }
        }
        Ok(said.into())
    }

    /// The policy where the file `path` is the only one, and says `text`.
    #[cfg(test)]
    pub(crate) fn of_file(text: &str, path: &std::path::Path) -> Result<Self> {
        Layer::parse(text, path).map(Self::from)
    }

    /// What the emulator of `arch` is told, if no annotation says otherwise.
    #[must_use]
    pub fn arguments(&self, arch: &Arch) -> Arguments {
        self.emulator_arguments.get(arch).cloned().unwrap_or_default()
    }

    /// Whether an annotation may set this argument for `arch`.
    #[must_use]
    pub fn lets_annotations_set(&self, argument: Argument, arch: &Arch) -> bool {
        self.argument_annotations.get(arch).is_some_and(|list| list.contains(&argument))
    }

    /// Whether `arch` may be emulated.
    #[must_use]
    pub fn allows(&self, arch: &Arch) -> bool {
        self.architectures.iter().any(|allowed| match allowed {
            Allowed::All => true,
            Allowed::One(one) => *one == arch,
        })
    }
}

/// What it does not say is as the default says.
impl From<Layer> for Policy {
    fn from(said: Layer) -> Self {
        // The file that is installed says everything, so the default is seldom read.
        let whole = if said.is_complete() { said } else { said.over(Layer::built_in()) };
        whole.complete().expect("the default has every key")
    }
}

impl Default for Policy {
    fn default() -> Self {
        Layer::default().into()
    }
}

fn system_files() -> impl Iterator<Item = PathBuf> {
    SYSTEM_FILES.iter().map(PathBuf::from)
}

/// The policy files that there are for `caller`, and why none of the caller's own is looked for, where
/// there could be one.
#[must_use]
pub fn present(caller: Caller) -> (Vec<PathBuf>, Option<String>) {
    let (own, why) = match Own::of(caller) {
        Ok(Own::Homeless(uid)) => (None, Some(own::homeless(uid))),
        Ok(own) => (own.file(), None),
        Err(why) => (None, Some(message::line(&why))),
    };
    (system_files().chain(own).filter(|file| file.exists()).collect(), why)
}

#[cfg(test)]
mod tests;
