//! At which ports the server name in QUIC can be judged.

use std::collections::{BTreeMap, BTreeSet};

use super::super::item::CompiledItem;
use super::super::service::Frontends;
use super::super::table::Table;
use super::{DNS, TCP, UDP};
use crate::cast::NamedPorts;
use crate::l4::{PortMatch, PortRule};
use crate::limits::QUIC_PORTS_MAX;
use crate::rule::Effect;
use crate::verdict::{PortPrefix, Proxy};
use crate::{Direction, L4Protocol};

/// Where QUIC is mostly spoken: the last port to go without.
const HTTPS: u16 = 443;

/// What egress rules say of ports.
#[derive(Default)]
pub(in crate::snapshot) struct Ports {
    /// Rules name each by itself, and judge server names there, and nothing else.
    judged: BTreeSet<u16>,
    /// DNS is asked there.
    asked: BTreeSet<(L4Protocol, u16)>,
}

impl Ports {
    /// What the rules of one endpoint say.
    pub(in crate::snapshot) fn of(items: &[&CompiledItem], table: &Table) -> Self {
        let owned: Vec<&NamedPorts> = table.ports.values().flatten().collect();
        let mut ports = Self::default();
        // The kernel knows one verdict for each, and a name is not all that is judged there.
        let mut hindered = Vec::new();
        let egress = items.iter();
        let egress = egress.filter(|item| item.item().direction == Direction::Egress);
        for item in egress {
            match item.item().effect {
                Effect::Allow if !item.item().fails_authentication => {
                    ports.add(item, &owned, &mut hindered);
                }
                Effect::Allow | Effect::Deny => hindered.extend(denied(item, &owned)),
            }
        }
        ports
            .judged
            .retain(|port| !hindered.iter().any(|prefix| prefix.contains(*port)));
        ports
    }

    fn add(&mut self, item: &CompiledItem, owned: &[&NamedPorts], hindered: &mut Vec<PortPrefix>) {
        for rule in item.item().port_list() {
            let keys = rule.l4_keys(owned).into_iter();
            let of_tcp = keys.clone().filter(|(protocol, _)| *protocol == TCP);
            let of_tcp = of_tcp.map(|(_, ports)| ports);
            match rule.proxy() {
                Some(Proxy::Tls) if is_as_it_came(rule) => {
                    if is_one_port(rule) {
                        self.judged.extend(of_tcp.map(|ports| ports.port));
                    }
                }
                Some(Proxy::Tls | Proxy::Http) => hindered.extend(of_tcp),
                Some(Proxy::Dns) => {
                    for (protocol, ports) in keys {
                        let protocol = L4Protocol::from_number(protocol);
                        self.asked.extend(protocol.map(|one| (one, ports.port)));
                        hindered.push(ports);
                    }
                }
                Some(Proxy::Names) | None => {}
            }
        }
    }

    /// Adds those of another endpoint, which may be one whose flows can't be led to a proxy.
    pub(in crate::snapshot) fn join(&mut self, other: Self, is_redirectable: bool) {
        self.asked.extend(other.asked);
        if is_redirectable {
            self.judged.extend(other.judged);
        }
    }

    /// Those that are among these.
    pub(in crate::snapshot) fn judged(&self, listened: &BTreeSet<u16>) -> BTreeSet<u16> {
        self.judged.intersection(listened).copied().collect()
    }

    /// Those that can have listeners of their own, also for the virtual addresses that stand for them: where
    /// DNS is asked there is another, and there is no end of ports.
    pub(in crate::snapshot) fn listened(&self, frontends: &Frontends) -> BTreeSet<u16> {
        let mut taken = frontends.ports_of(&self.asked);
        taken.insert(DNS.port);
        let mut fronts: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
        let of_udp = frontends.iter().map(|one| &one.frontend);
        for one in of_udp.filter(|one| one.protocol == L4Protocol::Udp) {
            fronts.entry(one.target).or_default().push(one.port);
        }
        let mut order: Vec<u16> = self.judged.iter().copied().collect();
        order.sort_by_key(|port| *port != HTTPS);
        let (mut listened, mut all) = (BTreeSet::new(), BTreeSet::new());
        for port in order {
            let mut here: BTreeSet<u16> = fronts.remove(&port).into_iter().flatten().collect();
            here.insert(port);
            let is_room = all.union(&here).count() <= QUIC_PORTS_MAX;
            if is_room && here.is_disjoint(&taken) {
                all.extend(here);
                listened.insert(port);
            }
        }
        listened
    }
}

/// The ports of TCP that an item drops, and not of UDP too, where the kernel drops it in any case.
fn denied(item: &CompiledItem, owned: &[&NamedPorts]) -> Vec<PortPrefix> {
    if item.prepared.audit {
        return Vec::new();
    }
    let rules = item.item().port_list().iter();
    // What a peer calls its port need not be so of UDP too.
    let keys = rules.clone().filter(|rule| !rule.is_named());
    let keys = keys.flat_map(|rule| rule.l4_keys(&[]));
    let of_udp: Vec<PortPrefix> = keys
        .filter(|(protocol, _)| *protocol == UDP)
        .map(|(_, ports)| ports)
        .collect();
    let of_tcp = rules
        .flat_map(|rule| rule.l4_keys(owned))
        .filter(|(protocol, _)| *protocol == TCP);
    of_tcp
        .flat_map(|(_, ports)| ports.without(&of_udp))
        .collect()
}

/// Whether a rule judges TLS as it came, and neither ends nor begins it.
fn is_as_it_came(rule: &PortRule) -> bool {
    let l7 = rule.l7.as_deref();
    l7.is_some_and(|l7| l7.terminating_tls.is_none() && l7.originating_tls.is_none())
}

fn is_one_port(rule: &PortRule) -> bool {
    match &rule.port {
        PortMatch::All => false,
        PortMatch::Range(first, last) => first == last,
        PortMatch::Named(_) => true,
    }
}
