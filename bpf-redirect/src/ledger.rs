//! The mirror of what the kernel holds for one endpoint, and the only maker of [`Installed`].
//!
//! A ledger stands behind a plain mutex, with the system calls (1 to 3 µs each) under it: so adding,
//! changing and taking away have one order, and "already there" means that the kernel has it.

use std::collections::BTreeMap;

use bpf_redirect_common::{Address, PolicyKey, PolicyValue};

use crate::{Table, TableError};

/// The proof that every address of an answer is open: all writes returned 0, or were there before.
#[derive(Debug)]
pub struct Installed(());

/// One address and the identity that it shall have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// The address.
    pub address: Address,
    /// Its identity; `None` takes the address away.
    pub identity: Option<u32>,
}

/// What a call did.
#[derive(Debug)]
pub struct Outcome {
    /// The proof.
    pub installed: Installed,
    /// Identities of which the ledger gives one reference back: those no address has any more, and
    /// those that it had already.
    pub released: Vec<u32>,
}

/// Nothing changed: what was written is written back.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct InstallError {
    /// Identities of which the ledger gives one reference back.
    pub released: Vec<u32>,
    /// Why.
    pub source: TableError,
}

/// What the kernel holds for one endpoint.
#[derive(Debug)]
pub struct Ledger<T> {
    table: T,
    addresses: BTreeMap<[u8; 16], u32>,
    identities: BTreeMap<u32, Held>,
    /// Identities that lost their last address since the last [`Ledger::retire`]; empty between calls.
    idle: Vec<u32>,
}

/// An identity that some address has.
#[derive(Debug)]
struct Held {
    /// How many addresses have it; at 0 it goes.
    addresses: usize,
    /// Its policy entries in the kernel.
    entries: Vec<PolicyKey>,
}

type Entries = Vec<(PolicyKey, PolicyValue)>;

impl<T: Table> Ledger<T> {
    /// An empty ledger over empty maps.
    pub fn new(table: T) -> Self {
        Self {
            table,
            addresses: BTreeMap::new(),
            identities: BTreeMap::new(),
            idle: Vec::new(),
        }
    }

    /// A ledger over maps that hold these addresses already, from an earlier run. What policy entries
    /// are there isn't known: the next [`Ledger::reload`] replaces them all. The caller holds one
    /// reference to each identity.
    pub fn inherit(table: T, addresses: impl IntoIterator<Item = (Address, u32)>) -> Self {
        let mut ledger = Self::new(table);
        for (address, identity) in addresses {
            ledger.addresses.insert(address.octets(), identity);
            let held = ledger.identities.entry(identity).or_insert(Held {
                addresses: 0,
                entries: Vec::new(),
            });
            held.addresses += 1;
        }
        ledger
    }

    /// The identity that the kernel gives an address.
    #[must_use]
    pub fn identity_of(&self, address: Address) -> Option<u32> {
        self.addresses.get(&address.octets()).copied()
    }

    /// All addresses, with their identities.
    pub fn addresses(&self) -> impl ExactSizeIterator<Item = (Address, u32)> {
        self.addresses
            .iter()
            .map(|(octets, identity)| (Address::from_octets(*octets), *identity))
    }

    /// Whether some address has this identity, so that its policy entries are in the kernel.
    #[must_use]
    pub fn has_identity(&self, identity: u32) -> bool {
        self.identities.contains_key(&identity)
    }

    /// The proof that nothing had to be written: an answer whose addresses are none of the
    /// datapath's business, or are all there.
    ///
    /// The caller says which addresses it means; one that isn't there with that identity is no proof.
    #[must_use]
    pub fn holds(&self, wanted: &[(Address, u32)]) -> Option<Installed> {
        wanted
            .iter()
            .all(|(address, identity)| self.identity_of(*address) == Some(*identity))
            .then_some(Installed(()))
    }

    /// Writes all changes, or none. For each change with an identity the caller hands over one
    /// reference to it; the ledger keeps one for each identity that it holds and gives the others
    /// back. An identity's policy entries are in the kernel before any address has it.
    ///
    /// # Errors
    /// If a map is full or the kernel refuses; then what was written is taken back.
    pub fn install(
        &mut self,
        changes: &[Change],
        mut entries_for: impl FnMut(u32) -> Entries,
    ) -> Result<Outcome, InstallError> {
        let mut released = Vec::new();
        let mut undo: Vec<(Address, Option<u32>)> = Vec::new();
        for (index, change) in changes.iter().enumerate() {
            match self.apply(change, &mut entries_for, &mut released) {
                Ok(before) => undo.push((change.address, before)),
                Err(source) => {
                    released.extend(
                        changes
                            .iter()
                            .skip(index)
                            .filter_map(|change| change.identity),
                    );
                    self.take_back(undo, &mut released);
                    return Err(InstallError { released, source });
                }
            }
        }
        self.retire(&mut released);
        Ok(Outcome {
            installed: Installed(()),
            released,
        })
    }

    /// Puts a new policy into force: `statics` are the entries that don't depend on what was learned,
    /// `changes` the addresses whose identity differs under it. All policy entries are swapped at
    /// once, and hold for an address's old identity as for its new one while addresses change.
    ///
    /// # Errors
    /// If the maps can't take it; then the old policy holds. Addresses that could not be changed are
    /// taken away: closed, never open by an old rule.
    pub fn reload(
        &mut self,
        statics: Entries,
        changes: &[Change],
        mut entries_for: impl FnMut(u32) -> Entries,
    ) -> Result<Outcome, InstallError> {
        let mut released = Vec::new();
        let all_new = |changes: &[Change]| {
            changes
                .iter()
                .filter_map(|change| change.identity)
                .collect()
        };
        let mut entries = statics;
        let mut keys = Vec::with_capacity(self.identities.len());
        for identity in self.identities.keys() {
            let of_identity = entries_for(*identity);
            keys.push(of_identity.iter().map(|(key, _)| *key).collect());
            entries.extend(of_identity);
        }
        if let Err(source) = self.table.replace_entries(&entries) {
            return Err(InstallError {
                released: all_new(changes),
                source,
            });
        }
        for (held, keys) in self.identities.values_mut().zip(keys) {
            held.entries = keys;
        }
        self.apply_each(changes, &mut entries_for, &mut released);
        Ok(Outcome {
            installed: Installed(()),
            released,
        })
    }

    /// Applies each change by itself: for names that have expired, where nobody waits for an answer.
    /// An address that can't be changed is taken away; what [`Ledger::identity_of`] says after that
    /// is what the kernel has. Gives back the identities of which the ledger gives one reference
    /// back.
    pub fn settle(
        &mut self,
        changes: &[Change],
        mut entries_for: impl FnMut(u32) -> Entries,
    ) -> Vec<u32> {
        let mut released = Vec::new();
        self.apply_each(changes, &mut entries_for, &mut released);
        released
    }

    fn apply_each(
        &mut self,
        changes: &[Change],
        entries_for: &mut impl FnMut(u32) -> Entries,
        released: &mut Vec<u32>,
    ) {
        let mut rest = changes;
        // Until the kernel refuses one: the rest then goes one by one.
        let mut may_be_many = true;
        while let Some(change) = rest.first() {
            if may_be_many {
                let (written, all) = self.set_at_once(rest, released);
                may_be_many = written == all;
                rest = rest.get(written..).unwrap_or_default();
                if all > 0 {
                    continue;
                }
            }
            rest = rest.get(1..).unwrap_or_default();
            if self.apply(change, entries_for, released).is_err() {
                released.extend(change.identity);
                let away = Change {
                    address: change.address,
                    identity: None,
                };
                // Taking away needs no room; what the kernel refuses here stays listed.
                let _ = self.apply(&away, entries_for, released);
            }
        }
        self.retire(released);
    }

    /// Applies the first changes as far as they give an address another identity whose policy entries
    /// are there; says how many it applied, and of how many: of none, where one by one is as good.
    fn set_at_once(&mut self, changes: &[Change], released: &mut Vec<u32>) -> (usize, usize) {
        let wanted: Vec<(Address, u32)> = changes
            .iter()
            .map_while(|change| {
                let identity = change.identity.filter(|one| self.has_identity(*one))?;
                let differs = self.identity_of(change.address) != Some(identity);
                differs.then_some((change.address, identity))
            })
            .collect();
        let all = wanted.len();
        if all < 2 {
            return (0, 0);
        }
        // Why the next one is refused is seen when it is tried by itself.
        let (written, _) = self.table.set_addresses(&wanted);
        for (address, identity) in wanted.into_iter().take(written) {
            released.push(identity);
            self.count(identity, 1);
            if let Some(before) = self.addresses.insert(address.octets(), identity) {
                self.count(before, -1);
            }
        }
        (written, all)
    }

    /// Applies one change and gives the identity that the address had. References that aren't needed
    /// go to `released`.
    fn apply(
        &mut self,
        change: &Change,
        entries_for: &mut impl FnMut(u32) -> Entries,
        released: &mut Vec<u32>,
    ) -> Result<Option<u32>, TableError> {
        let octets = change.address.octets();
        let before = self.addresses.get(&octets).copied();
        match change.identity {
            Some(identity) if before == Some(identity) => released.push(identity),
            Some(identity) => {
                let was_held = self.identities.contains_key(&identity);
                if !was_held {
                    let entries = self.write_entries(entries_for(identity))?;
                    self.identities.insert(
                        identity,
                        Held {
                            addresses: 0,
                            entries,
                        },
                    );
                }
                if let Err(error) = self.table.set_address(change.address, identity) {
                    if !was_held {
                        self.drop_identity(identity);
                    }
                    return Err(error);
                }
                if was_held {
                    released.push(identity);
                }
                self.count(identity, 1);
                self.addresses.insert(octets, identity);
                if let Some(before) = before {
                    self.count(before, -1);
                }
            }
            None => {
                if let Some(before) = before {
                    self.table.clear_address(change.address)?;
                    self.addresses.remove(&octets);
                    self.count(before, -1);
                }
            }
        }
        Ok(before)
    }

    fn write_entries(&mut self, entries: Entries) -> Result<Vec<PolicyKey>, TableError> {
        let mut written = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            if let Err(error) = self.table.set_entry(key, value) {
                for key in written {
                    let _ = self.table.clear_entry(key);
                }
                return Err(error);
            }
            written.push(key);
        }
        Ok(written)
    }

    /// Undoes changes that succeeded before one failed, the last first. Their old identities are
    /// still held: nothing was retired yet.
    fn take_back(&mut self, undo: Vec<(Address, Option<u32>)>, released: &mut Vec<u32>) {
        for (address, before) in undo.into_iter().rev() {
            let octets = address.octets();
            let now = self.addresses.get(&octets).copied();
            if now == before {
                continue;
            }
            let restored = match before {
                Some(identity) => self.table.set_address(address, identity),
                None => self.table.clear_address(address),
            };
            match (restored, before) {
                (Ok(()), Some(identity)) => {
                    self.addresses.insert(octets, identity);
                    self.count(identity, 1);
                }
                (Ok(()) | Err(_), None) | (Err(_), Some(_)) => {
                    // Closed is the safe side of an overwrite that could not be undone.
                    let _ = self.table.clear_address(address);
                    self.addresses.remove(&octets);
                }
            }
            if let Some(now) = now {
                self.count(now, -1);
            }
        }
        self.retire(released);
    }

    fn count(&mut self, identity: u32, by: isize) {
        if let Some(held) = self.identities.get_mut(&identity) {
            held.addresses = held.addresses.saturating_add_signed(by);
            if held.addresses == 0 {
                self.idle.push(identity);
            }
        }
    }

    /// Removes the identities that no address has any more: first they lost their addresses, now
    /// their entries, and last the reference.
    fn retire(&mut self, released: &mut Vec<u32>) {
        let mut idle = std::mem::take(&mut self.idle);
        idle.sort_unstable();
        idle.dedup();
        idle.retain(|identity| {
            let held = self.identities.get(identity);
            held.is_some_and(|held| held.addresses == 0)
        });
        for identity in idle {
            self.drop_identity(identity);
            released.push(identity);
        }
    }

    fn drop_identity(&mut self, identity: u32) {
        if let Some(held) = self.identities.remove(&identity) {
            for key in held.entries {
                // An entry of an identity that nobody has matches nothing.
                let _ = self.table.clear_entry(key);
            }
        }
    }

    /// All identities that the ledger holds a reference to; for the end of an endpoint.
    pub fn identities(&self) -> impl Iterator<Item = u32> {
        self.identities.keys().copied()
    }

    /// The maps beneath.
    pub fn table(&self) -> &T {
        &self.table
    }

    /// Takes the policy and every address away: the endpoint is gone. Gives the identities back.
    pub fn clear(&mut self) -> Vec<u32> {
        // Whatever the kernel refuses here is keyed by a number that is never given again.
        let _ = self.table.remove_policy();
        for (octets, _) in std::mem::take(&mut self.addresses) {
            let _ = self.table.clear_address(Address::from_octets(octets));
        }
        std::mem::take(&mut self.identities).into_keys().collect()
    }
}

#[cfg(test)]
mod tests;
