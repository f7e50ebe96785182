//! From policies and workloads to a snapshot, again and again: what didn't change isn't done again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::direction::Regime;
use super::endpoint::EndpointPolicy;
use super::item::{CompiledItem, Prepared};
use super::name_cache::NameCache;
use super::outside::Outside;
use super::quic::Ports;
use super::selection::Selections;
use super::table::Table;
use super::{Mode, Snapshot, conflict};
use crate::cast::NamedPorts;
use crate::http::HeaderSecrets;
use crate::identity::Exhausted;
use crate::limits::{DNS_PORTS_MAX, ENTRIES_MAX, PREFIXES_MAX, SERVICES_MAX};
use crate::problem::{Code, Problem, Severity};
use crate::rule::{Item, Policy, PolicySet, Rule, RuleOrigin};
use crate::{Cast, Direction, EndpointId, Identities, Labels, LocalEndpoint, NameBinding, RuleId};

/// Compiles revision after revision, and keeps what the next one can use: the numbers and name sets
/// of rules whose file did not change, what prefixes stand for, the selections of selectors, the
/// policy of endpoints.
#[derive(Debug, Default)]
pub struct Compiler {
    last_rule: u32,
    /// By the address of the item, which stays its own as long as this is kept.
    prepared: HashMap<usize, Arc<Prepared>>,
    /// What they were prepared with.
    secrets: HeaderSecrets,
    outside: Outside,
    selections: Selections,
    names: NameCache,
    endpoints: HashMap<GroupKey, Group>,
}

/// How policy is enforced on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether endpoints are closed.
    pub mode: Mode,
    /// Judge and tell, block nothing.
    pub audit: bool,
    /// The local host may reach every endpoint, unless a rule denies it.
    pub allow_localhost: bool,
    /// How strictly what only `toFQDNs` allows is bound to their names; a policy's annotation says
    /// otherwise for its own.
    pub name_binding: NameBinding,
    /// What becomes of datagrams where TCP needs a name.
    pub quic: Quic,
}

/// What becomes of a workload's datagrams to a peer's port of which the rules for TCP judge server names
/// or requests: QUIC hides requests, and hides names from who doesn't know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quic {
    /// They are refused, so that clients turn to TCP at once.
    Refuse,
    /// Where server names alone are judged, so is the one in QUIC's first datagrams; elsewhere they are refused.
    Sni,
    /// They are judged by address and port alone, as Cilium does it.
    Allow,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::Default,
            audit: false,
            allow_localhost: true,
            name_binding: NameBinding::Off,
            quic: Quic::Refuse,
        }
    }
}

/// What endpoints must have in common to share a policy: their rules, by number, and what else it
/// depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct GroupKey {
    rules: Vec<RuleId>,
    regime: Regime,
    /// What they call their ports, where a rule names one.
    ports: NamedPorts,
    /// Where the server name in QUIC is judged.
    quic_ports: BTreeSet<u16>,
}

#[derive(Debug)]
struct Group {
    items: Vec<CompiledItem>,
    /// What everybody calls their ports, where a rule names one.
    table_ports: HashMap<crate::Identity, Vec<NamedPorts>>,
    policy: Arc<EndpointPolicy>,
}

/// What a revision is made from.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) policies: &'a PolicySet,
    pub(super) cast: &'a Cast,
    pub(super) options: Options,
}

type Endpoints = HashMap<EndpointId, Arc<EndpointPolicy>>;
type Origins = BTreeMap<RuleId, Arc<RuleOrigin>>;

/// All rules, compiled.
#[derive(Default)]
struct Compiled<'a> {
    rules: Vec<(&'a Rule, Vec<CompiledItem>)>,
    /// What is added where `toFQDNs` stand without a DNS rule.
    lookup: Vec<CompiledItem>,
}

impl Compiler {
    /// A compiler that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the values of the secrets that headers are compared with, from the next revision on. Where they
    /// are others than before, all rules are prepared anew, under other numbers.
    pub fn set_secrets(&mut self, secrets: HeaderSecrets) {
        if self.secrets != secrets {
            self.prepared.clear();
            self.secrets = secrets;
        }
    }

    #[cfg(test)]
    pub(super) fn with_last_rule(last_rule: u32) -> Self {
        Self {
            last_rule,
            ..Self::default()
        }
    }

    /// Compiles a set of policies for everybody there is. Acquires an identity for each prefix that
    /// policy names; [`Snapshot::release`] gives them back.
    ///
    /// # Errors
    /// If a limit is exceeded or policies contradict each other; nothing is acquired then.
    pub fn build(
        &mut self,
        revision: u64,
        (policies, cast, options): (&PolicySet, &Cast, Options),
        identities: &mut Identities,
    ) -> Result<Snapshot, Vec<Problem>> {
        let inputs = Inputs {
            policies,
            cast,
            options,
        };
        let mut table = Table::default();
        let result = table
            .fill((policies, cast), &mut self.outside, identities)
            .map_err(|Exhausted| vec![refusal("no identity number is left".to_owned())])
            .and_then(|()| self.compile(inputs, &table));
        match result {
            Ok((endpoints, origins)) => {
                let snapshot = Snapshot::new(revision, table, endpoints, origins);
                let count = snapshot.dns_ports().len();
                if count > DNS_PORTS_MAX {
                    snapshot.release(identities);
                    return Err(vec![refusal(format!(
                        "`dns` rules name {count} ports beside 53; there is room for {DNS_PORTS_MAX}"
                    ))]);
                }
                Ok(snapshot)
            }
            Err(problems) => {
                for identity in &table.acquired {
                    identities.release(*identity);
                }
                Err(problems)
            }
        }
    }

    fn compile(
        &mut self,
        inputs: Inputs<'_>,
        table: &Table,
    ) -> Result<(Endpoints, Origins), Vec<Problem>> {
        if table.prefixes.len() > PREFIXES_MAX {
            let count = table.prefixes.len();
            return Err(vec![refusal(format!(
                "{count} address prefixes; the address table has room for {PREFIXES_MAX}"
            ))]);
        }
        let services = table.frontends.iter().count();
        if services > SERVICES_MAX {
            return Err(vec![refusal(format!(
                "services have {services} virtual addresses and ports; the kernel's table has room for {SERVICES_MAX}"
            ))]);
        }
        let of_services = table.frontends.differing().count();
        self.selections.follow(table);
        let (compiled, origins) = self.compile_rules(inputs, table)?;
        let quic_ports = compiled.quic_ports(inputs, table);
        let mut groups = HashMap::new();
        let mut endpoints = Endpoints::new();
        for endpoint in &inputs.cast.endpoints {
            let chosen = (&compiled, &quic_ports, &mut groups);
            let policy = self.endpoint(inputs, (endpoint, table), chosen)?;
            let count = policy.entries().count() + of_services;
            if count > ENTRIES_MAX {
                return Err(vec![refusal(format!(
                    "{} needs {count} policy entries; an endpoint has room for {ENTRIES_MAX}",
                    endpoint.workload.full_name()
                ))]);
            }
            endpoints.insert(endpoint.id, policy);
        }
        self.endpoints = groups;
        self.selections.trim();
        self.names.trim();
        let used = |prepared: &Arc<Prepared>| origins.contains_key(&prepared.id);
        self.prepared.retain(|_, prepared| used(prepared));
        Ok((endpoints, origins))
    }

    fn compile_rules<'a>(
        &mut self,
        inputs: Inputs<'a>,
        table: &Table,
    ) -> Result<(Compiled<'a>, Origins), Vec<Problem>> {
        let mut origins = Origins::new();
        let mut compiled = Compiled::default();
        for policy in inputs.policies.iter() {
            for rule in &policy.rules {
                let mut items = Vec::with_capacity(rule.items.len());
                for item in &rule.items {
                    let prepared = self.prepare(policy, item)?;
                    origins.insert(prepared.id, Arc::clone(&prepared.origin));
                    items.push(CompiledItem::new(&prepared, table, &mut self.selections));
                }
                compiled.rules.push((rule, items));
            }
        }
        for (policy, item) in inputs.policies.lookup_items() {
            let prepared = self.prepare(policy, item)?;
            origins.insert(prepared.id, Arc::clone(&prepared.origin));
            let item = CompiledItem::new(&prepared, table, &mut self.selections);
            compiled.lookup.push(item);
        }
        Ok((compiled, origins))
    }

    fn prepare(
        &mut self,
        policy: &Policy,
        item: &Arc<Item>,
    ) -> Result<Arc<Prepared>, Vec<Problem>> {
        if let Some(prepared) = self.prepared.get(&Arc::as_ptr(item).addr()) {
            return Ok(Arc::clone(prepared));
        }
        let Some(number) = self.last_rule.checked_add(1) else {
            let message = "no rule number is left in this run".to_owned();
            return Err(vec![refusal(message)]);
        };
        self.last_rule = number;
        let prepared = Prepared::new(RuleId::from_number(number), item, (policy, &self.secrets));
        let prepared = Arc::new(prepared.map_err(|reason| {
            let mut problem = refusal(reason);
            problem.file = policy.file.to_string();
            (problem.line, problem.column) = (item.line, item.column);
            vec![problem]
        })?);
        let address = Arc::as_ptr(item).addr();
        self.prepared.insert(address, Arc::clone(&prepared));
        Ok(prepared)
    }

    /// The policy of one endpoint: the one of the last revision where nothing in it changed.
    fn endpoint(
        &mut self,
        inputs: Inputs<'_>,
        (endpoint, table): (&LocalEndpoint, &Table),
        (compiled, quic_ports, groups): (
            &Compiled<'_>,
            &BTreeSet<u16>,
            &mut HashMap<GroupKey, Group>,
        ),
    ) -> Result<Arc<EndpointPolicy>, Vec<Problem>> {
        let labels = endpoint.workload.full_labels();
        let items = compiled.selecting(&labels);
        let own_quic = match quic_ports.is_empty() || !endpoint.is_redirectable {
            true => BTreeSet::new(),
            false => Ports::of(&items, table).judged(quic_ports),
        };
        let names_ports = items.iter().any(|item| item.names_ports());
        let key = GroupKey {
            rules: items.iter().map(|item| item.id()).collect(),
            regime: Regime {
                mode: inputs.options.mode,
                audit: inputs.options.audit || endpoint.audit,
                is_init: labels.has_reserved("init"),
                allow_localhost: inputs.options.allow_localhost,
                name_binding: inputs.options.name_binding,
                is_redirectable: endpoint.is_redirectable,
                quic: inputs.options.quic,
            },
            ports: if names_ports {
                endpoint.workload.ports.clone()
            } else {
                NamedPorts::new()
            },
            quic_ports: own_quic,
        };
        if let Some(group) = groups.get(&key) {
            return Ok(Arc::clone(&group.policy));
        }
        let kept = self.endpoints.remove(&key).filter(|group| {
            let same = group.items.iter().zip(&items);
            same.clone().all(|(old, new)| old.is_same(new))
                && (!names_ports || group.table_ports == table.ports)
        });
        let group = match kept {
            Some(group) => group,
            None => {
                let items: Vec<CompiledItem> = items.into_iter().cloned().collect();
                conflict::find(&items)?;
                let owned = (table, &key.ports, &key.quic_ports);
                let policy = EndpointPolicy::new(key.regime, &items, owned, &mut self.names);
                Group {
                    items,
                    table_ports: if names_ports {
                        table.ports.clone()
                    } else {
                        HashMap::new()
                    },
                    policy: Arc::new(policy),
                }
            }
        };
        let policy = Arc::clone(&group.policy);
        groups.insert(key, group);
        Ok(policy)
    }
}

impl Compiled<'_> {
    /// The items of the rules that select an endpoint with these labels.
    fn selecting(&self, labels: &Labels) -> Vec<&CompiledItem> {
        let selecting = self
            .rules
            .iter()
            .filter(|(rule, _)| rule.subject.selects(labels));
        let mut items: Vec<&CompiledItem> = selecting.flat_map(|(_, items)| items).collect();
        if lacks_dns(&items) {
            items.extend(&self.lookup);
        }
        items
    }

    /// Where the server name in QUIC can be judged. The ports are those of the whole node, since listeners
    /// are its own.
    fn quic_ports(&self, inputs: Inputs<'_>, table: &Table) -> BTreeSet<u16> {
        match inputs.options.quic {
            Quic::Refuse | Quic::Allow => return BTreeSet::new(),
            Quic::Sni => {}
        }
        let mut all = Ports::default();
        for endpoint in &inputs.cast.endpoints {
            let items = self.selecting(&endpoint.workload.full_labels());
            all.join(Ports::of(&items, table), endpoint.is_redirectable);
        }
        all.listened(&table.frontends)
    }
}

/// Whether names are to open addresses, and no rule says where they are asked.
fn lacks_dns(items: &[&CompiledItem]) -> bool {
    let mut egress = items
        .iter()
        .map(|item| item.item())
        .filter(|item| item.direction == Direction::Egress);
    let mut has_names = false;
    egress.all(|item| {
        has_names |= item.names().is_some();
        !item.has_dns()
    }) && has_names
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
