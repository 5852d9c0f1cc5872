# What the project promises: foreign containers run.
bats_require_minimum_version 1.5.0
load helpers

annotated="--annotation toolbx.arch=arm64"
arm=localhost/busybox:arm64

# As root and as alice, with a user namespace of the container's own: the private scope.
private_prints() { # expected podman-run-arguments…
    local expected=$1
    shift
    run --separate-stderr as_root run --rm --userns=auto $annotated "$@"
    prints "$expected"
    logged 'scope="private"'
    run --separate-stderr as_alice run --rm --userns=keep-id $annotated "$@"
    prints "$expected"
    logged 'scope="private"'
}

# In all scopes where containers can be served.
all_print() {
    private_prints "$@"
    local expected=$1
    shift
    run --separate-stderr as_alice run --rm $annotated "$@"
    prints "$expected"
}

@test "without the hook the kernel cannot run a foreign program" {
    mkdir -p "$RUN/hooks"
    run as_root --hooks-dir "$RUN/hooks" run --rm --userns=auto $arm uname -m
    refused "xec format error"
    run as_alice --hooks-dir "$RUN/hooks" run --rm $arm uname -m
    refused "xec format error"
}

@test "root with --userns=auto, alice with keep-id, alice without --userns" {
    all_print aarch64 $arm uname -m
    logged 'decision="emulated"' 'scope="shared"' 'targets[0].flags="OPF"' \
        'targets[0].target="aarch64"' 'targets[0].emulator="/usr/bin/qemu-aarch64'$static'"'
}

@test "other private user namespaces: nomap, --uidmap" {
    run --separate-stderr as_alice run --rm --userns=nomap $annotated $arm uname -m
    prints aarch64
    run --separate-stderr as_alice run --rm --uidmap 0:1:1000 --gidmap 0:1:1000 $annotated $arm uname -m
    prints aarch64
    run --separate-stderr as_root run --rm --uidmap 0:2000000:65536 $annotated $arm uname -m
    prints aarch64
    logged 'scope="private"' 'targets[0].flags="OPFC"'
}

@test "rootful without --userns is refused with cause and fix, and the host untouched" {
    run --separate-stderr as_root run --rm $annotated $arm uname -m
    [ "$status" != 0 ]
    logged 'decision="refused"'
    grep -q 'whole machine; run it with --userns=auto' /run/log.records
    if [ "$RUNTIME" = runc ]; then # crun hides what a hook says
        refused "whole machine; run it with --userns=auto"
    fi
}

@test "every architecture that has an image" {
    local name machine
    while read -r name machine; do
        run --separate-stderr as_alice run --rm --annotation "toolbx.arch=$name" "localhost/busybox:$name" uname -m
        prints "$machine"
        run --separate-stderr as_root run --rm --userns=auto --annotation "toolbx.arch=$name" "localhost/busybox:$name" uname -m
        prints "$machine"
    done <<EOF
arm64 aarch64
armhf armv7l
ppc64el ppc64le
s390x s390x
mips64el mips64
EOF
}

@test "several architectures in one container" {
    # Podman 4 takes a comma for the end of the annotation, unless it is quoted as in CSV.
    local annotation commas='toolbx.arch=arm64,s390x,amd64'
    [[ "$(podman --version)" != *" 4."* ]] || commas=\"$commas\"
    for annotation in "toolbx.arch=arm64 s390x amd64" "$commas"; do
        run --separate-stderr as_alice run --rm --userns=keep-id --annotation "$annotation" \
            $arm ls /proc/sys/fs/binfmt_misc
        prints $'register\nstatus\ntoolbx-arch-aarch64\ntoolbx-arch-s390x'
    done
}

@test "Toolbx's annotation, none, and the host's own architecture" {
    run --separate-stderr as_alice run --rm --annotation toolbox-arch=arm64 $arm uname -m
    prints aarch64
    run as_alice run --rm --userns=keep-id --annotation toolbx.arch=none $arm uname -m
    refused "xec format error"
    logged 'decision="off"'
    # The rootful host scope too: nothing to do is no reason to refuse.
    run --separate-stderr as_root run --rm --annotation toolbx.arch=amd64 localhost/busybox:amd64 uname -m
    prints x86_64
    logged 'decision="native"'
}

@test "detached, exec, stop and start" {
    local podman options
    for podman in "as_root --userns=auto" "as_alice --userns=keep-id" "as_alice"; do
        read -r podman options <<<"$podman"
        $podman run --detach --name life $options $annotated $arm sh -c 'trap "exit 0" TERM; while :; do sleep 1; done' >/dev/null
        run --separate-stderr $podman exec life uname -m
        prints aarch64
        $podman stop --time 20 life >/dev/null
        $podman start life >/dev/null
        run --separate-stderr $podman exec --user 1000 life uname -m
        prints aarch64
        $podman rm --force --time 0 life >/dev/null
    done
}

@test "--read-only" { all_print aarch64 --read-only $arm uname -m; }
@test "--user 1000" { all_print aarch64 --user 1000 $arm uname -m; }
@test "--privileged" { all_print aarch64 --privileged $arm uname -m; }
@test "--init" { all_print aarch64 --init $arm uname -m; }
@test "--network none" { all_print aarch64 --network none $arm uname -m; }
@test "--security-opt no-new-privileges" { all_print aarch64 --security-opt no-new-privileges $arm uname -m; }
@test "--cap-drop all" { all_print aarch64 --cap-drop all $arm uname -m; }
@test "--tmpfs /dev" { all_print aarch64 --tmpfs /dev $arm uname -m; }
@test "--device" { all_print aarch64 --device /dev/null:/dev/null $arm uname -m; }
@test "a #! script" { all_print aarch64 $arm /bin/script; }
@test "a program of mode 0711, as a user" { all_print aarch64 --user 1000 $arm /bin/0711/busybox uname -m; }
@test "a scratch image with one static program" { all_print aarch64 localhost/scratch /uname -m; }
@test "chroot inside the container" { all_print aarch64 --cap-add sys_chroot $arm chroot /jail /bin/uname -m; }

@test "--network host" {
    run --separate-stderr as_alice run --rm --network host $annotated $arm uname -m
    prints aarch64
    local as podman options
    for as in "as_alice --userns=keep-id" "as_root --userns=auto"; do
        read -r podman options <<<"$as"
        run --separate-stderr $podman run --rm --network host $options $annotated $arm uname -m
        if [ "$status" != 0 ]; then
            # runc cannot mount sysfs there, hook or no hook.
            refused 'mounting "sysfs"'
            run $podman run --rm --network host $options localhost/busybox:amd64 uname -m
            refused 'mounting "sysfs"'
        else
            prints aarch64
        fi
    done
}

@test "--network bridge and slirp4netns" {
    run --separate-stderr as_root run --rm --network bridge --userns=auto $annotated $arm uname -m
    prints aarch64
    run --separate-stderr as_alice run --rm --network slirp4netns $annotated $arm uname -m
    prints aarch64
}

@test "--rootfs" {
    run --separate-stderr as_alice run --rm $annotated --rootfs "$RUN/rootfs" uname -m
    prints aarch64
    run --separate-stderr as_root run --rm --uidmap 0:17001:1 --uidmap 1:2000000:1000 $annotated --rootfs "$RUN/rootfs" uname -m
    prints aarch64
    [ ! -e "$RUN/rootfs/dev/.toolbx-arch" ]
}

@test "-v /dev:/dev: flag F alone carries the emulator" {
    local before
    before=$(ls -AR /dev | sha256sum)
    private_prints aarch64 -v /dev:/dev $arm uname -m
    logged 'not_shown="the container'"'"'s /dev is not a tmpfs of its own"'
    run --separate-stderr as_alice run --rm $annotated -v /dev:/dev $arm uname -m
    prints aarch64
    [ "$before" = "$(ls -AR /dev | sha256sum)" ]
}

@test "a link in the image leads a volume to /dev, or over everything: the host gets nothing" {
    local engine userns host=$RUN/linked link volume
    mkdir -p "$host"
    mount -t tmpfs -o mode=777 host "$host"
    mkdir "$host/dev"
    mount -t tmpfs -o mode=777 dev "$host/dev"
    alice podman system migrate # so that alice sees these mounts
    for link in /dev / /proc/..; do
        ln -sfn "$link" "$RUN/over"
        cp "$IMAGES/busybox-arm64.tar" "$RUN/linked.tar"
        tar --append --file "$RUN/linked.tar" --directory "$RUN" ./over
        for engine in as_root as_alice; do
            userns=--userns=keep-id
            [ $engine != as_root ] || userns=--userns=auto
            $engine import --quiet "$RUN/linked.tar" localhost/linked >/dev/null
            for volume in "$host" "$host/dev"; do
                # Some of these do not start, whoever calls what hooks.
                run $engine run --rm $userns $annotated --volume "$volume:/over" localhost/linked uname -m
                run $engine run --rm $annotated --volume "$volume:/over" localhost/linked uname -m
            done
        done
    done
    run find "$host" -name .toolbx-arch
    prints ""
    # Such a volume is what the container may have: the test would notice.
    as_root run --rm --volume "$host/dev:/over" localhost/busybox:amd64 touch /over/here
    [ -e "$host/dev/here" ]
    umount --recursive "$host"
}

@test "-v /proc:/proc:rshared and a shared volume: nothing reaches the host" {
    # The runtime's own masks do reach it, so each host is one that is thrown away.
    local options
    mkdir -p "$RUN/volume"
    for options in "-v /proc:/proc:rshared" "-v $RUN/volume:/v:rshared"; do
        run --separate-stderr unshare --mount --propagation private bash -c '
            mount --make-rshared /
            source "$0"
            as_root run --rm --userns=auto --annotation toolbx.arch=arm64 '"$options"' localhost/busybox:arm64 uname -m
            as_alice run --rm --annotation toolbx.arch=arm64 '"$options"' localhost/busybox:arm64 uname -m
            leftovers' "$BATS_TEST_DIRNAME/helpers.bash"
        prints $'aarch64\naarch64'
    done
}

@test "pods: containers share the user namespace of the pod" {
    local pod
    for pod in "" "--userns=keep-id"; do
        as_alice pod create --name pod $pod --infra-image localhost/busybox:amd64 \
            --infra-command '/bin/sleep 100' >/dev/null
        run --separate-stderr as_alice run --rm --pod pod $annotated $arm uname -m
        prints aarch64
        logged 'scope="shared"' 'targets[0].flags="OPF"'
        # A second one finds the handler, and uses it.
        run --separate-stderr as_alice run --rm --pod pod $annotated $arm uname -m
        prints aarch64
        as_alice pod rm --force --time 0 pod >/dev/null
    done
}
