//! The stage `precreate` as Podman runs it: a config.json on standard input, one on standard
//! output. As root in the initial user namespace or as anybody; by the machine's own policy, if it has
//! one, unless a test says otherwise. Nothing is changed on the machine.

use std::io::{Read as _, Write as _};
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
    // The engine's own.
    let joined = joining(std::process::id(), "");
    let long = format!(r#"{{"x": "{}"}}"#, "y".repeat(1 << 20));
    for config in [
        "{}",
        " {\n\t\"a\" : 1e400, \"a\": 2, \"mounts\": 7 }\n\n",
        r#"{"annotations": null, "linux": null}"#,
        r#"{"annotations": {"other": "arm64"}}"#,
        r#"{"annotations": {"toolbx.arch": "none"}, "linux": {"namespaces": []}}"#,
        r#"{"annotations": {"toolbx.arch": "arm64", "toolbx.arch.userns": "engine"}}"#,
        &format!(r#"{{"annotations": {{"toolbx.arch": "arm64"}}, {user}}}"#),
        &joined,
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

/// A config.json of a container that joins the user namespace of the process `pid`, with further members.
fn joining(pid: u32, rest: &str) -> String {
    format!(
        r#"{{"linux": {{"namespaces": [{{"type": "user", "path": "/proc/{pid}/ns/user"}}]}}{rest}}}"#
    )
}

/// Whose map has our root as root, or whose map cannot be told, gets the hook that guards; whatever else it
/// says.
#[test]
fn who_joins_a_namespace_that_has_our_root_gets_the_hook() {
    let entry = format!(
        r#"{{"args":["toolbx-arch-hook","create-runtime"],"env":["PATH=/usr/bin:/bin"],"path":"{HOOK}","timeout":10}}"#
    );
    let hooks = format!(r#""hooks":{{"createRuntime":[{entry}]}}"#);
    let compact = |config: &str| config.replace("\": ", "\":").replace(", ", ",");
    let with_hook = |config: &str| {
        let config = config.strip_suffix('}').unwrap();
        format!("{config},{hooks}}}")
    };
    // Root in there is the caller.
    let is_root = rustix::process::geteuid().is_root();
    for (map, has_our_root) in [("--map-root-user", is_root), ("--map-user=1000", false)] {
        let mut other = Command::new("unshare")
            .args(["--user", map, "sh", "-c", "echo; read -r end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        other.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pid = other.id();
        for annotation in ["", "none", "s390x"] {
            let rest = match annotation {
                "" => String::new(),
                says => format!(r#", "annotations": {{"toolbx.arch": "{says}"}}"#),
            };
            let config = joining(pid, &rest);
            let (status, out, err) = precreate(config.as_bytes());
            assert_eq!(status, 0, "{err}");
            let out = String::from_utf8(out).unwrap();
            if has_our_root {
                assert_eq!(compact(&out), compact(&with_hook(&config)));
                let (_, again, _) = precreate(out.as_bytes());
                assert!(again == out.as_bytes(), "put there twice");
            } else {
                assert_eq!(out, config);
            }
        }
        // By a path of which nobody can tell whose map it has.
        let by_thread = joining(pid, "").replace("/ns/", &format!("/task/{pid}/ns/"));
        let (_, out, _) = precreate(by_thread.as_bytes());
        assert_eq!(compact(&String::from_utf8(out).unwrap()), compact(&with_hook(&by_thread)));
        // Too large for anything else.
        let large = joining(pid, &format!(r#","x":"{}""#, "y".repeat(17 << 20)));
        let (_, out, _) = precreate(large.as_bytes());
        assert_eq!(out.len() > large.len(), has_our_root);
        drop(other.stdin.take());
        other.wait().unwrap();
        let gone = joining(pid, "");
        let (_, out, _) = precreate(gone.as_bytes());
        assert_eq!(compact(&String::from_utf8(out).unwrap()), compact(&with_hook(&gone)));
    }
}

/// Only for annotated containers: the others are as if they asked for nothing.
#[test]
fn who_waits_for_an_annotation_hears_of_nothing_else() {
    let config = |rest: &str| {
        format!(
            r#"{{"process": {{"args": ["/x"]}}, "root": {{"path": "/"}}, "linux": [], "mounts": []{rest}}}"#
        )
    };
    let annotated = |config: &str| {
        fed(Command::new(HOOK).args(["precreate", "--annotated"]), config.as_bytes())
    };
    let (status, out, err) = annotated(&config(""));
    assert_eq!((status, err.as_str()), (0, ""));
    assert!(out == config("").as_bytes());
    let asking =
        config(r#", "annotations": {"toolbx.arch": "s390x", "toolbx.arch.userns": "private"}"#);
    let (status, out, err) = annotated(&asking);
    assert_eq!((status, out.len()), (1, 0), "{err}");
    assert!(err.contains("linux: invalid type"), "{err}");
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
