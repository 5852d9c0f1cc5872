# shellcheck disable=SC2154 # status, output and stderr are set by bats's run
# What the bats files and tests/debian share. RUNTIME says which OCI runtime the engines use.

RUNTIME=${RUNTIME:-crun}

# How the names of emulators end: Debian 12 has qemu-aarch64-static, Debian 13 qemu-aarch64.
export static=-static
compgen -G '/usr/bin/qemu-*-static' >/dev/null || static=

export BATS_TEST_TIMEOUT=300

# Podman as the machine's root.
as_root() {
    podman --runtime "$RUNTIME" "$@"
}

# Any command, and Podman, as an ordinary user.
alice() {
    setpriv --reuid alice --regid alice --init-groups env --ignore-environment --chdir=/home/alice \
        HOME=/home/alice USER=alice XDG_RUNTIME_DIR=/run/user/17001 LC_ALL=C.UTF-8 PATH="$PATH" "$@"
}
as_alice() {
    alice podman --runtime "$RUNTIME" "$@"
}

# Whether Podman's database is SQLite, in which the hook finds a container's label.
has_sqlite() {
    [ "$(as_root info --format '{{.Host.DatabaseBackend}}' 2>/dev/null)" = sqlite ]
}

# Whether cgroups of the laboratory have this controller: with the unified hierarchy, those only that
# the machine does not use in the old way.
has_controller() {
    [ -d "/sys/fs/cgroup/$1" ] || grep -qw "$1" /sys/fs/cgroup/cgroup.controllers
}

fail() {
    printf '%s\n' "$@" >&2
    return 1
}

# The last command run succeeded and printed exactly this to standard output.
prints() {
    [ "$status" = 0 ] || fail "exit status $status" "stdout: $output" "stderr: ${stderr:-}"
    [ "$output" = "$1" ] || fail "expected: $1" "printed:  $output" "stderr:   ${stderr:-}"
}

# The last command run failed, and said this in its output or errors.
refused() {
    [ "$status" != 0 ] || fail "succeeded" "stdout: $output"
    local part
    for part in "$@"; do
        [[ "$output${stderr:-}" == *"$part"* ]] || fail "not said: $part" "$output" "${stderr:-}"
    done
}

# The last record of the hook's log holds these values: KEY=JSON …
logged() {
    local pair record
    record=$(tail -n 1 /run/log.records)
    record=${record#*]: }
    # jq says yes to nothing at all.
    [ -n "$record" ] || fail "there is no record"
    for pair in "$@"; do
        jq -e "(.${pair%%=*}) == (${pair#*=})" >/dev/null <<<"$record" ||
            fail "expected $pair in the record: $record"
    done
}

# Podman with a hook that is killed when it enters a system call for the Nth time.
with_killer() { # call n podman option: runs uname for arm64
    mkdir -p "$RUN/hooks"
    jq --arg call "$1" --arg n "$2" '.hook.args = ["strace", "-qq", "-f", "-o", "/dev/null", "-e", "trace=" + $call,
            "-e", "inject=" + $call + ":signal=KILL:when=" + $n, .hook.path, "create-runtime"]
        | .hook.path = "/usr/bin/strace"' \
        /usr/share/containers/oci/hooks.d/50-toolbx-arch.json >"$RUN/hooks/killed.json"
    $3 --hooks-dir "$RUN/hooks" run --rm "$4" --annotation toolbx.arch=arm64 localhost/busybox:arm64 uname -m
}

# Mounts and handlers that containers must never leave on the machine, or in the namespaces that
# alice's engine keeps; and the hook's directory in what containers can reach. (Not on the whole
# machine: that takes a second, and this is asked a thousand times.)
leftovers() {
    local ours='$5 ~ /binfmt_misc|\.toolbx-arch|qemu-/ || / - binfmt_misc / { print }'
    ls -A /proc/sys/fs/binfmt_misc
    awk "$ours" /proc/self/mountinfo
    find / -maxdepth 2 -name .toolbx-arch
    find /dev /run/lab /tmp /home /var/lib/containers -xdev -name .toolbx-arch
    alice podman unshare sh -c 'awk "$1" /proc/self/mountinfo; ls -A /proc/sys/fs/binfmt_misc' sh "$ours"
}

setup() {
    : >/run/log.records
}

# Remembers files of the laboratory that a test is going to break; puts them back.
keep() { tar --append --absolute-names --file "$RUN/kept.tar" "$@"; }
put_back() {
    [ ! -e "$RUN/kept.tar" ] || tar --extract --absolute-names --file "$RUN/kept.tar"
    rm -f "$RUN/kept.tar"
}

# Takes away what a test put into the laboratory's files.
tidy() {
    put_back
    rm -rf "$RUN/hooks" /etc/toolbx-arch /etc/containers/containers.conf.d /home/alice/.config /home/alice/emulators /etc/cdi /usr/local/bin/qemu-*
    umount --lazy /proc/sys/fs/binfmt_misc 2>/dev/null || true
}

teardown() {
    tidy
    as_root rm --all --force --time 0 >/dev/null
    as_alice rm --all --force --time 0 >/dev/null
    local left
    left=$(leftovers)
    [ -z "$left" ] || fail "left on the machine:" "$left"
}
