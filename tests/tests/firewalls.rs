//! A node with a firewall of each kind that there is: what the proxy sends in a workload's name passes it
//! as the workload's own, and no rule of it is touched.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use namegate_tests::{
    Daemon, Node, Running, TcpSink, WWW, Workload, exchange, must_be_equal, patience, policy,
};

/// The bridge's packets are forwarded as far as the firewall lets the workload itself: 10.0.0.2 may ask
/// and reach ports 53 and 80, and nothing else; nobody may reach the node.
const BY_IPTABLES: &[&str] = &[
    "CMD -P INPUT DROP",
    "CMD -P FORWARD DROP",
    "CMD -A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT",
    "CMD -A FORWARD -s 10.0.0.2 -p udp --dport 53 -j ACCEPT",
    "CMD -A FORWARD -s 10.0.0.2 -p tcp -m multiport --dports 53,80 -j ACCEPT",
    "CMD6 -P INPUT DROP",
    "CMD6 -P FORWARD DROP",
    "CMD6 -A INPUT -p ipv6-icmp -j ACCEPT",
    "CMD6 -A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT",
    "CMD6 -A FORWARD -s fd00::2 -p udp --dport 53 -j ACCEPT",
    "CMD6 -A FORWARD -s fd00::2 -p tcp -m multiport --dports 53,80 -j ACCEPT",
];

const REJECTING: &str = "table inet rejecting {
  chain input { type filter hook input priority 0; policy accept;
    icmpv6 type { 133-136 } accept; reject; }
  chain forward { type filter hook forward priority 0; policy accept;
    ct state established,related accept;
    ip saddr 10.0.0.2 meta l4proto { tcp, udp } th dport { 53, 80 } accept;
    ip6 saddr fd00::2 meta l4proto { tcp, udp } th dport { 53, 80 } accept;
    reject; }
}";

fn iptables(node: &Node, by: &str) {
    for command in BY_IPTABLES {
        let words: Vec<&str> = command.split(' ').collect();
        let (family, rest) = words.split_first().unwrap();
        let program = match *family {
            "CMD" => format!("iptables-{by}"),
            _ => format!("ip6tables-{by}"),
        };
        node.check(&program, rest).unwrap();
    }
}

/// All rules, without what they counted.
fn rules(node: &Node) -> String {
    let mut all = String::new();
    for program in [
        "iptables-nft-save",
        "ip6tables-nft-save",
        "iptables-legacy-save",
        "ip6tables-legacy-save",
    ] {
        let text = node.check(program, &[]).unwrap();
        let rules = text.lines().filter(|line| !line.starts_with('#'));
        for rule in rules {
            // A chain's line ends with its counters.
            all.push_str(rule.split(" [").next().unwrap_or_default());
            all.push('\n');
        }
    }
    all + &node.check("nft", &["-s", "list", "ruleset"]).unwrap()
}

fn reaches(from: &Workload, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    let connect =
        || TcpStream::connect_timeout(&to, Duration::from_millis(700) * patience()).is_ok();
    from.ns.run(connect).unwrap()
}

#[test]
fn a_firewall_is_passed_as_the_workload_passes_it_and_stays_as_it_is() {
    for firewall in ["nft", "legacy", "rejecting"] {
        let node = Node::new().unwrap();
        let client = node.workload("client", 2).unwrap();
        let world = node.elsewhere().unwrap();
        let _knot = Running::knot(&world.ns, WWW).unwrap();
        let _sinks = [80, 81].map(|port| TcpSink::serve(&world.ns, port).unwrap());
        node.check("nft", &["delete", "table", "inet", "hostile"])
            .unwrap();
        match firewall {
            "rejecting" => node.nft(REJECTING).unwrap(),
            by => iptables(&node, by),
        }
        // Without the gate.
        assert!(reaches(&client, "198.18.0.1:80"), "{firewall}");
        assert!(!reaches(&client, "198.18.0.1:81"), "{firewall}");
        assert!(!reaches(&client, "10.0.0.1:80"), "{firewall}");
        let before = (rules(&node), node.fingerprint().unwrap());
        assert!(before.0.contains("10.0.0.2"), "{}", before.0);

        let mut daemon = Daemon::prepare(&node).unwrap();
        daemon.endpoint(&client).unwrap();
        let names = policy("client", "[{matchName: www.example.com}]");
        daemon.policy("names.yaml", &names).unwrap();
        daemon.start(&[]).unwrap();
        for br_netfilter in ["0", "1"] {
            node.set_br_netfilter(br_netfilter).unwrap();
            for server in [world.v4.into(), world.v6.into()] {
                exchange(&daemon, &client, server)
                    .unwrap_or_else(|error| panic!("{firewall}: {error:#}"));
            }
            for (to, reached) in [
                ("198.18.0.1:80", true),
                ("[2001:db8:1::1]:80", true),
                ("198.18.0.1:81", false), // by the firewall
                ("198.18.0.2:80", false), // by the gate
            ] {
                assert_eq!(reaches(&client, to), reached, "{firewall}: {to}");
            }
        }
        must_be_equal(&before.0, &rules(&node));
        let socket = daemon.path("namegate.sock").display().to_string();
        let detached = daemon.namegate(&["detach", "--socket", &socket]).unwrap();
        assert!(detached.status.success(), "{detached:?}");
        assert_eq!(daemon.wait().unwrap(), Some(0));
        assert_eq!(before.0, rules(&node), "{firewall}");
        must_be_equal(&before.1, &node.fingerprint().unwrap());
    }
}
