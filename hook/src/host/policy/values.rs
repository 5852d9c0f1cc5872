//! What the keys of the policy may have as values.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::arch::{self, Arch};
use crate::base::members::Members;

/// When flag C is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Credentials {
    /// In a user namespace that belongs to the container alone, by an emulator with the launcher in it.
    Launcher,
    /// In such a namespace by any emulator: everybody in the container can become its root.
    Private,
    /// Never: sudo, su and the like do not work under emulation.
    Never,
}

/// Which emulators have the launcher in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Launcher {
    /// Those that are prepared; where that makes a difference, others are prepared for the container.
    Copy,
    /// Those that are prepared.
    Prepared,
    /// None.
    Never,
}

/// A value for some targets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Members<Allowed, T>")]
pub struct ByTarget<T> {
    /// For the targets that are not named.
    pub(super) all: Option<T>,
    pub(super) named: BTreeMap<&'static str, T>,
}

impl<T> ByTarget<T> {
    /// What holds for `arch`, if anything.
    #[must_use]
    pub fn get(&self, arch: &Arch) -> Option<&T> {
        self.named.get(arch.name).or(self.all.as_ref())
    }
}

impl<T> From<Members<Allowed, T>> for ByTarget<T> {
    fn from(Members(members): Members<Allowed, T>) -> Self {
        let mut by_target = Self { all: None, named: BTreeMap::new() };
        for (target, value) in members {
            match target {
                Allowed::All => by_target.all = Some(value),
                Allowed::One(arch) => drop(by_target.named.insert(arch.name, value)),
            }
        }
        by_target
    }
}

/// Which foreign containers get a user namespace of their own, if the engine gives them none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Userns {
    /// All.
    Private,
    /// Those that would be in scope host otherwise.
    Rootful,
    /// None: what the engine says holds.
    Engine,
}

/// An annotation that a container may carry for this hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Annotation {
    /// The user's request.
    #[serde(rename = "toolbx.arch")]
    Arch,
    /// Toolbx's record, which CRI-O makes an annotation of.
    #[serde(rename = "toolbox-arch")]
    Toolbox,
    /// Whether the container gets a user namespace of its own.
    #[serde(rename = "toolbx.arch.userns")]
    Userns,
}

/// An element of `architectures`, or what stands for targets in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Allowed {
    /// `all`.
    All,
    /// This one, by any of its names.
    One(&'static Arch),
}

/// An absolute directory that can stand in a register line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Directory(PathBuf);

/// An emulator's file name, with `{cpu}` in place of QEMU's name of the target.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct NamePattern(String);

impl Directory {
    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl TryFrom<String> for Directory {
    type Error = String;
    fn try_from(path: String) -> Result<Self, String> {
        if !path.starts_with('/') {
            Err(format!("{path:?} is not an absolute path"))
        } else if path.bytes().any(|byte| byte.is_ascii_control()) {
            Err(format!("{path:?} has a control character, which binfmt_misc cannot express"))
        } else if Path::new(&path).components().any(|c| c == std::path::Component::ParentDir) {
            Err(format!("{path:?} has a '..'"))
        } else {
            Ok(Self(path.into()))
        }
    }
}

impl NamePattern {
    /// The file name for `arch`.
    #[must_use]
    pub fn of(&self, arch: &Arch) -> String {
        self.0.replace("{cpu}", arch.emulator)
    }
}

impl TryFrom<String> for NamePattern {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        let plain = name.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        if !name.contains("{cpu}") {
            Err(format!("{name:?} does not contain {{cpu}}, the place of the target's name"))
        } else if plain {
            Ok(Self(name))
        } else {
            Err(format!("{name:?} has a slash, a blank or another character that is not ASCII"))
        }
    }
}

impl TryFrom<String> for Allowed {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        if name == "all" {
            return Ok(Self::All);
        }
        arch::find(&name).map(Self::One).ok_or_else(|| arch::unknown(&name))
    }
}
