//! Ports, protocols and what may be asked through them.

use fqdn::Pattern;

use crate::L4Protocol;

/// The port part of an item of `egress`.
#[derive(Debug)]
pub(crate) enum Ports {
    /// No `toPorts`: every protocol, ICMP too.
    Any,
    /// Whatever one of these lets through; an empty list lets nothing through.
    List(Vec<PortRule>),
}

/// One port with its L7 part.
#[derive(Clone, Debug)]
pub(crate) struct PortRule {
    pub(crate) protocol: RuleProtocol,
    /// 0 is every port of the protocol.
    pub(crate) port: u16,
    /// Not empty if present: only these names may be asked there. Shared by the ports of an entry.
    pub(crate) dns: Option<std::sync::Arc<[Pattern]>>,
}

/// A protocol as a rule names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuleProtocol {
    /// TCP, UDP and SCTP, and no other.
    Any,
    One(L4Protocol),
}

impl PortRule {
    /// The protocols that the rule opens. DNS over SCTP doesn't exist and can't be proxied, so a
    /// rule with names doesn't open SCTP.
    pub(crate) fn protocols(&self) -> &'static [L4Protocol] {
        match self.protocol {
            RuleProtocol::Any if self.dns.is_some() => &[L4Protocol::Tcp, L4Protocol::Udp],
            RuleProtocol::Any => &[L4Protocol::Tcp, L4Protocol::Udp, L4Protocol::Sctp],
            RuleProtocol::One(L4Protocol::Tcp) => &[L4Protocol::Tcp],
            RuleProtocol::One(L4Protocol::Udp) => &[L4Protocol::Udp],
            RuleProtocol::One(L4Protocol::Sctp) => &[L4Protocol::Sctp],
        }
    }
}
