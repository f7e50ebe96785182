//! `namegate identity`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Ask, Headings};
use crate::control::Command;
use crate::maps::aligned;

/// Identities: the numbers that sets of labels have in the kernel.
#[derive(Subcommand)]
pub(super) enum Identity {
    List(List),
    Get(Get),
}

/// List the identities with their labels, and who has them.
///
/// Below 256 are the node and the world, from 256 workloads, from 16777217 addresses outside: prefixes
/// of policies, and what endpoints have learned. A set of workload labels keeps its number for good,
/// also while nobody has it.
#[derive(Args)]
#[command(after_help = "Example:
  namegate identity list -o json | jq '.[] | select(.learned > 0)'")]
pub(super) struct List {
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    headings: Headings,
}

/// Show one identity: its labels, the workloads and prefixes that have it, and the addresses that
/// endpoints have learned under it.
#[derive(Args)]
#[command(after_help = "Example:
  namegate identity get 16777217")]
pub(super) struct Get {
    /// Its number.
    number: u32,
    #[command(flatten)]
    ask: Ask,
}

impl Identity {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(list) => list.run(),
            Self::Get(get) => get.run(),
        }
    }
}

impl List {
    fn run(self) -> anyhow::Result<ExitCode> {
        let number = None;
        let answer = self.ask.call(&Command::Identities { number })?;
        let all = answer.get("identities").cloned().unwrap_or_default();
        self.ask.show(&all, |all| {
            let all = all.as_array().map_or(&[][..], Vec::as_slice);
            self.headings.of(table(all))
        })
    }
}

impl Get {
    fn run(self) -> anyhow::Result<ExitCode> {
        let number = Some(self.number);
        let answer = self.ask.call(&Command::Identities { number })?;
        self.ask.show(&answer, details)
    }
}

fn table(identities: &[Value]) -> String {
    let columns = ["id", "workloads", "prefixes", "learned", "labels"];
    let head = columns.iter().map(|column| column.to_uppercase());
    let line = |identity: &Value| {
        let number = |key: &str| identity.get(key).and_then(Value::as_u64).unwrap_or(0);
        vec![
            number("id").to_string(),
            or_dash(texts(identity, "workloads").join(" ")),
            number("prefixes").to_string(),
            number("learned").to_string(),
            or_dash(texts(identity, "labels").join(" ")),
        ]
    };
    aligned(head.collect(), identities.iter().map(line))
}

fn details(identity: &Value) -> String {
    let number = |key: &str| identity.get(key).and_then(Value::as_u64).unwrap_or(0);
    let mut lines = vec![format!("identity   {}", number("id"))];
    for (key, name) in [
        ("labels", "label"),
        ("workloads", "workload"),
        ("prefixes", "prefix"),
    ] {
        let all = texts(identity, key);
        lines.extend(all.iter().map(|text| format!("{name:<10} {text}")));
    }
    let learned = identity.get("learned").and_then(Value::as_array);
    for one in learned.into_iter().flatten() {
        let text = |key: &str| one.get(key).and_then(Value::as_str).unwrap_or("?");
        lines.push(format!(
            "learned    {} by {}",
            text("address"),
            text("endpoint")
        ));
    }
    if number("left_out") > 0 {
        lines.push(format!("learned    and {} more", number("left_out")));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn texts<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    let all = value.get(key).and_then(Value::as_array);
    all.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn or_dash(text: String) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn identities_are_told_with_whoever_has_them() {
        let all = [
            json!({"id": 256, "labels": ["k8s:app=a", "k8s:b=c"], "workloads": ["default/a"], "prefixes": 2, "learned": 0}),
            json!({"id": 300, "labels": [], "workloads": [], "prefixes": 0, "learned": 0}),
        ];
        assert_eq!(
            table(&all),
            "ID   WORKLOADS  PREFIXES  LEARNED  LABELS\n\
             256  default/a  2         0        k8s:app=a k8s:b=c\n\
             300  -          0         0        -\n"
        );
        let one = json!({"id": 16_777_217, "labels": ["fqdn:a.test"], "workloads": [], "prefixes": [],
            "learned": [{"endpoint": "default/a", "address": "198.18.0.1"}], "left_out": 3});
        assert_eq!(
            details(&one),
            "identity   16777217\nlabel      fqdn:a.test\nlearned    198.18.0.1 by default/a\nlearned    and 3 more\n"
        );
    }
}
