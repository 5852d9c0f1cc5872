//! What there is to know of a container before anything is decided, from each source that may tell for which
//! architecture it is.

use anyhow::Result;

use crate::arch::Arch;
use crate::asked::annotations::{self, Annotations, WISHES, is};
use crate::asked::detect::Detected;
use crate::asked::labels::Label;
use crate::asked::oci::Command;
use crate::asked::toolbx;
use crate::base::message;
use crate::host::machine::Machine;
use crate::host::policy::{Annotation, Policy};
use crate::host::trust::Host;

/// What a container says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Those that are for us.
    pub annotations: Annotations,
    /// What its CDI devices are for.
    pub devices: Vec<&'static Arch>,
    /// The label `toolbox-arch`, its own or that of its image.
    pub label: Option<Label>,
    /// Which architecture Toolbx made it for.
    pub toolbx: Option<&'static Arch>,
    /// What its programs are.
    pub detected: Option<Detected>,
    /// Why its programs cannot be looked at, if so.
    pub unseen: Option<String>,
}

/// What is to be decided about: a container, whether it runs, is being created, or only may be, and what a
/// container could be made of. Each says what it can, and decides nothing.
pub trait Subject {
    /// Those of its annotations that are for us.
    fn annotations(&self) -> Annotations;
    /// What its CDI devices are for.
    fn devices(&self) -> Vec<&'static Arch>;
    /// What it begins with, if that is known.
    fn command(&self) -> Option<&Command>;
    /// What its programs are, if one of them tells, where it begins with `command`. Fails where its files
    /// cannot be looked at.
    fn detect(&self, command: &Command) -> Result<Option<Detected>>;
    /// The label, its own or that of its image.
    fn label(&self, host: &Host) -> Option<Label>;
}

impl Evidence {
    /// What `subject` says. Looks no further than it has to: for the label only where one could say more.
    pub fn of(subject: &impl Subject, machine: &Machine) -> Self {
        let command = subject.command();
        let detected = command.map_or(Ok(None), |command| subject.detect(command));
        let unseen = detected.as_ref().err().map(message::line);
        let mut evidence = Self {
            annotations: subject.annotations(),
            devices: subject.devices(),
            label: None,
            toolbx: command.and_then(toolbx::architecture),
            detected: detected.unwrap_or_default(),
            unseen,
        };
        if evidence.may_have_label() {
            let label = machine.host().ok().and_then(|host| subject.label(host));
            // It says the same as the annotation of that name, so the policy has one word for both.
            let listens = |policy: &Policy| policy.annotations.contains(&Annotation::Toolbox);
            evidence.label = label.filter(|_| machine.policy().is_ok_and(listens));
        }
        evidence
    }

    /// Whether the container wants to be left alone. That is for it to say, whatever a policy says: so
    /// it is the way out where a policy cannot be read.
    #[must_use]
    pub fn says_none(&self) -> bool {
        annotations::wish(&self.annotations).is_some_and(|(.., value)| is(value, "none"))
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
        let asks = |label: &Label| {
            label.named().is_some_and(|named| !named.iter().all(|arch| arch.is_native()))
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
