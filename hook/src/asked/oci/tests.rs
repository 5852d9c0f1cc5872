use super::*;

#[test]
fn reads_what_runtimes_send() {
    let crun = br#"{"ociVersion":"1.0","id":"3f2a","pid":92,"root":"/r/merged","bundle":"/",
        "status":"created","annotations":{"toolbx.arch":"arm64"}}"#;
    let state = State::read(&crun[..]).unwrap();
    assert_eq!((state.id.as_str(), state.pid), ("3f2a", 92));
    assert_eq!(state.root, Some("/r/merged".into()));
    assert_eq!(state.annotations.unwrap()["toolbx.arch"], "arm64");
    // runc, and a status that only a later runtime knows.
    let runc = br#"{"id":"a","pid":5,"bundle":"/b","status":"thawing","new":[1]}"#;
    assert_eq!(State::read(&runc[..]).unwrap().annotations, None);
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
