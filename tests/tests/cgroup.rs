//! A cgroup as an endpoint: its processes are in the node's own network, and reach what its policy allows.

use namegate_tests::{Cgroup, Daemon, Stage, policy};

#[test]
fn a_cgroup_asks_through_the_gate_and_reaches_what_it_learned() {
    let stage = Stage::new().unwrap();
    let cgroup = Cgroup::new("job").unwrap();
    let mut daemon = Daemon::prepare(&stage.node).unwrap();
    daemon
        .endpoint_file("job.yaml", &cgroup.endpoint())
        .unwrap();
    daemon
        .policy("job.yaml", &policy("job", "[{matchName: web.example.com}]"))
        .unwrap();
    daemon.start(&[]).unwrap();
    let said = |program: &str, args: &[&str]| cgroup.said(&stage.node, program, args).unwrap();
    eprintln!(
        "{}",
        said("curl", &["-sS", "-m", "2", "http://198.18.0.1/"])
    );
    eprintln!(
        "{}",
        said(
            "dig",
            &["+tries=1", "+time=2", "@203.0.113.2", "web.example.com"]
        )
    );
    eprintln!(
        "{}",
        said(
            "dig",
            &[
                "+tcp",
                "+tries=1",
                "+time=2",
                "@203.0.113.2",
                "web.example.com"
            ]
        )
    );
    eprintln!(
        "{}",
        said(
            "dig",
            &["+tries=1", "+time=2", "@2001:db8::2", "web.example.com"]
        )
    );
    eprintln!(
        "{}",
        said(
            "dig",
            &[
                "+tcp",
                "+tries=1",
                "+time=2",
                "@2001:db8::2",
                "web.example.com"
            ]
        )
    );
    eprintln!(
        "{}",
        said(
            "dig",
            &["+tries=1", "+time=2", "@203.0.113.2", "a.evil.test"]
        )
    );
    eprintln!(
        "{}",
        said("curl", &["-sS", "-m", "2", "http://198.18.0.1/"])
    );
    eprintln!(
        "{}",
        said("curl", &["-sS", "-m", "2", "http://198.18.0.2/"])
    );
    eprintln!("{}", daemon.status().unwrap());
    panic!();
}
