# Podman and the hook inside a container that got handlers from the hook itself.
bats_require_minimum_version 1.5.0
load helpers

setup() {
    : >/run/log.records
    # An image that is this machine: all its programs come as volumes.
    mkdir -p /etc/containers/networks
    local root=$RUN/machine name podman
    [ ! -e "$root" ] || return 0
    mkdir -p "$root"/{dev,etc,images,proc,root,run,sys,tmp,usr,var/lib/containers,var/tmp}
    for name in bin lib lib64 sbin; do ln -s "usr/$name" "$root/$name"; done
    for podman in as_root as_alice; do
        tar -C "$root" -c . | $podman import --quiet - localhost/machine >/dev/null
    done
    # With crun in there: runc wants to make cgroups, which belong to the machine.
    cat >"$RUN/inner" <<'EOF'
set -eu
cat >/tmp/storage.conf <<END
[storage]
driver = "overlay"
runroot = "/run/containers"
graphroot = "/var/lib/containers/inner"
END
export CONTAINERS_STORAGE_CONF=/tmp/storage.conf
for arch in arm64 s390x; do
    podman import --quiet "/images/busybox-$arch.tar" "localhost/busybox:$arch" >/dev/null
done
run() { podman --runtime crun run --rm --network host --cgroups disabled "$@"; }
annotated="--annotation toolbx.arch=arm64"
own="--uidmap 0:1:1000 --gidmap 0:1:1000"
run localhost/busybox:s390x uname -m                        # inherits
run $own localhost/busybox:s390x uname -m                   # inherits
run --annotation toolbx.arch=s390x localhost/busybox:s390x uname -m
run $own $annotated localhost/busybox:arm64 uname -m        # has its own
run $own $annotated localhost/busybox:s390x uname -m        # carried over
ls -U /proc/sys/fs/binfmt_misc
run $annotated localhost/busybox:arm64 uname -m             # shares
run localhost/busybox:s390x uname -m                        # still
ls -U /proc/sys/fs/binfmt_misc
EOF
}

in_container() { # podman podman-run-arguments…
    run --separate-stderr "$1" run --rm --privileged --volume /usr:/usr:ro --volume /etc:/etc:ro \
        --volume "$IMAGES:/images:ro" --volume "$RUN/inner:/inner:ro" --volume /var/lib/containers \
        --volume /var/tmp --volume /etc/containers/networks --annotation toolbx.arch=s390x "${@:2}" localhost/machine bash /inner
    prints "s390x
s390x
s390x
aarch64
s390x
toolbx-arch-s390x
register
status
aarch64
s390x
toolbx-arch-aarch64
toolbx-arch-s390x
register
status"
}

@test "in a private namespace" { in_container as_root --userns=auto:size=65536; }
@test "in the shared namespace" { in_container as_alice; }
@test "in the namespace that precreate makes" {
    plain() {
        as_root --hooks-dir /usr/share/containers/oci/hooks.d --hooks-dir /usr/share/toolbx-arch/podman-hooks.d "$@"
    }
    in_container plain --network none
}
