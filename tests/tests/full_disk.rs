//! A disk that takes nothing: what the daemon can't keep for its next start it tells, and keeps it once there is
//! room again.

use std::time::Duration;

use namegate_tests::{Stage, patience, policy};

#[test]
fn what_can_not_be_kept_is_told_until_it_is() {
    let stage = Stage::new().unwrap();
    let names = "[{matchName: web.example.com}]";
    let mut daemon = stage.daemon(&policy("alice", names)).unwrap();
    let (state, files) = (daemon.path("state"), daemon.path("files"));
    for folder in [&state, &files] {
        std::fs::create_dir_all(folder).unwrap();
        let place = folder.display().to_string();
        let disk = ["-t", "tmpfs", "-o", "size=64k", "none", &place];
        stage.node.check("mount", &disk).unwrap();
        let fill = format!("head -c 1000000 /dev/zero > {place}/fill 2>/dev/null; true");
        stage.node.check("sh", &["-c", &fill]).unwrap();
    }
    let flows = files.join("flows.jsonl").display().to_string();
    daemon.start(&["--flow-log", &flows]).unwrap();
    stage.asks("web.example.com").unwrap();

    let socket = daemon.path("namegate.sock").display().to_string();
    let told = || {
        let output = daemon.namegate(&["status", "--socket", &socket]).unwrap();
        // It guards all that it is to guard.
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let wait = |what: &str, is_so: &dyn Fn(&str) -> bool| {
        for _ in 0..300 * patience() {
            if is_so(&told()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{what}: {}", told());
    };
    let faults = [
        "state      not kept for the next start: the numbers of label sets: No space left",
        "state      not kept for the next start: what was learned: No space left",
        &format!("flows      not written to {flows}, "),
    ];
    wait("all is told", &|said| {
        faults.iter().all(|fault| said.contains(fault))
    });
    let remove = state.join("fill").display().to_string();
    stage.node.check("rm", &[&remove]).unwrap();
    wait("it is kept", &|said| !said.contains("not kept"));
    for file in ["identities.json", "learned.json"] {
        let file = state.join(file).display().to_string();
        stage.node.check("test", &["-s", &file]).unwrap();
    }
}
