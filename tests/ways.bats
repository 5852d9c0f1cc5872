# The ways in which engines come by foreign images, with and without annotations.
bats_require_minimum_version 1.5.0
load helpers

multi=127.0.0.1:5000/multi

# The engines and user namespaces that need no configuration.
runs() { # expected podman-run-arguments…
    local expected=$1
    shift
    run --separate-stderr as_root run --rm --userns=auto "$@"
    prints "$expected"
    run --separate-stderr as_alice run --rm "$@"
    prints "$expected"
}

@test "from a registry: --platform, --arch, a digest" {
    local platform machine digest
    while read -r platform machine; do
        runs "$machine" --pull always --tls-verify=false --platform "linux/$platform" $multi uname -m
    done <<END
amd64 x86_64
arm64 aarch64
arm64/v8 aarch64
arm/v7 armv7l
ppc64le ppc64le
s390x s390x
END
    runs s390x --pull always --tls-verify=false --arch s390x $multi uname -m
    digest=$(skopeo inspect --raw --tls-verify=false docker://$multi |
        jq -r '.manifests[] | select(.platform.architecture == "arm64").digest')
    runs aarch64 --tls-verify=false "$multi@$digest" uname -m
}

@test "what an image declares does not matter" {
    local declared files machine engine
    while read -r declared files machine; do
        for engine in as_root as_alice; do
            $engine import --quiet --os linux --arch "$declared" "$IMAGES/busybox-$files.tar" localhost/wrong >/dev/null
        done
        runs "$machine" localhost/wrong uname -m
    done <<END
amd64 arm64 aarch64
riscv64 s390x s390x
arm64 amd64 x86_64
END
}

@test "images in oci: and dir: form, by skopeo and by umoci" {
    local form
    rm -rf "$RUN"/{layout,directory,made}
    skopeo copy --quiet containers-storage:localhost/declared:arm64 "oci:$RUN/layout:arm64"
    skopeo copy --quiet containers-storage:localhost/declared:arm64 "dir:$RUN/directory"
    umoci init --layout "$RUN/made"
    umoci new --image "$RUN/made:arm64"
    mkdir -p "$RUN/rootfs-of-made"
    tar -xf "$IMAGES/busybox-arm64.tar" -C "$RUN/rootfs-of-made"
    umoci insert --image "$RUN/made:arm64" "$RUN/rootfs-of-made" /
    umoci config --image "$RUN/made:arm64" --config.cmd uname --config.cmd -m
    chmod -R a+rX "$RUN"/{layout,directory,made}
    for form in "oci:$RUN/layout:arm64" "dir:$RUN/directory" "oci:$RUN/made:arm64"; do
        runs aarch64 "$form" uname -m
    done
    rm -rf "$RUN"/{layout,directory,made,rootfs-of-made}
}

@test "podman kube play" {
    local engine
    for engine in as_root as_alice; do
        cat >"$RUN/pod.yaml" <<END
apiVersion: v1
kind: Pod
metadata:
  name: foreign
spec:
  restartPolicy: Never
  containers:
  - { name: arm64, image: "localhost/busybox:arm64", command: [/bin/uname, -m] }
  - { name: s390x, image: "localhost/busybox:s390x", command: [/bin/uname, -m] }
  - { name: native, image: "localhost/busybox:amd64", command: [/bin/uname, -m] }
END
        $engine kube play $([ $engine = as_alice ] || echo --userns=auto) "$RUN/pod.yaml" >/dev/null
        for arch in arm64:aarch64 s390x:s390x native:x86_64; do
            $engine wait "foreign-${arch%:*}" >/dev/null
            run --separate-stderr $engine logs "foreign-${arch%:*}"
            prints "${arch#*:}"
        done
        $engine pod rm --force --time 0 foreign >/dev/null
    done
}

@test "podman-compose, also with annotations" {
    alice mkdir -p compose
    cat >/home/alice/compose/compose.yaml <<END
services:
  foreign:
    image: localhost/busybox:arm64
    command: [uname, -m]
  annotated:
    image: localhost/busybox:arm64
    annotations:
      toolbx.arch: arm64 s390x
    command: [ls, /proc/sys/fs/binfmt_misc]
  untouched:
    image: localhost/busybox:arm64
    annotations: ["toolbx.arch=none"]
    command: [uname, -m]
END
    compose() { alice sh -c "cd compose && podman-compose --podman-run-args='--runtime $RUNTIME' up $1" >"$RUN/compose.out" 2>&1; }
    compose foreign || fail "$(cat "$RUN/compose.out")"
    grep -q aarch64 "$RUN/compose.out" || fail "$(cat "$RUN/compose.out")"
    compose annotated || fail "$(cat "$RUN/compose.out")"
    grep -q toolbx-arch-s390x "$RUN/compose.out" || fail "$(cat "$RUN/compose.out")"
    logged 'sources."toolbx.arch"="\"arm64 s390x\""'
    # In a namespace where no other container has left handlers.
    as_alice system migrate
    compose untouched || true
    grep -qi "exec format error" "$RUN/compose.out" || fail "$(cat "$RUN/compose.out")"
    logged 'decision="off"'
    alice sh -c "cd compose && podman-compose down" >/dev/null 2>&1
}

# What Quadlet's generator makes of a unit, run as systemd would, in the foreground. A laboratory has
# no systemd, which names things (%t, %N) and without which there is no cgroup to split.
quadlet() { # engine [-user]: a unit's [Container] on standard input
    local command
    mkdir -p "$RUN/units"
    { echo "[Container]"; echo "Network=none"; cat; } >"$RUN/units/unit.container"
    command=$(QUADLET_UNIT_DIRS=$RUN/units "$IMAGES/quadlet" -dryrun "${@:2}" 2>/dev/null |
        sed -n 's,^ExecStart=/usr/bin/podman ,,p' |
        sed 's, --cgroups=split,,; s, --sdnotify=conmon -d,,; s, --cidfile=[^ ]*,,; s,%N,unit,')
    [[ "$command" == run\ * ]] || fail "no command: $command"
    eval "$1 $command"
}

@test "Quadlet" {
    run --separate-stderr quadlet as_alice -user <<'END'
Image=localhost/busybox:arm64
Exec=uname -m
END
    prints aarch64
    local engine namespace user
    for engine in "as_alice keep-id -user" "as_root auto"; do
        read -r engine namespace user <<<"$engine"
        run --separate-stderr quadlet $engine $user <<END
Image=localhost/busybox:arm64
Exec=ls /proc/sys/fs/binfmt_misc
UserNS=$namespace
Annotation="toolbx.arch=arm64 s390x"
END
        [[ "$output" == *toolbx-arch-aarch64*toolbx-arch-s390x* ]] || fail "$engine: $output $stderr"
        run --separate-stderr quadlet $engine $user <<END
Image=localhost/busybox:arm64
Exec=uname -m
UserNS=$namespace
Annotation=toolbx.arch=none
END
        [ "$status" != 0 ]
        logged 'decision="off"'
    done
}
