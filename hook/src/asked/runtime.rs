//! What one runtime does otherwise than another, as far as that matters to a hook.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The command line of the runtime, our parent; NUL after each argument. Empty where it cannot be told.
#[must_use]
pub fn command_line() -> Vec<u8> {
    let path = format!("/proc/{}/cmdline", std::os::unix::process::parent_id());
    std::fs::read(path).unwrap_or_default()
}

/// The absolute directory that a runtime's command line, as in /proc/PID/cmdline, gives with
/// `--bundle` or `-b`.
pub(crate) fn bundle_argument(cmdline: &[u8]) -> Option<&Path> {
    let mut arguments = cmdline.split(|byte| *byte == 0);
    let path = loop {
        match arguments.next()? {
            b"--bundle" | b"-b" => break arguments.next()?,
            argument => {
                if let Some(path) = argument.strip_prefix(b"--bundle=") {
                    break path;
                }
            }
        }
    };
    let path = Path::new(OsStr::from_bytes(path));
    path.is_absolute().then_some(path)
}

/// Whether the runtime can execute a program in a container that has a network namespace from
/// outside its user namespace. By its command line, as in /proc/PID/cmdline, and the version of the
/// runtime specification that it was built for.
///
/// runc enters namespaces in an order that makes it possible since 1.3.0 (its "two-stage join for
/// setns"), whose specification is 1.2.1; runc 1.2 was built for 1.2.0. crun always could. A runc of
/// another name is taken for a runtime that can.
#[must_use]
pub fn can_exec_into_foreign_network(cmdline: &[u8], oci_version: &str) -> bool {
    let program = cmdline.split(|byte| *byte == 0).next().unwrap_or_default();
    let is_runc = Path::new(OsStr::from_bytes(program)).file_name().is_some_and(|n| n == "runc");
    let mut numbers = oci_version
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let version: [u32; 3] = std::array::from_fn(|_| numbers.next().unwrap_or(0));
    !is_runc || version >= [1, 2, 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_runtimes_command_line() {
        for (cmdline, path) in [
            (&b"crun\0create\0--bundle\0/b\0id\0"[..], Some("/b")),
            (b"crun\0create\0--bundle=/b\0id\0", Some("/b")),
            (b"runc\0run\0-b\0/b\0id\0", Some("/b")),
            (b"crun\0create\0-b\0rel\0id\0", None),
            (b"crun\0create\0-b", None),
            (b"", None),
        ] {
            assert_eq!(bundle_argument(cmdline), path.map(Path::new));
        }
    }

    #[test]
    fn only_an_old_runc_cannot_exec() {
        for (cmdline, version, can) in [
            (&b"/usr/bin/crun\0--bundle"[..], "1.0.0", true),
            (b"/usr/sbin/runc\0create", "1.0.2-dev", false),
            (b"runc", "1.2.0", false),
            (b"runc", "1.2.1", true),
            (b"runc", "1.3.0", true),
            (b"runc", "", false),
            (b"", "", true),
        ] {
            assert_eq!(can_exec_into_foreign_network(cmdline, version), can, "{version}");
        }
    }
}
