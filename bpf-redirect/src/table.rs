//! What a ledger writes to: the kernel's maps of one endpoint.

use std::sync::Arc;

use aya::maps::{HashMap, HashOfMaps, MapData, MapError};
use bpf_redirect_common::{
    Address, EGRESS, EndpointAddress, INGRESS, LEARNED, POLICY, POLICY_ENTRIES_MAX, POLICY_SLOTS,
    POLICY_SLOTS_MIN, PolicyKey, PolicyValue, Verdict,
};
use zerocopy::{Immutable, IntoBytes};

use crate::datapath::Echoes;
use crate::journal::{Act, NO_VALUE};
use crate::{Journal, batch};

/// `BPF_F_NO_PREALLOC` (linux/bpf.h): an inner map must have the flags of its template.
const NO_PREALLOC: u32 = 1;

pub(crate) type PolicyInner = HashMap<MapData, [u8; 8], [u8; 8]>;
pub(crate) type PolicyOuter = HashOfMaps<MapData, u32, PolicyInner>;

/// Why the kernel didn't take an entry.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The map has no room.
    #[error("the map {0} is full")]
    Full(&'static str),
    /// The kernel refused.
    #[error("the map {map}: {source}")]
    Kernel {
        /// Which map.
        map: &'static str,
        /// The kernel's answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// One endpoint's learned addresses and policy entries, wherever they are kept.
pub trait Table {
    /// Gives an address an identity, in one write.
    ///
    /// # Errors
    /// If the map is full or the kernel refuses.
    fn set_address(&mut self, address: Address, identity: u32) -> Result<(), TableError>;

    /// Gives many addresses their identities, in this order; says how many have them, and why not the
    /// next one. What comes after that one was not written.
    fn set_addresses(&mut self, wanted: &[(Address, u32)]) -> (usize, Result<(), TableError>) {
        one_by_one(self, wanted)
    }

    /// Takes an address's identity away; one that isn't there is fine.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn clear_address(&mut self, address: Address) -> Result<(), TableError>;

    /// Adds a policy entry.
    ///
    /// # Errors
    /// If the map is full or the kernel refuses.
    fn set_entry(&mut self, key: PolicyKey, value: PolicyValue) -> Result<(), TableError>;

    /// Removes a policy entry; one that isn't there is fine.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn clear_entry(&mut self, key: PolicyKey) -> Result<(), TableError>;

    /// Replaces all policy entries at once: no packet sees half of them.
    ///
    /// # Errors
    /// If they don't fit or the kernel refuses; then the old ones hold.
    fn replace_entries(&mut self, entries: &[(PolicyKey, PolicyValue)]) -> Result<(), TableError>;

    /// Takes the endpoint's whole policy away: without one nothing of it may pass. Not done when a
    /// daemon ends: what is allowed goes on.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn remove_policy(&mut self) -> Result<(), TableError>;
}

impl<T: Table + ?Sized> Table for Box<T> {
    fn set_address(&mut self, address: Address, identity: u32) -> Result<(), TableError> {
        (**self).set_address(address, identity)
    }

    fn set_addresses(&mut self, wanted: &[(Address, u32)]) -> (usize, Result<(), TableError>) {
        (**self).set_addresses(wanted)
    }

    fn clear_address(&mut self, address: Address) -> Result<(), TableError> {
        (**self).clear_address(address)
    }

    fn set_entry(&mut self, key: PolicyKey, value: PolicyValue) -> Result<(), TableError> {
        (**self).set_entry(key, value)
    }

    fn clear_entry(&mut self, key: PolicyKey) -> Result<(), TableError> {
        (**self).clear_entry(key)
    }

    fn replace_entries(&mut self, entries: &[(PolicyKey, PolicyValue)]) -> Result<(), TableError> {
        (**self).replace_entries(entries)
    }

    fn remove_policy(&mut self) -> Result<(), TableError> {
        (**self).remove_policy()
    }
}

/// No maps: where no packet is judged by the kernel, the ledger itself is what is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTable;

impl Table for NoTable {
    fn set_address(&mut self, _: Address, _: u32) -> Result<(), TableError> {
        Ok(())
    }

    fn clear_address(&mut self, _: Address) -> Result<(), TableError> {
        Ok(())
    }

    fn set_entry(&mut self, _: PolicyKey, _: PolicyValue) -> Result<(), TableError> {
        Ok(())
    }

    fn clear_entry(&mut self, _: PolicyKey) -> Result<(), TableError> {
        Ok(())
    }

    fn replace_entries(&mut self, _: &[(PolicyKey, PolicyValue)]) -> Result<(), TableError> {
        Ok(())
    }

    fn remove_policy(&mut self) -> Result<(), TableError> {
        Ok(())
    }
}

fn one_by_one<T: Table + ?Sized>(
    table: &mut T,
    wanted: &[(Address, u32)],
) -> (usize, Result<(), TableError>) {
    for (count, (address, identity)) in wanted.iter().enumerate() {
        if let Err(error) = table.set_address(*address, *identity) {
            return (count, Err(error));
        }
    }
    (wanted.len(), Ok(()))
}

/// The kernel's maps.
pub struct KernelTable {
    endpoint: u32,
    learned: HashMap<MapData, [u8; 20], u32>,
    policies: PolicyOuter,
    /// The endpoint's own policy map; `None` before the first policy.
    policy: Option<PolicyInner>,
    /// What that has room for.
    room: usize,
    /// The lengths of ports that the map says it has.
    lengths: Lengths,
    /// Where writes are remembered, if they are.
    journal: Option<Arc<Journal>>,
    /// What a policy map needs beside its entries, while addresses change.
    echoes: Arc<Echoes>,
}

/// For each direction, a bit for each length of ports that some entry has. A length stays until the
/// next policy, though its last entry may be gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lengths {
    egress: u32,
    ingress: u32,
}

impl KernelTable {
    pub(crate) fn new(
        endpoint: u32,
        learned: HashMap<MapData, [u8; 20], u32>,
        policies: PolicyOuter,
        (journal, echoes): (Option<Arc<Journal>>, Arc<Echoes>),
    ) -> Self {
        Self {
            endpoint,
            learned,
            policies,
            policy: None,
            room: 0,
            lengths: Lengths::default(),
            journal,
            echoes,
        }
    }

    fn note<V>(&self, map: &'static str, act: Act, (key, value): (&[u8], &V))
    where
        V: IntoBytes + Immutable + ?Sized,
    {
        if let Some(journal) = &self.journal {
            journal.tell(map, act, (key, value));
        }
    }

    /// A policy entry, or all of them, under the endpoint.
    fn note_policy(&self, act: Act, (key, value): (&[u8], &[u8])) {
        if self.journal.is_some() {
            let key = [self.endpoint.as_bytes(), key].concat();
            self.note(POLICY, act, (&key, value));
        }
    }

    /// Puts a larger map with the same entries in the place of a full one: a packet finds one or the other.
    fn grow(&mut self) -> Result<&mut PolicyInner, TableError> {
        let room = room_for(self.room);
        let mut larger = create(room)?;
        for entry in self.policy.iter().flat_map(PolicyInner::iter) {
            let (key, value) = entry.map_err(|error| failure(POLICY, error))?;
            larger
                .insert(key, value, 0)
                .map_err(|error| failure(POLICY, error))?;
        }
        self.policies
            .insert(self.endpoint, &larger, 0)
            .map_err(|error| failure(POLICY, error))?;
        self.room = room;
        Ok(self.policy.insert(larger))
    }

    fn learned_key(&self, address: Address) -> [u8; 20] {
        zerocopy::transmute!(EndpointAddress {
            endpoint: self.endpoint,
            address
        })
    }
}

impl Table for KernelTable {
    fn set_address(&mut self, address: Address, identity: u32) -> Result<(), TableError> {
        let key = self.learned_key(address);
        self.learned
            .insert(key, identity, 0)
            .map_err(|error| failure(LEARNED, error))?;
        self.note(LEARNED, Act::Set, (&key, &identity));
        Ok(())
    }

    fn set_addresses(&mut self, wanted: &[(Address, u32)]) -> (usize, Result<(), TableError>) {
        let keys = wanted.iter().map(|(address, _)| self.learned_key(*address));
        let keys: Vec<[u8; 20]> = keys.collect();
        let identities: Vec<u32> = wanted.iter().map(|(_, identity)| *identity).collect();
        if batch::write_all(&self.learned, &keys, &identities) {
            for (key, identity) in keys.iter().zip(&identities) {
                self.note(LEARNED, Act::Set, (key, identity));
            }
            return (wanted.len(), Ok(()));
        }
        one_by_one(self, wanted)
    }

    fn clear_address(&mut self, address: Address) -> Result<(), TableError> {
        let key = self.learned_key(address);
        gone_is_fine(self.learned.remove(&key)).map_err(|error| failure(LEARNED, error))?;
        self.note(LEARNED, Act::Delete, (&key, NO_VALUE));
        Ok(())
    }

    fn set_entry(&mut self, key: PolicyKey, value: PolicyValue) -> Result<(), TableError> {
        let map = self.policy.as_mut().ok_or(TableError::Full(POLICY))?;
        // First the length, so that the entry counts as soon as it is there. Both have their place.
        let lengths = self.lengths.with(key);
        if lengths != self.lengths {
            lengths.write(map)?;
            self.lengths = lengths;
        }
        if let Err(error) = insert(map, key, value) {
            if !matches!(error, TableError::Full(_)) || self.room == POLICY_SLOTS {
                return Err(error);
            }
            insert(self.grow()?, key, value)?;
        }
        self.note_policy(Act::Set, (key.as_bytes(), value.as_bytes()));
        Ok(())
    }

    fn clear_entry(&mut self, key: PolicyKey) -> Result<(), TableError> {
        let Some(map) = self.policy.as_mut() else {
            return Ok(());
        };
        let key: [u8; 8] = zerocopy::transmute!(key);
        gone_is_fine(map.remove(&key)).map_err(|error| failure(POLICY, error))?;
        self.note_policy(Act::Delete, (&key, NO_VALUE));
        Ok(())
    }

    fn replace_entries(&mut self, entries: &[(PolicyKey, PolicyValue)]) -> Result<(), TableError> {
        if entries.len() > POLICY_ENTRIES_MAX {
            return Err(TableError::Full(POLICY));
        }
        let room = room_for(entries.len());
        let mut map = create(room)?;
        let keys = entries.iter().map(|(key, _)| *key);
        let lengths = keys.fold(Lengths::default(), Lengths::with);
        lengths.write(&mut map)?;
        let all = |(key, value): &(PolicyKey, PolicyValue)| -> ([u8; 8], [u8; 8]) {
            (zerocopy::transmute!(*key), zerocopy::transmute!(*value))
        };
        let all: Vec<([u8; 8], [u8; 8])> = entries.iter().map(all).collect();
        let (all_keys, values): (Vec<_>, Vec<_>) = all.iter().copied().unzip();
        if !batch::write_all(&map, &all_keys, &values) {
            for (key, value) in entries {
                insert(&mut map, *key, *value)?;
            }
        }
        for (key, value) in self.echoes.of(&all) {
            map.insert(key, value, 0)
                .map_err(|error| failure(POLICY, error))?;
        }
        self.policies
            .insert(self.endpoint, &map, 0)
            .map_err(|error| failure(POLICY, error))?;
        self.policy = Some(map);
        self.room = room;
        self.lengths = lengths;
        self.note_policy(Act::Replace(entries.len()), (NO_VALUE, NO_VALUE));
        Ok(())
    }

    fn remove_policy(&mut self) -> Result<(), TableError> {
        self.policy = None;
        gone_is_fine(self.policies.remove(&self.endpoint))
            .map_err(|error| failure(POLICY, error))?;
        self.note_policy(Act::Delete, (NO_VALUE, NO_VALUE));
        Ok(())
    }
}

impl Lengths {
    fn with(mut self, key: PolicyKey) -> Self {
        let bit = 1 << key.port_bits();
        match key.direction() {
            EGRESS => self.egress |= bit,
            _ => self.ingress |= bit,
        }
        self
    }

    fn write(self, map: &mut PolicyInner) -> Result<(), TableError> {
        for (direction, lengths) in [(EGRESS, self.egress), (INGRESS, self.ingress)] {
            let value = PolicyValue::new(lengths, Verdict::Unmatched);
            insert(map, PolicyKey::lengths(direction), value)?;
        }
        Ok(())
    }
}

/// How large a map is made for so many entries: the kernel takes 16 octets for each that it has room for.
fn room_for(entries: usize) -> usize {
    let room = (2 * entries).next_power_of_two().max(POLICY_SLOTS_MIN);
    match room > POLICY_ENTRIES_MAX {
        true => POLICY_SLOTS,
        false => room,
    }
}

fn create(room: usize) -> Result<PolicyInner, TableError> {
    PolicyInner::create(room as u32, NO_PREALLOC).map_err(|error| failure(POLICY, error))
}

fn insert(map: &mut PolicyInner, key: PolicyKey, value: PolicyValue) -> Result<(), TableError> {
    let key: [u8; 8] = zerocopy::transmute!(key);
    let value: [u8; 8] = zerocopy::transmute!(value);
    map.insert(key, value, 0)
        .map_err(|error| failure(POLICY, error))
}

pub(crate) fn gone_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        other => other,
    }
}

/// `E2BIG` and `ENOSPC` are a map's ways to say that it is full.
fn failure(map: &'static str, error: MapError) -> TableError {
    const E2BIG: i32 = 7;
    const ENOSPC: i32 = 28;
    if let MapError::SyscallError(call) = &error
        && matches!(call.io_error.raw_os_error(), Some(E2BIG | ENOSPC))
    {
        return TableError::Full(map);
    }
    TableError::Kernel {
        map,
        source: Box::new(error),
    }
}

/// A key's or value's bytes, for maps that are opened with byte arrays.
pub(crate) fn bytes<const N: usize>(value: &(impl IntoBytes + Immutable)) -> [u8; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(value.as_bytes()) {
        *to = *from;
    }
    out
}
