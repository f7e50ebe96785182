//! From a snapshot to map entries: the one place where policy's words meet the kernel's.

use std::net::IpAddr;

use bpf_redirect_common::{
    EGRESS, INGRESS, PolicyKey, PolicyValue, ServiceKey, ServiceValue, Verdict,
};
use policy::{
    Direction, EndpointId, Entry, EntryVerdict, Identities, Identity, Proxy, ServiceFrontend,
    Snapshot,
};

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

/// The virtual addresses of services.
pub(crate) fn services(snapshot: &Snapshot) -> Vec<(ServiceKey, ServiceValue)> {
    let entry = |one: &ServiceFrontend| {
        let key = ServiceKey {
            vip: one.frontend.vip.into(),
            port: one.frontend.port.to_be(),
            protocol: one.frontend.protocol.number(),
            reserved: 0,
        };
        let value = ServiceValue {
            identity: one.identity.get(),
            port: one.frontend.target,
            reserved: 0,
        };
        (key, value)
    };
    snapshot.frontends().map(entry).collect()
}

fn map_entry(entry: &Entry) -> (PolicyKey, PolicyValue) {
    let direction = match entry.direction {
        Direction::Ingress => INGRESS,
        Direction::Egress => EGRESS,
    };
    let ports = (entry.ports.port, entry.ports.bits);
    let key = PolicyKey::new(direction, entry.identity.get(), entry.protocol, ports);
    let verdict = match entry.verdict {
        EntryVerdict::Allow => Verdict::Allow,
        EntryVerdict::Refuse => Verdict::Refuse,
        EntryVerdict::Redirect(_) => Verdict::Redirect,
        EntryVerdict::AuditDefault => Verdict::AuditUnmatched,
        EntryVerdict::AuditDeny => Verdict::AuditDeny,
        EntryVerdict::FailAuthentication => Verdict::FailAuthentication,
        EntryVerdict::Deny => Verdict::Deny,
    };
    let mut value = PolicyValue::new(entry.rule.get(), verdict);
    if let EntryVerdict::Redirect(proxy) = entry.verdict {
        value.proxy = match proxy {
            Proxy::Names => 0,
            Proxy::Dns => 1,
            Proxy::Tls => 2,
            Proxy::Http => 3,
        };
    }
    (key, value)
}

#[cfg(test)]
mod tests;
