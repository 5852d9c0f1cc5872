//! Drop-ins: what makes engines run hooks, oci-hooks(5).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

/// The stages that Podman knows; another one stops every container.
const STAGES: [&str; 7] = [
    "precreate",
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];
/// The file name of our hook.
const HOOK: &str = "toolbx-arch-hook";
/// The file names of our drop-ins: for the stage createRuntime, and for precreate.
pub const OURS: &str = "50-toolbx-arch.json";
pub const OURS_PRECREATE: &str = "50-toolbx-arch-userns.json";

/// A drop-in, as far as it is needed.
#[derive(Debug, Deserialize)]
pub struct DropIn {
    hook: Hook,
    stages: Vec<String>,
    /// When it runs.
    #[serde(default)]
    pub when: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Hook {
    path: PathBuf,
}

impl DropIn {
    /// Fails where engines would refuse it, and with it every container.
    fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let drop_in: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no drop-in", file.display()))?;
        drop_in.check().with_context(|| file.display().to_string())?;
        Ok(drop_in)
    }

    fn check(&self) -> Result<()> {
        let unknown = self.stages.iter().find(|stage| !STAGES.contains(&stage.as_str()));
        if let Some(unknown) = unknown {
            bail!("there is no stage {unknown}");
        }
        let path = &self.hook.path;
        let metadata = path.metadata().with_context(|| format!("its hook {}", path.display()))?;
        let is_executable = rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
        ensure!(metadata.is_file() && is_executable, "{} is not executable", path.display());
        Ok(())
    }

    /// Whether it runs our hook at `stage`.
    pub fn is_ours(&self, stage: &str) -> bool {
        self.hook.path.file_name().is_some_and(|name| name == HOOK)
            && self.stages.iter().any(|known| known == stage)
    }

    /// Whether it never runs.
    pub fn is_off(&self) -> bool {
        self.when.get("always") == Some(&Value::Bool(false))
    }

    /// Whether it runs for every container.
    pub fn is_always(&self) -> bool {
        self.when.get("always") == Some(&Value::Bool(true))
    }
}

/// The drop-ins of `directories`: a later directory's file masks one of the same name. Each with its
/// path; or why it stops every container.
pub fn read(directories: &[PathBuf]) -> Vec<(PathBuf, Result<DropIn>)> {
    let mut files: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for directory in directories {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "json") {
                files.insert(entry.file_name(), entry.path());
            }
        }
    }
    files.into_values().map(|file| (file.clone(), DropIn::read(&file))).collect()
}
