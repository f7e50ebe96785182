//! One item of policy, with the peers of the address table that it selects.

use std::sync::Arc;

use ipnet::IpNet;

use super::quic::TCP;
use super::selection::Selections;
use super::table::Table;
use crate::cast::NamedPorts;
use crate::http::{HeaderSecrets, HttpRules};
use crate::l4::{L7Rules, PortMatch, PortRule, RuleProtocol};
use crate::rule::{Effect, Item, PeerSelector, PeerView, Peers, Policy, RuleOrigin};
use crate::verdict::{EntryVerdict, PortPrefix, Proxy};
use crate::{Identity, NameBinding, RuleId};

/// Protocol number and ports of an entry.
pub(super) type L4Key = (u8, PortPrefix);

/// What of an item doesn't depend on who there is; kept as long as its file stays as it is.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) id: RuleId,
    pub(super) item: Arc<Item>,
    pub(super) origin: Arc<RuleOrigin>,
    /// Whether its policy is only audited.
    pub(super) audit: bool,
    /// How strictly its policy binds names, if it says so.
    pub(super) name_binding: Option<NameBinding>,
    /// The requests of each of its ports that judges requests.
    pub(super) http: Vec<Option<Arc<HttpRules>>>,
}

/// A prepared item with the peers that it selects now.
#[derive(Clone, Debug)]
pub(super) struct CompiledItem {
    pub(super) prepared: Arc<Prepared>,
    /// Identities of the table, in order. Empty where the item is for every peer.
    pub(super) selected: Arc<[Identity]>,
    /// Those among them whose DNS servers teach.
    pub(super) teachers: Arc<[Identity]>,
    /// The backends of its services: who learns such an address may still reach it.
    pub(super) backends: Arc<[IpNet]>,
}

impl Prepared {
    /// Prepares an item.
    ///
    /// # Errors
    /// If its HTTP rules are too large.
    pub(super) fn new(
        id: RuleId,
        item: &Arc<Item>,
        (policy, secrets): (&Policy, &HeaderSecrets),
    ) -> Result<Self, String> {
        Ok(Self {
            id,
            http: compile_http(item, secrets)?,
            audit: policy.audit,
            name_binding: policy.name_binding,
            origin: Arc::new(RuleOrigin {
                kind: policy.kind,
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
                file: Arc::clone(&policy.file),
                line: item.line,
                log: item.log.clone(),
            }),
            item: Arc::clone(item),
        })
    }
}

/// The HTTP rules of each port; the ports of one entry, which stand together, share them.
fn compile_http(
    item: &Item,
    secrets: &HeaderSecrets,
) -> Result<Vec<Option<Arc<HttpRules>>>, String> {
    let mut made: Vec<Option<Arc<HttpRules>>> = Vec::new();
    let mut last = None;
    for port in item.port_list() {
        let entry = port.l7.as_ref();
        let one = match (entry, last) {
            (None, _) => None,
            (Some(entry), Some(before)) if Arc::ptr_eq(entry, before) => {
                made.last().cloned().flatten()
            }
            (Some(entry), _) => entry.rules.compile_http(secrets)?,
        };
        made.push(one);
        last = entry;
    }
    Ok(made)
}

impl CompiledItem {
    pub(super) fn new(
        prepared: &Arc<Prepared>,
        table: &Table,
        selections: &mut Selections,
    ) -> Self {
        let peers = prepared.item.peer_list();
        let selected = selections.of_peers(peers.iter(), table);
        let teachers = if prepared.item.has_dns() {
            selections.of_peers(peers.iter().filter(|peer| peer.may_teach()), table)
        } else {
            Arc::default()
        };
        let backends = peers.iter().filter_map(|peer| match peer {
            PeerSelector::Service(service) => Some(table.backend_addresses(service)),
            PeerSelector::Labels(_) | PeerSelector::Entity(_) | PeerSelector::Cidr(_) => None,
        });
        Self {
            prepared: Arc::clone(prepared),
            backends: backends.flatten().collect(),
            selected,
            teachers,
        }
    }

    pub(super) fn item(&self) -> &Item {
        &self.prepared.item
    }

    pub(super) fn id(&self) -> RuleId {
        self.prepared.id
    }

    /// Whether what it opens depends on what workloads call their ports.
    pub(super) fn names_ports(&self) -> bool {
        self.item().port_list().iter().any(PortRule::is_named)
    }

    /// Whether it is the same item with the same peers as before.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.prepared, &other.prepared)
            && self.selected == other.selected
            && self.teachers == other.teachers
            && self.backends == other.backends
    }

    /// Whether it selects a peer that the table doesn't have.
    pub(super) fn selects(&self, peer: PeerView<'_>) -> bool {
        match &self.item().peers {
            Peers::Any => true,
            Peers::Nobody => false,
            Peers::Some(peers) => {
                peers.iter().any(|one| one.selects(peer))
                    || peer.outside.is_some_and(|set| {
                        self.backends.iter().any(|backend| set.is_inside(backend))
                    })
            }
            Peers::Named(names) => peer.outside.is_some_and(|set| {
                let mut selectors = set.selectors().iter();
                selectors.any(|text| names.has_text(text))
            }),
        }
    }

    /// Whether it selects an identity of the table.
    pub(super) fn selects_known(&self, identity: Identity) -> bool {
        match &self.item().peers {
            Peers::Any => true,
            Peers::Nobody | Peers::Named(_) => false, // nobody in the table has a name
            Peers::Some(_) => self.selected.binary_search(&identity).is_ok(),
        }
    }

    /// The keys of its entries, each with what happens; `ports` are those of whoever owns the port.
    pub(super) fn entry_keys(&self, ports: &[&NamedPorts]) -> Vec<(L4Key, EntryVerdict)> {
        let list = match &self.item().ports {
            crate::l4::Ports::Any => {
                return vec![((0, PortPrefix::ALL), self.verdict(None))];
            }
            crate::l4::Ports::List(list) => list,
        };
        let mut keys = Vec::new();
        for port in list {
            let verdict = self.verdict(Some(port));
            let l4 = port.l4_keys(ports);
            keys.extend(l4.into_iter().map(|key| (key, verdict)));
        }
        keys
    }

    /// Whether it is about a port of TCP; `ports` are those of whoever owns it.
    pub(super) fn is_about_tcp(&self, port: u16, ports: &[&NamedPorts]) -> bool {
        match &self.item().ports {
            crate::l4::Ports::Any => true,
            crate::l4::Ports::List(list) => list.iter().any(|rule| rule.is_about_tcp(port, ports)),
        }
    }

    fn verdict(&self, port: Option<&PortRule>) -> EntryVerdict {
        let item = self.item();
        match item.effect {
            Effect::Deny if self.prepared.audit => EntryVerdict::AuditDeny,
            Effect::Deny => EntryVerdict::Deny,
            Effect::Allow if item.fails_authentication && self.prepared.audit => {
                EntryVerdict::AuditDeny
            }
            Effect::Allow if item.fails_authentication => EntryVerdict::FailAuthentication,
            Effect::Allow => port
                .and_then(PortRule::proxy)
                .map_or(EntryVerdict::Allow, EntryVerdict::Redirect),
        }
    }
}

impl PortRule {
    /// The proxy that flows to it need.
    pub(super) fn proxy(&self) -> Option<Proxy> {
        let l7 = self.l7.as_deref()?;
        match l7.rules {
            L7Rules::Http(_) => Some(Proxy::Http),
            L7Rules::Dns(_) => Some(Proxy::Dns),
            L7Rules::None => Some(Proxy::Tls),
        }
    }

    /// The protocols and ports that it is about; `ports` give names their numbers.
    pub(super) fn l4_keys(&self, ports: &[&NamedPorts]) -> Vec<L4Key> {
        let numbers = self.protocol_numbers();
        let prefixes = match &self.port {
            PortMatch::All => vec![PortPrefix::ALL],
            PortMatch::Range(first, last) => PortPrefix::of_range(*first, *last),
            PortMatch::Named(name) => {
                let owned = ports.iter().filter_map(|ports| ports.get(name));
                let fits = owned.filter(|(_, protocol)| match self.protocol {
                    RuleProtocol::Any => numbers.contains(&protocol.number()),
                    RuleProtocol::One(one) => one == *protocol,
                    RuleProtocol::Icmp(_) => false,
                });
                return fits
                    .map(|(port, protocol)| (protocol.number(), PortPrefix::exact(*port)))
                    .collect();
            }
        };
        let mut keys = Vec::with_capacity(numbers.len() * prefixes.len());
        for number in numbers {
            keys.extend(prefixes.iter().map(|prefix| (*number, *prefix)));
        }
        keys
    }

    /// Whether it is about a port of TCP; `ports` give names their numbers.
    pub(super) fn is_about_tcp(&self, port: u16, ports: &[&NamedPorts]) -> bool {
        let mut keys = self.l4_keys(ports).into_iter();
        keys.any(|(protocol, ports)| protocol == TCP && ports.contains(port))
    }

    /// Whether it names its port.
    pub(super) fn is_named(&self) -> bool {
        matches!(self.port, PortMatch::Named(_))
    }
}
