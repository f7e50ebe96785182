//! Programs on interfaces.

use crate::attach::{Attachment, Hook, HookMode, Standing, attach, close, reopen, standing};
use crate::object::CLOSED;
use crate::{DatapathError, PinError};

use super::{Datapath, classifier};

impl Datapath {
    /// Attaches a program to an interface of the calling thread's namespace, first in the chain.
    ///
    /// # Errors
    /// If the interface is gone or the kernel refuses.
    pub fn attach(
        &mut self,
        hook: Hook,
        (interface, ifindex): (&str, u32),
    ) -> Result<Attachment, DatapathError> {
        let pin = self
            .pins
            .as_ref()
            .map(|pins| pins.link(ifindex, hook.program()));
        let program = classifier(&mut self.ebpf, hook.program())?;
        let attachment = attach(program, (hook, self.mode), interface, pin.as_deref())?;
        self.links.extend(pin);
        Ok(attachment)
    }

    /// Where a program stands in the chain of its hook, and whether it is there at all.
    ///
    /// # Errors
    /// If the object has no such program.
    pub fn standing(&mut self, hook: Hook, interface: &str) -> Result<Standing, DatapathError> {
        match self.mode {
            HookMode::Clsact => Ok(Standing::Unknown),
            HookMode::Tcx => {
                let program = classifier(&mut self.ebpf, hook.program())?;
                Ok(standing(program, hook, interface))
            }
        }
    }

    /// Attaches a program anew, in front of all others. At no moment is there none, or are there two
    /// of ours that would hand each other the same packet: in between everything is dropped.
    ///
    /// # Errors
    /// If the kernel refuses; then the interface stays as it was.
    pub fn attach_in_front(
        &mut self,
        hook: Hook,
        (interface, ifindex): (&str, u32),
        old: Attachment,
    ) -> Result<Attachment, DatapathError> {
        let pin = self
            .pins
            .as_ref()
            .map(|pins| pins.link(ifindex, hook.program()));
        let closed = classifier(&mut self.ebpf, CLOSED)?;
        let link = close(closed, hook, interface)?;
        // A pin that can't be removed is told by the next one, which can't be made.
        let _ = old.detach();
        let program = classifier(&mut self.ebpf, hook.program())?;
        reopen(program, link, (hook, interface), pin.as_deref())
    }

    /// Whether an earlier run left a link there.
    #[must_use]
    pub fn has_link(&self, hook: Hook, ifindex: u32) -> bool {
        let pin = self
            .pins
            .as_ref()
            .map(|pins| pins.link(ifindex, hook.program()));
        pin.is_some_and(|pin| pin.exists())
    }

    /// Takes off what an earlier run attached and this one didn't.
    ///
    /// # Errors
    /// If a pin can't be removed.
    pub fn drop_other_links(&self) -> Result<(), PinError> {
        match &self.pins {
            Some(pins) => pins.keep_links(&self.links),
            None => Ok(()),
        }
    }
}
