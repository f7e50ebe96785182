//! One revision of policy, compiled: who may reach whom, ask what, and learn which addresses.

mod bound;
mod compiler;
mod conflict;
mod direction;
mod dns_port;
mod endpoint;
mod item;
mod l7;
mod name_cache;
mod outside;
mod quic;
mod selection;
mod service;
mod table;
mod tally;
mod tls;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fqdn::Name;
use ipnet::IpNet;

use crate::address::{AddressClass, Owned};
use crate::dns::{Denial, DenialReason, DenyAnswer, DnsPermit, Question};
use crate::prefix::PrefixTable;
use crate::rule::Effect;
use crate::rule::RuleOrigin;
use crate::verdict::{Decision, Entry, EntryVerdict, FlowKey, decide};
use crate::{
    Direction, EndpointId, Family, Identities, Identity, L4Protocol, LabelSet, Labels, NameBinding,
    RuleId,
};
pub use compiler::{Compiler, Options, Quic};
pub use direction::Enforcement;
use dns_port::DnsPort;
use endpoint::EndpointPolicy;
use item::CompiledItem;
pub use l7::{HttpAccess, HttpDecision};
use service::Frontends;
pub use service::ServiceFrontend;
use table::{Known, Table};
pub use tally::NameSelector;
pub use tls::{SniDecision, TlsRule};

/// Whether endpoints are closed to what no rule allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// In the directions that some rule is about.
    #[default]
    Default,
    /// In both directions, always.
    Always,
    /// Never; nothing is redirected either.
    Never,
}

/// Where names are asked if nothing else is said.
const DNS_PORT: u16 = 53;

/// Policy, ready to be asked. Built whole, then only read; the next revision is another snapshot.
#[derive(Debug)]
pub struct Snapshot {
    revision: u64,
    origins: BTreeMap<RuleId, Arc<RuleOrigin>>,
    endpoints: HashMap<EndpointId, Arc<EndpointPolicy>>,
    /// What fills the kernel's address table.
    prefixes: BTreeMap<IpNet, Identity>,
    /// The same, by longest match.
    table: PrefixTable<Identity>,
    /// Everybody in the table.
    known: BTreeMap<Identity, Arc<Known>>,
    frontends: Frontends,
    /// One for each acquisition that [`Snapshot::release`] gives back.
    acquired: Vec<Identity>,
    owned: Owned,
}

/// Who is at the other end of a flow.
#[derive(Clone, Copy, Debug)]
pub enum PeerRef<'a> {
    /// Somebody of the address table.
    Known(Identity),
    /// An address that an endpoint has learned, by its labels.
    Learned(&'a LabelSet),
}

impl PeerRef<'_> {
    /// The identity, if it is one of the table.
    fn identity(&self) -> Option<Identity> {
        match self {
            Self::Known(identity) => Some(*identity),
            Self::Learned(_) => None,
        }
    }
}

impl Snapshot {
    fn new(
        revision: u64,
        table: Table,
        endpoints: HashMap<EndpointId, Arc<EndpointPolicy>>,
        origins: BTreeMap<RuleId, Arc<RuleOrigin>>,
    ) -> Self {
        Self {
            revision,
            origins,
            endpoints,
            table: table.by_address(),
            known: table.known,
            frontends: table.frontends,
            prefixes: table.prefixes,
            acquired: table.acquired,
            owned: table.owned,
        }
    }

    /// Gives back the identities that the snapshot acquired: once, after the last reader.
    pub fn release(&self, identities: &mut Identities) {
        for identity in &self.acquired {
            identities.release(*identity);
        }
    }

    /// The revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Where a rule of this snapshot stands.
    #[must_use]
    pub fn rule(&self, rule: RuleId) -> Option<&RuleOrigin> {
        self.origins.get(&rule).map(|origin| &**origin)
    }

    /// All rules with their numbers.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = (RuleId, &RuleOrigin)> {
        self.origins.iter().map(|(rule, origin)| (*rule, &**origin))
    }

    /// The whole address table: workloads, the node, prefixes that policy names, and the world.
    pub fn prefixes(&self) -> impl Iterator<Item = (IpNet, Identity)> {
        self.prefixes
            .iter()
            .map(|(prefix, identity)| (*prefix, *identity))
    }

    /// The identity of an address by that table; what an endpoint has learned is not in it.
    #[must_use]
    pub fn identity_of(&self, address: IpAddr) -> Identity {
        let address = address.to_canonical();
        let world = Family::of(address).world();
        let longest = self.table.covering(address).next();
        longest.map_or(world, |(_, identity)| *identity)
    }

    /// The labels of an identity of the table.
    #[must_use]
    pub fn labels_of(&self, identity: Identity) -> Option<&Labels> {
        let known = self.known.get(&identity).map(|known| &known.labels);
        known.or_else(|| self.frontends.labels_of(identity))
    }

    /// Whether addresses have, or had, an identity by the names that were learned of them: it is local, and
    /// stands for no prefix that policy names.
    #[must_use]
    pub fn is_by_name(&self, identity: Identity) -> bool {
        identity.get() >= Identity::LOCAL_MIN && self.labels_of(identity).is_none()
    }

    /// The virtual addresses of services.
    pub fn frontends(&self) -> impl Iterator<Item = &ServiceFrontend> {
        self.frontends.iter()
    }

    /// The service behind an address and port, if it is a virtual one.
    #[must_use]
    pub fn frontend(&self, server: SocketAddr, protocol: L4Protocol) -> Option<&ServiceFrontend> {
        self.frontends.at(server.ip(), protocol, server.port())
    }

    /// Whether an endpoint is refused a service's address though some of its backends may be reached: a
    /// flow may end at any of them.
    #[must_use]
    pub fn is_ambiguous(
        &self,
        endpoint: EndpointId,
        server: SocketAddr,
        protocol: L4Protocol,
    ) -> bool {
        let Some(policy) = self.endpoints.get(&endpoint) else {
            return false;
        };
        self.frontend(server, protocol)
            .is_some_and(|one| one.is_ambiguous(policy))
    }

    /// Whether a direction of an endpoint is limited to what policy allows; `None` if it is unknown.
    #[must_use]
    pub fn enforcement(&self, endpoint: EndpointId, direction: Direction) -> Option<Enforcement> {
        let policy = self.endpoints.get(&endpoint)?;
        Some(policy.direction(direction).enforcement)
    }

    /// How strictly what a rule allows an endpoint is bound to its names.
    #[must_use]
    pub fn name_binding(&self, endpoint: EndpointId, rule: &RuleOrigin) -> NameBinding {
        let egress = self.endpoints.get(&endpoint).map(|policy| &policy.egress);
        let items = egress.into_iter().flat_map(|egress| {
            let here = egress
                .items
                .iter()
                .filter(|item| *item.prepared.origin == *rule);
            here.map(|item| egress.binding_of(item))
        });
        items.max().unwrap_or_default()
    }

    /// Whether the endpoint's egress is limited to what policy allows; `None` if it is unknown.
    #[must_use]
    pub fn is_egress_enforced(&self, endpoint: EndpointId) -> Option<bool> {
        self.enforcement(endpoint, Direction::Egress)
            .map(Enforcement::is_closed)
    }

    /// All policy entries of an endpoint for the identities of the table and of services; `None` if it
    /// is unknown.
    #[must_use]
    pub fn entries(&self, endpoint: EndpointId) -> Option<Vec<Entry>> {
        let policy = self.endpoints.get(&endpoint)?;
        let of_services = self.frontends.entries(policy);
        Some(policy.entries().copied().chain(of_services).collect())
    }

    /// The entries that one more identity of these labels needs on an endpoint, beside those for any
    /// identity that [`Snapshot::entries`] has.
    #[must_use]
    pub fn entries_for(
        &self,
        endpoint: EndpointId,
        labels: &LabelSet,
        identity: Identity,
    ) -> Vec<Entry> {
        self.endpoints
            .get(&endpoint)
            .map(|policy| policy.entries_for(labels, identity))
            .unwrap_or_default()
    }

    /// The verdict on a flow of an endpoint with an identity of the table; an unknown endpoint may
    /// do nothing.
    #[must_use]
    pub fn judge(&self, endpoint: EndpointId, flow: FlowKey) -> Decision {
        let Some(policy) = self.endpoints.get(&endpoint) else {
            return Decision::DEFAULT_DENY;
        };
        let entries = &policy.direction(flow.direction).entries;
        if self.frontends.labels_of(flow.identity).is_none() {
            return decide(entries, flow);
        }
        let of_services = self.frontends.entries(policy);
        let all: Vec<Entry> = entries.iter().copied().chain(of_services).collect();
        decide(&all, flow)
    }

    /// The verdict on a flow with an address that the endpoint has learned; the flow's identity is
    /// not looked at.
    #[must_use]
    pub fn judge_learned(
        &self,
        endpoint: EndpointId,
        labels: &LabelSet,
        flow: FlowKey,
    ) -> Decision {
        let Some(policy) = self.endpoints.get(&endpoint) else {
            return Decision::DEFAULT_DENY;
        };
        // A number that no entry of the table has.
        let identity = Identity::from_number(u32::MAX);
        let mut entries = policy.entries_for(labels, identity);
        entries.extend(&policy.direction(flow.direction).entries);
        decide(&entries, FlowKey { identity, ..flow })
    }

    /// All rules that say the same of a flow as its verdict: those that allow it, or those that deny
    /// it; for default deny those that ask for it.
    #[must_use]
    pub fn deciding_rules(
        &self,
        endpoint: EndpointId,
        peer: PeerRef<'_>,
        flow: FlowKey,
    ) -> Vec<RuleId> {
        let Some(policy) = self.endpoints.get(&endpoint) else {
            return Vec::new();
        };
        let direction = policy.direction(flow.direction);
        let decision = match peer {
            PeerRef::Known(identity) => self.judge(endpoint, FlowKey { identity, ..flow }),
            PeerRef::Learned(labels) => self.judge_learned(endpoint, labels, flow),
        };
        if decision.drop_reason() == Some(133) || decision.verdict == EntryVerdict::AuditDefault {
            let items = direction.items.iter();
            let closing = items.filter(|item| item.item().default_deny);
            return closing.map(CompiledItem::id).collect();
        }
        let refused = decision.verdict == EntryVerdict::Refuse;
        let judges_quic = flow.protocol == quic::UDP
            && decision.verdict == EntryVerdict::Redirect(crate::Proxy::Tls);
        let says_so = |item: &&CompiledItem| {
            let keys = direction.keys_of(item, peer.identity());
            let is_bound = direction.binding_of(item) == NameBinding::Enforce;
            keys.into_iter().any(|((protocol, ports), verdict)| {
                if refused {
                    let over_tcp = is_bound && quic::opens_tcp(protocol, verdict);
                    let needs_name = over_tcp || quic::needs_name((protocol, ports), verdict);
                    return needs_name && ports.contains(flow.port);
                }
                if judges_quic && quic::needs_name((protocol, ports), verdict) {
                    return ports.contains(flow.port);
                }
                (protocol == 0 || protocol == flow.protocol)
                    && ports.contains(flow.port)
                    && verdict.passes() == decision.verdict.passes()
                    && verdict.is_audited() == decision.verdict.is_audited()
            })
        };
        direction
            .selecting_peer(peer)
            .into_iter()
            .filter(says_so)
            .map(CompiledItem::id)
            .collect()
    }

    /// What an address stands for once an endpoint has learned it under these names: the FQDN
    /// selectors that match one of them and the prefixes that hold it, both of the policies that
    /// select the endpoint, and the world.
    #[must_use]
    pub fn learned_labels<'a>(
        &self,
        endpoint: EndpointId,
        names: impl Iterator<Item = &'a Name>,
        address: IpAddr,
    ) -> LabelSet {
        let family = Family::of(address);
        let Some(policy) = self.endpoints.get(&endpoint) else {
            return LabelSet::world(family);
        };
        let selectors = policy.selectors_for(names);
        let prefixes = policy.prefixes.covering(address);
        let prefixes = prefixes.map(|(prefix, ())| prefix).collect();
        LabelSet::new(family, prefixes, selectors)
    }

    /// The endpoint's rules whose `toFQDNs` have a name that stands for this one: what opens its addresses.
    pub fn rules_naming(
        &self,
        endpoint: EndpointId,
        name: &Name,
    ) -> impl Iterator<Item = &RuleOrigin> {
        let policy = self.endpoints.get(&endpoint);
        let rules = policy.map(|policy| policy.rules_naming(name));
        let rules = rules.into_iter().flatten();
        rules.filter_map(|rule| self.rule(rule))
    }

    /// Whether an egress rule of the endpoint's policies denies an address of the world, at any port.
    #[must_use]
    pub fn denies_address(&self, endpoint: EndpointId, address: IpAddr) -> bool {
        let Some(policy) = self.endpoints.get(&endpoint) else {
            return false;
        };
        let labels = self.learned_labels(endpoint, std::iter::empty(), address);
        let egress = policy.direction(Direction::Egress);
        let items = egress.selecting_peer(PeerRef::Learned(&labels));
        items.iter().any(|item| item.item().effect == Effect::Deny)
    }

    /// The verdict on a DNS question to a server.
    ///
    /// # Errors
    /// The denial, with the answer that the client gets by default.
    #[expect(
        clippy::too_many_arguments,
        reason = "what a query is known by, each of another type"
    )]
    pub fn judge_dns(
        &self,
        endpoint: EndpointId,
        server: SocketAddr,
        protocol: L4Protocol,
        question: &Question,
    ) -> Result<DnsPermit, Denial> {
        let denied = |reason, answer| Err(Denial { reason, answer });
        let Some(policy) = self.endpoints.get(&endpoint) else {
            return denied(DenialReason::UnknownEndpoint, DenyAnswer::ServFail);
        };
        let own = self.identity_of(server.ip());
        let (servers, port) = self.dns_of(policy, (server, protocol), &own);
        // Of a service any backend may be asked: all of them must be allowed.
        let mut by_rule = None;
        for identity in servers {
            let Some(names) = port.and_then(|port| port.names(*identity)) else {
                return denied(DenialReason::ServerNotAllowed, DenyAnswer::NxDomain);
            };
            let rule = match names.allowing(question) {
                Some(rule) => Some(rule),
                None if names.audited => None,
                None if names.allows_some_type(&question.name) => {
                    return denied(DenialReason::TypeNotAllowed, DenyAnswer::NoData);
                }
                None if names.is_ancestor_of_some(&question.name) => {
                    return denied(DenialReason::NameNotAllowed, DenyAnswer::NoData);
                }
                None => return denied(DenialReason::NameNotAllowed, DenyAnswer::NxDomain),
            };
            by_rule = Some(by_rule.map_or(rule, |before: Option<_>| before.and(rule)));
        }
        let Some(rule) = by_rule else {
            return denied(DenialReason::ServerNotAllowed, DenyAnswer::NxDomain);
        };
        Ok(DnsPermit {
            endpoint,
            server,
            protocol,
            question: question.clone(),
            rule: rule.map_or(RuleId::NONE, |(rule, _)| rule),
            revision: self.revision,
            audited: rule.is_none(),
            literal_labels: rule.and_then(|(_, literal)| literal),
        })
    }

    /// Whether it is by DNS rules that what an endpoint sends to a server is redirected.
    #[must_use]
    pub fn judges_dns(
        &self,
        endpoint: EndpointId,
        server: SocketAddr,
        protocol: L4Protocol,
    ) -> bool {
        let own = self.identity_of(server.ip());
        let Some(policy) = self.endpoints.get(&endpoint) else {
            return false;
        };
        let (servers, port) = self.dns_of(policy, (server, protocol), &own);
        port.is_some_and(|port| servers.iter().any(|one| port.names(*one).is_some()))
    }

    /// The ports beside 53 at which questions are judged, as packets have them: those of rules, and those of
    /// virtual addresses that stand for them.
    #[must_use]
    pub fn dns_ports(&self) -> BTreeSet<u16> {
        let keys = self.endpoints.values().flat_map(|policy| policy.dns.keys());
        let keys: BTreeSet<(L4Protocol, u16)> = keys.copied().collect();
        let mut ports = self.frontends.ports_of(&keys);
        ports.remove(&DNS_PORT);
        ports
    }

    /// The ports of UDP at which the server name in QUIC is judged, as packets have them. None of them is one
    /// of [`Snapshot::dns_ports`], or 53.
    #[must_use]
    pub fn quic_ports(&self) -> BTreeSet<u16> {
        let policies = self.endpoints.values();
        let targets = policies.flat_map(|policy| policy.egress.quic_ports());
        let targets = targets.map(|port| (L4Protocol::Udp, port)).collect();
        self.frontends.ports_of(&targets)
    }

    /// Who may answer at an address: whoever has it (`own`), or the backends of a service; and the DNS rules
    /// for their port.
    fn dns_of<'a>(
        &'a self,
        policy: &'a EndpointPolicy,
        (server, protocol): (SocketAddr, L4Protocol),
        own: &'a Identity,
    ) -> (&'a [Identity], Option<&'a DnsPort>) {
        let (servers, port) = match self.frontend(server, protocol) {
            Some(one) => (&*one.backends, one.frontend.target),
            None => (std::slice::from_ref(own), server.port()),
        };
        (servers, policy.dns.get(&(protocol, port)))
    }

    /// Whether an endpoint learns addresses from a server's answers: a DNS rule names it closely, by
    /// the value of a label, as `host` or `kube-apiserver`, or by a prefix of at least /24 (IPv6 /64).
    #[must_use]
    pub fn may_teach(
        &self,
        endpoint: EndpointId,
        server: SocketAddr,
        protocol: L4Protocol,
    ) -> bool {
        let own = self.identity_of(server.ip());
        let Some(policy) = self.endpoints.get(&endpoint) else {
            return false;
        };
        let (servers, port) = self.dns_of(policy, (server, protocol), &own);
        let teaches = |port: &DnsPort| servers.iter().all(|server| port.teaches(*server));
        !servers.is_empty() && port.is_some_and(teaches)
    }

    /// Whether names open addresses for an endpoint.
    #[must_use]
    pub fn opens_by_name(&self, endpoint: EndpointId) -> bool {
        let policy = self.endpoints.get(&endpoint);
        policy.is_some_and(|policy| policy.has_names())
    }

    /// Whether an answer may open an address at all.
    ///
    /// # Errors
    /// The class of addresses that is never learned.
    pub fn may_learn(&self, address: IpAddr) -> Result<(), AddressClass> {
        self.owned.may_learn(address)
    }
}

#[cfg(test)]
mod tests;
