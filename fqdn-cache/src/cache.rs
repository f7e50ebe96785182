//! Names and addresses, many to many, bounded, each pair with its end.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use fqdn::Name;

use crate::agenda::Agenda;
use crate::ended::Ended;
use crate::limits::Bounds;
use crate::plan::{Learned, Plan, Scarcity};
use crate::slab::Slab;

/// What one endpoint has learned.
#[derive(Debug, Default)]
pub struct Cache {
    pub(crate) names: Slab<NameSlot>,
    pub(crate) addresses: Slab<AddressSlot>,
    pub(crate) by_name: HashMap<Arc<Name>, u32>,
    pub(crate) by_address: HashMap<IpAddr, u32>,
    pub(crate) pairs: Agenda<Pair>,
    /// The latest end that a name was promised for any address; also where that one was evicted.
    pub(crate) name_ends: Agenda<u32>,
    /// The latest end that an address was promised under any name.
    pub(crate) address_ends: Agenda<u32>,
    pub(crate) bounds: Bounds,
    ended: Ended,
    /// Counts changes: a plan holds for the state that it was made from.
    pub(crate) changes: u64,
}

/// Slots of a name and an address.
pub(crate) type Pair = (u32, u32);

#[derive(Debug)]
pub(crate) struct NameSlot {
    pub(crate) name: Arc<Name>,
    /// In the order in which they were first learned.
    pub(crate) addresses: Vec<u32>,
    /// Who gave its last answer; empty where that isn't known.
    pub(crate) given_by: Option<SocketAddr>,
    /// Of the addresses; there since the last time that too few could go.
    pub(crate) scarcity: Option<Scarcity>,
}

#[derive(Debug)]
pub(crate) struct AddressSlot {
    pub(crate) address: IpAddr,
    /// In the order in which they were first learned.
    pub(crate) names: Vec<u32>,
}

/// A plan that was made from another state of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cache has changed since the plan was made")]
pub struct Stale;

impl Cache {
    /// A cache that holds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a plan true.
    ///
    /// # Errors
    /// If the cache has changed since the plan was made; it is left alone then.
    pub fn commit(&mut self, plan: Plan<'_>) -> Result<Learned, Stale> {
        if plan.made_at != self.changes {
            return Err(Stale);
        }
        self.changes += 1;
        for pair in plan.dropped {
            self.unlink(pair);
        }
        let Some(last_end) = plan.addresses.iter().map(|(_, end)| *end).max() else {
            return Ok(plan.changes);
        };
        let name = self.name_slot(plan.name);
        let firm = plan.given.firm_until;
        if let Some(entry) = self.names.get_mut(name) {
            entry.given_by = plan.given.by;
        }
        self.name_ends.put_off(name, last_end, firm);
        for (address, end) in plan.addresses {
            let address = self.address_slot(*address);
            self.address_ends.put_off(address, *end, firm);
            if self.pairs.put_off((name, address), *end, firm) {
                if let Some(entry) = self.names.get_mut(name) {
                    entry.addresses.push(address);
                    entry.scarcity = entry.scarcity.filter(|one| firm >= one.until);
                }
                if let Some(entry) = self.addresses.get_mut(address) {
                    entry.names.push(name);
                }
            }
        }
        Ok(plan.changes)
    }

    /// Takes away what has ended, in the order in which it did, looking at no more than `at_most`
    /// names' addresses: the rest is for another call, as long as [`Cache::next_expiry`] isn't
    /// later than `now`. Gives the addresses that lost a name, each once; one that lost its last is
    /// gone.
    pub fn expire(&mut self, now: Instant, at_most: usize) -> Vec<IpAddr> {
        let mut losing = Vec::new();
        let mut looks = at_most;
        while let Some(pair) = self.pairs.first_ended(now, &mut looks) {
            let name = self.names.get(pair.0).map(|entry| Arc::clone(&entry.name));
            let address = self.addresses.get(pair.1).map(|entry| entry.address);
            if let (Some(name), Some(address), Some(end)) = (name, address, self.pairs.end_of(pair))
            {
                self.ended.note(name, address, end);
            }
            losing.extend(address);
            self.unlink(pair);
        }
        if !losing.is_empty() {
            self.changes += 1;
            losing.sort_unstable();
            losing.dedup();
        }
        losing
    }

    /// The names by which an address was open until time took them away, each with its end, the last one
    /// first; as far back as [`ENDED_MAX`](crate::limits::ENDED_MAX) reaches, and as long as there are
    /// connections to it.
    #[must_use]
    pub fn ended(&self, address: IpAddr) -> Vec<(&Name, Instant)> {
        let names = self.ended.of(address).into_iter();
        names.map(|(name, end)| (&**name, end)).collect()
    }

    /// From now on these are the addresses to which there are connections: their names are remembered beyond
    /// their end as long as that is so.
    pub fn note_connected(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.ended.connected(addresses);
    }

    /// Forgets a name before its time. Gives the addresses that lost it; one that had no other is gone.
    pub fn forget(&mut self, name: &Name) -> Vec<IpAddr> {
        let Some(slot) = self.by_name.get(name).copied() else {
            return Vec::new();
        };
        let addresses = self.names.get(slot).map(|entry| entry.addresses.clone());
        let mut losing = Vec::new();
        for address in addresses.into_iter().flatten() {
            losing.extend(self.addresses.get(address).map(|entry| entry.address));
            self.unlink((slot, address));
        }
        self.changes += 1;
        losing
    }

    /// Nothing ends before then: when to call [`Cache::expire`] next.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.pairs.first()
    }

    /// The names of an address, in the order in which they were first learned.
    pub fn names_of(&self, address: IpAddr) -> impl Iterator<Item = &Name> {
        let slot = self.by_address.get(&address);
        let entry = slot.and_then(|slot| self.addresses.get(*slot));
        let names = entry.map_or(&[][..], |entry| &entry.names);
        let names = names.iter().filter_map(|name| self.names.get(*name));
        names.map(|entry| &*entry.name)
    }

    /// The addresses of a name, in the order in which they were first learned.
    pub fn addresses_of(&self, name: &Name) -> impl Iterator<Item = IpAddr> {
        let slot = self.by_name.get(name);
        let entry = slot.and_then(|slot| self.names.get(*slot));
        let addresses = entry.map_or(&[][..], |entry| &entry.addresses);
        let slots = addresses.iter();
        slots.filter_map(|slot| Some(self.addresses.get(*slot)?.address))
    }

    /// Who gave the last answer for a name, where that is known.
    #[must_use]
    pub fn given_by(&self, name: &Name) -> Option<SocketAddr> {
        let slot = self.by_name.get(name)?;
        self.names.get(*slot)?.given_by
    }

    /// When an address ends under a name.
    #[must_use]
    pub fn expiry(&self, name: &Name, address: IpAddr) -> Option<Instant> {
        let name = self.by_name.get(name)?;
        let address = self.by_address.get(&address)?;
        self.pairs.end_of((*name, *address))
    }

    /// All addresses, in no order that means anything.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|entry| entry.address)
    }

    /// All names, in no order that means anything.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.names.iter().map(|entry| &*entry.name)
    }

    /// The names in so many places from one on; `None` beyond the last place. Whoever walks through all places
    /// sees each name that was there all the time, and may see those that came or went meanwhile.
    #[must_use]
    pub fn names_in(&self, first: usize, count: usize) -> Option<impl Iterator<Item = &Name>> {
        let part = self.names.part(first, count)?;
        Some(part.map(|entry| &*entry.name))
    }

    /// How many names there are.
    #[must_use]
    pub fn name_count(&self) -> usize {
        self.by_name.len()
    }

    /// How many addresses there are.
    #[must_use]
    pub fn address_count(&self) -> usize {
        self.by_address.len()
    }

    /// How many (name, address) there are.
    #[must_use]
    pub fn pair_count(&self) -> usize {
        self.pairs.len()
    }

    /// The slot of a name, made where it is new.
    fn name_slot(&mut self, name: &Name) -> u32 {
        if let Some(slot) = self.by_name.get(name) {
            return *slot;
        }
        let shared = Arc::new(name.clone());
        let slot = self.names.insert(NameSlot {
            name: Arc::clone(&shared),
            addresses: Vec::new(),
            given_by: None,
            scarcity: None,
        });
        self.by_name.insert(shared, slot);
        slot
    }

    /// The slot of an address, made where it is new.
    fn address_slot(&mut self, address: IpAddr) -> u32 {
        if let Some(slot) = self.by_address.get(&address) {
            return *slot;
        }
        let slot = self.addresses.insert(AddressSlot {
            address,
            names: Vec::new(),
        });
        self.by_address.insert(address, slot);
        slot
    }

    /// Takes a name off an address; what is left with nothing goes.
    fn unlink(&mut self, pair: Pair) {
        let (name, address) = pair;
        if !self.pairs.remove(pair) {
            return;
        }
        if let Some(entry) = self.names.get_mut(name) {
            entry.addresses.retain(|other| *other != address);
            if entry.addresses.is_empty() {
                self.by_name.remove(&entry.name);
                self.name_ends.remove(name);
                self.names.remove(name);
            }
        }
        if let Some(entry) = self.addresses.get_mut(address) {
            entry.names.retain(|other| *other != name);
            if entry.names.is_empty() {
                self.by_address.remove(&entry.address);
                self.address_ends.remove(address);
                self.addresses.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests;
