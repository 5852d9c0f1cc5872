//! What is asked for: what a container says about itself, and what its programs are.

pub mod annotations;
pub mod bound;
pub mod decide;
pub mod detect;
pub mod evidence;
pub mod hook_arguments;
pub mod idmap;
pub mod labels;
pub mod oci;
pub mod runtime;
pub mod sqlite;
pub mod toolbx;
