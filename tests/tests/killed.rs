//! `namegate run` and `detach`, killed at each step: what is left neither opens nor blocks anything, and the
//! next one goes as if nothing had been, and says what it found.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use namegate_tests::{Daemon, Stage, Step, each_step, must_be_equal, policy};

/// A name, and what it stands for; an address that is allowed as such; what is denied.
const WEB: &str = "198.18.0.1:80";
const ALLOWED: &str = "198.18.0.7:80";
const DENIED: &str = "198.18.0.2:80";
/// Fewer are a test that doesn't kill.
const KILLS_MIN: usize = 20;

fn stage() -> (Stage, String) {
    let rules = policy("alice", "[{matchName: web.example.com}]").replace(
        "  - toFQDNs:",
        "  - toCIDR: [198.18.0.7/32]\n    toPorts: [{ports: [{port: '80', protocol: TCP}]}]\n  - toFQDNs:",
    );
    (Stage::new().unwrap(), rules)
}

/// Starts it under strace, and ends it if it wasn't killed before it was ready. Says whether it was.
fn is_killed(daemon: &mut Daemon<'_>, step: Step) -> bool {
    daemon.strace(step.strace());
    let is_ready = daemon.start(&[]).is_ok();
    daemon.strace(Vec::new());
    if is_ready {
        let strace = daemon.pid();
        let children = format!("/proc/{strace}/task/{strace}/children");
        let pid = fs::read_to_string(children).unwrap().trim().to_owned();
        // It may have come to the step by now.
        let _ = Command::new("kill").arg(&pid).status();
        while Path::new(&format!("/proc/{pid}")).exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    // It is strace, which waits for who keeps the sockets.
    daemon.end_with("KILL").unwrap();
    !is_ready
}

fn detach(daemon: &Daemon<'_>) -> (Option<i32>, String) {
    let socket = daemon.path("namegate.sock").display().to_string();
    let output = daemon.namegate(&["detach", "--socket", &socket]).unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

fn pins(stage: &Stage) -> String {
    let found = stage.node.check("find", &["/sys/fs/bpf", "-mindepth", "2"]);
    found.unwrap()
}

#[test]
fn the_first_start_killed_at_each_step_blocks_nothing_and_the_next_one_repairs() {
    let (stage, rules) = stage();
    let before = stage.node.fingerprint().unwrap();
    let mut daemon = stage.daemon(&rules).unwrap();
    let kills = each_step(|step| -> Result<bool, String> {
        let is_killed = is_killed(&mut daemon, step);
        assert!(stage.reaches(ALLOWED).unwrap(), "{step:?}: it blocks");
        let left = pins(&stage);
        daemon.said();
        daemon
            .start(&[])
            .unwrap_or_else(|error| panic!("{step:?}: {error:#}; it left {left}"));
        let said = daemon.said();
        let is_said = said.contains("an earlier run");
        assert_eq!(is_said, !left.is_empty(), "{step:?}: {said}{left}");
        assert_eq!(
            stage.asks("web.example.com").unwrap(),
            "198.18.0.1\n",
            "{step:?}"
        );
        assert!(stage.reaches(WEB).unwrap(), "{step:?}");
        assert!(!stage.reaches(DENIED).unwrap(), "{step:?}: it opens");
        daemon.end_with("KILL").unwrap();
        assert_eq!(detach(&daemon).0, Some(0), "{step:?}");
        Ok(is_killed)
    });
    assert!(kills.unwrap() > KILLS_MIN);
    must_be_equal(&before, &stage.node.fingerprint().unwrap());
}

#[test]
fn a_takeover_killed_at_each_step_opens_and_blocks_nothing() {
    let (stage, rules) = stage();
    let mut daemon = stage.daemon(&rules).unwrap();
    daemon.start(&["--dns-ttl-floor", "12h"]).unwrap();
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    daemon.end_with("TERM").unwrap();
    let holds = |step: Step| {
        assert!(stage.reaches(ALLOWED).unwrap(), "{step:?}: it blocks");
        assert!(stage.reaches(WEB).unwrap(), "{step:?}: it forgets");
        assert!(!stage.reaches(DENIED).unwrap(), "{step:?}: it opens");
    };
    let kills = each_step(|step| -> Result<bool, String> {
        let is_killed = is_killed(&mut daemon, step);
        holds(step);
        Ok(is_killed)
    });
    assert!(kills.unwrap() > KILLS_MIN);
    daemon.said();
    daemon.start(&[]).unwrap();
    assert!(daemon.said().contains("taking over from an earlier run"));
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    assert!(!stage.reaches(DENIED).unwrap());
}

#[test]
fn a_detach_killed_at_each_step_blocks_nothing_and_the_next_one_ends_it() {
    let (stage, rules) = stage();
    let before = stage.node.fingerprint().unwrap();
    let mut daemon = stage.daemon(&rules).unwrap();
    let binary = Daemon::binary().unwrap().display().to_string();
    let kills = each_step(|step| -> Result<bool, String> {
        daemon.start(&[]).unwrap();
        daemon.end_with("KILL").unwrap();
        let words = step.strace();
        let (strace, words) = words.split_first().unwrap();
        let mut command = stage.node.command(strace);
        let socket = daemon.path("namegate.sock");
        let command = command.args(words).arg(&binary);
        let output = command.args(["detach", "--socket"]).arg(socket).output();
        let is_killed = output.unwrap().status.code().is_none();
        assert!(stage.reaches(ALLOWED).unwrap(), "{step:?}: it blocks");
        let (code, said) = detach(&daemon);
        assert_eq!(code, Some(0), "{step:?}: {said}");
        assert!(stage.reaches(DENIED).unwrap(), "{step:?}: it is not open");
        assert_eq!(pins(&stage), "", "{step:?}");
        Ok(is_killed)
    });
    assert!(kills.unwrap() > KILLS_MIN);
    must_be_equal(&before, &stage.node.fingerprint().unwrap());
}
