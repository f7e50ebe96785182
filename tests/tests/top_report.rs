//! `namegate top` and `namegate report` of a real daemon's flows.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::process::Command;

use namegate_tests::{Daemon, Running, Web};
use serde_json::Value;

const ZONE: &str = "web 30 IN A 198.18.0.1\n";

/// `alice` may ask for names below example.com, and connect to one of them.
const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: internet}
spec:
  endpointSelector: {matchLabels: {app: alice}}
  egress:
  - toCIDR: [10.0.0.3/32]
    toPorts:
    - ports: [{port: '53', protocol: ANY}]
      rules: {dns: [{matchPattern: '*.example.com'}]}
  - toFQDNs: [{matchName: web.example.com}]
    toPorts: [{ports: [{port: '80', protocol: TCP}]}]
";

#[test]
fn top_and_report_show_who_talked_to_which_names() {
    let web = Web::new().unwrap();
    let _knot = Running::knot(&web.bob.ns, ZONE).unwrap();
    let mut daemon = Daemon::prepare(&web.node).unwrap();
    daemon.endpoint(&web.alice).unwrap();
    daemon.policy("internet.yaml", POLICY).unwrap();
    let file = daemon.path("flows.jsonl").display().to_string();
    daemon.start(&["--flow-log", &file]).unwrap();
    let dig = |name| web.alice.dig(web.bob.v4.into(), &["+short", name]).unwrap();
    assert_eq!(dig("web.example.com"), "198.18.0.1\n");
    assert_eq!(dig("x.evil.test"), "");
    let curl = ["-sS", "-m", "10", "-o", "/dev/null", "http://198.18.0.1/"];
    web.alice.check("curl", &curl).unwrap();
    let denied = ["-sS", "-m", "1", "http://198.18.0.1:443/"];
    assert!(!web.alice.output("curl", &denied).unwrap().status.success());
    std::thread::sleep(std::time::Duration::from_millis(500));

    let socket = daemon.path("namegate.sock").display().to_string();
    let top = |more: &[&str]| {
        let args = [&["top", "--socket", &socket], more].concat();
        let output = daemon.namegate(&args).unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    check_json(&serde_json::from_str(&top(&["-o", "json"])).unwrap());
    // No terminal: a table, once.
    let text = top(&[]);
    assert!(
        text.contains("web.example.com") && !text.contains('\u{1b}'),
        "{text}"
    );
    let refused = daemon.namegate(&["top", "--interval", "0"]).unwrap();
    assert_eq!(refused.status.code(), Some(2));

    check_live(&web, &socket);
    check_report(&daemon, (&file, &socket));
}

fn check_json(value: &Value) {
    let pair = |how: &str| {
        let pairs = value["pairs"].as_array().unwrap().iter();
        let mut found = pairs.filter(|pair| pair["how"] == how);
        found.next().cloned().unwrap_or_default()
    };
    let web_pair = pair("80/TCP");
    assert_eq!(web_pair["from"], "default/alice", "{value:#}");
    assert_eq!(web_pair["to"], "web.example.com", "{value:#}");
    assert_eq!(
        (&web_pair["allowed"], &web_pair["denied"]),
        (&1.into(), &0.into())
    );
    assert!(pair("443/TCP")["denied"].as_u64() > Some(0), "{value:#}");
    let names = value["names"].as_array().unwrap();
    let evil = names
        .iter()
        .find(|name| name["name"] == "x.evil.test")
        .unwrap();
    assert_eq!((&evil["asked"], &evil["denied"]), (&1.into(), &1.into()));
}

fn check_live(web: &Web, socket: &str) {
    // A terminal: drawn anew until it is interrupted, then as it was.
    let binary = Daemon::binary().unwrap().display().to_string();
    let live = format!(
        "stty cols 100 rows 30; timeout --foreground -s INT 4 {binary} top --socket {socket}"
    );
    let output = web
        .node
        .command("script")
        .args(["-qfc", &live, "/dev/null"])
        .output()
        .unwrap();
    let screen = String::from_utf8_lossy(&output.stdout);
    assert!(
        screen.contains("\u{1b}[?1049h") && screen.contains("\u{1b}[?1049l"),
        "{screen}"
    );
    assert!(screen.matches("namegate top ").count() >= 3, "{screen}");
    assert!(screen.contains("web.example.com"), "{screen}");
}

fn check_report(daemon: &Daemon<'_>, (file, socket): (&str, &str)) {
    let page = daemon.path("report.html").display().to_string();
    let args = ["report", "--from", file, "--output", &page];
    let output = daemon.namegate(&args).unwrap();
    assert!(output.status.success(), "{output:?}");
    let page = std::fs::read_to_string(page).unwrap();
    for part in [
        "<title>default/alice → web.example.com: ",
        "→ web.example.com (443/TCP)</summary>",
        "This policy would allow",
        "x.evil.test",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    let output = daemon
        .namegate(&["report", "--live", "--socket", socket])
        .unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout).starts_with("<!DOCTYPE html>"),
        "{output:?}"
    );
}

#[test]
fn a_report_of_nothing_fails_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(Daemon::binary().unwrap());
        command.arg("report").args(args).output().unwrap()
    };
    let empty = folder.path().join("empty.jsonl");
    std::fs::write(&empty, "no flow\n").unwrap();
    let output = run(&["--from", &empty.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 lines that can't be read"));
    assert!(output.stdout.is_empty());
    assert_eq!(run(&["--from", "/nowhere/x"]).status.code(), Some(2));
    assert_eq!(run(&[]).status.code(), Some(2));
}
