//! The series of a metric: bounded in number, and gone with the pods that they name.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use flow::Flow;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::choice::{Context, Pod};
use super::labels::{Label, Labels, OWN_LABELS_MAX};
use crate::limits::SERIES_MAX;

/// What the labels of a series say that stands for all that have no room.
pub(super) const OTHER: &str = "other";

/// A metric with its series.
#[derive(Debug)]
pub(super) struct Series<M> {
    pub(super) family: Family<Labels, M, fn() -> M>,
    context: Context,
    /// Whether who is meant is told of a response as of its request.
    by_request: bool,
    /// How many there are.
    made: Arc<AtomicUsize>,
    folded: Arc<AtomicU64>,
    /// Those that name a pod, by it. Taken when a series is made, and when a pod is gone.
    by_pod: Arc<Mutex<BTreeMap<Pod, Vec<Labels>>>>,
}

pub(super) type Counts = Series<Counter>;

/// What can forget a pod.
pub(super) trait Forgetful {
    /// Takes away the series that name a pod, by its namespace and its name.
    fn forget(&self, pod: (&str, &str));
}

impl<M> Forgetful for Series<M> {
    fn forget(&self, (namespace, name): (&str, &str)) {
        let pod = (namespace.into(), name.into());
        let mut by_pod = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = by_pod.remove(&pod).unwrap_or_default();
        let gone = gone.iter().filter(|labels| self.family.remove(labels));
        self.made.fetch_sub(gone.count(), Ordering::Relaxed);
    }
}

impl<M> Series<M> {
    pub(super) fn new(folded: &Arc<AtomicU64>, context: &Context, make: fn() -> M) -> Self {
        Self {
            family: Family::new_with_constructor(make),
            context: context.clone(),
            by_request: false,
            made: Arc::default(),
            folded: Arc::clone(folded),
            by_pod: Arc::default(),
        }
    }

    /// The same series, counted for responses as for their requests.
    pub(super) fn by_request(&self) -> Self {
        Self {
            family: self.family.clone(),
            context: self.context.clone(),
            by_request: true,
            made: Arc::clone(&self.made),
            folded: Arc::clone(&self.folded),
            by_pod: Arc::clone(&self.by_pod),
        }
    }

    /// Runs `count` on the series of these labels, or on the one that stands for all beyond the bound.
    pub(super) fn with(&self, flow: &Flow, own: [Label; OWN_LABELS_MAX], count: impl FnOnce(&M)) {
        let context = self.context.labels(flow, self.by_request);
        let mut labels = Labels { own, context };
        if let Some(series) = self.family.get(&labels) {
            return count(&series);
        }
        // Flows are counted by one thread.
        if self.made.load(Ordering::Relaxed) >= SERIES_MAX {
            self.folded.fetch_add(1, Ordering::Relaxed);
            labels.fold(OTHER);
        } else {
            self.made.fetch_add(1, Ordering::Relaxed);
            self.note_pods(flow, &labels);
        }
        count(&self.family.get_or_create(&labels));
    }

    fn note_pods(&self, flow: &Flow, labels: &Labels) {
        let mut by_pod = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        for pod in self.context.pods(flow, self.by_request) {
            by_pod.entry(pod).or_default().push(labels.clone());
        }
    }
}

impl Counts {
    pub(super) fn add(&self, flow: &Flow, own: [Label; OWN_LABELS_MAX]) {
        self.with(flow, own, |counter| {
            counter.inc();
        });
    }
}
