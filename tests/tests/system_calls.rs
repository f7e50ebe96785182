//! What an answer costs in system calls, counted by strace at the real daemon.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use namegate_tests::{Answers, Asking, Daemon, Node, patience, policy};

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

/// How often each system call was made by the threads that carry queries over UDP.
fn counted(pid: u32, file: &Path) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = entry.unwrap();
        let name = fs::read_to_string(task.path().join("comm")).unwrap();
        if !name.starts_with("dns-udp-") {
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
        counted(daemon.pid(), &file)
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
