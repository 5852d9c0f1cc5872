# The emulator is there, and nothing of it is anywhere else.
bats_require_minimum_version 1.5.0
load helpers

arm=localhost/busybox:arm64
annotated="--annotation toolbx.arch=arm64"
emulator=/dev/.toolbx-arch/usr/bin/qemu-aarch64$static

@test "the emulator is shown at its path, read-only, and cannot be removed" {
    run --separate-stderr as_alice run --rm --userns=keep-id --user 0 $annotated $arm sh -c "
        head -c 4 $emulator | od -An -c
        (echo x >$emulator) 2>&1
        rm $emulator 2>&1 || busybox rm $emulator 2>&1"
    [[ "$output" == *"177   E   L   F"* ]] || fail "$output"
    [[ "$output" == *"Read-only file system"* ]] || fail "$output"
    [[ "$output" == *"esource busy"* ]] || fail "$output"
}

@test "the instance is read-only for the container's root" {
    run --separate-stderr as_root run --rm --userns=auto $annotated $arm sh -c '
        (echo -1 >/proc/sys/fs/binfmt_misc/status) 2>&1; (echo : >/proc/sys/fs/binfmt_misc/register) 2>&1; uname -m'
    [[ "$output" == *"ead-only file system"*"ead-only file system"*aarch64 ]] || fail "$output"
}

# The changes that a container made, and the files of the layer that a commit makes of them.
changes() { # podman container
    local out=/run/user/17001/committed layer
    $1 diff "$2"
    $1 commit --quiet "$2" localhost/committed >/dev/null
    $1 save --quiet --format oci-dir --output "$out" localhost/committed >/dev/null
    layer=$(jq -r '.layers[-1].digest' "$out/blobs/sha256/$(
        jq -r '.manifests[0].digest' "$out/index.json" | cut -d: -f2)")
    tar -tf "$out/blobs/sha256/${layer#sha256:}"
    rm -rf "$out"
    $1 rmi localhost/committed >/dev/null
}

@test "podman diff and podman commit show nothing of it" {
    local podman options
    for podman in "as_root --userns=auto" "as_alice --userns=keep-id" "as_alice"; do
        read -r podman options <<<"$podman"
        # A native container that does the same shows what is the engine's own.
        $podman run --name native $options localhost/busybox:amd64 sh -c 'echo hello >/tmp/file'
        $podman run --name foreign $options $annotated $arm sh -c 'echo hello >/tmp/file'
        changes $podman native | sort >"$RUN/native"
        changes $podman foreign | sort >"$RUN/foreign"
        diff "$RUN/native" "$RUN/foreign"
        grep -q tmp/file "$RUN/foreign"
        $podman rm native foreign >/dev/null
    done
}

@test "what the container's root mounts over the emulator stays in the container" {
    # /usr is on a shared mount here; a clone that stayed in its peer group would pass it on.
    [ "$(findmnt --noheadings --output PROPAGATION --target /usr)" = shared ]
    run --separate-stderr as_root run --rm --privileged --userns=auto $annotated $arm \
        sh -c "mount -o bind /etc/passwd $emulator && cat $emulator"
    prints "root:x:0:0:root:/root:/bin/sh"
    cmp -s -n 4 /usr/bin/qemu-aarch64$static <(printf '\177ELF')
}

@test "a volume where the emulator would be shown gets nothing" {
    mkdir -p "$RUN/empty"
    chmod 777 "$RUN/empty"
    run as_alice run --rm --userns=keep-id $annotated -v "$RUN/empty:/dev/.toolbx-arch" $arm uname -m
    [ "$status" != 0 ]
    logged 'decision="refused"'
    grep -q "/dev/.toolbx-arch is for this hook alone" /run/log.records
    [ -z "$(ls -A "$RUN/empty")" ]
}

@test "an emulator that somebody in the container owns is not shown, and cannot be changed" {
    alice mkdir -p /home/alice/.config/toolbx-arch /home/alice/emulators
    alice cp /usr/bin/qemu-aarch64$static /home/alice/emulators/
    local launcher interpreter
    while read -r launcher interpreter; do
        echo '{"emulator_directories": ["/home/alice/emulators"], "launcher": "'"$launcher"'"}' |
            alice tee /home/alice/.config/toolbx-arch/policy.json >/dev/null
        run as_alice run --rm --privileged $annotated $arm sh -c 'ls -A /dev | grep toolbx; chmod 4777 /proc/self/exe; uname -m'
        [[ "$output" == *"ead-only file system"*aarch64 ]] || fail "$output"
        [ "$(stat -c %a /home/alice/emulators/qemu-aarch64$static)" = 755 ]
        logged "targets[0].interpreter=\"$interpreter\"" 'not_shown="its owner is somebody in the container, who could change it"'
    done <<END
copy qemu-aarch64$static -cpu max,pauth=off
never /home/alice/emulators/qemu-aarch64$static
END
}

@test "the image's own files are as before" {
    # After a start without the hook, since the engine itself leaves files there.
    local before
    as_alice run --rm --rootfs "$RUN/rootfs" true || true
    before=$(cd "$RUN/rootfs" && find . -printf '%p %y %m %s %U\n' | sort)
    as_alice run --rm $annotated --rootfs "$RUN/rootfs" true
    diff <(echo "$before") <(cd "$RUN/rootfs" && find . -printf '%p %y %m %s %U\n' | sort)
}

# A directory of drop-ins for the hook under strace, which leaves $RUN/trace.
traced() { # option of strace…
    mkdir -p "$RUN/hooks"
    jq --arg trace "$RUN/trace" --arg options "$*" '.hook.path = "/usr/bin/strace" | .hook.args =
        ["strace", "-f", "-o", $trace] + ($options / " " - [""]) + ["/usr/libexec/oci/hooks.d/toolbx-arch-hook", "create-runtime"]' \
        /usr/share/containers/oci/hooks.d/50-toolbx-arch.json >"$RUN/hooks/traced.json"
    rm -f "$RUN/trace"
}

# Leaves the trace of a start that went well.
trace_start() {
    traced
    as_root --hooks-dir "$RUN/hooks" run --rm --userns=auto $annotated $arm true
    rm -r "$RUN/hooks"
    grep -q 'exited with 0' "$RUN/trace"
}

@test "the hook starts no program, and one child, which alone enters the container" {
    trace_start
    run grep -cE "(fork|vfork|clone3?)\(" "$RUN/trace"
    prints 1
    [ "$(grep -c 'execve(' "$RUN/trace")" = 1 ]
    run awk '/execve\(/ { hook = $1 } /setns\(/ { entered = entered ($1 == hook ? "hook" : "child") " " } END { print entered }' "$RUN/trace"
    [[ "$output" == "child "* && "$output" != *hook* ]] || fail "$output"
}

@test "from Linux 6.15 on, no mount namespace of its own and no mountinfo" {
    [ "$(printf '%s\n' 6.15 "$(uname -r)" | sort --version-sort | head -n 1)" = 6.15 ] || skip "this is $(uname -r)"
    trace_start
    run grep -E 'unshare|mountinfo' "$RUN/trace"
    [ "$status" = 1 ] || fail "$output"
}

# A clone that can still be attached is in a namespace, if only of detached mounts: who finds it by
# /proc/PID/exe of a program that a handler has started could clone it and make it writable. And what is
# mounted in the tmpfs of the names is there as long as that is open (from Linux 7.3 on, no longer).
@test "the emulator's mount is in no namespace when its handler is there, and its name in the tmpfs leads to it" {
    trace_start
    run awk '/fsopen\("tmpfs"/ { opened = 1 }
        opened && /fsmount\(/ { room = $NF; opened = 0 }
        /open_tree\([0-9]+, .*OPEN_TREE_CLONE/ { clones[$NF] = 1 }
        # Pinned by a descriptor that is no clone, or attached.
        /open_tree\([0-9]+, / && !/OPEN_TREE_CLONE/ { match($0, /open_tree\([0-9]+/); pinned[substr($0, RSTART + 10, RLENGTH - 10)] = 1 }
        /close\(/ { match($0, /close\([0-9]+/); fd = substr($0, RSTART + 6, RLENGTH - 6)
            if (fd in pinned) { print "pinned"; delete pinned[fd] }
            if (fd == room) print "closed" }
        /write\(.*":toolbx-arch-/ { for (fd in pinned) print "open"; print "registered" }' "$RUN/trace"
    [ "$output" = $'pinned\nregistered' ] || [ "$output" = $'pinned\nregistered\nclosed' ] || fail "$output"
}

# Before 6.11 nothing tells of single mounts of another namespace; before 6.15 nothing can be mounted on
# what is attached nowhere.
@test "as on a kernel before 6.11" {
    local podman options
    chmod 777 "$RUN"
    traced --inject=ioctl:error=ENOTTY --inject=move_mount:error=EINVAL:when=2
    for podman in "as_root --userns=auto" "as_alice --userns=keep-id" "as_alice"; do
        read -r podman options <<<"$podman"
        run --separate-stderr $podman --hooks-dir "$RUN/hooks" run --rm $options $annotated $arm \
            sh -c 'uname -m; (echo : >/proc/sys/fs/binfmt_misc/register) 2>&1'
        [[ "$output" == aarch64*"ead-only file system"* ]] || fail "$podman: $output $stderr"
        [ "$(grep -c 'move_mount.*INJECTED' "$RUN/trace")" = 1 ]
        grep -q '"mountinfo"' "$RUN/trace"
        grep -q 'unshare(CLONE_NEWNS) *= 0' "$RUN/trace"
        rm -f "$RUN/trace"
    done
    rm -r "$RUN/hooks"
}

@test "peak memory is at most 4 MiB" {
    mkdir -p "$RUN/hooks"
    jq --arg out "$RUN/memory" '.hook.path = "/usr/bin/time" |
        .hook.args = ["time", "-f", "%M", "-o", $out, "/usr/libexec/oci/hooks.d/toolbx-arch-hook", "create-runtime"]' \
        /usr/share/containers/oci/hooks.d/50-toolbx-arch.json >"$RUN/hooks/timed.json"
    as_root --hooks-dir "$RUN/hooks" run --rm --userns=auto $annotated $arm true
    rm -r "$RUN/hooks"
    [ "$(tail -n 1 "$RUN/memory")" -le 4096 ] || fail "$(cat "$RUN/memory") KiB"
}

@test "the binary is static and at most 2 MB" {
    local binary=/usr/libexec/oci/hooks.d/toolbx-arch-hook
    run readelf --program-headers --wide $binary
    [[ "$output" != *INTERP* ]] || fail "$output"
    [ "$(stat -c %s $binary)" -le 2000000 ]
}

@test "an emulator whose sum the policy requires is registered anew without a gap" {
    chmod 777 "$RUN"
    mkdir -p /etc/toolbx-arch
    printf '{"emulator_sha256": {"arm64": ["%s"]}}' "$(sha256sum /usr/bin/qemu-aarch64$static | cut -d' ' -f1)" \
        >/etc/toolbx-arch/policy.json
    as_alice run --detach --name relies --network none $annotated $arm sh -c '
        bad=0; while [ ! -e /tmp/stop ]; do /bin/busybox true || bad=$((bad + 1)); done; echo "failed: $bad"' >/dev/null
    # The second start, each write delayed.
    traced --inject=write:delay_enter=300000
    run --separate-stderr as_alice --hooks-dir "$RUN/hooks" run --rm --network none $annotated $arm uname -m
    prints aarch64
    run awk '/write\(.*":toolbx-arch-aarch64:/ { print "name" }
        /write\(.*":toolbx-arch-aarch64\.[0-9]+:/ { print "other name" }
        /write\(.*"-1"/ { print "removed" }' "$RUN/trace"
    prints $'name\nother name\nremoved\nname\nremoved'
    as_alice exec relies touch /tmp/stop
    as_alice wait relies >/dev/null
    run as_alice logs relies
    prints "failed: 0"
    rm -r "$RUN/hooks" "$RUN/trace"
}

@test "no room for one more handler" {
    chmod 777 "$RUN"
    traced -s 500 --inject=write:error=ENOSPC:when=1
    run --separate-stderr as_root --hooks-dir "$RUN/hooks" run --rm --userns=auto $annotated $arm uname -m
    [ "$status" != 0 ]
    # The first write of the hook itself, which is the record, fails as well.
    grep -q 'write(2, "toolbx-arch-hook: error: .*user.max_binfmt_misc_interpreters says.*raise it.*ENOSPC' "$RUN/trace"
    rm -r "$RUN/hooks" "$RUN/trace"
}

@test "the log hears it from whoever runs the engine, not from somebody in the container" {
    local engine option by uid=17001
    for by in as_root as_alice; do
        for option in --userns=auto --userns=keep-id --userns=host; do
            [ "$by $option" != "as_root --userns=keep-id" ] || continue
            : >/run/log.records.senders
            $by run --rm --network none "$option" $annotated localhost/busybox:amd64 true 2>/dev/null || true
            grep -q . /run/log.records.senders || fail "$by $option: no record"
            run sort -u /run/log.records.senders
            if [ $by = as_root ]; then prints 0; else prints $uid; fi
        done
    done
}
