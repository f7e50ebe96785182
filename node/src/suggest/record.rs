//! One line of Hubble's JSON, as far as a policy needs it. Kinds of events that the flow model of
//! this project lacks (traces, HTTP) are read too: a real Cilium's lines are mostly those.

mod wire;

use std::net::IpAddr;

use flow::{Direction, DropReason, Time, Verdict};

/// What a line is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Line {
    /// A flow.
    Flow(Box<Record>),
    /// So many events were lost where the line was written.
    Lost(u64),
    /// Another event: of an agent, of a node.
    Other,
}

/// A flow.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Record {
    /// When; none where it isn't told.
    pub(crate) time: Option<Time>,
    /// What became of it.
    pub(crate) verdict: Verdict,
    /// Why it was dropped; none where it was not or where that isn't told.
    pub(crate) drop_reason: Option<DropReason>,
    /// Whose policy is meant.
    pub(crate) direction: Direction,
    /// Whether it answers another flow.
    pub(crate) is_reply: bool,
    /// The sender.
    pub(crate) source: Party,
    /// The receiver.
    pub(crate) destination: Party,
    /// Names that the source looked up for the destination's address.
    pub(crate) destination_names: Vec<String>,
    /// The transport layer; none where it isn't told, or has no place in a policy.
    pub(crate) transport: Option<Transport>,
    /// What a proxy saw; none for packets.
    pub(crate) message: Option<Message>,
}

/// One side of a flow.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Party {
    /// The address.
    pub(crate) address: Option<IpAddr>,
    /// The identity; 0 where it isn't told.
    pub(crate) identity: u32,
    /// The namespace; empty outside of the cluster.
    pub(crate) namespace: String,
    /// The pod; empty where there is none.
    pub(crate) pod: String,
    /// `source:key=value`.
    pub(crate) labels: Vec<String>,
    /// What made the pod; empty where that isn't told.
    pub(crate) workload: String,
}

/// Protocols that a policy can name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// Versions of ICMP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum IcmpFamily {
    V4,
    V6,
}

/// The transport layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    /// With ports.
    Ports {
        protocol: Protocol,
        source: u16,
        destination: u16,
    },
    /// ICMP.
    Icmp { family: IcmpFamily, kind: u8 },
}

/// What a proxy saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Message {
    /// A DNS query.
    DnsQuery { name: String },
    /// A DNS answer.
    DnsAnswer {
        name: String,
        rcode: u32,
        /// Whether there are records in it.
        has_data: bool,
    },
    /// An HTTP request.
    HttpRequest { method: String, url: String },
    /// Something else.
    Other,
}

/// Why a line could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadLine {
    /// Not JSON, or a field of another type than Hubble's.
    #[error("not Hubble's JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// An object of which no field is known.
    #[error("neither a flow nor another event of Hubble's")]
    NotAnEvent,
    /// An address that is none.
    #[error("{0:?} is no address")]
    Address(String),
    /// A number that its field can't hold.
    #[error("field {field} can't be {value:?}")]
    Number { field: &'static str, value: String },
}

impl Line {
    /// Reads a line as `hubble observe -o json` or an exporter writes it, or a bare flow.
    ///
    /// # Errors
    /// See [`BadLine`].
    pub(crate) fn parse(text: &str) -> Result<Self, BadLine> {
        wire::parse(text)
    }
}
