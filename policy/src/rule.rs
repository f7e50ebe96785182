//! What policy files say, checked and in the form that a snapshot is built from.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::l4::{L7, PortRule, Ports};
use crate::label::{NAMESPACE_KEY, SOURCE_K8S};
use crate::names::NameList;
use crate::{Direction, LabelSet, Labels, NameBinding, Selector};

/// All valid objects of a set of files, in order of (kind, namespace, name).
#[derive(Debug, Default)]
pub struct PolicySet {
    pub(crate) policies: Vec<Arc<Policy>>,
    /// What a workload may ask whose rules have `toFQDNs` and no DNS rule; absent where there is none.
    pub(crate) lookup: Option<Arc<Policy>>,
}

impl PolicySet {
    /// The objects.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.policies.iter().map(|policy| &**policy)
    }

    /// All items with their policies and rules.
    pub(crate) fn items(&self) -> impl Iterator<Item = (&Policy, &Rule, &Arc<Item>)> {
        self.iter().flat_map(|policy| {
            let rules = policy.rules.iter();
            rules.flat_map(move |rule| rule.items.iter().map(move |item| (policy, rule, item)))
        })
    }

    /// What items say above the ports, with the items and their policies.
    pub(crate) fn l7_parts(&self) -> impl Iterator<Item = (&Policy, &Item, &L7)> {
        self.items().flat_map(|(policy, _, item)| {
            let ports = item.port_list().iter();
            ports.filter_map(move |port| Some((policy, &**item, port.l7.as_deref()?)))
        })
    }

    /// The items that are added where `toFQDNs` stand without a DNS rule.
    pub(crate) fn lookup_items(&self) -> impl Iterator<Item = (&Policy, &Arc<Item>)> {
        self.lookup.iter().flat_map(|policy| {
            let items = policy.rules.iter().flat_map(|rule| &rule.items);
            items.map(|item| (&**policy, item))
        })
    }

    /// Whether a rule that lets a workload of these labels send names exactly this address: as a prefix of
    /// that one address, not as one in which it lies.
    #[must_use]
    pub fn names_address(&self, labels: &Labels, address: IpAddr) -> bool {
        let alone = CidrSelector {
            prefix: IpNet::from(address),
            except: Vec::new(),
        };
        let alone = PeerSelector::Cidr(alone);
        self.items().any(|(_, rule, item)| {
            let allows = item.direction == Direction::Egress
                && item.effect == Effect::Allow
                && !item.fails_authentication;
            allows && rule.subject.selects(labels) && item.peer_list().contains(&alone)
        })
    }

    /// Has all policies only tell what they deny, as the annotation for it does, but for those of one file.
    pub fn audit_all_but(&mut self, file: &str) {
        for policy in self.policies.iter_mut().filter(|one| &*one.file != file) {
            Arc::make_mut(policy).audit = true;
        }
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// How many rules they have, which are Cilium's: one for each `spec` and each of `specs`.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.iter().map(|policy| policy.rules.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }
}

/// One policy object.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(crate) kind: PolicyKind,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) file: Arc<str>,
    pub(crate) line: u32,
    /// Whether its denials are told and let pass (an annotation).
    pub(crate) audit: bool,
    /// How strictly it binds what its `toFQDNs` allow to their names, if not as the node does (an
    /// annotation).
    pub(crate) name_binding: Option<NameBinding>,
    pub(crate) rules: Vec<Rule>,
}

impl Policy {
    /// The kind of object.
    #[must_use]
    pub fn kind(&self) -> PolicyKind {
        self.kind
    }

    /// The namespace; a clusterwide policy has none.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `kind namespace/name`; a clusterwide one has no namespace.
    #[must_use]
    pub fn full_name(&self) -> String {
        full_name(self.kind, self.namespace(), &self.name)
    }

    /// The file and line where it starts.
    #[must_use]
    pub fn place(&self) -> (&str, u32) {
        (&self.file, self.line)
    }
}

/// The kinds of policy objects that load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// Of one namespace.
    CiliumNetworkPolicy,
    /// Of the cluster.
    CiliumClusterwideNetworkPolicy,
    /// Kubernetes' own, of one namespace.
    NetworkPolicy,
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
        })
    }
}

/// One `spec`: who it is about, and what they may do.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) subject: Subject,
    /// All elements of `ingress`, `ingressDeny`, `egress` and `egressDeny`.
    pub(crate) items: Vec<Arc<Item>>,
}

/// Who is subject to a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// Workloads.
    Endpoints(Selector),
    /// Nodes themselves (the host firewall).
    Nodes(Selector),
}

impl Subject {
    /// Whether a workload of these labels is among them.
    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        match self {
            Self::Endpoints(selector) => selector.matches(labels),
            Self::Nodes(_) => false,
        }
    }
}

/// What an item does with the flows that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Effect {
    Allow,
    Deny,
}

/// One element of `ingress`, `ingressDeny`, `egress` or `egressDeny`.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) direction: Direction,
    pub(crate) effect: Effect,
    pub(crate) line: u32,
    pub(crate) column: u32,
    /// The path of the item in its document, `spec.egress[0]`.
    pub(crate) path: Box<str>,
    /// Whether the item closes its direction to all that no item allows (`enableDefaultDeny`).
    pub(crate) default_deny: bool,
    pub(crate) peers: Peers,
    pub(crate) ports: Ports,
    /// `log.value` of its rule, for the flows that it decides.
    pub(crate) log: Option<Arc<str>>,
    /// Whether it fails every flow (`authentication.mode: test-always-fail`, drop reason 189).
    pub(crate) fails_authentication: bool,
}

impl Item {
    /// The selectors of peers that are listed; names are none.
    pub(crate) fn peer_list(&self) -> &[PeerSelector] {
        match &self.peers {
            Peers::Any | Peers::Nobody | Peers::Named(_) => &[],
            Peers::Some(peers) => peers,
        }
    }

    /// The ports that are listed, if not all of everything.
    pub(crate) fn port_list(&self) -> &[PortRule] {
        match &self.ports {
            Ports::Any => &[],
            Ports::List(list) => list,
        }
    }

    /// Its `toFQDNs`.
    pub(crate) fn names(&self) -> Option<&Arc<NameList>> {
        match &self.peers {
            Peers::Named(names) => Some(names),
            Peers::Any | Peers::Nobody | Peers::Some(_) => None,
        }
    }

    /// The prefixes that it names, holes included.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        let cidrs = self.peer_list().iter().filter_map(|peer| match peer {
            PeerSelector::Cidr(cidr) => Some(cidr),
            PeerSelector::Labels(_) | PeerSelector::Entity(_) | PeerSelector::Service(_) => None,
        });
        cidrs.flat_map(|cidr| std::iter::once(cidr.prefix).chain(cidr.except.iter().copied()))
    }

    /// Whether DNS rules stand in it.
    pub(crate) fn has_dns(&self) -> bool {
        self.port_list().iter().any(|port| port.dns().is_some())
    }
}

/// Whom an item lets be reached.
#[derive(Debug)]
pub(crate) enum Peers {
    /// No peer field, or `all`: every peer, whatever its identity.
    Any,
    /// Nobody: an empty list, `none`, or an item without peers and ports.
    Nobody,
    /// Whoever one of these selects.
    Some(Vec<PeerSelector>),
    /// Addresses that were learned for one of these names (`toFQDNs`, beside which nothing else stands).
    Named(Arc<NameList>),
}

/// One of the peers that an item lists, to be compared with those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PeerKey<'a> {
    Everybody,
    Selector(&'a PeerSelector),
    /// A name or pattern as written.
    Name(&'a str),
}

impl Peers {
    /// Everybody or each peer that is listed.
    pub(crate) fn keys(&self) -> Vec<PeerKey<'_>> {
        match self {
            Self::Any => vec![PeerKey::Everybody],
            Self::Nobody => Vec::new(),
            Self::Some(peers) => peers.iter().map(PeerKey::Selector).collect(),
            Self::Named(names) => names.texts().map(PeerKey::Name).collect(),
        }
    }

    /// Whether another list has all that this one has; neither is everybody.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Some(own), Self::Some(theirs)) => own.iter().all(|peer| theirs.contains(peer)),
            (Self::Named(own), Self::Named(theirs)) => {
                own.texts().all(|text| theirs.has_text(text))
            }
            _ => false,
        }
    }

    /// Whether another list has one that this one has; neither is everybody.
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Some(own), Self::Some(theirs)) => own.iter().any(|peer| theirs.contains(peer)),
            (Self::Named(own), Self::Named(theirs)) => {
                own.texts().any(|text| theirs.has_text(text))
            }
            _ => false,
        }
    }
}

/// A peer as selectors see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerView<'a> {
    pub(crate) labels: &'a Labels,
    /// Present if it is an address outside: prefixes and names select only those.
    pub(crate) outside: Option<&'a LabelSet>,
}

/// One element of a peer list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PeerSelector {
    Labels(Selector),
    Entity(Entity),
    Cidr(CidrSelector),
    Service(ServiceSelector),
}

/// A prefix with holes; another rule may still allow what lies in a hole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CidrSelector {
    pub(crate) prefix: IpNet,
    /// Each lies inside `prefix`.
    pub(crate) except: Vec<IpNet>,
}

/// An item of `toServices`: the backends of the services that it names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ServiceSelector {
    /// `None` is every namespace.
    pub(crate) namespace: Option<Box<str>>,
    pub(crate) service: ServiceName,
}

/// How an item of `toServices` names services.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ServiceName {
    Exact(Box<str>),
    Labels(Selector),
}

impl PeerSelector {
    /// Whether it selects a peer.
    pub(crate) fn selects(&self, peer: PeerView<'_>) -> bool {
        match self {
            Self::Labels(selector) => selector.matches(peer.labels),
            Self::Entity(entity) => entity.selects(peer.labels),
            Self::Cidr(cidr) => peer.outside.is_some_and(|set| {
                set.is_inside(&cidr.prefix) && !cidr.except.iter().any(|hole| set.is_inside(hole))
            }),
            Self::Service(_) => false, // its backends are known to the snapshot only
        }
    }

    /// Whether it can select an address outside.
    pub(crate) fn may_select_outside(&self) -> bool {
        match self {
            Self::Labels(selector) => selector.may_match_outside(),
            Self::Entity(_) | Self::Cidr(_) => true,
            Self::Service(_) => false,
        }
    }

    /// Whether a DNS server is named by it closely enough to learn from: not everybody, not the
    /// world, not a network that somebody else may have a host in.
    pub(crate) fn may_teach(&self) -> bool {
        match self {
            Self::Labels(selector) => selector.names_labels(),
            Self::Entity(entity) => matches!(entity, Entity::Host | Entity::KubeApiserver),
            Self::Cidr(cidr) => {
                let min = match cidr.prefix {
                    IpNet::V4(_) => TEACHER_PREFIX_V4_MIN,
                    IpNet::V6(_) => TEACHER_PREFIX_V6_MIN,
                };
                cidr.prefix.prefix_len() >= min
            }
            Self::Service(_) => true,
        }
    }
}

/// The shortest IPv4 prefix that names servers to learn from.
const TEACHER_PREFIX_V4_MIN: u8 = 24;
/// The same for IPv6: one network, as a /24 is by habit.
const TEACHER_PREFIX_V6_MIN: u8 = 64;

/// A word of `toEntities`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Entity {
    All,
    World,
    WorldIpv4,
    WorldIpv6,
    Host,
    RemoteNode,
    KubeApiserver,
    Health,
    Init,
    Ingress,
    Unmanaged,
    Cluster,
    ClusterMesh,
    None,
}

impl Entity {
    /// All of them with their words; case matters.
    pub(crate) const WORDS: [(&'static str, Self); 14] = [
        ("all", Self::All),
        ("world", Self::World),
        ("world-ipv4", Self::WorldIpv4),
        ("world-ipv6", Self::WorldIpv6),
        ("host", Self::Host),
        ("remote-node", Self::RemoteNode),
        ("kube-apiserver", Self::KubeApiserver),
        ("health", Self::Health),
        ("init", Self::Init),
        ("ingress", Self::Ingress),
        ("unmanaged", Self::Unmanaged),
        ("cluster", Self::Cluster),
        ("cluster-mesh", Self::ClusterMesh),
        ("none", Self::None),
    ];

    /// Its word.
    pub(crate) fn word(self) -> &'static str {
        let word = Self::WORDS.iter().find(|(_, one)| *one == self);
        word.map_or("", |(word, _)| word)
    }

    fn selects(self, labels: &Labels) -> bool {
        let reserved = self.reserved_labels();
        reserved.iter().any(|name| labels.has_reserved(name))
            || (self.has_workloads()
                && labels
                    .with_key(Some(SOURCE_K8S), NAMESPACE_KEY)
                    .next()
                    .is_some())
    }

    /// The fixed labels that the entity stands for.
    const fn reserved_labels(self) -> &'static [&'static str] {
        match self {
            Self::All | Self::None => &[],
            Self::World => &["world", "world-ipv4", "world-ipv6"],
            Self::WorldIpv4 => &["world-ipv4"],
            Self::WorldIpv6 => &["world-ipv6"],
            Self::Host => &["host"],
            Self::RemoteNode => &["remote-node"],
            Self::KubeApiserver => &["kube-apiserver"],
            Self::Health => &["health"],
            Self::Init => &["init"],
            Self::Ingress => &["ingress"],
            Self::Unmanaged => &["unmanaged"],
            Self::Cluster | Self::ClusterMesh => &[
                "host",
                "remote-node",
                "init",
                "ingress",
                "health",
                "unmanaged",
                "kube-apiserver",
            ],
        }
    }

    /// Whether the entity takes in every workload of the cluster.
    const fn has_workloads(self) -> bool {
        match self {
            Self::Cluster | Self::ClusterMesh => true,
            Self::All
            | Self::World
            | Self::WorldIpv4
            | Self::WorldIpv6
            | Self::Host
            | Self::RemoteNode
            | Self::KubeApiserver
            | Self::Health
            | Self::Init
            | Self::Ingress
            | Self::Unmanaged
            | Self::None => false,
        }
    }
}

/// Where a rule stands: one item of a direction in one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleOrigin {
    /// The kind of object.
    pub kind: PolicyKind,
    /// Its namespace; a clusterwide policy has none.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The file it came from.
    pub file: Arc<str>,
    /// The line of the item, from 1.
    pub line: u32,
    /// `log.value` of its rule, for the flows that it decides.
    pub log: Option<Arc<str>>,
}

impl RuleOrigin {
    /// The policy: `kind namespace/name`; a clusterwide one has no namespace.
    #[must_use]
    pub fn policy(&self) -> String {
        full_name(self.kind, self.namespace.as_deref(), &self.name)
    }
}

fn full_name(kind: PolicyKind, namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}
