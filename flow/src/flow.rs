//! One event.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use crate::dns::Dns;
use crate::drop_reason::DropReason;
use crate::endpoint::{Endpoint, PolicyRef};
use crate::foreign::Foreign;
use crate::http::Http;
use crate::message::MessageKind;
use crate::packet::{Ethernet, Ip, L4, MacAddr};
use crate::summary;
use crate::time::Time;
use crate::trace::{TracePoint, TraceReason};
use crate::uuid::Uuid;
use crate::verdict::{Direction, Verdict};

/// One event. Fields are Hubble's, in its order; what Hubble says twice (the type of the event, the
/// reason of a drop, the reply) is here once and written twice.
///
/// A response has the server as source: readers swap the two peers in print.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flow {
    /// When the kernel or the proxy saw it; none only in what a client was sent without it.
    pub time: Option<Time>,
    /// The id of this event.
    pub uuid: Option<Uuid>,
    /// The program that saw it.
    pub emitter: Option<Emitter>,
    /// What became of it.
    pub verdict: Verdict,
    /// Which kind of event, with what only that kind has.
    pub event: Event,
    /// The link layer; none for messages of a proxy.
    pub ethernet: Option<Ethernet>,
    /// The network layer; none for what is not IP.
    pub ip: Option<Ip>,
    /// The transport layer; none where it can't be told.
    pub l4: Option<L4>,
    /// The sender.
    pub source: Endpoint,
    /// The receiver.
    pub destination: Endpoint,
    /// `cluster/node`, or `node` in the default cluster.
    pub node_name: Arc<str>,
    /// Names that the destination looked up for the source's address, without final dot.
    pub source_names: Vec<Arc<str>>,
    /// Names that the source looked up for the destination's address, without final dot.
    pub destination_names: Vec<Arc<str>>,
    /// Which side's policy was asked.
    pub traffic_direction: Direction,
    /// Where in which program a drop was made.
    pub file: Option<FileInfo>,
    /// Whether it answers; none for what was refused.
    pub is_reply: Option<bool>,
    /// Where it was seen.
    pub interface: Option<Interface>,
    /// The proxy's port; 0 for none.
    pub proxy_port: u16,
    /// The id of the W3C trace that a request belongs to, in hexadecimal; empty for none.
    pub trace_id: Arc<str>,
    /// The words in the brackets, as another server wrote them; none for ours, which are made from
    /// the other fields.
    pub summary: Option<Arc<str>>,
    /// Policies of the source that allowed it.
    pub egress_allowed_by: Vec<PolicyRef>,
    /// Policies of the destination that allowed it.
    pub ingress_allowed_by: Vec<PolicyRef>,
    /// Policies of the source that denied it.
    pub egress_denied_by: Vec<PolicyRef>,
    /// Policies of the destination that denied it.
    pub ingress_denied_by: Vec<PolicyRef>,
    /// Remarks: texts that the deciding rules carry, and what had to be cut.
    pub policy_log: Vec<Arc<str>>,
    /// What only other agents tell.
    pub foreign: Option<Box<Foreign>>,
}

/// The kinds of events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A DNS message, seen by the proxy.
    Dns(Dns),
    /// An HTTP request or response, seen by the proxy.
    Http(Http),
    /// The first packet of a connection was judged.
    PolicyVerdict {
        /// How the rule matched; [`crate::match_type_name`] has the words.
        match_type: u32,
        /// Why it was denied; none when it was not.
        drop_reason: Option<DropReason>,
    },
    /// A packet was dropped.
    Drop {
        /// Why.
        reason: DropReason,
    },
    /// A packet was seen where it passes.
    Trace {
        /// Where.
        point: TracePoint,
        /// What is known of its flow.
        reason: TraceReason,
    },
    /// A message of a protocol that ours doesn't read; only its words tell of it.
    OtherL7 {
        /// Request, response or sample.
        kind: MessageKind,
        /// From the request to its response, in nanoseconds.
        latency_ns: u64,
    },
    /// An event of another kind: at a socket, for debugging.
    Other {
        /// The number of its type; 0 where nothing is told.
        number: u32,
        /// The number of its sub type.
        sub_number: u32,
    },
}

/// The program that saw an event.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Emitter {
    /// Its name.
    pub name: Arc<str>,
    /// Its version, without `v`.
    pub version: Arc<str>,
}

/// A line in the source of a BPF program.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FileInfo {
    /// The file, or the program.
    pub name: Arc<str>,
    /// The line.
    pub line: u32,
}

/// A network interface.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: Arc<str>,
}

impl Flow {
    /// A flow with nothing but its event and verdict, to be filled:
    /// `Flow { ip, l4, ..Flow::new(event, verdict) }`.
    #[must_use]
    pub fn new(event: Event, verdict: Verdict) -> Self {
        Self {
            time: None,
            uuid: None,
            emitter: None,
            verdict,
            event,
            ethernet: None,
            ip: None,
            l4: None,
            source: Endpoint::default(),
            destination: Endpoint::default(),
            node_name: Arc::default(),
            source_names: Vec::new(),
            destination_names: Vec::new(),
            traffic_direction: Direction::Unknown,
            file: None,
            is_reply: None,
            interface: None,
            proxy_port: 0,
            trace_id: Arc::default(),
            summary: None,
            egress_allowed_by: Vec::new(),
            ingress_allowed_by: Vec::new(),
            egress_denied_by: Vec::new(),
            ingress_denied_by: Vec::new(),
            policy_log: Vec::new(),
            foreign: None,
        }
    }

    /// The DNS message, if this is one.
    #[must_use]
    pub const fn dns(&self) -> Option<&Dns> {
        match &self.event {
            Event::Dns(dns) => Some(dns),
            Event::Http(_)
            | Event::OtherL7 { .. }
            | Event::PolicyVerdict { .. }
            | Event::Drop { .. }
            | Event::Trace { .. }
            | Event::Other { .. } => None,
        }
    }

    /// The HTTP message, if this is one.
    #[must_use]
    pub const fn http(&self) -> Option<&Http> {
        match &self.event {
            Event::Http(http) => Some(http),
            Event::Dns(_)
            | Event::OtherL7 { .. }
            | Event::PolicyVerdict { .. }
            | Event::Drop { .. }
            | Event::Trace { .. }
            | Event::Other { .. } => None,
        }
    }

    /// The reason of a drop or of a denied verdict.
    #[must_use]
    pub fn drop_reason(&self) -> Option<DropReason> {
        match &self.event {
            Event::Dns(_)
            | Event::Http(_)
            | Event::OtherL7 { .. }
            | Event::Trace { .. }
            | Event::Other { .. } => self.foreign.as_ref()?.drop_reason,
            Event::PolicyVerdict { drop_reason, .. } => *drop_reason,
            Event::Drop { reason } => Some(*reason),
        }
    }

    /// The numbers of its type and sub type, as they are told.
    #[must_use]
    pub fn event_type(&self) -> (u32, u32) {
        let told = self.foreign.as_ref().and_then(|it| it.event_type);
        told.unwrap_or_else(|| self.event.numbers())
    }

    /// The addresses of sender and receiver, as far as they are told; none where there is no network layer.
    #[must_use]
    pub fn addresses(&self) -> Option<[Option<IpAddr>; 2]> {
        if let Some(ip) = self.ip {
            return Some([Some(ip.source), Some(ip.destination)]);
        }
        let part = self.foreign.as_ref()?.part_ip?;
        Some([part.source, part.destination])
    }

    /// The same of the link layer.
    #[must_use]
    pub fn mac_addresses(&self) -> Option<[Option<MacAddr>; 2]> {
        match self.ethernet {
            Some(ethernet) => Some([Some(ethernet.source), Some(ethernet.destination)]),
            None => self.foreign.as_ref()?.part_ethernet,
        }
    }

    /// The words in the brackets.
    #[must_use]
    pub fn summary(&self) -> Cow<'_, str> {
        match &self.summary {
            Some(told) => Cow::Borrowed(told),
            None => Cow::Owned(summary::of(self)),
        }
    }

    /// The policies that a verdict event names: those of its direction, for what they did.
    #[must_use]
    pub fn deciding_policies(&self) -> &[PolicyRef] {
        let (allowed_by, denied_by) = match self.traffic_direction {
            Direction::Egress => (&self.egress_allowed_by, &self.egress_denied_by),
            Direction::Ingress => (&self.ingress_allowed_by, &self.ingress_denied_by),
            Direction::Unknown => return &[],
        };
        match self.verdict {
            Verdict::Forwarded | Verdict::Redirected => allowed_by,
            Verdict::Dropped | Verdict::Error => denied_by,
            Verdict::Unknown | Verdict::Audit | Verdict::Traced | Verdict::Translated => &[],
        }
    }
}

impl Event {
    /// Number of the type in JSON's `event_type` and in `--type`.
    #[must_use]
    pub const fn number(&self) -> u32 {
        match self {
            Self::Dns(_) | Self::Http(_) | Self::OtherL7 { .. } => Self::L7_NUMBER,
            Self::PolicyVerdict { .. } => Self::POLICY_VERDICT_NUMBER,
            Self::Drop { .. } => Self::DROP_NUMBER,
            Self::Trace { .. } => Self::TRACE_NUMBER,
            Self::Other { number, .. } => *number,
        }
    }

    /// Number of the sub type: the reason of a drop, the point of a trace, else 0.
    #[must_use]
    pub const fn sub_number(&self) -> u32 {
        match self {
            Self::Drop { reason } => reason.number() as u32,
            Self::Trace { point, .. } => point.number() as u32,
            Self::Other { sub_number, .. } => *sub_number,
            Self::Dns(_) | Self::Http(_) | Self::OtherL7 { .. } | Self::PolicyVerdict { .. } => 0,
        }
    }

    /// Both numbers.
    pub(crate) const fn numbers(&self) -> (u32, u32) {
        (self.number(), self.sub_number())
    }

    /// The name of its layer in JSON; none where nothing is told.
    #[must_use]
    pub const fn layer(&self) -> Option<&'static str> {
        match self {
            Self::Dns(_) | Self::Http(_) | Self::OtherL7 { .. } => Some("L7"),
            Self::PolicyVerdict { .. } | Self::Drop { .. } | Self::Trace { .. } => Some("L3_L4"),
            Self::Other { number: 0, .. } => None,
            Self::Other {
                number: Self::SOCK_NUMBER,
                ..
            } => Some("SOCK"),
            Self::Other { .. } => Some("L3_L4"),
        }
    }

    pub(crate) const DROP_NUMBER: u32 = 1;
    pub(crate) const TRACE_NUMBER: u32 = 4;
    pub(crate) const POLICY_VERDICT_NUMBER: u32 = 5;
    pub(crate) const CAPTURE_NUMBER: u32 = 3;
    pub(crate) const SOCK_NUMBER: u32 = 7;
    pub(crate) const L7_NUMBER: u32 = 129;
}
