//! The emulator's arguments: which of QEMU's options a container can be given, and what their values
//! look like. Pure.
//!
//! They reach the emulator as part of the handler's [interpreter](crate::arch::interpreter), so a value holds
//! no blank and no slash. Source of the values: `linux-user/main.c` of QEMU.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use crate::base::members::Members;

/// One of QEMU's options, by the name that annotations and the policy use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Argument {
    /// The CPU model, with its properties.
    Cpu,
    /// How many bytes of addresses are reserved for the program.
    ReservedVa,
    /// At which of the emulator's addresses the program's begin.
    GuestBase,
    /// The size of the program's stack in bytes.
    StackSize,
    /// The kernel release that uname(2) tells.
    Uname,
    /// Whether every system call is written to standard error.
    Strace,
}

/// Each with its name, QEMU's option, and what a value may be.
const ARGUMENTS: [(Argument, &str, &str, &str); 6] = [
    (Argument::Cpu, "cpu", "-cpu", "a CPU model of QEMU with its properties, as max,pauth=off"),
    (Argument::ReservedVa, "reserved-va", "-R", "a number of bytes, as 0x100000000 or 4G"),
    (Argument::GuestBase, "guest-base", "-B", "an address, as 0x800000000000"),
    (Argument::StackSize, "stack-size", "-s", "a number of bytes, as 16M"),
    (Argument::Uname, "uname", "-r", "a kernel release, as 6.12.0"),
    (Argument::Strace, "strace", "-strace", "true or false"),
];

/// What ends the options that set-user-ID programs have too.
const NOT_SECURE: &str = "!";

impl Argument {
    /// The one of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        ARGUMENTS.iter().find(|(_, known, ..)| *known == name).map(|row| row.0)
    }

    fn row(self) -> &'static (Self, &'static str, &'static str, &'static str) {
        ARGUMENTS.iter().find(|row| row.0 == self).expect("the table is complete")
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// QEMU's option.
    fn option(self) -> &'static str {
        self.row().2
    }

    /// What a value may be, for messages.
    #[must_use]
    pub fn values(self) -> &'static str {
        self.row().3
    }

    fn accepts(self, value: &str) -> bool {
        match self {
            Self::Cpu => {
                let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._+,=-".contains(&b);
                value.len() <= 128
                    && value.starts_with(|first: char| first.is_ascii_alphanumeric())
                    && value.bytes().all(is_plain)
            }
            Self::ReservedVa => {
                is_number(value.strip_suffix(['k', 'K', 'M', 'G']).unwrap_or(value))
            }
            Self::StackSize => is_number(value.strip_suffix(['k', 'K', 'M']).unwrap_or(value)),
            Self::GuestBase => is_number(value),
            Self::Uname => {
                let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._+~-".contains(&b);
                (1..=64).contains(&value.len()) && value.bytes().all(is_plain)
            }
            Self::Strace => ["true", "false"].contains(&value),
        }
    }
}

/// Whether strtoul(3) takes all of it for one number: decimal, or hexadecimal with `0x`. QEMU would
/// take one with a leading zero for octal, and nobody means that.
fn is_number(text: &str) -> bool {
    let digits = |text: &str, most: usize, is_digit: fn(&u8) -> bool| {
        (1..=most).contains(&text.len()) && text.as_bytes().iter().all(is_digit)
    };
    match text.strip_prefix("0x") {
        Some(hex) => digits(hex, 16, u8::is_ascii_hexdigit),
        None => digits(text, 18, u8::is_ascii_digit) && (text == "0" || !text.starts_with('0')),
    }
}

/// A value that fits its argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(String);

impl Value {
    /// Fails, saying what is expected, on anything else.
    pub fn new(argument: Argument, text: &str) -> std::result::Result<Self, String> {
        if argument.accepts(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("{} is not {}", crate::base::message::shown(text), argument.values()))
        }
    }
}

/// The arguments of one emulator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Members<Argument, String>")]
pub struct Arguments(BTreeMap<Argument, Value>);

impl TryFrom<Members<Argument, String>> for Arguments {
    type Error = String;
    fn try_from(members: Members<Argument, String>) -> std::result::Result<Self, String> {
        let mut arguments = Self::default();
        for (argument, text) in members.0 {
            arguments.set(argument, Some(Value::new(argument, &text)?));
        }
        Ok(arguments)
    }
}

impl Arguments {
    /// Whether the emulator gets none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets one, or, without a value, leaves it to the emulator.
    pub fn set(&mut self, argument: Argument, value: Option<Value>) {
        match value {
            Some(Value(value)) if argument == Argument::Strace && value == "false" => {
                self.0.remove(&argument)
            }
            Some(value) => self.0.insert(argument, value),
            None => self.0.remove(&argument),
        };
    }

    /// Understands what [`fmt::Display`] wrote, to the byte. `None` for everything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut arguments = Self::default();
        let mut words = text.split(' ').skip(1).filter(|word| *word != NOT_SECURE);
        while let Some(word) = words.next() {
            let argument = ARGUMENTS.iter().find(|row| row.2 == word)?.0;
            let text = if argument == Argument::Strace { "true" } else { words.next()? };
            arguments.set(argument, Some(Value::new(argument, text).ok()?));
        }
        (arguments.to_string() == text).then_some(arguments)
    }
}

/// As they stand behind the emulator's name. What a set-user-ID program says to the kernel is nothing
/// for the eyes of whoever called it.
impl fmt::Display for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (argument, Value(value)) in &self.0 {
            match argument {
                Argument::Strace => write!(f, " {NOT_SECURE} {}", argument.option())?,
                _ => write!(f, " {} {value}", argument.option())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(list: &[(&str, &str)]) -> std::result::Result<Arguments, String> {
        let named =
            |(name, value): &(&str, &str)| (Argument::find(name).unwrap(), (*value).to_owned());
        Members(list.iter().map(named).collect()).try_into()
    }

    #[test]
    fn values_are_strict() {
        let long = "9".repeat(19);
        for (name, good, bad) in [
            (
                "cpu",
                &["max", "max,pauth=off", "Skylake-Client,+avx2,-x2apic", "rv64,vlen=128", "24Kf"]
                    [..],
                &["", "-max", ",", "a b", "a/b", "a!", "a\n", "a\0", "ü", "a:b", "?"][..],
            ),
            (
                "reserved-va",
                &["0", "4G", "0x100000000", "16k"],
                &["", "G", "04", "1T", "0x", "-1", "1 G", &long],
            ),
            ("stack-size", &["8M", "8388608"], &["8G", "M", "8MM", "8m", "+8"]),
            ("guest-base", &["0x800000000000", "4096"], &["0x", "1M", "0y1"]),
            ("uname", &["6.12.0-rc1+x~1"], &["", "a b", "a/b", "a,b"]),
            ("strace", &["true", "false"], &["", "yes", "TRUE", "-D"]),
        ] {
            for value in good {
                assert!(arguments(&[(name, value)]).is_ok(), "{name} {value}");
            }
            for value in bad {
                assert!(arguments(&[(name, value)]).is_err(), "{name} {value}");
            }
            assert!(arguments(&[(name, &"x".repeat(10_000))]).unwrap_err().len() < 200);
        }
    }

    #[test]
    fn what_is_written_is_understood() {
        for (list, written) in [
            (&[][..], ""),
            (&[("cpu", "max,pauth=off")], " -cpu max,pauth=off"),
            (&[("strace", "true"), ("cpu", "max")], " -cpu max ! -strace"),
            (&[("strace", "true"), ("uname", "6"), ("stack-size", "1M")], " -s 1M -r 6 ! -strace"),
        ] {
            let arguments = arguments(list).unwrap();
            assert_eq!(arguments.to_string(), written);
            assert_eq!(Arguments::parse(written), Some(arguments));
        }
        assert!(arguments(&[("strace", "false")]).unwrap().is_empty());
    }

    #[test]
    fn what_others_wrote_is_not() {
        for text in [
            " -g 1234",
            " -cpu",
            " -cpu a/b",
            " -D log",
            " -plugin x.so",
            "  -cpu max",
            " -cpu max ",
            " ! -cpu max",
            " -strace",
            " -s 1M -cpu max",
            " -cpu max -cpu max",
            " x",
            "-cpu max",
            "x",
            " ",
        ] {
            assert_eq!(Arguments::parse(text), None, "{text}");
        }
    }
}
