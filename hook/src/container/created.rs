//! A container that is being created, as the hook finds it: the subject that it decides about.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, anyhow};
use rustix::fs::{OFlags, ResolveFlags};

use crate::arch::Arch;
use crate::asked::annotations::Annotations;
use crate::asked::detect::{self, Detected};
use crate::asked::evidence::Subject;
use crate::asked::hook_arguments::HookArguments;
use crate::asked::labels::{self, Label};
use crate::asked::oci::{Bundle, Command, State};
use crate::asked::runtime;
use crate::base::lookup::location;
use crate::base::message::Call;
use crate::container::process::Process;
use crate::host::trust::Host;

/// The container, and what is known of it even where it was not found.
#[derive(Debug)]
pub struct Created {
    annotations: Annotations,
    devices: Vec<&'static Arch>,
    /// Fails where it could not be found.
    pub place: Result<Place>,
}

/// Where a container is, as it was found once.
#[derive(Debug)]
pub struct Place {
    /// Its bundle.
    pub bundle: Bundle,
    /// The process that will become its first.
    pub process: Process,
    /// The directory that will become its root ([`open_rootfs`]).
    pub rootfs: OwnedFd,
}

impl Created {
    /// Finds the container of `state`, for which the hook was `given` arguments.
    ///
    /// Its annotations are in the state; some runtimes leave them out, and then they are in the bundle.
    #[must_use]
    pub fn find(state: &State, given: &HookArguments) -> Self {
        let devices = given.devices.clone();
        let bundle = Bundle::find(state, runtime::command_line);
        let of_bundle = bundle.as_ref().ok().and_then(|bundle| bundle.config.annotations.clone());
        let annotations = state.annotations.clone().or(of_bundle).unwrap_or_default();
        Self { annotations, devices, place: bundle.and_then(|bundle| Place::open(state, bundle)) }
    }

    /// The container of `state`, which runs, and whose bundle is known: where its rootfs is as its own first
    /// process sees it.
    #[must_use]
    pub fn running(state: &State, bundle: Bundle, devices: Vec<&'static Arch>) -> Self {
        let annotations = bundle.config.annotations.clone().unwrap_or_default();
        Self { annotations, devices, place: Place::open(state, bundle) }
    }
}

impl Subject for Created {
    fn annotations(&self) -> Annotations {
        self.annotations.clone()
    }

    fn devices(&self) -> Vec<&'static Arch> {
        self.devices.clone()
    }

    fn command(&self) -> Option<&Command> {
        self.place.as_ref().ok()?.bundle.config.command.as_ref()
    }

    fn detect(&self, command: &Command) -> Result<Option<Detected>> {
        let place = self.place.as_ref().map_err(|why| anyhow!("{why:#}"))?;
        Ok(detect::detect(place.rootfs.as_fd(), command))
    }

    fn label(&self, host: &Host) -> Option<Label> {
        labels::find(&self.place.as_ref().ok()?.bundle.path, host)
    }
}

impl Place {
    fn open(state: &State, bundle: Bundle) -> Result<Self> {
        let process = Process::open(state)?;
        let rootfs = open_rootfs(&process, state, &bundle)?;
        Ok(Self { bundle, process, rootfs })
    }
}

/// Opens the directory that will become the container's root, in its mount namespace.
fn open_rootfs(process: &Process, state: &State, bundle: &Bundle) -> Result<OwnedFd> {
    let path = bundle.rootfs().or_else(|| state.root.clone()).with_context(|| {
        format!("container {}: neither config.json nor the state names its rootfs", state.id)
    })?;
    let root = process.open_path("root")?;
    location(&root, &path, OFlags::DIRECTORY, ResolveFlags::IN_ROOT)
        .call(|| format!("openat2 {}, the rootfs of container {}", path.display(), state.id))
}
