# No annotation: the container's own programs say what they need.
bats_require_minimum_version 1.5.0
load helpers

arm=localhost/busybox:arm64

in_each_scope() { # expected podman-run-arguments…
    local expected=$1 as
    shift
    for as in "as_root --userns=auto" "as_alice --userns=keep-id" "as_alice --userns="; do
        # shellcheck disable=SC2086 # an engine and its option
        run --separate-stderr ${as% *} run --rm ${as#* } "$@"
        prints "$expected"
    done
}

# A native program to be mounted into containers: $RUN/tool/busybox.
native_tool() {
    mkdir -p "$RUN/tool"
    tar -xf "$IMAGES/busybox-amd64.tar" -C "$RUN/tool" --strip-components=2 ./bin/busybox
}

@test "the program, wherever it is found" {
    in_each_scope aarch64 $arm uname -m
    logged 'decision="emulated"' 'sources.program="/bin/uname is for aarch64"'
    in_each_scope aarch64 $arm /bin/uname -m
    in_each_scope aarch64 --workdir /bin $arm ./uname -m
    in_each_scope aarch64 --env PATH=/nowhere:/bin $arm uname -m
    in_each_scope aarch64 localhost/scratch /uname -m
    in_each_scope aarch64 $arm /bin/script
    logged 'sources.program="/bin/sh is for aarch64"'
}

@test "every architecture that has an image" {
    local name machine
    while read -r name machine; do
        in_each_scope "$machine" "localhost/busybox:$name" uname -m
    done <<END
amd64 x86_64
arm64 aarch64
armhf armv7l
ppc64el ppc64le
s390x s390x
mips64el mips64
END
}

@test "behind a native entry point: --init, a tool from the host" {
    in_each_scope aarch64 --init $arm uname -m
    native_tool
    in_each_scope aarch64 --volume "$RUN/tool:/tool:ro" --entrypoint /tool/busybox $arm sh -c '/bin/uname -m'
    logged 'sources.program="/bin/sh is for aarch64"'
}

@test "a native container is left alone, and nothing is logged" {
    run --separate-stderr as_root run --rm localhost/busybox:amd64 uname -m
    prints x86_64
    in_each_scope x86_64 localhost/busybox:amd64 uname -m
    [ ! -s /run/log.records ] || fail "$(cat /run/log.records)"
}

@test "none, auto, all, and a contradiction" {
    run as_alice run --rm --annotation toolbx.arch=none $arm uname -m
    refused "xec format error"
    in_each_scope aarch64 --annotation toolbx.arch=auto $arm uname -m
    in_each_scope aarch64 --annotation toolbx.arch=s390x $arm uname -m
    logged 'targets[0].target="s390x"' 'targets[1].target="aarch64"' \
        'warning="/bin/uname is for aarch64, which was not asked for; both are served"'
    run --separate-stderr as_alice run --rm --userns=keep-id --annotation toolbx.arch=all localhost/busybox:amd64 ls /proc/sys/fs/binfmt_misc
    [ "$status" = 0 ]
    [ "${#lines[@]}" -gt 20 ] || fail "$output"
    [[ "$output" == *toolbx-arch-riscv64* && "$output" != *toolbx-arch-x86_64* ]]
}

@test "what cannot be served: a clear line for the first program, silence for others" {
    run --separate-stderr as_root run --rm $arm uname -m
    [ "$status" != 0 ]
    logged 'decision="refused"'
    grep -q 'is a program for aarch64, which this machine does not run by itself' /run/log.records
    if [ "$RUNTIME" = runc ]; then refused "is a program for aarch64" "--userns=auto"; fi
    # The host's own tool runs all the same.
    native_tool
    run --separate-stderr as_root run --rm --volume "$RUN/tool:/tool:ro" --entrypoint /tool/busybox $arm uname -m
    prints x86_64
    logged 'decision="left"'
    # Nor does a broken policy stop who asks for nothing.
    mkdir -p /etc/toolbx-arch
    echo nonsense >/etc/toolbx-arch/policy.json
    run --separate-stderr as_alice run --rm localhost/busybox:amd64 uname -m
    prints x86_64
    echo '{ "detect": false }' >/etc/toolbx-arch/policy.json
    run as_alice run --rm $arm uname -m
    refused "xec format error"
}

@test "a host's handler without flag F may do what we cannot: the container is not stopped" {
    as_alice system migrate
    run --separate-stderr "$BATS_TEST_DIRNAME/host-with-handlers" bash -c '
        source "$0"
        mv /usr/bin/qemu-aarch64$static "$RUN/qemu"
        printf "%s" ":plain:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/qemu:P" >/proc/sys/fs/binfmt_misc/register
        chmod 755 "$RUN/qemu"
        as_alice run --rm --volume "$RUN/qemu:/qemu:ro" localhost/busybox:arm64 uname -m
        as_alice run --rm localhost/busybox:arm64 uname -m || echo not
        mv "$RUN/qemu" /usr/bin/qemu-aarch64$static' "$BATS_TEST_DIRNAME/helpers.bash"
    as_alice system migrate
    prints $'aarch64\nnot'
}

@test "rootful, with the precreate hook" {
    mkdir -p /etc/containers/containers.conf.d
    sed -n 's/^    \(\[engine\]\|hooks_dir = .*\)$/\1/p' "$BATS_TEST_DIRNAME/../README.md" \
        >/etc/containers/containers.conf.d/toolbx-arch.conf
    local options
    for options in "--network none" "--network host" "--network none --init" "--network none --read-only"; do
        run --separate-stderr as_root run --rm $options $arm uname -m
        prints aarch64
        run --separate-stderr as_root run --rm $options localhost/busybox:amd64 readlink /proc/self/ns/user
        prints "$(readlink /proc/self/ns/user)"
    done
}

@test "AUTO=no waits for an annotation" {
    make --no-print-directory --silent -C "$BATS_TEST_DIRNAME/.." install AUTO=no
    run as_alice run --rm $arm uname -m
    refused "xec format error"
    run --separate-stderr as_alice run --rm --annotation toolbx.arch=auto $arm uname -m
    prints aarch64
    make --no-print-directory --silent -C "$BATS_TEST_DIRNAME/.." install
    run --separate-stderr as_alice run --rm $arm uname -m
    prints aarch64
}

# Lists the handlers of a container that begins with a tool of the host.
labelled() { # source engine options… image for amd64
    native_tool
    run --separate-stderr "$2" run --rm --volume "$RUN/tool:/tool:ro" --entrypoint /tool/busybox "${@:3}" \
        sh -c 'cd /proc/sys/fs/binfmt_misc; echo toolbx-arch-*'
    prints "toolbx-arch-aarch64"
    logged 'decision="emulated"' "sources[\"$1\"]=\"\\\"arm64\\\"\"" 'targets[0].target="aarch64"' \
        'warning="/bin/sh is for x86_64, which was not asked for; both are served"'
}

@test "the label of an image" {
    local engine source="toolbox-arch label of the image"
    # There Podman writes it down as the container's.
    if has_sqlite; then source="toolbox-arch label"; fi
    for engine in as_root as_alice; do
        $engine import --quiet --change "LABEL toolbox-arch=arm64" "$IMAGES/busybox-amd64.tar" localhost/labelled >/dev/null
        labelled "$source" $engine $([ $engine = as_root ] && echo --userns=auto || echo --userns=keep-id) \
            localhost/labelled
        # What the image itself begins with says enough.
        : >/run/log.records
        run --separate-stderr $engine run --rm localhost/labelled uname -m
        prints x86_64
        [ ! -s /run/log.records ]
        $engine rmi localhost/labelled >/dev/null
    done
}

# Creates a container with a label for s390x, of an image for arm64 with one for ppc64le, and starts
# it. Where Podman's database is not SQLite, it gets one that says so beside it.
start_labelled() { # engine options…
    local id storage=/var/lib/containers/storage user=
    if [ "$1" = as_alice ]; then storage=/home/alice/.local/share/containers/storage user=alice; fi
    "$1" import --quiet --change "LABEL toolbox-arch=ppc64le" "$IMAGES/busybox-arm64.tar" localhost/labelled >/dev/null
    id=$("$1" create --label toolbox-arch=s390x "${@:2}" localhost/labelled uname -m)
    has_sqlite || $user python3 -c '
import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("CREATE TABLE IF NOT EXISTS ContainerConfig(ID TEXT PRIMARY KEY, Name TEXT UNIQUE, PodID TEXT, JSON TEXT)")
for i in range(300):
    db.execute("INSERT INTO ContainerConfig VALUES (?, ?, NULL, ?)", ("%s of %i" % (sys.argv[2], i), i, b"{}"))
config = {"spec": "x" * 20000, "labels": {"toolbox-arch": "s390x"}}
db.execute("INSERT INTO ContainerConfig VALUES (?, ?, NULL, ?)", (sys.argv[2], "name", json.dumps(config).encode()))
db.commit()' $storage/db.sql "$id"
    : >/run/log.records
    run --separate-stderr "$1" start --attach "$id"
    "$1" rm "$id" >/dev/null
    "$1" rmi localhost/labelled >/dev/null
    has_sqlite || rm $storage/db.sql
}

@test "the label of a container, in Podman's database" {
    local case
    for case in "as_root --userns=auto" "as_alice --userns=keep-id" "as_alice --userns=" "precreate"; do
        if [ "$case" = precreate ]; then
            mkdir -p /etc/containers/containers.conf.d
            sed -n 's/^    \(\[engine\]\|hooks_dir = .*\)$/\1/p' "$BATS_TEST_DIRNAME/../README.md" \
                >/etc/containers/containers.conf.d/toolbx-arch.conf
            case="as_root --network=none"
        fi
        # shellcheck disable=SC2086 # an engine and its option
        start_labelled $case
        prints aarch64
        logged 'sources["toolbox-arch label"]="\"s390x\""' 'sources["toolbox-arch label of the image"]=null' \
            'targets[0].target="s390x"' 'targets[1].target="aarch64"'
    done
}

@test "run --label, where Podman's database is SQLite" {
    has_sqlite || skip "this Podman has another"
    labelled "toolbox-arch label" as_root --userns=auto --label toolbox-arch=arm64 localhost/busybox:amd64
    labelled "toolbox-arch label" as_alice --userns=keep-id --label toolbox-arch=arm64 localhost/busybox:amd64
    labelled "toolbox-arch label" as_alice --userns= --label toolbox-arch=arm64 localhost/busybox:amd64
}
