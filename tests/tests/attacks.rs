//! What a workload tries in order to ask for more than it may, each attempt through the real gate, with what
//! the client is told and what the server sees.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "a test may die, and tables are long"
)]
#![expect(clippy::disallowed_methods, reason = "a workload's own sockets")]

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use namegate_tests::{Answers, Daemon, Node, Workload, patience, read_frame};

const A: u16 = 1;
const IN: u16 = 1;
const CH: u16 = 3;
const OPT: u16 = 41;
const RD: u16 = 0x0100;

/// Whom alice may ask: the server elsewhere for good.com and one label below, and any workload for anything.
/// At port 5353 no rule speaks of names.
const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: attacks}
spec:
  endpointSelector: {matchLabels: {app: alice}}
  egress:
  - toCIDR: [203.0.113.2/32]
    toPorts:
    - ports: [{port: '53', protocol: ANY}]
      rules: {dns: [{matchName: good.com}, {matchPattern: '*.good.com'}]}
    - ports: [{port: '5353', protocol: UDP}]
  - toEndpoints: [{}]
    toPorts:
    - ports: [{port: '53', protocol: UDP}]
      rules: {dns: [{matchPattern: '*'}]}
  - toFQDNs: [{matchName: good.com}, {matchPattern: '*.good.com'}]
";

/// What becomes of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// NXDOMAIN, or no data above a name that may be asked; nothing leaves.
    Denied,
    /// An answer of the gate's with this code; nothing leaves.
    Told(u8),
    /// One query leaves, as it came but for the id.
    Forwarded,
}

const FORMERR: Then = Then::Told(1);
const NOTIMP: Then = Then::Told(4);
const REFUSED: Then = Then::Told(5);

/// What a server was asked, in the order of arrival.
type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

struct Stage {
    node: Node,
    alice: Workload,
    bob: Workload,
    world: Workload,
}

impl Stage {
    fn new() -> Self {
        let node = Node::new().unwrap();
        let (alice, bob) = (
            node.workload("alice", 2).unwrap(),
            node.workload("bob", 3).unwrap(),
        );
        let world = node.elsewhere().unwrap();
        Self {
            node,
            alice,
            bob,
            world,
        }
    }

    fn daemon(&self) -> Daemon<'_> {
        let mut daemon = Daemon::prepare(&self.node).unwrap();
        daemon.endpoint(&self.alice).unwrap();
        daemon.endpoint(&self.bob).unwrap();
        daemon.policy("attacks.yaml", POLICY).unwrap();
        daemon.start(&[]).unwrap();
        daemon
    }

    fn server(&self) -> SocketAddr {
        SocketAddr::new(self.world.v4.into(), 53)
    }

    /// What alice is told by a server; nothing if it takes long.
    fn ask(&self, server: SocketAddr, bytes: &[u8], wait: Duration) -> Option<Vec<u8>> {
        self.ask_from(self.alice.v4, (server, bytes), wait)
    }

    fn ask_from(
        &self,
        source: Ipv4Addr,
        (server, bytes): (SocketAddr, &[u8]),
        wait: Duration,
    ) -> Option<Vec<u8>> {
        let ask = || {
            let socket = UdpSocket::bind((source, 0)).unwrap();
            socket.connect(server).unwrap();
            socket.set_read_timeout(Some(wait)).unwrap();
            socket.send(bytes).unwrap();
            let mut answer = vec![0; 4_096];
            let len = socket.recv(&mut answer).ok()?;
            answer.truncate(len);
            Some(answer)
        };
        self.alice.ns.run(ask).unwrap()
    }

    /// The same in a connection of its own.
    fn ask_by_tcp(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let wait = Duration::from_secs(2) * patience();
        let connect = || TcpStream::connect_timeout(&self.server(), wait);
        let mut stream = self.alice.ns.run(connect).unwrap().unwrap();
        stream.set_read_timeout(Some(wait)).unwrap();
        let len = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        stream.write_all(&[&len[..], bytes].concat()).unwrap();
        read_frame(&mut stream)
    }
}

/// Answers everything, over both protocols: an address of its own choice to whoever asks for one.
fn serve(at: &Workload, port: u16) -> (Answers, Seen) {
    let seen = Seen::default();
    let (heard, by_tcp) = (Arc::clone(&seen), Arc::clone(&seen));
    let answers = Answers::serve(&at.ns, port, move |query| {
        heard.lock().unwrap().push(query.to_vec());
        vec![answer_to(query)]
    });
    let listener = at
        .ns
        .run(|| TcpListener::bind(("::", port)))
        .unwrap()
        .unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let seen = Arc::clone(&by_tcp);
            std::thread::spawn(move || {
                while let Some(query) = read_frame(&mut stream) {
                    let answer = answer_to(&query);
                    seen.lock().unwrap().push(query);
                    let len = u16::try_from(answer.len()).unwrap().to_be_bytes();
                    stream.write_all(&[&len[..], &answer].concat()).unwrap();
                }
            });
        }
    });
    (answers.unwrap(), seen)
}

/// The first question repeated; 198.18.0.66 to one for A.
fn answer_to(query: &[u8]) -> Vec<u8> {
    let mut end = 12;
    while query[end] != 0 {
        end += 1 + usize::from(query[end]);
    }
    let question = &query[12..end + 5];
    let is_a = question[question.len() - 4..] == [0, 1, 0, 1];
    let mut answer = [
        &query[..2],
        &[0x84, 0, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0],
        question,
    ]
    .concat();
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 18, 0, 66]);
    }
    answer
}

/// A query of one question, whose name is given by its labels.
fn of(labels: &[&[u8]]) -> Vec<u8> {
    asked(&wire(labels), (A, IN))
}

fn wire(labels: &[&[u8]]) -> Vec<u8> {
    let labels = labels
        .iter()
        .flat_map(|label| [&[label.len() as u8][..], label].concat());
    labels.chain([0]).collect()
}

fn asked(name: &[u8], (qtype, qclass): (u16, u16)) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [0x1234, RD, 1, 0, 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(name);
    bytes.extend(qtype.to_be_bytes());
    bytes.extend(qclass.to_be_bytes());
    bytes
}

/// The same for a name of plain labels.
fn plain(name: &str, kind: (u16, u16)) -> Vec<u8> {
    let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
    asked(&wire(&labels), kind)
}

/// With one additional record.
fn with_additional(
    mut query: Vec<u8>,
    owner: &[u8],
    (kind, class): (u16, u16),
    data: &[u8],
) -> Vec<u8> {
    query[11] += 1;
    query.extend(owner);
    query.extend(kind.to_be_bytes());
    query.extend(class.to_be_bytes());
    query.extend([0; 4]);
    query.extend((data.len() as u16).to_be_bytes());
    query.extend(data);
    query
}

/// Names that look like one that may be asked for, and are none or are.
fn names() -> Vec<(&'static str, Vec<u8>, Then)> {
    use Then::{Denied, Forwarded};
    let hex = b"0123456789abcdef".repeat(4);
    let long = |last: usize| {
        let full: &[u8] = &[b'x'; 63];
        let part = vec![b'x'; last];
        asked(&wire(&[full, full, full, &part]), (A, IN))
    };
    vec![
        ("the name", of(&[b"good", b"com"]), Forwarded),
        ("in capitals", of(&[b"GOOD", b"CoM"]), Forwarded),
        ("one label below", of(&[b"www", b"good", b"com"]), Forwarded),
        (
            "an underscore below",
            of(&[b"_dmarc", b"good", b"com"]),
            Forwarded,
        ),
        (
            "three labels below",
            of(&[b"a", b"b", b"c", b"good", b"com"]),
            Denied,
        ),
        ("a suffix of letters", of(&[b"notgood", b"com"]), Denied),
        (
            "the name in front",
            of(&[b"good", b"com", b"evil", b"com"]),
            Denied,
        ),
        (
            "another domain with its letters",
            of(&[b"good", b"comevil", b"com"]),
            Denied,
        ),
        (
            "the same with a hyphen",
            of(&[b"good", b"com-evil", b"com"]),
            Denied,
        ),
        (
            "a dot inside a label",
            of(&[b"evil", b"com.good", b"com"]),
            Denied,
        ),
        (
            "a dot inside a label below",
            of(&[b"www.good", b"com"]),
            Denied,
        ),
        ("all in one label", of(&[b"good.com"]), Denied),
        ("a NUL behind", of(&[b"good", b"com\0"]), Denied),
        ("a backslash", of(&[b"evil\\", b"good", b"com"]), Denied),
        ("an asterisk below", of(&[b"*", b"good", b"com"]), Denied),
        (
            "a letter that looks alike",
            of(&["gооd".as_bytes(), b"com"]),
            Denied,
        ),
        ("its A-label", of(&[b"xn--gd-gmca", b"com"]), Denied),
        ("the root", of(&[]), Denied),
        (
            "63 octets of data below",
            of(&[&hex[..63], b"good", b"com"]),
            Forwarded,
        ),
        (
            "64 octets in a label",
            of(&[&hex, b"good", b"com"]),
            FORMERR,
        ),
        ("255 octets", long(61), Denied),
        ("256 octets", long(62), FORMERR),
        (
            "an empty label in the middle",
            asked(b"\0\x04good\x03com\0", (A, IN)),
            FORMERR,
        ),
    ]
}

/// Messages that carry more than one question for one name.
fn messages() -> Vec<(&'static str, Vec<u8>, Then)> {
    use Then::Forwarded;
    let good = || plain("good.com", (A, IN));
    let pointer = |to: u8| [&good()[..12], &[0xc0, to, 0, 1, 0, 1]].concat();
    let opcode = |code: u8| {
        let mut bytes = good();
        bytes[2] |= code << 3;
        bytes
    };
    let mut twice = good();
    twice[5] = 2;
    twice.extend(plain("evil.com", (A, IN)).split_off(12));
    let unknown = [&[0xfd, 0xe9, 0x01, 0x8c][..], &[7; 396]].concat();
    vec![
        ("TXT", plain("good.com", (16, IN)), Forwarded),
        ("NULL", plain("good.com", (10, IN)), Forwarded),
        ("ANY", plain("good.com", (255, IN)), Forwarded),
        ("class CH", plain("good.com", (A, CH)), REFUSED),
        (
            "the server's version",
            plain("version.bind", (16, CH)),
            REFUSED,
        ),
        ("AXFR", plain("good.com", (252, IN)), REFUSED),
        ("IXFR", plain("good.com", (251, IN)), REFUSED),
        ("UPDATE", opcode(5), NOTIMP),
        ("NOTIFY", opcode(4), NOTIMP),
        ("DSO", opcode(6), NOTIMP),
        ("two questions", twice, FORMERR),
        (
            "a secret as the owner of a record",
            with_additional(
                good(),
                &wire(&[b"secret", b"evil", b"com"]),
                (16, IN),
                b"\x01x",
            ),
            FORMERR,
        ),
        (
            "200 octets behind",
            [good(), vec![9; 200]].concat(),
            FORMERR,
        ),
        (
            "an option of 400 octets",
            with_additional(good(), b"\0", (OPT, 1_232), &unknown),
            Forwarded,
        ),
        (
            "letters that carry bits",
            plain("gOoD.cOm", (A, IN)),
            Forwarded,
        ),
        ("a pointer to itself", pointer(0x0c), FORMERR),
        ("a pointer into the header", pointer(0x04), FORMERR),
        (
            "65,535 questions",
            [&good()[..4], &[0xff; 2], &good()[6..]].concat(),
            FORMERR,
        ),
    ]
}

#[track_caller]
fn check(
    what: &str,
    (query, then): (&[u8], Then),
    (answer, seen): (Option<Vec<u8>>, Vec<Vec<u8>>),
) {
    let answer = answer.unwrap_or_else(|| panic!("{what}: no answer"));
    let (rcode, answers) = (answer[3] & 15, answer[7]);
    assert_eq!(answer[..2], query[..2], "{what}");
    match then {
        Then::Forwarded => {
            assert_eq!((rcode, seen.len()), (0, 1), "{what}");
            assert_eq!(seen[0][2..], query[2..], "{what}: as it came");
            assert_ne!(seen[0][..2], query[..2], "{what}: with an id of the gate's");
            return;
        }
        Then::Denied => assert!(rcode == 3 || rcode == 0, "{what}: {rcode}"),
        Then::Told(code) => assert_eq!(rcode, code, "{what}"),
    }
    assert_eq!((answers, seen), (0, vec![]), "{what}: nothing leaves");
}

#[test]
fn whatever_a_query_looks_like_it_is_what_its_labels_are() {
    let stage = Stage::new();
    let (_answers, seen) = serve(&stage.world, 53);
    let daemon = stage.daemon();
    let take = || std::mem::take(&mut *seen.lock().unwrap());
    let wait = Duration::from_secs(2) * patience();
    let rows = names().into_iter().chain(messages());
    let mut forwarded = 0;
    for (what, query, then) in rows {
        let answer = stage.ask(stage.server(), &query, wait);
        check(&format!("{what}, UDP"), (&query, then), (answer, take()));
        let answer = stage.ask_by_tcp(&query);
        check(&format!("{what}, TCP"), (&query, then), (answer, take()));
        forwarded += if then == Then::Forwarded { 2 } else { 0 };
    }
    let status = daemon.status().unwrap();
    assert_eq!(status["dns"]["dns_exchanges_total"]["answered"], forwarded);
    // A name that would never end is read no longer than another.
    let pointer = messages()
        .into_iter()
        .find(|(what, ..)| *what == "a pointer to itself");
    let (_, pointer, _) = pointer.unwrap();
    let times = (0..20).map(|_| {
        let began = Instant::now();
        stage.ask(stage.server(), &pointer, wait).unwrap();
        began.elapsed()
    });
    let quickest = times.min().unwrap();
    assert!(
        quickest < Duration::from_millis(5) * patience(),
        "{quickest:?}"
    );
}

#[test]
fn neither_another_server_nor_another_port_nor_another_source_helps() {
    let stage = Stage::new();
    let (_answers, seen) = serve(&stage.world, 53);
    let (_other_port, seen_at_5353) = serve(&stage.world, 5353);
    let (_own, seen_by_bob) = serve(&stage.bob, 53);
    let daemon = stage.daemon();
    let wait = Duration::from_secs(2) * patience();
    let moment = Duration::from_millis(300);
    let good = plain("good.com", (A, IN));
    let learned = || {
        let status = daemon.status().unwrap();
        let all = status["endpoints"].as_array().unwrap().iter();
        all.map(|one| one["open_addresses"].as_u64().unwrap())
            .sum::<u64>()
    };
    let count = |seen: &Seen| seen.lock().unwrap().len();

    // A server that no rule names: the same one, by another of its addresses.
    let stranger = SocketAddr::from(([198, 18, 0, 53], 53));
    let before = daemon.counter("policy-denied").unwrap();
    assert_eq!(stage.ask(stranger, &good, moment), None);
    let connect = || TcpStream::connect_timeout(&stranger, moment).is_err();
    assert!(stage.alice.ns.run(connect).unwrap());
    assert!(daemon.counter("policy-denied").unwrap() >= before + 2);
    assert_eq!(count(&seen), 0);

    // A port at which no rule speaks of names is a port like any other: what passes there teaches nothing.
    let at_5353 = SocketAddr::new(stage.world.v4.into(), 5353);
    let answer = stage
        .ask(at_5353, &plain("evil.com", (A, IN)), wait)
        .unwrap();
    assert_eq!(answer[7], 1);
    assert!(stage.ask(at_5353, &good, wait).is_some());
    assert_eq!((count(&seen_at_5353), learned()), (2, 0));

    // A server of its own, in another workload, that gives an address of its choice for a name.
    let own = SocketAddr::new(IpAddr::V4(stage.bob.v4), 53);
    let answer = stage.ask(own, &good, wait).unwrap();
    assert_eq!((answer[7], count(&seen_by_bob), learned()), (1, 1, 0));
    assert_eq!(daemon.status().unwrap()["learning"]["untrusted_server"], 1);

    // The address of another workload as the source.
    let theirs = Ipv4Addr::new(10, 0, 0, 77);
    let added = format!("{theirs}/32");
    stage
        .alice
        .check("ip", &["address", "add", &added, "dev", "lo"])
        .unwrap();
    let before = daemon.counter("invalid-source-ip").unwrap();
    assert_eq!(
        stage.ask_from(theirs, (stage.server(), &good), moment),
        None
    );
    assert!(daemon.counter("invalid-source-ip").unwrap() > before);
    assert_eq!((count(&seen), learned()), (0, 0));

    // And the way that is meant, at last.
    assert!(stage.ask(stage.server(), &good, wait).is_some());
    assert_eq!((count(&seen), learned()), (1, 1));
}
