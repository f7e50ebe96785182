//! `namegate endpoint`.

use std::fmt::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Output, Which, print};
use crate::control::{Command, call};

/// The endpoints of this node.
#[derive(Subcommand)]
pub(super) enum Endpoint {
    List(List),
}

/// List the endpoints: `attaching` ones are still open, `ready` ones judged, `refused` ones can't be
/// guarded, with the reason.
#[derive(Args)]
#[command(after_help = "Example:
  namegate endpoint list -o json | jq '.[] | select(.state != \"ready\")'")]
pub(super) struct List {
    #[command(flatten)]
    which: Which,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Endpoint {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self::List(list) = self;
        let answer = call(&list.which.socket(), &Command::Endpoints)?;
        let endpoints = answer.get("endpoints").cloned().unwrap_or_default();
        match list.output {
            Output::Json => print(&format!("{endpoints:#}\n")),
            Output::Text => print(&table(endpoints.as_array().map_or(&[], Vec::as_slice))),
        }
    }
}

fn table(endpoints: &[Value]) -> String {
    let mut out = format!(
        "{:<5} {:<32} {:<10} {:<9} {:<9} {}\n",
        "ID", "NAME", "STATE", "EGRESS", "IDENTITY", "ADDRESSES"
    );
    for endpoint in endpoints {
        let shown = |key: &str| match endpoint.get(key) {
            None | Some(Value::Null) => "-".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(all)) => all
                .iter()
                .map(|one| one.as_str().unwrap_or_default())
                .collect::<Vec<_>>()
                .join(" "),
            Some(other) => other.to_string(),
        };
        let last = if endpoint.get("reason").is_some_and(Value::is_string) {
            shown("reason")
        } else {
            shown("addresses")
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
