//! From what was seen of one workload in one direction to the rules of a policy.

use std::collections::{BTreeMap, BTreeSet};

use super::deed::{Icmp, Port};
use super::evidence::{Messages, PeerFacts, PortFacts, Side};
use super::http::Request;
use super::names::{self, Names, Written};
use super::peer::{Peer, PeerKind};
use super::seen::Seen;
use super::selector::Selector;

/// A rule: peers, and what may be done with each of them.
pub(super) struct Rule<'a> {
    pub(super) kind: PeerKind,
    pub(super) what: What<'a>,
    pub(super) items: Vec<Item<'a>>,
}

/// What may be done. The two can't stand in one rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What<'a> {
    Ports(Vec<Entry<'a>>),
    Icmps(Vec<Icmp>),
}

/// An entry of `toPorts`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry<'a> {
    pub(super) ports: Vec<Port>,
    pub(super) messages: Allowed<'a>,
}

/// The messages that an entry allows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Allowed<'a> {
    Dns(BTreeSet<Written>),
    Http(&'a BTreeSet<Request>),
    All,
}

/// One peer of a rule.
pub(super) struct Item<'a> {
    pub(super) who: Who<'a>,
    pub(super) seen: Seen,
    /// What else there is to say, a comment each.
    pub(super) remarks: Vec<String>,
}

/// Whom an item names.
pub(super) enum Who<'a> {
    Endpoints(&'a Selector),
    Entity(&'static str),
    Address(std::net::IpAddr),
    Name(Written),
}

/// Ports of one entry, as Cilium has it.
const ENTRY_PORTS: usize = policy::limits::PORTS_MAX;

/// How names are taken.
#[derive(Clone, Copy)]
pub(super) struct NameView<'v> {
    pub(super) how: Names,
    /// Whether answers to a name were seen and none had data.
    pub(super) is_empty: &'v dyn Fn(&str) -> bool,
}

/// The rules for one side of a workload.
pub(super) fn rules<'a>(side: &'a Side, view: NameView<'_>) -> Vec<Rule<'a>> {
    let askable = askable(side);
    let mut rules: BTreeMap<(PeerKind, What<'a>), Vec<(&'a Peer, Item<'a>)>> = BTreeMap::new();
    let mut add = |peer: &'a Peer, what: What<'a>, (seen, remarks): (Seen, Vec<String>)| {
        let who = match peer {
            Peer::Endpoints(selector) => Who::Endpoints(selector),
            Peer::Entity(entity) => Who::Entity(entity),
            Peer::Address(address) => Who::Address(*address),
            Peer::Name(name) => Who::Name(Written::Name(name.clone())),
        };
        let item = Item { who, seen, remarks };
        let items = rules.entry((peer.kind(), what)).or_default();
        items.push((peer, item));
    };
    for (peer, facts) in &side.peers {
        let mut remarks = remarks_of(peer, &askable);
        let (entries, seen) = entries(facts, view, &mut remarks);
        if !entries.is_empty() {
            add(peer, What::Ports(entries), (seen, remarks.clone()));
        }
        if !facts.icmps.is_empty() {
            let kinds = facts.icmps.keys().copied().collect();
            let seen = Seen::sum(facts.icmps.values());
            add(peer, What::Icmps(kinds), (seen, remarks_of(peer, &askable)));
        }
    }
    let rules = rules.into_iter().map(|((kind, what), items)| Rule {
        kind,
        what,
        items: match kind {
            PeerKind::Fqdns => generalised(items, view.how),
            PeerKind::Endpoints | PeerKind::Entities | PeerKind::Cidr => {
                items.into_iter().map(|(_, item)| item).collect()
            }
        },
    });
    rules.collect()
}

/// Names that were asked of some server.
fn askable(side: &Side) -> BTreeSet<&str> {
    let ports = side.peers.values().flat_map(|facts| facts.ports.values());
    let names = ports.filter_map(|facts| match &facts.messages {
        Messages::Dns(names) => Some(names),
        Messages::None | Messages::Http(_) => None,
    });
    names.flatten().map(String::as_str).collect()
}

fn remarks_of(peer: &Peer, askable: &BTreeSet<&str>) -> Vec<String> {
    match peer {
        Peer::Endpoints(selector) if selector.is_of_replica => {
            vec!["no label is left but those that differ between replicas".to_owned()]
        }
        Peer::Name(name) if !askable.contains(name.as_str()) => vec![format!(
            "no DNS query for {name} was recorded: it opens only if another rule lets it be asked"
        )],
        Peer::Endpoints(_) | Peer::Entity(_) | Peer::Address(_) | Peer::Name(_) => Vec::new(),
    }
}

/// The entries for one peer, with the flows behind them.
fn entries<'a>(
    facts: &'a PeerFacts,
    view: NameView<'_>,
    remarks: &mut Vec<String>,
) -> (Vec<Entry<'a>>, Seen) {
    let (mut asked, mut plain) = (Vec::new(), Vec::new());
    let mut requested: BTreeMap<&BTreeSet<Request>, Vec<Port>> = BTreeMap::new();
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut seen = Seen::default();
    for (port, facts) in &facts.ports {
        match &facts.messages {
            Messages::None => plain.push(*port),
            Messages::Dns(asked_for) if !asked_for.is_empty() => {
                asked.push(*port);
                names.extend(asked_for.iter().map(String::as_str));
            }
            Messages::Http(requests) if !requests.is_empty() => {
                requested.entry(requests).or_default().push(*port);
            }
            Messages::Dns(_) | Messages::Http(_) => {
                remarks.push(closed(*port, facts));
                continue;
            }
        }
        seen.merge(&facts.seen);
    }
    let mut entries = Vec::new();
    let mut add = |ports: Vec<Port>, messages: Allowed<'a>| {
        let parts = ports.chunks(ENTRY_PORTS).map(|ports| Entry {
            ports: ports.to_vec(),
            messages: messages.clone(),
        });
        entries.extend(parts);
    };
    if !asked.is_empty() {
        let names = names_with_data(names, view, remarks);
        let written = names::group(names.into_iter(), view.how);
        add(asked, Allowed::Dns(written.into_keys().collect()));
    }
    for (requests, ports) in requested {
        add(ports, Allowed::Http(requests));
    }
    add(plain, Allowed::All);
    (entries, seen)
}

fn closed(port: Port, facts: &PortFacts) -> String {
    let when = facts.seen.when();
    let number = port.number;
    format!("port {number} is left out: what was asked on it ({when}) fits no rule")
}

/// Names that are told in a remark; the rest is counted.
const TOLD: usize = 3;

/// Leaves out names to which answers came and none had data, unless that leaves nothing.
fn names_with_data<'n>(
    names: BTreeSet<&'n str>,
    view: NameView<'_>,
    remarks: &mut Vec<String>,
) -> Vec<&'n str> {
    let (empty, kept): (Vec<&str>, Vec<&str>) =
        names.into_iter().partition(|name| (view.is_empty)(name));
    if kept.is_empty() || empty.is_empty() {
        return if kept.is_empty() { empty } else { kept };
    }
    let told: Vec<&str> = empty.iter().take(TOLD).copied().collect();
    let told = told.join(", ");
    let more = match empty.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    remarks.push(format!("left out, no answer had data: {told}{more}"));
    kept
}

/// Puts siblings under one pattern, where that is wanted.
fn generalised<'a>(items: Vec<(&Peer, Item<'a>)>, how: Names) -> Vec<Item<'a>> {
    let mut by_name: BTreeMap<&str, Item<'a>> = BTreeMap::new();
    for (peer, item) in items {
        if let Peer::Name(name) = peer {
            by_name.insert(name, item);
        }
    }
    let groups = names::group(by_name.keys().copied(), how);
    let mut out = Vec::new();
    for (written, siblings) in groups {
        let found: Vec<Item<'a>> = siblings
            .iter()
            .filter_map(|name| by_name.remove(name))
            .collect();
        let remarks = match written {
            Written::Name(_) => found.iter().flat_map(|item| item.remarks.clone()).collect(),
            Written::Below(_) => vec![format!("stands for {} names", found.len())],
        };
        out.push(Item {
            who: Who::Name(written),
            seen: Seen::sum(found.iter().map(|item| &item.seen)),
            remarks,
        });
    }
    out
}
