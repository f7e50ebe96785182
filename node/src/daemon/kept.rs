//! What a daemon has learned, gathered for the next one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Mutex, MutexGuard};

use crate::clock;
use crate::guard::{Guards, NodeTable, SharedLearner};
use crate::learner::Knowledge;
use crate::remembered::{
    Gathered, KEPT_OCTETS_MAX, PLACES_AT_ONCE, Remembered, RememberedName, remembered_names,
};

/// What all endpoints know, wherever it is gathered.
pub(crate) struct Learned {
    learner: SharedLearner,
    /// By `NAMESPACE/NAME`.
    of: Vec<(String, Arc<Mutex<Knowledge<NodeTable>>>)>,
}

impl Learned {
    pub(super) fn new(guards: &Guards, learner: &SharedLearner) -> Self {
        let of = guards.iter().filter_map(|(id, guarded)| {
            Some((guarded.found.workload.full_name(), learner.knowledge(id)?))
        });
        Self {
            of: of.collect(),
            learner: Arc::clone(learner),
        }
    }

    /// Copies it. What is learned meanwhile is noted elsewhere, or counted as a change that is to be kept.
    pub(crate) fn gather(self) -> Remembered {
        let learner = self.learner;
        if let Some(lately) = learner.lately() {
            lately.turn();
        }
        let mut gathered = Gathered::new(KEPT_OCTETS_MAX);
        for (owner, knowledge) in self.of {
            gathered.add(owner, names(&knowledge));
        }
        let (endpoints, left_out) = gathered.finish();
        let before = learner.counts.left_out.swap(left_out, Ordering::Relaxed);
        if before == 0 && left_out > 0 {
            tracing::warn!(
                "more is learned than {KEPT_OCTETS_MAX} octets of a file: {left_out} names, those that end first, would not outlive a restart"
            );
        }
        learner.with_identities(|identities| Remembered::new(clock::wall(), identities, endpoints))
    }
}

/// What an endpoint knows. Its answers wait for a part of it at most, and go before the next part.
fn names(knowledge: &Mutex<Knowledge<NodeTable>>) -> Vec<RememberedName> {
    let mut names = Vec::new();
    for first in (0..).step_by(PLACES_AT_ONCE) {
        let knowledge = knowledge.lock();
        let part = remembered_names(&knowledge.cache, first, clock::now());
        MutexGuard::unlock_fair(knowledge);
        match part {
            Some(part) => names.extend(part),
            None => break,
        }
    }
    names
}
