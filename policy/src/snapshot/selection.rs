//! Which identities of the address table a selector selects; kept from one revision to the next, so
//! that a change costs what it changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::table::{Known, Table};
use crate::Identity;
use crate::rule::PeerSelector;

/// What selectors select. Prefixes are looked up in the table's index; other selectors are tried on
/// everybody, equal ones once.
#[derive(Debug, Default)]
pub(super) struct Selections {
    by_selector: HashMap<PeerSelector, Kept>,
    /// The table that they are about.
    known: BTreeMap<Identity, Arc<Known>>,
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
        if self.known == table.known {
            return;
        }
        let mut added = table.known.clone();
        added.retain(|identity, known| self.known.get(identity) != Some(known));
        let mut gone = std::mem::replace(&mut self.known, table.known.clone());
        gone.retain(|identity, known| table.known.get(identity) != Some(known));
        for (selector, kept) in &mut self.by_selector {
            kept.identities
                .retain(|identity| !gone.contains_key(identity));
            kept.identities.extend(selected(selector, &added));
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
                PeerSelector::Cidr(cidr) => all.extend(table.inside(cidr)),
                PeerSelector::Labels(_) | PeerSelector::Entity(_) => {
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
                identities: selected(peer, known).collect(),
                used: revision,
            });
        kept.used = revision;
        &kept.identities
    }
}

/// Those whom a selector selects.
fn selected<'a>(
    selector: &'a PeerSelector,
    known: &'a BTreeMap<Identity, Arc<Known>>,
) -> impl Iterator<Item = Identity> + 'a {
    // Numbers of prefixes come last, and there may be many of them.
    let end = match selector.may_select_outside() {
        true => Bound::Unbounded,
        false => Bound::Excluded(Identity::from_number(Identity::LOCAL_MIN)),
    };
    known
        .range((Bound::Unbounded, end))
        .filter(|(_, known)| selector.selects(known.view()))
        .map(|(identity, _)| *identity)
}
