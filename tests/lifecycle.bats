# A container's life, and what becomes of everything when a part of it is killed.
bats_require_minimum_version 1.5.0
load helpers

arm=localhost/busybox:arm64
annotated="--annotation toolbx.arch=arm64"

# Each engine and option with which containers are served: calls "$@" PODMAN OPTION.
in_each_scope() {
    "$@" as_root --userns=auto
    "$@" as_alice --userns=keep-id
    "$@" as_alice --userns=
}

# Waits until the container has printed exactly this.
until_printed() { # podman text
    local text end=$((SECONDS + 60))
    while ((SECONDS < end)); do
        text=$($1 logs life) || true
        [ "$text" != "$2" ] || return 0
        sleep 0.1
    done
    fail "expected: $2" "printed:  $text"
}

restarts() { # podman option
    local script='trap "exit 0" TERM; uname -m; while :; do sleep 1; done'
    $1 run --detach --name life $2 $annotated $arm sh -c "$script" >/dev/null
    # A container that is stopped or killed before this prints nothing.
    until_printed $1 aarch64
    $1 restart --time 20 life >/dev/null
    until_printed $1 $'aarch64\naarch64'
    $1 restart --time 0 life >/dev/null # killed
    run --separate-stderr $1 exec life uname -m
    prints aarch64
    until_printed $1 $'aarch64\naarch64\naarch64'
    $1 rm --force --time 0 life >/dev/null
}
@test "restart" { in_each_scope restarts; }

clones() { # podman option
    $1 create --name life $2 $annotated $arm uname -m >/dev/null
    $1 container clone life clone >/dev/null
    # Podman 4.3 clones neither annotations nor --userns: the program has to tell.
    run --separate-stderr $1 start --attach clone
    prints aarch64
    $1 rm life clone >/dev/null
}
@test "podman container clone" {
    clones as_alice --userns=
    clones as_alice --userns=keep-id
}

outlives_emulator() { # podman option
    $1 run --detach --name life $2 $annotated $arm sleep 100 >/dev/null
    mv /usr/bin/qemu-aarch64$static "$RUN/qemu"
    run --separate-stderr $1 exec life uname -m
    mv "$RUN/qemu" /usr/bin/qemu-aarch64$static
    prints aarch64
    $1 rm --force --time 0 life >/dev/null
}
@test "exec after the host's emulator is gone" { in_each_scope outlives_emulator; }

is_killed() { # podman option
    local delay pid
    # While it runs program after program, each by the handler.
    for delay in 0 0.02 0.05 0.1 0.2; do
        $1 run --detach --name life $2 $annotated $arm sh -c 'while :; do uname -m >/dev/null; done' >/dev/null
        sleep $delay
        pid=$($1 inspect --format '{{.State.Pid}}' life)
        kill -KILL "$pid"
        $1 wait life >/dev/null
        $1 start life >/dev/null
        run --separate-stderr $1 exec life uname -m
        prints aarch64
        $1 rm --force --time 0 life >/dev/null
        [ -z "$(leftovers)" ] || fail "after $delay s:" "$(leftovers)"
    done
}
@test "a container killed with SIGKILL" { in_each_scope is_killed; }

dies_at_each_step() { # podman option
    local call n left steps=0
    # Those that change something, or open what does; and poll, in which the hook waits for its child.
    for call in setns openat2 mkdirat fsopen fsconfig fsmount open_tree mount_setattr move_mount chroot write poll; do
        for n in {1..40}; do
            run --separate-stderr with_killer "$call" "$n" "$@"
            # Not called so often: the hook went through.
            [ "$status" != 0 ] || break
            left=$(leftovers)
            [ -z "$left" ] || fail "killed at $call $n:" "$left"
            run --separate-stderr $1 run --rm $2 $annotated $arm uname -m
            prints aarch64
        done
        [ "$n" -lt 40 ] || fail "$call never stopped the hook from being killed" "$stderr"
        [ "$n" -gt 1 ] || fail "the hook never calls $call"
        steps=$((steps + n - 1))
    done
    echo "# $*: killed at $steps steps" >&3
}
@test "a hook killed at each step leaves nothing, and the next container works" {
    dies_at_each_step as_root --userns=auto
    dies_at_each_step as_alice --userns=
}

@test "a hook killed while it carries over: the next start mends what it hid" {
    as_alice system migrate
    run --separate-stderr "$BATS_TEST_DIRNAME/host-with-handlers" bash -c '
        source "$0"
        s390x() { as_alice run --rm localhost/busybox:s390x uname -m; }
        hidden=0
        for n in 1 2 3 4 5 6; do
            # Nothing is registered by the first write; the last is the record in the log.
            ! with_killer write $n as_alice --userns= >/dev/null 2>&1 || break
            s390x >/dev/null 2>&1 || hidden=$((hidden + 1))
            as_alice run --rm '"$annotated $arm"' uname -m
            s390x
            as_alice system migrate
        done
        [ $hidden -gt 0 ] || echo "no kill ever hid a handler"
        [ $n -gt 2 ] || echo "never killed"' "$BATS_TEST_DIRNAME/helpers.bash"
    as_alice system migrate
    [ "$status" = 0 ] || fail "$output" "$stderr"
    [ "$(sort -u <<<"$output")" = $'aarch64\ns390x' ] || fail "$output" "$stderr"
}
