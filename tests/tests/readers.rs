//! Readers of flows that are stopped, while much is asked: who asks doesn't notice, memory stays as it is,
//! and afterwards each reader has got, or was told that it lost, every flow there was.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may die; it has a clock of its own"
)]

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use namegate_tests::{Answers, Asker, Daemon, Node, Workload, patience, policy};
use serde_json::Value;

/// Queries, each of which is two flows at least.
const PACE: Duration = Duration::from_micros(400);
/// The most that the daemon's memory may grow by, in KiB.
const GROWTH_KIB: u64 = 16 * 1_024;

/// A process whose lines are kept, and that ends with this value.
struct Reader {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Reader {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let (kept, out) = (Arc::clone(&lines), child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        Self { child, lines }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status();
        assert!(status.unwrap().success());
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(what: &str, mut is_it: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_it() {
        let is_late = begun.elapsed() > Duration::from_secs(60) * patience();
        assert!(!is_late, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn resident_kib(daemon: &Daemon<'_>) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

fn seen(daemon: &Daemon<'_>) -> u64 {
    daemon.status().unwrap()["flows"]["seen"].as_u64().unwrap()
}

/// Flows that a follower of ours printed, and how many it was told that it lost.
fn printed(lines: &[String]) -> (u64, u64) {
    let (mut got, mut lost) = (0, 0);
    for line in lines {
        let line: Value = serde_json::from_str(line).unwrap();
        let count = line["lost_events"]["num_events_lost"].as_str();
        match count {
            Some(count) => lost += count.parse::<u64>().unwrap(),
            None => got += 1,
        }
    }
    (got, lost)
}

/// What the client in another language last said.
fn said(lines: &[String]) -> (u64, u64) {
    let last = lines.last().unwrap();
    let last: Value = serde_json::from_str(last).unwrap_or_default();
    let count = |name: &str| last[name].as_u64().unwrap_or(0);
    (count("got"), count("lost"))
}

/// A follower of ours.
fn follower(node: &Node, daemon: &Daemon<'_>) -> Reader {
    let socket = daemon.path("namegate.sock").display().to_string();
    let mut command = node.command(&Daemon::binary().unwrap().display().to_string());
    let command = command.args(["observe", "--socket", &socket, "--follow"]);
    Reader::start(command.args(["--last", "255", "-o", "json"]))
}

/// One by gRPC in another language.
fn stranger(node: &Node, daemon: &Daemon<'_>) -> Reader {
    let room = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = format!("unix://{}", daemon.path("hubble.sock").display());
    let mut command = node.command("/usr/bin/python3");
    let command = command.arg(room.join("hubble/follow.py"));
    Reader::start(command.arg(room.join("../observer/proto")).arg(target))
}

#[test]
fn readers_that_are_stopped_hold_up_nobody_and_are_told_what_they_lost_to_the_flow() {
    let node = Node::new().unwrap();
    let alice = node.workload("alice", 2).unwrap();
    let world = node.elsewhere().unwrap();
    let _answers = Answers::names(&world.ns, 60).unwrap();
    let mut daemon = Daemon::prepare(&node).unwrap();
    daemon.endpoint(&alice).unwrap();
    let rules = policy("alice", "[{matchPattern: '*.example.com'}]");
    daemon.policy("alice.yaml", &rules).unwrap();
    daemon
        .start(&[
            "--hubble-event-buffer-capacity",
            "255",
            "--monitor-aggregation",
            "off",
        ])
        .unwrap();

    // Both begin with what there is, which is all there ever was.
    let (ours, other) = (follower(&node, &daemon), stranger(&node, &daemon));
    until("it follows", || !other.lines().is_empty());

    let server = SocketAddr::new(world.v4.into(), 53);
    let ask = |time| {
        let asker = Asker::start(&alice, server, PACE).unwrap();
        std::thread::sleep(time);
        asker.end().unwrap()
    };
    ask(Duration::from_millis(50));
    until("both have flows", || {
        printed(&ours.lines()).0 > 0 && said(&other.lines()).0 > 0
    });
    for reader in [&ours, &other] {
        reader.signal("-STOP");
    }
    ask(Duration::from_secs(2));
    let before = resident_kib(&daemon);
    let told = ask(Duration::from_secs(6));
    assert!(told.asked > 1_000, "{told:?}");
    let without = [&told.unanswered, &told.unserved, &told.undenied];
    assert!(without.iter().all(|ids| ids.is_empty()), "{told:?}");
    let grown = resident_kib(&daemon).saturating_sub(before);
    assert!(grown < GROWTH_KIB, "{grown} KiB");

    for reader in [&ours, &other] {
        reader.signal("-CONT");
    }
    let status = daemon.status().unwrap();
    assert_eq!(status["flows"]["lost"], 0, "{status:#}");
    let all = seen(&daemon);
    assert!(all > told.asked as u64, "{all}");
    until("ours knows of all", || {
        let (got, lost) = printed(&ours.lines());
        got + lost >= all
    });
    until("the other knows of all", || {
        let (got, lost) = said(&other.lines());
        got + lost >= all
    });
    for (got, lost) in [printed(&ours.lines()), said(&other.lines())] {
        assert_eq!(got + lost, all, "{got} {lost}");
        assert!(
            lost > 500,
            "it was not stopped for long enough: {got} {lost}"
        );
    }
}

/// A daemon that stands still for longer than the kernel's ring holds: what was lost is told to a file and to those
/// who follow, to the event.
#[test]
fn what_the_kernel_could_not_hand_over_is_told_to_files_and_readers() {
    let node = Node::new().unwrap();
    let all = [2, 3, 4].map(|number| node.workload(&format!("w{number}"), number).unwrap());
    let mut daemon = Daemon::prepare(&node).unwrap();
    for (at, one) in all.iter().enumerate() {
        daemon.endpoint(one).unwrap();
        let rules = policy(&one.name, "[{matchPattern: '*.example.com'}]");
        daemon.policy(&format!("p{at}.yaml"), &rules).unwrap();
    }
    let file = daemon.path("flows.jsonl");
    let path = file.display().to_string();
    daemon.start(&["--flow-log", &path]).unwrap();
    let (ours, other) = (follower(&node, &daemon), stranger(&node, &daemon));
    until("it follows", || !other.lines().is_empty());

    let signal = |signal: &str| {
        let pid = daemon.pid().to_string();
        let status = Command::new("kill").args([signal, &pid]).status();
        assert!(status.unwrap().success());
    };
    let send = |one: &Workload, datagrams: usize| {
        one.ns
            .run(|| {
                let socket = UdpSocket::bind((one.v4, 0)).unwrap();
                for number in 0..datagrams {
                    let _ = socket.send_to(b"x", "198.18.0.9:7");
                    if number % 20 == 0 {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            })
            .unwrap();
    };
    signal("-STOP");
    std::thread::scope(|scope| {
        for one in &all {
            scope.spawn(|| send(one, 12_000));
        }
    });
    signal("-CONT");
    let lost = || {
        let status = daemon.status().unwrap();
        let lost = status["datapath"]["counters"]["events-lost"].as_u64();
        assert_eq!(status["flows"]["lost"], 0, "{status:#}");
        lost.unwrap_or(0)
    };
    until("something was lost", || lost() > 0);
    // It is told every now and then, and in a file with what is told next.
    let in_kernel = |text: &str| {
        let lines = text.lines().map(|line| line.parse::<Value>().unwrap());
        let lost = lines.filter(|line| line["lost_events"]["source"] == "PERF_EVENT_RING_BUFFER");
        let count = |line: Value| {
            let count = line["lost_events"]["num_events_lost"].as_str()?;
            count.parse::<u64>().ok()
        };
        lost.filter_map(count).sum::<u64>()
    };
    until("all of it is told", || {
        send(&all[0], 1);
        let written = std::fs::read_to_string(&file).unwrap();
        let whole = written.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let (followed, lost) = (ours.lines().join("\n"), lost());
        in_kernel(whole) == lost && in_kernel(&followed) == lost
    });
    until("in another language too", || {
        let line = other.lines().last().cloned().unwrap_or_default();
        let line: Value = line.parse().unwrap_or_default();
        line["in_kernel"].as_u64() == Some(lost())
    });
}
