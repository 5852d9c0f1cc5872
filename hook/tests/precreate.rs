//! The stage `precreate` as Podman runs it: a config.json on standard input, one on standard
//! output. As root in the initial user namespace or as anybody; by the machine's own policy, if it has
//! one, unless a test says otherwise. Nothing is changed on the machine.

use std::io::Write as _;
use std::process::{Command, Stdio};

const HOOK: &str = env!("CARGO_BIN_EXE_toolbx-arch-hook");

/// The exit status, and what the hook wrote to standard output and to standard error.
fn precreate(config: &[u8]) -> (i32, Vec<u8>, String) {
    fed(Command::new(HOOK).arg("precreate"), config)
}

/// The same for an ordinary user on a machine with this policy.
fn precreate_by(policy: &str, config: &[u8]) -> (i32, Vec<u8>, String) {
    let script = "mount -t tmpfs -o mode=755 lab /etc && mkdir /etc/toolbx-arch
        printf '%s' \"$1\" >/etc/toolbx-arch/policy.json && exec \"$0\" precreate";
    let mut shell = Command::new("unshare");
    shell.args(["--user", "--map-root-user", "--mount", "--propagation", "private", "sh", "-euc"]);
    fed(shell.args([script, HOOK, policy]), config)
}

fn fed(command: &mut Command, config: &[u8]) -> (i32, Vec<u8>, String) {
    let mut hook = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = hook.stdin.take().unwrap();
    // At the same time, as Podman does: what is very large is written while it is read.
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(config).unwrap());
        hook.wait_with_output().unwrap()
    });
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), output.stdout, stderr)
}

#[test]
fn what_is_not_for_us_passes_byte_for_byte() {
    let user = r#""linux": {"namespaces": [{"type": "user"}]}"#;
    let joined = r#""linux": {"namespaces": [{"type": "user", "path": "/proc/1/ns/user"}]}"#;
    let long = format!(r#"{{"x": "{}"}}"#, "y".repeat(1 << 20));
    for config in [
        "{}",
        " {\n\t\"a\" : 1e400, \"a\": 2, \"mounts\": 7 }\n\n",
        r#"{"annotations": null, "linux": null}"#,
        r#"{"annotations": {"other": "arm64"}}"#,
        r#"{"annotations": {"toolbx.arch": "none"}, "linux": {"namespaces": []}}"#,
        r#"{"annotations": {"toolbx.arch": "arm64", "toolbx.arch.userns": "engine"}}"#,
        &format!(r#"{{"annotations": {{"toolbx.arch": "arm64"}}, {user}}}"#),
        &format!(r#"{{"annotations": {{"toolbx.arch": "arm64"}}, {joined}}}"#),
        &long,
    ] {
        // Whatever this machine runs itself, one of the two is foreign.
        for arch in ["arm64", "s390x"] {
            let config = config.replace("arm64", arch);
            let (status, out, err) = precreate(config.as_bytes());
            assert_eq!((status, err.as_str()), (0, ""), "{config:.200}");
            assert!(out == config.as_bytes(), "{config:.200}");
        }
    }
}

#[test]
fn bad_input_is_refused_and_nothing_is_printed() {
    let asking = |rest: &str| {
        format!(
            r#"{{"annotations": {{"toolbx.arch": "s390x", "toolbx.arch.userns": "private"}}, "root": {{"path": "/"}}{rest}}}"#
        )
    };
    let overlapping = r#", "linux": {"namespaces": [{"type": "user"}], "uidMappings": [
        {"containerID": 0, "hostID": 1000, "size": 10}, {"containerID": 5, "hostID": 2000, "size": 10}]}"#;
    let twice = r#", "linux": {}, "hooks": {"createRuntime": [], "createRuntime": []}"#;
    for (config, part) in [
        (String::new(), "no config.json on standard input"),
        ("{".to_owned(), "EOF"),
        (asking("")[..40].to_owned(), "EOF"),
        ("[]".to_owned(), "is no object"),
        ("{} {}".to_owned(), "trailing characters"),
        (asking(overlapping), "uid mappings overlap: 0:1000:10 and 5:2000:10; correct --uidmap"),
        (asking(twice), "there twice"),
        (asking(r#", "linux": []"#), "linux: invalid type"),
        (asking(r#", "mounts": [{"type": "sysfs"}]"#), "destination"),
        (asking(r#", "hooks": {"createRuntime": [7]}"#), "createRuntime"),
        (asking(""), "toolbx-arch-hook would not be started"),
        (asking("").replace("private", "\\u001b[31m"), "neither private nor engine"),
        (asking("").replace("s390x", "s390y"), "did you mean"),
        (asking("").replace(r#""/""#, r#""/nowhere""#), "open /nowhere: ENOENT"),
        (asking("").replace(r#""/""#, r#""relative""#), "names no root directory"),
    ] {
        let (status, out, err) = precreate(config.as_bytes());
        assert_eq!((status, out.len()), (1, 0), "{config:.200}: {err}");
        assert!(err.contains(part) && err.lines().count() == 1, "{config:.200}: {part}: {err}");
        assert!(!err.contains('\u{1b}'), "{err}");
    }
    let (status, out, err) = precreate(b"{\"a\": \"\xff\"}");
    assert_eq!((status, out.len()), (1, 0), "{err}");
}

/// A native container may be that large; and one that asks is refused by the next stage.
#[test]
fn what_is_larger_than_16_mib_is_passed_on() {
    let large = format!(r#"{{"annotations": {{"toolbx.arch": "{}"}}}}"#, " ".repeat(17 << 20));
    let (status, out, err) = precreate(large.as_bytes());
    assert_eq!((status, err.as_str()), (0, ""));
    assert!(out == large.as_bytes());
}

/// Where only the policy wants a user namespace, and the container can be served without.
#[test]
fn what_cannot_be_had_and_nobody_insists_on_is_left() {
    let config = |annotations: &str| {
        format!(
            r#"{{"annotations": {{"toolbx.arch": "s390x", "other": "arm64"{annotations}}},
            "linux": {{"namespaces": [{{"type": "pid", "path": "/proc/1/ns/pid"}}]}}}}"#
        )
    };
    let wanted = r#"{"userns": "private"}"#;
    let (status, out, err) = precreate_by(wanted, config("").as_bytes());
    assert_eq!((status, err.as_str()), (0, ""));
    assert!(out == config("").as_bytes());
    let insisting = config(r#", "toolbx.arch.userns": "private""#);
    let (status, out, err) = precreate_by(wanted, insisting.as_bytes());
    assert_eq!((status, out.len()), (1, 0), "{err}");
    assert!(err.contains("joins another container's pid namespace"), "{err}");
    let forbidden = r#"{"annotations": ["toolbx.arch"]}"#;
    let (status, out, err) = precreate_by(forbidden, insisting.as_bytes());
    assert_eq!((status, out.len()), (1, 0), "{err}");
    assert!(err.contains("annotation toolbx.arch.userns"), "{err}");
}
