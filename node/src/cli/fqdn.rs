//! `namegate fqdn`.

use std::fmt::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Output, Which, list, print};
use crate::control::{Command, call};
use crate::exit::{Exit, USAGE};

/// Names, and what endpoints learned of them.
#[derive(Subcommand)]
pub(super) enum Fqdn {
    #[command(subcommand)]
    Cache(Cache),
}

/// What endpoints have learned.
#[derive(Subcommand)]
pub(super) enum Cache {
    List(List),
    Clean(Clean),
}

/// List what endpoints have learned: names, addresses, the time that is left, who taught them and which rules
/// they are open by.
///
/// An address ends under each of its names by itself, and closes with the last of them. One without
/// an identity was learned and opens nothing: no `toFQDNs` rule selects its names. The server is the one
/// that answered last; where an earlier daemon learned a name, it is not known until the next answer.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate fqdn cache list --endpoint default/internal-client
  namegate fqdn cache list -o json | jq '.[] | select(.name == \"ifconfig.me.\")'")]
pub(super) struct List {
    #[command(flatten)]
    which: Which,
    /// Of this endpoint alone.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    endpoint: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// Forget what endpoints have learned.
///
/// An address that only forgotten names opened closes for new connections; those that are open go on. With
/// the next answer it opens again.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate fqdn cache clean --endpoint default/internal-client
  namegate fqdn cache clean --match-pattern '*.example.com'
  namegate fqdn cache clean --all")]
pub(super) struct Clean {
    #[command(flatten)]
    which: Which,
    /// Of this endpoint alone.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    endpoint: Option<String>,
    /// Of the names that this pattern matches alone, as `matchPattern` has it.
    #[arg(long, value_name = "PATTERN", visible_alias = "matchpattern")]
    match_pattern: Option<String>,
    /// Of all endpoints, all names.
    #[arg(long, conflicts_with_all = ["endpoint", "match_pattern"])]
    all: bool,
}

impl Fqdn {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self::Cache(cache) = self;
        match cache {
            Cache::List(list) => list.run(),
            Cache::Clean(clean) => clean.run(),
        }
    }
}

impl Clean {
    fn run(self) -> anyhow::Result<ExitCode> {
        if !self.all && self.endpoint.is_none() && self.match_pattern.is_none() {
            let what = "what is to be forgotten? Say --endpoint, --match-pattern or --all";
            return Err(Exit::with(USAGE, what));
        }
        let command = Command::FqdnClean {
            endpoint: self.endpoint,
            names: self.match_pattern,
        };
        let answer = call(&self.which.socket(), &command)?;
        let forgotten = answer.get("forgotten").and_then(Value::as_u64).unwrap_or(0);
        print(&format!("{forgotten} names forgotten\n"))
    }
}

impl List {
    fn run(self) -> anyhow::Result<ExitCode> {
        let endpoint = self.endpoint;
        let answer = call(&self.which.socket(), &Command::FqdnCache { endpoint })?;
        let names = answer.get("names").cloned().unwrap_or_default();
        let left_out = answer.get("left_out").and_then(Value::as_u64).unwrap_or(0);
        if left_out > 0 {
            tell_left_out(left_out);
        }
        match self.output {
            Output::Json => print(&format!("{names:#}\n")),
            Output::Text => print(&table(names.as_array().map_or(&[], Vec::as_slice))),
        }
    }
}

/// Beside the data, which a program may read.
fn tell_left_out(count: u64) {
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("namegate: {count} more addresses are left out; --endpoint lists fewer\n")
            .as_bytes(),
    );
}

fn table(names: &[Value]) -> String {
    let mut out = row([
        "ENDPOINT",
        "NAME",
        "ADDRESS",
        "EXPIRES",
        "IDENTITY",
        "TAUGHT BY",
        "RULES",
    ]);
    for entry in names {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let rules: Vec<&str> = list(entry, "rules")
            .iter()
            .filter_map(|rule| rule.get("place").and_then(Value::as_str))
            .collect();
        let rules = match rules.is_empty() {
            true => "-".to_owned(),
            false => rules.join(","),
        };
        for one in list(entry, "addresses") {
            let number = |key: &str| one.get(key).and_then(Value::as_u64);
            let expires =
                number("expires_secs").map_or_else(|| "-".into(), |left| format!("{left}s"));
            let identity = number("identity").map_or_else(|| "-".into(), |id| id.to_string());
            out.push_str(&row([
                text("endpoint").unwrap_or("?"),
                text("name").unwrap_or("?"),
                one.get("address").and_then(Value::as_str).unwrap_or("?"),
                &expires,
                &identity,
                text("taught_by").unwrap_or("-"),
                &rules,
            ]));
        }
    }
    out
}

fn row([endpoint, name, address, expires, identity, server, rules]: [&str; 7]) -> String {
    let mut line = String::new();
    // Writing to a string can't fail.
    let _ = writeln!(
        line,
        "{endpoint:<32} {name:<40} {address:<39} {expires:<8} {identity:<9} {server:<21} {rules}"
    );
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_address_of_a_name_is_a_line() {
        let names = json!([{
            "endpoint": "default/alice",
            "name": "web.example.com.",
            "taught_by": "10.0.0.53:53",
            "rules": [
                {"policy": "CiliumNetworkPolicy default/web", "place": "web.yaml:9"},
                {"policy": "CiliumNetworkPolicy default/all", "place": "all.yaml:3"},
            ],
            "addresses": [
                {"address": "198.18.0.1", "expires_secs": 29, "identity": 16_777_217},
            ],
        }, {
            "endpoint": "default/alice",
            "name": "other.example.com.",
            "taught_by": null,
            "rules": [],
            "addresses": [{"address": "2001:db8:1::1", "expires_secs": 3, "identity": null}],
        }]);
        let text = table(names.as_array().unwrap());
        let words: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            words,
            [
                &[
                    "ENDPOINT", "NAME", "ADDRESS", "EXPIRES", "IDENTITY", "TAUGHT", "BY", "RULES"
                ][..],
                &[
                    "default/alice",
                    "web.example.com.",
                    "198.18.0.1",
                    "29s",
                    "16777217",
                    "10.0.0.53:53",
                    "web.yaml:9,all.yaml:3",
                ],
                &[
                    "default/alice",
                    "other.example.com.",
                    "2001:db8:1::1",
                    "3s",
                    "-",
                    "-",
                    "-",
                ],
            ]
        );
    }
}
