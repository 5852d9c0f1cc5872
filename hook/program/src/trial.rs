//! A real trial of what the hook does, in a user namespace of its own: mount a binfmt_misc, register
//! an emulator in the form that a container would get, run a program. `doctor` starts this as
//! `toolbx-arch try`, once for each target, which enters such a namespace and ends with it; nothing is
//! left.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};
use toolbx_arch::apply::detached;
use toolbx_arch::apply::room::{Pins, Room};
use toolbx_arch::arch::probe;
use toolbx_arch::arch::{self, ARCHES, Arch};
use toolbx_arch::asked::decide::{self, Request};
use toolbx_arch::asked::evidence::Evidence;
use toolbx_arch::base::kernel;
use toolbx_arch::base::message::{self, Call};
use toolbx_arch::container::mounts;
use toolbx_arch::container::setting::Setting;
use toolbx_arch::host::emulator;
use toolbx_arch::host::instance::Instance;
use toolbx_arch::host::machine::Machine;
use toolbx_arch::host::scope::Scope;
use toolbx_arch::plan::Emulation;

use crate::args::Try;
use crate::{caller, terminal};

/// An emulator that has not run the program by then never will.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who is in the namespace.
const ONLY_ROOT: &str = "0 0 1\n";

/// What came of one trial.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TrialOutcome {
    /// No handler could be had, for this reason: a container would be refused.
    Refused(String),
    /// The emulator was not tried, for this reason, though there may be nothing wrong with it.
    Untried(String),
    /// The program of the target did not run, for this reason.
    Failed(String),
    /// It did.
    Ran,
    /// There was nothing to be run.
    Nothing,
}

/// What came of all.
#[derive(Debug, Default)]
pub struct Trial {
    /// Why a container would be refused, if one would.
    pub refused: Option<String>,
    /// Why an emulator could not be tried, though there may be nothing wrong with any, if so.
    pub untried: Option<String>,
    /// For each target whose emulator was tried: why its program did not run, if so.
    pub targets: BTreeMap<&'static str, Option<String>>,
}

/// Has the trial made by other processes: whoever enters a user namespace cannot leave it.
pub fn have_made() -> Result<Trial> {
    let mut trial = Trial::default();
    if let TrialOutcome::Refused(why) = ask(None)? {
        trial.refused = Some(why);
        return Ok(trial);
    }
    for arch in ARCHES.iter().filter(|arch| !arch.is_native()) {
        match ask(Some(arch))? {
            TrialOutcome::Refused(why) => trial.refused = trial.refused.or(Some(why)),
            TrialOutcome::Untried(why) => trial.untried = Some(why),
            TrialOutcome::Failed(why) => drop(trial.targets.insert(arch.name, Some(why))),
            TrialOutcome::Ran => drop(trial.targets.insert(arch.name, None)),
            TrialOutcome::Nothing => {}
        }
    }
    Ok(trial)
}

fn ask(arch: Option<&Arch>) -> Result<TrialOutcome> {
    let output = Command::new(caller::this_program()?)
        .arg("try")
        .args(arch.map(|arch| arch.name))
        .stderr(Stdio::inherit())
        .output()
        .context("toolbx-arch try")?;
    serde_json::from_slice(&output.stdout).context("what toolbx-arch try prints")
}

pub fn run(arguments: &Try) -> Result<()> {
    let find = |name: &String| arch::find(name).with_context(|| arch::unknown(name));
    let arch = arguments.target.as_ref().map(find).transpose()?;
    let outcome = try_out(arch).unwrap_or_else(|why| TrialOutcome::Refused(message::line(&why)));
    terminal::print_json(&serde_json::to_value(outcome)?);
    Ok(())
}

/// Goes the way of `apply::apply`. Fails where a container would be refused.
fn try_out(arch: Option<&'static Arch>) -> Result<TrialOutcome> {
    // The emulator as the hook sees it; then a namespace as a container has it.
    caller::become_engine()?;
    let machine = Machine::default();
    // What is wrong with a policy or an emulator has a line of its own.
    let emulation = arch.and_then(|arch| emulation(arch, &machine).ok().flatten());
    let mut pins = Pins::none()?;
    if let Some((emulation, file)) = emulation.as_ref().and_then(|e| Some((e, e.held()?))) {
        pins.hold(&emulation.handler.interpreter, file)?;
    }
    caller::enter_user_namespace(ONLY_ROOT, ONLY_ROOT, true)?;
    let copied = emulation.as_ref().filter(|emulation| emulation.held().is_none());
    pins.copy(copied.map(|copied| (&copied.handler.interpreter, &copied.emulator)))?;
    let room = Room::new(pins)?;
    let instance = detached::file_system("binfmt_misc")?;
    let instance = detached::mount(instance, MountAttrFlags::empty())
        .call(|| "fsmount binfmt_misc in a user namespace".into())?;
    let instance = Instance::new(instance)?;
    let Some(Emulation { handler, .. }) = &emulation else { return Ok(TrialOutcome::Nothing) };
    if let Err(why) = may_emulate() {
        return Ok(TrialOutcome::Untried(message::line(&why)));
    }
    within(&room, || instance.register(handler))?;
    Ok(match run_probe(handler.arch) {
        Ok(()) => TrialOutcome::Ran,
        Err(why) => TrialOutcome::Failed(message::line(&why)),
    })
}

/// What a container would get that asks for `arch`. `None` where it would get nothing.
fn emulation(arch: &'static Arch, machine: &Machine) -> Result<Option<Emulation>> {
    let evidence = Evidence { devices: vec![arch], ..Evidence::default() };
    let policy = machine.policy()?;
    let Request::Emulate(wish) = decide::decide(&evidence, policy, Arch::is_native)? else {
        return Ok(None);
    };
    let emulator = emulator::find(arch, policy, machine.host()?)?;
    let setting = Setting {
        scope: Scope::Private,
        caller: machine.host()?.caller,
        maps_our_root: false,
        shows_none: Some("there is no container"),
    };
    Emulation::new(arch, emulator, &wish, &setting, true, machine).map(Some)
}

/// Fails where no emulator could run, whichever it is.
fn may_emulate() -> Result<()> {
    kernel::try_executable_memory().call(|| "mmap".into()).context(
        "this process may have no memory that it both writes and executes, as emulators must (SELinux \
         calls it execmem)",
    )
}

/// Does what is `to_do` in the room, and leaves it.
fn within(room: &Room, to_do: impl FnOnce() -> Result<()>) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let outside = rustix::fs::open("/", flags, Mode::empty()).call(|| "open /".into())?;
    room.enter()?;
    to_do()?;
    if let Some(namespace) = &room.left {
        mounts::enter_again(namespace, "trial")?;
    }
    rustix::process::fchdir(&outside).call(|| "fchdir /".into())?;
    rustix::process::chroot(".").call(|| "chroot /".into())
}

/// Runs the program that there is for `arch`.
fn run_probe(arch: &Arch) -> Result<()> {
    const NAME: &str = "probe";
    let Some(program) = probe::program(arch) else { return Ok(()) };
    let memory = detached::file_system("tmpfs")?;
    let memory = detached::mount(memory, MountAttrFlags::empty())
        .call(|| "fsmount a tmpfs for a program".into())?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&memory, NAME, flags, Mode::from_raw_mode(0o755))
        .call(|| format!("create {NAME}"))?;
    File::from(file).write_all(&program).call(|| format!("write {NAME}"))?;
    ends_as_it_should(&format!("/proc/self/fd/{}/{NAME}", memory.as_raw_fd()))
}

/// Waits for a program that is to end with the status of a probe.
fn ends_as_it_should(path: &str) -> Result<()> {
    let mut child = Command::new(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .call(|| "execute its program".into())?;
    let start = Instant::now();
    let status = loop {
        match child.try_wait().call(|| "wait for its program".into())? {
            Some(status) => break status,
            None if start.elapsed() > PATIENCE => {
                child.kill().and_then(|()| child.wait()).call(|| "kill its program".into())?;
                bail!("its program did not end within {} seconds", PATIENCE.as_secs());
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    ensure!(status.code() == Some(probe::STATUS.into()), "its program ended with {status}");
    Ok(())
}
