//! SHA-256 sums of files.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::values::ByTarget;
use crate::arch::{self, binfmt};

/// A SHA-256 sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Sha256Sum([u8; 32]);

/// Required sums, by target: an emulator must have one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ByTarget<Vec<Sha256Sum>>")]
pub struct Sums(BTreeMap<&'static str, Vec<Sha256Sum>>);

impl TryFrom<ByTarget<Vec<Sha256Sum>>> for Sums {
    type Error = String;
    fn try_from(by_target: ByTarget<Vec<Sha256Sum>>) -> Result<Self, String> {
        match by_target.all {
            // No file is every architecture's emulator.
            Some(_) => Err(arch::unknown("all")),
            None => Ok(Self(by_target.named)),
        }
    }
}

impl Sums {
    /// The sums that the emulator of a target may have; `None`: any.
    #[must_use]
    pub fn get(&self, target: &str) -> Option<&[Sha256Sum]> {
        self.0.get(target).map(Vec::as_slice)
    }
}

impl Sha256Sum {
    /// From its 32 bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<String> for Sha256Sum {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let bytes = binfmt::unhex(text.as_bytes()).and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a SHA-256 sum of 64 hexadecimal digits"))
    }
}

impl fmt::Display for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&binfmt::hex(&self.0))
    }
}
