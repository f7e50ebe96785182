//! Rules that contradict each other on the same flows: no answer would be right, so the set is refused.

use std::collections::HashMap;

use super::item::{CompiledItem, L4Key};
use crate::Direction;
use crate::l4::{L7, L7Rules, PortRule};
use crate::problem::{Code, Problem, Severity};
use crate::rule::{PeerSelector, Peers};

/// A peer of a direction on a port.
type Place<'a> = (Direction, Option<&'a PeerSelector>, L4Key);

/// Looks for L7 parts of the same peer and port that can't both hold.
///
/// # Errors
/// One problem for each pair of rules, naming both.
pub(super) fn find(items: &[CompiledItem]) -> Result<(), Vec<Problem>> {
    let mut merged: HashMap<Place<'_>, Vec<(&CompiledItem, &L7)>> = HashMap::new();
    let mut problems = Vec::new();
    for item in items {
        for port in item.item().port_list() {
            let Some(l7) = port.l7.as_deref() else {
                continue;
            };
            for place in places(item, port) {
                let before = merged.entry(place).or_default();
                let other = before.iter().find_map(|(other, theirs)| {
                    contradiction(theirs, l7).map(|reason| (*other, reason))
                });
                if let Some((other, reason)) = other {
                    problems.push(problem(item, other, reason));
                }
                // Of those that say as much, one is enough to compare with.
                if !before.iter().any(|(_, other)| is_alike(other, l7)) {
                    before.push((item, l7));
                }
            }
        }
    }
    problems.sort_by(|a, b| (&a.file, a.line, &a.message).cmp(&(&b.file, b.line, &b.message)));
    problems.dedup();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

fn places<'a>(item: &'a CompiledItem, port: &'a PortRule) -> Vec<Place<'a>> {
    let direction = item.item().direction;
    let peers: Vec<Option<&PeerSelector>> = match &item.item().peers {
        Peers::Any => vec![None],
        Peers::Nobody => Vec::new(),
        Peers::Some(peers) => peers.iter().map(Some).collect(),
    };
    let keys = port.l4_keys(&[]);
    let each = |peer: Option<&'a PeerSelector>| {
        let keys = keys.iter();
        keys.map(move |key| (direction, peer, *key))
    };
    peers.into_iter().flat_map(each).collect()
}

/// Whether whatever contradicts one contradicts the other, too.
fn is_alike(a: &L7, b: &L7) -> bool {
    std::mem::discriminant(&a.rules) == std::mem::discriminant(&b.rules)
        && a.server_names.is_empty() == b.server_names.is_empty()
        && a.terminating_tls == b.terminating_tls
        && a.originating_tls == b.originating_tls
}

/// Why two L7 parts can't both hold.
fn contradiction(a: &L7, b: &L7) -> Option<&'static str> {
    match (&a.rules, &b.rules) {
        (L7Rules::Http(_), L7Rules::Dns(_)) | (L7Rules::Dns(_), L7Rules::Http(_)) => {
            return Some("`http` and `dns` rules on the same peer and port");
        }
        (L7Rules::None, _)
        | (_, L7Rules::None)
        | (L7Rules::Http(_), L7Rules::Http(_))
        | (L7Rules::Dns(_), L7Rules::Dns(_)) => {}
    }
    let differ = |a: &Option<_>, b: &Option<_>| matches!((a, b), (Some(a), Some(b)) if a != b);
    if differ(&a.terminating_tls, &b.terminating_tls)
        || differ(&a.originating_tls, &b.originating_tls)
    {
        return Some("two TLS contexts on the same peer and port");
    }
    let has_names = |l7: &L7| !l7.server_names.is_empty();
    let has_rules = |l7: &L7| !matches!(l7.rules, L7Rules::None);
    let terminates = a.terminating_tls.is_some() || b.terminating_tls.is_some();
    if (has_names(a) || has_names(b)) && (has_rules(a) || has_rules(b)) && !terminates {
        return Some("`serverNames` and L7 rules on the same peer and port need `terminatingTLS`");
    }
    None
}

fn problem(item: &CompiledItem, other: &CompiledItem, reason: &str) -> Problem {
    let (origin, theirs) = (&item.prepared.origin, &other.prepared.origin);
    Problem {
        file: origin.file.to_string(),
        line: origin.line,
        column: item.item().column,
        end_column: 0,
        severity: Severity::Error,
        code: Code::Conflict,
        field: String::new(),
        message: format!(
            "{reason}: policy {:?} here, policy {:?} in {}:{}",
            origin.name, theirs.name, theirs.file, theirs.line
        ),
        help: Some(
            "give one of them another port or peer, or put both lists in one rule".to_owned(),
        ),
        snippet: String::new(),
    }
}
