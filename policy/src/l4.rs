//! Ports, protocols and what may be said through them.

use std::sync::Arc;

use crate::http::HttpRule;
use crate::names::NameList;
use crate::sni::SniPattern;
use crate::tls::TlsContext;
use crate::{Family, L4Protocol};

/// The port part of an item.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    /// No `toPorts` and no `icmps`: every protocol, ICMP too.
    Any,
    /// Whatever one of these lets through; an empty list lets nothing through.
    List(Vec<PortRule>),
}

/// One port, or one type of ICMP, with its L7 part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortRule {
    pub(crate) protocol: RuleProtocol,
    pub(crate) port: PortMatch,
    /// Shared by the ports of an entry.
    pub(crate) l7: Option<Arc<L7>>,
}

/// A protocol as a rule names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum RuleProtocol {
    /// TCP, UDP and SCTP, and no other.
    Any,
    One(L4Protocol),
    /// ICMP of a family; the port is its type.
    Icmp(Family),
}

/// The ports that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum PortMatch {
    /// Every port (written as `"0"`).
    All,
    /// From the first to the last, both included; a type of ICMP is a range of one.
    Range(u16, u16),
    /// What the selected workload calls so (ingress: the subject, egress: the peer).
    Named(Box<str>),
}

/// What may be said through a port, beyond who may speak.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct L7 {
    pub(crate) rules: L7Rules,
    /// `serverNames`; empty is no judgement of names.
    pub(crate) server_names: Vec<SniPattern>,
    pub(crate) terminating_tls: Option<Arc<TlsContext>>,
    pub(crate) originating_tls: Option<Arc<TlsContext>>,
}

/// The rules of one protocol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum L7Rules {
    /// Only `serverNames` or TLS.
    None,
    /// Only these names may be asked; not empty.
    Dns(Arc<NameList>),
    /// Only these requests may be made; not empty.
    Http(Vec<HttpRule>),
}

impl L7 {
    /// Whether it conflicts with the same others as another one.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(&self.rules) == std::mem::discriminant(&other.rules)
            && self.terminating_tls == other.terminating_tls
            && self.originating_tls == other.originating_tls
            && self.server_names.is_empty() == other.server_names.is_empty()
    }

    /// Why both can't hold for one connection, if they can't.
    pub(crate) fn conflict_with(&self, other: &Self) -> Option<&'static str> {
        match (&self.rules, &other.rules) {
            (L7Rules::Http(_), L7Rules::Dns(_)) | (L7Rules::Dns(_), L7Rules::Http(_)) => {
                return Some("one has `http` rules, the other `dns` rules");
            }
            (L7Rules::None | L7Rules::Http(_), L7Rules::None | L7Rules::Http(_))
            | (L7Rules::None | L7Rules::Dns(_), L7Rules::None | L7Rules::Dns(_)) => {}
        }
        let differ = |one, two| matches!((one, two), (Some(one), Some(two)) if one != two);
        if differ(
            self.terminating_tls.as_ref(),
            other.terminating_tls.as_ref(),
        ) {
            return Some("they terminate TLS with different secrets (`terminatingTLS`)");
        }
        if differ(
            self.originating_tls.as_ref(),
            other.originating_tls.as_ref(),
        ) {
            return Some("they originate TLS with different secrets (`originatingTLS`)");
        }
        let has_names = !self.server_names.is_empty() || !other.server_names.is_empty();
        let has_rules = [&self.rules, &other.rules]
            .iter()
            .any(|rules| !matches!(rules, L7Rules::None));
        let terminates = self.terminating_tls.is_some() || other.terminating_tls.is_some();
        if has_names && has_rules && !terminates {
            return Some(
                "`serverNames` together with L7 rules needs `terminatingTLS`: requests inside TLS \
                 can't be seen otherwise",
            );
        }
        None
    }
}

impl PortRule {
    /// The names that may be asked, if names are judged.
    pub(crate) fn dns(&self) -> Option<&Arc<NameList>> {
        match &self.l7.as_deref()?.rules {
            L7Rules::Dns(patterns) => Some(patterns),
            L7Rules::None | L7Rules::Http(_) => None,
        }
    }

    /// The IANA numbers of the protocols that the rule opens. DNS over SCTP doesn't exist and can't
    /// be proxied, so a rule with names doesn't open SCTP.
    pub(crate) fn protocol_numbers(&self) -> &'static [u8] {
        match self.protocol {
            RuleProtocol::Any if self.dns().is_some() => &[6, 17],
            RuleProtocol::Any => &[6, 17, 132],
            RuleProtocol::One(L4Protocol::Tcp) => &[6],
            RuleProtocol::One(L4Protocol::Udp) => &[17],
            RuleProtocol::One(L4Protocol::Sctp) => &[132],
            RuleProtocol::Icmp(Family::V4) => &[1],
            RuleProtocol::Icmp(Family::V6) => &[58],
        }
    }
}
