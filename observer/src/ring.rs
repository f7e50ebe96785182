//! The last flows, for readers of different speed, in threads and in tasks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flow::{Batch, Cursor, Flow, Losses, Query, QueryError, Reader, Ring};
use tokio::sync::Notify;

use crate::limits::NAMESPACES_MAX;

/// Flows that are handed on at once.
const BATCH_MAX: usize = 512;

/// Flows that are put in at once, each in the place of the oldest. So few that what the allocator has of those
/// is just what the next ones need (glibc keeps seven of each size for a thread): by hundreds it would look for
/// room, and join it, for each.
const PUT_IN_MAX: usize = 4;

/// How far back flows count for the rate.
const RATE_SECS: u64 = 60;

/// How long a namespace is listed after its last flow.
const NAMESPACE_AGE: Duration = Duration::from_secs(3600);

/// The last flows of a node. Whoever adds some never waits for whoever reads.
#[derive(Debug)]
pub struct SharedRing {
    state: Mutex<State>,
    threads: Condvar,
    tasks: Notify,
    since: Instant,
    /// Flows that readers missed.
    overtaken: AtomicU64,
    /// Readers for whom there was no room.
    turned_away: AtomicU64,
}

#[derive(Debug)]
struct State {
    ring: Ring,
    rate: Rate,
    /// When each was last seen.
    namespaces: BTreeMap<Namespace, Instant>,
    /// The one that was seen last.
    last_namespace: Option<(Namespace, Instant)>,
}

/// Cluster and namespace.
type Namespace = (Arc<str>, Arc<str>);

/// Flows of the last seconds, each counted at its second.
#[derive(Debug)]
struct Rate {
    counts: [u64; RATE_SECS as usize],
    /// The second of the last count.
    at: u64,
    /// That of the first one.
    first: Option<u64>,
}

/// What a ring holds, and has held.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Figures {
    /// Flows that are here.
    pub flows: u64,
    /// Flows that can be here.
    pub flows_max: u64,
    /// Flows since the start.
    pub seen: u64,
    /// How long ago the start was.
    pub uptime: Duration,
    /// Flows per second, over the last minute or since the first.
    pub rate: f64,
}

impl SharedRing {
    /// An empty ring for this many flows.
    #[must_use]
    pub fn new(flows_max: usize, now: Instant) -> Self {
        Self {
            state: Mutex::new(State {
                ring: Ring::new(flows_max),
                rate: Rate {
                    counts: [0; RATE_SECS as usize],
                    at: 0,
                    first: None,
                },
                namespaces: BTreeMap::new(),
                last_namespace: None,
            }),
            threads: Condvar::new(),
            tasks: Notify::new(),
            since: now,
            overtaken: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds flows. If they are made on the way, that is done while nobody has to wait.
    pub fn push<F: Into<Arc<Flow>>>(&self, flows: impl IntoIterator<Item = F>, now: Instant) {
        let mut flows = flows.into_iter().map(Into::into);
        let second = now.saturating_duration_since(self.since).as_secs();
        let mut few: Vec<Arc<Flow>> = Vec::with_capacity(PUT_IN_MAX);
        let mut is_changed = false;
        loop {
            few.extend(flows.by_ref().take(PUT_IN_MAX));
            if few.is_empty() {
                break;
            }
            is_changed = true;
            let mut state = self.state();
            state.rate.add(second, few.len() as u64);
            for flow in few.drain(..) {
                state.see_namespaces(&flow, now);
                state.ring.push(flow);
            }
        }
        if is_changed {
            self.threads.notify_all();
            self.tasks.notify_waiters();
        }
    }

    /// Tells readers of events that were lost on their way here.
    pub fn lose(&self, more: Losses) {
        self.state().ring.lose(more);
        self.threads.notify_all();
        self.tasks.notify_waiters();
    }

    /// A reader that begins where its query says.
    ///
    /// # Errors
    /// A query that makes no sense.
    pub fn reader(&self, query: Query) -> Result<Reader, QueryError> {
        Reader::new(query, &self.state().ring)
    }

    /// The place of the next flow to come.
    #[must_use]
    pub fn end(&self) -> Cursor {
        self.state().ring.end()
    }

    /// What is behind a cursor.
    #[must_use]
    pub fn read_from(&self, cursor: Cursor) -> Batch {
        let batch = self.state().ring.read_from(cursor, BATCH_MAX);
        self.overtaken.fetch_add(batch.lost, Ordering::Relaxed);
        batch
    }

    /// What came behind a cursor; the thread waits for it up to `wait`.
    #[must_use]
    pub fn wait_from(&self, cursor: Cursor, wait: Duration) -> Batch {
        let nothing_new = |state: &mut State| state.ring.end() == cursor;
        let (state, _) = self
            .threads
            .wait_timeout_while(self.state(), wait, nothing_new)
            .unwrap_or_else(PoisonError::into_inner);
        let batch = state.ring.read_from(cursor, BATCH_MAX);
        self.overtaken.fetch_add(batch.lost, Ordering::Relaxed);
        batch
    }

    /// What came behind a cursor; the task waits for it up to `wait`.
    pub(crate) async fn next_from(&self, cursor: Cursor, wait: Duration) -> Batch {
        let more = self.tasks.notified();
        tokio::pin!(more);
        // From here on, no flow is missed.
        more.as_mut().enable();
        let batch = self.read_from(cursor);
        if !batch.flows.is_empty() || batch.lost > 0 {
            return batch;
        }
        let _ = tokio::time::timeout(wait, more).await;
        self.read_from(cursor)
    }

    /// How many flows there were.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.state().ring.seen()
    }

    /// How many flows readers missed since they were slow, all readers together.
    #[must_use]
    pub fn overtaken(&self) -> u64 {
        self.overtaken.load(Ordering::Relaxed)
    }

    /// Counts a reader for whom there was no room.
    pub(crate) fn turn_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    /// Readers for whom there was no room: connections and streams beyond their bounds.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// What it holds, and has held.
    #[must_use]
    pub fn figures(&self, now: Instant) -> Figures {
        let mut state = self.state();
        let uptime = now.saturating_duration_since(self.since);
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        Figures {
            flows: count(state.ring.len()),
            flows_max: count(state.ring.capacity()),
            seen: state.ring.seen(),
            uptime,
            rate: state.rate.of(uptime.as_secs()),
        }
    }

    /// Clusters and namespaces of the last hour's flows, sorted.
    #[must_use]
    pub fn namespaces(&self, now: Instant) -> Vec<(Arc<str>, Arc<str>)> {
        let mut state = self.state();
        state
            .namespaces
            .retain(|_, seen| now.saturating_duration_since(*seen) < NAMESPACE_AGE);
        state.namespaces.keys().cloned().collect()
    }
}

impl State {
    fn see_namespaces(&mut self, flow: &Flow, now: Instant) {
        for endpoint in [&flow.source, &flow.destination] {
            if endpoint.namespace.is_empty() {
                continue;
            }
            let (cluster, namespace) = (&endpoint.cluster_name, &endpoint.namespace);
            // All flows of a workload have the same texts.
            let is_last = self.last_namespace.as_ref().is_some_and(|(key, at)| {
                *at == now && Arc::ptr_eq(&key.0, cluster) && Arc::ptr_eq(&key.1, namespace)
            });
            if is_last {
                continue;
            }
            let key = (Arc::clone(cluster), Arc::clone(namespace));
            self.last_namespace = Some((key.clone(), now));
            if self.namespaces.len() < NAMESPACES_MAX || self.namespaces.contains_key(&key) {
                self.namespaces.insert(key, now);
            }
        }
    }
}

impl Rate {
    fn add(&mut self, second: u64, count: u64) {
        self.turn_to(second);
        self.first.get_or_insert(second);
        if let Some(slot) = self.slot(second) {
            *slot += count;
        }
    }

    /// Flows per second up to this one, over the time since the oldest that counts.
    fn of(&mut self, second: u64) -> f64 {
        self.turn_to(second);
        let sum: u64 = self.counts.iter().sum();
        let age = second.saturating_sub(self.first.unwrap_or(second));
        let age = age.clamp(1, RATE_SECS);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = sum as f64 / age as f64;
        rate
    }

    /// Forgets what is older than a minute.
    fn turn_to(&mut self, second: u64) {
        let first = self.at + 1;
        for gone in first.max(second.saturating_sub(RATE_SECS - 1))..=second {
            if let Some(slot) = self.slot(gone) {
                *slot = 0;
            }
        }
        self.at = self.at.max(second);
    }

    fn slot(&mut self, second: u64) -> Option<&mut u64> {
        let at = usize::try_from(second % RATE_SECS).ok()?;
        self.counts.get_mut(at)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a start for a made-up clock")]
mod tests {
    use super::*;
    use flow::{DropReason, Endpoint, Event, Verdict};

    fn flow(namespace: &str) -> Flow {
        let reason = DropReason::POLICY_DENIED;
        Flow {
            source: Endpoint {
                namespace: namespace.into(),
                ..Endpoint::default()
            },
            ..Flow::new(Event::Drop { reason }, Verdict::Dropped)
        }
    }

    #[test]
    fn the_rate_is_of_the_last_minute_or_since_the_first() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let ring = SharedRing::new(8, start);
        ring.push((0..20).map(|_| flow("a")), at(2));
        let figures = ring.figures(at(10));
        assert_eq!((figures.flows, figures.flows_max, figures.seen), (8, 8, 20));
        assert!((figures.rate - 20.0 / 8.0).abs() < 1e-9, "{figures:?}");
        ring.push((0..60).map(|_| flow("a")), at(61));
        assert!((ring.figures(at(61)).rate - 80.0 / 59.0).abs() < 1e-9);
        assert!((ring.figures(at(62)).rate - 1.0).abs() < 1e-9);
        assert!(ring.figures(at(500)).rate.abs() < 1e-9);
    }

    #[test]
    fn flows_are_made_while_nobody_has_to_wait_and_put_in_in_order() {
        let ring = SharedRing::new(100, Instant::now());
        let before = ring.end();
        let many = 2 * PUT_IN_MAX + 1;
        let made = (0..many).map(|number| {
            assert!(ring.state.try_lock().is_ok(), "a reader would wait");
            flow(&number.to_string())
        });
        ring.push(made, Instant::now());
        let here = ring.read_from(before).flows;
        let names: Vec<_> = here
            .iter()
            .map(|flow| flow.source.namespace.to_string())
            .collect();
        assert_eq!(
            names,
            (0..many)
                .map(|number| number.to_string())
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn namespaces_are_listed_for_an_hour_and_are_bounded() {
        let start = Instant::now();
        let ring = SharedRing::new(8, start);
        ring.push([flow("b"), flow("a"), flow("")], start);
        ring.push([flow("a")], start + Duration::from_secs(1800));
        let names = |secs| {
            let names = ring.namespaces(start + Duration::from_secs(secs));
            names
                .into_iter()
                .map(|(_, name)| name.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(1900), ["a", "b"]);
        assert_eq!(names(3700), ["a"]);
        let many = (0..=NAMESPACES_MAX).map(|number| flow(&number.to_string()));
        ring.push(many, start + Duration::from_secs(3700));
        assert_eq!(names(3701).len(), NAMESPACES_MAX);
    }
}
