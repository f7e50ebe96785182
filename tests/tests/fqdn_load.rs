//! Names that somebody makes known before anybody asks for them (`fqdn cache load`).

#![expect(clippy::unwrap_used, reason = "a test may die")]
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use namegate_tests::{Daemon, Node, TcpEcho, Workload, patience, policy};

/// Of the four names `web` alone may be opened, and by one of its addresses: `198.18.9.1` is the cluster's.
const NAMES: &str = r#"[
  {"fqdn": "web.example.com.", "ips": ["198.18.0.1", "198.18.9.1", "127.0.0.9", "169.254.169.254"],
   "ttl": 600, "lookup-time": "2026-01-01T00:00:00Z", "endpoint-id": 1, "source": "lookup"},
  {"fqdn": "other.example.com.", "ips": ["198.18.0.2"], "ttl": 600},
  {"fqdn": "old.example.com.", "ips": ["198.18.0.3"], "ttl": 600,
   "expiration-time": "2020-01-01T00:00:00Z"}
]"#;

fn is_open(from: &Workload, to: &str) -> bool {
    let to = SocketAddr::new(to.parse().unwrap(), 80);
    let wait = Duration::from_millis(700) * patience();
    let connect = || TcpStream::connect_timeout(&to, wait).is_ok();
    from.ns.run(connect).unwrap()
}

/// A command about what was learned: its code, and what it said on both ways.
fn said(daemon: &Daemon<'_>, words: &[&str]) -> (Option<i32>, String, String) {
    let socket = daemon.path("namegate.sock").display().to_string();
    let words = [&["fqdn", "cache"], words, &["--socket", &socket]].concat();
    let output = daemon.namegate(&words).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn a_loaded_name_is_open_before_anybody_asks_and_nothing_else_is() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let bob = node.workload("bob", 3).unwrap();
    let world = node.elsewhere().unwrap();
    let _echo = TcpEcho::serve(&world.ns, 80).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    for workload in [&alice, &bob] {
        daemon.endpoint(workload).unwrap();
    }
    let names = "[{matchName: web.example.com}, {matchName: old.example.com}]";
    daemon
        .policy("alice.yaml", &policy("alice", names))
        .unwrap();
    let names = "[{matchName: other.example.net}]";
    daemon.policy("bob.yaml", &policy("bob", names)).unwrap();
    daemon.start(&["--cluster-cidr", "198.18.9.0/24"]).unwrap();
    let file = daemon.path("names.json");
    let path = file.display().to_string();
    fs::write(&file, NAMES).unwrap();
    assert!(!is_open(&alice, "198.18.0.1"), "before");

    let (code, out, _) = said(&daemon, &["load", &path]);
    assert_eq!(
        out,
        "refused: default/alice: web.example.com. 198.18.9.1: in-cluster\n\
         refused: default/alice: web.example.com. 127.0.0.9: loopback\n\
         refused: default/alice: web.example.com. 169.254.169.254: metadata\n\
         refused: other.example.com.: no toFQDNs rule names it\n\
         left out: old.example.com.: its time is past\n\
         1 addresses opened, 4 refused, 1 left out\n"
    );
    assert_eq!(code, Some(1));
    assert!(is_open(&alice, "198.18.0.1"));
    for closed in ["198.18.9.1", "198.18.0.2", "198.18.0.3"] {
        assert!(!is_open(&alice, closed), "{closed}");
    }
    assert!(!is_open(&bob, "198.18.0.1"), "no rule of bob's names it");

    // What is listed can be loaded, and is again as it was.
    let (_, listed, _) = said(&daemon, &["list", "-o", "json"]);
    fs::write(&file, &listed).unwrap();
    said(&daemon, &["clean", "--all"]);
    assert!(!is_open(&alice, "198.18.0.1"), "cleaned");
    let bobs = ["load", &path, "--endpoint", "default/bob"];
    let (code, out, _) = said(&daemon, &bobs);
    let refused = "refused: default/bob: web.example.com.: no toFQDNs rule names it\n\
                   0 addresses opened, 1 refused\n";
    assert_eq!((code, out.as_str()), (Some(1), refused));
    let (code, out, _) = said(&daemon, &["load", &path]);
    assert_eq!((code, out.as_str()), (Some(0), "1 addresses opened\n"));
    assert!(is_open(&alice, "198.18.0.1"));

    let (code, _, error) = said(&daemon, &["load", &path, "--endpoint", "default/carol"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("no endpoint default/carol"), "{error}");
    fs::write(
        &file,
        "[\n{\"fqdn\": \"web.example.com\", \"ips\": [\"x\"]}]",
    )
    .unwrap();
    let (code, _, error) = said(&daemon, &["load", &path]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains(&format!("{path}: ")) && error.contains("at line 2"),
        "{error}"
    );
}
