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
    /// The destination ports, or the types of ICMP.
    pub ports: PortPrefix,
    /// What happens.
    pub verdict: EntryVerdict,
    /// The rule that decided.
    pub rule: RuleId,
}

/// Ports that share their first bits; ranges are split into such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortPrefix {
    /// The lowest of them.
    pub port: u16,
    /// How many bits they share: 0 is every port, 16 is one.
    pub bits: u8,
}

impl PortPrefix {
    /// Every port.
    pub const ALL: Self = Self { port: 0, bits: 0 };

    /// One port.
    #[must_use]
    pub const fn exact(port: u16) -> Self {
        Self { port, bits: 16 }
    }

    /// Whether a port is among them.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        let differs = u32::from(self.port ^ port);
        differs >> (16 - u32::from(self.bits.min(16))) == 0
    }

    /// What of these ports is not among those, in as few prefixes as there can be.
    #[must_use]
    pub fn without(self, others: &[Self]) -> Vec<Self> {
        let is_within = |other: &Self| other.bits <= self.bits && other.contains(self.port);
        if others.iter().any(is_within) {
            return Vec::new();
        }
        if !others.iter().any(|other| self.contains(other.port)) {
            return vec![self];
        }
        // Some of them lie in one half: there are 16 halvings at most.
        let bits = self.bits + 1;
        let upper = self.port | 1 << (16 - u32::from(bits));
        let halves = [self.port, upper].map(|port| Self { port, bits });
        halves
            .iter()
            .flat_map(|half| half.without(others))
            .collect()
    }

    /// The first and the last of them.
    #[must_use]
    pub fn range(self) -> (u16, u16) {
        let others = u16::MAX.checked_shr(self.bits.into()).unwrap_or(0);
        (self.port, self.port | others)
    }

    /// The fewest prefixes that make up a range, both ends included; none if `last` is below `first`.
    #[must_use]
    pub fn of_range(first: u16, last: u16) -> Vec<Self> {
        let mut prefixes = Vec::new();
        let (mut from, last) = (u32::from(first), u32::from(last));
        while from <= last {
            let aligned = from.trailing_zeros().min(16);
            let room = (last - from + 1).ilog2();
            let free = aligned.min(room);
            prefixes.push(Self {
                port: u16::try_from(from).unwrap_or(u16::MAX),
                bits: u8::try_from(16 - free).unwrap_or(16),
            });
            from += 1 << free;
        }
        prefixes
    }
}

/// What an entry does with a flow; a later one is stronger where two match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryVerdict {
    /// Lets it pass, though no rule allows it: default deny that is only audited.
    AuditDefault,
    /// Lets it pass.
    Allow,
    /// Lets it pass, though a rule denies it that is only audited.
    AuditDeny,
    /// Drops a datagram and says so to its sender: over TCP it would have to name what it asks for.
    Refuse,
    /// Sends it to a proxy.
    Redirect(Proxy),
    /// Drops it for want of authentication.
    FailAuthentication,
    /// Drops it.
    Deny,
}

/// Which proxy a flow is sent to; a later one wins where two match (Cilium's listener priorities).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proxy {
    /// Whatever is spoken, it must be to a name that `toFQDNs` allow ([`crate::NameBinding`]).
    Names,
    /// Questions are judged.
    Dns,
    /// Server names are judged.
    Tls,
    /// Requests are judged.
    Http,
}

impl EntryVerdict {
    /// Whether the flow goes on, by itself or through a proxy.
    #[must_use]
    pub const fn passes(self) -> bool {
        match self {
            Self::AuditDefault | Self::Allow | Self::AuditDeny | Self::Redirect(_) => true,
            Self::Refuse | Self::FailAuthentication | Self::Deny => false,
        }
    }

    /// Whether policy would have dropped it, were it not only audited.
    #[must_use]
    pub const fn is_audited(self) -> bool {
        match self {
            Self::AuditDefault | Self::AuditDeny => true,
            Self::Allow
            | Self::Refuse
            | Self::Redirect(_)
            | Self::FailAuthentication
            | Self::Deny => false,
        }
    }
}

/// A flow's side of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The direction seen from the endpoint.
    pub direction: Direction,
    /// The peer.
    pub identity: Identity,
    /// The IANA protocol number.
    pub protocol: u8,
    /// The destination port, or the type of ICMP; 0 for other protocols.
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

impl Decision {
    /// No entry: denied by default.
    pub const DEFAULT_DENY: Self = Self {
        verdict: EntryVerdict::Deny,
        matched: MatchType::None,
        rule: RuleId::NONE,
    };

    /// Of an endpoint that reaches itself through a service: allowed, by no rule.
    pub const OWN: Self = Self {
        verdict: EntryVerdict::Allow,
        matched: MatchType::None,
        rule: RuleId::NONE,
    };

    /// Cilium's drop reason, if the flow is dropped: 133 without an entry, 180 since no
    /// proxy reads it, 181 by a deny entry, 189 for want of authentication.
    #[must_use]
    pub const fn drop_reason(&self) -> Option<u8> {
        match (self.verdict, self.matched) {
            (EntryVerdict::Deny, MatchType::None) => Some(133),
            (EntryVerdict::Deny, _) => Some(181),
            (EntryVerdict::Refuse, _) => Some(180),
            (EntryVerdict::FailAuthentication, _) => Some(189),
            (
                EntryVerdict::AuditDefault
                | EntryVerdict::Allow
                | EntryVerdict::AuditDeny
                | EntryVerdict::Redirect(_),
                _,
            ) => None,
        }
    }
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
            && self.ports.contains(flow.port)
    }

    /// The form of the entry.
    #[must_use]
    pub fn match_type(&self) -> MatchType {
        match (
            self.identity == Identity::ANY,
            self.protocol,
            self.ports.bits,
        ) {
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
        let l4 = (entry.protocol != 0, entry.ports.bits);
        (entry.verdict, l4, entry.identity != Identity::ANY)
    };
    covering
        .max_by_key(rank)
        .map_or(Decision::DEFAULT_DENY, |entry| Decision {
            verdict: entry.verdict,
            matched: if entry.verdict == EntryVerdict::AuditDefault {
                MatchType::None
            } else {
                entry.match_type()
            },
            rule: entry.rule,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_split_into_the_ports_that_it_has() {
        for (first, last) in [
            (0, 65535),
            (80, 80),
            (80, 90),
            (1, 65535),
            (1023, 1025),
            (0, 0),
        ] {
            let prefixes = PortPrefix::of_range(first, last);
            for port in 0..=u16::MAX {
                let count = prefixes.iter().filter(|one| one.contains(port)).count();
                assert_eq!(count, usize::from((first..=last).contains(&port)), "{port}");
            }
            assert!(prefixes.len() <= 30);
            let ranges = prefixes.iter().map(|one| one.range());
            let count = ranges.map(|(first, last)| u32::from(last - first) + 1);
            assert_eq!(count.sum::<u32>(), u32::from(last - first) + 1);
        }
        assert_eq!(PortPrefix::of_range(0, 65535), [PortPrefix::ALL]);
        assert_eq!(PortPrefix::of_range(7, 7), [PortPrefix::exact(7)]);
        assert_eq!(PortPrefix::of_range(8, 7), []);
    }

    #[test]
    fn what_is_left_of_ports_is_what_the_others_have_not() {
        let [dns, web, all] = [
            PortPrefix::exact(53),
            PortPrefix::exact(80),
            PortPrefix::ALL,
        ];
        let block = PortPrefix { port: 64, bits: 11 };
        for (from, others, most) in [
            (all, &[dns][..], 16),
            (all, &[dns, web], 30),
            (all, &[dns, block], 30),
            (block, &[web], 5),
            (block, &[dns], 1),
            (block, &[all, dns], 0),
            (web, &[block], 0),
            (web, &[web], 0),
            (web, &[], 1),
        ] {
            let left = from.without(others);
            for port in 0..=u16::MAX {
                let count = left.iter().filter(|one| one.contains(port)).count();
                let is_left = from.contains(port) && !others.iter().any(|one| one.contains(port));
                assert_eq!(count, usize::from(is_left), "{from:?} {others:?} {port}");
            }
            assert!(left.len() <= most, "{from:?} {others:?}: {left:?}");
        }
    }
}
