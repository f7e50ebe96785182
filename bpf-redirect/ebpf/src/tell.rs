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

#[inline(always)]
fn emit(place: &Place, packet: &Packet, said: &Said) {
    let who = u64::from(place.endpoint) << 32 | u64::from(said.identity);
    let what = said.kind as u64
        | u64::from(place.direction) << 8
        | (said.verdict as u64) << 16
        | u64::from(said.matched) << 24
        | u64::from(said.reason) << 32;
    emit_event(packet, who, said.rule, what);
}

/// Puts an event into the ring, if the endpoint may tell one more. Endpoint and identity in one number; kind,
/// direction, verdict, match and reason in another.
///
/// A function that the verifier looks at by itself, as `strongest` in `policy.rs`: there are ten ways to it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emit_event(packet: *const Packet, who: u64, rule: u32, what: u64) -> u32 {
    // SAFETY: the verifier takes it for a whole packet, or for nothing.
    let Some(packet) = (unsafe { packet.as_ref() }) else {
        return 0;
    };
    let kind = what as u8;
    let endpoint = (who >> 32) as u32;
    // SAFETY: no arguments, no effects.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let most = match kind == EventKind::Trace as u8 {
        true => TRACES_PER_SECOND_MAX,
        false => EVENTS_PER_SECOND_MAX,
    };
    if !spend(endpoint, (now, most)) {
        count(Counter::EventsLimited as u32);
        return 0;
    }
    let Some(mut entry) = EVENTS.reserve_untyped::<Event>(0) else {
        count(Counter::EventsLost as u32);
        return 0;
    };
    let (source_port, destination_port) = match packet.protocol {
        ICMP | ICMPV6 => (packet.icmp, packet.icmp),
        _ => (packet.source_port, packet.destination_port),
    };
    // Field by field: on its way it would take 88 octets of the stack.
    let event = entry.as_mut_ptr();
    // SAFETY: the entry has room for an event.
    unsafe {
        (*event).at = now;
        (*event).endpoint = endpoint;
        (*event).identity = who as u32;
        (*event).rule = rule;
        (*event).source = packet.source;
        (*event).destination = packet.destination;
        (*event).source_port = source_port;
        (*event).destination_port = destination_port;
        (*event).kind = kind;
        (*event).direction = (what >> 8) as u8;
        (*event).protocol = packet.protocol;
        (*event).tcp_flags = packet.tcp_flags;
        (*event).verdict = (what >> 16) as u8;
        (*event).matched = (what >> 24) as u8;
        (*event).reason = (what >> 32) as u8;
        (*event).family = packet.family;
        (*event).source_mac = packet.source_mac;
        (*event).destination_mac = packet.destination_mac;
        (*event).reserved = 0;
    }
    entry.submit(0);
    1
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
