//! The emulator's arguments: which of QEMU's options a container can be given, and what their values
//! look like. Pure.
//!
//! They reach the emulator as part of the handler's interpreter ([`crate::host::launcher`]), so a value holds
//! no blank and no slash. Source of the values: `linux-user/main.c` of QEMU.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, ensure};
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

/// The longest name of a file, in bytes (`include/uapi/linux/limits.h`): a handler's emulator is opened
/// by this one.
const NAME_MAX: usize = 255;
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

    /// A handler's interpreter: the emulator's file name and these, separated by blanks. Fails where
    /// that is longer than the name of a file can be.
    pub fn interpreter(&self, emulator: &str) -> Result<String> {
        let interpreter = format!("{emulator}{self}");
        ensure!(
            interpreter.len() <= NAME_MAX,
            "the arguments of {emulator} take {} bytes with its name, of {NAME_MAX} that there are; \
             shorten the annotations toolbx.arch.* or the policy's emulator_arguments",
            interpreter.len()
        );
        Ok(interpreter)
    }

    /// Understands what [`Self::interpreter`] made: the file name and the arguments. `None` for
    /// everything else; somebody else may have registered it.
    #[must_use]
    pub fn of_interpreter(interpreter: &str) -> Option<(&str, Self)> {
        let mut words = interpreter.split(' ').filter(|word| *word != NOT_SECURE);
        let emulator = words.next()?;
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            let argument = ARGUMENTS.iter().find(|row| row.2 == word)?.0;
            let text = if argument == Argument::Strace { "true" } else { words.next()? };
            arguments.set(argument, Some(Value::new(argument, text).ok()?));
        }
        (format!("{emulator}{arguments}") == interpreter).then_some((emulator, arguments))
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
            (&[][..], "q"),
            (&[("cpu", "max,pauth=off")], "q -cpu max,pauth=off"),
            (&[("strace", "true"), ("cpu", "max")], "q -cpu max ! -strace"),
            (&[("strace", "true"), ("uname", "6"), ("stack-size", "1M")], "q -s 1M -r 6 ! -strace"),
        ] {
            let arguments = arguments(list).unwrap();
            assert_eq!(arguments.interpreter("q").unwrap(), written);
            assert_eq!(Arguments::of_interpreter(written), Some(("q", arguments)));
        }
        assert!(arguments(&[("strace", "false")]).unwrap().is_empty());
        let long = "a".repeat(64);
        let longest = arguments(&[("uname", &long), ("cpu", &long.repeat(2))]).unwrap();
        assert!(longest.interpreter(&"q".repeat(255 - 10 - 3 * 64)).is_ok());
        assert!(longest.interpreter(&"q".repeat(256 - 10 - 3 * 64)).is_err());
    }

    #[test]
    fn what_others_wrote_is_not() {
        for text in [
            "q -g 1234",
            "q -cpu",
            "q -cpu a/b",
            "q -D log",
            "q -plugin x.so",
            "q  -cpu max",
            "q -cpu max ",
            "q ! -cpu max",
            "q -strace",
            "q -s 1M -cpu max",
            "q -cpu max -cpu max",
            "q x",
        ] {
            assert_eq!(Arguments::of_interpreter(text), None, "{text}");
        }
    }
}
