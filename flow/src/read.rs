//! Reads back the lines that an exporter, a server or we wrote.
//!
//! As tolerant as protobuf's JSON: keys as declared or in lower camel case, enums by name or number,
//! numbers as strings, unknown keys skipped, unknown names of enums taken as the zero value.

mod agent;
mod fields;
mod foreign;
mod recorded;
mod unknown;

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use self::fields::Fields;
pub(crate) use self::fields::unsigned;
pub use self::recorded::Recorded;
use crate::agent::AgentLine;
use crate::dns::{Dns, RecordType};
use crate::drop_reason::DropReason;
use crate::endpoint::{Endpoint, PolicyRef, Workload};
use crate::flow::{Emitter, Event, FileInfo, Flow, Interface};
use crate::http::{Http, HttpHeader};
use crate::lost::{LostEvents, LostSource};
use crate::message::MessageKind;
use crate::node_status::{NodeChange, NodeStatus};
use crate::packet::{Ethernet, Ip, L4, TcpFlags};
use crate::time::Time;
use crate::trace::{TracePoint, TraceReason};
use crate::verdict::{Direction, Verdict};

/// One line of an exporter's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// A flow.
    Flow(Box<Flow>),
    /// Events were lost.
    LostEvents {
        /// How many, where.
        lost: LostEvents,
        /// The node that tells it.
        node_name: Arc<str>,
        /// When it was told.
        time: Option<Time>,
    },
}

/// Why a line could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// Not a JSON object.
    #[error("not a JSON object: {problem}")]
    NotJson {
        /// What the JSON reader says.
        problem: String,
    },
    /// Another event of an exporter's: what an agent did, a node's state, debugging.
    #[error("neither a flow nor lost events, but {kind}")]
    OtherEvent {
        /// Its key.
        kind: &'static str,
    },
    /// A JSON object without any event.
    #[error("neither a flow nor lost events")]
    NotAnEvent,
    /// A field whose value makes no sense.
    #[error("field {field} can't be {value}")]
    BadValue {
        /// The field.
        field: &'static str,
        /// Its value, as JSON.
        value: String,
    },
}

impl Line {
    /// Reads one line, with or without its newline.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn parse(text: &str) -> Result<Self, ReadError> {
        Self::read(&Fields::of(&json(text)?)?)
    }

    fn read(line: &Fields<'_>) -> Result<Self, ReadError> {
        if let Some(flow) = line.object("flow")? {
            return Ok(Self::Flow(Box::new(read_flow(&flow)?)));
        }
        let Some(lost) = line.object("lost_events")? else {
            return Err(not_read(line)?);
        };
        let from_number = |number| u32::try_from(number).ok().map(LostSource::from_number);
        let names = (LostSource::from_name, from_number);
        let lost = LostEvents {
            source: lost.enumerated("source", names)?,
            count: lost.long("num_events_lost")?,
            cpu: lost.signed("cpu")?,
            first: lost.time("first")?,
            last: lost.time("last")?,
        };
        let (node_name, time) = (line.text("node_name")?.into(), line.time("time")?);
        Ok(Self::LostEvents {
            lost,
            node_name,
            time,
        })
    }
}

impl NodeStatus {
    /// Reads the line in which a relay tells of nodes.
    ///
    /// # Errors
    ///
    /// Another line; see [`ReadError`].
    pub fn parse(text: &str) -> Result<Self, ReadError> {
        let value = json(text)?;
        let line = Fields::of(&value)?;
        let status = line.object("node_status")?.ok_or(ReadError::NotAnEvent)?;
        Ok(Self {
            change: status.enumerated(
                "state_change",
                (NodeChange::from_name, NodeChange::from_number),
            )?,
            nodes: status.texts("node_names")?,
            message: status.text("message")?.into(),
            node_name: line.text("node_name")?.into(),
            time: line.time("time")?,
        })
    }
}

impl AgentLine {
    /// Reads what [`AgentEvent::write_exporter_line`] wrote.
    ///
    /// # Errors
    ///
    /// Another line, or an event that no agent of ours tells; see [`ReadError`].
    pub fn parse(text: &str) -> Result<Self, ReadError> {
        let value = json(text)?;
        let line = Fields::of(&value)?;
        let event = line.object("agent_event")?.ok_or(ReadError::NotAnEvent)?;
        Ok(Self {
            event: agent::read(&event)?,
            node_name: line.text("node_name")?.into(),
            time: line.time("time")?,
        })
    }
}

impl Flow {
    /// Reads what [`Flow::write_json`] wrote.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn from_json(text: &str) -> Result<Self, ReadError> {
        read_flow(&Fields::of(&json(text)?)?)
    }
}

/// Why a line has nothing to read.
fn not_read(line: &Fields<'_>) -> Result<ReadError, ReadError> {
    for kind in ["agent_event", "debug_event", "node_status"] {
        if line.object(kind)?.is_some() {
            return Ok(ReadError::OtherEvent { kind });
        }
    }
    Ok(ReadError::NotAnEvent)
}

fn json(text: &str) -> Result<Value, ReadError> {
    serde_json::from_str(text).map_err(|error| ReadError::NotJson {
        problem: error.to_string(),
    })
}

fn read_flow(object: &Fields<'_>) -> Result<Flow, ReadError> {
    let event = read_event(object)?;
    let foreign = foreign::read(object, &event)?.map(Box::new);
    let verdict = object.enumerated("verdict", (Verdict::from_name, Verdict::from_number))?;
    let directions = (Direction::from_name, Direction::from_number);
    Ok(Flow {
        time: object.time("time")?,
        uuid: object.parsed("uuid")?,
        emitter: object
            .object("emitter")?
            .map(|it| read_emitter(&it))
            .transpose()?,
        ethernet: object
            .object("ethernet")?
            .map(|it| read_ethernet(&it))
            .transpose()?
            .flatten(),
        ip: object
            .object("IP")?
            .map(|it| read_ip(&it))
            .transpose()?
            .flatten(),
        l4: object
            .object("l4")?
            .map(|it| read_l4(&it))
            .transpose()?
            .flatten(),
        source: read_endpoint(object.object("source")?)?,
        destination: read_endpoint(object.object("destination")?)?,
        node_name: object.text("node_name")?.into(),
        source_names: object.texts("source_names")?,
        destination_names: object.texts("destination_names")?,
        traffic_direction: object.enumerated("traffic_direction", directions)?,
        file: object
            .object("file")?
            .map(|it| read_file(&it))
            .transpose()?,
        is_reply: object.flag("is_reply")?,
        interface: object
            .object("interface")?
            .map(|it| read_interface(&it))
            .transpose()?,
        proxy_port: object.small("proxy_port")?,
        trace_id: read_trace_id(object)?,
        summary: Some(object.text("Summary")?.into()),
        egress_allowed_by: read_policies(object, "egress_allowed_by")?,
        ingress_allowed_by: read_policies(object, "ingress_allowed_by")?,
        egress_denied_by: read_policies(object, "egress_denied_by")?,
        ingress_denied_by: read_policies(object, "ingress_denied_by")?,
        policy_log: object.texts("policy_log")?,
        foreign,
        ..Flow::new(event, verdict)
    })
}

fn read_event(object: &Fields<'_>) -> Result<Event, ReadError> {
    let (event_type, sub_type) = read_event_type(object)?;
    // A record of layer 7 counts whatever the event type says; printers do the same.
    if let Some(l7) = object.object("l7")? {
        return read_l7(&l7);
    }
    match event_type {
        Event::POLICY_VERDICT_NUMBER => Ok(Event::PolicyVerdict {
            match_type: object.number("policy_match_type")?,
            drop_reason: read_drop_reason(object)?,
        }),
        Event::DROP_NUMBER => Ok(Event::Drop {
            reason: DropReason::from_number(octet(sub_type)),
        }),
        Event::TRACE_NUMBER => Ok(Event::Trace {
            point: TracePoint::from_number(octet(sub_type)),
            reason: object.enumerated(
                "trace_reason",
                (TraceReason::from_name, TraceReason::from_number),
            )?,
        }),
        number => Ok(Event::Other {
            number,
            sub_number: sub_type,
        }),
    }
}

/// Type and sub type.
fn read_event_type(object: &Fields<'_>) -> Result<(u32, u32), ReadError> {
    match object.object("event_type")? {
        Some(it) => Ok((it.number("type")?, it.number("sub_type")?)),
        None => Ok((0, 0)),
    }
}

fn read_drop_reason(object: &Fields<'_>) -> Result<Option<DropReason>, ReadError> {
    let number: u8 = object.small("drop_reason")?;
    if number != 0 {
        return Ok(Some(DropReason::from_number(number)));
    }
    object.enumerated(
        "drop_reason_desc",
        (
            |name| DropReason::from_name(name).map(Some),
            |number| {
                u8::try_from(number)
                    .ok()
                    .map(|it| Some(DropReason::from_number(it)))
            },
        ),
    )
}

/// Printers cut sub types to eight bits.
fn octet(number: u32) -> u8 {
    number.to_le_bytes()[0]
}

fn read_l7(l7: &Fields<'_>) -> Result<Event, ReadError> {
    let kinds = (MessageKind::from_name, MessageKind::from_number);
    let kind = l7.enumerated("type", kinds)?;
    if let Some(http) = l7.object("http")? {
        return Ok(Event::Http(read_http((l7, &http), kind)?));
    }
    let Some(dns) = l7.object("dns")? else {
        let latency_ns = l7.long("latency_ns")?;
        return Ok(Event::OtherL7 { kind, latency_ns });
    };
    Ok(Event::Dns(Dns {
        kind,
        latency_ns: l7.long("latency_ns")?,
        query: dns.text("query")?.into(),
        ips: dns.all_parsed("ips")?,
        ttl: dns.number("ttl")?,
        cnames: dns.texts("cnames")?,
        observation_source: match dns.text("observation_source")? {
            "proxy" => Cow::Borrowed("proxy"),
            other => Cow::Owned(other.to_owned()),
        },
        rcode: dns.number("rcode")?,
        qtypes: dns.each_text("qtypes", RecordType::from_name)?,
        rrtypes: dns.each_text("rrtypes", RecordType::from_name)?,
    }))
}

fn read_http((l7, http): (&Fields<'_>, &Fields<'_>), kind: MessageKind) -> Result<Http, ReadError> {
    let headers = http.objects("headers")?.into_iter().map(|header| {
        Ok(HttpHeader {
            key: header.text("key")?.into(),
            value: header.text("value")?.into(),
        })
    });
    Ok(Http {
        kind,
        latency_ns: l7.long("latency_ns")?,
        code: http.number("code")?,
        method: http.text("method")?.into(),
        url: http.text("url")?.into(),
        protocol: http.text("protocol")?.into(),
        headers: headers.collect::<Result<_, ReadError>>()?,
    })
}

fn read_emitter(object: &Fields<'_>) -> Result<Emitter, ReadError> {
    Ok(Emitter {
        name: object.text("name")?.into(),
        version: object.text("version")?.into(),
    })
}

fn read_ethernet(object: &Fields<'_>) -> Result<Option<Ethernet>, ReadError> {
    let (source, destination) = (object.parsed("source")?, object.parsed("destination")?);
    Ok(source
        .zip(destination)
        .map(|(source, destination)| Ethernet {
            source,
            destination,
        }))
}

fn read_ip(object: &Fields<'_>) -> Result<Option<Ip>, ReadError> {
    let (source, destination) = (object.parsed("source")?, object.parsed("destination")?);
    let source_xlated = object.parsed("source_xlated")?;
    let encrypted = object.flag("encrypted")?.unwrap_or(false);
    Ok(source.zip(destination).map(|(source, destination)| Ip {
        source,
        source_xlated,
        destination,
        encrypted,
    }))
}

fn read_l4(object: &Fields<'_>) -> Result<Option<L4>, ReadError> {
    if let Some(tcp) = object.object("TCP")? {
        let (source_port, destination_port) = read_ports(&tcp)?;
        let flags = tcp
            .object("flags")?
            .map(|it| read_tcp_flags(&it))
            .transpose()?;
        return Ok(Some(L4::Tcp {
            source_port,
            destination_port,
            flags,
        }));
    }
    if let Some(udp) = object.object("UDP")? {
        let (source_port, destination_port) = read_ports(&udp)?;
        return Ok(Some(L4::Udp {
            source_port,
            destination_port,
        }));
    }
    if let Some(sctp) = object.object("SCTP")? {
        let (source_port, destination_port) = read_ports(&sctp)?;
        return Ok(Some(L4::Sctp {
            source_port,
            destination_port,
        }));
    }
    if let Some(icmp) = object.object("ICMPv4")? {
        return Ok(Some(L4::Icmpv4 {
            kind: icmp.small("type")?,
            code: icmp.small("code")?,
        }));
    }
    if let Some(icmp) = object.object("ICMPv6")? {
        return Ok(Some(L4::Icmpv6 {
            kind: icmp.small("type")?,
            code: icmp.small("code")?,
        }));
    }
    Ok(None)
}

fn read_ports(object: &Fields<'_>) -> Result<(u16, u16), ReadError> {
    Ok((
        object.small("source_port")?,
        object.small("destination_port")?,
    ))
}

fn read_tcp_flags(object: &Fields<'_>) -> Result<TcpFlags, ReadError> {
    let mut flags = TcpFlags::default();
    for (flag, name) in TcpFlags::JSON_ORDER {
        if object.flag(name)? == Some(true) {
            flags = flags.and(flag);
        }
    }
    Ok(flags)
}

fn read_endpoint(object: Option<Fields<'_>>) -> Result<Endpoint, ReadError> {
    let Some(object) = object else {
        return Ok(Endpoint::default());
    };
    let workloads = object.objects("workloads")?.into_iter().map(|workload| {
        Ok(Workload {
            name: workload.text("name")?.into(),
            kind: workload.text("kind")?.into(),
        })
    });
    Ok(Endpoint {
        id: object.number("ID")?,
        identity: object.number("identity")?,
        cluster_name: object.text("cluster_name")?.into(),
        namespace: object.text("namespace")?.into(),
        labels: object.texts("labels")?.into(),
        pod_name: object.text("pod_name")?.into(),
        workloads: workloads.collect::<Result<_, ReadError>>()?,
    })
}

fn read_policies(object: &Fields<'_>, key: &'static str) -> Result<Vec<PolicyRef>, ReadError> {
    let policies = object.objects(key)?.into_iter().map(|policy| {
        Ok(PolicyRef {
            name: policy.text("name")?.into(),
            namespace: policy.text("namespace")?.into(),
            labels: policy.texts("labels")?.into(),
            revision: policy.long("revision")?,
            kind: policy.text("kind")?.into(),
        })
    });
    policies.collect()
}

/// Of the W3C trace, if the flow is part of one.
fn read_trace_id(object: &Fields<'_>) -> Result<Arc<str>, ReadError> {
    let context = object.object("trace_context")?;
    let parent = context.map(|it| it.object("parent")).transpose()?.flatten();
    match parent {
        Some(parent) => Ok(parent.text("trace_id")?.into()),
        None => Ok(Arc::default()),
    }
}

fn read_file(object: &Fields<'_>) -> Result<FileInfo, ReadError> {
    Ok(FileInfo {
        name: object.text("name")?.into(),
        line: object.number("line")?,
    })
}

fn read_interface(object: &Fields<'_>) -> Result<Interface, ReadError> {
    Ok(Interface {
        index: object.number("index")?,
        name: object.text("name")?.into(),
    })
}
