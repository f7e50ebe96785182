//! The verdict on a DNS question, and the permit that forwarding needs.

use std::net::SocketAddr;

use fqdn::Name;

use crate::{EndpointId, L4Protocol, RuleId};

/// What a DNS query asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// The name asked, in normal form.
    pub name: Name,
    /// QTYPE (RFC 1035 §3.2.3).
    pub qtype: u16,
    /// QCLASS (RFC 1035 §3.2.5).
    pub qclass: u16,
}

/// The proof that policy lets one query go to one server. Only a verdict makes it, forwarding
/// consumes it, and it can't be copied: one permit, one query upstream (law 2).
#[derive(Debug, PartialEq, Eq)]
pub struct DnsPermit {
    pub(crate) endpoint: EndpointId,
    pub(crate) server: SocketAddr,
    pub(crate) protocol: L4Protocol,
    pub(crate) question: Question,
    pub(crate) rule: RuleId,
    pub(crate) revision: u64,
    pub(crate) audited: bool,
    pub(crate) literal_labels: Option<u8>,
}

impl DnsPermit {
    /// Who may ask.
    #[must_use]
    pub fn endpoint(&self) -> EndpointId {
        self.endpoint
    }

    /// Which server may be asked: the original destination.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// By which protocol.
    #[must_use]
    pub fn protocol(&self) -> L4Protocol {
        self.protocol
    }

    /// What may be asked.
    #[must_use]
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// The rule that allowed it.
    #[must_use]
    pub fn rule(&self) -> RuleId {
        self.rule
    }

    /// Whether policy denies it, and only audits: it is forwarded and told as audited.
    #[must_use]
    pub fn is_audited(&self) -> bool {
        self.audited
    }

    /// How many labels at the end of the name the rule's pattern names, 0 where it names none; `None` where
    /// the rule names the whole name, or no rule allowed it.
    #[must_use]
    pub fn literal_labels(&self) -> Option<u8> {
        self.literal_labels
    }

    /// The revision of the snapshot that judged.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }
}

/// A query that policy does not let through. A denial is data, not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub reason: DenialReason,
    /// What `auto` answers: the answer that stalls no stub resolver.
    pub answer: DenyAnswer,
}

/// Why a query was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenialReason {
    /// No rule for this server, port and protocol lets the name be asked.
    NameNotAllowed,
    /// A rule lets the name be asked, and none for this type of record.
    TypeNotAllowed,
    /// No DNS rule of this endpoint selects this server, port and protocol.
    ServerNotAllowed,
    /// The endpoint is unknown to the snapshot: SERVFAIL, since a "no" must be a decision.
    UnknownEndpoint,
}

/// How a denied query is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenyAnswer {
    /// NOERROR without data: the name exists, for another type or as an ancestor of an allowed one (RFC 8020
    /// safe).
    NoData,
    /// The name does not exist; search lists go on.
    NxDomain,
    /// A fault of ours, not a decision.
    ServFail,
}
