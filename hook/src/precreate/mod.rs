//! Podman's stage `precreate`: gives a container that is to be emulated a user namespace of its
//! own, by rewriting the config.json that Podman is about to hand to the runtime.
//!
//! The mapping is the identity, so files, volumes and users stay as they are. What a runtime cannot
//! do in such a namespace is arranged otherwise, left to `create-runtime` ([`Orders`]), or said.

pub mod devices;
pub mod json;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::arch::Arch;
use crate::asked::bound::Bound;
use crate::asked::detect::{self, Detected};
use crate::asked::hook_arguments::Orders;
use crate::asked::idmap::IdMapping;
use crate::asked::labels::{self, Label};
use crate::asked::oci::{self, Input, Namespace};
use crate::asked::request::{self, Evidence, Need, Request};
use crate::asked::toolbx;
use crate::base::lookup;
use crate::base::message::{self, Call, shown};
use crate::host::emulator;
use crate::host::instance::Visible;
use crate::host::policy::Policy;
use crate::host::scope::Scope;
use crate::host::trust::{Host, LazyHost};
use crate::log::{Log, Severity};
use crate::precreate::devices::Device;
use crate::precreate::json::Object;

/// To listen on a port below it takes `CAP_NET_BIND_SERVICE` over the user namespace that owns the
/// network (ip(7)).
const PORT_START: &str = "net.ipv4.ip_unprivileged_port_start";

/// What of the machine's /proc changes the machine. Engines make it read-only, unless the container is
/// privileged or says otherwise; where its root is the machine's in nothing but files, it always is.
const READ_ONLY: [&str; 5] =
    ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"];

/// The part of a config.json that says whether it is for us; whatever else is in it then does not
/// matter.
#[derive(Debug, Deserialize)]
struct Asking {
    #[serde(default, deserialize_with = "oci::our_annotations")]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default, deserialize_with = "oci::if_understood")]
    root: Option<oci::Root>,
    #[serde(rename = "process", default, deserialize_with = "oci::if_understood")]
    command: Option<oci::Command>,
    #[serde(default, deserialize_with = "oci::if_understood")]
    linux: Option<Cgroup>,
    #[serde(default, deserialize_with = "oci::if_understood")]
    hooks: Option<Hooks>,
}

/// Those that are ours may be there for a CDI device.
#[derive(Debug, Default, Deserialize)]
struct Hooks {
    #[serde(rename = "createRuntime", default, deserialize_with = "oci::or_default")]
    create_runtime: Vec<Hook>,
    #[serde(default, deserialize_with = "oci::or_default")]
    prestart: Vec<Hook>,
}

#[derive(Debug, Deserialize)]
struct Hook {
    #[serde(default, deserialize_with = "oci::or_default")]
    args: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Cgroup {
    #[serde(rename = "cgroupsPath")]
    path: String,
}

impl Asking {
    fn parse(text: &str) -> Result<Self> {
        // serde would take a list for an object with its values in order.
        ensure!(text.trim_start().starts_with('{'), "config.json on standard input is no object");
        serde_json::from_str(text).map_err(|error| malformed(&error))
    }

    /// The container's id, which Podman puts at the end of the cgroup's name.
    fn id(&self) -> Option<&str> {
        let id = self.linux.as_ref()?.path.rsplit(['/', ':', '-']).next()?;
        let id = id.strip_suffix(".scope").unwrap_or(id);
        (id.len() == 64).then_some(id)
    }

    fn label(&self, host: &Host) -> Option<Label> {
        labels::find(&labels::bundle_of(self.id()?, &self.root.as_ref()?.path)?, host)
    }

    /// The container's root directory, which Podman has mounted by now; its volumes are not there yet.
    fn open_root(&self) -> Result<OwnedFd> {
        let root = self.root.as_ref().filter(|root| root.path.is_absolute());
        let path = &root.context("config.json names no root directory")?.path;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).call(|| format!("open {}", path.display()))
    }

    /// What tells in the container's file system.
    fn detect(&self) -> Option<Detected> {
        detect::detect(self.open_root().ok()?.as_fd(), self.command.as_ref()?)
    }

    /// What CDI devices ask for.
    fn devices(&self) -> Vec<&'static Arch> {
        let hooks = self.hooks.iter().flat_map(|hooks| [&hooks.create_runtime, &hooks.prestart]);
        let arguments = hooks.flatten().filter_map(|hook| our_arguments(&hook.args));
        let arguments: Vec<&str> = arguments.flatten().map(String::as_str).collect();
        Orders::from_arguments(&arguments).unwrap_or_default().devices
    }
}

/// Those parts that decide how its container can have a user namespace.
#[derive(Debug, Default, Deserialize)]
struct Config {
    process: Option<Process>,
    #[serde(default, deserialize_with = "oci::or_default")]
    mounts: Vec<Mount>,
    linux: Option<Linux>,
}

#[derive(Debug, Default, Deserialize)]
struct Process {
    capabilities: Option<Capabilities>,
}

#[derive(Debug, Default, Deserialize)]
struct Capabilities {
    #[serde(default, deserialize_with = "oci::or_default")]
    bounding: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Mount {
    destination: PathBuf,
    #[serde(rename = "type", default, deserialize_with = "oci::or_default")]
    fs_type: String,
    #[serde(default, deserialize_with = "oci::or_default")]
    options: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    #[serde(default, deserialize_with = "oci::or_default")]
    namespaces: Vec<Namespace>,
    #[serde(default, deserialize_with = "oci::or_default")]
    uid_mappings: Vec<IdMapping>,
    #[serde(default, deserialize_with = "oci::or_default")]
    gid_mappings: Vec<IdMapping>,
    #[serde(default, deserialize_with = "oci::or_default")]
    sysctl: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "oci::or_default")]
    devices: Vec<Device>,
}

/// What the runtime will find: in the namespaces of this process.
#[derive(Debug)]
struct Engine {
    /// The scope of a container without a user namespace.
    scope: Scope,
    uid_map: Vec<IdMapping>,
    gid_map: Vec<IdMapping>,
    /// The first port that needs no right, in the engine's network.
    port_start: u32,
    /// The container's devices that are not at the same path here, and where they are.
    devices: BTreeMap<PathBuf, PathBuf>,
}

/// Which network a container uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    /// One that the runtime makes, in the new user namespace.
    RuntimeMade,
    /// One that the engine has made for it, outside.
    EngineMade,
    /// Another container's, or one that the user named.
    Joined,
    /// The engine's own: the host's.
    Host,
}

/// What is to be changed in a config.json.
#[derive(Debug, PartialEq, Eq)]
struct Rewrite {
    uid_map: Vec<IdMapping>,
    gid_map: Vec<IdMapping>,
    /// Whether the message queues are left out: they can be neither mounted nor bound.
    drops_mqueue: bool,
    /// Devices that become binds, and of what.
    devices: BTreeMap<PathBuf, PathBuf>,
    /// Left to `create-runtime`; with what cannot be mounted there, and becomes a bind of the engine's.
    orders: Orders,
    /// What the container cannot have.
    warnings: Vec<String>,
}

/// What is to become of a config.json.
#[derive(Debug)]
enum Outcome {
    /// It stays as it is: nothing is asked of this stage.
    NotAsked,
    /// It stays as it is although it was to be changed; with the reason.
    Left(String),
    /// It is rewritten.
    Rewritten { text: String, warnings: Vec<String> },
}

/// Reads a config.json from standard input and writes it to standard output, rewritten where its
/// container is to get a user namespace, to the byte as it was where not.
///
/// Returns what the user should be warned of. Fails, and writes nothing, where the container cannot
/// have what it asked for. Leaves a record in the log where there is anything to tell.
pub fn run() -> Result<Vec<String>> {
    let start = Instant::now();
    let log = Log::connect();
    let mut input = std::io::stdin().lock();
    let text = match Input::read(&mut input)? {
        Input::Text(text) => text,
        Input::TooLarge(beginning) => {
            let record = json!({
                "stage": "precreate",
                "decision": "engine",
                "why": "config.json is larger than 16 MiB",
            });
            log.send(Severity::Warning, &record.to_string());
            return pass_on((&*beginning).chain(input)).map(|()| Vec::new());
        }
    };
    let mut id = None;
    let outcome = Asking::parse(&text).and_then(|asking| {
        id = asking.id().map(str::to_owned);
        filter(&text, &asking)
    });
    let (severity, mut record) = match &outcome {
        Ok(Outcome::NotAsked) => (Severity::Info, Value::Null),
        Ok(Outcome::Left(why)) => (Severity::Info, json!({"decision": "engine", "why": why})),
        Ok(Outcome::Rewritten { warnings, .. }) => {
            let severity = if warnings.is_empty() { Severity::Info } else { Severity::Warning };
            (severity, json!({"decision": "userns", "warnings": message::list(warnings)}))
        }
        Err(error) => {
            (Severity::Error, json!({"decision": "refused", "error": message::line(error)}))
        }
    };
    if !record.is_null() {
        record["stage"] = "precreate".into();
        record["container"] = id.into();
        record["us"] = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX).into();
        log.send(severity, &record.to_string());
    }
    let (text, warnings) = match outcome? {
        Outcome::NotAsked | Outcome::Left(_) => (text, Vec::new()),
        Outcome::Rewritten { text, warnings } => (text, warnings),
    };
    pass_on(text.as_bytes())?;
    Ok(warnings)
}

/// Writes a config.json to standard output.
fn pass_on(mut config: impl Read) -> Result<()> {
    let mut out = std::io::stdout().lock();
    std::io::copy(&mut config, &mut out)
        .and_then(|_| out.flush())
        .context("write config.json to standard output")
}

/// Decides what is to become of the config.json `text`.
fn filter(text: &str, asking: &Asking) -> Result<Outcome> {
    let mut evidence = Evidence {
        devices: asking.devices(),
        label: None,
        detected: asking.detect(),
        toolbx: asking.command.as_ref().and_then(toolbx::architecture),
        annotations: asking.annotations.clone().unwrap_or_default(),
    };
    let host = LazyHost::default();
    if evidence.may_have_label() {
        evidence.label = host.get().ok().and_then(|host| asking.label(host));
    }
    if evidence.says_none() {
        return Ok(Outcome::NotAsked);
    }
    let Some(need) = evidence.need() else { return Ok(Outcome::NotAsked) };
    match (need, rewritten(text, asking, &evidence, need, &host)) {
        (Need::Asked, outcome) => outcome,
        // The container can do without: create-runtime says what is to be said.
        (_, outcome) => Ok(outcome.unwrap_or_else(|why| Outcome::Left(message::line(&why)))),
    }
}

/// Gives the container a user namespace, if it is to have one.
fn rewritten(
    text: &str,
    asking: &Asking,
    evidence: &Evidence,
    need: Need,
    host: &LazyHost,
) -> Result<Outcome> {
    let host = host.get()?;
    let policy = Policy::load(host)?;
    let Request::Emulate(wish) = request::decide(evidence, &policy, Arch::is_native)? else {
        return Ok(Outcome::NotAsked);
    };
    let scope = Scope::without_user_namespace(host.caller);
    if !request::gets_user_namespace(&wish, &policy, scope) {
        return Ok(Outcome::NotAsked);
    }
    // Whoever asked hears from create-runtime what is missing.
    if need != Need::Asked {
        wish.targets.iter().try_for_each(|arch| emulator::find(arch, &policy, host).map(drop))?;
    }
    let config: Config = serde_json::from_str(text).map_err(|error| malformed(&error))?;
    config.ensure_mappings_are_apart()?;
    if config.namespace("user").is_some() {
        return Ok(Outcome::NotAsked);
    }
    let rewrite = Engine::current(scope, &config).and_then(|engine| {
        let rewrite = plan(&config, &engine)?;
        ensure_lands_where_it_should(&asking.open_root()?, &config, &rewrite.orders.bound)?;
        Ok(rewrite)
    });
    match rewrite.and_then(|rewrite| Ok((apply(text, &rewrite)?, rewrite))) {
        Ok((text, rewrite)) => Ok(Outcome::Rewritten { text, warnings: rewrite.warnings }),
        // Nobody insists, and the container can be served as it is.
        Err(why) if wish.userns.is_none() && is_served_by(scope, &wish.targets) => {
            Ok(Outcome::Left(message::line(&why)))
        }
        Err(why) => Err(why.context("no user namespace of its own for this container")),
    }
}

/// Whether containers without a user namespace can be served in `scope`.
fn is_served_by(scope: Scope, targets: &[&'static Arch]) -> bool {
    scope != Scope::Host
        || Visible::of_the_engine()
            .is_some_and(|visible| visible.is_ok_and(|visible| visible.lacks(targets).is_none()))
}

fn malformed(error: &serde_json::Error) -> anyhow::Error {
    anyhow!("config.json on standard input: {error}")
}

impl Config {
    fn namespace(&self, kind: &str) -> Option<&Namespace> {
        self.linux.iter().flat_map(|linux| &linux.namespaces).find(|ns| ns.kind == kind)
    }

    /// Fails where the engine gives the container mappings that the kernel would refuse.
    fn ensure_mappings_are_apart(&self) -> Result<()> {
        let linux = self.linux.as_ref();
        for (what, mappings) in [
            ("uid", linux.map(|linux| &linux.uid_mappings)),
            ("gid", linux.map(|linux| &linux.gid_mappings)),
        ] {
            for (i, a) in mappings.iter().copied().flatten().enumerate() {
                let before = mappings.iter().copied().flatten().take(i);
                if let Some(b) = before.into_iter().find(|b| a.overlaps(b)) {
                    bail!(
                        "config.json's {what} mappings overlap: {b} and {a}; correct --{what}map"
                    );
                }
            }
        }
        Ok(())
    }

    fn mounts_of(&self, bound: Bound) -> impl Iterator<Item = &Mount> {
        self.mounts.iter().filter(move |mount| is_of(mount, bound))
    }

    /// Fails where a file system that becomes a bind has options that only a mount of its own can
    /// have, or is to be at a place that is not looked after.
    fn ensure_can_be_bound(&self, bound: Bound) -> Result<()> {
        let path = bound.path().display();
        if let Some(mount) = self.mounts_of(bound).find(|mount| mount.destination != bound.path()) {
            bail!(
                "its {} at {} cannot be mounted in a user namespace that does not own what it \
                 shows; mount it at {path}, or use --userns=auto",
                bound.fs_type(),
                message::path(&mount.destination)
            );
        }
        let mut options = self.mounts_of(bound).flat_map(|mount| &mount.options);
        match options.find(|option| option.contains('=')) {
            None => Ok(()),
            Some(option) => bail!(
                "its {path} with the option {} cannot be mounted in a user namespace that does not \
                 own what it shows; leave out the option, or use --userns=auto",
                shown(option)
            ),
        }
    }

    fn may(&self, capability: &str) -> bool {
        let capabilities = self.process.iter().flat_map(|process| &process.capabilities);
        capabilities.flat_map(|sets| &sets.bounding).any(|name| name == capability)
    }

    fn network(&self) -> Network {
        match self.namespace("network").map(|ns| &ns.path) {
            None => Network::Host,
            Some(None) => Network::RuntimeMade,
            Some(Some(path)) if is_made_by_podman(path) => Network::EngineMade,
            Some(Some(_)) => Network::Joined,
        }
    }
}

/// Podman makes the network namespaces of containers in a directory `netns`, as `netns-UUID`.
fn is_made_by_podman(path: &Path) -> bool {
    let is_uuid = |text: &str| {
        text.len() == 36
            && text.char_indices().all(|(i, c)| match i {
                8 | 13 | 18 | 23 => c == '-',
                _ => c.is_ascii_hexdigit(),
            })
    };
    path.parent().is_some_and(|directory| directory.ends_with("netns"))
        && path
            .file_name()
            .and_then(OsStr::to_str)
            .is_some_and(|name| name.strip_prefix("netns-").is_some_and(is_uuid))
}

impl Engine {
    fn current(scope: Scope, config: &Config) -> Result<Self> {
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
fn plan(config: &Config, engine: &Engine) -> Result<Rewrite> {
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
        orders: Orders {
            owns_host_files: true,
            bound,
            enters_network: matches!(network, Network::EngineMade | Network::Joined),
            sysctls: sysctls(config, network),
            devices: Vec::new(),
        },
        warnings: warnings(config, engine, network),
    })
}

/// Fails where a link of the image would lead elsewhere what the runtime is to bind of the machine's: at
/// the places of what is `bound`, and of device nodes. For file systems of these types, and for nodes
/// that it makes, a runtime looks at that itself, or it does not matter.
///
/// What is in volumes, and what has changed by then, is for [`crate::apply::guard`].
fn ensure_lands_where_it_should(root: &OwnedFd, config: &Config, bound: &[Bound]) -> Result<()> {
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

fn is_of(mount: &Mount, bound: Bound) -> bool {
    mount.fs_type == bound.fs_type()
}

/// How it is bound. The older `ro` too, for a runtime that does not know the recursive one.
fn bind_options(bound: Bound) -> &'static [&'static str] {
    match bound {
        Bound::Sysfs => &["rbind", "rprivate", "nosuid", "noexec", "nodev", "ro", "rro"],
        Bound::Proc => &["rbind", "rprivate", "nosuid", "noexec", "nodev"],
    }
}

/// What is to be set in the container's network from outside, since that belongs to the engine's
/// user namespace.
fn sysctls(config: &Config, network: Network) -> BTreeMap<String, String> {
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

fn is_net(sysctl: &str) -> bool {
    sysctl.starts_with("net.") || sysctl.starts_with("net/")
}

/// What the container would have without a user namespace, and cannot have in one.
fn warnings(config: &Config, engine: &Engine, network: Network) -> Vec<String> {
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
    let is_shared = |mount: &Mount| mount.options.iter().any(|o| o == "shared" || o == "rshared");
    if config.mounts.iter().any(is_shared) {
        warnings.push(
            "what is mounted in a shared volume inside the container's user namespace does not \
             reach the host"
                .to_owned(),
        );
    }
    warnings
}

/// The config.json `text` with what `rewrite` says.
fn apply(text: &str, rewrite: &Rewrite) -> Result<String> {
    let mut config = Object::parse(text).context("config.json on standard input")?;
    let linux = rewritten_linux(&config.object("linux")?, rewrite)?;
    let mounts = rewritten_mounts(&config.list("mounts")?, rewrite)?;
    let hooks = rewritten_hooks(&config.object("hooks")?, rewrite)?;
    config.set("linux", &linux)?;
    config.set("mounts", &mounts)?;
    config.set("hooks", &hooks)?;
    Ok(serde_json::to_string(&config)?)
}

fn rewritten_linux(linux: &Object, rewrite: &Rewrite) -> Result<Box<RawValue>> {
    let mut linux = linux.clone();
    let mut namespaces = linux.list("namespaces")?;
    namespaces.push(to_raw_value(&json!({"type": "user"}))?);
    linux.set("namespaces", &namespaces)?;
    linux.set("uidMappings", &rewrite.uid_map)?;
    linux.set("gidMappings", &rewrite.gid_map)?;
    if rewrite.orders.enters_network && linux.text("sysctl").is_some() {
        let sysctl = linux.text("sysctl").map(str::to_owned).unwrap_or_default();
        let mut sysctl = Object::parse(&sysctl).context("sysctl")?;
        sysctl.retain(|key| !is_net(key));
        linux.set("sysctl", &sysctl)?;
    }
    if !rewrite.devices.is_empty() {
        let mut devices = linux.list("devices")?;
        devices.retain(|text| {
            serde_json::from_str::<Device>(text.get())
                .is_ok_and(|device| !rewrite.devices.contains_key(&device.path))
        });
        linux.set("devices", &devices)?;
    }
    if rewrite.orders.bound.contains(&Bound::Proc) {
        let mut paths: Vec<PathBuf> = linux.read("readonlyPaths")?.unwrap_or_default();
        paths.extend(READ_ONLY.map(PathBuf::from));
        paths.sort();
        paths.dedup();
        linux.set("readonlyPaths", &paths)?;
    }
    Ok(to_raw_value(&linux)?)
}

fn rewritten_mounts(mounts: &[Box<RawValue>], rewrite: &Rewrite) -> Result<Vec<Box<RawValue>>> {
    let mut rewritten = Vec::new();
    for text in mounts {
        let mount: Mount = serde_json::from_str(text.get()).map_err(|error| malformed(&error))?;
        if rewrite.drops_mqueue && mount.fs_type == "mqueue" {
            continue;
        }
        rewritten.push(match rewrite.orders.bound.iter().find(|bound| is_of(&mount, **bound)) {
            None => text.clone(),
            Some(bound) => bind(bound.path(), &mount.destination, bind_options(*bound))?,
        });
    }
    for (destination, source) in &rewrite.devices {
        rewritten.push(bind(source, destination, &["bind", "ro", "rprivate", "nosuid", "noexec"])?);
    }
    Ok(rewritten)
}

fn bind(source: &Path, destination: &Path, options: &[&str]) -> Result<Box<RawValue>> {
    Ok(to_raw_value(&json!({
        "destination": destination, "type": "bind", "source": source, "options": options,
    }))?)
}

/// Gives our own hook its arguments. Fails where the runtime would not start it.
fn rewritten_hooks(hooks: &Object, rewrite: &Rewrite) -> Result<Box<RawValue>> {
    let mut hooks = hooks.clone();
    let mut found = false;
    for stage in ["createRuntime", "prestart"] {
        let mut list = hooks.list(stage)?;
        for entry in &mut list {
            let text = entry.get().to_owned();
            let mut hook = Object::parse(&text).context(stage)?;
            let mut args: Vec<String> = hook.read("args")?.unwrap_or_default();
            if our_arguments(&args).is_some() {
                found = true;
                args.extend(rewrite.orders.arguments());
                hook.set("args", &args)?;
                *entry = to_raw_value(&hook)?;
            }
        }
        if !list.is_empty() {
            hooks.set(stage, &list)?;
        }
    }
    ensure!(
        found,
        "toolbx-arch-hook would not be started for it; make hooks_dir in containers.conf name \
         the directory of 50-toolbx-arch.json too, /usr/share/containers/oci/hooks.d"
    );
    Ok(to_raw_value(&hooks)?)
}

/// The arguments of `create-runtime`, if these are those of our hook, possibly started by another
/// program.
fn our_arguments(args: &[String]) -> Option<&[String]> {
    let is_ours = |pair: &[String]| {
        Path::new(&pair[0]).file_name().is_some_and(|name| name == "toolbx-arch-hook")
            && ["create-runtime", "prestart"].contains(&&*pair[1])
    };
    let at = args.windows(2).position(is_ours)?;
    Some(&args[at + 2..])
}

#[cfg(test)]
mod tests;
