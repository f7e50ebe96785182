//! What a workload that is guarded does to its own network opens nothing: no denied packet arrives, and what is
//! allowed works again once all is as it was.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use namegate_tests::{Answers, Daemon, Flood, Stage, Workload, patience, policy};
use serde_json::Value;
use transport::NetNs;

/// As the kernel has it: tcx, or filters.
const AUTO: &[&str] = &[];
/// Filters, as where there is no tcx.
const CLSACT: &[&str] = &["--hooks", "clsact"];

/// What a workload may do: ask, reach what it asked for, and one server by its address and one port.
fn rules(subject: &str) -> String {
    policy(subject, "[{matchName: web.example.com}]").replace(
        "  - toFQDNs:",
        "  - toCIDR: [198.18.0.7/32]\n    toPorts: [{ports: [{port: '7000', protocol: UDP}]}]\n  - toFQDNs:",
    )
}

/// Where the flood goes.
struct Scene {
    stage: Stage,
    allowed: Answers,
    denied: Answers,
}

impl Scene {
    fn new() -> Self {
        let stage = Stage::new().unwrap();
        let allowed = Answers::echo(&stage.world.ns, 7_000).unwrap();
        let denied = Answers::echo(&stage.world.ns, 7_001).unwrap();
        Self {
            stage,
            allowed,
            denied,
        }
    }

    fn daemon(&self) -> Daemon<'_> {
        self.stage.daemon(&rules("alice")).unwrap()
    }

    /// One that finds alice by a path that may lead elsewhere later.
    fn daemon_by_path(&self, hooks: &[&str]) -> (Daemon<'_>, PathBuf) {
        let mut daemon = self.daemon();
        let path = daemon.path("netns");
        symlink(path_of(&self.stage.alice.ns), &path).unwrap();
        let text = format!(
            "name: alice\nlabels: {{app: alice}}\nnetns: {}\n",
            path.display()
        );
        daemon.endpoint_file("alice.yaml", &text).unwrap();
        daemon.start(hooks).unwrap();
        (daemon, path)
    }

    fn flood(&self, workload: &Workload) -> Flood {
        let to = |port| ([198, 18, 0, 7], port).into();
        Flood::start(workload, to(7_000), to(7_001)).unwrap()
    }

    /// Passes only if what is allowed passes now.
    fn passes(&self, when: &str) {
        let before = self.allowed.asked.load(Ordering::Relaxed);
        until(when, || {
            self.allowed.asked.load(Ordering::Relaxed) > before + 10
        });
    }

    fn nothing_leaked(&self, when: &str) {
        assert_eq!(self.denied.asked.load(Ordering::Relaxed), 0, "{when}");
    }
}

/// Three looks at the workloads and a bit.
fn look() {
    std::thread::sleep(Duration::from_millis(2_500) * patience());
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..200 * patience() {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("in vain: {what}");
}

fn entries(daemon: &Daemon<'_>, name: &str) -> Vec<Value> {
    let status = daemon.status().unwrap();
    let all = status["endpoints"].as_array().unwrap().iter();
    let named = all.filter(|one| one["name"] == format!("default/{name}"));
    named.cloned().collect()
}

/// Waits until it is said why an endpoint isn't as it should be, with it being judged; `""`: nothing is said.
fn is_said(daemon: &Daemon<'_>, name: &str, words: &str) {
    until(words, || {
        let all = entries(daemon, name);
        assert!(all.iter().all(|one| one["state"] == "ready"), "{all:?}");
        let [one] = &all[..] else {
            return false;
        };
        match one["reason"].as_str() {
            Some(reason) => !words.is_empty() && reason.contains(words),
            None => words.is_empty(),
        }
    });
}

fn ip(workload: &Workload, line: &str) {
    let args: Vec<&str> = line.split(' ').collect();
    workload.check("ip", &args).unwrap();
}

fn path_of(ns: &NetNs) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd()).into()
}

#[test]
fn a_second_link_and_addresses_without_end_open_nothing() {
    let scene = Scene::new();
    let alice = &scene.stage.alice;
    let mut daemon = scene.daemon();
    daemon.start(AUTO).unwrap();
    let id = entries(&daemon, "alice")[0]["id"].clone();
    let _flood = scene.flood(alice);
    scene.passes("at first");

    ip(alice, "link add d0 type veth peer name d1");
    ip(alice, "link set d0 up");
    is_said(
        &daemon,
        "alice",
        "eth0 and also d0: a way that isn't guarded",
    );
    look();
    scene.nothing_leaked("with a second link");
    scene.passes("with a second link");
    let socket = daemon.path("namegate.sock").display().to_string();
    let status = daemon.namegate(&["status", "--socket", &socket]).unwrap();
    assert_eq!(status.status.code(), Some(1), "it isn't well");
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(
        text.contains("default/alice ready: the workload has eth0"),
        "{text}"
    );
    ip(alice, "link del d0");
    is_said(&daemon, "alice", "");

    for last in 100..110 {
        ip(alice, &format!("address add 10.0.0.{last}/24 dev eth0"));
    }
    is_said(&daemon, "alice", "addresses; at most 8 are guarded");
    look();
    scene.nothing_leaked("with many addresses");
    scene.passes("from the first address");
    let from = |address: &str| {
        let before = daemon.counter("invalid-source-ip").unwrap();
        let server = scene.stage.world.v4.into();
        let told = alice.dig(server, &["-b", address, "+short", "web.example.com"]);
        (
            told.unwrap(),
            daemon.counter("invalid-source-ip").unwrap() - before,
        )
    };
    assert_eq!(from("10.0.0.2").0, "198.18.0.1\n");
    let (told, dropped) = from("10.0.0.109");
    assert!(
        told.contains("timed out") && dropped > 0,
        "{told} {dropped}"
    );
    for last in 100..110 {
        ip(alice, &format!("address del 10.0.0.{last}/24 dev eth0"));
    }
    is_said(&daemon, "alice", "");

    scene.passes("in the end");
    scene.nothing_leaked("in the end");
    assert_eq!(entries(&daemon, "alice")[0]["id"], id, "it is the same one");
    assert!(!daemon.said().contains("open"), "nobody was let go");
}

#[test]
fn a_link_that_goes_down_or_has_another_mac_opens_nothing() {
    let scene = Scene::new();
    let alice = &scene.stage.alice;
    let mut daemon = scene.daemon();
    daemon.start(AUTO).unwrap();
    let id = entries(&daemon, "alice")[0]["id"].clone();
    let _flood = scene.flood(alice);
    scene.passes("at first");
    for turn in 0..3 {
        ip(alice, "link set eth0 down");
        is_said(&daemon, "alice", "eth0 is down");
        ip(alice, "link set eth0 up");
        ip(alice, "route add default via 10.0.0.1");
        // Before the next look, too.
        scene.passes("after it was down");
        is_said(&daemon, "alice", "");

        ip(
            alice,
            &format!("link set eth0 address 02:00:5e:00:53:0{turn}"),
        );
        look();
        scene.passes("with another MAC");
        scene.nothing_leaked("with another MAC");
        is_said(&daemon, "alice", "");
        assert!(scene.stage.reaches("198.18.0.7:80").is_ok());
    }
    assert_eq!(entries(&daemon, "alice")[0]["id"], id, "it is the same one");
    assert!(!daemon.said().contains("open"), "nobody was let go");
    scene.nothing_leaked("in the end");
}

/// The first in order must not put the second one out.
#[test]
fn who_takes_an_address_of_another_endpoint_opens_neither() {
    let scene = Scene::new();
    let bob = scene.stage.node.workload("bob", 3).unwrap();
    let mut daemon = scene.daemon();
    daemon.endpoint(&bob).unwrap();
    daemon.policy("bob.yaml", &rules("bob")).unwrap();
    daemon.start(AUTO).unwrap();
    let _floods = [scene.flood(&scene.stage.alice), scene.flood(&bob)];
    ip(&scene.stage.alice, "address add 10.0.0.3/32 dev eth0");
    is_said(&daemon, "alice", "10.0.0.3 too, which is default/bob's");
    look();
    is_said(&daemon, "bob", "");
    scene.passes("as if nothing had been");
    scene.nothing_leaked("with an address of another");
}

/// The path that a file names leads nowhere, or to another namespace, as that of a pod that was made anew.
#[test]
fn a_namespace_that_cannot_be_looked_at_opens_nothing() {
    let scene = Scene::new();
    let (alice, node) = (&scene.stage.alice, &scene.stage.node);
    let (daemon, path) = scene.daemon_by_path(AUTO);
    let _flood = scene.flood(alice);
    scene.passes("at first");

    std::fs::remove_file(&path).unwrap();
    is_said(&daemon, "alice", "No such file");
    look();
    scene.nothing_leaked("without a path");
    scene.passes("without a path");

    let second = node.workload("second", 3).unwrap();
    symlink(path_of(&second.ns), &path).unwrap();
    until("two of them", || entries(&daemon, "alice").len() == 2);
    let _other = scene.flood(&second);
    look();
    let all = entries(&daemon, "alice");
    assert!(all.iter().all(|one| one["state"] == "ready"), "{all:?}");
    let said = all[0]["reason"].as_str().unwrap();
    assert!(
        said.contains("valice stays guarded until it is gone"),
        "{said}"
    );
    scene.nothing_leaked("with another namespace");

    node.check("ip", &["link", "del", "valice"]).unwrap();
    is_said(&daemon, "alice", "");
    scene.passes("of the new one");
    scene.nothing_leaked("in the end");

    // And only who is named by nobody is open.
    std::fs::remove_file(daemon.path("endpoints/alice.yaml")).unwrap();
    until("it is open", || {
        scene.denied.asked.load(Ordering::Relaxed) > 0
    });
}

#[test]
fn a_daemon_that_comes_meanwhile_opens_nothing() {
    comes_meanwhile(AUTO);
}

#[test]
fn a_daemon_that_comes_meanwhile_opens_nothing_with_filters() {
    comes_meanwhile(CLSACT);
}

fn comes_meanwhile(hooks: &[&str]) {
    let scene = Scene::new();
    let alice = &scene.stage.alice;
    let (mut daemon, path) = scene.daemon_by_path(hooks);
    let _flood = scene.flood(alice);
    scene.passes("at first");

    ip(alice, "link add d0 type veth peer name d1");
    ip(alice, "link set d0 up");
    for last in 100..110 {
        ip(alice, &format!("address add 10.0.0.{last}/24 dev eth0"));
    }
    daemon.end_with("KILL").unwrap();
    daemon.start(hooks).unwrap();
    is_said(&daemon, "alice", "also d0: a way that isn't guarded");
    is_said(&daemon, "alice", "at most 8 are guarded");
    look();
    scene.nothing_leaked("taken over with faults");
    scene.passes("taken over with faults");

    // Nobody can tell whose it is.
    daemon.end_with("KILL").unwrap();
    std::fs::remove_file(&path).unwrap();
    daemon.start(hooks).unwrap();
    look();
    let all = entries(&daemon, "alice");
    assert_eq!(all[0]["state"], "refused", "{all:?}");
    assert!(
        daemon
            .said()
            .contains("what an earlier run guards stays so")
    );
    scene.nothing_leaked("nobody's");
    scene.passes("nobody's");
    symlink(path_of(&alice.ns), &path).unwrap();
    is_ready_again(&daemon);
    ip(alice, "link del d0");
    look();
    scene.nothing_leaked("taken over late");
    scene.passes("taken over late");
    assert_eq!(scene.stage.asks("web.example.com").unwrap(), "198.18.0.1\n");

    // Of a file that is gone meanwhile nothing is kept.
    daemon.end_with("KILL").unwrap();
    std::fs::remove_file(daemon.path("endpoints/alice.yaml")).unwrap();
    daemon.start(hooks).unwrap();
    until("it is open", || {
        scene.denied.asked.load(Ordering::Relaxed) > 0
    });
}

fn is_ready_again(daemon: &Daemon<'_>) {
    until("it is taken over", || {
        let all = entries(daemon, "alice");
        all.len() == 1 && all[0]["state"] == "ready"
    });
}

/// A policy that has room by itself, but not beside what was learned: two names' worth of ports.
fn too_large() -> String {
    let ports = |first: usize, protocol: &str| {
        let one = |n: usize| format!("{{port: '{}', protocol: {protocol}}}", first + 2 * n);
        (0..40).map(one).collect::<Vec<_>>().join(", ")
    };
    let prefixes: Vec<String> = (0..407)
        .map(|n| format!("198.19.{}.{}/32", n / 250, n % 250 + 1))
        .collect();
    let many = format!(
        "  - toCIDR: [{}]\n    toPorts: [{{ports: [{}]}}]\n",
        prefixes.join(", "),
        ports(10_001, "UDP")
    );
    let names = "  - toFQDNs: [{matchName: web.example.com}]\n    toPorts:\n";
    let blocks = (0..6).map(|n| format!("    - ports: [{}]\n", ports(20_001 + 100 * n, "TCP")));
    let names = format!("{names}{}", blocks.collect::<String>());
    let alice = rules("alice");
    let (before, _) = alice.split_once("  - toCIDR: [198.18.0.7/32]").unwrap();
    format!("{before}{many}{names}")
}

/// What can't be written at an endpoint that is guarded leaves it as it was.
#[test]
fn a_policy_that_has_no_room_leaves_the_one_before() {
    let scene = Scene::new();
    let alice = &scene.stage.alice;
    // However long this takes, the name outlives it.
    let options = &["--dns-ttl-floor", "12h"];
    let mut daemon = scene.daemon();
    daemon.start(options).unwrap();
    assert_eq!(scene.stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    let _flood = scene.flood(alice);
    scene.passes("at first");
    daemon.change_policy("alice.yaml", &too_large()).unwrap();
    assert!(daemon.said().contains("keeps its old policy"));
    ip(alice, "address add 10.0.0.77/24 dev eth0");
    is_said(&daemon, "alice", "full");
    look();
    scene.nothing_leaked("a policy without room");
    assert_eq!(daemon.said().matches("stays guarded as it was").count(), 1);

    // Nor does one that comes meanwhile.
    std::thread::sleep(Duration::from_millis(1_600) * patience());
    daemon.end_with("KILL").unwrap();
    daemon.start(options).unwrap();
    look();
    let all = entries(&daemon, "alice");
    let reason = all[0]["reason"].as_str().unwrap();
    assert!(
        all[0]["state"] == "attaching" && reason.contains("full"),
        "{all:?}"
    );
    scene.nothing_leaked("a policy without room, taken over");

    daemon.policy("alice.yaml", &rules("alice")).unwrap();
    is_ready_again(&daemon);
    is_said(&daemon, "alice", "");
    scene.passes("with a policy that has room");
    assert!(scene.stage.reaches("198.18.0.1:80").unwrap());
    scene.nothing_leaked("in the end");
}

/// The routes of the gate can't be written; that is no reason to open anybody.
#[test]
fn a_side_link_that_is_gone_while_an_address_comes_opens_nothing() {
    let scene = Scene::new();
    let (alice, node) = (&scene.stage.alice, &scene.stage.node);
    let mut daemon = scene.daemon();
    daemon.start(AUTO).unwrap();
    let _flood = scene.flood(alice);
    scene.passes("at first");
    let links = node.check("ip", &["-o", "link"]).unwrap();
    let names = links.split([' ', ':', '@']);
    let mut side = names.filter(|name| name.len() == 11 && name.starts_with("ng"));
    let side = side.next_back().unwrap().to_owned();
    // A look may fall between the two; not each time.
    for turn in 0..3 {
        ip(
            alice,
            &format!("address add 10.0.0.{}/24 dev eth0", 70 + turn),
        );
        node.check("ip", &["link", "del", &side]).unwrap();
        look();
        scene.nothing_leaked("without a side link");
        scene.passes("without a side link");
        is_said(&daemon, "alice", "");
    }
    assert!(daemon.said().contains("the gate's routes"));
    assert_eq!(scene.stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
}
