//! Drop-ins: what makes engines run hooks, oci-hooks(5).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::containers_conf;
use crate::person::Person;

/// The stages that Podman knows; another one stops every container.
const STAGES: [&str; 7] = [
    PRECREATE,
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];
/// Our hook.
pub const HOOK: &str = "/usr/libexec/oci/hooks.d/toolbx-arch-hook";
/// The file names of our drop-ins: for the stage createRuntime, and for precreate.
pub const OURS: &str = "50-toolbx-arch.json";
pub const OURS_PRECREATE: &str = "50-toolbx-arch-userns.json";

/// The stage before a container is made, which only Podman has.
pub const PRECREATE: &str = "precreate";
/// What makes it serve only containers that have an annotation of ours, at the stage precreate.
const ANNOTATED: &str = "--annotated";
/// The stages at which it serves a container.
pub const SERVING: [&str; 2] = ["createRuntime", "prestart"];

/// A drop-in, as far as it is needed.
#[derive(Debug, Deserialize)]
struct DropIn {
    hook: Hook,
    stages: Vec<String>,
    /// When it runs.
    #[serde(default)]
    when: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Hook {
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
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

    /// Whether it runs our hook at one of `stages`.
    fn runs_ours(&self, stages: &[&str]) -> bool {
        let is_ours = self.hook.path.file_name() == Path::new(HOOK).file_name();
        is_ours
            && !self.is_off()
            && self.stages.iter().any(|stage| stages.contains(&stage.as_str()))
    }

    /// Whether it never runs.
    fn is_off(&self) -> bool {
        self.when.get("always") == Some(&Value::Bool(false))
    }

    /// Whether it runs for every container, and serves it whether it has an annotation or not.
    fn is_always(&self) -> bool {
        let waits = self.hook.args.iter().any(|argument| argument == ANNOTATED);
        self.when.get("always") == Some(&Value::Bool(true)) && !waits
    }
}

/// Whether our hook can be started.
pub fn is_hook_there() -> bool {
    rustix::fs::access(HOOK, rustix::fs::Access::EXEC_OK).is_ok()
}

/// For which containers our hook is called.
#[derive(Debug, PartialEq, Eq)]
pub enum Calls<'a> {
    /// For all, by this drop-in.
    All(&'a Path),
    /// For some, mostly those that have an annotation of ours, by this one.
    Annotated(&'a Path),
    None,
}

/// The drop-ins that count for somebody's containers.
pub struct DropIns {
    /// Where they are looked for.
    pub directories: Vec<PathBuf>,
    /// Those that engines understand.
    usable: Vec<(PathBuf, DropIn)>,
    /// Those that engines refuse, and with them all hooks or all containers; and why.
    pub broken: Vec<(PathBuf, anyhow::Error)>,
}

impl DropIns {
    /// Those that Podman reads for `person`. Fails where its configuration cannot be understood.
    pub fn of(person: &Person) -> Result<Self> {
        let namings = containers_conf::namings(Path::new("/"), person.config(), None)?;
        Ok(Self::read(containers_conf::hook_directories(&namings)))
    }

    /// Those in `directories`: a later directory's file masks one of the same name.
    pub fn read(directories: Vec<PathBuf>) -> Self {
        let mut files: BTreeMap<OsString, PathBuf> = BTreeMap::new();
        for directory in &directories {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|extension| extension == "json") {
                    files.insert(entry.file_name(), entry.path());
                }
            }
        }
        let (mut usable, mut broken) = (Vec::new(), Vec::new());
        for file in files.into_values() {
            match DropIn::read(&file) {
                Ok(drop_in) => usable.push((file, drop_in)),
                Err(why) => broken.push((file, why)),
            }
        }
        Self { directories, usable, broken }
    }

    /// For which containers our hook is called at one of `stages`.
    pub fn calls(&self, stages: &[&str]) -> Calls<'_> {
        let ours = |(_, drop_in): &&(PathBuf, DropIn)| drop_in.runs_ours(stages);
        match self.usable.iter().filter(ours).max_by_key(|(_, drop_in)| drop_in.is_always()) {
            None => Calls::None,
            Some((file, drop_in)) if drop_in.is_always() => Calls::All(file),
            Some((file, _)) => Calls::Annotated(file),
        }
    }

    /// Whether one of ours is broken, as where the hook is missing.
    pub fn has_broken_of_ours(&self) -> bool {
        let is_ours =
            |file: &Path| file.file_name().is_some_and(|n| n == OURS || n == OURS_PRECREATE);
        self.broken.iter().any(|(file, _)| is_ours(file))
    }

    /// Those that Podman alone understands, in the directory that other engines read too.
    pub fn for_podman_alone(&self) -> impl Iterator<Item = &Path> {
        let is_misplaced = |(file, drop_in): &&(PathBuf, DropIn)| {
            file.starts_with(containers_conf::DEFAULT_HOOKS)
                && drop_in.stages.iter().any(|stage| stage == PRECREATE)
        };
        self.usable.iter().filter(is_misplaced).map(|(file, _)| file.as_path())
    }
}
