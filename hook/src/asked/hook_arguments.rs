//! The arguments of `create-runtime`: what the stage `precreate` leaves to it, and what CDI devices
//! ask for. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use crate::arch::{self, Arch};
use crate::asked::bound::Bound;
use crate::asked::oci::{Config, Hooks};

/// What `create-runtime` has to do for a container that `precreate` has changed, or that was given a
/// device. It travels as arguments of the hook in config.json, where no image can put anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HookArguments {
    /// Whether the container's root is the owner of the engine's files: every id is itself.
    pub owns_host_files: bool,
    /// What of the machine's is bound where the container was to have its own.
    pub bound: Vec<Bound>,
    /// Whether the container enters a network namespace that was made outside of its user
    /// namespace.
    pub enters_network: bool,
    /// What is to be set in that network namespace, with the rights of its owner.
    pub sysctls: BTreeMap<String, String>,
    /// The architectures that CDI devices ask for, none twice.
    pub devices: Vec<&'static Arch>,
}

impl HookArguments {
    const OWNS_HOST_FILES: &str = "--owns-host-files";
    const ENTERS_NETWORK: &str = "--enters-network";
    const BOUND: &str = "--bound=";
    /// Followed by name and value: a name can have any character but a blank.
    const SYSCTL: &str = "--sysctl";
    const ARCH: &str = "--arch=";

    /// As arguments of `create-runtime`.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let flags = [
            (self.owns_host_files, Self::OWNS_HOST_FILES),
            (self.enters_network, Self::ENTERS_NETWORK),
        ];
        let flags =
            flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag.to_owned());
        let bound = self.bound.iter().map(|bound| format!("{}{}", Self::BOUND, bound.fs_type()));
        let sysctls = self
            .sysctls
            .iter()
            .flat_map(|(key, value)| [Self::SYSCTL.to_owned(), key.clone(), value.clone()]);
        let devices = self.devices.iter().map(|arch| format!("{}{}", Self::ARCH, arch.name));
        flags.chain(bound).chain(sysctls).chain(devices).collect()
    }

    /// What our hook is given in a container's `config`, by whoever made that: the engine, for a CDI device,
    /// and `precreate`. The default where it is not there, or given anything else.
    #[must_use]
    pub fn of_config(config: &Config) -> Self {
        let lines = config.hooks.iter().flat_map(Hooks::command_lines);
        let ours: Vec<&str> = lines.filter_map(of_our_hook).flatten().map(String::as_str).collect();
        Self::from_arguments(&ours).unwrap_or_default()
    }

    /// Understands the arguments of `create-runtime`. `None` if one is not understood.
    #[must_use]
    pub fn from_arguments(arguments: &[&str]) -> Option<Self> {
        let mut orders = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match *argument {
                Self::OWNS_HOST_FILES => orders.owns_host_files = true,
                Self::ENTERS_NETWORK => orders.enters_network = true,
                Self::SYSCTL => {
                    let (key, value) = (arguments.next()?, arguments.next()?);
                    orders.sysctls.insert((*key).to_owned(), (*value).to_owned());
                }
                other => {
                    if let Some(fs_type) = other.strip_prefix(Self::BOUND) {
                        orders.bound.push(Bound::ALL.into_iter().find(|b| b.fs_type() == fs_type)?);
                        continue;
                    }
                    let arch = arch::find(other.strip_prefix(Self::ARCH)?)?;
                    if !orders.devices.contains(&arch) {
                        orders.devices.push(arch);
                    }
                }
            }
        }
        Some(orders)
    }
}

/// Whether a runtime that is given this `config` starts our hook.
#[must_use]
pub fn is_called_by(config: &Config) -> bool {
    config.hooks.iter().flat_map(Hooks::command_lines).any(|line| of_our_hook(line).is_some())
}

/// The arguments of `create-runtime` in this command line, if it is our hook's, possibly started by another
/// program.
#[must_use]
pub fn of_our_hook(command_line: &[String]) -> Option<&[String]> {
    let is_ours = |pair: &[String]| {
        Path::new(&pair[0]).file_name().is_some_and(|name| name == "toolbx-arch-hook")
            && ["create-runtime", "prestart"].contains(&&*pair[1])
    };
    let at = command_line.windows(2).position(is_ours)?;
    Some(&command_line[at + 2..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_understood_as_they_were_made() {
        let sysctls = [("net.a", "1 2"), ("net.b=c", "x=y"), ("net.c", "--sysctl")];
        let orders = HookArguments {
            owns_host_files: true,
            bound: vec![Bound::Proc, Bound::Sysfs],
            enters_network: true,
            sysctls: sysctls.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            devices: vec![arch::find("arm64").unwrap(), arch::find("s390x").unwrap()],
        };
        let arguments = orders.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        assert_eq!(HookArguments::from_arguments(&arguments), Some(orders));
        assert_eq!(HookArguments::from_arguments(&[]), Some(HookArguments::default()));
        for wrong in [
            "--sysctl",
            "--sysctl=net.a",
            "--enters-network=1",
            "--arch=arm65",
            "--bound=tmpfs",
            "x",
        ] {
            assert_eq!(HookArguments::from_arguments(&[wrong]), None, "{wrong}");
        }
        assert_eq!(HookArguments::from_arguments(&["--sysctl", "net.a"]), None);
    }

    #[test]
    fn a_device_that_is_given_twice_asks_once() {
        let orders =
            HookArguments::from_arguments(&["--arch=arm64", "--arch=s390x", "--arch=aarch64"]);
        assert_eq!(orders.unwrap().devices, ["arm64", "s390x"].map(|n| arch::find(n).unwrap()));
    }
}
