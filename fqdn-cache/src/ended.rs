//! What ended: why an address is closed that was open, and by which names connections were opened that go on.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use fqdn::Name;

use crate::limits::{CONNECTED_MAX, CONNECTED_NAMES_MAX, ENDED_MAX};

type Past = (Arc<Name>, Instant);

/// The last names' addresses that time took away, and those of addresses with connections.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// In the order in which they were taken away.
    pairs: VecDeque<(Arc<Name>, IpAddr, Instant)>,
    /// Addresses to which there were connections at the last look, each with its names that have ended; the
    /// last one is last.
    connected: BTreeMap<IpAddr, Vec<Past>>,
}

impl Ended {
    pub(crate) fn note(&mut self, name: Arc<Name>, address: IpAddr, end: Instant) {
        if self.pairs.len() >= ENDED_MAX {
            self.pairs.pop_front();
        }
        self.pairs.push_back((Arc::clone(&name), address, end));
        if let Some(names) = self.connected.get_mut(&address) {
            names.retain(|(other, _)| *other != name);
            if names.len() >= CONNECTED_NAMES_MAX {
                names.remove(0);
            }
            names.push((name, end));
        }
    }

    /// From now on these are the addresses with connections.
    pub(crate) fn connected(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut before = std::mem::take(&mut self.connected);
        let mut now = BTreeMap::new();
        for address in addresses.into_iter().take(CONNECTED_MAX) {
            let names = before.remove(&address).unwrap_or_else(|| {
                let known = self.of(address).into_iter().rev();
                let known = known.map(|(name, end)| (Arc::clone(name), end));
                let known: Vec<Past> = known.collect();
                let excess = known.len().saturating_sub(CONNECTED_NAMES_MAX);
                known.into_iter().skip(excess).collect()
            });
            now.insert(address, names);
        }
        self.connected = now;
    }

    /// The names of an address, each once with its last end, the last one first.
    pub(crate) fn of(&self, address: IpAddr) -> Vec<(&Arc<Name>, Instant)> {
        let mut names: Vec<(&Arc<Name>, Instant)> = Vec::new();
        let kept = self.connected.get(&address).into_iter().flatten();
        let kept = kept.map(|(name, end)| (name, *end)).rev();
        let lately = self.pairs.iter().rev();
        let lately = lately.filter(|(_, own, _)| *own == address);
        for (name, end) in lately.map(|(name, _, end)| (name, *end)).chain(kept) {
            if !names.iter().any(|(seen, _)| **seen == *name) {
                names.push((name, end));
            }
        }
        names
    }
}
