//! The launcher (`launcher/launcher.rs`), as `build.rs` has made it: what runs before an emulator's
//! first instruction, in copies that [`crate::apply::wrap`] makes.

/// The launcher. Empty for a machine that it is not written for.
pub const LAUNCHER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/launcher"));
/// Its SHA-256 sum, in hexadecimal.
pub const SHA256: &str = include_str!(concat!(env!("OUT_DIR"), "/launcher.sha256"));

/// Whether there is a launcher for this machine.
#[must_use]
pub fn is_available() -> bool {
    !LAUNCHER.is_empty()
}
