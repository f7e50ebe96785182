//! From a snapshot to map entries: the one place where policy's words meet the kernel's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bpf_redirect_common::{
    DNS_PORT, EGRESS, INGRESS, PolicyKey, PolicyValue, ServiceKey, ServiceValue, Verdict,
};
use policy::{
    Direction, EndpointId, Entry, EntryVerdict, Identities, Identity, L4Protocol, PortPrefix,
    Proxy, RuleId, ServiceFrontend, Snapshot,
};

const TCP: u8 = L4Protocol::Tcp.number();
const UDP: u8 = L4Protocol::Udp.number();

/// Policy entries as the kernel has them.
pub(crate) type Entries = Vec<(PolicyKey, PolicyValue)>;

/// What becomes of traffic that policy lets pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Carriage {
    /// It passes by itself, but for what a proxy judges.
    #[default]
    Direct,
    /// It has no way but the proxies': TCP is redirected, names are asked by UDP, and nothing else passes.
    ByProxy,
}

/// All entries of an endpoint that don't depend on what it learned; empty, and so closed, for one that
/// the snapshot doesn't know.
pub(crate) fn static_entries(
    snapshot: &Snapshot,
    endpoint: EndpointId,
    carriage: Carriage,
) -> Entries {
    carriage.map(&snapshot.entries(endpoint).unwrap_or_default())
}

/// The entries that a learned identity needs on an endpoint.
pub(crate) fn learned_entries(
    snapshot: &Snapshot,
    endpoint: EndpointId,
    (identities, identity): (&Identities, u32),
    carriage: Carriage,
) -> Entries {
    let identity = Identity::from_number(identity);
    let Some(labels) = identities.labels_of(identity) else {
        return Entries::new();
    };
    carriage.map(&snapshot.entries_for(endpoint, labels, identity))
}

impl Carriage {
    fn map(self, entries: &[Entry]) -> Entries {
        if self == Self::Direct {
            return entries.iter().map(map_entry).collect();
        }
        let mut carried: BTreeMap<_, (EntryVerdict, RuleId)> = BTreeMap::new();
        for (key, what) in entries.iter().flat_map(by_proxy) {
            let kept = carried.entry(key).or_insert(what);
            if kept.0 < what.0 {
                *kept = what;
            }
        }
        let entry = |((direction, identity, protocol, ports), (verdict, rule))| Entry {
            direction,
            identity,
            protocol,
            ports,
            verdict,
            rule,
        };
        let carried = carried.into_iter().map(entry);
        carried.map(|entry| map_entry(&entry)).collect()
    }
}

type Key = (Direction, Identity, u8, PortPrefix);

/// An entry as it is where nothing passes by itself: over TCP it is for the proxy of names, or of HTTP;
/// of UDP it is only at port 53 that it lets anything pass.
fn by_proxy(entry: &Entry) -> Vec<(Key, (EntryVerdict, RuleId))> {
    let Entry {
        direction,
        identity,
        protocol,
        ports,
        verdict,
        rule,
    } = *entry;
    let at = |protocol, ports, verdict| ((direction, identity, protocol, ports), (verdict, rule));
    let passes = match verdict {
        EntryVerdict::AuditDefault | EntryVerdict::Allow | EntryVerdict::AuditDeny => true,
        EntryVerdict::Refuse
        | EntryVerdict::Redirect(_)
        | EntryVerdict::FailAuthentication
        | EntryVerdict::Deny => false,
    };
    if !passes || direction == Direction::Ingress {
        return vec![at(protocol, ports, verdict)];
    }
    let mut carried = Vec::new();
    if matches!(protocol, 0 | TCP) {
        carried.push(at(TCP, ports, EntryVerdict::Redirect(Proxy::Names)));
    }
    if matches!(protocol, 0 | UDP) && ports.contains(DNS_PORT) {
        let dns = PortPrefix::exact(DNS_PORT);
        carried.push(at(UDP, dns, EntryVerdict::Redirect(Proxy::Dns)));
    }
    carried
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
            endpoint: one.only.map_or(0, EndpointId::get),
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
