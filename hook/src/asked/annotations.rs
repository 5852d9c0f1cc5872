//! The names of the annotations that are for us.

use crate::host::policy::Annotation;

/// The user's request.
pub(crate) const ARCH: &str = "toolbx.arch";
/// Finer wishes.
pub(crate) const FINER: &str = "toolbx.arch.";
/// Whether the container gets a user namespace of its own.
pub(crate) const USERNS: &str = "toolbx.arch.userns";
/// Toolbx's record.
pub(crate) const TOOLBOX: &str = "toolbox-arch";

/// The annotations that name architectures, the first one first.
pub(crate) const WISHES: [(&str, Annotation); 2] =
    [(ARCH, Annotation::Arch), (TOOLBOX, Annotation::Toolbox)];

/// Whether an annotation is for us.
#[must_use]
pub fn is_ours(key: &str) -> bool {
    key == ARCH || key == TOOLBOX || key.starts_with(FINER)
}
