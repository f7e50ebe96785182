//! The daemon in numbers, for its metrics.

use std::time::Instant;

use crate::clock;
use crate::guard::EndpointState;
use crate::metrics::Figures;

use super::Daemon;

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
        self.losses.tell(
            (&self.datapath, &self.news),
            (&self.flow_ring, &self.exporters.shared()),
        );
    }

    /// How it is at this moment; `problems` are those of policy files and of endpoint files.
    pub(crate) fn figures(&self, problems: [usize; 2]) -> Figures {
        let snapshot = self.learner.snapshot();
        let mut endpoints = [0, 0, self.guards.refused.len()];
        let mut learned = Vec::new();
        for (id, guarded) in self.guards.iter() {
            let [attaching, ready, refused] = &mut endpoints;
            *match guarded.state {
                EndpointState::Attaching => attaching,
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
            let outlived = self.outlived.get(&id).copied().unwrap_or_default();
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
            tally: self.tally.clone(),
            flows: self.flows,
            identities: (self.learner).with_identities(|identities| identities.local_count()),
            asked_again: self.refreshed,
            interference: self.interference.count,
            kernel: self.datapath.counters().ok(),
        }
    }
}
