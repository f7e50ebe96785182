//! `namegate policy validate --resolve`: the names of policies, asked of a real server.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::fs;
use std::path::Path;
use std::process::Command;

use namegate_tests::{Answers, Daemon, Node, Running, Workload, in_ns};
use serde_json::Value;

/// What knot knows beside `evil.test` and `ns.example.com`.
const ZONE: &str = "www 300 IN A 198.18.0.1
www 300 IN AAAA 2001:db8:1::1
near 300 IN CNAME www
far 300 IN CNAME edge.evil.test.
short 5 IN A 198.18.0.2
text 300 IN TXT words
";

const POLICY: &str = r#"apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: default}
spec:
  endpointSelector: {}
  egress:
  - toCIDR: [203.0.113.2/32]
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules: {dns: [{matchPattern: "*.example.com"}, {matchName: gone.evil.example}, {matchName: example.com}]}
  - toFQDNs:
    - {matchName: www.example.com}
    - {matchName: near.example.com}
    - {matchName: far.example.com}
    - {matchName: short.example.com}
    - {matchName: text.example.com}
    - {matchName: none.example.com}
"#;

/// Runs `policy` in a namespace; the exit code and the problems of its JSON, as `code field`.
fn validate(at: &Workload, dir: &Path, words: &[&str]) -> (i32, Vec<String>, Vec<Value>) {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg("mount --bind resolv.conf /etc/resolv.conf && exec \"$@\"");
    command.arg("sh").arg(Daemon::binary().unwrap());
    command
        .arg("policy")
        .args(words)
        .args(["-o", "json", "p.yaml"]);
    let output = in_ns(&at.ns, command.current_dir(dir)).unwrap();
    let told = || String::from_utf8_lossy(&output.stderr).into_owned();
    let problems: Vec<Value> = match output.stdout.is_empty() {
        true => Vec::new(),
        false => serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", told())),
    };
    let word = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    let short = problems
        .iter()
        .map(|one| format!("{} {}", word(one, "code"), word(one, "field")));
    (output.status.code().unwrap(), short.collect(), problems)
}

#[test]
fn what_dns_says_of_the_names_of_a_policy_is_told() {
    let node = Node::new().unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, ZONE).unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.yaml"), POLICY).unwrap();
    fs::write(
        dir.path().join("resolv.conf"),
        "search evil.test\nnameserver ::1\noptions ndots:5\n",
    )
    .unwrap();
    let run = |words: &[&str]| validate(&world, dir.path(), words);
    let (code, problems, _) = run(&["validate"]);
    assert_eq!(
        (code, problems),
        (0, vec![]),
        "nobody is asked unless it is wanted"
    );
    // The machine's own servers, and those of the flag, by their ports.
    for (words, server) in [
        (["lint", "--resolve"], "(::1)"),
        (["validate", "--resolve=203.0.113.2"], "(203.0.113.2)"),
        (
            ["validate", "--resolve=[::1]:5353,127.0.0.1"],
            "([::1]:5353, 127.0.0.1)",
        ),
    ] {
        let (code, mut problems, all) = run(&words);
        problems.sort();
        let expected = [
            // Knot knows nothing of that domain, and says so.
            "name-unanswered spec.egress[0].toPorts",
            "alias-not-askable spec.egress[1].toFQDNs[2].matchName",
            "name-not-found spec.egress[1].toFQDNs[5].matchName",
            "name-without-address spec.egress[1].toFQDNs[4].matchName",
            "ttl-below-floor spec.egress[1].toFQDNs[3].matchName",
        ];
        let mut expected = expected.map(str::to_owned);
        expected.sort();
        assert_eq!(
            (code, problems),
            (0, expected.to_vec()),
            "{words:?} {all:#?}"
        );
        let message = |code: &str| {
            let one = all.iter().find(|one| one["code"] == code).unwrap();
            one["message"].as_str().unwrap().to_owned()
        };
        assert!(
            message("alias-not-askable").contains("far.example.com is an alias of edge.evil.test")
        );
        assert!(message("ttl-below-floor").contains("short.example.com is promised for 5 s"));
        assert!(
            message("name-not-found").contains(server),
            "{}",
            message("name-not-found")
        );
        let unanswered = message("name-unanswered");
        assert!(
            unanswered.contains("gone.evil.example") && unanswered.contains("Refused"),
            "{unanswered}"
        );
    }
    let (code, _, _) = run(&["lint", "--resolve", "--deny-warnings"]);
    assert_eq!(code, 1);
    // No server at all is no answer of a file.
    fs::write(dir.path().join("resolv.conf"), "").unwrap();
    assert_eq!(run(&["lint", "--resolve"]).0, 2);
    assert_eq!(run(&["lint", "--resolve=dns.example"]).0, 2);
}

/// A server that says nothing costs its wait a few times, not once for each name.
#[test]
fn a_server_that_says_nothing_is_given_up() {
    let node = Node::new().unwrap();
    let world = node.elsewhere().unwrap();
    let silent = Answers::serve(&world.ns, 53, |_| Vec::new()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let names: String = (0..500)
        .map(|at| format!("    - {{matchName: n{at}.example.com}}\n"))
        .collect();
    let (before, _) = POLICY.split_once("    - {matchName: www").unwrap();
    fs::write(dir.path().join("p.yaml"), format!("{before}{names}")).unwrap();
    fs::write(dir.path().join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    let (code, _, all) = validate(&world, dir.path(), &["lint", "--resolve"]);
    assert_eq!(code, 0);
    let message = |one: &Value| one["message"].as_str().unwrap().to_owned();
    let left = all
        .iter()
        .map(message)
        .find(|one| one.contains("were not asked for"));
    let left = left.unwrap();
    assert!(left.contains("64 in a row were not answered"), "{left}");
    let asked = silent.asked.load(std::sync::atomic::Ordering::Relaxed);
    assert!((64..1_000).contains(&asked), "{asked}");
}
