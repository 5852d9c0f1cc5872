use super::*;

/// The published patterns: QEMU's name, class, byte order, e_machine, family, OCI name, magic, mask,
/// note.
const PUBLISHED: &str = include_str!("../../../tests/binfmt-targets.tsv");

/// Of each row, a header of `ET_EXEC` and one of `ET_DYN`, by the fields that it publishes.
fn samples(row: &[&str]) -> [Vec<u8>; 2] {
    let msb = row[2] == "BE";
    let mut header = unhex(row[6]);
    header.resize(64, 0);
    header[5] = 1 + u8::from(msb);
    let machine: u16 = row[3].parse().unwrap();
    header[18..20].copy_from_slice(&if msb {
        machine.to_be_bytes()
    } else {
        machine.to_le_bytes()
    });
    [2u16, 3].map(|e_type| {
        let mut header = header.clone();
        header[16..18].copy_from_slice(&if msb {
            e_type.to_be_bytes()
        } else {
            e_type.to_le_bytes()
        });
        header
    })
}

fn published() -> Vec<Vec<&'static str>> {
    PUBLISHED
        .lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with("qemu_cpu"))
        .map(|line| line.split('\t').collect())
        .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    crate::arch::binfmt::unhex(text.as_bytes()).unwrap()
}

#[test]
fn table_is_what_qemu_publishes() {
    let rows = published();
    assert_eq!(rows.len(), ARCHES.len());
    for (arch, row) in ARCHES.iter().zip(&rows) {
        assert_eq!(arch.name, row[0]);
        let (magic, mask) = (unhex(row[6]), unhex(row[7]));
        assert_eq!(arch.family, row[4], "family of {}", arch.name);
        if arch.name == "microblaze" {
            // Published with e_type in the wrong byte order; the reason stands in the table.
            assert_eq!((&magic[16..18], &mask[16..18]), (&[2, 0][..], &[0xfe, 0xff][..]));
            assert_eq!(arch.pattern.magic()[16..18], [0, 2]);
            assert_eq!(arch.pattern.mask()[16..18], [0xff, 0xfe]);
            continue;
        }
        // Bits that do not count may be set in a published magic.
        let magic: Vec<u8> = magic.iter().zip(&mask).map(|(magic, mask)| magic & mask).collect();
        assert_eq!(arch.pattern.magic(), magic, "magic of {}", arch.name);
        assert_eq!(arch.pattern.mask(), mask, "mask of {}", arch.name);
        let oci = row[5].trim_matches(['(', ')']);
        if arch.name == "i486" {
            assert_eq!(arch.oci, None, "386 means i386");
        } else if arch.name == "arm" {
            assert_eq!(arch.oci, Some("arm"));
        } else {
            assert_eq!(arch.oci.unwrap_or("-"), oci, "OCI name of {}", arch.name);
        }
    }
}

#[test]
fn a_program_is_of_one_target() {
    for row in published() {
        for sample in samples(&row) {
            let matching: Vec<_> =
                ARCHES.iter().filter(|a| a.pattern.matches(&sample)).map(|a| a.name).collect();
            assert_eq!(matching, [row[0]], "a program for {}", row[0]);
        }
    }
}

#[test]
fn patterns_say_nothing_outside_their_mask() {
    for arch in &ARCHES {
        let pattern = &arch.pattern;
        assert!(
            pattern.magic().iter().zip(pattern.mask()).all(|(a, b)| a & !b == 0),
            "{}",
            arch.name
        );
    }
}

/// The rows against what the installed distribution registers itself, where both look at a bit.
#[test]
fn table_agrees_with_the_distribution() {
    // Unpacked by `make images`.
    const DIRECTORY: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../target/images/qemu/usr/lib/binfmt.d");
    /// Targets that newer QEMU versions no longer have.
    const GONE: [&str; 2] = ["cris", "nios2"];
    /// Where masks may differ: distributions disagree on `EI_DATA` to `EI_ABIVERSION`, and on
    /// `e_version` of the MIPS rows.
    const MAY_DIFFER: [std::ops::Range<usize>; 2] = [5..9, 20..24];

    let mut compared = 0;
    let files = std::fs::read_dir(DIRECTORY);
    for file in files.unwrap_or_else(|error| panic!("{DIRECTORY}: {error}; run: make images")) {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let Some(target) = name.strip_prefix("qemu-") else { continue };
        if GONE.contains(&target) {
            continue;
        }
        let arch = find(target).unwrap_or_else(|| panic!("{} is not in the table", path.display()));
        let text = std::fs::read_to_string(&path).unwrap();
        let fields: Vec<&str> = text.trim().split(':').collect();
        let (magic, mask) = (unescape(fields[4]), unescape(fields[5]));
        let ours = arch.pattern.magic().iter().zip(arch.pattern.mask());
        for (i, ((theirs, their_mask), (our, our_mask))) in
            magic.iter().zip(&mask).zip(ours).enumerate()
        {
            assert_eq!((theirs ^ our) & their_mask & our_mask, 0, "{target}, byte {i}");
            assert!(
                their_mask == our_mask || MAY_DIFFER.iter().any(|range| range.contains(&i)),
                "{target}, byte {i}: mask {their_mask:02x}, ours {our_mask:02x}"
            );
        }
        compared += 1;
    }
    assert!(compared >= 25, "{DIRECTORY} has handlers for {compared} targets only");
}

/// `\xNN` and plain characters, as in binfmt.d.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'\\' {
            bytes.extend(crate::arch::binfmt::unhex(&tail[1..3]).unwrap());
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

#[test]
fn names_lead_to_targets() {
    for (name, target) in [
        ("arm64", "aarch64"),
        ("ARM64", "aarch64"),
        ("arm64/v8", "aarch64"),
        ("linux/arm64", "aarch64"),
        ("linux/arm/v7", "arm"),
        ("arm/v5", "arm"),
        ("armhf", "arm"),
        ("amd64/v3", "x86_64"),
        ("x86-64", "x86_64"),
        ("386", "i386"),
        ("i686", "i386"),
        ("i486", "i486"),
        ("ppc64el", "ppc64le"),
        ("mips64le", "mips64el"),
        ("loong64", "loongarch64"),
        ("s390x", "s390x"),
    ] {
        assert_eq!(find(name).map(|arch| arch.name), Some(target), "{name}");
    }
    for name in ["", "arm65", "linux/", "../../etc", "arm64\0", "auto", "none", "all"] {
        assert_eq!(find(name), None, "{name:?}");
    }
}

#[test]
fn names_are_unique() {
    for arch in &ARCHES {
        let rows = ARCHES.iter().filter(|other| {
            arch.names().any(|name| other.names().any(|n| n.eq_ignore_ascii_case(name)))
        });
        assert_eq!(rows.count(), 1, "{}", arch.name);
    }
}

#[test]
fn the_schema_of_the_policy_knows_the_same_names() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../../policies/policy.schema.json")).unwrap();
    let mut theirs: Vec<_> = schema["definitions"]["architecture"]["enum"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    let mut ours: Vec<_> = ARCHES.iter().flat_map(Arch::names).collect();
    for names in [&mut theirs, &mut ours] {
        names.sort_unstable();
        names.dedup();
    }
    assert_eq!(theirs, ours);
}

#[test]
fn suggests_the_nearest_name() {
    for (name, nearest) in
        [("arm46", "arm"), ("aarch46", "aarch64"), ("s390", "s390x"), ("ppc64l", "ppc64el")]
    {
        let text = unknown(name);
        assert!(text.contains(&format!("did you mean {nearest}")), "{text}");
    }
    let text = unknown("\u{1b}[31m\n");
    assert!(!text.contains('\n') && !text.contains('\u{1b}'), "{text}");
    assert!(unknown(&"x".repeat(1_000_000)).len() < 300);
}
