//! Where questions are asked.

use bpf_redirect_common::DNS_PORT;

use crate::{
    conntrack::Known,
    maps::DNS_PORTS,
    packet::{Packet, UDP},
};

/// Whether what answers in a flow that passes may be a query all the same, and is judged too: whoever sends
/// from a port of DNS, be it a late answer, would else open a way round the proxy. Over TCP the one who began is
/// known by the SYN.
#[inline(always)]
pub fn may_ask(known: &Known, packet: &Packet) -> bool {
    known.is_reply && packet.protocol == UDP && is_port(packet.destination_port)
}

/// Whether a port, in network byte order, is one of DNS: 53, or one that a rule names.
#[inline(always)]
pub fn is_port(port: u16) -> bool {
    if port == DNS_PORT.to_be() {
        return true;
    }
    let port = u32::from(u16::from_be(port));
    match DNS_PORTS.get(port / 64) {
        Some(word) => word >> (port % 64) & 1 != 0,
        None => false,
    }
}
