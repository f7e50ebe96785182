//! From policies and workloads to a snapshot.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;

use super::endpoint::{CompiledRule, EndpointPolicy};
use super::{RuleIds, Snapshot};
use crate::address::Owned;
use crate::identity::Exhausted;
use crate::limits::{ENTRIES_MAX, PREFIXES_MAX};
use crate::prefix::PrefixTable;
use crate::problem::{Code, Problem, Severity};
use crate::rule::{EgressRule, PeerSelector, PeerView, Peers, PolicySet, Rule, RuleOrigin};
use crate::{Cast, EndpointId, Family, Identities, Identity, Label, LabelSet, Labels};

pub(super) fn build(
    revision: u64,
    (policies, cast): (&PolicySet, &Cast),
    (identities, rule_ids): (&mut Identities, &mut RuleIds),
) -> Result<Snapshot, Vec<Problem>> {
    let mut table = Table::default();
    let result = table
        .fill(policies, cast, identities)
        .map_err(|Exhausted| "no identity number is left".to_owned())
        .and_then(|()| compile((policies, cast), &table, rule_ids));
    match result {
        Ok((endpoints, origins)) => Ok(table.into_snapshot(revision, endpoints, origins)),
        Err(message) => {
            for identity in &table.acquired {
                identities.release(*identity);
            }
            Err(vec![refusal(message)])
        }
    }
}

/// The address table in the making.
#[derive(Default)]
struct Table {
    prefixes: BTreeMap<IpNet, Identity>,
    /// What each identity in it stands for.
    known: BTreeMap<Identity, Known>,
    acquired: Vec<Identity>,
    owned: Owned,
}

struct Known {
    labels: Labels,
    outside: Option<LabelSet>,
}

type Endpoints = HashMap<EndpointId, Arc<EndpointPolicy>>;
type Origins = BTreeMap<crate::RuleId, RuleOrigin>;

impl Table {
    fn fill(
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
        self.fill_policy_prefixes(policies, identities)?;
        for (workload, addresses) in cast.workloads() {
            let labels = workload.full_labels();
            let identity = identities.label_identity(&labels)?;
            self.know(identity, labels, None);
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

    fn fill_policy_prefixes(
        &mut self,
        policies: &PolicySet,
        identities: &mut Identities,
    ) -> Result<(), Exhausted> {
        let mut all = PrefixTable::new();
        let mut named = BTreeSet::new();
        for egress in rules(policies).flat_map(|(_, rule)| &rule.egress) {
            for prefix in egress.prefixes().filter(|prefix| prefix.prefix_len() > 0) {
                named.insert(prefix);
                all.insert(prefix, ());
            }
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
        self.know(identity, set.to_labels(), Some(set));
        Ok(())
    }

    fn know(&mut self, identity: Identity, labels: Labels, outside: Option<LabelSet>) {
        let known = Known { labels, outside };
        self.known.entry(identity).or_insert(known);
    }

    /// The identities that one of the selectors selects, in order.
    fn select<'a>(
        &self,
        selectors: impl Iterator<Item = &'a PeerSelector> + Clone,
    ) -> Vec<Identity> {
        let selected = self.known.iter().filter(|(_, known)| {
            let view = PeerView {
                labels: &known.labels,
                outside: known.outside.as_ref(),
            };
            selectors.clone().any(|selector| selector.selects(view))
        });
        selected.map(|(identity, _)| *identity).collect()
    }

    fn into_snapshot(self, revision: u64, endpoints: Endpoints, origins: Origins) -> Snapshot {
        let mut table = PrefixTable::new();
        for (prefix, identity) in &self.prefixes {
            table.insert(*prefix, *identity);
        }
        let known = self.known.into_iter();
        Snapshot {
            revision,
            origins,
            endpoints,
            prefixes: self.prefixes,
            table,
            labels: known
                .map(|(identity, known)| (identity, known.labels))
                .collect(),
            acquired: self.acquired,
            owned: self.owned,
        }
    }
}

/// Compiles the policy of each endpoint; those that the same rules select share one.
fn compile(
    (policies, cast): (&PolicySet, &Cast),
    table: &Table,
    rule_ids: &mut RuleIds,
) -> Result<(Endpoints, Origins), String> {
    if table.prefixes.len() > PREFIXES_MAX {
        let count = table.prefixes.len();
        return Err(format!(
            "{count} address prefixes; the address table has room for {PREFIXES_MAX}"
        ));
    }
    let mut origins = Origins::new();
    let mut compiled: Vec<(&Rule, Vec<Arc<CompiledRule>>)> = Vec::new();
    for (policy, rule) in rules(policies) {
        let mut items = Vec::with_capacity(rule.egress.len());
        for egress in &rule.egress {
            let id = rule_ids
                .take()
                .ok_or("no rule number is left in this run")?;
            let origin = RuleOrigin {
                kind: policy.kind,
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
                file: Arc::clone(&policy.file),
                line: egress.line,
            };
            origins.insert(id, origin);
            let (selected, teachers) = select_peers(egress, table);
            items.push(Arc::new(CompiledRule {
                id,
                egress: Arc::clone(egress),
                selected,
                teachers,
            }));
        }
        compiled.push((rule, items));
    }
    let mut shared: BTreeMap<Vec<usize>, Arc<EndpointPolicy>> = BTreeMap::new();
    let mut endpoints = Endpoints::new();
    for endpoint in &cast.endpoints {
        let labels = endpoint.workload.full_labels();
        let selecting = compiled.iter().enumerate();
        let selecting: Vec<usize> = selecting
            .filter(|(_, (rule, _))| rule.subject.matches(&labels))
            .map(|(index, _)| index)
            .collect();
        let policy = shared.entry(selecting).or_insert_with_key(|selecting| {
            let rules = selecting.iter().filter_map(|index| compiled.get(*index));
            let rules = rules.flat_map(|(_, items)| items).cloned().collect();
            Arc::new(EndpointPolicy::new(rules))
        });
        let count = policy.entries.len();
        if count > ENTRIES_MAX {
            return Err(format!(
                "{}/{} needs {count} policy entries; an endpoint has room for {ENTRIES_MAX}",
                endpoint.workload.namespace, endpoint.workload.name
            ));
        }
        endpoints.insert(endpoint.id, Arc::clone(policy));
    }
    Ok((endpoints, origins))
}

/// The identities of the table that a rule selects, and those that teach by it.
fn select_peers(egress: &EgressRule, table: &Table) -> (Vec<Identity>, Vec<Identity>) {
    let Peers::Some(peers) = &egress.peers else {
        return (Vec::new(), Vec::new());
    };
    // Nothing in the table has a name.
    let selecting = peers
        .iter()
        .filter(|peer| !matches!(peer, PeerSelector::Name(_)));
    let teaching = peers.iter().filter(|peer| peer.may_teach());
    (table.select(selecting), table.select(teaching))
}

fn rules(policies: &PolicySet) -> impl Iterator<Item = (&crate::Policy, &Rule)> {
    let policies = policies.policies.iter();
    policies.flat_map(|policy| policy.rules.iter().map(move |rule| (policy, rule)))
}

fn refusal(message: String) -> Problem {
    Problem {
        file: String::new(),
        line: 0,
        column: 0,
        end_column: 0,
        severity: Severity::Error,
        code: Code::Limit,
        field: String::new(),
        message,
        help: None,
        snippet: String::new(),
    }
}

impl EgressRule {
    fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        let peers: &[PeerSelector] = match &self.peers {
            Peers::Any | Peers::Nobody => &[],
            Peers::Some(peers) => peers,
        };
        peers.iter().filter_map(|peer| match peer {
            PeerSelector::Cidr(prefix) => Some(*prefix),
            PeerSelector::Labels(_) | PeerSelector::Entity(_) | PeerSelector::Name(_) => None,
        })
    }
}
