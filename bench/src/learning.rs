//! The learning path as the daemon has it, over maps in memory: what is left is our own work.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context as _, Result};
use bpf_redirect::{Change, Ledger, Table, TableError};
use bpf_redirect_common::{Address, EGRESS, PolicyKey, PolicyValue, Verdict};
use fqdn::Name;
use fqdn_cache::{Cache, Given};
use policy::{Entry, Identity};

use crate::{Scene, subject};

/// Maps in memory that keep no log: a write costs one hash.
#[derive(Debug, Default)]
pub struct Memory {
    addresses: HashMap<[u8; 16], u32>,
    entries: HashMap<(u32, u8, u16, u8), PolicyValue>,
}

impl Table for Memory {
    fn set_address(&mut self, address: Address, identity: u32) -> Result<(), TableError> {
        self.addresses.insert(address.octets(), identity);
        Ok(())
    }

    fn clear_address(&mut self, address: Address) -> Result<(), TableError> {
        self.addresses.remove(&address.octets());
        Ok(())
    }

    fn set_entry(&mut self, key: PolicyKey, value: PolicyValue) -> Result<(), TableError> {
        self.entries.insert(parts(key), value);
        Ok(())
    }

    fn clear_entry(&mut self, key: PolicyKey) -> Result<(), TableError> {
        self.entries.remove(&parts(key));
        Ok(())
    }

    fn replace_entries(&mut self, entries: &[(PolicyKey, PolicyValue)]) -> Result<(), TableError> {
        self.entries = entries
            .iter()
            .map(|(key, value)| (parts(*key), *value))
            .collect();
        Ok(())
    }

    fn remove_policy(&mut self) -> Result<(), TableError> {
        self.entries.clear();
        Ok(())
    }
}

/// Which verdict it is costs nothing.
fn map_entry(entry: &Entry) -> (PolicyKey, PolicyValue) {
    let ports = (entry.ports.port, entry.ports.bits);
    let key = PolicyKey::new(EGRESS, entry.identity.get(), entry.protocol, ports);
    let value = PolicyValue::new(entry.rule.get(), Verdict::Allow);
    (key, value)
}

fn parts(key: PolicyKey) -> (u32, u8, u16, u8) {
    (key.identity, key.protocol, key.port, key.scope)
}

/// What one endpoint knows, and what its maps hold.
#[derive(Debug)]
pub struct Learning {
    scene: Scene,
    cache: Cache,
    ledger: Ledger<Memory>,
}

impl Learning {
    /// Nothing is learned yet.
    #[must_use]
    pub fn new(scene: Scene) -> Self {
        Self {
            scene,
            cache: Cache::new(),
            ledger: Ledger::new(Memory::default()),
        }
    }

    /// Learns one answer, each address until its end; gives how many addresses changed.
    ///
    /// # Errors
    /// If a bound is reached.
    pub fn learn(&mut self, name: &Name, addresses: &[(IpAddr, Instant)]) -> Result<usize> {
        let endpoint = subject()?;
        let Self {
            scene,
            cache,
            ledger,
        } = self;
        let Scene {
            snapshot,
            identities,
        } = scene;
        let end = addresses.iter().map(|(_, end)| *end).min();
        let now = end.context("an answer without addresses")?;
        // Nothing is firm: at a bound the oldest goes.
        let given = Given {
            now,
            firm_until: now,
            by: None,
        };
        let plan = cache.plan(name, addresses, given)?;
        let changed = plan.changes();
        let touched: Vec<IpAddr> = changed
            .fresh
            .iter()
            .chain(&changed.evicted)
            .copied()
            .collect();
        let mut changes = Vec::with_capacity(touched.len());
        for ip in touched {
            let labels = snapshot.learned_labels(endpoint, plan.names_after(cache, ip), ip);
            let identity = match labels.selectors().is_empty() {
                true => None,
                false => Some(identities.acquire(labels)?.get()),
            };
            changes.push(Change {
                address: Address::from(ip),
                identity,
            });
        }
        let outcome = ledger.install(&changes, |number| {
            let identity = Identity::from_number(number);
            let labels = identities.labels_of(identity);
            let entries = labels.map(|labels| snapshot.entries_for(endpoint, labels, identity));
            entries.iter().flatten().map(map_entry).collect()
        })?;
        for identity in outcome.released {
            identities.release(Identity::from_number(identity));
        }
        cache.commit(plan).ok().context("the plan is stale")?;
        Ok(changes.len())
    }
}
