//! Policy judged the slow way: every rule is asked about every flow, nothing is merged, numbered or
//! kept. Written from the description of the language; what the compiler makes of the same policy is
//! compared with it, and what the kernel makes of that.

mod names;
mod quic;
pub mod random;
pub mod setting;

use std::net::IpAddr;

use fqdn::Name;

use crate::cast::NamedPorts;
use crate::l4::{L7Rules, PortMatch, PortRule, Ports, RuleProtocol};
use crate::names::NameList;
use crate::rule::{
    Effect, Entity, Item, PeerSelector, Peers, Policy, PolicySet, ServiceName, ServiceSelector,
    Subject,
};
use crate::{
    Bound, Cast, Direction, EntryVerdict, Family, L4Protocol, Label, Labels, LocalEndpoint,
    MatchType, Mode, NameBinding, Options, Proxy, Quic,
};

use names::{lets_ask, stands_for};
use quic::instead;

/// What policy is and who there is.
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a> {
    /// The policies.
    pub policies: &'a PolicySet,
    /// Everybody.
    pub cast: &'a Cast,
    /// How policies are taken.
    pub options: Options,
}

/// The other end of a flow.
#[derive(Debug)]
pub struct Other<'a> {
    labels: Labels,
    /// Absent for who has an identity by labels.
    outside: Option<IpAddr>,
    names: &'a [Name],
    /// All addresses of its identity.
    addresses: Vec<IpAddr>,
    /// What the workloads of its identity call their ports.
    ports: Vec<&'a NamedPorts>,
}

/// A flow, but for its two ends.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// Seen from the endpoint.
    pub direction: Direction,
    /// IANA protocol number.
    pub protocol: u8,
    /// The destination port, or the type of ICMP; 0 for other protocols.
    pub port: u16,
}

/// Something that is said of a flow, and in how much detail.
#[derive(Clone, Copy)]
struct Said {
    verdict: EntryVerdict,
    /// Whether of a protocol, and of how many bits of the port.
    detail: (bool, u32),
    /// Whether of this peer rather than of everybody.
    of_peer: bool,
}

impl<'a> Reference<'a> {
    /// Whoever has an address; `names` are those that were learned for it.
    #[must_use]
    pub fn other(&self, address: IpAddr, names: &'a [Name]) -> Other<'a> {
        let is_host = self.cast.host_addresses.contains(&address) || address.is_loopback();
        let labels = if is_host {
            Some([Label::reserved("host")].into_iter().collect())
        } else {
            let owns = self
                .cast
                .workloads()
                .filter(|(_, owned)| owned.contains(&address));
            owns.last().map(|(workload, _)| workload.full_labels())
        };
        let Some(labels) = labels else {
            let world = match Family::of(address) {
                Family::V4 => "world-ipv4",
                Family::V6 => "world-ipv6",
            };
            return Other {
                labels: [Label::reserved(world)].into_iter().collect(),
                outside: Some(address),
                names,
                addresses: vec![address],
                ports: Vec::new(),
            };
        };
        let same = || {
            let all = self.cast.workloads();
            all.filter(|(workload, _)| workload.full_labels() == labels)
        };
        let mut addresses: Vec<IpAddr> = same().flat_map(|(_, owned)| owned).copied().collect();
        if labels.has_reserved("host") {
            addresses.extend(&self.cast.host_addresses);
        }
        Other {
            ports: same().map(|(workload, _)| &workload.ports).collect(),
            addresses,
            outside: None,
            names: &[],
            labels,
        }
    }

    /// The items of a direction of the rules that select an endpoint.
    fn items(&self, endpoint: &LocalEndpoint, direction: Direction) -> Vec<(&'a Policy, &'a Item)> {
        let labels = endpoint.workload.full_labels();
        let selecting = self.policies.items().filter(|(_, rule, item)| {
            let is_subject = match &rule.subject {
                Subject::Endpoints(selector) => selector.matches(&labels),
                Subject::Nodes(_) => false,
            };
            is_subject && item.direction == direction
        });
        selecting
            .map(|(policy, _, item)| (policy, &**item))
            .collect()
    }

    /// What happens to a flow, and by what form of entry.
    #[must_use]
    pub fn judge(
        &self,
        endpoint: &LocalEndpoint,
        other: &Other<'_>,
        wire: Wire,
    ) -> (EntryVerdict, MatchType) {
        if self.options.mode == Mode::Never {
            return (EntryVerdict::Allow, MatchType::All);
        }
        let items = self.items(endpoint, wire.direction);
        let default = self.default(endpoint, &items);
        let is_closed = default.is_none();
        let at = (endpoint, other, default);
        let (mut said, bound) = self.say(&items, at, wire);
        let is_datagram = wire.direction == Direction::Egress && wire.protocol == 17;
        if is_datagram && wire.port != 53 && is_closed && self.options.quic != Quic::Allow {
            let over_tcp = Wire {
                protocol: 6,
                ..wire
            };
            let (mut over_tcp, bound) = self.say(&items, at, over_tcp);
            let strictness = bound.iter().map(|(_, binding)| *binding).min();
            let is_free = over_tcp
                .iter()
                .any(|one| one.verdict == EntryVerdict::Allow);
            if wire.port == 443 && strictness == Some(NameBinding::Enforce) && !is_free {
                said.push(Said {
                    verdict: EntryVerdict::Refuse,
                    detail: (true, 16),
                    of_peer: true,
                });
            }
            let audited = bound
                .into_iter()
                .filter(|(_, binding)| *binding == NameBinding::Audit);
            over_tcp.extend(audited.map(|(one, _)| one));
            let judged = self.judges_quic(endpoint, wire.port);
            said.extend(instead(&over_tcp, wire.port, judged));
        }
        // A name is asked for only where nothing else lets the flow pass.
        let is_free = said
            .iter()
            .chain(&default)
            .any(|one| one.verdict == EntryVerdict::Allow);
        let is_seen = wire.protocol == 6 && wire.port != 53 && !is_free;
        said.extend(bound.into_iter().map(|(one, _)| match is_seen {
            true => Said {
                verdict: EntryVerdict::Redirect(Proxy::Names),
                detail: (true, 16),
                ..one
            },
            false => one,
        }));
        said.extend(default);
        let from_host = wire.direction == Direction::Ingress && other.labels.has_reserved("host");
        if from_host && self.options.allow_localhost && !items.is_empty() {
            said.push(Said::of_all(EntryVerdict::Allow, true));
        }
        strongest(&said)
    }

    /// What items say of a flow, and what is allowed by those that are bound to their names.
    fn say(
        &self,
        items: &[(&Policy, &Item)],
        (endpoint, other, default): (&LocalEndpoint, &Other<'_>, Option<Said>),
        wire: Wire,
    ) -> (Vec<Said>, Vec<(Said, NameBinding)>) {
        let mut said = Vec::new();
        let mut bound = Vec::new();
        for (policy, item) in items {
            let Some(of_peer) = self.selects(item, other) else {
                continue;
            };
            let binding = self.binding_of(endpoint, (policy, item), default);
            for (detail, of_peer, port) in details(item, (endpoint, other, of_peer), wire) {
                let verdict = effect(item, port);
                let audited = policy.audit || self.is_audited(endpoint);
                if audited && !verdict.passes() && default.is_none() {
                    continue; // what is not enforced must not open what is closed
                }
                if verdict == EntryVerdict::Allow && binding != NameBinding::Off {
                    let one = Said {
                        verdict,
                        detail,
                        of_peer,
                    };
                    bound.push((one, binding));
                    continue;
                }
                said.push(Said {
                    verdict: match verdict.passes() || !audited {
                        true => verdict,
                        false => EntryVerdict::AuditDeny,
                    },
                    detail,
                    of_peer,
                });
            }
        }
        (said, bound)
    }

    /// How strictly an item binds what it allows to its names.
    fn binding_of(
        &self,
        endpoint: &LocalEndpoint,
        (policy, item): (&Policy, &Item),
        default: Option<Said>,
    ) -> NameBinding {
        let is_named = matches!(item.peers, Peers::Named(_)) && item.effect == Effect::Allow;
        let is_open = default.is_some_and(|one| one.verdict == EntryVerdict::Allow);
        if !is_named || is_open {
            return NameBinding::Off;
        }
        let asked = policy.name_binding.unwrap_or(self.options.name_binding);
        let is_told = policy.audit || self.is_audited(endpoint) || default.is_some();
        match asked {
            NameBinding::Enforce if !is_told => NameBinding::Enforce,
            NameBinding::Enforce | NameBinding::Audit if endpoint.is_redirectable => {
                NameBinding::Audit
            }
            NameBinding::Enforce | NameBinding::Audit | NameBinding::Off => NameBinding::Off,
        }
    }

    /// What becomes of a flow to a port of TCP that goes to the proxy for names alone, and says this one:
    /// how strictly it is bound, and whether it fits.
    #[must_use]
    pub fn bound(
        &self,
        endpoint: &LocalEndpoint,
        other: &Other<'_>,
        (port, said): (u16, Option<&Name>),
    ) -> Option<Bound> {
        let wire = Wire {
            direction: Direction::Egress,
            protocol: 6,
            port,
        };
        let items = self.items(endpoint, Direction::Egress);
        let default = self.default(endpoint, &items);
        let (mut mode, mut fits) = (None, false);
        for (policy, item) in &items {
            let Peers::Named(names) = &item.peers else {
                continue;
            };
            if details(item, (endpoint, other, true), wire).is_empty() {
                continue;
            }
            fits |= said.is_some_and(|said| stands_for(names, said));
            let binding = self.binding_of(endpoint, (policy, item), default);
            if self.selects(item, other).is_some() && effect(item, None).passes() {
                mode = Some(mode.map_or(binding, |mode: NameBinding| mode.min(binding)));
            }
        }
        Some(Bound { mode: mode?, fits })
    }

    fn is_audited(&self, endpoint: &LocalEndpoint) -> bool {
        self.options.audit || endpoint.audit
    }

    /// What is said of every flow where no rule says anything; nothing is default deny.
    fn default(&self, endpoint: &LocalEndpoint, items: &[(&Policy, &Item)]) -> Option<Said> {
        let labels = endpoint.workload.full_labels();
        let closing: Vec<&Policy> = items
            .iter()
            .filter(|(_, item)| item.default_deny)
            .map(|(policy, _)| *policy)
            .collect();
        let always = self.options.mode == Mode::Always || labels.has_reserved("init");
        if !always && closing.is_empty() {
            return Some(Said::of_all(EntryVerdict::Allow, false));
        }
        let told =
            self.is_audited(endpoint) || (!always && closing.iter().all(|policy| policy.audit));
        told.then(|| Said::of_all(EntryVerdict::AuditDefault, false))
    }

    /// Whether a name may be asked of a server.
    #[must_use]
    pub fn may_ask(
        &self,
        endpoint: &LocalEndpoint,
        (server, protocol, port): (IpAddr, L4Protocol, u16),
        asked: (&Name, u16),
    ) -> bool {
        if self.options.mode == Mode::Never {
            return false; // nothing is redirected, so nobody asks here
        }
        let other = self.other(server, &[]);
        let wire = Wire {
            direction: Direction::Egress,
            protocol: protocol.number(),
            port,
        };
        let items = self.items(endpoint, Direction::Egress);
        let (mut judged, mut allowed) = (false, false);
        for (policy, item) in &items {
            if self.selects(item, &other).is_none() {
                continue;
            }
            let found = details(item, (endpoint, &other, true), wire);
            let drops = !effect(item, None).passes();
            if drops && !found.is_empty() && !policy.audit && !self.is_audited(endpoint) {
                return false;
            }
            for (_, _, rule) in found.into_iter().filter(|_| item.effect == Effect::Allow) {
                // No port, port 0 and a range are other entries, and say nothing about names.
                match rule.filter(|rule| is_one_port(&rule.port)) {
                    None => {}
                    Some(rule) => match names_of(rule) {
                        None => allowed = true,
                        Some(names) => {
                            judged = true;
                            allowed |= lets_ask(names, asked);
                        }
                    },
                }
            }
        }
        let observed = matches!(
            self.default(endpoint, &items),
            Some(Said {
                verdict: EntryVerdict::Allow,
                ..
            })
        );
        judged && (allowed || observed)
    }

    /// Whether an item is about a peer, and whether by name rather than as everybody.
    fn selects(&self, item: &Item, other: &Other<'_>) -> Option<bool> {
        match &item.peers {
            Peers::Any => Some(false),
            Peers::Nobody => None,
            Peers::Some(peers) => peers
                .iter()
                .any(|peer| self.is_peer(peer, other))
                .then_some(true),
            Peers::Named(names) => {
                let mut of_other = other.names.iter();
                of_other.any(|name| stands_for(names, name)).then_some(true)
            }
        }
    }

    fn is_peer(&self, peer: &PeerSelector, other: &Other<'_>) -> bool {
        match peer {
            PeerSelector::Labels(selector) => selector.matches(&other.labels),
            PeerSelector::Entity(entity) => is_of(*entity, &other.labels),
            PeerSelector::Cidr(cidr) => other.outside.is_some_and(|address| {
                cidr.prefix.contains(&address)
                    && !cidr.except.iter().any(|hole| hole.contains(&address))
            }),
            PeerSelector::Service(service) => self.is_backend(service, other),
        }
    }

    fn is_backend(&self, selector: &ServiceSelector, other: &Other<'_>) -> bool {
        self.cast.services.iter().any(|service| {
            let is_named = match &selector.service {
                ServiceName::Exact(name) => **name == *service.name,
                ServiceName::Labels(labels) => labels.matches(&service.labels),
            };
            let namespace = selector.namespace.as_deref();
            is_named
                && namespace.is_none_or(|namespace| namespace == service.namespace)
                && service
                    .backends
                    .iter()
                    .any(|one| other.addresses.contains(one))
        })
    }
}

impl Said {
    fn of_all(verdict: EntryVerdict, of_peer: bool) -> Self {
        Self {
            verdict,
            detail: (false, 0),
            of_peer,
        }
    }
}

/// The strongest wins, then the longer match of protocol and port, then the one for the peer; but
/// what is said of a peer doesn't count where the same is said of everybody.
fn strongest(said: &[Said]) -> (EntryVerdict, MatchType) {
    let is_moot = |one: &&Said| {
        one.of_peer
            && said.iter().any(|other| {
                !other.of_peer && other.detail == one.detail && other.verdict >= one.verdict
            })
    };
    let counted = said.iter().filter(|one| !is_moot(one));
    let Some(best) = counted.max_by_key(|one| (one.verdict, one.detail, one.of_peer)) else {
        return (EntryVerdict::Deny, MatchType::None);
    };
    let form = match (best.of_peer, best.detail) {
        _ if best.verdict == EntryVerdict::AuditDefault => MatchType::None,
        (true, (false, _)) => MatchType::L3Only,
        (true, (true, 0)) => MatchType::L3Proto,
        (true, (true, _)) => MatchType::L3L4,
        (false, (false, _)) => MatchType::All,
        (false, (true, 0)) => MatchType::ProtoOnly,
        (false, (true, _)) => MatchType::L4Only,
    };
    (best.verdict, form)
}

/// What an item that is about a peer does, through one of its ports.
fn effect(item: &Item, port: Option<&PortRule>) -> EntryVerdict {
    if item.effect == Effect::Deny {
        return EntryVerdict::Deny;
    }
    if item.fails_authentication {
        return EntryVerdict::FailAuthentication;
    }
    match port.and_then(|port| port.l7.as_deref()).map(|l7| &l7.rules) {
        None => EntryVerdict::Allow,
        Some(L7Rules::Dns(_)) => EntryVerdict::Redirect(Proxy::Dns),
        Some(L7Rules::Http(_)) => EntryVerdict::Redirect(Proxy::Http),
        Some(L7Rules::None) => EntryVerdict::Redirect(Proxy::Tls),
    }
}

type Detail<'r> = ((bool, u32), bool, Option<&'r PortRule>);

/// Every way in which the ports of an item are about a flow.
fn details<'r>(
    item: &'r Item,
    (endpoint, other, of_peer): (&LocalEndpoint, &Other<'_>, bool),
    wire: Wire,
) -> Vec<Detail<'r>> {
    let list = match &item.ports {
        Ports::Any => return vec![((false, 0), of_peer, None)],
        Ports::List(list) => list,
    };
    let mut found = Vec::new();
    for rule in list.iter().filter(|rule| is_protocol(rule, wire.protocol)) {
        match &rule.port {
            PortMatch::All => found.push(((true, 0), of_peer, Some(rule))),
            PortMatch::Range(first, last) => {
                if (*first..=*last).contains(&wire.port) {
                    let bits = bits_of(u32::from(*first), u32::from(*last), u32::from(wire.port));
                    found.push(((true, bits), of_peer, Some(rule)));
                }
            }
            PortMatch::Named(name) => {
                // Egress: each peer's own ports, so it is said of that peer.
                let (ports, of_peer) = match wire.direction {
                    Direction::Ingress => (vec![&endpoint.workload.ports], of_peer),
                    Direction::Egress => (other.ports.clone(), true),
                };
                let is_so = |ports: &&NamedPorts| {
                    let owned = ports.get(name);
                    owned.is_some_and(|(port, protocol)| {
                        *port == wire.port && protocol.number() == wire.protocol
                    })
                };
                if ports.iter().any(is_so) {
                    found.push(((true, 16), of_peer, Some(rule)));
                }
            }
        }
    }
    found
}

/// How many bits the largest aligned block of ports shares that holds a port and lies in a range.
fn bits_of(first: u32, last: u32, port: u32) -> u32 {
    let fits = |bits: &u32| {
        let size = 1 << (16 - bits);
        let start = port / size * size;
        first <= start && start + size - 1 <= last
    };
    (0..=16).find(fits).unwrap_or(16)
}

fn is_protocol(rule: &PortRule, number: u8) -> bool {
    match rule.protocol {
        // DNS is not spoken over SCTP.
        RuleProtocol::Any => {
            matches!(number, 6 | 17) || (number == 132 && names_of(rule).is_none())
        }
        RuleProtocol::One(one) => one.number() == number,
        RuleProtocol::Icmp(Family::V4) => number == 1,
        RuleProtocol::Icmp(Family::V6) => number == 58,
    }
}

fn names_of(rule: &PortRule) -> Option<&NameList> {
    match rule.l7.as_deref().map(|l7| &l7.rules) {
        Some(L7Rules::Dns(names)) => Some(names),
        Some(L7Rules::None | L7Rules::Http(_)) | None => None,
    }
}

fn is_one_port(port: &PortMatch) -> bool {
    matches!(port, PortMatch::Named(_))
        || matches!(port, PortMatch::Range(first, last) if first == last)
}

fn is_of(entity: Entity, labels: &Labels) -> bool {
    let has = |names: &[&str]| names.iter().any(|name| labels.has_reserved(name));
    match entity {
        Entity::All => true,
        Entity::None => false,
        Entity::World => has(&["world-ipv4", "world-ipv6"]),
        Entity::WorldIpv4 => has(&["world-ipv4"]),
        Entity::WorldIpv6 => has(&["world-ipv6"]),
        Entity::Host => has(&["host"]),
        Entity::RemoteNode => has(&["remote-node", "kube-apiserver"]),
        Entity::KubeApiserver => has(&["kube-apiserver"]),
        Entity::Health => has(&["health"]),
        Entity::Init => has(&["init"]),
        Entity::Ingress => has(&["ingress"]),
        Entity::Unmanaged => has(&["unmanaged"]),
        // One cluster: everybody who is not outside.
        Entity::Cluster | Entity::ClusterMesh => !has(&["world-ipv4", "world-ipv6"]),
    }
}
