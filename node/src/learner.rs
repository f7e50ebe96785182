//! From an answer to the kernel: names and addresses, labels, an identity, policy entries, and then
//! the address itself. Under each endpoint's own lock; an answer waits for it, and not long.

mod hold;
mod knowledge;
mod load;
mod scruples;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bpf_redirect::{Installed, Table, TableError};
use dashmap::DashMap;
use dnsproxy::{Lesson, NotInstalled};
use fqdn::Name;
use fqdn_cache::{Given, Lifetimes};
use parking_lot::{Mutex, MutexGuard};
use policy::{EndpointId, Identities, Identity, Snapshot};

use crate::datapath::Carriage;
use crate::lately::Lately;

pub(crate) use hold::{Held, Hold};
pub(crate) use knowledge::{Heritage, Knowledge};
use knowledge::{Scope, Taught};
pub(crate) use scruples::{Scruples, parse_cluster, parse_nat64};

/// How long an answer waits for the datapath, unless an option says otherwise (Cilium's figure); then the
/// client gets SERVFAIL.
pub(crate) const INSTALL_WAIT: Duration = Duration::from_millis(100);
/// The longest that an option may say; a longer one is refused: resolvers ask again after 5 s, and whoever
/// waits for one endpoint keeps a worker from the others.
pub(crate) const INSTALL_WAIT_MAX: Duration = Duration::from_secs(4);

/// How often at most what was only learned again is written for the next daemon.
pub(crate) const KEEP_REFRESHES_AFTER: Duration = Duration::from_secs(10);

/// How long exchanges took, by how they ended.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    /// The server's answer was released.
    pub(crate) answered: Hold,
    /// Policy said no.
    pub(crate) denied: Hold,
    /// The server did not answer in time.
    pub(crate) late: Hold,
    /// A fault of ours, or of the way to the server.
    pub(crate) faulty: Hold,
}

/// Joins cache, identities and ledgers; all workers share it.
pub(crate) struct Learner<T> {
    snapshot: ArcSwap<Snapshot>,
    endpoints: DashMap<EndpointId, Arc<Mutex<Knowledge<T>>>>,
    /// Taken inside an endpoint's lock, never the other way round, and for no system call: it is
    /// everybody's.
    identities: Mutex<Identities>,
    terms: ArcSwap<Terms>,
    carriage: Carriage,
    clock: fn() -> Instant,
    /// Where answers are noted for the next daemon; empty where nothing outlives this one.
    lately: OnceLock<Arc<Lately>>,
    pub(crate) counts: LearnCounts,
}

/// On which terms answers are learned; by options, which may change.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// How long an address is open.
    pub(crate) lifetimes: Lifetimes,
    /// How long an answer waits for the datapath.
    pub(crate) install_wait: Duration,
    /// What isn't learned.
    pub(crate) scruples: Scruples,
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
    /// Addresses that lost a name to time.
    pub(crate) expired: AtomicU64,
    /// New flows that were denied since a name had ended.
    pub(crate) name_expired: AtomicU64,
    /// Answers for which nothing had to be written.
    pub(crate) refreshed: AtomicU64,
    /// Answers whose addresses were written.
    pub(crate) installed: AtomicU64,
    /// Names that were forgotten because somebody said so.
    pub(crate) forgotten: AtomicU64,
    /// Answers that the next daemon would not know of, were this one killed before it writes.
    pub(crate) unnoted: AtomicU64,
    /// Names for which the file that the next daemon reads had no room, the last time.
    pub(crate) left_out: AtomicUsize,
    /// How long answers were held.
    pub(crate) hold: Hold,
    /// How long exchanges took, from the query to what its client was answered.
    pub(crate) exchanges: Exchanges,
}

impl<T: Table> Learner<T> {
    /// A learner under a first snapshot.
    pub(crate) fn new(
        snapshot: Snapshot,
        identities: Identities,
        lifetimes: Lifetimes,
        clock: fn() -> Instant,
    ) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            endpoints: DashMap::new(),
            identities: Mutex::new(identities),
            terms: ArcSwap::from_pointee(Terms {
                lifetimes,
                install_wait: INSTALL_WAIT,
                scruples: Scruples::default(),
            }),
            carriage: Carriage::default(),
            clock,
            lately: OnceLock::new(),
            counts: LearnCounts::default(),
        }
    }

    /// The same with answers that wait so long for the datapath.
    pub(crate) fn with_install_wait(self, install_wait: Duration) -> Self {
        let terms = Terms {
            install_wait,
            ..self.terms.load().as_ref().clone()
        };
        self.set_terms(terms);
        self
    }

    /// Learns what comes on other terms.
    pub(crate) fn set_terms(&self, terms: Terms) {
        self.terms.store(Arc::new(terms));
    }

    /// The same with these scruples.
    pub(crate) fn with_scruples(self, scruples: Scruples) -> Self {
        let terms = Terms {
            scruples,
            ..self.terms.load().as_ref().clone()
        };
        self.set_terms(terms);
        self
    }

    /// The same where what passes is carried so.
    pub(crate) fn with_carriage(self, carriage: Carriage) -> Self {
        Self { carriage, ..self }
    }

    /// From now on notes answers there before they are released.
    pub(crate) fn note_in(&self, lately: Arc<Lately>) {
        // Said once, at the start.
        let _ = self.lately.set(lately);
    }

    /// Where answers are noted.
    pub(crate) fn lately(&self) -> Option<&Arc<Lately>> {
        self.lately.get()
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
        let knowledge = self.knowledge(endpoint)?;
        let knowledge = knowledge.lock();
        Some(f(&knowledge))
    }

    /// Puts a snapshot into force for the queries to come. The endpoints' maps follow by
    /// [`Learner::reload`]; what is learned in between is learned under the new one.
    pub(crate) fn set_snapshot(&self, snapshot: Snapshot) {
        let old = self.snapshot.swap(Arc::new(snapshot));
        old.release(&mut self.identities.lock());
    }

    /// Takes an endpoint in whose maps hold what an earlier run wrote: what is still known goes on
    /// under its numbers, the rest closes.
    ///
    /// # Errors
    /// If the map can't take it: the policy of the earlier run holds.
    pub(crate) fn adopt(
        &self,
        endpoint: EndpointId,
        table: T,
        heritage: &Heritage,
    ) -> Result<(), TableError> {
        self.remove(endpoint);
        let knowledge = Knowledge::inherit(
            table,
            (heritage, (self.clock)(), self.terms.load().lifetimes),
            &mut self.identities.lock(),
        );
        self.endpoints
            .insert(endpoint, Arc::new(Mutex::new(knowledge)));
        self.reload(endpoint)
    }

    /// Whether an endpoint was adopted.
    pub(crate) fn knows(&self, endpoint: EndpointId) -> bool {
        self.endpoints.contains_key(&endpoint)
    }

    /// Forgets an endpoint; its addresses close.
    pub(crate) fn remove(&self, endpoint: EndpointId) {
        if let Some((_, knowledge)) = self.endpoints.remove(&endpoint) {
            let released = knowledge.lock().end();
            let mut identities = self.identities.lock();
            for identity in released {
                identities.release(Identity::from_number(identity));
            }
        }
    }

    /// Derives an endpoint's entries and the identities of all that it learned from the snapshot in
    /// force, and puts them into the kernel.
    ///
    /// # Errors
    /// If its map can't take them: the old policy holds.
    pub(crate) fn reload(&self, endpoint: EndpointId) -> Result<(), TableError> {
        let Some(knowledge) = self.knowledge(endpoint) else {
            return Ok(());
        };
        let mut knowledge = knowledge.lock();
        if knowledge.is_gone {
            return Ok(());
        }
        knowledge.reload(&self.scope(endpoint, &self.snapshot.load()))
    }

    /// Opens what an answer names, or proves that it is open.
    ///
    /// # Errors
    /// Why not; then nothing of this answer was opened, but for what was open before.
    pub(crate) fn learn(&self, began: Instant, lesson: &Lesson) -> Result<Installed, NotInstalled> {
        let opened = self.open(began, lesson);
        let held = (self.clock)().saturating_duration_since(began);
        self.counts.hold.note(held);
        // The writes stand; but the client must not think that this path is quick.
        if opened.is_ok() && held > self.terms.load().install_wait {
            return Err(NotInstalled::Late);
        }
        opened
    }

    fn open(&self, began: Instant, lesson: &Lesson) -> Result<Installed, NotInstalled> {
        self.under_lock((began, lesson.endpoint), |knowledge, scope| {
            let addresses = self.learnable(scope, (began, lesson))?;
            let given = Given {
                by: Some(lesson.server),
                ..scope.terms.lifetimes.given(began)
            };
            // What a rule names may be open even where the rest of the answer has no room.
            for (at, alias) in scope.terms.scruples.aliases(scope.snapshot, lesson) {
                let through = behind(at, lesson, &addresses);
                self.teach(knowledge, scope, (alias, &through[..], given))?;
            }
            let taught = self.teach(knowledge, scope, (&lesson.name, &addresses[..], given))?;
            self.tally(&taught);
            Ok(taught.installed)
        })
    }

    /// Runs `f` on what an endpoint knows once its maps follow the policy in force; waits no longer for its
    /// lock than an answer waits.
    fn under_lock<R>(
        &self,
        (began, endpoint): (Instant, EndpointId),
        f: impl FnOnce(&mut Knowledge<T>, &Scope<'_>) -> Result<R, NotInstalled>,
    ) -> Result<R, NotInstalled> {
        let knowledge = self.knowledge(endpoint).ok_or(NotInstalled::EndpointGone)?;
        let waited = (self.clock)().saturating_duration_since(began);
        let left = self.terms.load().install_wait.saturating_sub(waited);
        let mut knowledge = knowledge.try_lock_for(left).ok_or(NotInstalled::Late)?;
        if knowledge.is_gone {
            return Err(NotInstalled::EndpointGone);
        }
        // Read under the lock: no endpoint goes back to an older one.
        let snapshot = self.snapshot.load();
        let scope = self.scope(endpoint, &snapshot);
        knowledge.follow(&scope)?;
        f(&mut knowledge, &scope)
    }

    /// Opens a name's addresses, and notes it for the next daemon.
    fn teach(
        &self,
        knowledge: &mut Knowledge<T>,
        scope: &Scope<'_>,
        answer: (&Name, &[(IpAddr, Instant)], Given),
    ) -> Result<Taught, NotInstalled> {
        let taught = knowledge.install(scope, answer)?;
        self.note((knowledge, scope), answer, &taught);
        Ok(taught)
    }

    /// From now on these are the addresses to which endpoints have connections that a name let be opened: the
    /// names are told of these as long as they live.
    pub(crate) fn note_connected(&self, mut connected: BTreeMap<EndpointId, BTreeSet<IpAddr>>) {
        for (endpoint, knowledge) in self.all() {
            let addresses = connected.remove(&endpoint).unwrap_or_default();
            knowledge.lock().cache.note_connected(addresses);
        }
    }

    /// Takes away what has ended, one step for each endpoint, and says when to come again: at once,
    /// if that isn't later than `now`. An answer waits for one step at most.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        let steps = self.all().into_iter().filter_map(|(endpoint, knowledge)| {
            let mut knowledge = knowledge.lock();
            if knowledge.is_gone {
                return None;
            }
            let step = knowledge.expire(&self.scope(endpoint, &self.snapshot.load()), now);
            count(&self.counts.expired, step.names_lost);
            // An answer that waits is next; else the following step might be, over and over.
            MutexGuard::unlock_fair(knowledge);
            step.next
        });
        steps.min()
    }

    /// Forgets the names of an endpoint that `is_wanted` wants; what only they opened closes, for new
    /// connections. Says how many there were.
    pub(crate) fn forget(&self, endpoint: EndpointId, is_wanted: impl Fn(&Name) -> bool) -> usize {
        let Some(knowledge) = self.knowledge(endpoint) else {
            return 0;
        };
        let all: Vec<Name> = knowledge.lock().cache.names().cloned().collect();
        let mut forgotten = 0;
        for name in all.iter().filter(|name| is_wanted(name)) {
            let mut knowledge = knowledge.lock();
            if knowledge.is_gone {
                break;
            }
            let snapshot = self.snapshot.load();
            let scope = self.scope(endpoint, &snapshot);
            forgotten += usize::from(knowledge.forget(&scope, name));
            // Between two names an answer finds its turn.
            MutexGuard::unlock_fair(knowledge);
        }
        count(&self.counts.forgotten, forgotten);
        forgotten
    }

    /// The addresses of a lesson that its server may teach, and that may be opened at all, each with
    /// its end, in the lesson's order.
    ///
    /// # Errors
    /// If there are others, and such an answer is to be withheld.
    fn learnable(
        &self,
        scope: &Scope<'_>,
        (now, lesson): (Instant, &Lesson),
    ) -> Result<Vec<(IpAddr, Instant)>, NotInstalled> {
        let asked = (lesson.endpoint, lesson.server, lesson.protocol);
        if !scope.terms.scruples.trust(scope.snapshot, asked) {
            count(&self.counts.untrusted_server, 1);
            return Ok(Vec::new());
        }
        let taught = lesson.addresses.iter().map(|one| (one.ip, one.ttl_secs));
        Ok(self.sift(scope, now, taught)?.open)
    }

    /// Parts addresses, each with its TTL in seconds, into those that may be opened and the others.
    fn sift(
        &self,
        scope: &Scope<'_>,
        now: Instant,
        addresses: impl Iterator<Item = (IpAddr, u32)>,
    ) -> Result<Sifted, NotInstalled> {
        let terms = &scope.terms;
        let mut sifted = Sifted::default();
        for (ip, ttl_secs) in addresses {
            match terms.scruples.refusal(scope.snapshot, (scope.endpoint, ip)) {
                Some(class) => sifted.refused.push((ip, class)),
                None => sifted
                    .open
                    .push((ip, terms.lifetimes.expiry(now, ttl_secs))),
            }
        }
        count(&self.counts.unlearned, sifted.refused.len());
        if !sifted.refused.is_empty() && terms.scruples.withholds {
            return Err(NotInstalled::Rebinding);
        }
        Ok(sifted)
    }

    /// Notes for the next daemon what an answer opened, or kept open for longer.
    fn note(
        &self,
        (knowledge, scope): (&Knowledge<T>, &Scope<'_>),
        answer: (&Name, &[(IpAddr, Instant)], Given),
        taught: &Taught,
    ) {
        let put_off_max = put_off_unnoted_max(scope.terms.lifetimes.grace);
        if let Some(lately) = self.lately.get()
            && (taught.is_news || taught.put_off > put_off_max)
            && let Some(note) = knowledge.note(&self.identities, answer)
        {
            count(&self.counts.unnoted, usize::from(!lately.note(&note)));
        }
    }

    fn tally(&self, taught: &Taught) {
        let counter = if taught.is_news {
            &self.counts.installed
        } else {
            &self.counts.refreshed
        };
        count(counter, 1);
        count(&self.counts.evicted, taught.evicted);
    }

    fn all(&self) -> Vec<(EndpointId, Arc<Mutex<Knowledge<T>>>)> {
        // The map's own lock is let go before an endpoint's is taken.
        let all = self.endpoints.iter();
        all.map(|entry| (*entry.key(), Arc::clone(entry.value())))
            .collect()
    }

    /// What an endpoint knows.
    pub(crate) fn knowledge(&self, endpoint: EndpointId) -> Option<Arc<Mutex<Knowledge<T>>>> {
        // The map's own lock is let go before the endpoint's is taken.
        self.endpoints
            .get(&endpoint)
            .map(|entry| Arc::clone(&*entry))
    }

    fn scope<'a>(&'a self, endpoint: EndpointId, snapshot: &'a Snapshot) -> Scope<'a> {
        Scope {
            endpoint,
            snapshot,
            identities: &self.identities,
            carriage: self.carriage,
            terms: self.terms.load(),
        }
    }
}

/// Those of a lesson's addresses to which the chain goes through its alias at this place. `addresses` are
/// some of the lesson's, in its order.
fn behind(
    alias: usize,
    lesson: &Lesson,
    addresses: &[(IpAddr, Instant)],
) -> Vec<(IpAddr, Instant)> {
    let mut rest = addresses.iter().peekable();
    let taught = lesson.addresses.iter().filter_map(|one| {
        let known = rest.next_if(|(ip, _)| *ip == one.ip)?;
        Some((usize::from(one.chain_len), *known))
    });
    let behind = taught.filter(|(chain_len, _)| *chain_len > alias);
    behind.map(|(_, known)| known).collect()
}

/// Addresses, by whether they may be opened.
#[derive(Default)]
struct Sifted {
    /// Each with its end.
    open: Vec<(IpAddr, Instant)>,
    /// Each with the word of its class.
    refused: Vec<(IpAddr, &'static str)>,
}

/// By how much refreshes may put an end off without a note: what a kill then takes, with what came since the
/// last writing, is a part of the grace, and nothing that a TTL promised.
fn put_off_unnoted_max(grace: Duration) -> Duration {
    match grace >= 3 * KEEP_REFRESHES_AFTER {
        true => KEEP_REFRESHES_AFTER,
        false => Duration::ZERO,
    }
}

fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
