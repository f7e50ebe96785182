//! The daemon in numbers, for its metrics.

use std::collections::BTreeMap;
use std::time::Instant;

use bpf_redirect::Datapath;
use policy::EndpointId;

use crate::clock;
use crate::guard::EndpointState;
use crate::metrics::{Figures, PolicyTally};

use super::Daemon;
use super::losses::ToldLosses;

/// What is counted for others to read.
pub(super) struct Tallies {
    pub(super) losses: ToldLosses,
    /// At how many addresses an endpoint has connections that outlived their name, at the last sweep.
    pub(super) outlived: BTreeMap<EndpointId, usize>,
    /// What is in force, where somebody asks for it.
    pub(super) policy: PolicyTally,
}

impl Tallies {
    pub(super) fn new(datapath: &Datapath) -> Self {
        Self {
            losses: ToldLosses::new(datapath),
            outlived: BTreeMap::new(),
            policy: PolicyTally::default(),
        }
    }
}

impl Daemon {
    /// Takes away the series that name endpoints which went a while ago and did not come again.
    pub(crate) fn forget_departed(&mut self, now: Instant) {
        for gone in self.departed.take_due(now) {
            let is_back = self.agent.has(&gone.namespace, &gone.pod_name);
            if let (Some(metrics), false) = (&self.metrics, is_back) {
                metrics.forget(&gone.namespace, &gone.pod_name);
            }
        }
    }

    /// Tells whoever gets flows what was lost on the way to them.
    pub(crate) fn tell_losses(&mut self) {
        self.tallies.losses.tell(
            (&self.datapath, &self.news),
            (&self.flow_ring, &self.exporters.shared()),
        );
    }

    /// How it is at this moment; `problems` are those of policy files and of endpoint files.
    pub(crate) fn figures(&self, problems: [usize; 2]) -> Figures {
        let snapshot = self.learner.snapshot();
        let mut endpoints = [0, 0, 0, self.guards.refused.len()];
        let mut learned = Vec::new();
        for (id, guarded) in self.guards.iter() {
            let [attaching, ready, faulty, refused] = &mut endpoints;
            *match guarded.state {
                EndpointState::Attaching => attaching,
                EndpointState::Ready if guarded.reason().is_some() => faulty,
                EndpointState::Ready => ready,
                EndpointState::Refused(_) => refused,
            } += 1;
            let counts = self.learner.with_knowledge(id, |knowledge| {
                let cache = &knowledge.cache;
                let open = knowledge.ledger.addresses().len();
                [cache.name_count(), cache.address_count(), open]
            });
            let name = guarded.found.workload.full_name();
            let [names, addresses, open] = counts.unwrap_or_default();
            let outlived = self.tallies.outlived.get(&id).copied().unwrap_or_default();
            learned.push((name, [names, addresses, open, outlived]));
        }
        Figures {
            at: clock::now(),
            revision: snapshot.revision(),
            policies: self.policy_count,
            rules: snapshot.rules().len(),
            problems,
            endpoints,
            learned,
            tally: self.tallies.policy.clone(),
            flows: self.flows,
            identities: (self.learner).with_identities(|identities| identities.local_count()),
            asked_again: self.refreshed,
            interference: self.interference.count,
            surroundings: [self.routers.len(), self.resolved_on_host.len()],
            kernel: self.datapath.counters().ok(),
        }
    }
}
