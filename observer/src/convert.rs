//! A flow as the protocol has it, with the fields that are wanted.

use std::net::IpAddr;
use std::sync::Arc;

use flow::{
    Direction, Endpoint, Event, FieldMask, Flow, Foreign, Ip, L4, LostEvents, OtherL4, PolicyRef,
    TcpFlags, Time, Workload,
};

use crate::proto::flow as pb;

#[cfg(test)]
mod tests;

/// The flow's message, with what the mask wants of it.
pub(crate) fn flow(flow: &Flow, mask: &FieldMask) -> pb::Flow {
    let none = Foreign::default();
    let foreign = flow.foreign.as_deref().unwrap_or(&none);
    let mut message = pb::Flow::default();
    event(flow, mask, &mut message);
    peers(flow, foreign, mask, &mut message);
    sight(flow, foreign, mask, &mut message);
    policies(flow, mask, &mut message);
    message
}

/// The value of a field, if it is wanted.
fn wanted<T>(mask: &FieldMask, field: &str, value: impl FnOnce(&FieldMask) -> T) -> Option<T> {
    mask.of(field).map(value)
}

/// The same, for fields whose zero value is "not there".
fn or_zero<T: Default>(mask: &FieldMask, field: &str, value: impl FnOnce() -> T) -> T {
    mask.of(field).map_or_else(T::default, |_| value())
}

/// What happened.
fn event(flow: &Flow, mask: &FieldMask, message: &mut pb::Flow) {
    message.time = wanted(mask, "time", |_| flow.time.map(time)).flatten();
    message.uuid = or_zero(mask, "uuid", || {
        flow.uuid.map(|uuid| uuid.to_string()).unwrap_or_default()
    });
    message.emitter = flow.emitter.as_ref().and_then(|emitter| {
        wanted(mask, "emitter", |mask| pb::Emitter {
            name: or_zero(mask, "name", || emitter.name.to_string()),
            version: or_zero(mask, "version", || emitter.version.to_string()),
        })
    });
    message.verdict = or_zero(mask, "verdict", || flow.verdict as i32);
    message.r#type = or_zero(mask, "Type", || match flow.event.layer() {
        Some("L7") => pb::FlowType::L7 as i32,
        Some("SOCK") => pb::FlowType::Sock as i32,
        Some(_) => pb::FlowType::L3L4 as i32,
        None => pb::FlowType::UnknownType as i32,
    });
    let (kind, sub_kind) = flow.event_type();
    let has_type = (kind, sub_kind) != (0, 0);
    message.event_type = wanted(mask, "event_type", |mask| pb::CiliumEventType {
        r#type: or_zero(mask, "type", || number(kind)),
        sub_type: or_zero(mask, "sub_type", || number(sub_kind)),
    })
    .filter(|_| has_type);
    message.l7 = wanted(mask, "l7", |mask| layer7(&flow.event, mask)).flatten();
    let reason = flow.drop_reason().map_or(0, flow::DropReason::number);
    message.drop_reason = or_zero(mask, "drop_reason", || reason.into());
    message.drop_reason_desc = or_zero(mask, "drop_reason_desc", || reason.into());
    if let Event::PolicyVerdict { match_type, .. } = &flow.event {
        message.policy_match_type = or_zero(mask, "policy_match_type", || *match_type);
    }
    if let Event::Trace { point, reason } = &flow.event {
        message.trace_observation_point = or_zero(mask, "trace_observation_point", || {
            point.field_number().into()
        });
        message.trace_reason = or_zero(mask, "trace_reason", || *reason as i32);
    }
    message.is_reply = wanted(mask, "is_reply", |_| flow.is_reply).flatten();
    message.reply = or_zero(mask, "reply", || flow.is_reply == Some(true));
    message.summary = or_zero(mask, "Summary", || flow.summary().into_owned());
}

/// Between whom.
fn peers(flow: &Flow, foreign: &Foreign, mask: &FieldMask, message: &mut pb::Flow) {
    message.ethernet = flow.ethernet.and_then(|ethernet| {
        wanted(mask, "ethernet", |mask| pb::Ethernet {
            source: or_zero(mask, "source", || ethernet.source.to_string()),
            destination: or_zero(mask, "destination", || ethernet.destination.to_string()),
        })
    });
    message.ip = flow
        .ip
        .and_then(|ip| wanted(mask, "IP", |mask| network(ip, mask)));
    message.l4 = flow
        .l4
        .and_then(|l4| wanted(mask, "l4", |mask| transport(l4, mask)))
        .or_else(|| {
            let other = foreign.other_l4.as_ref()?;
            wanted(mask, "l4", |mask| other_transport(other, mask))
        });
    message.tunnel = foreign.tunnel.as_ref().and_then(|tunnel| {
        wanted(mask, "tunnel", |mask| pb::Tunnel {
            protocol: or_zero(mask, "protocol", || number(tunnel.protocol)),
            ip: tunnel
                .ip
                .and_then(|ip| wanted(mask, "IP", |mask| network(ip, mask))),
            l4: tunnel
                .l4
                .and_then(|l4| wanted(mask, "l4", |mask| transport(l4, mask))),
            vni: or_zero(mask, "vni", || tunnel.vni),
        })
    });
    let is_told = flow.event.layer().is_some();
    message.source = wanted(mask, "source", |mask| endpoint(&flow.source, mask))
        .filter(|_| is_told || flow.source != Endpoint::default());
    message.destination = wanted(mask, "destination", |mask| {
        endpoint(&flow.destination, mask)
    })
    .filter(|_| is_told || flow.destination != Endpoint::default());
    message.source_names = or_zero(mask, "source_names", || texts(&flow.source_names));
    message.destination_names =
        or_zero(mask, "destination_names", || texts(&flow.destination_names));
    let service = |service: &flow::Service, mask: &FieldMask| pb::Service {
        name: or_zero(mask, "name", || service.name.to_string()),
        namespace: or_zero(mask, "namespace", || service.namespace.to_string()),
    };
    message.source_service = foreign
        .source_service
        .as_ref()
        .and_then(|it| wanted(mask, "source_service", |mask| service(it, mask)));
    message.destination_service = foreign
        .destination_service
        .as_ref()
        .and_then(|it| wanted(mask, "destination_service", |mask| service(it, mask)));
    message.traffic_direction =
        or_zero(mask, "traffic_direction", || match flow.traffic_direction {
            Direction::Unknown => pb::TrafficDirection::Unknown as i32,
            Direction::Ingress => pb::TrafficDirection::Ingress as i32,
            Direction::Egress => pb::TrafficDirection::Egress as i32,
        });
}

/// Where it was seen.
fn sight(flow: &Flow, foreign: &Foreign, mask: &FieldMask, message: &mut pb::Flow) {
    message.node_name = or_zero(mask, "node_name", || flow.node_name.to_string());
    message.node_labels = or_zero(mask, "node_labels", || texts(&foreign.node_labels));
    message.auth_type = or_zero(mask, "auth_type", || number(foreign.auth_type));
    message.file = flow.file.as_ref().and_then(|file| {
        wanted(mask, "file", |mask| pb::FileInfo {
            name: or_zero(mask, "name", || file.name.to_string()),
            line: or_zero(mask, "line", || file.line),
        })
    });
    message.interface = flow.interface.as_ref().and_then(|interface| {
        wanted(mask, "interface", |mask| pb::NetworkInterface {
            index: or_zero(mask, "index", || interface.index),
            name: or_zero(mask, "name", || interface.name.to_string()),
        })
    });
    message.proxy_port = or_zero(mask, "proxy_port", || flow.proxy_port.into());
    if foreign.ip_trace_id != 0 {
        message.ip_trace_id = wanted(mask, "ip_trace_id", |mask| pb::IpTraceId {
            trace_id: or_zero(mask, "trace_id", || foreign.ip_trace_id),
            ip_option_type: or_zero(mask, "ip_option_type", || foreign.ip_option_type),
        });
    }
    if !flow.trace_id.is_empty() {
        message.trace_context = wanted(mask, "trace_context", |mask| pb::TraceContext {
            parent: wanted(mask, "parent", |mask| pb::TraceParent {
                trace_id: or_zero(mask, "trace_id", || flow.trace_id.to_string()),
            }),
        });
    }
    message.debug_capture_point = or_zero(mask, "debug_capture_point", || {
        number(foreign.debug_capture_point)
    });
    message.sock_xlate_point = or_zero(mask, "sock_xlate_point", || {
        number(foreign.sock_xlate_point)
    });
    message.socket_cookie = or_zero(mask, "socket_cookie", || foreign.socket_cookie);
    message.cgroup_id = or_zero(mask, "cgroup_id", || foreign.cgroup_id);
    message.aggregate = foreign.aggregate.and_then(|[ingress, egress, unknown]| {
        wanted(mask, "aggregate", |mask| pb::Aggregate {
            ingress_flow_count: or_zero(mask, "ingress_flow_count", || ingress),
            egress_flow_count: or_zero(mask, "egress_flow_count", || egress),
            unknown_direction_flow_count: or_zero(mask, "unknown_direction_flow_count", || unknown),
        })
    });
}

/// Who decided.
fn policies(flow: &Flow, mask: &FieldMask, message: &mut pb::Flow) {
    let all = |policies: &[PolicyRef]| policies.iter().map(policy).collect();
    message.egress_allowed_by = or_zero(mask, "egress_allowed_by", || all(&flow.egress_allowed_by));
    message.ingress_allowed_by =
        or_zero(mask, "ingress_allowed_by", || all(&flow.ingress_allowed_by));
    message.egress_denied_by = or_zero(mask, "egress_denied_by", || all(&flow.egress_denied_by));
    message.ingress_denied_by = or_zero(mask, "ingress_denied_by", || all(&flow.ingress_denied_by));
    message.policy_log = or_zero(mask, "policy_log", || texts(&flow.policy_log));
}

fn policy(policy: &PolicyRef) -> pb::Policy {
    pb::Policy {
        name: policy.name.to_string(),
        namespace: policy.namespace.to_string(),
        labels: texts(&policy.labels),
        revision: policy.revision,
        kind: policy.kind.to_string(),
    }
}

fn network(ip: Ip, mask: &FieldMask) -> pb::Ip {
    let version = match ip.source {
        IpAddr::V4(_) => pb::IpVersion::IPv4,
        IpAddr::V6(_) => pb::IpVersion::IPv6,
    };
    let xlated = ip.source_xlated.map(|ip| ip.to_string());
    pb::Ip {
        source: or_zero(mask, "source", || ip.source.to_string()),
        source_xlated: or_zero(mask, "source_xlated", || xlated.unwrap_or_default()),
        destination: or_zero(mask, "destination", || ip.destination.to_string()),
        ip_version: or_zero(mask, "ipVersion", || version as i32),
        encrypted: or_zero(mask, "encrypted", || ip.encrypted),
    }
}

fn transport(l4: L4, mask: &FieldMask) -> pb::Layer4 {
    use pb::layer4::Protocol;
    let (source_port, destination_port) = l4.ports().unwrap_or_default();
    let from = |mask: &FieldMask| or_zero(mask, "source_port", || u32::from(source_port));
    let to = |mask: &FieldMask| or_zero(mask, "destination_port", || u32::from(destination_port));
    let protocol = match l4 {
        L4::Tcp { flags, .. } => wanted(mask, "TCP", |mask| {
            Protocol::Tcp(pb::Tcp {
                source_port: from(mask),
                destination_port: to(mask),
                flags: flags.and_then(|flags| wanted(mask, "flags", |mask| tcp_flags(flags, mask))),
            })
        }),
        L4::Udp { .. } => wanted(mask, "UDP", |mask| {
            Protocol::Udp(pb::Udp {
                source_port: from(mask),
                destination_port: to(mask),
            })
        }),
        L4::Sctp { .. } => wanted(mask, "SCTP", |mask| {
            Protocol::Sctp(pb::Sctp {
                source_port: from(mask),
                destination_port: to(mask),
            })
        }),
        L4::Icmpv4 { kind, code } => wanted(mask, "ICMPv4", |mask| {
            Protocol::IcmPv4(pb::IcmPv4 {
                r#type: or_zero(mask, "type", || kind.into()),
                code: or_zero(mask, "code", || code.into()),
            })
        }),
        L4::Icmpv6 { kind, code } => wanted(mask, "ICMPv6", |mask| {
            Protocol::IcmPv6(pb::IcmPv6 {
                r#type: or_zero(mask, "type", || kind.into()),
                code: or_zero(mask, "code", || code.into()),
            })
        }),
    };
    pb::Layer4 { protocol }
}

/// What only others tell.
fn other_transport(l4: &OtherL4, mask: &FieldMask) -> pb::Layer4 {
    use pb::layer4::Protocol;
    let protocol = match l4 {
        OtherL4::Vrrp {
            kind,
            vrid,
            priority,
        } => wanted(mask, "VRRP", |mask| {
            Protocol::Vrrp(pb::Vrrp {
                r#type: or_zero(mask, "type", || *kind),
                vrid: or_zero(mask, "vrid", || *vrid),
                priority: or_zero(mask, "priority", || *priority),
            })
        }),
        OtherL4::Igmp { kind, group } => wanted(mask, "IGMP", |mask| {
            Protocol::Igmp(pb::Igmp {
                r#type: or_zero(mask, "type", || *kind),
                group_address: or_zero(mask, "group_address", || group.to_string()),
            })
        }),
    };
    pb::Layer4 { protocol }
}

fn tcp_flags(flags: TcpFlags, mask: &FieldMask) -> pb::TcpFlags {
    let is_set = |name: &str, flag| or_zero(mask, name, || flags.contains(flag));
    pb::TcpFlags {
        fin: is_set("FIN", TcpFlags::FIN),
        syn: is_set("SYN", TcpFlags::SYN),
        rst: is_set("RST", TcpFlags::RST),
        psh: is_set("PSH", TcpFlags::PSH),
        ack: is_set("ACK", TcpFlags::ACK),
        urg: is_set("URG", TcpFlags::URG),
        ece: is_set("ECE", TcpFlags::ECE),
        cwr: is_set("CWR", TcpFlags::CWR),
        ns: is_set("NS", TcpFlags::NS),
    }
}

fn endpoint(endpoint: &Endpoint, mask: &FieldMask) -> pb::Endpoint {
    let workload = |workload: &Workload| pb::Workload {
        name: workload.name.to_string(),
        kind: workload.kind.to_string(),
    };
    pb::Endpoint {
        id: or_zero(mask, "ID", || endpoint.id),
        identity: or_zero(mask, "identity", || endpoint.identity),
        cluster_name: or_zero(mask, "cluster_name", || endpoint.cluster_name.to_string()),
        namespace: or_zero(mask, "namespace", || endpoint.namespace.to_string()),
        labels: or_zero(mask, "labels", || texts(&endpoint.labels)),
        pod_name: or_zero(mask, "pod_name", || endpoint.pod_name.to_string()),
        workloads: or_zero(mask, "workloads", || {
            endpoint.workloads.iter().map(workload).collect()
        }),
    }
}

fn layer7(event: &Event, mask: &FieldMask) -> Option<pb::Layer7> {
    use pb::layer7::Record;
    let (kind, latency_ns, record) = match event {
        Event::Dns(dns) => (
            dns.kind,
            dns.latency_ns,
            wanted(mask, "dns", |mask| Record::Dns(dns_record(dns, mask))),
        ),
        Event::Http(http) => (
            http.kind,
            http.latency_ns,
            wanted(mask, "http", |mask| Record::Http(http_record(http, mask))),
        ),
        Event::OtherL7 { kind, latency_ns } => (*kind, *latency_ns, None),
        Event::PolicyVerdict { .. }
        | Event::Drop { .. }
        | Event::Trace { .. }
        | Event::Other { .. } => return None,
    };
    Some(pb::Layer7 {
        r#type: or_zero(mask, "type", || kind as i32),
        latency_ns: or_zero(mask, "latency_ns", || latency_ns),
        record,
    })
}

fn dns_record(dns: &flow::Dns, mask: &FieldMask) -> pb::Dns {
    let types = |types: &[flow::RecordType]| types.iter().map(ToString::to_string).collect();
    pb::Dns {
        query: or_zero(mask, "query", || dns.query.to_string()),
        ips: or_zero(mask, "ips", || {
            dns.ips.iter().map(ToString::to_string).collect()
        }),
        ttl: or_zero(mask, "ttl", || dns.ttl),
        cnames: or_zero(mask, "cnames", || texts(&dns.cnames)),
        observation_source: or_zero(mask, "observation_source", || {
            dns.observation_source.to_string()
        }),
        rcode: or_zero(mask, "rcode", || dns.rcode),
        qtypes: or_zero(mask, "qtypes", || types(&dns.qtypes)),
        rrtypes: or_zero(mask, "rrtypes", || types(&dns.rrtypes)),
    }
}

fn http_record(http: &flow::Http, mask: &FieldMask) -> pb::Http {
    let header = |header: &flow::HttpHeader| pb::HttpHeader {
        key: header.key.to_string(),
        value: header.value.to_string(),
    };
    pb::Http {
        code: or_zero(mask, "code", || http.code),
        method: or_zero(mask, "method", || http.method.to_string()),
        url: or_zero(mask, "url", || http.url.to_string()),
        protocol: or_zero(mask, "protocol", || http.protocol.to_string()),
        headers: or_zero(mask, "headers", || {
            http.headers.iter().map(header).collect()
        }),
    }
}

/// Lost events' message.
pub(crate) fn lost(lost: &LostEvents) -> pb::LostEvent {
    pb::LostEvent {
        source: number(lost.source.number()),
        num_events_lost: lost.count,
        cpu: lost.cpu,
        first: lost.first.map(time),
        last: lost.last.map(time),
    }
}

/// A point in time as the protocol has it.
pub(crate) fn time(time: Time) -> prost_types::Timestamp {
    const NANOS_PER_SEC: i128 = 1_000_000_000;
    let nanos = time.unix_nanos();
    prost_types::Timestamp {
        seconds: i64::try_from(nanos.div_euclid(NANOS_PER_SEC)).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanos.rem_euclid(NANOS_PER_SEC)).unwrap_or(0),
    }
}

/// The numbers of enums and ports fit; another is the largest.
fn number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn texts(texts: &[Arc<str>]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}
