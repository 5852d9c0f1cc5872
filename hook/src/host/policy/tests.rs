use std::ffi::OsString;
use std::path::Path;

use serde_json::Value;

use super::keys::KEYS;
use super::layer::DEFAULT;
use super::own::{home_in, home_of, outer_uid};
use super::*;
use crate::arch;

const FILE: &str = "/etc/toolbx-arch/policy.json";

fn over(text: &str) -> Result<Policy> {
    Policy::of_file(text, Path::new(FILE))
}

#[test]
fn a_file_overrides_key_by_key() {
    let layer = |text| Layer::parse(text, Path::new(FILE)).unwrap();
    let early = layer(r#"{"credentials": "never", "architectures": ["arm64", "s390x"]}"#);
    let policy = Policy::from(layer("{}").over(early));
    assert_eq!(policy.credentials, Credentials::Never);
    assert_eq!(policy.emulator_names, Policy::default().emulator_names);
    assert!(policy.allows(arch::find("aarch64").unwrap()));
    assert!(!policy.allows(arch::find("riscv64").unwrap()));
    let early = layer(r#"{"credentials": "never", "architectures": ["arm64", "s390x"]}"#);
    let policy = Policy::from(layer(r#"{"architectures": ["all"]}"#).over(early));
    assert!(policy.allows(arch::find("riscv64").unwrap()));
    assert_eq!(policy.credentials, Credentials::Never, "kept from the file before");
}

#[test]
fn an_empty_policy_changes_nothing() {
    assert_eq!(over("{}").unwrap(), Policy::default());
}

/// The keys of a JSON object that are keys of the policy too, or should be.
fn keys_of(object: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.retain(|key| *key != "$schema");
    keys
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn whatever_lists_the_keys_lists_all() {
    let mut keys = KEYS.to_vec();
    keys.sort_unstable();
    let schema = json(include_str!("../../../../policies/policy.schema.json"));
    assert_eq!(keys_of(&schema["properties"]), keys);
    assert_eq!(keys_of(&json(DEFAULT)), keys);
    // It is to stay as it is whatever a later default says.
    assert_eq!(keys_of(&json(include_str!("../../../../policies/ci.json"))), keys);
}

#[test]
fn the_manual_describes_every_key_and_the_default() {
    const MANUAL: &str = include_str!("../../../../docs/toolbx-arch-policy.5.md");
    let (_, keys) = MANUAL.split_once("\n# KEYS\n").unwrap();
    let (keys, examples) = keys.split_once("\n# EXAMPLES\n").unwrap();
    let described = keys.lines().filter_map(|line| line.strip_prefix("**")?.split_once("** ("));
    let described: Vec<_> = described.map(|(key, _)| key).filter(|key| *key != "$schema").collect();
    assert_eq!(described, KEYS);
    let mut example = json(examples.split("```").nth(1).unwrap());
    example["$schema"] = "policy.schema.json".into();
    assert_eq!(example, json(DEFAULT));
}

#[test]
fn the_built_in_default_is_what_the_installed_file_says() {
    let installed = std::fs::read_to_string("../policies/default.json").unwrap();
    let installed = Layer::parse(&installed, Path::new(FILE)).unwrap().complete();
    assert_eq!(installed.expect("it has every key"), Policy::default());
}

#[test]
fn errors_name_file_line_and_key() {
    const FILE: &str = "policy /etc/toolbx-arch/policy.json:";
    for (text, line, parts) in [
        ("{\n  \"credential\": \"never\"\n}", 2, &["unknown field", "`credential`"][..]),
        (
            "{\n \"show_emulator\": true,\n \"credentials\": \"always\"\n}",
            3,
            &["key \"credentials\"", "always"],
        ),
        ("{\n  \"show_emulator\": \"yes\"\n}", 2, &["key \"show_emulator\"", "invalid type"]),
        (
            "{\n\n \"emulator_directories\": [\n \"/usr/bin\",\n \"bin\"]\n}",
            5,
            &["key \"emulator_directories\"", "absolute"],
        ),
        (
            "{\"emulator_directories\": [\"/a\\nb\"]}",
            1,
            &["key \"emulator_directories\"", "control character"],
        ),
        ("{\"emulator_directories\": [\"/a/../b\"]}", 1, &["'..'"]),
        ("{\"emulator_names\": [\"qemu\"]}", 1, &["key \"emulator_names\"", "{cpu}"]),
        ("{\"emulator_names\": [\"../{cpu}\"]}", 1, &["slash"]),
        ("{\"architectures\": [\"arm65\"]}", 1, &["key \"architectures\"", "did you mean"]),
        ("{\"annotations\": [\"toolbx.arhc\"]}", 1, &["key \"annotations\"", "toolbx.arhc"]),
        ("{\"emulator_sha256\": {\"arm64\": [\"abc\"]}}", 1, &["SHA-256"]),
        ("{\"emulator_sha256\": {\"arm65\": []}}", 1, &["arm65"]),
        (
            "{\"show_emulator\": true, \"show_emulator\": false}",
            1,
            &["duplicate field `show_emulator`"],
        ),
        ("[]", 1, &["a list"]),
        ("{\"show_emulator\": true", 1, &["EOF"]),
        ("{\"show_emulator\": true}\n{}", 2, &["trailing"]),
        ("", 1, &["EOF"]),
    ] {
        let error = format!("{:#}", over(text).expect_err(text));
        assert!(error.starts_with(&format!("{FILE}{line}:")), "{text:?}: {error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{text:?}: {error}");
        assert!(!error.contains(" column "), "the position is said once: {error}");
    }
}

#[test]
fn nothing_is_named_twice() {
    const FILE: &str = "policy /etc/toolbx-arch/policy.json:";
    for (text, line, key, before) in [
        ("{\n\"emulator_sha256\": {\n\"aarch64\": [],\n\"arm64\": []}}", 4, "arm64", "aarch64"),
        ("{\"emulator_sha256\": {\"arm64\": [], \"arm64\": []}}", 1, "arm64", "arm64"),
        ("{\"emulator_arguments\": {\"all\": {}, \"i386\": {}, \"i686\": {}}}", 1, "i686", "i386"),
        ("{\"emulator_arguments\": {\"all\": {}, \"all\": {}}}", 1, "all", "all"),
        ("{\"emulator_arguments\": {\"all\": {\"cpu\": \"a\", \"cpu\": \"b\"}}}", 1, "cpu", "cpu"),
        (
            "{\"argument_annotations\": {\"arm64\": [], \"linux/arm64\": []}}",
            1,
            "linux/arm64",
            "arm64",
        ),
    ] {
        let error = format!("{:#}", over(text).expect_err(text));
        let said = format!(
            "{FILE}{line}: key \"{key}\": it is the same as \"{before}\" before it; remove one"
        );
        assert_eq!(error, said, "{text:?}");
    }
    let error = format!("{:#}", over("{\"emulator_sha256\": {\"all\": []}}").unwrap_err());
    assert!(error.contains("unknown architecture \"all\""), "{error}");
}

#[test]
fn finds_the_home_of_the_namespaces_owner() {
    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                          alice:x:1000:1000:Alice:/home/alice:/bin/bash\nbroken\nb:x:7\n\
                          odd:x:8:8::relative:/bin/sh\n";
    assert_eq!(outer_uid("         0       1000          1\n 1 100000 65536\n"), Some(1000));
    assert_eq!(outer_uid(""), None);
    assert_eq!(home_of(1000, PASSWD), Some("/home/alice".into()));
    assert_eq!(home_of(7, PASSWD), None);
    assert_eq!(home_of(8, PASSWD), None);
    assert_eq!(home_of(9, PASSWD), None);
    for (environment, home) in [
        (&b"PATH=/bin\0HOME=/home/ldap\0X=HOME=/x\0"[..], Some("/home/ldap")),
        (b"XHOME=/a\0HOME=", Some("")),
        (b"PATH=/bin\0", None),
        (b"", None),
    ] {
        assert_eq!(home_in(environment), home.map(OsString::from));
    }
}

#[test]
fn names_are_made_from_patterns() {
    let name = NamePattern::try_from("qemu-{cpu}-static".to_owned()).unwrap();
    assert_eq!(name.of(arch::find("arm64").unwrap()), "qemu-aarch64-static");
    assert_eq!(name.of(arch::find("i486").unwrap()), "qemu-i386-static");
}
