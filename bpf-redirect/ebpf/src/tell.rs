//! Counters and events.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use bpf_redirect_common::{
    Counter, Drop, EVENTS_PER_SECOND_MAX, Event, EventBudget, EventKind, Match, Verdict,
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

/// Tells of a drop for which no policy was asked; gives the reason back.
#[inline(always)]
pub fn dropped(place: &Place, packet: &Packet, reason: Drop) -> Drop {
    let judgement = Judgement { verdict: Verdict::Unmatched, matched: Match::None as u8, rule: 0 };
    emit(place, packet, EventKind::Drop, (0, &judgement, reason as u8));
    reason
}

/// Tells of a verdict on a new flow, and of the drop that follows a denial.
#[inline(always)]
pub fn judged(place: &Place, packet: &Packet, identity: u32, judgement: &Judgement) {
    let reason = match judgement.verdict {
        Verdict::Allow | Verdict::Redirect | Verdict::AuditUnmatched | Verdict::AuditDeny => 0,
        Verdict::Unmatched | Verdict::FailAuthentication | Verdict::Deny => {
            judgement.reason(packet.fragment) as u8
        }
    };
    emit(place, packet, EventKind::Verdict, (identity, judgement, reason));
    if reason != 0 {
        emit(place, packet, EventKind::Drop, (identity, judgement, reason));
    }
}

#[inline(never)]
fn emit(place: &Place, packet: &Packet, kind: EventKind, what: (u32, &Judgement, u8)) {
    // SAFETY: no arguments, no effects.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if !spend(place.endpoint, now) {
        count(Counter::EventsLimited as u32);
        return;
    }
    let (identity, judgement, reason) = what;
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
        identity,
        rule: judgement.rule,
        source: packet.source,
        destination: packet.destination,
        source_port,
        destination_port,
        kind: kind as u8,
        direction: place.direction,
        protocol: packet.protocol,
        tcp_flags: packet.tcp_flags,
        verdict: judgement.verdict as u8,
        matched: judgement.matched,
        reason,
        family: packet.family,
    });
    entry.submit(0);
}

/// Whether the endpoint may tell one more event in this second.
#[inline(always)]
fn spend(endpoint: u32, now: u64) -> bool {
    let Some(budget) = EVENT_BUDGET.get_ptr_mut(&endpoint) else {
        return EVENT_BUDGET.insert(&endpoint, &EventBudget { since: now, told: 1 }, 0).is_ok();
    };
    // SAFETY: racing CPUs may tell a few more than the budget.
    unsafe {
        if now.wrapping_sub((*budget).since) > SECOND_NS {
            *budget = EventBudget { since: now, told: 0 };
        }
        (*budget).told += 1;
        (*budget).told <= EVENTS_PER_SECOND_MAX
    }
}
