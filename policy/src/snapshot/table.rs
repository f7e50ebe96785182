//! The address table: whose identity an address has, before anything is learned.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::outside::Outside;
use super::service::{Frontends, ServiceFrontend};
use crate::address::Owned;
use crate::cast::NamedPorts;
use crate::identity::Exhausted;
use crate::prefix::{NestedPrefixes, PrefixTable};
use crate::rule::{CidrSelector, PeerView, PolicySet, ServiceName, ServiceSelector};
use crate::{
    Cast, EndpointId, Identities, Identity, Label, LabelSet, Labels, LocalEndpoint, Service,
};

/// The node itself, as its own processes reach it.
const LOOPBACK: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

/// The address table in the making.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) prefixes: BTreeMap<IpNet, Identity>,
    /// What its prefixes outside stand for, whoever else has the address of one.
    outside: NestedPrefixes<Identity>,
    /// What each identity in it stands for.
    pub(super) known: BTreeMap<Identity, Arc<Known>>,
    /// What the workloads of an identity call their ports.
    pub(super) ports: HashMap<Identity, Vec<NamedPorts>>,
    services: Vec<Service>,
    pub(super) frontends: Frontends,
    pub(super) acquired: Vec<Identity>,
    pub(super) owned: Owned,
}

/// What an identity stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) labels: Labels,
    pub(super) outside: Option<LabelSet>,
}

impl Known {
    /// An address outside, by its labels.
    pub(super) fn outside(set: LabelSet) -> Self {
        Self {
            labels: set.to_labels(),
            outside: Some(set),
        }
    }

    pub(super) fn view(&self) -> PeerView<'_> {
        PeerView {
            labels: &self.labels,
            outside: self.outside.as_ref(),
        }
    }
}

impl Table {
    /// Fills it; on an error `acquired` holds what must be given back.
    pub(super) fn fill(
        &mut self,
        (policies, cast): (&PolicySet, &Cast),
        outside: &mut Outside,
        identities: &mut Identities,
    ) -> Result<(), Exhausted> {
        self.services.clone_from(&cast.services);
        for (prefix, known) in outside.follow(self.named(policies)) {
            let Some(set) = &known.outside else { continue };
            let identity = identities.acquire(set.clone())?;
            self.acquired.push(identity);
            self.prefixes.insert(prefix, identity);
            self.outside.insert(prefix, identity);
            self.known.insert(identity, Arc::clone(known));
        }
        for (workload, addresses) in cast.workloads() {
            let labels = workload.full_labels();
            let identity = match fixed_identity(&labels) {
                Some(identity) => identity,
                None => identities.label_identity(&labels)?,
            };
            self.know(identity, labels);
            if !workload.ports.is_empty() {
                let ports = self.ports.entry(identity).or_default();
                if !ports.contains(&workload.ports) {
                    ports.push(workload.ports.clone());
                }
            }
            for address in addresses {
                self.prefixes.insert(IpNet::from(*address), identity);
                self.owned.workloads.insert(*address);
            }
        }
        let host = [Label::reserved("host")].into_iter().collect();
        self.know(Identity::HOST, host);
        // Only a workload without a network of its own can mean these.
        for loopback in LOOPBACK {
            self.prefixes.insert(loopback, Identity::HOST);
        }
        for address in &cast.host_addresses {
            self.prefixes.insert(IpNet::from(*address), Identity::HOST);
            self.owned.node.insert(*address);
        }
        self.fill_frontends(cast, identities)
    }

    /// A virtual address has its backends' identity, if they share one, else one of its own.
    fn fill_frontends(
        &mut self,
        cast: &Cast,
        identities: &mut Identities,
    ) -> Result<(), Exhausted> {
        for service in &cast.services {
            let backends = service.backends.iter();
            let backends: BTreeSet<Identity> = backends
                .filter_map(|address| self.prefixes.get(&IpNet::from(*address)).copied())
                .collect();
            let backends: Vec<Identity> = backends.into_iter().collect();
            let only = alone_behind(cast, service);
            for frontend in &service.frontends {
                let (identity, labels) = match backends.as_slice() {
                    [one] => (*one, None),
                    _ => {
                        let name = format!("{}/{}", service.namespace, service.name);
                        let port = format!("{}/{}", frontend.port, frontend.protocol.number());
                        let labels = [Label::new("service", &name, &port)].into_iter().collect();
                        (identities.label_identity(&labels)?, Some(labels))
                    }
                };
                let backends = backends.clone();
                let one = ServiceFrontend {
                    frontend: *frontend,
                    identity,
                    backends,
                    only,
                };
                self.frontends.add(one, labels);
                // The address is the cluster's: no name opens it.
                self.owned.workloads.insert(frontend.vip);
            }
        }
        Ok(())
    }

    /// `0.0.0.0/0` and `::/0`, each prefix that policy names and each backend of a service.
    fn named(&self, policies: &PolicySet) -> BTreeSet<IpNet> {
        let items = policies.items().map(|(_, _, item)| item);
        let items = items.chain(policies.lookup_items().map(|(_, item)| item));
        let backends = self.services.iter().flat_map(|service| &service.backends);
        let backends = backends.map(|address| IpNet::from(*address));
        let named = items.flat_map(|item| item.prefixes()).chain(backends);
        let world = [Ipv4Net::default().into(), Ipv6Net::default().into()];
        named.chain(world).collect()
    }

    fn know(&mut self, identity: Identity, labels: Labels) {
        let known = || {
            Arc::new(Known {
                labels,
                outside: None,
            })
        };
        self.known.entry(identity).or_insert_with(known);
    }

    /// The identities of the prefixes that a selector holds.
    pub(super) fn inside(&self, selector: &CidrSelector) -> BTreeSet<Identity> {
        let mut inside: BTreeSet<Identity> =
            self.outside.inside(selector.prefix).copied().collect();
        for hole in &selector.except {
            for identity in self.outside.inside(*hole) {
                inside.remove(identity);
            }
        }
        inside
    }

    /// The identities of the backends of the services that a selector names.
    pub(super) fn backends(&self, selector: &ServiceSelector) -> BTreeSet<Identity> {
        self.backend_addresses(selector)
            .filter_map(|address| self.prefixes.get(&address))
            .copied()
            .collect()
    }

    /// The addresses of those backends, as prefixes.
    pub(super) fn backend_addresses<'a>(
        &'a self,
        selector: &'a ServiceSelector,
    ) -> impl Iterator<Item = IpNet> + 'a {
        let selected = self.services.iter().filter(|service| {
            let of_namespace = selector.namespace.as_deref();
            of_namespace.is_none_or(|namespace| namespace == service.namespace)
                && match &selector.service {
                    ServiceName::Exact(name) => **name == *service.name,
                    ServiceName::Labels(labels) => labels.matches(&service.labels),
                }
        });
        let addresses = selected.flat_map(|service| &service.backends);
        addresses.map(|address| IpNet::from(*address))
    }
}

/// The endpoint of this node whose addresses all backends of a service are.
fn alone_behind(cast: &Cast, service: &Service) -> Option<EndpointId> {
    let has_all = |one: &&LocalEndpoint| {
        let mut backends = service.backends.iter();
        backends.all(|address| one.addresses.contains(address))
    };
    let mut having = cast.endpoints.iter().filter(has_all);
    match (having.next(), having.next()) {
        (Some(one), None) if !service.backends.is_empty() => Some(one.id),
        _ => None,
    }
}

/// The fixed number of somebody who is no workload.
fn fixed_identity(labels: &Labels) -> Option<Identity> {
    Identity::RESERVED
        .iter()
        .find(|(name, _)| labels.has_reserved(name))
        .map(|(_, identity)| *identity)
}

impl Table {
    /// The prefix table by longest match.
    pub(super) fn by_address(&self) -> PrefixTable<Identity> {
        let mut table = PrefixTable::new();
        for (prefix, identity) in &self.prefixes {
            table.insert(*prefix, *identity);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::prefix::tests::prefix;
    use crate::rule::PeerSelector;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_prefix_with_holes_finds_what_it_selects(
            named in vec(prefix(), 0..30),
            outer in prefix(),
            holes in vec(prefix(), 0..4),
        ) {
            let mut table = Table::default();
            let mut outside = Outside::default();
            let named = named.iter().map(IpNet::trunc).collect();
            for (number, (prefix, known)) in (1..).zip(outside.follow(named)) {
                let identity = Identity::from_number(number);
                table.outside.insert(prefix, identity);
                table.known.insert(identity, Arc::clone(known));
            }
            let cidr = CidrSelector { prefix: outer, except: holes };
            let found = table.inside(&cidr);
            let selector = PeerSelector::Cidr(cidr);
            let selected = table.known.iter().filter(|(_, known)| selector.selects(known.view()));
            let selected: BTreeSet<Identity> = selected.map(|(identity, _)| *identity).collect();
            prop_assert_eq!(found, selected);
        }
    }
}
