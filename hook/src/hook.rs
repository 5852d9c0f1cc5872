//! The hook itself: reads and decides ([`plan`]), then does ([`run`]), and says what it did.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Component, Path};
use std::time::Instant;

use anyhow::{Context, Error, Result, bail, ensure};
use serde_json::{Value, json};

use crate::apply::guard;
use crate::apply::sysctls;
use crate::apply::{self, Applied};
use crate::arch::arguments::Arguments;
use crate::arch::binfmt::{Entry, Handler, handler_name, serving, visible_path};
use crate::arch::{ARCHES, Arch};
use crate::asked::detect::{self, Detected};
use crate::asked::hook_arguments::Orders;
use crate::asked::labels;
use crate::asked::oci::{self, Bundle, State};
use crate::asked::request::{self, Evidence, Need, Request, Told, UsernsWish, Wish};
use crate::asked::toolbx;
use crate::base::message;
use crate::container::keep::Keep;
use crate::container::places::{self, Container, EmulatorPlace, Place};
use crate::container::process::Process;
use crate::host::emulator::{self, Emulator};
use crate::host::instance::{BINFMT_MISC, Visible};
use crate::host::launcher;
use crate::host::policy::{Credentials, Launcher, Policy};
use crate::host::prepared::Prepared;
use crate::host::scope::Scope;
use crate::host::trust::{Host, LazyHost};
use crate::log::{Log, Severity};

/// How many emulators are copied for one container at most: each takes 10 to 17 MB, which are not
/// counted as the container's.
const COPIES_MAX: usize = 4;

/// Why most handlers are lost.
const SERVES_NOTHING: &str = "no target has its programs run by it";
/// How many handlers that are lost are named at most: anybody may have registered thousands.
const LOST_MAX: usize = 100;

/// What is to be done to a container. Made by [`plan`], which changes nothing.
#[derive(Debug)]
pub struct Plan {
    /// Who wants it.
    pub need: Need,
    /// Whether the container may be started without us, where this fails.
    pub can_do_without: bool,
    /// What is wanted, and why.
    pub wish: Wish,
    /// The container.
    pub container: Container,
    /// What is to be registered; at least one.
    pub emulations: Vec<Emulation>,
    /// What the container has without us.
    pub visible: Option<Visible>,
    /// Of that, what is to be registered again, since the mount would hide it.
    pub carries: Vec<Carry>,
    /// Of that, what cannot be; with the reason.
    pub lost: Vec<String>,
    /// Where to keep the instance, so that what was registered again outlives this container.
    pub keep: Option<Keep>,
}

impl Plan {
    /// Whether these handlers would do, without ours. Not where the policy names the very emulator.
    #[must_use]
    pub fn is_served_by(&self, visible: &Visible) -> bool {
        self.emulations.iter().map(|emulation| &emulation.handler).all(|handler| {
            !handler.pinned && !handler.arguments_asked && visible.serves(handler.arch)
        })
    }
}

/// A handler to be registered again, the emulator that it is to hold already open.
#[derive(Debug)]
pub struct Carry {
    /// What is to be registered.
    pub entry: Entry,
    /// What it holds.
    pub program: Program,
}

/// What a handler holds.
#[derive(Debug)]
pub enum Program {
    /// This file of the host.
    File(File),
    /// A copy of this emulator with the launcher in it, which is to be made.
    Copy(Emulator),
}

/// Which form of its emulator a handler holds.
#[derive(Debug)]
pub enum Form {
    /// The emulator's file itself.
    Plain,
    /// With the launcher in it, prepared.
    Prepared(File),
    /// With the launcher in it, made for this container.
    Copy,
}

impl Form {
    /// As the log and the documentation write it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Plain => "none",
            Self::Prepared(_) => "prepared",
            Self::Copy => "copy",
        }
    }
}

/// One target, the emulator on the host, and the handler in the container.
#[derive(Debug)]
pub struct Emulation {
    /// The checked file on the host.
    pub emulator: Emulator,
    /// What is to be registered.
    pub handler: Handler,
    /// How the emulator is started.
    pub launch: Launch,
    /// Why the emulator's file is not shown in the container, if it is not.
    pub not_shown: Option<&'static str>,
}

/// How an emulator is started.
#[derive(Debug)]
pub struct Launch {
    /// What the handler holds.
    pub form: Form,
    /// What the emulator is told; nothing without the launcher.
    pub arguments: Arguments,
    /// Why there is no prepared copy, where there could be one.
    pub unprepared: Option<String>,
}

/// What was decided for a container.
#[derive(Debug)]
pub enum Decision {
    /// Nothing was asked for.
    NotAsked,
    /// The container says `none`.
    Off,
    /// The host runs the architectures itself.
    Native,
    /// Handlers that are there already serve the container.
    Inherited(Scope),
    /// Nobody asked, and it cannot be had, for this reason.
    Left(String),
    /// This is to be done.
    Emulate(Box<Plan>),
}

/// Runs the hook for the container whose state arrives on standard input, and for which the stage
/// `precreate` has left `orders`.
///
/// Leaves one record in the log, unless the container asked for nothing. Fails where the container
/// asked for something that it cannot have.
pub fn run(orders: &Orders) -> Result<()> {
    let start = Instant::now();
    let mut id = Value::Null;
    let decided = State::read(std::io::stdin().lock()).and_then(|state| {
        id = state.id.as_str().into();
        plan(&state, orders)
    });
    if matches!(decided, Ok(Decision::NotAsked)) {
        return Ok(());
    }
    // The machine's daemon, not one in the container.
    let log = Log::connect();
    let served = decided.and_then(|decision| serve(&decision, orders));
    let (severity, mut record, outcome) = match served {
        Ok(None) => return Ok(()),
        Ok(Some(record)) if record["warning"].is_string() => (Severity::Warning, record, Ok(())),
        Ok(Some(record)) => (Severity::Info, record, Ok(())),
        Err(error) => {
            let record = json!({"decision": "refused", "error": message::line(&error)});
            (Severity::Error, record, Err(error))
        }
    };
    record["container"] = id;
    record["us"] = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX).into();
    log.send(severity, &record.to_string());
    outcome
}

/// Does what was decided. Returns the record for the log, if there is anything to tell.
fn serve(decision: &Decision, orders: &Orders) -> Result<Option<Value>> {
    let Decision::Emulate(plan) = decision else { return Ok(record(decision)) };
    let container = &plan.container;
    let left = |why| Ok(record(&Decision::Left(message::line(&why))));
    // One whose map, another than precreate's, has the machine's root: its nodes are the machine's too.
    if container.has_hosts_root() && !orders.owns_host_files {
        match guard::protect_devices(&container.process, &container.rootfs) {
            Err(why) if plan.can_do_without => return left(why),
            protected => protected?,
        }
    }
    match apply::apply(plan)? {
        Applied::Whole(carried) => {
            let mut record = emulated(plan);
            record["carried"] = message::list(&carried.over);
            record["lost"] = message::list(&carried.lost);
            Ok(Some(record))
        }
        Applied::Inherited(why) => {
            let scope = container.scope.name();
            Ok(Some(json!({"decision": "inherited", "scope": scope, "why": why})))
        }
        // What precreate has begun is to be brought to its end.
        Applied::Refused(why) if plan.can_do_without && *orders == Orders::default() => left(why),
        Applied::Refused(why) => Err(why),
    }
}

/// Does what `precreate` has left to this stage, whatever is decided here: it may have seen another
/// program than the one that a volume puts in its place. And protects the machine from a container that
/// has joined a user namespace which precreate has made for another one.
fn finish_precreate(place: &Place, orders: &Orders) -> Result<()> {
    let Place { process, rootfs, bundle } = place;
    let asked = bundle.config.mounts.as_deref().unwrap_or_default();
    if orders.owns_host_files {
        guard::put_up(process, rootfs, &orders.bound, asked)?;
    } else if process.is_in_identity_namespace()? {
        // One that was asked for with such a map is the engine's to guard, but for the nodes.
        if bundle.config.has_own_user_namespace() {
            guard::protect_devices(process, rootfs)?;
        } else {
            guard::protect_from_joined(process, rootfs, asked)?;
        }
    }
    if !orders.sysctls.is_empty() {
        sysctls::set_sysctls(process, &orders.sysctls)?;
    }
    Ok(())
}

/// Whether the container must not be started unless it was looked at.
fn needs_guards(state: &State, orders: &Orders) -> bool {
    // What has no mounts of its own, or no process any more, can show nothing.
    let is_in_identity_namespace = || {
        Process::open(state).is_ok_and(|process| process.is_in_identity_namespace().unwrap_or(true))
    };
    orders.owns_host_files || !orders.sysctls.is_empty() || is_in_identity_namespace()
}

/// Decides what is to be done for the container of `state`. Changes nothing but what `precreate` has left
/// to this stage.
///
/// Fails where the container cannot have what it asks for, or what its first program needs, and where
/// what precreate has begun cannot be brought to its end. Whoever asks for nothing is not stopped by
/// anything else.
pub fn plan(state: &State, orders: &Orders) -> Result<Decision> {
    let (annotations, place) = match annotations(state) {
        Ok((annotations, bundle)) => (annotations, find(state, bundle)),
        Err(why) => (BTreeMap::new(), Err(why)),
    };
    let place = match place {
        Err(why) if needs_guards(state, orders) => return Err(why),
        place => place,
    };
    if let Ok(place) = &place {
        finish_precreate(place, orders)?;
    }
    let host = LazyHost::default();
    let evidence = evidence(annotations, place.as_ref().ok(), orders, &host);
    plan_on(&evidence, place, state, orders, &host)
}

/// What there is to know of the running container of `state`, and what would be decided for it if
/// it were started now. `bundle` says where its rootfs is as its own first process sees it: `/`.
pub fn examine(state: &State, bundle: Bundle, orders: &Orders) -> (Evidence, Result<Decision>) {
    let annotations = bundle.config.annotations.clone().unwrap_or_default();
    let place = find(state, Some(bundle));
    let host = LazyHost::default();
    let evidence = evidence(annotations, place.as_ref().ok(), orders, &host);
    let decision = plan_on(&evidence, place, state, orders, &host);
    (evidence, decision)
}

/// Decides by the `evidence`.
fn plan_on(
    evidence: &Evidence,
    place: Result<Place>,
    state: &State,
    orders: &Orders,
    host: &LazyHost,
) -> Result<Decision> {
    if evidence.says_none() {
        return Ok(Decision::Off);
    }
    let Some(need) = evidence.need() else { return Ok(Decision::NotAsked) };
    plan_by(need, evidence, place, state, orders, host)
        .or_else(|why| left(need, evidence.detected.as_ref(), why).map(Decision::Left))
}

/// What becomes of a container that cannot have what it needs, for this reason: it is left as it is,
/// if it may do without. Fails otherwise.
pub fn left(need: Need, detected: Option<&Detected>, why: Error) -> Result<String> {
    let may_run = |arch: &Arch| may_run_by(Visible::of_the_engine().as_ref(), arch);
    match detected {
        None if need == Need::OtherPrograms => Ok(message::line(&why)),
        Some(Detected { arch, .. }) if can_do_without(need, arch, || may_run(arch)) => {
            Ok(message::line(&why))
        }
        Some(Detected { arch, program, .. }) if need == Need::FirstProgram => {
            Err(why.context(format!(
                "{} is a program for {}, which this machine does not run by itself",
                message::path(program),
                arch.name
            )))
        }
        _ => Err(why),
    }
}

/// Decides by the `evidence` and the policy.
fn plan_by(
    need: Need,
    evidence: &Evidence,
    place: Result<Place>,
    state: &State,
    orders: &Orders,
    host: &LazyHost,
) -> Result<Decision> {
    let host = host.get()?;
    let policy = Policy::load(host)?;
    match request::decide(evidence, &policy, Arch::is_native)? {
        Request::Nothing => Ok(Decision::NotAsked),
        Request::Off => Ok(Decision::Off),
        Request::Native => Ok(Decision::Native),
        Request::Emulate(wish) => {
            plan_for(wish, place?, state, &Rules { policy: &policy, host, orders, need })
        }
    }
}

/// What holds for any container.
struct Rules<'a> {
    policy: &'a Policy,
    host: &'a Host,
    orders: &'a Orders,
    need: Need,
}

/// Finds the container of `state`, and its bundle, if that is not known yet.
fn find(state: &State, bundle: Option<Bundle>) -> Result<Place> {
    let bundle = bundle.map_or_else(|| find_bundle(state), Ok)?;
    let process = Process::open(state)?;
    let rootfs = places::open_rootfs(&process, state, &bundle)?;
    Ok(Place { bundle, process, rootfs })
}

fn detected_at(place: &Place) -> Option<Detected> {
    let command = place.bundle.config.command.as_ref()?;
    detect::detect(place.rootfs.as_fd(), command)
}

/// What there is to know of a container, as far as its `place` was found.
fn evidence(
    annotations: BTreeMap<String, String>,
    place: Option<&Place>,
    orders: &Orders,
    host: &LazyHost,
) -> Evidence {
    let command = place.and_then(|place| place.bundle.config.command.as_ref());
    let mut evidence = Evidence {
        annotations,
        devices: orders.devices.clone(),
        label: None,
        toolbx: command.and_then(toolbx::architecture),
        detected: place.and_then(detected_at),
    };
    if evidence.may_have_label() {
        evidence.label = place
            .zip(host.get().ok())
            .and_then(|(place, host)| labels::find(&place.bundle.path, host));
    }
    evidence
}

/// Decides how `wish` is met.
fn plan_for(wish: Wish, place: Place, state: &State, rules: &Rules) -> Result<Decision> {
    let Rules { policy, host, orders, need } = *rules;
    let theirs = place.process.user_namespace()?;
    let made_for_it = place.bundle.config.has_own_user_namespace();
    let scope = Scope::of(theirs, host.user_namespace, made_for_it);
    ensure_in_scope(&wish, scope)?;
    if wish.userns != Some(UsernsWish::Private) {
        ensure_can_exec(state, orders)?;
    }
    let engines = Visible::of_the_engine();
    if scope == Scope::Host {
        return inherit(engines.transpose()?.as_ref(), &wish.targets);
    }
    // What cannot be read cannot be relied on, but the container can do without it.
    let visible = engines.as_ref().and_then(|visible| visible.as_ref().ok());
    // A container that shares our handlers takes what is there, if it may.
    let shares_ours = scope == Scope::Shared && theirs == host.user_namespace;
    let missing = missing(&wish, visible.filter(|_| shares_ours), policy);
    if missing.is_empty() {
        return Ok(Decision::Inherited(scope));
    }
    let container = Container::open(place, scope, state, orders, policy, host)?;
    let emulations = emulations(&missing, &wish, &container, rules)?;
    if emulations.is_empty() {
        return Ok(Decision::Inherited(scope));
    }
    let arch = emulations[0].handler.arch;
    let can_do_without = can_do_without(need, arch, || may_run_by(engines.as_ref(), arch));
    let (carries, mut lost) = carries(visible, &emulations, rules);
    let visible = engines.transpose().unwrap_or_else(|error| {
        lost.push(format!("the handlers of the engine: {error:#}"));
        None
    });
    let keep = shares_ours.then(|| Keep::at(Path::new(BINFMT_MISC))).flatten();
    Ok(Decision::Emulate(Box::new(Plan {
        need,
        can_do_without,
        wish,
        container,
        emulations,
        visible,
        carries,
        lost,
        keep,
    })))
}

/// Those of the wanted targets that the handlers which are there do not serve, or not as it is asked.
#[must_use]
pub fn missing(wish: &Wish, visible: Option<&Visible>, policy: &Policy) -> Vec<&'static Arch> {
    let is_served = |arch: &Arch| {
        policy.emulator_sha256.get(arch.name).is_none()
            && !wish.told(arch).asked
            && visible.is_some_and(|visible| visible.serves(arch))
    };
    wish.targets.iter().copied().filter(|arch| !is_served(arch)).collect()
}

/// Fails where a container in `scope` cannot have what annotations ask for.
pub fn ensure_in_scope(wish: &Wish, scope: Scope) -> Result<()> {
    let asked = wish.targets.iter().find(|arch| wish.told(arch).asked);
    if let (Scope::Host, Some(arch)) = (scope, asked) {
        bail!(
            "annotations toolbx.arch.*: the container has no user namespace of its own, so what the \
             emulator of {} is told is not for it to say; run it with --userns=auto, or as an \
             ordinary user, or see PLAIN SUDO PODMAN RUN in toolbx-arch-hook(8)",
            arch.name
        );
    }
    ensure!(
        scope == Scope::Private || wish.userns != Some(UsernsWish::Private),
        "annotation toolbx.arch.userns=private: the container has no user namespace of its own; \
         let Podman give it one, see PLAIN SUDO PODMAN RUN in toolbx-arch-hook(8), or run it with \
         --userns=auto or --userns=keep-id"
    );
    Ok(())
}

/// Whether the container may do its work without us: nobody asked, and its programs of `arch` do not
/// matter much, or may run in a way that we cannot judge: by the kernel itself, or `otherwise`.
fn can_do_without(need: Need, arch: &Arch, otherwise: impl FnOnce() -> bool) -> bool {
    match need {
        Need::Asked => false,
        Need::OtherPrograms => true,
        Need::FirstProgram => arch.may_be_native() || otherwise(),
    }
}

/// Whether these handlers may run programs of `arch` in a container: without flag F they do, if the image
/// brings the emulator.
fn may_run_by(handlers: Option<&Result<Visible>>, arch: &Arch) -> bool {
    match handlers {
        None => false,
        Some(Err(_)) => true,
        Some(Ok(visible)) => visible.obscure.is_some() || serving(&visible.entries, arch).is_some(),
    }
}

/// The container's annotations, and its bundle, if that had to be looked for: some runtimes leave
/// annotations out of the state.
fn annotations(state: &State) -> Result<(BTreeMap<String, String>, Option<Bundle>)> {
    if let Some(annotations) = &state.annotations {
        return Ok((annotations.clone(), None));
    }
    let bundle = find_bundle(state)?;
    Ok((bundle.config.annotations.clone().unwrap_or_default(), Some(bundle)))
}

fn find_bundle(state: &State) -> Result<Bundle> {
    Bundle::find(state, runtime_command)
}

/// The command line of the runtime, our parent; NUL after each argument.
fn runtime_command() -> Vec<u8> {
    let path = format!("/proc/{}/cmdline", std::os::unix::process::parent_id());
    std::fs::read(path).unwrap_or_default()
}

/// Fails where nothing could ever be executed in the container after its start: runc before 1.3
/// enters the user namespace before a network namespace from outside of it.
fn ensure_can_exec(state: &State, orders: &Orders) -> Result<()> {
    ensure!(
        !orders.enters_network
            || oci::can_exec_into_foreign_network(&runtime_command(), &state.oci_version),
        "runc before 1.3 cannot exec (nor run health checks) in a container whose user namespace \
         is younger than its network; use crun, runc 1.3, --userns=auto or --network=none, or do \
         without exec: --annotation toolbx.arch.userns=private"
    );
    Ok(())
}

/// The emulators and handlers for `targets`; if those are all that there are, without those that have
/// no emulator.
fn emulations(
    targets: &[&'static Arch],
    wish: &Wish,
    container: &Container,
    rules: &Rules,
) -> Result<Vec<Emulation>> {
    let (mut emulations, mut missing) = (Vec::new(), None);
    let mut copies = COPIES_MAX;
    for arch in targets {
        match emulator::find(arch, rules.policy, rules.host) {
            Err(why) if wish.as_found => missing = missing.or(Some(why)),
            emulator => {
                let may_copy = copies > 0;
                let emulation = emulation(arch, emulator?, wish, may_copy, container, rules)?;
                copies -= usize::from(matches!(emulation.launch.form, Form::Copy));
                emulations.push(emulation);
            }
        }
    }
    match missing {
        Some(why) if emulations.is_empty() => Err(why),
        _ => Ok(emulations),
    }
}

fn emulation(
    arch: &'static Arch,
    emulator: Emulator,
    wish: &Wish,
    may_copy: bool,
    container: &Container,
    rules: &Rules,
) -> Result<Emulation> {
    let not_shown = match container.emulator_place {
        EmulatorPlace::Dev(_) if container.maps_owner_of(&emulator) => {
            Some("its owner is somebody in the container, who could change it")
        }
        EmulatorPlace::Dev(_) => None,
        EmulatorPlace::Nowhere(why) => Some(why),
    };
    let credentials = container.scope == Scope::Private
        && rules.policy.credentials != Credentials::Never
        && !container.has_hosts_root();
    let needs = Needs { credentials, may_copy };
    Emulation::new(arch, emulator, wish, needs, not_shown, (rules.policy, rules.host))
}

impl Emulation {
    /// How programs of `arch` are run by `emulator`, as `wish` wants it.
    ///
    /// Fails where an annotation asks for arguments that it cannot have.
    pub fn new(
        arch: &'static Arch,
        emulator: Emulator,
        wish: &Wish,
        needs: Needs,
        not_shown: Option<&'static str>,
        (policy, host): (&Policy, &Host),
    ) -> Result<Self> {
        let launch = launch(&emulator, arch, wish, needs, policy, host)?;
        let is_plain = matches!(launch.form, Form::Plain);
        let name = emulator.path.file_name().unwrap_or_default().to_string_lossy();
        let interpreter = match not_shown {
            _ if !is_plain => launch.arguments.interpreter(&name)?.into(),
            None => visible_path(&emulator.path),
            Some(_) => emulator.path.clone(),
        };
        // A plain QEMU can be told to write files where a set-user-ID program runs as the container's
        // root.
        let is_safe = !is_plain || policy.credentials == Credentials::Private;
        let handler = Handler {
            arch,
            interpreter,
            emulator: emulator.path.clone(),
            credentials: needs.credentials && is_safe,
            pinned: policy.emulator_sha256.get(arch.name).is_some(),
            arguments_asked: wish.told(arch).asked,
        };
        Ok(Self { emulator, handler, launch, not_shown })
    }

    /// The file that the handler is to hold. `None` where that is a copy yet to be made.
    #[must_use]
    pub fn held(&self) -> Option<&File> {
        match &self.launch.form {
            Form::Plain => Some(&self.emulator.file),
            Form::Prepared(file) => Some(file),
            Form::Copy => None,
        }
    }
}

/// Why an emulator may need the launcher, and at what price.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// It is to have flag C, if that is safe.
    pub credentials: bool,
    /// A copy may be made for this container.
    pub may_copy: bool,
}

/// How `emulator` is to be started for programs of `arch`: with the launcher, where that can be and
/// makes a difference, for arguments or for flag C.
///
/// Fails where an annotation asks for arguments that it cannot have.
pub fn launch(
    emulator: &Emulator,
    arch: &Arch,
    wish: &Wish,
    needs: Needs,
    policy: &Policy,
    host: &Host,
) -> Result<Launch> {
    let Told { arguments, asked } = wish.told(arch);
    // Nobody needs every emulator that there is so much that all are copied.
    let matters = asked || !wish.as_found && (needs.credentials || !arguments.is_empty());
    let (form, unprepared) = form(emulator, matters && needs.may_copy, policy, host);
    if !matches!(form, Form::Plain) {
        return Ok(Launch { form, arguments, unprepared });
    }
    ensure!(
        !asked || arguments.is_empty(),
        "the emulator {} can be told nothing without the launcher ({}); prepare it, remove the \
         annotations toolbx.arch.*, or set the policy's launcher to copy",
        emulator.path.display(),
        unprepared.as_deref().unwrap_or("the policy says never")
    );
    Ok(Launch { form, arguments: Arguments::default(), unprepared })
}

/// In which form `emulator` is to be used, and why it is not prepared, if it is not. Copied only if it
/// `may_be_copied` and the policy agrees.
fn form(
    emulator: &Emulator,
    may_be_copied: bool,
    policy: &Policy,
    host: &Host,
) -> (Form, Option<String>) {
    if policy.launcher == Launcher::Never {
        return (Form::Plain, None);
    }
    if !launcher::is_available() {
        return (Form::Plain, Some("there is no launcher for this machine's processor".into()));
    }
    let why = match Prepared::of(emulator, host) {
        Prepared::Fresh(file) => return (Form::Prepared(file), None),
        Prepared::Stale(why) => why,
        Prepared::Missing => "there is no prepared copy".into(),
    };
    let may_be_copied = may_be_copied && policy.launcher == Launcher::Copy;
    let form = if may_be_copied { Form::Copy } else { Form::Plain };
    (form, Some(format!("{why}; run: sudo toolbx-arch prepare")))
}

/// What of the visible handlers is to be registered again, and what cannot be: for each target that ours
/// are not for, the one that serves it.
///
/// Left out without a word: what is switched off, and what our own handlers are for.
fn carries(
    visible: Option<&Visible>,
    emulations: &[Emulation],
    rules: &Rules,
) -> (Vec<Carry>, Vec<String>) {
    let entries = visible.map(|visible| &*visible.entries).unwrap_or_default();
    let is_ours = |entry: &Entry| emulations.iter().any(|ours| entry.serves(ours.handler.arch));
    let served = ARCHES.iter().filter(|arch| !arch.is_native());
    let served: Vec<_> = served.filter_map(|arch| Some((arch, serving(entries, arch)?))).collect();
    let (mut carries, mut lost) = (Vec::new(), Vec::new());
    let ours = emulations.iter().filter(|ours| matches!(ours.launch.form, Form::Copy)).count();
    let mut copies = COPIES_MAX.saturating_sub(ours);
    for entry in entries.iter().filter(|entry| entry.enabled && !is_ours(entry)) {
        let targets = served.iter().filter(|(_, serving)| std::ptr::eq(*serving, entry));
        let target = targets.map(|(arch, _)| *arch).max_by_key(|arch| entry.is_for(arch));
        let opened =
            target.context(SERVES_NOTHING).and_then(|arch| carry(entry, arch, copies > 0, rules));
        match opened {
            Ok(carry) => {
                copies -= usize::from(matches!(carry.program, Program::Copy(_)));
                carries.push(carry);
            }
            Err(error) if lost.len() < LOST_MAX => {
                lost.push(format!("{}: {error:#}", entry.name.display()));
            }
            Err(_) => {}
        }
    }
    (carries, lost)
}

/// Opens what `entry`, which serves `arch`, is to hold, as strictly as any emulator. Anybody in a shared
/// namespace may have registered it.
fn carry(entry: &Entry, arch: &Arch, may_copy: bool, rules: &Rules) -> Result<Carry> {
    ensure!(entry.is_for(arch), "it may be for more than programs of {}", arch.name);
    ensure!(
        ARCHES.iter().all(|other| *entry.name != *handler_name(other) || other == arch),
        "it has the name of another target's"
    );
    if let Some(hindrance) = entry.hindrance() {
        bail!("it is {hindrance}, which containers cannot use");
    }
    let program = match entry.launched() {
        Some((name, arguments)) => launched_program(entry, name, &arguments, may_copy, rules)?,
        None => Program::File(program_at(&entry.host_path(), entry, rules)?),
    };
    Ok(Carry { entry: entry.clone(), program })
}

/// The emulator of one of our own handlers with the launcher: it has no path, but its `name`, and says
/// which target it is for. What it is told must be what the policy lets a container have.
fn launched_program(
    entry: &Entry,
    name: &str,
    arguments: &Arguments,
    may_copy: bool,
    rules: &Rules,
) -> Result<Program> {
    let Rules { policy, host, .. } = *rules;
    let arch = ARCHES.iter().find(|arch| entry.is_for(arch)).context("it is for no target")?;
    ensure!(entry.name == *handler_name(arch), "it is not ours");
    let emulator = emulator::find(arch, policy, host)?;
    ensure!(
        emulator.path.file_name() == Some(name.as_ref()),
        "the emulator for {} is {} here",
        arch.name,
        emulator.path.display()
    );
    ensure!(
        arguments
            .differences(&policy.arguments(arch))
            .all(|a| policy.lets_annotations_set(a, arch)),
        "the policy does not let its arguments be set"
    );
    match form(&emulator, may_copy, policy, host) {
        (Form::Prepared(file), _) => Ok(Program::File(file)),
        (Form::Copy, _) => Ok(Program::Copy(emulator)),
        (Form::Plain, _) if arguments.is_empty() => Ok(Program::File(emulator.file)),
        (Form::Plain, why) => bail!("{}", why.unwrap_or_else(|| "it has no launcher".into())),
    }
}

/// The file of the host at `path`, which `entry` names.
fn program_at(path: &Path, entry: &Entry, rules: &Rules) -> Result<File> {
    let plain = |component| matches!(component, Component::RootDir | Component::Normal(_));
    ensure!(
        entry.interpreter.is_absolute() && entry.interpreter.components().all(plain),
        "{} is not a plain absolute path",
        entry.interpreter.display()
    );
    rules.host.open(path, &["usr"])?.with_context(|| format!("no {} here", path.display()))
}

/// Scope host: the machine's instance is never written, so its handlers must do.
///
/// `visible` is what is registered on the host, if anything. Fails, with what to do, where a
/// working handler for one of `targets` is missing.
pub fn inherit(visible: Option<&Visible>, targets: &[&'static Arch]) -> Result<Decision> {
    match visible.map_or(targets.first().copied(), |visible| visible.lacks(targets)) {
        None => Ok(Decision::Inherited(Scope::Host)),
        Some(arch) => bail!(
            "the container has no user namespace of its own, so a handler for {} would be \
             registered for the whole machine; run it with --userns=auto (a build: with \
             --userns-uid-map and --userns-gid-map 0:0:4294967294; Docker: with userns-remap; \
             Kubernetes: with hostUsers: false), or as an ordinary user, or register a handler with flag F on the host, or see PLAIN SUDO PODMAN RUN in \
             toolbx-arch-hook(8)",
            arch.name
        ),
    }
}

/// The log record of a decision; `None` where nothing was asked for.
fn record(decision: &Decision) -> Option<Value> {
    Some(match decision {
        Decision::NotAsked => return None,
        Decision::Off => json!({"decision": "off"}),
        Decision::Native => json!({"decision": "native"}),
        Decision::Left(why) => json!({"decision": "left", "why": why}),
        Decision::Inherited(scope) => json!({"decision": "inherited", "scope": scope.name()}),
        Decision::Emulate(plan) => emulated(plan),
    })
}

fn emulated(plan: &Plan) -> Value {
    json!({
        "decision": "emulated",
        "scope": plan.container.scope.name(),
        "sources": plan.wish.sources.iter().cloned().collect::<BTreeMap<_, _>>(),
        "warning": plan.wish.contradiction,
        "not_shown": plan.emulations.iter().find_map(|emulation| emulation.not_shown),
        "targets": plan.emulations.iter().map(target).collect::<Vec<_>>(),
    })
}

fn target(emulation: &Emulation) -> Value {
    let Emulation { emulator, handler, launch, .. } = emulation;
    json!({
        "target": handler.arch.name,
        "emulator": emulator.path.display().to_string(),
        "interpreter": handler.interpreter.display().to_string(),
        "launcher": launch.form.name(),
        "unprepared": launch.unprepared,
        "arguments": launch.arguments.to_string().trim_start(),
        "flags": handler.flags(),
    })
}
