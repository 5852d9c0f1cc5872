//! What is written to and read from binfmt_misc: the `register` line and the entries' text.
//!
//! Pure. Source: the kernel's `Documentation/admin-guide/binfmt-misc.rst` and `fs/binfmt_misc.c`.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::arch::Arch;
use crate::arch::interpreter::Interpreter;

/// The longest line that `register` takes, in bytes (`MAX_REGISTER_LENGTH`).
const REGISTER_MAX: usize = 1920;
/// What may separate the fields of a register line: the kernel takes whatever stands first. One
/// that occurs in no field has to be used.
const DELIMITERS: [u8; 5] = *b":,|\x01\x02";

/// A handler that we want registered: programs of `arch` are run by `interpreter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Whose programs.
    pub arch: &'static Arch,
    /// What is registered. The path of an emulator is that which the container's programs are told.
    pub interpreter: Interpreter,
    /// Where the emulator is on the host.
    pub emulator: PathBuf,
    /// Flag C: a set-user-ID program's rights count for the emulated program.
    pub credentials: bool,
    /// Whether the policy requires a sum of the emulator: then one that is registered already, from
    /// who knows which file, does not do.
    pub sum_required: bool,
    /// Whether an annotation asks for these arguments: then one that has others does not do.
    pub arguments_asked: bool,
}

impl Handler {
    /// The entry's file name: `toolbx-arch-` and the target.
    #[must_use]
    pub fn name(&self) -> String {
        handler_name(self.arch)
    }

    /// The flags. Always `O` (the kernel opens the program, so that one of mode 0711 runs),
    /// `P` (the program's argv\[0\] is preserved) and `F` (the emulator is opened now, and is the
    /// one that runs wherever the program lives).
    #[must_use]
    pub fn flags(&self) -> &'static str {
        if self.credentials { "OPFC" } else { "OPF" }
    }

    /// The entry that registering it makes.
    #[must_use]
    pub fn entry(&self) -> Entry {
        let pattern = &self.arch.pattern;
        Entry {
            name: self.name().into(),
            enabled: true,
            interpreter: self.interpreter.clone(),
            flags: self.flags().into(),
            matches: Match::Magic {
                offset: 0,
                magic: pattern.magic().to_vec(),
                mask: pattern.mask().to_vec(),
            },
        }
    }
}

/// What our handler for `arch` is called.
#[must_use]
pub fn handler_name(arch: &Arch) -> String {
    format!("toolbx-arch-{}", arch.name)
}

/// Every byte as `\xNN`, which `register` understands and which hides no delimiter or NUL.
fn escape(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "\\x{byte:02x}");
        text
    })
}

/// A registered entry, as its file in the instance describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file's name.
    pub name: OsString,
    /// Whether it takes part at exec.
    pub enabled: bool,
    /// What was registered.
    pub interpreter: Interpreter,
    /// The flags, in the kernel's order (`P`, `O`, `C`, `F`).
    pub flags: String,
    /// Which files it is for.
    pub matches: Match,
}

/// Which files an [`Entry`] is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// Those with these bytes at `offset`, as far as `mask` has bits.
    Magic {
        /// Offset in the file, in bytes.
        offset: usize,
        /// The bytes.
        magic: Vec<u8>,
        /// The bits that count; as long as `magic`.
        mask: Vec<u8>,
    },
    /// Those whose name ends in this, without the dot.
    Extension(OsString),
}

impl Entry {
    /// Understands the text of an entry's file: the lines that the kernel writes, in its order, and
    /// nothing else. `None` otherwise; the interpreter's path may hold newlines that forge lines.
    #[must_use]
    pub fn parse(name: &OsStr, text: &[u8]) -> Option<Self> {
        let mut lines = text.strip_suffix(b"\n")?.split(|byte| *byte == b'\n');
        let enabled = match lines.next()? {
            b"enabled" => true,
            b"disabled" => false,
            _ => return None,
        };
        let interpreter = lines.next()?.strip_prefix(b"interpreter ")?;
        let flags = lines.next()?.strip_prefix(b"flags: ")?;
        let first = lines.next()?;
        let matches = if let Some(extension) = first.strip_prefix(b"extension .") {
            Match::Extension(OsString::from_vec(extension.to_vec()))
        } else {
            let offset = std::str::from_utf8(first.strip_prefix(b"offset ")?).ok()?.parse().ok()?;
            let magic = unhex(lines.next()?.strip_prefix(b"magic ")?)?;
            let mask = match lines.next() {
                Some(line) => unhex(line.strip_prefix(b"mask ")?)?,
                None => vec![0xff; magic.len()],
            };
            if magic.is_empty() || mask.len() != magic.len() {
                return None;
            }
            Match::Magic { offset, magic, mask }
        };
        if lines.next().is_some() {
            return None;
        }
        Some(Self {
            name: name.to_owned(),
            enabled,
            interpreter: Interpreter::parse(OsStr::from_bytes(interpreter)),
            flags: String::from_utf8(flags.to_vec()).ok()?,
            matches,
        })
    }

    /// The line to write to `register` to make this entry. Fails where it does not fit into one.
    pub fn line(&self) -> Result<Vec<u8>> {
        let (kind, place, what, mask) = match &self.matches {
            Match::Magic { offset, magic, mask } => {
                (b'M', offset.to_string(), escape(magic).into_bytes(), escape(mask))
            }
            Match::Extension(name) => {
                (b'E', String::new(), name.as_bytes().to_vec(), String::new())
            }
        };
        let interpreter = self.interpreter.to_path();
        let fields: [&[u8]; 7] = [
            self.name.as_bytes(),
            &[kind],
            place.as_bytes(),
            &what,
            mask.as_bytes(),
            interpreter.as_os_str().as_bytes(),
            self.flags.as_bytes(),
        ];
        let delimiter = DELIMITERS.iter().find(|d| !fields.iter().any(|field| field.contains(d)));
        let line = delimiter.map(|delimiter| [&[*delimiter], &*fields.join(delimiter)].concat());
        match line {
            Some(line) if line.len() <= REGISTER_MAX && !line.contains(&b'\n') => Ok(line),
            _ => bail!(
                "handler {} with emulator {} does not fit into a register line ({REGISTER_MAX} \
                 bytes, no newline); move the emulator to a shorter, plainer path",
                self.name.display(),
                self.interpreter
            ),
        }
    }

    /// Whether the kernel would use this entry, if enabled, for programs of `arch`.
    #[must_use]
    pub fn serves(&self, arch: &Arch) -> bool {
        let Match::Magic { offset, magic, mask } = &self.matches else { return false };
        let header = arch.pattern.magic();
        magic.iter().zip(mask).enumerate().all(|(i, (magic, mask))| {
            (header.get(offset + i).copied().unwrap_or(0) ^ magic) & mask == 0
        })
    }

    /// Whether it works in containers.
    #[must_use]
    pub fn works_in_containers(&self) -> bool {
        self.hindrance().is_none()
    }

    /// Why it does not work in containers, if so: without flag F the emulator would have to be in them.
    /// And the flags T and L of Linux 7.3: QEMU does not understand the arguments that it gets with T, and
    /// with L the kernel looks for another program.
    #[must_use]
    pub fn hindrance(&self) -> Option<&'static str> {
        let has = |flag| self.flags.contains(flag);
        let hindrances =
            [(!has('F'), "without flag F"), (has('T'), "with flag T"), (has('L'), "with flag L")];
        hindrances.into_iter().find_map(|(is_so, hindrance)| is_so.then_some(hindrance))
    }

    /// Whether it does what `handler` would: the same programs by the same emulator, whatever its flag
    /// C, and whatever its arguments if nobody asked for them.
    #[must_use]
    pub fn is_like(&self, handler: &Handler) -> bool {
        self.interpreter.is_emulator(&handler.emulator)
            && (self.interpreter == handler.interpreter || !handler.arguments_asked)
            && self.works_in_containers()
            && self.is_for(handler.arch)
    }

    /// Whether it matches just what our own handler for `arch` does.
    #[must_use]
    pub fn is_for(&self, arch: &Arch) -> bool {
        matches!(&self.matches, Match::Magic { offset: 0, magic, mask }
            if magic == arch.pattern.magic() && mask == arch.pattern.mask())
    }
}

/// The entry that the kernel would use for `arch`: the first enabled one that matches, of a
/// listing with the newest entry first.
#[must_use]
pub fn serving<'a>(entries: &'a [Entry], arch: &Arch) -> Option<&'a Entry> {
    entries.iter().find(|entry| entry.enabled && entry.serves(arch))
}

/// Each byte as two hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes that pairs of hexadecimal digits stand for; `None` if they are no such pairs.
#[must_use]
pub fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    text.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::find;

    fn handler(path: &str) -> Handler {
        Handler {
            arch: find("arm64").unwrap(),
            interpreter: Interpreter::parse(path.as_ref()),
            emulator: path.replace("/dev/.toolbx-arch", "").into(),
            credentials: true,
            sum_required: false,
            arguments_asked: false,
        }
    }

    #[test]
    fn writes_the_register_line() {
        let entry = handler("/usr/bin/qemu").entry();
        let line = String::from_utf8(entry.line().unwrap()).unwrap();
        assert_eq!(
            line,
            ":toolbx-arch-aarch64:M:0:\
             \\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\
             \\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:\
             /usr/bin/qemu:OPFC"
        );
    }

    #[test]
    fn refuses_paths_that_do_not_fit_into_a_line() {
        for path in ["/a\nb", "/:,|\x01\x02", &format!("/{}", "x".repeat(1800))] {
            assert!(handler(path).entry().line().is_err(), "{path:?}");
        }
        assert!(handler(&format!("/{}", "x".repeat(1600))).entry().line().is_ok());
        assert!(handler("/a:b").entry().line().unwrap().starts_with(b",toolbx-arch-aarch64,M,0,"));
    }

    #[test]
    fn what_is_read_can_be_registered_again() {
        for text in [
            ENTRY.to_owned(),
            ENTRY.replace("enabled", "disabled").replace("offset 0", "offset 7"),
            "enabled\ninterpreter /usr/bin/java: x\nflags: PF\nextension .jar\n".to_owned(),
        ] {
            let entry = Entry::parse("a name, ü".as_ref(), text.as_bytes()).unwrap();
            let line = entry.line().unwrap();
            let line = String::from_utf8(line).unwrap();
            let fields: Vec<&str> = line[1..].split(&line[..1]).collect();
            assert_eq!((fields.len(), fields[0]), (7, "a name, ü"), "{line}");
            assert_eq!(fields[5], entry.interpreter.to_string());
            assert_eq!(fields[6], entry.flags);
        }
    }

    #[test]
    fn flags_of_linux_7_3() {
        for (flags, works) in [
            ("POCF", true),
            ("OF", true),
            ("OFT", false),
            ("FL", false),
            ("OCT", false),
            ("L", false),
        ] {
            let text = ENTRY.replace("flags: POCF", &format!("flags: {flags}"));
            let entry = Entry::parse("e".as_ref(), text.as_bytes()).unwrap();
            assert_eq!(entry.works_in_containers(), works, "{flags}");
        }
        // Flag D is not printed.
        let entry = Entry::parse("e".as_ref(), ENTRY.replace("enabled", "disabled").as_bytes());
        assert!(!entry.unwrap().enabled);
    }

    /// As Linux 6.18 prints them.
    const ENTRY: &str = "enabled\ninterpreter /dev/.toolbx-arch/usr/bin/q\nflags: POCF\noffset 0\n\
                         magic 7f454c460201010000000000000000000200b700\n\
                         mask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn reads_an_entry() {
        let entry = Entry::parse("e".as_ref(), ENTRY.as_bytes()).unwrap();
        assert!(entry.enabled && entry.works_in_containers());
        assert!(entry.serves(find("arm64").unwrap()) && !entry.serves(find("s390x").unwrap()));
        assert!(entry.is_like(&handler("/dev/.toolbx-arch/usr/bin/q")));
        assert!(entry.is_like(&handler("/usr/bin/q")), "the same emulator, not shown");
        assert!(!entry.is_like(&handler("/other")));
        let other = ENTRY.replace("enabled", "disabled").replace("flags: POCF", "flags: ");
        let entry = Entry::parse("e".as_ref(), other.as_bytes()).unwrap();
        assert!(!entry.enabled && !entry.works_in_containers());
    }

    #[test]
    fn arguments_matter_where_they_were_asked_for() {
        let entry = |interpreter: &str| {
            let text = ENTRY.replace("/dev/.toolbx-arch/usr/bin/q", interpreter);
            Entry::parse("e".as_ref(), text.as_bytes()).unwrap()
        };
        let launched = |interpreter: &str, arguments_asked| Handler {
            interpreter: Interpreter::parse(interpreter.as_ref()),
            arguments_asked,
            ..handler("/usr/bin/q")
        };
        for (there, wanted, like, if_asked) in [
            ("q -cpu max", "q -cpu max", true, true),
            ("q -cpu max", "q", true, false),
            ("/dev/.toolbx-arch/usr/bin/q", "q -cpu max", true, false),
            ("/usr/bin/q", "q", true, false),
            ("q", "/usr/bin/q", true, false),
            ("other -cpu max", "q -cpu max", false, false),
            ("q -g 1234", "q -cpu max", false, false),
            ("/bin/q -cpu max", "q", false, false),
        ] {
            let entry = entry(there);
            assert_eq!(entry.is_like(&launched(wanted, false)), like, "{there}, {wanted}");
            assert_eq!(
                entry.is_like(&launched(wanted, true)),
                if_asked,
                "{there}, {wanted}, asked"
            );
        }
    }

    #[test]
    fn reads_an_extension_and_a_magic_without_mask() {
        let text = b"enabled\ninterpreter /usr/bin/java\nflags: \nextension .jar\n";
        let entry = Entry::parse("Java".as_ref(), text).unwrap();
        assert_eq!(entry.matches, Match::Extension("jar".into()));
        assert!(!entry.serves(find("arm64").unwrap()));
        let text = b"enabled\ninterpreter /x y\nflags: F\noffset 18\nmagic b700\n";
        let entry = Entry::parse("x".as_ref(), text).unwrap();
        assert!(entry.serves(find("arm64").unwrap()));
        assert_eq!(entry.interpreter, Interpreter::Path("/x y".into()));
    }

    #[test]
    fn refuses_what_is_no_entry() {
        for text in [
            "",
            "enabled\n",
            "enabled\ninterpreter /x\nflags: \n",
            "enabled\nmagic 7\n",
            "enabled\ninterpreter /x\nflags: \noffset 0\nmagic \n",
            "enabled\ninterpreter /x\nflags: \noffset 0\nmagic 7f45\nmask ff\n",
            // An interpreter's path with newlines in it.
            "enabled\ninterpreter /x\nmask \nflags: F\noffset 0\nmagic 7f45\n",
            "enabled\ninterpreter /x\nflags: F\nextension .x\nflags: F\noffset 0\nmagic 7f\n",
        ] {
            assert_eq!(Entry::parse("e".as_ref(), text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn the_first_enabled_entry_serves() {
        let entry = |name: &str, text: &str| Entry::parse(name.as_ref(), text.as_bytes()).unwrap();
        let entries = [
            entry("off", &ENTRY.replace("enabled", "disabled")),
            entry("newest", ENTRY),
            entry("older", ENTRY),
        ];
        assert_eq!(serving(&entries, find("arm64").unwrap()).unwrap().name, "newest");
        assert_eq!(serving(&entries, find("s390x").unwrap()), None);
    }
}
