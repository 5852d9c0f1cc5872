//! `toolbx-arch cdi`: a specification of the Container Device Interface, by which whoever asks for the
//! device `toolbx.dev/arch=arm64` gets our hook.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use toolbx_arch::base::message::Call;

use crate::args::Cdi;
use crate::list::{self, TargetStatus};
use crate::{caller, files, hooks_d, terminal};

/// Where engines look for specifications that last.
const FILE: &str = "/etc/cdi/toolbx-arch.json";
/// The oldest version of the specification that has all that is used here.
const VERSION: &str = "0.5.0";

pub fn run(arguments: &Cdi) -> Result<()> {
    let file = Path::new(FILE);
    if arguments.remove {
        std::fs::remove_file(file).call(|| format!("remove {FILE}"))?;
        terminal::print(&format!("removed {FILE}\n"));
        return Ok(());
    }
    let specification = text(&list::targets(&caller::become_hooks_caller()?)?)?;
    if arguments.install {
        files::write(file, &specification)?;
        terminal::print(&format!("wrote {FILE}\n"));
    } else {
        terminal::print(&specification);
    }
    Ok(())
}

/// Whether what is installed is what would be installed now; `None` if nothing is.
pub fn is_current(targets: &[TargetStatus]) -> Option<bool> {
    let installed = std::fs::read_to_string(FILE).ok()?;
    Some(text(targets).is_ok_and(|text| text == installed))
}

fn text(targets: &[TargetStatus]) -> Result<String> {
    Ok(format!("{:#}\n", specification(targets)?))
}

/// A device for each target that has an emulator, by its OCI name where it has one; one for all of
/// them; and one, `auto`, with which the container's programs tell.
fn specification(targets: &[TargetStatus]) -> Result<Value> {
    let found = targets.iter().filter(|target| target.is_used() && target.emulator.is_ok());
    let names: Vec<_> = found.map(|target| target.arch.oci.unwrap_or(target.arch.name)).collect();
    ensure!(!names.is_empty(), "no emulator was found; see toolbx-arch doctor");
    let mut devices: Vec<_> = names.iter().map(|name| device(name, &[name])).collect();
    devices.extend([device("all", &names), device("auto", &[])]);
    Ok(json!({ "cdiVersion": VERSION, "kind": "toolbx.dev/arch", "devices": devices }))
}

fn device(name: &str, targets: &[&str]) -> Value {
    let command = ["toolbx-arch-hook", "create-runtime"].map(str::to_owned);
    let targets = targets.iter().map(|target| format!("--arch={target}"));
    json!({
        "name": name,
        "containerEdits": {
            "hooks": [{
                "hookName": "createRuntime",
                "path": hooks_d::HOOK,
                "args": command.into_iter().chain(targets).collect::<Vec<_>>(),
                "env": ["PATH=/usr/bin:/bin"],
                "timeout": 10,
            }],
        },
    })
}
