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
    /// The same by what is firm: what was answered longest ago stands first.
    by_firm: BTreeSet<(Instant, K)>,
}

#[derive(Clone, Copy, Debug)]
struct Term {
    /// When it ends; that only moves forward.
    end: Instant,
    /// Where the order has it: at its end, or before, if that was put off since.
    listed: Instant,
    /// A bound takes it before only where all others are firm too; that too only moves forward.
    firm: Instant,
    /// Where that order has it.
    listed_firm: Instant,
}

/// A search for what ends soonest passes over no more things than this that are firm.
const FIRM_LOOKS_MAX: usize = 64;

impl<K> Default for Agenda<K> {
    fn default() -> Self {
        Self {
            terms: HashMap::new(),
            listed: BTreeSet::new(),
            by_firm: BTreeSet::new(),
        }
    }
}

impl<K: Copy + Ord + Hash> Agenda<K> {
    pub(crate) fn len(&self) -> usize {
        self.terms.len()
    }

    /// When a thing ends.
    pub(crate) fn end_of(&self, key: K) -> Option<Instant> {
        self.terms.get(&key).map(|term| term.end)
    }

    /// Until when a thing is firm.
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
        let term = Term {
            end,
            listed: end,
            firm,
            listed_firm: firm,
        };
        self.terms.insert(key, term);
        self.listed.insert((end, key));
        self.by_firm.insert((firm, key));
        true
    }

    /// Takes a thing out; says whether it was there.
    pub(crate) fn remove(&mut self, key: K) -> bool {
        let Some(term) = self.terms.remove(&key) else {
            return false;
        };
        self.listed.remove(&(term.listed, key));
        self.by_firm.remove(&(term.listed_firm, key));
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

    /// The `count` things that a bound takes first: of those that aren't firm which end soonest, then those
    /// that were answered longest ago. All are wanted; fewer, where there are not so many.
    pub(crate) fn soonest(
        &mut self,
        count: usize,
        now: Instant,
        is_wanted: impl Fn(K) -> bool,
    ) -> Vec<K> {
        let mut found = Vec::new();
        let mut passed = Bound::Unbounded;
        let mut firm_looks = if self.all_are_firm(now) {
            FIRM_LOOKS_MAX
        } else {
            0
        };
        while found.len() < count && firm_looks < FIRM_LOOKS_MAX {
            let next = self.listed.range((passed, Bound::Unbounded)).next();
            let Some((listed, key)) = next.copied() else {
                break;
            };
            passed = Bound::Excluded((listed, key));
            // One that is moved comes again further on.
            if self.put_right(listed, key) {
                continue;
            }
            if self.firm_until(key).is_some_and(|firm| firm > now) {
                firm_looks += 1;
            } else if is_wanted(key) {
                found.push(key);
            }
        }
        passed = Bound::Unbounded;
        while found.len() < count {
            let next = self.by_firm.range((passed, Bound::Unbounded)).next();
            let Some((listed, key)) = next.copied() else {
                break;
            };
            passed = Bound::Excluded((listed, key));
            if !self.put_firm_right(listed, key) && is_wanted(key) && !found.contains(&key) {
                found.push(key);
            }
        }
        found
    }

    fn all_are_firm(&mut self, now: Instant) -> bool {
        while let Some((listed, key)) = self.by_firm.first().copied() {
            if !self.put_firm_right(listed, key) {
                return listed > now;
            }
        }
        true
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

    /// The same in the order by what is firm.
    fn put_firm_right(&mut self, listed: Instant, key: K) -> bool {
        let Some(term) = self.terms.get_mut(&key) else {
            return false;
        };
        if term.firm == listed {
            return false;
        }
        term.listed_firm = term.firm;
        self.by_firm.remove(&(listed, key));
        self.by_firm.insert((term.firm, key));
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
    fn what_is_firm_goes_last_and_by_when_it_was_answered() {
        let start = start();
        let at = |secs| start + Duration::from_secs(secs);
        let mut agenda = Agenda::default();
        for (key, end, firm) in [(1, 10, 9), (2, 20, 5), (3, 30, 7)] {
            agenda.put_off(key, at(end), at(firm));
        }
        assert_eq!(agenda.soonest(2, at(4), |_| true), [2, 3]);
        assert_eq!(agenda.soonest(3, at(5), |_| true), [2, 3, 1]);
        assert_eq!(agenda.soonest(9, at(9), |_| true), [1, 2, 3]);
        // One that isn't firm goes before, however late it ends.
        agenda.put_off(4, at(40), at(0));
        assert_eq!(agenda.soonest(2, at(4), |_| true), [4, 2]);
        assert_eq!(agenda.soonest(9, at(4), |key| key != 2), [4, 3, 1]);
        // Answered again it is firm again.
        agenda.put_off(2, at(20), at(99));
        assert_eq!(agenda.soonest(9, at(4), |_| true), [4, 3, 1, 2]);
        assert!(agenda.remove(3));
        assert_eq!(agenda.soonest(9, at(4), |_| true), [4, 1, 2]);
        assert_eq!(agenda.by_firm.len(), 3);
    }

    #[test]
    fn a_search_passes_over_so_many_firm_things_and_no_more() {
        let start = start();
        let at = |secs| start + Duration::from_secs(secs);
        for (firm_things, first) in [(FIRM_LOOKS_MAX - 1, 900), (FIRM_LOOKS_MAX, 901)] {
            let mut agenda = Agenda::default();
            for key in 0..firm_things {
                agenda.put_off(key, at(10), at(9));
            }
            agenda.put_off(900, at(20), at(8));
            agenda.put_off(901, at(30), at(7));
            assert_eq!(agenda.soonest(1, at(8), |_| true), [first]);
        }
    }
}
