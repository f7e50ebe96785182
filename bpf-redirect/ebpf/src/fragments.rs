//! Fragments of what passes: only the first of a packet has ports, and the later ones follow it.

use aya_ebpf::{
    bindings::__sk_buff, helpers::generated::bpf_ktime_get_boot_ns, programs::TcContext,
};
use bpf_redirect_common::{FRAGMENTS_AGE_NS_MAX, FirstFragment, FragmentKey};

use crate::{
    maps::FRAGMENT,
    packet::{Packet, fragment_id},
};

/// What the fragments of a packet share.
#[inline(always)]
pub fn key(ctx: &TcContext, endpoint: u32, packet: &Packet) -> Option<FragmentKey> {
    Some(FragmentKey {
        endpoint,
        id: fragment_id(ctx, packet)?,
        source: packet.source,
        destination: packet.destination,
        protocol: if packet.family == 4 { u32::from(packet.protocol) } else { 0 },
    })
}

/// Remembers a first fragment that passes, of a flow with this peer.
#[inline(always)]
pub fn begin(ctx: &TcContext, endpoint: u32, packet: &Packet, identity: u32) {
    begin_part(ctx.skb.skb, endpoint, packet, identity);
}

/// The identity of the peer, if the first fragment that a later one belongs to passed.
#[inline(always)]
pub fn follows(ctx: &TcContext, endpoint: u32, packet: &Packet) -> Option<u32> {
    let found = first_part(ctx.skb.skb, endpoint, packet);
    (found & FOUND != 0).then_some(found as u32)
}

/// Beside the identity.
const FOUND: u64 = 1 << 32;

/// These are functions that the verifier looks at by themselves, as `strongest` in `policy.rs`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn begin_part(
    skb: *mut __sk_buff,
    endpoint: u32,
    packet: *const Packet,
    identity: u32,
) -> u32 {
    // SAFETY: the verifier takes it for a whole packet, or for nothing.
    let Some(packet) = (unsafe { packet.as_ref() }) else {
        return 0;
    };
    let Some(key) = key(&TcContext::new(skb), endpoint, packet) else {
        return 0;
    };
    // SAFETY: no arguments, no effects.
    let at = unsafe { bpf_ktime_get_boot_ns() };
    let first = FirstFragment { at, identity, reserved: 0 };
    // An LRU: not written, the later ones are judged without their ports.
    FRAGMENT.insert(&key, &first, 0).is_ok().into()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn first_part(skb: *mut __sk_buff, endpoint: u32, packet: *const Packet) -> u64 {
    // SAFETY: as in `begin_part`.
    let Some(packet) = (unsafe { packet.as_ref() }) else {
        return 0;
    };
    let Some(key) = key(&TcContext::new(skb), endpoint, packet) else {
        return 0;
    };
    // SAFETY: plain integers that are read once.
    let Some(first) = (unsafe { FRAGMENT.get(&key) }) else {
        return 0;
    };
    // SAFETY: no arguments, no effects.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    match now.wrapping_sub(first.at) < FRAGMENTS_AGE_NS_MAX {
        true => FOUND | u64::from(first.identity),
        false => 0,
    }
}
