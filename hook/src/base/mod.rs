//! What has no idea of containers.

pub mod child;
pub mod kernel;
pub mod lookup;
pub mod members;
pub mod message;
pub mod mount_id;
pub mod namespace;
