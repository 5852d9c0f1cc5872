//! `toolbx-arch prepare`: makes copies of the emulators with the launcher in them, for the hook to use.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, XattrFlags};
use rustix::io::Errno;
use serde_json::{Value, json};
use toolbx_arch::emulator::{self, Emulator};
use toolbx_arch::launcher::{self, PREPARED, Record};
use toolbx_arch::message::{self, Call};
use toolbx_arch::trust::Caller;

use crate::args::Prepare;
use crate::list::{self, Prepared, Target};
use crate::{caller, terminal};

/// What a copy is called while it is written. No emulator's name begins with a dot.
const UNFINISHED: &str = ".unfinished";
/// Where `SELinux` keeps a file's label.
const LABEL: &str = "security.selinux";

pub fn run(arguments: &Prepare) -> Result<ExitCode> {
    ensure!(launcher::is_available(), "there is no launcher for this machine's processor");
    let caller = caller::become_hooks_caller()?;
    let directory = Path::new(PREPARED);
    let _lock = if arguments.check { None } else { Some(lock(directory)?) };
    let targets = list::targets(caller)?;
    let named = list::wanted(&arguments.only)?;
    let is_named = |target: &&Target| named.contains(&target.arch);
    if !arguments.only.is_empty() {
        targets.iter().filter(is_named).try_for_each(ensure_usable)?;
    }
    let sources = sources(&targets);
    let wanted = sources.values().filter(|source| source.targets.iter().any(is_named));
    let mut report = Report { json: arguments.json, check: arguments.check, copies: Vec::new() };
    for source in wanted {
        report.add(source.state(), source.bring_about(arguments.check, caller));
    }
    for name in superfluous(directory, &sources)? {
        let remove = || remove(&directory.join(&name)).map(|()| "removed");
        let removed = if arguments.check { Ok("superfluous") } else { remove() };
        report.add(json!({"name": name.to_string_lossy(), "targets": []}), removed);
    }
    Ok(report.end())
}

fn ensure_usable(target: &Target) -> Result<()> {
    let name = target.arch.name;
    match &target.emulator {
        _ if target.arch.is_native() => bail!("{name} is this machine's own, and not emulated"),
        _ if !target.is_allowed => {
            bail!("the policy does not allow {name}; add it to the policy's architectures")
        }
        Err(why) => bail!("{}", message::line(why)),
        Ok(_) => Ok(()),
    }
}

/// An emulator that may have a copy.
struct Source<'a> {
    emulator: &'a Emulator,
    copy: &'a Prepared,
    /// What it is for.
    targets: Vec<&'a Target>,
}

/// By the names of their copies.
fn sources(targets: &[Target]) -> BTreeMap<OsString, Source<'_>> {
    let mut sources: BTreeMap<OsString, Source> = BTreeMap::new();
    for target in targets.iter().filter(|target| target.is_used()) {
        let Ok(emulator) = &target.emulator else { continue };
        let name = emulator.path.file_name().unwrap_or_default().to_owned();
        let source = Source { emulator, copy: &target.copy, targets: Vec::new() };
        sources.entry(name).or_insert(source).targets.push(target);
    }
    sources
}

impl Source<'_> {
    fn state(&self) -> Value {
        let path = launcher::prepared_path(self.emulator);
        let why = if let Prepared::Stale(why) = self.copy { Some(why) } else { None };
        json!({
            "why": why,
            "name": path.file_name().unwrap_or_default().to_string_lossy(),
            "emulator": self.emulator.path.display().to_string(),
            "targets": self.targets.iter().map(|target| target.arch.name).collect::<Vec<_>>(),
        })
    }

    /// Makes the copy if there is no fresh one. Returns what became of it.
    fn bring_about(&self, check: bool, caller: Caller) -> Result<&'static str> {
        if check || matches!(self.copy, Prepared::Fresh) {
            return Ok(self.copy.name());
        }
        self.make()?;
        // What is wrong may be the directory.
        launcher::prepared(self.emulator, caller)?;
        Ok("prepared")
    }

    /// Under another name first, so that the hook sees a whole copy or none.
    fn make(&self) -> Result<()> {
        let path = launcher::prepared_path(self.emulator);
        let unfinished = path.with_file_name(UNFINISHED);
        let made = self.write(&unfinished).and_then(|()| {
            std::fs::rename(&unfinished, &path).call(|| format!("rename to {}", path.display()))
        });
        if made.is_err() {
            let _ = std::fs::remove_file(&unfinished);
        }
        made.with_context(|| format!("prepare {}", self.emulator.path.display()))
    }

    fn write(&self, to: &Path) -> Result<()> {
        let Emulator { file: source, program, .. } = self.emulator;
        let record = Record::new(self.emulator, emulator::sha256(source)?)?;
        let file = File::options().read(true).write(true).create_new(true).open(to);
        let file = file.call(|| format!("create {}", to.display()))?;
        launcher::wrap(source, program, &file)?;
        record.append(&file)?;
        copy_label(source, &file)?;
        // Not the bits that would give somebody rights: an emulator needs none.
        let mode = source.metadata().call(|| "fstat".into())?.mode() & 0o755;
        file.set_permissions(Permissions::from_mode(mode)).call(|| "fchmod".into())?;
        file.sync_all().call(|| "fsync".into())
    }
}

/// What `SELinux` lets containers execute is told by the label of the original.
fn copy_label(from: &File, to: &File) -> Result<()> {
    let mut label = [0; 4096];
    match rustix::fs::fgetxattr(from, LABEL, &mut label) {
        Ok(length) => rustix::fs::fsetxattr(to, LABEL, &label[..length], XattrFlags::empty())
            .call(|| "fsetxattr".into()),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno).call(|| "fgetxattr".into()),
    }
}

/// Makes the directory, and waits for whoever else is at work there. Held as long as it is open.
fn lock(directory: &Path) -> Result<File> {
    let of = |call: &str| format!("{call} {}", directory.display());
    std::fs::create_dir_all(directory).call(|| of("mkdir")).context("run it as root")?;
    let lock = File::open(directory).call(|| of("open"))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).call(|| of("flock"))?;
    let unfinished = directory.join(UNFINISHED);
    if unfinished.symlink_metadata().is_ok() {
        remove(&unfinished).context("run it as root")?;
    }
    Ok(lock)
}

/// The copies whose emulators are gone.
fn superfluous(
    directory: &Path,
    sources: &BTreeMap<OsString, Source>,
) -> Result<BTreeSet<OsString>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.call(|| format!("read {}", directory.display()))?,
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names.filter(|name| !sources.contains_key(name)).collect())
}

fn remove(path: &PathBuf) -> Result<()> {
    std::fs::remove_file(path).call(|| format!("remove {}", path.display()))
}

/// What was done, told line by line or as a whole.
struct Report {
    json: bool,
    check: bool,
    copies: Vec<Value>,
}

impl Report {
    fn add(&mut self, mut copy: Value, outcome: Result<&'static str>) {
        match outcome {
            Ok(state) => copy["state"] = state.into(),
            Err(why) => {
                copy["state"] = "failed".into();
                copy["problem"] = message::line(&why).into();
            }
        }
        if !self.json {
            let text = |key: &str| copy[key].as_str().unwrap_or_default().to_owned();
            match copy["problem"].as_str() {
                Some(problem) => eprintln!("toolbx-arch: error: {problem}"),
                None if copy["state"] == "fresh" => {}
                None => {
                    let why = copy["why"].as_str().map(|why| format!(" ({why})"));
                    let (state, name) = (text("state"), text("name"));
                    terminal::print(&format!("{state} {name}{}\n", why.unwrap_or_default()));
                }
            }
        }
        self.copies.push(copy);
    }

    /// Exit status: 1 where something failed, or, if it was only looked at, is to be done.
    fn end(self) -> ExitCode {
        let is_good = |copy: &Value| match copy["state"].as_str() {
            Some("fresh") => true,
            Some("failed") | None => false,
            Some(_) => !self.check,
        };
        let all_good = self.copies.iter().all(is_good);
        if self.json {
            terminal::print_json(&json!({"directory": PREPARED, "copies": self.copies}));
        } else if all_good && self.copies.iter().all(|copy| copy["state"] == "fresh") {
            terminal::print(&format!("{} copies in {PREPARED}, all fresh\n", self.copies.len()));
        }
        if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
