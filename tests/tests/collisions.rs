//! One address, two who use it: the workload's own traffic and what the proxy sends in its name, with the
//! same ports. Each gets its own, and nobody else gets in.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may die, and its clients and servers are outside of the gate"
)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use namegate_tests::{
    Answers, Asker, Daemon, Node, Running, TcpEcho, WWW, Workload, in_ns, patience, seen_by,
};
use transport::NetNs;

/// Alice may ask the server and reach it at 5454; what others send to her is open.
fn rules(dns: &str) -> String {
    format!(
        "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: alice}}
spec:
  endpointSelector: {{matchLabels: {{app: alice}}}}
  egress:
  - toEndpoints: [{{matchLabels: {{app: dns}}}}]
    toPorts:
    - ports: [{{port: '53', protocol: ANY}}]{dns}
    - ports: [{{port: '5454', protocol: UDP}}]
"
    )
}

const NAMES: &str = "\n      rules: {dns: [{matchPattern: '*.example.com'}]}";

struct Scene {
    node: Node,
    alice: Workload,
    dns: Workload,
    bob: Workload,
}

impl Scene {
    fn new() -> Self {
        let node = Node::new().unwrap();
        let [alice, dns, bob] =
            [("alice", 2), ("dns", 3), ("bob", 4)].map(|(name, n)| node.workload(name, n).unwrap());
        Self {
            node,
            alice,
            dns,
            bob,
        }
    }

    fn daemon(&self, dns: &str) -> Daemon<'_> {
        let mut daemon = Daemon::prepare(&self.node).unwrap();
        for workload in [&self.alice, &self.dns, &self.bob] {
            daemon.endpoint(workload).unwrap();
        }
        daemon.policy("alice.yaml", &rules(dns)).unwrap();
        daemon.start(&[]).unwrap();
        daemon
    }

    /// Ports from which the proxy asks in alice's name.
    fn pool_ports(&self) -> BTreeSet<u16> {
        let seen = seen_by(&self.dns, "udp and dst port 53", || {
            for _ in 0..12 {
                assert_eq!(self.ask(&[]), "198.18.0.1\n");
            }
            Ok(())
        });
        let from = format!("{}.", self.alice.v4);
        let seen = seen.unwrap();
        let ports = seen
            .split_whitespace()
            .filter_map(|word| word.strip_prefix(&from));
        ports.map(|port| port.parse().unwrap()).collect()
    }

    fn ask(&self, how: &[&str]) -> String {
        let words = [how, &["+short", "www.example.com"]].concat();
        self.alice.dig(self.dns.v4.into(), &words).unwrap()
    }
}

fn udp(ns: &NetNs, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = ns
        .run(|| UdpSocket::bind((address, port)))
        .unwrap()
        .unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2) * patience()))
        .unwrap();
    socket
}

/// What one socket sends to the other, as that one gets it.
fn passes(from: &UdpSocket, to: (Ipv4Addr, u16), at: &UdpSocket, word: &[u8]) -> SocketAddr {
    let mut buffer = [0; 64];
    from.send_to(word, to).unwrap();
    let (len, sender) = at.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer.get(..len), Some(word));
    sender
}

/// By the proxy's ports alone alice's answers would be stolen.
#[test]
fn own_flows_from_ports_that_the_proxy_uses_are_the_workloads() {
    let scene = Scene::new();
    let _knot = Running::knot(&scene.dns.ns, WWW).unwrap();
    let _echo = Answers::echo(&scene.dns.ns, 5_454).unwrap();
    let daemon = scene.daemon(NAMES);
    let ports = scene.pool_ports();
    assert!(ports.len() > 1, "{ports:?}");
    let caught = daemon.counter("caught").unwrap();
    for port in &ports {
        let own = udp(&scene.alice.ns, Ipv4Addr::UNSPECIFIED, *port);
        let from = passes(&own, (scene.dns.v4, 5_454), &own, b"mine");
        assert_eq!(from, (scene.dns.v4, 5_454).into());
    }
    assert_eq!(daemon.counter("caught").unwrap(), caught);
    assert_eq!(scene.ask(&[]), "198.18.0.1\n");
}

/// Calls from port 53, of a stranger and of the server itself: by the port alone they would be stolen.
#[test]
fn a_service_that_is_called_from_port_53_is_the_workloads() {
    let scene = Scene::new();
    let knot = Running::knot(&scene.dns.ns, WWW).unwrap();
    let daemon = scene.daemon(NAMES);
    assert!(!scene.pool_ports().is_empty());
    // From here on the server's port 53 calls.
    drop(knot);
    let _tcp = TcpEcho::serve(&scene.alice.ns, 7_000).unwrap();
    let caught = daemon.counter("caught").unwrap();
    for caller in [&scene.bob, &scene.dns] {
        let service = udp(&scene.alice.ns, Ipv4Addr::UNSPECIFIED, 7_000);
        let call = udp(&caller.ns, caller.v4, 53);
        let from = passes(&call, (scene.alice.v4, 7_000), &service, b"call");
        assert_eq!(from, (caller.v4, 53).into());
        // What goes to port 53 of a server that may be asked is a query, whoever spoke first.
        if caller.name == "bob" {
            passes(&service, (caller.v4, 53), &call, b"answer");
        }
        let over_tcp = in_ns(
            &caller.ns,
            Command::new("sh").arg("-c").arg(format!(
                "(echo call; sleep 0.3) | timeout 4 socat -t2 - TCP:{}:7000,sourceport=53,reuseaddr",
                scene.alice.v4
            )),
        );
        let over_tcp = over_tcp.unwrap();
        assert_eq!(over_tcp.stdout, b"call\n", "{over_tcp:?}");
    }
    assert_eq!(daemon.counter("caught").unwrap(), caught);
}

/// It must not get into the proxy: whoever is no server of alice's, and whoever is one at another port.
#[test]
fn what_the_proxy_did_not_ask_for_never_reaches_it() {
    let scene = Scene::new();
    let knot = Running::knot(&scene.dns.ns, WWW).unwrap();
    let daemon = scene.daemon(NAMES);
    let port = *scene.pool_ports().first().unwrap();
    drop(knot);
    let caught = daemon.counter("caught").unwrap();
    let no_ports = || scene.alice.kernel_count("Udp", "NoPorts").unwrap();
    let before = no_ports();
    // A stranger's port 53, and another port of the server.
    let calls = [
        udp(&scene.bob.ns, scene.bob.v4, 53),
        udp(&scene.dns.ns, scene.dns.v4, 54),
    ];
    for call in &calls {
        call.send_to(b"unasked", (scene.alice.v4, port)).unwrap();
    }
    // From the server's port 53 to a port of alice's that the proxy doesn't use for it.
    let server = udp(&scene.dns.ns, scene.dns.v4, 53);
    let unused = (10_000..).find(|port| !scene.pool_ports_of_map(&daemon).contains(port));
    server
        .send_to(b"unasked", (scene.alice.v4, unused.unwrap()))
        .unwrap();
    for _ in 0..100 {
        if no_ports() == before + 3 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(no_ports(), before + 3, "all three stayed with the workload");
    assert_eq!(daemon.counter("caught").unwrap(), caught);
}

impl Scene {
    /// The ports that the kernel takes for the proxy's.
    fn pool_ports_of_map(&self, daemon: &Daemon<'_>) -> BTreeSet<u16> {
        let output = daemon
            .namegate(&["map", "get", "up_udp", "-o", "json"])
            .unwrap();
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        assert!(!rows.is_empty());
        let port = |row: &serde_json::Value| row.get("proxy_port")?.as_u64()?.try_into().ok();
        rows.iter().filter_map(port).collect()
    }
}

/// The same server, server's port and own port: the workload's packet is redirected itself, and each side
/// gets its own answer.
#[test]
fn a_query_from_a_port_of_the_proxys_is_answered() {
    let scene = Scene::new();
    let _knot = Running::knot(&scene.dns.ns, WWW).unwrap();
    let daemon = scene.daemon(NAMES);
    for port in scene.pool_ports() {
        let own = format!("{}#{port}", scene.alice.v4);
        for way in ["+notcp", "+tcp"] {
            assert_eq!(scene.ask(&["-b", &own, way]), "198.18.0.1\n", "{own} {way}");
        }
        let denied = scene
            .alice
            .dig(scene.dns.v4.into(), &["-b", &own, "a.evil.test"]);
        assert!(denied.unwrap().contains("NXDOMAIN"));
    }
    assert_eq!(daemon.counter("upstream-to-listener").unwrap(), 0);
}

/// What was asked directly comes back directly; what is asked after that goes by the gate.
#[test]
fn what_was_in_flight_when_the_rule_came_is_the_workloads() {
    let scene = Scene::new();
    let daemon = scene.daemon("");
    let server = udp(&scene.dns.ns, scene.dns.v4, 53);
    let own = udp(&scene.alice.ns, scene.alice.v4, 45_678);
    let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01";
    let client = passes(&own, (scene.dns.v4, 53), &server, query);
    assert_eq!(client, (scene.alice.v4, 45_678).into(), "directly");
    let redirected = daemon.counter("redirected").unwrap();
    assert_eq!(redirected, 0);
    daemon.change_policy("alice.yaml", &rules(NAMES)).unwrap();
    server.send_to(b"late", client).unwrap();
    let mut buffer = [0; 512];
    let (len, from) = own.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (buffer.get(..len), from),
        (Some(&b"late"[..]), (scene.dns.v4, 53).into())
    );

    drop(server);
    let _knot = Running::knot(&scene.dns.ns, WWW).unwrap();
    own.send_to(query, (scene.dns.v4, 53)).unwrap();
    let (len, from) = own.recv_from(&mut buffer).unwrap();
    assert_eq!(from, (scene.dns.v4, 53).into());
    assert!(buffer.get(..len).unwrap().ends_with(&[198, 18, 0, 1]));
    assert_eq!(daemon.counter("redirected").unwrap(), 1, "by the gate");
}

/// Takes ports for UDP from the first to the last, and says how many there are.
const TAKE_PORTS: &str = "
import socket, sys
taken = []
for port in range(int(sys.argv[1]), int(sys.argv[2]) + 1):
    one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    one.bind(('::', port))
    taken.append(one)
print(len(taken), flush=True)
sys.stdin.read()
";

/// Holds ports of the node until its input ends.
fn taken(node: &Node, first: u16, last: u16) -> Child {
    let (first, last) = (first.to_string(), last.to_string());
    let mut taker = node.command("prlimit");
    taker.args(["--nofile=16384", "python3", "-c", TAKE_PORTS, &first, &last]);
    taker.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut taker = taker.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(taker.stdout.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    assert_eq!(said.trim(), "14116");
    taker
}

/// All ports that a program of the node could be given are those of others.
#[test]
fn lookups_go_on_while_every_port_of_the_node_is_taken() {
    let scene = Scene::new();
    let _names = Answers::names(&scene.dns.ns, 3_600).unwrap();
    let mut daemon = scene.daemon(NAMES);
    let takers = [(32_768, 46_883), (46_884, 60_999)];
    let takers = takers.map(|(first, last)| taken(&scene.node, first, last));
    let server = SocketAddr::new(scene.dns.v4.into(), 53);
    let asker = Asker::start(&scene.alice, server, Duration::from_millis(1)).unwrap();
    std::thread::sleep(Duration::from_secs(11));
    let told = asker.end().unwrap();
    assert!(told.asked > 5_000, "{told:?}");
    assert!(told.unanswered.is_empty(), "{told:?}");
    assert!(
        told.unserved.is_empty() && told.undenied.is_empty(),
        "{told:?}"
    );
    for mut taker in takers {
        drop(taker.stdin.take());
        taker.wait().unwrap();
    }
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
}
