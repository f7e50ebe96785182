//! The verdict of an endpoint's policy map.

use bpf_redirect_common::{Match, PolicyKey, Verdict};

use crate::maps::POLICY;

/// A verdict, and what made it.
pub struct Judgement {
    pub verdict: Verdict,
    pub matched: Match,
    pub rule: u32,
}

/// What is judged: a flow's first packet, seen from the endpoint.
pub struct Flow {
    pub identity: u32,
    /// Destination port, network byte order; 0 where there is none.
    pub port: u16,
    pub protocol: u8,
    pub direction: u8,
}

/// Asks all entries that can match and takes the strongest verdict; among equal ones the longer
/// protocol and port, then the specific identity. `None`: the endpoint has no
/// policy map, nothing may pass.
#[inline(always)]
pub fn judge(endpoint: u32, flow: &Flow) -> Option<Judgement> {
    // SAFETY: the inner map is only asked, by helpers.
    let map = unsafe { POLICY.get(&endpoint) }?;
    let mut best = Judgement { verdict: Verdict::Unmatched, matched: Match::None, rule: 0 };
    // From the longest port match to the shortest, specific identity before any.
    let candidates = [
        (flow.identity, flow.protocol, flow.port, Match::L3L4),
        (0, flow.protocol, flow.port, Match::L4Only),
        (flow.identity, flow.protocol, 0, Match::L3Proto),
        (0, flow.protocol, 0, Match::ProtoOnly),
        (flow.identity, 0, 0, Match::L3Only),
        (0, 0, 0, Match::All),
    ];
    let mut index = 0;
    while index < candidates.len() {
        let (identity, protocol, port, matched) = candidates[index];
        index += 1;
        // The first two name a port; without one they would repeat the next two.
        if port == 0 && matches!(matched, Match::L3L4 | Match::L4Only) {
            continue;
        }
        let key = PolicyKey { identity, port, protocol, direction: flow.direction };
        // SAFETY: plain integers; a torn read can't happen, entries are replaced, not written to.
        if let Some(value) = unsafe { map.get(&key) } {
            let verdict = Verdict::from_number(value.verdict);
            if verdict as u8 > best.verdict as u8 {
                best = Judgement { verdict, matched, rule: value.rule };
            }
            // Its entry stands for want of one.
            if best.verdict as u8 == Verdict::AuditUnmatched as u8 {
                best.matched = Match::None;
            }
        }
    }
    Some(best)
}
