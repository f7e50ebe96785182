//! What others do to the node while it is guarded: seen within a second, set right, and said.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::time::Duration;

use namegate_tests::{Daemon, Stage, policy};

const NAMES: &str = "[{matchName: web.example.com}]";

fn daemon(stage: &Stage) -> Daemon<'_> {
    let mut daemon = stage.daemon(&policy("alice", NAMES)).unwrap();
    daemon.start(&[]).unwrap();
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
    assert!((0..200).any(soon), "{what}");
}

#[test]
fn a_deleted_side_link_is_made_anew() {
    let stage = Stage::new().unwrap();
    let daemon = daemon(&stage);
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
    let stage = Stage::new().unwrap();
    let _daemon = daemon(&stage);
    assert!(!stage.reaches("198.18.0.9:80").unwrap());
    stage.node.remake(&stage.alice).unwrap();
    wait_for("it is guarded again", || {
        !stage.reaches("198.18.0.9:80").unwrap()
            && stage.asks("web.example.com").unwrap() == "198.18.0.1\n"
    });
}
