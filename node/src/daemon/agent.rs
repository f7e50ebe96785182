//! What the daemon did, as Hubble's agent events tell it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use flow::{AgentEndpoint, AgentEvent};
use observer::AgentRing;
use policy::EndpointId;

use crate::clock;
use crate::exporters::SharedExporters;
use crate::guard::Guards;

/// What was told.
#[derive(Default)]
pub(crate) struct AgentNews {
    ring: Arc<AgentRing>,
    exporters: SharedExporters,
    endpoints: BTreeMap<EndpointId, AgentEndpoint>,
    /// Prefixes with their identities.
    prefixes: BTreeMap<(IpAddr, u8), u32>,
}

impl AgentNews {
    /// The first thing that is told; files get all that follows, too.
    pub(super) fn started(exporters: SharedExporters) -> Self {
        let news = Self {
            exporters,
            ..Self::default()
        };
        news.tell(AgentEvent::Started);
        news
    }

    /// Where it is told.
    pub(crate) fn ring(&self) -> Arc<AgentRing> {
        Arc::clone(&self.ring)
    }

    /// Prefixes have these identities from now on.
    pub(super) fn addresses(&mut self, table: &[(IpAddr, u8, u32)]) {
        let now = table
            .iter()
            .map(|&(ip, len, identity)| ((ip, len), identity));
        let now: BTreeMap<_, _> = now.collect();
        let before = std::mem::take(&mut self.prefixes);
        for ((ip, len), identity) in &before {
            if !now.contains_key(&(*ip, *len)) {
                self.tell(AgentEvent::IpcacheDeleted {
                    cidr: format!("{ip}/{len}"),
                    identity: *identity,
                });
            }
        }
        for (prefix, identity) in &now {
            let old_identity = before.get(prefix).copied();
            if old_identity != Some(*identity) {
                let (ip, len) = prefix;
                self.tell(AgentEvent::IpcacheUpserted {
                    cidr: format!("{ip}/{len}"),
                    identity: *identity,
                    old_identity,
                });
            }
        }
        self.prefixes = now;
    }

    /// Another set of policies, with so many rules, is in force for these endpoints. Gives those that are gone since.
    pub(super) fn enforced(
        &mut self,
        revision: u64,
        rules: usize,
        guards: &Guards,
    ) -> Vec<AgentEndpoint> {
        self.tell(AgentEvent::PolicyUpdated {
            labels: Vec::new(),
            revision,
            rule_count: i64::try_from(rules).unwrap_or(i64::MAX),
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
        let gone = before
            .iter()
            .filter(|(id, endpoint)| self.endpoints.get(id) != Some(endpoint));
        let gone: Vec<_> = gone.map(|(_, endpoint)| endpoint.clone()).collect();
        for endpoint in &gone {
            self.tell(AgentEvent::EndpointDeleted(endpoint.clone()));
        }
        for (id, endpoint) in &self.endpoints {
            if before.get(id) != Some(endpoint) {
                self.tell(AgentEvent::EndpointCreated(endpoint.clone()));
            }
        }
        gone
    }

    /// Whether there is an endpoint of this name.
    pub(super) fn has(&self, namespace: &str, pod: &str) -> bool {
        let mut all = self.endpoints.values();
        all.any(|one| &*one.namespace == namespace && &*one.pod_name == pod)
    }

    fn tell(&self, event: AgentEvent) {
        let (now, event) = (clock::time_of_day(clock::now()), Arc::new(event));
        for exporter in self.exporters.load().iter() {
            exporter.sink.tell_agent(now, &event);
        }
        self.ring.push(now, event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_told_when_they_come_change_and_go() {
        let mut news = AgentNews::default();
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        news.addresses(&[(ip(2), 32, 300), (ip(0), 24, 9)]);
        news.addresses(&[(ip(2), 32, 301), (ip(0), 24, 9)]);
        news.addresses(&[(ip(0), 24, 9)]);
        let upserted = |cidr: &str, identity, old_identity| AgentEvent::IpcacheUpserted {
            cidr: cidr.to_owned(),
            identity,
            old_identity,
        };
        let told: Vec<_> = news
            .ring
            .read_from(0)
            .0
            .into_iter()
            .map(|(_, event)| AgentEvent::clone(&event))
            .collect();
        assert_eq!(
            told,
            [
                upserted("10.0.0.0/24", 9, None),
                upserted("10.0.0.2/32", 300, None),
                upserted("10.0.0.2/32", 301, Some(300)),
                AgentEvent::IpcacheDeleted {
                    cidr: "10.0.0.2/32".to_owned(),
                    identity: 301,
                },
            ]
        );
    }
}
