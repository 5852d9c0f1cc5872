//! Containers that Toolbx makes: which architecture they say they are for.
//!
//! Their first program is the host's own `toolbox`, called as `toolbox init-container`. It prepares
//! the container, and for one of another architecture it mounts binfmt_misc and registers a handler
//! itself; so its mount point has to look untouched.

use std::path::Path;

use crate::arch::{self, Arch};
use crate::asked::oci::Command;

/// Toolbx's numbers for architectures, in the argument of `--arch`.
const NUMBERS: [(&str, &str); 3] = [("1", "aarch64"), ("2", "ppc64le"), ("3", "x86_64")];

/// Whether Toolbx made the container that begins with `command`.
#[must_use]
pub fn is_toolbx(command: &Command) -> bool {
    let is_toolbox =
        |program: &String| Path::new(program).file_name().is_some_and(|name| name == "toolbox");
    command.args.first().is_some_and(is_toolbox)
        && command.args.iter().any(|argument| argument == "init-container")
}

/// The architecture that Toolbx gives its container, if it names one.
#[must_use]
pub fn architecture(command: &Command) -> Option<&'static Arch> {
    if !is_toolbx(command) {
        return None;
    }
    let mut arguments = command.args.iter();
    let value = loop {
        let argument = arguments.next()?;
        match argument.strip_prefix("--arch") {
            Some("") => break arguments.next()?.as_str(),
            Some(rest) if rest.starts_with('=') => break &rest[1..],
            _ => {}
        }
    };
    let name = NUMBERS.iter().find(|(number, _)| *number == value).map_or(value, |(_, name)| name);
    arch::find(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_toolbxs_arguments() {
        for (line, expected) in [
            (
                "toolbox --log-level debug init-container --gid 1 --arch 1 --arch-emulator-path /q",
                Some("aarch64"),
            ),
            ("/usr/bin/toolbox init-container --arch=2", Some("ppc64le")),
            ("toolbox init-container --arch 3", Some("x86_64")),
            ("toolbox init-container --arch s390x", Some("s390x")),
            ("toolbox init-container --arch 9", None),
            ("toolbox init-container --arch", None),
            ("toolbox init-container --architect 1", None),
            ("toolbox init-container", None),
            ("toolbox --arch 1", None),
            ("sh init-container --arch 1", None),
            ("", None),
        ] {
            let args = line.split_whitespace().map(str::to_owned).collect();
            let command = Command { args, ..Command::default() };
            assert_eq!(architecture(&command).map(|arch| arch.name), expected, "{line}");
        }
    }
}
