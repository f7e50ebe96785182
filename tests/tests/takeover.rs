//! A daemon after a daemon: nothing opens, nothing that is allowed breaks, whatever ended the first.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bpf_redirect_common::EP_ID;
use namegate_tests::{Answers, Flood, Stage, TcpEcho, patience, policy, wait_for};

const NAMES: &str = "[{matchName: web.example.com}]";

/// As the kernel has it: tcx, or filters.
const AUTO: &[&str] = &[];
/// Filters, as where there is no tcx.
const CLSACT: &[&str] = &["--hooks", "clsact"];

fn says(stream: &mut TcpStream, word: &[u8; 4]) -> bool {
    let mut back = [0; 4];
    stream
        .set_read_timeout(Some(Duration::from_secs(3) * patience()))
        .unwrap();
    stream.write_all(word).unwrap();
    stream.read_exact(&mut back).is_ok_and(|()| back == *word)
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// What alice may do: ask, reach what she asked for at ports 80 to 90, and one server by its address.
fn rules() -> String {
    policy("alice", NAMES).replace(
        "  - toFQDNs:",
        "  - toCIDR: [198.18.0.7/32]\n    toPorts: [{ports: [{port: '7000', protocol: UDP}]}]\n  - toFQDNs:",
    )
}

#[test]
fn twenty_restarts_open_nothing_and_break_nothing() {
    twenty_restarts(AUTO);
}

#[test]
fn twenty_restarts_of_filters_open_nothing_and_break_nothing() {
    twenty_restarts(CLSACT);
}

fn twenty_restarts(hooks: &[&str]) {
    // However long twenty starts take, the name outlives them.
    let options = [hooks, &["--dns-ttl-floor", "12h"]].concat();
    let stage = Stage::new().unwrap();
    let allowed = Answers::echo(&stage.world.ns, 7_000).unwrap();
    let denied = Answers::echo(&stage.world.ns, 7_001).unwrap();
    let _echo = TcpEcho::serve(&stage.world.ns, 443).unwrap();
    let mut daemon = stage.daemon(&rules()).unwrap();
    daemon.start(&options).unwrap();
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    let to: SocketAddr = "198.18.0.1:443".parse().unwrap();
    let open = || TcpStream::connect_timeout(&to, Duration::from_secs(2) * patience());
    let mut old = stage.alice.ns.run(open).unwrap().unwrap();
    assert!(says(&mut old, b"old."));
    let flood = Flood::start(
        &stage.alice,
        "198.18.0.7:7000".parse().unwrap(),
        "198.18.0.7:7001".parse().unwrap(),
    )
    .unwrap();
    for turn in 0..20 {
        // What was learned is on disk a second later.
        if turn == 0 {
            std::thread::sleep(Duration::from_millis(1_600) * patience());
        }
        let signal = if turn % 2 == 0 { "KILL" } else { "TERM" };
        daemon.end_with(signal).unwrap();
        let before = count(&allowed.asked);
        assert!(says(&mut old, b"dead"), "{turn}: without a daemon");
        assert!(
            stage.reaches("198.18.0.1:80").unwrap(),
            "{turn}: a learned address, without a daemon"
        );
        daemon.start(&options).unwrap();
        assert!(says(&mut old, b"back"), "{turn}: with the next one");
        assert!(stage.reaches("198.18.0.1:80").unwrap(), "{turn}: learned");
        assert!(count(&allowed.asked) > before, "{turn}: the flood goes on");
        assert!(!stage.reaches("198.18.0.2:80").unwrap(), "{turn}: denied");
    }
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    drop(flood);
    assert_eq!(count(&denied.asked), 0, "none wrongly passed");
    let status = daemon.status().unwrap();
    assert_eq!(status["endpoints"][0]["state"], "ready", "{status}");
}

#[test]
fn killed_in_the_middle_of_a_takeover_nothing_opens() {
    killed_in_the_middle(AUTO);
}

#[test]
fn killed_in_the_middle_of_a_takeover_of_filters_nothing_opens() {
    killed_in_the_middle(CLSACT);
}

fn killed_in_the_middle(hooks: &[&str]) {
    let stage = Stage::new().unwrap();
    let denied = Answers::echo(&stage.world.ns, 7_001).unwrap();
    let mut daemon = stage.daemon(&rules()).unwrap();
    daemon.start(hooks).unwrap();
    daemon.end_with("KILL").unwrap();
    let flood = Flood::start(
        &stage.alice,
        "198.18.0.7:7000".parse().unwrap(),
        "198.18.0.7:7001".parse().unwrap(),
    )
    .unwrap();
    // From before the programs are loaded to after all links are replaced.
    for wait in (0..400).step_by(20) {
        daemon.spawn(hooks).unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        daemon.end_with("KILL").unwrap();
    }
    daemon.start(hooks).unwrap();
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    assert!(stage.reaches("198.18.0.1:80").unwrap());
    drop(flood);
    assert_eq!(count(&denied.asked), 0);
    // A storm would be counted in millions.
    assert!(daemon.counter("redirected").unwrap() < 1_000);
}

#[test]
fn a_gate_that_is_made_anew_opens_nothing() {
    gate_made_anew(AUTO);
}

#[test]
fn a_gate_that_is_made_anew_opens_nothing_with_filters() {
    gate_made_anew(CLSACT);
}

fn gate_made_anew(hooks: &[&str]) {
    let stage = Stage::new().unwrap();
    let denied = Answers::echo(&stage.world.ns, 7_001).unwrap();
    let mut daemon = stage.daemon(&rules()).unwrap();
    daemon.start(hooks).unwrap();
    let _flood = Flood::start(
        &stage.alice,
        "198.18.0.7:7000".parse().unwrap(),
        "198.18.0.7:7001".parse().unwrap(),
    )
    .unwrap();
    for _ in 0..3 {
        daemon.end_with("KILL").unwrap();
        // Nobody can give back what listens there.
        let holder = "/run/namegate/holder.sock";
        stage.node.check("rm", &[holder]).unwrap();
        daemon.start(hooks).unwrap();
        assert!(daemon.said().contains("it is made anew"));
        assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
        assert_eq!(count(&denied.asked), 0);
    }
}

#[test]
fn what_went_away_meanwhile_is_let_go_and_what_changed_holds() {
    went_away_meanwhile(AUTO);
}

#[test]
fn filters_of_what_went_away_meanwhile_are_removed_and_what_changed_holds() {
    went_away_meanwhile(CLSACT);
}

fn went_away_meanwhile(hooks: &[&str]) {
    let stage = Stage::new().unwrap();
    let bob = stage.node.workload("bob", 3).unwrap();
    let mut daemon = stage.daemon(&rules()).unwrap();
    daemon.endpoint(&bob).unwrap();
    daemon.policy("bob.yaml", &policy("bob", NAMES)).unwrap();
    daemon.start(hooks).unwrap();
    stage.asks("web.example.com").unwrap();
    std::thread::sleep(Duration::from_millis(1_600) * patience());
    daemon.end_with("KILL").unwrap();
    std::fs::remove_file(daemon.path("endpoints/bob.yaml")).unwrap();
    daemon
        .policy(
            "alice.yaml",
            &rules().replace("*.example.com", "other.example.com"),
        )
        .unwrap();
    daemon.start(hooks).unwrap();
    let status = daemon.status().unwrap();
    assert_eq!(status["endpoints"].as_array().unwrap().len(), 1, "{status}");
    let connect = || {
        let to = "198.18.0.9:80".parse().unwrap();
        TcpStream::connect_timeout(&to, Duration::from_millis(700) * patience()).is_ok()
    };
    assert!(bob.ns.run(connect).unwrap(), "bob is nobody's any more");
    assert!(!stage.reaches("198.18.0.9:80").unwrap());
    assert_eq!(stage.asks("web.example.com").unwrap(), "", "no more");
    assert_eq!(stage.asks("other.example.com").unwrap(), "198.18.0.2\n");
}

/// As after a pod was made anew: the interface has its number again, and is another's.
#[test]
fn an_interface_that_is_anothers_meanwhile_is_guarded_as_that_ones() {
    let stage = Stage::new().unwrap();
    let mut daemon = stage.daemon(&rules()).unwrap();
    daemon.start(AUTO).unwrap();
    stage.asks("web.example.com").unwrap();
    daemon.end_with("KILL").unwrap();
    let renew = || {
        let args = ["link", "set", "dev", "eth0", "address", "02:00:5e:00:53:77"];
        std::process::Command::new("ip")
            .args(args)
            .status()
            .unwrap()
    };
    assert!(stage.alice.ns.run(renew).unwrap().success());
    daemon.start(AUTO).unwrap();
    assert!(
        !stage.reaches("198.18.0.1:80").unwrap(),
        "what the one before asked for, who had the same name"
    );
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    assert!(stage.reaches("198.18.0.1:80").unwrap());
    assert!(!stage.reaches("198.18.0.9:80").unwrap());
}

#[test]
fn what_cannot_be_taken_over_is_refused_by_name_and_stays() {
    cannot_be_taken_over(AUTO);
}

#[test]
fn filters_that_cannot_be_taken_over_are_refused_by_name_and_stay() {
    cannot_be_taken_over(CLSACT);
}

fn cannot_be_taken_over(hooks: &[&str]) {
    let stage = Stage::new().unwrap();
    let mut daemon = stage.daemon(&rules()).unwrap();
    daemon.start(hooks).unwrap();
    daemon.end_with("TERM").unwrap();
    // A map of another version: its pin holds another map.
    let maps = "/sys/fs/bpf/namegate/maps";
    let node = &stage.node;
    node.check("mv", &[&format!("{maps}/{EP_ID}"), &format!("{maps}/kept")])
        .unwrap();
    node.check(
        "ln",
        &[&format!("{maps}/CONFIG"), &format!("{maps}/{EP_ID}")],
    )
    .unwrap();
    let error = daemon.start(hooks).unwrap_err().to_string();
    assert!(
        error.contains("maps/EP_ID") && error.contains("values of 16 bytes"),
        "{error}"
    );
    assert!(
        !stage.reaches("198.18.0.9:80").unwrap(),
        "what was enforced stays"
    );
    node.check("rm", &[&format!("{maps}/{EP_ID}")]).unwrap();
    node.check("mv", &[&format!("{maps}/kept"), &format!("{maps}/{EP_ID}")])
        .unwrap();
    daemon.start(hooks).unwrap();
    assert!(!stage.reaches("198.18.0.9:80").unwrap());
    daemon.end_with("TERM").unwrap();

    // The same type and sizes, with other flags.
    let pin = format!("{maps}/{EP_ID}");
    let make =
        format!("map create {pin} type hash key 4 value 16 entries 4096 name {EP_ID} flags 1");
    node.check("mv", &[&pin, &format!("{maps}/kept")]).unwrap();
    let make: Vec<&str> = make.split(' ').collect();
    node.check("bpftool", &make).unwrap();
    let error = daemon.start(hooks).unwrap_err().to_string();
    assert!(
        error.contains("entries, flags 0x1, and this version needs") && error.contains(EP_ID),
        "{error}"
    );
    node.check("rm", &[&pin]).unwrap();
    node.check("mv", &[&format!("{maps}/kept"), &pin]).unwrap();
    daemon.start(hooks).unwrap();
    assert!(!stage.reaches("198.18.0.9:80").unwrap());

    // A policy that can't be used leaves what the earlier run enforces, too.
    daemon.end_with("TERM").unwrap();
    daemon.policy("alice.yaml", "nothing: good\n").unwrap();
    daemon.start(hooks).unwrap_err();
    assert!(!stage.reaches("198.18.0.9:80").unwrap());
}

#[test]
fn what_was_learned_is_known_to_the_next_daemon() {
    learned(AUTO);
}

#[test]
fn what_was_learned_is_known_to_the_next_daemon_with_filters() {
    learned(CLSACT);
}

fn learned(hooks: &[&str]) {
    // However long a start takes, the name outlives it.
    let options = [hooks, &["--dns-ttl-floor", "12h"]].concat();
    let stage = Stage::new().unwrap();
    let mut daemon = stage.daemon(&rules()).unwrap();
    daemon.start(&options).unwrap();
    stage.asks("web.example.com").unwrap();
    std::thread::sleep(Duration::from_millis(1_600) * patience());
    daemon.end_with("KILL").unwrap();
    daemon.start(&options).unwrap();
    let socket = daemon.path("namegate.sock").display().to_string();
    let listed = daemon
        .namegate(&["fqdn", "cache", "list", "-o", "json", "--socket", &socket])
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("web.example.com") && listed.contains("198.18.0.1"));
}

/// What was answered just before a kill is open for the next daemon too, though no disk had it yet, and not
/// for longer than was promised.
#[test]
fn what_was_answered_just_before_a_kill_stays_open_until_its_end() {
    let floor = 20 * patience();
    let floor = format!("{floor}s");
    // Without a grace: what is promised is the TTL, and nothing covers for a lost second.
    let options = [
        "--dns-ttl-floor",
        &floor,
        "--dns-ttl-ceiling",
        &floor,
        "--dns-ttl-grace",
        "0s",
    ];
    let stage = Stage::new().unwrap();
    let names = "[{matchName: web.example.com}, {matchName: other.example.com}]";
    let mut daemon = stage.daemon(&policy("alice", names)).unwrap();
    daemon.start(&options).unwrap();
    assert_eq!(stage.asks("other.example.com").unwrap(), "198.18.0.2\n");
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    daemon.end_with("KILL").unwrap();
    // Killed again before it has written anything.
    daemon.start(&options).unwrap();
    daemon.end_with("KILL").unwrap();
    daemon.start(&options).unwrap();
    for known in ["198.18.0.1:80", "198.18.0.2:80"] {
        assert!(stage.reaches(known).unwrap(), "{known}");
    }
    assert!(!stage.reaches("198.18.0.3:80").unwrap(), "nobody asked");
    let status = daemon.status().unwrap();
    assert_eq!(status["endpoints"][0]["open_addresses"], 2, "{status:#}");
    assert_eq!(status["learning"]["unnoted"], 0, "{status:#}");

    // What a name is no longer named by is closed by the next one, whatever was noted.
    stage.asks("web.example.com").unwrap();
    daemon.end_with("KILL").unwrap();
    let only_other = policy("alice", "[{matchName: other.example.com}]");
    daemon.policy("alice.yaml", &only_other).unwrap();
    daemon.start(&options).unwrap();
    assert!(!stage.reaches("198.18.0.1:80").unwrap());

    // It ends, with nobody asking again.
    for _ in 0..600 * patience() {
        if daemon.status().unwrap()["endpoints"][0]["open_addresses"] == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!stage.reaches("198.18.0.2:80").unwrap());
}

/// A refresh just before a kill keeps its promise too.
#[test]
fn what_was_answered_again_just_before_a_kill_stays_open_as_long_as_that_said() {
    let stage = Stage::new().unwrap();
    let mut daemon = stage.daemon(&policy("alice", NAMES)).unwrap();
    let short = ["--dns-ttl-floor", "1h", "--dns-ttl-grace", "0s"];
    daemon.start(&short).unwrap();
    stage.asks("web.example.com").unwrap();
    let ends = |daemon: &namegate_tests::Daemon<'_>| {
        let socket = daemon.path("namegate.sock").display().to_string();
        let list = ["fqdn", "cache", "list", "-o", "json", "--socket", &socket];
        let listed = daemon.namegate(&list).unwrap();
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        listed[0]["addresses"][0]["expires_secs"].as_u64().unwrap()
    };
    let file = daemon.path("state/learned.json");
    let on_disk = || std::fs::read_to_string(&file).unwrap_or_default();
    wait_for("it is on disk", || on_disk().contains("web.example.com"));
    daemon.end_with("KILL").unwrap();
    let before = on_disk();
    daemon
        .start(&["--dns-ttl-floor", "2h", "--dns-ttl-grace", "0s"])
        .unwrap();
    assert!(ends(&daemon) <= 3_600);
    // It writes what it has taken over, and no refresh for ten seconds after that.
    wait_for("it is on disk again", || on_disk() != before);
    stage.asks("web.example.com").unwrap();
    daemon.end_with("KILL").unwrap();
    daemon.start(&short).unwrap();
    assert!(ends(&daemon) > 3_600, "{}", ends(&daemon));
}
