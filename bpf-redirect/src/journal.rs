//! The last writes that this process made to the maps, for people who look.
//!
//! What the kernel's programs write themselves is not in it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use zerocopy::{Immutable, IntoBytes};

use crate::dump::{Field, Row, shape_of};

/// Writes to one map that are remembered; beyond, the oldest is forgotten, and a reader is told how many.
pub const WRITES_KEPT_MAX: usize = 1_000;

/// The value of what was taken away.
pub(crate) const NO_VALUE: &[u8] = &[];

/// What was done to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Written, new or over an older one.
    Set,
    /// Taken away.
    Delete,
    /// All entries of an endpoint at once, so many.
    Replace(usize),
}

impl Act {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Delete => "delete",
            Self::Replace(_) => "replace",
        }
    }
}

/// A write, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Nanoseconds since boot.
    pub at: u64,
    /// The map.
    pub map: &'static str,
    /// What was done.
    pub act: Act,
    /// The entry: of one that was taken away its key.
    pub row: Row,
}

/// How far somebody has read.
#[derive(Clone, Debug, Default)]
pub struct JournalCursor(BTreeMap<&'static str, u64>);

/// Remembers writes.
pub struct Journal {
    clock: fn() -> u64,
    logs: Mutex<Logs>,
}

#[derive(Default)]
struct Logs {
    /// Over all maps, in order.
    next: u64,
    by_map: BTreeMap<&'static str, Log>,
}

#[derive(Default)]
struct Log {
    /// How many are not there any more.
    forgotten: u64,
    records: VecDeque<Record>,
}

struct Record {
    number: u64,
    at: u64,
    act: Act,
    /// As the kernel has it; put into words when somebody asks.
    key: Box<[u8]>,
    value: Box<[u8]>,
}

impl Journal {
    /// An empty one; `clock` tells nanoseconds since boot.
    #[must_use]
    pub fn new(clock: fn() -> u64) -> Self {
        Self {
            clock,
            logs: Mutex::default(),
        }
    }

    /// The writes from `cursor` on, of one map alone if it is given, in order; and how many more were
    /// forgotten before they could be told.
    pub fn read(&self, cursor: &mut JournalCursor, map: Option<&str>) -> (Vec<Write>, u64) {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut found, mut lost) = (Vec::new(), 0);
        for (name, log) in &logs.by_map {
            if map.is_some_and(|map| !map.eq_ignore_ascii_case(name)) {
                continue;
            }
            let read = cursor.0.entry(name).or_insert(0);
            lost += log.forgotten.saturating_sub(*read);
            let skipped = usize::try_from(read.saturating_sub(log.forgotten)).unwrap_or(usize::MAX);
            let new = log.records.iter().skip(skipped);
            found.extend(new.filter_map(|record| Some((record.number, record.tell(name)?))));
            *read = log.forgotten + log.records.len() as u64;
        }
        drop(logs);
        found.sort_by_key(|(number, _)| *number);
        (found.into_iter().map(|(_, write)| write).collect(), lost)
    }

    /// Remembers a write.
    pub(crate) fn tell<K, V>(&self, map: &'static str, act: Act, (key, value): (&K, &V))
    where
        K: IntoBytes + Immutable + ?Sized,
        V: IntoBytes + Immutable + ?Sized,
    {
        let at = (self.clock)();
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let number = logs.next;
        logs.next += 1;
        let log = logs.by_map.entry(map).or_default();
        if log.records.len() == WRITES_KEPT_MAX {
            log.records.pop_front();
            log.forgotten += 1;
        }
        log.records.push_back(Record {
            number,
            at,
            act,
            key: key.as_bytes().into(),
            value: value.as_bytes().into(),
        });
    }
}

impl Record {
    /// In words; `None` for what is no entry in its reader's eyes.
    fn tell(&self, map: &'static str) -> Option<Write> {
        let mut row = shape_of(map)?.row((&self.key, &self.value), self.at)?;
        if let Act::Replace(entries) = self.act {
            row.push(("entries", Field::Number(entries as u64)));
        }
        Some(Write {
            at: self.at,
            map,
            act: self.act,
            row,
        })
    }
}

#[cfg(test)]
mod tests {
    use bpf_redirect_common::{Address, EP_ID, EndpointAddress, LEARNED};

    use super::*;

    fn learned(number: u32) -> EndpointAddress {
        EndpointAddress {
            endpoint: number,
            address: Address::from(std::net::IpAddr::from([198, 18, 0, 1])),
        }
    }

    #[test]
    fn writes_are_told_once_in_order_and_of_one_map_alone() {
        let journal = Journal::new(|| 5);
        let mut cursor = JournalCursor::default();
        journal.tell(LEARNED, Act::Set, (&learned(1), &7u32));
        journal.tell(EP_ID, Act::Delete, (&3u32, NO_VALUE));
        journal.tell(LEARNED, Act::Delete, (&learned(1), NO_VALUE));
        let (writes, lost) = journal.read(&mut cursor, None);
        let told: Vec<_> = writes
            .iter()
            .map(|one| (one.map, one.act.word(), one.row.len()))
            .collect();
        assert_eq!(
            told,
            [
                (LEARNED, "set", 3),
                (EP_ID, "delete", 1),
                (LEARNED, "delete", 2)
            ]
        );
        assert_eq!((lost, writes.first().unwrap().at), (0, 5));
        assert!(journal.read(&mut cursor, None).0.is_empty());
        journal.tell(EP_ID, Act::Delete, (&4u32, NO_VALUE));
        let small = LEARNED.to_lowercase();
        assert!(journal.read(&mut cursor, Some(&small)).0.is_empty());
        assert_eq!(journal.read(&mut cursor, None).0.len(), 1);
    }

    #[test]
    fn the_oldest_is_forgotten_and_a_reader_is_told_how_many() {
        let journal = Journal::new(|| 5);
        let mut cursor = JournalCursor::default();
        for number in 0..WRITES_KEPT_MAX + 3 {
            let number = u32::try_from(number).unwrap();
            journal.tell(LEARNED, Act::Set, (&learned(number), &7u32));
        }
        let (writes, lost) = journal.read(&mut cursor, None);
        assert_eq!((writes.len(), lost), (WRITES_KEPT_MAX, 3));
        let first = writes.first().unwrap();
        assert_eq!(first.row.first(), Some(&("endpoint", Field::Number(3))));
        journal.tell(LEARNED, Act::Set, (&learned(9), &7u32));
        assert_eq!(journal.read(&mut cursor, None).1, 0);
    }
}
