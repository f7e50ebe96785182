//! What one flow filter asks: all kinds of terms must hold, one term of each kind is enough.

use std::sync::Arc;

use super::pattern::{NamePattern, PodPattern};
use crate::drop_reason::DropReason;
use crate::endpoint::Endpoint;
use crate::flow::Flow;
use crate::packet::L4;
use crate::uuid::Uuid;
use crate::verdict::{Direction, Verdict};

/// The terms; an empty list asks nothing.
#[derive(Clone, Default, Debug)]
pub(super) struct Terms {
    pub(super) source: PeerTerms,
    pub(super) destination: PeerTerms,
    pub(super) verdicts: Vec<Verdict>,
    /// Type, and sub type if it is asked; type 0 is any.
    pub(super) types: Vec<(u32, Option<u32>)>,
    pub(super) protocols: Vec<Protocol>,
    pub(super) directions: Vec<Direction>,
    pub(super) drop_reasons: Vec<DropReason>,
    pub(super) uuids: Vec<Uuid>,
}

/// What is asked of one peer.
#[derive(Clone, Default, Debug)]
pub(super) struct PeerTerms {
    pub(super) pods: Vec<PodPattern>,
    pub(super) names: Vec<NamePattern>,
    pub(super) ports: Vec<u16>,
    pub(super) identities: Vec<u32>,
}

/// A value of `--protocol`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Icmpv4,
    Icmpv6,
    Dns,
    Http,
    /// One that no flow of ours has.
    Foreign,
}

impl Protocol {
    pub(super) fn of(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "sctp" => Self::Sctp,
            "icmp" => Self::Icmp,
            "icmpv4" => Self::Icmpv4,
            "icmpv6" => Self::Icmpv6,
            "dns" => Self::Dns,
            "http" => Self::Http,
            "kafka" | "vrrp" | "igmp" => Self::Foreign,
            _ => return None,
        })
    }

    fn matches(self, flow: &Flow) -> bool {
        match self {
            Self::Tcp => matches!(flow.l4, Some(L4::Tcp { .. })),
            Self::Udp => matches!(flow.l4, Some(L4::Udp { .. })),
            Self::Sctp => matches!(flow.l4, Some(L4::Sctp { .. })),
            Self::Icmp => matches!(flow.l4, Some(L4::Icmpv4 { .. } | L4::Icmpv6 { .. })),
            Self::Icmpv4 => matches!(flow.l4, Some(L4::Icmpv4 { .. })),
            Self::Icmpv6 => matches!(flow.l4, Some(L4::Icmpv6 { .. })),
            Self::Dns => flow.dns().is_some(),
            Self::Http => flow.http().is_some(),
            Self::Foreign => false,
        }
    }
}

impl Terms {
    pub(super) fn matches(&self, flow: &Flow) -> bool {
        let ports = flow.l4.and_then(L4::ports);
        let (source_port, destination_port) = ports.unzip();
        holds(&self.verdicts, |verdict| *verdict == flow.verdict)
            && holds(&self.types, |asked| is_type(*asked, flow))
            && holds(&self.protocols, |protocol| protocol.matches(flow))
            && holds(&self.directions, |direction| {
                *direction == flow.traffic_direction
            })
            && holds(&self.drop_reasons, |reason| is_dropped_for(*reason, flow))
            && holds(&self.uuids, |uuid| flow.uuid == Some(*uuid))
            && self
                .source
                .matches(&flow.source, &flow.source_names, source_port)
            && self.destination.matches(
                &flow.destination,
                &flow.destination_names,
                destination_port,
            )
    }
}

impl PeerTerms {
    fn matches(&self, peer: &Endpoint, names: &[Arc<str>], port: Option<u16>) -> bool {
        holds(&self.pods, |pod| {
            pod.matches(&peer.namespace, &peer.pod_name)
        }) && holds(&self.names, |pattern| {
            names.iter().any(|name| pattern.matches(name))
        }) && holds(&self.ports, |asked| port == Some(*asked))
            && holds(&self.identities, |identity| *identity == peer.identity)
    }
}

fn holds<T>(asked: &[T], is_it: impl Fn(&T) -> bool) -> bool {
    asked.is_empty() || asked.iter().any(is_it)
}

fn is_type((number, sub_number): (u32, Option<u32>), flow: &Flow) -> bool {
    let same_sub = sub_number.is_none_or(|asked| asked == flow.event.sub_number());
    number == 0 || (number == flow.event.number() && same_sub)
}

/// Of drops and of denied verdicts alike; nothing else has a reason.
fn is_dropped_for(reason: DropReason, flow: &Flow) -> bool {
    let told = flow.drop_reason().unwrap_or(DropReason::UNKNOWN);
    flow.verdict == Verdict::Dropped && told == reason
}
