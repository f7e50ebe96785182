//! The layers of a packet as far as an event tells them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::summary::icmp;

/// The link layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ethernet {
    /// Who sent the frame.
    pub source: MacAddr,
    /// Whom it was for.
    pub destination: MacAddr,
}

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The text is not six octets in hexadecimal with colons between.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a MAC address")]
pub struct BadMacAddr;

impl FromStr for MacAddr {
    type Err = BadMacAddr;

    fn from_str(text: &str) -> Result<Self, BadMacAddr> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or(BadMacAddr)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| BadMacAddr)?;
        }
        parts.next().map_or(Ok(Self(octets)), |_| Err(BadMacAddr))
    }
}

/// The network layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ip {
    /// Who sent the packet.
    pub source: IpAddr,
    /// The source after translation, if there was one.
    pub source_xlated: Option<IpAddr>,
    /// Whom it was for.
    pub destination: IpAddr,
    /// Seen encrypted.
    pub encrypted: bool,
}

impl Ip {
    /// The layer of a packet from here to there.
    #[must_use]
    pub const fn new(source: IpAddr, destination: IpAddr) -> Self {
        Self {
            source,
            source_xlated: None,
            destination,
            encrypted: false,
        }
    }
}

/// The transport layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum L4 {
    /// TCP.
    Tcp {
        /// Port of the sender.
        source_port: u16,
        /// Port of the receiver.
        destination_port: u16,
        /// The flags of the packet; none in events of a proxy, which sees no packets.
        flags: Option<TcpFlags>,
    },
    /// UDP.
    Udp {
        /// Port of the sender.
        source_port: u16,
        /// Port of the receiver.
        destination_port: u16,
    },
    /// SCTP.
    Sctp {
        /// Port of the sender.
        source_port: u16,
        /// Port of the receiver.
        destination_port: u16,
    },
    /// ICMP of IPv4.
    Icmpv4 {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// ICMP of IPv6.
    Icmpv6 {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
}

impl L4 {
    /// Source and destination port, for protocols that have some.
    #[must_use]
    pub const fn ports(self) -> Option<(u16, u16)> {
        match self {
            Self::Tcp {
                source_port,
                destination_port,
                ..
            }
            | Self::Udp {
                source_port,
                destination_port,
            }
            | Self::Sctp {
                source_port,
                destination_port,
            } => Some((source_port, destination_port)),
            Self::Icmpv4 { .. } | Self::Icmpv6 { .. } => None,
        }
    }

    /// Type and code of an ICMP message in words: `EchoRequest`, `DestinationUnreachable(Port)`.
    #[must_use]
    pub fn icmp_text(self) -> Option<String> {
        let text = match self {
            Self::Icmpv4 { kind, code } => icmp::v4(kind, code),
            Self::Icmpv6 { kind, code } => icmp::v6(kind, code),
            Self::Tcp { .. } | Self::Udp { .. } | Self::Sctp { .. } => return None,
        };
        // Behind the protocol's own name.
        text.split_once(' ').map(|(_, text)| text.to_owned())
    }
}

/// The flags of a TCP packet, as the low nine bits of its header's fields.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TcpFlags(u16);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(1);
    /// Opens.
    pub const SYN: Self = Self(1 << 1);
    /// Aborts.
    pub const RST: Self = Self(1 << 2);
    /// Push.
    pub const PSH: Self = Self(1 << 3);
    /// Acknowledges.
    pub const ACK: Self = Self(1 << 4);
    /// Urgent.
    pub const URG: Self = Self(1 << 5);
    /// ECN echo.
    pub const ECE: Self = Self(1 << 6);
    /// Congestion window reduced.
    pub const CWR: Self = Self(1 << 7);
    /// Nonce sum.
    pub const NS: Self = Self(1 << 8);

    /// All flags with their names, in the order of JSON.
    pub(crate) const JSON_ORDER: [(Self, &'static str); 9] = [
        (Self::FIN, "FIN"),
        (Self::SYN, "SYN"),
        (Self::RST, "RST"),
        (Self::PSH, "PSH"),
        (Self::ACK, "ACK"),
        (Self::URG, "URG"),
        (Self::ECE, "ECE"),
        (Self::CWR, "CWR"),
        (Self::NS, "NS"),
    ];

    /// The flags whose bits are set; bits past the ninth are cut.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & 0x1ff)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of those are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}
