//! Rules that contradict each other on the same flows: no answer would be right, so the set is refused.

use std::collections::HashMap;

use super::item::{CompiledItem, L4Key};
use crate::Direction;
use crate::l4::{L7, PortRule};
use crate::problem::{Code, Problem, Severity};
use crate::rule::PeerKey;

/// A peer of a direction on a port.
type Place<'a> = (Direction, PeerKey<'a>, L4Key);

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
                let other = before
                    .iter()
                    .find_map(|(other, theirs)| theirs.conflict_with(l7).map(|why| (*other, why)));
                if let Some((other, why)) = other {
                    problems.push(problem(item, other, why));
                }
                // Of those that say as much, one is enough to compare with.
                if !before.iter().any(|(_, other)| other.is_like(l7)) {
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
    let keys = port.l4_keys(&[]);
    let each = |peer: PeerKey<'a>| {
        let keys = keys.iter();
        keys.map(move |key| (direction, peer, *key))
    };
    let peers = item.item().peers.keys();
    peers.into_iter().flat_map(each).collect()
}

fn problem(item: &CompiledItem, other: &CompiledItem, why: &str) -> Problem {
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
            "policy {:?} and policy {:?} in {}:{} are about the same peers and port of a workload, and {why}",
            origin.name, theirs.name, theirs.file, theirs.line
        ),
        help: Some(
            "give one of them another port or peer, or put both lists in one rule".to_owned(),
        ),
        snippet: String::new(),
    }
}
