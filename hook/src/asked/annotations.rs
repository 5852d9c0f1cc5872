//! The annotations that are for us: their names, and what they may say. Pure.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail, ensure};

use crate::arch::arguments::{Argument, Value};
use crate::arch::{self, ARCHES, Arch};
use crate::base::message::shown;
use crate::host::policy::Annotation;

/// The annotations of a container that are for us, by their names.
pub type Annotations = BTreeMap<String, String>;

/// The user's request.
pub(crate) const ARCH: &str = "toolbx.arch";
/// Finer wishes.
pub(crate) const FINER: &str = "toolbx.arch.";
/// Whether the container gets a user namespace of its own.
pub(crate) const USERNS: &str = "toolbx.arch.userns";
/// Toolbx's record.
pub(crate) const TOOLBOX: &str = "toolbox-arch";

/// The annotations that name architectures, the first one first.
pub(crate) const WISHES: [(&str, Annotation); 2] =
    [(ARCH, Annotation::Arch), (TOOLBOX, Annotation::Toolbox)];

/// Whether an annotation is for us.
#[must_use]
pub fn is_ours(key: &str) -> bool {
    key == ARCH || key == TOOLBOX || key.starts_with(FINER)
}

/// The annotation that comes first of those that name architectures, and its value.
pub(crate) fn wish(annotations: &Annotations) -> Option<(&'static str, Annotation, &str)> {
    WISHES
        .into_iter()
        .find_map(|(key, annotation)| Some((key, annotation, annotations.get(key)?.as_str())))
}

pub(crate) fn is(value: &str, word: &str) -> bool {
    value.trim().eq_ignore_ascii_case(word)
}

/// An annotation that sets an argument of emulators.
pub(crate) struct AskedArgument<'a> {
    pub(crate) key: &'a str,
    pub(crate) argument: Argument,
    /// Of this one's emulator; of every one, if it names none.
    pub(crate) target: Option<&'static Arch>,
    /// None: what the emulator itself does.
    pub(crate) value: Option<Value>,
}

/// `NAME` or `NAME.TARGET`, behind our prefix, where NAME is that of an argument.
fn argument_and_target(key: &str) -> Option<(Argument, Option<&str>)> {
    let key = key.strip_prefix(FINER)?;
    let (name, target) = key.split_once('.').map_or((key, None), |(name, of)| (name, Some(of)));
    Some((Argument::find(name)?, target))
}

/// Fails where there is one in our name space that this version does not understand: a wish is never
/// silently ignored.
pub(crate) fn ensure_all_known(annotations: &Annotations) -> Result<()> {
    let is_known = |key: &str| key == USERNS || argument_and_target(key).is_some();
    let unknown = annotations.keys().find(|key| key.starts_with(FINER) && !is_known(key));
    if let Some(unknown) = unknown {
        bail!(
            "annotation {} is not known to this version of toolbx-arch; remove it, or upgrade",
            shown(unknown)
        );
    }
    Ok(())
}

/// What the annotations say about arguments: first what is for every target.
pub(crate) fn asked_arguments(annotations: &Annotations) -> Result<Vec<AskedArgument<'_>>> {
    let mut asked = Vec::new();
    for (key, value) in annotations {
        let Some((argument, target)) = argument_and_target(key) else { continue };
        let target = match target.map(|name| arch::find(name).ok_or(name)).transpose() {
            Ok(target) => target,
            Err(name) => bail!("annotation {}: {}", shown(key), arch::unknown(name)),
        };
        // Some engines take a comma for the end of an annotation, so blanks do too.
        let value = value.split_whitespace().collect::<Vec<_>>().join(",");
        let value = match &*value {
            "default" => None,
            value => Some(
                Value::new(argument, value)
                    .map_err(|why| anyhow!("annotation {key}: {why}, nor default"))?,
            ),
        };
        asked.push(AskedArgument { key, argument, target, value });
    }
    asked.sort_by_key(|asked| (asked.target.map(|arch| arch.name), asked.argument));
    for pair in asked.windows(2) {
        ensure!(
            (pair[0].argument, pair[0].target) != (pair[1].argument, pair[1].target),
            "annotations {} and {} are for the same; remove one",
            pair[0].key,
            pair[1].key
        );
    }
    Ok(asked)
}

/// The architectures that a list names, in its order, each once. Names are separated by commas or
/// blanks: some engines take a comma for the end of an annotation.
pub(crate) fn parse(what: &str, value: &str) -> Result<Vec<&'static Arch>> {
    const MAX: usize = ARCHES.len();
    // One more than there may be tells enough of a list that may be megabytes long.
    let names = value.split(',').flat_map(names_between_commas).take(MAX + 1);
    let names: Vec<&str> = names.collect();
    ensure!(
        names.len() <= MAX,
        "{what} names more than {MAX} architectures, which is all there are"
    );
    let mut targets: Vec<&'static Arch> = Vec::new();
    for name in names {
        ensure!(
            !name.is_empty(),
            "{what}={} has an empty name in it; write NAME[,NAME…] or none",
            shown(value)
        );
        let Some(arch) = arch::find(name) else {
            bail!("{what}: {}", arch::unknown(name));
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
