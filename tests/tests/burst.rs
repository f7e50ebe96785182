//! Many questions at once: each is answered, and nobody's flood costs another one an answer.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]
#![expect(clippy::disallowed_methods, reason = "a workload's own sockets")]

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use namegate_tests::{Answers, Asking, Daemon, Node, TcpSink, Workload, patience, policy};

/// What the workloads may ask for.
const NAMES: &str = "[{matchPattern: '*.example.com'}]";
/// A socket's buffer as the kernel makes it holds so many small answers, and some more.
const PER_SOCKET: u16 = 240;

fn query(id: u16, label: &str) -> Vec<u8> {
    let mut bytes = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes[..2].copy_from_slice(&id.to_be_bytes());
    bytes.push(u8::try_from(label.len()).unwrap());
    bytes.extend(label.as_bytes());
    bytes.extend(b"\x07example\x03com\0\0\x01\0\x01");
    bytes
}

/// A socket of a workload that asks a server.
fn socket(workload: &Workload, server: SocketAddr) -> UdpSocket {
    let open = || UdpSocket::bind((workload.v4, 0)).unwrap();
    let socket = workload.ns.run(open).unwrap();
    socket.connect(server).unwrap();
    let wait = Duration::from_secs(8) * patience();
    socket.set_read_timeout(Some(wait)).unwrap();
    socket
}

/// A server with room for a burst, which says where each name is.
fn serve(at: &Workload) {
    let open = || UdpSocket::bind(("::", 53)).unwrap();
    let socket = at.ns.run(open).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..len].to_vec();
            (answer[2], answer[7]) = (0x84, 1);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 18, 0, 1]);
            let _ = socket.send_to(&answer, from);
        }
    });
}

fn started<'a>(node: &'a Node, workloads: &[&Workload], options: &[&str]) -> Daemon<'a> {
    let mut daemon = Daemon::prepare(node).unwrap();
    for workload in workloads {
        daemon.endpoint(workload).unwrap();
        let name = &workload.name;
        let file = format!("{name}.yaml");
        daemon.policy(&file, &policy(name, NAMES)).unwrap();
    }
    daemon.start(options).unwrap();
    daemon
}

fn counted(daemon: &Daemon<'_>, family: &str, word: &str) -> u64 {
    let status = daemon.status().unwrap();
    status["dns"][family][word].as_u64().unwrap_or(0)
}

/// They come while the daemon does nothing, so that all of them must wait in its sockets.
#[test]
fn of_five_thousand_questions_at_once_none_is_lost() {
    const EACH: u16 = 7 * PER_SOCKET;
    let node = Node::new().unwrap();
    let workloads = ["alice", "bob", "carol"];
    let workloads: Vec<Workload> = (2..)
        .zip(workloads)
        .map(|(place, name)| node.workload(name, place).unwrap())
        .collect();
    let world = node.elsewhere().unwrap();
    serve(&world);
    let all: Vec<&Workload> = workloads.iter().collect();
    let daemon = started(&node, &all, &[]);
    let server = SocketAddr::new(IpAddr::V4(world.v4), 53);
    let sockets: Vec<UdpSocket> = workloads
        .iter()
        .flat_map(|one| (0..EACH / PER_SOCKET).map(move |_| socket(one, server)))
        .collect();
    daemon.signal("STOP").unwrap();
    for socket in &sockets {
        for id in 0..PER_SOCKET {
            socket.send(&query(id, &format!("n{}", id % 50))).unwrap();
        }
    }
    daemon.signal("CONT").unwrap();
    let mut answered = 0;
    for socket in &sockets {
        let mut ids = BTreeSet::new();
        let mut answer = [0; 512];
        while ids.len() < usize::from(PER_SOCKET) {
            let Ok(len) = socket.recv(&mut answer) else {
                break;
            };
            assert_eq!(answer[3] & 0x0f, 0);
            assert_eq!(answer[len - 4..len], [198, 18, 0, 1]);
            ids.insert(u16::from_be_bytes([answer[0], answer[1]]));
        }
        answered += ids.len();
    }
    assert_eq!(answered, sockets.len() * usize::from(PER_SOCKET));
    assert!(answered > 5_000);
    assert_eq!(counted(&daemon, "dns_quirks_total", "buffer-full"), 0);
}

#[test]
fn who_floods_a_silent_server_takes_no_answer_from_another() {
    /// More than may wait of one endpoint.
    const FLOOD: u16 = 3_000;
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let bob = node.workload("bob", 3).unwrap();
    let world = node.elsewhere().unwrap();
    let _names = Answers::names(&world.ns, 60).unwrap();
    let daemon = started(&node, &[&alice, &bob], &[]);
    let server = SocketAddr::new(IpAddr::V4(world.v4), 53);
    let flood: Vec<UdpSocket> = (0..20).map(|_| socket(&alice, server)).collect();
    let mut asking = Asking::new(&bob, server.ip(), Duration::from_secs(8)).unwrap();
    let mut sent = 0;
    for n in 0..300 {
        // Ten rounds of it, so that the flood is beyond its share all along.
        for _ in 0..FLOOD / 30 {
            let socket = &flood[usize::from(sent % 20)];
            socket.send(&query(sent, &format!("silent{sent}"))).unwrap();
            sent += 1;
        }
        let (len, answer) = asking.ask(&format!("n{n}")).unwrap();
        assert_eq!(answer[3] & 0x0f, 0, "{n}");
        assert!(answer.len() > len, "{n}: an address");
    }
    assert!(
        counted(&daemon, "dns_faults_total", "outstanding") > 0,
        "the flood had more than its share"
    );
}

/// Asks for so many fresh names, from `first` on, and connects to each as soon as its answer is there.
fn ask_and_connect(workload: &Workload, server: IpAddr, (first, count): (u32, u32)) {
    let wait = Duration::from_secs(5) * patience();
    let mut asking = Asking::new(workload, server, wait).unwrap();
    let run = || {
        for index in first..first + count {
            let (_, answer) = asking.ask(&format!("n{index}")).unwrap();
            let address: [u8; 4] = answer[answer.len() - 4..].try_into().unwrap();
            let expected = u32::from_be_bytes([198, 18, 0, 0]) + index;
            assert_eq!(u32::from_be_bytes(address), expected);
            let to = SocketAddr::new(IpAddr::from(address), 80);
            let connected = TcpStream::connect_timeout(&to, wait);
            let mut stream = connected.unwrap_or_else(|error| panic!("{to}: {error}"));
            // Taken in, so that the server's queue never overflows, which would cost SYNs too.
            stream.set_read_timeout(Some(wait)).unwrap();
            stream.read_exact(&mut [0; 6]).unwrap();
        }
    };
    workload.ns.run(run).unwrap();
}

/// Law 1 at ten times the size of the test in `enforce.rs`, with as many workloads as that many names need.
#[test]
#[ignore = "minutes"]
fn no_first_syn_is_lost_after_a_hundred_thousand_fresh_answers() {
    const WORKLOADS: u32 = 16;
    const EACH: u32 = 6_250;
    let node = Node::new().unwrap();
    let open = |n| node.workload(&format!("w{n}"), u8::try_from(n + 2).unwrap());
    let workloads: Vec<Workload> = (0..WORKLOADS).map(|n| open(n).unwrap()).collect();
    let world = node.elsewhere().unwrap();
    let _names = Answers::names(&world.ns, 3_600).unwrap();
    let _sink = TcpSink::serve(&world.ns, 80).unwrap();
    let all: Vec<&Workload> = workloads.iter().collect();
    // None is withheld because so many threads share a few processors.
    let daemon = started(&node, &all, &["--dns-install-wait", "4s"]);
    let repeated = |one: &Workload| one.kernel_count("Tcp", "RetransSegs").unwrap();
    let before: Vec<_> = workloads.iter().map(repeated).collect();
    let denied = daemon.counter("policy-denied").unwrap();
    let server = IpAddr::V4(world.v4);
    std::thread::scope(|scope| {
        for (n, workload) in (0..).zip(&workloads) {
            scope.spawn(move || ask_and_connect(workload, server, (n * EACH, EACH)));
        }
    });
    assert_eq!(daemon.counter("policy-denied").unwrap(), denied);
    let after: Vec<_> = workloads.iter().map(repeated).collect();
    assert_eq!(after, before, "a SYN was sent twice");
    let status = daemon.status().unwrap();
    assert_eq!(status["learning"]["installed"], WORKLOADS * EACH);
}
