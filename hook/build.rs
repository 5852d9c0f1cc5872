//! Builds the launcher (`launcher/launcher.rs`) for the machine that the hook is built for, to the
//! bytes that `src/host/launcher.rs` puts into emulators. Nothing, for machines that it is not written for.
//! Their SHA-256 sum is taken here, too: with it the hook knows its own copies at every start.

use std::env::var;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

fn main() {
    let out = PathBuf::from(var("OUT_DIR").unwrap());
    let bytes = out.join("launcher");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../launcher");
    match &*var("CARGO_CFG_TARGET_ARCH").unwrap() {
        "x86_64" | "aarch64" => build(&out, &bytes),
        _ => std::fs::write(&bytes, []).unwrap(),
    }
    let sum = Sha256::digest(std::fs::read(bytes).unwrap());
    std::fs::write(out.join("launcher.sha256"), format!("{sum:x}")).unwrap();
}

fn build(out: &Path, bytes: &Path) {
    let [object, program] = ["launcher.o", "launcher.elf"].map(|name| out.join(name));
    // As a library, so that nothing is linked that is not named here: a call of a function that panics
    // is a name that the linker does not find.
    run(Command::new(var("RUSTC").unwrap())
        .args(["--edition", "2024", "--crate-name", "launcher", "--crate-type", "lib"])
        .args(["--emit", "obj", "--target", &var("TARGET").unwrap()])
        .args(["-C", "opt-level=s", "-C", "codegen-units=1", "-C", "panic=abort"])
        .args(["-C", "relocation-model=pic", "-C", "overflow-checks=off"])
        .args(["-C", "debug-assertions=off", "-C", "force-unwind-tables=no"])
        .arg("-o")
        .args([&object, Path::new("../launcher/launcher.rs")]));
    run(Command::new(tool("ld"))
        .args(["-pie", "--no-dynamic-linker", "-z", "noexecstack", "-z", "separate-code"])
        .args(["-T", "../launcher/launcher.ld", "-o"])
        .args([&program, &object]));
    run(Command::new(tool("objcopy"))
        .args(["-O", "binary", "-j", ".launcher"])
        .args([&program, bytes]));
}

/// A program of the GNU binutils; for another machine its name begins with that machine's.
fn tool(name: &str) -> String {
    let (host, target) = (var("HOST").unwrap(), var("TARGET").unwrap());
    let arch = |triple: &str| triple.split('-').next().unwrap_or_default().to_owned();
    if arch(&host) == arch(&target) {
        name.to_owned()
    } else {
        format!("{}-linux-gnu-{name}", arch(&target))
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{messages}", output.status);
}
