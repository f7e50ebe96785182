//! Whose address the servers see: the workload's, or the node's where that is said or where a network would take
//! what belongs to the proxy.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use namegate_tests::{
    Answers, Daemon, Node, Running, Web, Workload, about, about_alice, asked, exchange, policy,
};

const NAMES: &str = "[{matchPattern: '*.example.com'}]";

/// What alice is told by a server elsewhere, without anybody who hides the workloads' addresses.
fn asks(node: &Node, alice: &Workload, server: IpAddr, way: &str) -> String {
    let _ = node.check("nft", &["delete", "table", "inet", "nat"]);
    let args = [way, "+short", "+tries=1", "+timeout=2", "www.example.com"];
    let output = alice.dig(server, &args);
    output.unwrap_or_default()
}

#[test]
fn names_are_asked_from_the_nodes_address_where_that_is_said() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(
        &world.ns,
        "www 60 IN A 198.18.0.1\nwww 60 IN AAAA 2001:db8:1::1\n",
    );
    for (source, answer) in [("endpoint", ""), ("node", "198.18.0.1\n")] {
        let mut daemon = Daemon::guarding(&node, &alice, &policy("alice", NAMES)).unwrap();
        daemon.start(&["--dns-upstream-source", source]).unwrap();
        for way in ["+notcp", "+tcp"] {
            for server in [IpAddr::from(world.v4), world.v6.into()] {
                let told = asks(&node, &alice, server, way);
                assert_eq!(
                    told.contains("198.18.0.1\n"),
                    !answer.is_empty(),
                    "{source} {way} {server}: {told}"
                );
            }
        }
        assert_eq!(daemon.status().unwrap()["upstream_source"]["dns"], source);
        if source == "node" {
            exchange(&daemon, &alice, world.v4.into()).unwrap();
            exchange(&daemon, &alice, world.v6.into()).unwrap();
        }
        daemon.end_with("TERM").unwrap();
        daemon.namegate(&["detach"]).unwrap();
    }
}

/// A loopback address means the workload to a workload, and the node to the node. The kernel takes no packet to
/// one that comes over a link (`ip_route_input_slow`: a martian destination), so it never gets through the gate.
#[test]
fn no_workload_asks_what_listens_on_the_nodes_loopback() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let asked = Arc::new(AtomicU64::new(0));
    let _names = Answers::names_but(&node.ns, b"www", Arc::clone(&asked)).unwrap();
    let any = "egress: [{toPorts: [{ports: [{port: '53', protocol: ANY}], rules: {dns: [{matchPattern: '*'}]}}]}]";
    let mut daemon = Daemon::guarding(&node, &alice, &about("alice", any)).unwrap();
    daemon.start(&["--dns-upstream-source", "node"]).unwrap();
    // She makes of it an address like any other.
    for line in [
        "addr del 127.0.0.1/8 dev lo",
        "route add 127.0.0.53/32 via 10.0.0.1",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        alice.check("ip", &words).unwrap();
    }
    for way in ["+notcp", "+tcp"] {
        let args = [way, "+tries=1", "+timeout=1", "www.example.com"];
        let _ = alice.output("dig", &[&["@127.0.0.53"], &args[..]].concat());
    }
    assert!(daemon.counter("redirected").unwrap() > 1);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    // By its other addresses it is a server like any other.
    let told = alice.dig("10.0.0.1".parse().unwrap(), &["+short", "n1.example.com"]);
    assert_eq!(told.unwrap(), "198.18.0.1\n");
}

/// What calls servers from the node does so in nobody's name, and so not to those whose own policy asks who it is.
#[test]
fn http_servers_see_the_node_where_that_is_said_but_for_endpoints() {
    let web = Web::new().unwrap();
    let mut daemon = Daemon::prepare(&web.node).unwrap();
    daemon.endpoint(&web.alice).unwrap();
    daemon.endpoint(&web.bob).unwrap();
    let rule = asked(80, "{path: /public}, {path: /half}");
    daemon.policy("alice.yaml", &about_alice(&rule)).unwrap();
    // Of alice, not of the host, which may always.
    let ingress = format!("ingress: [{}]", asked(80, "{path: /public}"));
    daemon.policy("bob.yaml", &about("bob", &ingress)).unwrap();
    daemon.start(&["--http-upstream-source", "node"]).unwrap();
    web.node
        .check("nft", &["delete", "table", "inet", "nat"])
        .unwrap();
    for (server, seen) in [
        (IpAddr::from(web.world.v4), "203.0.113.1 "),
        (web.world.v6.into(), "2001:db8::1 "),
        (web.bob.v4.into(), "10.0.0.2 "),
        (web.bob.v6.into(), "fd00::2 "),
    ] {
        let host = match server {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        let told = |path: &str| {
            let url = format!("http://{host}/{path}");
            let args = ["-sS", "-m", "5", "-w", "%{http_code}", &url];
            web.alice.check("curl", &args).unwrap()
        };
        let allowed = told("public");
        assert!(
            allowed.starts_with(seen) && allowed.ends_with("200"),
            "{server}: {allowed}"
        );
        assert!(told("secret").ends_with("403"), "{server}");
        let is_bob = seen.starts_with("10.0.0.") || seen.starts_with("fd00");
        let half = told("half");
        assert_eq!(half.ends_with("403"), is_bob, "{server}: {half}");
    }
    assert_eq!(daemon.status().unwrap()["upstream_source"]["http"], "node");
}
