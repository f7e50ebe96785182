//! What others do to the node while it is guarded: seen within a second, set right, and said.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::time::Duration;

use namegate_tests::{Daemon, Stage, patience, policy};

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

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let soon = |_| {
        std::thread::sleep(Duration::from_millis(50));
        is_so()
    };
    assert!((0..200 * patience()).any(soon), "{what}");
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
    for turn in 1..=2 {
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
        wait_for("the pair is back", || interference(&daemon).0 >= turn);
        assert!(interference(&daemon).1.contains("was deleted"));
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
    assert!(text.contains("set right 2 times"), "{text}");
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
