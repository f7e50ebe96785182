//! The verdict on a connection where no program of the kernel has judged it: by the same entries that the
//! kernel would have, and told in the same way.

use bpf_redirect_common::{Address, Drop, EGRESS, Event, EventKind, Match, Verdict};
use httpproxy::Redirected;
use policy::{
    Decision, Direction, EndpointId, EntryVerdict, FlowKey, Identity, L4Protocol, MatchType, decide,
};

use crate::clock;
use crate::flows::{News, NewsSink};
use crate::guard::SharedLearner;

/// Judges, and tells. Only what an endpoint itself begins comes this way.
pub(super) fn admits(
    (learner, news): (&SharedLearner, &NewsSink),
    redirected: &Redirected,
) -> bool {
    if redirected.direction != Direction::Egress {
        return false;
    }
    let (identity, decision) = judge(learner, redirected);
    news.tell(News::Kernel(event(redirected, identity, &decision)));
    decision.verdict.passes()
}

fn judge(learner: &SharedLearner, redirected: &Redirected) -> (Identity, Decision) {
    let (endpoint, server) = (redirected.endpoint, redirected.server);
    let snapshot = learner.snapshot();
    let learned = learned(learner, endpoint, redirected);
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
        protocol: L4Protocol::Tcp.number(),
        port: server.port(),
    };
    (identity, decide(&entries, flow))
}

fn learned(
    learner: &SharedLearner,
    endpoint: EndpointId,
    redirected: &Redirected,
) -> Option<Identity> {
    let address = Address::from(redirected.server.ip());
    let number =
        learner.with_knowledge(endpoint, |knowledge| knowledge.ledger.identity_of(address));
    number.flatten().map(Identity::from_number)
}

fn event(redirected: &Redirected, identity: Identity, decision: &Decision) -> Event {
    let (verdict, reason) = match decision.verdict {
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
    };
    Event {
        at: clock::boot_ns(),
        endpoint: redirected.endpoint.get(),
        identity: identity.get(),
        rule: decision.rule.get(),
        source: Address::from(redirected.client.ip()),
        destination: Address::from(redirected.server.ip()),
        source_port: redirected.client.port().to_be(),
        destination_port: redirected.server.port().to_be(),
        kind: EventKind::Verdict as u8,
        direction: EGRESS,
        protocol: L4Protocol::Tcp.number(),
        tcp_flags: 0,
        verdict: verdict as u8,
        matched: u8::try_from(decision.matched.number()).unwrap_or(Match::None as u8),
        reason,
        family: if redirected.server.is_ipv4() { 4 } else { 6 },
    }
}
