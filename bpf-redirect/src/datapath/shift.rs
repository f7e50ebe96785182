//! From the addresses of one policy to those of the next, so that no packet meets the one's addresses and
//! the other's entries: an address may have an identity that a policy doesn't know, and an entry for any
//! identity would then open what one for that identity denies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{HashMap, MapData, MapError};
use bpf_redirect_common as common;
use bpf_redirect_common::{Address, PolicyKey, ServiceKey, ServiceValue, Verdict};
use zerocopy::{FromBytes, IntoBytes};

use super::{Datapath, map_error};
use crate::DatapathError;
use crate::journal::Act;
use crate::table::{PolicyInner, PolicyOuter, bytes, gone_is_fine};

/// Prefix to identity: the length in bits of an address of 128, and the address.
pub(super) type Prefixes = BTreeMap<(u32, [u8; 16]), u32>;

/// Whose entries another identity gets, too.
type Moves = BTreeSet<(u32, u32)>;

/// While addresses change: whose entries in a policy map that comes an identity gets that only the
/// addresses before have, and which identities have addresses then.
#[derive(Debug, Default)]
pub(crate) struct Echoes(Mutex<(Moves, BTreeSet<u32>)>);

impl Echoes {
    fn set(&self, echoes: (Moves, BTreeSet<u32>)) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = echoes;
    }

    /// What a policy map of these entries needs beside them.
    pub(crate) fn of(&self, entries: &[([u8; 8], [u8; 8])]) -> Vec<([u8; 8], [u8; 8])> {
        let echoes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (moves, known) = &*echoes;
        if moves.is_empty() {
            return Vec::new();
        }
        let more = followers(entries, (moves, known)).into_iter();
        more.map(|(key, value)| (bytes(&key), value)).collect()
    }
}

/// The prefixes as the kernel has them.
pub(super) fn keyed(prefixes: &[(IpAddr, u8, u32)]) -> Prefixes {
    let key = |(ip, len, identity): &(IpAddr, u8, u32)| {
        let bits = u32::from(*len) + if ip.is_ipv4() { 96 } else { 0 };
        ((bits, Address::from(*ip).octets()), *identity)
    };
    prefixes.iter().map(key).collect()
}

impl Datapath {
    /// Writes what is new of the next policy's addresses. The policies in force judge them as before:
    /// their entries for an address's old identity are written for the new one too. What the next
    /// policy's addresses lack stays, and the policy maps that come judge it as what stands around it.
    /// Call it before the policy maps are replaced, and [`Datapath::settle_addresses`] after that.
    ///
    /// # Errors
    /// If the tables don't fit or the kernel refuses. An endpoint whose map has no room for the entries is
    /// closed until its policy is replaced.
    pub fn shift_addresses(
        &mut self,
        prefixes: &[(IpAddr, u8, u32)],
        services: &[(ServiceKey, ServiceValue)],
    ) -> Result<(), DatapathError> {
        let (old, new) = (self.prefixes()?, keyed(prefixes));
        let mut moves: Moves = new
            .iter()
            .map(|(key, identity)| (covering(&old, *key), *identity))
            .collect();
        let mut both = new.clone();
        let mut echoes = Moves::new();
        for (key, identity) in old.iter().filter(|(key, _)| !new.contains_key(key)) {
            both.insert(*key, *identity);
            echoes.insert((covering(&new, *key), *identity));
        }
        let (old_services, mut all_services) = (self.services()?, services.to_vec());
        for (key, value) in services {
            let before = old_services.get(&bytes::<20>(key));
            let before = before.and_then(|value| ServiceValue::read_from_bytes(value).ok());
            let around = || covering(&old, (128, key.vip.octets()));
            let before = before.map_or_else(around, |value| value.identity);
            moves.insert((before, value.identity));
        }
        let gone = old_services.iter().filter_map(|(key, value)| {
            let key = ServiceKey::read_from_bytes(key).ok()?;
            Some((key, ServiceValue::read_from_bytes(value).ok()?))
        });
        let stays: BTreeSet<[u8; 20]> = services.iter().map(|(key, _)| bytes(key)).collect();
        all_services.extend(gone.filter(|(key, _)| !stays.contains(&bytes::<20>(key))));
        // No entry is about what has no identity.
        let is_move = |(from, to): &(u32, u32)| from != to && *from != 0 && *to != 0;
        moves.retain(is_move);
        echoes.retain(is_move);
        if !moves.is_empty() {
            self.follow_moves(&moves, &old.values().copied().collect())?;
        }
        self.echoes.set((echoes, new.values().copied().collect()));
        self.write_prefixes(&both)?;
        self.set_services(&all_services)
    }

    /// Makes the addresses exactly those of the policy that is in force now.
    ///
    /// # Errors
    /// If the tables don't fit or the kernel refuses.
    pub fn settle_addresses(
        &mut self,
        prefixes: &[(IpAddr, u8, u32)],
        services: &[(ServiceKey, ServiceValue)],
    ) -> Result<(), DatapathError> {
        self.echoes.set((Moves::new(), BTreeSet::new()));
        // Each as far as it goes.
        let settled = self.set_prefixes(prefixes);
        self.set_services(services)?;
        settled
    }

    /// Writes the entries of identities for those that their addresses will have.
    fn follow_moves(&self, moves: &Moves, known: &BTreeSet<u32>) -> Result<(), DatapathError> {
        let failed = map_error(common::POLICY);
        let mut outer: PolicyOuter = self.open(common::POLICY)?;
        let endpoints: Vec<u32> = outer.keys().filter_map(Result::ok).collect();
        for endpoint in endpoints {
            let mut inner: PolicyInner = match outer.get(&endpoint, 0) {
                Ok(inner) => inner,
                Err(MapError::KeyNotFound) => continue,
                Err(error) => return Err(failed(error)),
            };
            let entries: Vec<([u8; 8], [u8; 8])> = inner.iter().filter_map(Result::ok).collect();
            for (key, value) in followers(&entries, (moves, known)) {
                let key: [u8; 8] = zerocopy::transmute!(key);
                if inner.insert(key, value, 0).is_err() {
                    gone_is_fine(outer.remove(&endpoint)).map_err(&failed)?;
                    break;
                }
                let key = [endpoint.as_bytes(), &key].concat();
                self.note(common::POLICY, Act::Set, (key.as_slice(), &value));
            }
        }
        Ok(())
    }

    pub(super) fn prefixes(&self) -> Result<Prefixes, DatapathError> {
        let table: LpmTrie<MapData, [u8; 16], u32> = self.open(common::IPCACHE)?;
        let pair = |item: Result<(aya::maps::lpm_trie::Key<[u8; 16]>, u32), MapError>| {
            item.map(|(key, identity)| ((key.prefix_len(), key.data()), identity))
        };
        let all: Result<Prefixes, MapError> = table.iter().map(pair).collect();
        all.map_err(map_error(common::IPCACHE))
    }

    fn services(&self) -> Result<BTreeMap<[u8; 20], [u8; 12]>, DatapathError> {
        let table: HashMap<MapData, [u8; 20], [u8; 12]> = self.open(common::SERVICES)?;
        let all: Result<_, MapError> = table.iter().collect();
        all.map_err(map_error(common::SERVICES))
    }
}

/// The entries that identities need to be judged as those whose addresses they get. One that addresses
/// have already keeps what it may; it is only denied what those are denied.
fn followers(
    entries: &[([u8; 8], [u8; 8])],
    (moves, known): (&Moves, &BTreeSet<u32>),
) -> Vec<(PolicyKey, [u8; 8])> {
    let mut by_identity: BTreeMap<u32, Vec<(PolicyKey, [u8; 8])>> = BTreeMap::new();
    for (key, value) in entries {
        if let Ok(key) = PolicyKey::read_from_bytes(key)
            && !key.is_lengths()
        {
            by_identity
                .entry(key.identity)
                .or_default()
                .push((key, *value));
        }
    }
    let mut strongest: BTreeMap<[u8; 8], (PolicyKey, [u8; 8])> = BTreeMap::new();
    for (before, after) in moves {
        let is_known = known.contains(after) || by_identity.contains_key(after);
        for (key, value) in by_identity.get(before).into_iter().flatten() {
            let verdict = |value: &[u8; 8]| value.get(4).copied().unwrap_or_default();
            let denies = [Verdict::Deny as u8, Verdict::FailAuthentication as u8];
            if is_known && !denies.contains(&verdict(value)) {
                continue;
            }
            let key = PolicyKey {
                identity: *after,
                ..*key
            };
            let entry = strongest.entry(bytes(&key)).or_insert((key, *value));
            if verdict(value) > verdict(&entry.1) {
                *entry = (key, *value);
            }
        }
    }
    strongest.into_values().collect()
}

/// The identity of the longest prefix that holds this one; 0 if none does.
fn covering(table: &Prefixes, (bits, octets): (u32, [u8; 16])) -> u32 {
    let whole = u128::from_be_bytes(octets);
    let at = |len: u32| {
        let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
        table.get(&(len, (whole & mask).to_be_bytes()))
    };
    (0..=bits).rev().find_map(at).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf_redirect_common::{EGRESS, PolicyValue};

    fn prefixes(all: &[(&str, u8, u32)]) -> Prefixes {
        let all = all
            .iter()
            .map(|(ip, len, identity)| (ip.parse().unwrap(), *len, *identity));
        keyed(&all.collect::<Vec<_>>())
    }

    #[test]
    fn a_prefix_is_covered_by_the_longest_that_holds_all_of_it() {
        let table = prefixes(&[
            ("0.0.0.0", 0, 2),
            ("10.0.0.0", 8, 20),
            ("10.0.0.0", 16, 21),
            ("fd00::", 8, 30),
        ]);
        for (ip, len, expected) in [
            ("10.0.0.7", 32, 21),
            ("10.0.0.0", 16, 21),
            ("10.0.0.0", 12, 20),
            ("10.9.0.0", 16, 20),
            ("11.0.0.0", 8, 2),
            ("fd00::1", 128, 30),
            ("2001:db8::", 32, 0),
        ] {
            let key = *prefixes(&[(ip, len, 0)]).first_key_value().unwrap().0;
            assert_eq!(covering(&table, key), expected, "{ip}/{len}");
        }
    }

    #[test]
    fn who_is_new_gets_all_entries_and_who_is_known_is_denied_only() {
        let entry = |identity, port, verdict| -> ([u8; 8], [u8; 8]) {
            let key = PolicyKey::new(EGRESS, identity, 6, (port, 16));
            let value = PolicyValue::new(1, verdict);
            (bytes(&key), bytes(&value))
        };
        let entries = [
            entry(20, 80, Verdict::Allow),
            entry(20, 81, Verdict::Deny),
            entry(21, 80, Verdict::Deny),
            (bytes(&PolicyKey::lengths(EGRESS)), [0; 8]),
        ];
        let known = BTreeSet::from([20, 21, 22]);
        let follow = |moves: &[(u32, u32)]| -> Vec<(u32, u16, u8)> {
            let moves = moves.iter().copied().collect();
            let mut all: Vec<_> = followers(&entries, (&moves, &known))
                .into_iter()
                .map(|(key, value)| (key.identity, u16::from_be(key.port), value[4]))
                .collect();
            all.sort_unstable();
            all
        };
        let (allow, deny) = (Verdict::Allow as u8, Verdict::Deny as u8);
        assert_eq!(follow(&[(20, 90)]), [(90, 80, allow), (90, 81, deny)]);
        assert_eq!(follow(&[(20, 22)]), [(22, 81, deny)]);
        // From two sides: the stronger verdict.
        let both = follow(&[(20, 90), (21, 90)]);
        assert_eq!(both, [(90, 80, deny), (90, 81, deny)]);
        assert_eq!(follow(&[(23, 90)]), []);
    }
}
