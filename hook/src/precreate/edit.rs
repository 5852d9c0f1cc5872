//! Changes a config.json as it was planned, and leaves the rest of it to the byte.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use crate::asked::bound::Bound;
use crate::asked::hook_arguments::{HookArguments, of_our_hook};
use crate::precreate::config::{FullMount, is_of, malformed};
use crate::precreate::devices::Device;
use crate::precreate::json::Object;
use crate::precreate::rewrite::{Rewrite, is_net};

/// What of the machine's /proc changes the machine. Engines make it read-only, unless the container is
/// privileged or says otherwise; where its root is the machine's in nothing but files, it always is.
const READ_ONLY: [&str; 5] =
    ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"];

/// The stage at which our hook is called.
const STAGE: &str = "createRuntime";
/// How many seconds runtimes give the hook.
const TIMEOUT: u32 = 10;

/// The config.json `text` with what `rewrite` says. `program` is our hook.
pub(super) fn apply(text: &str, rewrite: &Rewrite, program: &Path) -> Result<String> {
    let mut config = Object::parse(text).context("config.json on standard input")?;
    let linux = rewritten_linux(&config.object("linux")?, rewrite)?;
    let mounts = rewritten_mounts(&config.list("mounts")?, rewrite)?;
    let hooks = calling_us(&config.object("hooks")?, &rewrite.left, program)?;
    config.set("linux", &linux)?;
    config.set("mounts", &mounts)?;
    config.set("hooks", &hooks)?;
    Ok(serde_json::to_string(&config)?)
}

/// The config.json `text`, in which nothing but our hook, `program`, is to be called, too.
pub(super) fn guard(text: &str, program: &Path) -> Result<String> {
    let mut config = Object::parse(text).context("config.json on standard input")?;
    let hooks = calling_us(&config.object("hooks")?, &HookArguments::default(), program)?;
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
    if rewrite.left.enters_network && linux.text("sysctl").is_some() {
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
    if rewrite.left.bound.contains(&Bound::Proc) {
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
        let mount: FullMount =
            serde_json::from_str(text.get()).map_err(|error| malformed(&error))?;
        if rewrite.drops_mqueue && mount.fs_type == "mqueue" {
            continue;
        }
        rewritten.push(match rewrite.left.bound.iter().find(|bound| is_of(&mount, **bound)) {
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

/// `hooks` in which our own is called, with what is `left` to it: by the entry that is there, or by a new one.
fn calling_us(hooks: &Object, left: &HookArguments, program: &Path) -> Result<Box<RawValue>> {
    let mut hooks = hooks.clone();
    let mut found = false;
    for stage in [STAGE, "prestart"] {
        let mut list = hooks.list(stage)?;
        for entry in &mut list {
            let text = entry.get().to_owned();
            let mut hook = Object::parse(&text).context(stage)?;
            let mut args: Vec<String> = hook.read("args")?.unwrap_or_default();
            if of_our_hook(&args).is_some() {
                found = true;
                args.extend(left.arguments());
                hook.set("args", &args)?;
                *entry = to_raw_value(&hook)?;
            }
        }
        if !list.is_empty() {
            hooks.set(stage, &list)?;
        }
    }
    if !found {
        let mut list = hooks.list(STAGE)?;
        list.push(entry(program, left)?);
        hooks.set(STAGE, &list)?;
    }
    Ok(to_raw_value(&hooks)?)
}

/// The entry by which `program`, our hook, is called, as the drop-in `50-toolbx-arch.json` has it.
fn entry(program: &Path, left: &HookArguments) -> Result<Box<RawValue>> {
    let mut args = ["toolbx-arch-hook", "create-runtime"].map(str::to_owned).to_vec();
    args.extend(left.arguments());
    Ok(to_raw_value(&json!({
        "path": program, "args": args, "env": ["PATH=/usr/bin:/bin"], "timeout": TIMEOUT,
    }))?)
}

/// How it is bound. The older `ro` too, for a runtime that does not know the recursive one.
fn bind_options(bound: Bound) -> &'static [&'static str] {
    match bound {
        Bound::Sysfs => &["rbind", "rprivate", "nosuid", "noexec", "nodev", "ro", "rro"],
        Bound::Proc => &["rbind", "rprivate", "nosuid", "noexec", "nodev"],
    }
}
