use serde_json::{Value, json};

use super::*;

/// A state as the specification has it.
fn state() -> Value {
    let annotations = [("toolbx.arch", "arm64"), ("io.container.manager", "libpod")];
    let state = runtime::StateBuilder::default()
        .version("1.0.2")
        .id("3f2a")
        .status(runtime::ContainerState::Created)
        .pid(92)
        .bundle("/b")
        .annotations(annotations.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .build();
    serde_json::to_value(state.unwrap()).unwrap()
}

fn read(state: &Value) -> Result<State> {
    State::read(state.to_string().as_bytes())
}

#[test]
fn reads_what_runtimes_send() {
    let expected = State {
        id: "3f2a".into(),
        oci_version: "1.0.2".into(),
        pid: 92,
        bundle: "/b".into(),
        annotations: Some([("toolbx.arch".to_owned(), "arm64".to_owned())].into()),
        root: None,
    };
    assert_eq!(read(&state()).unwrap(), expected);
    let mut crun = state();
    crun["root"] = "/r/merged".into();
    let root = Some("/r/merged".into());
    assert_eq!(read(&crun).unwrap(), State { root, ..expected });
    // runc has none where the container has none.
    let mut runc = state();
    runc.as_object_mut().unwrap().remove("annotations");
    assert_eq!(read(&runc).unwrap().annotations, None);
}

#[test]
fn no_status_stops_a_container() {
    let expected = read(&state()).unwrap();
    for status in ["creating", "created", "running", "stopped", "paused", "thawing", ""] {
        let mut state = state();
        state["status"] = status.into();
        assert_eq!(read(&state).unwrap(), expected, "{status}");
    }
    for status in [Value::Null, 5.into(), vec!["created"].into()] {
        let mut state = state();
        state["status"] = status;
        state["new"] = vec![1].into();
        assert_eq!(read(&state).unwrap(), expected);
    }
    let mut state = state();
    state.as_object_mut().unwrap().remove("status");
    assert_eq!(read(&state).unwrap(), expected);
}

#[test]
fn refuses_what_is_no_state() {
    for (text, part) in [
        ("", "no container state"),
        ("{", "EOF"),
        ("[]", "names no process"),
        ("null", "invalid"),
        (r#"{"id":"a","bundle":"/b"}"#, "names no process"),
        (r#"{"id":"a","pid":0}"#, "names no process"),
        (r#"{"id":"a","pid":-1}"#, "names no process"),
        (r#"{"id":"a","pid":"5"}"#, "invalid type"),
        (r#"{"id":"a","pid":99999999999}"#, "invalid value"),
        (r#"{"id":"a","pid":5,"status":"thawing","annotations":[]}"#, "invalid type"),
        (r#"{"id":"a","pid":5,"pid":6}"#, "the same as"),
    ] {
        let error = format!("{:#}", State::read(text.as_bytes()).unwrap_err());
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn refuses_a_huge_state_but_reads_it_to_its_end() {
    let mut huge = std::io::repeat(b' ').take(50 * 1024 * 1024);
    let error = State::read(&mut huge).unwrap_err().to_string();
    assert!(error.contains("larger than 8 MiB"), "{error}");
    assert_eq!(huge.limit(), 0);
}

#[test]
fn understands_what_the_specification_shows() {
    let mut spec = serde_json::to_value(runtime::Spec::rootless(1000, 1000)).unwrap();
    spec["annotations"] = json!({"toolbx.arch": "arm64", "io.container.manager": "libpod"});
    let config = Config::parse(spec.to_string().as_bytes()).unwrap();
    assert!(config.has_own_dev() && config.has_own_user_namespace());
    assert_eq!(config.root, Some(Root { path: "rootfs".into() }));
    let command = config.command.unwrap();
    assert_eq!((command.args, command.cwd), (vec!["sh".to_owned()], "/".into()));
    assert!(command.env.iter().any(|variable| variable.starts_with("PATH=")));
    assert!(config.annotations.unwrap().into_keys().eq(["toolbx.arch"]));
}

#[test]
fn unknown_keys_and_values_do_not_matter() {
    let config = Config::parse(
        br#"{"ociVersion":"9.9","root":{"path":"rootfs","readonly":"perhaps"},
        "process":{"capabilities":{"bounding":["CAP_FROM_THE_FUTURE"]},"args":7},
        "mounts":[{"destination":"/proc","type":"proc","options":[1]},
                  {"destination":"/x","uidMappings":{}},
                  {"destination":"/dev","type":"tmpfs"}],
        "linux":{"namespaces":[{"type":"galaxy"},{"type":"user"}],"seccomp":{"architectures":["X"]},
                 "intelRdt":[]},
        "hooks":5,"vm":[],"annotations":{"a":"b"}}"#,
    )
    .unwrap();
    assert!(config.has_own_dev() && config.has_own_user_namespace());
}

#[test]
fn the_last_mount_on_dev_decides() {
    let config =
        |mounts: &str| Config::parse(format!(r#"{{"mounts":[{mounts}]}}"#).as_bytes()).unwrap();
    let tmpfs = r#"{"destination":"/dev","type":"tmpfs"}"#;
    let bind = r#"{"destination":"/dev/","type":"bind","source":"/dev"}"#;
    let below = r#"{"destination":"/dev/shm","type":"bind"}"#;
    assert!(config(tmpfs).has_own_dev());
    assert!(config(&format!("{tmpfs},{below}")).has_own_dev());
    assert!(!config(&format!("{tmpfs},{bind}")).has_own_dev());
    assert!(config(&format!("{bind},{tmpfs}")).has_own_dev());
    assert!(!config("").has_own_dev());
    assert!(!config(r#"{"destination":"/dev"}"#).has_own_dev());
}

#[test]
fn a_joined_user_namespace_is_not_its_own() {
    let config = |ns: &str| {
        Config::parse(format!(r#"{{"linux":{{"namespaces":[{ns}]}}}}"#).as_bytes()).unwrap()
    };
    assert!(config(r#"{"type":"user"}"#).has_own_user_namespace());
    assert!(!config(r#"{"type":"user","path":"/proc/5/ns/user"}"#).has_own_user_namespace());
    assert!(!config(r#"{"type":"mount"}"#).has_own_user_namespace());
}

#[test]
fn finds_the_bundle_that_crun_misreports() {
    let root = std::env::temp_dir().join(format!("toolbx-arch-bundle-{}", std::process::id()));
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("config.json"), r#"{"root":{"path":"/r/merged"}}"#).unwrap();
    let path = root.to_str().unwrap();
    let runtime = format!("/usr/bin/crun\0create\0--bundle\0{path}\0--pid-file\0x\0id\0");
    let none = root.join("none");
    let state = State {
        id: "i".into(),
        bundle: none.clone(),
        root: Some("/r/merged".into()),
        ..State::default()
    };

    assert_eq!(Bundle::find(&state, || runtime.clone().into_bytes()).unwrap().path, root);
    // Somebody else's bundle: only the rootfs is known then.
    let other = State { root: Some("/r/other".into()), ..state.clone() };
    let bundle = Bundle::find(&other, || runtime.clone().into_bytes()).unwrap();
    assert_eq!((bundle.path.clone(), bundle.rootfs()), (none.clone(), Some("/r/other".into())));
    assert!(Bundle::find(&state, || b"conmon\0-b\0relative\0".to_vec()).is_ok());
    let bare = State { root: None, ..state };
    assert!(Bundle::find(&bare, || runtime.clone().into_bytes()).is_err());

    std::fs::write(root.join("config.json"), "{").unwrap();
    let broken = State { bundle: root.clone(), ..bare };
    assert!(Bundle::find(&broken, Vec::new).is_err());
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_relative_rootfs_is_in_the_bundle() {
    let config = Config::parse(br#"{"root":{"path":"rootfs"}}"#).unwrap();
    let bundle = Bundle { path: "/b".into(), config };
    assert_eq!(bundle.rootfs(), Some("/b/rootfs".into()));
}
