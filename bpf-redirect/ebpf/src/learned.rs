//! Whose identity an address has.

use aya_ebpf::btf_maps::lpm_trie::Key;
use bpf_redirect_common::{Address, EndpointAddress};

use crate::maps::{IPCACHE, LEARNED};

/// The identity of a peer: what this endpoint learned first, then the longest prefix. 0 if nothing
/// is known: then only entries for any identity match.
#[inline(always)]
pub fn identity(endpoint: u32, peer: Address) -> u32 {
    let key = EndpointAddress {
        endpoint,
        address: peer,
    };
    // SAFETY: the value is a word that is read once.
    if let Some(identity) = unsafe { LEARNED.get(&key) } {
        return *identity;
    }
    match IPCACHE.get(&Key::new(128, peer)) {
        Some(identity) => *identity,
        None => 0,
    }
}
