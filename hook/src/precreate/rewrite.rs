//! Decides how a container gets a user namespace: what has to be arranged otherwise in one, what is left to
//! `create-runtime`, and what cannot be had.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use crate::asked::bound::Bound;
use crate::asked::hook_arguments::HookArguments;
use crate::asked::idmap::IdMapping;
use crate::base::lookup;
use crate::base::message::{self, Call};
use crate::host::scope::Scope;
use crate::precreate::config::{FullConfig, FullMount, Network};
use crate::precreate::devices;

/// To listen on a port below it takes `CAP_NET_BIND_SERVICE` over the user namespace that owns the
/// network (ip(7)).
pub(super) const PORT_START: &str = "net.ipv4.ip_unprivileged_port_start";

/// What the runtime will find: in the namespaces of this process.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// The scope of a container without a user namespace.
    pub(super) scope: Scope,
    pub(super) uid_map: Vec<IdMapping>,
    pub(super) gid_map: Vec<IdMapping>,
    /// The first port that needs no right, in the engine's network.
    pub(super) port_start: u32,
    /// The container's devices that are not at the same path here, and where they are.
    pub(super) devices: BTreeMap<PathBuf, PathBuf>,
}

/// What is to be changed in a config.json.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rewrite {
    pub(super) uid_map: Vec<IdMapping>,
    pub(super) gid_map: Vec<IdMapping>,
    /// Whether the message queues are left out: they can be neither mounted nor bound.
    pub(super) drops_mqueue: bool,
    /// Devices that become binds, and of what.
    pub(super) devices: BTreeMap<PathBuf, PathBuf>,
    /// Left to `create-runtime`; with what cannot be mounted there, and becomes a bind of the engine's.
    pub(super) left: HookArguments,
    /// What the container cannot have.
    pub(super) warnings: Vec<String>,
}

impl Surroundings {
    pub(super) fn current(scope: Scope, config: &FullConfig) -> Result<Self> {
        let read =
            |path: &str| std::fs::read_to_string(path).with_context(|| format!("read {path}"));
        let port_start = format!("/proc/sys/{}", PORT_START.replace('.', "/"));
        Ok(Self {
            scope,
            uid_map: IdMapping::identity(&read("/proc/self/uid_map")?)?,
            gid_map: IdMapping::identity(&read("/proc/self/gid_map")?)?,
            port_start: read(&port_start)?.trim_end().parse().unwrap_or(1024),
            devices: devices::elsewhere(config.linux.as_ref().map_or(&[], |linux| &linux.devices))?,
        })
    }
}

/// Decides how the container of `config` gets its user namespace. Fails where it cannot have one.
pub(super) fn plan(config: &FullConfig, engine: &Surroundings) -> Result<Rewrite> {
    let pid = config.namespace("pid");
    // Binding the engine's /proc would show the processes of the host.
    ensure!(
        pid.is_none_or(|ns| ns.path.is_none()),
        "it joins another container's pid namespace, whose /proc cannot be mounted in a user \
         namespace made later; leave out --pid, or give both the same one: run the other container \
         with --userns=auto, and this one with --userns=container: and --pid=container:"
    );
    let network = config.network();
    let own_ipc = config.namespace("ipc").is_some_and(|ns| ns.path.is_none());
    let is_bound = |bound: &Bound| match bound {
        Bound::Sysfs => network != Network::RuntimeMade,
        Bound::Proc => pid.is_none(),
    };
    let bound: Vec<_> = Bound::ALL
        .into_iter()
        .filter(|bound| is_bound(bound) && config.mounts_of(*bound).next().is_some())
        .collect();
    bound.iter().try_for_each(|bound| config.ensure_can_be_bound(*bound))?;
    Ok(Rewrite {
        uid_map: engine.uid_map.clone(),
        gid_map: engine.gid_map.clone(),
        devices: engine.devices.clone(),
        drops_mqueue: !own_ipc,
        left: HookArguments {
            owns_host_files: true,
            bound,
            enters_network: matches!(network, Network::EngineMade | Network::Joined),
            sysctls: sysctls(config, network),
            devices: Vec::new(),
        },
        warnings: warnings(config, engine, network),
    })
}

/// What is to be set in the container's network from outside, since that belongs to the engine's
/// user namespace.
fn sysctls(config: &FullConfig, network: Network) -> BTreeMap<String, String> {
    if matches!(network, Network::RuntimeMade | Network::Host) {
        return BTreeMap::new();
    }
    let all = config.linux.iter().flat_map(|linux| &linux.sysctl);
    let mut net: BTreeMap<_, _> = all
        .filter(|(key, _)| is_net(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    // In a network that others use too, only what was asked for.
    if network == Network::EngineMade && config.may("CAP_NET_BIND_SERVICE") {
        net.entry(PORT_START.to_owned()).or_insert_with(|| "0".to_owned());
    }
    net
}

/// What the container would have without a user namespace, and cannot have in one.
fn warnings(config: &FullConfig, engine: &Surroundings, network: Network) -> Vec<String> {
    let mut warnings = Vec::new();
    // Somebody who is not root has no rights over the host's network anyway.
    let had_network = network == Network::Joined || engine.scope == Scope::Host;
    if had_network && config.may("CAP_NET_BIND_SERVICE") {
        let start = engine.port_start;
        match network {
            Network::Host if start > 0 => warnings.push(format!(
                "in its user namespace the container cannot listen on ports below {start} of the \
                 host's network; leave out --network=host and publish them, or use --userns=auto"
            )),
            Network::Joined => warnings.push(format!(
                "in its user namespace the container can listen on ports below 1024 of the network \
                 that it joins only if that says so; make that network with --sysctl {PORT_START}=0"
            )),
            _ => {}
        }
    }
    if network != Network::RuntimeMade && had_network && config.may("CAP_NET_ADMIN") {
        warnings.push(
            "in its user namespace CAP_NET_ADMIN gives the container no right over a network that \
             was made outside; use --userns=auto or --network=none"
                .to_owned(),
        );
    }
    if engine.scope == Scope::Host && config.may("CAP_MKNOD") {
        warnings.push(
            "in its user namespace the container cannot make device nodes; use --device".to_owned(),
        );
    }
    let is_shared =
        |mount: &FullMount| mount.options.iter().any(|o| o == "shared" || o == "rshared");
    if config.mounts.iter().any(is_shared) {
        warnings.push(
            "what is mounted in a shared volume inside the container's user namespace does not \
             reach the host"
                .to_owned(),
        );
    }
    warnings
}

pub(super) fn is_net(sysctl: &str) -> bool {
    sysctl.starts_with("net.") || sysctl.starts_with("net/")
}

/// Fails where a link of the image would lead elsewhere what the runtime is to bind of the machine's: at
/// the places of what is `bound`, and of device nodes. For file systems of these types, and for nodes
/// that it makes, a runtime looks at that itself, or it does not matter.
///
/// What is in volumes, and what has changed by then, is for [`crate::apply::guard`].
pub(super) fn ensure_lands_where_it_should(
    root: &OwnedFd,
    config: &FullConfig,
    bound: &[Bound],
) -> Result<()> {
    let devices = config.linux.iter().flat_map(|linux| &linux.devices).map(|d| &*d.path);
    let places = bound.iter().map(|bound| bound.path()).chain([Path::new("/dev")]).chain(devices);
    for place in places {
        // What a mount hides does not matter: only where that is.
        let on = config.mounts.iter().map(|mount| &*mount.destination);
        let on = on.filter(|on| place.starts_with(on)).max_by_key(|on| on.components().count());
        let path = on.unwrap_or(place);
        let below = path.strip_prefix("/").unwrap_or(path);
        match lookup::plain_location(root, below) {
            Ok(_) | Err(Errno::NOENT) => {}
            found => {
                found.call(|| format!("openat2 {}", message::path(path))).with_context(|| {
                    format!(
                        "{} is to be the machine's, and the image leads elsewhere; use \
                         --userns=auto, or an image in which that is no link",
                        message::path(place)
                    )
                })?;
            }
        }
    }
    Ok(())
}
