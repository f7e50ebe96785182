//! The configuration file: a daemon is started by it and changed by it, and nothing that it can't be harms one.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use namegate_tests::{Daemon, Stage, policy};
use serde_json::Value;

const WEB: &str = "198.18.0.1:80";

/// Writes the file, in one step.
fn write(daemon: &Daemon<'_>, name: &str, text: &str) -> String {
    let path = daemon.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path.with_extension("draft"), text).unwrap();
    fs::rename(path.with_extension("draft"), &path).unwrap();
    path.display().to_string()
}

/// Has the daemon read its configuration again, and waits until its status is so.
fn reloaded(daemon: &Daemon<'_>, is_so: impl Fn(&Value) -> bool) {
    daemon.signal("HUP").unwrap();
    for _ in 0..100 {
        let status = daemon.status().unwrap();
        if status.get("config").is_some_and(&is_so) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{}", daemon.status().unwrap());
}

fn is_list(config: &Value, key: &str, wanted: &[&str]) -> bool {
    let list = config.get(key).and_then(Value::as_array);
    list.is_some_and(|all| {
        all.iter()
            .filter_map(Value::as_str)
            .eq(wanted.iter().copied())
    })
}

#[test]
fn a_daemon_is_started_and_changed_by_its_configuration() {
    let stage = Stage::new().unwrap();
    let mut daemon = stage.daemon("").unwrap();
    let config = write(
        &daemon,
        "config.yaml",
        "enforcement_mode: always\nlog: warn\n",
    );
    write(
        &daemon,
        "config.d/10-open.yaml",
        "enforcement_mode: never\n",
    );
    daemon.start(&["--config", &config]).unwrap();
    assert!(stage.reaches(WEB).unwrap(), "the drop-in's mode");

    let other = "log: debug\nmetrics_addr: 127.0.0.1:1\n";
    write(&daemon, "config.d/10-open.yaml", other);
    reloaded(&daemon, |config| {
        is_list(config, "waits_for_restart", &["metrics_addr"])
    });
    let level = daemon.status().unwrap().get("log_level").cloned();
    assert_eq!(level, Some(Value::from("debug")));
    assert!(
        !stage.reaches(WEB).unwrap(),
        "the file's mode, without a restart"
    );

    write(&daemon, "config.yaml", "enforcement_mode: ajar\n");
    reloaded(&daemon, |config| !is_list(config, "problems", &[]));
    assert!(!stage.reaches(WEB).unwrap(), "what was in force stays");
    let socket = daemon.path("namegate.sock").display().to_string();
    let told = daemon.namegate(&["status", "--socket", &socket]).unwrap();
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert_eq!(told.status.code(), Some(1), "{text}");
    let fault = "config.yaml:1:19: error: enforcement_mode: invalid value 'ajar'";
    assert!(text.contains(fault), "{text}");

    fs::remove_file(daemon.path("config.d/10-open.yaml")).unwrap();
    write(
        &daemon,
        "config.yaml",
        "enforcement_mode: never\nlog: warn\n",
    );
    reloaded(&daemon, |config| {
        is_list(config, "problems", &[]) && is_list(config, "waits_for_restart", &[])
    });
    assert!(stage.reaches(WEB).unwrap(), "and it is open again");
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
}

#[test]
fn a_configuration_that_can_not_be_changes_nothing_and_ends_with_78() {
    let stage = Stage::new().unwrap();
    let mut daemon = stage.daemon("").unwrap();
    let config = write(&daemon, "config.yaml", "audit: perhaps\nno_such_key: 1\n");
    daemon.spawn(&["--config", &config]).unwrap();
    assert_eq!(daemon.wait().unwrap(), Some(78));
    let said = daemon.said();
    for part in [
        "config.yaml:1:8: error: audit: \"perhaps\" is neither true nor false",
        "config.yaml:2:14: error: unknown key \"no_such_key\"",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    assert!(!daemon.path("state").exists(), "nothing was made");

    let check = daemon.namegate(&["config", "check", &config]).unwrap();
    assert_eq!(check.status.code(), Some(1));
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert_eq!(
        text.lines()
            .filter(|line| line.contains(": error: "))
            .count(),
        2,
        "{text}"
    );
}

#[test]
fn what_a_daemon_would_have_is_shown_with_its_origin() {
    let stage = Stage::new().unwrap();
    let daemon = stage.daemon("").unwrap();
    let config = write(&daemon, "config.yaml", "\nquic: allow\n");
    let shown = |args: &[&str]| {
        let all = [&["config", "show", "--config", &config], args].concat();
        let output = daemon.namegate(&all).unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = shown(&["--origin", "--", "--audit"]);
    let line = |key: &str| {
        text.lines()
            .find(|line| line.starts_with(key))
            .unwrap_or_default()
    };
    assert!(line("quic: \"allow\"").ends_with("config.yaml:2"), "{text}");
    assert!(line("audit: true").ends_with("# command line"), "{text}");
    assert!(
        line("# enforcement_mode: \"default\"").ends_with("# default"),
        "{text}"
    );
    let json: Value = serde_json::from_str(&shown(&["-o", "json"])).unwrap();
    assert_eq!(json.get("quic"), Some(&Value::from("allow")));
    assert_eq!(json.get("audit"), Some(&Value::from(false)));
}

#[test]
fn how_much_is_logged_is_told_and_changed_by_the_socket() {
    let stage = Stage::new().unwrap();
    let mut daemon = stage.daemon("").unwrap();
    daemon
        .start(&["--log-level", "warn", "--log-format", "json"])
        .unwrap();
    let socket = daemon.path("namegate.sock").display().to_string();
    let level = |words: &[&str]| {
        let words = [&["log-level", "--socket", &socket], words].concat();
        daemon.namegate(&words).unwrap()
    };
    assert_eq!(level(&[]).stdout, b"warn\n");
    assert_eq!(level(&["info"]).stdout, b"info\n");
    assert_eq!(level(&["namegate=loud"]).status.code(), Some(2));
    daemon.signal("HUP").unwrap();
    daemon.wait_beyond(1).unwrap();
    assert_eq!(
        level(&[]).stdout,
        b"info\n",
        "the configuration is the same"
    );
    let said = daemon.said();
    let mut lines = said.lines();
    let line = lines.find(|line| line.contains("policy in force")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line.get("level"), Some(&Value::from("info")));
    assert_eq!(line.get("msg"), Some(&Value::from("policy in force")));
    assert!(line.get("ts").is_some() && line.get("target").is_some());
}

#[test]
fn what_is_audited_and_how_a_denial_is_answered_changes_without_a_restart() {
    let stage = Stage::new().unwrap();
    let mut daemon = stage
        .daemon(&policy("alice", "[{matchName: web.example.com}]"))
        .unwrap();
    let config = write(&daemon, "config.yaml", "audit: false\n");
    daemon.start(&["--config", &config]).unwrap();
    let asked = || {
        let server = IpAddr::V4(stage.world.v4);
        let words = ["+tries=1", "+time=2", "a.evil.test"];
        stage.alice.dig(server, &words).unwrap()
    };
    assert!(asked().contains("status: NXDOMAIN"), "{}", asked());
    assert!(!stage.reaches(WEB).unwrap());

    let text = "audit: false\ndns_deny_response: refused\nmetrics_addr: 127.0.0.1:1\n";
    write(&daemon, "config.yaml", text);
    reloaded(&daemon, |config| {
        is_list(config, "waits_for_restart", &["metrics_addr"])
    });
    assert!(asked().contains("status: REFUSED"), "{}", asked());

    write(&daemon, "config.yaml", "audit: true\n");
    reloaded(&daemon, |config| is_list(config, "waits_for_restart", &[]));
    assert!(stage.reaches(WEB).unwrap(), "all is only told");
    write(&daemon, "config.yaml", "metrics_addr: 127.0.0.1:1\n");
    reloaded(&daemon, |config| {
        is_list(config, "waits_for_restart", &["metrics_addr"])
    });
    assert!(!stage.reaches(WEB).unwrap(), "and blocked again");
    assert!(asked().contains("status: NXDOMAIN"), "{}", asked());
}

#[test]
fn who_asks_a_daemon_finds_it_by_its_configuration() {
    let stage = Stage::new().unwrap();
    let mut daemon = stage.daemon("").unwrap();
    let socket = daemon.path("namegate.sock").display().to_string();
    let config = write(&daemon, "config.yaml", &format!("socket: {socket}\n"));
    daemon.start(&["--config", &config]).unwrap();
    let binary = Daemon::binary().unwrap().display().to_string();
    let said = |variables: &[&str], words: &[&str]| {
        let all = [variables, &[&*binary], words].concat();
        let output = stage.node.command("env").args(all).output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let own = format!("NAMEGATE_CONFIG={config}");
    assert_eq!(
        said(&[], &["status"]).0,
        Some(1),
        "there is no daemon where one is by default"
    );
    assert_eq!(said(&[&own], &["status"]).0, Some(0));
    assert!(said(&[&own], &["endpoint", "list"]).1.contains("alice"));
    let other = "NAMEGATE_SOCKET=/nowhere.sock";
    assert_eq!(said(&[&own, other], &["status"]).0, Some(1));
    assert_eq!(
        said(&[&own, other], &["status", "--socket", &socket]).0,
        Some(0)
    );
}

/// Who looks for a daemon by a configuration is not sent elsewhere by one that isn't there or can't be read.
#[test]
fn whoever_takes_a_configuration_refuses_one_that_can_not_be_read() {
    let stage = Stage::new().unwrap();
    let daemon = stage.daemon("").unwrap();
    let missing = daemon.path("missing.yaml").display().to_string();
    let broken = write(&daemon, "broken.yaml", "socket: [\n");
    let folder = daemon.path("").display().to_string();
    let archive = daemon.path("dump.tar");
    let archive = archive.display().to_string();
    for (file, fault) in [
        (&missing, "missing.yaml: there is no such file"),
        (&broken, "broken.yaml:"),
        (&folder, "Is a directory"),
    ] {
        for words in [
            &["detach"][..],
            &["map", "list"],
            &[
                "map",
                "get",
                bpf_redirect_common::POLICY,
                "--bpf-dir",
                "/sys/fs/bpf/nowhere",
            ],
            &["doctor"],
            &["config", "show"],
            &["run"],
        ] {
            let all = [words, &["--config", file]].concat();
            let output = daemon.namegate(&all).unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(78), "{all:?}: {said}");
            assert!(said.contains(fault), "{all:?}: {said}");
            assert!(output.stdout.is_empty(), "{all:?}: {output:?}");
        }
    }
    let dump = |file| {
        let words = ["sysdump", "--output", &archive, "--config", file];
        daemon.namegate(&words).unwrap().status.code()
    };
    assert_eq!(dump(&missing), Some(78));
    assert!(!daemon.path("dump.tar").exists());
    // It is for whoever is to find out what is wrong with it.
    assert_eq!(dump(&broken), Some(0));

    let odd = write(&daemon, "odd.yaml", "audit: perhaps\n");
    let output = daemon.namegate(&["doctor", "--config", &odd]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("odd.yaml:1:8: error: audit:"), "{text}");
}
