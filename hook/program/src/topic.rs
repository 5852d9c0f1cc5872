//! What `explain` explains: a container, an image or a bundle, as far as it can be seen from outside.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use toolbx_arch::arch::Arch;
use toolbx_arch::asked::annotations::{self, Annotations};
use toolbx_arch::asked::detect::Detected;
use toolbx_arch::asked::evidence::Subject;
use toolbx_arch::asked::hook_arguments::HookArguments;
use toolbx_arch::asked::labels::{self, Label};
use toolbx_arch::asked::oci::{self, Bundle, Command, Config};
use toolbx_arch::base::message;
use toolbx_arch::host::trust::{Caller, Host};
use toolbx_arch::plan::{OwnUserNamespace, Prospect};

use crate::hooks_d::{self, Calls, DropIns};
use crate::person::Person;
use crate::podman::{self, GraphDriver};
use crate::rootfs::Rootfs;

/// What is to be explained.
pub struct Topic {
    /// For people, for example `container web (3f2a…), running`.
    pub title: String,
    /// The container's id; none for an image.
    pub id: Option<String>,
    /// Its process, if it runs.
    pub pid: Option<i32>,
    pub bundle: Bundle,
    /// Its files, which matter if it does not run; none if it names none.
    pub files: Option<Rootfs>,
    /// The label `toolbox-arch`, where it is not in the bundle's storage.
    pub label: Option<Label>,
    /// What the hook is given, as its config.json says: what its CDI devices are for.
    pub given: HookArguments,
    /// The user namespace that the engine would give it, if any.
    pub user_namespace: Option<OwnUserNamespace>,
    /// Whether the hook is called for it.
    pub calling: Calling,
}

/// Whether the engine, as it is configured, has our hook called for a container.
#[derive(Default)]
pub struct Calling {
    /// Why Podman refuses all hooks or all containers, if so.
    pub refused: Option<String>,
    /// Why the hook is not called, if so.
    pub missing: Option<&'static str>,
    /// Whether it is called at the stage precreate too.
    pub precreate: bool,
}

impl Calling {
    /// As Podman is configured for whoever calls.
    fn for_podmans(bundle: &Bundle, devices: &[&Arch]) -> Result<Self> {
        let drop_ins = DropIns::of(&Person::calling()?)?;
        let is_annotated = bundle.config.annotations.iter().any(|ours| !ours.is_empty());
        let missing = match drop_ins.calls(&hooks_d::SERVING) {
            _ if !devices.is_empty() => None,
            Calls::All(_) => None,
            Calls::Annotated(_) if is_annotated => None,
            Calls::Annotated(_) => Some(
                "the hook is called for containers with an annotation only; for all, run: \
                 toolbx-arch enable",
            ),
            Calls::None => Some("the hook is off; run: toolbx-arch enable"),
        };
        let precreate = match drop_ins.calls(&[hooks_d::PRECREATE]) {
            Calls::All(_) => true,
            Calls::Annotated(_) => is_annotated,
            Calls::None => false,
        };
        let refused = drop_ins.broken.first().map(|(_, why)| message::line(why));
        Ok(Self { refused, missing, precreate })
    }
}

impl Topic {
    /// The container that Podman calls `name`, or else the image.
    pub fn find(name: &str) -> Result<Self> {
        if let Some(container) = podman::container(name)? {
            return Self::of_container(container);
        }
        match podman::image(name)? {
            Some(image) => Self::of_image(name, image),
            None => bail!("{}", unknown(name)),
        }
    }

    fn of_container(container: podman::InspectedContainer) -> Result<Self> {
        let bundle = read_bundle(&container.static_dir)?.unwrap_or_else(|| to_be_made(&container));
        let given = HookArguments::of_config(&bundle.config);
        Ok(Self {
            title: format!(
                "container {} ({:.12}), {}",
                container.name, container.id, container.state.status
            ),
            pid: Some(container.state.pid).filter(|pid| *pid > 0),
            files: Some(files(container.rootfs, &container.graph_driver)),
            label: None,
            calling: Calling::for_podmans(&bundle, &given.devices)?,
            given,
            user_namespace: container.host_config.user_namespace(),
            id: Some(container.id),
            bundle,
        })
    }

    fn of_image(name: &str, image: podman::InspectedImage) -> Result<Self> {
        let config = image.config;
        let mut args: Vec<_> =
            [config.entrypoint, config.cmd].into_iter().flatten().flatten().collect();
        if args.is_empty() {
            args.push("/bin/sh".into()); // something has to be run
        }
        let command =
            oci::Command { args, env: config.env.unwrap_or_default(), cwd: config.working_dir };
        let config = Config { command: Some(command), ..Config::default() };
        let bundle = Bundle { path: PathBuf::new(), config };
        Ok(Self {
            title: format!("image {name} ({:.12}), declares {}", image.id, image.architecture),
            id: None,
            pid: None,
            calling: Calling::for_podmans(&bundle, &[])?,
            given: HookArguments::default(),
            bundle,
            files: Some(Rootfs::Layers(image.graph_driver.layers())),
            label: image.labels.and_then(|mut labels| {
                Some(Label { source: labels::OF_IMAGE, value: labels.remove("toolbox-arch")? })
            }),
            user_namespace: None,
        })
    }

    /// The bundle in `directory`. Fails where that is none.
    pub fn of_bundle(directory: &Path) -> Result<Self> {
        let directory = std::path::absolute(directory)?;
        let bundle = read_bundle(&directory)?.with_context(|| {
            format!("{} has no config.json, so it is no bundle", directory.display())
        })?;
        Ok(Self {
            title: format!("bundle {}", directory.display()),
            id: None,
            pid: None,
            calling: Calling::default(),
            given: HookArguments::of_config(&bundle.config),
            user_namespace: own_user_namespace(&bundle.config),
            files: bundle.rootfs().map(Rootfs::Directory),
            bundle,
            label: None,
        })
    }
}

impl Topic {
    /// What is known of its next start.
    pub fn prospect(&self) -> Prospect {
        Prospect {
            user_namespace: self.user_namespace,
            precreate: self.calling.precreate,
            // Engines give every container one, unless its configuration says otherwise.
            has_own_dev: self.bundle.config.mounts.is_none() || self.bundle.config.has_own_dev(),
        }
    }
}

impl Subject for Topic {
    fn annotations(&self) -> Annotations {
        self.bundle.config.annotations.clone().unwrap_or_default()
    }

    fn devices(&self) -> Vec<&'static Arch> {
        self.given.devices.clone()
    }

    fn command(&self) -> Option<&Command> {
        self.bundle.config.command.as_ref()
    }

    fn detect(&self, command: &Command) -> Result<Option<Detected>> {
        const WHAT: &str = "its files cannot be looked at";
        let files = self.files.as_ref().context("config.json names no rootfs").context(WHAT)?;
        files.detect(command).context(WHAT)
    }

    fn label(&self, host: &Host) -> Option<Label> {
        self.label.clone().or_else(|| labels::find(&self.bundle.path, host))
    }
}

/// The user namespace that a runtime would make for the container of `config` alone.
fn own_user_namespace(config: &Config) -> Option<OwnUserNamespace> {
    let mappings = config.linux.iter().flat_map(|linux| &linux.uid_mappings).flatten();
    let maps_our_root = mappings.into_iter().any(|mapping| mapping.host == 0 && mapping.size > 0);
    config.has_own_user_namespace().then_some(OwnUserNamespace { maps_our_root })
}

fn read_bundle(directory: &Path) -> Result<Option<Bundle>> {
    // A pipe that somebody put there would be waited for.
    let file = directory.join("config.json");
    if let Ok(found) = file.metadata() {
        ensure!(found.is_file(), "{} is not a file", file.display());
    }
    let config = oci::config_in(directory)?;
    Ok(config.map(|config| Bundle { path: directory.to_owned(), config }))
}

/// As far as it is known, the bundle that Podman will make for a container that was never started.
fn to_be_made(container: &podman::InspectedContainer) -> Bundle {
    let args = std::iter::once(&container.path).chain(&container.args).cloned().collect();
    let config = &container.config;
    let annotations = config.annotations.clone().unwrap_or_default();
    let command = oci::Command {
        args,
        env: config.env.clone().unwrap_or_default(),
        cwd: config.working_dir.clone(),
    };
    Bundle {
        path: container.static_dir.clone(),
        config: Config {
            command: Some(command),
            annotations: Some(
                annotations.into_iter().filter(|(key, _)| annotations::is_ours(key)).collect(),
            ),
            ..Config::default()
        },
    }
}

fn files(rootfs: PathBuf, layers: &GraphDriver) -> Rootfs {
    if rootfs.as_os_str().is_empty() {
        Rootfs::Layers(layers.layers())
    } else {
        Rootfs::Directory(rootfs)
    }
}

fn unknown(name: &str) -> String {
    let names = podman::names();
    let nearest = names
        .iter()
        .map(|known| (likeness(name, known), known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    let nearest = nearest.map(|(_, known)| format!("did you mean {known}? ")).unwrap_or_default();
    let whose = match Caller::current() {
        Ok(Caller::Root) => "an ordinary user's are explained to that user only",
        _ => "root's are explained by: sudo toolbx-arch explain",
    };
    format!(
        "no container or image of yours is called {}; {nearest}podman ps --all and podman images show \
         yours, {whose}",
        message::shown(name)
    )
}

/// How much `name` looks like the name of a container or an image, or like the last part of that.
fn likeness(name: &str, known: &str) -> f64 {
    let last = known.rsplit('/').next().unwrap_or(known);
    let untagged = last.split(':').next().unwrap_or(last);
    let likeness = |known| strsim::jaro_winkler(name, known);
    likeness(known).max(likeness(last)).max(likeness(untagged))
}
