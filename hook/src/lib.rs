//! toolbx-arch makes containers of another CPU architecture simply run.
//!
//! Read [`hook`] first. The folders are the pipeline: [`base`], [`arch`], [`host`], [`asked`],
//! [`container`], [`plan`], [`apply`], and beside that [`precreate`]; each imports only from those before it.
//! `docs/architecture.md` shows the way, and says why.

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
