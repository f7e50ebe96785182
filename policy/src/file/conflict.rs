//! Rules of a set that one connection can't obey both.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::scope::{Found, Scope, groups};
use crate::l4::{L7, PortMatch, PortRule};
use crate::problem::Code;
use crate::rule::{Effect, Item, PeerKey, PolicySet};

/// A port with L7 rules of an item, for one protocol.
#[derive(Clone, Copy)]
struct Spoken<'a> {
    first: u16,
    last: u16,
    l7: &'a L7,
    scope: Scope<'a>,
}

/// Finds conflicts between items of the same subject that have a peer selector and a port in
/// common. The compiler looks again, with the workloads that selectors share.
pub(super) fn find(set: &PolicySet) -> Vec<Found> {
    let mut found = Vec::new();
    for group in groups(set) {
        let speaks = |scope: &&Scope<'_>| {
            scope.item.effect == Effect::Allow
                && scope.item.port_list().iter().any(|rule| rule.l7.is_some())
        };
        let speakers: Vec<Scope<'_>> = group.iter().filter(speaks).copied().collect();
        let mut told = HashSet::new();
        for together in by_peer(&speakers) {
            find_among(&together, (&mut told, &mut found));
        }
    }
    found
}

/// The items that have a peer selector in common; every such company once.
fn by_peer<'a>(speakers: &[Scope<'a>]) -> Vec<Vec<Scope<'a>>> {
    let mut by_peer: HashMap<PeerKey<'_>, Vec<usize>> = HashMap::new();
    for (index, scope) in speakers.iter().enumerate() {
        for peer in scope.item.peers.keys() {
            let members = by_peer.entry(peer).or_default();
            if members.last() != Some(&index) {
                members.push(index);
            }
        }
    }
    let mut companies: Vec<Vec<usize>> = by_peer.into_values().collect();
    companies.sort_unstable();
    companies.dedup();
    let scope_of = |index: usize| speakers.get(index).copied();
    companies
        .into_iter()
        .map(|company| company.into_iter().filter_map(scope_of).collect())
        .collect()
}

type Told = HashSet<(*const Item, *const Item)>;

/// Walks the ports in order, and remembers for each way of speaking how far it reaches.
fn find_among(together: &[Scope<'_>], (told, found): (&mut Told, &mut Vec<Found>)) {
    let mut numbered: BTreeMap<u8, Vec<Spoken<'_>>> = BTreeMap::new();
    let mut named: BTreeMap<(u8, &str), Vec<Spoken<'_>>> = BTreeMap::new();
    for scope in together {
        for rule in scope.item.port_list() {
            let Some(l7) = rule.l7.as_deref() else {
                continue;
            };
            for protocol in rule.protocol_numbers() {
                let (first, last, list) = match &rule.port {
                    PortMatch::All => (0, u16::MAX, numbered.entry(*protocol).or_default()),
                    PortMatch::Range(first, last) => {
                        (*first, *last, numbered.entry(*protocol).or_default())
                    }
                    PortMatch::Named(name) => (0, 0, named.entry((*protocol, name)).or_default()),
                };
                list.push(Spoken {
                    first,
                    last,
                    l7,
                    scope: *scope,
                });
            }
        }
    }
    for mut list in numbered.into_values().chain(named.into_values()) {
        list.sort_by_key(|spoken| spoken.first);
        let mut reach: Vec<Spoken<'_>> = Vec::new();
        for spoken in list {
            for other in reach.iter().filter(|other| other.last >= spoken.first) {
                if let Some(why) = other.l7.conflict_with(spoken.l7) {
                    tell((other.scope, spoken.scope), why, (told, found));
                }
            }
            let same = reach.iter_mut().find(|other| other.l7.is_like(spoken.l7));
            match same {
                Some(other) if other.last < spoken.last => *other = spoken,
                Some(_) => {}
                None => reach.push(spoken),
            }
        }
    }
}

fn tell(
    (one, two): (Scope<'_>, Scope<'_>),
    why: &str,
    (told, found): (&mut Told, &mut Vec<Found>),
) {
    let place = |scope: &Scope<'_>| {
        (
            scope.policy.file.as_ptr(),
            scope.item.line,
            scope.item.column,
        )
    };
    let is_in_order = (&*one.policy.file, one.item.line, one.item.column)
        <= (&*two.policy.file, two.item.line, two.item.column);
    let (first, second) = if is_in_order { (one, two) } else { (two, one) };
    if !told.insert((
        std::ptr::from_ref(first.item),
        std::ptr::from_ref(second.item),
    )) {
        return;
    }
    let other = if place(&first) == place(&second) {
        "another entry of the same rule".to_owned()
    } else {
        first.name()
    };
    let message = format!(
        "policy {:?} and {other} are about the same workloads, peers and port, and {why}",
        second.policy.name
    );
    found.push(
        second
            .found("toPorts", Code::Conflict, message)
            .with_help("make them agree, or give them different ports or peers"),
    );
}

/// Whether two rules have a port of a protocol in common.
pub(super) fn overlap(one: &PortRule, two: &PortRule) -> bool {
    let numbers = one.protocol_numbers();
    let same_protocol = numbers
        .iter()
        .any(|number| two.protocol_numbers().contains(number));
    let same_port = match (&one.port, &two.port) {
        (PortMatch::All, _) | (_, PortMatch::All) => true,
        (PortMatch::Range(a, b), PortMatch::Range(c, d)) => a <= d && c <= b,
        (PortMatch::Named(one), PortMatch::Named(two)) => one == two,
        (PortMatch::Named(_), PortMatch::Range(..))
        | (PortMatch::Range(..), PortMatch::Named(_)) => false,
    };
    same_protocol && same_port
}
