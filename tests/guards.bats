# What an image does to reach the machine through what precreate has changed.
bats_require_minimum_version 1.5.0
load helpers

arm=localhost/busybox:arm64
# runc cannot exec then, which must be insisted on.
annotated="--annotation toolbx.arch=arm64 --annotation toolbx.arch.userns=private"

setup() {
    : >/run/log.records
    mkdir -p /etc/containers/containers.conf.d
    sed -n 's/^    \(\[engine\]\|hooks_dir = .*\)$/\1/p' "$BATS_TEST_DIRNAME/../README.md" \
        >/etc/containers/containers.conf.d/toolbx-arch.conf
    stat -c '%n %a %u:%g' /dev/full /dev/zero >"$RUN/nodes"
    root=$RUN/evil
    rm -rf "$root"
    mkdir -p "$root"
}

teardown() {
    stat -c '%n %a %u:%g' /dev/full /dev/zero | diff "$RUN/nodes" - || {
        chmod 666 /dev/full /dev/zero
        chown 0:0 /dev/full /dev/zero
        fail "the machine's nodes are others"
    }
    as_root rm --all --force --time 0 --volumes >/dev/null
    ! as_root image exists localhost/evil || as_root rmi --force localhost/evil >/dev/null
    as_alice rm --all --force --time 0 >/dev/null
    umount "$RUN/other/"* 2>/dev/null || true
    tidy
    [ -z "$(leftovers)" ] || fail "left on the machine:" "$(leftovers)"
}

evil() { # change… : makes the image of $root
    local changes=() change
    for change; do changes+=(--change "$change"); done
    tar -C "$root" -cf "$RUN/evil.tar" .
    as_root import --quiet "${changes[@]}" "$RUN/evil.tar" localhost/evil >/dev/null
    rm -f "$RUN/evil.tar"
}

busybox() { # arch
    tar -xf "$IMAGES/busybox-$1.tar" -C "$root"
}

@test "/proc, /sys or /dev that leads elsewhere" {
    local name to
    for name in proc sys dev; do
        for to in elsewhere $'\377' $'a b\\n\n' ../elsewhere "$(printf 'x%.0s' {1..255})"; do
            rm -rf "$root" && mkdir -p "$root"
            busybox arm64
            rm -rf "${root:?}/$name"
            mkdir -p "$root/${to#../}"
            ln -s "$to" "$root/$name"
            evil
            run --separate-stderr as_root run --rm --network host --pid host $annotated localhost/evil sh -c 'echo started; chmod 600 /dev/full'
            refused "/$name" "the image leads elsewhere" "use --userns=auto"
            [[ "$output" != *started* ]]
            # The way out, where a runtime takes such an image at all.
            if [ "$name $to" = "dev elsewhere" ]; then
                run --separate-stderr as_root run --rm --network none --userns=auto localhost/evil uname -m
                prints aarch64
            fi
        done
    done
}

@test "a program that is foreign for precreate and native later, and the machine's /proc" {
    # /proc would lie on /b, and its masks and read-only parts nowhere.
    mkdir -p "$root/dev/bin"
    tar -xf "$IMAGES/busybox-arm64.tar" -C "$root" --strip-components=2 ./bin/busybox
    mv "$root/busybox" "$root/dev/bin/sh"
    busybox amd64
    rm -rf "$root/proc" "$root/dev/shm"
    mkdir -p "$root/b"
    ln -s /dev/shm "$root/proc"
    ln -s /b "$root/dev/shm"
    evil 'ENV PATH=/dev/bin:/bin' 'VOLUME /b'
    local network
    for network in none host bridge; do
        run --separate-stderr as_root run --name evil --network $network --pid host localhost/evil \
            sh -c 'echo started; : >>/b/sys/kernel/core_pattern && echo open'
        [ "$status" != 0 ] && [[ "$output$stderr" != *started* ]] || fail "$output" "$stderr"
        run --separate-stderr as_root start --attach evil
        [ "$status" != 0 ] && [[ "$output$stderr" != *started* ]] || fail "$output" "$stderr"
        as_root rm --force evil >/dev/null
    done
}

@test "the machine's /proc is not written, whatever the container may" {
    local option
    for option in "" --privileged "--cap-add sys_admin" "--security-opt unmask=ALL"; do
        run --separate-stderr as_root run --rm --network none --pid host $option $annotated $arm sh -c '
            for file in sys/kernel/core_pattern sys/vm/overcommit_memory sysrq-trigger irq/default_smp_affinity; do
                [ ! -e /proc/$file ] || ! (: >>/proc/$file) 2>/dev/null || echo "$file can be written"
            done
            uname -m'
        prints aarch64
    done
}

@test "the machine's /sys is not written" {
    local network
    for network in bridge host; do
        run --separate-stderr as_root run --rm --network $network --privileged $annotated $arm sh -c '
            [ -e /sys/kernel/profiling ] || echo missing
            (: >>/sys/kernel/profiling) 2>/dev/null && echo "can be written"
            uname -m'
        prints aarch64
    done
}

@test "what was written by the container itself is looked at, too" {
    # The first start is in order; then /sys leads into a volume, which leads elsewhere.
    busybox arm64
    rm -rf "$root/sys"
    mkdir -p "$root/data/vol" "$root/a"
    ln -s /data/vol/l "$root/sys"
    ln -s /a "$root/data/vol/l"
    evil 'VOLUME /data/vol'
    run --separate-stderr unshare --mount --propagation private bash -c '
        mount -t tmpfs lab /sys/kernel/debug
        echo secret >/sys/kernel/debug/secret
        source "$0"
        as_root run --name evil '"$annotated"' localhost/evil sh -c "rm /data/vol/l; mkdir -p /data/vol/l/fs/cgroup; cat /a/kernel/debug/secret"
        as_root start --attach evil
    ' "$BATS_TEST_DIRNAME/helpers.bash"
    [ "$status" != 0 ] && [[ "$output$stderr" != *secret* ]] || fail "$output" "$stderr"
}

@test "a native container that joins the user namespace of another one" {
    as_root run --detach --name foreign --network none $annotated $arm sleep 100 >/dev/null
    run --separate-stderr as_root run --rm --network none --userns=container:foreign localhost/busybox:amd64 \
        sh -c 'uname -m; id -u; echo x >/dev/null; chmod 600 /dev/full 2>/dev/null || chown 1 /dev/full 2>/dev/null || echo kept'
    # Where runc looks whether the ids that the engine names are those of the namespace, they are not:
    # precreate made it, and the engine does not know.
    if [ "$RUNTIME" = runc ] && [[ "$stderr" == *"non-matching mapping"* ]]; then
        refused "both namespace path and non-matching mapping specified"
    else
        prints $'x86_64\n0\nkept'
    fi
}

joined_gets_nothing() {
    as_root run --detach --name foreign --network none $annotated $arm sleep 100 >/dev/null
    local joined="run --rm --userns=container:foreign" native=localhost/busybox:amd64
    run --separate-stderr as_root $joined --network none $native echo joined
    if [ "$RUNTIME" = runc ] && [[ "$stderr" == *"non-matching mapping"* ]]; then
        skip "this runc lets nobody join, as the test before this one shows"
    fi
    prints joined
    # /proc would be the machine's, wherever it is.
    mkdir -p "$RUN/root/x"
    tar -xf "$IMAGES/busybox-amd64.tar" -C "$RUN/root"
    rm -rf "$RUN/root/proc"
    ln -s x "$RUN/root/proc"
    tar -C "$RUN/root" -c . | as_root import --quiet - localhost/linked >/dev/null
    local option image
    for option in "--pid host" "--pid host --privileged" "--network none --volume /proc:/p" "--network none --volume /sys:/s"; do
        for image in $native localhost/linked; do
            : >/run/log.records
            run --separate-stderr as_root $joined $option $image sh -c 'echo started'
            [ "$status" != 0 ] && [[ "$output" != *started* ]] || fail "$option $image" "$output" "$stderr"
            [ $image != $native ] || grep -q "in the container shows the machine" /run/log.records || fail "$option" "$(cat /run/log.records)"
        done
    done
    # Its /sys is, and everything below.
    run --separate-stderr as_root $joined --network host $native sh -c '
        uname -m; for dir in /sys/fs/cgroup /sys/fs/cgroup/* /sys/kernel; do mkdir "$dir/made" 2>/dev/null && echo "$dir"; done; true'
    prints x86_64
    [ -z "$(find /sys/fs/cgroup -maxdepth 2 -name made)" ]
    # A configuration that is too large to be read.
    local name path paths large=()
    name=/$(printf '<%.0s' {1..200}) # six bytes each, there
    path=$(printf "$name%.0s" {1..10})
    paths=$(printf "$path:%.0s" {1..50})
    for _ in {1..29}; do large+=(--security-opt "mask=${paths%:}"); done
    ulimit -s unlimited # the room for arguments depends on it
    run --separate-stderr as_root $joined --network none "${large[@]}" $native echo started
    [ "$status" != 0 ] && [[ "$output" != *started* ]] || fail "$output"
    grep -q '"decision":"refused","error":"[^"]* is larger than 16 MiB' /run/log.records || fail "$(cut -c 1-300 /run/log.records)"
    run --separate-stderr as_root run --rm --network none "${large[@]}" $native echo started
    prints started
    rm -rf "$RUN/root"
    as_root rm --force --time 0 foreign >/dev/null
}

@test "a container that joins the user namespace of another one gets nothing of the machine's" {
    joined_gets_nothing
}

# Then nothing but precreate sees it.
@test "nor does it where the hook waits for an annotation" {
    local conf=/etc/containers/containers.conf.d/toolbx-arch.conf share=/usr/share/toolbx-arch
    printf '[engine]\nhooks_dir = ["%s", "%s"]\n' $share/hooks.d/annotation-only $share/podman-hooks.d >$conf
    joined_gets_nothing
    rm $conf
    toolbx-arch enable --annotation-only --precreate
    joined_gets_nothing
}

@test "nor does it where nothing but precreate calls the hook" {
    printf '[engine]\nhooks_dir = ["/usr/share/toolbx-arch/podman-hooks.d"]\n' \
        >/etc/containers/containers.conf.d/toolbx-arch.conf
    joined_gets_nothing
}

@test "a namespace that a container has made in its own, and another one joins" {
    as_root run --detach --name foreign --network none --privileged --annotation toolbx.arch=arm64 \
        --annotation toolbx.arch.userns=private localhost/busybox:amd64 sh -c '
            (sleep 1; for map in uid_map gid_map; do echo "0 0 65536" >/proc/1/$map; done; sleep 100) &
            exec unshare -U sleep 100' >/dev/null
    local pid i
    pid=$(as_root inspect --format '{{.State.Pid}}' foreign)
    for i in {1..50}; do
        ! grep -q 65536 "/proc/$pid/gid_map" || break
        sleep 0.1
    done
    local joined="run --rm --userns=container:foreign --network none" native=localhost/busybox:amd64
    run --separate-stderr as_root $joined $native sh -c 'id -u; chmod 600 /dev/full 2>/dev/null || echo kept'
    if [ "$RUNTIME" = runc ] && [[ "$stderr" == *"non-matching mapping"* ]]; then
        skip "this runc lets nobody join"
    fi
    prints $'0\nkept'
    run --separate-stderr as_root $joined --volume /proc:/p $native sh -c 'echo started'
    [ "$status" != 0 ] && [[ "$output" != *started* ]] || fail "$output" "$stderr"
    grep -q "in the container shows the machine" /run/log.records || fail "$(cat /run/log.records)"
}

# So many volumes that Podman mounts what is equally deep in another order each time.
volumes="VOLUME /v1 /v2 /v3 /v4 /v5 /v6 /v7 /v8 /v9"

@test "a volume that a link lays over /dev: the machine's nodes on it are guarded" {
    busybox arm64
    ln -s /dev "$root/v"
    evil 'VOLUME /v' "$volumes"
    local i
    for i in 1 2 3 4; do
        run --separate-stderr as_root run --rm --network none localhost/evil \
            sh -c 'chmod 600 /dev/full; chown 0:5 /dev/full; true'
        run stat -c '%a %u:%g' /dev/full
        chmod 666 /dev/full
        chown 0:0 /dev/full
        prints "666 0:0"
    done
}

@test "a joined container's /proc on a volume never is the machine's to write" {
    as_root run --detach --name foreign --network none $annotated $arm sleep 300 >/dev/null
    busybox amd64
    rm -rf "$root/proc" "$root/dev/shm"
    mkdir -p "$root/b"
    ln -s /dev/shm "$root/proc"
    ln -s /b "$root/dev/shm"
    evil 'VOLUME /b' "$volumes"
    local i
    for i in {1..8}; do
        run --separate-stderr as_root run --rm --pid host --network host --userns=container:foreign localhost/evil \
            sh -c '(: >>/b/sys/kernel/core_pattern) 2>/dev/null && echo open; true'
        [[ "$output" != *open* ]] || fail "start $i: $output" "$stderr"
    done
}

# Another instance has another device number, and shows the same kernel.
@test "a joined container shows no procfs and no sysfs but its own, whoever has mounted it" {
    local proc=$RUN/other/proc sys=$RUN/other/sys option
    local joined="run --rm --userns=container:foreign --network none" native=localhost/busybox:amd64
    as_root run --detach --name foreign --network none $annotated $arm sleep 300 >/dev/null
    run --separate-stderr as_root $joined $native true
    if [ "$RUNTIME" = runc ] && [[ "$stderr" == *"non-matching mapping"* ]]; then
        skip "this runc lets nobody join, as another test shows"
    fi
    prints ""
    mkdir -p "$proc" "$sys" "$RUN/volume"
    mount -t proc other "$proc"
    unshare --net mount -t sysfs other "$sys"
    busybox amd64
    ln -s /proc "$root/to-proc"
    ln -s /sys "$root/to-sys"
    mkdir "$root/x"
    evil
    # That of a pid namespace which the other container made.
    local foreign=$RUN/other/foreign
    mkdir "$foreign"
    nsenter --target "$(as_root inspect --format '{{.State.Pid}}' foreign)" --pid mount -t proc other "$foreign"
    for option in "$proc:/p" "$proc:/p:ro" "$proc/sys:/p" "$proc:/proc" "$proc/sys:/proc/sys" "$proc:/to-proc" "$foreign:/p" \
        "$foreign:/proc" "$sys:/s" "$sys/kernel:/s" "$sys/kernel:/sys/kernel" "/sys/kernel:/sys/kernel" "$sys:/to-sys"; do
        : >/run/log.records
        run --separate-stderr as_root $joined --security-opt unmask=ALL --volume "$option" localhost/evil echo started
        [ "$status" != 0 ] && [[ "$output" != *started* ]] || fail "$option" "$output" "$stderr"
        # runc lets nothing be mounted below /proc, but for a few files.
        [[ "$RUNTIME $stderr" == "runc "*"because it is inside /proc"* ]] ||
            grep -q "in the container shows the machine" /run/log.records || fail "$option" "$stderr" "$(cat /run/log.records)"
    done
    # What shows nothing of the machine's, and what becomes harmless.
    for option in "" --privileged "--pid container:foreign" "--volume $RUN/volume:/x" "--volume $RUN/volume:/x:rshared" \
        "--volume $sys:/sys" "--privileged --volume $sys:/sys"; do
        run --separate-stderr as_root $joined $option localhost/evil sh -c '
            [ -e /sys/kernel/profiling ] || echo missing
            (: >>/sys/kernel/profiling) 2>/dev/null && echo "can be written"
            test -e /proc/sys/kernel && uname -m'
        prints x86_64
    done
    # Who joins nothing of ours has what they ask for.
    run --separate-stderr as_root run --rm --network none --volume "$proc:/p" --volume "$sys:/s" $native ls -d /p/sys /s/kernel
    prints $'/p/sys\n/s/kernel'
    umount "$RUN/other/"*
    rm -rf "$RUN/other" "$RUN/volume"
}

@test "device nodes in odd places" {
    mkdir -p "$RUN/volume"
    # A path that a volume has, a link in a volume, a blank, and no text.
    ln -sfn /tmp "$RUN/volume/link"
    local device
    for device in /v/null /v/link/null "/dev/a b" $'/dev/\316'; do
        run --separate-stderr as_root run --rm --network none --volume "$RUN/volume:/v" --volume "$RUN/volume:/dev/x" \
            --device "/dev/full:$device" $annotated $arm sh -c 'uname -m; for node in /dev/full "$0"; do chmod 600 "$node" 2>/dev/null && echo "$node: changed"; done; true' "$device"
        [ "$status" != 0 ] || prints aarch64
    done
    # One that a volume brings.
    run --separate-stderr as_root run --rm --network none --volume /dev/zero:/z $annotated $arm sh -c \
        'uname -m; head -c 2 /z | od -An -tx1; chmod 600 /z 2>/dev/null && echo changed; true'
    prints $'aarch64\n 00 00'
    rm -rf "$RUN/volume"
}

@test "options that put other things where the machine's are" {
    local option
    mkdir -p "$RUN/volume/sub"
    for option in --read-only "--read-only --tmpfs /run --tmpfs /tmp" "--tmpfs /dev/shm" "--mount type=tmpfs,dst=/dev/mqueue" \
        "--volume $RUN/volume:/sys/fs/cgroup/x" "--volume $RUN/volume:/run" "--cgroupns host" "--cgroupns private"; do
        run --separate-stderr as_root run --rm $option $annotated $arm sh -c '
            uname -m; chmod 600 /dev/full 2>/dev/null && echo changed; mkdir /sys/fs/cgroup/*/x 2>/dev/null && echo made; true'
        [ "$status" != 0 ] && [[ "$option" == *cgroup/x ]] || prints aarch64
    done
    rm -rf "$RUN/volume"
}

@test "a mount that does not answer, below a volume" {
    mkdir -p "$RUN/volume/dead"
    python3 - "$RUN/volume/dead" 3>&- <<'PY' &
import ctypes, os, sys, time
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
if ctypes.CDLL(None, use_errno=True).mount(b"x", sys.argv[1].encode(), b"fuse", 0, options):
    raise OSError(ctypes.get_errno(), "mount")
time.sleep(120)
PY
    local silent=$! i
    for i in {1..100}; do
        ! grep -q "$RUN/volume/dead" /proc/self/mountinfo || break
        sleep 0.1
    done
    run --separate-stderr timeout 60 podman --runtime "$RUNTIME" run --rm --network none --volume "$RUN/volume:/v" $annotated $arm uname -m
    umount --lazy "$RUN/volume/dead"
    kill "$silent"
    prints aarch64
    rm -rf "$RUN/volume"
}

@test "a limit on the size of files" {
    # A copy of the emulator is larger.
    keep /usr/libexec/toolbx-arch/emulators/qemu-aarch64$static
    rm /usr/libexec/toolbx-arch/emulators/qemu-aarch64$static
    mkdir -p "$RUN/hooks"
    local limit
    for limit in 4096:unlimited 4096:4096; do
        jq --arg limit "--fsize=$limit" '.hook.args = ["prlimit", $limit, .hook.path, "create-runtime"] | .hook.path = "/usr/bin/prlimit"' \
            /usr/share/containers/oci/hooks.d/50-toolbx-arch.json >"$RUN/hooks/limited.json"
        run --separate-stderr as_root --hooks-dir "$RUN/hooks" run --rm --network none --userns=auto $arm uname -m
        [ $limit = 4096:4096 ] || prints aarch64
    done
    [ "$status" != 0 ]
    logged 'decision="refused"'
    grep -q EFBIG /run/log.records
}

@test "a hook that cannot open anything stops who may be the machine's root, and nobody else" {
    as_root run --detach --name foreign --network none $annotated $arm sleep 300 >/dev/null
    local joined="run --rm --userns=container:foreign --network none" native=localhost/busybox:amd64
    run --separate-stderr as_root $joined $native echo started
    if [ "$RUNTIME" = runc ] && [[ "$stderr" == *"non-matching mapping"* ]]; then
        skip "this runc lets nobody join, as another test shows"
    fi
    prints started
    mkdir -p "$RUN/hooks"
    # Standard input, output and error are three.
    jq '.hook.args = ["prlimit", "--nofile=3", .hook.path, "create-runtime"] | .hook.path = "/usr/bin/prlimit"' \
        /usr/share/containers/oci/hooks.d/50-toolbx-arch.json >"$RUN/hooks/limited.json"
    run --separate-stderr as_root --hooks-dir "$RUN/hooks" $joined $native echo started
    [ "$status" != 0 ] && [[ "$output" != *started* ]] || fail "$output" "$stderr"
    run --separate-stderr as_root --hooks-dir "$RUN/hooks" run --rm --network none $native echo started
    prints started
}

@test "a hook whose process is gone, or no container's, stops nobody" {
    local gone pid
    true &
    gone=$!
    wait $gone
    mkdir -p "$RUN/bundle"
    for pid in $gone $$; do
        run --separate-stderr /usr/libexec/oci/hooks.d/toolbx-arch-hook create-runtime \
            <<<'{"ociVersion": "1.0.2", "id": "x", "status": "created", "pid": '$pid', "bundle": "'"$RUN"'/bundle"}'
        prints ""
    done
    rmdir "$RUN/bundle"
}

@test "CDI devices, native and foreign, plain" {
    toolbx-arch cdi --install
    run --separate-stderr as_root run --rm --network none --device toolbx.dev/arch=arm64 --annotation toolbx.arch.userns=private localhost/busybox:amd64 uname -m
    prints x86_64
    logged 'decision="emulated"' 'targets[0].target="aarch64"'
    run --separate-stderr as_root run --rm --network none --device toolbx.dev/arch=arm64 --device toolbx.dev/arch=arm64 $arm uname -m
    prints aarch64
}

@test "sysctls whose names are odd" {
    run --separate-stderr as_root run --rm --network none --pid host --sysctl kernel.shm_rmid_forced=1 --sysctl fs.mqueue.msg_max=11 $annotated $arm \
        cat /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max
    prints $'1\n11'
}
