//! What anybody may ask of the program, without root and without a container.

use std::process::{Command, Output};

fn toolbx_arch(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_toolbx-arch")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_names_every_command() {
    let output = toolbx_arch(&["--help"]);
    let help = text(&output.stdout);
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
    for command in ["doctor", "explain", "list", "pull", "prepare", "enable", "disable", "cdi"] {
        assert!(help.contains(&format!("\n  {command}")), "{command}: {help}");
        let output = toolbx_arch(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert!(text(&output.stdout).contains("Usage: toolbx-arch"), "{command}");
    }
}

#[test]
fn what_is_mistyped_is_an_error_with_the_nearest_name() {
    let output = toolbx_arch(&["docter"]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(2), &b""[..]));
    assert!(text(&output.stderr).contains("doctor"), "{}", text(&output.stderr));
}

#[test]
fn list_knows_every_target_as_json_too() {
    let output = toolbx_arch(&["list", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let targets: Vec<_> =
        list.as_array().unwrap().iter().map(|row| row["target"].as_str().unwrap()).collect();
    assert_eq!(targets, toolbx_arch::arch::ARCHES.iter().map(|arch| arch.name).collect::<Vec<_>>());
}
