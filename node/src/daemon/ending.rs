//! How a daemon ends.

use anyhow::Result;

use super::kept::Learned;
use super::{Daemon, take_away};
use crate::remembered::Remembered;

/// What becomes of what a daemon made in the kernel when it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// It goes on without the daemon, where it is pinned.
    Stays,
    /// It is taken away.
    Removed,
    /// It goes with the node, a namespace that ends with this process: nothing waits for that.
    WithNode,
}

impl Ending {
    /// Whether all is to be as it was.
    pub(crate) fn of(detach: bool) -> Self {
        if detach { Self::Removed } else { Self::Stays }
    }
}

impl Daemon {
    /// Ends the threads, and what is in the kernel as it is said. `keep` is given what the next daemon needs to
    /// know of what was learned, once nothing more is: an answer that was released after that would be closed by
    /// the next one.
    ///
    /// # Errors
    /// If something can't be taken away.
    pub(crate) fn end(mut self, ending: Ending, keep: impl FnOnce(Remembered)) -> Result<()> {
        let is_removed = ending == Ending::Removed;
        let guarded = is_removed.then(|| self.learned().gather());
        if is_removed {
            // First the programs, so that workloads talk directly again; then what they led to.
            self.guards.detach_all();
        }
        // Both drain at the same time.
        self.http.begin_stop();
        self.dns.stop();
        keep(guarded.unwrap_or_else(|| Learned::new(&self.guards, &self.learner).gather()));
        self.http.stop();
        self.event_thread.stop();
        self.flow_thread.stop();
        self.tallies.losses.tell(
            (&self.datapath, &self.news),
            (&self.flow_ring, &self.exporters.shared()),
        );
        // Whoever tells has ended; metrics only look.
        self.exporters.stop();
        if let Some(keeper) = self.keeper.as_mut().filter(|_| is_removed) {
            keeper.forget();
        }
        if is_removed || ending == Ending::Stays && self.setup.pins.is_none() {
            for attachment in self.side_link.into_iter().flatten() {
                let _ = attachment.detach();
            }
            drop(self.datapath);
            take_away(&self.setup.instance, self.setup.pins.as_deref())?;
        }
        Ok(())
    }
}
