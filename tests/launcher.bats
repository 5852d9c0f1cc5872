# The launcher: a copy of the emulator that gives set-user-ID programs their rights, and nothing more to
# whoever calls them. With a plain emulator every attack below gives root; with the launcher none does.
# shellcheck disable=SC2086,SC2154 # what is split is meant to be; output and stderr are set by bats's run
bats_require_minimum_version 1.5.0
load helpers

annotated="--annotation toolbx.arch=arm64"
# Which emulator, and whose container; each has a user namespace of its own.
plain="plain as_alice --userns=keep-id"
launchers=("copy as_alice --userns=keep-id" "prepared as_root --userns=auto:size=65536")

setup_file() {
    as_root image exists localhost/debian || fail "no Debian image; run: make images"
    local name bin=$RUN/guests/usr/local/bin jail=$RUN/guests/jail
    local compile="aarch64-linux-gnu-gcc -static -O2 -Wall -Wextra -Werror"
    mkdir -p "$bin" "$jail"/{bin,user}
    for name in guest evil; do
        $compile -DNAME="\"$name\"" -o "$bin/$name" "$BATS_TEST_DIRNAME/guest.c"
    done
    $compile -o "$bin/race" "$BATS_TEST_DIRNAME/race.c"
    for name in setuid setgid capable 0711; do cp "$bin/guest" "$bin/$name"; done
    chmod 4755 "$bin/setuid"
    chgrp 50 "$bin/setgid"
    chmod 2755 "$bin/setgid"
    chmod 711 "$bin/0711"
    cp --archive "$bin"/{setuid,evil} "$jail/bin"
    chown 1000:1000 "$jail/user"
    tar -C "$RUN/guests" --numeric-owner -cf "$RUN/guests.tar" .
    # An image of a set-user-ID program and nothing else.
    tar -C "$bin" --numeric-owner -cf "$RUN/only.tar" setuid
    as_root import --quiet "$RUN/only.tar" localhost/only >/dev/null
    as_alice import --quiet "$RUN/only.tar" localhost/only >/dev/null
}

teardown_file() {
    as_root rmi localhost/only >/dev/null
    as_alice rmi localhost/only >/dev/null
    toolbx-arch prepare >/dev/null
}

plain_emulator() {
    mkdir -p /etc/toolbx-arch
    echo '{ "launcher": "never", "credentials": "private" }' >/etc/toolbx-arch/policy.json
}

# A container of Debian, in which programs are executed: the guests, and evil.
start() { # plain|copy|prepared engine podman-run-option…
    rm -rf /etc/toolbx-arch /usr/libexec/toolbx-arch/emulators
    case $1 in
    plain) plain_emulator ;;
    prepared) toolbx-arch prepare arm64 >/dev/null ;;
    esac
    engine=$2
    $engine rm --all --force --time 0 >/dev/null
    $engine run --detach --name c --user root $annotated "${@:3}" localhost/debian sleep infinity >/dev/null
    logged 'scope="private"' 'targets[0].flags="OPFC"' "targets[0].launcher=\"${1/plain/none}\""
    $engine exec --interactive c sh -c 'tar -xC / && setcap cap_kill=ep /usr/local/bin/capable' <"$RUN/guests.tar"
}

# A line for bash in the container, in a new directory of that user's.
in_c() { # user line
    run --separate-stderr $engine exec --user "$1" c bash -c 'cd "$(mktemp -d)" && bin=/usr/local/bin && eval "$1"' bash "$2" </dev/null
}

# LINE => WHAT IT PRINTS, for each line of standard input.
each_prints() { # user
    local line expected
    while read -r line; do
        in_c "$1" "${line% =>*}"
        expected=$(printf %b "${line##*=>}")
        [ "$output" = "${expected# }" ] || fail "$line" "printed: $output" "stderr: $stderr"
    done
}

# ---- attacks -------------------------------------------------------------------------------
# Functions that run in the container, as an ordinary user, and say what ran with which rights. Without
# emulation none of them gives anything. QEMU 7.2 and 10.0 are open to them, except for older_only.

# A file in /etc is there, and root's.
made() { [ "$(stat -c %u "$1" 2>&1)" != 0 ] || echo "root made $1"; }

# QEMU writes its log where the environment says.
log() {
    QEMU_STRACE=1 QEMU_LOG_FILENAME=/etc/by-log setuid ids
    made /etc/by-log
}

# QEMU gets the program's path first, and takes it for an option.
option() {
    ln -s $bin/setuid ./-D
    guest exec -D /etc/by-option -strace $bin/setuid setuid ids
    made /etc/by-option
}

# The kernel opens the program for QEMU. If that gives descriptor 0, QEMU before 9.1 takes it for none,
# and opens the path again.
closed() { race closed $bin/setuid $bin/evil 500 ids; }

# QEMU 7.2, not 10.0, writes a core file itself: as root, in the caller's directory, through a link.
core() {
    (
        ulimit -c unlimited
        # For each second of the next minute, by one process: those of bash and ln take too long.
        perl -MPOSIX -e 'symlink "/etc/by-core", strftime("qemu_setuid_%Y%m%d-%H%M%S_$ARGV[0].core", localtime(time + $_))
            for 0 .. 59' $BASHPID
        exec setuid ids crash
    )
    made /etc/by-core
    find . -type f -name 'qemu_*'
}

# A program that executes itself again gets what its path leads to by then. QEMU 10.0 looks when it
# starts, and is open to the race only. (The program changes the link itself, at a moment when its
# caller could, so that no time matters.)
again() {
    ln -s $bin/setuid link
    ./link ids swap link $bin/evil exec /proc/self/exe again ids
}
again_race() { race open $bin/setuid $bin/evil 500 ids exec /proc/self/exe again ids; }

# The same where /proc is not mounted. Here and below root prepares what the user attacks.
again_without_proc() {
    ln -s /bin/setuid /jail/user/link
    chroot --userspec=1000:1000 /jail /user/link ids swap /user/link /bin/evil exec /proc/self/exe again ids
}

# The same with a program in a directory of the user's: not even its true path is good. QEMU 10.0, too.
again_in_own_directory() {
    cp --preserve=mode $bin/setuid .
    chown 1000:1000 .
    setpriv --reuid 1000 --regid 1000 --clear-groups ./setuid ids swap setuid $bin/evil exec /proc/self/exe again ids
}

# QEMU knows /proc/self/exe, and not its other names. There a program executes QEMU, which runs the file
# that the first argument names: as root, whether the kernel calls that run secure or not.
again_by_other_name() {
    ln -s $bin/evil ids
    setuid ids exec /proc/thread-self/exe again ids
}
again_by_other_name_as_root() {
    ln -s $bin/evil ids
    setuid ids root exec /proc/thread-self/exe again ids
}

attacks=(log option closed core again again_race again_by_other_name again_by_other_name_as_root)
prepared_by_root=(again_without_proc again_in_own_directory)
# QEMU 10 by itself is not open to these.
older_only=(closed core again again_without_proc)
qemu_version() { /usr/bin/qemu-aarch64$static --version | sed -n 's/^qemu-aarch64 version \([0-9]*\).*/\1/p'; }

attack() { # name
    local user=user
    [[ " ${prepared_by_root[*]} " != *" $1 "* ]] || user=root
    in_c $user "$(declare -f made "$1"); $1 2>&1"
}
won() { [[ "$output" == *"evil "*"/0 1000/"* || "$output" == *"root made "* ]]; }

@test "a plain emulator: every attack gives root" {
    local name older_only=" ${older_only[*]} "
    [ "$(qemu_version)" -ge 10 ] || older_only=
    start $plain
    for name in "${attacks[@]}" "${prepared_by_root[@]}"; do
        attack $name
        if [[ "$older_only" == *" $name "* ]]; then
            ! won || fail "$name works on this QEMU, too: $output"
        else
            won || fail "$name: $output" "$stderr"
        fi
    done
}

@test "the launcher: no attack gives anything" {
    local launcher name
    for launcher in "${launchers[@]}"; do
        start $launcher
        for name in "${attacks[@]}" "${prepared_by_root[@]}"; do
            attack $name
            ! won || fail "$launcher: $name: $output"
            # The program has run as root; in a race, both at least ten times.
            case $name in
            closed | again_race) [[ "$output" =~ ^"500 tries: "[0-9]{2,}" guest as root, "[0-9]{2,}" evil as user, 0 evil as root"$ ]] ;;
            core) [[ "$output" == "guest 1000/0 1000/1000 secure=1"* && "$output" != */qemu_* ]] ;;
            *) [[ "$output" == "guest 1000/0 1000/1000 secure=1"* ]] ;;
            esac || fail "$launcher: $name: $output" "$stderr"
        done
    done
}

@test "no launcher, no rights, unless the policy insists" {
    mkdir -p /etc/toolbx-arch
    echo '{ "launcher": "never" }' >/etc/toolbx-arch/policy.json
    run --separate-stderr as_alice run --rm --userns=keep-id --user 1000:1000 localhost/only /setuid ids
    prints "guest 1000/1000 1000/1000 secure=0"
    logged 'targets[0].flags="OPF"'
}

# ---- what works ----------------------------------------------------------------------------

@test "rights of programs, and what they do not get from the caller" {
    local launcher
    for launcher in "${launchers[@]}"; do
        start $launcher --tmpfs /nosuid:nosuid,exec,mode=755
        in_c root 'cp --preserve=mode $bin/setuid /nosuid'
        each_prints user <<'END'
setuid ids => guest 1000/0 1000/1000 secure=1
setgid ids => guest 1000/1000 1000/50 secure=1
capable ids caps => guest 1000/1000 1000/1000 secure=1\ncaps 20
guest fexec $bin/setuid name ids => guest 1000/0 1000/1000 secure=1
guest memfd $bin/setuid name ids => guest 1000/1000 1000/1000 secure=0
setpriv --no-new-privs setuid ids => guest 1000/1000 1000/1000 secure=0
/nosuid/setuid ids => guest 1000/1000 1000/1000 secure=0
for name in setuid setgid capable; do env -i A=1 QEMU_UNAME=9 LD_X=1 GLIBC_TUNABLES=x B= $bin/$name env | sort -z | tr '\0' ,; done => A=1,B=,A=1,B=,A=1,B=,
env -i A=1 QEMU_UNAME=9 LD_X=1 GLIBC_TUNABLES=x B= /nosuid/setuid env | sort -z | tr '\0' , => A=1,B=,GLIBC_TUNABLES=x,LD_X=1,QEMU_UNAME=9,
ulimit -Sc 10; guest core; setuid core; setgid core; capable core => core 10240/-1\ncore 0/0\ncore 0/0\ncore 0/0
setuid fds => fds 0 1 2
setuid fds <&- => fds 0 1 2
setuid swap made by-root <&- >&- 2>&-; stat -c %u made => 0
setuid ids exec /proc/self/exe again ids => guest 1000/0 1000/1000 secure=1\nguest 1000/0 1000/1000 secure=1
ln -s $bin/guest ./-version; guest exec -version name args => [name][args]
END
        # Without /proc, or anything else.
        each_prints root <<'END'
chroot --userspec=1000:1000 /jail /bin/setuid ids => guest 1000/0 1000/1000 secure=1
env -i QEMU_UNAME=9 A=1 /usr/sbin/chroot --userspec=1000:1000 /jail /bin/setuid env | tr '\0' , => A=1,
END
        run --separate-stderr $engine run --rm "--userns=${launcher#*=}" --user 1000:1000 localhost/only /setuid ids
        prints "guest 1000/0 1000/1000 secure=1"
    done
}

@test "su and sudo, with and without a password" {
    local launcher
    for launcher in "${launchers[@]}"; do
        start $launcher
        in_c root 'useradd other; echo other:word | chpasswd; echo "other ALL=(ALL) ALL" >/etc/sudoers.d/other'
        each_prints user <<'END'
export QEMU_STRACE=1 QEMU_LOG_FILENAME=/etc/by-su FOO=bar; echo secret | su -c 'echo $FOO $(env | grep -c ^QEMU) $(id -u)' => bar 0 0
QEMU_STRACE=1 QEMU_LOG_FILENAME=/etc/by-sudo FOO=bar sudo -E sh -c 'echo $FOO $(env | grep -c ^QEMU) $(id -u)' => bar 0 0
sudo sh -c 'echo .$FOO $SUDO_USER' => . user
ls -A /etc | grep ^by- =>
echo wrong | su -c id =>
END
        each_prints other <<'END'
echo word | sudo -S -p '' id -u => 0
echo word | sudo -S -p '' -u user id -un => user
echo wrong | sudo -S -p '' id -u =>
sudo -n id =>
END
    done
}

@test "an ordinary run is what it is with a plain emulator" {
    local emulator
    for emulator in "$plain" "${launchers[@]}"; do
        start $emulator
        each_prints user <<'END'
env -i A=1 QEMU_X=2 LD_X=3 GLIBC_TUNABLES=x B= 'C= a ' $bin/guest env | sort -z | tr '\0' , => A=1,B=,C= a ,GLIBC_TUNABLES=x,LD_X=3,QEMU_X=2,
QEMU_UNAME=9.9 uname -r => 9.9
guest args -- -D '' ' a b ' -version => [guest][args][--][-D][][ a b ][-version]
exec -a '' guest args => [][args]
exec -a -D guest args => [-D][args]
exec -a '-two words' guest args => [-two words][args]
guest exec $bin/guest => guest 1000/1000 1000/1000 secure=0\n[]
seq 100000 | xargs -n 100000 -s 1500000 guest args | tr -d '[\n' | tr ']' '\n' | tail -n +3 | cmp - <(seq 100000) && echo same => same
long=$(printf %0100000d 0) bash -c 'echo ${#long}' => 100000
guest memfd $bin/guest name args => [name][args]
guest fexec $bin/guest name args => [name][args]
0711 ids => guest 1000/1000 1000/1000 secure=0
printf '#!/bin/sh\necho "$0 $*"\n' >s; chmod +x s; ./s -D 'a b' => ./s -D a b
printf '#!/usr/bin/perl -w\nprint "$0 @ARGV"' >s; chmod +x s; ./s -D 'a b' => ./s -D a b
printf '#!%s/setuid args\n' $bin >s; chmod +x s; ./s -D => [/usr/local/bin/setuid][args][./s][-D]
guest fds => fds 0 1 2
guest ids <&- => guest 1000/1000 1000/1000 secure=0
guest ids <&- >&- 2>&-; echo $? => 0
END
    done
}

@test "emulators that are replaced while a container runs" {
    local launcher file
    keep /usr/bin/qemu-aarch64$static
    for launcher in "${launchers[@]}"; do
        start $launcher
        for file in /usr/bin/qemu-aarch64$static /usr/libexec/toolbx-arch/emulators/*; do
            [ ! -e "$file" ] || { cp /bin/false "$file.new" && mv "$file.new" "$file"; }
        done
        each_prints user <<<'setuid ids => guest 1000/0 1000/1000 secure=1'
        put_back
        keep /usr/bin/qemu-aarch64$static
    done
}
