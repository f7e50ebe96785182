//! What one direction of an endpoint lets through: entries for the kernel.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::item::{CompiledItem, L4Key};
use super::quic::{self, DNS, Merged, Opened, TCP, UDP};
use super::table::Table;
use super::{PeerRef, Quic};
use crate::cast::NamedPorts;
use crate::rule::{Effect, Item, PeerView, Peers};
use crate::verdict::{Entry, EntryVerdict, PortPrefix, Proxy};
use crate::{Direction, Identity, LabelSet, NameBinding, RuleId};

/// Whether a direction is closed to what no rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// No rule is about it: all passes.
    Open,
    /// Rules are about it, and none asks for default deny: all passes but what is denied; L7 is told.
    Observed,
    /// Only what is allowed passes.
    Enforced,
    /// The same, but what default deny would drop is only told.
    Audited,
}

/// How a direction is judged, beside its items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Regime {
    pub(super) mode: super::Mode,
    /// Every denial is told and let pass.
    pub(super) audit: bool,
    /// The endpoint has no labels yet: it is enforced in every mode but `never`.
    pub(super) is_init: bool,
    /// The local host may reach every endpoint (kubelet's probes).
    pub(super) allow_localhost: bool,
    /// How strictly names are bound, where a policy doesn't say.
    pub(super) name_binding: NameBinding,
    /// Whether flows can be led to the proxy for requests and names.
    pub(super) is_redirectable: bool,
    pub(super) quic: Quic,
}

/// One direction of the policy of all endpoints that the same rules select.
#[derive(Debug)]
pub(super) struct DirectionPolicy {
    pub(super) direction: Direction,
    pub(super) enforcement: Enforcement,
    pub(super) items: Vec<CompiledItem>,
    /// Static, complete, in order.
    pub(super) entries: Vec<Entry>,
    audit: bool,
    allow_localhost: bool,
    name_binding: NameBinding,
    is_redirectable: bool,
    /// Items with listed peers, as indices of `items`.
    listed: Vec<usize>,
    /// What holds for every peer; an identity's entry that adds nothing to it is left out.
    for_any: BTreeMap<L4Key, What>,
    /// What rules for every peer open without asking for a name; absent where datagrams aren't refused.
    opened: Option<Opened>,
    /// What the endpoint calls its ports; empty for egress.
    own_ports: NamedPorts,
    /// What peers call theirs; empty for ingress, and where no rule names a port.
    peer_ports: HashMap<Identity, Vec<NamedPorts>>,
}

/// What happens, and by which rule.
pub(super) type What = (EntryVerdict, RuleId);
/// Ports that an item opens for what says a name that it allows.
type BoundPorts = (L4Key, RuleId, NameBinding);

impl Enforcement {
    fn of(regime: Regime, items: &[CompiledItem]) -> Self {
        let mut denying = items.iter().filter(|item| item.item().default_deny);
        match regime.mode {
            super::Mode::Never => Self::Open,
            _ if regime.is_init => Self::Enforced,
            super::Mode::Always => Self::Enforced,
            super::Mode::Default if items.is_empty() => Self::Open,
            super::Mode::Default => {
                if denying.clone().next().is_none() {
                    Self::Observed
                } else if denying.all(|item| item.prepared.audit) {
                    Self::Audited
                } else {
                    Self::Enforced
                }
            }
        }
    }

    /// Whether something can be dropped by default.
    pub(super) const fn is_closed(self) -> bool {
        match self {
            Self::Open | Self::Observed => false,
            Self::Enforced | Self::Audited => true,
        }
    }
}

impl DirectionPolicy {
    pub(super) fn new(
        (direction, regime): (Direction, Regime),
        mut items: Vec<CompiledItem>,
        (table, own_ports, quic_ports): (&Table, &NamedPorts, &BTreeSet<u16>),
    ) -> Self {
        let enforcement = Enforcement::of(regime, &items);
        if enforcement == Enforcement::Open {
            items.clear();
        }
        let listed = items.iter().enumerate();
        let listed = listed
            .filter(|(_, item)| matches!(item.item().peers, Peers::Some(_) | Peers::Named(_)));
        let names_ports = items.iter().any(CompiledItem::names_ports);
        let (own_ports, peer_ports) = match direction {
            Direction::Ingress => (own_ports.clone(), HashMap::new()),
            Direction::Egress if names_ports => (NamedPorts::new(), table.ports.clone()),
            Direction::Egress => (NamedPorts::new(), HashMap::new()),
        };
        let mut policy = Self {
            direction,
            enforcement,
            listed: listed.map(|(index, _)| index).collect(),
            items,
            entries: Vec::new(),
            audit: regime.audit,
            allow_localhost: regime.allow_localhost,
            name_binding: regime.name_binding,
            is_redirectable: regime.is_redirectable,
            for_any: BTreeMap::new(),
            opened: None,
            own_ports,
            peer_ports,
        };
        let refuses = policy.refuses_quic(regime.quic);
        policy.fill(refuses.then_some(quic_ports));
        policy
    }

    /// Whether datagrams are refused, or judged, where TCP needs a name. Inbound nobody could be told: an answer to a
    /// forged source would hit a third party.
    fn refuses_quic(&self, quic: Quic) -> bool {
        quic != Quic::Allow
            && self.direction == Direction::Egress
            && self.enforcement == Enforcement::Enforced
            && !self.audit
    }

    /// `quic_ports`: where the server name in QUIC is judged; absent where datagrams aren't refused.
    fn fill(&mut self, quic_ports: Option<&BTreeSet<u16>>) {
        let mut merged = Merged::default();
        for item in &self.items {
            let fixed = self.keys_of(item, None);
            let by_peer = self.direction == Direction::Egress && item.names_ports();
            match &item.item().peers {
                Peers::Nobody | Peers::Named(_) => continue,
                Peers::Any => {
                    for (key, verdict) in &fixed {
                        merged.add(None, *key, (*verdict, item.id()));
                    }
                    if by_peer {
                        for identity in self.port_owners() {
                            for (key, verdict) in self.keys_of(item, Some(identity)) {
                                merged.add(Some(identity), key, (verdict, item.id()));
                            }
                        }
                    }
                }
                Peers::Some(_) => {
                    for identity in item.selected.iter() {
                        let named = by_peer.then(|| self.keys_of(item, Some(*identity)));
                        for (key, verdict) in named.as_ref().unwrap_or(&fixed) {
                            merged.add(Some(*identity), *key, (*verdict, item.id()));
                        }
                    }
                }
            }
        }
        self.opened = quic_ports.map(|judged| merged.refuse(judged.clone()));
        let Merged {
            any: mut for_any,
            one: mut for_one,
            ..
        } = merged;
        self.fill_defaults(&mut for_any, &mut for_one);
        self.for_any = for_any;
        let any = self.for_any.iter();
        let any = any.map(|(key, what)| self.entry(Identity::ANY, *key, *what));
        let one = for_one
            .iter()
            .filter(|((_, key), what)| self.adds_something(*key, **what));
        let one = one.map(|((identity, key), what)| self.entry(*identity, *key, *what));
        let entries = any.chain(one).collect();
        self.entries = entries;
    }

    /// What holds where no rule says anything.
    fn fill_defaults(
        &self,
        for_any: &mut BTreeMap<L4Key, What>,
        for_one: &mut BTreeMap<(Identity, L4Key), What>,
    ) {
        let all = (0, PortPrefix::ALL);
        let default = match self.enforcement {
            Enforcement::Open | Enforcement::Observed => Some(EntryVerdict::Allow),
            Enforcement::Audited => Some(EntryVerdict::AuditDefault),
            Enforcement::Enforced if self.audit => Some(EntryVerdict::AuditDefault),
            Enforcement::Enforced => None,
        };
        if let Some(default) = default {
            for_any.entry(all).or_insert((default, RuleId::NONE));
        }
        if self.lets_host_in() {
            merge(
                for_one,
                (Identity::HOST, all),
                (EntryVerdict::Allow, RuleId::NONE),
            );
        }
    }

    /// Whether the local host has the exception that lets it in.
    pub(super) fn lets_host_in(&self) -> bool {
        self.direction == Direction::Ingress && self.allow_localhost && !self.items.is_empty()
    }

    /// How strictly what an item allows is bound to its names.
    pub(super) fn binding_of(&self, item: &CompiledItem) -> NameBinding {
        let Item { peers, effect, .. } = item.item();
        let is_bound = matches!((peers, effect), (Peers::Named(_), Effect::Allow));
        if !is_bound || item.item().fails_authentication || !self.enforcement.is_closed() {
            return NameBinding::Off;
        }
        let is_told = self.audit || item.prepared.audit || self.enforcement == Enforcement::Audited;
        let most = match is_told {
            true => NameBinding::Audit,
            false => NameBinding::Enforce,
        };
        let binding = item.prepared.name_binding.unwrap_or(self.name_binding);
        let binding = binding.min(most);
        // Nobody could look, and it passes in any case.
        let is_idle = binding == NameBinding::Audit && !self.is_redirectable;
        if is_idle { NameBinding::Off } else { binding }
    }

    /// The ports where the server name in QUIC is judged.
    pub(super) fn quic_ports(&self) -> impl Iterator<Item = u16> {
        let judged = self.opened.iter().flat_map(Opened::judged);
        judged.copied()
    }

    /// Whether every denial is told and let pass.
    pub(super) fn is_audited(&self) -> bool {
        self.audit
    }

    /// The peers that call their ports something, where a rule names one.
    pub(super) fn port_owners(&self) -> impl Iterator<Item = Identity> {
        self.peer_ports.keys().copied()
    }

    /// What whoever owns the destination port calls its ports: the endpoint itself, or a peer of the
    /// table.
    pub(super) fn named_ports(&self, peer: Option<Identity>) -> Vec<&NamedPorts> {
        match self.direction {
            Direction::Ingress => vec![&self.own_ports],
            Direction::Egress => {
                let ports = peer.and_then(|peer| self.peer_ports.get(&peer));
                ports.into_iter().flatten().collect()
            }
        }
    }

    /// The keys of an item's entries, each with what happens, for a peer of the table or for all
    /// others.
    pub(super) fn keys_of(
        &self,
        item: &CompiledItem,
        peer: Option<Identity>,
    ) -> Vec<(L4Key, EntryVerdict)> {
        let mut keys = item.entry_keys(&self.named_ports(peer));
        for (_, verdict) in &mut keys {
            *verdict = self.told(*verdict);
        }
        if self.enforcement == Enforcement::Enforced && !self.audit {
            // An entry that is only told lets pass, and nothing says that another rule would.
            keys.retain(|(_, verdict)| *verdict != EntryVerdict::AuditDeny);
        }
        keys
    }

    /// What becomes of a verdict on an endpoint that is only audited.
    fn told(&self, verdict: EntryVerdict) -> EntryVerdict {
        if self.audit && !verdict.passes() {
            EntryVerdict::AuditDeny
        } else {
            verdict
        }
    }

    fn entry(&self, identity: Identity, (protocol, ports): L4Key, (verdict, rule): What) -> Entry {
        Entry {
            direction: self.direction,
            identity,
            protocol,
            ports,
            verdict,
            rule,
        }
    }

    /// Whether an identity's own entry says more than the one for every peer.
    fn adds_something(&self, key: L4Key, (verdict, _): What) -> bool {
        self.for_any
            .get(&key)
            .is_none_or(|(for_any, _)| *for_any < verdict)
    }

    /// The items that select a peer.
    pub(super) fn selecting_peer(&self, peer: PeerRef<'_>) -> Vec<&CompiledItem> {
        let items = self.items.iter();
        match peer {
            PeerRef::Known(identity) => items.filter(|item| item.selects_known(identity)).collect(),
            PeerRef::Learned(set) => {
                let labels = set.to_labels();
                let view = PeerView {
                    labels: &labels,
                    outside: Some(set),
                };
                items.filter(|item| item.selects(view)).collect()
            }
        }
    }

    /// The items that select a peer outside the table. `named` are those whose names it has.
    pub(super) fn selecting<'a>(
        &'a self,
        peer: PeerView<'a>,
        named: &'a BTreeSet<usize>,
    ) -> impl Iterator<Item = &'a CompiledItem> {
        let indices = self.listed.iter().filter(move |index| {
            let item = self.items.get(**index);
            named.contains(index)
                || item.is_some_and(|item| item.item().names().is_none() && item.selects(peer))
        });
        indices.filter_map(|index| self.items.get(*index))
    }

    /// Redirects the ports of TCP that only bound rules open, and refuses QUIC, which hides the name, where
    /// its port is one of them.
    fn bind(
        &self,
        merged: &mut BTreeMap<L4Key, What>,
        (said, bound): (&[(L4Key, What)], &[BoundPorts]),
    ) {
        let said = said.iter().map(|(key, what)| (key, what));
        let open = self.for_any.iter().chain(said);
        let open = open.filter(|((protocol, _), what)| quic::opens_tcp(*protocol, what.0));
        // What a rule for requests hides of `for_any` is known where datagrams are refused.
        let hidden = self.opened.iter().flat_map(Opened::for_any);
        let free = open.map(|((_, ports), _)| *ports).chain(hidden);
        let free: Vec<PortPrefix> = free.chain([DNS]).collect();
        let mut at_quic: Option<(NameBinding, RuleId)> = None;
        let of_tcp = bound.iter();
        let of_tcp = of_tcp.filter(|((protocol, _), ..)| matches!(*protocol, 0 | TCP));
        for ((_, of_rule), rule, binding) in of_tcp {
            for ports in of_rule.without(&free) {
                let what = (EntryVerdict::Redirect(Proxy::Names), *rule);
                merge(merged, (TCP, ports), what);
                let weaker = at_quic.is_none_or(|(other, _)| *binding < other);
                if ports.contains(QUIC.port) && weaker {
                    at_quic = Some((*binding, *rule));
                }
            }
        }
        if let (Some((NameBinding::Enforce, rule)), true) = (at_quic, self.opened.is_some()) {
            merge(merged, (UDP, QUIC), (EntryVerdict::Refuse, rule));
        }
    }

    /// The entries for one identity outside the table.
    pub(super) fn entries_for(
        &self,
        (set, identity): (&LabelSet, Identity),
        named: &BTreeSet<usize>,
    ) -> Vec<Entry> {
        let labels = set.to_labels();
        let view = PeerView {
            labels: &labels,
            outside: Some(set),
        };
        let mut merged = BTreeMap::new();
        let (mut said, mut bound) = (Vec::new(), Vec::new());
        for item in self.selecting(view, named) {
            let binding = self.binding_of(item);
            for (key, verdict) in self.keys_of(item, None) {
                let what = (verdict, item.id());
                merge(&mut merged, key, what);
                match verdict == EntryVerdict::Allow && binding > NameBinding::Off {
                    true => bound.push((key, item.id(), binding)),
                    false => said.push((key, what)),
                }
            }
        }
        self.bind(&mut merged, (&said, &bound));
        if let Some(opened) = &self.opened {
            // What is only audited lets datagrams pass.
            let audited = bound
                .iter()
                .filter(|(.., mode)| *mode == NameBinding::Audit);
            let audited = audited.map(|(key, rule, _)| (*key, (EntryVerdict::Allow, *rule)));
            for (key, what) in opened.refusals(&merged, said.into_iter().chain(audited)) {
                merge(&mut merged, key, what);
            }
        }
        let kept = merged
            .into_iter()
            .filter(|(key, what)| self.adds_something(*key, *what));
        kept.map(|(key, what)| self.entry(identity, key, what))
            .collect()
    }
}

/// Where QUIC is spoken. On other ports of UDP it may be anything.
const QUIC: PortPrefix = PortPrefix::exact(443);

/// Keeps the stronger verdict, and of equal ones the first rule.
pub(super) fn merge<K: Ord>(map: &mut BTreeMap<K, What>, key: K, what: What) {
    map.entry(key)
        .and_modify(|old| {
            if old.0 < what.0 {
                *old = what;
            }
        })
        .or_insert(what);
}
