//! Which DNS servers are asked where no rule says it.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use namegate_tests::{Daemon, Node, Running, TcpSink, Workload, patience, seen_by};

const ZONE: &str =
    "web 60 IN A 198.18.0.1\nweb 60 IN AAAA 2001:db8:1::1\nother 60 IN A 198.18.0.2\n";

/// `alice` may reach a name, and no rule says where she asks for it.
const NAMES: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names}
spec:
  endpointSelector: {matchLabels: {app: alice}}
  egress:
  - toFQDNs: [{matchName: web.example.com}]
";

/// The same with a DNS rule, for another name.
const RULE: &str = "  - toCIDR: [203.0.113.2/32]
    toPorts:
    - ports: [{port: '53', protocol: ANY}]
      rules: {dns: [{matchName: other.example.com}]}
";

fn reaches(from: &Workload, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    let connect =
        || TcpStream::connect_timeout(&to, Duration::from_millis(700) * patience()).is_ok();
    from.ns.run(connect).unwrap()
}

/// What a server answers, over UDP and over TCP.
fn asked(who: &Workload, server: IpAddr, name: &str, kind: &str) -> [String; 2] {
    ["+notcp", "+tcp"].map(|way| {
        let words = ["+short", way, name, kind];
        who.dig(server, &words).unwrap()
    })
}

fn has_no_address(answers: &[String; 2]) -> bool {
    let is_address = |line: &str| line == "198.18.0.1" || line == "198.18.0.2";
    answers.iter().all(|answer| !answer.lines().any(is_address))
}

#[test]
fn a_rule_with_names_alone_suffices() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, ZONE).unwrap();
    let _web = TcpSink::serve(&world.ns, 80).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    daemon.policy("names.yaml", NAMES).unwrap();
    daemon
        .start(&["--dns-servers", "203.0.113.2,2001:db8::2"])
        .unwrap();
    let said = daemon.said();
    assert!(
        said.contains("no DNS rule is beside `toFQDNs` of policy \"names\"")
            && said.contains("--dns-servers 203.0.113.2/32,2001:db8::2/128"),
        "{said}"
    );

    assert!(!reaches(&alice, "198.18.0.1:80"), "not asked for yet");
    for (server, kind, address, open) in [
        (IpAddr::V4(world.v4), "A", "198.18.0.1\n", "198.18.0.1:80"),
        (
            IpAddr::V6(world.v6),
            "AAAA",
            "2001:db8:1::1\n",
            "[2001:db8:1::1]:80",
        ),
    ] {
        let answers = asked(&alice, server, "web.example.com", kind);
        assert_eq!(answers, [address; 2]);
        assert!(reaches(&alice, open), "{open}");
    }
    // Every name may be asked; it opens what a rule names.
    let answers = asked(&alice, world.v4.into(), "other.example.com", "A");
    assert_eq!(answers, ["198.18.0.2\n"; 2]);
    assert!(!reaches(&alice, "198.18.0.2:80"));
    // Nothing else of the servers is open, and no other server.
    assert!(!reaches(&alice, "203.0.113.2:80"));
    let seen = seen_by(&world, "port 53 and dst host 198.18.0.53", || {
        let other: IpAddr = "198.18.0.53".parse()?;
        let answers = asked(&alice, other, "web.example.com", "A");
        assert!(has_no_address(&answers), "{answers:?}");
        Ok(())
    })
    .unwrap();
    assert!(!seen.contains("web"), "{seen}");

    // A DNS rule stands for itself.
    daemon
        .change_policy("names.yaml", &format!("{NAMES}{RULE}"))
        .unwrap();
    let answers = asked(&alice, world.v4.into(), "other.example.com", "A");
    assert_eq!(answers, ["198.18.0.2\n"; 2]);
    let answers = asked(&alice, world.v4.into(), "web.example.com", "A");
    assert!(has_no_address(&answers), "{answers:?}");
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
}

#[test]
fn the_servers_of_the_cluster_are_asked_by_default_and_none_if_it_is_said() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, ZONE).unwrap();
    let _web = TcpSink::serve(&world.ns, 80).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    let kube_dns = "name: coredns\nnamespace: kube-system\nlabels: {k8s-app: kube-dns}\nremote: true\naddresses: [203.0.113.2]\n";
    daemon.endpoint_file("dns.yaml", kube_dns).unwrap();
    daemon.policy("names.yaml", NAMES).unwrap();
    daemon.start(&["--dns-servers", "none"]).unwrap();
    let said = daemon.said();
    assert!(said.contains("it never opens"), "{said}");
    let ask = || asked(&alice, world.v4.into(), "web.example.com", "A");
    assert!(has_no_address(&ask()));
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
    daemon.start(&[]).unwrap();
    assert_eq!(ask(), ["198.18.0.1\n"; 2]);
    assert!(reaches(&alice, "198.18.0.1:80"));
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
}

/// `alice` may ask two servers, the one by its address and the other as one of the world.
const TWO: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: two}
spec:
  endpointSelector: {matchLabels: {app: alice}}
  egress:
  - toCIDR: [203.0.113.2/32, 0.0.0.0/0]
    toPorts:
    - ports: [{port: '53', protocol: ANY}]
      rules: {dns: [{matchPattern: '*.example.com'}]}
  - toFQDNs: [{matchPattern: '*.example.com'}]
";

fn untrusted(daemon: &Daemon<'_>) -> u64 {
    let status = daemon.status().unwrap();
    let count = status.pointer("/learning/untrusted_server").unwrap();
    count.as_u64().unwrap()
}

#[test]
fn only_trusted_servers_teach() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, ZONE).unwrap();
    let _web = TcpSink::serve(&world.ns, 80).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    daemon.policy("two.yaml", TWO).unwrap();
    // The same server, by two of its addresses.
    let (named, other): (IpAddr, IpAddr) = (world.v4.into(), "198.18.0.53".parse().unwrap());
    for (trusted, teacher, stranger) in [
        (&[][..], named, other),
        (&["--dns-trusted-servers", "198.18.0.0/24"], other, named),
    ] {
        let log = daemon.path("flows.jsonl");
        let _ = std::fs::remove_file(&log);
        let file = log.display().to_string();
        let options = [trusted, &["--flow-log", &file]].concat();
        daemon.start(&options).unwrap();
        let before = untrusted(&daemon);
        let answers = asked(&alice, stranger, "web.example.com", "A");
        assert_eq!(answers, ["198.18.0.1\n"; 2], "the answer passes");
        assert!(!reaches(&alice, "198.18.0.1:80"), "{trusted:?}");
        assert_eq!(untrusted(&daemon), before + 2);
        let answers = asked(&alice, teacher, "other.example.com", "A");
        assert_eq!(answers, ["198.18.0.2\n"; 2]);
        assert!(reaches(&alice, "198.18.0.2:80"), "{trusted:?}");
        assert_eq!(untrusted(&daemon), before + 2);
        assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
        // The responses of the stranger say so, and nothing else does.
        let flows = std::fs::read_to_string(log).unwrap();
        let told = flows
            .lines()
            .filter(|line| line.contains("untrusted-server"));
        let of_stranger = |line: &&str| {
            line.contains(&stranger.to_string()) && line.contains("\"is_reply\":true")
        };
        assert_eq!(told.clone().count(), 2, "{flows}");
        assert_eq!(told.filter(of_stranger).count(), 2, "{flows}");
    }
}
