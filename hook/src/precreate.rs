//! Podman's stage `precreate`: gives a container that is to be emulated a user namespace of its
//! own, by rewriting the config.json that Podman is about to hand to the runtime.
//!
//! The mapping is the identity, so files, volumes and users stay as they are. What a runtime cannot
//! do in such a namespace is arranged otherwise, left to `create-runtime` ([`Orders`]), or said.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::arch::Arch;
use crate::detect::{self, Detected};
use crate::devices::{self, Device};
use crate::emulator;
use crate::instance::{BINFMT_MISC, Visible};
use crate::json::Object;
use crate::labels::{self, Label};
use crate::log::{Log, Severity};
use crate::message::{self, shown};
use crate::mounts;
use crate::oci::{self, Namespace};
use crate::orders::Orders;
use crate::policy::{Policy, Userns};
use crate::request::{self, Evidence, Need, Request, UsernsWish};
use crate::scope::Scope;
use crate::toolbx;
use crate::trust::{Host, LazyHost};

/// To listen on a port below it takes `CAP_NET_BIND_SERVICE` over the user namespace that owns the
/// network (ip(7)).
const PORT_START: &str = "net.ipv4.ip_unprivileged_port_start";

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

    /// What tells in the container's file system, which Podman has mounted by now; its volumes are
    /// not there yet.
    fn detect(&self) -> Option<Detected> {
        let root = &self.root.as_ref().filter(|root| root.path.is_absolute())?.path;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).ok()?;
        detect::detect(root.as_fd(), self.command.as_ref()?)
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

/// An element of config.json's `uidMappings` and `gidMappings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct IdMapping {
    #[serde(rename = "containerID")]
    container: u32,
    #[serde(rename = "hostID")]
    host: u32,
    size: u32,
}

/// What the runtime will find: in the namespaces of this process.
#[derive(Debug)]
struct Engine {
    /// The scope of a container without a user namespace.
    scope: Scope,
    uid_map: Vec<IdMapping>,
    gid_map: Vec<IdMapping>,
    /// Where something is mounted.
    mounts: Vec<PathBuf>,
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

/// A file system that can be mounted only with rights over the namespace that it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Sysfs,
    Proc,
}

impl Bound {
    fn fs_type(self) -> &'static str {
        match self {
            Self::Sysfs => "sysfs",
            Self::Proc => "proc",
        }
    }

    fn is(self, mount: &Mount) -> bool {
        mount.fs_type == self.fs_type()
    }

    /// Where the engine has it.
    fn source(self) -> &'static str {
        match self {
            Self::Sysfs => "/sys",
            Self::Proc => "/proc",
        }
    }

    /// How it is mounted. The older `ro` too, for a runtime that does not know the recursive one.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Sysfs => &["rbind", "rprivate", "nosuid", "noexec", "nodev", "ro", "rro"],
            Self::Proc => &["rbind", "rprivate", "nosuid", "noexec", "nodev"],
        }
    }
}

/// What is to be changed in a config.json.
#[derive(Debug, PartialEq, Eq)]
struct Rewrite {
    uid_map: Vec<IdMapping>,
    gid_map: Vec<IdMapping>,
    /// What cannot be mounted there, and becomes a bind of the engine's.
    bound: Vec<Bound>,
    /// Whether the message queues are left out: they can be neither mounted nor bound.
    drops_mqueue: bool,
    /// What the binds would show beyond those file systems.
    masked: Vec<PathBuf>,
    /// Devices that become binds, and of what.
    devices: BTreeMap<PathBuf, PathBuf>,
    /// Left to `create-runtime`.
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
    let text = oci::read_config(std::io::stdin().lock())?;
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
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("write config.json to standard output")?;
    Ok(warnings)
}

/// Decides what is to become of the config.json `text`.
fn filter(text: &str, asking: &Asking) -> Result<Outcome> {
    let mut evidence = Evidence {
        devices: Vec::new(),
        label: None,
        detected: asking.detect(),
        toolbx: asking.command.as_ref().and_then(toolbx::architecture),
        annotations: asking.annotations.clone().unwrap_or_default(),
    };
    let host = LazyHost::default();
    if evidence.may_have_label() {
        evidence.label = host.get().ok().and_then(|host| asking.label(host));
    }
    let Some(need) = evidence.need() else { return Ok(Outcome::NotAsked) };
    match (need, rewritten(text, &evidence, need, &host)) {
        (Need::Asked, outcome) => outcome,
        // The container can do without: create-runtime says what is to be said.
        (_, outcome) => Ok(outcome.unwrap_or_else(|why| Outcome::Left(message::line(&why)))),
    }
}

/// Gives the container a user namespace, if it is to have one.
fn rewritten(text: &str, evidence: &Evidence, need: Need, host: &LazyHost) -> Result<Outcome> {
    let host = host.get()?;
    let policy = Policy::load(host)?;
    let Request::Emulate(wish) = request::decide(evidence, &policy, Arch::is_native)? else {
        return Ok(Outcome::NotAsked);
    };
    let scope = Scope::without_user_namespace(host.caller);
    let wanted = match (wish.userns, policy.userns) {
        (Some(UsernsWish::Private), _) | (None, Userns::Private) => true,
        (None, Userns::Rootful) => scope == Scope::Host,
        (Some(UsernsWish::Engine), _) | (None, Userns::Engine) => false,
    };
    if !wanted {
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
    let rewrite = Engine::current(scope, &config).and_then(|engine| plan(&config, &engine));
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

    /// Fails where a file system that becomes a bind has options that only a mount of its own can
    /// have.
    fn ensure_bind_can_have_options(&self, bound: Bound) -> Result<()> {
        let options = self.mounts.iter().filter(|mount| bound.is(mount)).flat_map(|m| &m.options);
        match options.into_iter().find(|option| option.contains('=')) {
            None => Ok(()),
            Some(option) => bail!(
                "its {} with the option {} cannot be mounted in a user namespace that does not own \
                 what it shows; leave out the option, or use --userns=auto",
                bound.source(),
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

impl IdMapping {
    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: u32, b: u32| {
            let (a, b) = (u64::from(a), u64::from(b));
            a < b + u64::from(other.size) && b < a + u64::from(self.size)
        };
        meet(self.container, other.container) || meet(self.host, other.host)
    }

    /// The identity over the ids that a `uid_map` or `gid_map` has; line by line, since the kernel
    /// takes no mapping that spans two of its parent's.
    ///
    /// Without the very last id, which nobody uses: by the whole range, runtimes and systemd in the
    /// container would take its namespace for the initial one, and try what they may not.
    fn identity(map: &str) -> Result<Vec<Self>> {
        let line = |line: &str| {
            let mut fields = line.split_ascii_whitespace().map(str::parse);
            let (Some(Ok(id)), Some(Ok(size))) = (fields.next(), fields.nth(1)) else {
                bail!("cannot understand the id mapping {line:?}");
            };
            Ok(Self { container: id, host: id, size: u32::min(size, u32::MAX - 1) })
        };
        map.lines().map(line).collect()
    }
}

impl std::fmt::Display for IdMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.container, self.host, self.size)
    }
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
            mounts: mounts::mount_points(&mounts::own()?),
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
    if pid.is_none() {
        config.ensure_bind_can_have_options(Bound::Proc)?;
    }
    let network = config.network();
    let own_ipc = config.namespace("ipc").is_some_and(|ns| ns.path.is_none());
    let mut bound = Vec::new();
    if network != Network::RuntimeMade {
        bound.push(Bound::Sysfs);
    }
    if pid.is_none() {
        bound.push(Bound::Proc);
    }
    Ok(Rewrite {
        uid_map: engine.uid_map.clone(),
        gid_map: engine.gid_map.clone(),
        masked: masked(config, engine, &bound),
        bound,
        devices: engine.devices.clone(),
        drops_mqueue: !own_ipc,
        orders: Orders {
            owns_host_files: true,
            enters_network: matches!(network, Network::EngineMade | Network::Joined),
            sysctls: sysctls(config, network),
            devices: Vec::new(),
        },
        warnings: warnings(config, engine, network),
    })
}

/// What is mounted below the engine's /sys and /proc, and would come along: it is not in the file
/// systems that the container was to get, and with the identity mapping its root is root there.
///
/// Not where the container has a mount of its own. But always where the machine's binfmt_misc may be
/// mounted at any time: ours, which may be below the mask, works all the same.
fn masked(config: &Config, engine: &Engine, bound: &[Bound]) -> Vec<PathBuf> {
    let always = PathBuf::from(BINFMT_MISC);
    // What holds others first.
    let points: BTreeSet<_> = engine.mounts.iter().chain([&always]).collect();
    let mut masked: Vec<PathBuf> = Vec::new();
    let is_bound = |mount| bound.iter().find(|bound| bound.is(mount)).map(|bound| (mount, bound));
    for (mount, bound) in config.mounts.iter().filter_map(is_bound) {
        for point in &points {
            let Ok(below) = point.strip_prefix(bound.source()) else { continue };
            let place = mount.destination.join(below);
            let covered = |other: &Mount| {
                other.destination != mount.destination
                    && place.starts_with(&other.destination)
                    && other.destination.starts_with(&mount.destination)
            };
            if below.as_os_str().is_empty()
                || config.mounts.iter().any(covered)
                || masked.iter().any(|masked| place.starts_with(masked))
            {
                continue;
            }
            masked.push(place);
        }
    }
    masked
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
    if !rewrite.masked.is_empty() {
        let mut masked = linux.list("maskedPaths")?;
        for path in &rewrite.masked {
            masked.push(to_raw_value(path)?);
        }
        linux.set("maskedPaths", &masked)?;
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
        rewritten.push(match rewrite.bound.iter().find(|bound| bound.is(&mount)) {
            None => text.clone(),
            Some(bound) => bind(bound.source().as_ref(), &mount.destination, bound.options())?,
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
            if is_ours(&args) {
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

/// Whether a hook's arguments are those of ours, possibly started by another program.
fn is_ours(args: &[String]) -> bool {
    args.windows(2).any(|pair| {
        Path::new(&pair[0]).file_name().is_some_and(|name| name == "toolbx-arch-hook")
            && ["create-runtime", "prestart"].contains(&&*pair[1])
    })
}

#[cfg(test)]
mod tests;
