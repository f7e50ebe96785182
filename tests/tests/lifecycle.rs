//! How a daemon comes and goes, and what it leaves behind.

#![expect(clippy::unwrap_used, clippy::too_many_lines, reason = "a test may die")]

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use namegate_tests::{Daemon, Stage, must_be_equal, patience, policy};

/// What `alice` may reach.
const NAMES: &str = "[{matchName: web.example.com}]";

/// Filters, as where there is no tcx.
const CLSACT: &[&str] = &["--hooks", "clsact"];

fn daemon(stage: &Stage) -> Daemon<'_> {
    stage.daemon(&policy("alice", NAMES)).unwrap()
}

/// A path to the node's network namespace.
fn ns_path(stage: &Stage) -> String {
    use std::os::fd::{AsFd, AsRawFd};
    format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        stage.node.ns.as_fd().as_raw_fd()
    )
}

/// How many side links the node has.
fn side_links(stage: &Stage) -> usize {
    let links = stage.node.check("ip", &["-o", "link"]).unwrap();
    links.lines().filter(|line| line.contains(": ng")).count()
}

/// Law 7: rules, routes, nft tables, sysctls, addresses: equal before, while and after.
#[test]
fn nothing_of_the_nodes_is_touched() {
    let stage = Stage::new().unwrap();
    let before = stage.node.fingerprint().unwrap();
    assert!(before.lines().count() > 500, "the fingerprint is not empty");
    let mut daemon = daemon(&stage);
    daemon.start(&[]).unwrap();
    stage.asks("web.example.com").unwrap();
    assert!(stage.reaches("198.18.0.1:80").unwrap());
    assert_eq!(side_links(&stage), 1);
    let is_tcx = daemon.status().unwrap()["datapath"]["hooks"] == "tcx";
    let now = || {
        let now = stage.node.fingerprint().unwrap();
        if is_tcx {
            return now;
        }
        eprintln!(
            "this kernel has no tcx: a clsact qdisc stays on a guarded interface, as README.md says"
        );
        let lines = now.lines().filter(|line| !line.contains("qdisc clsact"));
        lines.collect::<Vec<_>>().join("\n")
    };
    must_be_equal(&before, &now());
    let detached = daemon
        .namegate(&[
            "detach",
            "--socket",
            &daemon.path("namegate.sock").display().to_string(),
        ])
        .unwrap();
    assert!(detached.status.success(), "{detached:?}");
    assert_eq!(daemon.wait().unwrap(), Some(0));
    must_be_equal(&before, &now());
    assert_eq!(side_links(&stage), 0);
    assert!(
        stage.reaches("198.18.0.9:80").unwrap(),
        "and nothing is guarded any more"
    );
}

#[test]
fn sigterm_and_kill_leave_enforcement() {
    ended(&[]);
}

#[test]
fn sigterm_and_kill_leave_enforcement_by_filters() {
    ended(CLSACT);
}

fn ended(hooks: &[&str]) {
    let stage = Stage::new().unwrap();
    let mut daemon = daemon(&stage);
    for signal in ["TERM", "KILL"] {
        daemon.start(hooks).unwrap();
        assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
        assert!(stage.reaches("198.18.0.1:80").unwrap());
        let code = daemon.end_with(signal).unwrap();
        assert_eq!(code, (signal == "TERM").then_some(0));
        assert!(
            stage.reaches("198.18.0.1:80").unwrap(),
            "{signal}: what was open stays open"
        );
        assert!(
            !stage.reaches("198.18.0.2:80").unwrap(),
            "{signal}: what was closed stays closed"
        );
        assert!(
            stage.asks("web.example.com").unwrap().contains("timed out"),
            "{signal}: no query goes unjudged"
        );
    }
    daemon.start(hooks).unwrap();
    assert!(stage.reaches("198.18.0.1:80").unwrap());
}

/// What was attached in another way is not taken over, and that is said.
#[test]
fn who_changes_the_way_of_attaching_begins_anew() {
    let stage = Stage::new().unwrap();
    let mut daemon = daemon(&stage);
    daemon.start(&[]).unwrap();
    let has_tcx = daemon.status().unwrap()["datapath"]["hooks"] == "tcx";
    if !has_tcx {
        eprintln!("this kernel has no tcx: nothing but filters is tried, which are taken over");
    }
    for hooks in [CLSACT, &[], CLSACT] {
        assert_eq!(daemon.end_with("KILL").unwrap(), None);
        daemon.start(hooks).unwrap();
        let said = daemon.said();
        assert_eq!(said.contains("an earlier run left its programs"), has_tcx);
        assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
        assert!(!stage.reaches("198.18.0.2:80").unwrap());
        let filters = ["filter", "show", "dev", "valice", "ingress"];
        let filters = stage.node.check("tc", &filters).unwrap();
        let wanted = !hooks.is_empty() || !has_tcx;
        assert_eq!(filters.contains("ng_from_ep"), wanted, "{filters}");
    }
}

#[test]
fn detach_works_without_a_daemon_and_with_nothing_to_take_away() {
    let stage = Stage::new().unwrap();
    let mut daemon = daemon(&stage);
    daemon.start(&[]).unwrap();
    daemon.end_with("KILL").unwrap();
    assert!(!stage.reaches("198.18.0.9:80").unwrap());
    for _ in 0..2 {
        let detached = daemon.namegate(&["detach"]).unwrap();
        assert!(detached.status.success(), "{detached:?}");
        assert!(stage.reaches("198.18.0.9:80").unwrap());
        assert_eq!(side_links(&stage), 0);
    }
    let pins = stage
        .node
        .check(
            "find",
            &[
                "/sys/fs/bpf",
                "/run/netns",
                "-mindepth",
                "1",
                "-not",
                "-name",
                "*.debug",
            ],
        )
        .unwrap();
    assert_eq!(pins, "", "nothing is left");
}

#[test]
fn what_a_configuration_moves_is_found_by_it_and_where_nothing_is_that_is_said() {
    const PINS: &str = "/sys/fs/bpf/elsewhere";
    let stage = Stage::new().unwrap();
    let mut daemon = daemon(&stage);
    let dirs = ["policies", "endpoints"].map(|name| daemon.path(name).display().to_string());
    let text = format!(
        "instance: moved\nbpf_dir: {PINS}\npolicy_dir: [{}]\nendpoint_dir: {}\n",
        dirs[0], dirs[1]
    );
    let config = daemon.path("config.yaml");
    std::fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    daemon.start(&["--config", &config]).unwrap();
    daemon.end_with("KILL").unwrap();
    daemon.policy("bad.yaml", "kind: X\n").unwrap();

    let run = |words: &[&str]| {
        let output = daemon.namegate(words).unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said)
    };
    let nothing = |instance: &str, pins: &str| {
        let said = format!("nothing was there of instance {instance}, nor at {pins}\n");
        (Some(0), said)
    };
    let with_config = |words: &[&'static str]| run(&[words, &["--config", &config]].concat());
    assert_eq!(run(&["detach"]), nothing("default", "/sys/fs/bpf/namegate"));
    assert_eq!(side_links(&stage), 1);
    assert!(!stage.reaches("198.18.0.9:80").unwrap());

    let (code, maps) = with_config(&["map", "list"]);
    assert!(code == Some(0) && maps.contains(PINS), "{maps}");
    let (code, findings) = with_config(&["doctor"]);
    for told in ["bad.yaml", "left enforcement in place"] {
        assert!(code == Some(1) && findings.contains(told), "{findings}");
    }
    let detached = with_config(&["detach"]);
    assert_eq!(detached, (Some(0), "detached\n".to_owned()));
    assert_eq!(side_links(&stage), 0);
    assert!(stage.reaches("198.18.0.9:80").unwrap());
    assert_eq!(with_config(&["detach"]), nothing("moved", PINS));
}

#[test]
fn detach_on_exit_takes_two_seconds_at_most() {
    let stage = Stage::new().unwrap();
    let mut daemon = daemon(&stage);
    daemon.start(&["--detach-on-exit"]).unwrap();
    assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
    #[expect(clippy::disallowed_methods, reason = "the promise is a time")]
    let began = Instant::now();
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2) * patience(), "{took:?}");
    assert_eq!(side_links(&stage), 0);
    assert!(stage.reaches("198.18.0.9:80").unwrap());
}

#[test]
fn a_second_daemon_is_refused_with_the_first_ones_pid() {
    let stage = Stage::new().unwrap();
    let mut first = daemon(&stage);
    first.start(&[]).unwrap();
    let mut second = daemon(&stage);
    second.spawn(&["--instance", "second"]).unwrap();
    assert_eq!(second.wait().unwrap(), Some(1));
    let said = second.said();
    assert!(said.contains(&format!("process {}", first.pid())), "{said}");
    assert_eq!(
        stage.asks("web.example.com").unwrap(),
        "198.18.0.1\n",
        "the first goes on"
    );
}

/// Two nodes of one machine with one bpffs and one name: the second must not take the first one's
/// programs away.
#[test]
fn pins_that_a_daemon_of_another_node_uses_are_left_alone() {
    let (one, two) = (Stage::new().unwrap(), Stage::new().unwrap());
    let mut first = daemon(&one);
    first.start(&[]).unwrap();
    let second = daemon(&two);
    // The second node's network, the first one's file systems.
    let output = Command::new("timeout")
        .args(["10", "nsenter"])
        .arg(format!("--mount=/proc/{}/ns/mnt", first.pid()))
        .arg(format!("--net={}", ns_path(&two)))
        .arg("--")
        .arg(Daemon::binary().unwrap())
        .args(["run", "--policy-dir"])
        .arg(second.path("policies"))
        .arg("--endpoint-dir")
        .arg(second.path("endpoints"))
        .arg("--state-dir")
        .arg(second.path("state"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("--instance"),
        "{output:?}"
    );
    assert_eq!(
        one.asks("web.example.com").unwrap(),
        "198.18.0.1\n",
        "the first goes on"
    );
}

#[test]
fn what_cannot_be_used_is_said_in_one_line_with_its_exit_code() {
    let stage = Stage::new().unwrap();
    let mut daemon = daemon(&stage);
    daemon.policy("bad.yaml", "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: x}\nspec:\n  endpointSelector: {}\n  egress:\n  - toPortz: []\n").unwrap();
    daemon.spawn(&[]).unwrap();
    assert_eq!(daemon.wait().unwrap(), Some(78));
    let said = daemon.said();
    assert!(
        said.contains("bad.yaml:7:5: error") && said.contains("toPortz"),
        "{said}"
    );
    assert_eq!(side_links(&stage), 0, "nothing was begun");

    std::fs::remove_file(daemon.path("policies").join("bad.yaml")).unwrap();
    daemon
        .endpoint_file("bad.yaml", "name: x\nnetnss: /y\n")
        .unwrap();
    daemon.spawn(&[]).unwrap();
    assert_eq!(daemon.wait().unwrap(), Some(78));
    assert!(daemon.said().contains("netnss"));

    let binary = Daemon::binary().unwrap().display().to_string();
    let copy = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    let unprivileged = copy.path().join("namegate");
    std::fs::copy(&binary, &unprivileged).unwrap();
    let run = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&unprivileged)
        .args(["run", "--policy-dir", "/", "--endpoint-dir", "/"])
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(77), "{run:?}");
    assert_eq!(
        String::from_utf8_lossy(&run.stderr).lines().count(),
        1,
        "{run:?}"
    );

    let usage = daemon.namegate(&["run", "--no-such-flag"]).unwrap();
    assert_eq!(usage.status.code(), Some(2));
    let none = daemon
        .namegate(&["status", "--socket", "/nowhere"])
        .unwrap();
    assert_eq!(none.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&none.stderr).contains("/nowhere"),
        "{none:?}"
    );
    for (option, other) in [
        ("--policy-dir", "--endpoint-dir"),
        ("--endpoint-dir", "--policy-dir"),
    ] {
        let words = ["run", option, "/nowhere", other, "/"];
        let none = daemon.namegate(&words).unwrap();
        assert_eq!(none.status.code(), Some(78), "{none:?}");
        let said = String::from_utf8_lossy(&none.stderr);
        let cure = format!("; make it, or name another by {option}\n");
        assert!(
            said.contains("/nowhere: ") && said.ends_with(&cure),
            "{said}"
        );
    }
    // Somebody who isn't root asks one that runs.
    std::fs::remove_file(daemon.path("endpoints").join("bad.yaml")).unwrap();
    daemon.start(&[]).unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(daemon.path(""), everybody).unwrap();
    let mut nobody = stage.node.command("setpriv");
    nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    let nobody = nobody.arg(&unprivileged).args(["status", "--socket"]);
    let refused = nobody.arg(daemon.path("namegate.sock")).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("(a daemon answers root and its own user)"),
        "{said}"
    );
}

#[test]
fn endpoints_come_and_go_while_it_runs() {
    let stage = Stage::new().unwrap();
    let mut daemon = daemon(&stage);
    daemon.start(&[]).unwrap();
    let revision = || {
        daemon.status().unwrap()["policy"]["revision"]
            .as_u64()
            .unwrap()
    };
    let socket = daemon.path("namegate.sock").display().to_string();

    // A second endpoint, under the same policy by its label.
    let bob = stage.node.workload("bob", 3).unwrap();
    let now = revision();
    daemon
        .endpoint_file(
            "bob.yaml",
            &format!(
                "name: bob\nlabels: {{app: alice}}\nnetns: {}\n",
                bob.ns_path().display()
            ),
        )
        .unwrap();
    daemon.wait_beyond(now).unwrap();
    let list = daemon
        .namegate(&["endpoint", "list", "--socket", &socket])
        .unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let line = list
        .lines()
        .find(|line| line.contains("default/bob"))
        .unwrap_or_else(|| panic!("{list}"));
    assert!(
        line.contains("ready") && line.contains("enforced") && line.contains("10.0.0.3"),
        "{list}"
    );
    assert_eq!(
        bob.dig(IpAddr::V4(stage.world.v4), &["+short", "web.example.com"])
            .unwrap(),
        "198.18.0.1\n"
    );
    let denied = bob
        .dig(IpAddr::V4(stage.world.v4), &["x.evil.test"])
        .unwrap();
    assert!(denied.contains("NXDOMAIN"), "{denied}");

    // It gets another address: seen without a change of files.
    let now = revision();
    bob.check("ip", &["address", "add", "10.0.0.33/24", "dev", "eth0"])
        .unwrap();
    daemon.wait_beyond(now).unwrap();
    let from = |address: &str| {
        bob.dig(
            IpAddr::V4(stage.world.v4),
            &["-b", address, "+short", "web.example.com"],
        )
        .unwrap()
    };
    assert_eq!(from("10.0.0.33"), "198.18.0.1\n");

    // One that can't be guarded is refused by name, and the daemon is not well then.
    let now = revision();
    daemon
        .endpoint_file("ghost.yaml", "name: ghost\nnetns: /nowhere\n")
        .unwrap();
    daemon.wait_beyond(now).unwrap();
    let status = daemon.namegate(&["status", "--socket", &socket]).unwrap();
    assert_eq!(status.status.code(), Some(1));
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains("default/ghost refused: /nowhere"), "{text}");

    // It goes.
    let now = revision();
    std::fs::remove_file(daemon.path("endpoints").join("ghost.yaml")).unwrap();
    std::fs::remove_file(daemon.path("endpoints").join("bob.yaml")).unwrap();
    daemon.wait_beyond(now).unwrap();
    let status = daemon.namegate(&["status", "--socket", &socket]).unwrap();
    assert_eq!(status.status.code(), Some(0), "{status:?}");
    let direct = bob
        .dig(IpAddr::V4(stage.world.v4), &["+short", "x.evil.test"])
        .unwrap();
    assert_eq!(direct, "198.18.66.66\n", "it isn't guarded any more");
}

#[test]
fn label_sets_keep_their_numbers_over_a_restart() {
    let stage = Stage::new().unwrap();
    let mut daemon = daemon(&stage);
    daemon.start(&[]).unwrap();
    let identity =
        |daemon: &Daemon<'_>| daemon.status().unwrap()["endpoints"][0]["identity"].clone();
    let first = identity(&daemon);
    assert!(first.as_u64().unwrap() >= 256);
    daemon.end_with("TERM").unwrap();
    let earlier = stage.node.workload("aaa", 9).unwrap();
    daemon.endpoint(&earlier).unwrap();
    daemon.start(&[]).unwrap();
    let status = daemon.status().unwrap();
    let alice = status["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "default/alice")
        .unwrap();
    assert_eq!(alice["identity"], first);
}
