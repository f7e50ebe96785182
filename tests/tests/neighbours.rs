//! What others do to the node while it is guarded: seen within a second, set right, and said.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

#[path = "../../bpf-redirect/tests/somebody/mod.rs"]
mod somebody;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aya::programs::links::FdLink;
use aya::programs::tc::{NlOptions, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{Link as _, LinkOrder, SchedClassifier, TcAttachType};
use namegate_tests::{Answers, Daemon, Stage, patience, policy, wait_for};
use somebody::{in_front, somebody_elses};

const NAMES: &str = "[{matchName: web.example.com}]";

/// Filters, as where there is no tcx.
const CLSACT: &[&str] = &["--hooks", "clsact"];

fn daemon(stage: &Stage) -> Daemon<'_> {
    daemon_by(stage, &[])
}

fn daemon_by<'a>(stage: &'a Stage, hooks: &[&str]) -> Daemon<'a> {
    let mut daemon = stage.daemon(&policy("alice", NAMES)).unwrap();
    daemon.start(hooks).unwrap();
    daemon
}

/// How often something was set right, and what it was.
fn interference(daemon: &Daemon<'_>) -> (u64, String) {
    let status = daemon.status().unwrap();
    let seen = |part: &str| status.pointer(&format!("/datapath/interference/{part}"));
    let last = seen("last").and_then(|last| last.as_str());
    (
        seen("count").and_then(|count| count.as_u64()).unwrap(),
        last.unwrap_or_default().to_owned(),
    )
}

#[test]
fn a_deleted_side_link_is_made_anew() {
    deleted_side_link(&[]);
}

#[test]
fn a_deleted_side_link_is_made_anew_with_its_filters() {
    deleted_side_link(CLSACT);
}

fn deleted_side_link(hooks: &[&str]) {
    let stage = Stage::new().unwrap();
    let daemon = daemon_by(&stage, hooks);
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    for _ in 1..=2 {
        let before = interference(&daemon).0;
        let links = stage.node.check("ip", &["-o", "link"]).unwrap();
        let side_link = links
            .split([' ', '@'])
            .find(|word| word.starts_with("ng") && word.ends_with('h') && word.len() == 11);
        let side_link = side_link.unwrap().to_owned();
        stage
            .node
            .check("ip", &["link", "del", &side_link])
            .unwrap();
        assert!(
            !stage.reaches("198.18.0.9:80").unwrap(),
            "what isn't redirected is judged all the same"
        );
        // A look while it is being deleted may find its programs gone first, which counts too.
        wait_for("the pair is back", || {
            let (count, last) = interference(&daemon);
            let is_there = stage
                .node
                .check("ip", &["link", "show", &side_link])
                .is_ok();
            count > before && is_there && last.contains("was deleted")
        });
        assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    }
    let text = daemon
        .namegate(&[
            "status",
            "--socket",
            &daemon.path("namegate.sock").display().to_string(),
        ])
        .unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    let times = interference(&daemon).0;
    assert!(times >= 2, "{text}");
    assert!(text.contains(&format!("set right {times} times")), "{text}");
}

#[test]
fn pins_that_somebody_removes_open_nothing() {
    let stage = Stage::new().unwrap();
    let daemon = daemon(&stage);
    stage
        .node
        .check("rm", &["-r", "/sys/fs/bpf/namegate/links"])
        .unwrap();
    std::thread::sleep(Duration::from_millis(1_000));
    assert!(!stage.reaches("198.18.0.9:80").unwrap());
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    assert_eq!(interference(&daemon).0, 0);
}

#[test]
fn an_interface_that_is_made_anew_is_guarded_anew() {
    made_anew(&[]);
}

#[test]
fn an_interface_that_is_made_anew_is_guarded_anew_by_filters() {
    made_anew(CLSACT);
}

fn made_anew(hooks: &[&str]) {
    let stage = Stage::new().unwrap();
    let _daemon = daemon_by(&stage, hooks);
    assert!(!stage.reaches("198.18.0.9:80").unwrap());
    stage.node.remake(&stage.alice).unwrap();
    wait_for("it is guarded again", || {
        !stage.reaches("198.18.0.9:80").unwrap()
            && stage.asks("web.example.com").unwrap() == "198.18.0.1\n"
    });
}

fn has_tcx() -> bool {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

/// Which programs decide about what the workload sends, the first one first.
fn chain(stage: &Stage) -> Vec<String> {
    let query = || SchedClassifier::query_tcx(&stage.alice.host_link, TcAttachType::Ingress);
    let (_, chain) = stage.node.ns.run(query).unwrap().unwrap();
    let names = chain.iter().filter_map(|one| one.name_as_str());
    names.map(str::to_owned).collect()
}

/// A program that came in front and lets all pass leaks until the next look, and not a packet longer:
/// neither while ours is put in front again nor after that.
#[test]
fn what_a_program_in_front_lets_pass_ends_within_a_second() {
    if !has_tcx() {
        eprintln!(
            "NOT RUN: this kernel has no tcx; the test of a filter in front stands for this one"
        );
        return;
    }
    let stage = Stage::new().unwrap();
    let denied = Answers::echo(&stage.world.ns, 7_001).unwrap();
    let leaked = || denied.asked.load(Ordering::Relaxed);
    let mut daemon = daemon(&stage);
    let stop = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&stop);
    #[expect(clippy::disallowed_methods, reason = "a client outside of the gate")]
    let socket = stage.alice.ns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let socket = socket.unwrap();
    let flood = std::thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            let _ = socket.send_to(b"denied", "198.18.0.7:7001");
            std::thread::sleep(Duration::from_micros(500));
        }
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(leaked(), 0);

    let mut times = Vec::new();
    for turn in 1..=3 {
        let mut foreign = somebody_elses("somebody");
        let before = leaked();
        #[expect(clippy::disallowed_methods, reason = "the promise is a time")]
        let began = Instant::now();
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        let theirs = || in_front(&mut foreign, &stage.alice.host_link, first);
        let theirs = stage.node.ns.run(theirs).unwrap();
        wait_for("ours is in front again", || {
            chain(&stage).first().unwrap() == "ng_from_ep"
        });
        times.push(began.elapsed());
        // What was on its way then.
        std::thread::sleep(Duration::from_millis(100));
        let after = leaked();
        assert!(after > before, "it did let pass what is denied");
        std::thread::sleep(Duration::from_millis(900));
        assert_eq!(leaked(), after, "not a packet since");
        assert_eq!(chain(&stage), ["ng_from_ep", "somebody"]);
        let (count, last) = interference(&daemon);
        assert_eq!(count, turn);
        assert!(
            last.contains("somebody came in front of FromEndpoint"),
            "{last}"
        );
        eprintln!("{} leaked in {:?}", after - before, times.last());
        stage
            .node
            .ns
            .run(|| drop(FdLink::try_from(theirs).unwrap()))
            .unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    // A busy machine may be late once.
    assert!(
        times.iter().min().unwrap() < &(Duration::from_secs(1) * patience()),
        "{times:?}"
    );
    assert!(
        daemon.said().contains("somebody came in front"),
        "in the log"
    );
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
}

/// A query for web.example.com, as it goes over TCP.
const QUERY: &[u8] =
    b"\0\x21\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03web\x07example\x03com\0\0\x01\0\x01";

/// Whether a question over this connection is answered.
fn is_answered(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(3) * patience()))?;
    stream.write_all(QUERY)?;
    let mut start = [0; 4];
    stream.read_exact(&mut start)?;
    assert_eq!(start[2..], QUERY[2..4]);
    let rest = u16::from_be_bytes([start[0], start[1]]) - 2;
    stream.read_exact(&mut vec![0; rest.into()])
}

/// A gate that was made anew knows nothing of the connections through the old one: it must say so, or
/// clients would wait for minutes.
#[test]
fn a_connection_through_a_gate_that_is_gone_is_reset_at_once() {
    let stage = Stage::new().unwrap();
    let mut daemon = daemon(&stage);
    let connect = |server: IpAddr| {
        let to = SocketAddr::new(server, 53);
        let open = || TcpStream::connect_timeout(&to, Duration::from_secs(2) * patience());
        let mut stream = stage.alice.ns.run(open).unwrap().unwrap();
        is_answered(&mut stream).unwrap();
        stream
    };
    let old = [stage.world.v4.into(), stage.world.v6.into()].map(connect);
    let node = &stage.node;
    // Nobody mends the pair, and the end of the daemon reaches no client.
    let stopped = std::process::Command::new("kill")
        .args(["-STOP", &daemon.pid().to_string()])
        .status();
    assert!(stopped.unwrap().success());
    let links = node.check("ip", &["-o", "link"]).unwrap();
    let side_link = links
        .split([' ', '@'])
        .find(|word| word.starts_with("ng") && word.ends_with('h') && word.len() == 11);
    node.check("ip", &["link", "del", side_link.unwrap()])
        .unwrap();
    daemon.end_with("KILL").unwrap();
    node.check("umount", &["/run/netns/namegate-default"])
        .unwrap();
    daemon.start(&[]).unwrap();
    for mut stream in old {
        #[expect(clippy::disallowed_methods, reason = "the promise is a time")]
        let began = Instant::now();
        let error = is_answered(&mut stream).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        assert!(began.elapsed() < Duration::from_secs(1) * patience());
    }
    let again = [stage.world.v4.into(), stage.world.v6.into()].map(connect);
    drop(again);
}

/// A filter that lets everything pass and lets nobody else decide, the newest of its preference.
const OK: &str = "filter add dev valice ingress pref 1 bpf bytecode 1,6_0_0_1";

fn tc(stage: &Stage, words: &str) -> String {
    let words: Vec<String> = words
        .split(' ')
        .map(|word| word.replace('_', " "))
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    stage.node.check("tc", &words).unwrap()
}

#[test]
fn a_filter_in_front_of_ours_is_passed_and_stays() {
    let stage = Stage::new().unwrap();
    let daemon = daemon_by(&stage, CLSACT);
    for turn in 1..=3 {
        tc(&stage, OK);
        wait_for("ours is in front again", || interference(&daemon).0 >= turn);
        assert!(interference(&daemon).1.contains("came in front"));
        assert!(!stage.reaches("198.18.0.9:80").unwrap());
        assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    }
    let listed = tc(&stage, "filter show dev valice ingress");
    let mut names = listed.lines().filter(|line| line.contains("handle"));
    assert!(names.next().unwrap().contains("ng_from_ep"), "{listed}");
    assert_eq!(names.count(), 3, "theirs stay, and nothing else: {listed}");
    assert!(!listed.contains("ng_closed"), "{listed}");
}

#[test]
fn filters_that_somebody_takes_off_are_back() {
    let stage = Stage::new().unwrap();
    let daemon = daemon_by(&stage, CLSACT);
    tc(&stage, "filter del dev valice ingress");
    wait_for("one is back", || interference(&daemon).0 >= 1);
    assert!(interference(&daemon).1.contains("was taken off"));
    assert!(!stage.reaches("198.18.0.9:80").unwrap());
    // The qdisc, and both with it.
    tc(&stage, "qdisc del dev valice clsact");
    wait_for("both are back", || interference(&daemon).0 >= 3);
    assert!(!stage.reaches("198.18.0.9:80").unwrap());
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
}

#[test]
fn filters_of_another_daemon_are_not_doubled() {
    let stage = Stage::new().unwrap();
    let mut first = daemon_by(&stage, CLSACT);
    first.end_with("KILL").unwrap();
    // Another instance of the same node: its pins tell it of nothing.
    let mut second = stage.daemon(&policy("alice", NAMES)).unwrap();
    second
        .start(&["--hooks", "clsact", "--instance", "second"])
        .unwrap();
    let status = second.status().unwrap();
    let refused = status["endpoints"].to_string();
    assert!(refused.contains("another Namegate"), "{status}");
    assert!(!stage.reaches("198.18.0.9:80").unwrap());
}

/// Who routes by programs may take the proxy's queries for its own: the daemon goes on, and says so.
#[test]
fn a_network_that_routes_by_programs_is_told_as_long_as_it_is_there() {
    let stage = Stage::new().unwrap();
    let mut ebpf = somebody_elses("cil_from_netdev");
    let attach = || {
        let first = match has_tcx() {
            true => TcAttachOptions::TcxOrder(LinkOrder::first()),
            false => {
                qdisc_add_clsact("uplink").unwrap();
                TcAttachOptions::Netlink(NlOptions::default())
            }
        };
        in_front(&mut ebpf, "uplink", first)
    };
    let theirs = stage.node.ns.run(attach).unwrap();
    let mut daemon = daemon(&stage);
    let socket = daemon.path("namegate.sock").display().to_string();
    let status = || {
        let text = daemon.namegate(&["status", "--socket", &socket]).unwrap();
        (
            text.status.success(),
            String::from_utf8(text.stdout).unwrap(),
        )
    };
    let (is_well, text) = status();
    assert!(
        is_well && text.contains("cil_from_netdev of Cilium is on uplink"),
        "{text}"
    );
    // It may take the servers' answers too, so that they see the node.
    for proxy in ["dns", "http"] {
        let line = format!("servers of {proxy} see the node's address");
        assert!(text.contains(&line), "{text}");
    }
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    stage.node.ns.run(|| theirs.detach()).unwrap().unwrap();
    wait_for("it is told no more", || {
        std::thread::sleep(Duration::from_millis(100));
        !status().1.contains("Cilium")
    });
    assert!(
        daemon
            .said()
            .contains("cil_from_netdev of Cilium is on uplink")
    );
}
