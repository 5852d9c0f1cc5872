//! What Podman knows of containers and images. It is asked as anybody would: by its command.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toolbx_arch::asked::idmap;
use toolbx_arch::plan::OwnUserNamespace;

use crate::caller;

/// `podman container inspect`, as far as it is needed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct InspectedContainer {
    pub id: String,
    pub name: String,
    /// The first program, and its arguments.
    pub path: String,
    pub args: Vec<String>,
    pub state: InspectedState,
    pub config: ContainerConfig,
    pub host_config: HostConfig,
    /// The bundle.
    pub static_dir: PathBuf,
    /// The root directory of a container without an image.
    pub rootfs: PathBuf,
    pub graph_driver: GraphDriver,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct InspectedState {
    /// For example `running` or `exited`.
    pub status: String,
    /// 0 while it does not run.
    pub pid: i32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    pub env: Option<Vec<String>>,
    pub working_dir: PathBuf,
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    /// Tells from whom the user namespace is, if not from this container.
    userns_mode: String,
    /// The ids in a user namespace; null where it has none.
    #[serde(rename = "IDMappings")]
    id_mappings: Option<IdMappings>,
}

/// Each a list of CONTAINER:HOST:SIZE.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct IdMappings {
    uid_map: Option<Vec<String>>,
}

impl HostConfig {
    /// The user namespace that the container has to itself, if any.
    pub fn user_namespace(&self) -> Option<OwnUserNamespace> {
        let is_joined = ["container:", "ns:"].iter().any(|kind| self.userns_mode.starts_with(kind));
        let mappings = self.id_mappings.as_ref().filter(|_| !is_joined)?;
        let lines = mappings.uid_map.as_deref().unwrap_or_default().join("\n");
        let maps_our_root = idmap::maps_uid(&lines.replace(':', " "), 0);
        Some(OwnUserNamespace { maps_our_root })
    }
}

/// `podman image inspect`, as far as it is needed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct InspectedImage {
    pub id: String,
    /// What it declares, which need not be true.
    pub architecture: String,
    pub config: InspectedImageConfig,
    pub labels: Option<BTreeMap<String, String>>,
    pub graph_driver: GraphDriver,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct InspectedImageConfig {
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub env: Option<Vec<String>>,
    pub working_dir: PathBuf,
}

/// Where the layers are.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct GraphDriver {
    pub data: Option<BTreeMap<String, String>>,
}

impl GraphDriver {
    /// The directories of the layers, the uppermost first.
    pub fn layers(&self) -> Vec<PathBuf> {
        let data = self.data.iter().flatten();
        let of = |key: &str| data.clone().find(|(name, _)| *name == key).map(|(_, value)| value);
        let lower = of("LowerDir").into_iter().flat_map(|lower| lower.split(':'));
        of("UpperDir").map(String::as_str).into_iter().chain(lower).map(PathBuf::from).collect()
    }
}

/// The container that is called `name`, if there is one.
pub fn container(name: &str) -> Result<Option<InspectedContainer>> {
    inspect("container", name)
}

/// The image that is called `name`, if there is one.
pub fn image(name: &str) -> Result<Option<InspectedImage>> {
    inspect("image", name)
}

fn inspect<T: DeserializeOwned>(kind: &str, name: &str) -> Result<Option<T>> {
    let output = podman(&[kind, "exists", "--", name])?;
    match output.status.code() {
        Some(0) => {}
        Some(1) => return Ok(None),
        _ => bail!("podman {kind} exists {name}: {}", said(&output)),
    }
    let output = podman(&[kind, "inspect", "--", name])?;
    if !output.status.success() {
        bail!(
            "podman {kind} inspect {name}: {}; if it is half deleted, run: podman {kind} rm --force {name}",
            said(&output)
        );
    }
    let mut found: Vec<T> = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("what podman {kind} inspect {name} prints"))?;
    Ok(found.pop())
}

/// The names of all containers and images.
pub fn names() -> Vec<String> {
    let lists: [&[&str]; 2] = [
        &["ps", "--all", "--format", "{{.Names}}"],
        &["images", "--format", "{{.Repository}}:{{.Tag}}"],
    ];
    let outputs = lists.iter().filter_map(|list| podman(list).ok());
    let text = |output: Output| String::from_utf8_lossy(&output.stdout).into_owned();
    outputs.flat_map(|output| text(output).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Starts this very program anew as the root of rootless Podman's user namespace, where the hook of a
/// rootless container runs. Returns only if that fails.
pub fn unshare() -> anyhow::Error {
    let program = match caller::this_program() {
        Ok(program) => program,
        Err(why) => return why,
    };
    let mut command = Command::new("podman");
    command.arg("unshare").arg(program).args(std::env::args_os().skip(1));
    not_started(command.exec())
}

fn podman(arguments: &[&str]) -> Result<Output> {
    Command::new("podman").args(arguments).output().map_err(not_started)
}

fn not_started(error: std::io::Error) -> anyhow::Error {
    if error.kind() == ErrorKind::NotFound {
        anyhow!("Podman is not installed; toolbx-arch explain --bundle DIR does without")
    } else {
        anyhow!(error).context("podman")
    }
}

/// The last line of a program's errors, without its own "Error: ".
pub fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().last().unwrap_or_default();
    line.strip_prefix("Error: ").unwrap_or(line).to_owned()
}
