//! A query goes through the gate and comes back, on every kind of network: UDP and TCP, IPv4 and IPv6,
//! from the address that was asked, while the server sees the workload (or the node that hides it).

use std::net::IpAddr;

use namegate_tests::{Daemon, Node, Running, WWW, exchange, seen_by};

/// What a server's namespace sees of queries that came from outside.
const QUERIES: &str = "dst port 53 and not src host 127.0.0.1";

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

#[test]
fn client_and_server_on_one_bridge_with_and_without_br_netfilter() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let dns = node.workload("dns", 3).unwrap();
    let _knot = Running::knot(&dns.ns, WWW).unwrap();
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
        let seen = seen_by(&dns, QUERIES, || {
            exchange(&daemon, &client, IpAddr::V4(dns.v4))?;
            exchange(&daemon, &client, IpAddr::V6(dns.v6))
        })
        .unwrap();
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
    let _knot = Running::knot(&world.ns, WWW).unwrap();
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
        let seen = seen_by(&world, QUERIES, || {
            exchange(&daemon, &client, IpAddr::V4(world.v4))?;
            exchange(&daemon, &client, IpAddr::V6(world.v6))
        })
        .unwrap();
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
    let _knots = [&dns, &on_bridge, &world].map(|server| Running::knot(&server.ns, WWW).unwrap());
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
        exchange(&daemon, &client, IpAddr::V4(server.v4)).unwrap();
        exchange(&daemon, &client, IpAddr::V6(server.v6)).unwrap();
    }
}

#[test]
fn by_clsact_where_there_is_no_tcx() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let dns = node.workload("dns", 3).unwrap();
    let _knot = Running::knot(&dns.ns, WWW).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&client).unwrap();
    daemon.endpoint(&dns).unwrap();
    daemon.policy("names.yaml", POLICY).unwrap();
    daemon.start(&["--hooks", "clsact"]).unwrap();
    assert_eq!(daemon.status().unwrap()["datapath"]["hooks"], "clsact");
    exchange(&daemon, &client, IpAddr::V4(dns.v4)).unwrap();
    exchange(&daemon, &client, IpAddr::V6(dns.v6)).unwrap();
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
