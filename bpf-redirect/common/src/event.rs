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
}

impl EventKind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Verdict),
            2 => Some(Self::Drop),
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
    /// A [`crate::Match`].
    pub matched: u8,
    /// A [`crate::Drop`]; 0 for none.
    pub reason: u8,
    /// 4 or 6; 0 where the packet could not be parsed.
    pub family: u8,
}

const _: () = assert!(size_of::<Event>() == 64);
