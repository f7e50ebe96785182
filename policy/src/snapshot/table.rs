//! The address table: whose identity an address has, before anything is learned.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;

use crate::address::Owned;
use crate::cast::NamedPorts;
use crate::identity::Exhausted;
use crate::prefix::{NestedPrefixes, PrefixTable};
use crate::rule::{CidrSelector, PeerView, PolicySet, ServiceName, ServiceSelector};
use crate::{Cast, Family, Identities, Identity, Label, LabelSet, Labels};

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
    services: Vec<crate::cast::Service>,
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
        policies: &PolicySet,
        cast: &Cast,
        identities: &mut Identities,
    ) -> Result<(), Exhausted> {
        for text in ["0.0.0.0/0", "::/0"] {
            if let Ok(prefix) = text.parse::<IpNet>() {
                let family = Family::of(prefix.addr());
                self.add_outside(prefix, LabelSet::world(family), identities)?;
            }
        }
        self.services.clone_from(&cast.services);
        self.fill_prefixes(policies, identities)?;
        for (workload, addresses) in cast.workloads() {
            let labels = workload.full_labels();
            let identity = match fixed_identity(&labels) {
                Some(identity) => identity,
                None => identities.label_identity(&labels)?,
            };
            self.know(identity, labels, None);
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
        self.know(Identity::HOST, host, None);
        for address in &cast.host_addresses {
            self.prefixes.insert(IpNet::from(*address), Identity::HOST);
            self.owned.node.insert(*address);
        }
        Ok(())
    }

    /// An identity for each prefix that policy names and each backend of a service.
    fn fill_prefixes(
        &mut self,
        policies: &PolicySet,
        identities: &mut Identities,
    ) -> Result<(), Exhausted> {
        let mut all = PrefixTable::new();
        let mut named = BTreeSet::new();
        let backends = self.services.iter().flat_map(|service| &service.backends);
        let backends = backends.map(|address| IpNet::from(*address));
        let items = policies.items().map(|(_, _, item)| item);
        let prefixes = items.flat_map(|item| item.prefixes());
        for prefix in prefixes
            .chain(backends)
            .filter(|prefix| prefix.prefix_len() > 0)
        {
            named.insert(prefix);
            all.insert(prefix, ());
        }
        for prefix in named {
            let address = prefix.addr();
            // An outer prefix holds the first address of an inner one, and no longer one counts.
            let holding = all.covering(address).map(|(outer, ())| outer);
            let holding = holding.filter(|outer| outer.prefix_len() <= prefix.prefix_len());
            let set = LabelSet::new(Family::of(address), holding.collect(), Vec::new());
            self.add_outside(prefix, set, identities)?;
        }
        Ok(())
    }

    fn add_outside(
        &mut self,
        prefix: IpNet,
        set: LabelSet,
        identities: &mut Identities,
    ) -> Result<(), Exhausted> {
        let identity = identities.acquire(set.clone())?;
        self.acquired.push(identity);
        self.prefixes.insert(prefix, identity);
        self.outside.insert(prefix, identity);
        self.know(identity, set.to_labels(), Some(set));
        Ok(())
    }

    fn know(&mut self, identity: Identity, labels: Labels, outside: Option<LabelSet>) {
        let known = || Arc::new(Known { labels, outside });
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
