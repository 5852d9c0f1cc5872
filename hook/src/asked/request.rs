//! Decides which targets a container wants, and says which of its sources comes first. Pure.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail, ensure};

use crate::arch::arguments::{Argument, Arguments, Value};
use crate::arch::{self, ARCHES, Arch};
use crate::asked::annotations::{ARCH, FINER, USERNS, WISHES};
use crate::asked::detect::Detected;
use crate::asked::labels::Label;
use crate::base::message::{self, shown};
use crate::host::policy::{Annotation, Policy, Userns};
use crate::host::scope::Scope;

/// What a container wants of this hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Nothing is for us, and no program of another architecture was seen.
    Nothing,
    /// `none`: leave the container alone.
    Off,
    /// Architectures that the host runs without help.
    Native,
    /// Programs of other architectures are to be emulated.
    Emulate(Wish),
}

/// What is to be emulated, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// At least one, none twice.
    pub targets: Vec<&'static Arch>,
    /// What the emulator of each target is to be told.
    pub arguments: BTreeMap<&'static str, Told>,
    /// Whether those of `targets` that have no emulator may be left out.
    pub as_found: bool,
    /// Whether the container is to have a user namespace of its own.
    pub userns: Option<UsernsWish>,
    /// What each source said, the one that comes first at the front.
    pub sources: Vec<(&'static str, String)>,
    /// Where they contradict each other.
    pub contradiction: Option<String>,
}

/// What an emulator is to be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Its arguments.
    pub arguments: Arguments,
    /// Whether an annotation asks for them: then nothing else will do.
    pub asked: bool,
}

impl Wish {
    /// What the emulator of `arch` is to be told.
    #[must_use]
    pub fn told(&self, arch: &Arch) -> Told {
        self.arguments.get(arch.name).cloned().unwrap_or_default()
    }
}

/// What an annotation says about a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsernsWish {
    /// One of the container's own, or none at all.
    Private,
    /// What the engine gives it.
    Engine,
}

/// Who wants a container to be emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The user, or who made the container.
    Asked,
    /// The program that the container begins with.
    FirstProgram,
    /// Other programs in the container; it may do without them.
    OtherPrograms,
}

/// How messages and the log call a CDI device.
const DEVICE: &str = "CDI device";

/// What a container says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Those that are for us.
    pub annotations: BTreeMap<String, String>,
    /// What its CDI devices are for.
    pub devices: Vec<&'static Arch>,
    /// The label `toolbox-arch`, its own or that of its image.
    pub label: Option<Label>,
    /// Which architecture Toolbx made it for.
    pub toolbx: Option<&'static Arch>,
    /// What its programs are.
    pub detected: Option<Detected>,
}

impl Evidence {
    /// Whether the container wants to be left alone. That is for it to say, whatever a policy says: so
    /// it is the way out where a policy cannot be read.
    #[must_use]
    pub fn says_none(&self) -> bool {
        wish(&self.annotations).is_some_and(|(.., value)| is(value, "none"))
    }

    /// Whether a label could say more than what is known without it. Not where the first program is
    /// native and belongs to the image: then so is the image, and to look would make the start of
    /// every native container slower by as much as the whole hook takes.
    #[must_use]
    pub fn may_have_label(&self) -> bool {
        let is_native = |detected: &Detected| detected.is_first && detected.arch.is_native();
        let has_wish = WISHES.iter().any(|(key, _)| self.annotations.contains_key(*key))
            || !self.devices.is_empty();
        !has_wish && !self.detected.as_ref().is_some_and(is_native)
    }

    /// Who wants the container to be looked at further. `None` where nothing asks for anything, and
    /// nothing is seen that the host would not run itself: then no policy matters.
    #[must_use]
    pub fn need(&self) -> Option<Need> {
        let foreign = self.detected.as_ref().filter(|detected| !detected.arch.is_native());
        // What cannot be understood may be meant for somebody else: a label asks for nothing then.
        let asks = |label: &Label| {
            understood(label).is_some_and(|(named, _)| !named.iter().all(|arch| arch.is_native()))
        };
        match foreign {
            _ if !self.annotations.is_empty() => Some(Need::Asked),
            _ if !self.devices.iter().all(|arch| arch.is_native()) => Some(Need::Asked),
            _ if self.label.as_ref().is_some_and(asks) => Some(Need::Asked),
            Some(detected) if detected.is_first => Some(Need::FirstProgram),
            None if self.toolbx.is_none_or(Arch::is_native) => None,
            _ => Some(Need::OtherPrograms),
        }
    }
}

/// Decides by the `evidence`, as `policy` permits.
///
/// The user's annotation comes before Toolbx's, then a device, then Toolbx's label, its arguments, and
/// last what was detected; but what a device asks for, and a program of yet another architecture, is
/// served too. `is_native` says what the host runs itself. Fails on a name that nobody knows, on what the policy forbids, and on an
/// annotation in our name space that this version does not understand: a wish is never silently
/// ignored.
pub fn decide(
    evidence: &Evidence,
    policy: &Policy,
    is_native: impl Fn(&Arch) -> bool,
) -> Result<Request> {
    if evidence.says_none() {
        return Ok(Request::Off);
    }
    let Evidence { annotations, devices, toolbx, detected, .. } = evidence;
    let (asked, source) = wanted(evidence, policy)?;
    let detected = detected.as_ref().filter(|_| policy.detect);
    let arguments = asked_arguments(annotations)?;
    let mut wish = Wish {
        targets: Vec::new(),
        arguments: BTreeMap::new(),
        as_found: asked == Asked::All,
        userns: userns(annotations, policy)?,
        sources: source.into_iter().collect(),
        contradiction: None,
    };
    match &asked {
        Asked::Nothing => {
            wish.targets.extend(*toolbx);
            wish.sources
                .extend(toolbx.map(|arch| ("toolbox init-container", arch.name.to_owned())));
        }
        Asked::Auto => ensure!(
            detected.is_some(),
            "annotation {ARCH}=auto: no program in the container tells its architecture; name it"
        ),
        Asked::All => wish.targets.extend(ARCHES.iter().filter(|arch| policy.allows(arch))),
        Asked::These(named) => wish.targets.clone_from(named),
    }
    // Beside an annotation a device asks too.
    let further = devices.iter().filter(|arch| !wish.targets.contains(arch)).copied();
    wish.targets.extend(further.collect::<Vec<_>>());
    if let Some(Detected { arch, program, .. }) = detected {
        let found = format!("{} is for {}", message::path(program), arch.name);
        // Whoever adds an annotation may know that; a label says what a container is.
        let is_expected = is_native(arch) && !annotations.is_empty();
        // Of several devices each has a call of ours that knows no other.
        let by_device = wish.sources.iter().any(|(source, _)| *source == DEVICE);
        if let (Asked::These(_), false) = (&asked, is_expected || by_device)
            && !wish.targets.contains(arch)
        {
            wish.contradiction = Some(format!("{found}, which was not asked for; both are served"));
        }
        wish.sources.push(("program", found));
        if !wish.targets.contains(arch) {
            wish.targets.push(arch);
        }
    }
    wish.targets.retain(|arch| !is_native(arch));
    if asked == Asked::Nothing {
        wish.targets.retain(|arch| policy.allows(arch));
    }
    if let Some(forbidden) = wish.targets.iter().find(|arch| !policy.allows(arch)) {
        bail!("the policy does not allow {}; add it to the policy's architectures", forbidden.name);
    }
    wish.arguments = told(&wish.targets, &arguments, policy, is_native)?;
    Ok(match asked {
        _ if !wish.targets.is_empty() => Request::Emulate(wish),
        Asked::Nothing => Request::Nothing,
        _ => Request::Native,
    })
}

fn names(targets: &[&'static Arch]) -> String {
    targets.iter().map(|arch| arch.name).collect::<Vec<_>>().join(",")
}

/// What the annotations ask for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    /// What will be detected.
    Auto,
    /// All that there are emulators for.
    All,
    These(Vec<&'static Arch>),
}

/// What is wanted before anything is looked at, and which source says so.
fn wanted(evidence: &Evidence, policy: &Policy) -> Result<(Asked, Option<(&'static str, String)>)> {
    let Evidence { annotations, devices, label, .. } = evidence;
    Ok(match asked(annotations, policy)? {
        Asked::Nothing if !devices.is_empty() => {
            (Asked::These(devices.clone()), Some((DEVICE, names(devices))))
        }
        Asked::Nothing => match label.as_ref().and_then(understood) {
            None => (Asked::Nothing, None),
            Some((named, source)) => (Asked::These(named), Some(source)),
        },
        asked => (asked, source(annotations)),
    })
}

fn asked(annotations: &BTreeMap<String, String>, policy: &Policy) -> Result<Asked> {
    let is_known = |key: &str| key == USERNS || is_argument(key);
    let unknown = annotations.keys().find(|key| key.starts_with(FINER) && !is_known(key));
    if let Some(unknown) = unknown {
        bail!(
            "annotation {} is not known to this version of toolbx-arch; remove it, or upgrade",
            shown(unknown)
        );
    }
    let Some((key, annotation, value)) = wish(annotations) else { return Ok(Asked::Nothing) };
    ensure_may_decide(key, annotation, policy)?;
    Ok(match () {
        () if is(value, "auto") => Asked::Auto,
        () if is(value, "all") => Asked::All,
        () => Asked::These(parse(&format!("annotation {key}"), value)?),
    })
}

/// The annotation that comes first of those that name architectures, and its value.
fn wish(annotations: &BTreeMap<String, String>) -> Option<(&'static str, Annotation, &str)> {
    WISHES
        .into_iter()
        .find_map(|(key, annotation)| Some((key, annotation, annotations.get(key)?.as_str())))
}

fn is(value: &str, word: &str) -> bool {
    value.trim().eq_ignore_ascii_case(word)
}

/// Which annotation decides, and what it says, fit for a log.
fn source(annotations: &BTreeMap<String, String>) -> Option<(&'static str, String)> {
    wish(annotations).map(|(key, _, value)| (key, shown(value)))
}

/// What a label asks for, and how that is logged. `None` for what may be meant for somebody else.
fn understood(label: &Label) -> Option<(Vec<&'static Arch>, (&'static str, String))> {
    let named = parse(label.source, &label.value).ok()?;
    Some((named, (label.source, shown(&label.value))))
}

/// An annotation that sets an argument of emulators.
struct AskedArgument<'a> {
    key: &'a str,
    argument: Argument,
    /// Of this one's emulator; of every one, if it names none.
    target: Option<&'static Arch>,
    /// None: what the emulator itself does.
    value: Option<Value>,
}

/// `NAME` or `NAME.TARGET`, behind our prefix, where NAME is that of an argument.
fn argument_and_target(key: &str) -> Option<(Argument, Option<&str>)> {
    let key = key.strip_prefix(FINER)?;
    let (name, target) = key.split_once('.').map_or((key, None), |(name, of)| (name, Some(of)));
    Some((Argument::find(name)?, target))
}

fn is_argument(key: &str) -> bool {
    argument_and_target(key).is_some()
}

/// What the annotations say about arguments: first what is for every target.
fn asked_arguments(annotations: &BTreeMap<String, String>) -> Result<Vec<AskedArgument<'_>>> {
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

/// What the emulators of `targets` are to be told: what the policy says, and in its place what is
/// `asked` for.
///
/// Fails on what the policy does not let an annotation set, and where the target that it is for is
/// neither emulated nor native.
fn told(
    targets: &[&'static Arch],
    asked: &[AskedArgument],
    policy: &Policy,
    is_native: impl Fn(&Arch) -> bool,
) -> Result<BTreeMap<&'static str, Told>> {
    for AskedArgument { key, target, .. } in asked {
        if let Some(arch) = target {
            ensure!(
                targets.contains(arch) || is_native(arch),
                "annotation {key}: nothing is emulated for {0} here; add {0} to {ARCH}",
                arch.name
            );
        }
    }
    let mut told = BTreeMap::new();
    for arch in targets {
        let mut to = Told { arguments: policy.arguments(arch), asked: false };
        for AskedArgument { key, argument, target, value } in asked {
            if target.is_some_and(|target| target != *arch) {
                continue;
            }
            ensure!(
                policy.lets_annotations_set(*argument, arch),
                "the policy does not let an annotation {key} decide for {}; remove it, or add {} to \
                 the policy's argument_annotations",
                arch.name,
                argument.name()
            );
            to.arguments.set(*argument, value.clone());
            to.asked = true;
        }
        told.insert(arch.name, to);
    }
    Ok(told)
}

/// Whether a container gets a user namespace of its own from the stage `precreate`, if the engine gives
/// it none, with which it would be in the scope `without`.
#[must_use]
pub fn gets_user_namespace(wish: &Wish, policy: &Policy, without: Scope) -> bool {
    match (wish.userns, policy.userns) {
        (Some(UsernsWish::Private), _) | (None, Userns::Private) => true,
        (None, Userns::Rootful) => without == Scope::Host,
        (Some(UsernsWish::Engine), _) | (None, Userns::Engine) => false,
    }
}

/// What the annotations say about a user namespace, if anything.
fn userns(annotations: &BTreeMap<String, String>, policy: &Policy) -> Result<Option<UsernsWish>> {
    let Some(value) = annotations.get(USERNS) else { return Ok(None) };
    ensure_may_decide(USERNS, Annotation::Userns, policy)?;
    match value.trim() {
        "private" => Ok(Some(UsernsWish::Private)),
        "engine" => Ok(Some(UsernsWish::Engine)),
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
fn parse(what: &str, value: &str) -> Result<Vec<&'static Arch>> {
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

#[cfg(test)]
mod tests;
