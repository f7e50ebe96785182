//! `namegate status`.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::{Ask, list};
use crate::control::Command;

/// Tell how a running daemon is: policy, endpoints, DNS, drops.
///
/// Exit code 0 if every endpoint is ready, 1 if one isn't, if files can't be used, or if no daemon answers.
#[derive(Args)]
#[command(after_help = "Example:
  namegate status -o json | jq .datapath.counters")]
pub(super) struct Status {
    #[command(flatten)]
    ask: Ask,
}

impl Status {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let status = self.ask.call(&Command::Status)?;
        self.ask.show(&status, text)?;
        Ok(if is_well(&status) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
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
    list(status, "endpoints").iter().all(is_as_it_should_be)
        && list(status, "endpoint_problems").is_empty()
        && errors(status).next().is_none()
        && (status.pointer("/config/problems"))
            .is_none_or(|all| all.as_array().is_some_and(Vec::is_empty))
}

/// Whether an endpoint is guarded, and nothing is wrong with it.
fn is_as_it_should_be(endpoint: &Value) -> bool {
    word(endpoint, "/state") == "ready" && endpoint.get("reason").is_none_or(Value::is_null)
}

/// The text at a path of the answer.
fn word<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or("?")
}

/// The number at a path of the answer.
fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

/// The sum of the numbers in an object of the answer.
fn sum(value: &Value, path: &str) -> u64 {
    let all = value.pointer(path).and_then(Value::as_object);
    all.into_iter()
        .flatten()
        .filter_map(|(_, value)| value.as_u64())
        .sum()
}

fn text(status: &Value) -> String {
    let n = |path: &str| number(status, path);
    let mut lines = vec![
        format!(
            "daemon     namegate {} (instance {}, pid {})",
            word(status, "/version"),
            word(status, "/instance"),
            n("/pid")
        ),
        format!(
            "policy     revision {}, {} policies, {} rules",
            n("/policy/revision"),
            n("/policy/policies"),
            n("/policy/rules")
        ),
    ];
    lines.extend(errors(status).map(not_in_force));
    lines.extend(config(status));
    endpoints(status, &mut lines);
    let refused = list(status, "state_refused").iter();
    lines.extend(refused.filter_map(Value::as_str).map(|what| {
        format!("           what the last run left can't be used and is set aside: {what}")
    }));
    lines.extend(not_written(status));
    lines.extend(proxies(status));
    if let Some(keeper) = status.pointer("/listeners/by").and_then(Value::as_str) {
        lines.push(format!(
            "restart    queries wait for the next daemon in {} descriptors, kept by {keeper}",
            n("/listeners/kept")
        ));
    }
    lines.push(format!(
        "learned    {} answers installed, {} refreshed, {} identities",
        n("/learning/installed"),
        n("/learning/refreshed"),
        n("/learning/identities"),
    ));
    lines.extend(held(status));
    lines.push(format!(
        "datapath   {}, {} flows, {} packets redirected, {} dropped",
        word(status, "/datapath/hooks"),
        n("/datapath/flows"),
        n("/datapath/counters/redirected"),
        n("/datapath/drops"),
    ));
    let routers = status
        .pointer("/datapath/routers")
        .and_then(Value::as_array);
    lines.extend(["dns", "http"].into_iter().filter_map(|proxy| {
        let source = status.pointer(&format!("/upstream_source/{proxy}"))?;
        (source == "node").then(|| format!("           servers of {proxy} see the node's address"))
    }));
    lines.extend(routers.into_iter().flatten().map(|router| {
        format!(
            "           {}: the proxy's queries may be taken for its own",
            router.as_str().unwrap_or("?")
        )
    }));
    if number(status, "/datapath/interference/count") > 0 {
        lines.push(format!(
            "           set right {} times, the last: {}",
            n("/datapath/interference/count"),
            word(status, "/datapath/interference/last"),
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// What is wrong with the configuration, and what of it is not in force.
fn config(status: &Value) -> Vec<String> {
    let texts = |key: &str| -> Vec<&str> {
        let all = status.get("config").map(|config| list(config, key));
        let all = all.into_iter().flatten();
        all.filter_map(Value::as_str).collect()
    };
    let problems = texts("problems").into_iter();
    let mut lines: Vec<String> = problems
        .map(|what| format!("config     can't be used, and stays as it was: {what}"))
        .collect();
    let waits = texts("waits_for_restart");
    if !waits.is_empty() {
        let keys = waits.join(", ");
        lines.push(format!(
            "config     changed, and waits for the next start: {keys}"
        ));
    }
    lines
}

/// How long answers were held for the datapath, if there were any.
fn held(status: &Value) -> Option<String> {
    let buckets = list(status.get("learning")?, "hold");
    let answers = |bucket: &Value| number(bucket, "/answers");
    let all: u64 = buckets.iter().map(answers).sum();
    let at_most = |percent: u64| {
        let mut seen = 0;
        let reaches = |bucket: &&Value| {
            seen += answers(bucket);
            seen * 100 >= all * percent
        };
        match number(buckets.iter().find(reaches)?, "/up_to_us") {
            0 => Some("longer than any bound".to_owned()),
            us => Some(format!("{us} µs at most")),
        }
    };
    let (half, most) = (at_most(50)?, at_most(99)?);
    (all > 0)
        .then(|| format!("           held for the datapath: half of them {half}, 99 of 100 {most}"))
}

fn warned(endpoint: &Value) -> Option<String> {
    let warning = endpoint.get("warning")?.as_str()?;
    let name = word(endpoint, "/name");
    Some(format!("           {name}: {warning}"))
}

fn endpoints(status: &Value, lines: &mut Vec<String>) {
    let all = list(status, "endpoints");
    let ready = all.iter().filter(|one| word(one, "/state") == "ready");
    lines.push(format!(
        "endpoints  {} of {} ready",
        ready.count(),
        all.len()
    ));
    let others = all.iter().filter(|one| !is_as_it_should_be(one));
    lines.extend(others.map(|one| {
        format!(
            "           {} {}: {}",
            word(one, "/name"),
            word(one, "/state"),
            word(one, "/reason")
        )
    }));
    lines.extend(all.iter().filter_map(warned));
    let problems = list(status, "endpoint_problems").iter();
    lines.extend(
        problems.map(|problem| format!("           not read: {}", problem.as_str().unwrap_or("?"))),
    );
}

/// What is to be on disk and can't be written there.
fn not_written(status: &Value) -> Vec<String> {
    let faults = list(status, "state_faults")
        .iter()
        .filter_map(Value::as_str);
    let mut lines: Vec<String> = faults
        .map(|fault| format!("state      not kept for the next start: {fault}"))
        .collect();
    let files = status.pointer("/flows/files").and_then(Value::as_array);
    lines.extend(files.into_iter().flatten().filter_map(|file| {
        let fault = file.get("fault")?.as_str()?;
        let (path, lost) = (word(file, "/path"), number(file, "/lost"));
        Some(format!(
            "flows      not written to {path}, {lost} are lost: {fault}"
        ))
    }));
    lines
}

/// What the two proxies did.
fn proxies(status: &Value) -> [String; 2] {
    let n = |path: &str| number(status, path);
    let dns = format!(
        "dns        {} answered, {} denied, {} timed out, {} SERVFAIL",
        n("/dns/dns_exchanges_total/answered"),
        n("/dns/dns_exchanges_total/denied"),
        n("/dns/dns_exchanges_total/timeout"),
        n("/dns/dns_exchanges_total/servfail"),
    );
    let http = format!(
        "http       {} requests forwarded, {} denied, {} malformed; {} connections, {} refused",
        n("/http/http_requests_total/forwarded"),
        n("/http/http_requests_total/denied"),
        n("/http/http_requests_total/malformed"),
        n("/http/http_connections_total/accepted"),
        sum(status, "/http/http_refused_total"),
    );
    [dns, http]
}

fn not_in_force(problem: &Value) -> String {
    let field = match word(problem, "/field") {
        "" => String::new(),
        field => format!("{field}: "),
    };
    format!(
        "           not in force: {}:{}:{}: {field}{}",
        word(problem, "/file"),
        number(problem, "/line"),
        number(problem, "/column"),
        word(problem, "/message"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_problem_stands_with_its_field_if_it_has_one() {
        let of = |field: &str| {
            let place = json!({ "file": "a.yaml", "line": 8, "column": 7, "field": field, "message": "no" });
            not_in_force(&place)
        };
        assert_eq!(
            of("spec").trim_start(),
            "not in force: a.yaml:8:7: spec: no"
        );
        assert_eq!(of("").trim_start(), "not in force: a.yaml:8:7: no");
    }

    #[test]
    fn the_hold_is_told_by_its_half_and_its_worst_hundredth() {
        let status = |counts: [u64; 3]| {
            let bounds = [Some(10), Some(100), None];
            let buckets = bounds.iter().zip(counts);
            let buckets: Vec<Value> = buckets
                .map(|(bound, count)| json!({ "up_to_us": bound, "answers": count }))
                .collect();
            json!({ "learning": { "hold": buckets } })
        };
        assert_eq!(held(&json!({})), None);
        assert_eq!(held(&status([0, 0, 0])), None);
        let text = held(&status([60, 39, 1])).unwrap();
        assert!(text.ends_with("half of them 10 µs at most, 99 of 100 100 µs at most"));
        let text = held(&status([1, 0, 9])).unwrap();
        assert!(
            text.contains("half of them longer than any bound"),
            "{text}"
        );
    }
}
