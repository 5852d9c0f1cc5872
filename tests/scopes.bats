# What a container's handlers mean for others, and theirs for it.
bats_require_minimum_version 1.5.0
load helpers

# Runs shell commands where the machine has handlers of its own (tests/host-with-handlers): as root
# there, with alice's Podman at hand.
on_host() { # commands
    # A rootless Podman keeps its namespaces in a process; it must be one of that machine.
    as_alice system migrate
    run --separate-stderr "$BATS_TEST_DIRNAME/host-with-handlers" bash -c "
        source '$BATS_TEST_DIRNAME/helpers.bash'
        foreign() { as_alice run --rm --annotation toolbx.arch=\$1 \"\${@:3}\" localhost/busybox:\$1 \$2; }
        plain() { as_alice run --rm localhost/busybox:\$1 uname -m; }
        kept() { alice podman unshare awk '/ - binfmt_misc none/ { print \"kept\" }' /proc/self/mountinfo; }
        $1
        as_alice rm --all --force --time 0 >/dev/null
        as_alice system migrate"
    as_alice system migrate
}

@test "what is there is used, and nothing is mounted" {
    on_host 'foreign s390x "uname -m"; foreign s390x "ls /proc/sys/fs/binfmt_misc"; kept'
    prints s390x
    logged 'decision="inherited"' 'scope="shared"'
}

@test "a target that is served goes on being served, by ours, which is kept" {
    on_host 'plain s390x
        foreign arm64 "uname -m"; kept
        foreign arm64 "cat /proc/sys/fs/binfmt_misc/toolbx-arch-s390x" | head -n 3
        alice podman unshare ls -U /proc/sys/fs/binfmt_misc
        plain s390x; plain armhf; plain arm64'
    # An inherited handler has no file in the container's own /proc.
    prints "s390x
aarch64
kept
toolbx-arch-aarch64
toolbx-arch-s390x
toolbx-arch-arm
register
status
s390x
armv7l
aarch64"
    local nothing="no target has its programs run by it"
    grep -q '"carried":\["host-arm","host-s390x"\]' /run/log.records
    grep -qF "\"lost\":[\"gone: $nothing\",\"a b ü: $nothing\",\"ext: $nothing\"]" /run/log.records
}

@test "a container that relied on a host handler still can, during and after" {
    on_host 'as_alice run --detach --name first localhost/busybox:s390x sleep 100 >/dev/null
        as_alice exec first uname -m
        as_alice run --detach --name second --annotation toolbx.arch=arm64 localhost/busybox:arm64 sleep 100 >/dev/null
        as_alice exec second uname -m
        as_alice exec first uname -m
        as_alice rm --force --time 0 second >/dev/null
        as_alice exec first uname -m
        plain s390x'
    prints $'s390x\naarch64\ns390x\ns390x\ns390x'
}

@test "in a private namespace what the host serves goes on too, and nothing is kept" {
    on_host 'foreign s390x "cat /proc/sys/fs/binfmt_misc/toolbx-arch-s390x" --userns=keep-id | head -n 3
        foreign arm64 "ls /proc/sys/fs/binfmt_misc" --userns=keep-id
        foreign arm64 "head -n 3 /proc/sys/fs/binfmt_misc/toolbx-arch-s390x" --userns=keep-id
        kept; plain s390x'
    prints "enabled
interpreter qemu-s390x$static
flags: POCF
register
status
toolbx-arch-aarch64
toolbx-arch-arm
toolbx-arch-s390x
enabled
interpreter qemu-s390x$static
flags: POF
s390x"
}

@test "where the mount is refused, a handler that is there does" {
    mkdir -p "$RUN/hooks"
    jq --arg deny "$RUN/deny" '.hook.args = [$deny, .hook.path, "create-runtime"] | .hook.path = $deny' \
        /usr/share/containers/oci/hooks.d/50-toolbx-arch.json >"$RUN/hooks/denied.json"
    on_host 'as_alice --hooks-dir "$RUN/hooks" run --rm --userns=keep-id --annotation toolbx.arch=s390x localhost/busybox:s390x uname -m'
    prints s390x
    logged 'decision="inherited"' 'scope="private"'
    grep -q 'refuses a tmpfs of the container' /run/log.records
}

@test "fifty containers of four architectures at once in one shared namespace" {
    local i arches=(arm64 s390x ppc64el armhf) failed=0 pids=()
    as_alice run --detach --name witness --annotation toolbx.arch=arm64 localhost/busybox:arm64 sleep 300 >/dev/null
    for i in {0..49}; do
        as_alice run --rm --network none --annotation "toolbx.arch=${arches[i % 4]}" \
            "localhost/busybox:${arches[i % 4]}" true 2>"$RUN/error.$i" 3>&- &
        pids+=($!)
    done
    for i in {0..49}; do
        wait "${pids[i]}" || { failed=$((failed + 1)); cat "$RUN/error.$i"; }
    done
    [ $failed = 0 ]
    run --separate-stderr as_alice exec witness ls /proc/sys/fs/binfmt_misc
    prints $'register\nstatus\ntoolbx-arch-aarch64\ntoolbx-arch-arm\ntoolbx-arch-ppc64le\ntoolbx-arch-s390x'
}
