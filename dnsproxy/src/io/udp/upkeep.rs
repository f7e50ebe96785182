//! What a worker does beside reading and writing: deadlines, sockets that are over, and what was lost.

use std::time::{Duration, Instant};

use super::{IDLE_WAIT, Outgoing, UdpWorker};
use crate::core::tally::Quirk;
use crate::io::host::Host;
use crate::io::pool::overrun;

/// When it looked last, and what it saw.
#[derive(Default)]
pub(super) struct Upkeep {
    looked: Option<Instant>,
    /// Datagrams that found the listener's buffer full, as far as they are counted. What an earlier process
    /// lost counts too: it could not.
    overrun: u32,
}

impl<H: Host> UdpWorker<H> {
    /// Once a second: counts what found no room, and gives up ports that listeners need.
    pub(super) fn keep_up(&mut self) {
        let now = self.proxy.host.now();
        let is_early = |looked: Instant| now < looked + IDLE_WAIT;
        if self.upkeep.looked.is_some_and(is_early) {
            return;
        }
        self.upkeep.looked = Some(now);
        let lost = overrun(&self.listener, &mut self.upkeep.overrun) + self.pool.overruns();
        self.proxy.counters.quirks(Quirk::BufferFull, lost);
        self.pool.make_way(now, &self.watch);
    }

    pub(super) fn wait_for(&self, ends_at: Option<Instant>) -> rustix::event::Timespec {
        let now = self.proxy.host.now();
        let more = match self.has_room() {
            true => self.catching_up.map(|_| now),
            false => self.catching_up,
        };
        let next = [self.pending.next_deadline(), ends_at, more]
            .into_iter()
            .flatten()
            .min();
        let wait = next.map_or(IDLE_WAIT, |at| {
            at.saturating_duration_since(now).min(IDLE_WAIT)
        });
        // A millisecond more, so that a deadline has passed when we wake for it.
        let wait = wait + Duration::from_millis(1);
        rustix::event::Timespec {
            tv_sec: wait.as_secs().cast_signed(),
            tv_nsec: i64::from(wait.subsec_nanos()),
        }
    }

    /// Answers what waited too long.
    pub(super) fn expire(&mut self, out: &mut Outgoing) {
        let now = self.proxy.host.now();
        while let Some(held) = self.pending.expire(now) {
            let mut step = self.proxy.step(now, &self.records, &mut out.scratch);
            let reply = held.time_out(&mut step);
            self.push_reply(reply, out);
        }
        self.flush_clients(out);
        let pending = &self.pending;
        self.pool
            .close_retired(now, |member| pending.len_of(member) > 0);
    }

    pub(super) fn tell(&self, out: &mut Outgoing) {
        self.records.drain(&mut out.told);
        for told in out.told.drain(..) {
            self.proxy.tell(told);
        }
    }
}
