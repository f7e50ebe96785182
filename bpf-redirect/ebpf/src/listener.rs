//! The gate's listener for redirected connections to any port.

use aya_ebpf::programs::SkLookupContext;
use bpf_redirect_common::DNS_PORT;

use crate::{maps::LISTENER, packet::TCP};

/// Chooses the listener for a TCP port that has none of its own. Without a daemon there is none to be
/// chosen, and the segment finds nobody.
#[inline(always)]
pub fn choose(ctx: &SkLookupContext) {
    // SAFETY: the verifier knows `bpf_sk_lookup`; the fields are plain.
    let (protocol, port) = unsafe { ((*ctx.lookup).protocol, (*ctx.lookup).local_port) };
    if protocol == u32::from(TCP) && port != u32::from(DNS_PORT) {
        // An empty place is what a daemon leaves that is gone.
        let _ = LISTENER.redirect_sk_lookup(ctx, 0, 0);
    }
}
