//! What the runtime tells a hook: the container's state on standard input, and the bundle's
//! config.json. Only what is needed is read, so that nothing else in them can be wrong.
//!
//! Source: the OCI runtime specification, and what crun and runc really send. The state is understood by
//! the crate `oci-spec`. Of config.json the few members that are needed are declared here: that crate
//! refuses a whole one where it does not know a single capability, namespace or seccomp action in it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use oci_spec::runtime;
use serde::de::value::MapDeserializer;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::asked::annotations;
use crate::asked::idmap::IdMapping;
use crate::asked::runtime::bundle_argument;
use crate::base::members::Members;

/// Engines refuse an image manifest of more than 4 MiB, and its annotations, escaped once more,
/// are the largest thing that can legitimately be in a state.
const STATE_MAX: u64 = 8 * 1024 * 1024;
/// The largest config.json that is read for more than what guards the machine. It holds the annotations too, and the
/// seccomp profile.
pub const CONFIG_MAX: u64 = 16 * 1024 * 1024;
/// As much as most have (Podman 4.3's config.json: 11 KB), so that few calls read them. No more: the allocator
/// writes behind each buffer, and every page that is touched takes 2 microseconds.
const STATE_USUAL: usize = 2 * 1024;
const CONFIG_USUAL: usize = 16 * 1024;

/// What matters here of the container's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The container's id.
    pub id: String,
    /// The version of the runtime specification that the runtime was built for.
    pub oci_version: String,
    /// The process that will become the container's first, as the hook's pid namespace sees it.
    pub pid: i32,
    /// The bundle's directory. crun says "/" where it entered a user namespace before it asked.
    pub bundle: PathBuf,
    /// The container's annotations that are for us; some runtimes leave them out where there are
    /// none at all.
    pub annotations: Option<BTreeMap<String, String>>,
    /// The rootfs; crun only.
    pub root: Option<PathBuf>,
}

/// What crun adds to the state.
#[derive(Deserialize)]
struct Crun {
    #[serde(default)]
    root: Option<PathBuf>,
}

/// Keeps those annotations that are for us: an image can bring megabytes of others.
pub(crate) fn our_annotations<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    struct Ours;
    impl<'de> Visitor<'de> for Ours {
        type Value = BTreeMap<String, String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of strings")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut ours = BTreeMap::new();
            while let Some(key) = map.next_key::<String>()? {
                if annotations::is_ours(&key) {
                    ours.insert(key, map.next_value()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(ours)
        }
    }
    deserializer.deserialize_any(Ours).map(Some)
}

impl State {
    /// Reads the state to its end. Fails where it is no state, or larger than 8 MiB.
    pub fn read(mut from: impl Read) -> Result<Self> {
        let mut text = Vec::with_capacity(STATE_USUAL);
        from.by_ref().take(STATE_MAX).read_to_end(&mut text).context("read the state")?;
        let rest = if (text.len() as u64) < STATE_MAX {
            0
        } else {
            // A runtime that writes to a closed pipe may die of it.
            std::io::copy(&mut from, &mut std::io::sink()).context("read the state")?
        };
        ensure!(
            rest == 0,
            "the container's state on standard input is larger than 8 MiB ({} bytes)",
            STATE_MAX + rest
        );
        ensure!(
            !text.is_empty(),
            "no container state on standard input; this program is started by an OCI runtime"
        );
        let state = Self::parse(&text)
            .map_err(|error| anyhow!("the container's state on standard input: {error}"))?;
        ensure!(state.pid > 0, "the container's state names no process (pid {})", state.pid);
        Ok(state)
    }

    /// Understands a state.
    fn parse(text: &[u8]) -> serde_json::Result<Self> {
        let state: runtime::State =
            serde_json::from_slice(text).or_else(|_| without_status(text))?;
        let Crun { root } = serde_json::from_slice(text)?;
        // An image can bring megabytes of others.
        let annotations = state.annotations().as_ref().map(|all| {
            let ours = all.iter().filter(|(name, _)| annotations::is_ours(name));
            ours.map(|(name, value)| (name.clone(), value.clone())).collect()
        });
        Ok(Self {
            id: state.id().clone(),
            oci_version: state.version().clone(),
            pid: state.pid().unwrap_or_default(),
            bundle: state.bundle().clone(),
            annotations,
            root,
        })
    }
}

/// A state whose `status` does not count: the specification lets a runtime define more of them than
/// [`runtime::ContainerState`] has, and none is to stop a container.
fn without_status(text: &[u8]) -> serde_json::Result<runtime::State> {
    let Members(mut members): Members<String, &RawValue> = serde_json::from_slice(text)?;
    members.retain(|(name, _)| name != "status");
    runtime::State::deserialize(MapDeserializer::new(members.into_iter()))
}

/// The bundle's config.json.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Config {
    /// Where the rootfs is.
    pub root: Option<Root>,
    /// The mounts, in the order in which they are made.
    pub mounts: Option<Vec<Mount>>,
    /// The part for Linux.
    pub linux: Option<Linux>,
    /// What the container begins with.
    #[serde(rename = "process", default)]
    pub command: Option<Command>,
    /// The same as the state's.
    #[serde(default, deserialize_with = "our_annotations")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Those that the engine has put there for a container or one of its CDI devices.
    #[serde(default)]
    pub hooks: Option<Hooks>,
}

/// config.json's `hooks`, of the stages that are ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Hooks {
    /// Stage `createRuntime`.
    #[serde(rename = "createRuntime", default, deserialize_with = "or_default")]
    create_runtime: Vec<Hook>,
    /// Stage `prestart`, for runtimes that know only that.
    #[serde(default, deserialize_with = "or_default")]
    prestart: Vec<Hook>,
}

impl Hooks {
    /// The command line of each.
    pub fn command_lines(&self) -> impl Iterator<Item = &[String]> {
        self.create_runtime.iter().chain(&self.prestart).map(|hook| &*hook.args)
    }
}

/// A hook.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Hook {
    #[serde(default, deserialize_with = "or_default")]
    args: Vec<String>,
}

/// Of config.json's `process`, what decides which file is executed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Command {
    /// The command line.
    #[serde(default, deserialize_with = "or_default")]
    pub args: Vec<String>,
    /// `NAME=VALUE`.
    #[serde(default, deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// The working directory, absolute.
    #[serde(default, deserialize_with = "or_default")]
    pub cwd: PathBuf,
}

/// The member `name`, if it can be understood.
fn understood<T: DeserializeOwned>(members: &BTreeMap<String, &RawValue>, name: &str) -> Option<T> {
    serde_json::from_str(members.get(name)?.get()).ok()
}

/// A member that is null counts as missing.
pub fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// config.json's `root`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Root {
    /// Absolute, or relative to the bundle.
    pub path: PathBuf,
}

/// One of config.json's `mounts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Mount {
    /// The mount point, in the container.
    pub destination: PathBuf,
    /// The file system, where one is named.
    #[serde(rename = "type")]
    pub fs_type: Option<String>,
}

/// config.json's `linux`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Linux {
    /// The namespaces that the container gets or joins.
    pub namespaces: Option<Vec<Namespace>>,
    /// Who is who in a user namespace that is made for it.
    #[serde(rename = "uidMappings")]
    pub uid_mappings: Option<Vec<IdMapping>>,
    /// The container's cgroup.
    #[serde(rename = "cgroupsPath")]
    pub cgroup: Option<PathBuf>,
}

/// One of config.json's `namespaces`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Namespace {
    /// Which kind, for example `user`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The one to join; without it a new one is made.
    pub path: Option<PathBuf>,
}

impl Config {
    /// Understands a config.json. A member that is not what it should be counts as missing: the runtime
    /// will say so. Fails where it is no JSON object.
    pub fn parse(text: &[u8]) -> Result<Self> {
        // serde would take a list for an object with its values in order.
        ensure!(text.trim_ascii_start().starts_with(b"{"), "it is no object");
        match serde_json::from_slice(text) {
            Err(error) if error.is_data() => Self::parse_by_member(text),
            config => config,
        }
        .map_err(|error| anyhow!("{error}"))
    }

    fn parse_by_member(text: &[u8]) -> serde_json::Result<Self> {
        let members: BTreeMap<String, &RawValue> = serde_json::from_slice(text)?;
        Ok(Self {
            root: understood(&members, "root"),
            mounts: understood(&members, "mounts"),
            linux: understood(&members, "linux"),
            command: understood(&members, "process"),
            annotations: members.get("annotations").and_then(|text| {
                our_annotations(&mut serde_json::Deserializer::from_str(text.get())).ok()?
            }),
            hooks: understood(&members, "hooks"),
        })
    }

    /// Whether the container's user namespace is made for it alone.
    #[must_use]
    pub fn has_own_user_namespace(&self) -> bool {
        let mut namespaces = self.linux.iter().flat_map(|linux| &linux.namespaces).flatten();
        namespaces.any(|ns| ns.kind == "user" && ns.path.is_none())
    }

    /// Whether what the container has on /dev is a tmpfs that the runtime mounts: the last mount
    /// there decides.
    #[must_use]
    pub fn has_own_dev(&self) -> bool {
        let at_dev =
            |mount: &&Mount| mount.destination.components().eq(Path::new("/dev").components());
        self.mounts.iter().flatten().rfind(at_dev).and_then(|mount| mount.fs_type.as_deref())
            == Some("tmpfs")
    }
}

/// A container's bundle: its directory, and what its config.json says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The directory.
    pub path: PathBuf,
    /// Its config.json.
    pub config: Config,
}

impl Bundle {
    /// Finds and reads the bundle of `state`: in its `bundle`, or, where crun misreports that as
    /// "/", in the one that the command line of the `runtime`, the hook's parent, names.
    ///
    /// Without any config.json the state's own rootfs has to do. Fails where there is none either,
    /// or where a config.json is malformed.
    pub fn find(state: &State, runtime: impl Fn() -> Vec<u8>) -> Result<Self> {
        if let Some(bundle) = Self::read(&state.bundle)? {
            return Ok(bundle);
        }
        let root = state.root.as_ref().with_context(|| {
            format!(
                "no config.json in the bundle {} of container {}",
                state.bundle.display(),
                state.id
            )
        })?;
        if let Some(path) = bundle_argument(&runtime())
            && let Some(bundle) = Self::read(path)?
            && bundle.rootfs().as_ref() == Some(root)
        {
            return Ok(bundle);
        }
        let root = Some(Root { path: root.clone() });
        Ok(Self { path: state.bundle.clone(), config: Config { root, ..Config::default() } })
    }

    fn read(path: &Path) -> Result<Option<Self>> {
        Ok(config_in(path)?.map(|config| Self { path: path.to_owned(), config }))
    }

    /// The rootfs's absolute path on the host.
    #[must_use]
    pub fn rootfs(&self) -> Option<PathBuf> {
        self.config.root.as_ref().map(|root| self.path.join(&root.path))
    }
}

/// The config.json in the directory `bundle`; `None` if it has none.
pub fn config_in(bundle: &Path) -> Result<Option<Config>> {
    let path = bundle.join("config.json");
    let context = || format!("read {}", path.display());
    let file = match File::open(&path) {
        // A bundle that is no directory is as wrong as one that is not there.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        file => file.with_context(context)?,
    };
    let mut text = Vec::with_capacity(CONFIG_USUAL);
    file.take(CONFIG_MAX + 1).read_to_end(&mut text).with_context(context)?;
    ensure!(text.len() as u64 <= CONFIG_MAX, "{} is larger than 16 MiB", path.display());
    Config::parse(&text).with_context(context).map(Some)
}

/// Reads the config.json that a stage gets on standard input, whatever its size: the engine has it in
/// memory too. Fails where it is none at all.
pub fn read_config(mut from: impl Read) -> Result<String> {
    const INPUT: &str = "config.json on standard input";
    let mut text = Vec::with_capacity(CONFIG_USUAL);
    from.read_to_end(&mut text).with_context(|| format!("read {INPUT}"))?;
    ensure!(
        !text.is_empty(),
        "no {INPUT}; this command is started by Podman, as a hook of the stage precreate"
    );
    String::from_utf8(text).map_err(|error| anyhow!("{INPUT}: {error}"))
}

#[cfg(test)]
mod tests;
