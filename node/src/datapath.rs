//! From a snapshot to map entries: the one place where policy's words meet the kernel's.

use std::net::IpAddr;

use bpf_redirect_common::{EGRESS, INGRESS, PolicyKey, PolicyValue, Verdict};
use policy::{Direction, EndpointId, Entry, EntryVerdict, Identities, Identity, Snapshot};

/// Policy entries as the kernel has them.
pub(crate) type Entries = Vec<(PolicyKey, PolicyValue)>;

/// All entries of an endpoint that don't depend on what it learned; empty, and so closed, for one that
/// the snapshot doesn't know.
pub(crate) fn static_entries(snapshot: &Snapshot, endpoint: EndpointId) -> Entries {
    snapshot
        .entries(endpoint)
        .unwrap_or_default()
        .iter()
        .map(map_entry)
        .collect()
}

/// The entries that a learned identity needs on an endpoint.
pub(crate) fn learned_entries(
    snapshot: &Snapshot,
    endpoint: EndpointId,
    identities: &Identities,
    identity: u32,
) -> Entries {
    let identity = Identity::from_number(identity);
    let Some(labels) = identities.labels_of(identity) else {
        return Entries::new();
    };
    snapshot
        .entries_for(endpoint, labels, identity)
        .iter()
        .map(map_entry)
        .collect()
}

/// The address table.
pub(crate) fn prefixes(snapshot: &Snapshot) -> Vec<(IpAddr, u8, u32)> {
    snapshot
        .prefixes()
        .map(|(prefix, identity)| (prefix.addr(), prefix.prefix_len(), identity.get()))
        .collect()
}

fn map_entry(entry: &Entry) -> (PolicyKey, PolicyValue) {
    // A part of a range can't be said here and is refused before; the protocol is closed then.
    let is_whole = matches!(entry.ports.bits, 0 | 16);
    let port = if is_whole { entry.ports.port } else { 0 };
    let key = PolicyKey {
        identity: entry.identity.get(),
        port: port.to_be(),
        protocol: entry.protocol,
        direction: match entry.direction {
            Direction::Ingress => INGRESS,
            Direction::Egress => EGRESS,
        },
    };
    let verdict = match entry.verdict {
        _ if !is_whole => Verdict::Deny,
        EntryVerdict::Allow => Verdict::Allow,
        EntryVerdict::Redirect(_) => Verdict::Redirect,
        EntryVerdict::AuditDefault => Verdict::AuditUnmatched,
        EntryVerdict::AuditDeny => Verdict::AuditDeny,
        EntryVerdict::FailAuthentication | EntryVerdict::Deny => Verdict::Deny,
    };
    (
        key,
        PolicyValue {
            rule: entry.rule.get(),
            verdict: verdict as u8,
            reserved: [0; 3],
        },
    )
}
