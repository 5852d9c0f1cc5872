# Debian's packages, checked by Debian's keys, without installing any; to be sourced. They come from the
# mirror that apt uses on this machine, or the one in the environment's MIRROR. The machine's own apt
# settings, lists and caches are not touched: what apt needs is kept in the directory $work.
# shellcheck shell=bash disable=SC2154,SC2034 # whoever sources this sets work, and reads host

host=$(dpkg --print-architecture)
source tests/mirror.bash

# Runs one of apt's programs for these suites of Debian.
apt_for() { # suites arch program arguments…
    local state=$work/apt-${1// /-}-$2 suite
    mkdir -p "$state"/{lists,cache,dpkg}
    : >"$state/dpkg/status"
    for suite in $1; do
        echo "deb [signed-by=$keyring] $mirror $suite main"
    done >"$state/sources.list"
    "$3" -qq -o Dir::State="$state" -o Dir::State::Lists="$state/lists" \
        -o Dir::State::status="$state/dpkg/status" -o Dir::Cache="$state/cache" \
        -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Parts=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o APT::Sandbox::User=root -o APT::Architecture="$2" -o APT::Architectures="$2" "${@:4}"
}
