//! The real hook against a real user namespace that plays a container, without root and without an
//! engine: what may be wrong with a state, a bundle, a rootfs, an emulator or a policy.
//!
//! Each test runs in user and mount namespaces of its own, in which a tmpfs holds everything.
//! `/mnt/emulators` is the only directory that the policy there names.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};

/// Where the emulators are that `make images` unpacks.
const QEMU: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/images/qemu/usr/bin");
/// The real hook.
const HOOK: &str = env!("CARGO_BIN_EXE_toolbx-arch-hook");
/// The program for people, of another package, which is built beside it.
fn program() -> PathBuf {
    let path = Path::new(HOOK).with_file_name("toolbx-arch");
    assert!(path.exists(), "no {}; run: cargo build --package toolbx-arch", path.display());
    path
}

/// What happened in the laboratory.
struct Outcome {
    /// The hook's exit status.
    status: i32,
    /// What the hook wrote to standard error.
    stderr: String,
    /// What `then` printed.
    then: String,
}

/// A container to be made, and what is odd about it.
struct Case {
    /// The hook's arguments, between blanks.
    stage: &'static str,
    /// Shell commands in the namespaces of the "host", before anything else.
    host: &'static str,
    /// Shell commands in the container's mount namespace, after its mounts are made.
    rootfs: &'static str,
    /// Whether the container has a user namespace of its own.
    private: bool,
    /// Whether it has a network namespace of its own.
    network: bool,
    config: Value,
    /// The state; PID in it stands for the container's process.
    state: String,
    /// Shell commands in the container's namespaces, after the hook.
    then: &'static str,
    /// Shell commands in the host's namespaces, after the hook.
    afterwards: &'static str,
}

impl Case {
    fn asking(arch: &str) -> Self {
        Self {
            stage: "create-runtime",
            host: "",
            rootfs: "",
            private: true,
            network: false,
            config: json!({
                "root": {"path": "/mnt/rootfs"},
                "mounts": [{"destination": "/dev", "type": "tmpfs"}],
                "linux": {"namespaces": [{"type": "user"}, {"type": "mount"}]},
            }),
            state: json!({
                "ociVersion": "1.0", "id": "test", "status": "created", "pid": 4242,
                "bundle": "/mnt/bundle", "annotations": {"toolbx.arch": arch},
            })
            .to_string()
            .replace("4242", "PID"),
            then: "chroot /mnt/rootfs /exit42; echo $?",
            afterwards: "",
        }
    }

    fn run(&self) -> Outcome {
        let output = unshared()
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/container.sh"))
            .env("HOOK", HOOK)
            .env("PROGRAM", program())
            .env("STAGE", self.stage)
            .env("EXIT42", exit42())
            .env("QEMU", QEMU)
            .env("CONFIG", self.config.to_string())
            .env("STATE", &self.state)
            .env("PRIVATE", if self.private { "yes" } else { "no" })
            .env("NETWORK", if self.network { "yes" } else { "no" })
            .env("HOST", self.host)
            .env("ROOTFS", self.rootfs)
            .env("THEN", self.then)
            .env("AFTERWARDS", self.afterwards)
            .output()
            .expect("unshare is in util-linux");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        let mut parts = text.split("\n----\n");
        let mut part = || parts.next().unwrap_or_else(|| panic!("cut: {text}")).trim().to_owned();
        Outcome { status: part().parse().unwrap(), stderr: part(), then: part() }
    }

    /// The hook must refuse, in one line that contains `part`, and leave no instance in the
    /// container.
    fn is_refused(&self, part: &str) {
        let case = Self { then: NOTHING_LEFT, ..self.clone() };
        let outcome = case.run();
        assert_eq!(outcome.status, 1, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(part), "{part:?} is not in: {}", outcome.stderr);
        assert!(outcome.stderr.starts_with("toolbx-arch-hook: error: "), "{}", outcome.stderr);
        assert!(!outcome.stderr.contains('\n'), "more than one line: {}", outcome.stderr);
        assert_eq!(outcome.then, "", "something is left");
    }

    /// The hook must succeed, and the container run a foreign program.
    fn runs(&self) -> Outcome {
        let outcome = self.run();
        assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
        assert!(outcome.then.ends_with("42"), "{}", outcome.then);
        outcome
    }
}

impl Clone for Case {
    fn clone(&self) -> Self {
        Self { config: self.config.clone(), state: self.state.clone(), ..*self }
    }
}

/// Prints what a refused hook may have left: binfmt_misc mounts, and entries of ours.
const NOTHING_LEFT: &str = "grep ' - binfmt_misc ' /proc/self/mountinfo
mkdir -p /mnt/look && mount -t binfmt_misc look /mnt/look && ls /mnt/look | grep toolbx; umount /mnt/look";

/// A shell in user and mount namespaces of its own.
fn unshared() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--propagation", "private", "sh"]);
    command
}

/// The path of a program for aarch64 that ends with status 42: header, one segment, three
/// instructions.
fn exit42() -> &'static Path {
    static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
        const BASE: u64 = 0x40_0000;
        let mut file = vec![0; 120];
        let mut put =
            |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02\x01\x01");
        put(16, &2u16.to_le_bytes()); // ET_EXEC
        put(18, &183u16.to_le_bytes()); // EM_AARCH64
        put(20, &1u32.to_le_bytes()); // e_version
        put(24, &(BASE + 120).to_le_bytes()); // e_entry, behind the headers
        put(32, &64u64.to_le_bytes()); // e_phoff
        put(52, &64u16.to_le_bytes()); // e_ehsize
        put(54, &56u16.to_le_bytes()); // e_phentsize
        put(56, &1u16.to_le_bytes()); // e_phnum
        put(64, &1u32.to_le_bytes()); // PT_LOAD
        put(68, &5u32.to_le_bytes()); // readable, executable
        put(80, &BASE.to_le_bytes());
        put(88, &BASE.to_le_bytes());
        put(96, &132u64.to_le_bytes());
        put(104, &132u64.to_le_bytes());
        put(112, &0x1000u64.to_le_bytes());
        for instruction in [0xd280_0ba8u32, 0xd280_0540, 0xd400_0001] {
            file.extend(instruction.to_le_bytes()); // mov x8, #93; mov x0, #42; svc #0
        }
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("exit42");
        std::fs::write(&path, file).unwrap();
        path
    });
    &FILE
}

#[test]
fn a_foreign_program_runs() {
    let outcome = Case {
        then: "cat /mnt/rootfs/proc/sys/fs/binfmt_misc/toolbx-arch-aarch64
            echo x 2>&1 >/mnt/rootfs/proc/sys/fs/binfmt_misc/register
            grep -c shared: /proc/self/mountinfo
            chroot /mnt/rootfs /exit42; echo $?",
        ..Case::asking("arm64")
    }
    .runs();
    let interpreter = "interpreter qemu-aarch64-static -cpu max,pauth=off\n";
    for part in ["enabled\n", interpreter, "flags: POCF"] {
        assert!(outcome.then.contains(part), "{part:?} is not in: {}", outcome.then);
    }
    assert_eq!(outcome.then.matches("Read-only file system").count(), 1, "{}", outcome.then);
    assert!(outcome.then.contains("\n0\n"), "no mount of ours is shared: {}", outcome.then);
}

#[test]
fn several_targets_get_a_handler_each() {
    let case = Case {
        then: "ls /mnt/rootfs/proc/sys/fs/binfmt_misc; chroot /mnt/rootfs /exit42; echo $?",
        ..Case::asking("s390x,arm64,amd64")
    };
    let then = case.runs().then;
    assert!(then.contains("toolbx-arch-s390x") && then.contains("toolbx-arch-aarch64"), "{then}");
}

/// What `precreate` leaves to the hook arrives in its arguments.
#[test]
fn sysctls_are_the_networks_or_refused() {
    let case = |stage, network| Case { stage, network, ..Case::asking("arm64") };
    for (stage, part) in [
        ("create-runtime --sysctl kernel.hostname x", "not of a network"),
        ("create-runtime --sysctl /proc/sys/net/ipv4/ip_forward 1", "not of a network"),
        ("create-runtime --sysctl net/../kernel/hostname x", "EXDEV"),
        ("create-runtime --sysctl net 1", "ENOENT"),
        ("create-runtime --sysctl net.nothing 1", "ENOENT"),
        ("create-runtime --sysctl net.ipv4.ip_forward maybe", "EINVAL"),
    ] {
        case(stage, true).is_refused(part);
    }
    let own = "create-runtime --sysctl net.ipv4.ip_forward 1";
    case(own, false).is_refused("the engine's own");
    let read = "cat /proc/sys/net/ipv4/ip_forward";
    assert_eq!(Case { then: read, ..case(own, true) }.run().then, "1");
    // Also where nothing else is to be done.
    assert_eq!(
        Case { then: read, network: true, stage: own, ..Case::asking("none") }.run().then,
        "1"
    );
    let unknown = Case { stage: "create-runtime --unknown", ..Case::asking("arm64") }.run();
    assert_eq!(unknown.status, 2, "{}", unknown.stderr);
}

#[test]
fn prestart_is_the_same_stage() {
    Case { stage: "prestart", ..Case::asking("arm64") }.runs();
}

#[test]
fn an_emulator_that_is_replaced_meanwhile_is_never_a_wrong_one() {
    // Between the good one and a dynamic program, as fast as a shell can.
    const REPLACE: &str = "(cd /mnt/emulators; while [ ! -e /mnt/stop ]; do
        cp $QEMU/qemu-aarch64-static a; mv a qemu-aarch64-static
        cp /bin/sh b; mv b qemu-aarch64-static; done) & loop=$!; sleep 0.1";
    let mut refused = 0;
    for shown in [true, false].repeat(15) {
        let case = Case {
            host: REPLACE,
            rootfs: if shown { "" } else { "umount dev" },
            afterwards: "touch /mnt/stop; wait $loop",
            ..Case::asking("arm64")
        };
        let outcome = case.run();
        if outcome.status == 0 {
            assert!(outcome.then.starts_with("42"), "{}", outcome.then);
        } else {
            refused += 1;
            assert!(outcome.stderr.contains("emulator"), "{}", outcome.stderr);
        }
    }
    assert!(refused > 0, "it was never replaced in time");
}

#[test]
fn nothing_is_done_where_nothing_is_asked() {
    for (annotations, state) in [
        (json!({"a": "b"}), None),
        (json!({"toolbx.arch": "none"}), None),
        (json!({"toolbx.arch": std::env::consts::ARCH}), None),
        (json!({}), Some(r#"{"id": "test", "pid": PID, "bundle": "/mnt/bundle"}"#)),
    ] {
        let mut case = Case { then: NOTHING_LEFT, ..Case::asking("arm64") };
        case.state = state.map_or_else(
            || format!(r#"{{"id": "test", "pid": PID, "bundle": "/mnt/bundle", "annotations": {annotations}}}"#),
            str::to_owned,
        );
        let outcome = case.run();
        assert_eq!(
            (outcome.status, outcome.stderr.as_str(), outcome.then.as_str()),
            (0, "", ""),
            "{annotations}"
        );
    }
}

#[test]
fn annotations_may_stand_in_config_only() {
    let mut case = Case::asking("arm64");
    case.state = r#"{"id": "test", "pid": PID, "bundle": "/mnt/bundle"}"#.into();
    case.config["annotations"] = json!({"toolbx.arch": "arm64"});
    case.runs();
}

#[test]
fn bad_states_are_refused() {
    let asking = Case::asking("arm64").state;
    for (state, part) in [
        (String::new(), "no container state on standard input"),
        (asking[..asking.len() - 9].into(), "EOF"),
        (asking.replace("\"pid\":PID,", ""), "names no process"),
        (asking.replace("PID", "999999999"), "container test: pidfd_open process 999999999: ESRCH"),
        (asking.replace("PID", "SHELL"), "shares the hook's mount namespace"),
    ] {
        // The last one is the shell that starts the hook: a process, but no container.
        Case { state, ..Case::asking("arm64") }.is_refused(part);
    }
}

/// Feeds the hook what no container is needed for; returns its error.
fn fed(state: &[u8]) -> String {
    let mut hook = Command::new(HOOK)
        .arg("create-runtime")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It reads to the end, so this does not fail even if it refuses.
    hook.stdin.take().unwrap().write_all(state).unwrap();
    let output = hook.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.len() < 400 && error.lines().count() == 1, "{error}");
    error
}

#[test]
fn huge_and_odd_states_are_refused() {
    let asking = |arch: &str| json!({"pid": 1, "annotations": {"toolbx.arch": arch}}).to_string();
    for (state, part) in [
        (" ".repeat(50 * 1024 * 1024), "larger than 8 MiB"),
        (asking("arm64\0"), "unknown architecture \"arm64\\0\""),
        (asking(&"x".repeat(1024 * 1024)), "unknown architecture \"xxxxxxxx"),
        (asking(&",".repeat(4 * 1024 * 1024)), "names more than 34 architectures"),
        (asking(&"arm64 ".repeat(40)), "names more than 34 architectures"),
    ] {
        let error = fed(state.as_bytes());
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn bad_bundles_are_refused() {
    let asking = Case::asking("arm64").state;
    for bundle in ["/", "/nonexistent", "/mnt/state"] {
        Case { state: asking.replace("/mnt/bundle", bundle), ..Case::asking("arm64") }
            .is_refused(&format!("no config.json in the bundle {bundle} of container test"));
    }
    let broken = Case { host: "echo '{' >/mnt/bundle/config.json", ..Case::asking("arm64") };
    broken.is_refused("read /mnt/bundle/config.json: EOF");
    let lost = Case { config: json!({"root": {"path": "/nonexistent"}}), ..Case::asking("arm64") };
    lost.is_refused("openat2 /nonexistent, the rootfs of container test: ENOENT");
    let none = Case { config: json!({}), ..Case::asking("arm64") };
    none.is_refused("neither config.json nor the state names its rootfs");
}

#[test]
fn where_only_the_rootfs_is_known_the_namespace_might_be_anybodys() {
    // It maps who they are, as another container's may that precreate has changed; and /proc is ours here.
    Case {
        state: Case::asking("arm64")
            .state
            .replace("/mnt/bundle", "/")
            .replace("\"id\"", "\"root\":\"/mnt/rootfs\",\"id\""),
        ..Case::asking("arm64")
    }
    .is_refused("/mnt/rootfs/proc in the container shows the machine");
}

#[test]
fn unknown_values_elsewhere_do_not_stop_a_container() {
    let mut case = Case::asking("arm64");
    case.config["root"]["path"] = "../rootfs".into(); // relative to the bundle
    case.config["process"] =
        json!({"capabilities": {"bounding": ["CAP_FROM_THE_FUTURE"]}, "args": 7});
    case.config["linux"]["seccomp"] =
        json!({"architectures": ["SCMP_ARCH_Z80"], "defaultAction": 9});
    case.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "galaxy"}));
    case.state = case.state.replace("created", "thawing");
    case.runs();
}

#[test]
fn a_hostile_proc_is_refused() {
    for (rootfs, part) in [
        (
            "umount -l proc; rmdir proc; ln -s /proc proc",
            "openat2 proc/sys/fs of container test: ELOOP",
        ),
        (
            "umount -l proc; rmdir proc; mkfifo proc",
            "openat2 proc/sys/fs of container test: ENOTDIR",
        ),
        (
            "umount -l proc; rmdir proc; echo >proc",
            "openat2 proc/sys/fs of container test: ENOTDIR",
        ),
        ("umount -l proc; rmdir proc", "openat2 proc/sys/fs of container test: ENOENT"),
        ("umount -l proc; mkdir -p proc/sys/fs/binfmt_misc", "is not on procfs"),
        ("umount -l proc; mkdir proc/sys; ln -s /proc/sys/fs proc/sys/fs", "ELOOP"),
        ("mount -t tmpfs x proc/sys/fs; ln -s /mnt proc/sys/fs/binfmt_misc", "is not on procfs"),
        (
            "mount -t tmpfs x proc/sys/fs/binfmt_misc",
            "is not a directory of procfs, autofs or binfmt_misc",
        ),
        (
            "mount --bind exit42 proc/sys/fs/binfmt_misc || mount --bind dev proc/sys/fs/binfmt_misc",
            "is not a directory of procfs",
        ),
    ] {
        Case { rootfs, ..Case::asking("arm64") }.is_refused(part);
    }
}

/// Toolbx's init-container mounts binfmt_misc itself, so ours is covered with what was there before:
/// perhaps the host's instance, whose owner is the container's root here.
#[test]
fn what_covers_our_mount_cannot_be_written() {
    let mut case = Case {
        host: "mount -t binfmt_misc host /proc/sys/fs/binfmt_misc",
        then: "(echo :x:M::x::/bin/true: >/mnt/rootfs/proc/sys/fs/binfmt_misc/register) 2>&1
            chroot /mnt/rootfs /exit42; echo $?
            mount -t binfmt_misc toolbx /mnt/rootfs/proc/sys/fs/binfmt_misc && chroot /mnt/rootfs /exit42; echo $?",
        ..Case::asking("arm64")
    };
    case.config["process"] = json!({"args": ["toolbox", "init-container"], "cwd": "/"});
    let outcome = case.runs();
    assert!(outcome.then.contains("Read-only file system"), "{}", outcome.then);
    assert!(outcome.then.ends_with("42\n42"), "{}", outcome.then);
}

#[test]
fn a_hostile_dev_gets_nothing() {
    // Where the emulator cannot be shown, flag F alone carries it.
    for rootfs in [
        "umount dev; rmdir dev; ln -s /mnt dev",
        "umount dev; rmdir dev; mkfifo dev",
        "umount dev; rmdir dev; echo >dev",
        "umount dev; rmdir dev",
        "umount dev",
        "mount --make-shared dev",
    ] {
        let then = "cat /mnt/rootfs/proc/sys/fs/binfmt_misc/toolbx*; ls -A /mnt/rootfs/dev/
            find /mnt /mnt/rootfs -xdev -name .toolbx-arch; chroot /mnt/rootfs /exit42; echo $?";
        let then = Case { rootfs, then, ..Case::asking("arm64") }.runs().then;
        assert!(then.contains("interpreter qemu-aarch64-static"), "{rootfs}: {then}");
        assert!(!then.contains(".toolbx-arch"), "{rootfs}: {then}");
    }
    let mut bound = Case::asking("arm64");
    bound.config["mounts"] =
        json!([{"destination": "/dev", "type": "tmpfs"}, {"destination": "/dev", "type": "bind"}]);
    bound.then =
        "find /mnt /mnt/rootfs -xdev -name .toolbx-arch; chroot /mnt/rootfs /exit42; echo $?";
    assert_eq!(bound.runs().then, "42");
}

#[test]
fn a_directory_of_the_host_on_dev_gets_nothing() {
    // As when a link in the image leads a volume to /dev, after the tmpfs of config.json.
    for rootfs in ["umount dev; mount --bind /mnt/v dev", "umount dev; mount --bind /mnt/v/w dev"] {
        let host = "mkdir /mnt/v; mount -t tmpfs x /mnt/v; mkdir /mnt/v/w";
        let then = "chroot /mnt/rootfs /exit42; echo $?";
        let afterwards = "find /mnt/v -mindepth 2 -o -name .toolbx-arch";
        let outcome = Case { host, rootfs, then, afterwards, ..Case::asking("arm64") }.run();
        assert_eq!((outcome.status, outcome.then.as_str()), (0, "42"), "{}", outcome.stderr);
    }
}

#[test]
fn the_emulators_file_cannot_be_changed_through_proc() {
    // The container's root owns it here. What runs is on a mount that nobody can make writable, nor
    // clone, so as to make the clone writable: it is in no namespace, and has no name there.
    // A file of the container's own can be, which shows that this could be seen.
    let then = r#"grep flags /mnt/rootfs/proc/sys/fs/binfmt_misc/toolbx-arch-aarch64
        echo >/mnt/rootfs/own
        chroot /mnt/rootfs /bin/sleeper & p=$!
        for i in $(seq 100); do
            # Never the host's own program, which is there before.
            if readlink /proc/$p/exe | grep -x -e / -e '/qemu-.*' >/dev/null; then
                chmod 4777 /proc/$p/exe
                python3 -c '
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for path in sys.argv[1:]:
    clone = libc.syscall(428, os.open(path, os.O_PATH), b"", 0x80000 | 0x1000 | 1)  # open_tree
    print(path[:5], "cloned" if clone >= 0 else errno.errorcode[ctypes.get_errno()])
' /mnt/rootfs/own /proc/$p/exe
                break
            fi
            sleep 0.1
        done
        kill $p; chroot /mnt/rootfs /exit42; echo $?"#;
    // A copy, the file itself, and a prepared copy: without that one, there would be no flag C.
    let plain = r#"echo '{"emulator_directories": ["/mnt/emulators"], "launcher": "never"}' >/etc/toolbx-arch/policy.json"#;
    let prepared = r#"echo '{"emulator_directories": ["/mnt/emulators"], "launcher": "prepared"}' >/etc/toolbx-arch/policy.json
        mount -t tmpfs -o mode=755 lab /usr/libexec
        $PROGRAM prepare >/dev/null"#;
    for (before, private, flags) in
        [("", true, "POCF"), (SHARED, false, "POF"), (plain, true, "POF"), (prepared, true, "POCF")]
    {
        let host = format!(
            "{before}\ncp /mnt/exit42 /mnt/loop
            printf '\\000\\000\\000\\024' | dd of=/mnt/loop bs=1 seek=120 conv=notrunc 2>/dev/null"
        );
        let case = Case {
            rootfs: "mkdir bin; cp /mnt/loop bin/sleeper",
            host: host.leak(),
            private,
            afterwards: "stat -c %a /mnt/emulators/qemu-aarch64-static",
            then,
            ..Case::asking("arm64")
        };
        let outcome = case.run();
        assert_eq!(outcome.status, 0, "{}", outcome.stderr);
        assert!(outcome.then.starts_with(&format!("flags: {flags}\n")), "{}", outcome.then);
        assert!(outcome.then.contains("Read-only file system"), "{}", outcome.then);
        assert!(outcome.then.contains("755") && !outcome.then.contains("4777"), "{}", outcome.then);
        assert!(outcome.then.contains("/mnt/ cloned\n/proc EINVAL\n"), "{}", outcome.then);
    }
}

#[test]
fn a_volume_or_a_link_on_the_way_gets_nothing() {
    for (rootfs, part) in [
        ("mkdir dev/.toolbx-arch /mnt/v; mount --bind /mnt/v dev/.toolbx-arch", "EXDEV"),
        ("mkdir /mnt/v; ln -s /mnt/v dev/.toolbx-arch", "ELOOP"),
        ("mkfifo dev/.toolbx-arch", "ENOTDIR"),
    ] {
        // With a shared /proc the instance would go there.
        let case = Case {
            rootfs: format!("mount --make-rshared proc; {rootfs}").leak(),
            then: "find /mnt/v -mindepth 1 2>/dev/null; grep ' - binfmt_misc ' /proc/self/mountinfo",
            ..Case::asking("arm64")
        };
        let outcome = case.run();
        assert_eq!((outcome.status, outcome.then.as_str()), (1, ""), "{rootfs}");
        for part in [part, "is for this hook alone"] {
            assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
        }
    }
}

/// A link to / in the image leads a volume that was meant for a directory to the rootfs itself.
#[test]
fn a_volume_over_the_whole_rootfs_gets_nothing() {
    // With a shared /proc the instance would go to /dev.
    let volume = "mount --make-rshared proc; mkdir /mnt/v; mount -t tmpfs v /mnt/v
        mkdir /mnt/v/dev /mnt/v/proc; mount -t tmpfs v /mnt/v/dev; mount --rbind proc /mnt/v/proc
        mount --rbind /mnt/v /mnt/rootfs";
    let itself =
        "mount --make-rshared proc; mkdir -p /mnt/v/dev; mount --rbind /mnt/rootfs /mnt/rootfs";
    // Also where the runtime has not mounted the rootfs on itself.
    let unbound = "cd /; umount --lazy /mnt/rootfs; umount --lazy /mnt/rootfs; cd /mnt/rootfs
        mkdir proc dev; mount --rbind /proc proc; mount -t tmpfs container dev";
    for rootfs in [volume.into(), format!("{unbound}; {volume}"), itself.to_owned()] {
        let case = Case {
            rootfs: rootfs.leak(),
            then: "find /mnt/v/dev /mnt/rootfs/dev -mindepth 1",
            ..Case::asking("arm64")
        };
        let outcome = case.run();
        assert!(outcome.stderr.contains("/dev is not a tmpfs made for it"), "{}", outcome.stderr);
        assert_eq!((outcome.status, outcome.then.as_str()), (1, ""));
    }
}

#[test]
fn a_shared_proc_gets_no_mount() {
    let then = "find /mnt/rootfs/proc/sys/fs/binfmt_misc -mindepth 1
        ls /mnt/rootfs/dev/.toolbx-arch/binfmt_misc; chroot /mnt/rootfs /exit42; echo $?";
    let case = Case { rootfs: "mount --make-rshared proc", then, ..Case::asking("arm64") };
    assert!(case.runs().then.starts_with("register\nstatus\n"), "{}", case.run().then);
    Case { rootfs: "mount --make-rshared proc; umount dev", ..case }
        .is_refused("shared propagation");
}

#[test]
fn bad_emulators_are_refused() {
    for (host, part) in [
        (
            "rm /mnt/emulators/*",
            "no emulator for aarch64 on this machine; install the package qemu-user-static",
        ),
        ("cp /bin/sh /mnt/emulators/qemu-aarch64-static", "is linked dynamically"),
        (
            "cp /mnt/exit42 /mnt/emulators/qemu-aarch64-static",
            "is a program for aarch64, this machine is ",
        ),
        ("echo '#!/bin/sh' >/mnt/emulators/qemu-aarch64-static", "is not a program"),
        (": >/mnt/emulators/qemu-aarch64-static", "shorter than an ELF header"),
        ("truncate -s 100 /mnt/emulators/qemu-aarch64-static", "is not a program"),
        ("chmod a-x /mnt/emulators/qemu-aarch64-static", "chmod a+x"),
        (
            "chmod o+w /mnt/emulators/qemu-aarch64-static",
            "chmod go-w /mnt/emulators/qemu-aarch64-static",
        ),
        ("chmod g+w /mnt/emulators", "/mnt/emulators may be written by others"),
        ("chmod 1777 /mnt/emulators", "use another directory"),
        (
            "rm /mnt/emulators/*; mkfifo /mnt/emulators/qemu-aarch64-static",
            "neither a file nor a directory",
        ),
        ("rm /mnt/emulators/*; mkdir /mnt/emulators/qemu-aarch64-static", "is a directory"),
        (
            "cd /mnt/emulators; rm *; ln -s qemu-aarch64-static qemu-aarch64-static; cd /",
            "too many symbolic links",
        ),
        (
            "cd /mnt/emulators; mkdir -m 777 x; mv qemu-aarch64-static x; ln -s x/qemu-aarch64-static .; cd /",
            "/mnt/emulators/x may be written by others",
        ),
        (
            r#"echo '{"emulator_directories": ["/mnt/emulators"], "emulator_sha256": {"arm64": ["0000000000000000000000000000000000000000000000000000000000000000"]}}' >/etc/toolbx-arch/policy.json"#,
            "has the SHA-256 sum",
        ),
    ] {
        Case { host, ..Case::asking("arm64") }.is_refused(part);
    }
}

#[test]
fn good_emulators_are_found() {
    for host in [
        "cd /mnt/emulators; mkdir x; mv qemu-aarch64-static x/real; ln -s /mnt/emulators/../emulators/x/real qemu-aarch64-static; cd /",
        "mv /mnt/emulators/qemu-aarch64-static /mnt/emulators/qemu-aarch64",
        // A dynamic one that comes first does not hide a good one.
        "mv /mnt/emulators/qemu-aarch64-static /mnt/emulators/qemu-aarch64; cp /bin/sh /mnt/emulators/qemu-aarch64-static",
        r#"sum=$(sha256sum /mnt/emulators/qemu-aarch64-static | cut -d' ' -f1)
        printf '{"emulator_directories": ["/mnt/emulators"], "emulator_sha256": {"aarch64": ["%s"]}}' $sum >/etc/toolbx-arch/policy.json"#,
    ] {
        Case { host, ..Case::asking("arm64") }.runs();
    }
}

#[test]
fn bad_policies_are_refused() {
    for (host, part) in [
        (
            "printf '{\\n \"show_emulator\": 1\\n}' >/etc/toolbx-arch/policy.json",
            "policy /etc/toolbx-arch/policy.json:2: key \"show_emulator\": invalid type",
        ),
        (
            "printf '{\\n\\n \"injekt\": true}' >/etc/toolbx-arch/policy.json",
            "policy /etc/toolbx-arch/policy.json:3: key \"injekt\": unknown field",
        ),
        (
            "echo oops >/etc/toolbx-arch/policy.json",
            "policy /etc/toolbx-arch/policy.json:1: expected value",
        ),
        ("chmod o+w /etc/toolbx-arch/policy.json", "chmod go-w /etc/toolbx-arch/policy.json"),
        ("chmod g+w /etc/toolbx-arch", "/etc/toolbx-arch may be written by others"),
        ("head -c 2000000 /dev/zero >/etc/toolbx-arch/policy.json", "larger than 1 MiB"),
        (
            "rm /etc/toolbx-arch/policy.json; mkfifo /etc/toolbx-arch/policy.json",
            "neither a file nor a directory",
        ),
    ] {
        Case { host, ..Case::asking("arm64") }.is_refused(part);
    }
}

#[test]
fn a_directory_that_others_can_write_does_not_matter_where_no_policy_is() {
    let host = "chmod 777 /etc/toolbx-arch; rm /etc/toolbx-arch/policy.json";
    // The default policy finds its own emulator, or none; either way the directory is not named.
    let outcome = Case { host, ..Case::asking("arm64") }.run();
    assert!(!outcome.stderr.contains("/etc/toolbx-arch"), "{}", outcome.stderr);
}

#[test]
fn the_policy_decides_on_rights_and_on_showing() {
    let policy = |keys: &str| {
        format!(
            r#"echo '{{"emulator_directories": ["/mnt/emulators"], {keys}}}' >/etc/toolbx-arch/policy.json"#
        )
    };
    let then =
        "cat /mnt/rootfs/proc/sys/fs/binfmt_misc/toolbx*; chroot /mnt/rootfs /exit42; echo $?";
    let never = policy(r#""credentials": "never""#).leak();
    let outcome = Case { host: never, then, ..Case::asking("arm64") }.runs();
    assert!(outcome.then.contains("flags: POF\n"), "{}", outcome.then);
    // Plain emulators: by the path on the host, since the container's root owns the file here.
    for (keys, flags) in [
        (r#""launcher": "never""#, "POF"),
        (r#""launcher": "prepared""#, "POF"),
        (r#""launcher": "never", "credentials": "private""#, "POCF"),
        (r#""launcher": "never", "credentials": "private", "show_emulator": false"#, "POCF"),
    ] {
        let outcome = Case { host: policy(keys).leak(), then, ..Case::asking("arm64") }.runs();
        let entry = format!("interpreter /mnt/emulators/qemu-aarch64-static\nflags: {flags}\n");
        assert!(outcome.then.contains(&entry), "{keys}: {}", outcome.then);
    }
    Case { host: policy(r#""architectures": ["s390x"]"#).leak(), ..Case::asking("arm64") }
        .is_refused("does not allow aarch64");
}

#[test]
fn bad_annotations_are_refused() {
    for (arch, part) in [
        ("", "empty name"),
        ("../../etc", "unknown architecture"),
        ("arm65", "did you mean arm64?"),
    ] {
        Case::asking(arch).is_refused(part);
    }
}

/// Registers in the shared namespace, as an earlier container did.
const SHARED: &str = "mkdir /mnt/instance; mount -t binfmt_misc x /mnt/instance";

#[test]
fn a_shared_namespace_gets_no_rights_and_keeps_its_handlers() {
    let case = Case {
        host: SHARED,
        private: false,
        then: "chroot /mnt/rootfs /exit42; echo $?",
        afterwards: "cat /mnt/instance/toolbx-arch-aarch64",
        ..Case::asking("arm64")
    };
    let outcome = case.run();
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
    assert!(
        outcome.then.starts_with("42\nenabled\n") && outcome.then.contains("flags: POF\n"),
        "{}",
        outcome.then
    );
}

#[test]
fn only_targets_go_on_being_served_and_by_ours() {
    let case = Case {
        host: r#"mount -t binfmt_misc x /proc/sys/fs/binfmt_misc
            register() { printf '%s' "$1" >/proc/sys/fs/binfmt_misc/register; }
            pattern() { # MACHINE, the byte of EI_DATA
                printf '%s' "\x7fELF\x02$2\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00$1:"
                printf '%s' "\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff$3\xff\xff"
            }
            s390x=$(pattern '\x00\x02\x00\x16' '\x02' '\xff\xfe')
            riscv64=$(pattern '\x02\x00\xf3\x00' '\x01' '\xfe\xff')
            entry=$(od -An -tx1 -j24 -N8 /usr/bin/id | sed 's/ /\x/g')
            i=0; while [ $i -lt 2000 ]; do register ":h$i:M::handler-$i::/usr/bin/true:F"; i=$((i + 1)); done
            register ":older:M::$s390x:/usr/bin/true:F"
            register ":s390x:M::$s390x:/usr/bin/true:F"
            register ":off:M::$s390x:/usr/bin/true:F"; echo 0 >/proc/sys/fs/binfmt_misc/off
            register ":toolbx-arch-mips:M::$riscv64:/usr/bin/true:F"
            register ":toolbx-arch-aarch64:M::nothing::/usr/bin/true:F"
            register ":ppc64le:M:18:\x15\x00::/usr/bin/true:F"
            register ":one:M:24:$entry::/usr/bin/true:F"
            register ':name:E::toolbx-arch-test::/usr/bin/true:F'
            register ':script:M::#!toolbx::/usr/bin/true:F'"#,
        then: "chroot /mnt/rootfs /exit42; echo $?; id -u; ls /mnt/rootfs/proc/sys/fs/binfmt_misc",
        ..Case::asking("arm64")
    };
    let outcome = case.run();
    assert_eq!(
        outcome.then, "42\n0\nregister\nstatus\ntoolbx-arch-aarch64\ntoolbx-arch-s390x",
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_handler_that_cannot_be_understood_hides_only_what_is_older() {
    const ODD: &str = r"printf ':odd:M::odd::/usr/bin/true\nx:' >/mnt/instance/register";
    let emulator = "/mnt/emulators/qemu-aarch64-static";
    let foreign = registered("foreign", emulator, "F", "");
    let register = foreign.strip_prefix(SHARED).unwrap();
    let visible = "mount --bind /mnt/instance /proc/sys/fs/binfmt_misc";
    for (host, ours) in [
        (format!("{SHARED}; {ODD}{register}\n{visible}"), ""),
        (format!("{SHARED}{register}\n{ODD}; echo 0 >/mnt/instance/odd\n{visible}"), ""),
        (format!("{SHARED}{register}\n{ODD}; {visible}"), "toolbx-arch-aarch64"),
    ] {
        let case = Case {
            host: host.clone().leak(),
            private: false,
            then: "chroot /mnt/rootfs /exit42; echo $?",
            afterwards: "ls /mnt/instance",
            ..Case::asking("arm64")
        };
        let listed = format!("42\nforeign\nodd\nregister\nstatus\n{ours}");
        assert_eq!(case.run().then, listed.trim_end(), "{host}");
    }
}

#[test]
fn handlers_that_are_switched_off_altogether_are_nobodys() {
    let case = Case {
        host: "mount -t binfmt_misc x /proc/sys/fs/binfmt_misc
            echo ':h:M::handler::/usr/bin/true:F' >/proc/sys/fs/binfmt_misc/register
            echo 0 >/proc/sys/fs/binfmt_misc/status",
        then: "chroot /mnt/rootfs /exit42; echo $?; ls /mnt/rootfs/proc/sys/fs/binfmt_misc",
        ..Case::asking("arm64")
    };
    assert_eq!(case.run().then, "42\nregister\nstatus\ntoolbx-arch-aarch64");
}

/// A handler for aarch64 with NAME, INTERPRETER and FLAGS to be filled in.
fn registered(name: &str, interpreter: &str, flags: &str, then: &str) -> &'static str {
    let magic = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00";
    let mask = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";
    format!(
        "{SHARED}; printf '%s' ':{name}:M::{magic}:{mask}:{interpreter}:{flags}' >/mnt/instance/register\n{then}"
    )
    .leak()
}

#[test]
fn the_same_handler_is_used_again_and_switched_on() {
    // By the host's path, since the emulator is not shown.
    for (flags, then) in
        [("OPF", ""), ("OPFC", ""), ("OPF", "echo 0 >/mnt/instance/toolbx-arch-aarch64")]
    {
        let case = Case {
            host: registered(
                "toolbx-arch-aarch64",
                "/mnt/emulators/qemu-aarch64-static",
                flags,
                then,
            ),
            rootfs: "umount dev",
            private: false,
            afterwards: "ls /mnt/instance",
            ..Case::asking("arm64")
        };
        let outcome = case.run();
        assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
        assert_eq!(outcome.then, "42\nregister\nstatus\ntoolbx-arch-aarch64", "{flags} {then}");
    }
}

#[test]
fn an_emulator_of_a_required_sum_replaces_what_another_file_registered() {
    // The same path held another program when it was registered.
    let swap = "mv /mnt/emulators/qemu-aarch64-static /mnt/good
        cp /mnt/emulators/qemu-s390x-static /mnt/emulators/qemu-aarch64-static";
    let register =
        registered("toolbx-arch-aarch64", "/mnt/emulators/qemu-aarch64-static", "OPF", "");
    let require = r#"mv /mnt/good /mnt/emulators/qemu-aarch64-static
        sum=$(sha256sum /mnt/emulators/qemu-aarch64-static | cut -d' ' -f1)
        printf '{"emulator_directories": ["/mnt/emulators"], "emulator_sha256": {"aarch64": ["%s"]}}' $sum >/etc/toolbx-arch/policy.json"#;
    let host = format!("{swap}\n{register}\n{require}").leak();
    // And nothing is left of what served meanwhile.
    let case = Case {
        host,
        private: false,
        then: "chroot /mnt/rootfs /exit42; echo $?; ls /mnt/rootfs/proc/sys/fs/binfmt_misc",
        ..Case::asking("arm64")
    };
    assert_eq!(case.run().then, "42\nregister\nstatus\ntoolbx-arch-aarch64");
}

#[test]
fn another_emulator_for_the_same_target_is_refused() {
    for (name, then) in [
        ("toolbx-arch-aarch64", ""),
        ("toolbx-arch-aarch64", "echo 0 >/mnt/instance/toolbx-arch-aarch64"),
        ("qemu-aarch64", ""),
    ] {
        // s390x is registered first, and must be gone again.
        let case = Case {
            host: registered(name, "/mnt/emulators/qemu-s390x-static", "OPF", then),
            private: false,
            then: "",
            afterwards: "ls /mnt/instance",
            ..Case::asking("s390x,arm64")
        };
        let outcome = case.run();
        assert_eq!(outcome.status, 1);
        for part in ["/mnt/emulators/qemu-s390x-static", name, "--userns=keep-id"] {
            assert!(outcome.stderr.contains(part), "{part} is not in: {}", outcome.stderr);
        }
        assert_eq!(
            outcome.then,
            format!("register\nstatus\n{name}")
                .replace("register\nstatus\nqemu-aarch64", "qemu-aarch64\nregister\nstatus")
        );
    }
}

#[test]
fn who_asks_for_nothing_is_content_with_any_emulator() {
    let copy = "cp /mnt/emulators/qemu-aarch64-static /mnt/other";
    let register = registered("other", "/mnt/other", "OPF", "");
    let mut case = Case {
        host: format!("{copy}\n{register}").leak(),
        private: false,
        afterwards: "ls /mnt/instance",
        ..Case::asking("arm64")
    };
    case.config["process"] = json!({"args": ["/exit42"], "cwd": "/"});
    assert!(case.run().stderr.contains("--userns=keep-id"));
    case.state = case.state.replace("toolbx.arch", "other");
    let outcome = case.run();
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
    assert_eq!(outcome.then, "42\nother\nregister\nstatus");
}

/// Whether this kernel is that version, or a later one.
fn is_linux(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    (parts.next().unwrap(), parts.next().unwrap()) >= (major, minor)
}

/// Once there is an instance, others' handlers are hidden: then even a container that could do without
/// us must not be started as if nothing had happened. Before, it can.
#[test]
fn what_fails_too_late_is_a_failure() {
    let mut case = Case {
        rootfs: concat!(
            "mkdir tool bin; mount -t tmpfs tool tool; cp /bin/true tool/; cp exit42 bin/sh\n",
            // The container's own, and that of the copies, but none for the instance.
            "echo 2 >/proc/sys/user/max_mnt_namespaces"
        ),
        then: "",
        ..Case::asking("arm64")
    };
    case.config["process"] = json!({"args": ["/tool/true"], "cwd": "/"});
    case.state = case.state.replace("toolbx.arch", "other");
    let late = case.run();
    if is_linux(6, 15) {
        assert_eq!(late.status, 1, "{}", late.stderr);
        assert!(late.stderr.contains("ENOSPC"), "{}", late.stderr);
    } else {
        // The hook wants a namespace earlier, for itself (`room.rs`).
        assert_eq!((late.status, late.stderr.as_str()), (0, ""));
    }
    // In the way of the emulator's file.
    let early = Case {
        rootfs: concat!(
            "mkdir tool bin; mount -t tmpfs tool tool; cp /bin/true tool/; cp exit42 bin/sh\n",
            "echo file >dev/.toolbx-arch"
        ),
        ..case
    }
    .run();
    assert_eq!((early.status, early.stderr.as_str()), (0, ""));
}

/// Makes /hangs of the container a FUSE file system whose daemon answers nothing. It may do something first.
const HANGS: &str = "mkdir hangs; touch started; python3 -c '
import ctypes, os, time
fd = os.open(\"/dev/fuse\", os.O_RDWR)
options = f\"fd={fd},rootmode=40000,user_id=0,group_id=0\".encode()
if ctypes.CDLL(None, use_errno=True).mount(b\"x\", b\"hangs\", b\"fuse\", 0, options):
    raise OSError(ctypes.get_errno(), \"mount\")
open(\"started\", \"w\").write(\"yes\")
# first
container = os.getppid()
while os.getppid() == container:
    time.sleep(0.1)' >/dev/null &
        until [ -s started ]; do sleep 0.1; done";

/// Answers `FUSE_INIT` (`include/uapi/linux/fuse.h`), takes the next request, and notes whose it is. Not even
/// SIGKILL ends a process whose request was taken.
const TAKES_ONE: &str = "
import struct
unique, = struct.unpack_from(\"=Q\", os.read(fd, 1 << 17), 8)
os.write(fd, struct.pack(\"=IiQIIIIHHIIHH32x\", 80, 0, unique, 7, 31, 4096, 0, 1, 1, 4096, 1, 1, 0))
pid, = struct.unpack_from(\"=I\", os.read(fd, 1 << 17), 32)
open(\"/mnt/hanging\", \"w\").write(str(pid))
";

/// Whether this test may mount FUSE.
fn may_open_fuse() -> bool {
    let may = std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !may {
        let is_there = std::path::Path::new("/dev/fuse").exists();
        assert!(is_there, "/dev/fuse is missing; run: modprobe fuse");
        eprintln!("left out: only root may open /dev/fuse here");
    }
    may
}

#[test]
fn what_hangs_keeps_no_mounts_of_the_container() {
    if !may_open_fuse() {
        return;
    }
    let rootfs = HANGS.replace("# first", TAKES_ONE).leak();
    let afterwards = "for fd in /proc/$(cat /mnt/hanging)/fd/*; do readlink $fd; done";
    let mut case = Case { rootfs, then: "", afterwards, ..Case::asking("none") };
    case.config["process"] = json!({"args": ["/hangs/program"], "cwd": "/"});
    let outcome = case.run();
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    assert!(outcome.then.contains("/dev/null"), "it does not hang: {}", outcome.then);
    assert!(!outcome.then.contains("mnt:"), "{}", outcome.then);
}

/// A volume on such a file system, and the first program on it.
#[test]
fn a_file_system_that_hangs_delays_and_no_more() {
    if !may_open_fuse() {
        return;
    }
    for (arch, then, printed) in [
        ("none", "echo $?", "0"),
        ("auto", "", ""),
        ("arm64", "chroot /mnt/rootfs /exit42; echo $?", "42"),
    ] {
        let mut case = Case { rootfs: HANGS, then, ..Case::asking(arch) };
        case.config["process"] = json!({"args": ["/hangs/program"], "cwd": "/"});
        let start = std::time::Instant::now();
        let outcome = case.run();
        assert!(start.elapsed().as_secs() < 20, "{arch}");
        assert_eq!(outcome.status, i32::from(arch == "auto"), "{arch}: {}", outcome.stderr);
        assert_eq!(outcome.then, printed, "{arch}");
    }
}

#[test]
fn a_syslog_daemon_that_does_not_read_blocks_nobody() {
    let directory = std::env::temp_dir().join(format!("toolbx-arch-syslog-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("systemd/journal")).unwrap();
    let daemon =
        std::os::unix::net::UnixDatagram::bind(directory.join("systemd/journal/dev-log")).unwrap();
    let script = format!(
        "mount --bind {} /run; i=0; while [ $i -lt 40 ]; do echo '{{}}' | timeout 5 {} create-runtime 2>/dev/null || [ $? = 1 ]; i=$((i+1)); done",
        directory.display(),
        HOOK
    );
    let status = unshared().args(["-euc", &script]).status().unwrap();
    assert!(status.success());
    // It was really asked, and the record is what the manual says.
    let mut buffer = [0; 4096];
    daemon.set_nonblocking(true).unwrap();
    let length = daemon.recv(&mut buffer).expect("the daemon got a record");
    let record = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert!(record.starts_with("<27>toolbx-arch-hook["), "{record}");
    let (_, json) = record.split_once("]: ").unwrap();
    let json: Value = serde_json::from_str(json).unwrap();
    assert_eq!(json["decision"], "refused");
    assert!(json["us"].is_u64() && json["error"].as_str().unwrap().contains("names no process"));
    std::fs::remove_dir_all(directory).unwrap();
}
