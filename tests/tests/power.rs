//! What a running daemon is able to do, asked of the kernel: every thread of it, and the process that keeps its
//! sockets.

use std::fs;
use std::process::Command;

use namegate_tests::Stage;

/// `CAP_DAC_OVERRIDE`, `DAC_READ_SEARCH`, `NET_BIND_SERVICE`, `NET_ADMIN`, `NET_RAW`, `SYS_PTRACE`, `SYS_ADMIN`,
/// `PERFMON` and `BPF`, by their numbers (linux/capability.h).
const KEPT: [u32; 9] = [1, 2, 10, 12, 13, 19, 21, 38, 39];

/// The lines of `/proc/PID/status` of a process, or of a thread of one.
fn line(status: &str, key: &str) -> String {
    let found = status.lines().find_map(|line| line.strip_prefix(key));
    found.unwrap_or_default().trim().to_owned()
}

#[test]
fn every_thread_has_what_it_needs_and_no_more() {
    let kept: u64 = KEPT.iter().map(|number| 1 << number).sum();
    let stage = Stage::new().unwrap();
    let mut daemon = stage.daemon("").unwrap();
    daemon.start(&[]).unwrap();
    let children = Command::new("pgrep")
        .args(["-P", &daemon.pid().to_string()])
        .output()
        .unwrap();
    let children = String::from_utf8(children.stdout).unwrap();
    let holder: Vec<&str> = children.split_whitespace().collect();
    assert_eq!(holder.len(), 1, "the process that keeps sockets");
    let own = daemon.pid().to_string();
    let mut threads = 0;
    for pid in holder.into_iter().chain([own.as_str()]) {
        for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            let name = line(&status, "Name:");
            for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
                let found = u64::from_str_radix(&line(&status, set), 16).unwrap();
                assert_eq!(found, kept, "{name}: {set}");
            }
            for set in ["CapInh:", "CapAmb:"] {
                assert_eq!(line(&status, set), "0000000000000000", "{name}: {set}");
            }
            assert_eq!(line(&status, "NoNewPrivs:"), "1", "{name}");
            // 2: by a filter (proc_pid_status(5)).
            assert_eq!(line(&status, "Seccomp:"), "2", "{name}");
            threads += 1;
        }
    }
    assert!(threads > 8, "{threads} threads");
}
