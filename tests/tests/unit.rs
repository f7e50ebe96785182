//! A unit of systemd as an endpoint: it is found by its name, by the cgroup that it has while it runs.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::time::Duration;

use namegate_tests::{Cgroup, Daemon, Stage, policy};

const WEB: &str = "198.18.0.1";
const OTHER: &str = "198.18.0.2";

fn wait(daemon: &Daemon<'_>, state: &str) -> String {
    for _ in 0..100 {
        let status = daemon.status().unwrap();
        let one = &status["endpoints"][0];
        if one["state"] == state {
            return one["reason"].to_string();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("not {state}: {}", daemon.status().unwrap());
}

#[test]
fn a_unit_is_guarded_while_it_runs_in_whatever_slice() {
    let stage = Stage::new().unwrap();
    let outer = Cgroup::new("outer").unwrap();
    let root = outer.path().parent().unwrap().to_owned();
    let stem = format!("ngtest{}", std::process::id());
    let slice = Cgroup::at("slice", root.join(format!("{stem}.slice"))).unwrap();
    let inner = slice.path().join(format!("{stem}-in.slice"));
    let inner = Cgroup::at("inner", inner).unwrap();
    let unit = format!("{stem}.service");

    let mut daemon = Daemon::prepare(&stage.node).unwrap();
    let endpoint = format!("name: job\nlabels: {{app: job}}\nunit: {unit}\n");
    daemon.endpoint_file("job.yaml", &endpoint).unwrap();
    let text = policy("job", "[{matchName: web.example.com}]");
    daemon.policy("job.yaml", &text).unwrap();
    daemon.start(&[]).unwrap();
    let reason = wait(&daemon, "refused");
    assert!(
        reason.contains(&unit) && reason.contains("doesn't run"),
        "{reason}"
    );

    let job = Cgroup::at("job", inner.path().join(&unit)).unwrap();
    wait(&daemon, "ready");
    let run = |program: &str, args: &[&str]| job.said(&stage.node, program, args).unwrap();
    let refused = |address: &str| {
        let url = format!("telnet://{address}:80");
        run("curl", &["-sS", "-m", "3", "-o", "/dev/null", &url]).contains("(7)")
    };
    assert!(refused(WEB), "not before its name is asked");
    for (name, address) in [("web", WEB), ("other", OTHER)] {
        let name = format!("{name}.example.com");
        assert_eq!(run("dig", &["+short", "@203.0.113.2", &name]), address);
    }
    assert!(!refused(WEB), "its name is allowed");
    assert!(refused(OTHER), "and the other one is not");

    job.remove().unwrap();
    wait(&daemon, "refused");
}
