# The image for CI, images/Containerfile, built and used by an ordinary user: foreign images run and
# are built in it.
bats_require_minimum_version 1.5.0
load helpers

setup_file() {
    [ -e "$IMAGES/ci/base.tar" ] || fail "no base for the CI image; run: make images"
    "$BATS_TEST_DIRNAME/../packaging/package" deb "$RUN/ci/target/packages"
    cp -r "$BATS_TEST_DIRNAME"/../{images,policies} "$RUN/ci"
    as_alice import --quiet "$IMAGES/ci/base.tar" localhost/ci-base >/dev/null
    as_alice build --quiet --network none --build-arg BASE=localhost/ci-base \
        --volume "$IMAGES/ci/packages:/packages:ro" --file images/Containerfile --tag localhost/ci "$RUN/ci" >"$RUN/ci.log" 2>&1 ||
        fail "$(cat "$RUN/ci.log")"
    as_alice save --quiet localhost/ci | as_root load --quiet >/dev/null
    mkdir -p "$RUN/project"
    cat >"$RUN/project/Containerfile" <<'END'
FROM localhost/busybox:arm64
RUN uname -m >/made
FROM localhost/busybox:s390x
COPY --from=0 /made /made
RUN uname -m >>/made
END
    chmod -R go= "$RUN/project"
    chown -R alice:alice "$RUN/project"
}

teardown_file() {
    as_root rmi --force localhost/ci >/dev/null
    as_alice rmi --force localhost/ci localhost/ci-base >/dev/null
    as_alice image prune --force >/dev/null
}

# Runs a script in the image, with the two foreign images at hand. The machine's own hook is not called.
in_ci() { # podman podman-run-arguments script
    mkdir -p "$RUN/hooks"
    run --separate-stderr "$1" --hooks-dir "$RUN/hooks" run --rm --interactive --privileged --volume "$IMAGES:/images:ro" \
        --volume "$RUN/project:/project" $2 localhost/ci sh -eu <<END
for arch in arm64 s390x; do
    podman import --quiet /images/busybox-\$arch.tar localhost/busybox:\$arch >/dev/null
done
$3
END
}

own="--userns=keep-id --user 0:0"

@test "podman run of a foreign image: in a user namespace of its own, in the shared one, run by root" {
    local as
    for as in "as_alice $own" "as_alice " "as_root --userns=auto:size=65536"; do
        in_ci "${as%% *}" "${as#* }" 'podman run --rm localhost/busybox:arm64 uname -m
            podman run --rm --annotation toolbx.arch=s390x localhost/busybox:s390x uname -m'
        prints $'aarch64\ns390x'
    done
}

@test "podman build and buildah build of a foreign Containerfile that only alice may read" {
    in_ci as_alice "$own" 'podman build --quiet --tag made /project >/dev/null
        podman run --rm made cat /made
        buildah build --quiet --tag made-too /project >/dev/null
        podman run --rm made-too cat /made >/project/made'
    prints $'aarch64\ns390x'
    [ "$(cat "$RUN/project/made")" = $'aarch64\ns390x' ]
}

@test "the policy is that for CI" {
    in_ci as_alice "$own" 'podman run --rm --annotation toolbox-arch=arm64 localhost/busybox:arm64 uname -m'
    [ "$status" != 0 ] && [ -z "$output" ]
}

@test "without the hook in it nothing of this runs" {
    in_ci as_alice "$own" 'dpkg --purge toolbx-arch >/dev/null; podman run --rm localhost/busybox:arm64 uname -m'
    refused "xec format error"
}
