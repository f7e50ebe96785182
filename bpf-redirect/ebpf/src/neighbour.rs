//! How hosts of a link find each other: ARP, and the messages of ICMPv6 by which neighbours and listeners are
//! discovered. No policy is about it, so nothing may leave the link in its name.

use bpf_redirect_common::{Drop, EndpointAddress};

use crate::{
    maps::NEIGHBOUR,
    packet::{ICMPV6, Packet, stays_on_link},
    tell::{self, Place},
};

/// What the workload sends: to its link, or to somebody who is on it. A router passes on what is sent to others.
#[inline(always)]
pub fn sent(place: &Place, packet: &mut Packet) -> Result<(), Drop> {
    if may_be_sent(place.endpoint, packet) != 0 {
        return Ok(());
    }
    packet.family = 6;
    Err(tell::dropped(place, packet, Drop::ForbiddenIcmpv6))
}

/// Remembers who sends to the workload: no router passed it on, or it would have counted its hop.
#[inline(always)]
pub fn received(endpoint: u32, packet: &Packet) {
    remember_sender(endpoint, packet);
}

/// These are functions that the verifier looks at by themselves, as `strongest` in `policy.rs`, and with a stack
/// of their own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn may_be_sent(endpoint: u32, packet: *const Packet) -> u32 {
    // SAFETY: the verifier takes it for a whole packet, or for nothing.
    let Some(packet) = (unsafe { packet.as_ref() }) else {
        return 0;
    };
    let is_arp = packet.protocol != ICMPV6;
    let key = EndpointAddress { endpoint, address: packet.destination };
    let may = is_arp || stays_on_link(packet.destination) || NEIGHBOUR.get_ptr(&key).is_some();
    may.into()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn remember_sender(endpoint: u32, packet: *const Packet) -> u32 {
    // SAFETY: as in `may_be_sent`.
    let Some(packet) = (unsafe { packet.as_ref() }) else {
        return 0;
    };
    let key = EndpointAddress { endpoint, address: packet.source };
    let is_arp = packet.protocol != ICMPV6;
    if is_arp || stays_on_link(packet.source) || NEIGHBOUR.get_ptr(&key).is_some() {
        return 0;
    }
    // An LRU: not written, the workload's answer is dropped, and it is asked again.
    NEIGHBOUR.insert(&key, &1, 0).is_ok().into()
}
