//! Decides which targets a container wants, and says which of its sources comes first. Pure.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

use crate::arch::arguments::Arguments;
use crate::arch::{ARCHES, Arch};
use crate::asked::annotations::{
    self, ARCH, Annotations, AskedArgument, USERNS, asked_arguments, is,
};
use crate::asked::detect::Detected;
use crate::asked::evidence::Evidence;
use crate::base::message::{self, shown};
use crate::host::policy::{Annotation, Policy, Userns};
use crate::host::scope::Scope;

/// What a container wants of this hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Nothing is for us, and no program of another architecture was seen.
    Nothing,
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
    pub sources: Vec<(Source, String)>,
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

/// Where a wish comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The annotation of this name.
    Annotation(&'static str),
    /// CDI devices that were given to the container.
    Device,
    /// The label, as the log calls it: the container's own, or its image's.
    Label(&'static str),
    /// Toolbx's arguments.
    InitContainer,
    /// A program in the container.
    Program,
}

impl Source {
    /// As messages, the log and the documentation call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Annotation(name) | Self::Label(name) => name,
            Self::Device => "CDI device",
            Self::InitContainer => "toolbox init-container",
            Self::Program => "program",
        }
    }
}

/// Decides by the `evidence`, as `policy` permits.
///
/// The user's annotation comes before Toolbx's, then a device, then Toolbx's label, its arguments, and
/// last what was detected; but what a device asks for, and a program of yet another architecture, is
/// served too. `is_native` says what the host runs itself.
///
/// Fails on a name that nobody knows, on what the policy forbids, and on an annotation in our name space
/// that this version does not understand: a wish is never silently ignored.
pub fn decide(
    evidence: &Evidence,
    policy: &Policy,
    is_native: impl Fn(&Arch) -> bool,
) -> Result<Request> {
    let Evidence { annotations, .. } = evidence;
    let wanted = Wanted::of(evidence, policy)?;
    let arguments = asked_arguments(annotations)?;
    let userns = userns(annotations, policy)?;
    let detected = evidence.detected.as_ref().filter(|_| policy.detect);
    let mut targets = wanted.targets(evidence, detected.is_some(), policy)?;
    let unexpected = detected.filter(|detected| !targets.contains(&detected.arch));
    targets.extend(unexpected.map(|detected| detected.arch));
    targets.retain(|arch| !is_native(arch));
    if wanted.asked == Asked::Nothing {
        targets.retain(|arch| policy.allows(arch));
    }
    if let Some(forbidden) = targets.iter().find(|arch| !policy.allows(arch)) {
        bail!("the policy does not allow {}; add it to the policy's architectures", forbidden.name);
    }
    let told = told(&targets, &arguments, policy, &is_native)?;
    if targets.is_empty() {
        let asks = wanted.asked != Asked::Nothing;
        return Ok(if asks { Request::Native } else { Request::Nothing });
    }
    // Whoever adds an annotation may know of a native program; a label says what a container is.
    let is_known = |arch: &Arch| is_native(arch) && !annotations.is_empty();
    let contradiction = unexpected.filter(|found| wanted.is_exact() && !is_known(found.arch));
    Ok(Request::Emulate(Wish {
        targets,
        arguments: told,
        as_found: wanted.asked == Asked::All,
        userns,
        sources: wanted.sources(evidence, detected),
        contradiction: contradiction
            .map(|found| format!("{}, which was not asked for; both are served", tells(found))),
    }))
}

/// What a program tells, in a sentence.
fn tells(Detected { program, arch, .. }: &Detected) -> String {
    format!("{} is for {}", message::path(program), arch.name)
}

fn names(targets: &[&'static Arch]) -> String {
    targets.iter().map(|arch| arch.name).collect::<Vec<_>>().join(",")
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    /// What will be detected.
    Auto,
    /// All that there are emulators for.
    All,
    These(Vec<&'static Arch>),
}

/// What is wanted before any program is looked at: by the source that comes first of those that say
/// something.
struct Wanted {
    asked: Asked,
    /// Which one that is, and what it says, fit for a log.
    source: Option<(Source, String)>,
}

impl Wanted {
    fn of(evidence: &Evidence, policy: &Policy) -> Result<Self> {
        let Evidence { annotations, devices, label, .. } = evidence;
        annotations::ensure_all_known(annotations)?;
        if let Some((key, annotation, value)) = annotations::wish(annotations) {
            ensure_may_decide(key, annotation, policy)?;
            let asked = match () {
                () if is(value, "auto") => Asked::Auto,
                () if is(value, "all") => Asked::All,
                () => Asked::These(annotations::parse(&format!("annotation {key}"), value)?),
            };
            return Ok(Self { asked, source: Some((Source::Annotation(key), shown(value))) });
        }
        if !devices.is_empty() {
            let source = Some((Source::Device, names(devices)));
            return Ok(Self { asked: Asked::These(devices.clone()), source });
        }
        Ok(match label.as_ref().and_then(|label| Some((label, label.named()?))) {
            None => Self { asked: Asked::Nothing, source: None },
            Some((label, named)) => Self {
                asked: Asked::These(named),
                source: Some((Source::Label(label.source), shown(&label.value))),
            },
        })
    }

    /// The targets that it names; beside an annotation a device asks too. Fails where it is what will be
    /// detected, and nothing is.
    fn targets(
        &self,
        evidence: &Evidence,
        is_detected: bool,
        policy: &Policy,
    ) -> Result<Vec<&'static Arch>> {
        let mut targets: Vec<&'static Arch> = match &self.asked {
            Asked::Nothing => evidence.toolbx.into_iter().collect(),
            Asked::Auto => Vec::new(),
            Asked::All => ARCHES.iter().filter(|arch| policy.allows(arch)).collect(),
            Asked::These(named) => named.clone(),
        };
        ensure!(
            self.asked != Asked::Auto || is_detected,
            "annotation {ARCH}=auto: no program in the container tells its architecture; name it"
        );
        for device in &evidence.devices {
            if !targets.contains(device) {
                targets.push(device);
            }
        }
        Ok(targets)
    }

    /// Whether a program for anything else is unexpected. Of several devices each has a call of ours that
    /// knows no other.
    fn is_exact(&self) -> bool {
        let by_device = matches!(self.source, Some((Source::Device, _)));
        matches!(self.asked, Asked::These(_)) && !by_device
    }

    /// What each source says, the one that comes first at the front.
    fn sources(self, evidence: &Evidence, detected: Option<&Detected>) -> Vec<(Source, String)> {
        let toolbx = evidence.toolbx.filter(|_| self.asked == Asked::Nothing);
        let toolbx = toolbx.map(|arch| (Source::InitContainer, arch.name.to_owned()));
        let program = detected.map(|detected| (Source::Program, tells(detected)));
        self.source.into_iter().chain(toolbx).chain(program).collect()
    }
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
fn userns(annotations: &Annotations, policy: &Policy) -> Result<Option<UsernsWish>> {
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

#[cfg(test)]
mod tests;
