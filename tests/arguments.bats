# What emulators are told: by annotations, and by the policy.
# shellcheck disable=SC2154 # output and stderr are set by bats's run
bats_require_minimum_version 1.5.0
load helpers

arm=localhost/busybox:arm64

# The annotations key=value… of a container that has handlers of its own, then -- and what it runs.
told() {
    local options=()
    while [ "$1" != -- ]; do
        options+=(--annotation "toolbx.arch$1")
        shift
    done
    run --separate-stderr as_alice run --rm --userns=keep-id "${options[@]}" "${@:2}"
}

policy() {
    mkdir -p /etc/toolbx-arch
    echo "$1" >/etc/toolbx-arch/policy.json
}

# Which of these bits the processor says it has (AT_HWCAP): atomics, paca.
hwcap() {
    [[ "$output" =~ AT_HWCAP:\ +([0-9a-f]+) ]] || fail "$output" "$stderr"
    printf '%x\n' $((0x${BASH_REMATCH[1]} & 0x40000100))
}

# How large a program's stack is, by the emulator's word.
stack='perl -ne "print hex(\$2) - hex(\$1) if /^(\\w+)-(\\w+) .*\\[stack/" /proc/self/maps'

@test "each argument has its effect" {
    told .uname=9.9.9-x -- $arm uname -rm
    prints "9.9.9-x aarch64"
    told .strace=true -- $arm uname -m
    prints aarch64
    [[ "$stderr" == *"uname("* ]] || fail "$stderr"
    told .strace=false -- $arm uname -m
    [ -z "$stderr" ] || fail "$stderr"
    # The oldest model has no atomic instructions either.
    told .cpu=cortex-a53 -- --arch arm64 localhost/debian env LD_SHOW_AUXV=1 /bin/true
    [ "$(hwcap)" = 0 ]
    told .cpu=max -- --arch arm64 localhost/debian env LD_SHOW_AUXV=1 /bin/true
    [ "$(hwcap)" = 40000100 ]
    told "=arm64" ".cpu.arm64=max pauth=off" -- --arch arm64 localhost/debian env LD_SHOW_AUXV=1 /bin/true
    [ "$(hwcap)" = 100 ]
    told -- --arch arm64 localhost/debian env LD_SHOW_AUXV=1 /bin/true
    [ "$(hwcap)" = 100 ]
    told .stack-size=64M -- --arch arm64 localhost/debian sh -c "$stack"
    ((output >= 64 << 20 && output < 65 << 20)) || fail "$output"
    # What the emulator does with its own addresses shows outside: its process has no more than it was told.
    told .reserved-va=4G .guest-base=0x100000000 -- $arm sh -c 'sleep 100 & cat /proc/$!/cmdline'
    [[ "$output" == *-R*4G*-B*0x100000000*sleep* ]] || fail "$output"
}

@test "they are to be seen: in the container, by explain, by list, in the log" {
    as_alice run --detach --name c --userns=keep-id --annotation toolbx.arch.cpu=cortex-a57 \
        --annotation toolbx.arch.strace=true $arm sleep 100 >/dev/null 2>&1
    logged 'targets[0].interpreter="qemu-aarch64'$static' -cpu cortex-a57 ! -strace"' \
        'targets[0].arguments="-cpu cortex-a57 ! -strace"' 'targets[0].launcher="prepared"'
    run --separate-stderr as_alice exec c cat /proc/1/cmdline
    [[ "$(tr '\0' ' ' <<<"$output")" == *qemu-aarch64$static*-cpu*cortex-a57*-strace*sleep* ]] || fail "$output"
    run --separate-stderr alice toolbx-arch explain c
    [[ "$output" == *"annotation toolbx.arch.cpu "*cortex-a57*"qemu-aarch64$static -cpu cortex-a57 ! -strace"*"launcher prepared"* ]] ||
        fail "$output" "$stderr"
    run --separate-stderr alice toolbx-arch explain --json c
    jq -e '.targets[0].arguments == "-cpu cortex-a57 ! -strace"' <<<"$output" || fail "$output"
    run --separate-stderr toolbx-arch list arm64 s390x
    [[ "$output" == *"s390x "*" fresh  -  "*"aarch64 "*" fresh  -cpu max,pauth=off  "* ]] || fail "$output"
    run --separate-stderr toolbx-arch list --json arm64
    jq -e '.[0].emulator | .copy == "fresh" and .arguments == "-cpu max,pauth=off"' <<<"$output" || fail "$output"
}

@test "set-user-ID programs are not traced for whoever calls them" {
    told .strace=true -- --arch arm64 --user user localhost/debian id -un
    [[ "$stderr" == *"getuid("* || "$stderr" == *"geteuid("* ]] || fail "$stderr"
    told .strace=true -- --arch arm64 --user user localhost/debian sudo -V
    [ "$status" = 0 ]
    [ -z "$stderr" ] || fail "$stderr"
}

@test "several targets: for all, and for each" {
    as_alice run --detach --name c --userns=keep-id --annotation "toolbx.arch=arm64 s390x" \
        --annotation toolbx.arch.uname=1.2.3 --annotation toolbx.arch.uname.s390x=4.5.6 \
        --volume "$IMAGES:/images:ro" $arm sleep 100 >/dev/null
    as_alice exec --user root c mkdir /s390x
    tar -C "$RUN" -xf "$IMAGES/busybox-s390x.tar" ./bin/busybox
    as_alice cp "$RUN/bin/busybox" c:/s390x/busybox
    run --separate-stderr as_alice exec c sh -c 'uname -rm; /s390x/busybox uname -rm'
    prints "1.2.3 aarch64
4.5.6 s390x"
    # Of all emulators that there are, too; whether they are prepared or not.
    told =all .cpu.arm64=cortex-a57 .uname=7.7.7 -- $arm uname -rm
    prints "7.7.7 aarch64"
    rm /usr/libexec/toolbx-arch/emulators/qemu-aarch64$static
    told =all .cpu.arm64=cortex-a57 -- $arm uname -m
    toolbx-arch prepare arm64 >/dev/null
    prints "aarch64"
    tail -n 1 /run/log.records | sed 's/^[^{]*//' | jq -e --arg emulator "/usr/bin/qemu-aarch64$static" 'any(.targets[];
        .arguments == "-cpu cortex-a57" and .emulator == $emulator and .launcher == "copy")'
}

@test "what cannot be had is refused, and what is nonsense" {
    local value
    for value in "max ! -g" 'a!b' 'max/x' "" "$(printf %010000d 0)"; do
        told ".cpu=$value" -- $arm true
        [ "$status" != 0 ] || fail "$value"
        logged 'decision="refused"'
        grep -q 'is not a CPU model of QEMU' /run/log.records
    done
    told .cpu.s390x=max -- $arm true
    grep -q 'nothing is emulated for s390x here; add s390x to toolbx.arch' /run/log.records
    told ".cpu=$(printf a%0127d 0)" ".uname=$(printf %064d 0)" .stack-size=100000000000000M .reserved-va=100000000000000M .guest-base=0x1000000000000000 -- $arm true
    refused
    grep -q 'shorten the annotations toolbx.arch.\*' /run/log.records
    # QEMU's own words, as the first line.
    told .cpu=nonsense -- $arm true
    refused "unable to find CPU model 'nonsense'"
    # The machine's handlers are not the container's.
    run --separate-stderr as_root run --rm --annotation toolbx.arch.cpu=max $arm true
    refused
    grep -q "it with --userns=auto" /run/log.records
    policy '{"argument_annotations": {"all": [], "s390x": ["cpu"]}}'
    told .cpu=max -- $arm true
    refused
    grep -q "add cpu to the policy's argument_annotations" /run/log.records
    policy '{"launcher": "never"}'
    told .cpu=max -- $arm true
    refused
    grep -q "can be told nothing without the launcher" /run/log.records
    # On this machine's own programs nothing has an effect.
    told .cpu=max -- localhost/busybox:amd64 uname -m
    prints x86_64
}

@test "of what others register as ours, nothing is believed but which programs it is for" {
    # In the namespace that alice's containers share, as a privileged one could.
    run --separate-stderr alice podman unshare sh -c '
        mount -t binfmt_misc b /proc/sys/fs/binfmt_misc && cd "$(mktemp -d)"
        register() { ln -s /usr/bin/qemu-aarch64'$static' "$2" && printf %s ":$1:M::$3:$4:$2:F" >/proc/sys/fs/binfmt_misc/register; }
        header="\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xf3\x00"
        mask="\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
        register toolbx-arch-mips "qemu-mips'$static' -g 1234" XXXX
        register q1 q1 "$header" "$mask"
        register toolbx-arch-riscv64 "qemu-riscv64'$static' -r 6.6.6" "$header" "$mask"
        ls -U /proc/sys/fs/binfmt_misc'
    [[ "$output" == *toolbx-arch-riscv64*q1*toolbx-arch-mips* ]] || fail "$output" "$stderr"
    local lost='"q1: no target has its programs run by it","toolbx-arch-mips: no target has its programs run by it"'
    run --separate-stderr as_alice run --rm --userns=keep-id localhost/busybox:s390x cat /proc/sys/fs/binfmt_misc/toolbx-arch-riscv64
    [[ "$output" == *"interpreter qemu-riscv64$static"$'\n'* ]] || fail "$output" "$stderr"
    logged 'carried=["toolbx-arch-riscv64"]' "lost=[$lost]"
    as_alice system migrate
}

@test "the policy's arguments, and none" {
    policy '{"emulator_arguments": {"arm64": {"uname": "5.5.5"}, "all": {"uname": "6.6.6"}}}'
    told -- $arm uname -r
    prints 5.5.5
    told -- localhost/busybox:s390x uname -r
    prints 6.6.6
    told .uname=default -- $arm uname -r
    prints "$(uname -r)"
}

@test "in a shared namespace: used again, unless others are asked for" {
    as_alice run --detach --name first $arm sleep 100 >/dev/null
    policy '{"emulator_arguments": {}}'
    run --separate-stderr as_alice run --rm $arm uname -m
    prints aarch64
    run --separate-stderr as_alice run --rm --annotation "toolbx.arch.cpu=max pauth=off" $arm uname -m
    prints aarch64
    run --separate-stderr as_alice run --rm --annotation toolbx.arch.cpu=cortex-a57 $arm uname -m
    refused
    grep -q 'already runs aarch64 programs with qemu-aarch64'$static' -cpu max,pauth=off' /run/log.records
    # What takes its place is told what the policy says.
    run --separate-stderr as_alice run --rm --userns=keep-id --annotation toolbx.arch=s390x localhost/busybox:arm64 cat /proc/sys/fs/binfmt_misc/toolbx-arch-aarch64
    [[ "$output" == *"interpreter qemu-aarch64$static"* ]] || fail "$output" "$stderr"
}
