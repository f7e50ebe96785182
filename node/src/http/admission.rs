//! The verdict on a connection where no program of the kernel has judged it: by the same entries that the
//! kernel would have, and told in the same way.

use std::net::{IpAddr, SocketAddr};

use bpf_redirect_common::{Address, Drop, EGRESS, Event, EventKind, Match, Verdict};
use httpproxy::Redirected;
use policy::{
    Decision, Direction, EndpointId, EntryVerdict, FlowKey, Identity, L4Protocol, MatchType, decide,
};
use transport::DroppedPacket;

use crate::clock;
use crate::flows::{News, NewsSink};
use crate::guard::SharedLearner;

/// What an endpoint began: a connection, or a packet.
#[derive(Clone, Copy)]
struct Begun {
    endpoint: EndpointId,
    client: SocketAddr,
    server: SocketAddr,
    protocol: u8,
}

/// Judges, and tells. Only what an endpoint itself begins comes this way.
pub(super) fn admits(
    (learner, news): (&SharedLearner, &NewsSink),
    redirected: &Redirected,
) -> bool {
    if redirected.direction != Direction::Egress {
        return false;
    }
    let begun = Begun {
        endpoint: redirected.endpoint,
        client: redirected.client,
        server: redirected.server,
        protocol: L4Protocol::Tcp.number(),
    };
    let (identity, decision) = judge(learner, begun);
    let told = verdict(&decision);
    news.tell(News::Kernel(event((begun, identity), &decision, told)));
    decision.verdict.passes()
}

/// Tells of a packet that was dropped, whatever policy says of it: by the rule that denies it, else by none.
pub(crate) fn tell_dropped(
    (learner, news): (&SharedLearner, &NewsSink),
    (endpoint, is_own): (EndpointId, bool),
    packet: &DroppedPacket,
) {
    let begun = Begun {
        endpoint,
        client: SocketAddr::new(packet.source, packet.ports.0),
        server: SocketAddr::new(packet.destination, packet.ports.1),
        protocol: packet.protocol,
    };
    let (identity, decision) = judge(learner, begun);
    let (verdict, reason) = verdict(&decision);
    let event = match verdict {
        _ if !is_own => Event {
            kind: EventKind::Drop as u8,
            ..event(
                (begun, identity),
                &Decision::DEFAULT_DENY,
                (Verdict::Deny, Drop::InvalidSourceIp as u8),
            )
        },
        Verdict::Deny => event((begun, identity), &decision, (verdict, reason)),
        Verdict::Unmatched
        | Verdict::Allow
        | Verdict::AuditUnmatched
        | Verdict::AuditDeny
        | Verdict::Redirect
        | Verdict::Refuse
        | Verdict::FailAuthentication => event(
            (begun, identity),
            &Decision::DEFAULT_DENY,
            (Verdict::Unmatched, Drop::PolicyDenied as u8),
        ),
    };
    news.tell(News::Kernel(event));
}

fn judge(learner: &SharedLearner, begun: Begun) -> (Identity, Decision) {
    let (endpoint, server) = (begun.endpoint, begun.server);
    let snapshot = learner.snapshot();
    let learned = learned(learner, endpoint, server.ip());
    let identity = learned.unwrap_or_else(|| snapshot.identity_of(server.ip()));
    let mut entries = snapshot.entries(endpoint).unwrap_or_default();
    if learned.is_some() {
        let labels = learner.with_identities(|all| all.labels_of(identity).cloned());
        let of = |labels| snapshot.entries_for(endpoint, &labels, identity);
        entries.extend(labels.map(of).unwrap_or_default());
    }
    let flow = FlowKey {
        direction: Direction::Egress,
        identity,
        protocol: begun.protocol,
        port: server.port(),
    };
    (identity, decide(&entries, flow))
}

fn learned(learner: &SharedLearner, endpoint: EndpointId, ip: IpAddr) -> Option<Identity> {
    let address = Address::from(ip);
    let number =
        learner.with_knowledge(endpoint, |knowledge| knowledge.ledger.identity_of(address));
    number.flatten().map(Identity::from_number)
}

/// The verdict as the kernel tells it, with its reason.
fn verdict(decision: &Decision) -> (Verdict, u8) {
    match decision.verdict {
        // It is in the proxy already.
        EntryVerdict::Allow | EntryVerdict::Redirect(_) => (Verdict::Redirect, 0),
        EntryVerdict::AuditDefault => (Verdict::AuditUnmatched, 0),
        EntryVerdict::AuditDeny => (Verdict::AuditDeny, 0),
        EntryVerdict::Deny if decision.matched == MatchType::None => {
            (Verdict::Unmatched, Drop::PolicyDenied as u8)
        }
        EntryVerdict::Deny | EntryVerdict::FailAuthentication | EntryVerdict::Refuse => {
            (Verdict::Deny, Drop::PolicyDeny as u8)
        }
    }
}

fn event(
    (begun, identity): (Begun, Identity),
    decision: &Decision,
    (verdict, reason): (Verdict, u8),
) -> Event {
    let Begun {
        endpoint,
        client,
        server,
        protocol,
    } = begun;
    Event {
        at: clock::boot_ns(),
        endpoint: endpoint.get(),
        identity: identity.get(),
        rule: decision.rule.get(),
        source: Address::from(client.ip()),
        destination: Address::from(server.ip()),
        source_port: client.port().to_be(),
        destination_port: server.port().to_be(),
        kind: EventKind::Verdict as u8,
        direction: EGRESS,
        protocol,
        tcp_flags: 0,
        verdict: verdict as u8,
        matched: u8::try_from(decision.matched.number()).unwrap_or(Match::None as u8),
        reason,
        family: if server.is_ipv4() { 4 } else { 6 },
        source_mac: [0; 6],
        destination_mac: [0; 6],
        reserved: 0,
    }
}
