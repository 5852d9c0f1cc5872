use super::*;

fn over(text: &str) -> Result<Policy> {
    Policy::default().overridden_by(text, Path::new("/etc/toolbx-arch/policy.json"))
}

#[test]
fn a_file_overrides_key_by_key() {
    let policy = over(r#"{"credentials": "never", "architectures": ["arm64", "s390x"]}"#).unwrap();
    assert_eq!(policy.credentials, Credentials::Never);
    assert_eq!(policy.emulator_names, Policy::default().emulator_names);
    assert!(policy.allows(arch::find("aarch64").unwrap()));
    assert!(!policy.allows(arch::find("riscv64").unwrap()));
    let policy = policy
        .overridden_by(r#"{"architectures": ["all"]}"#, Path::new("/home/a/policy.json"))
        .unwrap();
    assert!(policy.allows(arch::find("riscv64").unwrap()));
    assert_eq!(policy.credentials, Credentials::Never, "kept from the file before");
}

#[test]
fn an_empty_policy_changes_nothing() {
    assert_eq!(over("{}").unwrap(), Policy::default());
}

#[test]
fn the_default_is_what_its_file_says() {
    let file: Layer = serde_json::from_str(DEFAULT).unwrap();
    let policy = Policy {
        emulator_directories: file.emulator_directories.unwrap(),
        emulator_names: file.emulator_names.unwrap(),
        emulator_sha256: file.emulator_sha256.unwrap(),
        architectures: file.architectures.unwrap(),
        credentials: file.credentials.unwrap(),
        launcher: file.launcher.unwrap(),
        emulator_arguments: file.emulator_arguments.unwrap(),
        argument_annotations: file.argument_annotations.unwrap(),
        inject: file.inject.unwrap(),
        detect: file.detect.unwrap(),
        userns: file.userns.unwrap(),
        annotations: file.annotations.unwrap(),
    };
    assert_eq!(policy, Policy::default());
}

#[test]
fn errors_name_file_line_and_key() {
    const FILE: &str = "policy /etc/toolbx-arch/policy.json:";
    for (text, line, parts) in [
        ("{\n  \"credential\": \"never\"\n}", 2, &["unknown field", "`credential`"][..]),
        (
            "{\n \"inject\": true,\n \"credentials\": \"always\"\n}",
            3,
            &["key \"credentials\"", "always"],
        ),
        ("{\n  \"inject\": \"yes\"\n}", 2, &["key \"inject\"", "invalid type"]),
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
        ("{\"inject\": true, \"inject\": false}", 1, &["duplicate field `inject`"]),
        ("[]", 1, &["a list"]),
        ("{\"inject\": true", 1, &["EOF"]),
        ("{\"inject\": true}\n{}", 2, &["trailing"]),
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
