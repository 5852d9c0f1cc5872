# Builds with foreign stages, by Podman and by Buildah. Only hooks that look into every container are
# started for them, and an ordinary user has to name the directory.
bats_require_minimum_version 1.5.0
load helpers

hooks="--hooks-dir /usr/share/containers/oci/hooks.d"
multi=127.0.0.1:5000/multi
# A user namespace for rootful builds, in which every id is itself: with others, Podman 4.3 cannot
# write the files, and Buildah 1.28 commits them with their owners outside.
mapped="--userns-uid-map 0:0:4294967294 --userns-gid-map 0:0:4294967294"

setup() {
    : >/run/log.records
    work=$RUN/build
    rm -rf "$work"
    mkdir -p "$work"
    cat >"$work/Containerfile" <<END
FROM $multi
RUN uname -m >/made && mkdir /made.d && touch /made.d/file
END
    chmod -R a+rX "$work"
    as_alice_buildah() { alice env BUILDAH_RUNTIME="$RUNTIME" buildah "$@"; }
    export BUILDAH_RUNTIME=$RUNTIME
}

teardown() {
    local engine
    for engine in as_root as_alice; do
        $engine manifest rm localhost/made 2>/dev/null || true
        $engine rmi --force localhost/made localhost/made-native 2>/dev/null || true
        $engine image prune --force >/dev/null
    done
    buildah rm --all >/dev/null
    as_alice_buildah rm --all >/dev/null
    tidy
}

# The files of the topmost layer of an image of an engine.
layer() { # engine image
    local saved=$RUN/build/saved
    rm -rf "$saved"
    mkdir -p "$saved"
    $1 save --quiet --format oci-archive "$2" >"$saved/archive"
    tar -xf "$saved/archive" -C "$saved"
    jq -r '.manifests[0].digest' "$saved/index.json" | cut -d: -f2 >"$saved/manifest"
    tar -tf "$saved/blobs/sha256/$(jq -r '.layers[-1].digest' "$saved/blobs/sha256/$(cat "$saved/manifest")" | cut -d: -f2)" | sort
}

# Runs both images in the list localhost/made: prints what was made in them.
made() { # engine option
    local platform
    $1 manifest push --quiet --all --tls-verify=false localhost/made docker://127.0.0.1:5000/made
    for platform in linux/amd64 linux/arm64; do
        $1 run --rm --pull always --quiet --tls-verify=false --platform $platform $2 127.0.0.1:5000/made cat /made
    done | xargs
    $1 rmi --force 127.0.0.1:5000/made >/dev/null
}

@test "two platforms in one go, rootless" {
    as_alice build --quiet $hooks --tls-verify=false --platform linux/amd64,linux/arm64 --manifest localhost/made "$work" >/dev/null
    [ "$(made as_alice)" = "x86_64 aarch64" ]
}

@test "two platforms in one go, rootful" {
    run --separate-stderr as_root build --quiet --tls-verify=false --platform linux/amd64,linux/arm64 --manifest localhost/made "$work"
    [ "$status" != 0 ]
    grep -q 'a build: with --userns-uid-map and --userns-gid-map 0:0:4294967294' /run/log.records
    if [ "$RUNTIME" = runc ]; then refused "--userns-uid-map"; fi
    as_root build --quiet $mapped --tls-verify=false --platform linux/amd64,linux/arm64 --manifest localhost/made "$work" >/dev/null
    [ "$(made as_root --userns=auto)" = "x86_64 aarch64" ]
}

@test "a foreign layer holds what a native one holds" {
    local engine
    for engine in "as_alice $hooks" "as_root $mapped"; do
        ${engine%% *} build --quiet ${engine#* } --tls-verify=false --platform linux/amd64 --tag localhost/made-native "$work" >/dev/null
        ${engine%% *} build --quiet ${engine#* } --tls-verify=false --platform linux/s390x --tag localhost/made "$work" >/dev/null
        [ "$(layer "${engine%% *}" localhost/made)" = "$(layer "${engine%% *}" localhost/made-native)" ] ||
            fail "$(layer "${engine%% *}" localhost/made)"
        [[ "$(layer "${engine%% *}" localhost/made)" == *made.d/file* ]]
    done
}

@test "stages of several architectures" {
    cat >"$work/Containerfile" <<END
FROM --platform=linux/arm64 $multi AS one
RUN uname -m >/made
FROM --platform=linux/s390x $multi AS two
COPY --from=one /made /made
RUN uname -m >>/made
FROM --platform=linux/amd64 $multi
COPY --from=two /made /made
RUN uname -m >>/made
END
    as_alice build --quiet $hooks --tls-verify=false --tag localhost/made "$work" >/dev/null
    run --separate-stderr as_alice run --rm localhost/made cat /made
    prints $'aarch64\ns390x\nx86_64'
}

@test "buildah build, from and run" {
    local container
    as_alice_buildah build --quiet $hooks --isolation rootless --tls-verify=false --platform linux/amd64,linux/arm64 --manifest localhost/made "$work" >/dev/null
    [ "$(made as_alice)" = "x86_64 aarch64" ]
    buildah build --quiet $mapped --tls-verify=false --arch arm64 --tag localhost/made "$work" >/dev/null
    run --separate-stderr as_root run --rm --userns=auto localhost/made cat /made
    prints aarch64
    local arch
    for arch in amd64 arm64; do
        container=$(buildah from --quiet $mapped --tls-verify=false --arch $arch $multi)
        buildah run "$container" sh -c 'uname -m >/made'
        buildah commit --quiet "$container" "localhost/made:$arch" >/dev/null
        layer as_root "localhost/made:$arch" >"$RUN/layer.$arch"
    done
    run --separate-stderr buildah run "$container" cat /made
    prints aarch64
    cmp "$RUN/layer.amd64" "$RUN/layer.arm64" || fail "$(cat "$RUN/layer.arm64")"
    buildah rm --all >/dev/null
    as_root rmi localhost/made:amd64 localhost/made:arm64 >/dev/null
}

@test "buildah run has no option for hooks, so rootless it starts none" {
    local container
    container=$(as_alice_buildah from --quiet --tls-verify=false --arch arm64 $multi)
    run as_alice_buildah run "$container" uname -m
    refused "xec format error"
}

@test "chroot isolation starts no hook" {
    run as_alice build --quiet $hooks --isolation chroot --tls-verify=false --arch arm64 "$work"
    refused "xec format error"
}
