//! What our own agent did.

use super::ReadError;
use super::fields::Fields;
use crate::agent::{AgentEndpoint, AgentEvent};

pub(super) fn read(event: &Fields<'_>) -> Result<AgentEvent, ReadError> {
    let kind = event.text("type")?;
    let update = |key| event.object(key)?.ok_or(ReadError::NotAnEvent);
    Ok(match kind {
        "AGENT_STARTED" => AgentEvent::Started,
        "POLICY_UPDATED" => {
            let policy = update("policy_update")?;
            AgentEvent::PolicyUpdated {
                labels: policy.texts("labels")?,
                revision: policy.long("revision")?,
                rule_count: i64::try_from(policy.long("rule_count")?).unwrap_or(i64::MAX),
            }
        }
        "ENDPOINT_CREATED" => AgentEvent::EndpointCreated(endpoint(&update("endpoint_update")?)?),
        "ENDPOINT_DELETED" => AgentEvent::EndpointDeleted(endpoint(&update("endpoint_update")?)?),
        "IPCACHE_UPSERTED" | "IPCACHE_DELETED" => {
            let entry = update("ipcache_update")?;
            let (cidr, identity) = (entry.text("cidr")?.to_owned(), entry.number("identity")?);
            match kind {
                "IPCACHE_DELETED" => AgentEvent::IpcacheDeleted { cidr, identity },
                _ => AgentEvent::IpcacheUpserted {
                    cidr,
                    identity,
                    old_identity: entry.optional("old_identity")?,
                },
            }
        }
        _ => return Err(ReadError::NotAnEvent),
    })
}

fn endpoint(update: &Fields<'_>) -> Result<AgentEndpoint, ReadError> {
    Ok(AgentEndpoint {
        id: update.long("id")?,
        labels: update.texts("labels")?,
        pod_name: update.text("pod_name")?.into(),
        namespace: update.text("namespace")?.into(),
    })
}
