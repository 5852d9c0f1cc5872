//! What the container is: its process, its mounts, and the places in it that are needed. Opens, and changes
//! nothing.

pub mod created;
pub mod keep;
pub mod mounts;
pub mod places;
pub mod process;
pub mod setting;
