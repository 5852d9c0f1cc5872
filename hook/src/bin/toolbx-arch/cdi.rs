//! `toolbx-arch cdi`: a specification of the Container Device Interface, by which whoever asks for the
//! device `toolbx.dev/arch=arm64` gets our hook.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use toolbx_arch::message::Call;

use crate::args::Cdi;
use crate::list::{self, Target};
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
    let targets = list::targets(caller::become_hooks_caller()?)?;
    let specification = format!("{:#}\n", specification(&targets)?);
    if arguments.install {
        files::write(file, &specification)?;
        terminal::print(&format!("wrote {FILE}\n"));
    } else {
        terminal::print(&specification);
    }
    Ok(())
}

/// A device for each target that has an emulator, by its OCI name where it has one.
fn specification(targets: &[Target]) -> Result<Value> {
    let found = targets.iter().filter(|target| target.is_used() && target.emulator.is_ok());
    let devices: Vec<_> =
        found.map(|target| device(target.arch.oci.unwrap_or(target.arch.name))).collect();
    ensure!(!devices.is_empty(), "no emulator was found; see toolbx-arch doctor");
    Ok(json!({ "cdiVersion": VERSION, "kind": "toolbx.dev/arch", "devices": devices }))
}

fn device(name: &str) -> Value {
    json!({
        "name": name,
        "containerEdits": {
            "hooks": [{
                "hookName": "createRuntime",
                "path": hooks_d::HOOK,
                "args": ["toolbx-arch-hook", "create-runtime", format!("--arch={name}")],
                "env": ["PATH=/usr/bin:/bin"],
                "timeout": 10,
            }],
        },
    })
}
