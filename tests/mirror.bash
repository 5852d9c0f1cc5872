# shellcheck shell=bash disable=SC2034 # for the scripts that source this
# Where Debian's packages come from: the mirror that this machine's apt uses, or the one in the
# environment's MIRROR.
mirror=${MIRROR:-$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 !~ /security/ { print $2; exit }')}
[ -n "$mirror" ] || { echo "$0: error: apt here has no Debian mirror; run it as MIRROR=URL $0" >&2; exit 1; }
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r "$keyring" ] || { echo "$0: error: $keyring is missing; run: make deps" >&2; exit 1; }
