//! Which names may be asked of which servers, for one port and protocol of an endpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use fqdn::Name;

use super::direction::{DirectionPolicy, Enforcement};
use super::item::{CompiledItem, L4Key};
use super::name_cache::NameCache;
use crate::dns::Question;
use crate::l4::PortMatch;
use crate::names::{NameList, NameLists};
use crate::rule::{Effect, Peers};
use crate::{Identity, L4Protocol, RuleId};

/// All ports of an endpoint on which questions are judged.
pub(super) type DnsPorts = HashMap<(L4Protocol, u16), DnsPort>;

/// One of them.
#[derive(Debug)]
pub(super) struct DnsPort {
    /// Absent names: a deny rule covers the server.
    by_identity: HashMap<Identity, Option<Arc<DnsNames>>>,
    /// For servers that only rules for every peer select; absent if none of those has names.
    others: Option<Arc<DnsNames>>,
    teachers: HashSet<Identity>,
}

/// What all rules for a server, a port and a protocol say together.
#[derive(Debug)]
pub(super) struct DnsNames {
    names: Arc<NameLists>,
    /// The rule of each list.
    rules: Vec<RuleId>,
    /// A rule for the same port without names, or no default deny: every name may be asked.
    opened_by: Option<RuleId>,
    /// Whether what is denied is only told.
    pub(super) audited: bool,
}

impl DnsNames {
    /// The rule by which a question may be asked, and how many labels its pattern names; `None` for a whole
    /// name.
    pub(super) fn allowing(&self, question: &Question) -> Option<(RuleId, Option<u8>)> {
        let allows = |list: &NameList, at| list.allows(at, question.qtype);
        let place = self.names.find(&question.name, allows);
        let rule = place.and_then(|(list, at)| {
            let rule = self.rules.get(usize::try_from(list).ok()?).copied()?;
            Some((rule, self.names.literal_labels((list, at))))
        });
        rule.or_else(|| self.opened_by.map(|rule| (rule, Some(0))))
    }

    /// Whether a name may be asked for some type of record.
    pub(super) fn allows_some_type(&self, name: &Name) -> bool {
        self.names.first_match(name).is_some()
    }

    pub(super) fn is_ancestor_of_some(&self, name: &Name) -> bool {
        self.names.is_ancestor_of_some(name)
    }
}

impl DnsPort {
    /// What may be asked of a server there; `None` if nothing, or if no DNS rule selects it.
    pub(super) fn names(&self, server: Identity) -> Option<&DnsNames> {
        let own = self.by_identity.get(&server);
        own.unwrap_or(&self.others).as_deref()
    }

    pub(super) fn teaches(&self, server: Identity) -> bool {
        self.teachers.contains(&server)
    }
}

/// One `ports` element of one item: their indices.
type PortRef = (usize, usize);

/// Compiles the DNS rules of an endpoint's egress.
pub(super) fn compile(egress: &DirectionPolicy, cache: &mut NameCache) -> DnsPorts {
    let mut keys = BTreeSet::new();
    for item in &egress.items {
        for port in item.item().port_list() {
            if port.dns().is_none() {
                continue;
            }
            let mut l4 = port.l4_keys(&[]);
            for identity in egress.port_owners().filter(|_| port.is_named()) {
                l4.extend(port.l4_keys(&egress.named_ports(Some(identity))));
            }
            keys.extend(l4);
        }
    }
    let ports = keys.into_iter().filter_map(|key: L4Key| {
        let protocol = match key.0 {
            6 => L4Protocol::Tcp,
            17 => L4Protocol::Udp,
            _ => return None,
        };
        let shop = Shop { egress, key };
        Some(((protocol, key.1.port), shop.port(cache)))
    });
    ports.collect()
}

/// What one port is made from.
struct Shop<'a> {
    egress: &'a DirectionPolicy,
    key: L4Key,
}

impl Shop<'_> {
    fn port(&self, cache: &mut NameCache) -> DnsPort {
        let mut for_any: Vec<PortRef> = Vec::new();
        let mut for_one: BTreeMap<Identity, Vec<PortRef>> = BTreeMap::new();
        let mut teachers = HashSet::new();
        for (index, item) in self.egress.items.iter().enumerate() {
            if item.item().effect == Effect::Deny {
                continue;
            }
            match &item.item().peers {
                Peers::Nobody | Peers::Named(_) => {}
                Peers::Any => {
                    for_any.extend(self.ports_for(item, None).map(|port| (index, port)));
                    for identity in self.egress.port_owners().filter(|_| item.names_ports()) {
                        for port in self.ports_for(item, Some(identity)) {
                            for_one.entry(identity).or_default().push((index, port));
                        }
                    }
                }
                Peers::Some(_) => {
                    for identity in item.selected.iter() {
                        let ports = self.ports_for(item, Some(*identity));
                        let ports: Vec<PortRef> = ports.map(|port| (index, port)).collect();
                        let has_names = ports.iter().any(|port| self.has_names(*port));
                        if has_names && item.teachers.binary_search(identity).is_ok() {
                            teachers.insert(*identity);
                        }
                        if !ports.is_empty() {
                            for_one.entry(*identity).or_default().extend(&ports);
                        }
                    }
                }
            }
        }
        let mut by_identity = HashMap::new();
        let mut shared = BTreeMap::new();
        for (identity, mut items) in for_one {
            items.extend(&for_any);
            items.sort_unstable();
            items.dedup();
            let names = self.names(&items, &mut shared, cache);
            if names.is_some() {
                by_identity.insert(identity, names);
            }
        }
        let mut others = self.names(&for_any, &mut shared, cache);
        self.close_denied(&mut by_identity, &mut others);
        DnsPort {
            by_identity,
            others,
            teachers,
        }
    }

    /// The `ports` elements of an item that are about exactly this protocol and port; a range is
    /// another entry, whatever it is split into.
    fn ports_for(
        &self,
        item: &CompiledItem,
        peer: Option<Identity>,
    ) -> impl Iterator<Item = usize> {
        let named = self.egress.named_ports(peer);
        let ports = item.item().port_list().iter().enumerate();
        let fits = ports.filter(|(_, port)| {
            let is_range = matches!(port.port, PortMatch::Range(first, last) if first < last);
            let keys = port.l4_keys(&named);
            !is_range && keys.contains(&self.key)
        });
        fits.map(|(index, _)| index).collect::<Vec<_>>().into_iter()
    }

    fn has_names(&self, (item, port): PortRef) -> bool {
        let item = self.egress.items.get(item);
        item.and_then(|item| item.item().port_list().get(port))
            .is_some_and(|port| port.dns().is_some())
    }

    /// What the elements let be asked; nothing is judged where none of them has names.
    fn names(
        &self,
        ports: &[PortRef],
        shared: &mut BTreeMap<Vec<PortRef>, Option<Arc<DnsNames>>>,
        cache: &mut NameCache,
    ) -> Option<Arc<DnsNames>> {
        if let Some(names) = shared.get(ports) {
            return names.clone();
        }
        let mut lists = Vec::new();
        let mut rules = Vec::new();
        let mut opened_by: Option<RuleId> = None;
        let mut only_audited = true;
        for (index, port) in ports {
            let item = self.egress.items.get(*index)?;
            match item.item().port_list().get(*port)?.dns() {
                Some(list) => {
                    lists.push(Arc::clone(list));
                    rules.push(item.id());
                    only_audited &= item.prepared.audit;
                }
                None => {
                    opened_by.get_or_insert_with(|| item.id());
                }
            }
        }
        if self.egress.enforcement == Enforcement::Observed {
            opened_by = opened_by.or_else(|| rules.first().copied());
        }
        let names = (!lists.is_empty()).then(|| {
            Arc::new(DnsNames {
                names: cache.group(lists),
                rules,
                opened_by,
                // A list that is only audited opens nothing that another policy closes.
                audited: self.egress.is_audited()
                    || (only_audited && self.egress.enforcement == Enforcement::Audited),
            })
        });
        shared.insert(ports.to_vec(), names.clone());
        names
    }

    /// Takes away what a rule drops: the kernel drops it, and the proxy must not know better.
    fn close_denied(
        &self,
        by_identity: &mut HashMap<Identity, Option<Arc<DnsNames>>>,
        others: &mut Option<Arc<DnsNames>>,
    ) {
        for item in &self.egress.items {
            let drops = |peer: Option<Identity>| {
                let mut keys = self.egress.keys_of(item, peer).into_iter();
                keys.any(|((protocol, ports), verdict)| {
                    !verdict.passes()
                        && (protocol == 0 || protocol == self.key.0)
                        && ports.contains(self.key.1.port)
                })
            };
            match &item.item().peers {
                Peers::Nobody | Peers::Named(_) => {}
                Peers::Any if drops(None) => {
                    *others = None;
                    by_identity.clear();
                }
                Peers::Any => {
                    let named = self.egress.port_owners().filter(|_| item.names_ports());
                    for identity in named.filter(|identity| drops(Some(*identity))) {
                        by_identity.insert(identity, None);
                    }
                }
                Peers::Some(_) => {
                    for identity in item.selected.iter() {
                        if drops(Some(*identity)) {
                            by_identity.insert(*identity, None);
                        }
                    }
                }
            }
        }
    }
}
