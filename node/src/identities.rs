//! The identities, and who has them, as a list for people and programs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use policy::Labels;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::directory::label_texts;

/// Learned addresses that one answer lists; of the rest it says how many they are.
const LISTED_MAX: usize = 10_000;

/// What is known of a number.
#[derive(Default)]
struct Known {
    labels: Vec<String>,
    /// Of workloads that are somewhere, here or elsewhere.
    workloads: Vec<String>,
    /// By the address table.
    prefixes: Vec<String>,
    /// By what endpoints have learned.
    learned: Vec<(String, IpAddr)>,
}

/// All identities with the number of their addresses, or one with the addresses themselves.
pub(crate) fn list(daemon: &Daemon, number: Option<u32>) -> Value {
    let all = collect(daemon);
    let Some(number) = number else {
        let all: Vec<Value> = all.iter().map(|(id, known)| summary(*id, known)).collect();
        return json!({ "identities": all });
    };
    match all.get(&number) {
        Some(known) => details(number, known),
        None => {
            json!({ "error": format!("no identity {number}: `namegate identity list` shows them") })
        }
    }
}

fn collect(daemon: &Daemon) -> BTreeMap<u32, Known> {
    let mut all: BTreeMap<u32, Known> = BTreeMap::new();
    let snapshot = daemon.learner.snapshot();
    daemon.learner.with_identities(|identities| {
        // Kept for good, whether somebody has them or not.
        for (text, number) in identities.dump() {
            all.entry(number).or_default().labels = labels_of(&text);
        }
        for (identity, set) in identities.outside() {
            all.entry(identity.get()).or_default().labels = texts(&set.to_labels());
        }
    });
    for (prefix, identity) in snapshot.prefixes() {
        let known = all.entry(identity.get()).or_default();
        known.prefixes.push(prefix.to_string());
        if let Some(labels) = snapshot.labels_of(identity) {
            known.labels = texts(labels);
        }
    }
    let locals = daemon.guards.iter().map(|(_, guarded)| {
        let found = &guarded.found;
        (&found.workload, found.addresses())
    });
    let peers = daemon.guards.peers.iter();
    let peers = peers.map(|peer| (&peer.workload, peer.addresses.as_slice()));
    for (workload, addresses) in locals.chain(peers) {
        let mut numbers: Vec<u32> = addresses
            .iter()
            .map(|ip| snapshot.identity_of(*ip).get())
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            let known = all.entry(number).or_default();
            known.workloads.push(workload.full_name());
        }
    }
    add_learned(daemon, &mut all);
    all
}

fn add_learned(daemon: &Daemon, all: &mut BTreeMap<u32, Known>) {
    for (id, guarded) in daemon.guards.iter() {
        let name = guarded.found.workload.full_name();
        // Copied under the endpoint's lock, so that it is held shortly.
        let learned: Vec<_> = daemon
            .learner
            .with_knowledge(id, |knowledge| knowledge.ledger.addresses().collect())
            .unwrap_or_default();
        for (address, identity) in learned {
            let known = all.entry(identity).or_default();
            known.learned.push((name.clone(), address.into()));
        }
    }
}

fn summary(id: u32, known: &Known) -> Value {
    json!({
        "id": id,
        "labels": known.labels,
        "workloads": known.workloads,
        "prefixes": known.prefixes.len(),
        "learned": known.learned.len(),
    })
}

fn details(id: u32, known: &Known) -> Value {
    let learned = known.learned.iter().take(LISTED_MAX);
    let learned = learned.map(|(endpoint, ip)| json!({ "endpoint": endpoint, "address": ip }));
    json!({
        "id": id,
        "labels": known.labels,
        "workloads": known.workloads,
        "prefixes": known.prefixes,
        "learned": learned.collect::<Vec<_>>(),
        "left_out": known.learned.len().saturating_sub(LISTED_MAX),
    })
}

/// Labels as flows show them.
pub(crate) fn texts(labels: &Labels) -> Vec<String> {
    label_texts(labels)
        .iter()
        .map(|text| (**text).to_owned())
        .collect()
}

/// The labels of a set's sorted text: each ends in `;`, and what a backslash stands before is a letter.
fn labels_of(text: &str) -> Vec<String> {
    let mut labels = Vec::new();
    let mut label = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => label.extend(letters.next()),
            ';' => labels.push(std::mem::take(&mut label)),
            other => label.push(other),
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use policy::Label;

    use super::*;

    #[test]
    fn labels_come_back_from_the_sorted_text() {
        let labels: Labels = [Label::new("k8s", "a", "x;y\\z"), Label::new("k8s", "b", "")]
            .into_iter()
            .collect();
        assert_eq!(labels_of(&labels.to_sorted_text()), texts(&labels));
        assert!(labels_of("").is_empty());
    }
}
