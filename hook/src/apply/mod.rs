//! Makes a [`Plan`](crate::plan::Plan) true: a child process enters the container's namespaces, mounts the
//! binfmt_misc of its user namespace, and registers the handlers. The only folder that changes kernel state.
//!
//! The hook itself stays outside: what it tells the log is told with the caller's own credentials, and a
//! container in which something hangs keeps nobody waiting for ever.

pub mod detached;
mod enter;
mod files;
pub mod guard;
pub mod register;
pub mod room;
pub mod sysctls;
pub mod wrap;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

use crate::apply::register::ensure_free;
use crate::apply::room::{Pins, Room};
use crate::arch::binfmt::{Entry, serving};
use crate::arch::interpreter::{Interpreter, VISIBLE_DIR, visible_path};
use crate::asked::evidence::Need;
use crate::base::child;
use crate::base::kernel;
use crate::base::message::{self, Call};
use crate::container::keep::Keep;
use crate::container::mounts;
use crate::container::places::{Container, EmulatorPlace, MountPoint};
use crate::host::emulator::Emulator;
use crate::host::instance::{BINFMT_MISC, Instance};
use crate::host::scope::Scope;
use crate::plan::{Carry, Form, Work};

use self::enter::enter;
use self::files::{make_directories, show};

/// Where the instance goes, in our own directory, if the container's /proc may not get a mount.
const HIDDEN_INSTANCE: &str = "binfmt_misc";
/// How an instance is mounted.
const INSTANCE: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// More than it ever takes, copies of emulators on a slow machine included.
const PATIENCE: Duration = Duration::from_mins(1);
/// More than there is to tell of all handlers that anybody may have registered, in bytes.
const ANSWER_MAX: u64 = 16 * 1024 * 1024;

/// What came of a plan. The reasons are each in a line.
#[derive(Debug, Serialize, Deserialize)]
pub enum Applied {
    /// It was carried out.
    Whole(Carried),
    /// Handlers that are there without it serve the container; with the reason why none is mounted.
    Inherited(String),
    /// Nothing that anybody could see was changed, for this reason.
    Refused(String),
    /// It was begun, and not ended, for this reason: the container is not to be started.
    Failed(String),
}

/// What became of the handlers that the mount would hide.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// In the place of these a handler of ours is registered.
    pub over: Vec<String>,
    /// These are hidden now; with the reason.
    pub lost: Vec<String>,
}

/// Does what `work` says, in a child process, and returns what came of it. Fails where it was not done in
/// time, or nobody knows what was done.
pub fn apply(work: &Work) -> Result<Applied> {
    let answer = child::answer(PATIENCE, ANSWER_MAX, || {
        let applied = inside(work).unwrap_or_else(|why| Applied::Failed(message::line(&why)));
        serde_json::to_vec(&applied).unwrap_or_default()
    });
    let id = &work.container.id;
    let answer = answer?.with_context(|| {
        format!("container {id} could not be served within {} seconds", PATIENCE.as_secs())
    })?;
    serde_json::from_slice(&answer)
        .with_context(|| format!("the process that was to serve container {id} has ended early"))
}

/// Does what `work` says, and stays where it has entered.
///
/// What can be found wrong is found before the instance is made, since that alone hides the handlers
/// of the namespaces above. If it fails after that, the container is not to be started: what it shows
/// is in the container's mount namespace, which the runtime destroys with a container whose hook failed;
/// handlers end with the last mount of their instance, and those in a shared one are what any
/// other container would have registered.
fn inside(work: &Work) -> Result<Applied> {
    let container = &work.container;
    let Inside { place, mut pins } = match go_in(work) {
        Err(why) => return Ok(Applied::Refused(message::line(&why))),
        Ok(inside) => inside,
    };
    // An old kernel, or a filter; but what was visible before is visible still.
    let refused = |why| match &work.visible {
        Some(visible) if work.plan.is_served_by(visible) => Applied::Inherited(message::line(&why)),
        _ => Applied::Refused(message::line(&why)),
    };
    let room = match pins.copy(copies(work)).and_then(|()| Room::new(pins)) {
        Err(why) => return Ok(refused(why)),
        Ok(room) => room,
    };
    let context = match new_instance(container) {
        Err(why) => return Ok(refused(why)),
        Ok(context) => context,
    };
    let instance = Instance::new(mount(&context, container)?)?;
    let there = entries_in_the_way(work, &instance)?;
    if let Err(why) = ensure_free_for(work, &instance, &there) {
        // Whoever did not ask for anything is content with any emulator.
        let is_served =
            work.plan.need != Need::Asked && work.plan.is_served_by(&instance.visible()?);
        return Ok(if is_served {
            Applied::Inherited(message::line(&why))
        } else {
            Applied::Refused(message::line(&why))
        });
    }
    room.enter()?;
    let carried = carry_over(&instance, &there, work)?;
    let registered = work.plan.emulations.iter().try_for_each(|e| instance.register(&e.handler));
    let attached = registered.and_then(|()| {
        if let Some(namespace) = &room.left {
            mounts::enter_again(namespace, "container")?;
        }
        attach(&instance, container, &place)
    });
    // Even if that failed: the instance hides the others' handlers.
    let kept = match &work.keep {
        Some(keep) if !carried.over.is_empty() => keep_alive(keep, &instance, container),
        _ => Ok(()),
    };
    attached.and(kept).map(|()| Applied::Whole(carried))
}

/// What is at hand inside a container.
struct Inside {
    /// Where the instance is to be mounted.
    place: OwnedFd,
    /// What the handlers are to hold.
    pins: Pins,
}

/// Enters the container, and shows it the emulators.
fn go_in(work: &Work) -> Result<Inside> {
    let container = &work.container;
    let shown = clones(work)?;
    let mut pins = Pins::none()?;
    files(work).try_for_each(|(name, file)| pins.hold(name, file))?;
    enter(container)?;
    if let EmulatorPlace::Dev(dev) = &container.emulator_place {
        show(dev, Path::new("/dev"), &shown)?;
    }
    let place = match &container.mount_point {
        MountPoint::Proc(place) => place.try_clone().call(|| "dup binfmt_misc".into())?,
        MountPoint::Dev(dev) => {
            let path = Path::new(VISIBLE_DIR).join(HIDDEN_INSTANCE);
            make_directories(dev, path.strip_prefix("/dev")?)?
        }
    };
    Ok(Inside { place, pins })
}

/// For each emulator, by the path where it is to be seen: a clone of its mount. Made on the host's side,
/// from the descriptor that was checked.
fn clones(work: &Work) -> Result<BTreeMap<PathBuf, OwnedFd>> {
    shown(work)
        .map(|(path, emulator)| {
            let clone = detached::inert_clone_of(&emulator.file)
                .call(|| format!("clone {}", path.display()))?;
            Ok((path, clone))
        })
        .collect()
}

/// The emulators that are to be seen in the container, by their paths there.
fn shown(work: &Work) -> impl Iterator<Item = (PathBuf, &Emulator)> {
    let shown = work.plan.emulations.iter().filter(|emulation| emulation.not_shown.is_none());
    shown.map(|emulation| (visible_path(&emulation.emulator.path), &emulation.emulator))
}

/// The files that handlers are to hold, by what is registered: ours come last.
fn files(work: &Work) -> impl Iterator<Item = (&Interpreter, &File)> {
    let carried = work.carries.iter().map(|carry| &carry.emulation);
    let all = carried.chain(&work.plan.emulations);
    all.filter_map(|emulation| Some((&emulation.handler.interpreter, emulation.held()?)))
}

/// The emulators of which handlers are to hold copies, by what is registered.
fn copies(work: &Work) -> impl Iterator<Item = (&Interpreter, &Emulator)> {
    let copied = work.plan.emulations.iter().filter(|ours| matches!(ours.launch.form, Form::Copy));
    copied.map(|ours| (&ours.handler.interpreter, &ours.emulator))
}

/// Makes the binfmt_misc of the user namespace that the process is in, if it has none yet, ready to
/// be mounted. From then on it is the one that counts, mounted or not.
fn new_instance(container: &Container) -> Result<OwnedFd> {
    detached::file_system("binfmt_misc").with_context(|| format!("container {}", container.id))
}

/// A mount of it, attached nowhere yet. Every one in a user namespace shows the same instance.
fn mount(instance: &OwnedFd, container: &Container) -> Result<OwnedFd> {
    detached::mount(instance, INSTANCE)
        .call(|| format!("fsmount binfmt_misc for container {}", container.id))
}

/// Attaches the instance in the container, where its handlers live as long as that mount.
///
/// Read-only: the container's root would otherwise need no capability to write it.
fn attach(instance: &Instance, container: &Container, place: &OwnedFd) -> Result<()> {
    let call = |call: &str| format!("{call} binfmt_misc in container {}", container.id);
    // As it looks without a mount, to be laid on top of ours, which lives all the same.
    let untouched = if container.mounts_itself {
        Some(detached::inert_clone_of(place).call(|| call("clone"))?)
    } else {
        None
    };
    // After registering: EBUSY while `register` is open for writing.
    kernel::make_read_only(instance).call(|| call("mount_setattr"))?;
    detached::attach(instance, place).call(|| call("mount"))?;
    untouched.map_or(Ok(()), |untouched| detached::attach(untouched, place).call(|| call("cover")))
}

/// What is in the instance already. Nothing, where nobody cares: in a namespace that is the container's
/// alone, with nothing to be carried over.
fn entries_in_the_way(work: &Work, instance: &Instance) -> Result<Vec<Entry>> {
    if work.container.setting.scope != Scope::Shared && work.carries.is_empty() {
        return Ok(Vec::new());
    }
    instance.entries()
}

/// Fails, before anything is added, where what is `there` in the instance already is in our way.
fn ensure_free_for(work: &Work, instance: &Instance, there: &[Entry]) -> Result<()> {
    if work.container.setting.scope != Scope::Shared {
        return Ok(());
    }
    instance.ensure_on()?;
    work.plan.emulations.iter().try_for_each(|emulation| ensure_free(there, &emulation.handler))
}

/// Registers what takes the place of what is hidden from now on.
///
/// Not where the instance is the visible one, and never in front of what is `there` for the same
/// programs.
fn carry_over(instance: &Instance, there: &[Entry], work: &Work) -> Result<Carried> {
    let device = instance.device()?;
    if work.visible.as_ref().is_some_and(|visible| visible.device == device) {
        return Ok(Carried::default());
    }
    let mut carried = Carried { lost: work.lost.clone(), ..Carried::default() };
    for Carry { emulation, hidden } in &work.carries {
        if serving(there, emulation.handler.arch).is_some() {
            continue;
        }
        match instance.register(&emulation.handler) {
            Ok(()) => carried.over.push(hidden.clone()),
            Err(why) => carried.lost.push(format!("{hidden}: {why:#}")),
        }
    }
    Ok(carried)
}

/// Keeps the instance, with what was carried over, in the engine's own mount namespace: what
/// relies on those handlers must not lose them when this container ends.
fn keep_alive(keep: &Keep, instance: &Instance, container: &Container) -> Result<()> {
    let mount = mount(&new_instance(container)?, container)?;
    kernel::make_read_only(&mount).call(|| "mount_setattr binfmt_misc".into())?;
    let device = instance.device()?;
    mounts::enter_again(&keep.mount_namespace, "engine")?;
    // A container that started at the same time may have been faster; mounts would pile up.
    let there = Instance::mounted_at(Path::new(BINFMT_MISC));
    if there.is_some_and(|there| there.device().is_ok_and(|there| there == device)) {
        return Ok(());
    }
    detached::attach(&mount, &keep.place).call(|| "keep binfmt_misc mounted".into())
}
