//! The policy of all endpoints that the same rules select.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use fqdn::PatternSet;

use super::dns_names::DnsNames;
use crate::l4::{PortMatch, Ports};
use crate::prefix::PrefixTable;
use crate::rule::{FqdnSelector, Item, PeerSelector, PeerView, Peers};
use crate::verdict::{Entry, EntryVerdict};
use crate::{Direction, Identity, L4Protocol, LabelSet, RuleId};

/// A rule with the peers of the table that it selects.
#[derive(Debug)]
pub(super) struct CompiledRule {
    pub(super) id: RuleId,
    pub(super) item: Arc<Item>,
    /// Identities of the table, in order. Empty where the rule is for every peer.
    pub(super) selected: Vec<Identity>,
    /// Those among them whose DNS servers teach.
    pub(super) teachers: Vec<Identity>,
}

/// What a set of rules says; without rules nothing is enforced.
#[derive(Debug)]
pub(super) struct EndpointPolicy {
    pub(super) enforced: bool,
    /// Static, complete, in order.
    pub(super) entries: Vec<Entry>,
    /// FQDN selectors by what they match, as indices of `selector_texts`.
    pub(super) selectors: PatternSet<usize>,
    pub(super) selector_texts: Vec<Arc<str>>,
    /// Prefixes that the rules name.
    pub(super) prefixes: PrefixTable<()>,
    rules: Vec<Arc<CompiledRule>>,
    /// Rules by the FQDN selectors that they hold, as indices of `rules`.
    by_selector: HashMap<Arc<str>, Vec<usize>>,
    /// Rules whose peers are neither names nor everybody, as indices of `rules`.
    by_labels: Vec<usize>,
    /// What holds for every peer; an identity's entry that adds nothing to it is left out.
    for_any: BTreeMap<PortKey, (EntryVerdict, RuleId)>,
    dns: HashMap<(L4Protocol, u16), DnsPort>,
}

/// Protocol number and port; 0 is any.
type PortKey = (u8, u16);

/// One port on which questions are judged.
#[derive(Debug)]
struct DnsPort {
    by_identity: HashMap<Identity, Arc<DnsNames>>,
    /// For servers that only rules for every peer select; absent if none of those has names.
    others: Option<Arc<DnsNames>>,
    teachers: HashSet<Identity>,
}

/// One `ports` item of one rule: indices of the rule and of the item in it.
type PortRef = (usize, usize);

/// What may be asked by a group of items; servers that the same items select share it.
type SharedNames = BTreeMap<Vec<PortRef>, Arc<DnsNames>>;

impl CompiledRule {
    fn entry_keys(&self) -> Vec<(PortKey, EntryVerdict)> {
        let Ports::List(ports) = &self.item.ports else {
            return vec![((0, 0), EntryVerdict::Allow)];
        };
        let mut keys = Vec::new();
        for port in ports {
            let verdict = match port.l7 {
                Some(_) => EntryVerdict::Redirect,
                None => EntryVerdict::Allow,
            };
            for protocol in port.protocol_numbers() {
                keys.push(((*protocol, number_of(&port.port)), verdict));
            }
        }
        keys
    }

    /// The `ports` items that are about exactly this protocol and port.
    fn items_for(&self, (protocol, port): (L4Protocol, u16)) -> impl Iterator<Item = usize> {
        let list: &[_] = match &self.item.ports {
            Ports::Any => &[],
            Ports::List(list) => list,
        };
        let is_for = move |item: &crate::l4::PortRule| {
            number_of(&item.port) == port && item.protocol_numbers().contains(&protocol.number())
        };
        let items = list.iter().enumerate();
        items
            .filter(move |(_, item)| is_for(item))
            .map(|(index, _)| index)
    }

    fn names_of(&self, item: usize) -> Option<&[FqdnSelector]> {
        self.item.port_list().get(item)?.dns()
    }
}

impl EndpointPolicy {
    /// Compiles the rules that select an endpoint.
    pub(super) fn new(rules: Vec<Arc<CompiledRule>>) -> Self {
        let mut policy = Self {
            enforced: !rules.is_empty(),
            entries: Vec::new(),
            selectors: PatternSet::new(),
            selector_texts: Vec::new(),
            prefixes: PrefixTable::new(),
            rules,
            by_selector: HashMap::new(),
            by_labels: Vec::new(),
            for_any: BTreeMap::new(),
            dns: HashMap::new(),
        };
        policy.index_peers();
        policy.fill_entries();
        policy.fill_dns();
        policy
    }

    fn index_peers(&mut self) {
        let mut seen = HashSet::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let Peers::Some(peers) = &rule.item.peers else {
                continue;
            };
            let mut is_named = false;
            for peer in peers {
                match peer {
                    PeerSelector::Name(name) => {
                        is_named = true;
                        let holders = self.by_selector.entry(Arc::clone(&name.text));
                        holders.or_default().push(index);
                        // The text alone does not tell a name from a pattern without stars, and they
                        // mean the same.
                        if seen.insert(Arc::clone(&name.text)) {
                            self.selectors
                                .insert(&name.pattern, self.selector_texts.len());
                            self.selector_texts.push(Arc::clone(&name.text));
                        }
                    }
                    PeerSelector::Cidr(cidr) => {
                        self.prefixes.insert(cidr.prefix, ());
                        for hole in &cidr.except {
                            self.prefixes.insert(*hole, ());
                        }
                    }
                    PeerSelector::Labels(_)
                    | PeerSelector::Entity(_)
                    | PeerSelector::Service(_) => {}
                }
            }
            if !is_named {
                self.by_labels.push(index);
            }
        }
    }

    fn fill_entries(&mut self) {
        let entry = |direction, identity, (protocol, port): PortKey, (verdict, rule)| Entry {
            direction,
            identity,
            protocol,
            port,
            verdict,
            rule,
        };
        let open = (EntryVerdict::Allow, RuleId::NONE);
        self.entries
            .push(entry(Direction::Ingress, Identity::ANY, (0, 0), open));
        if !self.enforced {
            self.entries
                .push(entry(Direction::Egress, Identity::ANY, (0, 0), open));
            return;
        }
        let mut for_one = BTreeMap::new();
        for rule in &self.rules {
            for (key, verdict) in rule.entry_keys() {
                match &rule.item.peers {
                    Peers::Nobody => {}
                    Peers::Any => merge(&mut self.for_any, key, (verdict, rule.id)),
                    Peers::Some(_) => {
                        for identity in &rule.selected {
                            merge(&mut for_one, (*identity, key), (verdict, rule.id));
                        }
                    }
                }
            }
        }
        let for_any = self.for_any.iter();
        let for_any =
            for_any.map(|(key, what)| entry(Direction::Egress, Identity::ANY, *key, *what));
        self.entries.extend(for_any);
        let for_one = for_one.into_iter();
        let for_one = for_one.filter(|((_, key), what)| self.adds_something(*key, *what));
        let for_one = for_one
            .map(|((identity, key), what)| entry(Direction::Egress, identity, key, what))
            .collect::<Vec<_>>();
        self.entries.extend(for_one);
    }

    /// Whether an identity's own entry says more than the one for every peer.
    fn adds_something(&self, key: PortKey, (verdict, _): (EntryVerdict, RuleId)) -> bool {
        self.for_any
            .get(&key)
            .is_none_or(|(for_any, _)| *for_any < verdict)
    }

    /// The entries for one identity outside the table.
    pub(super) fn entries_for(&self, set: &LabelSet, identity: Identity) -> Vec<Entry> {
        let labels = set.to_labels();
        let view = PeerView {
            labels: &labels,
            outside: Some(set),
        };
        let is_selected = |index: &usize| {
            self.rules.get(*index).is_some_and(|rule| {
                matches!(&rule.item.peers, Peers::Some(peers)
                    if peers.iter().any(|peer| peer.selects(view)))
            })
        };
        let named = set.selectors().iter();
        let named = named
            .filter_map(|text| self.by_selector.get(text))
            .flatten();
        let by_labels = self.by_labels.iter().filter(|index| is_selected(index));
        let selecting: BTreeSet<usize> = named.chain(by_labels).copied().collect();
        let mut merged = BTreeMap::new();
        for rule in selecting.iter().filter_map(|index| self.rules.get(*index)) {
            for (key, verdict) in rule.entry_keys() {
                merge(&mut merged, key, (verdict, rule.id));
            }
        }
        let merged = merged.into_iter();
        let kept = merged.filter(|(key, what)| self.adds_something(*key, *what));
        kept.map(|((protocol, port), (verdict, rule))| Entry {
            direction: Direction::Egress,
            identity,
            protocol,
            port,
            verdict,
            rule,
        })
        .collect()
    }

    /// Compiles, for each port with names, what may be asked of which server.
    fn fill_dns(&mut self) {
        let both = [L4Protocol::Tcp, L4Protocol::Udp];
        let mut keys: BTreeSet<(L4Protocol, u16)> = BTreeSet::new();
        for item in self.rules.iter().flat_map(|rule| rule.item.port_list()) {
            let protocols = both
                .into_iter()
                .filter(|protocol| item.protocol_numbers().contains(&protocol.number()));
            if item.dns().is_some() {
                keys.extend(protocols.map(|protocol| (protocol, number_of(&item.port))));
            }
        }
        for key in keys {
            let port = self.compile_dns_port(key);
            self.dns.insert(key, port);
        }
    }

    fn compile_dns_port(&self, key: (L4Protocol, u16)) -> DnsPort {
        let mut for_any: Vec<PortRef> = Vec::new();
        let mut for_one: BTreeMap<Identity, Vec<PortRef>> = BTreeMap::new();
        let mut teachers = HashSet::new();
        for (index, rule) in self.rules.iter().enumerate() {
            for item in rule.items_for(key) {
                match &rule.item.peers {
                    Peers::Nobody => {}
                    Peers::Any => for_any.push((index, item)),
                    Peers::Some(_) => {
                        for identity in &rule.selected {
                            for_one.entry(*identity).or_default().push((index, item));
                        }
                        if rule.names_of(item).is_some() {
                            teachers.extend(rule.teachers.iter().copied());
                        }
                    }
                }
            }
        }
        let mut shared = SharedNames::new();
        let mut by_identity = HashMap::new();
        for (identity, mut items) in for_one {
            items.extend(&for_any);
            items.sort_unstable();
            if let Some(names) = self.share_names(items, &mut shared) {
                by_identity.insert(identity, names);
            }
        }
        DnsPort {
            by_identity,
            others: self.share_names(for_any, &mut shared),
            teachers,
        }
    }

    /// What the items let be asked; nothing is judged where none of them has names.
    fn share_names(&self, items: Vec<PortRef>, shared: &mut SharedNames) -> Option<Arc<DnsNames>> {
        if let Some(names) = shared.get(&items) {
            return Some(Arc::clone(names));
        }
        let mut names = DnsNames::default();
        let mut has_names = false;
        for (rule, item) in &items {
            let rule = self.rules.get(*rule)?;
            let patterns = rule.names_of(*item);
            has_names |= patterns.is_some();
            names.add(rule.id, patterns);
        }
        let names = has_names.then(|| Arc::new(names))?;
        shared.insert(items, Arc::clone(&names));
        Some(names)
    }

    /// What may be asked of a server there; `None` if no DNS rule selects it.
    pub(super) fn dns_names(&self, server: Identity, key: (L4Protocol, u16)) -> Option<&DnsNames> {
        let port = self.dns.get(&key)?;
        let own = port.by_identity.get(&server);
        own.or(port.others.as_ref()).map(|names| &**names)
    }

    pub(super) fn may_teach(&self, server: Identity, key: (L4Protocol, u16)) -> bool {
        self.dns
            .get(&key)
            .is_some_and(|port| port.teachers.contains(&server))
    }
}

/// Keeps the stronger verdict, and of equal ones the first rule.
fn merge<K: Ord>(
    map: &mut BTreeMap<K, (EntryVerdict, RuleId)>,
    key: K,
    what: (EntryVerdict, RuleId),
) {
    map.entry(key)
        .and_modify(|old| {
            if old.0 < what.0 {
                *old = what;
            }
        })
        .or_insert(what);
}

fn number_of(port: &PortMatch) -> u16 {
    match port {
        PortMatch::All | PortMatch::Named(_) => 0,
        PortMatch::Range(first, _) => *first,
    }
}
