//! What an answer changes, worked out before anything is changed.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use fqdn::Name;

use crate::cache::{Cache, Pair};

/// When and by whom an answer was given, and how firm it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// When.
    pub now: Instant,
    /// The end of the floor, within which whoever was answered connects: until then what the answer names
    /// goes for no other address of its name, and for another name only where all that is there is firm too,
    /// the one answered longest ago first.
    pub firm_until: Instant,
    /// Which server gave it, where that is known.
    pub by: Option<SocketAddr>,
}

/// What an answer changes; [`Cache::commit`] makes it so. Until then the cache knows what it knew, so
/// a kernel that refuses the addresses costs nothing.
#[derive(Debug)]
pub struct Plan<'a> {
    pub(crate) name: &'a Name,
    pub(crate) addresses: &'a [(IpAddr, Instant)],
    pub(crate) given: Given,
    pub(crate) changes: Learned,
    pub(crate) put_off: Duration,
    /// Pairs that go, in order.
    pub(crate) dropped: BTreeSet<Pair>,
    pub(crate) made_at: u64,
}

/// The addresses whose set of names changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Those of the answer that get its name (and may lose another one through a bound).
    pub fresh: Vec<IpAddr>,
    /// Others that lose a name through a bound; one that loses its last is gone.
    pub evicted: Vec<IpAddr>,
}

/// An answer for which there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// It has more addresses than a name may have.
    #[error("{count} addresses in one answer; a name has at most {max}")]
    Answer {
        /// How many there were.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// The name has all the addresses that it may have, and too few were answered long enough ago to go.
    #[error("a bound is reached, and what is there was answered too lately to go")]
    Firm,
}

/// How many addresses of a name may go at most until then: so that where too few may, not each new one costs
/// a look at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scarcity {
    free: usize,
    pub(crate) until: Instant,
}

impl Scarcity {
    /// Whether `count` can't be had by now.
    fn forbids(self, count: usize, now: Instant) -> bool {
        count > self.free && now < self.until
    }
}

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

    /// By how much it puts an end off that was there, at most.
    #[must_use]
    pub fn put_off(&self) -> Duration {
        self.put_off
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
    /// What the answer for a name changes: each address with its end. A refresh, which only puts ends
    /// off, allocates nothing. `self` changes only in the order in which ends are looked at.
    ///
    /// # Errors
    /// If the answer has more addresses than a name may have, or a bound is reached and nothing may go.
    pub fn plan<'a>(
        &mut self,
        name: &'a Name,
        addresses: &'a [(IpAddr, Instant)],
        given: Given,
    ) -> Result<Plan<'a>, Full> {
        let (count, max) = (addresses.len(), self.bounds.addresses_per_name);
        if count > max {
            return Err(Full::Answer { count, max });
        }
        let mut plan = Plan {
            name,
            addresses,
            given,
            changes: Learned::default(),
            put_off: Duration::ZERO,
            dropped: BTreeSet::new(),
            made_at: self.changes,
        };
        let own = self.by_name.get(name).copied();
        for (address, end) in addresses {
            let before = own.and_then(|own| {
                let slot = self.by_address.get(address)?;
                self.pairs.end_of((own, *slot))
            });
            match before {
                Some(before) => {
                    plan.put_off = plan.put_off.max(end.saturating_duration_since(before));
                }
                None if plan.changes.fresh.contains(address) => {}
                None => plan.changes.fresh.push(*address),
            }
        }
        if !plan.changes.fresh.is_empty() {
            self.make_room(own, &mut plan)?;
        }
        Ok(plan)
    }

    /// Drops what is beyond the bounds; what the answer itself names stays.
    fn make_room(&mut self, own: Option<u32>, plan: &mut Plan<'_>) -> Result<(), Full> {
        let answer: BTreeSet<u32> = plan
            .addresses
            .iter()
            .filter_map(|(address, _)| self.by_address.get(address).copied())
            .collect();
        match own {
            Some(own) => self.room_in_name(own, &answer, plan)?,
            None => self.room_for_name(plan)?,
        }
        self.room_for_addresses(&answer, plan)?;
        self.room_for_pairs(own, &answer, plan)?;
        plan.changes.evicted = self.losing(plan);
        Ok(())
    }

    /// Makes room among the addresses of a known name; of those none goes that is firm.
    fn room_in_name(
        &mut self,
        own: u32,
        answer: &BTreeSet<u32>,
        plan: &mut Plan<'_>,
    ) -> Result<(), Full> {
        let now = plan.given.now;
        let Some(entry) = self.names.get_mut(own) else {
            return Ok(());
        };
        let after = entry.addresses.len() + plan.changes.fresh.len();
        let excess = after.saturating_sub(self.bounds.addresses_per_name);
        if excess == 0 {
            return Ok(());
        }
        if entry.scarcity.is_some_and(|one| one.forbids(excess, now)) {
            return Err(Full::Firm);
        }
        let pairs = &self.pairs;
        let firm_until = |slot: &u32| pairs.firm_until((own, *slot));
        let firm = entry.addresses.iter().filter_map(firm_until);
        let first_free = firm.filter(|firm| *firm > now).min();
        let is_free = |slot: &&u32| firm_until(slot).is_none_or(|firm| firm <= now);
        let free = entry.addresses.iter().filter(is_free);
        let count = free.clone().count();
        let mut others: Vec<(Option<Instant>, u32)> = free
            .filter(|slot| !answer.contains(slot))
            .map(|slot| (pairs.end_of((own, *slot)), *slot))
            .collect();
        if others.len() < excess {
            entry.scarcity = first_free.map(|until| Scarcity { free: count, until });
            return Err(Full::Firm);
        }
        others.select_nth_unstable(excess - 1);
        let soonest = others.iter().take(excess);
        plan.dropped.extend(soonest.map(|(_, slot)| (own, *slot)));
        Ok(())
    }

    /// Makes room for one more name.
    fn room_for_name(&mut self, plan: &mut Plan<'_>) -> Result<(), Full> {
        if self.by_name.len() < self.bounds.names {
            return Ok(());
        }
        let soonest = self.name_ends.soonest(1, plan.given.now, |_| true);
        let slot = *soonest.first().ok_or(Full::Firm)?;
        let addresses = self.names.get(slot).map(|entry| entry.addresses.iter());
        let addresses = addresses.into_iter().flatten();
        plan.dropped
            .extend(addresses.map(|address| (slot, *address)));
        Ok(())
    }

    /// Makes room for the addresses of the answer that are new.
    fn room_for_addresses(
        &mut self,
        answer: &BTreeSet<u32>,
        plan: &mut Plan<'_>,
    ) -> Result<(), Full> {
        let new = plan.changes.fresh.iter();
        let new = new
            .filter(|address| !self.by_address.contains_key(address))
            .count();
        let freed = self.freed(answer, plan);
        let after = self.by_address.len() + new;
        let excess = after.saturating_sub(freed.len() + self.bounds.addresses);
        let is_other = |slot| !freed.contains(&slot) && !answer.contains(&slot);
        let soonest = self.address_ends.soonest(excess, plan.given.now, is_other);
        if soonest.len() < excess {
            return Err(Full::Firm);
        }
        for slot in soonest {
            let names = self.addresses.get(slot).map(|entry| entry.names.iter());
            let names = names.into_iter().flatten();
            plan.dropped.extend(names.map(|name| (*name, slot)));
        }
        Ok(())
    }

    /// Makes room for the answer's pairs that are new.
    fn room_for_pairs(
        &mut self,
        own: Option<u32>,
        answer: &BTreeSet<u32>,
        plan: &mut Plan<'_>,
    ) -> Result<(), Full> {
        let after = self.pairs.len() + plan.changes.fresh.len();
        let excess = after.saturating_sub(plan.dropped.len() + self.bounds.pairs);
        let is_other = |pair: Pair| {
            let is_answer = Some(pair.0) == own && answer.contains(&pair.1);
            !is_answer && !plan.dropped.contains(&pair)
        };
        let soonest = self.pairs.soonest(excess, plan.given.now, is_other);
        if soonest.len() < excess {
            return Err(Full::Firm);
        }
        plan.dropped.extend(soonest);
        Ok(())
    }

    /// The addresses outside the answer that lose all their names so far.
    fn freed(&self, answer: &BTreeSet<u32>, plan: &Plan<'_>) -> BTreeSet<u32> {
        let losing: BTreeSet<u32> = plan.dropped.iter().map(|(_, address)| *address).collect();
        let is_freed = |slot: &u32| {
            let names = self
                .addresses
                .get(*slot)
                .map_or(&[][..], |entry| &entry.names);
            let mut names = names.iter();
            names.all(|name| plan.dropped.contains(&(*name, *slot))) && !answer.contains(slot)
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
}
