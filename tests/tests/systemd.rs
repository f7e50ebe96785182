//! The unit for systemd.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::fs;
use std::path::Path;
use std::process::Command;

use namegate_tests::Daemon;

const UNIT: &str = include_str!("../../deploy/systemd/namegate.service");

/// systemd's own words about a unit, with this program in it.
fn verify(unit: &str, dir: &Path) -> (bool, String) {
    let binary = Daemon::binary().unwrap().display().to_string();
    let path = dir.join("namegate.service");
    fs::write(&path, unit.replace("/usr/bin/namegate", &binary)).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&path)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    // What systemd before version 254 doesn't know, it leaves out.
    let newer = |line: &&str| line.contains("FileDescriptorStorePreserve");
    let words = words.lines().filter(|line| !newer(line));
    let words = words.map(|line| format!("{line}\n")).collect();
    (output.status.success(), words)
}

#[test]
fn systemd_takes_the_unit_and_has_nothing_to_say() {
    let dir = tempfile::tempdir().unwrap();
    let (is_well, words) = verify(UNIT, dir.path());
    assert!(is_well && words.is_empty(), "{words}");
    // And would have if there were something.
    let (_, words) = verify(
        &UNIT.replace("WatchdogSec=30", "WatchdogSecs=30"),
        dir.path(),
    );
    assert!(words.contains("WatchdogSecs"), "{words}");
}

#[test]
fn the_unit_says_what_the_daemon_counts_on() {
    for line in [
        "Type=notify",
        "NotifyAccess=main",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "RestartPreventExitStatus=77 78",
        "FileDescriptorStoreMax=64",
        "FileDescriptorStorePreserve=yes",
        "RuntimeDirectoryPreserve=yes",
        "NoNewPrivileges=yes",
    ] {
        assert!(UNIT.lines().any(|one| one == line), "{line}");
    }
    // A namespace of mounts of its own would hide the gate's pin from the next daemon.
    for word in [
        "ProtectSystem=",
        "ProtectHome=",
        "PrivateTmp=",
        "ReadWritePaths=",
        "PrivateDevices=",
    ] {
        assert!(!UNIT.lines().any(|one| one.starts_with(word)), "{word}");
    }
}
