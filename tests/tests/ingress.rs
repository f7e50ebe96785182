//! What others may send to an endpoint: ingress rules in the kernel, in both families.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use namegate_tests::{Answers, Daemon, Node, TcpEcho, TcpSink, Workload, in_ns, patience};
use serde_json::Value;
use transport::NetNs;

/// Alice serves; bob and carol are others on the same bridge.
struct Scene {
    node: Node,
    alice: Workload,
    bob: Workload,
    carol: Workload,
}

impl Scene {
    fn new() -> Self {
        let node = Node::new().unwrap();
        let [alice, bob, carol] = [("alice", 2), ("bob", 3), ("carol", 4)]
            .map(|(name, n)| node.workload(name, n).unwrap());
        Self {
            node,
            alice,
            bob,
            carol,
        }
    }

    /// A daemon, not started, that will guard all three, with this in the `spec` of a policy about alice.
    fn prepare(&self, spec: &str) -> Daemon<'_> {
        let daemon = Daemon::prepare(&self.node).unwrap();
        for workload in [&self.alice, &self.bob, &self.carol] {
            daemon.endpoint(workload).unwrap();
        }
        daemon.policy("alice.yaml", &about_alice(spec)).unwrap();
        daemon
    }

    fn daemon(&self, spec: &str) -> Daemon<'_> {
        let mut daemon = self.prepare(spec);
        daemon.start(&[]).unwrap();
        daemon
    }

    /// Whether alice accepts a connection, asked by IPv4 and by IPv6, which must agree.
    fn accepts(&self, from: &NetNs, port: u16) -> bool {
        let [v4, v6] = [IpAddr::V4(self.alice.v4), IpAddr::V6(self.alice.v6)].map(|ip| {
            let to = SocketAddr::new(ip, port);
            let connect =
                || TcpStream::connect_timeout(&to, Duration::from_millis(500) * patience()).is_ok();
            from.run(connect).unwrap()
        });
        assert_eq!(v4, v6, "port {port}");
        v4
    }

    fn answers_ping(&self, from: &NetNs) -> [bool; 2] {
        let to = [self.alice.v4.to_string(), self.alice.v6.to_string()];
        to.map(|to| {
            let output = in_ns(from, Command::new("ping").args(["-c1", "-W1", &to])).unwrap();
            output.status.success()
        })
    }
}

fn about_alice(spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: alice}}\n\
         spec: {{endpointSelector: {{matchLabels: {{app: alice}}}}, {spec}}}\n"
    )
}

fn change(daemon: &Daemon<'_>, spec: &str) {
    daemon
        .change_policy("alice.yaml", &about_alice(spec))
        .unwrap();
}

const FROM_BOB: &str = "fromEndpoints: [{matchLabels: {app: bob}}]";

#[test]
fn peers_ranges_and_deny_rules_hold() {
    let scene = Scene::new();
    let _sinks =
        [8_000, 8_005, 8_010, 8_011].map(|port| TcpSink::serve(&scene.alice.ns, port).unwrap());
    let range = "toPorts: [{ports: [{port: '8000', endPort: 8010, protocol: TCP}]}]";
    let daemon = scene.daemon(&format!("ingress: [{{{FROM_BOB}, {range}}}]"));
    let (bob, carol) = (&scene.bob.ns, &scene.carol.ns);
    for (port, accepted) in [(8_000, true), (8_005, true), (8_010, true), (8_011, false)] {
        assert_eq!(scene.accepts(bob, port), accepted, "bob, {port}");
        assert!(!scene.accepts(carol, port), "carol, {port}");
        // The host may reach a guarded endpoint; an explicit deny rule takes that away.
        assert!(scene.accepts(&scene.node.ns, port), "the host, {port}");
    }
    let deny = "toPorts: [{ports: [{port: '8004', endPort: 8007, protocol: TCP}]}]";
    change(
        &daemon,
        &format!(
            "ingress: [{{{FROM_BOB}, {range}}}], ingressDeny: [{{{FROM_BOB}, {deny}}}, {{fromEntities: [host], {deny}}}]"
        ),
    );
    for (port, accepted) in [(8_000, true), (8_005, false), (8_010, true)] {
        assert_eq!(scene.accepts(bob, port), accepted, "bob, {port}");
        assert_eq!(
            scene.accepts(&scene.node.ns, port),
            accepted,
            "the host, {port}"
        );
    }
    assert!(daemon.counter("policy-denied").unwrap() > 0);
    assert!(daemon.counter("policy-deny").unwrap() > 0);

    // Whom no rule selects is open, and what alice asks for comes back to her.
    let _theirs = TcpSink::serve(bob, 9_000).unwrap();
    for ip in [IpAddr::V4(scene.bob.v4), IpAddr::V6(scene.bob.v6)] {
        let to = SocketAddr::new(ip, 9_000);
        let connect =
            || TcpStream::connect_timeout(&to, Duration::from_secs(2) * patience()).is_ok();
        assert!(scene.alice.ns.run(connect).unwrap());
    }
}

#[test]
fn types_of_icmp_hold_and_zero_means_zero() {
    let scene = Scene::new();
    let echo = "icmps: [{fields: [{family: IPv4, type: 8}, {family: IPv6, type: EchoRequest}]}]";
    let daemon = scene.daemon(&format!("ingress: [{{{FROM_BOB}, {echo}}}]"));
    assert_eq!(scene.answers_ping(&scene.bob.ns), [true, true]);
    assert_eq!(scene.answers_ping(&scene.carol.ns), [false, false]);
    let _sink = TcpSink::serve(&scene.alice.ns, 80).unwrap();
    assert!(!scene.accepts(&scene.bob.ns, 80), "nothing but ICMP");
    change(
        &daemon,
        &format!("ingress: [{{{FROM_BOB}, icmps: [{{fields: [{{family: IPv4, type: 0}}]}}]}}]"),
    );
    assert_eq!(scene.answers_ping(&scene.bob.ns), [false, false]);
}

#[test]
fn verdicts_are_told_by_both_ends_with_the_rule() {
    let scene = Scene::new();
    let _sink = TcpSink::serve(&scene.alice.ns, 80).unwrap();
    let port = "toPorts: [{ports: [{port: '80', protocol: TCP}]}]";
    let mut daemon = scene.prepare(&format!("ingress: [{{{FROM_BOB}, {port}}}]"));
    let log = daemon.path("flows.jsonl");
    daemon
        .start(&["--flow-log", log.to_str().unwrap()])
        .unwrap();
    assert!(scene.accepts(&scene.bob.ns, 80));
    assert!(!scene.accepts(&scene.carol.ns, 80));
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
    let flows = std::fs::read_to_string(&log).unwrap();
    let flows: Vec<Value> = flows
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["flow"].take())
        .collect();
    let told = |source: &str, direction: &str| -> Vec<&Value> {
        let about = flows.iter().filter(|flow| {
            flow["source"]["pod_name"] == source
                && flow["traffic_direction"] == direction
                && flow["IP"]["ipVersion"] == "IPv4"
                && flow["event_type"]["type"] == 5
        });
        about.collect()
    };
    let [out] = told("bob", "EGRESS")[..] else {
        panic!("{flows:#?}")
    };
    assert_eq!(out["verdict"], "FORWARDED");
    let [inbound] = told("bob", "INGRESS")[..] else {
        panic!("{flows:#?}")
    };
    assert_eq!(inbound["verdict"], "FORWARDED");
    assert_eq!(
        inbound["policy_match_type"], 2,
        "identity, protocol and port"
    );
    assert_eq!(inbound["ingress_allowed_by"][0]["name"], "alice");
    let denied = told("carol", "INGRESS");
    assert!(!denied.is_empty());
    for flow in denied {
        assert_eq!(flow["verdict"], "DROPPED");
        assert_eq!(flow["drop_reason"], 133);
    }
}

#[test]
fn what_is_not_addressed_to_a_closed_endpoint_stays_outside() {
    let scene = Scene::new();
    let group = "239.1.2.3";
    let port = 5_000;
    let heard = Answers::serve(&scene.alice.ns, port, |_| Vec::new()).unwrap();
    let shout = || {
        scene
            .bob
            .ns
            .run(|| {
                #[expect(clippy::disallowed_methods, reason = "a client outside of the gate")]
                let socket = UdpSocket::bind((scene.bob.v4, 0)).unwrap();
                socket.set_multicast_ttl_v4(1).unwrap();
                for to in [format!("{group}:{port}"), format!("255.255.255.255:{port}")] {
                    socket.set_broadcast(true).unwrap();
                    socket.send_to(b"all", to).unwrap();
                }
            })
            .unwrap();
        std::thread::sleep(Duration::from_millis(200));
        heard.asked.load(std::sync::atomic::Ordering::Relaxed)
    };
    let routed = in_ns(
        &scene.bob.ns,
        Command::new("ip").args(["route", "add", "239.0.0.0/8", "dev", "eth0"]),
    );
    assert!(routed.unwrap().status.success());
    let daemon =
        scene.daemon("enableDefaultDeny: {ingress: false}, ingress: [{fromEntities: [all]}]");
    let open = shout();
    assert!(open > 0, "an open endpoint hears what the link says");
    change(&daemon, "ingress: [{fromEntities: [cluster]}]");
    assert_eq!(shout(), open, "a closed one doesn't");
    assert!(daemon.counter("not-for-endpoint").unwrap() > 0);
}

#[test]
fn a_policy_that_takes_an_allow_away_ends_the_flows_that_lived_on_it() {
    let scene = Scene::new();
    let _echo = TcpEcho::serve(&scene.alice.ns, 80).unwrap();
    let port = |port: u16| format!("toPorts: [{{ports: [{{port: '{port}', protocol: TCP}}]}}]");
    let daemon = scene.daemon(&format!("ingress: [{{{FROM_BOB}, {}}}]", port(80)));
    let to = SocketAddr::new(IpAddr::V4(scene.alice.v4), 80);
    let open = || TcpStream::connect_timeout(&to, Duration::from_secs(2) * patience());
    let mut stream = scene.bob.ns.run(open).unwrap().unwrap();
    let mut says = |word: &[u8; 4]| {
        use std::io::{Read as _, Write as _};
        stream
            .set_read_timeout(Some(Duration::from_millis(700) * patience()))
            .unwrap();
        let mut back = [0; 4];
        stream.write_all(word).unwrap();
        stream.read_exact(&mut back).is_ok_and(|()| back == *word)
    };
    assert!(says(b"one."));
    // Another rule that allows it, and nothing ends.
    change(
        &daemon,
        &format!(
            "ingress: [{{{FROM_BOB}}}, {{fromEntities: [host], {}}}]",
            port(81)
        ),
    );
    assert!(says(b"two."));
    change(&daemon, &format!("ingress: [{{{FROM_BOB}, {}}}]", port(81)));
    assert!(!says(b"no.."), "nothing allows it any more");
}
