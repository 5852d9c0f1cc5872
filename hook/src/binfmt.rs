//! What is written to and read from binfmt_misc: the `register` line and the entries' text.
//!
//! Pure. Source: the kernel's `Documentation/admin-guide/binfmt-misc.rst` and `fs/binfmt_misc.c`.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::arch::Arch;

/// Where everything of ours is in a container.
pub const VISIBLE_DIR: &str = "/dev/.toolbx-arch";
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
    /// The emulator's path as the container's programs are told it.
    pub interpreter: PathBuf,
    /// Flag C: a set-user-ID program's rights count for the emulated program.
    pub credentials: bool,
}

impl Handler {
    /// The entry's file name: `toolbx-arch-` and the target.
    #[must_use]
    pub fn name(&self) -> String {
        format!("toolbx-arch-{}", self.arch.name)
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
    /// The emulator's path as it was registered.
    pub interpreter: PathBuf,
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
    /// Understands the text of an entry's file. `None` if it is no entry as this project knows it.
    #[must_use]
    pub fn parse(name: &OsStr, text: &[u8]) -> Option<Self> {
        let mut enabled = None;
        let mut interpreter = None;
        let mut flags = String::new();
        let (mut offset, mut magic, mut mask, mut extension) = (0, None, None, None);
        for line in text.split(|byte| *byte == b'\n') {
            let (key, value) =
                line.split_at(line.iter().position(|b| *b == b' ').unwrap_or(line.len()));
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match key {
                b"enabled" => enabled = Some(true),
                b"disabled" => enabled = Some(false),
                b"interpreter" => interpreter = Some(PathBuf::from(OsStr::from_bytes(value))),
                b"flags:" => flags = String::from_utf8(value.to_vec()).ok()?,
                b"offset" => offset = std::str::from_utf8(value).ok()?.parse().ok()?,
                b"magic" => magic = Some(unhex(value)?),
                b"mask" => mask = Some(unhex(value)?),
                b"extension" => {
                    let value = value.strip_prefix(b".").unwrap_or(value);
                    extension = Some(OsString::from_vec(value.to_vec()));
                }
                _ => {}
            }
        }
        let matches = match (magic, extension) {
            (Some(magic), None) => {
                let mask = mask.unwrap_or_else(|| vec![0xff; magic.len()]);
                Match::Magic { offset, magic, mask }
            }
            (None, Some(extension)) => Match::Extension(extension),
            _ => return None,
        };
        Some(Self {
            name: name.to_owned(),
            enabled: enabled?,
            interpreter: interpreter?,
            flags,
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
        let fields: [&[u8]; 7] = [
            self.name.as_bytes(),
            &[kind],
            place.as_bytes(),
            &what,
            mask.as_bytes(),
            self.interpreter.as_os_str().as_bytes(),
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
                self.interpreter.display()
            ),
        }
    }

    /// This entry without flag C, for another user namespace: rights are not handed on.
    #[must_use]
    pub fn without_credentials(&self) -> Self {
        Self { flags: self.flags.replace('C', ""), ..self.clone() }
    }

    /// This entry with the emulator's path on the host, if it is one of ours and says where the
    /// emulator is in a container.
    #[must_use]
    pub fn with_host_path(&self) -> Self {
        Self { interpreter: host_path(&self.interpreter), ..self.clone() }
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

    /// Whether it works in containers: flag F, so that the emulator need not be in them.
    #[must_use]
    pub fn works_in_containers(&self) -> bool {
        self.flags.contains('F')
    }

    /// Whether it is what `handler` would make, whatever its flag C.
    #[must_use]
    pub fn is_like(&self, handler: &Handler) -> bool {
        let pattern = &handler.arch.pattern;
        host_path(&self.interpreter) == host_path(&handler.interpreter)
            && self.works_in_containers()
            && matches!(&self.matches, Match::Magic { offset: 0, magic, mask }
                if magic == pattern.magic() && mask == pattern.mask())
    }
}

/// The entry that the kernel would use for `arch`: the first enabled one that matches, of a
/// listing with the newest entry first.
#[must_use]
pub fn serving<'a>(entries: &'a [Entry], arch: &Arch) -> Option<&'a Entry> {
    entries.iter().find(|entry| entry.enabled && entry.serves(arch))
}

/// The emulator's visible path of a host path: below the directory that the hook makes in the
/// container's /dev.
#[must_use]
pub fn visible_path(host: &Path) -> PathBuf {
    Path::new(VISIBLE_DIR).join(host.strip_prefix("/").unwrap_or(host))
}

/// The host path of an emulator that is registered by its visible path or by its host path.
fn host_path(interpreter: &Path) -> PathBuf {
    Path::new("/").join(interpreter.strip_prefix(VISIBLE_DIR).unwrap_or(interpreter))
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
        Handler { arch: find("arm64").unwrap(), interpreter: path.into(), credentials: true }
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
            let line = entry.without_credentials().line().unwrap();
            let line = String::from_utf8(line).unwrap();
            let fields: Vec<&str> = line[1..].split(&line[..1]).collect();
            assert_eq!((fields.len(), fields[0]), (7, "a name, ü"), "{line}");
            assert_eq!(Path::new(fields[5]), entry.interpreter);
            assert!(!fields[6].contains('C') && fields[6].contains('F'), "{line}");
        }
    }

    #[test]
    fn our_own_entries_lead_to_the_host() {
        let entry = handler("/dev/.toolbx-arch/usr/bin/q").entry();
        assert_eq!(entry.with_host_path().interpreter, Path::new("/usr/bin/q"));
        assert_eq!(handler("/usr/bin/q").entry().with_host_path(), handler("/usr/bin/q").entry());
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
    fn reads_an_extension_and_a_magic_without_mask() {
        let text = b"enabled\ninterpreter /usr/bin/java\nflags: \nextension .jar\n";
        let entry = Entry::parse("Java".as_ref(), text).unwrap();
        assert_eq!(entry.matches, Match::Extension("jar".into()));
        assert!(!entry.serves(find("arm64").unwrap()));
        let text = b"enabled\ninterpreter /x y\nflags: F\noffset 18\nmagic b700\n";
        let entry = Entry::parse("x".as_ref(), text).unwrap();
        assert!(entry.serves(find("arm64").unwrap()));
        assert_eq!(entry.interpreter, Path::new("/x y"));
    }

    #[test]
    fn refuses_what_is_no_entry() {
        for text in ["", "enabled\n", "enabled\ninterpreter /x\nflags: \n", "enabled\nmagic 7\n"] {
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

    #[test]
    fn visible_paths_mirror_the_host() {
        let path = visible_path(Path::new("/usr/bin/qemu-arm-static"));
        assert_eq!(path, Path::new("/dev/.toolbx-arch/usr/bin/qemu-arm-static"));
    }
}
