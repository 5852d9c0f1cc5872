# Plain `sudo podman run`: Podman's precreate hook gives foreign containers a user namespace.
bats_require_minimum_version 1.5.0
load helpers

arm=localhost/busybox:arm64

setup() {
    : >/run/log.records
    # The two lines that README.md shows.
    mkdir -p /etc/containers/containers.conf.d
    sed -n 's/^    \(\[engine\]\|hooks_dir = .*\)$/\1/p' "$BATS_TEST_DIRNAME/../README.md" \
        >/etc/containers/containers.conf.d/toolbx-arch.conf
    [ "$(wc -l </etc/containers/containers.conf.d/toolbx-arch.conf)" = 2 ]
    annotated="--annotation toolbx.arch=arm64"
    if [ "$RUNTIME" = runc ]; then # it cannot exec then, which must be insisted on
        annotated+=" --annotation toolbx.arch.userns=private"
    fi
}

plain() { # podman-run-arguments… : as root, without any --userns
    run --separate-stderr as_root run --rm $annotated "$@"
}

@test "the README's command" {
    local command
    command=$(sed -n 's/^    \$ sudo podman \(run --rm .*\)$/\1/p' "$BATS_TEST_DIRNAME/../README.md")
    [ -n "$command" ]
    if [ "$RUNTIME" = runc ]; then
        run --separate-stderr as_root $command
        refused "runc before 1.3 cannot exec" "use crun, runc 1.3, --userns=auto"
    else
        run --separate-stderr as_root $command
        prints aarch64
        [ -z "$stderr" ]
    fi
}

@test "a user namespace of its own, in which everybody is who they are outside" {
    plain $arm cat /proc/self/uid_map /proc/self/gid_map
    prints "$(printf '%10d %10d %10d\n' 0 0 4294967294 0 0 4294967294)"
    # No flag C: the container's root is the host's.
    logged 'scope="private"' 'targets[0].flags="OPF"'
    grep -q '"decision":"userns".*"stage":"precreate"' /run/log.records
    plain $arm readlink /proc/self/ns/user
    [ "$output" != "$(readlink /proc/self/ns/user)" ]
}

@test "what asks for nothing stays as it is" {
    local annotation
    for annotation in toolbx.arch=none toolbx.arch=amd64 other=arm64; do
        run --separate-stderr as_root run --rm --annotation $annotation localhost/busybox:amd64 readlink /proc/self/ns/user
        prints "$(readlink /proc/self/ns/user)"
    done
}

@test "networks: none, host, bridge, slirp4netns, another container's" {
    local network interfaces
    interfaces() { awk -F: 'NR > 2 { gsub(" ", "", $1); print $1 }' "$@" | sort | xargs; }
    as_root run --detach --name other localhost/busybox:amd64 sleep 100 >/dev/null
    ip link add name the-hosts type bridge
    local networks="none host bridge slirp4netns container:other"
    ! podman run --help | grep -q pasta || networks+=" pasta"
    for network in $networks; do
        plain --network $network $arm sh -c 'uname -m >&2; cat /proc/net/dev'
        [ "$status" = 0 ] && [[ "$stderr" == *aarch64* ]] || fail "$network: $output" "$stderr"
        case $network in
        none) interfaces=lo ;;
        host) interfaces=$(interfaces /proc/net/dev) ;;
        slirp4netns) interfaces="lo tap0" ;;
        pasta) continue ;; # takes the names of the host's
        *) interfaces="eth0 lo" ;;
        esac
        [ "$(interfaces <<<"$output")" = "$interfaces" ] || fail "$network: $output" "expected: $interfaces"
    done
    ip link delete the-hosts
}

@test "published ports, and ports below 1024 on a bridge" {
    as_root run --detach --name server --publish 127.0.0.1:8080:80 $annotated $arm \
        sh -c 'echo hello >/tmp/index.html; exec httpd -f -p 80 -h /tmp' >/dev/null
    local i
    for i in {1..50}; do
        run --separate-stderr python3 -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:8080/index.html").read().decode(), end="")'
        [ "$status" != 0 ] || break
        sleep 0.1
    done
    prints hello
    # As in a container without a user namespace, if it may.
    plain --cap-drop all $arm cat /proc/sys/net/ipv4/ip_unprivileged_port_start
    prints 1024
}

@test "sysctls of the network, of IPC and of the kernel" {
    plain --sysctl net.ipv4.ip_forward=1 --sysctl net.ipv4.ping_group_range="5 7" \
        --sysctl kernel.shm_rmid_forced=1 --sysctl fs.mqueue.msg_max=11 $arm sh -c '
            cd /proc/sys; cat net/ipv4/ip_forward net/ipv4/ping_group_range kernel/shm_rmid_forced fs/mqueue/msg_max'
    prints $'1\n5\t7\n1\n11'
    # Another container's network gets only what was asked for.
    as_root run --detach --name other localhost/busybox:amd64 sleep 100 >/dev/null
    plain --network container:other --sysctl net.ipv4.ip_forward=1 $arm \
        cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/ip_unprivileged_port_start
    prints $'1\n1024'
    # And never the host's, by Podman's own rule.
    local before
    before=$(sysctl -a 2>/dev/null | grep ^net. | sha256sum)
    plain --network host --sysctl net.ipv4.ip_forward=1 $arm true
    [ "$status" != 0 ]
    [ "$before" = "$(sysctl -a 2>/dev/null | grep ^net. | sha256sum)" ]
}

@test "files: volumes, tmpfs, secrets, devices, --user" {
    mkdir -p "$RUN/volume"
    echo mine >"$RUN/volume/file"
    chown 1000:1000 "$RUN/volume/file"
    as_root secret create word - <<<"the secret" >/dev/null
    plain --volume "$RUN/volume:/v" --volume named:/n --tmpfs /t --secret word \
        --user 1000 $arm sh -c '
            cat /v/file /run/secrets/word; echo more >>/v/file; stat -c %u:%g /v/file /n; touch /t/file && id -u'
    prints $'mine\nthe secret\n1000:1000\n1000:0\n1000'
    as_root secret rm word >/dev/null
    as_root volume rm --force named >/dev/null
}

@test "devices, also by another name" {
    # runc would look for the name on the machine, where it is missing, or another device.
    plain --device /dev/fuse --device /dev/null:/dev/word --device /dev/zero:/dev/loop0 $arm sh -c '
        for name in fuse word loop0; do stat -c %t:%T /dev/$name; done; head -c 3 /dev/loop0 | od -An -tx1; echo x >/dev/word'
    prints "$(stat -c %t:%T /dev/fuse)"$'\n1:3\n1:5\n 00 00 00'
}

@test "options: --privileged, --read-only, --init, --pid host, --ipc host, --uts host, --cgroupns" {
    local options memory=
    ! has_controller memory || memory="--memory 100m"
    for options in --privileged --read-only --init "--pid host" "--ipc host" "--uts host" "--cgroupns host" \
        "--cgroupns private" "--security-opt no-new-privileges" "--cap-drop all" "$memory" "--user 1000"; do
        plain $options $arm uname -m
        prints aarch64
    done
}

@test "what the host has mounted in /sys and /proc is not shown" {
    local options
    for options in "" "--pid host" "--privileged --pid host --network host"; do
        run --separate-stderr unshare --mount --propagation private bash -c '
            set -e
            places=/sys/module
            # A new procfs is refused in a user namespace where something hides parts of another.
            if [[ "$1" == *"pid host"* ]]; then places+=" /proc/fs"; fi
            for place in $places; do
                mount -t tmpfs lab $place
                echo secret >$place/secret
                grep -q secret $place/secret
            done
            source "$0"
            set +e
            as_root run --rm '"$annotated $options $arm"' sh -c "
                cat /sys/module/secret; cat /proc/fs/secret; (: >/sys/kernel/profiling) && echo writable; uname -m"
        ' "$BATS_TEST_DIRNAME/helpers.bash" "$options"
        prints aarch64
    done
}

@test "the machine's device nodes keep their mode and owner" {
    local before option
    before=$(stat -c '%n %a %u:%g' /dev/full /dev/fuse /dev/loop0)
    for option in "" "--cap-drop all" "--device /dev/fuse --device /dev/loop0 --device /dev/loop0:/dev/word"; do
        plain $option $arm sh -c '
            chmod 600 /dev/full /dev/fuse /dev/loop0 /dev/word; chown 1234 /dev/full /dev/fuse /dev/loop0 /dev/word
            echo x >/dev/full; head -c 1 /dev/zero >/dev/null && uname -m'
        prints aarch64
        [[ "$stderr" == *"Read-only file system"*"No space left"* ]] || fail "$stderr"
        [ "$before" = "$(stat -c '%n %a %u:%g' /dev/full /dev/fuse /dev/loop0)" ] || fail "$(stat -c '%n %a %u:%g' /dev/full /dev/fuse /dev/loop0)"
    done
}

@test "the machine's binfmt_misc is never shown, to an image that gets itself left alone" {
    local root=$RUN/evil look='ls -A /proc/sys/fs/binfmt_misc; cat /proc/sys/fs/binfmt_misc/secret; cat /proc/self/uid_map; uname -m'
    # Foreign where precreate looks, native below the container's /dev.
    mkdir -p "$root/dev/bin"
    tar -xf "$IMAGES/busybox-arm64.tar" -C "$root" --strip-components=2 ./bin/busybox
    mv "$root/busybox" "$root/dev/bin/sh"
    tar -xf "$IMAGES/busybox-amd64.tar" -C "$root"
    tar -C "$root" -cf "$RUN/evil.tar" .
    as_root import --quiet --change 'ENV PATH=/dev/bin:/bin' "$RUN/evil.tar" localhost/evil >/dev/null
    run --separate-stderr unshare --mount --propagation private bash -c '
        # What a machine with handlers has there; not the instance of this one.
        mount -t tmpfs machine /proc/sys/fs/binfmt_misc
        echo secret >/proc/sys/fs/binfmt_misc/secret
        source "$0"
        as_root run --rm --network none --pid host --cap-drop all localhost/evil sh -c "$1"
    ' "$BATS_TEST_DIRNAME/helpers.bash" "$look"
    prints "$(printf '%10d %10d %10d\n' 0 0 4294967294)"$'\nx86_64'
    as_root rmi localhost/evil >/dev/null
}

@test "warnings go to Podman's standard error, and to nothing that it may only read" {
    local annotated="--annotation toolbx.arch=arm64"
    plain --network host $arm uname -m
    [[ "$stderr" == *"toolbx-arch-hook: warning: "* ]]
    echo untouched >"$RUN/read-only"
    as_root run --rm --network host $annotated $arm uname -m 2<"$RUN/read-only" >/dev/null
    [ "$(cat "$RUN/read-only")" = untouched ]
    # A pipe that nobody reads any more is no reason to wait or to fail.
    rm -f "$RUN/full"
    mkfifo "$RUN/full"
    exec 9<>"$RUN/full"
    dd if=/dev/zero of="$RUN/full" bs=4096 oflag=nonblock 2>/dev/null || true
    timeout 60 podman --runtime "$RUNTIME" run --rm --network host $annotated $arm uname -m 2>&9 >"$RUN/out"
    exec 9>&-
    [ "$(cat "$RUN/out")" = aarch64 ]
}

@test "exec, stop, start and health checks" {
    [ "$RUNTIME" = runc ] && annotated+=" --network none"
    as_root run --detach --name life --health-cmd "uname -m | grep aarch64" --health-interval disable $annotated $arm \
        sh -c 'trap "exit 0" TERM; while :; do sleep 1; done' >/dev/null
    local i
    for i in 1 2; do
        run --separate-stderr as_root exec life uname -m
        prints aarch64
        run --separate-stderr as_root exec --user 1000 life id -u
        prints 1000
        run --separate-stderr as_root healthcheck run life
        prints ""
        as_root stop --time 20 life >/dev/null
        as_root start life >/dev/null
    done
    run as_root diff life
    [[ "$output" != *toolbx* && "$output" != *qemu* ]]
}

@test "pods" {
    as_root pod create --name pod --infra-image localhost/busybox:amd64 --infra-command '/bin/sleep 100' >/dev/null
    plain --pod pod $arm sh -c 'uname -m; hostname'
    prints $'aarch64\npod'
    as_root pod rm --force --time 0 pod >/dev/null
}

@test "no right that reaches beyond the namespace" {
    # Set-user-ID programs get none: QEMU would write files as root, who is the host's.
    mkdir -p "$RUN/volume"
    chmod 755 "$RUN/volume"
    plain --user 1000 --volume "$RUN/volume:/v" --env QEMU_LOG=page --env QEMU_LOG_FILENAME=/v/by-qemu \
        localhost/debian /bin/su --help
    [ ! -e "$RUN/volume/by-qemu" ]
    plain --privileged $arm sh -c 'mount -t tmpfs x /tmp && echo mounted; mknod /tmp/null c 1 3 || echo refused'
    prints $'mounted\nrefused'
}

@test "a joined pid namespace is refused" {
    as_root run --detach --name other localhost/busybox:amd64 sleep 100 >/dev/null
    plain --pid container:other $arm uname -m
    refused "it joins another container's pid namespace" "run the other container with --userns=auto"
    logged 'decision="refused"' 'stage="precreate"'
}

@test "warnings name the way out" {
    plain --network host $arm uname -m
    prints aarch64
    [[ "$stderr" == *"warning: "*"cannot listen on ports below 1024"*"--userns=auto"* ]]
    plain --cap-add net_admin,mknod $arm uname -m
    [[ "$stderr" == *"CAP_NET_ADMIN"*"--network=none"*"device nodes"*"--device"* ]]
    mkdir -p "$RUN/volume"
    plain --volume "$RUN/volume:/v:shared" $arm uname -m
    [[ "$stderr" == *"shared volume"* ]]
}

@test "annotation and policy: private, engine" {
    mkdir -p /etc/toolbx-arch
    run --separate-stderr as_root run --rm --annotation toolbx.arch=arm64 --annotation toolbx.arch.userns=engine $arm uname -m
    [ "$status" != 0 ]
    logged 'decision="refused"'
    grep -q 'whole machine; run it with --userns=auto' /run/log.records
    run --separate-stderr as_root run --rm --annotation toolbx.arch=arm64 --annotation toolbx.arch.userns=maybe $arm uname -m
    refused 'toolbx.arch.userns="maybe" is neither private nor engine'
    echo '{ "userns": "engine" }' >/etc/toolbx-arch/policy.json
    run --separate-stderr as_root run --rm --annotation toolbx.arch=arm64 $arm uname -m
    [ "$status" != 0 ]
    run --separate-stderr as_root run --rm --annotation toolbx.arch=arm64 --annotation toolbx.arch.userns=private $arm uname -m
    prints aarch64
    # What the engine gives is left alone.
    run --separate-stderr as_root run --rm --userns=auto --annotation toolbx.arch=arm64 --annotation toolbx.arch.userns=private $arm cat /proc/self/uid_map
    [[ "$output" == *" 2000000 "* ]]
}

@test "shared made private, for an ordinary user" {
    local wish="--annotation toolbx.arch.userns=private"
    # Without asking, it is as ever.
    run --separate-stderr as_alice run --rm --annotation toolbx.arch=arm64 $arm uname -m
    prints aarch64
    logged 'scope="shared"'
    local network
    for network in none host slirp4netns; do
        run --separate-stderr as_alice run --rm --network $network --annotation toolbx.arch=arm64 $wish $arm sh -c 'uname -m; id -u'
        prints $'aarch64\n0'
        logged 'scope="private"' 'targets[0].flags="OPFC"'
    done
    # No sibling gets anything of it: not in binfmt_misc, and not at exec.
    as_alice run --detach --name private --network none --annotation toolbx.arch=arm64 $wish $arm sleep 100 >/dev/null
    as_alice run --detach --name sibling --volume "$(as_alice mount private 2>/dev/null || as_alice unshare podman mount private):/foreign" \
        localhost/busybox:amd64 sleep 100 >/dev/null
    run as_alice exec sibling /foreign/bin/busybox uname -m
    refused "xec format error"
    run as_alice run --rm --annotation toolbx.arch=none $arm uname -m
    refused "xec format error"
    run --separate-stderr as_alice exec private uname -m
    prints aarch64
    # The user's policy can ask for it too.
    alice mkdir -p .config/toolbx-arch
    alice sh -c 'echo "{ \"userns\": \"private\" }" >.config/toolbx-arch/policy.json'
    run --separate-stderr as_alice run --rm --network none --annotation toolbx.arch=arm64 $arm uname -m
    prints aarch64
    logged 'scope="private"'
}

@test "where no drop-in calls the hook that does the rest, precreate does" {
    run --separate-stderr as_root --hooks-dir /usr/share/toolbx-arch/podman-hooks.d run --rm $annotated $arm uname -m
    prints aarch64
    logged 'decision="emulated"' 'scope="private"'
    # Not by another program than the one that looked.
    cp /usr/libexec/oci/hooks.d/toolbx-arch-hook "$RUN/moved"
    mkdir -p "$RUN/hooks"
    jq --arg moved "$RUN/moved" '.hook.args = ["sh", "-c", "exec 3<$0; rm $0; exec /proc/self/fd/3 precreate", $moved] | .hook.path = "/bin/sh"' \
        /usr/share/toolbx-arch/podman-hooks.d/50-toolbx-arch-userns.json >"$RUN/hooks/moved.json"
    run --separate-stderr as_root --hooks-dir "$RUN/hooks" run --rm $annotated $arm uname -m
    refused "toolbx-arch-hook is to be called for this container"
    rm -r "$RUN/hooks"
}

@test "what is insisted on is refused without precreate too" {
    local engine
    for engine in as_root as_alice; do
        run --separate-stderr $engine --hooks-dir /usr/share/containers/oci/hooks.d run --rm \
            --annotation toolbx.arch=arm64 --annotation toolbx.arch.userns=private $arm uname -m
        [ "$status" != 0 ]
        logged 'decision="refused"'
        grep -q 'toolbx.arch.userns=private: the container has no user namespace of its own; let Podman' /run/log.records
    done
}

@test "builds never see the stage" {
    printf 'FROM localhost/busybox:amd64\nRUN uname -m\n' >"$RUN/Containerfile"
    run --separate-stderr as_root build --file "$RUN/Containerfile" "$RUN"
    [ "$status" = 0 ] || fail "$stderr"
    run --separate-stderr buildah build --runtime "$RUNTIME" --file "$RUN/Containerfile" "$RUN"
    [ "$status" = 0 ] || fail "$stderr"
    as_root image prune --force >/dev/null
}
