//! Policy entries, and what a set of them says about one flow.

use std::fmt;

use crate::{Direction, Identity, RuleId};

/// One entry of an endpoint's policy map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    /// The direction it judges.
    pub direction: Direction,
    /// The peer; [`Identity::ANY`] is every peer.
    pub identity: Identity,
    /// The IANA protocol number; 0 is every protocol.
    pub protocol: u8,
    /// The destination port; 0 is every port.
    pub port: u16,
    /// What happens.
    pub verdict: EntryVerdict,
    /// The rule that decided.
    pub rule: RuleId,
}

/// What an entry does with a flow; a later one is stronger where two match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryVerdict {
    /// Lets it pass.
    Allow,
    /// Sends it to a proxy.
    Redirect,
    /// Drops it.
    Deny,
}

/// A flow's side of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// The direction seen from the endpoint.
    pub direction: Direction,
    /// The peer.
    pub identity: Identity,
    /// The IANA protocol number.
    pub protocol: u8,
    /// The destination port; 0 for protocols without ports.
    pub port: u16,
}

/// The verdict on a flow and how it came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What happens; a flow without an entry is denied.
    pub verdict: EntryVerdict,
    /// The form of the entry that decided.
    pub matched: MatchType,
    /// The rule that decided; [`RuleId::NONE`] for default deny and a direction without policy.
    pub rule: RuleId,
}

/// The form of the entry that decided, by Cilium's numbers and words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchType {
    /// No entry.
    None,
    /// An identity, any protocol.
    L3Only,
    /// An identity, a protocol, a port.
    L3L4,
    /// Any identity, a protocol, a port.
    L4Only,
    /// Any identity, any protocol.
    All,
    /// An identity, a protocol, any port.
    L3Proto,
    /// Any identity, a protocol, any port.
    ProtoOnly,
}

impl MatchType {
    /// The number in flow events.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::None => 0,
            Self::L3Only => 1,
            Self::L3L4 => 2,
            Self::L4Only => 3,
            Self::All => 4,
            Self::L3Proto => 5,
            Self::ProtoOnly => 6,
        }
    }

    /// The word in flow events.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::L3Only => "L3-Only",
            Self::L3L4 => "L3-L4",
            Self::L4Only => "L4-Only",
            Self::All => "all",
            Self::L3Proto => "L3-Proto",
            Self::ProtoOnly => "Proto-Only",
        }
    }
}

impl fmt::Display for MatchType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Entry {
    /// Whether the entry is about the flow.
    #[must_use]
    pub fn covers(&self, flow: FlowKey) -> bool {
        self.direction == flow.direction
            && (self.identity == Identity::ANY || self.identity == flow.identity)
            && (self.protocol == 0 || self.protocol == flow.protocol)
            && (self.port == 0 || self.port == flow.port)
    }

    /// The form of the entry.
    #[must_use]
    pub fn match_type(&self) -> MatchType {
        match (self.identity == Identity::ANY, self.protocol, self.port) {
            (false, 0, _) => MatchType::L3Only,
            (false, _, 0) => MatchType::L3Proto,
            (false, _, _) => MatchType::L3L4,
            (true, 0, _) => MatchType::All,
            (true, _, 0) => MatchType::ProtoOnly,
            (true, _, _) => MatchType::L4Only,
        }
    }
}

/// The verdict of a set of entries: the strongest that covers the flow, then the one with the longer
/// protocol and port, then the one with the identity.
#[must_use]
pub fn decide(entries: &[Entry], flow: FlowKey) -> Decision {
    let covering = entries.iter().filter(|entry| entry.covers(flow));
    let rank = |entry: &&Entry| {
        let l4 = (entry.protocol != 0, entry.port != 0);
        (entry.verdict, l4, entry.identity != Identity::ANY)
    };
    match covering.max_by_key(rank) {
        Some(entry) => Decision {
            verdict: entry.verdict,
            matched: entry.match_type(),
            rule: entry.rule,
        },
        None => Decision {
            verdict: EntryVerdict::Deny,
            matched: MatchType::None,
            rule: RuleId::NONE,
        },
    }
}
