# make deps build demo check lint install uninstall
PREFIX ?= /usr
DESTDIR ?=
CARGO ?= cargo

HOOK_DIR = $(DESTDIR)/usr/libexec/oci/hooks.d
DROP_IN_DIR = $(DESTDIR)/usr/share/containers/oci/hooks.d
HOOK = target/release-hook/toolbx-arch-hook

install:
	install -D -m 755 target/x86_64-unknown-linux-gnu/release/toolbx-arch-hook $(HOOK_DIR)/toolbx-arch-hook
	install -D -m 644 policies/default.json $(DESTDIR)$(PREFIX)/share/toolbx-arch/policy.json
	install -D -m 644 hooks.d/50-toolbx-arch.json $(DROP_IN_DIR)/50-toolbx-arch.json
