//! toolbx-arch makes containers of another CPU architecture simply run.
//!
//! Read [`hook`] first: it is the pipeline. [`hook::plan`] reads and decides, with `oci`, `labels`
//! and [`sqlite`], `detect`, `policy`, `request` and [`arguments`], `container`, `scope`, `emulator`,
//! [`launcher`], [`prepared`], [`selinux`] and `trust`;
//! [`guard`], [`network`] and `sandbox::apply` do, with [`room`], [`detached`], [`instance`] and
//! [`kernel`]. [`arch`], `elf`, `binfmt`, [`bound`], [`idmap`], [`lookup`], [`mounts`] and `message` are
//! used by all of them. [`precreate`] is Podman's earlier stage,
//! which only rewrites a config.json, with [`json`] and [`devices`]. [`probe`] makes programs to try
//! an emulator with.

pub mod apply;
pub mod arch;
pub mod asked;
pub mod base;
pub mod container;
pub mod hook;
pub mod host;
pub mod log;
pub mod plan;
pub mod precreate;
pub mod record;
