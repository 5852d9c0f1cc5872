# toolbx-arch, the program for people.
bats_require_minimum_version 1.5.0
load helpers

arm=localhost/busybox:arm64
hook=/usr/libexec/oci/hooks.d/toolbx-arch-hook
drop_in=/usr/share/containers/oci/hooks.d/50-toolbx-arch.json

# The last command run printed JSON for which this holds.
holds() { # jq-filter
    # An older jq is content with nothing at all.
    jq -es "length == 1 and (.[0] | ($1))" >/dev/null <<<"$output" || fail "not so: $1" "$output" "${stderr:-}"
}

# doctor, as root and as alice, says this of a check, in a line and in JSON, and its status tells.
diagnoses() { # check status part-of-what-it-says…
    local caller part
    for caller in "" alice; do
        run $caller toolbx-arch doctor --json
        case $2 in
        error) [ "$status" = 2 ] || fail "status $status" "$output" ;;
        warning) [ "$status" != 0 ] || fail "status 0" "$output" ;;
        esac
        for part in "${@:3}"; do
            jq -e --arg check "$1" --arg status "$2" --arg part "$part" 'any(.[];
                .check == $check and .status == $status and (.says + "; " + .fix | contains($part)))' \
                >/dev/null <<<"$output" || fail "$1 does not say $2: $part" "$output"
        done
    done
}

explains() { # engine arguments… : as that engine's user
    local caller=
    [ "$1" = as_root ] || caller=alice
    run --separate-stderr $caller toolbx-arch explain "${@:2}"
}

@test "doctor finds nothing wrong, and tries every emulator" {
    local caller
    for caller in "" alice; do
        run --separate-stderr $caller toolbx-arch doctor --json
        [ "$status" -le 1 ] || fail "$output" "$stderr" # this machine may be a container itself
        holds 'all(.[]; .status == "ok" or .check == "container")'
        for check in kernel binfmt_misc sandbox engines runtimes hook policy emulators log; do
            holds "any(.[]; .check == \"$check\")"
        done
        holds '.[] | select(.check == "emulators").details | length > 20 and all(.[]; .ran)'
        holds '.[] | select(.check == "emulators").says | test("^(?<n>[0-9]+) static \\([0-9.]+\\); \\k<n> ran a program$")'
        run $caller toolbx-arch doctor
        [[ "${lines[0]}" == "✓ kernel "* && "$output" != *$'\e'* ]] || fail "$output"
        run --separate-stderr -2 $caller env --unset=HOME sh -c 'exec toolbx-arch doctor --nonsense'
    done
}

@test "doctor: colour on a terminal only, and not if NO_COLOR says so" {
    run script --quiet --return --command "toolbx-arch doctor" /dev/null
    [[ "$output" == *$'\e[32m✓\e[m kernel'* ]] || fail "$output"
    NO_COLOR=1 run script --quiet --return --command "toolbx-arch doctor" /dev/null
    [[ "$output" == *"✓ kernel"* && "$output" != *$'\e'* ]] || fail "$output"
    toolbx-arch doctor | true
    [ "${PIPESTATUS[0]}" -le 1 ]
    run -1 sh -c 'toolbx-arch list >/dev/full'
    refused "write to standard output: No space left"
}

@test "doctor and explain name what is broken: the emulator" {
    as_root create --name victim --userns=auto $arm true >/dev/null
    as_alice create --name victim $arm true >/dev/null
    local qemu=/usr/bin/qemu-aarch64$static caller broken said
    while IFS=';' read -r broken said; do
        keep $qemu
        eval "$broken"
        if [[ $broken = rm* ]]; then
            run toolbx-arch doctor --json
            holds 'any(.[]; .check == "emulators" and (.says | contains("none for aarch64")))'
        else
            diagnoses emulators error "$said"
        fi
        for caller in as_root as_alice; do
            explains $caller victim
            [[ "$status" = 0 && "$output" == *"refused: "*"$said"* ]] || fail "$broken" "$output" "$stderr"
        done
        put_back
    done <<END
rm $qemu;no emulator for aarch64
cp --preserve /usr/bin/bash $qemu;is linked dynamically
chmod o+w $qemu;may be written by others
chmod a-x $qemu;is not executable
truncate --size 20 $qemu;is not a program
END
    # It looks as it should, and does not run.
    keep $qemu
    cp $hook $qemu
    diagnoses emulators error "did not run a program for aarch64: its program ended with exit status: 2"
}

@test "doctor and explain name what is broken: the policy, the hook, its drop-in" {
    as_alice create --name victim $arm true >/dev/null
    mkdir -p /etc/toolbx-arch
    echo '{"show_emulator": 1}' >/etc/toolbx-arch/policy.json
    diagnoses policy error "/etc/toolbx-arch/policy.json:1: key \"show_emulator\""
    explains as_alice victim
    [[ "$output" == *'refused: '*'/etc/toolbx-arch/policy.json:1: key "show_emulator"'* ]] || fail "$output"
    rm -r /etc/toolbx-arch

    keep $hook
    rm $hook
    diagnoses drop-ins error "$drop_in: its hook $hook" "reinstall toolbx-arch"
    diagnoses hook error "no usable drop-in" "install toolbx-arch"
    explains as_alice victim
    [[ "$output" == *"refused: a drop-in is broken, "*"$drop_in: its hook $hook"* ]] || fail "$output"
    # What doctor says, as the way out.
    toolbx-arch disable
    run --separate-stderr as_root run --rm --network none localhost/busybox:amd64 uname -m
    prints x86_64
    rm /etc/containers/containers.conf.d/toolbx-arch.conf
    run -1 toolbx-arch enable --annotation-only
    refused "would stop every container; install toolbx-arch"
    put_back

    keep $drop_in
    rm $drop_in
    diagnoses hook error "run: toolbx-arch enable"
    echo '{"hook": {"path": "/usr/bin/true"}, "stages": ["createrun"]}' >${drop_in%/*}/other.json
    diagnoses drop-ins error "other.json: there is no stage createrun; engines refuse it, and with it all hooks or all containers" "mend or remove"
    echo '{' >${drop_in%/*}/other.json
    diagnoses drop-ins error "other.json is no drop-in"
    explains as_alice victim
    [[ "$output" == *"refused: a drop-in is broken, "*"other.json is no drop-in"* ]] || fail "$output"
    sed 's/createRuntime/precreate/' "$BATS_TEST_DIRNAME/../hooks.d/50-toolbx-arch.json" >${drop_in%/*}/other.json
    diagnoses drop-ins error "other.json is for Podman alone; Buildah and CRI-O refuse it"
    rm ${drop_in%/*}/other.json
    put_back

    mkdir -p /etc/containers/containers.conf.d
    echo '[engine' >/etc/containers/containers.conf.d/broken.conf
    diagnoses drop-ins error "containers.conf.d/broken.conf"
    explains as_alice victim
    [[ "$status" != 0 && "$stderr" == *"containers.conf.d/broken.conf"* ]] || fail "$stderr"
}

@test "the policy of a user whom /etc/passwd does not know" {
    as_alice info >/dev/null # so that Podman has its namespace already, for which it asks for her name
    alice mkdir -p /home/alice/.config/toolbx-arch
    echo '{"architectures": ["s390x"]}' | alice tee /home/alice/.config/toolbx-arch/policy.json >/dev/null
    keep /etc/passwd
    stranger() { setpriv --reuid 17001 --regid 17001 --clear-groups env --ignore-environment --chdir=/ \
        XDG_RUNTIME_DIR=/run/user/17001 PATH="$PATH" "$@"; }
    [ "$(id -u alice) $(id -g alice)" = "17001 17001" ]
    sed -i /^alice:/d /etc/passwd
    # By HOME of the runtime, which Podman sets.
    run --separate-stderr stranger HOME=/home/alice podman --runtime "$RUNTIME" run --rm --network none \
        --annotation toolbx.arch=arm64 $arm true
    [ "$status" != 0 ] || fail "$output"
    grep -q 'the policy does not allow aarch64' /run/log.records || fail "$stderr" "$(cat /run/log.records)"
    run --separate-stderr stranger HOME=/home/alice toolbx-arch doctor --json
    holds 'any(.[]; .check == "policy" and .status == "ok" and (.says | contains("/home/alice/.config/toolbx-arch/policy.json")))'
    # It has to be theirs, wherever HOME leads.
    mkdir -p /run/evil/.config/toolbx-arch
    echo '{}' >/run/evil/.config/toolbx-arch/policy.json
    chown -R nobody /run/evil
    run --separate-stderr stranger HOME=/run/evil toolbx-arch doctor --json
    rm -r /run/evil
    holds 'any(.[]; .check == "policy" and .status == "error" and (.says | contains("belongs to")))'
    run --separate-stderr stranger HOME=home toolbx-arch doctor --json
    holds 'any(.[]; .check == "policy" and .status == "error" and (.says | contains("no absolute path")))'
    put_back
}

@test "doctor names what is broken: no user namespaces, no ids, no log, no engine" {
    run --separate-stderr alice "$RUN/deny" /usr/bin/toolbx-arch doctor --json
    [ "$status" = 2 ] || fail "$status $output" "$stderr"
    holds 'any(.[]; .check == "sandbox" and .status == "error" and (.says | contains("mount tmpfs: EPERM")))'
    keep /etc/subgid
    sed -i /alice/d /etc/subgid
    run alice toolbx-arch doctor
    [ "$status" = 1 ]
    [[ "$output" == *"! subids           alice is not in /etc/subgid; run: sudo usermod --add-subuids"* ]] || fail "$output"
    put_back
    mv /run/systemd/journal/dev-log{,.away}
    diagnoses log warning "no syslog daemon listens"
    mv /run/systemd/journal/dev-log{.away,}
    mkdir -p "$RUN/bin"
    ln -sf "$(command -v toolbx-arch)" "$RUN/bin"
    PATH=$RUN/bin run toolbx-arch doctor
    [ "$status" = 2 ]
    [[ "$output" == *"✗ engines          none was found; install Podman"*"✗ runtimes         none was found; install crun"* ]] || fail "$output"
    run alice env PATH="$RUN/bin" toolbx-arch explain x
    [[ "$status" = 1 && "$output" == *"Podman is not installed"* ]] || fail "$output"
    PATH=$RUN/bin run toolbx-arch explain x
    [[ "$status" = 1 && "$output" == *"Podman is not installed; toolbx-arch explain --bundle DIR does without"* ]] || fail "$output"
}

# As SELinux denies it to the caller but not to containers; Linux 6.3 has another way to (PR_SET_MDWE).
@test "doctor blames no emulator where the caller may run none" {
    local confined='import ctypes, os, sys
assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0
os.execvp(sys.argv[1], sys.argv[1:])'
    run --separate-stderr python3 -c "$confined" toolbx-arch doctor --json
    holds 'all(.[]; .says | contains("did not run") | not)'
    holds 'any(.[]; .check == "emulators" and .status == "warning" and
        (.says | contains("none was tried: this process may have no memory that it both writes and executes")))'
    holds 'all(.[]; .status != "error")'
}

@test "doctor in a container, and on a narrow terminal" {
    local narrow
    run --separate-stderr as_root run --rm --network none --volume "$(command -v toolbx-arch):/toolbx-arch:ro" \
        localhost/busybox:amd64 /toolbx-arch doctor --json
    [ "$status" = 2 ] || fail "$output" "$stderr"
    holds 'any(.[]; .check == "container" and .status == "warning" and (.says | contains("/run/.containerenv")))'
    holds 'any(.[]; .check == "engines" and .status == "error")'
    # Lines are as long as they are, and the terminal wraps them.
    run script --quiet --return --command "stty cols 40 rows 20; toolbx-arch doctor" /dev/null
    narrow=$output
    run script --quiet --return --command "stty cols 200 rows 20; toolbx-arch doctor" /dev/null
    [ "$output" = "$narrow" ]
}

@test "list: emulators, versions, host handlers" {
    run toolbx-arch list
    [ "${#lines[@]}" = 35 ] || fail "$output"
    [[ "$output" == *$'\naarch64 '*" /usr/bin/qemu-aarch64$static "*" arm64 arm64/v8"* ]] || fail "$output"
    run --separate-stderr alice toolbx-arch list --json arm64 x86_64
    holds 'map(.target) == ["x86_64", "aarch64"] and .[0].native and (.[1].emulator.version | test("^[0-9.]+$"))'
    holds '.[1] | .allowed and .problem == null and .host_handler == null'
    run --separate-stderr -1 toolbx-arch list amr64
    [[ "$stderr" == *"did you mean arm64"* ]]
    mkdir -p /etc/toolbx-arch
    echo '{"architectures": ["s390x"], "emulator_directories": ["/nowhere"]}' >/etc/toolbx-arch/policy.json
    run toolbx-arch list --json s390x arm64
    holds '.[0].emulator == null and (.[0].problem | contains("no emulator for s390x")) and .[1].allowed == false'
}

@test "doctor and list where the machine has handlers" {
    run --separate-stderr "$BATS_TEST_DIRNAME/host-with-handlers" toolbx-arch list --json s390x arm64
    holds '.[0].host_handler == {"name": "host-s390x", "interpreter": "/usr/bin/qemu-s390x'$static'", "flags": "OCF"}'
    holds '.[1].host_handler == null'
    run --separate-stderr "$BATS_TEST_DIRNAME/host-with-handlers" toolbx-arch doctor --json
    holds 'any(.[]; .check == "host handlers" and .status == "ok"
        and .says == "5 that containers can use; 1 without flag F, which containers cannot use")'
}

@test "explain: a running container, by the very plan" {
    local engine
    for engine in as_root as_alice; do
        local userns=--userns=keep-id
        [ $engine != as_root ] || userns=--userns=auto
        $engine run --detach --name web $userns --network none $arm sleep 100 >/dev/null
        explains $engine web
        [ "$status" = 0 ] || fail "$stderr"
        [[ "$output" == "container web ("*"), running"* ]] || fail "$output"
        [[ "$output" == *"first program "*"/bin/sleep is for aarch64"* ]] || fail "$output"
        [[ "$output" == *"emulated, in scope private, decided by program: "*"flags OPFC, launcher prepared, shown at /dev/.toolbx-arch/usr/bin/"* ]] || fail "$output"
        explains $engine --json web
        holds '.decision == "emulated" and .scope == "private" and .targets == [{"target": "aarch64", "emulator": "/usr/bin/qemu-aarch64'$static'", "arguments": "-cpu max,pauth=off", "launcher": "prepared", "flags": "OPFC"}]'
        holds '.detected == {"target": "aarch64", "program": "/bin/sleep", "first": true}'
        # It changed nothing.
        run --separate-stderr $engine exec web uname -m
        prints aarch64
        ! $engine diff web | grep toolbx
    done
}

@test "explain: containers that do not run, and images" {
    as_alice create --name asked --annotation toolbx.arch=s390x $arm true >/dev/null
    explains as_alice --json asked
    holds '.why | startswith("emulated, in scope shared, decided by toolbx.arch: ")'
    holds '.decision == "emulated" and .scope == "shared" and (.targets | map(.target)) == ["s390x", "aarch64"]'
    holds 'any(.sources[]; .source == "annotation toolbx.arch" and .says == "\"s390x\"") and (.notes[0] | contains("not asked for"))'
    as_alice run --name done localhost/busybox:amd64 true
    explains as_alice done
    [[ "$output" == *"), exited"*"first program "*"is for x86_64"*"left alone: nothing asks"* ]] || fail "$output"
    as_alice create --name wrong --annotation toolbx.arch=arm65 $arm true >/dev/null
    explains as_alice wrong
    [[ "$output" == *'refused: '*'unknown architecture "arm65"; did you mean arm64?'* ]] || fail "$output"
    as_root create --name plain $arm true >/dev/null
    explains as_root plain
    [[ "$output" == *"refused: "*"would be registered for the whole machine"* ]] || fail "$output"
    as_alice create --name files --rootfs "$RUN/rootfs" true >/dev/null
    explains as_alice files
    [[ "$output" == *"is for aarch64"*"emulated, in scope shared"* ]] || fail "$output"
    explains as_alice $arm
    [[ "$output" == "image $arm ("*"declares amd64"*"/bin/sh is for aarch64"*"emulated"* ]] || fail "$output" "$stderr"
}

# What explain foresees for a container that was not started yet is what the hook then does to it; that is
# DECISION in SCOPE, decided by a source whose name begins with BY.
foresees() { # engine decision scope by create-argument…
    local engine=$1 expected="$2 $3" id said
    id=$($engine create --network none "${@:5}")
    explains $engine --json "$id"
    said=$(jq -r '.decision + " " + (.scope // "-")' <<<"$output")
    [ "$said" = "$expected" ] || fail "explain of $*: $said" "$output" "$stderr"
    [[ "$4" = - || "$(jq -r .why <<<"$output")" == *", decided by $4"* ]] || fail "explain of $*" "$output"
    : >/run/log.records
    $engine start --attach "$id" >/dev/null 2>&1 || true
    said=$(sed 's/^[^{]*//' /run/log.records |
        jq -rs 'map(select(.decision != "userns" and .decision != "engine")) | last // {decision: "not_asked"}
            | .decision + " " + (.scope // "-")')
    [ "$said" = "$expected" ] || fail "the hook, of $*: $said" "$(cat /run/log.records)"
    $engine rm --force "$id" >/dev/null
}

@test "explain foresees what the hook does: labels" {
    local engine
    for engine in as_root as_alice; do
        printf 'FROM localhost/busybox:amd64\nLABEL toolbox-arch=arm64\n' | $engine build --quiet --tag localhost/labelled:amd64 - >/dev/null
        printf 'FROM localhost/busybox:arm64\nLABEL toolbox-arch=s390x\n' | $engine build --quiet --tag localhost/labelled:arm64 - >/dev/null
    done
    # The first program is native, and belongs to the image: then so is the image.
    foresees as_alice not_asked - - localhost/labelled:amd64 true
    foresees as_root not_asked - - localhost/labelled:amd64 true
    # A container's own label is the image's, where the hook finds it.
    local by="toolbox-arch label of the image: "
    ! has_sqlite || by="toolbox-arch label: "
    foresees as_alice emulated shared "$by" localhost/labelled:arm64 true
    foresees as_alice off - - --annotation toolbx.arch=none localhost/labelled:arm64 true
    explains as_alice --json localhost/labelled:amd64
    holds '.decision == "not_asked"'
    # The policy does not listen to labels.
    mkdir -p /etc/toolbx-arch
    echo '{"annotations": ["toolbx.arch"]}' >/etc/toolbx-arch/policy.json
    foresees as_alice emulated shared program localhost/labelled:arm64 true
    foresees as_root emulated private program --userns=auto localhost/labelled:arm64 true
    explains as_alice --json localhost/labelled:arm64
    holds '(.why | contains("decided by program")) and (.targets | map(.target)) == ["aarch64"]'
    foresees as_alice refused - - --annotation toolbox-arch=arm64 $arm true
}

@test "explain foresees what the hook does: user namespaces" {
    local private=toolbx.arch.userns=private engine=toolbx.arch.userns=engine asked="--annotation toolbx.arch=arm64"
    # Without precreate.
    foresees as_root refused - - $arm true
    foresees as_root emulated private toolbx.arch --userns=auto --annotation $private $asked $arm true
    foresees as_alice refused - - --annotation $private $asked $arm true
    foresees as_alice refused - - --annotation $private $arm true
    foresees as_alice emulated shared toolbx.arch --annotation $engine $asked $arm true
    foresees as_alice emulated private program --userns=keep-id $arm true
    toolbx-arch enable --precreate
    foresees as_root emulated private program $arm true
    foresees as_root emulated private toolbx.arch --annotation $private $asked $arm true
    foresees as_root refused - - --annotation $engine $asked $arm true
    foresees as_alice emulated shared program $arm true
    foresees as_alice emulated private toolbx.arch --annotation $private $asked $arm true
    foresees as_alice emulated shared toolbx.arch --annotation $engine $asked $arm true
    mkdir -p /etc/toolbx-arch
    echo '{"userns": "engine"}' >/etc/toolbx-arch/policy.json
    foresees as_root refused - - $asked $arm true
    foresees as_root emulated private toolbx.arch --annotation $private $asked $arm true
    echo '{"userns": "private"}' >/etc/toolbx-arch/policy.json
    foresees as_alice emulated private program $arm true
    foresees as_alice emulated shared toolbx.arch --annotation $engine $asked $arm true
}

@test "explain foresees what the hook does: none, where a policy is broken" {
    toolbx-arch enable --precreate
    mkdir -p /etc/toolbx-arch
    echo '{' >/etc/toolbx-arch/policy.json
    local engine
    for engine in as_root as_alice; do
        foresees $engine refused - - --annotation toolbx.arch=arm64 $arm true
        foresees $engine off - - --annotation toolbx.arch=none localhost/busybox:amd64 true
        foresees $engine off - - --annotation toolbx.arch=None --annotation toolbx.arch.other=x $arm true
        run --separate-stderr $engine run --rm --network none --annotation toolbx.arch=none localhost/busybox:amd64 uname -m
        prints x86_64
    done
    # A policy that lets no annotation decide has nothing to say there either.
    echo '{"annotations": []}' >/etc/toolbx-arch/policy.json
    foresees as_alice off - - --annotation toolbx.arch=none $arm true
    foresees as_alice refused - - --annotation toolbx.arch=auto $arm true
}

@test "explain: files that cannot be looked at" {
    as_alice create --name plain $arm true >/dev/null
    as_alice create --name asked --annotation toolbx.arch=arm64 $arm true >/dev/null
    # As where the kernel cannot put layers together.
    run --separate-stderr alice "$RUN/deny" /usr/bin/toolbx-arch explain --json plain
    holds '.decision == "unknown" and (.why | contains("is not known")) and (.notes[0] | test("its files cannot be looked at: .* overlay: EPERM"))'
    run --separate-stderr alice "$RUN/deny" /usr/bin/toolbx-arch explain --json asked
    holds '.decision == "emulated" and (.notes[0] | test("its files cannot be looked at: .* overlay: EPERM"))'
    # A file system that does not answer.
    mkdir -p "$RUN/dead" "$RUN/bundle"
    /usr/bin/python3 - "$RUN/dead" <<'END' &
import ctypes, os, sys, time
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
if ctypes.CDLL(None, use_errno=True).mount(b"x", sys.argv[1].encode(), b"fuse", 0, options): raise OSError(ctypes.get_errno(), "mount")
time.sleep(60)
END
    local silent=$!
    until grep -q "$RUN/dead" /proc/self/mountinfo; do kill -0 $silent; done
    echo "{\"root\": {\"path\": \"$RUN/dead/rootfs\"}, \"process\": {\"args\": [\"sh\"]}}" >"$RUN/bundle/config.json"
    run --separate-stderr timeout 10 toolbx-arch explain --json --bundle "$RUN/bundle"
    umount --lazy "$RUN/dead"
    kill $silent
    holds '.decision == "unknown" and .notes == ["its files cannot be looked at: they do not answer within three seconds"]'
    rm -r "$RUN/bundle"
}

@test "explain: nothing of an image reaches the terminal but text" {
    local container
    container=$(alice buildah from localhost/busybox:amd64)
    alice buildah config --arch $'amd64\e]0;X\a' --label $'toolbox-arch=\e[2J\u202e' "$container"
    alice buildah commit --quiet "$container" localhost/escapes >/dev/null
    alice buildah rm "$container" >/dev/null
    local json
    for json in "" --json; do
        explains as_alice $json localhost/escapes
        [ "$status" = 0 ] || fail "$stderr"
        [[ "$output" == *amd64* && "$output" != *$'\e'* && "$output" != *$'\a'* && "$output" != *$'\u202e'* ]] || fail "$output"
    done
    holds '.subject | contains("\u001b")'
}

@test "explain: what the hook did at the last start" {
    mount -t tmpfs log /var/log # the laboratory's own
    explains as_alice $arm
    [[ "$output" != *"last start"* ]]
    as_alice create --name late --annotation toolbx.arch=s390x $arm true >/dev/null
    explains as_alice late
    [[ "$output" == *"last start: the log cannot be read"* ]] || fail "$output"
    as_alice start --attach late
    until [ -s /run/log.records ]; do :; done
    sed 's/^<[0-9]*>/Nov 21 19:00:00 host /' /run/log.records >/var/log/syslog
    chmod 644 /var/log/syslog
    explains as_alice late
    [[ "$output" == *"last start: Nov 21 19:00:00 host emulated: /bin/true is for aarch64, which was not asked for"* ]] || fail "$output"
    explains as_alice --json late
    holds '.last_start.decision == "emulated" and .last_start.may_be_forged'
    umount /var/log
}

# Starts a journal in this mount namespace, which everybody may read; and enters a cgroup that has a name.
with_journal() {
    local cgroup=/sys/fs/cgroup
    [ ! -d $cgroup/systemd ] || cgroup=$cgroup/systemd
    mkdir -p /run/log $cgroup/session
    echo $BASHPID >$cgroup/session/cgroup.procs
    mount -t tmpfs journal /run/systemd
    mount -t tmpfs journal /run/log
    mkdir -p /run/systemd/journal
    /usr/lib/systemd/systemd-journald </dev/null >/dev/null 2>&1 3>&- &
    journald=$!
    trap 'kill $journald' EXIT
    until compgen -G '/run/log/journal/*/system.journal' >/dev/null; do sleep 0.1; done
    chmod 755 /run/log/journal/*
    chmod 644 /run/log/journal/*/system.journal
}

# Sends a record of this decision to the journal, by this uid, and has ended before the journal looks.
send_unseen() { # uid decision
    kill -STOP $journald
    setpriv --reuid "$1" --clear-groups python3 -c 'import socket, sys
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(sys.argv[1].encode(), "/run/systemd/journal/dev-log")' \
        "<30>toolbx-arch-hook[5]: {\"container\":\"$id\",\"decision\":\"$2\"}"
    kill -CONT $journald
}

# Sends one from a container of root's that has the journal's socket.
send_from_container() { # program decision
    as_root run --rm --network none --volume /run/systemd/journal/dev-log:/dev/log \
        --volume "$RUN/rootfs-amd64/bin/busybox:$1:ro" localhost/busybox:amd64 sh -c \
        '(echo "$1"; sleep 1) | exec -a logger "$0" -t "toolbx-arch-hook[5]"' "$1" "{\"container\":\"$id\",\"decision\":\"$2\"}"
}

told() { # decision may_be_forged: what explain says of the container's last start
    local caller=alice last
    [ "$engine" = as_alice ] || caller=
    journalctl --sync
    last=$($caller toolbx-arch explain --json told | jq -c '.last_start | [.decision, .may_be_forged]')
    [ "$last" = "[\"$1\",$2]" ] || fail "not $*: $last" "$(journalctl --identifier toolbx-arch-hook --output json-pretty)"
}
export -f with_journal send_unseen send_from_container told

@test "explain: the last start, by a journal" {
    local userns
    mkdir -p "$RUN/hooks" "$RUN/rootfs-amd64"
    tar -xf "$IMAGES/busybox-amd64.tar" -C "$RUN/rootfs-amd64"
    # So that the journal can see it.
    jq '.hook.args = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=exit_group",
            "-e", "inject=exit_group:delay_enter=1000000", .hook.path, "create-runtime"] | .hook.path = "/usr/bin/strace"' \
        $drop_in >"$RUN/hooks/slow.json"
    for engine in as_alice as_root; do
        userns=
        [ $engine = as_alice ] || userns=--userns=auto
        hook=$hook engine=$engine arm=$arm userns=$userns unshare --mount --propagation private bash -euo pipefail -c '
            source helpers.bash
            with_journal
            as_alice system migrate # her Podman keeps a mount namespace
            $engine --hooks-dir "$RUN/hooks" run --name told $userns $arm true
            id=$($engine inspect --format "{{.Id}}" told)
            told emulated false
            # Others than root and alice, those whom her containers have for users among them.
            first=$(sed -n "s/^alice:\([0-9]*\):.*/\1/p" /etc/subuid)
            for uid in 65534 1 $first $((first + 9)); do
                send_unseen $uid forged
                told emulated false
            done
            # Who is seen to be another.
            send_from_container /usr/bin/other forged
            told emulated false
            send_from_container $hook forged
            told emulated false
            # Who is not seen.
            send_unseen 0 unseen
            told unseen true
            send_unseen $(id -u alice) hers
            if [ $engine = as_alice ]; then told hers true; else told unseen true; fi
            [ "$(journalctl --identifier toolbx-arch-hook | wc -l)" = 9 ]
        '
        as_alice system migrate
        $engine rm told
    done
    rm -r "$RUN/hooks" "$RUN/rootfs-amd64"
}

@test "explain: what is not there, not ours, or no bundle" {
    as_alice create --name hers $arm true >/dev/null
    explains as_alice busybo
    [[ "$status" = 1 && "$stderr" == *'no container or image of yours is called "busybo"; did you mean localhost/busybox:'* ]] || fail "$stderr"
    explains as_root hers
    [[ "$status" = 1 && "$stderr" == *"an ordinary user's are explained to that user only"* ]] || fail "$stderr"
    explains as_alice $'\e[31m'
    [[ "$status" = 1 && "$stderr" != *$'\e'* ]] || fail "$stderr"
    # Half deleted: its files are gone, and Podman still knows it.
    rm -r /home/alice/.local/share/containers/storage/overlay-containers/"$(as_alice inspect --format '{{.Id}}' hers)"
    explains as_alice hers
    [[ "$status" = 0 && "$output" == "container hers"* ]] || fail "$output" "$stderr"
    rm -r /home/alice/.local/share/containers/storage/overlay/"$(as_alice inspect --format '{{.GraphDriver.Data.UpperDir}}' hers |
        sed 's,.*/overlay/\([^/]*\)/.*,\1,')"
    explains as_alice hers
    [[ "$status" = 1 && "$stderr" == *"podman container inspect hers: "*"no such file or directory"* ]] || fail "$output" "$stderr"
    mkdir -p "$RUN/pipe"
    mkfifo "$RUN/pipe/config.json"
    explains as_root --bundle "$RUN/pipe"
    [[ "$status" = 1 && "$stderr" == *"config.json is not a file"* ]] || fail "$stderr"
    rm -r "$RUN/pipe"
    explains as_root --bundle /etc
    [[ "$status" = 1 && "$stderr" == *"/etc has no config.json, so it is no bundle"* ]] || fail "$stderr"
    explains as_root --bundle /etc/passwd
    [[ "$status" = 1 && "$stderr" == *"/etc/passwd has no config.json, so it is no bundle"* ]] || fail "$stderr"
    explains as_root
    [ "$status" = 2 ]
    mkdir -p "$RUN/bundle"
    ln -sfn "$RUN/rootfs" "$RUN/bundle/rootfs"
    echo '{"root": {"path": "rootfs"}, "process": {"args": ["sh"]}, "linux": {"namespaces": [{"type": "user"}]}}' \
        >"$RUN/bundle/config.json"
    explains as_alice --bundle "$RUN/bundle"
    [[ "$status" = 0 && "$output" == *"emulated, in scope private"* ]] || fail "$output" "$stderr"
}

@test "enable and disable: for a user, and back to where it was" {
    local before
    before=$(alice find /home/alice/.config 2>/dev/null | sort)
    run alice toolbx-arch enable
    prints "Nothing is to be changed."
    run alice toolbx-arch enable --annotation-only --dry-run
    [[ "${lines[0]}" == "would write /home/alice/.config/containers/containers.conf.d/toolbx-arch.conf:" ]] || fail "$output"
    [ "$(alice find /home/alice/.config 2>/dev/null | sort)" = "$before" ]

    alice toolbx-arch enable --annotation-only
    run alice toolbx-arch enable --annotation-only
    prints "Nothing is to be changed."
    explains as_alice $arm
    [[ "$output" == *"left alone: the hook is called for containers with an annotation only"* ]] || fail "$output"
    run as_alice run --rm $arm uname -m
    [ "$status" != 0 ] || fail "$output"
    run --separate-stderr as_alice run --rm --annotation toolbx.arch=arm64 $arm uname -m
    prints aarch64

    alice toolbx-arch disable
    run as_alice run --rm --annotation toolbx.arch=arm64 $arm uname -m
    [ "$status" != 0 ] || fail "$output"
    run --separate-stderr as_alice run --rm localhost/busybox:amd64 uname -m
    prints x86_64
    run alice toolbx-arch doctor
    [[ "$status" = 2 && "$output" == *"✗ hook "* ]] || fail "$output"
    explains as_alice $arm
    [[ "$output" == *"left alone: the hook is off; run: toolbx-arch enable"* ]] || fail "$output"

    alice toolbx-arch enable
    run --separate-stderr as_alice run --rm $arm uname -m
    prints aarch64
    [ -z "$(alice find /home/alice/.config -type f)" ]
}

@test "enable and disable: for everybody, with precreate" {
    local userns=
    [ "$RUNTIME" = crun ] || userns="--annotation toolbx.arch.userns=private"
    mkdir -p /etc/containers/containers.conf.d
    printf '# kept\n[engine]\nhooks_dir = ["/usr/share/containers/oci/hooks.d", "/nowhere"] # kept\n' \
        >/etc/containers/containers.conf.d/10-mine.conf
    cp /etc/containers/containers.conf.d/10-mine.conf "$RUN/mine.conf"
    toolbx-arch enable --precreate
    grep -q '"/nowhere", "/usr/share/toolbx-arch/hooks.d/precreate"' /etc/containers/containers.conf.d/toolbx-arch.conf
    explains as_root $arm
    [[ "$output" == *"emulated, in scope private"* ]] || fail "$output"
    run --separate-stderr as_root run --rm --network none $userns $arm uname -m
    prints aarch64
    run toolbx-arch doctor --json
    holds 'any(.[]; .check == "precreate" and (.says | startswith("on, by /usr/share/toolbx-arch/hooks.d/precreate/")))'
    toolbx-arch disable
    run as_root run --rm --network none --userns=auto $arm uname -m
    [ "$status" != 0 ] || fail "$output"
    toolbx-arch enable
    diff /etc/containers/containers.conf.d/10-mine.conf "$RUN/mine.conf"
    [ "$(ls /etc/containers/containers.conf.d)" = 10-mine.conf ]

    # Read later than ours, and it names no directory of ours.
    printf '[engine]\nhooks_dir = ["/usr/share/containers/oci/hooks.d"]\n' >/etc/containers/containers.conf.d/zz.conf
    run -1 toolbx-arch enable --precreate
    refused "zz.conf names hooks_dir, and is read after /etc/containers/containers.conf.d/toolbx-arch.conf"
    # One that names what is wanted will do.
    printf '[engine]\nhooks_dir = ["/usr/share/containers/oci/hooks.d", "/usr/share/toolbx-arch/podman-hooks.d"]\n' \
        >/etc/containers/containers.conf.d/zz.conf
    run toolbx-arch enable --precreate
    prints "Nothing is to be changed."
    # Another name, which nothing of ours could override.
    cp $drop_in /usr/share/containers/oci/hooks.d/mine.json
    run -1 toolbx-arch disable
    refused "mine.json has the hook called too"
    rm /usr/share/containers/oci/hooks.d/mine.json
    [ "$(ls /etc/containers/containers.conf.d)" = $'10-mine.conf\nzz.conf' ]
}

@test "enable: whatever the umask, and the user's name" {
    local mask
    for mask in 0 027; do
        (umask $mask; toolbx-arch enable --annotation-only; toolbx-arch cdi --install) >/dev/null
        diff <(stat --format='%a %n' /etc/containers/containers.conf.d{,/toolbx-arch.conf} /etc/cdi{,/toolbx-arch.json}) - <<END
755 /etc/containers/containers.conf.d
644 /etc/containers/containers.conf.d/toolbx-arch.conf
755 /etc/cdi
644 /etc/cdi/toolbx-arch.json
END
        as_alice ps >/dev/null
        rm -r /etc/containers/containers.conf.d /etc/cdi
    done
    # A name that needs care in TOML, and our own file, broken by somebody.
    local home=$'/home/alice/jose\u0301 "x\\y"/.config'
    alice mkdir -p "$home/containers"
    printf '[engine]\nhooks_dir = [%s]\n' "$(jq -Rc <<<"$home/hooks")" | alice tee "$home/containers/containers.conf" >/dev/null
    alice env XDG_CONFIG_HOME="$home" toolbx-arch enable --annotation-only
    alice env XDG_CONFIG_HOME="$home" podman info --format '{{.Host.Arch}}'
    echo '[' | alice tee "$home/containers/containers.conf.d/toolbx-arch.conf" >/dev/null
    run alice env XDG_CONFIG_HOME="$home" toolbx-arch enable
    [[ "$status" = 0 && "$output" == *"wrote "* ]] || fail "$output"
    alice env XDG_CONFIG_HOME="$home" podman info --format '{{.Host.Arch}}'
    rm -r "${home%/.config}"
}

@test "enable: nobody who locks a directory delays it" {
    local directory holder
    for directory in /etc /home/alice; do
        alice flock --no-fork $directory sleep 60 &
        holder=$!
        while flock --nonblock $directory true; do :; done
        run timeout 5 toolbx-arch enable --annotation-only
        [[ "$status" = 0 && "$output" == "wrote /etc/"* ]] || fail "$output"
        run alice timeout 5 toolbx-arch disable
        [[ "$status" = 0 && "$output" == "wrote /home/alice/"* ]] || fail "$output"
        kill $(pgrep --parent "$holder") # the shell that waits for it ends then
        wait "$holder" || true
        toolbx-arch enable
        alice toolbx-arch enable
    done
}

@test "enable: who may not, and two at once" {
    run -1 alice toolbx-arch enable --system
    refused "run it with sudo, or with --user"
    run -1 toolbx-arch enable --user
    refused "run it without --user"
    run -1 unshare --mount sh -c 'mount --bind /etc /etc && mount -o remount,bind,ro /etc && exec toolbx-arch enable --annotation-only'
    refused "mkdir /etc/containers/containers.conf.d: EROFS"
    rm -rf /home/alice/.config # Podman 5 makes it
    chmod 500 /home/alice
    run alice toolbx-arch enable --annotation-only
    chmod 700 /home/alice
    [ "$status" = 1 ] && refused "mkdir /home/alice/.config/containers/containers.conf.d: EACCES"
    local i pids=()
    for i in {1..10}; do
        toolbx-arch cdi --install >/dev/null &
        pids+=($!)
        toolbx-arch enable --annotation-only >/dev/null &
        pids+=($!)
        toolbx-arch disable >/dev/null &
        pids+=($!)
    done
    for i in "${pids[@]}"; do wait "$i"; done
    [ "$(ls /etc/containers/containers.conf.d)" = toolbx-arch.conf ] # whole, whoever was last
    [ "$(ls /etc/cdi)" = toolbx-arch.json ]
    jq --exit-status .devices /etc/cdi/toolbx-arch.json >/dev/null
    as_root run --rm --network none localhost/busybox:amd64 true
    toolbx-arch enable --annotation-only
    run --separate-stderr as_root run --rm --userns=auto --annotation toolbx.arch=arm64 $arm uname -m
    prints aarch64
    toolbx-arch enable
    [ -z "$(ls /etc/containers/containers.conf.d)" ]
}

@test "cdi: a device for each target, alone and beside the drop-in" {
    local engine userns
    run --separate-stderr toolbx-arch cdi
    holds '.kind == "toolbx.dev/arch" and ([.devices[].name] | index("arm64") and index("s390x") and (index("amd64") | not))'
    toolbx-arch cdi --install
    run toolbx-arch doctor --json
    holds 'any(.[]; .check == "CDI devices" and .status == "ok")'
    sed -i s/s390x/other/ /etc/cdi/toolbx-arch.json
    run toolbx-arch doctor
    [[ "$status" = 1 && "$output" == *"! CDI devices "*"run: sudo toolbx-arch cdi --install"* ]] || fail "$output"
    toolbx-arch cdi --install
    for engine in as_root as_alice; do
        userns=--userns=keep-id
        [ $engine != as_root ] || userns=--userns=auto
        # Both the drop-in and the device have the hook called.
        run --separate-stderr $engine run --name device $userns --device toolbx.dev/arch=arm64 $arm uname -m
        prints aarch64
        explains $engine device
        [[ "$output" == *"CDI devices "*" aarch64"* ]] || fail "$output"
        grep -q '"CDI device":"aarch64"' /run/log.records # runtimes order hooks differently
        # The device alone; and two for a native image.
        run --separate-stderr $engine --hooks-dir /var/empty run --rm $userns --device toolbx.dev/arch=arm64 $arm uname -m
        prints aarch64
        run --separate-stderr $engine --hooks-dir /var/empty run --rm $userns --device toolbx.dev/arch=arm64 \
            --device toolbx.dev/arch=s390x localhost/busybox:amd64 ls /proc/sys/fs/binfmt_misc
        [[ "$output" == *toolbx-arch-aarch64*toolbx-arch-s390x* ]] || fail "$output" "$stderr"
        run --separate-stderr $engine --hooks-dir /var/empty run --rm $userns $arm uname -m
        [ "$status" != 0 ]
        # The programs tell; and everything that there is.
        run --separate-stderr $engine --hooks-dir /var/empty run --rm $userns --device toolbx.dev/arch=auto $arm uname -m
        prints aarch64
        run --separate-stderr $engine --hooks-dir /var/empty run --rm $userns --device toolbx.dev/arch=auto localhost/busybox:amd64 \
            ls /proc/sys/fs/binfmt_misc
        prints ""
        run --separate-stderr $engine --hooks-dir /var/empty run --rm $userns --device toolbx.dev/arch=all localhost/busybox:amd64 \
            ls /proc/sys/fs/binfmt_misc
        [ "${#lines[@]}" -gt 20 ] || fail "$output" "$stderr"
    done
    toolbx-arch cdi --remove
    [ ! -e /etc/cdi/toolbx-arch.json ]
    run -1 toolbx-arch cdi --remove
    run -1 alice toolbx-arch cdi --install
    refused "/etc/cdi"
}

@test "pull: the variant, beside the native one" {
    local multi=127.0.0.1:5000/multi caller engine
    for engine in as_root as_alice; do
        caller=alice
        [ $engine = as_alice ] || caller=
        $engine image prune --force >/dev/null # what other tests left
        run --separate-stderr $caller toolbx-arch pull --tls-verify=false --arch arm64 $multi
        [ "$status" = 0 ] || fail "$output" "$stderr"
        run --separate-stderr $caller toolbx-arch pull --tls-verify=false --arch arm64 $multi # again
        [ "${lines[-1]}" = "$multi:latest-arm64 is for aarch64" ] || fail "$output"
        run $engine image inspect --format '{{index .Labels "toolbox-arch"}} {{.Architecture}} {{len .RootFS.Layers}}' \
            "$multi:latest-arm64"
        prints "arm64 arm64 1"
        run $engine images --quiet --filter dangling=true
        prints ""
        run --separate-stderr $caller toolbx-arch pull --tls-verify=false --as other:x $multi:latest-armv7l
        [ "$status" = 0 ] || fail "$output" "$stderr"
        $engine image inspect --format '{{.Architecture}}' localhost/other:x docker.io/library/other:x 2>/dev/null | grep -qx arm
    done
    run --separate-stderr as_alice run --rm "$multi:latest-arm64" uname -m
    prints aarch64
}

@test "pull: what cannot be had" {
    local multi=127.0.0.1:5000/multi
    run -1 toolbx-arch pull --tls-verify=false --arch riscv64 $multi
    refused "$multi:latest has no variant for riscv64; it has amd64, arm64/v8, arm/v7, ppc64le, s390x"
    run -1 toolbx-arch pull --tls-verify=false --arch arm64 127.0.0.1:5000/nothing
    refused "skopeo: " "nothing"
    run -1 toolbx-arch pull --arch s390x $multi:1-aarch64
    refused "leave one of them out"
    run -1 toolbx-arch pull $multi
    refused "say --arch NAME"
    # It declares what it is not.
    as_root import --quiet --os linux --arch arm64 "$IMAGES/busybox-s390x.tar" 127.0.0.1:5000/lie >/dev/null 2>&1
    as_root push --quiet --tls-verify=false 127.0.0.1:5000/lie
    run -1 toolbx-arch pull --tls-verify=false --arch arm64 127.0.0.1:5000/lie
    refused "its programs are for s390x, whatever it declares; remove it: podman rmi 127.0.0.1:5000/lie:latest-arm64"
    PATH=$RUN/nowhere run -1 "$(command -v toolbx-arch)" pull --arch arm64 $multi
    refused "skopeo is not installed"
}

@test "help fits a screen, everything has some, and typos are understood" {
    local command
    run --separate-stderr toolbx-arch --help
    [[ "$status" = 0 && "${#lines[@]}" -le 30 && "$output" == *Examples:* ]] || fail "$output"
    for command in doctor list explain pull enable disable cdi; do
        run --separate-stderr toolbx-arch $command --help
        [[ "$status" = 0 && -z "$stderr" ]]
        run script --quiet --return --command "stty cols 40 rows 20; toolbx-arch $command --help" /dev/null
        for line in "${lines[@]}"; do [[ ${#line} -le 41 || $line == Usage:* ]] || fail "$line"; done
        [ -e "/usr/share/man/man1/toolbx-arch-$command.1" ]
        grep -q "$command" /usr/share/bash-completion/completions/toolbx-arch \
            /usr/share/zsh/site-functions/_toolbx-arch /usr/share/fish/vendor_completions.d/toolbx-arch.fish
    done
    run --separate-stderr -2 toolbx-arch doctr
    [[ "$stderr" == *"similar subcommand"*doctor* ]] || fail "$stderr"
    run --separate-stderr -2 toolbx-arch
    run --separate-stderr toolbx-arch --version
    [[ "$output" == "toolbx-arch "[0-9]* ]] || fail "$output"
    bash -c 'source /usr/share/bash-completion/completions/toolbx-arch; complete -p toolbx-arch' >/dev/null
}
