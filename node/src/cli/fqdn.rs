//! `namegate fqdn`.

mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Ask, Headings, Which, list, print};
use crate::control::{Command, call};
use crate::exit::{Exit, USAGE};
use crate::maps::aligned;

/// Names, and what endpoints learned of them.
#[derive(Subcommand)]
pub(super) enum Fqdn {
    #[command(subcommand)]
    Cache(Cache),
    Names(Names),
    Selectors(Selectors),
}

/// List the names that endpoints have learned, each once: how many endpoints know it, and its addresses.
#[derive(Args)]
#[command(after_help = "Example:
  namegate fqdn names")]
pub(super) struct Names {
    #[command(flatten)]
    of: Listed,
}

/// List the names and patterns of `toFQDNs`, each with the policy and the endpoint that it is about: how many
/// learned names it matches now, and the addresses that it opens.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate fqdn selectors
  namegate fqdn selectors -o json | jq '.[] | select(.names == 0) | .selector'")]
pub(super) struct Selectors {
    #[command(flatten)]
    of: Listed,
}

/// What is listed, and how.
#[derive(Args)]
struct Listed {
    #[command(flatten)]
    ask: Ask,
    /// Of this endpoint alone.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    endpoint: Option<String>,
    #[command(flatten)]
    headings: Headings,
}

/// What endpoints have learned.
#[derive(Subcommand)]
pub(super) enum Cache {
    List(List),
    Clean(Clean),
    Load(load::Load),
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
    of: Listed,
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
        match self {
            Self::Cache(Cache::List(list)) => list.of.show(&CACHE),
            Self::Cache(Cache::Clean(clean)) => clean.run(),
            Self::Cache(Cache::Load(load)) => load.run(),
            Self::Names(names) => names.of.show(&NAMES),
            Self::Selectors(selectors) => selectors.of.show(&SELECTORS),
        }
    }
}

/// One of the lists: what the daemon is asked, what is made of its answer, and the lines of that.
struct Kind {
    ask: fn(Option<String>) -> Command,
    /// In the answer.
    key: &'static str,
    make: fn(Value) -> Value,
    head: &'static [&'static str],
    rows: fn(&Value) -> Vec<Vec<String>>,
}

const CACHE: Kind = Kind {
    ask: |endpoint| Command::FqdnCache { endpoint },
    key: "names",
    make: |names| names,
    head: &[
        "ENDPOINT",
        "NAME",
        "ADDRESS",
        "EXPIRES",
        "IDENTITY",
        "TAUGHT BY",
        "RULES",
    ],
    rows: learned,
};
const NAMES: Kind = Kind {
    make: by_name,
    head: &["NAME", "ENDPOINTS", "ADDRESSES"],
    rows: name,
    ..CACHE
};
const SELECTORS: Kind = Kind {
    ask: |endpoint| Command::FqdnSelectors { endpoint },
    key: "selectors",
    make: |selectors| selectors,
    head: &["ENDPOINT", "SELECTOR", "NAMES", "ADDRESSES", "RULE"],
    rows: selector,
};

impl Listed {
    fn show(self, kind: &Kind) -> anyhow::Result<ExitCode> {
        let answer = self.ask.call(&(kind.ask)(self.endpoint))?;
        let left_out = answer.get("left_out").and_then(Value::as_u64).unwrap_or(0);
        if left_out > 0 {
            tell_left_out(left_out);
        }
        let all = (kind.make)(answer.get(kind.key).cloned().unwrap_or_default());
        self.ask.show(&all, |all| {
            let all = all.as_array().map_or(&[][..], Vec::as_slice);
            let head = kind.head.iter().map(|word| (*word).to_owned());
            let rows = all.iter().flat_map(kind.rows);
            self.headings.of(aligned(head.collect(), rows))
        })
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
        let answer = call(&self.which.socket()?, &command)?;
        let forgotten = answer.get("forgotten").and_then(Value::as_u64).unwrap_or(0);
        print(&format!("{forgotten} names forgotten\n"))
    }
}

/// Beside the data, which a program may read.
fn tell_left_out(count: u64) {
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("namegate: {count} more are left out; --endpoint lists fewer\n").as_bytes(),
    );
}

fn text(of: &Value, key: &str) -> String {
    let word = of.get(key).and_then(Value::as_str);
    word.unwrap_or("?").to_owned()
}

fn number(of: &Value, key: &str) -> Option<u64> {
    of.get(key).and_then(Value::as_u64)
}

/// Each address of a name.
fn learned(name: &Value) -> Vec<Vec<String>> {
    let rules = list(name, "rules").iter();
    let places: Vec<String> = rules.map(|rule| text(rule, "place")).collect();
    let row = |one: &Value| {
        let or_dash = |word: Option<String>| word.unwrap_or_else(|| "-".to_owned());
        let expires = number(one, "expires_secs").map(|left| format!("{left}s"));
        let identity = number(one, "identity").map(|id| id.to_string());
        let server = name.get("taught_by").and_then(Value::as_str);
        vec![
            text(name, "endpoint"),
            text(name, "name"),
            text(one, "address"),
            or_dash(expires),
            or_dash(identity),
            or_dash(server.map(str::to_owned)),
            or_dash((!places.is_empty()).then(|| places.join(","))),
        ]
    };
    list(name, "addresses").iter().map(row).collect()
}

/// What endpoints have learned, by names.
fn by_name(learned: Value) -> Value {
    let mut all = BTreeMap::<String, (BTreeSet<String>, BTreeSet<String>)>::new();
    for one in learned.as_array().into_iter().flatten() {
        let (endpoints, addresses) = all.entry(text(one, "name")).or_default();
        endpoints.insert(text(one, "endpoint"));
        let own = list(one, "addresses").iter();
        addresses.extend(own.map(|one| text(one, "address")));
    }
    let all = all.into_iter().map(|(name, (endpoints, addresses))| {
        json!({ "name": name, "endpoints": endpoints, "addresses": addresses })
    });
    all.collect()
}

fn addresses(of: &Value) -> String {
    let all = list(of, "addresses").iter().filter_map(Value::as_str);
    match all.collect::<Vec<&str>>().join(" ") {
        none if none.is_empty() => "-".to_owned(),
        all => all,
    }
}

fn name(one: &Value) -> Vec<Vec<String>> {
    let endpoints = list(one, "endpoints").len().to_string();
    vec![vec![text(one, "name"), endpoints, addresses(one)]]
}

fn selector(one: &Value) -> Vec<Vec<String>> {
    let names = number(one, "names").unwrap_or(0).to_string();
    let place = format!("{}:{}", text(one, "file"), number(one, "line").unwrap_or(0));
    vec![vec![
        text(one, "endpoint"),
        text(one, "selector"),
        names,
        addresses(one),
        format!("{} ({place})", text(one, "policy")),
    ]]
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let rows: Vec<Vec<String>> = names.as_array().unwrap().iter().flat_map(learned).collect();
        assert_eq!(
            rows,
            [
                [
                    "default/alice",
                    "web.example.com.",
                    "198.18.0.1",
                    "29s",
                    "16777217",
                    "10.0.0.53:53",
                    "web.yaml:9,all.yaml:3",
                ],
                [
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

    #[test]
    fn a_name_is_listed_once_with_all_that_know_it() {
        let one = |endpoint: &str, addresses: &[&str]| {
            let addresses = addresses.iter().map(|one| json!({ "address": one }));
            json!({ "endpoint": endpoint, "name": "a.io.", "addresses": addresses.collect::<Value>() })
        };
        let names = by_name(json!([
            one("d/x", &["192.0.2.1"]),
            one("d/y", &["192.0.2.1", "192.0.2.2"])
        ]));
        let rows: Vec<Vec<String>> = names.as_array().unwrap().iter().flat_map(name).collect();
        assert_eq!(rows, [["a.io.", "2", "192.0.2.1 192.0.2.2"]]);
    }
}
