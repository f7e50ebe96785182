//! What ends when: an order by end in which an extension moves nothing, since most ends are put off
//! many times before anybody looks at them.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::ops::Bound;
use std::time::Instant;

/// Things and when they end.
#[derive(Debug)]
pub(crate) struct Agenda<K> {
    terms: HashMap<K, Term>,
    /// One entry for each thing, never later than its end.
    listed: BTreeSet<(Instant, K)>,
    scarcity: Option<Scarcity>,
}

#[derive(Clone, Copy, Debug)]
struct Term {
    /// When it ends; that only moves forward.
    end: Instant,
    /// Where the order has it: at its end, or before, if that was put off since.
    listed: Instant,
    /// No bound takes it before; that too only moves forward.
    firm: Instant,
}

/// How many things at most a bound may take until then: so that where too few are free, not each new
/// thing costs a look at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scarcity {
    pub(crate) free: usize,
    pub(crate) until: Instant,
}

impl Scarcity {
    /// Whether `count` can't be had by now.
    pub(crate) fn forbids(self, count: usize, now: Instant) -> bool {
        count > self.free && now < self.until
    }
}

impl<K> Default for Agenda<K> {
    fn default() -> Self {
        Self {
            terms: HashMap::new(),
            listed: BTreeSet::new(),
            scarcity: None,
        }
    }
}

impl<K: Copy + Ord + Hash> Agenda<K> {
    pub(crate) fn len(&self) -> usize {
        self.terms.len()
    }

    pub(crate) fn contains(&self, key: K) -> bool {
        self.terms.contains_key(&key)
    }

    /// When a thing ends.
    pub(crate) fn end_of(&self, key: K) -> Option<Instant> {
        self.terms.get(&key).map(|term| term.end)
    }

    /// Until when no bound takes a thing.
    pub(crate) fn firm_until(&self, key: K) -> Option<Instant> {
        self.terms.get(&key).map(|term| term.firm)
    }

    /// Lets a thing end then, or later if it does so already, and be firm until then, or later; says
    /// whether it is new.
    pub(crate) fn put_off(&mut self, key: K, end: Instant, firm: Instant) -> bool {
        if let Some(term) = self.terms.get_mut(&key) {
            term.end = term.end.max(end);
            term.firm = term.firm.max(firm);
            return false;
        }
        self.scarcity = self.scarcity.filter(|scarcity| firm >= scarcity.until);
        let listed = end;
        self.terms.insert(key, Term { end, listed, firm });
        self.listed.insert((listed, key));
        true
    }

    /// Takes a thing out; says whether it was there.
    pub(crate) fn remove(&mut self, key: K) -> bool {
        let Some(term) = self.terms.remove(&key) else {
            return false;
        };
        self.listed.remove(&(term.listed, key));
        true
    }

    /// No thing ends before.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.listed.first().map(|(listed, _)| *listed)
    }

    /// The thing that ended first, if one has by `now`. It looks at no more than `looks` things and
    /// takes them off `looks`.
    pub(crate) fn first_ended(&mut self, now: Instant, looks: &mut usize) -> Option<K> {
        while let Some((listed, key)) = self.listed.first().copied()
            && listed <= now
        {
            *looks = looks.checked_sub(1)?;
            if !self.put_right(listed, key) {
                return Some(key);
            }
        }
        None
    }

    /// The `count` things that end first among those that are not firm and that are wanted; fewer, where
    /// there are not so many.
    pub(crate) fn soonest(
        &mut self,
        count: usize,
        now: Instant,
        is_wanted: impl Fn(K) -> bool,
    ) -> Vec<K> {
        let mut found = Vec::new();
        if self.scarcity.is_some_and(|one| one.forbids(count, now)) {
            return found;
        }
        let mut free = 0;
        let mut first_free: Option<Instant> = None;
        let mut passed = Bound::Unbounded;
        while found.len() < count {
            let next = self.listed.range((passed, Bound::Unbounded)).next();
            let Some((listed, key)) = next.copied() else {
                self.scarcity = first_free.map(|until| Scarcity { free, until });
                break;
            };
            passed = Bound::Excluded((listed, key));
            // One that is moved comes again further on.
            if self.put_right(listed, key) {
                continue;
            }
            match self.firm_until(key).filter(|firm| *firm > now) {
                Some(firm) => first_free = Some(first_free.map_or(firm, |first| first.min(firm))),
                None => {
                    free += 1;
                    if is_wanted(key) {
                        found.push(key);
                    }
                }
            }
        }
        found
    }

    /// Moves a thing to its end; says whether it had to.
    fn put_right(&mut self, listed: Instant, key: K) -> bool {
        let Some(term) = self.terms.get_mut(&key) else {
            return false;
        };
        if term.end == listed {
            return false;
        }
        term.listed = term.end;
        self.listed.remove(&(listed, key));
        self.listed.insert((term.end, key));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[expect(clippy::disallowed_methods, reason = "where a test's time begins")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn things_come_by_their_ends_however_often_these_were_put_off() {
        let start = start();
        let at = |secs| start + Duration::from_secs(secs);
        let mut agenda = Agenda::default();
        for (key, end) in [(1, 10), (2, 20), (3, 30), (4, 5)] {
            assert!(agenda.put_off(key, at(end), at(0)));
        }
        assert!(!agenda.put_off(4, at(25), at(0)));
        assert!(!agenda.put_off(3, at(1), at(0)), "never earlier");
        assert_eq!(agenda.first(), Some(at(5)), "no later than the end");
        assert_eq!(agenda.soonest(3, at(0), |_| true), [1, 2, 4]);
        assert_eq!(agenda.first(), Some(at(10)));
        assert_eq!(agenda.soonest(9, at(0), |key| key != 2), [1, 4, 3]);
        assert!(agenda.remove(1) && !agenda.remove(1));
        agenda.put_off(2, at(40), at(0));
        let mut looks = 9;
        assert_eq!(agenda.first_ended(at(24), &mut looks), None);
        assert_eq!(looks, 8, "one look, at what was put off");
        assert_eq!(agenda.first_ended(at(25), &mut looks), Some(4));
        agenda.put_off(4, at(90), at(0));
        assert_eq!(agenda.first_ended(at(50), &mut 0), None);
        assert_eq!(agenda.first_ended(at(50), &mut 9), Some(3));
        assert_eq!((agenda.len(), agenda.listed.len()), (3, 3));
    }
    #[test]
    fn what_is_firm_is_passed_over_and_not_looked_at_again_in_vain() {
        let start = start();
        let at = |secs| start + Duration::from_secs(secs);
        let mut agenda = Agenda::default();
        for (key, end, firm) in [(1, 10, 9), (2, 20, 5), (3, 30, 7)] {
            agenda.put_off(key, at(end), at(firm));
        }
        assert_eq!(agenda.soonest(1, at(4), |_| true), [0; 0]);
        let scarcity = agenda.scarcity.unwrap();
        assert_eq!((scarcity.free, scarcity.until), (0, at(5)));
        assert_eq!(agenda.soonest(2, at(5), |_| true), [2]);
        assert_eq!(agenda.scarcity.unwrap().until, at(7));
        assert_eq!(agenda.soonest(2, at(6), |_| panic!("a look")), [0; 0]);
        assert_eq!(agenda.soonest(1, at(6), |_| true), [2], "there is one");
        // One that may go earlier is seen.
        agenda.put_off(4, at(40), at(0));
        assert_eq!(agenda.soonest(2, at(6), |_| true), [2, 4]);
        assert_eq!(agenda.soonest(9, at(9), |_| true), [1, 2, 3, 4]);
        agenda.put_off(1, at(10), at(99));
        assert_eq!(agenda.soonest(9, at(9), |_| true), [2, 3, 4]);
    }
}
