use super::*;

fn ask(pairs: &[(&str, &str)], policy: &str) -> Result<Request> {
    let annotations = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let policy = Policy::default().overridden_by(policy, "policy".as_ref())?;
    decide(&annotations, &policy, |arch| arch.name == "x86_64")
}

fn emulate(names: &[&str]) -> Request {
    Request::Emulate(names.iter().map(|name| arch::find(name).unwrap()).collect())
}

#[test]
fn annotations_decide() {
    for (pairs, request) in [
        (&[][..], Request::Nothing),
        (&[("other", "arm64")], Request::Nothing),
        (&[("toolbx.architecture", "arm64")], Request::Nothing),
        (&[("toolbx.arch", "arm64")], emulate(&["aarch64"])),
        (&[("toolbox-arch", "ppc64le")], emulate(&["ppc64le"])),
        (&[("toolbx.arch", "arm64"), ("toolbox-arch", "s390x")], emulate(&["aarch64"])),
        (&[("toolbx.arch", "arm64, s390x ,aarch64")], emulate(&["aarch64", "s390x"])),
        (&[("toolbx.arch", "arm64 s390x\taarch64")], emulate(&["aarch64", "s390x"])),
        (&[("toolbx.arch", "none")], Request::Off),
        (&[("toolbx.arch", " None ")], Request::Off),
        (&[("toolbx.arch", "none"), ("toolbx.arch.cpu", "max")], Request::Off),
        (&[("toolbx.arch", "amd64")], Request::Native),
        (&[("toolbx.arch", "amd64,arm64")], emulate(&["aarch64"])),
    ] {
        assert_eq!(ask(pairs, "{}").unwrap(), request, "{pairs:?}");
    }
}

#[test]
fn every_target_at_once() {
    let all: Vec<_> = ARCHES.iter().map(|arch| arch.name).collect();
    let foreign: Vec<_> = all.iter().copied().filter(|name| *name != "x86_64").collect();
    assert_eq!(ask(&[("toolbx.arch", &all.join(","))], "{}").unwrap(), emulate(&foreign));
}

#[test]
fn bad_values_are_refused_in_one_line() {
    let long = "x".repeat(1024 * 1024);
    let many = vec!["arm64"; 40].join(",");
    for (value, part) in [
        ("", "empty name"),
        (" ", "empty name"),
        (",", "empty name"),
        ("arm64,,s390x", "empty name"),
        ("arm64,", "empty name"),
        ("arm64\0", "unknown architecture \"arm64\\0\""),
        ("../../etc", "unknown architecture"),
        ("arm65", "did you mean"),
        ("none,arm64", "unknown architecture \"none\""),
        ("auto", "name the architecture"),
        ("arm\u{7}64", "\"arm\\u{7}64\""),
        (&long, "unknown architecture"),
        (&many, "names more than 34 architectures"),
    ] {
        let error = format!("{:#}", ask(&[("toolbx.arch", value)], "{}").unwrap_err());
        assert!(error.contains(part), "{error}");
        assert!(error.len() < 300 && !error.contains('\n') && !error.contains('\0'), "{error:?}");
    }
    let error = ask(&[("toolbx.arch.cpu", "max")], "{}").unwrap_err().to_string();
    assert!(error.contains("toolbx.arch.cpu"), "{error}");
}

#[test]
fn the_policy_is_above_the_annotation() {
    let arm = &[("toolbx.arch", "arm64")];
    let error = ask(arm, r#"{"architectures": ["s390x"]}"#).unwrap_err().to_string();
    assert!(error.contains("does not allow aarch64"), "{error}");
    let error = ask(arm, r#"{"annotations": ["toolbox-arch"]}"#).unwrap_err().to_string();
    assert!(error.contains("annotation toolbx.arch"), "{error}");
    assert_eq!(ask(arm, r#"{"architectures": ["arm64"]}"#).unwrap(), emulate(&["aarch64"]));
    // The host needs no emulation for its own programs, so there is nothing to allow.
    let native = ask(&[("toolbx.arch", "amd64")], r#"{"architectures": []}"#);
    assert_eq!(native.unwrap(), Request::Native);
}
