//! Programs of several kinds, and every emulator, with the launcher in them, on the real kernel.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use toolbx_arch::apply::wrap;
use toolbx_arch::arch::elf::Program;

/// Where the emulators are that `make images` unpacks.
const IMAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/images");
/// Needs what a C library sets up before `main`: thread-local data, a relocated pointer, the
/// auxiliary vector; and memory behind its own.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
static __thread int local = 7;
static const char *volatile pointer = "relocated";
static char zeros[300000];
int main(int argc, char **argv) {
    for (int i = 0; i < (int)sizeof zeros; i++) if (zeros[i]) return 3;
    char *memory = malloc(1 << 20);
    memset(memory, 1, 1 << 20);
    printf("%d %s %lu", local, pointer, getauxval(AT_PAGESZ));
    for (int i = 1; i < argc; i++) printf(" [%s]", argv[i]);
    printf(" %s\n", getenv("QEMU_X"));
    return 0;
}
"#;

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn program(file: &File) -> Result<Program> {
    Program::read(|buffer, offset| file.read_exact_at(buffer, offset))
}

/// Writes `from` with the launcher in it to `to`.
fn wrap(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (File::open(from)?, File::create(to)?);
    wrap::wrap(&from, &program(&from)?, &to)?;
    to.set_permissions(Permissions::from_mode(0o755))?;
    Ok(())
}

/// What a program prints, and that it succeeds.
fn output(program: &Path, arguments: &[&str]) -> String {
    let output = loop {
        // A test beside this one may be starting a program, which has our file open until it begins.
        match Command::new(program).args(arguments).env("QEMU_X", "1").output() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {}
            output => break output.unwrap(),
        }
    };
    assert!(output.status.success(), "{}: {output:?}", program.display());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn programs_of_every_kind() {
    let directory = Directory::new("kinds");
    let source = directory.0.join("program.c");
    std::fs::write(&source, PROGRAM).unwrap();
    for (name, compiler, flags) in [
        ("static-pie", "gcc", "-static-pie -fPIE"),
        ("fixed address", "gcc", "-static -no-pie"),
        ("large pages", "gcc", "-static -no-pie -Wl,-z,max-page-size=0x200000"),
        ("no notes", "gcc", "-static-pie -fPIE -Wl,--build-id=none"),
        ("musl", "musl-gcc", "-static -no-pie"),
        ("musl static-pie", "musl-gcc", "-static-pie -fPIE"),
    ] {
        let (plain, wrapped) =
            (directory.0.join(name), directory.0.join(format!("{name} wrapped")));
        let compiled = Command::new(compiler)
            .args(flags.split(' '))
            .arg("-o")
            .args([&plain, &source])
            .status()
            .unwrap_or_else(|error| panic!("{compiler}: {error}; run: make deps"));
        assert!(compiled.success(), "{name}");
        wrap(&plain, &wrapped).unwrap();
        let said = output(&plain, &["-a b"]);
        assert!(said.starts_with("7 relocated ") && said.ends_with(" [-a b] 1\n"), "{said}");
        assert_eq!(output(&wrapped, &["-a b"]), said, "{name}");
        let twice = wrap(&wrapped, &directory.0.join("twice")).unwrap_err().to_string();
        assert!(twice.starts_with("has the launcher in it already"), "{twice}");
    }
}

#[test]
fn every_emulator() {
    let directory = Directory::new("emulators");
    let wrapped = directory.0.join("wrapped");
    let mut count = 0;
    for package in ["qemu", "qemu-10"] {
        for file in std::fs::read_dir(Path::new(IMAGES).join(package).join("usr/bin"))
            .unwrap_or_else(|error| panic!("no emulators ({error}); run: make images"))
        {
            let emulator = file.unwrap().path();
            let name = emulator.file_name().unwrap().to_string_lossy();
            if !name.starts_with("qemu-") || emulator.is_symlink() {
                continue;
            }
            wrap(&emulator, &wrapped).unwrap();
            let version = output(&wrapped, &["--version"]);
            assert!(version.starts_with("qemu-"), "{}: {version}", emulator.display());
            assert_eq!(version, output(&emulator, &["--version"]));
            count += 1;
        }
    }
    assert!(count > 60, "{count}");
}

#[test]
fn what_is_no_emulator_is_refused() {
    let directory = Directory::new("refused");
    let (from, to) = (directory.0.join("from"), directory.0.join("to"));
    let emulator = Path::new(IMAGES).join("qemu/usr/bin/qemu-m68k-static");
    let bytes = std::fs::read(&emulator).unwrap();
    for length in [0, 63, 64, 100, 4096, bytes.len() / 2] {
        std::fs::write(&from, &bytes[..length]).unwrap();
        assert!(wrap(&from, &to).is_err(), "cut at {length}");
    }
    // The alignment of the first segment, its address, its place in the file.
    for (offset, value) in [(64 + 48, 3_u64 << 40), (64 + 16, u64::MAX - 8), (64 + 8, u64::MAX - 8)]
    {
        let mut broken = bytes.clone();
        broken[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&from, &broken).unwrap();
        assert!(wrap(&from, &to).is_err(), "{offset}: {value:#x}");
    }
}
