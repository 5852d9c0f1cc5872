# toolbx-arch prepare: copies of the emulators with the launcher in them, and which of them are used.
# shellcheck disable=SC2154 # output and stderr are set by bats's run
# bats file_tags=any-runtime
bats_require_minimum_version 1.5.0
load helpers

copies=/usr/libexec/toolbx-arch/emulators
copy=$copies/qemu-aarch64$static
arm=localhost/busybox:arm64

setup_file() {
    as_root image exists $arm || fail "no images"
}
teardown() {
    umount $copies 2>/dev/null || true
    tidy
    toolbx-arch prepare >/dev/null
}

# Changes an extended attribute, or takes it away.
label() { # file [label]
    python3 -c 'import os, sys
name = "security.selinux"
if sys.argv[2:]: os.setxattr(sys.argv[1], name, sys.argv[2].encode() + b"\0")
else: os.removexattr(sys.argv[1], name)' "$@"
}
# Runs a container; which form of the emulator it had.
uses() { # prepared|copy|none part-of-the-reason
    run --separate-stderr as_alice run --rm --userns=keep-id $arm uname -m
    prints aarch64
    logged "targets[0].launcher=\"$1\""
    [ -z "${2:-}" ] || grep -qF -- "$2" /run/log.records || fail "$(cat /run/log.records)"
}
fresh() { # name: by --check and --json
    run --separate-stderr toolbx-arch prepare --check --json
    [ "$(jq -r --arg name "$1" '.copies[] | select(.name == $name).state' <<<"$output")" = "${2:-fresh}" ] || fail "$output"
}

@test "it makes what is missing, keeps what is fresh, removes what is needless" {
    rm -r /usr/libexec/toolbx-arch
    uses copy "there is no prepared copy; run: sudo toolbx-arch prepare"
    run --separate-stderr toolbx-arch prepare --check
    [ "$status" = 1 ]
    [[ "$output" == *"missing qemu-aarch64$static"* ]] || fail "$output"
    [ ! -e /usr/libexec/toolbx-arch ]
    run --separate-stderr toolbx-arch prepare arm64 linux/s390x
    prints "prepared qemu-aarch64$static
prepared qemu-s390x$static"
    uses prepared
    run --separate-stderr toolbx-arch prepare
    [ "$status" = 0 ]
    [[ "$output" == *"prepared qemu-riscv64$static"* && "$output" != *"qemu-aarch64$static"[[:space:]]* ]] || fail "$output"
    local before
    before=$(stat -c '%n %i %y' $copies/*)
    run --separate-stderr toolbx-arch prepare
    prints "nothing to prepare: 31 in $copies, all fresh"
    [ "$before" = "$(stat -c '%n %i %y' $copies/*)" ]
    run --separate-stderr toolbx-arch prepare --check --json
    [ "$status" = 0 ]
    jq -e '(.copies | length) == 31 and all(.copies[]; .state == "fresh")' <<<"$output"
    policy='{"architectures": ["arm64"]}'
    mkdir -p /etc/toolbx-arch && echo "$policy" >/etc/toolbx-arch/policy.json
    run --separate-stderr toolbx-arch prepare --check
    [ "$status" = 1 ]
    [[ "$output" == *"needless qemu-s390x$static"* ]] || fail "$output"
    toolbx-arch prepare >/dev/null
    [ "$(ls $copies)" = qemu-aarch64$static ]
    echo '{"launcher": "never"}' >/etc/toolbx-arch/policy.json
    run --separate-stderr toolbx-arch prepare
    prints "removed qemu-aarch64$static"
    run --separate-stderr toolbx-arch prepare --check
    prints "nothing to prepare: the policy's launcher says never"
}

@test "a copy keeps the emulator's mode and label" {
    cp /usr/bin/qemu-aarch64$static /usr/local/bin/
    chmod 511 /usr/local/bin/qemu-aarch64$static
    label /usr/local/bin/qemu-aarch64$static system_u:object_r:bin_t:s0
    toolbx-arch prepare arm64 >/dev/null
    [ "$(stat -c '%a %U' $copy)" = "511 root" ]
    [ "$(python3 -c "import os; print(os.getxattr('$copy', 'security.selinux'))")" = "b'system_u:object_r:bin_t:s0\x00'" ]
}

# As a relabelling of the whole machine leaves it, where the policy has no name for the directory.
@test "SELinux: a copy with another label than its emulator's is not used, and made again" {
    local emulator=/usr/local/bin/qemu-aarch64$static bin=system_u:object_r:bin_t:s0 other=system_u:object_r:var_lib_t:s0
    cp /usr/bin/qemu-aarch64$static $emulator
    differs() { # how the labels differ
        uses copy "$copy has another SELinux label than its emulator: $1; run: sudo toolbx-arch prepare"
        fresh qemu-aarch64$static stale
        run --separate-stderr toolbx-arch doctor --json
        jq -e --arg how "$1" 'any(.[]; .check == "launcher" and .status == "warning" and
            (.says | contains($how)) and .fix == "run: sudo toolbx-arch prepare")' <<<"$output" >/dev/null || fail "$output"
        toolbx-arch prepare arm64 >/dev/null
        uses prepared
    }
    toolbx-arch prepare arm64 >/dev/null
    uses prepared
    label $copy $other
    differs "$other instead of none"
    label $emulator $bin
    differs "none instead of $bin"
    label $copy $other
    differs "$other instead of $bin"
    label $copy
    differs "none instead of $bin"
    # A relabelling of both is none of the hook's business.
    label $copy $other
    label $emulator $other
    uses prepared
}

@test "where every file has the same time, as in an image of ostree, a copy stays fresh" {
    cp /usr/bin/qemu-aarch64$static /usr/local/bin/
    toolbx-arch prepare arm64 >/dev/null
    touch -d @0 /usr/local/bin/qemu-aarch64$static
    uses prepared
    fresh qemu-aarch64$static
    # The time alone tells nothing then; the rest does.
    printf x >>/usr/local/bin/qemu-aarch64$static
    touch -d @0 /usr/local/bin/qemu-aarch64$static
    fresh qemu-aarch64$static stale
}

@test "where /usr cannot be written, it says so, unless there is nothing to write" {
    toolbx-arch prepare >/dev/null
    mount --bind $copies $copies
    mount -o remount,bind,ro $copies
    run --separate-stderr toolbx-arch prepare
    prints "nothing to prepare: 31 in $copies, all fresh"
    umount $copies
    rm $copies/qemu-s390x$static
    mount --bind $copies $copies
    mount -o remount,bind,ro $copies
    run --separate-stderr toolbx-arch prepare
    refused "$copies is on a read-only file system; if /usr comes as an image"
    run --separate-stderr toolbx-arch prepare --check
    [[ "$status" = 1 && "$output" == "missing qemu-s390x$static" ]] || fail "$output"
    umount $copies
}

@test "what earlier versions had in /var/lib is taken away, and nothing else there" {
    mkdir -p /var/lib/toolbx-arch/emulators
    touch /var/lib/toolbx-arch/emulators/qemu-arm$static
    run -0 toolbx-arch prepare --check
    [ -e /var/lib/toolbx-arch/emulators/qemu-arm$static ]
    run -0 toolbx-arch prepare
    [ ! -e /var/lib/toolbx-arch ]
    mkdir -p /var/lib/toolbx-arch/emulators
    touch /var/lib/toolbx-arch/own
    run -0 toolbx-arch prepare
    [ "$(ls /var/lib/toolbx-arch)" = own ]
    rm -r /var/lib/toolbx-arch
}

@test "a copy that does not fit is not used, and made again" {
    local change
    for change in 'touch -d 2001-01-01 /usr/local/bin/qemu-aarch64'$static \
        'printf x >>/usr/local/bin/qemu-aarch64'$static \
        "sed -i 's/\"format\":1/\"format\":2/' $copy" \
        "sed -i 's/\"launcher\":\"../\"launcher\":\"xy/' $copy" \
        "truncate -s -1 $copy" "truncate -s 5000 $copy" ": >$copy" "cp /bin/true $copy" \
        "chmod o+w $copy" "chown alice $copy" "chmod a-x $copy" \
        "ln -sf /home/alice/x $copy; cp /usr/bin/qemu-aarch64$static /home/alice/x; chown alice /home/alice/x"; do
        cp /usr/bin/qemu-aarch64$static /usr/local/bin/
        toolbx-arch prepare arm64 >/dev/null
        uses prepared
        bash -c "$change"
        uses copy "toolbx-arch" || fail "$change"
        fresh qemu-aarch64$static stale
        run --separate-stderr toolbx-arch doctor --json
        jq -e 'any(.[]; .check == "launcher" and .status == "warning" and .fix == "run: sudo toolbx-arch prepare")' <<<"$output" >/dev/null || fail "$output"
        toolbx-arch prepare >/dev/null
        uses prepared
        rm -f /usr/local/bin/qemu-* /home/alice/x
        toolbx-arch prepare >/dev/null
    done
    # What is wrong may be the directory.
    chmod o+w $copies
    uses copy "$copies may be written by others"
    run --separate-stderr toolbx-arch prepare
    refused "$copies may be written by others"
    chmod o-w $copies
}

@test "what is no emulator is not prepared, and said" {
    local make name=/usr/local/bin/qemu-aarch64$static
    while read -r make part; do
        rm -f $name
        case $make in
        truncated) head -c 1000000 /usr/bin/qemu-aarch64$static >$name ;;
        dynamic) cp /bin/true $name ;;
        foreign) tar -xOf "$IMAGES/busybox-arm64.tar" ./bin/busybox >$name ;;
        prepared) toolbx-arch prepare arm64 >/dev/null && cp $copy $name ;;
        esac
        chmod 755 $name
        [ $make = truncated ] || [ $make = prepared ] || keep /usr/bin/qemu-aarch64$static
        [ $make = truncated ] || [ $make = prepared ] || rm /usr/bin/qemu-aarch64$static
        run --separate-stderr toolbx-arch prepare arm64
        refused "$part"
        put_back
    done <<'END'
truncated is cut off: its segments are longer than the file
dynamic is linked dynamically
foreign is a program for aarch64, this machine is x86_64
prepared has the launcher in it already; use the emulator itself
END
    run --separate-stderr toolbx-arch prepare amd64
    refused "x86_64 is this machine's own, and not emulated"
    run --separate-stderr toolbx-arch prepare arm65
    refused "did you mean arm64?"
    run --separate-stderr alice toolbx-arch prepare
    refused "run it as root"
}

@test "a full disk: the others stay, nothing is left over, and containers run" {
    rm -r $copies
    mkdir -p $copies
    mount -t tmpfs -o size=20m,mode=755 test $copies
    run --separate-stderr toolbx-arch prepare arm64 s390x
    refused "ENOSPC"
    [ "$(ls $copies)" = qemu-aarch64$static ]
    uses prepared
    umount $copies
}

@test "where nothing may be executed, copies are of no use" {
    mount -t tmpfs -o noexec,mode=755 test $copies
    run --separate-stderr toolbx-arch prepare arm64
    refused "$copy is on a file system mounted noexec"
    uses copy "$copy is on a file system mounted noexec"
    umount $copies
}

@test "several at once, and killed at any time" {
    local i pids=()
    # Whom everybody can lock, everybody can keep waiting.
    run alice flock --nonblock $copies/.lock true
    [ "$status" != 0 ]
    # Who waits says for what.
    run --separate-stderr timeout 3 flock $copies/.lock toolbx-arch prepare arm64
    [[ "$status" = 124 && "$stderr" = "toolbx-arch: waiting for another toolbx-arch prepare, which has locked $copies/.lock" ]] ||
        fail "$status" "$stderr"
    rm -r $copies
    for i in {1..4}; do toolbx-arch prepare arm64 s390x riscv64 >/dev/null & pids+=($!); done
    for i in "${pids[@]}"; do wait "$i"; done
    run --separate-stderr toolbx-arch prepare --check arm64 s390x riscv64
    prints "nothing to prepare: 3 in $copies, all fresh"
    for i in write copy_file_range sendfile fchmod fsync rename; do
        rm -rf $copies
        run strace -qq -o /dev/null -e "trace=$i" -e "inject=$i:signal=KILL:when=1" toolbx-arch prepare arm64
        [ ! -e $copy ] || [ "$i" != rename ] || fail "there before its name"
        uses "$([ -e $copy ] && echo prepared || echo copy)"
        toolbx-arch prepare arm64 >/dev/null
        [ "$(ls $copies)" = qemu-aarch64$static ]
        uses prepared
    done
}
