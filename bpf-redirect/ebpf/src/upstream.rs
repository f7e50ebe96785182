//! The proxy's own flows, which it has in the names of endpoints.

use bpf_redirect_common::{Drop, UpstreamKey};

use crate::{
    maps::{UP_TCP, UP_UDP},
    packet::{Packet, TCP, UDP},
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

/// Whether a packet to the endpoint answers one that the proxy sent in its name. Exact, and filled
/// by [`remember`]: the workload's own flows are never taken for it.
#[inline(always)]
pub fn is_answer(endpoint: u32, packet: &Packet) -> bool {
    let key = UpstreamKey {
        endpoint,
        server_port: packet.source_port,
        local_port: packet.destination_port,
        server: packet.source,
    };
    match packet.protocol {
        UDP => UP_UDP.get_ptr(&key).is_some(),
        TCP => UP_TCP.get_ptr(&key).is_some(),
        _ => false,
    }
}
