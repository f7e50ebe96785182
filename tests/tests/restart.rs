//! DNS while the daemon is away: queries wait for the next one and are judged by it, whoever keeps the
//! sockets meanwhile.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a workload's own sockets; a test's patience"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use namegate_tests::{Answers, Asker, Daemon, Node, Told, Workload, patience, policy};

const NAMES: &str = "[{matchPattern: '*.example.com'}]";
/// 500 queries a second.
const OFTEN: Duration = Duration::from_millis(2);
/// One each millisecond.
const VERY_OFTEN: Duration = Duration::from_millis(1);

/// A workload that asks, and a server that counts what must not reach it.
struct Scene {
    node: Node,
    alice: Workload,
    server: SocketAddr,
    denied: Arc<AtomicU64>,
    names: Answers,
}

impl Scene {
    fn new() -> Self {
        let node = Node::new().unwrap();
        let alice = node.workload("alice", 2).unwrap();
        let world = node.elsewhere().unwrap();
        let denied = Arc::new(AtomicU64::new(0));
        let names = Answers::names_but(&world.ns, b"evil", Arc::clone(&denied)).unwrap();
        Self {
            server: SocketAddr::new(world.v4.into(), 53),
            node,
            alice,
            denied,
            names,
        }
    }

    fn daemon(&self) -> Daemon<'_> {
        Daemon::guarding(&self.node, &self.alice, &policy("alice", NAMES)).unwrap()
    }

    fn ask(&self, pace: Duration) -> Asker {
        Asker::start(&self.alice, self.server, pace).unwrap()
    }

    /// All were answered as policy says, and nothing that it denies reached the server.
    fn check(&self, told: &Told) {
        let said = format!(
            "of {}: unanswered {:?}, unserved {:?}, undenied {:?}",
            told.asked, told.unanswered, told.unserved, told.undenied
        );
        assert!(told.asked > 500, "{said}");
        assert!(told.unanswered.is_empty(), "{said}");
        assert!(told.unserved.is_empty(), "{said}");
        assert!(told.undenied.is_empty(), "{said}");
        assert_eq!(self.denied.load(Ordering::Relaxed), 0);
    }

    /// A client that asks once and waits.
    fn client(&self) -> UdpSocket {
        let socket = self.alice.ns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let socket = socket.unwrap();
        socket.connect(self.server).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(3)))
            .unwrap();
        socket
    }
}

/// `n1.example.com`, with an id.
fn query(id: u16) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend(
        b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02n1\x07example\x03com\x00\x00\x01\x00\x01",
    );
    out
}

fn hears(socket: &UdpSocket, id: u16) -> bool {
    let mut answer = [0; 512];
    let heard = socket.recv(&mut answer);
    heard.is_ok() && answer[..2] == id.to_be_bytes() && answer[3] & 15 == 0
}

fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// A restart within this is one in which nothing may be lost.
const AWAY_MAX: Duration = Duration::from_secs(3);
/// Restarts that count.
const RESTARTS: usize = 3;
/// Restarts until so many were quick enough: machines are shared.
const TRIES: usize = 20;

/// Asks all the time while `restart` ends the daemon and starts the next one, and checks what was told. A
/// restart that took so long that clients give up proves only that nothing passes unjudged.
fn loses_nothing(scene: &Scene, pace: Duration, mut restart: impl FnMut()) {
    let mut counted = 0;
    for _ in 0..TRIES {
        let asker = scene.ask(pace);
        pause(700);
        let began = Instant::now();
        restart();
        let away = began.elapsed();
        pause(500);
        let told = asker.end().unwrap();
        assert!(told.undenied.is_empty(), "{:?}", told.undenied);
        assert_eq!(scene.denied.load(Ordering::Relaxed), 0);
        if away <= AWAY_MAX * patience() {
            scene.check(&told);
            counted += 1;
        }
        if counted == RESTARTS {
            return;
        }
    }
    panic!("of {TRIES} restarts {counted} were quick");
}

#[test]
fn no_query_is_lost_when_the_daemon_is_killed() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    daemon.start(&[]).unwrap();
    loses_nothing(&scene, OFTEN, || {
        daemon.end_with("KILL").unwrap();
        daemon.start(&[]).unwrap();
    });
}

#[test]
fn no_query_is_lost_by_an_upgrade() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    daemon.start(&[]).unwrap();
    loses_nothing(&scene, VERY_OFTEN, || {
        assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
        daemon.start(&[]).unwrap();
    });
}

#[test]
fn no_query_is_lost_where_systemd_keeps_the_sockets() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    daemon.manage(64);
    daemon.start(&[]).unwrap();
    let status = daemon.status().unwrap();
    assert_eq!(status["listeners"]["by"], "systemd", "{status}");
    let mut signals = ["KILL", "TERM"].into_iter().cycle();
    loses_nothing(&scene, OFTEN, || {
        let pid = daemon.status().unwrap()["pid"].as_u64().unwrap();
        let signal = format!("-{}", signals.next().unwrap());
        let pid_text = pid.to_string();
        scene.node.check("kill", &[&signal, &pid_text]).unwrap();
        wait_for_other(&daemon, pid);
    });
    daemon.end_with("TERM").unwrap();
}

fn wait_for_other(daemon: &Daemon<'_>, pid: u64) {
    let late = Instant::now() + Duration::from_secs(30) * patience();
    while Instant::now() < late {
        if daemon
            .status()
            .is_ok_and(|status| status["pid"].as_u64().is_some_and(|now| now != pid))
        {
            return;
        }
        pause(50);
    }
    panic!("no other daemon came");
}

/// What systemd has no room for is not missed.
#[test]
fn a_store_that_is_too_small_loses_queries_and_no_more() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    daemon.manage(1);
    daemon.start(&[]).unwrap();
    let pid = daemon.status().unwrap()["pid"].as_u64().unwrap();
    scene
        .node
        .check("kill", &["-KILL", &pid.to_string()])
        .unwrap();
    wait_for_other(&daemon, pid);
    for id in 0..50 {
        let socket = scene.client();
        socket.send(&query(id)).unwrap();
        assert!(hears(&socket, id), "{id}");
    }
    daemon.end_with("TERM").unwrap();
}

#[test]
fn a_connection_waits_for_the_next_daemon_too() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    daemon.start(&[]).unwrap();
    daemon.end_with("KILL").unwrap();
    let connect = || TcpStream::connect_timeout(&scene.server, Duration::from_secs(2));
    let mut stream = scene.alice.ns.run(connect).unwrap().unwrap();
    let message = query(7);
    let frame = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
    stream.write_all(&frame).unwrap();
    daemon.start(&[]).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    let mut answer = [0; 14];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[2..4], 7_u16.to_be_bytes());
    assert_eq!((answer[5] & 15, answer[9]), (0, 1), "{answer:?}");
}

/// A client that asked so long ago has asked again or given up.
#[test]
fn what_waited_for_too_long_is_not_asked() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    daemon.start(&[]).unwrap();
    daemon.end_with("KILL").unwrap();
    let (old, new) = (scene.client(), scene.client());
    old.send(&query(1)).unwrap();
    pause(6_000);
    daemon.start(&[]).unwrap();
    new.send(&query(2)).unwrap();
    assert!(hears(&new, 2));
    assert!(!hears(&old, 1));
}

#[test]
fn what_the_server_never_answered_is_asked_again() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    daemon.start(&[]).unwrap();
    let asked = || scene.names.asked.load(Ordering::Relaxed);
    for id in 0..u16::try_from(TRIES).unwrap() {
        let socket = scene.client();
        let mut silent = query(id);
        silent.splice(12..15, *b"\x06silent");
        let began = Instant::now();
        let before = asked();
        socket.send(&silent).unwrap();
        for _ in 0..500 {
            if asked() > before {
                break;
            }
            pause(10);
        }
        daemon.end_with("KILL").unwrap();
        daemon.start(&[]).unwrap();
        if began.elapsed() > AWAY_MAX {
            continue; // nobody waits for so long
        }
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut answer = [0; 512];
        socket.recv(&mut answer).unwrap();
        let answered = (u16::from_be_bytes([answer[0], answer[1]]), answer[3] & 15);
        assert_eq!(answered, (id, 2), "SERVFAIL, by the next daemon");
        assert_eq!(asked(), before + 2, "which asked again");
        return;
    }
    panic!("of {TRIES} restarts none was quick");
}

/// What is answered while a daemon ends is open, and the next one knows it.
#[test]
fn an_answer_that_came_while_the_daemon_ended_stays_open() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let (asked, arrived) = mpsc::channel();
    let (answer, wanted) = mpsc::channel();
    let _names = Answers::serve(&world.ns, 53, move |query| {
        asked.send(()).unwrap();
        wanted.recv().unwrap();
        let mut answer = query.to_vec();
        answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
        answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\xc6\x12\0\x01");
        vec![answer]
    })
    .unwrap();
    let mut daemon = Daemon::guarding(&node, &alice, &policy("alice", NAMES)).unwrap();
    daemon.start(&[]).unwrap();
    let client = alice.ns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let client = client.unwrap();
    client.connect((world.v4, 53)).unwrap();
    let wait = Duration::from_secs(5) * patience();
    client.set_read_timeout(Some(wait)).unwrap();
    client.send(&query(7)).unwrap();
    arrived.recv().unwrap();
    daemon.signal("TERM").unwrap();
    // It hears nobody any more: what is left is the end.
    while daemon.namegate(&["status"]).unwrap().status.success() {
        pause(10);
    }
    pause(200);
    answer.send(()).unwrap();
    let mut room = [0; 512];
    let length = client.recv(&mut room).unwrap();
    assert!(
        room[..length].ends_with(&[198, 18, 0, 1]),
        "{:?}",
        &room[..length]
    );
    assert_eq!(daemon.wait().unwrap(), Some(0));
    daemon.start(&[]).unwrap();
    let status = daemon.status().unwrap();
    assert_eq!(status["endpoints"][0]["open_addresses"], 1, "{status:#}");
}

/// A daemon may be killed at any time, also while it takes what the one before it had read.
#[test]
fn what_was_left_outlives_whoever_dies_while_he_takes_it() {
    const QUERIES: u16 = 40;
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    daemon.start(&[]).unwrap();
    let asked = || scene.names.asked.load(Ordering::Relaxed);
    let mut is_tried = false;
    for attempt in 0..u16::try_from(TRIES).unwrap() {
        let (began, before) = (Instant::now(), asked());
        let ask = |index| {
            let id = attempt * QUERIES + index;
            let socket = scene.client();
            let mut silent = query(id);
            silent.splice(12..15, *b"\x06silent");
            socket.send(&silent).unwrap();
            (id, socket)
        };
        let waiting: Vec<_> = (0..QUERIES).map(ask).collect();
        while asked() < before + u64::from(QUERIES) && began.elapsed() < AWAY_MAX {
            pause(1);
        }
        daemon.end_with("KILL").unwrap();
        // A start takes some 300 ms: once or twice while it takes over, as late as it may be.
        for step in 0..4 {
            daemon.spawn(&[]).unwrap();
            pause(100 + 50 * u64::from((attempt + step) % 8));
            daemon.end_with("KILL").unwrap();
        }
        daemon.start(&[]).unwrap();
        if began.elapsed() > AWAY_MAX {
            continue; // nobody waits for so long
        }
        is_tried = true;
        for (id, socket) in waiting {
            let wait = Some(Duration::from_secs(20));
            socket.set_read_timeout(wait).unwrap();
            let mut answer = [0; 512];
            socket.recv(&mut answer).unwrap();
            let answered = (u16::from_be_bytes([answer[0], answer[1]]), answer[3] & 15);
            assert_eq!(answered, (id, 2), "SERVFAIL, by the last daemon");
        }
        if attempt >= 8 {
            break;
        }
    }
    assert!(is_tried, "of {TRIES} attempts none was quick");
}

/// The process that keeps the sockets, by what status says of it.
fn holder(daemon: &Daemon<'_>) -> String {
    let status = daemon.status().unwrap();
    let by = status["listeners"]["by"].as_str().unwrap().to_owned();
    by.strip_prefix("process ").unwrap().to_owned()
}

fn lives(pid: &str) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    state.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn the_process_that_keeps_them_is_replaced_and_ends_with_the_gate() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    daemon.start(&[]).unwrap();
    let first = holder(&daemon);
    assert!(lives(&first));
    // It holds what it was given, and nothing else of the daemon's.
    let links = std::fs::read_dir(format!("/proc/{first}/fd")).unwrap();
    let links: Vec<_> = links
        .map(|one| std::fs::read_link(one.unwrap().path()).unwrap())
        .map(|link| link.display().to_string())
        .collect();
    let is_known = |link: &String| {
        // A pipe is what the test itself was started with.
        let known = [
            "socket:",
            "/dev/null",
            "/memfd:namegate-waiting",
            "/memfd:namegate-lately",
            "pipe:",
        ];
        known.iter().any(|known| link.starts_with(known))
    };
    assert!(links.iter().all(is_known), "{links:?}");

    daemon.end_with("KILL").unwrap();
    assert!(lives(&first));
    daemon.start(&[]).unwrap();
    assert_eq!(holder(&daemon), first, "the next daemon has the same");
    scene.node.check("kill", &["-KILL", &first]).unwrap();
    let late = Instant::now() + Duration::from_secs(30);
    let second = loop {
        let by = daemon.status().unwrap()["listeners"]["by"].clone();
        match by.as_str().unwrap().strip_prefix("process ") {
            Some(pid) if pid != first => break pid.to_owned(),
            _ => assert!(Instant::now() < late, "{by}"),
        }
        pause(100);
    };
    daemon.end_with("KILL").unwrap();
    let detached = daemon.namegate(&["detach"]).unwrap();
    assert!(detached.status.success(), "{detached:?}");
    assert!(!lives(&second));

    daemon.start(&["--detach-on-exit"]).unwrap();
    let third = holder(&daemon);
    daemon.end_with("TERM").unwrap();
    assert!(!lives(&third));
}

/// Were its sockets left in the gate, they would take their share of the queries.
#[test]
fn sockets_that_nobody_can_give_back_take_no_query_away() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    daemon.start(&[]).unwrap();
    daemon.end_with("KILL").unwrap();
    scene
        .node
        .check("rm", &["/run/namegate/holder.sock"])
        .unwrap();
    daemon.start(&[]).unwrap();
    assert!(daemon.said().contains("somebody unknown listens"));
    for id in 0..50 {
        let socket = scene.client();
        socket.send(&query(id)).unwrap();
        assert!(hears(&socket, id), "{id}");
    }
}

#[test]
fn a_state_file_that_is_damaged_is_set_aside_and_said() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    daemon.start(&[]).unwrap();
    let socket = scene.client();
    socket.send(&query(1)).unwrap();
    assert!(hears(&socket, 1));
    pause(1_600);
    daemon.end_with("KILL").unwrap();
    let path = daemon.path("state/learned.json");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    daemon.start(&[]).unwrap();
    assert_eq!(
        std::fs::read(daemon.path("state/learned.json.refused")).unwrap(),
        bytes
    );
    let status = daemon.status().unwrap();
    let refused = status["state_refused"][0].as_str().unwrap();
    assert!(refused.starts_with("learned.json: another sum"), "{status}");
    assert!(daemon.said().contains("learned.json"));
    socket.send(&query(2)).unwrap();
    assert!(hears(&socket, 2));
}
