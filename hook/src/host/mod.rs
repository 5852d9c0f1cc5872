//! What the host has: whose files are trusted, what its policy says, emulators, and handlers that are
//! there.

pub mod emulator;
pub mod instance;
pub mod launcher;
pub mod machine;
pub mod native;
pub mod policy;
pub mod prepared;
pub mod scope;
pub mod selinux;
pub mod trust;
