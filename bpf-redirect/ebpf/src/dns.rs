//! Where questions are asked.

use bpf_redirect_common::DNS_PORT;

use crate::maps::DNS_PORTS;

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
