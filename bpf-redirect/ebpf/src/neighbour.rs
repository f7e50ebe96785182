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
    let is_arp = packet.protocol != ICMPV6;
    if is_arp || stays_on_link(packet.destination) || is_on_link(place.endpoint, packet) {
        return Ok(());
    }
    packet.family = 6;
    Err(tell::dropped(place, packet, Drop::ForbiddenIcmpv6))
}

/// Remembers who sends to the workload: no router passed it on, or it would have counted its hop.
#[inline(always)]
pub fn received(endpoint: u32, packet: &Packet) {
    if packet.protocol != ICMPV6 || stays_on_link(packet.source) {
        return;
    }
    let key = EndpointAddress { endpoint, address: packet.source };
    if NEIGHBOUR.get_ptr(&key).is_none() {
        // An LRU: not written, the workload's answer is dropped, and it is asked again.
        let _ = NEIGHBOUR.insert(&key, &1, 0);
    }
}

#[inline(always)]
fn is_on_link(endpoint: u32, packet: &Packet) -> bool {
    let key = EndpointAddress { endpoint, address: packet.destination };
    NEIGHBOUR.get_ptr(&key).is_some()
}
