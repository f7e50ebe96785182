//! Warnings that only show between the rules of a set.

use std::sync::Arc;

use fqdn::Name;

use super::conflict::overlap;
use super::scope::{Found, Scope, groups};
use crate::http::HttpRule;
use crate::l4::{L7Rules, PortMatch, PortRule, Ports, RuleProtocol};
use crate::names::{NameList, NameLists};
use crate::problem::Code;
use crate::rule::{Effect, Item, PeerSelector, Peers, Policy, PolicySet};

/// Comparisons of ports and peers for warnings; beyond, the rest of a vast set goes unwarned.
const COMPARISONS_MAX: usize = 20_000_000;

/// Finds what is likely not meant in a set without errors.
pub(super) fn find(set: &PolicySet) -> Vec<Found> {
    let mut found = Vec::new();
    let askable = askable_names(set);
    let mut left = COMPARISONS_MAX;
    for group in groups(set) {
        let lookup = set.lookup.as_deref().filter(|_| !has_dns(&group));
        for scope in &group {
            if scope.item.effect == Effect::Deny {
                continue;
            }
            found.extend(unfed_names(*scope, &askable, lookup));
            let judged = judged_ports(scope.item);
            let (mut deny, mut opener) = (None, None);
            for other in &group {
                let cost = cost_of(scope.item).saturating_mul(cost_of(other.item));
                let Some(rest) = left.checked_sub(cost) else {
                    return found;
                };
                left = rest;
                match other.item.effect {
                    Effect::Deny if deny.is_none() && covers(other.item, scope.item) => {
                        deny = Some(other);
                    }
                    Effect::Allow
                        if opener.is_none()
                            && judged.iter().any(|rule| opens(other.item, rule))
                            && shares_peer(other.item, scope.item) =>
                    {
                        opener = Some(other);
                    }
                    Effect::Deny | Effect::Allow => {}
                }
            }
            found.extend(deny.map(|deny| shadowed(*scope, *deny)));
            found.extend(opener.map(|opener| opened(*scope, *opener)));
        }
    }
    found
}

fn cost_of(item: &Item) -> usize {
    let names = item.names().map_or(0, |names| names.len());
    1 + item.port_list().len() + item.peer_list().len() + names
}

fn has_dns(group: &[Scope<'_>]) -> bool {
    group.iter().any(|scope| scope.item.has_dns())
}

/// Warns of a `toFQDNs` that no DNS rule of the whole set can feed: names are learned only from
/// answers to allowed questions. Where a policy stands in for DNS rules, it is told instead.
fn unfed_names(scope: Scope<'_>, askable: &NameLists, lookup: Option<&Policy>) -> Vec<Found> {
    let names = scope
        .item
        .names()
        .into_iter()
        .flat_map(|names| names.texts());
    let mut unfed = names.filter(|text| match text.contains('*') {
        true => askable.is_empty(),
        false => {
            Name::from_text(text).is_ok_and(|name| askable.find(&name, teaches_addresses).is_none())
        }
    });
    let help = "add an egress rule that names the DNS server and has `rules.dns` with the name, on \
                port \"53\"";
    if let Some(lookup) = lookup {
        let stands_in = |_| {
            let message = format!(
                "no DNS rule is beside `toFQDNs` of policy {:?}: a workload that has none asks the \
                 servers of {} for every name, and learns from them",
                scope.policy.name, lookup.file
            );
            let found = scope.found("toFQDNs", Code::ImpliedDns, message);
            found.with_help(help)
        };
        return unfed.next().map(stands_in).into_iter().collect();
    }
    let never_fed = |text: &str| {
        let message = format!(
            "no DNS rule of the set lets {text:?} of policy {:?} be asked of a server that \
             teaches: it never opens",
            scope.policy.name
        );
        scope
            .found("toFQDNs", Code::NeverFed, message)
            .with_help(help)
    };
    unfed.map(never_fed).collect()
}

/// Whether a name may be asked for something that addresses are learned from.
fn teaches_addresses(list: &NameList, at: u32) -> bool {
    // A, AAAA, and SVCB and HTTPS for their hints.
    [1, 28, 64, 65]
        .into_iter()
        .any(|qtype| list.allows(at, qtype))
}

/// The names that some DNS rule lets be asked of a server that teaches.
fn askable_names(set: &PolicySet) -> NameLists {
    let mut lists: Vec<Arc<NameList>> = Vec::new();
    for (_, _, item) in set.items() {
        if item.peer_list().iter().any(PeerSelector::may_teach) {
            for list in item.port_list().iter().filter_map(PortRule::dns) {
                if !lists.last().is_some_and(|last| Arc::ptr_eq(last, list)) {
                    lists.push(Arc::clone(list));
                }
            }
        }
    }
    NameLists::new(lists)
}

fn shadowed(allow: Scope<'_>, deny: Scope<'_>) -> Found {
    let message = format!(
        "nothing of this rule is left: {} denies the same peers and ports, and a deny beats every \
         allow",
        deny.name()
    );
    allow
        .found("", Code::ShadowedByDeny, message)
        .with_help("make the deny rule narrower, or take this rule out")
}

/// Whether a deny takes back all that an allow gives; "no" where that is not plain.
fn covers(deny: &Item, allow: &Item) -> bool {
    let peers = match (&deny.peers, &allow.peers) {
        (_, Peers::Nobody) => false,
        (Peers::Any, _) => true,
        (denied, allowed) => allowed.is_within(denied),
    };
    let ports = match (&deny.ports, &allow.ports) {
        (Ports::Any, Ports::Any) => true,
        (Ports::Any, Ports::List(allowed)) => !allowed.is_empty(),
        (Ports::List(_), Ports::Any) => false,
        (Ports::List(denied), Ports::List(allowed)) => {
            let is_denied = |rule| denied.iter().any(|deny| covers_port(deny, rule));
            !allowed.is_empty() && allowed.iter().all(is_denied)
        }
    };
    peers && ports
}

fn covers_port(deny: &PortRule, allow: &PortRule) -> bool {
    let protocol = match (deny.protocol, allow.protocol) {
        (RuleProtocol::Any, RuleProtocol::Any | RuleProtocol::One(_)) => true,
        (one, two) => one == two,
    };
    let port = match (&deny.port, &allow.port) {
        (PortMatch::All, _) => true,
        (PortMatch::Range(a, b), PortMatch::Range(c, d)) => a <= c && d <= b,
        (PortMatch::Named(one), PortMatch::Named(two)) => one == two,
        (PortMatch::Range(..) | PortMatch::Named(_), PortMatch::All)
        | (PortMatch::Range(..), PortMatch::Named(_))
        | (PortMatch::Named(_), PortMatch::Range(..)) => false,
    };
    protocol && port
}

/// The ports of an item whose L7 rules refuse anything.
fn judged_ports(item: &Item) -> Vec<&PortRule> {
    item.port_list()
        .iter()
        .filter(|rule| judges(rule))
        .collect()
}

/// A warning of L7 rules that a rule without any, for the same peers and port, makes idle.
fn opened(scope: Scope<'_>, opener: Scope<'_>) -> Found {
    let who = if std::ptr::eq(opener.item, scope.item) {
        "another entry of this rule".to_owned()
    } else {
        opener.name()
    };
    let message = format!(
        "{who} allows the same peers and port without L7 rules: everything passes, and these \
         rules only tell"
    );
    let found = scope.found("toPorts", Code::OpenedByOther, message);
    found.with_help("give the other rule L7 rules too, or other peers or ports")
}

/// Whether the L7 rules of a port refuse anything.
fn judges(rule: &PortRule) -> bool {
    match rule.l7.as_deref().map(|l7| &l7.rules) {
        Some(L7Rules::Http(rules)) => !rules.contains(&HttpRule::default()),
        Some(L7Rules::Dns(names)) => {
            let mut texts = (0..).zip(names.texts());
            !texts.any(|(at, text)| {
                text.trim_matches('*').is_empty() && names.types_of(at).is_empty()
            })
        }
        Some(L7Rules::None) | None => false,
    }
}

fn shares_peer(open: &Item, judged: &Item) -> bool {
    match (&open.peers, &judged.peers) {
        (_, Peers::Nobody) => false,
        (Peers::Any, _) => true,
        (open, judged) => open.shares_with(judged),
    }
}

/// Whether an item lets all pass that the L7 rules of a port judge. Names are only opened by a rule
/// for exactly their port.
fn opens(open: &Item, judged: &PortRule) -> bool {
    let is_dns = judged.dns().is_some();
    let opens_port = |rule: &PortRule| {
        let is_silent = rule
            .l7
            .as_deref()
            .is_none_or(|l7| matches!(l7.rules, L7Rules::None));
        is_silent && overlap(rule, judged) && (!is_dns || rule.port == judged.port)
    };
    match &open.ports {
        Ports::Any => !is_dns,
        Ports::List(rules) => rules.iter().any(opens_port),
    }
}
