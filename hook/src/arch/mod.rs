//! Architectures: which there are, how their programs look, and what their emulators can be told. Pure.

pub mod arguments;
pub mod binfmt;
pub mod elf;
pub mod interpreter;
pub mod probe;
mod table;

pub use table::{ARCHES, Arch, Compat, Pattern, find, of_header, unknown};
