# Bad input, with a real engine: a clear line, a container that does not start, a host as before.
# (More of it, without an engine: hook/tests/container.rs.)
bats_require_minimum_version 1.5.0
load helpers

arm=localhost/busybox:arm64
hook=/usr/libexec/oci/hooks.d/toolbx-arch-hook

# The container is refused, with this in the log (and, by runc, on standard error).
container_refused() { # part podman-arguments…
    local part=$1
    shift
    : >/run/log.records
    run "$@"
    [ "$status" != 0 ] || fail "it ran: $output"
    logged 'decision="refused"'
    jq -es --arg part "$part" 'length == 1 and (.[0].error | contains($part))' <<<"$(tail -n 1 /run/log.records | sed 's/.*]: //')" ||
        fail "$part is not in: $(tail -n 1 /run/log.records)"
    [ "$RUNTIME" = crun ] || refused "$part"
}

both_refused() { # part annotation podman-run-arguments…
    local part=$1 annotation=$2
    shift 2
    container_refused "$part" as_root run --rm --userns=auto --annotation "$annotation" "$@" $arm uname -m
    container_refused "$part" as_alice run --rm --annotation "$annotation" "$@" $arm uname -m
}

# A drop-in that runs the hook through another program: in its own directory.
wrapped() { # program argument…
    mkdir -p "$RUN/hooks"
    jq --arg path "$1" --args '.hook.path = $path | .hook.args = [$path] + $ARGS.positional + ["'$hook'", "create-runtime"]' \
        "${@:2}" </usr/share/containers/oci/hooks.d/50-toolbx-arch.json >"$RUN/hooks/wrapped.json"
}

@test "annotations that name nothing" {
    both_refused "empty name" toolbx.arch=
    both_refused "did you mean arm64?" toolbx.arch=arm65
    both_refused "unknown architecture \"../../etc\"" toolbx.arch=../../etc
    both_refused "names more than 34 architectures" "toolbx.arch=$(printf 'arm64 %.0s' {1..40})"
    both_refused "unknown architecture \"xxxxxxx" "toolbx.arch=$(head -c 100000 /dev/zero | tr '\0' x)"
    both_refused "annotation \"toolbx.arch.cpus\" is not known" toolbx.arch.cpus=max
}

@test "no emulator" {
    mv /usr/bin/qemu-riscv32$static "$RUN/" # in the laboratory's /usr
    both_refused "no emulator for riscv32 on this machine; install the package" toolbx.arch=riscv32
    mv "$RUN/qemu-riscv32$static" /usr/bin/
}

@test "emulators that cannot or may not be used" {
    # The policy is the machine's; root's emulators come from /usr/local/bin first.
    mkdir -p /etc/toolbx-arch
    echo '{"emulator_directories": ["/usr/local/bin"]}' >/etc/toolbx-arch/policy.json
    local file=/usr/local/bin/qemu-aarch64$static
    both_refused "no emulator for aarch64" toolbx.arch=arm64
    cp /bin/ls $file
    both_refused "is linked dynamically" toolbx.arch=arm64
    tar -xOf "$IMAGES/busybox-s390x.tar" ./bin/busybox >$file
    both_refused "is a program for s390x, this machine is x86_64" toolbx.arch=arm64
    cp /usr/bin/qemu-aarch64$static $file
    chmod o+w $file
    both_refused "chmod go-w $file" toolbx.arch=arm64
    chmod o-w $file
    chown alice $file
    container_refused "chown root $file" as_root run --rm --userns=auto --annotation toolbx.arch=arm64 $arm uname -m
    chown root $file
    run --separate-stderr as_alice run --rm --annotation toolbx.arch=arm64 $arm uname -m
    prints aarch64
    logged 'targets[0].emulator="/usr/local/bin/qemu-aarch64'$static'"'
}

@test "policies: precedence, and what is wrong with them" {
    local home=/home/alice/.config/toolbx-arch
    mkdir -p /etc/toolbx-arch
    echo '{"architectures": ["s390x"], "credentials": "never"}' >/etc/toolbx-arch/policy.json
    both_refused "does not allow aarch64" toolbx.arch=arm64
    # The user's own overrides the machine's, key by key.
    alice mkdir -p $home
    echo '{"architectures": ["all"]}' | alice tee $home/policy.json >/dev/null
    run --separate-stderr as_alice run --rm --userns=keep-id --annotation toolbx.arch=arm64 $arm uname -m
    prints aarch64
    logged 'targets[0].flags="OPF"'
    # root has none of alice's.
    container_refused "does not allow" as_root run --rm --userns=auto --annotation toolbx.arch=arm64 $arm uname -m

    rm $home/policy.json
    printf '{\n "credentials": "sometimes"\n}' >/etc/toolbx-arch/policy.json
    both_refused 'policy /etc/toolbx-arch/policy.json:2: key "credentials"' toolbx.arch=arm64
    printf '{\n "credentails": "never"\n}' >/etc/toolbx-arch/policy.json
    both_refused 'policy /etc/toolbx-arch/policy.json:2: key "credentails"' toolbx.arch=arm64
    echo '{}' >/etc/toolbx-arch/policy.json
    chmod 666 /etc/toolbx-arch/policy.json
    both_refused "chmod go-w /etc/toolbx-arch/policy.json" toolbx.arch=arm64
    chmod 644 /etc/toolbx-arch/policy.json
    chown alice /etc/toolbx-arch/policy.json
    container_refused "chown root /etc/toolbx-arch/policy.json" as_root run --rm --userns=auto --annotation toolbx.arch=arm64 $arm uname -m
}

@test "a container that asks for nothing does not care about a broken policy" {
    mkdir -p /etc/toolbx-arch
    echo oops >/etc/toolbx-arch/policy.json
    run --separate-stderr as_root run --rm --annotation other=1 localhost/busybox:amd64 uname -m
    prints x86_64
}

@test "the kernel refuses the mount" {
    wrapped "$RUN/deny"
    container_refused "refuses a tmpfs of the container's own; this takes Linux 6.7" \
        as_root --hooks-dir "$RUN/hooks" run --rm --userns=auto --annotation toolbx.arch=arm64 $arm uname -m
    container_refused "refuses a tmpfs of the container's own; this takes Linux 6.7" \
        as_alice --hooks-dir "$RUN/hooks" run --rm --annotation toolbx.arch=arm64 $arm uname -m
}

@test "an autofs at the place of binfmt_misc is not triggered" {
    # As on a machine with systemd. The daemon is this test: what it is asked lies in the pipe.
    local pipe=$RUN/autofs
    mkfifo "$pipe"
    exec {fd}<>"$pipe"
    mount -t autofs -o "fd=$fd,pgrp=1,minproto=5,maxproto=5,direct" test /proc/sys/fs/binfmt_misc
    local before
    before=$(grep -c . /proc/self/mountinfo)
    # A rootful container that sees the machine's /proc, autofs included.
    run --separate-stderr timeout 20 podman --runtime "$RUNTIME" run --rm --userns=auto -v /proc:/proc \
        --annotation toolbx.arch=arm64 $arm uname -m
    local asked=no
    ! read -r -t 0.2 -n 1 -u "$fd" _ || asked=yes
    [ "$before" = "$(grep -c . /proc/self/mountinfo)" ]
    umount --lazy /proc/sys/fs/binfmt_misc
    exec {fd}<&-
    rm "$pipe"
    [ $asked = no ]
    prints aarch64
}

@test "another emulator for the same target in a shared namespace" {
    as_alice run --detach --name first --annotation toolbx.arch=arm64 $arm sleep 100 >/dev/null
    alice mkdir -p /home/alice/.config/toolbx-arch /home/alice/emulators
    alice cp /usr/bin/qemu-aarch64$static /home/alice/emulators/other-aarch64
    echo '{"emulator_directories": ["/home/alice/emulators"], "emulator_names": ["other-{cpu}"]}' |
        alice tee /home/alice/.config/toolbx-arch/policy.json >/dev/null
    container_refused "already runs aarch64 programs with qemu-aarch64$static -cpu max,pauth=off" \
        as_alice run --rm --annotation toolbx.arch=arm64 $arm uname -m
    # In a namespace of its own it may have its own.
    run --separate-stderr as_alice run --rm --userns=keep-id --annotation toolbx.arch=arm64 $arm uname -m
    prints aarch64
    logged 'targets[0].emulator="/home/alice/emulators/other-aarch64"'
    run --separate-stderr as_alice exec first uname -m
    prints aarch64
}
