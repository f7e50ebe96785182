//! From an answer to the kernel: names and addresses, labels, an identity, policy entries, and then
//! the address itself. Under each endpoint's own lock; an answer waits for it, and not long.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bpf_redirect::{Change, InstallError, Installed, Ledger, Outcome, Table, TableError};
use bpf_redirect_common::Address;
use dashmap::DashMap;
use dnsproxy::{Lesson, NotInstalled};
use fqdn_cache::Cache;
use parking_lot::Mutex;
use policy::{EndpointId, Identities, Identity, Snapshot};

use crate::datapath::{learned_entries, static_entries};

/// How long an answer may wait for the datapath; then the client gets SERVFAIL (Cilium's figure).
pub(crate) const INSTALL_WAIT_MAX: Duration = Duration::from_millis(100);

/// What one endpoint knows, and what the kernel holds of it.
pub(crate) struct Knowledge<T> {
    pub(crate) cache: Cache,
    pub(crate) ledger: Ledger<T>,
    /// A reload could not move every address: look at each one again, whatever the cache says.
    recheck: bool,
}

/// Joins cache, identities and ledgers; all workers share it.
pub(crate) struct Learner<T> {
    snapshot: ArcSwap<Snapshot>,
    endpoints: DashMap<EndpointId, Arc<Mutex<Knowledge<T>>>>,
    /// Taken inside an endpoint's lock, never the other way round.
    identities: Mutex<Identities>,
    clock: fn() -> Instant,
    pub(crate) counts: LearnCounts,
}

/// What learning counts.
#[derive(Debug, Default)]
pub(crate) struct LearnCounts {
    /// Answers of servers that policy doesn't name closely enough.
    pub(crate) untrusted_server: AtomicU64,
    /// Addresses of classes that are never learned.
    pub(crate) unlearned: AtomicU64,
    /// Addresses that a bound took away.
    pub(crate) evicted: AtomicU64,
    /// Answers for which nothing had to be written.
    pub(crate) refreshed: AtomicU64,
    /// Answers whose addresses were written.
    pub(crate) installed: AtomicU64,
}

impl<T: Table> Learner<T> {
    /// A learner under a first snapshot.
    pub(crate) fn new(snapshot: Snapshot, identities: Identities, clock: fn() -> Instant) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            endpoints: DashMap::new(),
            identities: Mutex::new(identities),
            clock,
            counts: LearnCounts::default(),
        }
    }

    /// The snapshot in force.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Runs `f` on the identities.
    pub(crate) fn with_identities<R>(&self, f: impl FnOnce(&mut Identities) -> R) -> R {
        f(&mut self.identities.lock())
    }

    /// Runs `f` on what an endpoint knows.
    pub(crate) fn with_knowledge<R>(
        &self,
        endpoint: EndpointId,
        f: impl FnOnce(&Knowledge<T>) -> R,
    ) -> Option<R> {
        let knowledge = Arc::clone(&*self.endpoints.get(&endpoint)?);
        let knowledge = knowledge.lock();
        Some(f(&knowledge))
    }

    /// Puts a snapshot into force for the queries to come. The endpoints' maps follow by
    /// [`Learner::reload`]; what is learned in between is learned under the new one.
    pub(crate) fn set_snapshot(&self, snapshot: Snapshot) {
        let old = self.snapshot.swap(Arc::new(snapshot));
        old.release(&mut self.identities.lock());
    }

    /// Takes an endpoint in and puts the snapshot's policy into its map.
    ///
    /// # Errors
    /// If the map can't take it: the endpoint stays closed.
    pub(crate) fn add(&self, endpoint: EndpointId, table: T) -> Result<(), TableError> {
        let knowledge = Knowledge {
            cache: Cache::new(),
            ledger: Ledger::new(table),
            recheck: false,
        };
        self.endpoints
            .insert(endpoint, Arc::new(Mutex::new(knowledge)));
        self.reload(endpoint)
    }

    /// Forgets an endpoint; its addresses close.
    pub(crate) fn remove(&self, endpoint: EndpointId) {
        if let Some((_, knowledge)) = self.endpoints.remove(&endpoint) {
            let released = knowledge.lock().ledger.clear();
            self.release(released);
        }
    }

    /// Derives an endpoint's entries and the identities of all that it learned from the snapshot in
    /// force, and puts them into the kernel.
    ///
    /// # Errors
    /// If its map can't take them: the old policy holds.
    pub(crate) fn reload(&self, endpoint: EndpointId) -> Result<(), TableError> {
        let Some(knowledge) = self
            .endpoints
            .get(&endpoint)
            .map(|entry| Arc::clone(&*entry))
        else {
            return Ok(());
        };
        let knowledge = &mut *knowledge.lock();
        let snapshot = self.snapshot.load();
        let mut identities = self.identities.lock();
        let mut changes = Vec::new();
        let mut exhausted = false;
        for ip in knowledge.cache.addresses() {
            let change = derive(
                &snapshot,
                &mut identities,
                endpoint,
                (ip, &mut knowledge.cache.names_of(ip)),
            );
            exhausted |= change.is_err();
            let change = change.unwrap_or(Change {
                address: Address::from(ip),
                identity: None,
            });
            if change.identity.is_some() || knowledge.ledger.identity_of(change.address).is_some() {
                changes.push(change);
            }
        }
        let outcome =
            knowledge
                .ledger
                .reload(static_entries(&snapshot, endpoint), &changes, |identity| {
                    learned_entries(&snapshot, endpoint, &identities, identity)
                });
        let moved_all =
            |change: &Change| knowledge.ledger.identity_of(change.address) == change.identity;
        knowledge.recheck = exhausted || outcome.is_err() || !changes.iter().all(moved_all);
        let (released, result) = match outcome {
            Ok(Outcome { released, .. }) => (released, Ok(())),
            Err(InstallError { released, source }) => (released, Err(source)),
        };
        for identity in released {
            identities.release(Identity::from_number(identity));
        }
        result
    }

    /// Opens what an answer names, or proves that it is open.
    ///
    /// # Errors
    /// Why not; then nothing of this answer was opened, but for what was open before.
    pub(crate) fn learn(&self, began: Instant, lesson: &Lesson) -> Result<Installed, NotInstalled> {
        let endpoint = lesson.endpoint;
        let knowledge = self
            .endpoints
            .get(&endpoint)
            .map(|entry| Arc::clone(&*entry))
            .ok_or(NotInstalled::EndpointGone)?;
        let left = INSTALL_WAIT_MAX.saturating_sub((self.clock)().saturating_duration_since(began));
        let mut knowledge = knowledge.try_lock_for(left).ok_or(NotInstalled::Late)?;
        let snapshot = self.snapshot.load();
        let mut addresses: Vec<IpAddr> = Vec::new();
        if snapshot.may_teach(endpoint, lesson.server, lesson.protocol) {
            addresses.extend(lesson.addresses.iter().map(|learned| learned.ip));
            addresses.retain(|ip| snapshot.may_learn(*ip).is_ok());
            count(
                &self.counts.unlearned,
                lesson.addresses.len() - addresses.len(),
            );
        } else {
            count(&self.counts.untrusted_server, 1);
        }
        let installed = self.install(&snapshot, &mut knowledge, (lesson, &addresses))?;
        // The writes stand; but the client must not think that this path is quick.
        if (self.clock)().saturating_duration_since(began) > INSTALL_WAIT_MAX {
            return Err(NotInstalled::Late);
        }
        Ok(installed)
    }

    fn install(
        &self,
        snapshot: &Snapshot,
        knowledge: &mut Knowledge<T>,
        (lesson, addresses): (&Lesson, &[IpAddr]),
    ) -> Result<Installed, NotInstalled> {
        let Knowledge {
            cache,
            ledger,
            recheck,
        } = knowledge;
        let plan = cache
            .plan(&lesson.name, addresses)
            .map_err(|_| NotInstalled::TooMany)?;
        let changed = plan.changes();
        let fresh: &[IpAddr] = if *recheck { addresses } else { &changed.fresh };
        let touched: Vec<IpAddr> = fresh.iter().chain(&changed.evicted).copied().collect();
        if touched.is_empty() {
            count(&self.counts.refreshed, 1);
        } else {
            count(&self.counts.installed, 1);
            count(&self.counts.evicted, changed.evicted.len());
        }
        let mut identities = if touched.is_empty() {
            None
        } else {
            Some(self.identities.lock())
        };
        let mut changes = Vec::with_capacity(touched.len());
        if let Some(identities) = identities.as_deref_mut() {
            for ip in touched {
                let mut names = plan.names_after(cache, ip);
                match derive(snapshot, identities, lesson.endpoint, (ip, &mut names)) {
                    Ok(change) => changes.push(change),
                    Err(error) => {
                        release_all(
                            identities,
                            changes.iter().filter_map(|change| change.identity),
                        );
                        return Err(error);
                    }
                }
            }
        }
        let outcome = ledger.install(&changes, |identity| {
            identities
                .as_deref()
                .map(|identities| learned_entries(snapshot, lesson.endpoint, identities, identity))
                .unwrap_or_default()
        });
        let (released, result) = match outcome {
            Ok(Outcome {
                installed,
                released,
            }) => (released, Ok(installed)),
            Err(InstallError { released, source }) => (released, Err(not_installed(&source))),
        };
        if let Some(identities) = identities.as_deref_mut() {
            release_all(identities, released.into_iter());
        }
        let installed = result?;
        // It can't be stale: the lock was held since the plan was made.
        cache.commit(plan).map_err(|_| NotInstalled::Kernel)?;
        Ok(installed)
    }

    fn release(&self, released: Vec<u32>) {
        release_all(&mut self.identities.lock(), released.into_iter());
    }
}

/// What an address shall be under these names: with an identity if some name is selected by a
/// `toFQDNs` rule, else none of the datapath's business.
fn derive<'a>(
    snapshot: &Snapshot,
    identities: &mut Identities,
    endpoint: EndpointId,
    (ip, names): (IpAddr, &mut dyn Iterator<Item = &'a fqdn::Name>),
) -> Result<Change, NotInstalled> {
    let address = Address::from(ip);
    let labels = snapshot.learned_labels(endpoint, names, ip);
    if labels.selectors().is_empty() {
        return Ok(Change {
            address,
            identity: None,
        });
    }
    let identity = identities
        .acquire(labels)
        .map_err(|_| NotInstalled::MapFull)?;
    Ok(Change {
        address,
        identity: Some(identity.get()),
    })
}

fn release_all(identities: &mut Identities, released: impl Iterator<Item = u32>) {
    for identity in released {
        identities.release(Identity::from_number(identity));
    }
}

fn not_installed(error: &TableError) -> NotInstalled {
    match error {
        TableError::Full(_) => NotInstalled::MapFull,
        TableError::Kernel { .. } => NotInstalled::Kernel,
    }
}

fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
