//! Which identities of the address table a selector selects; kept from one revision to the next, so
//! that a change costs what it changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::table::{Known, Table};
use crate::Identity;
use crate::rule::PeerSelector;

/// What selectors select; equal selectors are looked up once.
#[derive(Debug, Default)]
pub(super) struct Selections {
    by_selector: HashMap<PeerSelector, Kept>,
    /// The table that they are about.
    known: BTreeMap<Identity, Known>,
    revision: u64,
}

#[derive(Debug)]
struct Kept {
    identities: BTreeSet<Identity>,
    /// The last revision that asked for it.
    used: u64,
}

impl Selections {
    /// Makes all selections follow a new table.
    pub(super) fn follow(&mut self, table: &Table) {
        self.revision += 1;
        let is_new = |(identity, known): &(&Identity, &Known)| {
            self.known.get(identity).is_none_or(|old| old != *known)
        };
        let added: Vec<_> = table.known.iter().filter(is_new).collect();
        let gone: Vec<_> = self
            .known
            .iter()
            .filter(|(identity, known)| table.known.get(identity).is_none_or(|new| new != *known))
            .map(|(identity, _)| *identity)
            .collect();
        for (selector, kept) in &mut self.by_selector {
            for identity in &gone {
                kept.identities.remove(identity);
            }
            for (identity, known) in &added {
                if selector.selects(known.view()) {
                    kept.identities.insert(**identity);
                }
            }
        }
        if !added.is_empty() || !gone.is_empty() {
            self.known.clone_from(&table.known);
        }
    }

    /// Forgets what this revision didn't ask for.
    pub(super) fn trim(&mut self) {
        let revision = self.revision;
        self.by_selector.retain(|_, kept| kept.used == revision);
    }

    /// The identities that one of the selectors selects, in order.
    pub(super) fn of_peers<'a>(
        &mut self,
        peers: impl Iterator<Item = &'a PeerSelector>,
        table: &Table,
    ) -> Arc<[Identity]> {
        let mut all = BTreeSet::new();
        for peer in peers {
            match peer {
                PeerSelector::Service(service) => all.extend(table.backends(service)),
                PeerSelector::Labels(_) | PeerSelector::Entity(_) | PeerSelector::Cidr(_) => {
                    all.extend(self.of_one(peer).iter().copied());
                }
            }
        }
        all.into_iter().collect()
    }

    fn of_one(&mut self, peer: &PeerSelector) -> &BTreeSet<Identity> {
        let (known, revision) = (&self.known, self.revision);
        let kept = self
            .by_selector
            .entry(peer.clone())
            .or_insert_with(|| Kept {
                identities: known
                    .iter()
                    .filter(|(_, known)| peer.selects(known.view()))
                    .map(|(identity, _)| *identity)
                    .collect(),
                used: revision,
            });
        kept.used = revision;
        &kept.identities
    }
}
