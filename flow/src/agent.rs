//! What the agent itself did: policies, endpoints, addresses.

use std::sync::Arc;

use crate::json::Object;
use crate::limits::LINE_OCTETS_MAX;
use crate::time::Time;

/// Something that the agent did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AgentEvent {
    /// It started.
    Started,
    /// Another set of policies is in force.
    PolicyUpdated {
        /// Labels of the policies that changed.
        labels: Vec<Arc<str>>,
        /// The revision of the set.
        revision: u64,
        /// Rules in it.
        rule_count: i64,
    },
    /// An endpoint is guarded from now on.
    EndpointCreated(AgentEndpoint),
    /// An endpoint is guarded no longer.
    EndpointDeleted(AgentEndpoint),
    /// A prefix has another identity.
    IpcacheUpserted {
        /// The prefix.
        cidr: String,
        /// Its identity.
        identity: u32,
        /// The one that it had.
        old_identity: Option<u32>,
    },
    /// A prefix has no identity any more.
    IpcacheDeleted {
        /// The prefix.
        cidr: String,
        /// The one that it had.
        identity: u32,
    },
}

/// An endpoint, as agent events tell it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AgentEndpoint {
    /// Its number.
    pub id: u64,
    /// `source:key=value`.
    pub labels: Vec<Arc<str>>,
    /// Its pod.
    pub pod_name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
}

/// A line of an exporter's, about what an agent did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentLine {
    /// What it did.
    pub event: AgentEvent,
    /// The node that tells it.
    pub node_name: Arc<str>,
    /// When.
    pub time: Option<Time>,
}

impl AgentEvent {
    /// Its kind's name in JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Started => "AGENT_STARTED",
            Self::PolicyUpdated { .. } => "POLICY_UPDATED",
            Self::EndpointCreated(_) => "ENDPOINT_CREATED",
            Self::EndpointDeleted(_) => "ENDPOINT_DELETED",
            Self::IpcacheUpserted { .. } => "IPCACHE_UPSERTED",
            Self::IpcacheDeleted { .. } => "IPCACHE_DELETED",
        }
    }

    /// Appends the exporter's line, `{"agent_event":…,"node_name":…,"time":…}`, without a newline. It has at
    /// most [`LINE_OCTETS_MAX`] octets: the labels of a longer one are cut.
    pub fn write_exporter_line(&self, node_name: &str, time: Time, out: &mut String) {
        let start = out.len();
        for labels_max in [usize::MAX, 64, 16, 4, 0] {
            out.truncate(start);
            Object::write(out, |line| {
                line.nested("agent_event", |object| {
                    object.name("type", self.name(), false);
                    self.write_notification((time, labels_max), object);
                });
                line.text("node_name", node_name);
                line.time("time", Some(time));
            });
            if out.len() - start <= LINE_OCTETS_MAX {
                break;
            }
        }
    }

    fn write_notification(&self, (time, labels_max): (Time, usize), object: &mut Object<'_>) {
        match self {
            Self::Started => object.nested("agent_start", |object| {
                object.time("time", Some(time));
            }),
            Self::PolicyUpdated {
                labels,
                revision,
                rule_count,
            } => object.nested("policy_update", |object| {
                object.texts("labels", first(labels, labels_max));
                object.long("revision", *revision);
                let count = Some(*rule_count).filter(|count| *count != 0);
                object.shown("rule_count", count);
            }),
            Self::EndpointCreated(endpoint) | Self::EndpointDeleted(endpoint) => {
                object.nested("endpoint_update", |object| {
                    object.long("id", endpoint.id);
                    object.texts("labels", first(&endpoint.labels, labels_max));
                    object.text("pod_name", &endpoint.pod_name);
                    object.text("namespace", &endpoint.namespace);
                });
            }
            Self::IpcacheUpserted { cidr, identity, .. }
            | Self::IpcacheDeleted { cidr, identity } => {
                object.nested("ipcache_update", |object| {
                    object.text("cidr", cidr);
                    object.number("identity", *identity);
                    if let Some(old) = self.old_identity() {
                        object.raw("old_identity", old);
                    }
                });
            }
        }
    }

    /// The identity that a prefix had.
    pub(crate) const fn old_identity(&self) -> Option<u32> {
        match self {
            Self::IpcacheUpserted { old_identity, .. } => *old_identity,
            Self::Started
            | Self::PolicyUpdated { .. }
            | Self::EndpointCreated(_)
            | Self::EndpointDeleted(_)
            | Self::IpcacheDeleted { .. } => None,
        }
    }
}

fn first(labels: &[Arc<str>], max: usize) -> &[Arc<str>] {
    labels.get(..max).unwrap_or(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: &AgentEvent) -> String {
        let mut line = String::new();
        event.write_exporter_line("node-1", Time::from_unix_nanos(1_500_000_000), &mut line);
        line
    }

    #[test]
    fn each_kind_is_written_as_protobufs_json_has_it() {
        let endpoint = || AgentEndpoint {
            id: 7,
            labels: vec!["k8s:app=a<b".into()],
            pod_name: "shop-1".into(),
            namespace: "default".into(),
        };
        let upserted = |old_identity| AgentEvent::IpcacheUpserted {
            cidr: "10.0.0.0/24".to_owned(),
            identity: 9,
            old_identity,
        };
        let deleted = AgentEvent::IpcacheDeleted {
            cidr: "::/0".to_owned(),
            identity: 10,
        };
        let updated = |revision, rule_count| AgentEvent::PolicyUpdated {
            labels: Vec::new(),
            revision,
            rule_count,
        };
        for (event, told) in [
            (
                AgentEvent::Started,
                r#""type":"AGENT_STARTED","agent_start":{"time":"1970-01-01T00:00:01.500Z"}"#,
            ),
            (
                updated(7, 3),
                r#""type":"POLICY_UPDATED","policy_update":{"revision":"7","rule_count":"3"}"#,
            ),
            (
                updated(0, 0),
                r#""type":"POLICY_UPDATED","policy_update":{}"#,
            ),
            (
                AgentEvent::EndpointCreated(endpoint()),
                r#""type":"ENDPOINT_CREATED","endpoint_update":{"id":"7","labels":["k8s:app=a\u003cb"],"pod_name":"shop-1","namespace":"default"}"#,
            ),
            (
                AgentEvent::EndpointDeleted(endpoint()),
                r#""type":"ENDPOINT_DELETED","endpoint_update":{"id":"7","labels":["k8s:app=a\u003cb"],"pod_name":"shop-1","namespace":"default"}"#,
            ),
            (
                upserted(None),
                r#""type":"IPCACHE_UPSERTED","ipcache_update":{"cidr":"10.0.0.0/24","identity":9}"#,
            ),
            (
                upserted(Some(0)),
                r#""type":"IPCACHE_UPSERTED","ipcache_update":{"cidr":"10.0.0.0/24","identity":9,"old_identity":0}"#,
            ),
            (
                deleted,
                r#""type":"IPCACHE_DELETED","ipcache_update":{"cidr":"::/0","identity":10}"#,
            ),
        ] {
            let expected = format!(
                r#"{{"agent_event":{{{told}}},"node_name":"node-1","time":"1970-01-01T00:00:01.500Z"}}"#
            );
            assert_eq!(line(&event), expected);
        }
    }

    #[test]
    fn a_line_that_would_be_too_long_has_fewer_labels() {
        let label = format!("k8s:{}=x", "a".repeat(1_100));
        let endpoint = AgentEndpoint {
            labels: vec![label.as_str().into(); 200],
            ..AgentEndpoint::default()
        };
        let line = line(&AgentEvent::EndpointCreated(endpoint));
        assert!(line.len() <= LINE_OCTETS_MAX, "{}", line.len());
        assert_eq!(line.matches("k8s:").count(), 16);
        assert!(line.ends_with("Z\"}"));
    }
}
