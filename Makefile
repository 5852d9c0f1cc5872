# make deps      install what building and testing need (Debian and Ubuntu, as root)
# make build     build the hook and the program toolbx-arch (TARGET)
# make install   install it (as root; DESTDIR, PREFIX; AUTO=no: for annotated containers only)
# make uninstall take it away again
# make deb       a package of the above in target/packages, for Debian and Ubuntu
# make rpm       the same, for Fedora and its kin
# make demo      run foreign containers, on a machine of its own making (as root)
# make test      the tests that need no root, and make lint: two minutes
# make check     all tests (as root; LABORATORIES: how many at once)
# make check-newer   the same bats files, on Debian 13's engines, runtimes and emulators (as root)
# make check-kernels
#                the hook on Debian's kernels, in virtual machines, which takes an hour or more (as root;
#                KERNELS: which, by their versions)
# make bench     measure what it takes against what it should (as root)
# make images    only fetch and make what the tests run
# make lint      formatting, clippy, shellcheck, the CI definition
# make deny      licences, bans and sources of crates
# make advisories  what RustSec's database says of crates
# make msrv      whether the oldest Rust that is supported builds it
# make arm64     build for arm64, and the launcher's tests there, in an emulator
# make clean     remove what was built and fetched
CARGO ?= cargo
PREFIX ?= /usr
DESTDIR ?=
AUTO ?= yes

# Which drop-ins: those that look into every container, or those that wait for an annotation.
WHEN = $(if $(filter no,$(AUTO)),/annotation-only)

# What the programs are built for: this machine, with the C library musl (docs/architecture.md says
# why). For a Rust without it, or a machine that it does not support, name the target of `rustc -vV`.
TARGET = $(subst -gnu,-musl,$(shell rustc -vV | sed -n 's/^host: //p'))
HOOK = target/toolbx-arch-hook
PROGRAM = target/toolbx-arch
MAN = target/man/toolbx-arch-hook.8 target/man/toolbx-arch-policy.5
# Made from what the program understands; with a page for each command.
MANUALS = target/man/toolbx-arch.1

# With the commit, in a checkout.
COMMIT := $(shell git rev-parse --short=12 HEAD 2>/dev/null)
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
export TOOLBX_ARCH_VERSION = $(VERSION)$(if $(COMMIT), ($(COMMIT)))

# Engines look for hooks in these directories whatever the prefix is, and the hook for its policy.
LIBEXEC = $(DESTDIR)/usr/libexec/oci/hooks.d
DROP_INS = $(DESTDIR)/usr/share/containers/oci/hooks.d
DATA = $(DESTDIR)/usr/share/toolbx-arch
BINDIR = $(DESTDIR)$(PREFIX)/bin
SHAREDIR = $(DESTDIR)$(PREFIX)/share
# What `toolbx-arch enable` and `disable` choose from: the name there, and where it is here.
CHOICES = all=hooks.d annotation-only=hooks.d/annotation-only off=hooks.d/off \
	precreate=podman-hooks.d precreate-annotation-only=podman-hooks.d/annotation-only
# The other processor that the launcher is written for.
ARM64 = aarch64-unknown-linux-gnu
ARM64_EMULATOR = target/images/qemu/usr/bin/qemu-aarch64-static
ARM64_CARGO = CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$(CURDIR)/$(ARM64_EMULATOR) $(CARGO)

# Not where engines look by themselves: only Podman knows the stage that is asked for there.
PODMAN_DROP_INS = $(DATA)/podman-hooks.d
MANDIR = $(SHAREDIR)/man
DOCDIR = $(SHAREDIR)/doc/toolbx-arch
# What `toolbx-arch prepare` writes.
PREPARED = $(DESTDIR)/usr/libexec/toolbx-arch
# What `toolbx-arch cdi`, `enable` and `disable` write, the devices first; and what they leave when they
# are killed. The packages take the same away.
WRITTEN = $(addprefix $(DESTDIR),$(shell cat packaging/written))

# To build: a C linker with a C library for what runs while building, the binutils, and go-md2man for
# the man pages.
TO_BUILD = gcc libc6-dev binutils go-md2man
TO_LINT = shellcheck python3 python3-yaml
# What the Rust tests call, and what checks Debian's packages, in which the emulators are.
TO_TEST = musl-tools python3 debian-archive-keyring
FOR_ARM64 = gcc-aarch64-linux-gnu libc6-dev-arm64-cross
# For the laboratory: engines, runtimes, emulators, and what it and the bats files call.
FOR_LABORATORY = podman buildah skopeo crun runc conmon netavark aardvark-dns catatonit uidmap slirp4netns \
	fuse-overlayfs iptables debootstrap bats jq strace time iproute2 systemd python3-jsonschema \
	rpm lintian rpmlint secilc apparmor

.PHONY: all deps build install uninstall deb rpm demo test check check-newer check-kernels bench lint deny \
	advisories msrv arm64 images clean
.DELETE_ON_ERROR:

all: build

# Rust's library for another target than the one it came with.
ensure_rust_for = @test -d "$$(rustc --print sysroot)/lib/rustlib/$1" || rustup target add $1 || \
	{ echo "Rust's library for $1 is missing, and there is no rustup to get it; with the C library of this machine: make TARGET=$$(rustc -vV | sed -n 's/^host: //p')" >&2; exit 1; }

# A part of Rust's toolchain that its smallest form lacks.
ensure_component = @$(CARGO) $1 --version >/dev/null 2>&1 || rustup component add $2 || \
	{ echo "$2 is missing, and there is no rustup to get it" >&2; exit 1; }

deps:
	@tests/deps $(TO_BUILD) $(TO_LINT) $(TO_TEST) $(FOR_ARM64) $(FOR_LABORATORY)

build: $(HOOK) $(PROGRAM) $(MAN) $(MANUALS)

# Always asked: cargo knows best what has changed.
.PHONY: $(HOOK) $(PROGRAM) $(MANUALS)
$(HOOK) $(PROGRAM):
	$(call ensure_rust_for,$(TARGET))
	$(CARGO) build --release --locked --target $(TARGET) --package $(@F)
	install -D -m 755 target/$(TARGET)/release/$(@F) $@

$(MANUALS):
	$(CARGO) run --quiet --locked --package toolbx-arch --example manuals -- target/man target/completions

target/man/%: docs/%.md
	mkdir -p $(@D)
	go-md2man -in $< -out $@

# The binary before the drop-in: a drop-in without its binary stops every container. The emulators
# last, as in the packages: containers run without prepared copies too.
install:
	@test -x $(HOOK) -a -x $(PROGRAM) || { echo "nothing is built yet; run: make build" >&2; exit 1; }
	install -D -m 755 $(HOOK) $(LIBEXEC)/toolbx-arch-hook
	install -D -m 644 policies/default.json $(DATA)/policy.json
	install -D -m 644 policies/policy.schema.json $(DATA)/policy.schema.json
	install -D -m 644 policies/strict.json $(DOCDIR)/policies/strict.json
	install -D -m 644 policies/ci.json $(DOCDIR)/policies/ci.json
	install -D -m 644 policies/selinux/toolbx_arch.cil $(DOCDIR)/policies/selinux/toolbx_arch.cil
	install -D -m 644 policies/apparmor/toolbx-arch-hook $(DOCDIR)/policies/apparmor/toolbx-arch-hook
	install -D -m 755 $(PROGRAM) $(BINDIR)/toolbx-arch
	install -D -m 644 -t $(MANDIR)/man1 target/man/*.1
	install -D -m 644 target/completions/toolbx-arch.bash \
		$(SHAREDIR)/bash-completion/completions/toolbx-arch
	install -D -m 644 target/completions/_toolbx-arch $(SHAREDIR)/zsh/site-functions/_toolbx-arch
	install -D -m 644 target/completions/toolbx-arch.fish \
		$(SHAREDIR)/fish/vendor_completions.d/toolbx-arch.fish
	install -D -m 644 target/man/toolbx-arch-hook.8 $(MANDIR)/man8/toolbx-arch-hook.8
	install -D -m 644 target/man/toolbx-arch-policy.5 $(MANDIR)/man5/toolbx-arch-policy.5
	for choice in $(CHOICES); do \
		install -D -m 644 -t $(DATA)/hooks.d/$${choice%%=*} $${choice#*=}/*.json; \
	done
	install -D -m 644 podman-hooks.d$(WHEN)/50-toolbx-arch-userns.json \
		$(PODMAN_DROP_INS)/50-toolbx-arch-userns.json
	install -D -m 644 hooks.d$(WHEN)/50-toolbx-arch.json $(DROP_INS)/50-toolbx-arch.json
	$(if $(DESTDIR),,$(BINDIR)/toolbx-arch prepare >/dev/null || \
		echo "not every emulator is prepared; to try again, run: toolbx-arch prepare" >&2)

# With the CDI devices and without the binary, no container that has one would start.
uninstall:
	rm -f $(WRITTEN)
	rm -f $(DROP_INS)/50-toolbx-arch.json
	rm -f $(MANDIR)/man8/toolbx-arch-hook.8 $(MANDIR)/man5/toolbx-arch-policy.5
	rm -f $(MANDIR)/man1/toolbx-arch.1 $(MANDIR)/man1/toolbx-arch-*.1 $(BINDIR)/toolbx-arch
	rm -f $(SHAREDIR)/bash-completion/completions/toolbx-arch \
		$(SHAREDIR)/zsh/site-functions/_toolbx-arch \
		$(SHAREDIR)/fish/vendor_completions.d/toolbx-arch.fish
	rm -rf $(DOCDIR) $(DATA) $(PREPARED)/emulators
	rm -f $(LIBEXEC)/toolbx-arch-hook
	rmdir --ignore-fail-on-non-empty $(DROP_INS) $(LIBEXEC) $(PREPARED) 2>/dev/null || true

deb rpm: build
	packaging/package $@

demo: deps build
	@tests/images --small
	tests/lab tests/demo

test: lint
	@tests/deps $(TO_BUILD) $(TO_TEST)
	$(call ensure_rust_for,$(TARGET))
	@tests/images --emulators
	$(CARGO) test --locked --workspace --target $(TARGET)

arm64:
	@tests/deps $(TO_BUILD) $(TO_TEST) $(FOR_ARM64)
	$(call ensure_rust_for,$(ARM64))
	@tests/images --emulators
	$(ARM64_CARGO) build --release --locked --target $(ARM64)
	$(ARM64_EMULATOR) target/$(ARM64)/release/toolbx-arch-hook --version
	$(ARM64_CARGO) test --locked --target $(ARM64) --package toolbx-arch-hook --test stacks

# Laboratories side by side: the output of each is shown when it has ended, and until then it grows in
# target/logs.
LABORATORIES = $(shell nproc)
SIDE_BY_SIDE = --no-print-directory --jobs=$(LABORATORIES) --keep-going --output-sync=target

check: deps test arm64 build images
	$(MAKE) $(SIDE_BY_SIDE) check-crun check-runc check-newer-some

check-newer: deps build images
	$(MAKE) $(SIDE_BY_SIDE) check-newer-crun check-newer-runc

.PHONY: check-crun check-runc check-newer-crun check-newer-runc check-newer-some
check-crun check-runc: check-%:
	tests/lab env RUNTIMES=$* tests/engines
check-newer-crun check-newer-runc: check-newer-%:
	tests/lab --root=trixie env RUNTIMES=$* tests/engines
check-newer-some:
	tests/lab --root=trixie env RUNTIMES=crun tests/engines run.bats detect.bats refuse.bats userns.bats \
		guards.bats scopes.bats builds.bats toolbx.bats

check-kernels: deps build images
	@tests/deps qemu-system-x86 cpio
	tests/kernels $(KERNELS)

bench: deps build images
	tests/lab tests/bench

images: build
	tests/images
	test -e target/images/debian-arm64.tar || tests/lab tests/debian

lint:
	@tests/deps $(TO_LINT)
	$(call ensure_component,fmt,rustfmt)
	$(CARGO) fmt --all --check
	$(call ensure_component,clippy,clippy)
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings
	shellcheck --shell=bash --exclude=SC2016 $(shell grep -rl '^#!/usr/bin/env bash' tests packaging) tests/*.bash
	shellcheck --shell=sh $(shell grep -rl '^#!/bin/sh' images packaging) hook/tests/container.sh
	tests/workflow .github/workflows/ci.yml

# Built where cargo does not see this project's configuration, which is for programs that are static.
DENY = PATH="$(CURDIR)/target/tools/bin:$$PATH" $(CARGO) deny
.PHONY: cargo-deny
cargo-deny:
	@PATH="$(CURDIR)/target/tools/bin:$$PATH"; command -v cargo-deny >/dev/null || \
		{ cd / && $(CARGO) install --locked --root $(CURDIR)/target/tools cargo-deny; } || \
		{ echo "cargo-deny is missing, and cargo cannot build it (above)" >&2; exit 1; }

deny: cargo-deny
	$(DENY) check licenses bans sources

advisories: cargo-deny
	$(DENY) fetch db || { echo "RustSec's database cannot be had here; nothing was checked" >&2; exit 1; }
	$(DENY) check --disable-fetch advisories

OLDEST_RUST := $(shell sed -n 's/^rust-version = "\([^"]*\)".*/\1/p' Cargo.toml)
msrv:
	@rustup run $(OLDEST_RUST) cargo --version 2>/dev/null || rustup toolchain install --profile minimal $(OLDEST_RUST) || \
		{ echo "Rust $(OLDEST_RUST) is not here, and rustup cannot get it (above); nothing was checked" >&2; exit 1; }
	rustup run $(OLDEST_RUST) cargo check --locked --workspace --all-targets --target-dir target/msrv

clean:
	rm -rf target
