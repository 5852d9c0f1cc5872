use super::*;
use crate::arch;
use crate::asked::evidence::Need;
use crate::asked::labels::Label;
use crate::host::native;

/// Annotations, and a program's architecture and whether it is the first.
fn evidence(pairs: &[(&str, &str)], program: Option<(&str, bool)>) -> Evidence {
    let annotations = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let detected = program.map(|(name, is_first)| Detected {
        arch: arch::find(name).unwrap(),
        program: "/bin/x".into(),
        is_first,
    });
    Evidence { annotations, detected, ..Evidence::default() }
}

fn request(pairs: &[(&str, &str)], program: Option<(&str, bool)>, policy: &str) -> Result<Request> {
    let policy = Policy::of_file(policy, "policy".as_ref())?;
    decide(&evidence(pairs, program), &policy, |arch| arch.name == "x86_64")
}

fn ask(pairs: &[(&str, &str)], policy: &str) -> Result<Request> {
    request(pairs, None, policy)
}

/// The names of the targets that are to be emulated.
fn targets(request: Result<Request>) -> Vec<&'static str> {
    match request.unwrap() {
        Request::Emulate(wish) => wish.targets.iter().map(|arch| arch.name).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn annotations_decide() {
    for (pairs, request) in [
        (&[][..], Request::Nothing),
        (&[("other", "arm64")], Request::Nothing),
        (&[("toolbx.architecture", "arm64")], Request::Nothing),
        (&[("toolbx.arch.userns", "private")], Request::Nothing),
        (&[("toolbx.arch", "amd64")], Request::Native),
    ] {
        assert_eq!(ask(pairs, "{}").unwrap(), request, "{pairs:?}");
    }
    for (pairs, names) in [
        (&[("toolbx.arch", "arm64")][..], &["aarch64"][..]),
        (&[("toolbox-arch", "ppc64le")], &["ppc64le"]),
        (&[("toolbx.arch", "arm64"), ("toolbox-arch", "s390x")], &["aarch64"]),
        (&[("toolbx.arch", "arm64, s390x ,aarch64")], &["aarch64", "s390x"]),
        (&[("toolbx.arch", "arm64 s390x\taarch64")], &["aarch64", "s390x"]),
        (&[("toolbx.arch", "amd64,arm64")], &["aarch64"]),
    ] {
        assert_eq!(targets(ask(pairs, "{}")), names, "{pairs:?}");
    }
}

#[test]
fn none_needs_no_policy() {
    for (pairs, says_none) in [
        (&[("toolbx.arch", "none")][..], true),
        (&[("toolbx.arch", " None "), ("toolbox-arch", "arm64"), ("toolbx.arch.x", "y")], true),
        (&[("toolbox-arch", "none")], true),
        (&[("toolbx.arch", "arm64"), ("toolbox-arch", "none")], false),
        (&[("toolbx.arch.cpu", "none")], false),
        (&[], false),
    ] {
        assert_eq!(evidence(pairs, None).says_none(), says_none, "{pairs:?}");
    }
}

#[test]
fn what_was_detected_decides_where_nobody_asks() {
    assert_eq!(targets(request(&[], Some(("alpha", true)), "{}")), ["alpha"]);
    for (program, policy) in [
        ("amd64", "{}"),
        ("arm64", r#"{"detect": false}"#),
        ("arm64", r#"{"architectures": ["s390x"]}"#),
    ] {
        let request = request(&[], Some((program, true)), policy).unwrap();
        assert_eq!(request, Request::Nothing, "{program} {policy}");
    }
}

#[test]
fn who_wants_it() {
    // alpha is nobody's host here.
    for (pairs, program, need) in [
        (&[][..], None, None),
        (&[], Some((native::host_arch().name, true)), None),
        (&[], Some(("alpha", true)), Some(Need::FirstProgram)),
        (&[], Some(("alpha", false)), Some(Need::OtherPrograms)),
        (&[("toolbx.arch", "alpha")], None, Some(Need::Asked)),
        (&[("toolbx.arch.userns", "engine")], Some(("alpha", true)), Some(Need::Asked)),
    ] {
        assert_eq!(evidence(pairs, program).need(), need, "{pairs:?} {program:?}");
    }
    let toolbx = Evidence { toolbx: arch::find("alpha"), ..Evidence::default() };
    assert_eq!(toolbx.need(), Some(Need::OtherPrograms));
}

#[test]
fn a_label_comes_after_annotations_and_before_what_is_found() {
    let label = |value: &str| Some(Label { source: "toolbox-arch label", value: value.to_owned() });
    let decide = |evidence: &Evidence, policy| {
        let policy = Policy::of_file(policy, "policy".as_ref()).unwrap();
        decide(evidence, &policy, |arch| arch.name == "x86_64")
    };
    let wish = |evidence: &Evidence| match decide(evidence, "{}").unwrap() {
        Request::Emulate(wish) => wish,
        other => panic!("{other:?}"),
    };
    let toolbx = Evidence {
        label: label("arm64"),
        toolbx: arch::find("s390x"),
        ..evidence(&[], Some(("arm64", true)))
    };
    let found = wish(&toolbx);
    assert_eq!(found.targets, [arch::find("arm64").unwrap()]);
    assert_eq!(found.sources[0], (Source::Label("toolbox-arch label"), "\"arm64\"".to_owned()));
    assert_eq!(found.contradiction, None);
    for (program, targets) in [("amd64", &["aarch64"][..]), ("s390x", &["aarch64", "s390x"])] {
        let found =
            wish(&Evidence { label: label("arm64"), ..evidence(&[], Some((program, true))) });
        assert_eq!(found.targets.iter().map(|arch| arch.name).collect::<Vec<_>>(), targets);
        assert!(found.contradiction.unwrap().contains("not asked for"), "{program}");
    }
    let asked = Evidence { label: label("arm64"), ..evidence(&[("toolbx.arch", "s390x")], None) };
    assert_eq!(targets(decide(&asked, "{}")), ["s390x"]);
    let labelled = |text| Evidence { label: label(text), ..Evidence::default() };
    assert_eq!(decide(&labelled("amd64"), "{}").unwrap(), Request::Native);
    assert_eq!(labelled("alpha").need(), Some(Need::Asked));
    assert_eq!(labelled(native::host_arch().name).need(), None);
    for odd in ["arm65", "", "none", "amd64,"] {
        assert_eq!(decide(&labelled(odd), "{}").unwrap(), Request::Nothing, "{odd}");
        assert_eq!(labelled(odd).need(), None, "{odd}");
    }
    let finer =
        Evidence { label: label("arm64"), ..evidence(&[("toolbx.arch.userns", "engine")], None) };
    assert!(finer.may_have_label());
    assert_eq!(targets(decide(&finer, "{}")), ["aarch64"]);
}

#[test]
fn a_device_asks_beside_an_annotation() {
    let of = |pairs: &[(&str, &str)]| Evidence {
        devices: vec![arch::find("arm64").unwrap(), arch::find("amd64").unwrap()],
        label: Some(Label { source: "toolbox-arch label", value: "alpha".to_owned() }),
        ..evidence(pairs, Some(("s390x", true)))
    };
    let decide = |evidence: &Evidence| {
        decide(evidence, &Policy::default(), |arch| arch.name == "x86_64").unwrap()
    };
    assert!(!of(&[]).may_have_label());
    for (pairs, expected) in [
        (&[][..], &["aarch64", "s390x"][..]),
        (&[("toolbx.arch", "hppa")], &["hppa", "aarch64", "s390x"]),
        (&[("toolbx.arch", "auto")], &["aarch64", "s390x"]),
    ] {
        assert_eq!(targets(Ok(decide(&of(pairs)))), expected, "{pairs:?}");
    }
    assert!(of(&[("toolbx.arch", "none")]).says_none());
    let only = Evidence { devices: of(&[]).devices, ..Evidence::default() };
    assert_eq!(only.need(), Some(Need::Asked));
    let native = Evidence { devices: vec![native::host_arch()], ..Evidence::default() };
    assert_eq!(native.need(), None);
}

#[test]
fn a_user_namespace_is_asked_for_in_two_words() {
    let ask =
        |value, policy| ask(&[("toolbx.arch", "arm64"), ("toolbx.arch.userns", value)], policy);
    for (value, expected) in [("private", UsernsWish::Private), (" engine ", UsernsWish::Engine)] {
        match ask(value, "{}").unwrap() {
            Request::Emulate(wish) => assert_eq!(wish.userns, Some(expected)),
            other => panic!("{other:?}"),
        }
    }
    let error = ask("rootful", "{}").unwrap_err().to_string();
    assert!(error.contains("neither private nor engine"), "{error}");
    let error = ask("private", r#"{"annotations": ["toolbx.arch"]}"#).unwrap_err().to_string();
    assert!(error.contains("annotation toolbx.arch.userns"), "{error}");
    // Also where it would make no difference.
    assert!(self::ask(&[("toolbx.arch.userns", "maybe")], "{}").is_err());
}

#[test]
fn a_contradiction_serves_both_and_warns() {
    let wish = |annotation, program| match request(
        &[("toolbx.arch", annotation)],
        Some((program, true)),
        "{}",
    )
    .unwrap()
    {
        Request::Emulate(wish) => wish,
        other => panic!("{other:?}"),
    };
    let both = wish("arm64", "s390x");
    assert_eq!(both.targets.iter().map(|a| a.name).collect::<Vec<_>>(), ["aarch64", "s390x"]);
    assert_eq!(
        both.contradiction.unwrap(),
        "/bin/x is for s390x, which was not asked for; both are served"
    );
    assert_eq!(
        both.sources,
        [
            (Source::Annotation("toolbx.arch"), "\"arm64\"".to_owned()),
            (Source::Program, "/bin/x is for s390x".to_owned()),
        ]
    );
    assert_eq!(wish("amd64", "s390x").targets[0].name, "s390x");
    assert!(wish("amd64", "s390x").contradiction.is_some());
    assert!(wish("s390x", "s390x").contradiction.is_none());
    assert!(wish("arm64", "amd64").contradiction.is_none());
}

#[test]
fn auto_and_all() {
    let auto = &[("toolbx.arch", "auto")];
    assert_eq!(targets(request(auto, Some(("arm64", true)), "{}")), ["aarch64"]);
    assert_eq!(request(auto, Some(("amd64", true)), "{}").unwrap(), Request::Native);
    let error = ask(auto, "{}").unwrap_err().to_string();
    assert!(error.contains("name it"), "{error}");

    let all = &[("toolbx.arch", "All")];
    assert_eq!(targets(ask(all, "{}")).len(), ARCHES.len() - 1);
    assert_eq!(targets(ask(all, r#"{"architectures": ["arm64", "s390x"]}"#)), ["s390x", "aarch64"]);
}

#[test]
fn every_target_at_once() {
    let all: Vec<_> = ARCHES.iter().map(|arch| arch.name).collect();
    let foreign: Vec<_> = all.iter().copied().filter(|name| *name != "x86_64").collect();
    assert_eq!(targets(ask(&[("toolbx.arch", &all.join(","))], "{}")), foreign);
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
        ("auto,arm64", "unknown architecture \"auto\""),
        ("arm\u{7}64", "\"arm\\u{7}64\""),
        (&long, "unknown architecture"),
        (&many, "names more than 34 architectures"),
    ] {
        let error = format!("{:#}", ask(&[("toolbx.arch", value)], "{}").unwrap_err());
        assert!(error.contains(part), "{error}");
        assert!(error.len() < 300 && !error.contains('\n') && !error.contains('\0'), "{error:?}");
    }
    let error = ask(&[("toolbx.arch.cpus", "max")], "{}").unwrap_err().to_string();
    assert!(error.contains("toolbx.arch.cpus"), "{error}");
}

/// What the emulator of each target is told, and whether that was asked for.
fn told(pairs: &[(&str, &str)], policy: &str) -> Vec<(&'static str, String, bool)> {
    match ask(pairs, policy).unwrap() {
        Request::Emulate(wish) => wish
            .arguments
            .iter()
            .map(|(name, told)| (*name, told.arguments.to_string(), told.asked))
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn emulators_are_told_what_the_policy_and_annotations_say() {
    let none = r#"{"emulator_arguments": {}}"#;
    let other = r#"{"emulator_arguments": {"all": {"strace": "true"}, "arm64": {"uname": "6"}}}"#;
    for (pairs, policy, expected) in [
        (&[][..], "{}", [("aarch64", " -cpu max,pauth=off", false), ("s390x", "", false)]),
        (&[], none, [("aarch64", "", false), ("s390x", "", false)]),
        (&[], other, [("aarch64", " -r 6", false), ("s390x", " ! -strace", false)]),
        (
            &[("toolbx.arch.cpu", "max"), ("toolbx.arch.stack-size", "16M")],
            other,
            [
                ("aarch64", " -cpu max -s 16M -r 6", true),
                ("s390x", " -cpu max -s 16M ! -strace", true),
            ],
        ),
        (
            &[("toolbx.arch.cpu", "max"), ("toolbx.arch.cpu.arm64", "cortex-a57")],
            "{}",
            [("aarch64", " -cpu cortex-a57", true), ("s390x", " -cpu max", true)],
        ),
        (
            &[("toolbx.arch.cpu", "max  vfp=off x=1")],
            none,
            [("aarch64", " -cpu max,vfp=off,x=1", true), ("s390x", " -cpu max,vfp=off,x=1", true)],
        ),
        (
            &[("toolbx.arch.cpu.aarch64", " default ")],
            "{}",
            [("aarch64", "", true), ("s390x", "", false)],
        ),
    ] {
        let pairs = [&[("toolbx.arch", "arm64,s390x")], pairs].concat();
        let expected = expected.map(|(name, text, asked)| (name, text.to_owned(), asked));
        assert_eq!(told(&pairs, policy), expected, "{pairs:?} {policy}");
    }
}

#[test]
fn arguments_that_cannot_be_had_are_refused() {
    let long = "x".repeat(10_000);
    let only_cpu = r#"{"argument_annotations": {"all": ["cpu"], "s390x": []}}"#;
    for (key, value, policy, part) in [
        ("toolbx.arch.cpu", "max /log", "{}", "is not a CPU model"),
        ("toolbx.arch.uname", "6 7", "{}", "is not a kernel release"),
        ("toolbx.arch.cpu", "max\n", "{}", ""),
        ("toolbx.arch.cpu", "a!b", "{}", "is not a CPU model"),
        ("toolbx.arch.cpu", "", "{}", "nor default"),
        ("toolbx.arch.cpu", &long, "{}", "is not a CPU model"),
        ("toolbx.arch.cpu.arm65", "max", "{}", "did you mean"),
        ("toolbx.arch.cpu.s390x", "max", "{}", "nothing is emulated for s390x"),
        ("toolbx.arch.strace", "/log", "{}", "true or false"),
        ("toolbx.arch.uname", "6", only_cpu, "add uname to the policy's argument_annotations"),
    ] {
        let result = ask(&[("toolbx.arch", "arm64"), (key, value)], policy);
        if part.is_empty() {
            assert!(result.is_ok(), "blanks around a value: {value:?}");
            continue;
        }
        let error = format!("{:#}", result.unwrap_err());
        assert!(error.contains(key) && error.contains(part), "{error}");
        assert!(error.len() < 300 && !error.contains('\n'), "{error:?}");
    }
    let twice = [
        ("toolbx.arch", "arm64"),
        ("toolbx.arch.cpu.arm64", "a"),
        ("toolbx.arch.cpu.aarch64", "b"),
    ];
    assert!(ask(&twice, "{}").unwrap_err().to_string().contains("are for the same"));
    let both = [("toolbx.arch", "arm64,s390x"), ("toolbx.arch.cpu", "max")];
    assert!(ask(&both, only_cpu).unwrap_err().to_string().contains("s390x"));
    let native = [("toolbx.arch", "amd64"), ("toolbx.arch.cpu.amd64", "max")];
    assert_eq!(ask(&native, "{}").unwrap(), Request::Native);
}

#[test]
fn the_policy_is_above_the_annotation() {
    let arm = &[("toolbx.arch", "arm64")];
    let error = ask(arm, r#"{"architectures": ["s390x"]}"#).unwrap_err().to_string();
    assert!(error.contains("does not allow aarch64"), "{error}");
    let error = ask(arm, r#"{"annotations": ["toolbox-arch"]}"#).unwrap_err().to_string();
    assert!(error.contains("annotation toolbx.arch"), "{error}");
    assert_eq!(targets(ask(arm, r#"{"architectures": ["arm64"]}"#)), ["aarch64"]);
    // The host needs no emulation for its own programs, so there is nothing to allow.
    let native = ask(&[("toolbx.arch", "amd64")], r#"{"architectures": []}"#);
    assert_eq!(native.unwrap(), Request::Native);
}
