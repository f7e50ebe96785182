//! What the daemon did, as Hubble's agent events tell it.

use std::collections::BTreeMap;
use std::sync::Arc;

use observer::{AgentEndpoint, AgentEvent, AgentRing};
use policy::EndpointId;

use crate::clock;
use crate::guard::Guards;

/// What was told.
#[derive(Default)]
pub(crate) struct AgentNews {
    ring: Arc<AgentRing>,
    endpoints: BTreeMap<EndpointId, AgentEndpoint>,
}

impl AgentNews {
    /// The first thing that is told.
    pub(super) fn started() -> Self {
        let news = Self::default();
        news.tell(AgentEvent::Started);
        news
    }

    /// Where it is told.
    pub(crate) fn ring(&self) -> Arc<AgentRing> {
        Arc::clone(&self.ring)
    }

    /// Another set of policies is in force for these endpoints.
    pub(super) fn enforced(&mut self, revision: u64, policies: usize, guards: &Guards) {
        self.tell(AgentEvent::PolicyUpdated {
            labels: Vec::new(),
            revision,
            rule_count: i64::try_from(policies).unwrap_or(i64::MAX),
        });
        let now: BTreeMap<_, _> = guards
            .iter()
            .map(|(id, guarded)| {
                let workload = &guarded.found.workload;
                let endpoint = AgentEndpoint {
                    id: id.get().into(),
                    labels: workload
                        .labels
                        .iter()
                        .map(|it| it.to_string().into())
                        .collect(),
                    pod_name: workload.name.as_str().into(),
                    namespace: workload.namespace.as_str().into(),
                };
                (id, endpoint)
            })
            .collect();
        let before = std::mem::replace(&mut self.endpoints, now);
        for (id, endpoint) in &before {
            if self.endpoints.get(id) != Some(endpoint) {
                self.tell(AgentEvent::EndpointDeleted(endpoint.clone()));
            }
        }
        for (id, endpoint) in &self.endpoints {
            if before.get(id) != Some(endpoint) {
                self.tell(AgentEvent::EndpointCreated(endpoint.clone()));
            }
        }
    }

    fn tell(&self, event: AgentEvent) {
        self.ring.push(clock::time_of_day(clock::now()), event);
    }
}
