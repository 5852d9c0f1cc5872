# A whole foreign userland: Debian for arm64, with shell, perl, sudo and su.
bats_require_minimum_version 1.5.0
load helpers

annotated="--annotation toolbx.arch=arm64"
debian=localhost/debian

setup_file() {
    as_root image exists $debian || fail "no Debian image; run: make images"
}

@test "it runs, in every scope" {
    run --separate-stderr as_root run --rm --userns=auto:size=65536 $annotated $debian dpkg --print-architecture
    prints arm64
    run --separate-stderr as_alice run --rm --userns=keep-id $annotated $debian dpkg --print-architecture
    prints arm64
    run --separate-stderr as_alice run --rm $annotated $debian perl -e 'print join("", map { chr } 97..101)'
    prints abcde
}

@test "sudo and su give root in a private namespace" {
    local as
    for as in "as_root --userns=auto:size=65536" "as_alice --userns=keep-id"; do
        read -r podman options <<<"$as"
        run --separate-stderr $podman run --rm $options --user user $annotated $debian sudo --non-interactive id -u
        prints 0
        run --separate-stderr $podman run --rm --interactive $options --user user $annotated $debian \
            sh -c 'echo secret | su -c "id -u"'
        prints 0
    done
}

@test "sudo gives no root where the namespace is shared, or the policy says never" {
    run --separate-stderr as_alice run --rm --user user $annotated $debian sudo --non-interactive id -u
    refused "effective uid is not 0"
    run --separate-stderr as_alice run --rm --user user $annotated $debian \
        sh -c 'echo secret | su -c "id -u"'
    refused "su:"
    mkdir -p /etc/toolbx-arch
    echo '{"credentials": "never"}' >/etc/toolbx-arch/policy.json
    run --separate-stderr as_alice run --rm --userns=keep-id --user user $annotated $debian sudo --non-interactive id -u
    refused "effective uid is not 0"
}

@test "dpkg and apt work on it" {
    run --separate-stderr as_alice run --rm $annotated --network none $debian \
        sh -c 'dpkg --audit && apt-get --simulate remove sudo'
    [ "$status" = 0 ]
    [[ "$output" == *"Remv sudo "* ]] || fail "$output" "$stderr"
}
