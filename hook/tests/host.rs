//! Scope host: what the machine's own handlers are good for. The machine is played by a user
//! namespace, because the real one's instance is never touched.

use std::path::Path;
use std::process::Command;

use toolbx_arch::arch;
use toolbx_arch::host::instance::Instance;
use toolbx_arch::plan::ensure_served_by_host;

/// The test's own variable: where the instance is, in the run inside the namespace.
const INSTANCE: &str = "TOOLBX_ARCH_TEST_INSTANCE";

/// Whether containers may rely on the handlers that `setup` registers, for arm64 and s390x.
fn served(test: &str, setup: &str) -> Result<(), String> {
    let script = format!(
        "mount -t tmpfs x /mnt; mkdir /mnt/i; mount -t binfmt_misc x /mnt/i
        add() {{ printf \"%s\" \":$1:M::$2:$3:/usr/bin/true:$4\" >/mnt/i/register; }}
        all='\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff'
        arm64() {{ add aarch64 '\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00' \"$all\"'\\xfe\\xff\\xff\\xff' \"$1\"; }}
        s390x() {{ add s390x '\\x7fELF\\x02\\x02\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\x16' \"$all\"'\\xff\\xfe\\xff\\xff' \"$1\"; }}
        {setup}
        exec \"$0\" --exact {test} --nocapture"
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--propagation", "private", "sh", "-euc"])
        .arg(script)
        .arg(std::env::current_exe().unwrap())
        .env(INSTANCE, "/mnt/i")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let (_, verdict) = printed.split_once("verdict: ").expect("a verdict");
    match verdict.lines().next() {
        Some("served") => Ok(()),
        refusal => Err(refusal.unwrap_or_default().to_owned()),
    }
}

/// In the run inside the namespace: says what the library says of the instance. `true` if so.
fn is_inside() -> bool {
    let Some(path) = std::env::var_os(INSTANCE) else { return false };
    let instance = Instance::mounted_at(Path::new(&path));
    let targets = ["arm64", "s390x"].map(|name| arch::find(name).unwrap());
    let visible = instance.map(|instance| instance.visible().unwrap());
    match ensure_served_by_host(visible.as_ref(), &targets) {
        Ok(()) => println!("\nverdict: served"),
        Err(error) => println!("\nverdict: {error:#}"),
    }
    true
}

#[test]
fn only_enabled_handlers_with_flag_f_serve_containers() {
    if is_inside() {
        return;
    }
    let test = "only_enabled_handlers_with_flag_f_serve_containers";
    for (setup, lacks) in [
        ("arm64 F; s390x PF", None),
        ("arm64 F; s390x POCF", None),
        ("arm64 F", Some("s390x")),
        ("", Some("aarch64")),
        ("arm64 F; s390x P", Some("s390x")),
        ("arm64 F; s390x F; echo 0 >/mnt/i/aarch64", Some("aarch64")),
        ("arm64 F; s390x F; echo 0 >/mnt/i/status", Some("aarch64")),
        ("arm64 F; s390x F; umount /mnt/i", Some("aarch64")),
    ] {
        match (served(test, setup), lacks) {
            (Ok(()), None) => {}
            (Err(refusal), Some(arch)) => {
                for part in [arch, "--userns=auto", "whole machine"] {
                    assert!(refusal.contains(part), "{setup}: {part} is not in: {refusal}");
                }
            }
            (verdict, _) => panic!("{setup}: {verdict:?}"),
        }
    }
}

#[test]
fn names_that_are_no_utf8_do_not_matter() {
    if is_inside() {
        return;
    }
    let setup = "printf ':a\\377b c:E::x y::/usr/bin/true:' >/mnt/i/register; arm64 F; s390x F";
    assert_eq!(served("names_that_are_no_utf8_do_not_matter", setup), Ok(()));
}
