//! Decides which targets a container wants: the only place where precedence is. Pure.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

use crate::arch::{self, ARCHES, Arch};
use crate::message::shown;
use crate::policy::{Annotation, Policy, Userns};

/// What a container wants of this hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// No annotation is for us.
    Nothing,
    /// `none`: leave the container alone.
    Off,
    /// Architectures that the host runs without help.
    Native,
    /// Programs of these targets are to be emulated; at least one, none twice.
    Emulate(Vec<&'static Arch>),
}

/// The user's request.
const ARCH: &str = "toolbx.arch";
/// Finer wishes.
const FINER: &str = "toolbx.arch.";
/// Whether the container gets a user namespace of its own.
const USERNS: &str = "toolbx.arch.userns";
/// Toolbx's record.
const TOOLBOX: &str = "toolbox-arch";

/// Whether an annotation is for us.
#[must_use]
pub fn is_ours(key: &str) -> bool {
    key == ARCH || key == TOOLBOX || key.starts_with(FINER)
}

/// Reads the annotations as `policy` permits.
///
/// The user's annotation comes before Toolbx's. `is_native` says what the host runs itself.
/// Fails on a name that nobody knows, on what the policy forbids, and on an annotation in our
/// name space that this version does not understand: a wish is never silently ignored.
pub fn decide(
    annotations: &BTreeMap<String, String>,
    policy: &Policy,
    is_native: impl Fn(&Arch) -> bool,
) -> Result<Request> {
    let wish = [(ARCH, Annotation::Arch), (TOOLBOX, Annotation::Toolbox)]
        .into_iter()
        .find_map(|(key, annotation)| Some((key, annotation, annotations.get(key)?)));
    let off = wish.is_some_and(|(.., value)| value.trim().eq_ignore_ascii_case("none"));
    let unknown = annotations.keys().find(|key| key.starts_with(FINER) && *key != USERNS);
    if let (Some(unknown), false) = (unknown, off) {
        bail!(
            "annotation {} is not known to this version of toolbx-arch; remove it, or upgrade",
            shown(unknown)
        );
    }
    let Some((key, annotation, value)) = wish else { return Ok(Request::Nothing) };
    ensure_may_decide(key, annotation, policy)?;
    if off {
        return Ok(Request::Off);
    }
    userns(annotations, policy)?;
    let mut targets = parse(key, value)?;
    targets.retain(|arch| !is_native(arch));
    if let Some(forbidden) = targets.iter().find(|arch| !policy.allows(arch)) {
        bail!("the policy does not allow {}; add it to the policy's architectures", forbidden.name);
    }
    Ok(if targets.is_empty() { Request::Native } else { Request::Emulate(targets) })
}

/// What the annotations say about a user namespace, if anything. Fails on any other value than
/// `private` and `engine`, and where `policy` forbids the annotation.
pub fn userns(annotations: &BTreeMap<String, String>, policy: &Policy) -> Result<Option<Userns>> {
    let Some(value) = annotations.get(USERNS) else { return Ok(None) };
    ensure_may_decide(USERNS, Annotation::Userns, policy)?;
    match value.trim() {
        "private" => Ok(Some(Userns::Private)),
        "engine" => Ok(Some(Userns::Engine)),
        _ => bail!("annotation {USERNS}={} is neither private nor engine", shown(value)),
    }
}

fn ensure_may_decide(key: &str, annotation: Annotation, policy: &Policy) -> Result<()> {
    ensure!(
        policy.annotations.contains(&annotation),
        "the policy does not let an annotation {key} decide; remove it, or add it to the policy's \
         annotations"
    );
    Ok(())
}

/// The architectures that a list names, in its order, each once. Names are separated by commas or
/// blanks: some engines take a comma for the end of an annotation.
fn parse(key: &str, value: &str) -> Result<Vec<&'static Arch>> {
    const MAX: usize = ARCHES.len();
    // One more than there may be tells enough of a list that may be megabytes long.
    let names = value.split(',').flat_map(names_between_commas).take(MAX + 1);
    let names: Vec<&str> = names.collect();
    ensure!(
        names.len() <= MAX,
        "annotation {key} names more than {MAX} architectures, which is all there are"
    );
    let mut targets: Vec<&'static Arch> = Vec::new();
    for name in names {
        ensure!(
            !name.is_empty(),
            "annotation {key}={} has an empty name in it; write {key}=NAME[,NAME…] or {key}=none",
            shown(value)
        );
        ensure!(
            !name.eq_ignore_ascii_case("auto"),
            "annotation {key}=auto: detection is not in this version; name the architecture"
        );
        let Some(arch) = arch::find(name) else {
            bail!("annotation {key}: {}", arch::unknown(name));
        };
        if !targets.contains(&arch) {
            targets.push(arch);
        }
    }
    Ok(targets)
}

/// The names in a part of a list that has no comma; a part without any stands for an empty name.
fn names_between_commas(part: &str) -> Vec<&str> {
    match part.split_whitespace().take(ARCHES.len() + 1).collect::<Vec<_>>() {
        names if names.is_empty() => vec![""],
        names => names,
    }
}

#[cfg(test)]
mod tests;
