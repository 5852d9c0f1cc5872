# Once for all bats files: images, a syslog daemon, fixtures.
load helpers

setup_suite() {
    [ -n "${RUN:-}" ] || { echo "run this in the laboratory: make check" >&2; return 1; }
    # With --filter-tags, bats leaves another one.
    local arch IFS=$' \t\n'
    mkdir -p /run/systemd/journal
    rm -f /run/systemd/journal/dev-log
    # Without bats's own descriptors: it waits until they are closed.
    "$BATS_TEST_DIRNAME/syslogd" /run/systemd/journal/dev-log /run/log.records \
        </dev/null >/dev/null 2>&1 3>&- 4>&- 5>&- &
    echo $! >/run/syslogd.pid
    for arch in amd64 arm64 armhf ppc64el s390x mips64el; do
        as_root image exists "localhost/busybox:$arch" && continue
        as_root import --quiet "$IMAGES/busybox-$arch.tar" "localhost/busybox:$arch" >/dev/null
        as_alice import --quiet "$IMAGES/busybox-$arch.tar" "localhost/busybox:$arch" >/dev/null
    done
    # A registry, and in it an image for several architectures, each declared as what it is.
    mkdir -p "$RUN/registry"
    printf '%s\n' 'version: 0.1' "storage: { filesystem: { rootdirectory: $RUN/registry } }" \
        'http: { addr: "127.0.0.1:5000" }' 'log: { level: error }' >"$RUN/registry.yml"
    docker-registry serve "$RUN/registry.yml" </dev/null >/dev/null 2>&1 3>&- 4>&- 5>&- &
    echo $! >/run/registry.pid
    if ! as_root image exists localhost/declared:arm64; then
        as_root manifest create localhost/multi >/dev/null
        while read -r arch name variant; do
            as_root import --quiet --os linux --arch "$name" ${variant:+--variant "$variant"} \
                "$IMAGES/busybox-$arch.tar" "localhost/declared:$arch" >/dev/null 2>&1
            as_root manifest add --os linux --arch "$name" ${variant:+--variant "$variant"} \
                localhost/multi "containers-storage:localhost/declared:$arch" >/dev/null
        done <<<$'amd64 amd64\narm64 arm64 v8\narmhf arm v7\nppc64el ppc64le\ns390x s390x'
        as_root manifest push --quiet --all --tls-verify=false localhost/multi docker://127.0.0.1:5000/multi
    fi
    # A scratch image: one static program and nothing else.
    if ! as_root image exists localhost/scratch; then
        mkdir -p "$RUN/scratch"
        tar -xf "$IMAGES/busybox-arm64.tar" -C "$RUN/scratch" --strip-components=2 ./bin/busybox
        mv "$RUN/scratch/busybox" "$RUN/scratch/uname"
        tar -C "$RUN/scratch" -cf "$RUN/scratch.tar" uname
        as_root import --quiet "$RUN/scratch.tar" localhost/scratch >/dev/null
        as_alice import --quiet "$RUN/scratch.tar" localhost/scratch >/dev/null
        # A root file system in a plain directory, for --rootfs.
        mkdir -p "$RUN/rootfs"
        tar -xf "$IMAGES/busybox-arm64.tar" -C "$RUN/rootfs"
        chown -R alice:alice "$RUN/rootfs"
        cc -static -o "$RUN/deny" "$BATS_TEST_DIRNAME/deny.c"
    fi
    if [ -e "$IMAGES/debian-arm64.tar" ] && ! as_root image exists localhost/debian; then
        as_root load --quiet --input "$IMAGES/debian-arm64.tar" >/dev/null
        as_alice load --quiet --input "$IMAGES/debian-arm64.tar" >/dev/null
    fi
}

teardown_suite() {
    kill "$(cat /run/syslogd.pid)" "$(cat /run/registry.pid)"
}
