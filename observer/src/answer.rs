//! What a client is answered.

use flow::{AgentEndpoint, AgentEvent, Flow, LostEvents, Time};

use crate::convert;
use crate::proto::flow as pb;
use crate::proto::observer::get_flows_response::ResponseTypes;
use crate::proto::observer::{GetAgentEventsResponse, GetFlowsResponse};
use crate::question::Wanted;

/// A flow. Node and time stand beside it whatever the mask wants.
pub(crate) fn flow(flow: &Flow, wanted: &Wanted) -> GetFlowsResponse {
    let mut message = convert::flow(flow, &wanted.mask);
    if wanted.bare_policies {
        let lists = [
            &mut message.egress_allowed_by,
            &mut message.ingress_allowed_by,
            &mut message.egress_denied_by,
            &mut message.ingress_denied_by,
        ];
        let policies = lists.into_iter().flatten();
        policies.for_each(|policy| policy.labels.clear());
    }
    GetFlowsResponse {
        node_name: flow.node_name.to_string(),
        time: flow.time.map(convert::time),
        response_types: Some(ResponseTypes::Flow(message)),
    }
}

/// Lost events, told at this time.
pub(crate) fn lost((time, lost): (Time, &LostEvents), node_name: &str) -> GetFlowsResponse {
    GetFlowsResponse {
        node_name: node_name.to_owned(),
        time: Some(convert::time(time)),
        response_types: Some(ResponseTypes::LostEvents(convert::lost(lost))),
    }
}

/// Something that the agent did.
pub(crate) fn agent_event(
    (time, event): (Time, &AgentEvent),
    node_name: &str,
) -> GetAgentEventsResponse {
    use pb::agent_event::Notification;
    let at = convert::time(time);
    let (kind, notification) = match event {
        AgentEvent::Started => (
            pb::AgentEventType::AgentStarted,
            Notification::AgentStart(pb::TimeNotification { time: Some(at) }),
        ),
        AgentEvent::PolicyUpdated {
            labels,
            revision,
            rule_count,
        } => (
            pb::AgentEventType::PolicyUpdated,
            Notification::PolicyUpdate(pb::PolicyUpdateNotification {
                labels: labels.iter().map(|label| label.to_string()).collect(),
                revision: *revision,
                rule_count: *rule_count,
            }),
        ),
        AgentEvent::EndpointCreated(endpoint) => (
            pb::AgentEventType::EndpointCreated,
            Notification::EndpointUpdate(endpoint_update(endpoint)),
        ),
        AgentEvent::EndpointDeleted(endpoint) => (
            pb::AgentEventType::EndpointDeleted,
            Notification::EndpointUpdate(endpoint_update(endpoint)),
        ),
        AgentEvent::IpcacheUpserted {
            cidr,
            identity,
            old_identity,
        } => (
            pb::AgentEventType::IpcacheUpserted,
            Notification::IpcacheUpdate(pb::IpCacheNotification {
                cidr: cidr.clone(),
                identity: *identity,
                old_identity: *old_identity,
                ..pb::IpCacheNotification::default()
            }),
        ),
        AgentEvent::IpcacheDeleted { cidr, identity } => (
            pb::AgentEventType::IpcacheDeleted,
            Notification::IpcacheUpdate(pb::IpCacheNotification {
                cidr: cidr.clone(),
                identity: *identity,
                ..pb::IpCacheNotification::default()
            }),
        ),
    };
    GetAgentEventsResponse {
        agent_event: Some(pb::AgentEvent {
            r#type: kind as i32,
            notification: Some(notification),
        }),
        node_name: node_name.to_owned(),
        time: Some(at),
    }
}

fn endpoint_update(endpoint: &AgentEndpoint) -> pb::EndpointUpdateNotification {
    pb::EndpointUpdateNotification {
        id: endpoint.id,
        labels: endpoint.labels.iter().map(|it| it.to_string()).collect(),
        error: String::new(),
        pod_name: endpoint.pod_name.to_string(),
        namespace: endpoint.namespace.to_string(),
    }
}
