//! The policy of all endpoints that the same rules select.

use std::collections::BTreeSet;
use std::sync::Arc;

use fqdn::Name;

use super::direction::{DirectionPolicy, Regime};
use super::dns_port::{self, DnsPorts};
use super::item::CompiledItem;
use super::name_cache::NameCache;
use super::table::Table;
use crate::cast::NamedPorts;
use crate::names::NameLists;
use crate::prefix::PrefixTable;
use crate::verdict::Entry;
use crate::{Direction, Identity, LabelSet, RuleId};

/// What a set of rules says.
#[derive(Debug)]
pub(super) struct EndpointPolicy {
    pub(super) egress: DirectionPolicy,
    pub(super) ingress: DirectionPolicy,
    /// The lists of `toFQDNs`.
    names: Arc<NameLists>,
    /// The item of each of those lists, as an index of `egress.items`.
    named_items: Vec<usize>,
    /// Prefixes that the rules name, in both directions.
    pub(super) prefixes: PrefixTable<()>,
    pub(super) dns: DnsPorts,
}

impl EndpointPolicy {
    /// Compiles the rules that select an endpoint.
    pub(super) fn new(
        regime: Regime,
        items: &[CompiledItem],
        ports: (&Table, &NamedPorts, &BTreeSet<u16>),
        cache: &mut NameCache,
    ) -> Self {
        let one = |direction| {
            let items = items.iter();
            let items = items.filter(|item| item.item().direction == direction);
            let items = items.cloned().collect();
            DirectionPolicy::new((direction, regime), items, ports)
        };
        let egress = one(Direction::Egress);
        let ingress = one(Direction::Ingress);
        let mut lists = Vec::new();
        let mut named_items = Vec::new();
        for (index, item) in egress.items.iter().enumerate() {
            if let Some(list) = item.item().names() {
                lists.push(Arc::clone(list));
                named_items.push(index);
            }
        }
        let mut prefixes = PrefixTable::new();
        for item in items {
            let named = item.item().prefixes();
            for prefix in named.chain(item.backends.iter().copied()) {
                prefixes.insert(prefix, ());
            }
        }
        Self {
            dns: dns_port::compile(&egress, cache),
            egress,
            ingress,
            names: cache.group(lists),
            named_items,
            prefixes,
        }
    }

    pub(super) fn direction(&self, direction: Direction) -> &DirectionPolicy {
        match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        }
    }

    /// Whether some rule has `toFQDNs`.
    pub(super) fn has_names(&self) -> bool {
        !self.named_items.is_empty()
    }

    /// All static entries.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.ingress.entries.iter().chain(&self.egress.entries)
    }

    /// The entries for one identity outside the table.
    pub(super) fn entries_for(&self, set: &LabelSet, identity: Identity) -> Vec<Entry> {
        let named = self.named_by(set);
        let mut entries = self.egress.entries_for((set, identity), &named);
        let inbound = self.ingress.entries_for((set, identity), &BTreeSet::new());
        entries.extend(inbound);
        entries
    }

    /// Whether `toFQDNs` that are about a port of TCP have a name that stands for this one.
    pub(super) fn may_be_named(&self, name: &Name, port: u16) -> bool {
        self.names.any_match(name, |list| {
            self.named_item(list)
                .is_some_and(|item| item.is_about_tcp(port, &[]))
        })
    }

    /// The rules whose `toFQDNs` have a name that stands for this one.
    pub(super) fn rules_naming(&self, name: &Name) -> BTreeSet<RuleId> {
        let mut rules = BTreeSet::new();
        self.names.any_match(name, |list| {
            rules.extend(self.named_item(list).map(CompiledItem::id));
            false
        });
        rules
    }

    /// The item of a list of `toFQDNs`.
    fn named_item(&self, list: u32) -> Option<&CompiledItem> {
        let index = usize::try_from(list).ok()?;
        self.egress.items.get(*self.named_items.get(index)?)
    }

    /// The egress items whose `toFQDNs` a label set has.
    pub(super) fn named_by(&self, set: &LabelSet) -> BTreeSet<usize> {
        let texts = set.selectors().iter();
        let lists = texts.flat_map(|text| self.names.holders(text));
        let items = lists.filter_map(|list| self.named_items.get(usize::try_from(list).ok()?));
        items.copied().collect()
    }

    /// The FQDN selectors that stand for one of the names, as written, doubles possible.
    pub(super) fn selectors_for<'a>(&self, names: impl Iterator<Item = &'a Name>) -> Vec<Arc<str>> {
        let mut texts = Vec::new();
        for name in names {
            self.names.texts_for(name, &mut texts);
        }
        texts
    }
}
