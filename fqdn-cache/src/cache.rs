//! Names and addresses, many to many, bounded.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fqdn::Name;

use crate::limits::{ADDRESSES_MAX, ADDRESSES_PER_NAME_MAX, NAMES_MAX};
use crate::order::Order;
use crate::slab::Slab;

/// What one endpoint has learned.
#[derive(Debug, Default)]
pub struct Cache {
    names: Slab<NameSlot>,
    addresses: Slab<AddressSlot>,
    by_name: HashMap<Arc<Name>, u32>,
    by_address: HashMap<IpAddr, u32>,
    /// When each (name, address) was last learned, in commits.
    pairs: HashMap<Pair, u64>,
    name_order: Order,
    address_order: Order,
    /// Counts commits: a plan holds for the state that it was made from.
    commits: u64,
}

/// Slots of a name and an address.
type Pair = (u32, u32);

#[derive(Debug)]
struct NameSlot {
    name: Arc<Name>,
    /// In the order in which they were first learned.
    addresses: Vec<u32>,
}

#[derive(Debug)]
struct AddressSlot {
    address: IpAddr,
    /// In the order in which they were first learned.
    names: Vec<u32>,
}

/// What an answer changes; [`Cache::commit`] makes it so. Until then the cache is as it was, so a
/// kernel that refuses the addresses costs nothing.
#[derive(Debug)]
pub struct Plan<'a> {
    name: &'a Name,
    addresses: &'a [IpAddr],
    changes: Learned,
    /// Pairs that go, in order.
    dropped: BTreeSet<Pair>,
    commits: u64,
}

/// The addresses whose set of names changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Those of the answer that get its name (and may lose another one through a bound).
    pub fresh: Vec<IpAddr>,
    /// Others that lose a name through a bound; one that loses its last is gone.
    pub evicted: Vec<IpAddr>,
}

/// An answer with more addresses than a name may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} addresses in one answer; a name has at most {ADDRESSES_PER_NAME_MAX}")]
pub struct Full {
    /// How many there were.
    pub count: usize,
}

/// A plan that was made from another state of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cache has changed since the plan was made")]
pub struct Stale;

impl Learned {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.evicted.is_empty()
    }
}

impl Plan<'_> {
    /// What will change.
    #[must_use]
    pub fn changes(&self) -> &Learned {
        &self.changes
    }

    /// The names that an address will have, in the order in which they were learned. `cache` is the
    /// one that made the plan.
    pub fn names_after<'a>(
        &'a self,
        cache: &'a Cache,
        address: IpAddr,
    ) -> impl Iterator<Item = &'a Name> {
        let slot = cache.by_address.get(&address).copied();
        let names = slot.and_then(|slot| cache.addresses.get(slot));
        let names = names.map_or(&[][..], |entry| &entry.names);
        let kept = names
            .iter()
            .filter(move |name| slot.is_none_or(|slot| !self.dropped.contains(&(**name, slot))));
        let kept = kept
            .filter_map(|name| cache.names.get(*name))
            .map(|entry| &*entry.name);
        let is_fresh = self.changes.fresh.contains(&address);
        kept.chain(is_fresh.then_some(self.name))
    }
}

impl Cache {
    /// A cache that holds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the answer for a name changes. A refresh that changes nothing allocates nothing.
    ///
    /// # Errors
    /// If the answer has more addresses than a name may have.
    pub fn plan<'a>(&self, name: &'a Name, addresses: &'a [IpAddr]) -> Result<Plan<'a>, Full> {
        if addresses.len() > ADDRESSES_PER_NAME_MAX {
            let count = addresses.len();
            return Err(Full { count });
        }
        let mut plan = Plan {
            name,
            addresses,
            changes: Learned::default(),
            dropped: BTreeSet::new(),
            commits: self.commits,
        };
        let own = self.by_name.get(name).copied();
        for address in addresses {
            let is_known = own.is_some_and(|own| {
                let slot = self.by_address.get(address);
                slot.is_some_and(|slot| self.pairs.contains_key(&(own, *slot)))
            });
            if !is_known && !plan.changes.fresh.contains(address) {
                plan.changes.fresh.push(*address);
            }
        }
        if !plan.changes.fresh.is_empty() {
            match own {
                Some(own) => self.drop_oldest_of_name(own, &mut plan),
                None => self.drop_oldest_name(&mut plan),
            }
            self.drop_oldest_addresses(&mut plan);
            plan.changes.evicted = self.losing(&plan);
        }
        Ok(plan)
    }

    /// Makes a plan true.
    ///
    /// # Errors
    /// If the cache has changed since the plan was made; it is left alone then.
    pub fn commit(&mut self, plan: Plan<'_>) -> Result<Learned, Stale> {
        if plan.commits != self.commits {
            return Err(Stale);
        }
        self.commits += 1;
        for pair in plan.dropped {
            self.unlink(pair);
        }
        if plan.addresses.is_empty() {
            return Ok(plan.changes);
        }
        let name = self.name_slot(plan.name);
        self.name_order.touch(name);
        for address in plan.addresses {
            let address = self.address_slot(*address);
            self.address_order.touch(address);
            if self.pairs.insert((name, address), self.commits).is_none() {
                if let Some(entry) = self.names.get_mut(name) {
                    entry.addresses.push(address);
                }
                if let Some(entry) = self.addresses.get_mut(address) {
                    entry.names.push(name);
                }
            }
        }
        Ok(plan.changes)
    }

    /// [`Cache::plan`] and [`Cache::commit`] in one step.
    ///
    /// # Errors
    /// As [`Cache::plan`].
    pub fn learn(&mut self, name: &Name, addresses: &[IpAddr]) -> Result<Learned, Full> {
        let plan = self.plan(name, addresses)?;
        let changes = self.commit(plan);
        Ok(changes.unwrap_or_default()) // nothing came between
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

    /// All addresses, the least recently learned first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let slots = self.address_order.iter();
        slots.filter_map(|slot| Some(self.addresses.get(slot)?.address))
    }

    /// All names, the least recently learned first.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        let slots = self.name_order.iter();
        slots.filter_map(|slot| Some(&*self.names.get(slot)?.name))
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

    /// Makes room among the addresses of a known name; those of the answer stay.
    fn drop_oldest_of_name(&self, own: u32, plan: &mut Plan<'_>) {
        let Some(entry) = self.names.get(own) else {
            return;
        };
        let after = entry.addresses.len() + plan.changes.fresh.len();
        let excess = after.saturating_sub(ADDRESSES_PER_NAME_MAX);
        if excess == 0 {
            return;
        }
        let others = entry
            .addresses
            .iter()
            .filter(|slot| !self.is_answer(**slot, plan));
        let mut aged: Vec<(u64, u32)> = others
            .map(|slot| (self.pairs.get(&(own, *slot)).copied().unwrap_or(0), *slot))
            .collect();
        aged.sort_by_key(|(learned, _)| *learned);
        let oldest = aged.iter().take(excess);
        plan.dropped.extend(oldest.map(|(_, slot)| (own, *slot)));
    }

    /// Makes room for one more name.
    fn drop_oldest_name(&self, plan: &mut Plan<'_>) {
        if self.by_name.len() < NAMES_MAX {
            return;
        }
        let oldest = self.name_order.iter().next();
        if let Some((slot, entry)) = oldest.and_then(|slot| Some((slot, self.names.get(slot)?))) {
            let addresses = entry.addresses.iter();
            plan.dropped
                .extend(addresses.map(|address| (slot, *address)));
        }
    }

    /// Makes room for the addresses of the answer that are new.
    fn drop_oldest_addresses(&self, plan: &mut Plan<'_>) {
        let new = plan.changes.fresh.iter();
        let new = new
            .filter(|address| !self.by_address.contains_key(address))
            .count();
        let freed = self.freed(plan);
        let after = self.by_address.len() + new;
        let excess = after.saturating_sub(freed.len() + ADDRESSES_MAX);
        let candidates = self.address_order.iter();
        let candidates =
            candidates.filter(|slot| !freed.contains(slot) && !self.is_answer(*slot, plan));
        let oldest: Vec<u32> = candidates.take(excess).collect();
        for slot in oldest {
            let names = self
                .addresses
                .get(slot)
                .map_or(&[][..], |entry| &entry.names);
            plan.dropped.extend(names.iter().map(|name| (*name, slot)));
        }
    }

    /// The addresses outside the answer that lose all their names so far.
    fn freed(&self, plan: &Plan<'_>) -> BTreeSet<u32> {
        let losing: BTreeSet<u32> = plan.dropped.iter().map(|(_, address)| *address).collect();
        let is_freed = |slot: &u32| {
            let names = self
                .addresses
                .get(*slot)
                .map_or(&[][..], |entry| &entry.names);
            let mut names = names.iter();
            names.all(|name| plan.dropped.contains(&(*name, *slot))) && !self.is_answer(*slot, plan)
        };
        losing.into_iter().filter(is_freed).collect()
    }

    /// The addresses that lose a name, without those that the answer gives another.
    fn losing(&self, plan: &Plan<'_>) -> Vec<IpAddr> {
        let losing: BTreeSet<u32> = plan.dropped.iter().map(|(_, address)| *address).collect();
        let losing = losing.iter().filter_map(|slot| self.addresses.get(*slot));
        let losing = losing.map(|entry| entry.address);
        losing
            .filter(|address| !plan.changes.fresh.contains(address))
            .collect()
    }

    fn is_answer(&self, slot: u32, plan: &Plan<'_>) -> bool {
        let entry = self.addresses.get(slot);
        entry.is_some_and(|entry| plan.addresses.contains(&entry.address))
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
        });
        self.by_name.insert(shared, slot);
        self.name_order.push(slot);
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
        self.address_order.push(slot);
        slot
    }

    /// Takes a name off an address; what is left with nothing goes.
    fn unlink(&mut self, pair: Pair) {
        let (name, address) = pair;
        if self.pairs.remove(&pair).is_none() {
            return;
        }
        if let Some(entry) = self.names.get_mut(name) {
            entry.addresses.retain(|other| *other != address);
            if entry.addresses.is_empty() {
                self.by_name.remove(&entry.name);
                self.name_order.remove(name);
                self.names.remove(name);
            }
        }
        if let Some(entry) = self.addresses.get_mut(address) {
            entry.names.retain(|other| *other != name);
            if entry.names.is_empty() {
                self.by_address.remove(&entry.address);
                self.address_order.remove(address);
                self.addresses.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests;
