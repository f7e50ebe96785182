//! The queries of one worker that wait for their answers.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use policy::{EndpointId, L4Protocol};

use super::exchange::Held;
use super::outstanding::{Outstanding, Slot};
use super::step::Fault;
use crate::limits::{EQUAL_OUTSTANDING_MAX, ID_DRAWS_MAX};

/// A socket or connection toward servers, as its worker numbers them; never used again for another
/// while it has queries outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member(pub u64);

/// One outstanding query: the pool member that sent it and its id on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Who sent it.
    pub member: Member,
    /// Under which id.
    pub id: u16,
}

/// The way upstream that the shell chose for a query.
pub struct Via<'a> {
    /// Who sends it.
    pub member: Member,
    /// Random numbers for its id, from a generator that can't be predicted.
    pub draw: &'a mut dyn FnMut() -> u16,
}

/// The table of outstanding queries of one worker; nothing of it is shared but the account.
///
/// All queries of a protocol wait equally long, so deadlines come in the order of sending and a
/// queue for each protocol keeps them; what was answered is left in it until it is reached, or
/// until it is the larger half.
#[derive(Debug)]
pub struct Pending {
    members: HashMap<Member, HashMap<u16, Entry>>,
    /// The outstanding queries of each client that are equal, oldest first.
    equal: HashMap<EqualKey, Equals>,
    udp: Deadlines,
    tcp: Deadlines,
    len: usize,
    /// Distinguishes an entry from an earlier one with the same key.
    next_serial: u64,
    outstanding: Arc<Outstanding>,
    hasher: RandomState,
}

/// One outstanding query.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) held: Held,
    pub(crate) deadline: Instant,
    /// Messages that pretended to be the answer.
    pub(crate) rejected: u8,
    serial: u64,
    equal: EqualKey,
    _slot: Slot,
}

/// What two equal queries share. The question is there as its keyed hash: should two differ and
/// collide, the older one of that client is dropped early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct EqualKey {
    /// Two may have the same address.
    endpoint: EndpointId,
    client: SocketAddr,
    server: SocketAddr,
    id: u16,
    question: u64,
}

/// Up to the limit of equal queries, oldest first.
#[derive(Clone, Copy, Debug, Default)]
struct Equals([Option<Key>; EQUAL_OUTSTANDING_MAX]);

/// A place that was taken for a query about to be sent.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(crate) key: Key,
    slot: Slot,
}

impl Pending {
    /// An empty table on the node's account.
    #[must_use]
    pub fn new(outstanding: Arc<Outstanding>) -> Self {
        Self {
            members: HashMap::new(),
            equal: HashMap::new(),
            udp: Deadlines::default(),
            tcp: Deadlines::default(),
            len: 0,
            next_serial: 0,
            outstanding,
            hasher: RandomState::new(),
        }
    }

    /// How many queries wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many queries of one pool member wait.
    #[must_use]
    pub fn len_of(&self, member: Member) -> usize {
        self.members.get(&member).map_or(0, HashMap::len)
    }

    /// The next moment at which [`Pending::expire`] may have something.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let fronts = [self.udp.front(), self.tcp.front()];
        fronts.into_iter().flatten().min()
    }

    /// Takes out one query whose deadline has passed; called until it gives none.
    pub fn expire(&mut self, now: Instant) -> Option<Held> {
        while let Some(due) = self.udp.pop(now).or_else(|| self.tcp.pop(now)) {
            if self.is_live(&due) {
                return self.take(due.key);
            }
        }
        None
    }

    /// Takes out the query with this key.
    pub fn take(&mut self, key: Key) -> Option<Held> {
        let entries = self.members.get_mut(&key.member)?;
        let entry = entries.remove(&key.id)?;
        self.len -= 1;
        if let Some(equals) = self.equal.get_mut(&entry.equal)
            && equals.remove(key)
        {
            self.equal.remove(&entry.equal);
        }
        Some(entry.held)
    }

    /// Takes out any one query of a pool member; called until it gives none, when the member's
    /// connection is gone.
    pub fn take_from(&mut self, member: Member) -> Option<Held> {
        let id = self
            .members
            .get(&member)
            .and_then(|entries| entries.keys().next().copied());
        match id {
            Some(id) => self.take(Key { member, id }),
            None => {
                self.members.remove(&member);
                None
            }
        }
    }

    /// Takes out all queries of an endpoint that is being removed. Looks at every entry.
    pub fn take_of(&mut self, endpoint: EndpointId) -> Vec<Held> {
        let mut keys = Vec::new();
        for (member, entries) in &self.members {
            for (id, entry) in entries {
                if entry.held.origin().endpoint == endpoint {
                    keys.push(Key {
                        member: *member,
                        id: *id,
                    });
                }
            }
        }
        keys.into_iter().filter_map(|key| self.take(key)).collect()
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut Entry> {
        self.members.get_mut(&key.member)?.get_mut(&key.id)
    }

    /// Takes a place on the account and an id that no outstanding query of the member has.
    pub(crate) fn reserve(
        &mut self,
        endpoint: EndpointId,
        via: Via<'_>,
    ) -> Result<Reserved, Fault> {
        let slot = self
            .outstanding
            .admit(endpoint)
            .map_err(|_| Fault::Outstanding)?;
        let taken = self.members.get(&via.member);
        for _ in 0..ID_DRAWS_MAX {
            let id = (via.draw)();
            if !taken.is_some_and(|entries| entries.contains_key(&id)) {
                let member = via.member;
                let key = Key { member, id };
                return Ok(Reserved { key, slot });
            }
        }
        Err(Fault::NoId)
    }

    /// Enters a query that is sent now; gives the oldest equal one if that is one too many.
    pub(crate) fn insert(
        &mut self,
        reserved: Reserved,
        held: Held,
        deadline: Instant,
    ) -> Option<Held> {
        let Reserved { key, slot } = reserved;
        let equal = self.equal_key(&held);
        let oldest = self.equal.entry(equal).or_default().push(key);
        let serial = self.next_serial;
        self.next_serial += 1;
        let due = Due {
            deadline,
            key,
            serial,
        };
        match held.origin().protocol {
            L4Protocol::Tcp => self.tcp.push(due),
            L4Protocol::Udp | L4Protocol::Sctp => self.udp.push(due),
        }
        let entry = Entry {
            held,
            deadline,
            rejected: 0,
            serial,
            equal,
            _slot: slot,
        };
        self.members
            .entry(key.member)
            .or_default()
            .insert(key.id, entry);
        self.len += 1;
        self.tidy();
        oldest.and_then(|key| self.take(key))
    }

    fn equal_key(&self, held: &Held) -> EqualKey {
        let origin = held.origin();
        let question = held.question();
        EqualKey {
            endpoint: origin.endpoint,
            client: origin.client,
            server: origin.server,
            id: held.client_id(),
            question: self
                .hasher
                .hash_one((&question.name, question.qtype, question.qclass)),
        }
    }

    fn is_live(&self, due: &Due) -> bool {
        self.members
            .get(&due.key.member)
            .and_then(|entries| entries.get(&due.key.id))
            .is_some_and(|entry| entry.serial == due.serial)
    }

    /// Forgets answered queries in the queues once they are the larger half: amortised, each is
    /// looked at a fixed number of times.
    fn tidy(&mut self) {
        const SLACK: usize = 64;
        if self.udp.0.len() + self.tcp.0.len() <= 2 * self.len + SLACK {
            return;
        }
        let mut queues = [std::mem::take(&mut self.udp), std::mem::take(&mut self.tcp)];
        for queue in &mut queues {
            queue.0.retain(|due| self.is_live(due));
        }
        [self.udp, self.tcp] = queues;
    }
}

impl Equals {
    /// Adds the newest; gives the oldest if there was no room.
    fn push(&mut self, key: Key) -> Option<Key> {
        if let Some(free) = self.0.iter_mut().find(|place| place.is_none()) {
            *free = Some(key);
            return None;
        }
        self.0.rotate_left(1);
        self.0.last_mut().and_then(|last| last.replace(key))
    }

    /// Removes one, keeping the order of the rest; says whether none is left.
    fn remove(&mut self, key: Key) -> bool {
        let mut kept = [None; EQUAL_OUTSTANDING_MAX];
        let others = self.0.iter().flatten().filter(|other| **other != key);
        for (place, other) in kept.iter_mut().zip(others) {
            *place = Some(*other);
        }
        self.0 = kept;
        kept.iter().all(Option::is_none)
    }
}

/// Deadlines in the order in which they fall due.
#[derive(Debug, Default)]
struct Deadlines(VecDeque<Due>);

#[derive(Debug)]
struct Due {
    deadline: Instant,
    key: Key,
    serial: u64,
}

impl Deadlines {
    fn push(&mut self, due: Due) {
        self.0.push_back(due);
    }

    fn front(&self) -> Option<Instant> {
        self.0.front().map(|due| due.deadline)
    }

    fn pop(&mut self, now: Instant) -> Option<Due> {
        let is_due = self.front().is_some_and(|deadline| deadline <= now);
        if is_due { self.0.pop_front() } else { None }
    }
}
