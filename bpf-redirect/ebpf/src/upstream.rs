//! The proxy's own flows, which it has in the names of endpoints.

use aya_ebpf::{
    bindings::__sk_buff, helpers::generated::bpf_ktime_get_boot_ns, programs::TcContext,
};
use bpf_redirect_common::{Drop, EGRESS, FRAGMENTS_AGE_NS_MAX, UpstreamKey};

use crate::{
    fragments,
    maps::{UP_FRAGMENT, UP_TCP, UP_UDP, on_stack},
    packet::{Fragment, ICMP, ICMPV6, Packet, Quoted, TCP, TCP_ACK, TCP_SYN, UDP},
};

/// Remembers the flow of a packet that the proxy sends in the endpoint's name.
#[inline(always)]
pub fn remember(endpoint: u32, packet: &Packet) -> Result<(), Drop> {
    let key = UpstreamKey {
        endpoint,
        server_port: packet.destination_port,
        local_port: packet.source_port,
        server: packet.destination,
    };
    // Looked up first: a write for each query would cost as much as the rest of the program.
    let written = match packet.protocol {
        UDP if UP_UDP.get_ptr(&key).is_some() => Ok(()),
        UDP => UP_UDP.insert(&key, &1, 0),
        TCP if UP_TCP.get_ptr(&key).is_some() => Ok(()),
        TCP => UP_TCP.insert(&key, &1, 0),
        _ => return Err(Drop::BadUpstream),
    };
    written.map_err(|_| Drop::BadUpstream)
}

/// Forgets a flow of the proxy's that had the tuple of one which is let through: `way` is the packet's.
#[inline(never)]
pub fn forget(endpoint: u32, packet: &Packet, way: u8) {
    if packet.protocol != TCP {
        return;
    }
    let key = if way == EGRESS {
        UpstreamKey {
            endpoint,
            server_port: packet.destination_port,
            local_port: packet.source_port,
            server: packet.destination,
        }
    } else {
        answered(endpoint, packet)
    };
    // Looked up first: it is hardly ever there.
    if UP_TCP.get_ptr(&key).is_some() {
        let _ = UP_TCP.remove(&key);
    }
}

/// Whether a packet to the endpoint is the proxy's: an answer of one of its flows, a part of one, or an
/// error about one.
#[inline(always)]
pub fn is_for_proxy(
    ctx: &TcContext,
    endpoint: u32,
    packet: &Packet,
    quoted: Option<&Quoted>,
) -> bool {
    match packet.fragment {
        Fragment::Whole if matches!(packet.protocol, ICMP | ICMPV6) => {
            quoted.is_some_and(|quoted| is_error(endpoint, packet, quoted))
        }
        Fragment::Whole => is_answer(endpoint, packet),
        Fragment::First | Fragment::Later => is_part(ctx.skb.skb, endpoint, packet) != 0,
    }
}

/// Whether a fragment is of an answer. A function that the verifier looks at by itself, as `strongest` in
/// `policy.rs`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_part(skb: *mut __sk_buff, endpoint: u32, packet: *const Packet) -> u32 {
    // SAFETY: the verifier takes it for a whole packet, or for nothing.
    let Some(packet) = (unsafe { packet.as_ref() }) else {
        return 0;
    };
    let ctx = TcContext::new(skb);
    let is_part = match packet.fragment {
        Fragment::First => begins_answer(&ctx, endpoint, packet),
        Fragment::Later | Fragment::Whole => continues_answer(&ctx, endpoint, packet),
    };
    is_part.into()
}

/// Whether somebody on the way, or the server, says that what the proxy sent didn't arrive.
#[inline(always)]
fn is_error(endpoint: u32, packet: &Packet, quoted: &Quoted) -> bool {
    let key = UpstreamKey {
        endpoint,
        server_port: quoted.destination_port,
        local_port: quoted.source_port,
        server: quoted.destination,
    };
    quoted.source == packet.destination && is_known(&key, quoted.protocol)
}

#[inline(always)]
fn is_answer(endpoint: u32, packet: &Packet) -> bool {
    // A server opens no connection by answering: what does so is judged.
    packet.tcp_flags & (TCP_SYN | TCP_ACK) != TCP_SYN
        && is_known(&answered(endpoint, packet), packet.protocol)
}

/// The flow that a packet to the endpoint answers.
#[inline(always)]
fn answered(endpoint: u32, packet: &Packet) -> UpstreamKey {
    UpstreamKey {
        endpoint,
        server_port: packet.source_port,
        local_port: packet.destination_port,
        server: packet.source,
    }
}

#[inline(always)]
fn is_known(key: &UpstreamKey, protocol: u8) -> bool {
    is_known_flow(key, protocol.into()) != 0
}

/// A function that the verifier looks at by itself, as `strongest` in `policy.rs`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_known_flow(key: *const UpstreamKey, protocol: u32) -> u32 {
    // SAFETY: the verifier takes it for a whole key, or for nothing.
    let Some(key) = (unsafe { key.as_ref() }) else {
        return 0;
    };
    is_there(&on_stack(key), protocol as u8).into()
}

/// Exact, and filled by [`remember`]: the workload's own flows are never taken for the proxy's.
#[inline(always)]
pub fn is_there(key: &UpstreamKey, protocol: u8) -> bool {
    match protocol {
        UDP => UP_UDP.get_ptr(key).is_some(),
        TCP => UP_TCP.get_ptr(key).is_some(),
        _ => false,
    }
}

/// Whether a first fragment is one of an answer; what it shares with the later ones is remembered. The
/// newest first fragment decides: a sender may use an id again.
#[inline(always)]
fn begins_answer(ctx: &TcContext, endpoint: u32, packet: &Packet) -> bool {
    let Some(key) = fragments::key(ctx, endpoint, packet) else {
        return false;
    };
    if is_answer(endpoint, packet) {
        // SAFETY: no arguments, no effects.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        // An LRU: not written, the later ones are judged as the workload's and the query times out.
        let _ = UP_FRAGMENT.insert(&key, &now, 0);
        return true;
    }
    if UP_FRAGMENT.get_ptr(&key).is_some() {
        let _ = UP_FRAGMENT.remove(&key);
    }
    false
}

/// Whether a later fragment follows the first one of an answer. One that comes before it is judged
/// as any packet to the workload.
#[inline(always)]
fn continues_answer(ctx: &TcContext, endpoint: u32, packet: &Packet) -> bool {
    let Some(key) = fragments::key(ctx, endpoint, packet) else {
        return false;
    };
    // SAFETY: the value is a word that is read once.
    let Some(first) = (unsafe { UP_FRAGMENT.get(&key) }) else {
        return false;
    };
    // SAFETY: no arguments, no effects.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    now.wrapping_sub(*first) < FRAGMENTS_AGE_NS_MAX
}
