//! `namegate endpoint`.

use std::fmt::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Ask, Headings, list};
use crate::control::Command;
use crate::maps::aligned;

/// The endpoints of this node.
#[derive(Subcommand)]
pub(super) enum Endpoint {
    List(List),
    Get(Get),
}

/// List the endpoints: `attaching` ones are still open unless an earlier run guards them, `ready` ones
/// judged, `refused` ones can't be guarded; with the reason, which of a `ready` one says what is wrong.
#[derive(Args)]
#[command(after_help = "Example:
  namegate endpoint list -o json | jq '.[] | select(.state != \"ready\")'")]
pub(super) struct List {
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    headings: Headings,
}

/// Show all that is known of one endpoint: its link, identity and labels, how far it is enforced, what
/// it has learned, the programs on its interface, its policy entries in the kernel.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate endpoint get default/internal-client
  namegate endpoint get 3 -o json | jq '.policy[] | select(.verdict == \"redirect\")'")]
pub(super) struct Get {
    /// Which one.
    #[arg(value_name = "NAMESPACE/NAME|NUMBER")]
    endpoint: String,
    #[command(flatten)]
    ask: Ask,
}

impl Endpoint {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(list) => list.run(),
            Self::Get(get) => get.run(),
        }
    }
}

impl List {
    fn run(self) -> anyhow::Result<ExitCode> {
        let answer = self.ask.call(&Command::Endpoints)?;
        let endpoints = answer.get("endpoints").cloned().unwrap_or_default();
        self.ask.show(&endpoints, |all| {
            let all = all.as_array().map_or(&[][..], Vec::as_slice);
            self.headings.of(table(all))
        })
    }
}

impl Get {
    fn run(self) -> anyhow::Result<ExitCode> {
        let endpoint = self.endpoint;
        let answer = self.ask.call(&Command::Endpoint { endpoint })?;
        self.ask.show(&answer, details)
    }
}

fn table(endpoints: &[Value]) -> String {
    let mut out = format!(
        "{:<5} {:<32} {:<10} {:<9} {:<9} {}\n",
        "ID", "NAME", "STATE", "EGRESS", "IDENTITY", "ADDRESSES"
    );
    for endpoint in endpoints {
        let shown = |key: &str| shown(endpoint.get(key));
        let has = |key: &str| endpoint.get(key).is_some_and(Value::is_string);
        let last = match (has("reason"), has("cgroup")) {
            (true, _) => shown("reason"),
            (false, true) => format!("cgroup {}", shown("cgroup")),
            (false, false) => shown("addresses"),
        };
        // Writing to a string can't fail.
        let _ = writeln!(
            out,
            "{:<5} {:<32} {:<10} {:<9} {:<9} {last}",
            shown("id"),
            shown("name"),
            shown("state"),
            shown("egress"),
            shown("identity")
        );
    }
    out
}

fn details(endpoint: &Value) -> String {
    let at = |path: &str| shown(endpoint.pointer(path));
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        // Writing to a string can't fail.
        let _ = writeln!(out, "{name:<11} {text}");
    };
    line("endpoint", format!("{} {}", at("/id"), at("/name")));
    line(
        "state",
        match at("/reason").as_str() {
            "-" => at("/state"),
            reason => format!("{}: {reason}", at("/state")),
        },
    );
    line("file", at("/file"));
    // One that is refused before it has a number has nothing else.
    if endpoint.get("id").is_none() {
        return out;
    }
    line("identity", at("/identity"));
    line("labels", at("/labels"));
    for (name, text) in place(endpoint) {
        line(name, text);
    }
    let (ingress, egress) = (at("/enforcement/ingress"), at("/enforcement/egress"));
    line(
        "policy",
        format!(
            "egress {egress}, ingress {ingress}, revision {}",
            at("/policy_revision")
        ),
    );
    let (names, learned, open) = (
        at("/names"),
        at("/learned_addresses"),
        at("/open_addresses"),
    );
    line(
        "learned",
        format!("{names} names, {learned} addresses, {open} of them open"),
    );
    for program in list(endpoint, "programs") {
        let of = |key: &str| shown(program.get(key));
        let foreign = if program.get("ours") == Some(&Value::Bool(true)) {
            ""
        } else {
            ", not ours"
        };
        line(
            "program",
            format!("{} {} ({}{foreign})", of("hook"), of("program"), of("by")),
        );
    }
    let entries = list(endpoint, "policy");
    line("entries", entries.len().to_string());
    if !entries.is_empty() {
        out.push_str(&entry_table(entries));
    }
    out
}

/// Where it is guarded.
fn place(endpoint: &Value) -> Vec<(&'static str, String)> {
    let at = |path: &str| shown(endpoint.pointer(path));
    let has = |key: &str| endpoint.get(key).is_some_and(Value::is_string);
    if has("cgroup") {
        let cgroup = format!("{} (number {})", at("/cgroup"), at("/cgroup_id"));
        let warning = has("warning").then(|| ("warning", at("/warning")));
        return [("cgroup", cgroup)].into_iter().chain(warning).collect();
    }
    let interface = [
        at("/interface"),
        at("/ifindex"),
        at("/host_mac"),
        at("/mtu"),
    ];
    let [name, index, host_mac, mtu] = interface;
    vec![
        ("addresses", at("/addresses")),
        ("mac", at("/mac")),
        (
            "interface",
            format!("{name} (index {index}, MAC {host_mac}, MTU {mtu})"),
        ),
    ]
}

fn entry_table(entries: &[Value]) -> String {
    let columns = [
        "direction",
        "identity",
        "protocol",
        "port",
        "verdict",
        "rule",
    ];
    let head = columns.iter().map(|column| column.to_uppercase());
    let rows = entries.iter().map(|entry| {
        let cell = |column: &&str| match entry.get(*column) {
            Some(Value::Null) => "any".to_owned(),
            other => shown(other),
        };
        columns.iter().map(cell).collect()
    });
    aligned(head.collect(), rows)
}

/// What isn't there is `-`; several are told with spaces between.
fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(all)) => all
            .iter()
            .map(|one| one.as_str().unwrap_or_default())
            .collect::<Vec<_>>()
            .join(" "),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_endpoint_is_told_with_its_programs_and_entries() {
        let endpoint = json!({
            "id": 1, "name": "default/alice", "state": "ready", "reason": null, "file": "a.yaml",
            "identity": 256, "labels": ["k8s:app=alice"], "addresses": ["10.0.0.2", "fd00::2"],
            "mac": "02:00:00:00:00:01", "interface": "veth1", "ifindex": 8, "host_mac": "02:00:00:00:00:02",
            "mtu": 1500, "enforcement": {"ingress": "open", "egress": "enforced"}, "policy_revision": 3,
            "names": 1, "learned_addresses": 2, "open_addresses": 1,
            "programs": [
                {"hook": "ingress", "by": "tcx", "program": "ng_from_ep", "ours": true},
                {"hook": "ingress", "by": "clsact", "program": "cil_from", "ours": false},
            ],
            "policy": [{"direction": "egress", "identity": 9, "protocol": "UDP", "port": null,
                        "verdict": "redirect", "rule": 2}],
        });
        let text = details(&endpoint);
        for line in [
            "endpoint    1 default/alice",
            "addresses   10.0.0.2 fd00::2",
            "policy      egress enforced, ingress open, revision 3",
            "learned     1 names, 2 addresses, 1 of them open",
            "program     ingress ng_from_ep (tcx)",
            "program     ingress cil_from (clsact, not ours)",
            "egress     9         UDP       any   redirect  2",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
        let refused = json!({"name": "default/bob", "state": "refused", "reason": "no link", "file": "b.yaml"});
        assert!(details(&refused).contains("state       refused: no link\n"));
    }
}
