//! The JSON itself, with protobuf's tolerance: keys as declared or in lower camel case, enums by
//! name or number, numbers as strings, `null` for what is absent, unknown keys skipped.

use std::net::IpAddr;

use flow::{Direction, DropReason, Time, Verdict};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{BadLine, IcmpFamily, Line, Message, Party, Protocol, Record, Transport};

#[derive(Deserialize)]
struct Envelope {
    flow: Option<Flow>,
    #[serde(alias = "lostEvents")]
    lost_events: Option<Lost>,
    #[serde(alias = "agentEvent")]
    agent_event: Option<IgnoredAny>,
    #[serde(alias = "debugEvent")]
    debug_event: Option<IgnoredAny>,
    #[serde(alias = "nodeStatus")]
    node_status: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Lost {
    #[serde(alias = "numEventsLost")]
    num_events_lost: Option<Number>,
}

#[derive(Deserialize)]
struct Flow {
    time: Option<String>,
    verdict: Option<Word>,
    #[serde(rename = "IP", alias = "ip")]
    ip: Option<Ip>,
    l4: Option<L4>,
    source: Option<Endpoint>,
    destination: Option<Endpoint>,
    #[serde(alias = "destinationNames")]
    destination_names: Option<Vec<String>>,
    l7: Option<L7>,
    reply: Option<bool>,
    #[serde(alias = "isReply")]
    is_reply: Option<bool>,
    #[serde(alias = "eventType")]
    event_type: Option<EventType>,
    #[serde(alias = "trafficDirection")]
    traffic_direction: Option<Word>,
    #[serde(alias = "traceReason")]
    trace_reason: Option<Word>,
    #[serde(alias = "dropReason")]
    drop_reason: Option<Number>,
    #[serde(alias = "dropReasonDesc")]
    drop_reason_desc: Option<Word>,
}

#[derive(Deserialize)]
struct Ip {
    source: Option<String>,
    destination: Option<String>,
}

#[derive(Deserialize)]
struct L4 {
    #[serde(rename = "TCP", alias = "tcp")]
    tcp: Option<Ports>,
    #[serde(rename = "UDP", alias = "udp")]
    udp: Option<Ports>,
    #[serde(rename = "SCTP", alias = "sctp")]
    sctp: Option<Ports>,
    #[serde(rename = "ICMPv4", alias = "icmpv4")]
    icmpv4: Option<Icmp>,
    #[serde(rename = "ICMPv6", alias = "icmpv6")]
    icmpv6: Option<Icmp>,
}

#[derive(Deserialize)]
struct Ports {
    #[serde(alias = "sourcePort")]
    source_port: Option<Number>,
    #[serde(alias = "destinationPort")]
    destination_port: Option<Number>,
    flags: Option<Flags>,
}

#[derive(Deserialize)]
struct Flags {
    #[serde(rename = "SYN", alias = "syn")]
    syn: Option<bool>,
    #[serde(rename = "ACK", alias = "ack")]
    ack: Option<bool>,
}

#[derive(Deserialize)]
struct Icmp {
    #[serde(rename = "type")]
    kind: Option<Number>,
}

#[derive(Deserialize, Default)]
struct Endpoint {
    identity: Option<Number>,
    namespace: Option<String>,
    labels: Option<Vec<String>>,
    #[serde(alias = "podName")]
    pod_name: Option<String>,
    workloads: Option<Vec<Workload>>,
}

#[derive(Deserialize)]
struct Workload {
    name: Option<String>,
}

#[derive(Deserialize)]
struct EventType {
    #[serde(rename = "type")]
    kind: Option<Number>,
    #[serde(alias = "subType")]
    sub_type: Option<Number>,
}

#[derive(Deserialize)]
struct L7 {
    #[serde(rename = "type")]
    kind: Option<Word>,
    dns: Option<Dns>,
    http: Option<Http>,
}

#[derive(Deserialize)]
struct Dns {
    query: Option<String>,
    ips: Option<Vec<IgnoredAny>>,
    cnames: Option<Vec<IgnoredAny>>,
    rrtypes: Option<Vec<IgnoredAny>>,
    rcode: Option<Number>,
}

#[derive(Deserialize)]
struct Http {
    method: Option<String>,
    url: Option<String>,
}

/// A number, or its digits as a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Value(u64),
    Digits(String),
}

/// A value of an enum.
#[derive(Deserialize)]
#[serde(untagged)]
enum Word {
    Name(String),
    Number(i64),
}

pub(super) fn parse(text: &str) -> Result<Line, BadLine> {
    let envelope: Envelope = serde_json::from_str(text)?;
    if let Some(flow) = envelope.flow {
        return Ok(Line::Flow(Box::new(flow.read()?)));
    }
    if let Some(lost) = envelope.lost_events {
        return Ok(Line::Lost(long(lost.num_events_lost, "num_events_lost")?));
    }
    let others = [
        envelope.agent_event,
        envelope.debug_event,
        envelope.node_status,
    ];
    if others.iter().any(Option::is_some) {
        return Ok(Line::Other);
    }
    let bare: Flow = serde_json::from_str(text)?;
    if bare.verdict.is_none() && bare.source.is_none() && bare.destination.is_none() {
        return Err(BadLine::NotAnEvent);
    }
    Ok(Line::Flow(Box::new(bare.read()?)))
}

impl Flow {
    fn read(self) -> Result<Record, BadLine> {
        let drop_reason = self.read_drop_reason()?;
        let (source_address, destination_address) = match self.ip {
            Some(ip) => (address(ip.source)?, address(ip.destination)?),
            None => (None, None),
        };
        let (transport, is_syn_ack) = match self.l4 {
            Some(l4) => l4.read()?,
            None => (None, false),
        };
        let (message, is_answer) = match self.l7 {
            Some(l7) => l7.read()?,
            None => (None, false),
        };
        let is_related = match &self.trace_reason {
            Some(Word::Name(name)) => name == "RELATED",
            Some(Word::Number(number)) => *number == 4,
            None => false,
        };
        let told = self.is_reply.or_else(|| self.reply.filter(|reply| *reply));
        Ok(Record {
            time: self.time.and_then(|text| Time::from_rfc3339(&text)),
            verdict: enumerated(self.verdict, Verdict::from_name, Verdict::from_number),
            drop_reason,
            direction: enumerated(
                self.traffic_direction,
                Direction::from_name,
                Direction::from_number,
            ),
            // Dropped packets have no such field: the handshake tells.
            // Nor does an ICMP error need a rule that belongs to a flow.
            is_reply: is_answer || is_related || told.unwrap_or(is_syn_ack),
            source: self.source.unwrap_or_default().read(source_address)?,
            destination: self
                .destination
                .unwrap_or_default()
                .read(destination_address)?,
            destination_names: self.destination_names.unwrap_or_default(),
            transport,
            message,
        })
    }

    /// The number, the name, or what only the event says.
    fn read_drop_reason(&self) -> Result<Option<DropReason>, BadLine> {
        let small = |number: &Option<Number>, field| small::<u8>(number.as_ref(), field);
        let number = small(&self.drop_reason, "drop_reason")?;
        if number != 0 {
            return Ok(Some(DropReason::from_number(number)));
        }
        let described = match &self.drop_reason_desc {
            Some(Word::Name(name)) => DropReason::from_name(name),
            Some(Word::Number(number)) => u8::try_from(*number).ok().map(DropReason::from_number),
            None => None,
        };
        if described.is_some_and(|reason| reason != DropReason::UNKNOWN) {
            return Ok(described);
        }
        let Some(event) = &self.event_type else {
            return Ok(None);
        };
        let kind: u32 = self::small(event.kind.as_ref(), "event_type.type")?;
        if kind != DROP_EVENT {
            return Ok(None);
        }
        small(&event.sub_type, "event_type.sub_type")
            .map(|number| Some(DropReason::from_number(number)))
    }
}

/// The number of the type of events that tell of a dropped packet.
const DROP_EVENT: u32 = 1;

impl L4 {
    /// Also whether it is the second packet of a TCP handshake.
    fn read(self) -> Result<(Option<Transport>, bool), BadLine> {
        let with_ports = [
            (Protocol::Tcp, self.tcp),
            (Protocol::Udp, self.udp),
            (Protocol::Sctp, self.sctp),
        ];
        for (protocol, ports) in with_ports {
            let Some(ports) = ports else { continue };
            let transport = Transport::Ports {
                protocol,
                source: small(ports.source_port.as_ref(), "source_port")?,
                destination: small(ports.destination_port.as_ref(), "destination_port")?,
            };
            let flags = ports.flags;
            let is_syn_ack =
                flags.is_some_and(|flags| flags.syn == Some(true) && flags.ack == Some(true));
            return Ok((Some(transport), is_syn_ack));
        }
        for (family, icmp) in [(IcmpFamily::V4, self.icmpv4), (IcmpFamily::V6, self.icmpv6)] {
            let Some(icmp) = icmp else { continue };
            let kind = small(icmp.kind.as_ref(), "type")?;
            return Ok((Some(Transport::Icmp { family, kind }), false));
        }
        Ok((None, false))
    }
}

impl Endpoint {
    fn read(self, address: Option<IpAddr>) -> Result<Party, BadLine> {
        let workloads = self.workloads.unwrap_or_default();
        Ok(Party {
            address,
            identity: small(self.identity.as_ref(), "identity")?,
            namespace: self.namespace.unwrap_or_default(),
            pod: self.pod_name.unwrap_or_default(),
            labels: self.labels.unwrap_or_default(),
            workload: workloads
                .into_iter()
                .find_map(|workload| workload.name)
                .unwrap_or_default(),
        })
    }
}

impl L7 {
    /// Also whether it is an answer.
    fn read(self) -> Result<(Option<Message>, bool), BadLine> {
        let is_answer = match &self.kind {
            Some(Word::Name(name)) => name == "RESPONSE",
            Some(Word::Number(number)) => *number == 2,
            None => false,
        };
        let message = match (self.dns, self.http) {
            (Some(dns), _) => dns.read(is_answer)?,
            (None, Some(http)) if !is_answer => Message::HttpRequest {
                method: http.method.unwrap_or_default(),
                url: http.url.unwrap_or_default(),
            },
            (None, Some(_) | None) => Message::Other,
        };
        Ok((Some(message), is_answer))
    }
}

impl Dns {
    fn read(self, is_answer: bool) -> Result<Message, BadLine> {
        let name = self.query.unwrap_or_default();
        if !is_answer {
            return Ok(Message::DnsQuery { name });
        }
        let lists = [self.ips, self.cnames, self.rrtypes];
        Ok(Message::DnsAnswer {
            name,
            rcode: small(self.rcode.as_ref(), "rcode")?,
            has_data: lists.iter().flatten().any(|list| !list.is_empty()),
        })
    }
}

fn enumerated<T: Default>(
    word: Option<Word>,
    from_name: impl Fn(&str) -> Option<T>,
    from_number: impl Fn(usize) -> Option<T>,
) -> T {
    let known = match word {
        Some(Word::Name(name)) => from_name(&name),
        Some(Word::Number(number)) => usize::try_from(number).ok().and_then(from_number),
        None => None,
    };
    known.unwrap_or_default()
}

fn address(text: Option<String>) -> Result<Option<IpAddr>, BadLine> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| BadLine::Address(text))
}

fn long(number: Option<Number>, field: &'static str) -> Result<u64, BadLine> {
    small(number.as_ref(), field)
}

/// A number of any width; absent is 0.
fn small<T: TryFrom<u64>>(number: Option<&Number>, field: &'static str) -> Result<T, BadLine> {
    let (value, told) = match number {
        None => (Some(0), String::new()),
        Some(Number::Value(value)) => (Some(*value), value.to_string()),
        Some(Number::Digits(digits)) => (digits.parse().ok(), digits.clone()),
    };
    value
        .and_then(|value| T::try_from(value).ok())
        .ok_or(BadLine::Number { field, value: told })
}
