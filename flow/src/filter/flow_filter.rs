//! A flow filter as Hubble's protocol has it.

use crate::drop_reason::DropReason;
use crate::endpoint::Workload;
use crate::flow::Interface;
use crate::http::HttpHeader;
use crate::packet::TcpFlags;
use crate::verdict::{Direction, Verdict};

/// What is asked of a flow: all fields must hold, one value of each is enough, an empty one asks nothing.
/// Texts are read, and refused, when a [`crate::Filter`] is made.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FlowFilter {
    /// Of the sender.
    pub source: PeerFilter,
    /// Of the receiver.
    pub destination: PeerFilter,
    /// The source after translation: an address or a prefix.
    pub source_ip_xlated: Vec<String>,
    /// Verdicts.
    pub verdict: Vec<Verdict>,
    /// Reasons of drops and of denied verdicts.
    pub drop_reason_desc: Vec<DropReason>,
    /// Interfaces, by number, by name, or both.
    pub interface: Vec<Interface>,
    /// Kinds of events.
    pub event_type: Vec<EventType>,
    /// `404`, `4+`, `40+`.
    pub http_status_code: Vec<String>,
    /// `tcp`, `dns` and so on, of either layer.
    pub protocol: Vec<String>,
    /// Whether it answers.
    pub reply: Vec<bool>,
    /// Regular expressions; somewhere in the name that was asked for.
    pub dns_query: Vec<String>,
    /// Methods; case is ignored.
    pub http_method: Vec<String>,
    /// Regular expressions; somewhere in the path of the URL.
    pub http_path: Vec<String>,
    /// Regular expressions; somewhere in the URL.
    pub http_url: Vec<String>,
    /// Lines of a head; both parts must be equal.
    pub http_header: Vec<HttpHeader>,
    /// All flags of one entry must be set.
    pub tcp_flags: Vec<TcpFlags>,
    /// `[cluster/]node`, with `*` for any part.
    pub node_name: Vec<String>,
    /// Selectors of the node's labels.
    pub node_labels: Vec<String>,
    /// Versions of IP.
    pub ip_version: Vec<IpVersion>,
    /// Ids of W3C traces.
    pub trace_id: Vec<String>,
    /// Ids in packets' headers.
    pub ip_trace_id: Vec<u64>,
    /// Which side's policy was asked.
    pub traffic_direction: Vec<Direction>,
    /// Ids of events.
    pub uuid: Vec<String>,
    /// Whether it was seen encrypted.
    pub encrypted: Vec<bool>,
    /// Expressions of CEL, which we don't read.
    pub cel_expression: Vec<String>,
}

/// What is asked of one peer.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct PeerFilter {
    /// An address or a prefix.
    pub ip: Vec<String>,
    /// `namespace/prefix`.
    pub pod: Vec<String>,
    /// Patterns of names.
    pub fqdn: Vec<String>,
    /// Selectors of labels.
    pub label: Vec<String>,
    /// `namespace/prefix` of services.
    pub service: Vec<String>,
    /// Workloads, by name, by kind, or both.
    pub workload: Vec<Workload>,
    /// Ports, in decimal.
    pub port: Vec<String>,
    /// Identities.
    pub identity: Vec<u32>,
    /// Clusters.
    pub cluster_name: Vec<String>,
}

/// A kind of event.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct EventType {
    /// The number; 0 is any.
    pub number: u32,
    /// The number of the sub type, if it is asked.
    pub sub_number: Option<u32>,
}

/// Versions of IP.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum IpVersion {
    /// Not IP.
    #[default]
    None,
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

impl IpVersion {
    const ALL: [Self; 3] = [Self::None, Self::V4, Self::V6];

    /// The name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "IP_NOT_USED",
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The version of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.name() == name)
    }

    /// The version of this number.
    #[must_use]
    pub fn from_number(number: usize) -> Option<Self> {
        Self::ALL.get(number).copied()
    }
}
