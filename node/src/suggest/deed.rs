//! What a flow did with its peer, as far as a rule can be about it.

use flow::Direction;

use super::http::Request;
use super::names::written_name;
use super::record::{IcmpFamily, Message, Protocol, Record, Transport};
use super::skip::Skip;

/// What a flow did with its peer.
pub(super) enum Deed {
    Port(Port),
    Dns(Port, Option<String>),
    Http(Port, Option<Request>),
    Icmp(Icmp),
}

/// A port of a protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Port {
    pub(super) protocol: Protocol,
    pub(super) number: u16,
}

/// A type of ICMP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Icmp {
    pub(super) family: IcmpFamily,
    pub(super) kind: u8,
}

impl Deed {
    /// What a flow did.
    ///
    /// # Errors
    /// If no rule can be about it.
    pub(super) fn of(record: &Record) -> Result<Self, Skip> {
        let port = match record.transport.ok_or(Skip::NoPort)? {
            Transport::Icmp { family, kind } if is_icmp_answer(family, kind) => {
                return Err(Skip::IcmpAnswer);
            }
            Transport::Icmp { family, kind } => return Ok(Self::Icmp(Icmp { family, kind })),
            // In a policy it would be every port.
            Transport::Ports { destination: 0, .. } => return Err(Skip::NoPort),
            Transport::Ports {
                protocol,
                destination,
                ..
            } => Port {
                protocol,
                number: destination,
            },
        };
        let is_egress = record.direction == Direction::Egress;
        Ok(match (&record.message, port.protocol) {
            // A server's own side has no rules for names.
            (Some(Message::DnsQuery { name }), Protocol::Tcp | Protocol::Udp) if is_egress => {
                Self::Dns(port, written_name(name))
            }
            (Some(Message::HttpRequest { method, url }), Protocol::Tcp) => {
                Self::Http(port, Request::of(method, url))
            }
            (_, Protocol::Tcp | Protocol::Udp | Protocol::Sctp) => Self::Port(port),
        })
    }

    /// Whether it is something of DNS, to a server that is told by its address.
    pub(super) const fn is_dns(&self) -> bool {
        match self {
            Self::Port(port) => port.number == DNS_PORT,
            Self::Dns(..) => true,
            Self::Http(..) | Self::Icmp(_) => false,
        }
    }
}

/// Errors and replies to what was sent: conntrack lets them pass where they belong.
const fn is_icmp_answer(family: IcmpFamily, kind: u8) -> bool {
    match family {
        IcmpFamily::V4 => matches!(kind, 0 | 3 | 4 | 11 | 12 | 14 | 16 | 18),
        IcmpFamily::V6 => matches!(kind, 1..=4 | 129),
    }
}

/// The port of DNS. A server there is told by its address even where a name for it is known: the
/// name would have to be asked of it.
const DNS_PORT: u16 = 53;
