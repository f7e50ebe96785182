//! Programs on interfaces.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use aya::programs::SchedClassifier;

use crate::attach::{
    Attachment, Hook, HookMode, Seat, Standing, attach, close, reopen, standing, standing_among,
};
use crate::cgroup::programs;
use crate::filter;
use crate::object::CLOSED;
use crate::{DatapathError, PinError, Pins};

use super::ahead::Ahead;
use super::{Datapath, classifier};

/// Begins to attach programs where that takes time: by tcx, where no link of an earlier run is taken over.
pub(super) fn attach_ahead<'a>(
    ahead: &mut Ahead,
    ((mode, pins), program): (
        (HookMode, Option<&Pins>),
        impl Fn(Hook) -> Option<&'a SchedClassifier>,
    ),
    places: &[(Hook, (&str, u32))],
    enter: impl FnOnce() -> io::Result<()> + Send + 'static,
) {
    if mode != HookMode::Tcx {
        return;
    }
    let mut all = Vec::new();
    for (hook, (interface, ifindex)) in places {
        let pin = pins.map(|pins| pins.attachment(mode, *ifindex, hook.program()));
        let is_there = pin.as_ref().is_some_and(|pin| pin.exists());
        match program(*hook) {
            Some(program) if !is_there => all.push((program, *hook, (*interface, *ifindex), pin)),
            // One by one, in their order, as they are fetched.
            _ => return,
        }
    }
    ahead.begin(all.into_iter(), enter);
}

impl Datapath {
    /// Where what holds a program on an interface is pinned, or what says that a filter is ours.
    fn pin_of(&self, hook: Hook, ifindex: u32) -> Option<PathBuf> {
        let pins = self.pins.as_ref()?;
        Some(pins.attachment(self.mode, ifindex, hook.program()))
    }

    /// Attaches a program to an interface of the calling thread's namespace, first in the chain.
    ///
    /// # Errors
    /// If the interface is gone or the kernel refuses.
    pub fn attach(
        &mut self,
        hook: Hook,
        (interface, ifindex): (&str, u32),
    ) -> Result<Attachment, DatapathError> {
        let pin = self.pin_of(hook, ifindex);
        let attachment = match self.ahead.fetch(hook, ifindex) {
            Some(attached) => attached?,
            None => {
                let program = classifier(&mut self.ebpf, hook.program())?;
                attach(program, (hook, self.mode), interface, pin.as_deref())?
            }
        };
        self.links.extend(pin);
        Ok(attachment)
    }

    /// Begins to attach programs, in this order, on a thread of its own that calls `enter` first to go to where
    /// the interfaces are. [`Datapath::attach`] waits for it; what nobody fetches is taken off.
    pub fn attach_ahead(
        &mut self,
        places: &[(Hook, (&str, u32))],
        enter: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) {
        let by = (self.mode, self.pins.as_ref());
        let program = |hook: Hook| self.ebpf.program(hook.program())?.try_into().ok();
        attach_ahead(&mut self.ahead, (by, program), places, enter);
    }

    /// Takes off again what was begun to be attached to an interface.
    pub fn give_up(&mut self, ifindex: u32) {
        self.ahead.give_up(ifindex);
    }

    /// Where a program stands in the tcx chain of its hook, and whether it is there at all.
    ///
    /// # Errors
    /// If the object has no such program.
    pub fn standing(&mut self, hook: Hook, interface: &str) -> Result<Standing, DatapathError> {
        let program = classifier(&mut self.ebpf, hook.program())?;
        Ok(standing(program, hook, interface))
    }

    /// The same among the filters of the interface, both sides, in the order in which they run.
    ///
    /// # Errors
    /// If the object has no such program.
    pub fn standing_among(
        &mut self,
        hook: Hook,
        filters: &[Seat],
    ) -> Result<Standing, DatapathError> {
        let program = classifier(&mut self.ebpf, hook.program())?;
        let same_side = filters
            .iter()
            .filter(|one| one.ingress == hook.is_ingress());
        let chain = same_side.map(|one| (one.id, one.program.as_str()));
        Ok(standing_among(program, chain))
    }

    /// Attaches a program anew, in front of all others. At no moment is there none, or are there two
    /// of ours that would hand each other the same packet: in between everything is dropped.
    ///
    /// # Errors
    /// If the kernel refuses; then the interface stays as it was, or closed.
    pub fn attach_in_front(
        &mut self,
        hook: Hook,
        (interface, ifindex): (&str, u32),
        old: Attachment,
    ) -> Result<Attachment, DatapathError> {
        let pin = self.pin_of(hook, ifindex);
        let closed = classifier(&mut self.ebpf, CLOSED)?;
        match self.mode {
            HookMode::Tcx => {
                let link = close(closed, hook, interface)?;
                // A pin that can't be removed is told by the next one, which can't be made.
                let _ = old.detach();
                let program = classifier(&mut self.ebpf, hook.program())?;
                reopen(program, link, (hook, interface), pin.as_deref())
            }
            HookMode::Clsact => {
                filter::close(closed, hook, interface)?;
                // It opens what was closed as soon as the program is there.
                self.attach(hook, (interface, ifindex))
            }
        }
    }

    /// Whether an earlier run left a link or a filter there.
    #[must_use]
    pub fn has_link(&self, hook: Hook, ifindex: u32) -> bool {
        self.pin_of(hook, ifindex).is_some_and(|pin| pin.exists())
    }

    /// Takes off what an earlier run attached and this one didn't, but for what is on these interfaces and
    /// cgroups.
    ///
    /// # Errors
    /// If a pin can't be removed.
    pub fn drop_other_links(
        &self,
        interfaces: &BTreeSet<u32>,
        cgroups: &BTreeSet<u64>,
    ) -> Result<(), PinError> {
        let Some(pins) = &self.pins else {
            return Ok(());
        };
        let hooks = [Hook::FromEndpoint, Hook::ToEndpoint];
        let on_interfaces = interfaces.iter().flat_map(|ifindex| {
            hooks.map(|hook| pins.attachment(self.mode, *ifindex, hook.program()))
        });
        let on_cgroups = cgroups
            .iter()
            .flat_map(|id| programs().map(|program| pins.cgroup_link(*id, program)));
        let spared = on_interfaces.chain(on_cgroups);
        let kept = spared.chain(self.links.iter().cloned()).collect();
        pins.keep_attachments(self.mode, &kept)
    }
}
