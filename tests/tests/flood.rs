//! More than a workload should send: the gate, the other endpoints and its own live flows go on.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use namegate_tests::{
    Answers, Daemon, Node, RawTcp, Running, Stage, TcpEcho, WWW, Workload, patience, policy,
};

/// SYNs of the flood: more than the gate's listener keeps half open, less than an endpoint's share of
/// the flow table.
const SYNS: u16 = 20_000;
const FIRST_PORT: u16 = 20_000;
/// The most that the daemon's memory may grow by, in KiB.
const GROWTH_KIB: u64 = 32 * 1_024;

fn says(stream: &mut TcpStream, word: &[u8; 4]) -> bool {
    let mut back = [0; 4];
    stream
        .set_read_timeout(Some(Duration::from_secs(3) * patience()))
        .unwrap();
    stream.write_all(word).unwrap();
    stream.read_exact(&mut back).is_ok_and(|()| back == *word)
}

/// A count of the gate's own TCP.
fn gates(node: &Node, name: &str) -> u64 {
    let text = node
        .check(
            "nsenter",
            &[
                "--net=/run/netns/namegate-default",
                "cat",
                "/proc/net/netstat",
            ],
        )
        .unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(one, _)| *one == name).unwrap();
    value.parse().unwrap()
}

fn resident_kib(daemon: &Daemon<'_>) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

fn answered(client: &Workload, server: IpAddr) -> usize {
    let ways = [
        ("+notcp", "A"),
        ("+tcp", "A"),
        ("+notcp", "AAAA"),
        ("+tcp", "AAAA"),
    ];
    let good = ways.into_iter().filter(|(way, kind)| {
        let answer = client.dig(server, &[way, "+short", "www.example.com", kind]);
        !answer.unwrap().trim().is_empty()
    });
    good.count()
}

/// The workload never answers: each of its connections stays half open, and only cookies let others in.
#[test]
fn a_flood_of_syns_at_the_redirected_port_harms_nobody() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let bob = node.workload("bob", 3).unwrap();
    let world = node.elsewhere().unwrap();
    let _knot = Running::knot(&world.ns, WWW).unwrap();
    let _echo = TcpEcho::serve(&world.ns, 443).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    for workload in [&alice, &bob] {
        daemon.endpoint(workload).unwrap();
        let text = policy(&workload.name, "[{matchName: www.example.com}]");
        daemon
            .policy(&format!("{}.yaml", workload.name), &text)
            .unwrap();
    }
    daemon.start(&[]).unwrap();
    let server = IpAddr::V4(world.v4);
    assert_eq!([answered(&alice, server), answered(&bob, server)], [4, 4]);
    let to: SocketAddr = "198.18.0.1:443".parse().unwrap();
    let open = || TcpStream::connect_timeout(&to, Duration::from_secs(2) * patience());
    let mut live = alice.ns.run(open).unwrap().unwrap();
    assert!(says(&mut live, b"one."));
    let deaf = format!(
        "add table inet deaf; add chain inet deaf in {{ type filter hook input priority 0; }}; \
         add rule inet deaf in tcp sport 53 tcp dport {FIRST_PORT}-{} drop",
        FIRST_PORT + SYNS - 1
    );
    alice.check("nft", &[&deaf]).unwrap();
    let (memory, cookies) = (resident_kib(&daemon), gates(&node, "SyncookiesRecv"));

    let flood = RawTcp::open(&alice).unwrap();
    let target = SocketAddrV4::new(world.v4, 53);
    let done = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&done);
    let sender = std::thread::spawn(move || {
        for port in FIRST_PORT..FIRST_PORT + SYNS {
            flood.syn(port, target).unwrap();
            if port % 20 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let mut turns = 0;
    while !done.load(Ordering::Relaxed) || turns < 3 {
        assert_eq!(answered(&bob, server), 4, "bob, turn {turns}");
        assert!(
            says(&mut live, b"more"),
            "alice's own connection, turn {turns}"
        );
        turns += 1;
    }
    sender.join().unwrap();
    assert_eq!(answered(&alice, server), 4, "alice herself");
    assert!(gates(&node, "SyncookiesSent") > 0);
    assert!(
        gates(&node, "SyncookiesRecv") > cookies,
        "somebody was let in by a cookie"
    );
    check_flows(&node);
    assert_eq!(daemon.counter("ct-insert-failed").unwrap(), 0);
    let grown = resident_kib(&daemon).saturating_sub(memory);
    assert!(grown < GROWTH_KIB, "{grown} KiB");
    eprintln!(
        "{turns} turns; cookies: {} sent, {} received; {grown} KiB more",
        gates(&node, "SyncookiesSent"),
        gates(&node, "SyncookiesRecv")
    );
}

/// The flood's flows are alice's alone.
fn check_flows(node: &Node) {
    let flows = node
        .command(&Daemon::binary().unwrap().display().to_string())
        .args(["map", "get", "ct_use", "-o", "json"])
        .output()
        .unwrap();
    let flows: serde_json::Value = serde_json::from_slice(&flows.stdout).unwrap();
    let of = |endpoint: u64| {
        let rows = flows.as_array().unwrap().iter();
        let row = rows
            .clone()
            .find(|row| row["endpoint"] == endpoint)
            .unwrap();
        row["flows"].as_u64().unwrap()
    };
    assert!(of(1) >= u64::from(SYNS) && of(2) < 1_000, "{flows}");
}

/// A policy about alice.
fn about_alice(rest: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: alice}}\n\
         spec: {{endpointSelector: {{matchLabels: {{app: alice}}}}, {rest}}}\n"
    )
}

/// Port 80 of the one address is open under neither policy, port 81 under both, each by other entries and
/// other identities: a packet that met a half of one and a half of the other would tell.
fn flood_under(policies: [&str; 2]) {
    let stage = Stage::new().unwrap();
    let [closed, open] = [80, 81].map(|port| Answers::echo(&stage.world.ns, port).unwrap());
    let [first, second] = policies.map(about_alice);
    let mut daemon = stage.daemon(&first).unwrap();
    daemon.start(&[]).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&done);
    let ns = stage.alice.ns.clone();
    // Each datagram is a flow of its own, so that each is judged.
    let flood = std::thread::spawn(move || {
        let send_all = || {
            let mut sent = 0;
            while !is_over.load(Ordering::Relaxed) {
                #[expect(clippy::disallowed_methods, reason = "a client outside of the gate")]
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                let _ = socket.send_to(b"closed", "198.18.0.7:80");
                sent += u64::from(socket.send_to(b"open", "198.18.0.7:81").is_ok());
                std::thread::sleep(Duration::from_micros(300));
            }
            sent
        };
        ns.run(send_all).unwrap()
    });
    for text in [&second, &first].into_iter().cycle().take(20) {
        daemon.change_policy("alice.yaml", text).unwrap();
    }
    done.store(true, Ordering::Relaxed);
    let sent = flood.join().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let seen = |of: &Answers| of.asked.load(Ordering::Relaxed);
    assert_eq!(seen(&closed), 0, "leaked, under {policies:?}");
    assert_eq!(seen(&open), sent, "lost, under {policies:?}");
    assert!(sent > 1_000, "{sent}");
}

const UDP_80: &str = "toPorts: [{ports: [{port: '80', protocol: UDP}]}]";
const UDP_81: &str = "toPorts: [{ports: [{port: '81', protocol: UDP}]}]";

#[test]
fn no_packet_meets_half_of_two_policies() {
    let but = format!(
        "egress: [{{toEntities: [world]}}], egressDeny: [{{toEntities: [world], {UDP_80}}}]"
    );
    let only = format!("egress: [{{toCIDR: [198.18.0.7/32], {UDP_81}}}]");
    flood_under([&but, &only]);
}

/// What all may reach but for a prefix: before the prefix has its identity it would be open to all.
#[test]
fn no_packet_meets_a_new_policy_and_the_addresses_of_the_old_one() {
    let but = format!(
        "egress: [{{toEntities: [all]}}], egressDeny: [{{toCIDR: [198.18.0.7/32], {UDP_80}}}]"
    );
    let only = format!("egress: [{{toCIDR: [198.18.0.0/16], {UDP_81}}}]");
    flood_under([&only, &but]);
}
