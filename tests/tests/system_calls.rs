//! What an answer and a connection cost in system calls, counted by strace at the real daemon, and in segments,
//! counted by the kernels of both ends.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use namegate_tests::{
    Answers, Asking, Daemon, Node, Web, Workload, asked, patience, policy, read_head, wait_for,
};

/// Queries of each kind.
const QUERIES: u32 = 300;

/// strace at a process, which ends with this value.
struct Strace(Child);

impl Strace {
    /// Writes what each thread of a process calls into `file` and its number.
    fn attach(pid: u32, file: &Path) -> Self {
        let mut command = Command::new("strace");
        command
            .args(["-ff", "-p", &pid.to_string(), "-o"])
            .arg(file);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        let (attached, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                let _ = attached.send(line);
            }
        });
        let line = heard
            .recv_timeout(Duration::from_secs(10) * patience())
            .unwrap();
        assert!(line.contains("attached"), "{line}");
        Self(child)
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// How often each system call was made by the threads whose names begin so.
fn counted(pid: u32, threads: &str, file: &Path) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = entry.unwrap();
        let name = fs::read_to_string(task.path().join("comm")).unwrap();
        if !name.starts_with(threads) {
            continue;
        }
        let id = task.file_name().into_string().unwrap();
        let text = fs::read_to_string(file.with_extension(&id)).unwrap();
        for (call, _) in text.lines().filter_map(|line| line.split_once('(')) {
            *counts.entry(call.to_owned()).or_insert(0) += 1;
        }
    }
    counts
}

#[test]
fn a_refresh_makes_no_system_call_but_those_that_carry_it() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _names = Answers::names(&world.ns, 3_600).unwrap();
    let policy = policy("alice", "[{matchPattern: '*.example.com'}]");
    let mut daemon = Daemon::guarding(&node, &alice, &policy).unwrap();
    daemon.start(&["--dns-install-wait", "4s"]).unwrap();
    let wait = Duration::from_secs(5) * patience();
    let mut asking = Asking::new(&alice, IpAddr::V4(world.v4), wait).unwrap();
    let traced = |asking: &mut Asking, what: &str| {
        let file = daemon.path(what);
        let strace = Strace::attach(daemon.pid(), &file);
        for index in 0..QUERIES {
            asking.ask(&format!("n{index}")).unwrap();
        }
        drop(strace);
        counted(daemon.pid(), "dns-udp-", &file)
    };
    let first = traced(&mut asking, "first");
    assert!(
        first["bpf"] >= QUERIES,
        "each of them opens an address: {first:?}"
    );
    let again = traced(&mut asking, "again");
    assert_eq!(
        again.get("bpf"),
        None,
        "what is open is not opened again: {again:?}"
    );
    // A query comes, goes on, its answer comes, goes on.
    for call in ["recvmmsg", "sendmmsg"] {
        assert_eq!(again[call], 2 * QUERIES, "{again:?}");
    }
    let waits = again["epoll_pwait"];
    assert!(waits <= 2 * QUERIES + 20, "{again:?}");
    // The rest wakes who tells of it, and comes by the clock: upkeep, and room for records.
    let carrying = 4 * QUERIES + waits;
    let rest = again.values().sum::<u32>() - carrying;
    assert!(rest <= QUERIES / 2, "{again:?}");
}

/// Connections of one request each.
const CONNECTIONS: u32 = 100;
const PORT: u16 = 8090;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody";

/// Asks over a connection that ends with its answer.
fn ask_once(web: &Web) {
    let mut stream = web.connect(PORT).unwrap();
    let request = "GET /a HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, ANSWER);
}

/// How many segments of TCP came to a workload while something was done.
fn came(to: &Workload, run: impl FnOnce()) -> u64 {
    let segments = || to.kernel_count("Tcp", "InSegs").unwrap();
    let before = segments();
    run();
    segments() - before
}

#[test]
fn a_connection_of_one_request_costs_no_more_calls_and_segments_than_carry_it() {
    let web = Web::new().unwrap();
    let daemon = web.egress(&asked(PORT, "{method: GET, path: /a}")).unwrap();
    web.serve(PORT, |stream| {
        read_head(stream);
        let _ = stream.write_all(ANSWER);
    })
    .unwrap();
    let sockets = || {
        fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
            .unwrap()
            .count()
    };
    let before = sockets();
    ask_once(&web);
    let file = daemon.path("calls");
    let strace = Strace::attach(daemon.pid(), &file);
    let all = || (0..CONNECTIONS).for_each(|_| ask_once(&web));
    let segments = came(&web.alice, all);
    // The last client has its answer before its connection is closed.
    wait_for("all are closed", || sockets() <= before);
    drop(strace);
    // The answer to the SYN, an ACK of the request, the answer with the end, an ACK of hers. A machine may be so
    // busy that the end is late, but not each time.
    let connections = u64::from(CONNECTIONS);
    assert!(segments >= 3 * connections, "{segments}");
    assert!(segments <= 4 * connections + connections / 4, "{segments}");
    let calls = counted(daemon.pid(), "http-", &file);
    for (call, times) in [
        ("socket", 1),
        ("bind", 1),
        ("connect", 1),
        ("sendto", 2),
        ("shutdown", 1),
        ("close", 2),
        ("epoll_ctl", 4),
        // What a connection in the client's name is: its mark, and that the address is not ours.
        ("setsockopt", 8),
        // Whom the client meant, and by which endpoint's link.
        ("getsockname", 1),
        ("getsockopt", 1),
    ] {
        assert_eq!(calls[call], times * CONNECTIONS, "{call}: {calls:?}");
    }
    // One read of each side. The server's end may come between its answer and the close.
    let reads = calls["recvfrom"];
    assert!(
        (2 * CONNECTIONS..=2 * CONNECTIONS + CONNECTIONS / 4).contains(&reads),
        "{calls:?}"
    );
    // That the server is there the reactor has told.
    assert_eq!(calls.get("getpeername"), None, "{calls:?}");
    // Timers are later than the next pulse, and so is no write to an eventfd needed for them.
    let writes = calls.get("write").copied().unwrap_or(0);
    assert!(writes <= CONNECTIONS / 4, "{calls:?}");
}
