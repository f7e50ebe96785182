//! What one endpoint knows, what the kernel holds of it, and how the one becomes the other. All of
//! it happens under the endpoint's lock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::Guard;
use bpf_redirect::{Change, InstallError, Installed, Ledger, Outcome, Table, TableError};
use bpf_redirect_common::Address;
use dnsproxy::NotInstalled;
use fqdn::Name;
use fqdn_cache::{Cache, Given, Lifetimes};
use parking_lot::Mutex;
use policy::{EndpointId, Identities, Identity, Snapshot};

use super::Terms;
use crate::datapath::{Carriage, Entries, learned_entries, static_entries};
use crate::lately::Note;
use crate::remembered::{Pair, RememberedIdentity, RememberedName};

/// What one endpoint knows, and what the kernel holds of it.
pub(crate) struct Knowledge<T> {
    pub(crate) cache: Cache,
    pub(crate) ledger: Ledger<T>,
    /// The revision that its maps were last to follow; `None` before the first.
    followed: Option<u64>,
    /// Why its maps didn't take that revision; then an older policy holds and nothing is learned.
    refused: Option<NotInstalled>,
    /// Addresses to which the kernel doesn't give the identity that their names call for: no answer
    /// proves them open before they are written again, whatever the cache says.
    pub(super) unsettled: BTreeSet<IpAddr>,
    /// `NAMESPACE/NAME` of the endpoint; empty where nothing outlives the daemon.
    owner: String,
    /// Taken out while others still wait for its lock: nothing may be written any more.
    pub(super) is_gone: bool,
}

/// What an earlier run leaves to an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Heritage {
    /// Whose it is, as `NAMESPACE/NAME`; empty where nothing will outlive this daemon.
    pub(crate) owner: String,
    /// What it knew.
    pub(crate) pairs: Vec<Pair>,
    /// What the kernel holds.
    pub(crate) addresses: Vec<(Address, u32)>,
}

/// Under which policy, and with whose numbers.
pub(super) struct Scope<'a> {
    pub(super) endpoint: EndpointId,
    pub(super) snapshot: &'a Snapshot,
    /// Node-wide, and held for no system call.
    pub(super) identities: &'a Mutex<Identities>,
    pub(super) carriage: Carriage,
    pub(super) terms: Guard<Arc<Terms>>,
}

/// What an answer did.
pub(super) struct Taught {
    pub(super) installed: Installed,
    /// Whether there was anything to look at; else the answer only repeated what was known.
    pub(super) is_news: bool,
    /// By how much it puts an end off that was there, at most.
    pub(super) put_off: Duration,
    /// Addresses that a bound took a name from.
    pub(super) evicted: usize,
}

/// What a step of expiry did.
pub(super) struct Expired {
    /// How many addresses lost a name.
    pub(super) names_lost: usize,
    /// When to take the next step; not later than now, where this one left some over.
    pub(super) next: Option<Instant>,
}

/// How many names' addresses one step looks at: under a millisecond of system calls, for which an
/// answer may have to wait.
pub(super) const EXPIRE_STEP_MAX: usize = 256;
/// After how long what the kernel refused is tried again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the maps shall hold.
#[derive(Default)]
struct Wanted {
    /// For each with an identity there is one reference to it.
    changes: Vec<Change>,
    /// The policy entries of the identities that the ledger has not.
    entries: BTreeMap<u32, Entries>,
}

impl<T: Table> Knowledge<T> {
    /// What is left of an earlier run, if there was one. All its addresses count as not settled: the
    /// next [`Knowledge::reload`] gives each what its names call for.
    pub(super) fn inherit(
        table: T,
        (heritage, now, lifetimes): (&Heritage, Instant, Lifetimes),
        identities: &mut Identities,
    ) -> Self {
        let mut cache = Cache::new();
        for pair in &heritage.pairs {
            // What has no room, or is stale, is not known.
            let address = [(pair.address, pair.end)];
            let given = Given {
                by: pair.server,
                ..lifetimes.given_before(now, pair.end)
            };
            let plan = cache.plan(&pair.name, &address, given);
            let _ = plan.map(|plan| cache.commit(plan));
        }
        let numbers: BTreeSet<u32> = heritage
            .addresses
            .iter()
            .map(|(_, number)| *number)
            .collect();
        for number in numbers {
            // A number that nobody remembers is released as one that isn't counted.
            identities.hold(number);
        }
        let addresses = heritage.addresses.iter().copied();
        Self {
            cache,
            unsettled: addresses
                .clone()
                .map(|(address, _)| address.into())
                .collect(),
            ledger: Ledger::inherit(table, addresses),
            followed: None,
            refused: None,
            owner: heritage.owner.clone(),
            is_gone: false,
        }
    }

    /// What the next daemon must know of an answer that opened something; `None` where it opened nothing.
    pub(super) fn note(
        &self,
        identities: &Mutex<Identities>,
        (name, addresses, given): (&Name, &[(IpAddr, Instant)], Given),
    ) -> Option<Note> {
        let numbers = addresses.iter();
        let numbers = numbers.filter_map(|(ip, _)| self.ledger.identity_of(Address::from(*ip)));
        let numbers: BTreeSet<u32> = numbers.collect();
        if numbers.is_empty() || self.owner.is_empty() {
            return None;
        }
        let identities = identities.lock();
        let sets = numbers.into_iter().filter_map(|number| {
            let number = Identity::from_number(number);
            Some(RememberedIdentity::new(
                number,
                identities.labels_of(number)?,
            ))
        });
        let name = RememberedName {
            name: name.to_string(),
            server: given.by,
            addresses: Vec::new(),
        };
        Some(Note::new(
            &self.owner,
            (name, addresses, given.now),
            sets.collect(),
        ))
    }

    /// The policy revision that its maps were last to follow; `None` before the first.
    pub(crate) fn revision(&self) -> Option<u64> {
        self.followed
    }

    /// Makes sure that the maps follow the snapshot that the query is judged by: between a swap and
    /// the endpoint's own reload, what is "already there" is there under the policy before.
    ///
    /// # Errors
    /// If the maps didn't take that policy; it is tried once for each revision.
    pub(super) fn follow(&mut self, scope: &Scope<'_>) -> Result<(), NotInstalled> {
        if self.followed != Some(scope.snapshot.revision()) {
            // What went wrong is kept.
            let _ = self.reload(scope);
        }
        self.refused.map_or(Ok(()), Err)
    }

    /// Derives all entries and the identities of all that was learned from the snapshot.
    ///
    /// # Errors
    /// If the map can't take them: the old policy holds.
    pub(super) fn reload(&mut self, scope: &Scope<'_>) -> Result<(), TableError> {
        let revision = Some(scope.snapshot.revision());
        if self.followed == revision && self.refused.is_none() && self.unsettled.is_empty() {
            return Ok(());
        }
        let mut wanted = Wanted::default();
        for identity in self.ledger.identities() {
            let entries = scope.entries_of(identity);
            wanted.entries.insert(identity, entries);
        }
        let mut unsettled = BTreeSet::new();
        // An address that the kernel would not let go has no names any more, and goes now.
        let mut all = self.unsettled.clone();
        all.extend(self.cache.addresses());
        for ip in all {
            let mut names = self.cache.names_of(ip);
            if wanted.derive(scope, (ip, &mut names)).is_err() {
                unsettled.insert(ip);
                wanted.close(ip);
            }
        }
        wanted.add_entries(scope, &self.ledger);
        let statics = static_entries(scope.snapshot, scope.endpoint, scope.carriage);
        let outcome = self.ledger.reload(statics, &wanted.changes, |identity| {
            wanted.entries_of(identity)
        });
        self.followed = revision;
        match outcome {
            Ok(Outcome { released, .. }) => {
                scope.release(released);
                self.refused = None;
                unsettled.extend(self.unmoved(&wanted.changes));
                self.unsettled = unsettled;
                Ok(())
            }
            Err(InstallError { released, source }) => {
                scope.release(released);
                self.refused = Some(not_installed(&source));
                Err(source)
            }
        }
    }

    /// Opens the addresses of an answer, or proves that they are open; all, or none.
    pub(super) fn install(
        &mut self,
        scope: &Scope<'_>,
        (name, addresses, given): (&Name, &[(IpAddr, Instant)], Given),
    ) -> Result<Taught, NotInstalled> {
        let plan = self
            .cache
            .plan(name, addresses, given)
            .map_err(|_| NotInstalled::TooMany)?;
        let changed = plan.changes();
        let mut touched: Vec<IpAddr> = changed.fresh.clone();
        touched.extend(&changed.evicted);
        if !self.unsettled.is_empty() {
            let own = addresses.iter().map(|(ip, _)| *ip);
            let own = own.filter(|ip| self.unsettled.contains(ip));
            touched.extend(own);
            touched.sort_unstable();
            touched.dedup();
        }
        let mut wanted = Wanted::default();
        for ip in &touched {
            let mut names = plan.names_after(&self.cache, *ip);
            if let Err(error) = wanted.derive(scope, (*ip, &mut names)) {
                scope.release(wanted.references());
                return Err(error);
            }
        }
        wanted.add_entries(scope, &self.ledger);
        let before: Vec<Option<u32>> = wanted
            .changes
            .iter()
            .map(|change| self.ledger.identity_of(change.address))
            .collect();
        let outcome = self
            .ledger
            .install(&wanted.changes, |identity| wanted.entries_of(identity));
        match outcome {
            Ok(Outcome {
                installed,
                released,
            }) => {
                scope.release(released);
                for ip in &touched {
                    self.unsettled.remove(ip);
                }
                let (is_news, put_off) = (!touched.is_empty(), plan.put_off());
                // It can't be stale: the lock was held since the plan was made.
                let changed = self.cache.commit(plan).map_err(|_| NotInstalled::Kernel)?;
                Ok(Taught {
                    installed,
                    is_news,
                    put_off,
                    evicted: changed.evicted.len(),
                })
            }
            Err(InstallError { released, source }) => {
                scope.release(released);
                // What could not be written back is closed, though an earlier answer opened it.
                let written = touched.iter().zip(&wanted.changes).zip(before);
                let lost = written.filter(|((_, change), before)| {
                    self.ledger.identity_of(change.address) != *before
                });
                self.unsettled.extend(lost.map(|((ip, _), _)| *ip));
                Err(not_installed(&source))
            }
        }
    }

    /// Takes away what has ended, one step of it: an address that lost a name gets the identity of
    /// those that it still has, in one write, and one that has none left closes.
    pub(super) fn expire(&mut self, scope: &Scope<'_>, now: Instant) -> Expired {
        if self.refused.is_some() || self.followed != Some(scope.snapshot.revision()) {
            // What goes wrong is kept, and tried again.
            let _ = self.reload(scope);
        }
        let mut touched = self.cache.expire(now, EXPIRE_STEP_MAX);
        let names_lost = touched.len();
        touched.extend(self.overdue().take(EXPIRE_STEP_MAX));
        touched.sort_unstable();
        touched.dedup();
        self.settle(scope, &touched);
        let is_owing = self.refused.is_some() || self.overdue().next().is_some();
        let retry = is_owing.then(|| now + RETRY_AFTER);
        let next = [self.cache.next_expiry(), retry].into_iter().flatten();
        Expired {
            names_lost,
            next: next.min(),
        }
    }

    /// Forgets a name before its time; says whether it was known. What only it opened closes, as when it
    /// ends.
    pub(super) fn forget(&mut self, scope: &Scope<'_>, name: &Name) -> bool {
        let touched = self.cache.forget(name);
        self.settle(scope, &touched);
        !touched.is_empty()
    }

    /// Gives addresses that lost a name what they are under the others. What goes wrong is kept, and tried
    /// again.
    fn settle(&mut self, scope: &Scope<'_>, touched: &[IpAddr]) {
        let mut wanted = Wanted::default();
        let mut unnumbered = Vec::new();
        for ip in touched {
            let mut names = self.cache.names_of(*ip);
            if wanted.derive(scope, (*ip, &mut names)).is_err() {
                unnumbered.push(*ip);
                wanted.close(*ip);
            }
        }
        wanted.add_entries(scope, &self.ledger);
        let released = self
            .ledger
            .settle(&wanted.changes, |identity| wanted.entries_of(identity));
        scope.release(released);
        for ip in touched {
            self.unsettled.remove(ip);
        }
        let unmoved: Vec<IpAddr> = self.unmoved(&wanted.changes).collect();
        self.unsettled.extend(unmoved.into_iter().chain(unnumbered));
    }

    /// The addresses that are open otherwise than they should be, since the kernel would neither
    /// change them nor let them go.
    fn overdue(&self) -> impl Iterator<Item = IpAddr> {
        let open = |ip: &&IpAddr| self.ledger.identity_of(Address::from(**ip)).is_some();
        self.unsettled.iter().filter(open).copied()
    }

    /// Closes everything; gives the identities back.
    pub(super) fn end(&mut self) -> Vec<u32> {
        self.is_gone = true;
        self.ledger.clear()
    }

    /// The addresses of changes that the kernel has not.
    fn unmoved(&self, changes: &[Change]) -> impl Iterator<Item = IpAddr> {
        let unmoved = changes
            .iter()
            .filter(|change| self.ledger.identity_of(change.address) != change.identity);
        unmoved.map(|change| IpAddr::from(change.address))
    }
}

impl Scope<'_> {
    pub(super) fn release(&self, released: impl IntoIterator<Item = u32>) {
        let mut released = released.into_iter().peekable();
        if released.peek().is_none() {
            return;
        }
        let mut identities = self.identities.lock();
        for identity in released {
            identities.release(Identity::from_number(identity));
        }
    }

    fn entries_of(&self, identity: u32) -> Entries {
        let identities = self.identities.lock();
        learned_entries(
            self.snapshot,
            self.endpoint,
            (&identities, identity),
            self.carriage,
        )
    }
}

impl Wanted {
    /// What an address shall be under these names: with an identity if some name is selected by a
    /// `toFQDNs` rule and it may be opened at all, else none of the datapath's business.
    fn derive(
        &mut self,
        scope: &Scope<'_>,
        (ip, names): (IpAddr, &mut dyn Iterator<Item = &Name>),
    ) -> Result<(), NotInstalled> {
        let labels = scope.snapshot.learned_labels(scope.endpoint, names, ip);
        // It may have become a workload's, the node's or a forbidden one since it was learned.
        let may_be_open = || {
            scope
                .terms
                .scruples
                .allow(scope.snapshot, (scope.endpoint, ip))
        };
        if labels.selectors().is_empty() || !may_be_open() {
            self.close(ip);
            return Ok(());
        }
        let identity = scope.identities.lock().acquire(labels);
        let identity = identity.map_err(|_| NotInstalled::MapFull)?;
        self.changes.push(Change {
            address: Address::from(ip),
            identity: Some(identity.get()),
        });
        Ok(())
    }

    fn close(&mut self, ip: IpAddr) {
        self.changes.push(Change {
            address: Address::from(ip),
            identity: None,
        });
    }

    /// Looks up the entries of the identities that are new to the ledger.
    fn add_entries<T: Table>(&mut self, scope: &Scope<'_>, ledger: &Ledger<T>) {
        for identity in self.changes.iter().filter_map(|change| change.identity) {
            if !ledger.has_identity(identity) {
                let entries = self.entries.entry(identity);
                entries.or_insert_with(|| scope.entries_of(identity));
            }
        }
    }

    fn references(&self) -> impl Iterator<Item = u32> {
        self.changes.iter().filter_map(|change| change.identity)
    }

    fn entries_of(&self, identity: u32) -> Entries {
        self.entries.get(&identity).cloned().unwrap_or_default()
    }
}

fn not_installed(error: &TableError) -> NotInstalled {
    match error {
        TableError::Full(_) => NotInstalled::MapFull,
        TableError::Kernel { .. } => NotInstalled::Kernel,
    }
}
