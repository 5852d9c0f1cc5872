# The snippets for SELinux and AppArmor: that they compile, and what the SELinux one allows. No kernel
# loads them here.
# bats file_tags=any-runtime
bats_require_minimum_version 1.5.0
load helpers

policies=$BATS_TEST_DIRNAME/../policies

setup() {
    work=$BATS_TEST_TMPDIR
    # As little of a policy as a module needs that names these types.
    cat >"$work/base.cil" <<'END'
(class dir (getattr open read search write))
(class file (getattr open read write))
(class process (transition))
(classorder (dir file process))
(sid kernel)
(sidorder (kernel))
(user u) (role r) (type container_t) (type container_runtime_t) (type binfmt_misc_fs_t)
(userrole u r) (roletype r container_t) (roletype r container_runtime_t)
(sensitivity s0) (sensitivityorder (s0)) (category c0) (categoryorder (c0))
(sensitivitycategory s0 (c0)) (level low (s0)) (levelrange range (low low))
(userlevel u low) (userrange u range)
(sidcontext kernel (u r container_runtime_t range))
(typeattribute container_domain) (typeattributeset container_domain (container_t))
END
}

teardown() { :; } # no container was started

compiles() { # a further rule
    echo "${1:-}" >"$work/rule.cil"
    secilc --output "$work/policy" --filecontext "$work/contexts" "$work/base.cil" "$policies/selinux/toolbx_arch.cil" \
        "$work/rule.cil"
}

@test "SELinux: it compiles, and a type that does not exist does not" {
    compiles
    run compiles '(allow container_t no_such_t (file (read)))'
    refused "Failed to resolve allow statement at $work/rule.cil:1"
}

@test "SELinux: the runtime may register, containers may read and never write" {
    local never='(neverallow %s binfmt_misc_fs_t (%s (%s)))'
    compiles "$(printf "$never" container_t file write)"
    compiles "$(printf "$never" container_t dir write)"
    compiles "$(printf "$never" container_runtime_t dir write)"
    for rule in "container_runtime_t file write" "container_t file read" "container_t dir search"; do
        run compiles "$(printf "$never" $rule)"
        refused "neverallow check failed"
    done
}

@test "AppArmor: it compiles, and a capability that does not exist does not" {
    local profile=$policies/apparmor/toolbx-arch-hook
    apparmor_parser --skip-kernel-load --skip-cache "$profile"
    sed 's/capability sys_admin/capability sys_nonsense/' "$profile" >"$work/broken"
    run apparmor_parser --skip-kernel-load --skip-cache "$work/broken"
    refused "sys_nonsense"
}

@test "AppArmor: the profile is for the hook that the drop-in names, and only complains" {
    local name
    name=$(apparmor_parser --skip-kernel-load --names "$policies/apparmor/toolbx-arch-hook" 2>/dev/null)
    [ "$name" = toolbx-arch-hook ] || fail "$name"
    grep -q "^profile $name $(jq -r .hook.path /usr/share/containers/oci/hooks.d/50-toolbx-arch.json) flags=(complain," \
        "$policies/apparmor/toolbx-arch-hook"
}
