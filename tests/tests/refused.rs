//! What can't be guarded is refused by name, with the reason, and nobody else is the worse for it.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;

use namegate_tests::{Daemon, Stage, in_ns, policy};
use serde_json::Value;
use transport::NetNs;

fn path_of(ns: &NetNs) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd())
}

fn endpoint(name: &str, netns: &str) -> String {
    format!("name: {name}\nlabels: {{app: {name}}}\nnetns: {netns}\n")
}

/// The reason for which an endpoint is refused.
fn reason(daemon: &Daemon<'_>, name: &str) -> String {
    let status = daemon.status().unwrap();
    let all = status.get("endpoints").and_then(Value::as_array).unwrap();
    let named = all.iter().find(|one| one.get("name").unwrap() == name);
    let named = named.unwrap_or_else(|| panic!("{name}: {status:#}"));
    assert_eq!(named.get("state").unwrap(), "refused", "{named}");
    named.get("reason").unwrap().as_str().unwrap().to_owned()
}

/// Gives a namespace a link `mac0` of its own on the node's uplink.
fn macvlan(stage: &Stage, ns: &NetNs) {
    let made = stage
        .node
        .command("sh")
        .arg("-c")
        .arg(format!(
            "exec 3<{} && ip link add link uplink name mac0 type macvlan && \
             ip link set mac0 netns /proc/self/fd/3",
            path_of(ns)
        ))
        .status();
    assert!(made.unwrap().success());
    let output = in_ns(ns, Command::new("ip").args(["link", "set", "mac0", "up"])).unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn each_endpoint_that_cannot_be_guarded_is_named_with_its_reason() {
    let stage = Stage::new().unwrap();
    let node = &stage.node;
    let [bob, carol] = [("bob", 3), ("carol", 4)].map(|(name, n)| node.workload(name, n).unwrap());
    // A second way out, past the gate, and a link of a kind that has no host side.
    let mac = NetNs::create().unwrap();
    macvlan(&stage, &carol.ns);
    macvlan(&stage, &mac);
    let address = ["addr", "add", "203.0.113.77/24", "dev", "mac0"];
    let output = in_ns(&mac, Command::new("ip").args(address)).unwrap();
    assert!(output.status.success(), "{output:?}");
    // The same address twice.
    bob.check("ip", &["addr", "add", "10.0.0.2/32", "dev", "eth0"])
        .unwrap();

    let mut daemon = stage
        .daemon(&policy("alice", "[{matchName: web.example.com}]"))
        .unwrap();
    daemon.endpoint(&bob).unwrap();
    daemon.endpoint(&carol).unwrap();
    for (name, netns) in [("mac", path_of(&mac)), ("host", path_of(&node.ns))] {
        daemon
            .endpoint_file(&format!("{name}.yaml"), &endpoint(name, &netns))
            .unwrap();
    }
    let by_host_side =
        "name: bridge\ninterface: uplink\nmac: 02:00:00:00:00:01\naddresses: [10.9.9.9]\n";
    let by_host_side = by_host_side.replace("uplink", &bridge(&stage));
    daemon.endpoint_file("other.yaml", &by_host_side).unwrap();
    daemon.start(&[]).unwrap();
    for (name, words) in [
        ("default/mac", &["mac0", "\"macvlan\"", "can not guard"][..]),
        ("default/carol", &["eth0", "mac0", "isn't guarded"]),
        ("default/host", &["the node's own network namespace"]),
        ("default/bob", &["default/alice has the same address"]),
        ("default/bridge", &["\"bridge\"", "can not guard"]),
    ] {
        let reason = reason(&daemon, name);
        assert!(
            words.iter().all(|word| reason.contains(word)),
            "{name}: {reason}"
        );
    }
    let said = daemon.said();
    assert!(
        said.contains("default/mac") && said.contains("default/host"),
        "{said}"
    );
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    assert!(!stage.reaches("198.18.0.9:80").unwrap());
    let socket = daemon.path("namegate.sock").display().to_string();
    let text = daemon.namegate(&["status", "--socket", &socket]).unwrap();
    assert_eq!(text.status.code(), Some(1), "not well");
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("1 of 6 ready") && text.contains("default/mac refused"),
        "{text}"
    );
}

fn bridge(stage: &Stage) -> String {
    let links = stage
        .node
        .check("ip", &["-o", "link", "show", "type", "bridge"])
        .unwrap();
    links.split([' ', ':']).nth(2).unwrap().to_owned()
}
