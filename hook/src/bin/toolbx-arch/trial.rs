//! A real trial of what the hook does, in a user namespace of its own: mount a binfmt_misc, register
//! each emulator, run a program. `doctor` starts this as `toolbx-arch try`, which enters that namespace
//! and ends with it; nothing is left.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use serde::{Deserialize, Serialize};
use toolbx_arch::binfmt::Handler;
use toolbx_arch::instance::Instance;
use toolbx_arch::kernel;
use toolbx_arch::message::{self, Call};
use toolbx_arch::probe;

use crate::list::{self, Target};
use crate::{caller, terminal};

/// An emulator that has not run the program by then never will.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Trial {
    /// Why no binfmt_misc could be mounted in a user namespace, if that failed.
    pub refused: Option<String>,
    /// Why no emulator could be tried, though there may be nothing wrong with any, if so.
    pub untried: Option<String>,
    /// For each target that has an emulator: why its program did not run, if so.
    pub targets: BTreeMap<String, Option<String>>,
}

/// Has the trial made by another process: whoever enters a user namespace cannot leave it.
pub fn have_made() -> Result<Trial> {
    let output = Command::new(caller::this_program()?)
        .arg("try")
        .stderr(Stdio::inherit())
        .output()
        .context("toolbx-arch try")?;
    serde_json::from_slice(&output.stdout).context("what toolbx-arch try prints")
}

pub fn run() {
    let trial = try_all()
        .unwrap_or_else(|why| Trial { refused: Some(message::line(&why)), ..Trial::default() });
    terminal::print_json(&serde_json::to_value(trial).unwrap_or_default());
}

fn try_all() -> Result<Trial> {
    // The emulators as the hook sees them; then a namespace as a container has it.
    let targets = list::targets(&caller::become_hooks_caller()?).unwrap_or_default();
    let only_root = "0 0 1\n";
    caller::enter_user_namespace(only_root, only_root, true)?;
    let instance = Instance::new(mount("binfmt_misc")?)?;
    if let Err(why) = may_emulate() {
        return Ok(Trial { untried: Some(message::line(&why)), ..Trial::default() });
    }
    let room = mount("tmpfs")?;
    let usable = targets.iter().filter(|target| target.is_used() && target.emulator.is_ok());
    let attempt = |target: &Target| {
        let ran = try_one(target, &instance, &room);
        (target.arch.name.to_owned(), ran.err().map(|why| message::line(&why)))
    };
    Ok(Trial { targets: usable.map(attempt).collect(), ..Trial::default() })
}

/// Fails where no emulator could run, whichever it is.
fn may_emulate() -> Result<()> {
    kernel::try_executable_memory().call(|| "mmap".into()).context(
        "this process may have no memory that it both writes and executes, as emulators must (SELinux \
         calls it execmem)",
    )
}

/// A file system that is mounted nowhere.
fn mount(kind: &str) -> Result<OwnedFd> {
    let call = |call: &str| format!("{call} {kind} in a user namespace");
    let context =
        rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).call(|| call("fsopen"))?;
    rustix::mount::fsconfig_create(&context).call(|| call("mount"))?;
    let (flags, attributes) = (FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
    rustix::mount::fsmount(&context, flags, attributes).call(|| call("fsmount"))
}

/// Registers the target's emulator, and runs the target's program.
fn try_one(target: &Target, instance: &Instance, room: &OwnedFd) -> Result<()> {
    let Ok(emulator) = &target.emulator else { bail!("no emulator") };
    let arch = target.arch;
    instance.register(&Handler {
        arch,
        interpreter: emulator.path.clone(),
        emulator: emulator.path.clone(),
        credentials: false,
        pinned: false,
        arguments_asked: false,
    })?;
    let Some(program) = probe::program(arch) else { return Ok(()) };
    let (name, flags) = (format!("probe-{}", arch.name), OFlags::CREATE | OFlags::WRONLY);
    let file = rustix::fs::openat(room, &name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o755))
        .call(|| format!("create {name}"))?;
    File::from(file).write_all(&program).call(|| format!("write {name}"))?;
    ends_as_it_should(&format!("/proc/self/fd/{}/{name}", room.as_raw_fd()))
}

/// Runs a probe.
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
