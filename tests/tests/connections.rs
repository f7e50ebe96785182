//! Connections for names on the real path: what one may hold, and what becomes of it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]
#![expect(clippy::disallowed_methods, reason = "a workload's own sockets")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use namegate_tests::{Daemon, Node, TcpSink, Workload, patience, policy};

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
        let names = policy("alice", "[{matchPattern: '*.example.com'}]");
        let mut daemon = Daemon::guarding(&self.node, &self.alice, &names).unwrap();
        daemon.start(&[]).unwrap();
        daemon
    }

    /// The server, whom the test plays.
    fn listen(&self) -> TcpListener {
        let listen = || TcpListener::bind(("::", 53)).unwrap();
        self.world.ns.run(listen).unwrap()
    }

    fn connect_to(&self, port: u16) -> Option<TcpStream> {
        let to = SocketAddr::new(IpAddr::V4(self.world.v4), port);
        let wait = Duration::from_secs(2) * patience();
        let connect = || TcpStream::connect_timeout(&to, wait).ok();
        let stream = self.alice.ns.run(connect).unwrap()?;
        set_patience(&stream);
        Some(stream)
    }

    fn connect(&self) -> TcpStream {
        self.connect_to(53).unwrap()
    }
}

fn set_patience(stream: &TcpStream) {
    let wait = Duration::from_secs(20) * patience();
    stream.set_read_timeout(Some(wait)).unwrap();
    stream.set_write_timeout(Some(wait)).unwrap();
}

fn accepted(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    set_patience(&stream);
    stream
}

/// A query for A records, framed.
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    framed(&message)
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap();
    [&length.to_be_bytes()[..], message].concat()
}

fn read_frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

/// The answer to a query with so many addresses, from 198.18.0.1 on, framed.
fn answer(query: &[u8], addresses: u16) -> Vec<u8> {
    let mut message = query.to_vec();
    message[2] = 0x84;
    message[6..8].copy_from_slice(&addresses.to_be_bytes());
    for n in 1..=addresses {
        let [high, low] = n.to_be_bytes();
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 18, high, low]);
    }
    framed(&message)
}

fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn counted(daemon: &Daemon<'_>, (family, word): (&str, &str)) -> u64 {
    let status = daemon.status().unwrap();
    status["dns"][family][word].as_u64().unwrap_or(0)
}

fn wait_for(daemon: &Daemon<'_>, what: (&str, &str), count: u64) {
    let (began, wait) = (Instant::now(), Duration::from_secs(20) * patience());
    while counted(daemon, what) < count {
        assert!(began.elapsed() < wait, "{what:?} stays below {count}");
    }
    assert_eq!(counted(daemon, what), count, "{what:?}");
}

#[test]
fn of_pipelined_answers_one_is_withheld_and_the_others_come() {
    let stage = Stage::new();
    let listener = stage.listen();
    let daemon = stage.daemon();
    let mut client = stage.connect();
    let all: Vec<u8> = (1..4)
        .flat_map(|id| query(id, &format!("n{id}.example.com")))
        .collect();
    client.write_all(&all).unwrap();
    let mut server = accepted(&listener);
    let asked = [(); 3].map(|()| read_frame(&mut server).unwrap());
    // The last one first; the second has more addresses than an answer may have.
    for (place, addresses) in [(2, 1), (1, 1_001), (0, 1)] {
        let answer = answer(&asked[place], addresses);
        server.write_all(&answer).unwrap();
    }
    let told = [(); 3].map(|()| read_frame(&mut client).unwrap());
    let told = told.map(|answer| (answer[1], answer[3] & 0x0f));
    assert_eq!(told, [(3, 0), (2, 2), (1, 0)]);
    assert_eq!(counted(&daemon, ("dns_faults_total", "too-many")), 1);
}

#[test]
fn who_resets_learns_nothing_and_its_connection_to_the_server_ends() {
    let stage = Stage::new();
    let listener = stage.listen();
    let _web = TcpSink::serve(&stage.world.ns, 80).unwrap();
    let daemon = stage.daemon();
    let mut client = stage.connect();
    client.write_all(&query(1, "n1.example.com")).unwrap();
    let mut server = accepted(&listener);
    let asked = read_frame(&mut server).unwrap();
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    assert!(is_closed(&mut server));
    let _ = server.write_all(&answer(&asked, 1));
    wait_for(&daemon, ("dns_exchanges_total", "client-gone"), 1);
    let listed = daemon.namegate(&["fqdn", "cache", "list", "-o", "json"]);
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    assert!(!listed.contains("n1.example.com"), "{listed}");
}

#[test]
fn who_does_not_read_is_closed() {
    let stage = Stage::new();
    let listener = stage.listen();
    let daemon = stage.daemon();
    let mut client = stage.connect();
    client.write_all(&query(0, "n.example.com")).unwrap();
    let mut server = accepted(&listener);
    let serving = std::thread::spawn(move || {
        while let Some(asked) = read_frame(&mut server) {
            // As much as an answer may be, and nothing to learn.
            let mut much = asked.clone();
            (much[2], much[9]) = (0x84, 1);
            much.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60, 0xc8, 0]);
            much.extend([&[255][..], &[b'x'; 255]].concat().repeat(200));
            if server.write_all(&framed(&much)).is_err() {
                return;
            }
        }
    });
    for id in (1..=u16::MAX).cycle() {
        if client.write_all(&query(id, "n.example.com")).is_err() {
            break;
        }
    }
    serving.join().unwrap();
    wait_for(&daemon, ("dns_quirks_total", "reader-slow"), 1);
}

#[test]
fn a_workload_has_sixty_four_connections() {
    let stage = Stage::new();
    let listener = stage.listen();
    let daemon = stage.daemon();
    let open = |_| {
        let mut client = stage.connect();
        client.write_all(&query(1, "n.example.com")).unwrap();
        let mut server = accepted(&listener);
        let asked = read_frame(&mut server).unwrap();
        (client, server, asked)
    };
    let mut busy: Vec<_> = (0..64).map(open).collect();
    assert!(is_closed(&mut stage.connect()), "all are busy");
    wait_for(&daemon, ("dns_quirks_total", "connection-refused"), 1);
    let (client, server, asked) = &mut busy[7];
    server.write_all(&answer(asked, 1)).unwrap();
    assert_eq!(read_frame(client).unwrap()[3] & 0x0f, 0);
    let mut next = stage.connect();
    next.write_all(&query(2, "other.test")).unwrap();
    assert_eq!(read_frame(&mut next).unwrap()[3] & 0x0f, 3, "served");
    assert!(is_closed(&mut busy[7].0), "the idle one made room");
    wait_for(&daemon, ("dns_quirks_total", "connection-replaced"), 1);
}
