//! Counters and events.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use bpf_redirect_common::{
    Counter, Drop, EVENTS_PER_SECOND_MAX, Event, EventBudget, EventKind, TRACES_PER_SECOND_MAX,
    TracePoint, TraceReason, Verdict,
};

use crate::{
    maps::{COUNTERS, EVENT_BUDGET, EVENTS},
    packet::{ICMP, ICMPV6, Packet},
    policy::Judgement,
};

const SECOND_NS: u64 = 1_000_000_000;

/// Counts in a slot: a drop reason or a [`Counter`].
#[inline(always)]
pub fn count(slot: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(slot) {
        // SAFETY: the slot is this CPU's own.
        unsafe { *value += 1 };
    }
}

/// Who judged, and which way the packet went.
pub struct Place {
    pub endpoint: u32,
    pub direction: u8,
}

/// What is told of a packet.
struct Said {
    kind: EventKind,
    identity: u32,
    rule: u32,
    verdict: Verdict,
    /// A [`Match`](bpf_redirect_common::Match), or a [`TracePoint`].
    matched: u8,
    /// A [`Drop`], or a [`TraceReason`].
    reason: u8,
}

/// Tells of a drop for which no policy was asked; gives the reason back.
#[inline(always)]
pub fn dropped(place: &Place, packet: &Packet, reason: Drop) -> Drop {
    let said = Said {
        kind: EventKind::Drop,
        identity: 0,
        rule: 0,
        verdict: Verdict::Unmatched,
        matched: 0,
        reason: reason as u8,
    };
    emit(place, packet, &said);
    reason
}

/// Tells of a verdict on a new flow, and of the drop that follows a denial.
#[inline(always)]
pub fn judged(place: &Place, packet: &Packet, identity: u32, judgement: &Judgement) {
    let reason = match judgement.verdict {
        Verdict::Allow | Verdict::Redirect | Verdict::AuditUnmatched | Verdict::AuditDeny => 0,
        Verdict::Unmatched | Verdict::Refuse | Verdict::FailAuthentication | Verdict::Deny => {
            judgement.reason(packet.fragment) as u8
        }
    };
    let verdict = Said {
        kind: EventKind::Verdict,
        identity,
        rule: judgement.rule,
        verdict: judgement.verdict,
        matched: judgement.matched,
        reason,
    };
    emit(place, packet, &verdict);
    if reason != 0 {
        emit(
            place,
            packet,
            &Said {
                kind: EventKind::Drop,
                ..verdict
            },
        );
    }
}

/// Tells that a packet passes.
#[inline(always)]
pub fn traced(place: &Place, packet: &Packet, identity: u32, what: (TracePoint, TraceReason)) {
    let (point, reason) = what;
    let said = Said {
        kind: EventKind::Trace,
        identity,
        rule: 0,
        verdict: Verdict::Allow,
        matched: point as u8,
        reason: reason as u8,
    };
    emit(place, packet, &said);
}

#[inline(never)]
fn emit(place: &Place, packet: &Packet, said: &Said) {
    // SAFETY: no arguments, no effects.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let most = match said.kind {
        EventKind::Trace => TRACES_PER_SECOND_MAX,
        EventKind::Verdict | EventKind::Drop => EVENTS_PER_SECOND_MAX,
    };
    if !spend(place.endpoint, (now, most)) {
        count(Counter::EventsLimited as u32);
        return;
    }
    let Some(mut entry) = EVENTS.reserve_untyped::<Event>(0) else {
        count(Counter::EventsLost as u32);
        return;
    };
    let (source_port, destination_port) = match packet.protocol {
        ICMP | ICMPV6 => (packet.icmp, packet.icmp),
        _ => (packet.source_port, packet.destination_port),
    };
    entry.write(Event {
        at: now,
        endpoint: place.endpoint,
        identity: said.identity,
        rule: said.rule,
        source: packet.source,
        destination: packet.destination,
        source_port,
        destination_port,
        kind: said.kind as u8,
        direction: place.direction,
        protocol: packet.protocol,
        tcp_flags: packet.tcp_flags,
        verdict: said.verdict as u8,
        matched: said.matched,
        reason: said.reason,
        family: packet.family,
    });
    entry.submit(0);
}

/// Whether the endpoint may tell one more event in this second.
#[inline(always)]
fn spend(endpoint: u32, (now, most): (u64, u64)) -> bool {
    let Some(budget) = EVENT_BUDGET.get_ptr_mut(&endpoint) else {
        return EVENT_BUDGET
            .insert(
                &endpoint,
                &EventBudget {
                    since: now,
                    told: 1,
                },
                0,
            )
            .is_ok();
    };
    // SAFETY: racing CPUs may tell a few more than the budget.
    unsafe {
        if now.wrapping_sub((*budget).since) > SECOND_NS {
            *budget = EventBudget {
                since: now,
                told: 0,
            };
        }
        if (*budget).told >= most {
            return false;
        }
        (*budget).told += 1;
        true
    }
}
