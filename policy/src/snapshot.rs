//! One revision of policy, compiled: who may reach whom, ask what, and learn which addresses.

mod build;
mod dns_names;
mod endpoint;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;

use fqdn::Name;
use ipnet::IpNet;

use crate::address::{AddressClass, Owned};
use crate::dns::{Denial, DenialReason, DenyAnswer, DnsPermit, Question};
use crate::prefix::PrefixTable;
use crate::problem::Problem;
use crate::rule::{PolicySet, RuleOrigin};
use crate::verdict::{Decision, Entry, FlowKey, decide};
use crate::{Cast, EndpointId, Family, Identities, Identity, L4Protocol, LabelSet, Labels, RuleId};
use endpoint::EndpointPolicy;

/// Policy, ready to be asked. Built whole, then only read; the next revision is another snapshot.
#[derive(Debug)]
pub struct Snapshot {
    revision: u64,
    origins: BTreeMap<RuleId, RuleOrigin>,
    endpoints: HashMap<EndpointId, Arc<EndpointPolicy>>,
    /// What fills the kernel's address table.
    prefixes: BTreeMap<IpNet, Identity>,
    /// The same, by longest match.
    table: PrefixTable<Identity>,
    labels: BTreeMap<Identity, Labels>,
    /// One for each acquisition that [`Snapshot::release`] gives back.
    acquired: Vec<Identity>,
    owned: Owned,
}

/// Numbers for rules; none is given twice in a run.
#[derive(Debug, Default)]
pub struct RuleIds {
    last: u32,
}

impl RuleIds {
    /// A counter that has given nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next number, if one is left.
    fn take(&mut self) -> Option<RuleId> {
        self.last = self.last.checked_add(1)?;
        Some(RuleId::from_number(self.last))
    }
}

impl Snapshot {
    /// Compiles a set of policies for everybody there is. Acquires an identity for each prefix that
    /// policy names; [`Snapshot::release`] gives them back.
    ///
    /// # Errors
    /// If a limit is exceeded; nothing is acquired then.
    #[expect(
        clippy::too_many_arguments,
        reason = "what a revision is made of, each of another type"
    )]
    pub fn build(
        revision: u64,
        policies: &PolicySet,
        cast: &Cast,
        identities: &mut Identities,
        rule_ids: &mut RuleIds,
    ) -> Result<Self, Vec<Problem>> {
        build::build(revision, (policies, cast), (identities, rule_ids))
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
        self.origins.get(&rule)
    }

    /// All rules with their numbers.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &RuleOrigin)> {
        self.origins.iter().map(|(rule, origin)| (*rule, origin))
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
        self.labels.get(&identity)
    }

    /// Whether the endpoint's egress is limited to what policy allows; `None` if it is unknown.
    #[must_use]
    pub fn is_egress_enforced(&self, endpoint: EndpointId) -> Option<bool> {
        self.endpoints.get(&endpoint).map(|policy| policy.enforced)
    }

    /// All policy entries of an endpoint for the identities of the table; `None` if it is unknown.
    #[must_use]
    pub fn entries(&self, endpoint: EndpointId) -> Option<Vec<Entry>> {
        self.endpoints
            .get(&endpoint)
            .map(|policy| policy.entries.clone())
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
        let policy = self.endpoints.get(&endpoint);
        decide(policy.map_or(&[], |policy| &policy.entries), flow)
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
        let mut selectors = Vec::new();
        for name in names {
            let _: ControlFlow<()> = policy.selectors.visit(name.as_wire(), |index| {
                selectors.extend(policy.selector_texts.get(index).cloned());
                ControlFlow::Continue(())
            });
        }
        let prefixes = policy.prefixes.covering(address);
        let prefixes = prefixes.map(|(prefix, ())| prefix).collect();
        LabelSet::new(family, prefixes, selectors)
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
        let identity = self.identity_of(server.ip());
        let Some(names) = policy.dns_names(identity, (protocol, server.port())) else {
            return denied(DenialReason::ServerNotAllowed, DenyAnswer::NxDomain);
        };
        match names.allowing_rule(&question.name) {
            Some(rule) => Ok(DnsPermit {
                endpoint,
                server,
                protocol,
                question: question.clone(),
                rule,
                revision: self.revision,
            }),
            None if names.is_ancestor_of_some(&question.name) => {
                denied(DenialReason::NameNotAllowed, DenyAnswer::NoData)
            }
            None => denied(DenialReason::NameNotAllowed, DenyAnswer::NxDomain),
        }
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
        let identity = self.identity_of(server.ip());
        self.endpoints
            .get(&endpoint)
            .is_some_and(|policy| policy.may_teach(identity, (protocol, server.port())))
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
