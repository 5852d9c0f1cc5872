# make deps      install what building and testing need (Debian and Ubuntu, as root)
# make build     build the hook and the program toolbx-arch (TARGET)
# make install   install it (as root; DESTDIR, PREFIX; AUTO=no: for annotated containers only)
# make uninstall take it away again
# make deb       a package of the above in target/packages, for Debian and Ubuntu
# make rpm       the same, for Fedora and its kin
# make demo      run foreign containers, on a machine of its own making (as root)
# make check     all tests (as root)
# make check-newer   the same bats files, on Debian 13's engines, runtimes and emulators (as root)
# make check-kernels
#                the hook on Debian's kernels, in virtual machines, which takes an hour or more (as root;
#                KERNELS: which, by their versions)
# make bench     measure what it takes against what it should (as root)
# make images    only fetch and make what the tests run
# make lint      formatting, clippy, shellcheck, cargo-deny
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
# The launcher's tests for the other processor that it is written for; they run in an emulator.
ARM64 = aarch64-unknown-linux-gnu
FOR_ARM64 = CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$(CURDIR)/target/images/qemu/usr/bin/qemu-aarch64-static

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
# To test: engines, runtimes, emulators, and what the laboratory and the tests call.
PACKAGES = gcc libc6-dev binutils go-md2man \
	podman buildah skopeo crun runc conmon netavark aardvark-dns catatonit uidmap slirp4netns \
	fuse-overlayfs iptables debootstrap bats jq strace time iproute2 musl-tools \
	python3 python3-jsonschema shellcheck debian-archive-keyring \
	rpm lintian rpmlint secilc apparmor gcc-aarch64-linux-gnu libc6-dev-arm64-cross

.PHONY: all deps build install uninstall deb rpm demo check check-newer check-kernels bench lint images clean
.DELETE_ON_ERROR:

all: build

# Rust's library for another target than the one it came with.
ensure_rust_for = @test -d "$$(rustc --print sysroot)/lib/rustlib/$1" || rustup target add $1 || \
	{ echo "Rust's library for $1 is missing, and there is no rustup to get it; with the C library of this machine: make TARGET=$$(rustc -vV | sed -n 's/^host: //p')" >&2; exit 1; }

deps:
	@tests/deps $(PACKAGES)

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

check: deps build images
	$(CARGO) test --locked --target $(TARGET)
	$(call ensure_rust_for,$(ARM64))
	$(FOR_ARM64) $(CARGO) test --locked --target $(ARM64) --test stacks
	tests/lab tests/engines
	tests/lab --root=trixie env RUNTIMES=crun tests/engines run.bats detect.bats refuse.bats userns.bats \
		guards.bats scopes.bats builds.bats toolbx.bats

check-newer: deps build images
	tests/lab --root=trixie tests/engines

check-kernels: deps build images
	@tests/deps qemu-system-x86 cpio
	tests/kernels $(KERNELS)

bench: deps build images
	tests/lab tests/bench

images: build
	tests/images
	test -e target/images/debian-arm64.tar || tests/lab tests/debian

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings
	shellcheck --shell=bash --exclude=SC2016 tests/apt.bash tests/deps tests/demo tests/engines tests/helpers.bash tests/images \
		tests/kernels tests/lab tests/mirror.bash tests/root tests/setup_suite.bash tests/debian tests/bench \
		tests/host-with-handlers packaging/package
	shellcheck --shell=sh hook/tests/container.sh images/with-hooks packaging/postinst packaging/prerm
	@command -v cargo-deny >/dev/null || echo "cargo-deny is not installed: its check is left out"
	! command -v cargo-deny >/dev/null || $(CARGO) deny check licenses bans sources

clean:
	rm -rf target
