//! Every target's probe under its emulator, and without one where the machine's kernel runs it.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use toolbx_arch::arch::probe;
use toolbx_arch::arch::{ARCHES, Arch};

/// Where the emulators are that `make images` unpacks.
const QEMU: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/images/qemu/usr/bin");
/// Emulators of targets that are not in the architecture table. No target of the table lacks one.
const OTHERS: [&str; 2] = ["cris", "nios2"];

#[test]
fn every_target_has_an_emulator() {
    let files = std::fs::read_dir(QEMU)
        .unwrap_or_else(|error| panic!("no emulators in {QEMU} ({error}); run: make images"));
    let found: BTreeSet<String> = files
        .filter_map(|file| {
            let name = file.unwrap().file_name().into_string().unwrap();
            Some(name.strip_prefix("qemu-")?.strip_suffix("-static")?.to_owned())
        })
        .collect();
    let known = ARCHES.iter().map(|arch| arch.emulator).chain(OTHERS);
    assert_eq!(found, known.map(str::to_owned).collect());
}

/// A file with the probe for `arch`, which may be executed.
fn written(arch: &Arch) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("probe-{}", arch.name));
    std::fs::write(&path, probe::program(arch).unwrap()).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// What is wrong with how `command` ends, if anything.
fn fault(command: &mut Command) -> Option<String> {
    match command.output() {
        Ok(output) if output.status.code() == Some(probe::STATUS.into()) => None,
        ended => Some(format!("{command:?}: {ended:?}")),
    }
}

/// One test, one thread: a file that is open for writing in a child of another is busy.
#[test]
fn probes_exit_with_their_status() {
    let mut faults = Vec::new();
    for arch in &ARCHES {
        let file = written(arch);
        let emulator = format!("{QEMU}/qemu-{}-static", arch.emulator);
        faults.extend(fault(Command::new(emulator).arg(&file)));
        if arch.is_native() {
            faults.extend(fault(&mut Command::new(&file)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
