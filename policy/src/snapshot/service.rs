//! Virtual addresses of services: judged as what stands behind them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::endpoint::EndpointPolicy;
use crate::verdict::{Decision, Entry, EntryVerdict, FlowKey, PortPrefix, decide};
use crate::{Direction, EndpointId, Frontend, Identity, L4Protocol, Labels, RuleId};

/// A virtual address and port, and who stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFrontend {
    /// The address and ports.
    pub frontend: Frontend,
    /// Whose identity it has: the backends', if they share one, else the service's own.
    pub identity: Identity,
    /// The identities of the backends, each once.
    pub backends: Vec<Identity>,
    /// The endpoint of this node that alone stands behind it: it reaches itself there, whatever its policy
    /// says of others.
    pub only: Option<EndpointId>,
}

impl ServiceFrontend {
    /// What an endpoint's policy says of each backend.
    fn decisions<'a>(&'a self, policy: &'a EndpointPolicy) -> impl Iterator<Item = Decision> + 'a {
        let judge = |backend: &Identity| {
            let flow = FlowKey {
                direction: Direction::Egress,
                identity: *backend,
                protocol: self.frontend.protocol.number(),
                port: self.frontend.target,
            };
            decide(&policy.direction(Direction::Egress).entries, flow)
        };
        self.backends.iter().map(judge)
    }

    /// Whether policy refuses it though some of its backends may be reached.
    pub(super) fn is_ambiguous(&self, policy: &EndpointPolicy) -> bool {
        let passes: Vec<bool> = self
            .decisions(policy)
            .map(|one| one.verdict.passes())
            .collect();
        passes.contains(&true) && passes.contains(&false)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Frontends {
    by_place: HashMap<(IpAddr, L4Protocol, u16), ServiceFrontend>,
    /// What the identities stand for that are a service's own.
    labels: BTreeMap<Identity, Labels>,
}

impl Frontends {
    /// Adds one; where two services claim a place the first has it. `labels` are the service's own,
    /// where it needs an identity.
    pub(super) fn add(&mut self, one: ServiceFrontend, labels: Option<Labels>) {
        let Frontend {
            vip,
            protocol,
            port,
            ..
        } = one.frontend;
        if let Some(labels) = labels {
            self.labels.insert(one.identity, labels);
        }
        self.by_place.entry((vip, protocol, port)).or_insert(one);
    }

    pub(super) fn at(
        &self,
        vip: IpAddr,
        protocol: L4Protocol,
        port: u16,
    ) -> Option<&ServiceFrontend> {
        self.by_place.get(&(vip, protocol, port))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &ServiceFrontend> {
        self.by_place.values()
    }

    /// These ports, and those of virtual addresses that stand for them: as packets have them.
    pub(super) fn ports_of(&self, targets: &BTreeSet<(L4Protocol, u16)>) -> BTreeSet<u16> {
        let fronts = self.iter().map(|one| &one.frontend);
        let fronts = fronts.filter(|one| targets.contains(&(one.protocol, one.target)));
        let ports = fronts.map(|one| one.port);
        ports.chain(targets.iter().map(|(_, port)| *port)).collect()
    }

    pub(super) fn labels_of(&self, identity: Identity) -> Option<&Labels> {
        self.labels.get(&identity)
    }

    /// Those whose backends differ, or that have none: each needs an entry of its own on every endpoint.
    pub(super) fn differing(&self) -> impl Iterator<Item = &ServiceFrontend> {
        self.iter().filter(|one| one.backends.len() != 1)
    }

    /// An endpoint's entries for services whose backends differ: such a flow may end at any of them,
    /// so it passes only if each of them may be reached, and is redirected if it is for one of them.
    pub(super) fn entries<'a>(
        &'a self,
        policy: &'a EndpointPolicy,
    ) -> impl Iterator<Item = Entry> + 'a {
        self.differing().map(move |one| {
            let protocol = one.frontend.protocol.number();
            let decisions: Vec<_> = one.decisions(policy).collect();
            let denials = decisions.iter().filter(|one| !one.verdict.passes());
            let denial = denials.max_by_key(|one| one.verdict);
            let strongest = decisions.iter().max_by_key(|one| one.verdict);
            let (verdict, rule) = match denial.or(strongest) {
                Some(decision) => (decision.verdict, decision.rule),
                None => (EntryVerdict::Deny, RuleId::NONE), // nobody stands behind it
            };
            Entry {
                direction: Direction::Egress,
                identity: one.identity,
                protocol,
                ports: PortPrefix::exact(one.frontend.target),
                verdict,
                rule,
            }
        })
    }
}
