# The laboratory itself, on machines that are not like the one it was written on.
# bats file_tags=any-runtime
bats_require_minimum_version 1.5.0
load helpers

teardown() {
    rm -rf /tmp/machine
    tidy
}

# A checkout of its own: this one lies where the laboratory inside would put its own.
checkout() {
    mkdir -p /tmp/machine/{upper,work,checkout,target}
    mount -t overlay -o "lowerdir=$BATS_TEST_DIRNAME/..,upperdir=/tmp/machine/upper,workdir=/tmp/machine/work" \
        lab /tmp/machine/checkout
    cd /tmp/machine/checkout
    mount --bind /tmp/machine/target target
    mkdir target/images
    mount --bind "$IMAGES" target/images
    cp -r "$BATS_TEST_DIRNAME"/../target/{toolbx-arch,toolbx-arch-hook,man,completions} target
}

@test "a machine's handlers are named, and what else lies beside them is none" {
    local lab=$BATS_TEST_DIRNAME/lab
    run --separate-stderr "$BATS_TEST_DIRNAME/host-with-handlers" bash -c '"$0" --host-handlers | tr " " "\n" | sort' "$lab"
    prints $'a\nb\next\ngone\nhost-arm\nhost-s390x\nü'
    [ -z "$stderr" ] || fail "$stderr"
    # Its own instance of binfmt_misc, which it empties.
    run --separate-stderr "$BATS_TEST_DIRNAME/host-with-handlers" bash -c '
        echo -1 >/proc/sys/fs/binfmt_misc/status && exec "$0" --host-handlers' "$lab"
    prints ""
    [ -z "$stderr" ] || fail "$stderr"
}

@test "a machine that has a user alice already" {
    grep '^alice:' /etc/passwd
    export BATS_TEST_DIRNAME
    run --separate-stderr unshare --mount --propagation private bash -euc '
        '"$(declare -f checkout)"'
        checkout
        exec tests/lab bash -euc "
            source tests/helpers.bash
            grep -c ^alice: /etc/passwd
            alice id -u
            as_root import --quiet \"\$IMAGES/busybox-arm64.tar\" localhost/busybox:arm64 >/dev/null
            as_root run --rm --network none --userns=auto localhost/busybox:arm64 uname -m"'
    prints $'1\n17001\naarch64'
}
