//! The arrows between crates, and the rooms of crates from outside.

use serde_json::Value;

use super::Report;

/// A crate and the workspace's crates that it may use; those only its tests may use.
const ARROWS: [(&str, &[&str], &[&str]); 12] = [
    ("fqdn", &[], &[]),
    ("flow", &[], &[]),
    ("observer", &["flow"], &[]),
    ("policy", &["fqdn"], &[]),
    ("fqdn-cache", &["fqdn"], &[]),
    ("bpf-redirect-common", &[], &[]),
    ("transport", &["bpf-redirect-common"], &[]),
    ("bpf-redirect", &["bpf-redirect-common"], &["transport"]),
    (
        "dnsproxy",
        &["fqdn", "policy", "transport", "bpf-redirect-common"],
        &[],
    ),
    (
        "httpproxy",
        &["fqdn", "policy", "transport", "bpf-redirect-common"],
        &[],
    ),
    ("namegate-tests", &["transport"], ALL),
    ("xtask", &[], &[]),
];

/// Crates that may use all others.
const WIRING: [&str; 2] = ["namegate", "namegate-bench"];

const ALL: &[&str] = &[
    "fqdn",
    "flow",
    "policy",
    "fqdn-cache",
    "bpf-redirect-common",
    "transport",
    "bpf-redirect",
    "dnsproxy",
    "httpproxy",
    "observer",
    "namegate",
];

/// Crates without sockets, files, clock or environment, and what they may therefore not name.
const PURE: [&str; 4] = ["fqdn", "flow", "policy", "fqdn-cache"];
const IMPURE: [&str; 12] = [
    "tokio",
    "tokio-util",
    "aya",
    "libc",
    "nix",
    "rustix",
    "socket2",
    "hyper",
    "rtnetlink",
    "tracing",
    "getrandom",
    "rand",
];

/// The beginning of an outside crate's name, who may use it, and who may in tests only.
const ROOMS: [(&str, &[&str], &[&str]); 8] = [
    ("hickory", &["namegate"], &["dnsproxy", "namegate-bench"]),
    ("aya", &["bpf-redirect"], &["namegate-tests"]),
    ("libc", &["transport", "bpf-redirect"], &[]),
    ("rtnetlink", &["transport"], &[]),
    ("h2", &["httpproxy"], &[]),
    ("rustls", &["httpproxy"], &[]),
    ("prometheus", &["observer", "namegate"], &[]),
    (
        "tonic",
        &["observer", "xtask"],
        &["namegate-tests", "namegate-bench"],
    ),
];

/// One line of a manifest.
struct Use<'a> {
    by: &'a str,
    name: &'a str,
    is_local: bool,
    in_tests: bool,
}

/// Checks what `cargo metadata --no-deps` tells.
pub(super) fn check(metadata: &Value, report: &mut Report) {
    for package in list(&metadata["packages"]) {
        let by = package["name"].as_str().unwrap_or_default();
        if !WIRING.contains(&by) && !ARROWS.iter().any(|(name, ..)| *name == by) {
            report.fault(format!(
                "{by}: no arrows are written down for this crate (xtask/src/tidy/arrows.rs)"
            ));
        }
        for dependency in list(&package["dependencies"]) {
            let one = Use {
                by,
                name: dependency["name"].as_str().unwrap_or_default(),
                is_local: dependency["path"].is_string(),
                in_tests: dependency["kind"] == "dev",
            };
            check_arrow(&one, report);
            check_room(&one, report);
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn check_arrow(one: &Use<'_>, report: &mut Report) {
    let Some((_, always, tests)) = ARROWS.iter().find(|(name, ..)| *name == one.by) else {
        return;
    };
    if one.is_local {
        let itself_in_tests = one.in_tests && one.by == one.name; // with another feature
        let allowed = always.contains(&one.name) || one.in_tests && tests.contains(&one.name);
        if !allowed && !itself_in_tests {
            report.fault(format!("{} may not use {}", one.by, one.name));
        }
    } else if PURE.contains(&one.by) && !one.in_tests && IMPURE.contains(&one.name) {
        report.fault(format!("{} is pure and may not use {}", one.by, one.name));
    }
}

fn check_room(one: &Use<'_>, report: &mut Report) {
    for (prefix, always, tests) in ROOMS {
        let is_it = one.name == prefix || one.name.starts_with(&format!("{prefix}-"));
        let allowed = always.contains(&one.by) || one.in_tests && tests.contains(&one.by);
        // A benchmark has no other dependencies than a test's.
        let is_bench = one.by == "namegate-bench" && tests.contains(&one.by);
        if is_it && !one.is_local && !allowed && !is_bench {
            report.fault(format!("{} is not a room of {}", one.by, one.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(by: &str, dependency: &Value) -> usize {
        let metadata = json!({"packages": [{"name": by, "dependencies": [dependency]}]});
        let mut report = Report::default();
        check(&metadata, &mut report);
        report.faults.len()
    }

    #[test]
    fn arrows_and_rooms_hold() {
        let local = |name: &str, kind: Value| json!({"name": name, "kind": kind, "path": "/x"});
        let outside = |name: &str, kind: Value| json!({"name": name, "kind": kind});
        for (by, dependency, expected) in [
            ("policy", local("fqdn", Value::Null), 0),
            ("fqdn", local("policy", Value::Null), 1),
            ("dnsproxy", local("bpf-redirect", json!("dev")), 1),
            ("bpf-redirect", local("transport", json!("dev")), 0),
            ("bpf-redirect", local("transport", Value::Null), 1),
            ("policy", outside("tokio", Value::Null), 1),
            ("dnsproxy", outside("hickory-proto", json!("dev")), 0),
            ("dnsproxy", outside("hickory-proto", Value::Null), 1),
            ("namegate", outside("aya", Value::Null), 1),
            ("stranger", outside("anyhow", Value::Null), 1),
        ] {
            assert_eq!(faults(by, &dependency), expected, "{by} {dependency}");
        }
    }
}
