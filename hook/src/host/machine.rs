//! What a decision may depend on besides the container: each thing is looked at when it is first asked
//! for, and once.

use std::cell::{LazyCell, OnceCell};
use std::rc::Rc;

use anyhow::{Error, Result, anyhow};

use crate::host::instance::Visible;
use crate::host::policy::Policy;
use crate::host::trust::Host;

/// The machine as this process sees it, before it enters anything. A failure is every later call's too.
#[derive(Debug)]
pub struct Machine {
    host: LazyCell<Result<Host>>,
    policy: OnceCell<Result<Policy>>,
    handlers: LazyCell<Result<Option<Rc<Visible>>>>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            host: LazyCell::new(Host::current),
            policy: OnceCell::new(),
            handlers: LazyCell::new(|| Ok(Visible::of_the_engine().transpose()?.map(Rc::new))),
        }
    }
}

impl Machine {
    /// Whose files are trusted.
    pub fn host(&self) -> Result<&Host> {
        self.host.as_ref().map_err(again)
    }

    /// The policy in force.
    pub fn policy(&self) -> Result<&Policy> {
        self.policy.get_or_init(|| Policy::load(self.host()?)).as_ref().map_err(again)
    }

    /// The handlers that the engine's own processes have; `None` where none can be.
    pub fn handlers(&self) -> Result<Option<Rc<Visible>>> {
        self.handlers.as_ref().map_err(again).cloned()
    }
}

/// The same failure, for another caller.
fn again(why: &Error) -> Error {
    anyhow!("{why:#}")
}
