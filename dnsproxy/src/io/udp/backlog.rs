//! What waited for a worker: in the listener of an earlier process, and in the table of what that one had
//! read and not answered. It is worked off at the pace of the answers.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use rustix::event::epoll;
use transport::Inbox;

use super::{BATCH, Outgoing, QUERY_BUFFER, UdpWorker, hear};
use crate::core::tally::Quirk;
use crate::io::host::{Host, Place};
use crate::io::waiting::{Kept, Waiting};
use crate::limits::STALE_DATAGRAMS_MAX;

/// How long answers are waited for before more is read of what waited for this process.
const CATCH_UP_STEP: Duration = Duration::from_millis(100);

impl<H: Host> UdpWorker<H> {
    /// Its listener is read at the pace of the answers until what waits in it is worked off.
    pub(super) fn with_backlog(mut self) -> io::Result<Self> {
        epoll::delete(&self.watch, self.listener.as_fd())?;
        self.catching_up = Some(self.proxy.host.now());
        Ok(self)
    }

    /// Has it note what it has read and not answered.
    pub fn note_in(&mut self, table: Waiting) {
        self.waiting = Some(table);
    }

    /// Whether a query that an earlier process had read came to such a listener.
    #[must_use]
    pub fn is_for(&self, kept: &Kept) -> bool {
        let datagram = kept.datagram();
        match self.place {
            Place::Gate => datagram.mark.is_some(),
            Place::Node => datagram.mark.is_none() && datagram.local == self.local,
        }
    }

    /// Has it ask this query first, and note it at once, with the age that it has: it is to be found again
    /// also by a next process that comes before the server's answer.
    pub fn ask_again(&mut self, kept: Kept) {
        if let Some(waiting) = &mut self.waiting {
            waiting.live(self.proxy.host.boot_ns());
            if !waiting.put(&kept.datagram(), kept.since_ns) {
                self.proxy.counters.quirk(Quirk::NotNoted);
            }
        }
        if self.catching_up.is_none() {
            let _ = epoll::delete(&self.watch, self.listener.as_fd());
            self.catching_up = Some(self.proxy.host.now());
        }
        self.kept.push_back(kept);
    }

    /// Throws away what waits in the listener: whoever asked has given up.
    pub fn forget_stale(&mut self) {
        let mut stale = Inbox::new(BATCH, QUERY_BUFFER);
        for _ in 0..STALE_DATAGRAMS_MAX / BATCH {
            let Ok(count @ 1..) = stale.read(&self.listener) else {
                return;
            };
            let counters = &self.proxy.counters;
            counters.quirks(Quirk::Stale, count as u64);
        }
    }

    /// Works off some of what waited for this process. A server's socket holds 256 small datagrams unless
    /// it was told otherwise: what is poured out at once would be lost there.
    pub(super) fn catch_up(&mut self, queries: &mut Inbox, out: &mut Outgoing) -> io::Result<()> {
        let Some(next) = self.catching_up else {
            return Ok(());
        };
        let now = self.proxy.host.now();
        if !self.has_room() && now < next {
            return Ok(());
        }
        self.catching_up = Some(now + CATCH_UP_STEP);
        if !self.kept.is_empty() {
            self.take_kept(out);
        } else if self.read_queries(queries, out) < BATCH {
            self.catching_up = None;
            hear(&self.watch, &self.listener)?;
        }
        Ok(())
    }

    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < BATCH
    }

    /// Asks some of what an earlier process had read and not answered.
    fn take_kept(&mut self, out: &mut Outgoing) {
        let batch: Vec<Kept> = self.kept.drain(..self.kept.len().min(BATCH)).collect();
        self.ask_all(&batch, out);
    }

    /// Asks what did not come by the listener just now.
    pub(super) fn ask_all(&mut self, batch: &[Kept], out: &mut Outgoing) {
        let now = self.proxy.host.now();
        let uses = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let chosen = self.pool.choose(uses, now, &self.watch);
        let Some(member) = chosen.map(|member| member.id) else {
            return;
        };
        for datagram in batch.iter().map(Kept::datagram) {
            self.take_query(&datagram, (member, now), out);
        }
        self.flush_upstream(member, now, out);
        self.flush_clients(out);
    }
}
