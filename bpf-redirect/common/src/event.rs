//! What the kernel tells user space.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// Kind of an [`Event`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EventKind {
    /// Policy judged the first packet of a flow.
    Verdict = 1,
    /// A packet was dropped.
    Drop = 2,
    /// A packet was seen where it passes.
    Trace = 3,
}

/// How much is told of packets that pass, beside the verdict on a new flow. The larger, the more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Aggregation {
    /// Nothing.
    Off = 0,
    /// That a flow begins, is answered and ends: of each direction the first packet, and of TCP the first
    /// one with SYN, FIN or RST. ICMP errors that belong to a flow.
    Maximum = 1,
    /// And one packet of each direction in each [`crate::TRACE_SECS`].
    Medium = 2,
    /// Every packet, where it leaves the program.
    Low = 3,
    /// And where it comes in.
    None = 4,
}

/// Where a packet was seen; Hubble's numbers of a trace's sub type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum TracePoint {
    /// On its way to the workload.
    ToEndpoint = 0,
    /// On its way to the proxy.
    ToProxy = 1,
    /// On its way to the node.
    ToStack = 3,
    /// As the workload sent it.
    FromEndpoint = 5,
}

/// What is known of a traced packet's flow; Hubble's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum TraceReason {
    /// Nothing: nobody has asked.
    Unknown = 0,
    /// The packet begins it.
    New = 1,
    /// It goes on in the direction in which it began.
    Established = 2,
    /// It is answered.
    Reply = 3,
    /// An ICMP error about it.
    Related = 4,
}

impl TracePoint {
    /// The point with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::ToEndpoint),
            1 => Some(Self::ToProxy),
            3 => Some(Self::ToStack),
            5 => Some(Self::FromEndpoint),
            _ => None,
        }
    }
}

impl TraceReason {
    /// The reason with this number; an unknown one is [`TraceReason::Unknown`].
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::New,
            2 => Self::Established,
            3 => Self::Reply,
            4 => Self::Related,
            _ => Self::Unknown,
        }
    }
}

impl EventKind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Verdict),
            2 => Some(Self::Drop),
            3 => Some(Self::Trace),
            _ => None,
        }
    }
}

/// One record of the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Event {
    /// Nanoseconds since boot.
    pub at: u64,
    /// The endpoint whose interface judged.
    pub endpoint: u32,
    /// The peer's identity; 0 if it wasn't looked up.
    pub identity: u32,
    /// The rule that decided; 0 for none.
    pub rule: u32,
    /// Source, or all zero where the packet could not be parsed.
    pub source: Address,
    /// Destination.
    pub destination: Address,
    /// Network byte order; ICMP: type in the high byte, code in the low one, of both ports.
    pub source_port: u16,
    /// Network byte order.
    pub destination_port: u16,
    /// An [`EventKind`].
    pub kind: u8,
    /// [`crate::INGRESS`] or [`crate::EGRESS`].
    pub direction: u8,
    /// IANA protocol number.
    pub protocol: u8,
    /// TCP flags of the packet (RFC 9293 §3.1, low byte).
    pub tcp_flags: u8,
    /// A [`crate::Verdict`].
    pub verdict: u8,
    /// A [`crate::Match`]; of a trace a [`TracePoint`].
    pub matched: u8,
    /// A [`crate::Drop`], 0 for none; of a trace a [`TraceReason`].
    pub reason: u8,
    /// 4 or 6; 0 where the packet could not be parsed.
    pub family: u8,
    /// Who sent the frame; zero where there is none, as in a cgroup.
    pub source_mac: [u8; 6],
    /// Whom the frame was for.
    pub destination_mac: [u8; 6],
    /// Always 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Event>() == 80);
