//! What is asked for: what a container says about itself, and what its programs are.

pub mod annotations;
pub mod bound;
pub mod detect;
pub mod hook_arguments;
pub mod idmap;
pub mod labels;
pub mod oci;
pub mod request;
pub mod sqlite;
pub mod toolbx;
