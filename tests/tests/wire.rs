//! Hostile bytes on the real path: queries and answers that are malformed, connections that misbehave.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "a test may die, and tables are long"
)]
#![expect(clippy::disallowed_methods, reason = "a workload's own sockets")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use namegate_tests::{Answers, Daemon, Node, Running, TcpSink, Workload, patience, policy};

/// What `alice` may reach.
const NAMES: &str = "[{matchPattern: '*.example.com'}]";

struct Stage {
    node: Node,
    alice: Workload,
    world: Workload,
}

impl Stage {
    fn new() -> Self {
        let node = Node::new().unwrap();
        let alice = node.workload("alice", 2).unwrap();
        let world = node.elsewhere().unwrap();
        Self { node, alice, world }
    }

    fn daemon(&self) -> Daemon<'_> {
        let names = policy("alice", NAMES);
        let mut daemon = Daemon::guarding(&self.node, &self.alice, &names).unwrap();
        daemon.start(&[]).unwrap();
        daemon
    }

    fn server(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.world.v4), 53)
    }

    /// Sends a datagram as the workload; `None` if nothing comes back within a moment.
    fn ask(&self, bytes: &[u8], wait: Duration) -> Option<Vec<u8>> {
        self.alice
            .ns
            .run(|| {
                let socket = UdpSocket::bind((self.alice.v4, 0)).unwrap();
                socket.connect(self.server()).unwrap();
                socket.set_read_timeout(Some(wait)).unwrap();
                socket.send(bytes).unwrap();
                let mut buffer = vec![0; 65_536];
                let len = socket.recv(&mut buffer).ok()?;
                buffer.truncate(len);
                Some(buffer)
            })
            .unwrap()
    }

    fn connect(&self) -> TcpStream {
        let stream = self
            .alice
            .ns
            .run(|| TcpStream::connect_timeout(&self.server(), Duration::from_secs(2) * patience()))
            .unwrap()
            .unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(7) * patience()))
            .unwrap();
        stream
    }
}

/// A query: id 0x1234, RD, one question.
fn query(name: &str, qtype: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(qtype.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = (message.len() as u16).to_be_bytes().to_vec();
    bytes.extend(message);
    bytes
}

fn read_frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

fn rcode(answer: &[u8]) -> u8 {
    answer[3] & 0x0f
}

#[test]
fn malformed_queries_end_in_the_stated_answer_and_none_leaves() {
    let stage = Stage::new();
    let server = Answers::names(&stage.world.ns, 60).unwrap();
    let daemon = stage.daemon();
    let good = query("n1.example.com", 1);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    const FORMERR: Option<u8> = Some(1);
    const NOTIMP: Option<u8> = Some(4);
    const REFUSED: Option<u8> = Some(5);
    let cases: Vec<(&str, Vec<u8>, Option<u8>)> = vec![
        ("empty", vec![], None),
        ("eleven octets", good[..11].to_vec(), None),
        ("an answer", with(&|b| b[2] |= 0x80), None),
        (
            "a header that promises a question",
            good[..12].to_vec(),
            FORMERR,
        ),
        ("opcode IQUERY", with(&|b| b[2] |= 1 << 3), NOTIMP),
        ("opcode NOTIFY", with(&|b| b[2] |= 4 << 3), NOTIMP),
        ("opcode UPDATE", with(&|b| b[2] |= 5 << 3), NOTIMP),
        ("no question", with(&|b| b[5] = 0), FORMERR),
        ("two questions", with(&|b| b[5] = 2), FORMERR),
        ("65,535 questions", with(&|b| b[4..6].fill(0xff)), FORMERR),
        ("an answer record", with(&|b| b[7] = 1), FORMERR),
        ("three additional records", with(&|b| b[11] = 3), FORMERR),
        (
            "a pointer to itself",
            [&good[..12], &[0xc0, 0x0c, 0, 1, 0, 1]].concat(),
            FORMERR,
        ),
        (
            "a pointer into the header",
            [&good[..12], &[0xc0, 0x04, 0, 1, 0, 1]].concat(),
            FORMERR,
        ),
        ("a reserved label type", with(&|b| b[12] = 0x80), FORMERR),
        ("a name that runs out", good[..20].to_vec(), FORMERR),
        ("trailing octets", with(&|b| b.extend([0; 200])), FORMERR),
        ("class CH", with(&|b| *b.last_mut().unwrap() = 3), REFUSED),
        (
            "type OPT",
            with(&|b| {
                let at = b.len() - 3;
                b[at] = 41;
            }),
            FORMERR,
        ),
        (
            "AXFR",
            with(&|b| {
                let at = b.len() - 3;
                b[at] = 252;
            }),
            REFUSED,
        ),
        ("1,233 octets", with(&|b| b.resize(1_233, 0)), FORMERR),
    ];
    for (name, bytes, expected) in &cases {
        let wait = Duration::from_millis(if expected.is_some() { 2_000 } else { 300 });
        let answer = stage.ask(bytes, wait);
        assert_eq!(answer.as_deref().map(rcode), *expected, "{name}");
        if let Some(answer) = answer {
            assert_eq!(
                (&answer[..2], answer[2] & 0x80),
                (&[0x12, 0x34][..], 0x80),
                "{name}"
            );
            assert!(answer.len() <= bytes.len() + 50, "{name}: no amplification");
        }
    }
    assert_eq!(
        server.asked.load(std::sync::atomic::Ordering::Relaxed),
        0,
        "nothing malformed left the node"
    );
    let status = daemon.status().unwrap();
    let counted: u64 = status["dns"]["dns_malformed_total"]
        .as_object()
        .unwrap()
        .values()
        .map(|v| v.as_u64().unwrap())
        .sum();
    assert_eq!(
        counted,
        cases.len() as u64,
        "each is counted by reason: {status:#}"
    );
    let answer = stage.ask(&good, Duration::from_secs(2)).unwrap();
    assert_eq!(
        (rcode(&answer), &answer[answer.len() - 4..]),
        (0, &[198, 18, 0, 1][..]),
        "and the proxy goes on"
    );
}

#[test]
fn answers_that_are_no_answers_are_not_released_and_teach_nothing() {
    let stage = Stage::new();
    let address = |bytes: &[u8], last: u8| {
        let mut answer = bytes.to_vec();
        answer[2] = 0x84;
        answer[7] = 1;
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 18, 0, last]);
        answer
    };
    let _server = Answers::serve(&stage.world.ns, 53, move |query| {
        let good = address(query, 1);
        let label = query[13];
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = address(query, 66);
            change(&mut bytes);
            bytes
        };
        match label {
            // Another id, another question, a query: each ignored, then the true answer.
            b'a' => vec![
                changed(&|b| b[0] ^= 1),
                changed(&|b| b[14] ^= 1),
                changed(&|b| b[2] = 0),
                good,
            ],
            // An A record of five octets; a pointer that loops; an answer cut off.
            b'b' => vec![changed(&|b| {
                let at = b.len() - 5;
                b[at] = 5;
                b.push(0);
            })],
            b'c' => vec![changed(&|b| {
                let at = b.len() - 16;
                b[at + 1] = at as u8;
            })],
            b'd' => vec![changed(&|b| b.truncate(b.len() - 2))],
            // Ten false ones: somebody guesses.
            b'e' => (0..12).map(|_| changed(&|b| b[14] ^= 1)).collect(),
            // An address for a name that nobody asked for, in the answer section.
            b'f' => vec![changed(&|b| {
                let at = b.len() - 16;
                let owner = b"\x01x\x07example\x03com\0";
                b.splice(at..at + 2, owner.iter().copied());
            })],
            // NXDOMAIN with an address.
            b'g' => vec![changed(&|b| b[3] = 3)],
            _ => vec![],
        }
    })
    .unwrap();
    let _web = TcpSink::serve(&stage.world.ns, 80).unwrap();
    let daemon = stage.daemon();
    let ask = |label: &str| {
        stage.ask(
            &query(&format!("{label}.example.com"), 1),
            Duration::from_secs(7),
        )
    };
    let answer = ask("a").unwrap();
    assert_eq!(
        &answer[answer.len() - 4..],
        &[198, 18, 0, 1],
        "the first that fits"
    );
    for label in ["b", "c", "d", "e"] {
        assert_eq!(ask(label).map(|answer| rcode(&answer)), Some(2), "{label}");
    }
    assert_eq!(
        ask("f").map(|answer| rcode(&answer)),
        Some(0),
        "the bytes are the server's business"
    );
    assert_eq!(ask("g").map(|answer| rcode(&answer)), Some(3));
    let reaches = |last: u8| {
        let to = SocketAddr::from(([198, 18, 0, last], 80));
        stage
            .alice
            .ns
            .run(|| {
                TcpStream::connect_timeout(&to, Duration::from_millis(700) * patience()).is_ok()
            })
            .unwrap()
    };
    assert!(reaches(1));
    assert!(!reaches(66), "and no false one opened anything");
    let began = std::time::Instant::now();
    assert_eq!(
        ask("silent").map(|answer| rcode(&answer)),
        Some(2),
        "no answer: SERVFAIL before the stub gives up"
    );
    assert!(began.elapsed() > Duration::from_secs(4) && began.elapsed() < Duration::from_secs(5));
    let rejected = daemon.status().unwrap()["dns"]["dns_upstream_rejected_total"].clone();
    assert!(
        rejected["id"].as_u64() >= Some(1) && rejected["question"].as_u64() >= Some(1),
        "{rejected}"
    );
}

/// More than a connection may have asked at a time: the rest waits for room, and no clock of the client's runs.
#[test]
fn a_client_that_pipelines_to_a_silent_server_is_answered() {
    let stage = Stage::new();
    let silent = stage.world.ns.run(|| TcpListener::bind(("::", 53)));
    let _silent = silent.unwrap().unwrap();
    let _daemon = stage.daemon();
    let mut stream = stage.connect();
    let wait = Duration::from_secs(30) * patience();
    stream.set_read_timeout(Some(wait)).unwrap();
    let good = query("one.example.com", 1);
    let of = |id: u16| framed(&[&id.to_be_bytes()[..], &good[2..]].concat());
    let all: Vec<u8> = (0..100).flat_map(of).collect();
    stream.write_all(&all).unwrap();
    for _ in 0..100 {
        let answer = read_frame(&mut stream).unwrap();
        assert_eq!(rcode(&answer), 2);
    }
}

#[test]
fn connections_are_pipelined_patient_and_bounded() {
    let stage = Stage::new();
    let _knot = Running::knot(&stage.world.ns, "* 60 IN A 198.18.0.7\n").unwrap();
    let daemon = stage.daemon();
    let good = query("one.example.com", 1);

    // Two frames in one segment, one of them denied; then a half-close: both are answered.
    let mut stream = stage.connect();
    let mut denied = query("x.evil.test", 1);
    denied[0] = 0x77;
    stream
        .write_all(&[framed(&good), framed(&denied)].concat())
        .unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = [
        read_frame(&mut stream).unwrap(),
        read_frame(&mut stream).unwrap(),
    ];
    answers.sort();
    assert_eq!((answers[0][0], rcode(&answers[0])), (0x12, 0));
    assert_eq!((answers[1][0], rcode(&answers[1])), (0x77, 3));
    assert_eq!(read_frame(&mut stream), None, "and closed");

    // One octet at a time.
    let mut stream = stage.connect();
    stream.set_nodelay(true).unwrap();
    for octet in framed(&good) {
        stream.write_all(&[octet]).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(rcode(&read_frame(&mut stream).unwrap()), 0);

    // Two hundred frames at once: none refused.
    let mut stream = stage.connect();
    let mut all = Vec::new();
    for id in 0..200u16 {
        let mut one = good.clone();
        one[..2].copy_from_slice(&id.to_be_bytes());
        all.extend(framed(&one));
    }
    stream.write_all(&all).unwrap();
    let mut ids: Vec<u16> = (0..200)
        .map(|_| {
            let answer = read_frame(&mut stream).unwrap();
            assert_eq!(rcode(&answer), 0);
            u16::from_be_bytes([answer[0], answer[1]])
        })
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..200).collect::<Vec<_>>());

    // A frame of length 0, one shorter than a header, three malformed ones: closed.
    for bytes in [vec![0, 0], vec![0, 5, 1, 2, 3, 4, 5]] {
        let mut stream = stage.connect();
        stream.write_all(&bytes).unwrap();
        assert_eq!(read_frame(&mut stream), None, "{bytes:?}");
    }
    let mut stream = stage.connect();
    let garbage = framed(&[&good[..12], &[0xff; 8]].concat());
    stream.write_all(&garbage.repeat(3)).unwrap();
    for _ in 0..3 {
        assert_eq!(rcode(&read_frame(&mut stream).unwrap()), 1);
    }
    assert_eq!(read_frame(&mut stream), None);

    // A length of 65,535 and nothing more: closed after five seconds, the buffer never grew.
    let mut stream = stage.connect();
    stream.write_all(&[0xff, 0xff, 1]).unwrap();
    let began = std::time::Instant::now();
    assert_eq!(read_frame(&mut stream), None);
    assert!(
        began.elapsed() > Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    let counted = &daemon.status().unwrap()["dns"];
    assert_eq!(counted["dns_malformed_total"]["short"], 2);
    assert_eq!(counted["dns_quirks_total"]["frames-malformed"], 1);
    assert_eq!(counted["dns_quirks_total"]["frame-slow"], 1);
}

#[test]
fn a_server_that_refuses_connections_costs_the_client_an_answer_and_not_its_connection() {
    let stage = Stage::new();
    let daemon = stage.daemon();
    let mut stream = stage.connect();
    for _ in 0..2 {
        stream
            .write_all(&framed(&query("one.example.com", 1)))
            .unwrap();
        assert_eq!(rcode(&read_frame(&mut stream).unwrap()), 2);
    }
    assert_eq!(
        daemon.status().unwrap()["dns"]["dns_faults_total"]["unreachable"],
        2
    );
}

#[test]
fn the_size_that_a_client_announces_is_clamped_and_nothing_else_changes() {
    let stage = Stage::new();
    let (seen, heard) = std::sync::mpsc::channel();
    let _server = Answers::serve(&stage.world.ns, 53, move |query| {
        seen.send(query.to_vec()).unwrap();
        let mut answer = query.to_vec();
        answer[2] |= 0x80;
        vec![answer]
    })
    .unwrap();
    let _daemon = stage.daemon();
    let mut asked = query("MiXeD.example.com", 16);
    asked[11] = 1;
    // OPT: 4,096 octets, DO, an unknown option.
    asked.extend([
        0, 0, 41, 0x10, 0x00, 0, 0, 0x80, 0, 0, 6, 0xfd, 0xe9, 0, 2, 0xab, 0xcd,
    ]);
    let answer = stage.ask(&asked, Duration::from_secs(2)).unwrap();
    let sent = heard.recv().unwrap();
    let mut expected = asked.clone();
    let size_at = asked.len() - 14;
    expected[size_at..size_at + 2].copy_from_slice(&1_232u16.to_be_bytes());
    assert_eq!(
        sent[2..],
        expected[2..],
        "case, type and options as they came"
    );
    assert_ne!(sent[..2], asked[..2], "under an id of our own");
    assert_eq!(answer[..2], asked[..2]);
    assert_eq!(answer[3..], sent[3..], "the server's own bytes");
}

/// An OPT of 1,232 octets with these flags and options, as code and content.
fn opt(flags: u16, options: &[(u16, &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for (code, content) in options {
        all.extend(code.to_be_bytes());
        all.extend((content.len() as u16).to_be_bytes());
        all.extend(*content);
    }
    let mut opt = vec![0, 0, 41, 0x04, 0xd0, 0, 0];
    opt.extend(flags.to_be_bytes());
    opt.extend((all.len() as u16).to_be_bytes());
    opt.extend(all);
    opt
}

/// Options of an OPT.
type Options = &'static [(u16, &'static [u8])];
/// A name, the flags and the OPT of a query, those of its answer.
type Case = (&'static str, [u8; 2], (u16, Options), [u8; 2], Options);

#[test]
fn options_flags_and_signatures_pass_bit_for_bit_both_ways() {
    const DO: u16 = 0x8000;
    let stage = Stage::new();
    let (seen, heard) = std::sync::mpsc::channel();
    // What the server says is told it beforehand, but for the id and the question.
    let (tell, told) = std::sync::mpsc::channel::<([u8; 2], Vec<u8>)>();
    let _server = Answers::serve(&stage.world.ns, 53, move |query| {
        seen.send(query.to_vec()).unwrap();
        let (flags, behind) = told.recv().unwrap();
        let question = query
            .windows(4)
            .position(|end| end == [0, 1, 0, 1])
            .unwrap()
            + 4;
        let mut answer = query[..question].to_vec();
        answer[2..4].copy_from_slice(&flags);
        // One address and its signature, and an OPT.
        answer[6..12].copy_from_slice(&[0, 2, 0, 0, 0, 1]);
        answer.extend(behind);
        vec![answer]
    })
    .unwrap();
    let _daemon = stage.daemon();
    let address = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 18, 0, 1];
    let mut signature = vec![0xc0, 12, 0, 46, 0, 1, 0, 0, 0, 60, 0, 39];
    signature.extend([0, 1, 13, 3, 0, 0, 0, 60, 1, 2, 3, 4, 1, 2, 3, 3, 0xab, 0xcd]);
    signature.extend(b"\x07example\x03com\0");
    signature.extend([0x5a; 8]);
    let cases: [Case; 10] = [
        (
            "client subnet",
            [1, 0],
            (0, &[(8, &[0, 1, 24, 0, 192, 0, 2])]),
            [0x81, 0x80],
            &[(8, &[0, 1, 24, 24, 192, 0, 2])],
        ),
        (
            "cookie",
            [1, 0],
            (0, &[(10, b"CLIENTCO")]),
            [0x81, 0x80],
            &[(10, b"CLIENTCOSERVERCO")],
        ),
        (
            "padding",
            [1, 0],
            (DO, &[(12, &[0; 90])]),
            [0x81, 0x80],
            &[(12, &[0; 200])],
        ),
        (
            "EDE",
            [1, 0],
            (0, &[]),
            [0x81, 0x80],
            &[(15, b"\0\x03stale")],
        ),
        (
            "unknown",
            [1, 0],
            (0, &[(65_001, b"x"), (65_002, b"")]),
            [0x81, 0x80],
            &[(65_003, b"yz")],
        ),
        ("CD", [1, 0x10], (DO, &[]), [0x81, 0x90], &[]),
        ("AD", [1, 0x20], (0, &[]), [0x81, 0xa0], &[]),
        ("AD, CD and DO", [1, 0x30], (DO, &[]), [0x85, 0xb0], &[]),
        ("Z", [1, 0x40], (0x4001, &[]), [0x81, 0xc0], &[]),
        ("without RD and RA", [0, 0], (0, &[]), [0x80, 0], &[]),
    ];
    for (case, flags, (edns, options), said, back) in cases {
        let mut asked = query("MiXeD.example.com", 1);
        asked[2..4].copy_from_slice(&flags);
        asked[11] = 1;
        asked.extend(opt(edns, options));
        let behind = [&address[..], &signature, &opt(edns, back)].concat();
        tell.send((said, behind.clone())).unwrap();
        let answer = stage.ask(&asked, Duration::from_secs(4)).unwrap();
        let sent = heard.recv().unwrap();
        assert_eq!(sent[2..], asked[2..], "{case}: as the client wrote it");
        assert_eq!(answer[..2], asked[..2], "{case}");
        assert_eq!(answer[2..4], said, "{case}: the server's own flags");
        assert!(
            answer.ends_with(&behind),
            "{case}: the server's own records"
        );
        let question = query("MiXeD.example.com", 1);
        assert_eq!(answer[12..question.len()], question[12..], "{case}");
        assert_eq!(answer.len(), question.len() + behind.len(), "{case}");
    }
}
