//! A query goes through the gate and comes back, on every kind of network: UDP and TCP, IPv4 and IPv6,
//! from the address that was asked, while the server sees the workload (or the node that hides it).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::net::IpAddr;

use namegate_tests::{Daemon, Node, Running, Workload};

const ZONE: &str = "www 60 IN A 198.18.0.1\nwww 60 IN AAAA 2001:db8:1::1\n";

/// `client` may ask `dns`, and the server elsewhere, for names below example.com.
const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toEndpoints:
    - matchLabels: {app: dns}
    toPorts:
    - ports: [{port: '53', protocol: ANY}]
      rules: {dns: [{matchPattern: '*.example.com'}]}
  - toCIDR: [203.0.113.2/32, '2001:db8::2/128']
    toPorts:
    - ports: [{port: '53', protocol: ANY}]
      rules: {dns: [{matchPattern: '*.example.com'}]}
";

/// Asks over UDP and TCP, for an allowed name and a denied one, and checks that each went by the gate.
fn check(daemon: &Daemon<'_>, client: &Workload, server: IpAddr) {
    for tcp in ["+notcp", "+tcp"] {
        let before = daemon.status().unwrap();
        let exchanges = |name: &str, status: &serde_json::Value| {
            status["dns"]["dns_exchanges_total"][name]
                .as_u64()
                .unwrap_or(0)
        };
        let answer = client
            .dig(server, &[tcp, "+short", "www.example.com", "A"])
            .unwrap();
        let told = || daemon.status().unwrap()["datapath"].to_string();
        assert_eq!(answer, "198.18.0.1\n", "{server} {tcp}: {}", told());
        let answer = client
            .dig(server, &[tcp, "+short", "www.example.com", "AAAA"])
            .unwrap();
        assert_eq!(answer, "2001:db8:1::1\n", "{server} {tcp}");
        let denied = client.dig(server, &[tcp, "a.evil.test", "A"]).unwrap();
        assert!(
            denied.contains("status: NXDOMAIN"),
            "{server} {tcp}: {denied}"
        );
        assert!(
            denied.contains("EDE: 17 (Filtered)"),
            "{server} {tcp}: {denied}"
        );
        let after = daemon.status().unwrap();
        let more = |name: &str| exchanges(name, &after) - exchanges(name, &before);
        assert_eq!((more("answered"), more("denied")), (2, 1), "{server} {tcp}");
    }
}

/// Whom the server saw: the source addresses of queries in its namespace.
fn seen_by(server: &Workload, run: impl FnOnce()) -> String {
    let (capture, file) =
        Running::capture(&server.ns, "dst port 53 and not src host 127.0.0.1").unwrap();
    run();
    std::thread::sleep(std::time::Duration::from_millis(200));
    let text = server
        .check("tcpdump", &["-n", "-r", &file.display().to_string()])
        .unwrap();
    drop(capture);
    text
}

#[test]
fn client_and_server_on_one_bridge_with_and_without_br_netfilter() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let dns = node.workload("dns", 3).unwrap();
    let _knot = Running::knot(&dns.ns, ZONE).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&client).unwrap();
    daemon.endpoint(&dns).unwrap();
    daemon.policy("names.yaml", POLICY).unwrap();
    daemon.start(&[]).unwrap();
    for br_netfilter in ["0", "1"] {
        for table in ["iptables", "ip6tables"] {
            node.check(
                "sysctl",
                &[
                    "-qw",
                    &format!("net.bridge.bridge-nf-call-{table}={br_netfilter}"),
                ],
            )
            .unwrap();
        }
        let seen = seen_by(&dns, || {
            check(&daemon, &client, IpAddr::V4(dns.v4));
            check(&daemon, &client, IpAddr::V6(dns.v6));
        });
        assert!(
            seen.contains("IP 10.0.0.2.") && seen.contains("IP6 fd00::2."),
            "{seen}"
        );
        assert!(!seen.contains("evil"), "{seen}");
    }
}

#[test]
fn a_server_elsewhere_behind_masquerade() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, ZONE).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&client).unwrap();
    daemon.policy("names.yaml", POLICY).unwrap();
    daemon.start(&[]).unwrap();
    for br_netfilter in ["0", "1"] {
        node.check(
            "sysctl",
            &[
                "-qw",
                &format!("net.bridge.bridge-nf-call-iptables={br_netfilter}"),
            ],
        )
        .unwrap();
        let seen = seen_by(&world, || {
            check(&daemon, &client, IpAddr::V4(world.v4));
            check(&daemon, &client, IpAddr::V6(world.v6));
        });
        assert!(
            seen.contains("IP 203.0.113.1.") && !seen.contains("10.0.0.2"),
            "{seen}"
        );
    }
}

#[test]
fn routed_workloads_with_proxy_arp() {
    let node = Node::new().unwrap();
    let client = node.routed("client", 2).unwrap();
    let dns = node.routed("dns", 3).unwrap();
    let on_bridge = node.workload("other", 9).unwrap();
    let world = node.elsewhere().unwrap();
    let _knots = [&dns, &on_bridge, &world].map(|server| Running::knot(&server.ns, ZONE).unwrap());
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&client).unwrap();
    daemon.endpoint(&dns).unwrap();
    let other = format!(
        "name: other\nlabels: {{app: dns}}\nnetns: {}\n",
        on_bridge.ns_path().display()
    );
    daemon.endpoint_file("other.yaml", &other).unwrap();
    daemon.policy("names.yaml", POLICY).unwrap();
    daemon.start(&[]).unwrap();
    for server in [&dns, &on_bridge, &world] {
        check(&daemon, &client, IpAddr::V4(server.v4));
        check(&daemon, &client, IpAddr::V6(server.v6));
    }
}

#[test]
fn by_clsact_where_there_is_no_tcx() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let dns = node.workload("dns", 3).unwrap();
    let _knot = Running::knot(&dns.ns, ZONE).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&client).unwrap();
    daemon.endpoint(&dns).unwrap();
    daemon.policy("names.yaml", POLICY).unwrap();
    daemon.start(&["--hooks", "clsact"]).unwrap();
    assert_eq!(daemon.status().unwrap()["datapath"]["hooks"], "clsact");
    check(&daemon, &client, IpAddr::V4(dns.v4));
    check(&daemon, &client, IpAddr::V6(dns.v6));
    let filters = node
        .check("tc", &["filter", "show", "dev", "vclient", "ingress"])
        .unwrap();
    assert!(filters.contains("ng_from_ep"), "{filters}");
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
    let detached = daemon.namegate(&["detach"]).unwrap();
    assert!(detached.status.success(), "{detached:?}");

    let filters = node
        .check("tc", &["filter", "show", "dev", "vclient", "ingress"])
        .unwrap();
    assert!(!filters.contains("ng_from_ep"), "{filters}");
}
