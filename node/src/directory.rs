//! Who is behind an address, for events: one place that knows labels, names and rules.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use flow::{Endpoint, Interface, PolicyRef, Service, Workload};
use parking_lot::Mutex;
use policy::{Cast, Identity, L4Protocol, Labels, RuleId, RuleOrigin, Snapshot};

use crate::cluster::Cluster;

/// Rules of earlier snapshots that are still remembered: a late event may name one.
const RULES_MAX: usize = 20_000;
/// Identities whose labels are kept as events show them; those of further ones are made for each event.
const TEXTS_MAX: usize = 4_096;

/// Labels as events show them.
pub(crate) type LabelTexts = Arc<[Arc<str>]>;

/// Everybody that an event can name, as of one snapshot.
#[derive(Default)]
pub(crate) struct Directory {
    by_address: HashMap<IpAddr, Arc<Endpoint>>,
    by_id: HashMap<u32, Arc<Endpoint>>,
    rules: BTreeMap<RuleId, PolicyRef>,
    /// What rules ask to be logged with their flows.
    logs: BTreeMap<RuleId, Arc<str>>,
    /// The host side of endpoints' links.
    interfaces: HashMap<u32, Interface>,
    /// Services by their virtual addresses.
    services: HashMap<(SocketAddr, L4Protocol), Service>,
    /// Labels of who is no workload, of which the next event tells again.
    texts: Mutex<HashMap<Identity, LabelTexts>>,
}

impl Directory {
    /// The directory of a snapshot; rules of `before` stay known.
    pub(crate) fn new(
        snapshot: &Snapshot,
        (cast, cluster): (&Cast, &Cluster),
        before: &Self,
    ) -> Self {
        let mut directory = Self {
            rules: before.rules.clone(),
            ..Self::default()
        };
        for host in &cast.host_addresses {
            let endpoint = peer(Identity::HOST, ["reserved:host".into()].into());
            directory.by_address.insert(*host, Arc::new(endpoint));
        }
        let peers = cast
            .peers
            .iter()
            .map(|peer| (0, &peer.workload, &peer.addresses));
        let locals = cast
            .endpoints
            .iter()
            .map(|one| (one.id.get(), &one.workload, &one.addresses));
        for (id, workload, addresses) in peers.chain(locals) {
            let identity = addresses
                .iter()
                .map(|ip| snapshot.identity_of(*ip))
                .find(|id| id.get() >= 256);
            let endpoint = Arc::new(Endpoint {
                id,
                identity: identity.map_or(0, Identity::get),
                cluster_name: Arc::clone(cluster.name()),
                namespace: workload.namespace.as_str().into(),
                labels: label_texts(&workload.full_labels()),
                pod_name: workload.name.as_str().into(),
                workloads: [owner_of(workload)].into(),
            });
            for ip in addresses {
                directory
                    .by_address
                    .entry(*ip)
                    .or_insert_with(|| Arc::clone(&endpoint));
            }
            if id != 0 {
                directory.by_id.insert(id, endpoint);
            }
        }
        for service in &cast.services {
            let named = Service {
                name: service.name.as_str().into(),
                namespace: service.namespace.as_str().into(),
            };
            for one in &service.frontends {
                let place = (SocketAddr::new(one.vip, one.port), one.protocol);
                let place = directory.services.entry(place);
                place.or_insert_with(|| named.clone());
            }
        }
        for (rule, origin) in snapshot.rules() {
            directory
                .rules
                .insert(rule, policy_ref(origin, snapshot.revision()));
        }
        while directory.rules.len() > RULES_MAX {
            directory.rules.pop_first();
        }
        let logs = snapshot
            .rules()
            .filter_map(|(rule, origin)| Some((rule, origin.log.clone()?)));
        directory.logs.extend(logs);
        directory
    }

    /// Takes the host side of endpoints' links.
    pub(crate) fn with_interfaces(self, links: impl Iterator<Item = (u32, Interface)>) -> Self {
        Self {
            interfaces: links.collect(),
            ..self
        }
    }

    /// The host side of an endpoint's link.
    pub(crate) fn interface(&self, id: u32) -> Option<&Interface> {
        self.interfaces.get(&id)
    }

    /// The service whose virtual address it is.
    pub(crate) fn service(&self, at: SocketAddr, protocol: L4Protocol) -> Option<&Service> {
        self.services.get(&(at, protocol))
    }

    /// An endpoint of this node.
    pub(crate) fn local(&self, id: u32) -> Option<&Arc<Endpoint>> {
        self.by_id.get(&id)
    }

    /// A workload or the node itself.
    pub(crate) fn at(&self, ip: IpAddr) -> Option<&Arc<Endpoint>> {
        self.by_address.get(&ip)
    }

    /// The labels of an identity: `make` is asked once, and again as long as it knows none. An identity keeps its
    /// labels as long as this snapshot is in force.
    pub(crate) fn texts_of(
        &self,
        identity: Identity,
        make: impl FnOnce() -> Option<LabelTexts>,
    ) -> LabelTexts {
        if let Some(texts) = self.texts.lock().get(&identity) {
            return Arc::clone(texts);
        }
        let Some(texts) = make() else {
            return LabelTexts::default();
        };
        let mut known = self.texts.lock();
        if known.len() < TEXTS_MAX {
            known.insert(identity, Arc::clone(&texts));
        }
        texts
    }

    /// What a rule asks to be logged with its flows.
    pub(crate) fn log(&self, rule: RuleId) -> Option<&Arc<str>> {
        self.logs.get(&rule)
    }

    /// The policy behind a rule.
    pub(crate) fn policies(&self, rule: RuleId) -> Vec<PolicyRef> {
        self.rules.get(&rule).cloned().into_iter().collect()
    }
}

/// What a workload belongs to; what belongs to nothing is a pod of its own.
fn owner_of(workload: &policy::Workload) -> Workload {
    let (name, kind) = match &workload.owner {
        Some(owner) => (&owner.name, owner.kind.as_str()),
        None => (&workload.name, "Pod"),
    };
    Workload {
        name: name.as_str().into(),
        kind: kind.into(),
    }
}

/// A peer that is no workload: its identity and labels are all that is known of it.
pub(crate) fn peer(identity: Identity, labels: LabelTexts) -> Endpoint {
    Endpoint {
        identity: identity.get(),
        labels,
        ..Endpoint::default()
    }
}

/// Labels as events show them: sorted, and of several prefixes the longest only.
pub(crate) fn label_texts(labels: &Labels) -> LabelTexts {
    let prefix_len = |text: &str| {
        text.rsplit('/')
            .next()
            .and_then(|len| len.parse::<u32>().ok())
            .unwrap_or(0)
    };
    let mut texts: Vec<Arc<str>> = Vec::new();
    let mut longest: Option<Arc<str>> = None;
    for label in labels.iter() {
        let text: Arc<str> = label.to_string().into();
        if label.source() != "cidr" {
            texts.push(text);
        } else if longest
            .as_deref()
            .is_none_or(|other| prefix_len(other) < prefix_len(&text))
        {
            longest = Some(text);
        }
    }
    texts.extend(longest);
    texts.sort();
    texts.into()
}

fn policy_ref(origin: &RuleOrigin, revision: u64) -> PolicyRef {
    let kind = origin.kind.to_string();
    let namespace = origin.namespace.as_deref().unwrap_or_default();
    let mut labels: Vec<Arc<str>> = vec![
        format!("k8s:io.cilium.k8s.policy.derived-from={kind}").into(),
        format!("k8s:io.cilium.k8s.policy.name={}", origin.name).into(),
    ];
    if !namespace.is_empty() {
        labels.push(format!("k8s:io.cilium.k8s.policy.namespace={namespace}").into());
    }
    PolicyRef {
        name: origin.name.as_str().into(),
        namespace: namespace.into(),
        labels: labels.into(),
        revision,
        kind: kind.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_made_once_for_each_identity_and_for_no_more_than_fit() {
        let directory = Directory::default();
        let text = |number: u32| LabelTexts::from([number.to_string().into()]);
        let identity = |number: u32| Identity::from_number(number);
        let unknown = directory.texts_of(identity(1), || None);
        assert!(unknown.is_empty());
        let first = u32::try_from(TEXTS_MAX).unwrap();
        for number in 1..=first {
            let made = directory.texts_of(identity(number), || Some(text(number)));
            assert_eq!(made, text(number), "not known before");
        }
        let made_again = || panic!("it is known");
        assert_eq!(directory.texts_of(identity(1), made_again), text(1));
        assert_eq!(directory.texts_of(identity(first), made_again), text(first));
        for _ in 0..2 {
            let beyond = directory.texts_of(identity(first + 1), || Some(text(7)));
            assert_eq!(beyond, text(7));
        }
        assert_eq!(directory.texts.lock().len(), TEXTS_MAX);
    }
}
