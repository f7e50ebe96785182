//! Programs that are attached while something else is done.
//!
//! For each tcx link the kernel waits until nobody runs the chain that was there before (`tcx_entry_sync`: a grace
//! period of RCU, three ticks and more), with its lock of all links held. So it is done one by one in any case, and
//! best by a thread that has nothing else to do.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use aya::programs::SchedClassifier;

use super::DatapathError;
use crate::attach::{Attachment, Hook, HookMode, attach};

type Attached = Result<Attachment, DatapathError>;

/// What was begun and not fetched yet, by hook and interface. What nobody fetches is taken off at the end.
#[derive(Default)]
pub(super) struct Ahead(BTreeMap<(Hook, u32), Coming>);

/// What a thread will attach, or has attached.
struct Coming(Receiver<Attached>);

/// One program to be attached.
struct Order {
    program: SchedClassifier,
    hook: Hook,
    interface: String,
    pin: Option<PathBuf>,
    answer: Sender<Attached>,
}

impl Ahead {
    /// Begins to attach programs by tcx, in this order, on a thread that goes to where the interfaces are first.
    /// What can't be begun isn't: then there is nothing to fetch.
    pub(super) fn begin<'a>(
        &mut self,
        places: impl Iterator<Item = (&'a SchedClassifier, Hook, (&'a str, u32), Option<PathBuf>)>,
        enter: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) {
        let mut orders = Vec::new();
        for (program, hook, (interface, ifindex), pin) in places {
            let Some(program) = handle(program, hook) else {
                return;
            };
            let (answer, attached) = mpsc::channel();
            self.0.insert((hook, ifindex), Coming(attached));
            orders.push(Order {
                program,
                hook,
                interface: interface.to_owned(),
                pin,
                answer,
            });
        }
        let thread = thread::Builder::new().name("attach".to_owned());
        // Who can't have a thread finds nothing to fetch.
        let _ = thread.spawn(move || {
            if enter().is_ok() {
                orders.into_iter().for_each(Order::carry_out);
            }
        });
    }

    /// Waits for what was begun. None if it wasn't, or could not be tried.
    pub(super) fn fetch(&mut self, hook: Hook, ifindex: u32) -> Option<Attached> {
        self.0.remove(&(hook, ifindex))?.0.recv().ok()
    }

    /// Takes off again what was begun on an interface.
    pub(super) fn give_up(&mut self, ifindex: u32) {
        self.0.retain(|(_, at), _| *at != ifindex);
    }
}

impl Order {
    fn carry_out(mut self) {
        let how = (self.hook, HookMode::Tcx);
        let attached = attach(&mut self.program, how, &self.interface, self.pin.as_deref());
        // Whoever doesn't wait any more has waited for this.
        let _ = self.answer.send(attached);
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if let Ok(Ok(attachment)) = self.0.recv() {
            // A pin that can't be removed is found by the next start.
            let _ = attachment.detach();
        }
    }
}

/// Another handle of a loaded program.
fn handle(program: &SchedClassifier, hook: Hook) -> Option<SchedClassifier> {
    SchedClassifier::from_program_info(program.info().ok()?, hook.program().into()).ok()
}
