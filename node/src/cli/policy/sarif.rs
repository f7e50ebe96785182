//! Problems as SARIF 2.1.0, which code scanners and forges read.

use policy::{Code, Problem};
use serde_json::{Value, json};

/// One run with all problems.
///
/// # Errors
/// If a value can't be JSON.
pub(super) fn log(problems: &[Problem]) -> serde_json::Result<Value> {
    let rules: Vec<Value> = Code::ALL
        .into_iter()
        .map(rule)
        .collect::<serde_json::Result<_>>()?;
    let results: Vec<Value> = problems
        .iter()
        .map(result)
        .collect::<serde_json::Result<_>>()?;
    Ok(json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "namegate",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    }))
}

fn rule(code: Code) -> serde_json::Result<Value> {
    Ok(json!({
        "id": serde_json::to_value(code)?,
        "shortDescription": {"text": code.description()},
    }))
}

fn result(problem: &Problem) -> serde_json::Result<Value> {
    let artifact = json!({"uri": uri(&problem.file)});
    let place = if problem.line == 0 {
        json!({"artifactLocation": artifact})
    } else {
        json!({
            "artifactLocation": artifact,
            "region": {
                "startLine": problem.line,
                "startColumn": problem.column,
                "endColumn": problem.end_column,
            },
        })
    };
    Ok(json!({
        "ruleId": serde_json::to_value(problem.code)?,
        "level": serde_json::to_value(problem.severity)?,
        "message": {"text": message(problem)},
        "locations": [{"physicalLocation": place}],
    }))
}

fn message(problem: &Problem) -> String {
    let mut text = problem.message.clone();
    if !problem.field.is_empty() {
        text = format!("{}: {text}", problem.field);
    }
    if let Some(help) = &problem.help {
        text = format!("{text} (help: {help})");
    }
    // Braces stand for placeholders (SARIF 2.1.0, section 3.11.5).
    text.replace('{', "{{").replace('}', "}}")
}

/// A path as a URI: relative, as a scanner resolves it against the checkout, or `file:`.
fn uri(path: &str) -> String {
    let mut uri = String::new();
    if path.starts_with('/') {
        uri.push_str("file://");
    }
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use policy::{Source, load};

    use super::*;

    const BAD: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\n\
                       spec:\n  endpointSelector: {}\n  egress:\n  - toEntities: [worl]\n  - toPortz: []\n";

    fn log_of(path: &str, text: &str) -> Value {
        let (path, text) = (path.to_owned(), text.to_owned());
        log(&load(&[Source { path, text }]).problems).unwrap()
    }

    #[test]
    fn every_problem_is_a_result_of_a_rule_that_is_there() {
        let log = log_of("a b/p.yaml", BAD);
        assert_eq!(log["version"], "2.1.0");
        let driver = &log["runs"][0]["tool"]["driver"];
        assert_eq!(driver["name"], "namegate");
        let rules = driver["rules"].as_array().unwrap();
        assert!(
            rules
                .iter()
                .all(|rule| rule["shortDescription"]["text"].is_string())
        );
        let results = log["runs"][0]["results"].as_array().unwrap();
        assert_eq!(results.len(), 2);
        for result in results {
            assert!(rules.iter().any(|rule| rule["id"] == result["ruleId"]));
            assert_eq!(result["level"], "error");
        }
        let first = &results[0];
        assert!(
            first["message"]["text"]
                .as_str()
                .unwrap()
                .starts_with("spec.egress[0].")
        );
        let expected = json!({
            "artifactLocation": {"uri": "a%20b/p.yaml"},
            "region": {"startLine": 7, "startColumn": 18, "endColumn": 22},
        });
        assert_eq!(first["locations"][0]["physicalLocation"], expected);
    }

    #[test]
    fn a_problem_of_a_whole_file_has_no_region() {
        let long = " ".repeat(policy::limits::FILE_BYTES_MAX + 1);
        let log = log_of("/p.yaml", &long);
        let place = &log["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
        assert_eq!(
            place,
            &json!({"artifactLocation": {"uri": "file:///p.yaml"}})
        );
    }

    #[test]
    fn no_problems_are_no_results() {
        assert_eq!(log(&[]).unwrap()["runs"][0]["results"], json!([]));
    }
}
