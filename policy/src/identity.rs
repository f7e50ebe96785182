//! Numbers for sets of labels.

use std::collections::{BTreeMap, HashMap};

use crate::{Identity, LabelSet, Labels};

/// Gives numbers to label sets, node-wide.
///
/// Sets of workload labels count from 256, keep their number for good and are dumped into the state
/// folder. Sets of addresses outside count from 16777217, are counted by their users and retire with
/// the last; a retired number is not given again before all others were.
#[derive(Debug)]
pub struct Identities {
    /// By the set's sorted text.
    workloads: BTreeMap<String, u32>,
    next_workload: u32,
    outside: HashMap<LabelSet, u32>,
    in_use: BTreeMap<u32, Use>,
    next_outside: u32,
    /// Numbers of an earlier run, and those that have retired: kept for their sets, since the kernel may still
    /// hold them.
    remembered: BTreeMap<u32, LabelSet>,
    remembered_sets: HashMap<LabelSet, u32>,
    /// How many local numbers there are.
    room: usize,
}

/// Numbers that are kept for sets that no address has; beyond, the lowest is forgotten, and connections that
/// it was given to are judged by whether their rule is there.
const REMEMBERED_MAX: usize = 4_096;

/// How many local numbers there are.
const LOCAL_ROOM: usize = (Identity::LOCAL_MAX - Identity::LOCAL_MIN + 1) as usize;

/// A local number in use.
#[derive(Debug)]
struct Use {
    set: LabelSet,
    /// How many have acquired it and not released.
    count: u64,
}

/// No number is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no identity number is left")]
pub struct Exhausted;

/// A dump that no allocator can have written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDump {
    /// A number that is not for workload labels.
    #[error("identity {0} is not a number of workload labels")]
    OutOfRange(u32),
    /// A number of two sets.
    #[error("identity {0} stands for two label sets")]
    Twice(u32),
}

impl Default for Identities {
    fn default() -> Self {
        Self::new()
    }
}

impl Identities {
    /// An allocator that has given nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            workloads: BTreeMap::new(),
            next_workload: Identity::LABELS_MIN,
            outside: HashMap::new(),
            in_use: BTreeMap::new(),
            next_outside: Identity::LOCAL_MIN,
            remembered: BTreeMap::new(),
            remembered_sets: HashMap::new(),
            room: LOCAL_ROOM,
        }
    }

    /// From now on as if there were no more local numbers than so many beyond those in use.
    #[cfg(any(test, feature = "reference"))]
    pub fn leave_room(&mut self, numbers: usize) {
        self.room = self.in_use.len() + self.remembered.len() + numbers;
    }

    /// An allocator that goes on where a [`Identities::dump`] ended.
    ///
    /// # Errors
    /// If a number is out of range or stands twice.
    pub fn restore(dump: BTreeMap<String, u32>) -> Result<Self, BadDump> {
        let mut identities = Self::new();
        let mut seen = std::collections::BTreeSet::new();
        for number in dump.values() {
            if !(Identity::LABELS_MIN..Identity::LOCAL_MIN).contains(number) {
                return Err(BadDump::OutOfRange(*number));
            }
            if !seen.insert(*number) {
                return Err(BadDump::Twice(*number));
            }
        }
        if let Some(last) = seen.last() {
            identities.next_workload = last + 1;
        }
        identities.workloads = dump;
        Ok(identities)
    }

    /// The numbers of workload labels, by the set's sorted text, for the state folder.
    #[must_use]
    pub fn dump(&self) -> BTreeMap<String, u32> {
        self.workloads.clone()
    }

    /// The number of a set of workload labels; the same set has the same number for good.
    ///
    /// # Errors
    /// If all 16 million numbers are given.
    pub fn label_identity(&mut self, labels: &Labels) -> Result<Identity, Exhausted> {
        let text = labels.to_sorted_text();
        if let Some(number) = self.workloads.get(&text) {
            return Ok(Identity::from_number(*number));
        }
        let number = self.next_workload;
        if number >= Identity::LOCAL_MIN {
            return Err(Exhausted);
        }
        self.next_workload += 1;
        self.workloads.insert(text, number);
        Ok(Identity::from_number(number))
    }

    /// The number of a set of labels of an address outside; each call is to be matched by one
    /// [`Identities::release`]. The world label alone is 9 or 10 and is not counted.
    ///
    /// # Errors
    /// If all numbers are in use.
    pub fn acquire(&mut self, set: LabelSet) -> Result<Identity, Exhausted> {
        if set.is_world() {
            return Ok(set.family().world());
        }
        if let Some(number) = self.outside.get(&set) {
            if let Some(entry) = self.in_use.get_mut(number) {
                entry.count += 1;
            }
            return Ok(Identity::from_number(*number));
        }
        let number = match self.remembered_sets.remove(&set) {
            Some(number) => {
                self.remembered.remove(&number);
                number
            }
            None => self.free_number()?,
        };
        self.outside.insert(set.clone(), number);
        self.in_use.insert(number, Use { set, count: 1 });
        Ok(Identity::from_number(number))
    }

    /// Gives back what [`Identities::acquire`] gave; at the last one the number retires: it is remembered
    /// for its set, by which connections are judged that it was given to. Numbers that are not counted are
    /// left alone.
    pub fn release(&mut self, identity: Identity) {
        let number = identity.get();
        let Some(entry) = self.in_use.get_mut(&number) else {
            return;
        };
        entry.count -= 1;
        if entry.count == 0
            && let Some(entry) = self.in_use.remove(&number)
        {
            self.outside.remove(&entry.set);
            self.remember(number, entry.set);
            while self.remembered.len() > REMEMBERED_MAX
                && let Some((_, set)) = self.remembered.pop_first()
            {
                self.remembered_sets.remove(&set);
            }
        }
    }

    /// The numbers of sets of addresses outside, in use or remembered, for the state folder.
    pub fn outside(&self) -> impl Iterator<Item = (Identity, &LabelSet)> {
        let in_use = self.in_use.iter();
        let in_use = in_use.map(|(number, entry)| (number, &entry.set));
        let all = in_use.chain(&self.remembered);
        all.map(|(number, set)| (Identity::from_number(*number), set))
    }

    /// Keeps the number of a set from an earlier run for it, unless one of them is taken already.
    pub fn remember(&mut self, number: u32, set: LabelSet) {
        let is_ours = (Identity::LOCAL_MIN..=Identity::LOCAL_MAX).contains(&number);
        if !is_ours
            || set.is_world()
            || self.in_use.contains_key(&number)
            || self.remembered.contains_key(&number)
            || self.outside.contains_key(&set)
            || self.remembered_sets.contains_key(&set)
        {
            return;
        }
        self.pass_over(number);
        self.remembered.insert(number, set.clone());
        self.remembered_sets.insert(set, number);
    }

    /// Gives no number up to this one to a new set: the kernel may still hold it.
    pub fn pass_over(&mut self, number: u32) {
        if (Identity::LOCAL_MIN..Identity::LOCAL_MAX).contains(&number) {
            self.next_outside = self.next_outside.max(number + 1);
        }
    }

    /// Acquires a number that is in use or remembered. Says whether it was: then there is one more to
    /// release.
    pub fn hold(&mut self, number: u32) -> bool {
        if let Some(entry) = self.in_use.get_mut(&number) {
            entry.count += 1;
            return true;
        }
        let Some(set) = self.remembered.get(&number).cloned() else {
            return false;
        };
        self.acquire(set).is_ok()
    }

    /// The set that a local number in use stands for.
    #[must_use]
    pub fn labels_of(&self, identity: Identity) -> Option<&LabelSet> {
        self.in_use.get(&identity.get()).map(|entry| &entry.set)
    }

    /// The same of one that is remembered, too: what a connection was opened by, though no address has it
    /// any more.
    #[must_use]
    pub fn past_labels_of(&self, identity: Identity) -> Option<&LabelSet> {
        let remembered = || self.remembered.get(&identity.get());
        self.labels_of(identity).or_else(remembered)
    }

    /// How many local numbers are in use.
    #[must_use]
    pub fn local_count(&self) -> usize {
        self.in_use.len()
    }

    /// The next number; past the last one it starts again and passes over those in use.
    fn free_number(&mut self) -> Result<u32, Exhausted> {
        if self.in_use.len() + self.remembered.len() >= self.room {
            return Err(Exhausted);
        }
        loop {
            let number = self.next_outside;
            self.next_outside = if number == Identity::LOCAL_MAX {
                Identity::LOCAL_MIN
            } else {
                number + 1
            };
            if !self.in_use.contains_key(&number) && !self.remembered.contains_key(&number) {
                return Ok(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Family, Label};

    fn set(text: &str) -> LabelSet {
        LabelSet::new(Family::V4, Vec::new(), vec![text.into()])
    }

    fn labels(value: &str) -> Labels {
        [Label::from_key("app", value)].into_iter().collect()
    }

    #[test]
    fn equal_sets_share_a_number_that_retires_with_the_last() {
        let mut ids = Identities::new();
        let first = ids.acquire(set("a")).unwrap();
        assert_eq!(first.get(), Identity::LOCAL_MIN);
        assert_eq!(ids.acquire(set("a")).unwrap(), first);
        ids.release(first);
        assert_eq!(ids.labels_of(first), Some(&set("a")));
        ids.release(first);
        assert_eq!(ids.labels_of(first), None);
        ids.release(first);
        assert_eq!(ids.past_labels_of(first), Some(&set("a")));
        let other = ids.acquire(set("b")).unwrap();
        assert_eq!(other.get(), first.get() + 1, "not given to another set");
        assert_eq!(ids.acquire(set("a")), Ok(first), "kept for its own");
        ids.release(other);
        assert_eq!(ids.local_count(), 1);
        let kept = [(first, &set("a")), (other, &set("b"))];
        assert_eq!(ids.outside().collect::<Vec<_>>(), kept);
    }

    #[test]
    fn as_many_sets_are_remembered_as_are_worth_it() {
        let mut ids = Identities::new();
        for number in 0..=REMEMBERED_MAX {
            let one = ids.acquire(set(&number.to_string())).unwrap();
            ids.release(one);
        }
        assert_eq!(ids.remembered.len(), REMEMBERED_MAX);
        assert_eq!(ids.remembered_sets.len(), REMEMBERED_MAX);
        let first = Identity::from_number(Identity::LOCAL_MIN);
        assert_eq!(ids.past_labels_of(first), None);
    }

    #[test]
    fn numbers_come_again_after_the_last_and_pass_over_those_in_use() {
        let mut ids = Identities::new();
        let kept = ids.acquire(set("kept")).unwrap();
        ids.next_outside = Identity::LOCAL_MAX;
        assert_eq!(ids.acquire(set("a")).unwrap().get(), Identity::LOCAL_MAX);
        assert_eq!(ids.acquire(set("b")).unwrap().get(), kept.get() + 1);
    }

    #[test]
    fn no_number_is_given_twice_where_none_is_left() {
        let mut ids = Identities::new();
        let first = ids.acquire(set("a")).unwrap();
        ids.remember(first.get() + 1, set("of before"));
        ids.leave_room(1);
        ids.acquire(set("b")).unwrap();
        assert_eq!(ids.acquire(set("c")), Err(Exhausted));
        assert_eq!(ids.acquire(set("a")), Ok(first), "one that is in use");
        ids.acquire(set("of before")).unwrap();
        assert_eq!(ids.acquire(set("c")), Err(Exhausted));
    }

    #[test]
    fn numbers_of_an_earlier_run_stay_with_their_sets() {
        let mut ids = Identities::new();
        let number = Identity::LOCAL_MIN + 5;
        ids.remember(number, set("a"));
        ids.remember(number, set("b")); // the number is taken
        ids.remember(number + 1, set("a")); // the set is
        ids.remember(7, set("c")); // no number of ours
        ids.pass_over(number + 9);
        assert_eq!(ids.acquire(set("b")).unwrap().get(), number + 10);
        assert!(ids.hold(number) && !ids.hold(number + 1) && !ids.hold(7));
        assert_eq!(ids.acquire(set("a")).unwrap().get(), number);
        ids.release(Identity::from_number(number));
        ids.release(Identity::from_number(number));
        assert_eq!(ids.labels_of(Identity::from_number(number)), None);
        assert_eq!(ids.local_count(), 1);
    }

    #[test]
    fn the_world_alone_is_not_counted() {
        let mut ids = Identities::new();
        let world = ids.acquire(LabelSet::world(Family::V4)).unwrap();
        assert_eq!(world, Identity::WORLD_IPV4);
        assert_eq!(
            ids.acquire(LabelSet::world(Family::V6)),
            Ok(Identity::WORLD_IPV6)
        );
        ids.release(world);
        assert_eq!(ids.local_count(), 0);
    }

    #[test]
    fn workload_numbers_outlive_a_dump() {
        let mut ids = Identities::new();
        assert_eq!(
            ids.label_identity(&labels("a")).unwrap().get(),
            Identity::LABELS_MIN
        );
        let b = ids.label_identity(&labels("b")).unwrap();
        let mut restored = Identities::restore(ids.dump()).unwrap();
        assert_eq!(restored.label_identity(&labels("b")).unwrap(), b);
        assert_eq!(
            restored.label_identity(&labels("c")).unwrap().get(),
            b.get() + 1
        );
        let bad = |numbers: &[u32]| {
            let named = numbers.iter().enumerate().map(|(i, n)| (i.to_string(), *n));
            Identities::restore(named.collect()).unwrap_err()
        };
        assert_eq!(bad(&[9]), BadDump::OutOfRange(9));
        assert_eq!(bad(&[300, 300]), BadDump::Twice(300));
        restored.next_workload = Identity::LOCAL_MIN;
        assert_eq!(restored.label_identity(&labels("d")), Err(Exhausted));
    }
}
