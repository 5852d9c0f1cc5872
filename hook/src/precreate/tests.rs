use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::asked::bound::Bound;
use crate::asked::idmap::IdMapping;
use crate::precreate::rewrite::{PORT_START, Rewrite};

/// Our hook.
const PROGRAM: &str = "/usr/libexec/oci/hooks.d/toolbx-arch-hook";

/// What Podman hands to the stage, as far as it matters here.
fn podman() -> serde_json::Value {
    json!({
        "ociVersion": "1.0.2-dev",
        "process": {"capabilities": {"bounding": ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"]}},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
        ],
        "hooks": {"createRuntime": [{
            "path": "/usr/libexec/oci/hooks.d/toolbx-arch-hook",
            "args": ["toolbx-arch-hook", "create-runtime"],
        }]},
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "mount"},
                {"type": "network", "path": "/run/netns/netns-0c6d8a6e-1b1f-4f0e-9a4c-2f3a4b5c6d7e"},
            ],
            "sysctl": {"net.ipv4.ping_group_range": "0 0", "kernel.msgmax": "1"},
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/irq", "/x"],
        },
        "annotations": {"toolbx.arch": "arm64"},
    })
}

fn engine() -> Surroundings {
    Surroundings {
        scope: Scope::Host,
        uid_map: IdMapping::identity("         0          0 4294967295\n").unwrap(),
        gid_map: IdMapping::identity("0 0 1000\n1000 5000 10\n").unwrap(),
        port_start: 1024,
        devices: BTreeMap::new(),
    }
}

fn planned(config: &Value) -> Result<Rewrite> {
    rewrite::plan(&serde_json::from_value(config.clone()).unwrap(), &engine())
}

/// `config` as it would go to the runtime.
fn rewritten(config: &Value) -> Value {
    let text =
        edit::apply(&config.to_string(), &planned(config).unwrap(), Path::new(PROGRAM)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// How the container comes to a namespace.
#[derive(Clone, Copy)]
enum Way {
    Shares,
    Makes,
    Joins(&'static str),
}

fn with_namespace(kind: &str, way: Way) -> Value {
    let mut config = podman();
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|ns| ns["type"] != kind);
    match way {
        Way::Shares => {}
        Way::Makes => namespaces.push(json!({"type": kind})),
        Way::Joins(path) => namespaces.push(json!({"type": kind, "path": path})),
    }
    config
}

fn mount_types(config: &Value) -> Vec<&str> {
    config["mounts"].as_array().unwrap().iter().map(|m| m["type"].as_str().unwrap()).collect()
}

#[test]
fn a_network_made_by_the_engine() {
    let config = rewritten(&podman());
    let linux = &config["linux"];
    assert_eq!(linux["namespaces"].as_array().unwrap().last(), Some(&json!({"type": "user"})));
    assert_eq!(
        linux["uidMappings"],
        json!([{"containerID": 0, "hostID": 0, "size": 4_294_967_294_u32}])
    );
    // By the engine's own ids, not by those outside of its namespace.
    assert_eq!(
        linux["gidMappings"],
        json!([{"containerID": 0, "hostID": 0, "size": 1000},
               {"containerID": 1000, "hostID": 1000, "size": 10}])
    );
    assert_eq!(linux["sysctl"], json!({"kernel.msgmax": "1"}));
    assert_eq!(linux["maskedPaths"], json!(["/proc/kcore"]));
    assert_eq!(
        config["hooks"]["createRuntime"][0]["args"],
        json!([
            "toolbx-arch-hook",
            "create-runtime",
            "--owns-host-files",
            "--enters-network",
            "--bound=sysfs",
            "--sysctl",
            "net.ipv4.ip_unprivileged_port_start",
            "0",
            "--sysctl",
            "net.ipv4.ping_group_range",
            "0 0"
        ])
    );
    assert_eq!(mount_types(&config), ["proc", "tmpfs", "bind", "mqueue", "cgroup"]);
    assert_eq!(
        config["mounts"][2],
        json!({"destination": "/sys", "type": "bind", "source": "/sys",
               "options": ["rbind", "rprivate", "nosuid", "noexec", "nodev", "ro", "rro"]})
    );
}

#[test]
fn what_is_made_by_the_runtime_stays() {
    let config = rewritten(&with_namespace("network", Way::Makes));
    assert_eq!(mount_types(&config), ["proc", "tmpfs", "sysfs", "mqueue", "cgroup"]);
    assert_eq!(config["linux"]["sysctl"], podman()["linux"]["sysctl"]);
    assert_eq!(config["linux"]["maskedPaths"], podman()["linux"]["maskedPaths"]);
    assert_eq!(
        config["hooks"]["createRuntime"][0]["args"],
        json!(["toolbx-arch-hook", "create-runtime", "--owns-host-files"])
    );
}

#[test]
fn devices_of_another_name_are_bound() {
    let device = |path| json!({"path": path, "type": "c", "major": 1, "minor": 3, "fileMode": 438});
    let mut config = podman();
    config["linux"]["devices"] = json!([device("/dev/null"), device("/dev/word")]);
    let devices = [("/dev/word".into(), "/dev/null".into())].into();
    let rewrite = rewrite::plan(
        &serde_json::from_value(config.clone()).unwrap(),
        &Surroundings { devices, ..engine() },
    );
    let text = edit::apply(&config.to_string(), &rewrite.unwrap(), Path::new(PROGRAM)).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["linux"]["devices"], json!([device("/dev/null")]));
    assert_eq!(
        config["mounts"].as_array().unwrap().last(),
        Some(&json!({"destination": "/dev/word", "type": "bind", "source": "/dev/null",
                     "options": ["bind", "ro", "rprivate", "nosuid", "noexec"]}))
    );
}

#[test]
fn namespaces_of_others() {
    // The host's network: no sysctl may be set there, and ports are out of reach.
    let host = planned(&with_namespace("network", Way::Shares)).unwrap();
    let bound = vec![Bound::Sysfs];
    assert_eq!(
        host.left,
        HookArguments { owns_host_files: true, bound, ..HookArguments::default() }
    );
    assert!(host.warnings[0].contains("ports below 1024"), "{host:?}");
    // Another container's, or one that the user made: only what was asked for.
    for path in
        ["/proc/7/ns/net", "/run/netns/netns-web", "/x/netns-0c6d8a6e-1b1f-4f0e-9a4c-2f3a4b5c6d7e"]
    {
        let joined = planned(&with_namespace("network", Way::Joins(path))).unwrap();
        assert_eq!(joined.left.sysctls.keys().collect::<Vec<_>>(), ["net.ipv4.ping_group_range"]);
        assert!(joined.warnings[0].contains("--sysctl"), "{joined:?}");
    }
    for way in [Way::Shares, Way::Joins("/proc/7/ns/ipc")] {
        let config = rewritten(&with_namespace("ipc", way));
        assert_eq!(mount_types(&config), ["proc", "tmpfs", "bind", "cgroup"]);
    }
    let pid = rewritten(&with_namespace("pid", Way::Shares));
    assert_eq!(pid["mounts"][0]["source"], "/proc");
    let args = pid["hooks"]["createRuntime"][0]["args"].as_array().unwrap();
    assert!(args.contains(&json!("--bound=proc")) && args.contains(&json!("--bound=sysfs")));
    let read_only =
        ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/x"];
    assert_eq!(pid["linux"]["readonlyPaths"], json!(read_only), "those that were there, and these");
    let mut config = with_namespace("pid", Way::Shares);
    config["mounts"][0]["destination"] = "/other".into();
    let error = planned(&config).unwrap_err().to_string();
    assert!(error.contains("its proc at /other cannot be mounted"), "{error}");
    config["mounts"][0]["destination"] = "/proc/".into();
    planned(&config).unwrap();
    config["mounts"][0]["options"] = json!(["nosuid", "hidepid=2"]);
    let error = planned(&config).unwrap_err().to_string();
    assert!(error.contains("hidepid=2"), "{error}");
    let joined = planned(&with_namespace("pid", Way::Joins("/proc/7/ns/pid"))).unwrap_err();
    assert!(joined.to_string().contains("another container's pid namespace"), "{joined}");
}

#[test]
fn the_users_own_port_start_comes_first_and_needs_the_capability() {
    let mut config = podman();
    config["linux"]["sysctl"][PORT_START] = "80".into();
    assert_eq!(planned(&config).unwrap().left.sysctls[PORT_START], "80");
    config = podman();
    config["process"] = Value::Null;
    assert!(!planned(&config).unwrap().left.sysctls.contains_key(PORT_START));
}

#[test]
fn rights_that_are_lost_are_named() {
    let mut config = podman();
    config["process"]["capabilities"]["bounding"] = json!(["CAP_NET_ADMIN", "CAP_MKNOD"]);
    config["mounts"][1]["options"] = json!(["bind", "rshared"]);
    let warnings = planned(&config).unwrap().warnings.join("\n");
    for part in ["CAP_NET_ADMIN", "device nodes", "shared volume"] {
        assert!(warnings.contains(part), "{part}: {warnings}");
    }
    // An ordinary user has none of them in the host's namespaces.
    let mut config = with_namespace("network", Way::Shares);
    config["process"]["capabilities"]["bounding"] =
        json!(["CAP_NET_ADMIN", "CAP_MKNOD", "CAP_NET_BIND_SERVICE"]);
    let rootless = Surroundings { scope: Scope::Shared, ..engine() };
    let rewrite = rewrite::plan(&serde_json::from_value(config).unwrap(), &rootless).unwrap();
    assert_eq!(rewrite.warnings, [""; 0]);
}

#[test]
fn everything_else_survives() {
    let text = r#"{"x" : 1e400,"linux":{"y":[ 18446744073709551616 ],"namespaces":[{"type":"time","z":"\u00e9"}]},
        "hooks":{"poststop":[{"path":"/p","new":1}],"createRuntime":[{"path":"/timeout","args":["timeout","/h/toolbx-arch-hook","create-runtime"]}]},
        "mounts":[{"destination":"/d","type":"bind","uidMappings":[ ]}],"annotations":{"toolbx.arch":"arm64"}}"#;
    let rewrite = rewrite::plan(&serde_json::from_str(text).unwrap(), &engine()).unwrap();
    assert_eq!(
        edit::apply(text, &rewrite, Path::new(PROGRAM)).unwrap(),
        r#"{"x":1e400,"linux":{"y":[ 18446744073709551616 ],"namespaces":[{"type":"time","z":"\u00e9"},{"type":"user"}],"uidMappings":[{"containerID":0,"hostID":0,"size":4294967294}],"gidMappings":[{"containerID":0,"hostID":0,"size":1000},{"containerID":1000,"hostID":1000,"size":10}]},"hooks":{"poststop":[{"path":"/p","new":1}],"createRuntime":[{"path":"/timeout","args":["timeout","/h/toolbx-arch-hook","create-runtime","--owns-host-files"]}]},"mounts":[{"destination":"/d","type":"bind","uidMappings":[ ]}],"annotations":{"toolbx.arch":"arm64"}}"#
    );
}

/// The entry of the drop-in, with the arguments that are left.
#[test]
fn the_hook_that_does_the_rest_is_called_once() {
    let drop_in = include_str!("../../../hooks.d/50-toolbx-arch.json");
    let drop_in: Value = serde_json::from_str(drop_in).unwrap();
    let other = json!({"path": PROGRAM, "args": ["toolbx-arch-hook", "list"]});
    let mut config = podman();
    config["hooks"]["createRuntime"] = json!([other]);
    let mut called = drop_in["hook"].clone();
    let args = called["args"].as_array_mut().unwrap();
    args.extend(planned(&config).unwrap().left.arguments().into_iter().map(Value::from));
    assert_eq!(rewritten(&config)["hooks"], json!({"createRuntime": [other, called]}));
    let guarded = |config: &Value| -> Value {
        serde_json::from_str(&edit::guard(&config.to_string(), Path::new(PROGRAM)).unwrap())
            .unwrap()
    };
    let mut expected = config.clone();
    expected["hooks"]["createRuntime"] = json!([other, drop_in["hook"]]);
    assert_eq!(guarded(&config), expected);
    for hooks in [Value::Null, json!({}), json!({"createRuntime": null})] {
        config["hooks"] = hooks;
        expected["hooks"] = json!({"createRuntime": [drop_in["hook"]]});
        assert_eq!(guarded(&config), expected);
    }
    // At the stage of older runtimes it is as good.
    config["hooks"] =
        json!({"prestart": [{"path": PROGRAM, "args": ["toolbx-arch-hook", "prestart"]}]});
    let hooks = &rewritten(&config)["hooks"];
    assert_eq!(hooks["createRuntime"], Value::Null);
    assert_eq!(hooks["prestart"][0]["args"][2], "--owns-host-files");
}

#[test]
fn mappings_that_overlap_are_refused() {
    let map =
        |container, host, size| json!({"containerID": container, "hostID": host, "size": size});
    for (second, overlaps) in [
        (map(10, 20_000, 5), false),
        (map(9, 20_000, 1), true),
        (map(10, 1009, 5), true),
        (map(10, 995, 5), false),
        (map(10, 995, 6), true),
        (map(u32::MAX, 20_000, u32::MAX), false),
    ] {
        for kind in ["uidMappings", "gidMappings"] {
            let mut config = podman();
            config["linux"][kind] = json!([map(0, 1000, 10), second]);
            let config: FullConfig = serde_json::from_value(config).unwrap();
            assert_eq!(config.ensure_mappings_are_apart().is_err(), overlaps, "{second}");
        }
    }
}
