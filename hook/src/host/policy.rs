//! The policy: which emulators, which architectures, which rights, and what an annotation may
//! decide. JSON files, each of which overrides the ones before it key by key.
//!
//! The keys are described in `policies/policy.schema.json` and toolbx-arch-policy(5).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;

use crate::arch::arguments::{Argument, Arguments, Value};
use crate::arch::{self, Arch};
use crate::base::members::Members;
use crate::base::message::{self, Call};
use crate::host::trust::{Caller, Host};

/// The policy as it is installed; every key is in it. [`Policy::default`] is the same.
const DEFAULT: &str = include_str!("../../../policies/default.json");
/// Read in this order; the user's own comes last. Relative to the host's root.
const SYSTEM_FILES: [&str; 2] =
    ["usr/share/toolbx-arch/policy.json", "etc/toolbx-arch/policy.json"];
/// Below the user's home.
const USER_FILE: &str = ".config/toolbx-arch/policy.json";
/// More than any policy needs; keeps the hook's memory bounded.
const FILE_MAX: u64 = 1024 * 1024;

/// The policy in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Where emulators are looked for, in order.
    pub emulator_directories: Vec<Directory>,
    /// Under which names, in order, in each directory.
    pub emulator_names: Vec<NamePattern>,
    /// By target: the emulator's file must have one of these sums.
    pub emulator_sha256: Sums,
    /// Which architectures may be emulated.
    pub architectures: Vec<Allowed>,
    /// When a set-user-ID program keeps its rights under emulation.
    pub credentials: Credentials,
    /// Which emulators have the launcher in them.
    pub launcher: Launcher,
    /// What emulators are told, by target, if no annotation says otherwise.
    pub emulator_arguments: ByTarget<Arguments>,
    /// What of that annotations may set.
    pub argument_annotations: ByTarget<Vec<Argument>>,
    /// Whether the emulator's file is shown in the container.
    pub inject: bool,
    /// Whether containers that ask for nothing are looked into.
    pub detect: bool,
    /// Which foreign containers get a user namespace of their own, where Podman runs our stage
    /// `precreate`.
    pub userns: Userns,
    /// The annotations that are listened to.
    pub annotations: Vec<Annotation>,
}

/// A policy file: the same keys, each of which may be missing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Layer {
    /// For editors; not used.
    #[serde(rename = "$schema")]
    _schema: Option<String>,
    emulator_directories: Option<Vec<Directory>>,
    emulator_names: Option<Vec<NamePattern>>,
    emulator_sha256: Option<Sums>,
    architectures: Option<Vec<Allowed>>,
    credentials: Option<Credentials>,
    launcher: Option<Launcher>,
    emulator_arguments: Option<ByTarget<Arguments>>,
    argument_annotations: Option<ByTarget<Vec<Argument>>>,
    inject: Option<bool>,
    detect: Option<bool>,
    userns: Option<Userns>,
    annotations: Option<Vec<Annotation>>,
}

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
    all: Option<T>,
    named: BTreeMap<&'static str, T>,
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

/// A SHA-256 sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Sha256Sum([u8; 32]);

/// Pinned sums, by target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ByTarget<Vec<Sha256Sum>>")]
pub struct Sums(BTreeMap<&'static str, Vec<Sha256Sum>>);

impl Policy {
    /// The policy in force on `host`: the built-in default, the system's files, and the caller's own.
    ///
    /// Fails where a file that exists cannot be read, is not a policy, or (see [`Host`]) may be
    /// written by somebody else.
    pub fn load(host: &Host) -> Result<Self> {
        let mut policy: Option<Self> = None;
        let own = Own::of(host.caller)?.file();
        for path in system_files().chain(own) {
            policy = match read(&path, host).context("policy")? {
                None => policy,
                // As it is installed. Every key is in it, so what was before does not matter.
                Some(text) if text == DEFAULT => None,
                Some(text) => Some(policy.unwrap_or_default().overridden_by(&text, &path)?),
            };
        }
        Ok(policy.unwrap_or_default())
    }

    /// This policy with the keys of `text`, the content of the file `path`, in place of its own.
    ///
    /// The error names file, line and key.
    pub fn overridden_by(self, text: &str, path: &Path) -> Result<Self> {
        // serde would take a list for an object with its values in order.
        ensure!(
            !text.trim_start().starts_with('['),
            "policy {}:1: a list; a policy is an object: {{\"KEY\": VALUE, …}}",
            path.display()
        );
        let layer: Layer =
            serde_json::from_str(text).map_err(|error| locate(&error, text, path))?;
        Ok(Self {
            emulator_directories: layer.emulator_directories.unwrap_or(self.emulator_directories),
            emulator_names: layer.emulator_names.unwrap_or(self.emulator_names),
            emulator_sha256: layer.emulator_sha256.unwrap_or(self.emulator_sha256),
            architectures: layer.architectures.unwrap_or(self.architectures),
            credentials: layer.credentials.unwrap_or(self.credentials),
            launcher: layer.launcher.unwrap_or(self.launcher),
            emulator_arguments: layer.emulator_arguments.unwrap_or(self.emulator_arguments),
            argument_annotations: layer.argument_annotations.unwrap_or(self.argument_annotations),
            inject: layer.inject.unwrap_or(self.inject),
            detect: layer.detect.unwrap_or(self.detect),
            userns: layer.userns.unwrap_or(self.userns),
            annotations: layer.annotations.unwrap_or(self.annotations),
        })
    }

    /// What the emulator of `arch` is told, if no annotation says otherwise.
    #[must_use]
    pub fn arguments(&self, arch: &Arch) -> Arguments {
        self.emulator_arguments.get(arch).cloned().unwrap_or_default()
    }

    /// Whether an annotation may set this argument for `arch`.
    #[must_use]
    pub fn lets_annotations_set(&self, argument: Argument, arch: &Arch) -> bool {
        self.argument_annotations.get(arch).is_some_and(|list| list.contains(&argument))
    }

    /// Whether `arch` may be emulated.
    #[must_use]
    pub fn allows(&self, arch: &Arch) -> bool {
        self.architectures.iter().any(|allowed| match allowed {
            Allowed::All => true,
            Allowed::One(one) => *one == arch,
        })
    }
}

impl Default for Policy {
    /// What `policies/default.json` says. Every start of a container would have to parse that.
    fn default() -> Self {
        let directory = |path: &str| Directory(path.into());
        let name = |pattern: &str| NamePattern(pattern.into());
        let cpu = |arch, model| {
            let mut arguments = Arguments::default();
            let model = Value::new(Argument::Cpu, model).expect("it is a CPU model");
            arguments.set(Argument::Cpu, Some(model));
            (arch, arguments)
        };
        let harmless = [
            Argument::Cpu,
            Argument::ReservedVa,
            Argument::GuestBase,
            Argument::StackSize,
            Argument::Uname,
            Argument::Strace,
        ];
        let named = [cpu("aarch64", "max,pauth=off"), cpu("i386", "max"), cpu("x86_64", "max")];
        Self {
            emulator_directories: ["/usr/local/bin", "/usr/bin"].map(directory).into(),
            emulator_names: ["qemu-{cpu}-static", "qemu-{cpu}"].map(name).into(),
            emulator_sha256: Sums::default(),
            architectures: vec![Allowed::All],
            credentials: Credentials::Launcher,
            launcher: Launcher::Copy,
            emulator_arguments: ByTarget { all: None, named: named.into() },
            argument_annotations: ByTarget { all: Some(harmless.into()), named: BTreeMap::new() },
            inject: true,
            detect: true,
            userns: Userns::Rootful,
            annotations: vec![Annotation::Arch, Annotation::Toolbox, Annotation::Userns],
        }
    }
}

fn system_files() -> impl Iterator<Item = PathBuf> {
    SYSTEM_FILES.iter().map(|file| Path::new("/").join(file))
}

/// The policy files that there are for `caller`, and why none of the caller's own is looked for, where
/// there could be one.
#[must_use]
pub fn present(caller: Caller) -> (Vec<PathBuf>, Option<String>) {
    let (own, why) = match Own::of(caller) {
        Ok(Own::None) => (None, None),
        Ok(Own::Homeless(uid)) => (None, Some(homeless(uid))),
        Ok(Own::At(file)) => (Some(file), None),
        Err(why) => (None, Some(message::line(&why))),
    };
    (system_files().chain(own).filter(|file| file.exists()).collect(), why)
}

/// A policy of the caller's own.
#[derive(Debug, PartialEq, Eq)]
enum Own {
    /// Root has none.
    None,
    /// There is no home directory in which it could be.
    Homeless(u32),
    At(PathBuf),
}

impl Own {
    /// Fails where nobody can say which home directory the caller has: then there may be a policy.
    fn of(caller: Caller) -> Result<Self> {
        if caller == Caller::Root {
            return Ok(Self::None);
        }
        let read = |path: &str| std::fs::read_to_string(path).call(|| format!("read {path}"));
        let map = read("/proc/self/uid_map")?;
        let uid = outer_uid(&map).context("/proc/self/uid_map has no uid 0")?;
        let home = match home_of(uid, &std::fs::read_to_string("/etc/passwd").unwrap_or_default()) {
            Some(home) => Some(home),
            None => engines_home().with_context(|| {
                format!("where the policy of uid {uid} is, who is not in /etc/passwd")
            })?,
        };
        Ok(home.map_or(Self::Homeless(uid), |home| Self::At(home.join(USER_FILE))))
    }

    fn file(self) -> Option<PathBuf> {
        if let Self::At(file) = self { Some(file) } else { None }
    }
}

fn homeless(uid: u32) -> String {
    format!("uid {uid} has no home directory: neither /etc/passwd nor the engine's HOME names one")
}

/// The file's text, or `None` where there is no such file.
fn read(path: &Path, host: &Host) -> Result<Option<String>> {
    let Some(file) = host.open(path, &["usr", "etc"])? else { return Ok(None) };
    let mut text = String::with_capacity(1024);
    let length = file
        .take(FILE_MAX + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("read {}", path.display()))?;
    ensure!(length as u64 <= FILE_MAX, "{} is larger than 1 MiB", path.display());
    Ok(Some(text))
}

/// `FILE:LINE: key "KEY": what is wrong`.
fn locate(error: &serde_json::Error, text: &str, path: &Path) -> anyhow::Error {
    let (line, column) = (error.line(), error.column());
    // serde_json ends its message with the position, which stands in front here.
    let message = error.to_string();
    let message =
        message.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&message);
    let key = key_before(text, line, column).map(|key| format!(" key {key}:")).unwrap_or_default();
    anyhow!("policy {}:{line}:{key} {message}", path.display())
}

/// The last key, with its quotes, that begins before a position of `text`; line and column count
/// from 1.
fn key_before(text: &str, line: usize, column: usize) -> Option<&str> {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let before = text.get(..(start + column).min(text.len()))?;
    let mut quotes = before.match_indices('"').map(|(i, _)| i);
    let mut last = None;
    while let (Some(open), Some(close)) = (quotes.next(), quotes.next()) {
        if text[close + 1..].trim_start().starts_with(':') {
            last = Some(&text[open..=close]);
        }
    }
    last
}

/// The home directory as the engine knows it, which asks the C library, and so a directory service:
/// `HOME` of this process, which a drop-in's `env` mostly takes away, or of its parent, the runtime. It
/// is the user's own to set, as the policy that it leads to is.
fn engines_home() -> Result<Option<PathBuf>> {
    let mut home = std::env::var_os("HOME");
    if home.is_none() {
        let path = format!("/proc/{}/environ", std::os::unix::process::parent_id());
        home = home_in(&std::fs::read(&path).call(|| format!("read {path}"))?);
    }
    let Some(home) = home.filter(|home| !home.is_empty()).map(PathBuf::from) else {
        return Ok(None);
    };
    ensure!(home.is_absolute(), "HOME is no absolute path: {}", message::path(&home));
    Ok(Some(home))
}

/// `HOME` in an environment, as the kernel tells it.
fn home_in(environment: &[u8]) -> Option<OsString> {
    let mut variables = environment.split(|byte| *byte == 0);
    let home = variables.find_map(|variable| variable.strip_prefix(b"HOME="))?;
    Some(OsStr::from_bytes(home).to_owned())
}

/// The uid, in the parent namespace, of uid 0: second number of the first line of a `uid_map`.
fn outer_uid(uid_map: &str) -> Option<u32> {
    uid_map.lines().next()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn home_of(uid: u32, passwd: &str) -> Option<PathBuf> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let home = Path::new(*fields.get(5)?);
        (fields[2].parse() == Ok(uid) && home.is_absolute()).then(|| home.to_owned())
    })
}

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
        let bytes =
            crate::arch::binfmt::unhex(text.as_bytes()).and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a SHA-256 sum of 64 hexadecimal digits"))
    }
}

impl fmt::Display for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::arch::binfmt::hex(&self.0))
    }
}

#[cfg(test)]
mod tests;
