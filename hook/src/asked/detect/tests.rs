use std::fs::Permissions;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::host::native;

/// A root directory that goes away with it.
struct Rootfs(PathBuf);

impl Rootfs {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("toolbx-arch-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("bin")).unwrap();
        Self(path)
    }

    fn put(&self, path: &str, content: &[u8]) -> &Self {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn link(&self, path: &str, to: &str) -> &Self {
        symlink(to, self.0.join(path)).unwrap();
        self
    }

    fn detect(&self, args: &[&str]) -> Option<(&'static str, PathBuf, bool)> {
        self.detect_with(args, &["PATH=/sbin:/bin"])
    }

    fn detect_with(&self, args: &[&str], env: &[&str]) -> Option<(&'static str, PathBuf, bool)> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let root = rustix::fs::open(&self.0, flags, Mode::empty()).unwrap();
        let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let command = Command { args: strings(args), env: strings(env), cwd: "/work".into() };
        detect(root.as_fd(), &command).map(|found| (found.arch.name, found.program, found.is_first))
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A header for `machine`, little-endian, 64 bits.
fn elf(machine: u8) -> Vec<u8> {
    let mut header = vec![0; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (header[16], header[18], header[20]) = (2, machine, 1);
    header
}
const AARCH64: u8 = 183;
const RISCV: u8 = 243;

/// What is detected where the container begins with this.
macro_rules! found {
    ($arch:expr, $path:expr) => {
        Some(($arch, PathBuf::from($path), true))
    };
}

#[test]
fn the_program_is_looked_up_as_the_runtime_does() {
    let rootfs = Rootfs::new("lookup");
    rootfs.put("bin/program", &elf(AARCH64)).put("work/own", &elf(RISCV));
    rootfs.put("sbin/plain", &elf(RISCV)).put("bin/plain", &elf(AARCH64));
    rootfs.link("bin/link", "/../../bin/program").link("bin/loop", "loop");
    std::fs::set_permissions(rootfs.0.join("sbin/plain"), Permissions::from_mode(0o644)).unwrap();
    std::fs::create_dir(rootfs.0.join("bin/directory")).unwrap();
    for (arg, expected) in [
        ("program", found!("aarch64", "/bin/program")),
        ("/bin/program", found!("aarch64", "/bin/program")),
        ("../bin/program", found!("aarch64", "/work/../bin/program")),
        ("./own", found!("riscv64", "/work/./own")),
        // Not executable in /sbin, so the next directory of PATH counts.
        ("plain", found!("aarch64", "/bin/plain")),
        // A link stays within the root.
        ("link", found!("aarch64", "/bin/link")),
        ("own", None),
        ("loop", None),
        ("directory", None),
        ("/bin/directory", None),
        ("", None),
        ("missing", None),
        (&"x".repeat(5000), None),
        (&format!("/{}", "y/".repeat(4000)), None),
    ] {
        assert_eq!(rootfs.detect(&[arg]), expected, "{arg:.50}");
    }
    assert_eq!(rootfs.detect(&[]), None);
    // Where nothing is executed, what else is there does not matter.
    rootfs.put("bin/sh", &elf(AARCH64));
    assert_eq!(rootfs.detect(&["missing"]), None);
    for (env, expected) in [
        (&["A=b"][..], found!("aarch64", "/bin/program")),
        (&["PATH="], None),
        (&["PATH=:/bin"], found!("aarch64", "/bin/program")),
        (&["PATH=../bin"], found!("aarch64", "/work/../bin/program")),
        (&[&format!("PATH={}/bin", "/no:".repeat(10_000))], None),
    ] {
        assert_eq!(rootfs.detect_with(&["program"], env), expected, "{:.50}", env[0]);
    }
}

#[test]
fn nothing_but_regular_files_is_opened() {
    let rootfs = Rootfs::new("special");
    let path = rootfs.0.join("bin/pipe");
    // It would block for ever.
    rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, 0o777.into(), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(rootfs.0.join("bin/socket")).unwrap();
    rootfs.link("bin/self", "/proc/self/exe");
    for name in ["pipe", "socket", "self"] {
        assert_eq!(rootfs.detect(&[name]), None, "{name}");
    }
}

#[test]
fn scripts_lead_to_their_interpreters() {
    let rootfs = Rootfs::new("scripts");
    rootfs.put("bin/sh", &elf(AARCH64));
    rootfs.put("s0", b"#!/bin/sh\n");
    for depth in 1..=6 {
        rootfs.put(&format!("s{depth}"), format!("#!/s{}\n", depth - 1).as_bytes());
    }
    let sh = found!("aarch64", "/bin/sh");
    for (script, expected) in [
        (&b"#!/bin/sh\necho"[..], sh.clone()),
        (b"#! \t/bin/sh -e", sh.clone()),
        (b"#!\r/bin/sh\n", None), // a name that begins with a carriage return
        (b"#!\x0c/bin/sh\n", None),
        (b"#!/bin/sh\r\n", None),
        (b"#!/bin/sh\0\n", sh.clone()),
        (b"#!bin/sh\n", None), // below the working directory there is none
        (b"#!", None),
        (b"#!\n", None),
        (b"#!/script\n", None),
        (&[&b"#!/bin/sh"[..], &[b'x'; 300]].concat(), None),
        (&[&b"#!/bin/sh "[..], &[b'x'; 300]].concat(), sh.clone()),
        (b"echo", None),
        (b"", None),
    ] {
        rootfs.put("script", script);
        let shown = String::from_utf8_lossy(script).into_owned();
        assert_eq!(rootfs.detect(&["/script"]).filter(|found| found.2), expected, "{shown:.50}");
    }
    assert_eq!(rootfs.detect(&["/s4"]), sh);
    // As deep as the kernel goes, and no deeper.
    assert_eq!(rootfs.detect(&["/s5"]).filter(|found| found.2), None);
}

#[test]
fn headers_that_are_cut_or_unknown_tell_nothing() {
    let rootfs = Rootfs::new("cut");
    // Behind the end of a file the kernel sees zeros, which the last byte that it compares is.
    for length in 0..=64 {
        rootfs.put("bin/program", &elf(AARCH64)[..length]);
        assert_eq!(rootfs.detect(&["program"]).is_some(), length >= 19, "{length}");
    }
    rootfs.put("bin/program", &elf(0xfe));
    assert_eq!(rootfs.detect(&["program"]), None);
    // Only the header's first bytes are read, so what it points to does not matter.
    let mut odd = elf(AARCH64);
    odd[32..40].copy_from_slice(&(1_u64 << 63).to_le_bytes()); // e_phoff
    rootfs.put("bin/program", &odd);
    let file = File::options().write(true).open(rootfs.0.join("bin/program")).unwrap();
    file.set_len(1 << 40).unwrap();
    assert_eq!(rootfs.detect(&["program"]), found!("aarch64", "/bin/program"));
}

#[test]
fn the_first_program_of_the_image_tells() {
    let rootfs = Rootfs::new("image");
    rootfs.put("bin/native", &std::fs::read("/proc/self/exe").unwrap()[..64]);
    rootfs.put("bin/sh", &elf(AARCH64));
    // It lies where the rest lies, so it belongs to the image, which is native then.
    let native = rootfs.detect(&["native"]).unwrap();
    assert_eq!((native.0, native.2), (native::host_arch().name, true));
    // What tells nothing is passed over.
    rootfs.put("bin/odd", b"odd");
    assert_eq!(rootfs.detect(&["odd"]), Some(("aarch64", "/bin/sh".into(), false)));
}
