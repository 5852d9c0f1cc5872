//! `toolbx-arch doctor`: everything that emulated containers need, checked as whoever calls, and how
//! to mend what is missing. Changes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use toolbx_arch::arch::binfmt::Entry;
use toolbx_arch::base::message;
use toolbx_arch::host::emulator;
use toolbx_arch::host::instance::Visible;
use toolbx_arch::host::launcher;
use toolbx_arch::host::policy::{self, Launcher, Policy};
use toolbx_arch::host::prepared::Prepared;
use toolbx_arch::host::trust::{Caller, Host};

use crate::args::Doctor;
use crate::hooks_d::{Calls, DropIns, OURS, OURS_PRECREATE, PRECREATE};
use crate::list::{self, TargetStatus};
use crate::person::{self, Person};
use crate::terminal::{self, Mark};
use crate::trial::{self, Trial};
use crate::{caller, cdi, containers_conf, hooks_d};

/// What to do where the caller may run no emulator.
const UNTRIED: &str = "start a foreign container to see: a container is in a domain of its own";

/// What one look has shown.
struct Finding {
    /// What was looked at.
    what: &'static str,
    mark: Mark,
    says: String,
    /// What mends it.
    fix: Option<String>,
    /// What it is made of, for programs.
    details: Option<Value>,
}

fn good(what: &'static str, says: impl Into<String>) -> Finding {
    Finding { what, mark: Mark::Good, says: says.into(), fix: None, details: None }
}

fn warning(what: &'static str, says: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { what, mark: Mark::Warning, says: says.into(), fix: Some(fix.into()), details: None }
}

fn bad(what: &'static str, says: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { what, mark: Mark::Bad, says: says.into(), fix: Some(fix.into()), details: None }
}

pub fn run(arguments: &Doctor) -> Result<ExitCode> {
    let person = Person::calling()?;
    let mut findings = vec![kernel(), binfmt_misc()];
    findings.extend(user_namespaces(&person));
    findings.push(ids(&person));
    let trial = trial::have_made()?;
    findings.push(sandbox(&trial));
    findings.extend(engines());
    findings.extend(drop_ins(&person));
    findings.extend(security_modules());
    findings.push(log());
    findings.extend(in_a_container());
    // From here on as the hook would see it.
    match caller::become_hooks_caller() {
        Ok(host) => {
            let policy = policy(&host);
            let is_usable = policy.mark != Mark::Bad;
            findings.push(policy);
            findings.extend(is_usable.then(|| emulators(&host, &trial)).into_iter().flatten());
        }
        Err(why) => {
            findings.push(bad("emulators", message::line(&why), "mend what is marked above"));
        }
    }
    findings.push(host_handlers());
    show(arguments, &findings);
    Ok(exit_code(&findings))
}

fn show(arguments: &Doctor, findings: &[Finding]) {
    if arguments.json {
        let to_json = |finding: &Finding| {
            json!({
                "check": finding.what,
                "status": finding.mark.name(),
                "says": finding.says,
                "fix": finding.fix,
                "details": finding.details,
            })
        };
        terminal::print_json(&findings.iter().map(to_json).collect());
        return;
    }
    let colour = terminal::has_colour();
    terminal::print_coloured(|safe| {
        let to_line = |finding: &Finding| {
            let fix = finding.fix.as_ref().map(|fix| format!("; {fix}")).unwrap_or_default();
            let line = safe(&format!("{:<16} {}{fix}", finding.what, finding.says));
            format!("{} {line}\n", finding.mark.show(colour))
        };
        findings.iter().map(to_line).collect()
    });
}

/// 0 all is well, 1 there are warnings, 2 it will not work.
fn exit_code(findings: &[Finding]) -> ExitCode {
    match findings.iter().map(|finding| finding.mark).max() {
        None | Some(Mark::Good) => ExitCode::SUCCESS,
        Some(Mark::Warning) => ExitCode::from(1),
        Some(Mark::Bad) => ExitCode::from(2),
    }
}

fn kernel() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if has_own_handlers(&release) {
        good("kernel", format!("Linux {release}: user namespaces have handlers of their own"))
    } else {
        bad(
            "kernel",
            format!("Linux {release} has no handlers for a user namespace alone"),
            "boot Linux 6.7 or later",
        )
    }
}

/// Whether this is Linux 6.7 or later.
fn has_own_handlers(release: &str) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 7)
}

fn binfmt_misc() -> Finding {
    if Path::new("/proc/sys/fs/binfmt_misc").is_dir() {
        good("binfmt_misc", "the kernel has it")
    } else {
        bad(
            "binfmt_misc",
            "the kernel has none",
            "run: sudo modprobe binfmt_misc; echo binfmt_misc | sudo tee /etc/modules-load.d/binfmt_misc.conf",
        )
    }
}

/// The limits on user namespaces of ordinary users.
fn user_namespaces(person: &Person) -> Vec<Finding> {
    const WHAT: &str = "user namespaces";
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let mut findings = Vec::new();
    if number("/proc/sys/user/max_user_namespaces") == Some(0) {
        let fix = "run: sudo sysctl user.max_user_namespaces=10000";
        findings.push(bad(WHAT, "user.max_user_namespaces is 0", fix));
    }
    // Since Linux 7.3. Where it is used up, the trial says so.
    if number("/proc/sys/user/max_binfmt_misc_interpreters") == Some(0) {
        let fix = "run: sudo sysctl user.max_binfmt_misc_interpreters=10000";
        findings.push(bad(WHAT, "user.max_binfmt_misc_interpreters is 0", fix));
    }
    if person.is_root() {
        return findings;
    }
    if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        let fix = "run: sudo sysctl kernel.unprivileged_userns_clone=1";
        findings.push(bad(WHAT, "kernel.unprivileged_userns_clone is 0", fix));
    }
    if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        findings.push(warning(
            WHAT,
            "AppArmor restricts them to programs with a profile that says so",
            "the trial below, which has none, may fail where Podman, which has one, does not",
        ));
    }
    findings
}

/// The ids that containers get.
fn ids(person: &Person) -> Finding {
    const WHAT: &str = "subids";
    let missing: Vec<_> = ["/etc/subuid", "/etc/subgid"]
        .into_iter()
        .filter(|path| !person.is_in(&std::fs::read_to_string(path).unwrap_or_default()))
        .collect();
    let name = person.name_in_subuid();
    if missing.is_empty() {
        good(WHAT, format!("{name} has ranges of ids"))
    } else if person.is_root() {
        // Only --userns=auto takes them.
        let fix = format!(
            "for sudo podman run --userns=auto, run: echo containers:2147483647:2147483648 | \
             sudo tee -a {}",
            missing.join(" ")
        );
        warning(WHAT, format!("{name} is not in {}", missing.join(" and ")), fix)
    } else {
        let (first, last) = person::free_ids(&["/etc/subuid", "/etc/subgid"]);
        let fix = format!(
            "run: sudo usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {name}"
        );
        warning(WHAT, format!("{name} is not in {}", missing.join(" and ")), fix)
    }
}

fn sandbox(trial: &Trial) -> Finding {
    match &trial.refused {
        None => good("sandbox", "mounted a binfmt_misc in a user namespace of its own"),
        Some(why) => bad(
            "sandbox",
            why,
            "look at what is marked above, and for seccomp filters and security modules",
        ),
    }
}

/// Who can run containers, with their versions.
fn engines() -> Vec<Finding> {
    let found = |programs: &[&str]| {
        let versions = programs
            .iter()
            .filter_map(|program| Some(format!("{program} {}", list::version(program)?)));
        versions.collect::<Vec<_>>().join(", ")
    };
    let engines = found(&["podman", "buildah", "crio", "docker", "containerd"]);
    let runtimes = found(&["crun", "runc", "youki"]);
    vec![
        if engines.is_empty() {
            bad("engines", "none was found", "install Podman")
        } else {
            good("engines", engines)
        },
        if runtimes.is_empty() {
            bad("runtimes", "none was found", "install crun")
        } else {
            good("runtimes", runtimes)
        },
    ]
}

/// The drop-ins in the directories that Podman reads.
fn drop_ins(person: &Person) -> Vec<Finding> {
    const WHAT: &str = "drop-ins";
    let drop_ins = match DropIns::of(person) {
        Ok(drop_ins) => drop_ins,
        Err(why) => return vec![bad(WHAT, message::line(&why), "mend that file")],
    };
    let broken = drop_ins.broken.iter().map(|(file, why)| {
        let says = format!(
            "{}; engines refuse it, and with it all hooks or all containers",
            message::line(why)
        );
        bad(WHAT, says, mend(file))
    });
    let misplaced = drop_ins.for_podman_alone().map(|file| {
        let says = format!("{} is for Podman alone; Buildah and CRI-O refuse it", file.display());
        bad(WHAT, says, "move it to another directory, and name that in Podman's hooks_dir")
    });
    let mut findings: Vec<_> = broken.chain(misplaced).collect();
    findings.push(directories(&drop_ins));
    findings.push(enabled(&drop_ins));
    findings.extend(person.is_root().then(|| precreate(&drop_ins)));
    findings
}

/// Where engines look for drop-ins.
fn directories(drop_ins: &DropIns) -> Finding {
    let podmans = drop_ins.directories.iter().map(|path| path.display().to_string());
    let podmans: Vec<_> = podmans.collect();
    let others = containers_conf::DEFAULT_HOOKS;
    good(
        "directories",
        format!(
            "Podman reads {}; root's builds and CRI-O read {others}, other builds what --hooks-dir names",
            podmans.join(", ")
        ),
    )
}

fn mend(drop_in: &Path) -> String {
    if drop_in.file_name().is_some_and(|name| name == OURS || name == OURS_PRECREATE) {
        "reinstall toolbx-arch, or run: toolbx-arch disable".into()
    } else {
        format!("mend or remove {}", drop_in.display())
    }
}

/// Whether our hook is on.
fn enabled(drop_ins: &DropIns) -> Finding {
    const WHAT: &str = "hook";
    match drop_ins.calls(&hooks_d::SERVING) {
        Calls::All(file) => good(WHAT, format!("on for all containers, by {}", file.display())),
        Calls::Annotated(file) => {
            good(WHAT, format!("on for containers with an annotation, by {}", file.display()))
        }
        Calls::None => {
            let directories = drop_ins.directories.iter().map(|path| path.display().to_string());
            let directories: Vec<_> = directories.collect();
            let says = format!("no usable drop-in of it in {}", directories.join(", "));
            bad(
                WHAT,
                says,
                if hooks_d::is_hook_there() {
                    "run: toolbx-arch enable"
                } else {
                    "install toolbx-arch"
                },
            )
        }
    }
}

/// Whether root's containers without `--userns` are served.
fn precreate(drop_ins: &DropIns) -> Finding {
    const WHAT: &str = PRECREATE;
    match drop_ins.calls(&[PRECREATE]) {
        Calls::All(file) | Calls::Annotated(file) => {
            good(WHAT, format!("on, by {}", file.display()))
        }
        Calls::None => good(
            WHAT,
            "off: containers without --userns use the machine's handlers only; to change that, \
             run: toolbx-arch enable --precreate",
        ),
    }
}

fn security_modules() -> Vec<Finding> {
    let text = |path: &str| std::fs::read_to_string(path).ok();
    let selinux = text("/sys/fs/selinux/enforce").map(|enforce| {
        let mode = if enforce.trim() == "1" { "enforcing" } else { "permissive" };
        good("SELinux", mode)
    });
    let is_on = |enabled: String| enabled.trim() == "Y";
    let apparmor =
        text("/sys/module/apparmor/parameters/enabled").filter(|enabled| is_on(enabled.clone()));
    selinux.into_iter().chain(apparmor.map(|_| good("AppArmor", "enabled"))).collect()
}

fn log() -> Finding {
    let sockets = ["/dev/log", "/run/systemd/journal/dev-log"];
    match sockets.iter().find(|path| Path::new(path).exists()) {
        Some(path) => good("log", format!("to syslog, by {path}")),
        None => warning(
            "log",
            "no syslog daemon listens, and crun hides why a container was refused",
            "install one, or use toolbx-arch explain",
        ),
    }
}

fn in_a_container() -> Option<Finding> {
    let marks = ["/run/.containerenv", "/.dockerenv"];
    let mark = marks.iter().find(|path| Path::new(path).exists())?;
    Some(warning(
        "container",
        format!("this is one itself ({mark})"),
        "run it on the machine itself, too",
    ))
}

fn policy(host: &Host) -> Finding {
    if let Err(why) = Policy::load(host) {
        return bad("policy", message::line(&why), "mend that file");
    }
    let (files, no_own) = policy::present(host.caller);
    let files: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
    let files = if files.is_empty() { "built in".into() } else { files.join(", ") };
    match no_own {
        None => good("policy", files),
        Some(why) => warning(
            "policy",
            format!("{files}; none of your own, since {why}"),
            "set HOME, for whatever starts your containers",
        ),
    }
}

fn emulators(host: &Host, trial: &Trial) -> Vec<Finding> {
    const WHAT: &str = "emulators";
    let targets = match list::targets(host) {
        Ok(targets) => targets,
        Err(why) => return vec![bad(WHAT, message::line(&why), "see toolbx-arch list")],
    };
    let targets: Vec<_> = targets.into_iter().filter(TargetStatus::is_used).collect();
    let mut findings: Vec<_> = targets.iter().filter_map(|target| trouble(target, trial)).collect();
    let troubled = findings.len();
    let found = targets.iter().filter(|target| target.emulator.is_ok()).count();
    if found == 0 && troubled == 0 {
        return vec![bad(WHAT, "none was found", emulator::INSTALL)];
    }
    // They are made from what root may use.
    let devices = (host.caller == Caller::Root).then(|| cdi::is_current(&targets)).flatten();
    findings.extend(devices.map(cdi_devices));
    findings.extend(
        trial.untried.as_ref().map(|why| warning(WHAT, format!("none was tried: {why}"), UNTRIED)),
    );
    if found > 0 {
        let details: Vec<_> =
            targets.iter().filter_map(|target| details(target, host.caller, trial)).collect();
        let summary = good(WHAT, summary(&targets, &details, trial));
        findings.insert(0, Finding { details: Some(details.into()), ..summary });
        let policy = Policy::load(host).map_or(Launcher::Copy, |policy| policy.launcher);
        findings.insert(1, copies(&targets, policy));
    }
    findings
}

/// The prepared copies of the emulators that can be used.
fn copies(targets: &[TargetStatus], policy: Launcher) -> Finding {
    const WHAT: &str = "launcher";
    const FIX: &str = "run: sudo toolbx-arch prepare";
    let usable: Vec<_> = targets.iter().filter(|target| target.emulator.is_ok()).collect();
    let fresh = usable.iter().filter(|target| matches!(target.copy, Prepared::Fresh(_))).count();
    let missing = usable.len() - fresh;
    let stale = usable.iter().find_map(|target| match &target.copy {
        Prepared::Stale(why) => Some(why),
        _ => None,
    });
    match (policy, stale) {
        _ if !launcher::is_available() => {
            good(WHAT, "there is none for this machine's processor; sudo gets no rights")
        }
        (Launcher::Never, _) => good(WHAT, "the policy says never; sudo gets no rights"),
        (_, Some(why)) => warning(WHAT, why, FIX),
        _ if missing == 0 => good(WHAT, format!("{fresh} copies of emulators are prepared")),
        (Launcher::Prepared, _) => {
            let says = format!("{missing} emulators are not prepared, so sudo gets no rights");
            warning(WHAT, says, FIX)
        }
        (Launcher::Copy, _) => {
            let says = format!(
                "{fresh} copies of emulators are prepared; {missing} are made in memory for each \
                 container that needs them; to prepare them, {FIX}"
            );
            good(WHAT, says)
        }
    }
}

/// The devices that were installed, for Docker and others.
fn cdi_devices(is_current: bool) -> Finding {
    const WHAT: &str = "CDI devices";
    if is_current {
        good(WHAT, "installed, one for each emulator")
    } else {
        let fix = "run: sudo toolbx-arch cdi --install";
        warning(WHAT, "those that are installed are not for the emulators that are here", fix)
    }
}

/// An emulator that can be used.
fn details(target: &TargetStatus, caller: Caller, trial: &Trial) -> Option<Value> {
    let emulator = target.emulator.as_ref().ok()?;
    // In a user's namespace uid 0 is that user; and of others, root alone is trusted.
    let is_callers = caller != Caller::Root && emulator.belongs_to_root;
    Some(json!({
        "target": target.arch.name,
        "path": emulator.path.display().to_string(),
        "version": list::version(&emulator.path),
        "owner": if is_callers { "caller" } else { "root" },
        "ran": trial.targets.get(target.arch.name).is_some_and(Option::is_none),
    }))
}

/// How many, of which version, and whether they were tried; `details` are those of the emulators.
fn summary(targets: &[TargetStatus], details: &[Value], trial: &Trial) -> String {
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    for emulator in details {
        *versions
            .entry(emulator["version"].as_str().unwrap_or("of unknown version"))
            .or_default() += 1;
    }
    let versions = versions.iter().map(|(version, count)| format!("{count} static ({version})"));
    let ran = trial.targets.values().filter(|why| why.is_none()).count();
    let missing =
        targets.iter().filter(|target| target.emulator.as_ref().is_err_and(list::is_missing));
    let missing: Vec<_> = missing.map(|target| target.arch.name).collect();
    let missing = match missing[..] {
        [] => String::new(),
        _ => format!("; none for {}", missing.join(" ")),
    };
    format!("{}; {ran} ran a program{missing}", versions.collect::<Vec<_>>().join(", "))
}

/// What is wrong with an emulator that is there.
fn trouble(target: &TargetStatus, trial: &Trial) -> Option<Finding> {
    let name = target.arch.name;
    match &target.emulator {
        Err(why) if list::is_missing(why) => None,
        Err(why) => Some(bad("emulators", message::line(why), "see toolbx-arch-policy(5)")),
        Ok(emulator) => {
            let why = trial.targets.get(name)?.as_ref()?;
            let says =
                format!("{} did not run a program for {name}: {why}", emulator.path.display());
            Some(bad("emulators", says, "reinstall it, or install another version"))
        }
    }
}

/// What the machine itself has registered.
fn host_handlers() -> Finding {
    const WHAT: &str = "host handlers";
    match Visible::of_the_engine() {
        None => good(WHAT, "none; containers need none"),
        Some(Err(why)) => warning(WHAT, message::line(&why), "containers do without"),
        Some(Ok(visible)) => {
            let mut hindered: BTreeMap<&str, usize> = BTreeMap::new();
            for hindrance in visible.entries.iter().filter_map(Entry::hindrance) {
                *hindered.entry(hindrance).or_default() += 1;
            }
            let usable = visible.entries.iter().filter(|entry| entry.works_in_containers()).count();
            let other = hindered.iter().map(|(hindrance, count)| {
                format!("; {count} {hindrance}, which containers cannot use")
            });
            let other: String = other.collect();
            good(WHAT, format!("{usable} that containers can use{other}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_kernels() {
        for (release, can) in [
            ("6.6.99", false),
            ("6.7.0-rc1", true),
            ("6.18.44-fc-v669", true),
            ("7.0", true),
            ("6.7+", true),
            ("5.15.0-generic", false),
            ("nonsense", false),
        ] {
            assert_eq!(has_own_handlers(release), can, "{release}");
        }
    }
}
