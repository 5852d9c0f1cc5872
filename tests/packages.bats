# The packages: what is in them, and what installing, upgrading and removing them leaves. In the
# laboratory's /usr, with package databases of their own.
# bats file_tags=any-runtime
bats_require_minimum_version 1.5.0
load helpers

source=$BATS_TEST_DIRNAME/..
hook=/usr/libexec/oci/hooks.d/toolbx-arch-hook
drop_in=/usr/share/containers/oci/hooks.d/50-toolbx-arch.json
prepared=/usr/libexec/toolbx-arch/emulators
databases=/run/packages # in memory: package managers wait for the disk at each step

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
    rm -rf $databases
    mkdir -p $databases/dpkg/{info,updates} $databases/rpm
    : >$databases/dpkg/status
}

deb=(dpkg --admindir=$databases/dpkg --log=/dev/null)
# Its empty database does not know of the shell that the scripts need.
rpm=(rpm --dbpath $databases/rpm --nodeps)

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
    [ ! -e /usr/libexec/toolbx-arch ]
    run as_alice run --rm localhost/busybox:arm64 uname -m
    refused "xec format error"
}

# Kills a command when it enters its first rename or unlink, its second, and so on, until it gets
# through: at all these moments a container could start.
killed() { # function-that-prepares function-that-acts
    local call n times=0
    # Where there are no emulators to prepare: what is killed there does not stop the package manager.
    mkdir -p /etc/toolbx-arch
    echo '{"emulator_directories": ["/usr/local/bin"]}' >/etc/toolbx-arch/policy.json
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

# What toolbx-arch has written goes with it; what users have written for themselves does no harm.
switched_and_removed() { # deb|rpm
    local choice caller
    for choice in "enable --annotation-only" "enable --precreate" disable; do
        "install_$1"
        toolbx-arch $choice
        toolbx-arch cdi --install
        [ "$choice" = "enable --precreate" ] || alice toolbx-arch $choice
        touch /etc/cdi/toolbx-arch.new-1 /etc/containers/containers.conf.d/{toolbx-arch.new-1,other.conf} # of one that was killed
        "remove_$1"
        [ "$(ls /etc/cdi /etc/containers/containers.conf.d)" = $'/etc/cdi:\n\n/etc/containers/containers.conf.d:\nother.conf' ] ||
            fail "$(ls /etc/cdi /etc/containers/containers.conf.d)"
        for caller in as_root as_alice; do
            run --separate-stderr $caller run --rm --network none localhost/busybox:amd64 uname -m
            prints x86_64
            # Whoever still asks for the device is told that there is none.
            run --separate-stderr $caller run --rm --network none --device toolbx.dev/arch=arm64 localhost/busybox:amd64 true
            refused "toolbx.dev/arch"
            [[ "$stderr" != *toolbx-arch-hook* ]] || fail "$stderr"
        done
        rm -rf /etc/containers/containers.conf.d /etc/cdi /home/alice/.config
    done
}

@test "deb: removed while it is switched on, or off, containers start" { switched_and_removed deb; }
@test "rpm: removed while it is switched on, or off, containers start" { switched_and_removed rpm; }

@test "deb: removed and not purged, it leaves nothing either" {
    install_deb
    "${deb[@]}" --remove toolbx-arch >/dev/null
    diff "$RUN/without" <(find /usr /etc -xdev | sort)
    [ ! -e /usr/libexec/toolbx-arch ]
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

# A package that brings the emulator for s390x, of another size in each version.
make_emulator_deb() { # version
    local tree=$RUN/emulator
    mkdir -p "$tree"/{DEBIAN,usr/bin}
    cp "$RUN/qemu-s390x$static" "$tree/usr/bin/"
    seq "$1" >>"$tree/usr/bin/qemu-s390x$static"
    printf '%s\n' 'Package: emulator' "Version: $1" 'Architecture: all' 'Maintainer: nobody <nobody@localhost>' \
        'Description: an emulator' >"$tree/DEBIAN/control"
    dpkg-deb -Z none --build "$tree" "$RUN/emulator.deb"
}
make_emulator_rpm() { # version
    cat >"$RUN/emulator.spec" <<END
Name: emulator
Version: $1
Release: 1
Summary: An emulator
License: none
AutoReqProv: no
%global debug_package %{nil}
%global __os_install_post %{nil}
%global _build_id_links none
%global _rpmfilename emulator.rpm
%description
An emulator.
%install
install -D -m 755 $RUN/qemu-s390x$static %{buildroot}/usr/bin/qemu-s390x$static
seq $1 >>%{buildroot}/usr/bin/qemu-s390x$static
%files
/usr/bin/qemu-s390x$static
END
    rpmbuild --quiet -bb --define "_topdir $RUN/rpmbuild" --define "_rpmdir $RUN" "$RUN/emulator.spec"
}
install_emulator_deb() { make_emulator_deb "$1" && "${deb[@]}" --install "$RUN/emulator.deb"; }
install_emulator_rpm() { make_emulator_rpm "$1" && "${rpm[@]}" --upgrade "$RUN/emulator.rpm"; }
remove_emulator_deb() { "${deb[@]}" --remove emulator; }
remove_emulator_rpm() { "${rpm[@]}" --erase emulator; }
remove_both_deb() { "${deb[@]}" --purge emulator toolbx-arch; }
remove_both_rpm() { "${rpm[@]}" --erase emulator toolbx-arch; }

without_emulator() { # for s390x
    keep /usr/bin/qemu-s390x$static
    mv /usr/bin/qemu-s390x$static "$RUN"
}

follow() { # deb|rpm
    without_emulator
    "install_$1"
    [[ -x $prepared/qemu-aarch64$static && ! -e $prepared/qemu-s390x$static ]]
    "install_emulator_$1" 1
    cp $prepared/qemu-s390x$static "$RUN/copy"
    run --separate-stderr as_alice run --rm --userns=keep-id localhost/busybox:s390x uname -m
    prints s390x
    "install_emulator_$1" 2
    [ -x $prepared/qemu-s390x$static ]
    run -1 cmp --silent $prepared/qemu-s390x$static "$RUN/copy"
    "remove_emulator_$1"
    [[ -x $prepared/qemu-aarch64$static && ! -e $prepared/qemu-s390x$static ]]
    "install_emulator_$1" 1
    [ -x $prepared/qemu-s390x$static ]
    run -0 "remove_both_$1"
    [[ "$output" != *"not every emulator"* ]] || fail "$output"
    [ ! -e /usr/libexec/toolbx-arch ]
}

fails_alone() { # deb|rpm
    local warning="warning: not every emulator is prepared; to try again, run: toolbx-arch prepare"
    without_emulator
    cp /bin/true "$RUN/qemu-s390x$static" # linked dynamically
    "install_$1"
    "install_emulator_$1" 1
    [[ -x $prepared/qemu-aarch64$static && ! -e $prepared/qemu-s390x$static ]]
    "remove_emulator_$1"
    rm -r $prepared
    : >$prepared # no directory can be made there
    run -0 "install_$1"
    [[ "$output" == *"$warning"* ]] || fail "$output"
    run -0 "install_emulator_$1" 2
    [[ "$output" == *"$warning"* ]] || fail "$output"
    rm $prepared
    "remove_emulator_$1"
    [ -x $prepared/qemu-aarch64$static ]
    touch /usr/libexec/toolbx-arch/own
    "remove_$1"
    run ls -A /usr/libexec/toolbx-arch
    prints own
    rm -r /usr/libexec/toolbx-arch
}

@test "deb: prepared copies follow the emulators" { follow deb; }
@test "rpm: prepared copies follow the emulators" { follow rpm; }
@test "deb: an emulator that cannot be prepared fails no installation" { fails_alone deb; }
@test "rpm: an emulator that cannot be prepared fails no installation" { fails_alone rpm; }

@test "make install prepares emulators, make uninstall takes the copies away, neither does elsewhere" {
    local make=(make --no-print-directory --silent -C "$source")
    "${make[@]}" install DESTDIR="$RUN/destination"
    [ ! -e /usr/libexec/toolbx-arch ]
    "${make[@]}" install
    [ -x $prepared/qemu-aarch64$static ]
    "${make[@]}" uninstall DESTDIR="$RUN/destination"
    [ -x $prepared/qemu-aarch64$static ]
    "${make[@]}" uninstall
    [ ! -e /usr/libexec/toolbx-arch ]
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

@test "they need no more than a shell, and pull in no emulator" {
    diff <(dpkg-deb --field "$RUN"/packages/*.deb Pre-Depends Depends Recommends) - <<<"Recommends: podman | buildah"
    diff <(dpkg-deb --ctrl-tarfile "$RUN"/packages/*.deb | tar -t | sort) - <<<$'./\n./control\n./md5sums\n./postinst\n./prerm\n./triggers'
    diff <(command rpm --query --package --requires "$RUN"/packages/*.rpm | grep -v '^rpmlib(' | sort -u) - <<</bin/sh
    diff <(command rpm --query --package --recommends "$RUN"/packages/*.rpm) - <<<"(podman or buildah)"
}

@test "dpkg's triggers are all the paths where an emulator can be" {
    local emulator
    make --no-print-directory --silent -C "$source" install
    dpkg-deb --info "$RUN"/packages/*.deb triggers >"$RUN/triggers"
    for emulator in $(toolbx-arch list --json | jq -r '.[].emulator.path // empty'); do
        grep --line-regexp --fixed-strings "interest-noawait $emulator" "$RUN/triggers"
        grep --line-regexp --fixed-strings "interest-noawait ${emulator%-static}" "$RUN/triggers"
    done
    run -1 grep --invert-match '^interest-noawait /usr/bin/qemu-' "$RUN/triggers"
}

@test "lintian finds nothing, and rpmlint no error" {
    lintian --allow-root --fail-on error,warning "$RUN"/packages/*.deb
    rpmlint --config "$source/packaging/rpmlint.toml" "$RUN"/packages/*.rpm
}

@test "the same commit makes the same packages, whoever makes them" {
    local kind first hers=/home/alice/checkout
    export SOURCE_DATE_EPOCH=1
    unset DEBFULLNAME DEBEMAIL
    # A copy of what it takes: the checkout may be for root only.
    mkdir "$hers"
    tar -C "$source" -c Makefile Cargo.toml LICENSE CHANGELOG.md packaging policies hooks.d podman-hooks.d \
        hook/tests target/toolbx-arch target/toolbx-arch-hook target/man target/completions | tar -C "$hers" -x
    for kind in deb rpm; do
        "$source/packaging/package" $kind "$RUN/once"
        alice env SOURCE_DATE_EPOCH=1 "$hers/packaging/package" $kind /home/alice/again
    done
    rm -r "$hers"
    for first in "$RUN"/once/*; do
        cmp "$first" "/home/alice/again/${first##*/}"
    done
}

@test "deb: its maintainer is who publishes it, and nobody by an invented address" {
    DEBFULLNAME= DEBEMAIL= "$source/packaging/package" deb "$RUN/published"
    diff <(dpkg-deb --field "$RUN"/published/*.deb Maintainer) - <<<"the toolbx-arch authors <>"
    DEBFULLNAME="A Publisher" DEBEMAIL=publisher@localhost "$source/packaging/package" deb "$RUN/published"
    diff <(dpkg-deb --field "$RUN"/published/*.deb Maintainer) - <<<"A Publisher <publisher@localhost>"
}

@test "installed: sudo works, and what its caller tells the emulator does not count" {
    install_deb
    toolbx-arch prepare --check >/dev/null
    arm64() { run --separate-stderr as_alice run --rm --userns=keep-id --user user --platform linux/arm64 "$@"; }
    arm64 localhost/debian sudo id -u
    prints 0
    logged 'targets[0].launcher="prepared"' 'targets[0].flags="OPFC"'
    arm64 localhost/debian sh -c 'QEMU_STRACE=1 QEMU_LOG_FILENAME=/etc/by-log su --version; ls /etc/by-log'
    refused "su from" "/etc/by-log"
    remove_deb
}
