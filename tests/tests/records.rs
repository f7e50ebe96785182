//! One exchange, one record (law 4): ten thousand exchanges of every kind, each told once.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a workload's own sockets; a test's patience"
)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use namegate_tests::{Answers, Daemon, Node, Workload, policy};
use serde_json::Value;

/// What a client does with a query, and what must be told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A name that may be asked.
    Allowed,
    /// A name that may not.
    Denied,
    /// A class that nobody asks for: refused once its question was read.
    Malformed,
    /// A label of a reserved type: refused before there is a question.
    Unreadable,
    /// A name that the server has no word for.
    Silent,
    /// As allowed, but the client goes with the answer unread.
    Gone,
}

/// Queries of each kind, over UDP and over TCP: ten thousand.
const PLAN: [(Kind, [u32; 2]); 6] = [
    (Kind::Allowed, [4_800, 1_400]),
    (Kind::Denied, [2_000, 600]),
    (Kind::Malformed, [500, 150]),
    (Kind::Unreadable, [300, 100]),
    (Kind::Silent, [80, 20]),
    (Kind::Gone, [0, 50]),
];
/// Clients at once of each protocol.
const CLIENTS: u32 = 4;
/// How long a test waits for what will come.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `alice` may reach: one of the names that she may ask.
const NAMES: &str = "[{matchName: n1.example.com}]";

#[test]
fn each_of_ten_thousand_exchanges_is_told_once() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _names = Answers::names(&world.ns, 600).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    daemon
        .policy("alice.yaml", &policy("alice", NAMES))
        .unwrap();
    let log = daemon.path("flows.jsonl");
    daemon
        .start(&[
            "--flow-log",
            &log.display().to_string(),
            "--hubble-export-file-max-size-mb",
            "1000",
        ])
        .unwrap();

    let server = SocketAddr::new(world.v4.into(), 53);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let alice = &alice;
            scope.spawn(move || over_udp(alice, server, client));
            scope.spawn(move || over_tcp(alice, server, client));
        }
        scope.spawn(|| silent_over_tcp(&alice, server));
        scope.spawn(|| going_away(&alice, server));
    });

    let status = wait_for(&daemon, planned(|kind| kind != Kind::Unreadable));
    let flows = std::fs::read_to_string(&log).unwrap();
    let told = Told::read(&flows);
    check_flows(&told);
    check_counts(&status, &told);
}

/// What was answered before the end is told before the end, and what waits for an answer then is told
/// once too.
#[test]
fn the_end_of_the_daemon_loses_no_record() {
    const ANSWERED: u32 = 3_000;
    const WAITING: u32 = 40;
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _names = Answers::names(&world.ns, 600).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    daemon
        .policy("alice.yaml", &policy("alice", NAMES))
        .unwrap();
    let log = daemon.path("flows.jsonl");
    daemon
        .start(&[
            "--flow-log",
            &log.display().to_string(),
            "--hubble-export-file-max-size-mb",
            "1000",
        ])
        .unwrap();
    let server = SocketAddr::new(world.v4.into(), 53);
    let socket = alice.ns.run(|| UdpSocket::bind((alice.v4, 0)).unwrap());
    let socket = socket.unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = connect(&alice, server);
    for number in 0..WAITING {
        let name = |protocol| name(Kind::Silent, protocol, number);
        let query = |protocol| query(Kind::Silent, &name(protocol), SILENT_IDS + number as u16);
        socket.send(&query("udp")).unwrap();
        send(&mut stream, &query("tcp"));
    }
    for number in 0..ANSWERED {
        let query = query(Kind::Allowed, &name(Kind::Allowed, "udp", number), 1);
        socket.send(&query).unwrap();
        socket.recv(&mut [0; 512]).unwrap();
    }
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));

    let told = Told::read(&std::fs::read_to_string(&log).unwrap());
    for (kind, protocol, count) in [
        (Kind::Allowed, "UDP", ANSWERED),
        (Kind::Silent, "UDP", WAITING),
        (Kind::Silent, "TCP", WAITING),
    ] {
        for number in 0..count {
            let key = (name(kind, protocol, number), protocol.to_owned());
            let requests = told.requests.get(&key).map_or(0, Vec::len);
            let responses = told.responses.get(&key).map_or(0, Vec::len);
            assert_eq!(requests, 1, "{key:?}");
            let least = usize::from(kind == Kind::Allowed);
            assert!((least..=1).contains(&responses), "{key:?}: {responses}");
        }
    }
}

/// The queries of some kinds, by protocol.
fn planned_by(protocol: usize, wanted: impl Fn(Kind) -> bool) -> u32 {
    let wanted = PLAN.iter().filter(|(kind, _)| wanted(*kind));
    wanted.map(|(_, counts)| counts[protocol]).sum()
}

fn planned(wanted: impl Fn(Kind) -> bool) -> u64 {
    u64::from(planned_by(0, &wanted) + planned_by(1, &wanted))
}

/// Waits until all exchanges have ended and all flows are written.
fn wait_for(daemon: &Daemon<'_>, exchanges: u64) -> Value {
    let began = Instant::now();
    let mut before = 0;
    loop {
        let status = daemon.status().unwrap();
        let ended = status["dns"]["dns_exchanges_total"].as_object().unwrap();
        let ended: u64 = ended.values().filter_map(Value::as_u64).sum();
        let seen = status["flows"]["seen"].as_u64().unwrap();
        if ended >= exchanges && seen == before {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "{status:#}");
        before = seen;
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn check_flows(told: &Told) {
    for (kind, counts) in PLAN {
        for (protocol, count) in ["UDP", "TCP"].iter().zip(counts) {
            for number in 0..count {
                let name = name(kind, protocol, number);
                let key = (name.clone(), (*protocol).to_owned());
                let requests = told.requests.get(&key).map_or(&[][..], Vec::as_slice);
                let responses = told.responses.get(&key).map_or(&[][..], Vec::as_slice);
                let (request, response): (&[&str], &[&str]) = match kind {
                    Kind::Allowed => (&["FORWARDED"], &["FORWARDED"]),
                    Kind::Denied | Kind::Malformed => (&["DROPPED"], &[]),
                    Kind::Unreadable => (&[], &[]),
                    Kind::Silent => (&["FORWARDED"], &["ERROR"]),
                    Kind::Gone => (&["FORWARDED"], &[]),
                };
                assert_eq!(requests, request, "{name}");
                assert_eq!(responses, response, "{name}");
            }
        }
    }
}

fn check_counts(status: &Value, told: &Told) {
    let number = |path: &str| status.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let ended = |word: &str| number(&format!("/dns/dns_exchanges_total/{word}"));
    let sent = |kind: Kind| planned(|other| other == kind);
    for (word, kind) in [
        ("denied", Kind::Denied),
        ("malformed", Kind::Malformed),
        ("timeout", Kind::Silent),
        ("client-gone", Kind::Gone),
    ] {
        assert_eq!(ended(word), sent(kind), "{word}: {status:#}");
    }
    // A client that goes had one answer before.
    let answered = sent(Kind::Allowed) + sent(Kind::Gone);
    assert_eq!(ended("answered"), answered, "{status:#}");
    for word in ["servfail", "superseded", "endpoint-gone", "abandoned"] {
        assert_eq!(ended(word), 0, "{word}: {status:#}");
    }
    assert_eq!(
        number("/dns/dns_malformed_total/label-type"),
        sent(Kind::Unreadable)
    );
    assert_eq!(
        number("/dns/dns_malformed_total/class"),
        sent(Kind::Malformed)
    );
    assert_eq!(number("/flows/lost"), 0);
    assert_eq!(number("/dns/dns_quirks_total/told-lost"), 0);
    let parsed = planned(|kind| kind != Kind::Unreadable) + sent(Kind::Gone);
    assert_eq!(total(&told.requests), parsed);
    assert_eq!(
        total(&told.responses),
        answered + sent(Kind::Silent),
        "{status:#}"
    );
}

/// The DNS flows of a log.
#[derive(Default)]
struct Told {
    requests: Verdicts,
    responses: Verdicts,
}

/// By the name that was asked, and the protocol.
type Verdicts = BTreeMap<(String, String), Vec<String>>;

impl Told {
    fn read(lines: &str) -> Self {
        let mut told = Self::default();
        for line in lines.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let flow = &line["flow"];
            let Some(query) = flow["l7"]["dns"]["query"].as_str() else {
                continue;
            };
            let by_name = match flow["l7"]["type"].as_str() {
                Some("REQUEST") => &mut told.requests,
                Some("RESPONSE") => &mut told.responses,
                other => panic!("{other:?}: {line}"),
            };
            let protocol = flow["l4"].as_object().unwrap().keys().next().unwrap();
            let verdict = flow["verdict"].as_str().unwrap();
            let name = query.trim_end_matches('.').to_owned();
            let verdicts = by_name.entry((name, protocol.clone())).or_default();
            verdicts.push(verdict.to_owned());
        }
        told
    }
}

fn total(verdicts: &Verdicts) -> u64 {
    verdicts.values().map(|one| one.len() as u64).sum()
}

/// The name that is asked for once, by this query.
fn name(kind: Kind, protocol: &str, number: u32) -> String {
    let protocol = protocol.to_lowercase();
    match kind {
        Kind::Allowed => format!("allowed-{protocol}-{number}.example.com"),
        Kind::Denied => format!("denied-{protocol}-{number}.evil.test"),
        Kind::Malformed => format!("malformed-{protocol}-{number}.example.com"),
        Kind::Unreadable => format!("unreadable-{protocol}-{number}.example.com"),
        Kind::Silent => format!("silent-{protocol}-{number}.example.com"),
        Kind::Gone => format!("silent-gone-{protocol}-{number}.example.com"),
    }
}

fn query(kind: Kind, name: &str, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut query = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    let class = if kind == Kind::Malformed { 3 } else { 1 };
    query.extend([0, 0, 1, 0, class]);
    if kind == Kind::Unreadable {
        query[12] |= 0x40;
    }
    query
}

/// This client's share of the queries of the kinds that are answered at once, mixed.
fn share(protocol: usize, client: u32) -> Vec<(Kind, u32)> {
    let mut share = Vec::new();
    for (kind, counts) in PLAN {
        if matches!(kind, Kind::Silent | Kind::Gone) {
            continue;
        }
        let count = counts[protocol];
        let own = (0..count).filter(|number| number % CLIENTS == client);
        // Spread over the whole, in the same order each time.
        share.extend(own.map(|number| (number * 10_000 / count, kind, number)));
    }
    share.sort_unstable();
    share
        .into_iter()
        .map(|(_, kind, number)| (kind, number))
        .collect()
}

/// Asks one after the other; first for the names that are answered last.
fn over_udp(alice: &Workload, server: SocketAddr, client: u32) {
    let socket = alice.ns.run(|| UdpSocket::bind((alice.v4, 0)).unwrap());
    let socket = socket.unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let receive = || {
        let mut header = [0; 12];
        socket.recv(&mut header).unwrap();
        u16::from_be_bytes([header[0], header[1]])
    };
    let silent = planned_by(0, |kind| kind == Kind::Silent);
    let own = (0..silent).filter(|number| number % CLIENTS == client);
    let mut unanswered = 0;
    for number in own {
        let name = name(Kind::Silent, "udp", number);
        let query = query(Kind::Silent, &name, SILENT_IDS + number as u16);
        socket.send(&query).unwrap();
        unanswered += 1;
    }
    for (index, (kind, number)) in share(0, client).into_iter().enumerate() {
        let id = index as u16;
        let query = query(kind, &name(kind, "udp", number), id);
        socket.send(&query).unwrap();
        // Error answers have a limit to the second: nobody waits for one.
        if matches!(kind, Kind::Allowed | Kind::Denied) {
            loop {
                let answered = receive();
                if answered == id {
                    break;
                }
                unanswered -= u32::from(answered >= SILENT_IDS);
            }
        }
    }
    while unanswered > 0 {
        unanswered -= u32::from(receive() >= SILENT_IDS);
    }
}

/// The ids of queries that the server doesn't answer begin here.
const SILENT_IDS: u16 = 60_000;

fn connect(alice: &Workload, server: SocketAddr) -> TcpStream {
    let stream = alice
        .ns
        .run(|| TcpStream::connect_timeout(&server, PATIENCE));
    let stream = stream.unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn send(stream: &mut TcpStream, query: &[u8]) {
    let frame = [&(query.len() as u16).to_be_bytes()[..], query].concat();
    stream.write_all(&frame).unwrap();
}

fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut message).unwrap();
    message
}

/// Twenty queries to a connection; a malformed one never comes third in a row.
fn over_tcp(alice: &Workload, server: SocketAddr, client: u32) {
    for batch in share(1, client).chunks(20) {
        let mut stream = connect(alice, server);
        for (index, (kind, number)) in batch.iter().enumerate() {
            let id = index as u16;
            send(&mut stream, &query(*kind, &name(*kind, "tcp", *number), id));
            if matches!(kind, Kind::Allowed | Kind::Denied) {
                while receive(&mut stream)[..2] != id.to_be_bytes() {}
            }
        }
    }
}

fn silent_over_tcp(alice: &Workload, server: SocketAddr) {
    let mut stream = connect(alice, server);
    let count = planned_by(1, |kind| kind == Kind::Silent);
    for number in 0..count {
        let name = name(Kind::Silent, "tcp", number);
        send(&mut stream, &query(Kind::Silent, &name, number as u16));
    }
    for _ in 0..count {
        assert_eq!(receive(&mut stream)[3] & 15, 2, "SERVFAIL");
    }
}

/// Clients that ask once more and close with an answer unread, which resets the connection.
fn going_away(alice: &Workload, server: SocketAddr) {
    for number in 0..planned_by(1, |kind| kind == Kind::Gone) {
        let mut stream = connect(alice, server);
        let answered = format!("before-{number}.example.com");
        send(&mut stream, &query(Kind::Allowed, &answered, 1));
        stream.peek(&mut [0; 2]).unwrap();
        let name = name(Kind::Gone, "tcp", number);
        send(&mut stream, &query(Kind::Gone, &name, 2));
        // What it asked is on its way before it goes.
        std::thread::sleep(Duration::from_millis(20));
    }
}
