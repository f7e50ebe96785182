//! What ended not long ago: why an address is closed that was open.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use fqdn::Name;

use crate::limits::ENDED_MAX;

/// The last names' addresses that time took away.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// In the order in which they were taken away.
    pairs: VecDeque<(Arc<Name>, IpAddr, Instant)>,
}

impl Ended {
    pub(crate) fn note(&mut self, name: Arc<Name>, address: IpAddr, end: Instant) {
        if self.pairs.len() >= ENDED_MAX {
            self.pairs.pop_front();
        }
        self.pairs.push_back((name, address, end));
    }

    /// The names of an address, each once with its last end, the last one first.
    pub(crate) fn of(&self, address: IpAddr) -> Vec<(&Name, Instant)> {
        let mut names: Vec<(&Name, Instant)> = Vec::new();
        for (name, own, end) in self.pairs.iter().rev() {
            if *own == address && !names.iter().any(|(seen, _)| **seen == **name) {
                names.push((name, *end));
            }
        }
        names
    }
}
