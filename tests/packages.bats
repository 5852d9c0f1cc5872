# The packages: what is in them, and what installing, upgrading and removing them leaves. In the
# laboratory's /usr, with package databases of their own.
bats_require_minimum_version 1.5.0
load helpers

source=$BATS_TEST_DIRNAME/..
hook=/usr/libexec/oci/hooks.d/toolbx-arch-hook
drop_in=/usr/share/containers/oci/hooks.d/50-toolbx-arch.json

setup_file() {
    make --no-print-directory --silent -C "$source" uninstall
    rmdir --ignore-fail-on-non-empty /usr/libexec/oci /usr/share/containers/oci
    rm -f /etc/dpkg/dpkg.cfg.d/* # where a machine may say which files are left out
    "$source/packaging/package" deb "$RUN/packages"
    "$source/packaging/package" rpm "$RUN/packages"
    find /usr /etc -xdev | sort >"$RUN/without"
}

teardown_file() {
    make --no-print-directory --silent -C "$source" install # for the files that come after this one
}

setup() {
    : >/run/log.records
    forget
}

# A machine on which the package has never been. A manager that was killed leaves unfinished files
# with names of its own.
forget() {
    make --no-print-directory --silent -C "$source" uninstall
    find /usr/bin /usr/libexec /usr/share/{containers,man,lintian,*completion*,fish,zsh} -name '*toolbx-arch*' \
        -delete 2>/dev/null || true
    rm -rf "$RUN"/{dpkg,rpm}
    mkdir -p "$RUN"/dpkg/{info,updates} "$RUN/rpm"
    : >"$RUN/dpkg/status"
}

deb=(dpkg --admindir="$RUN/dpkg" --log=/dev/null)
rpm=(rpm --dbpath "$RUN/rpm")

# Installs or upgrades; removes.
install_deb() { "$@" "${deb[@]}" --install "$RUN"/packages/*.deb >/dev/null; }
remove_deb() { "$@" "${deb[@]}" --purge toolbx-arch >/dev/null; }
install_rpm() { "$@" "${rpm[@]}" --upgrade --replacepkgs "$RUN"/packages/*.rpm; }
remove_rpm() { "$@" "${rpm[@]}" --erase toolbx-arch; }

runs() {
    run --separate-stderr as_alice run --rm --annotation toolbx.arch=arm64 localhost/busybox:arm64 uname -m
    prints aarch64
}

lives() { # deb|rpm: install, run, upgrade, run, remove
    "install_$1"
    runs
    "install_$1"
    runs
    "remove_$1"
    diff "$RUN/without" <(find /usr /etc -xdev | sort)
    run as_alice run --rm localhost/busybox:arm64 uname -m
    refused "xec format error"
}

# Kills a command when it enters its first rename or unlink, its second, and so on, until it gets
# through: at all these moments a container could start.
killed() { # function-that-prepares function-that-acts
    local call n times=0
    for call in rename,renameat,renameat2 unlink,unlinkat; do
        for ((n = 1; ; n++)); do
            $1
            ! $2 strace --follow-forks --quiet=all --output=/dev/null --trace="$call" \
                --inject="$call:signal=KILL:when=$n" 2>/dev/null || break
            times=$((times + 1))
            [ ! -e $drop_in ] || cmp $hook "$source/target/toolbx-arch-hook" ||
                fail "$2, killed at $call number $n: a drop-in and no hook"
            [ $n -lt 200 ] || fail "$2 does not get through"
        done
    done
    [ $times -ge 10 ] || fail "$2 was killed $times times only"
}

fresh_deb() { forget; install_deb; }
fresh_rpm() { forget; install_rpm; }

@test "deb: install, upgrade, purge, and nothing is left" { lives deb; }
@test "rpm: install, upgrade, erase, and nothing is left" { lives rpm; }

@test "deb: as somebody would who has Podman only" {
    keep /usr/bin/qemu-*
    rm /usr/bin/qemu-*
    install_deb
    run alice toolbx-arch doctor
    put_back # which is what it says
    [[ "$status" = 2 && "$output" == *"✗ emulators        none was found; install the package qemu-user-static"* ]] || fail "$output"
    run alice toolbx-arch doctor
    [[ "$status" -le 1 && "$output" != *✗* ]] || fail "$output"
    runs
    [ -e /usr/share/man/man1/toolbx-arch-doctor.1.gz ]
    remove_deb
    run -127 alice toolbx-arch doctor
}

@test "deb: removed while it is switched on, or off, containers start" {
    local choice
    for choice in "enable --annotation-only" "enable --precreate" disable; do
        install_deb
        toolbx-arch $choice
        remove_deb
        run --separate-stderr as_root run --rm --network none localhost/busybox:amd64 uname -m
        prints x86_64
        rm -r /etc/containers/containers.conf.d
    done
}

@test "deb: removed and not purged, it leaves nothing either" {
    install_deb
    "${deb[@]}" --remove toolbx-arch >/dev/null
    diff "$RUN/without" <(find /usr /etc -xdev | sort)
    run "${deb[@]}" --status toolbx-arch
    refused "is not installed" # not "config-files"
}

@test "deb: killed anywhere, the drop-in is never there without the hook" {
    killed forget install_deb
    killed fresh_deb install_deb
    killed fresh_deb remove_deb
}

@test "rpm: killed anywhere, the drop-in is never there without the hook" {
    killed forget install_rpm
    killed fresh_rpm install_rpm
    killed fresh_rpm remove_rpm
}

@test "both bring what make install does, and their own documents" {
    local to=$RUN/destination
    make --no-print-directory --silent -C "$source" install DESTDIR="$to"
    find "$to" -type f -printf '/%P %m\n' | sed 's,\(/man/.*\) ,\1.gz ,' | sort >"$RUN/installed"
    rm -rf "$to"
    dpkg-deb --fsys-tarfile "$RUN"/packages/*.deb | tar -x --directory "$RUN" --transform 's,^\.,destination,'
    find "$to" -type f -printf '/%P %m\n' | sort >"$RUN/deb"
    rm -rf "$to"
    command rpm --query --package --queryformat '[%{FILENAMES} %{FILEMODES:octal}\n]' "$RUN"/packages/*.rpm |
        sed -n 's/ 100/ /p' | sort >"$RUN/rpm.files"
    diff <(comm -13 "$RUN/installed" "$RUN/deb") - <<END
/usr/share/doc/toolbx-arch/changelog.Debian.gz 644
/usr/share/doc/toolbx-arch/changelog.gz 644
/usr/share/doc/toolbx-arch/copyright 644
/usr/share/lintian/overrides/toolbx-arch 644
END
    diff <(comm -13 "$RUN/installed" "$RUN/rpm.files") - <<END
/usr/share/doc/toolbx-arch/LICENSE 644
/usr/share/doc/toolbx-arch/changelog.gz 644
END
    diff <(comm -23 "$RUN/installed" "$RUN/deb") /dev/null
    diff <(comm -23 "$RUN/installed" "$RUN/rpm.files") /dev/null
}

@test "they need nothing, pull in no emulator, and run no scripts" {
    diff <(dpkg-deb --field "$RUN"/packages/*.deb Pre-Depends Depends Recommends) - <<<"Recommends: podman | buildah"
    diff <(dpkg-deb --ctrl-tarfile "$RUN"/packages/*.deb | tar -t | sort) - <<<$'./\n./control\n./md5sums'
    diff <(command rpm --query --package --requires "$RUN"/packages/*.rpm | grep -v '^rpmlib(') /dev/null
    diff <(command rpm --query --package --recommends "$RUN"/packages/*.rpm) - <<<"(podman or buildah)"
    diff <(command rpm --query --package --scripts --triggers "$RUN"/packages/*.rpm) /dev/null
}

@test "lintian finds nothing, and rpmlint no error" {
    lintian --allow-root --fail-on error,warning "$RUN"/packages/*.deb
    rpmlint --config "$source/packaging/rpmlint.toml" "$RUN"/packages/*.rpm
}

@test "the same commit makes the same packages, whoever makes them" {
    local kind first
    export SOURCE_DATE_EPOCH=1
    for kind in deb rpm; do
        "$source/packaging/package" $kind "$RUN/once"
        alice env SOURCE_DATE_EPOCH=1 "$(realpath "$source")/packaging/package" $kind /home/alice/again
    done
    for first in "$RUN"/once/*; do
        cmp "$first" "/home/alice/again/${first##*/}"
    done
}
