//! `namegate status`.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::{Output, Which, print};
use crate::control::{Command, call};

/// Tell how a running daemon is: policy, endpoints, DNS, drops.
///
/// Exit code 0 if every endpoint is ready, 1 if one isn't, if files can't be used, or if no daemon answers.
#[derive(Args)]
#[command(after_help = "Example:
  namegate status -o json | jq .datapath.counters")]
pub(super) struct Status {
    #[command(flatten)]
    which: Which,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Status {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let status = call(&self.which.socket(), &Command::Status)?;
        match self.output {
            Output::Json => print(&format!("{status:#}\n"))?,
            Output::Text => print(&text(&status))?,
        };
        Ok(if is_well(&status) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn list<'a>(status: &'a Value, key: &str) -> &'a [Value] {
    status
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn errors(status: &Value) -> impl Iterator<Item = &Value> {
    let problems = status
        .pointer("/policy/problems")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    problems
        .iter()
        .filter(|problem| problem.get("severity").and_then(Value::as_str) == Some("error"))
}

fn is_well(status: &Value) -> bool {
    let is_ready =
        |endpoint: &Value| endpoint.get("state").and_then(Value::as_str) == Some("ready");
    list(status, "endpoints").iter().all(is_ready)
        && list(status, "endpoint_problems").is_empty()
        && errors(status).next().is_none()
}

fn text(status: &Value) -> String {
    let number = |path: &str| status.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let word = |path: &str| {
        status
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or("?")
            .to_owned()
    };
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string can't fail.
        let _ = writeln!(out, "{name:<10} {value}");
    };
    line(
        "daemon",
        format!(
            "namegate {} (instance {}, pid {})",
            word("/version"),
            word("/instance"),
            number("/pid")
        ),
    );
    line(
        "policy",
        format!(
            "revision {}, {} policies, {} rules",
            number("/policy/revision"),
            number("/policy/policies"),
            number("/policy/rules")
        ),
    );
    for problem in errors(status) {
        let text = |key: &str| {
            problem
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let place = problem.get("line").and_then(Value::as_u64).unwrap_or(0);
        line(
            "",
            format!(
                "not in force: {}:{place}: {}: {}",
                text("file"),
                text("field"),
                text("message")
            ),
        );
    }
    let endpoints = list(status, "endpoints");
    let ready = endpoints
        .iter()
        .filter(|one| one.get("state").and_then(Value::as_str) == Some("ready"))
        .count();
    line("endpoints", format!("{ready} of {} ready", endpoints.len()));
    for endpoint in endpoints
        .iter()
        .filter(|one| one.get("state").and_then(Value::as_str) != Some("ready"))
    {
        let text = |key: &str| {
            endpoint
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        line(
            "",
            format!("{} {}: {}", text("name"), text("state"), text("reason")),
        );
    }
    for problem in list(status, "endpoint_problems") {
        line(
            "",
            format!("not read: {}", problem.as_str().unwrap_or_default()),
        );
    }
    line(
        "dns",
        format!(
            "{} answered, {} denied, {} timed out, {} SERVFAIL",
            number("/dns/dns_exchanges_total/answered"),
            number("/dns/dns_exchanges_total/denied"),
            number("/dns/dns_exchanges_total/timeout"),
            number("/dns/dns_exchanges_total/servfail"),
        ),
    );
    line(
        "learned",
        format!(
            "{} answers installed, {} refreshed, {} identities",
            number("/learning/installed"),
            number("/learning/refreshed"),
            number("/learning/identities")
        ),
    );
    line(
        "datapath",
        format!(
            "{}, {} flows, {} packets redirected, {} dropped",
            word("/datapath/hooks"),
            number("/datapath/flows"),
            number("/datapath/counters/redirected"),
            number("/datapath/drops")
        ),
    );
    out
}
