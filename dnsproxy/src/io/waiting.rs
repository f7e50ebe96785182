//! What a worker has read and not answered yet, in memory that outlives the process: the next daemon asks
//! it again, so that a query is lost only if the answer is.
//!
//! A table of places in a part of a shared file. Where a query is, a hash of its client and id says; what
//! finds no free place near there takes the first, whose query a crash then loses. Behind the table is the
//! inbox that the kernel reads a batch into: what a crash kept from being noted is found there. Nothing
//! else depends on either: they decide nothing, and what is read from them is judged like any datagram.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use bpf_redirect_common::Mark;
use transport::{Datagram, Inbox, SharedFile, SharedPart};

use crate::limits::{WAITING_AGE_MAX, WAITING_OCTETS_MAX, WAITING_PER_WORKER_MAX};

use super::udp::{BATCH, QUERY_BUFFER};

/// Workers that have a part.
const PARTS: usize = 16;
/// A place: its length, or 0 where it is free; mark; when it was read; peer, own address, peer's port.
const LENGTH: usize = 0;
const MARK: usize = 4;
const SINCE: usize = 8;
const PEER: usize = 16;
const LOCAL: usize = 32;
const PORT: usize = 48;
const BYTES: usize = 64;
const PLACE: usize = BYTES + WAITING_OCTETS_MAX;
/// Before the places: what says that they are laid out as here.
const HEAD: usize = 64;
const LAYOUT: u32 = 0x4e47_5102;
/// When its worker last lived.
const ALIVE: usize = 8;
/// Behind the places.
const INBOX: usize = HEAD + WAITING_PER_WORKER_MAX * PLACE;
const PART: usize = (INBOX + Inbox::octets(BATCH, QUERY_BUFFER)).next_multiple_of(8);
/// Places that are looked at for one that is free.
const PROBES: usize = 8;

/// The memory for all workers.
#[derive(Debug)]
pub struct WaitingFile(SharedFile);

impl WaitingFile {
    /// An empty one.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn create() -> std::io::Result<Self> {
        SharedFile::create("namegate-waiting", PARTS * PART).map(Self)
    }

    /// One that an earlier process left.
    ///
    /// # Errors
    /// If it is something else.
    pub fn adopt(file: OwnedFd) -> std::io::Result<Self> {
        SharedFile::adopt(file, PARTS * PART).map(Self)
    }

    /// A descriptor of it, to be kept by somebody.
    ///
    /// # Errors
    /// If there are too many.
    pub fn descriptor(&self) -> std::io::Result<OwnedFd> {
        self.0.descriptor()
    }

    /// One for each worker.
    #[must_use]
    pub fn tables(self) -> Vec<Waiting> {
        self.0.parts(PART).into_iter().map(Waiting::new).collect()
    }
}

/// When a worker last lived that had one of these tables, in nanoseconds since boot; 0 if none did.
#[must_use]
pub fn last_alive_ns(tables: &[Waiting]) -> u64 {
    let known = tables.iter().filter(|one| one.part.word(0) == LAYOUT);
    known.map(|one| one.part.long(ALIVE)).max().unwrap_or(0)
}

/// Each query once, the oldest first: a daemon that was killed while it took over left some in two tables.
#[must_use]
pub fn once_each(mut all: Vec<Kept>) -> Vec<Kept> {
    all.sort_by(|a, b| (a.peer, a.local, &a.bytes).cmp(&(b.peer, b.local, &b.bytes)));
    all.dedup_by(|a, b| a.datagram() == b.datagram());
    all.sort_by_key(|kept| kept.since_ns);
    all
}

/// The table of one worker. Before it is used, [`Waiting::clear`] empties it.
pub struct Waiting {
    part: SharedPart,
    /// What its worker reads into, until it has it.
    inbox: Option<SharedPart>,
    /// What is where, for this process: the key, and when it was read. 0 where a place is free.
    keys: Vec<(u64, u64)>,
    hasher: RandomState,
}

/// A query, as it was read.
#[derive(Debug)]
pub struct Kept {
    pub(super) peer: SocketAddr,
    pub(super) local: IpAddr,
    pub(super) mark: Option<Mark>,
    /// When it was first read, in nanoseconds since boot.
    pub(super) since_ns: u64,
    pub(super) bytes: Vec<u8>,
}

impl Kept {
    pub(crate) fn datagram(&self) -> Datagram<'_> {
        Datagram {
            peer: self.peer,
            local: self.local,
            mark: self.mark,
            bytes: &self.bytes,
        }
    }
}

impl Waiting {
    fn new(part: SharedPart) -> Self {
        let (part, inbox) = part.split(INBOX);
        Self {
            part,
            inbox: Some(inbox),
            keys: vec![(0, 0); WAITING_PER_WORKER_MAX],
            hasher: RandomState::new(),
        }
    }

    /// Notes that its worker lives.
    pub(crate) fn live(&mut self, now_ns: u64) {
        self.part.set_long(ALIVE, now_ns);
    }

    /// All that an earlier process left and that somebody may still wait for. It stays until
    /// [`Waiting::clear`]: who asks it again notes it in another table first.
    pub fn look(&mut self, now_ns: u64) -> Vec<Kept> {
        if self.is_untouched() || self.part.word(0) != LAYOUT {
            return Vec::new();
        }
        let oldest = now_ns.saturating_sub(age_max_ns());
        let places = 0..WAITING_PER_WORKER_MAX;
        let mut kept: Vec<_> = places
            .filter_map(|index| self.read(index, oldest))
            .collect();
        let not_noted = self.not_noted(&kept, oldest);
        kept.extend(not_noted);
        kept
    }

    /// Forgets all of it, for a worker of this process.
    pub fn clear(&mut self) {
        if !self.is_untouched() {
            for index in 0..WAITING_PER_WORKER_MAX {
                self.part.set_word(place(index) + LENGTH, 0);
            }
            self.with_inbox(Inbox::forget);
        }
        self.part.set_word(0, LAYOUT);
    }

    /// What was read and is not among what was noted, as read when the worker last lived.
    fn not_noted(&mut self, noted: &[Kept], oldest: u64) -> Vec<Kept> {
        let since_ns = self.part.long(ALIVE);
        if since_ns < oldest {
            return Vec::new();
        }
        let read = self.with_inbox(|inbox| {
            let read = (0..inbox.unforgotten()).filter_map(|index| inbox.get(index));
            let not_noted = read.filter(|one| noted.iter().all(|noted| noted.datagram() != *one));
            let kept = not_noted.map(|datagram| Kept {
                peer: datagram.peer,
                local: datagram.local,
                mark: datagram.mark,
                since_ns,
                bytes: datagram.bytes.to_vec(),
            });
            kept.collect()
        });
        read.unwrap_or_default()
    }

    /// Does something with the inbox, as long as its worker doesn't have it.
    fn with_inbox<T>(&mut self, act: impl FnOnce(&mut Inbox) -> T) -> Option<T> {
        let mut inbox = self.inbox()?;
        let done = act(&mut inbox);
        self.inbox = inbox.into_memory();
        Some(done)
    }

    /// What its worker is to read into, once.
    pub(super) fn inbox(&mut self) -> Option<Inbox> {
        Inbox::shared(self.inbox.take()?, (BATCH, QUERY_BUFFER))
    }

    /// Whether no worker had it yet: then nothing is in it, and to look for it would only make the
    /// kernel give it memory.
    fn is_untouched(&self) -> bool {
        matches!(self.part.word(0), 0 | LAYOUT) && self.part.long(ALIVE) == 0
    }

    fn read(&self, index: usize, oldest: u64) -> Option<Kept> {
        let at = place(index);
        let len = usize::try_from(self.part.word(at + LENGTH)).ok()?;
        let since_ns = self.part.long(at + SINCE);
        if !(1..=WAITING_OCTETS_MAX).contains(&len) || since_ns < oldest {
            return None;
        }
        let address = |at| {
            let mut octets = [0; 16];
            self.part.read(at, &mut octets);
            Ipv6Addr::from(octets).to_canonical()
        };
        let mut port = [0; 2];
        self.part.read(at + PORT, &mut port);
        let mut bytes = vec![0; len];
        self.part.read(at + BYTES, &mut bytes);
        Some(Kept {
            peer: SocketAddr::new(address(at + PEER), u16::from_be_bytes(port)),
            local: address(at + LOCAL),
            mark: Mark::from_number(self.part.word(at + MARK)),
            since_ns,
            bytes,
        })
    }

    /// Notes a query that was read then, before anything is done with it. Says whether each that is to be
    /// noted is: one that is too long is not, and one that finds no free place takes another's.
    #[must_use]
    pub(crate) fn put(&mut self, query: &Datagram<'_>, now_ns: u64) -> bool {
        // What is too short for an id gets no answer.
        let Some(key) = self.key(query.peer, query.bytes) else {
            return true;
        };
        let len = u32::try_from(query.bytes.len());
        let Some(len) = len.ok().filter(|_| query.bytes.len() <= WAITING_OCTETS_MAX) else {
            return false;
        };
        let stale = now_ns.saturating_sub(age_max_ns());
        let is_free = |(there, since): (u64, u64)| there == 0 || there == key || since < stale;
        let free = self.find(key, is_free);
        let index = free.unwrap_or_else(|| home(key));
        let at = place(index);
        let part = &mut self.part;
        // A crash in between finds it free.
        part.set_word(at + LENGTH, 0);
        part.set_word(at + MARK, query.mark.map_or(0, Mark::number));
        part.set_long(at + SINCE, now_ns);
        part.write(at + PEER, &octets(query.peer.ip()));
        part.write(at + LOCAL, &octets(query.local));
        part.write(at + PORT, &query.peer.port().to_be_bytes());
        part.write(at + BYTES, query.bytes);
        part.set_word(at + LENGTH, len);
        if let Some(place) = self.keys.get_mut(index) {
            *place = (key, now_ns);
        }
        free.is_some()
    }

    /// Forgets a query: its answer, whose first two octets are its id, is on its way, or there is none.
    pub(crate) fn remove(&mut self, client: SocketAddr, message: &[u8]) {
        let Some(key) = self.key(client, message) else {
            return;
        };
        if let Some(index) = self.find(key, |(there, _)| there == key) {
            self.part.set_word(place(index) + LENGTH, 0);
            if let Some(place) = self.keys.get_mut(index) {
                *place = (0, 0);
            }
        }
    }

    fn find(&self, key: u64, is_it: impl Fn((u64, u64)) -> bool) -> Option<usize> {
        let probes = (home(key)..home(key) + PROBES).map(|index| index % WAITING_PER_WORKER_MAX);
        let mut probes = probes.filter(|index| self.keys.get(*index).copied().is_some_and(&is_it));
        probes.next()
    }

    /// Never 0.
    fn key(&self, client: SocketAddr, message: &[u8]) -> Option<u64> {
        let id: [u8; 2] = *message.first_chunk()?;
        Some(self.hasher.hash_one((client, id)) | 1)
    }
}

fn home(key: u64) -> usize {
    // The lowest bit says nothing.
    usize::try_from(key >> 1).unwrap_or(0) % WAITING_PER_WORKER_MAX
}

const fn place(index: usize) -> usize {
    HEAD + index * PLACE
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn age_max_ns() -> u64 {
    u64::try_from(WAITING_AGE_MAX.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use transport::{GateUdp, Outbox};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::new("10.0.0.2".parse().unwrap(), port)
    }

    fn query(port: u16, bytes: &[u8]) -> Datagram<'_> {
        Datagram {
            peer: peer(port),
            local: "2001:db8::1".parse().unwrap(),
            mark: Mark::from_number(3),
            bytes,
        }
    }

    /// The first worker's table as the process after finds it.
    fn next(file: OwnedFd) -> Waiting {
        WaitingFile::adopt(file).unwrap().tables().swap_remove(0)
    }

    fn first() -> (OwnedFd, Waiting) {
        let file = WaitingFile::create().unwrap();
        let kept = file.descriptor().unwrap();
        let mut table = file.tables().swap_remove(0);
        table.clear();
        table.live(SECOND);
        (kept, table)
    }

    #[test]
    fn a_new_file_takes_no_memory_for_places_that_nobody_has_used() {
        const BLOCK: u64 = 512; // what st_blocks counts
        const PAGE: u64 = 4_096;
        let file = WaitingFile::create().unwrap();
        let held = std::fs::File::from(file.descriptor().unwrap());
        for mut table in file.tables() {
            assert!(table.look(0).is_empty());
            table.clear();
            table.live(SECOND);
        }
        let octets = std::os::unix::fs::MetadataExt::blocks(&held.metadata().unwrap()) * BLOCK;
        // The page of each head.
        assert!(octets <= PARTS as u64 * PAGE, "{octets}");
        let mut tables = WaitingFile::adopt(held.into()).unwrap().tables();
        assert!(tables[0].put(&query(1, b"\x01\x02new"), SECOND));
        assert_eq!(tables[0].look(SECOND).len(), 1);
    }

    #[test]
    fn what_was_not_answered_is_there_for_the_next_one_as_it_came() {
        let (file, mut table) = first();
        assert!(table.put(&query(1_000, b"\x01\x02first"), 10 * SECOND));
        assert!(table.put(&query(1_001, b"\x01\x02second"), 9 * SECOND));
        assert!(table.put(&query(1_000, b"\x01\x03answered"), 10 * SECOND));
        assert!(table.put(&query(1_002, b"\x01\x02too old"), SECOND));
        let long = [1; WAITING_OCTETS_MAX + 1];
        assert!(!table.put(&query(1_003, &long), 10 * SECOND));
        table.remove(peer(1_000), b"\x01\x03its answer");
        table.remove(peer(1_000), b"\x01\x04of nobody");
        drop(table);
        let mut table = next(file);
        assert_eq!(last_alive_ns(std::slice::from_ref(&table)), SECOND);
        let mut twice = table.look(11 * SECOND);
        twice.extend(table.look(11 * SECOND));
        let kept = once_each(twice);
        assert_eq!(kept[0].since_ns, 9 * SECOND);
        let datagrams: Vec<_> = kept.iter().map(Kept::datagram).collect();
        assert_eq!(
            datagrams,
            [
                query(1_001, b"\x01\x02second"),
                query(1_000, b"\x01\x02first")
            ]
        );
        assert_eq!(table.look(11 * SECOND).len(), 2, "until it is cleared");
        table.clear();
        assert!(table.look(11 * SECOND).is_empty());
    }

    #[test]
    fn what_was_read_and_not_noted_is_there_too_but_once() {
        let localhost = Ipv4Addr::LOCALHOST.into();
        let bind = || GateUdp::bind_on_node(SocketAddr::new(localhost, 0), 1 << 16).unwrap();
        let (server, client) = (bind(), bind());
        let to_server = |bytes| Datagram {
            peer: SocketAddr::new(localhost, server.port()),
            local: localhost,
            mark: None,
            bytes,
        };
        let from_client = |bytes| Datagram {
            peer: SocketAddr::new(localhost, client.port()),
            ..to_server(bytes)
        };
        let mut outbox = Outbox::new(BATCH, QUERY_BUFFER, 0);
        let (file, mut table) = first();
        let mut inbox = table.inbox().unwrap();
        let first: &[&[u8]] = &[b"\x01\x01forgotten"];
        let second: &[&[u8]] = &[b"\x01\x02noted", b"\x01\x03not"];
        for batch in [first, second] {
            inbox.forget();
            for bytes in batch {
                assert!(outbox.push(&to_server(bytes)));
            }
            outbox.flush(&client, |_, error| panic!("{error}"));
            assert_eq!(inbox.read(&server).unwrap(), batch.len());
        }
        assert!(table.put(&inbox.get(0).unwrap(), 2 * SECOND));
        drop((inbox, table));
        let mut table = next(file.try_clone().unwrap());
        let kept = once_each(table.look(2 * SECOND));
        let datagrams: Vec<_> = kept.iter().map(Kept::datagram).collect();
        let expected = [from_client(b"\x01\x03not"), from_client(b"\x01\x02noted")];
        assert_eq!(datagrams, expected, "the one that was noted is younger");
        drop(table);
        let mut table = next(file);
        assert_eq!(table.look(2 * SECOND).len(), 2, "until it is cleared");
        table.clear();
        assert!(table.look(2 * SECOND).is_empty());
    }

    #[test]
    fn the_longest_that_is_kept_is_kept_whole() {
        let (file, mut table) = first();
        let bytes = [7; WAITING_OCTETS_MAX];
        assert!(table.put(&query(1, &bytes), SECOND));
        drop(table);
        let kept = next(file).look(SECOND);
        assert_eq!(kept[0].datagram(), query(1, &bytes));
    }

    #[test]
    fn a_full_table_loses_others_and_no_more_and_old_ones_make_room() {
        let (file, mut table) = first();
        let ids = (0..=u16::MAX).map(u16::to_be_bytes);
        let noted = ids.clone().map(|id| table.put(&query(53, &id), SECOND));
        let noted = noted.filter(|noted| *noted).count();
        // Each that took another's place is told.
        let full = table.keys.iter().filter(|(key, _)| *key != 0).count();
        assert!(full > WAITING_PER_WORKER_MAX * 9 / 10, "{full}");
        assert_eq!(noted, full);
        for id in ids.clone().take(1_000) {
            let _ = table.put(&query(54, &id), 60 * SECOND);
        }
        drop(table);
        let kept = next(file).look(60 * SECOND).len();
        assert!((900..=1_000).contains(&kept), "{kept}");
    }

    #[test]
    fn memory_that_nobody_laid_out_holds_nothing() {
        let file = SharedFile::create("wrong", PARTS * PART).unwrap();
        let kept = file.descriptor().unwrap();
        let mut parts = file.parts(PART);
        parts[0].write(0, &[0xff; PART]);
        drop(parts);
        let mut table = next(kept.try_clone().unwrap());
        assert!(table.look(SECOND).is_empty());
        table.clear();
        assert!(table.put(&query(1, b"\x01\x02new"), SECOND));
        drop(table);
        let kept = next(kept).look(SECOND);
        assert_eq!(kept.len(), 1);
    }
}
