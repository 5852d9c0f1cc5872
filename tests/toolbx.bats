# Toolbx and Distrobox: a native program prepares a container whose image is foreign.
bats_require_minimum_version 1.5.0
load helpers

setup_file() {
    cc -static -o "$RUN/toolbox" "$BATS_TEST_DIRNAME/toolbox.c"
}

# As Toolbx's cross-architecture series creates its containers, with a stand-in for its program that
# mounts binfmt_misc like it: create_toolbx NAME WAY
create_toolbx() {
    as_alice create --cgroupns host --dns none --env TOOLBOX_PATH=/usr/bin/toolbox --env "WAY=$2" \
        --hostname toolbx --ipc host --label com.github.containers.toolbox=true --label toolbox-arch=arm64 \
        --mount type=devpts,destination=/dev/pts --name "$1" --network host --no-hosts --pid host --privileged \
        --security-opt label=disable --ulimit host --userns keep-id --user root:root \
        --volume /:/run/host:rslave --volume /dev:/dev:rslave --volume "$RUN/toolbox:/usr/bin/toolbox:ro" \
        --volume /home/alice:/home/alice:rslave --entrypoint= localhost/debian \
        toolbox --log-level debug init-container --gid 17001 --home /home/alice --shell /bin/sh --uid 17001 \
        --user alice --monitor-host --arch 1 --arch-emulator-path /run/host/usr/bin/qemu-aarch64$static
}

@test "Toolbx's own mount and handler go on top of ours: by mount(2), mount(8) and the new mount API" {
    local way i source='sources["toolbox init-container"]="aarch64"'
    if has_sqlite; then source='sources["toolbox-arch label"]="\"arm64\""'; fi
    for way in syscall command api; do
        create_toolbx "$way" "$way" >/dev/null
        as_alice start "$way" >/dev/null
        for i in {1..100}; do
            [[ "$(as_alice logs "$way" 2>&1)" != *ready* ]] || break
            sleep 0.1
        done
        run as_alice logs "$way"
        prints $'aarch64\naarch64\nready'
        logged 'decision="emulated"' 'scope="private"' 'targets[0].target="aarch64"' "$source"
        run --separate-stderr as_alice exec --user alice "$way" uname -m
        prints aarch64
        run --separate-stderr as_alice exec "$way" ls /proc/sys/fs/binfmt_misc
        [[ "$output" == *qemu-aarch64* && "$output" == *toolbx-arch-aarch64* ]] || fail "$output"
        as_alice rm --force --time 0 "$way" >/dev/null
    done
}

# What both expect of a machine with systemd.
desktop() {
    [ -e /run/host ] || ln -s ../ /run/host # by the package's tmpfiles.d
    mkdir -p /run/dbus /run/media
    [ -e /run/dbus/system_bus_socket ] || python3 -c '
import socket
socket.socket(socket.AF_UNIX).bind("/run/dbus/system_bus_socket")'
    chmod 666 /run/dbus/system_bus_socket
}

in_session() { # as alice at a shell, a command
    alice env SHELL=/bin/bash TERM=dumb "$@" </dev/null
}

@test "packaged Toolbx: create and run" {
    desktop
    in_session toolbox create --assumeyes --image localhost/debian foreign >/dev/null
    run --separate-stderr in_session toolbox run --container foreign uname -m
    prints aarch64
    run --separate-stderr in_session toolbox run --container foreign sudo id -u
    prints 0
    logged 'decision="emulated"' 'scope="private"'
}

@test "packaged Distrobox: create and enter" {
    desktop
    # It looks for these, and would install them from the network.
    as_alice run --name more localhost/debian sh -c '
        for name in bc bzip2 curl findmnt gpg hostname less lsof man pigz pinentry ping ps rsync script ssh time \
            tree unzip wget xauth zip; do command -v $name >/dev/null || ln -s true /usr/bin/$name; done'
    as_alice commit --quiet more localhost/more >/dev/null
    local limit=() # it sets one itself, where it cannot be had
    has_controller pids || limit=(--additional-flags "--pids-limit 0")
    in_session distrobox create --yes --no-entry --name foreign --image localhost/more "${limit[@]}" >/dev/null
    run --separate-stderr in_session distrobox enter --no-tty foreign -- uname -m
    [ "$status" = 0 ] && [ "${lines[-1]}" = aarch64 ] || fail "$output" "$stderr" "$(as_alice logs foreign 2>&1)"
    logged 'decision="emulated"' 'scope="private"'
    as_alice rm --force --time 0 foreign more >/dev/null
    as_alice rmi localhost/more >/dev/null
}
