//! A query goes through the gate and comes back, on every kind of network.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::net::IpAddr;

use namegate_tests::{Daemon, Node, Running};

const ZONE: &str = "www 60 IN A 198.18.0.1\nwww 60 IN AAAA 2001:db8:1::1\n";

/// Workload `client` may ask workload `dns` and everybody elsewhere for names below example.com.
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
fn dig_gets_its_answer_through_the_gate() {
    let node = Node::new().unwrap();
    let client = node.workload("client", 2).unwrap();
    let dns = node.workload("dns", 3).unwrap();
    let _knot = Running::knot(&dns.ns, ZONE).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&client).unwrap();
    daemon.endpoint(&dns).unwrap();
    daemon.policy("names.yaml", POLICY).unwrap();
    daemon.start(&[]).unwrap();
    let answer = client
        .dig(IpAddr::V4(dns.v4), &["+short", "www.example.com"])
        .unwrap();
    assert_eq!(
        answer,
        "198.18.0.1\n",
        "{}\n{:#}",
        daemon.said(),
        daemon.status().unwrap()
    );
}
