//! The story as a stranger runs it, and the stage that `--keep` leaves.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use namegate_tests::{Daemon, need_root};

fn demo(args: &[&str]) -> Output {
    Command::new(Daemon::binary().unwrap())
        .arg("demo")
        .args(args)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn ends_well(args: &[&str]) -> String {
    let output = demo(args);
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    said(&output)
}

/// In a pod of the stage, by the name that the stage was given.
fn in_pod(command: &[&str]) -> String {
    let output = Command::new("ip")
        .args(["netns", "exec", "namegate-demo-internal-client"])
        .args(command)
        .output()
        .unwrap();
    said(&output)
}

fn names() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("namegate-demo-"))
        .collect()
}

/// The processes that keep a stage.
fn keepers() -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        line.ends_with(b"namegate\0demo\0--keep\0").then_some(pid)
    });
    pids.collect()
}

#[test]
fn the_story_is_told_and_leaves_no_name_behind() {
    need_root();
    let story = ends_well(&[]);
    for line in [
        "no such name",
        "hello from the Internet",
        "HTTP/1.1 403 Forbidden\n   Access denied\n",
        "http-request DROPPED (HTTP/1.1 DELETE http://reviews:9080/reviews/1)",
        "That was it",
    ] {
        assert!(story.contains(line), "{line} isn't in: {story}");
    }
}

/// One test: the names are the machine's, so that there is one kept stage at a time.
#[test]
fn a_kept_stage_stays_up_until_it_is_cleaned() {
    need_root();
    ends_well(&["--clean"]);

    let story = ends_well(&["--keep"]);
    assert!(
        story.ends_with("namegate demo --clean          takes it away\n"),
        "{story}"
    );
    assert_eq!(names().len(), 9, "the node and eight pods");
    assert_eq!(keepers().len(), 1);
    let allowed = in_pod(&["dig", "+short", "@10.0.0.10", "ifconfig.me"]);
    assert!(allowed.contains("198.51.100.44"), "{allowed}");
    let denied = in_pod(&["dig", "@10.0.0.10", "cnn.com"]);
    assert!(
        denied.contains("status: ") && !denied.contains("203.0.113"),
        "{denied}"
    );

    let second = demo(&["--keep"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(said(&second).contains("kept already"), "{}", said(&second));

    assert_eq!(ends_well(&["--clean"]), "the demo that was kept is gone\n");
    assert_eq!((names(), keepers()), (vec![], vec![]));
    assert_eq!(ends_well(&["--clean"]), "no demo is kept\n");

    ends_well(&["--keep"]);
    let [pid] = keepers()[..] else {
        unreachable!("one process keeps the stage")
    };
    kill(pid);
    assert_eq!(names().len(), 9, "names outlive their process");
    assert_eq!(
        ends_well(&["--clean"]),
        "the names of a demo that was killed are gone\n"
    );
    assert_eq!((names(), keepers()), (vec![], vec![]));
}

fn kill(pid: u32) {
    let kill = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(kill.unwrap().success());
    while Path::new(&format!("/proc/{pid}")).exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
}
