# Plays host and container for container.rs; runs in a fresh user and mount namespace.
#
# Environment: HOOK, STAGE (its arguments), PROGRAM (toolbx-arch), EXIT42 (a program), QEMU (a directory
# of emulators), CONFIG, STATE, PRIVATE and NETWORK (yes or no: a user and a network namespace of its
# own), and shell commands: HOST (before anything), ROOTFS (in the container's mounts), THEN (in the
# container, afterwards), AFTERWARDS (on the host).
# Prints the hook's exit status, its standard error, and what THEN and AFTERWARDS print, each
# followed by a line of dashes.
set -eu

mount -t tmpfs -o mode=755 lab /mnt
cp "$HOOK" /mnt/hook
cp "$EXIT42" /mnt/exit42
chmod 755 /mnt/exit42
mkdir -p /mnt/bundle /mnt/rootfs /mnt/emulators
mount -t tmpfs -o mode=755 lab /etc
mkdir /etc/toolbx-arch
echo '{"emulator_directories": ["/mnt/emulators"]}' >/etc/toolbx-arch/policy.json
[ -d "$QEMU" ] || { echo "no emulators in $QEMU; run: make images" >&2; exit 1; }
cp "$QEMU/qemu-aarch64-static" "$QEMU/qemu-s390x-static" /mnt/emulators/
printf '%s' "$CONFIG" >/mnt/bundle/config.json
eval "$HOST"

container() {
    mount -t tmpfs -o mode=755 container /mnt/rootfs
    mount --bind /mnt/rootfs /mnt/rootfs # as runtimes do
    cd /mnt/rootfs
    mkdir proc dev
    cp /mnt/exit42 exit42
    mount --rbind /proc proc
    mount -t tmpfs -o mode=755 container dev
    eval "$ROOTFS"
    cd /
    trap - EXIT
    echo ready >/mnt/ready
    exec sleep 1000
}
if [ "$PRIVATE" = yes ]; then
    new='--user --map-root-user --mount'
    enter='--user --mount --preserve-credentials'
else
    new=--mount
    enter=--mount
fi
[ "$NETWORK" = no ] || { new="$new --net"; enter="$enter --net"; }
mkfifo /mnt/ready
# A program of its own, since unshare executes one.
{ echo 'set -eu; trap "echo failed >/mnt/ready" EXIT'; sed -n '/^container() {/,/^}/p' "$0"; echo container; } >/mnt/container.sh
# shellcheck disable=SC2086 # lists of options
unshare $new --propagation private sh /mnt/container.sh &
pid=$!
trap 'kill $pid' EXIT
read -r ready </mnt/ready
[ "$ready" = ready ]

printf '%s' "$STATE" | sed "s/PID/$pid/; s/SHELL/$$/" >/mnt/state
grep . /proc/self/mountinfo >/mnt/mounts.before
status=0
# shellcheck disable=SC2086 # a list of arguments
/mnt/hook $STAGE </mnt/state 2>/mnt/stderr || status=$?
grep . /proc/self/mountinfo >/mnt/mounts.after
cmp /mnt/mounts.before /mnt/mounts.after # whatever happened, the host has got no mount

printf '%s\n----\n' "$status"
cat /mnt/stderr
printf '\n----\n'
# shellcheck disable=SC2086
nsenter --target "$pid" $enter sh -c "$THEN" 2>&1 || true
eval "$AFTERWARDS" 2>&1
printf '\n----\n'
