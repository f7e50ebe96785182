//! The numbers and small words that everything else is keyed by.

use std::fmt;
use std::num::NonZeroU32;

/// A workload on this node, 1 to 0x7ffffffe (31 bits travel in a frame of the side link).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct EndpointId(NonZeroU32);

impl EndpointId {
    /// The largest endpoint number.
    pub const MAX: u32 = 0x7fff_fffe;

    /// An endpoint number, if it is in range.
    #[must_use]
    pub const fn new(id: u32) -> Option<Self> {
        if id > Self::MAX {
            return None;
        }
        match NonZeroU32::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a set of labels. Reserved ones are Cilium's; label sets count from 256, node-local
/// ones (learned addresses, CIDR prefixes) from 16777217.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Identity(u32);

impl Identity {
    /// Any identity, in a policy entry; no packet has it.
    pub const ANY: Self = Self(0);
    /// The local node.
    pub const HOST: Self = Self(1);
    /// The fixed numbers of labels `reserved:<name>` that an address of a peer may have.
    pub(crate) const RESERVED: [(&'static str, Self); 7] = [
        ("host", Self(1)),
        ("unmanaged", Self(3)),
        ("health", Self(4)),
        ("init", Self(5)),
        ("kube-apiserver", Self(7)),
        ("remote-node", Self(6)),
        ("ingress", Self(8)),
    ];
    /// Addresses outside, IPv4.
    pub const WORLD_IPV4: Self = Self(9);
    /// Addresses outside, IPv6.
    pub const WORLD_IPV6: Self = Self(10);
    /// The first number for a set of workload labels.
    pub const LABELS_MIN: u32 = 256;
    /// The first node-local number.
    pub const LOCAL_MIN: u32 = (1 << 24) | 1;
    /// The last node-local number.
    pub const LOCAL_MAX: u32 = (2 << 24) - 1;

    /// The identity with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One rule of one policy object; never reused within a run. 0 means that no rule decided.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RuleId(u32);

impl RuleId {
    /// No rule decided (default deny, or a direction that isn't enforced).
    pub const NONE: Self = Self(0);

    /// The rule with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Which of an endpoint's two policies judges.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Direction {
    /// Into the endpoint.
    Ingress,
    /// Out of the endpoint.
    Egress,
}

/// A transport protocol that a rule can name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum L4Protocol {
    /// Transmission Control Protocol, 6.
    Tcp,
    /// User Datagram Protocol, 17.
    Udp,
    /// Stream Control Transmission Protocol, 132.
    Sctp,
}

impl L4Protocol {
    /// The IANA protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol with this IANA number, if it is one of these.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp]
            .into_iter()
            .find(|one| one.number() == number)
    }
}
