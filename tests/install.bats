# What make install puts where, and the files themselves.
# bats file_tags=any-runtime
bats_require_minimum_version 1.5.0
load helpers

source=$BATS_TEST_DIRNAME/..

@test "install into a directory, and uninstall leaves it empty" {
    local to=$RUN/destination
    make --no-print-directory -C "$source" install DESTDIR="$to" >/dev/null
    run find "$to" -type f -printf '%m %P\n'
    [ "$status" = 0 ]
    diff <(sort <<<"$output") - <<EOF
644 usr/share/bash-completion/completions/toolbx-arch
644 usr/share/containers/oci/hooks.d/50-toolbx-arch.json
644 usr/share/doc/toolbx-arch/policies/apparmor/toolbx-arch-hook
644 usr/share/doc/toolbx-arch/policies/ci.json
644 usr/share/doc/toolbx-arch/policies/selinux/toolbx_arch.cil
644 usr/share/doc/toolbx-arch/policies/strict.json
644 usr/share/fish/vendor_completions.d/toolbx-arch.fish
644 usr/share/man/man1/toolbx-arch-cdi.1
644 usr/share/man/man1/toolbx-arch-disable.1
644 usr/share/man/man1/toolbx-arch-doctor.1
644 usr/share/man/man1/toolbx-arch-enable.1
644 usr/share/man/man1/toolbx-arch-explain.1
644 usr/share/man/man1/toolbx-arch-list.1
644 usr/share/man/man1/toolbx-arch-prepare.1
644 usr/share/man/man1/toolbx-arch-pull.1
644 usr/share/man/man1/toolbx-arch.1
644 usr/share/man/man5/toolbx-arch-policy.5
644 usr/share/man/man8/toolbx-arch-hook.8
644 usr/share/toolbx-arch/hooks.d/all/50-toolbx-arch.json
644 usr/share/toolbx-arch/hooks.d/annotation-only/50-toolbx-arch.json
644 usr/share/toolbx-arch/hooks.d/off/50-toolbx-arch-userns.json
644 usr/share/toolbx-arch/hooks.d/off/50-toolbx-arch.json
644 usr/share/toolbx-arch/hooks.d/precreate-annotation-only/50-toolbx-arch-userns.json
644 usr/share/toolbx-arch/hooks.d/precreate/50-toolbx-arch-userns.json
644 usr/share/toolbx-arch/podman-hooks.d/50-toolbx-arch-userns.json
644 usr/share/toolbx-arch/policy.json
644 usr/share/toolbx-arch/policy.schema.json
644 usr/share/zsh/site-functions/_toolbx-arch
755 usr/bin/toolbx-arch
755 usr/libexec/oci/hooks.d/toolbx-arch-hook
EOF
    # As `toolbx-arch cdi`, `enable` and `disable` write, and leave when they are killed.
    mkdir -p "$to"/etc/{cdi,containers/containers.conf.d}
    touch "$to"/etc/cdi/toolbx-arch.{json,new-7} "$to"/etc/containers/containers.conf.d/toolbx-arch.{conf,new-7}
    make --no-print-directory -C "$source" uninstall DESTDIR="$to" >/dev/null
    run find "$to" -path '*toolbx*'
    prints ""
}

@test "the drop-in is never there without the binary" {
    # Every container would fail in between: binary first, drop-in last, and the other way back.
    run make --no-print-directory --dry-run -C "$source" install DESTDIR=/x
    [[ "$output" == *"hooks.d/toolbx-arch-hook"*"50-toolbx-arch.json" ]] || fail "$output"
    run make --no-print-directory --dry-run -C "$source" uninstall DESTDIR=/x
    [[ "$output" == *"50-toolbx-arch.json"*"hooks.d/toolbx-arch-hook"* ]] || fail "$output"
}

@test "the drop-in's pattern takes our annotations and no others" {
    local pattern key
    pattern=$(jq -r '.when.annotations | keys[0]' "$source/hooks.d/annotation-only/50-toolbx-arch.json")
    for key in hooks.d podman-hooks.d; do
        diff <(jq --compact-output .when "$source/$key"/*.json) - <<<'{"always":true}'
    done
    diff <(jq 'del(.when)' "$source"/hooks.d/*.json) <(jq 'del(.when)' "$source"/hooks.d/annotation-only/*.json)
    # Precreate sees every container, whom it is to guard the machine from, and looks for annotations itself.
    diff <(jq '.hook.args += ["--annotated"]' "$source"/podman-hooks.d/*.json) \
        <(jq . "$source"/podman-hooks.d/annotation-only/*.json)
    for key in toolbx.arch toolbox-arch toolbx.arch.cpu; do
        grep -qE "$pattern" <<<"$key" || fail "$key"
    done
    for key in toolbxxarch x.toolbx.arch toolbx.archive toolbox-arch2 toolbx; do
        ! grep -qE "$pattern" <<<"$key" || fail "$key"
    done
}

@test "every policy fits its schema, and the schema refuses what the hook refuses" {
    local policy
    validate() { # file
        /usr/bin/python3 -c 'import json, sys, jsonschema
jsonschema.validate(json.load(open(sys.argv[1])), json.load(open(sys.argv[2])))' "$1" "$source/policies/policy.schema.json"
    }
    for policy in "$source"/policies/*.json; do
        [ "${policy##*/}" = policy.schema.json ] || validate "$policy"
    done
    for policy in '{"show_emulator": 1}' '{"unknown": 1}' '[]' '{"credentials": "always"}' \
        '{"emulator_directories": ["usr/bin"]}' '{"emulator_directories": ["/a\tb"]}' \
        '{"emulator_directories": ["/a/../b"]}' '{"emulator_names": ["qemu"]}' \
        '{"emulator_names": ["a/{cpu}"]}' '{"architectures": "all"}' '{"architectures": ["arm65"]}' \
        '{"emulator_sha256": {"arm64": ["abc"]}}' '{"annotations": ["other"]}' '{"launcher": "always"}' \
        '{"emulator_arguments": {"arm64": {"cpu": "a b"}}}' '{"emulator_arguments": {"arm65": {}}}' \
        '{"emulator_arguments": {"all": {"log": "a"}}}' '{"argument_annotations": {"all": ["log"]}}'; do
        echo "$policy" >"$RUN/policy.json"
        ! validate "$RUN/policy.json" 2>/dev/null || fail "the schema takes $policy"
        mkdir -p /etc/toolbx-arch
        cp "$RUN/policy.json" /etc/toolbx-arch/policy.json
        run as_alice run --rm --annotation toolbx.arch=arm64 localhost/busybox:arm64 true
        rm -r /etc/toolbx-arch
        [ "$status" != 0 ] || fail "the hook takes $policy"
        tail -n 1 /run/log.records | grep -q 'policy /etc/toolbx-arch/policy.json:1:'
    done
}

@test "the policy for CI: no rights, no emulator of this machine's own, no label" {
    mkdir -p /etc/toolbx-arch
    cp "$source/policies/ci.json" /etc/toolbx-arch/policy.json
    cp /usr/bin/qemu-aarch64$static /usr/local/bin/
    run --separate-stderr as_alice run --rm --userns=keep-id --annotation toolbx.arch=arm64 localhost/busybox:arm64 uname -m
    prints aarch64
    logged 'targets[0].emulator="/usr/bin/qemu-aarch64'$static'"' 'targets[0].flags="OPF"'
    run as_alice run --rm --annotation toolbox-arch=arm64 localhost/busybox:arm64 uname -m
    [ "$status" != 0 ]
    logged 'decision="refused"'
    # The default says otherwise, to all three.
    rm -r /etc/toolbx-arch
    run --separate-stderr as_alice run --rm --userns=keep-id --annotation toolbox-arch=arm64 localhost/busybox:arm64 uname -m
    prints aarch64
    logged 'targets[0].emulator="/usr/local/bin/qemu-aarch64'$static'"' 'targets[0].flags="OPFC"'
}

@test "help, version, and a wrong call" {
    local hook=/usr/libexec/oci/hooks.d/toolbx-arch-hook
    run --separate-stderr $hook --help
    [ "$status" = 0 ]
    [ "${#lines[@]}" -le 24 ]
    [ -z "$stderr" ]
    run --separate-stderr $hook --version
    prints "toolbx-arch-hook $(sed -n 's/^version = "\(.*\)"/\1/p' "$source/Cargo.toml")"
    run --separate-stderr -2 $hook nonsense
    [[ -z "$output" && "$stderr" == *"Usage:"* ]]
    run --separate-stderr -2 $hook
    (set -o pipefail; { sleep 0.1; $hook --help; } | true) # a reader who has gone is no error
}
