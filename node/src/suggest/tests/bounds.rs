//! Each bound is hit: what is beyond is left out and counted.

use super::*;
use crate::suggest::limits::{
    ANSWERS_MAX, FACTS_MAX, NAMES_MAX, PEERS_MAX, PORTS_MAX, REQUESTS_MAX, WORKLOADS_MAX,
};

/// One flow over the limit is left out, and the text still loads where all of it can.
fn check(flows: &[Value], skip: Skip) -> Evidence {
    let evidence = learn(flows);
    assert_eq!(skipped(&evidence), [(skip, 1)]);
    assert!(text(&evidence).len() <= policy::limits::FILE_BYTES_MAX);
    evidence
}

#[test]
fn workloads_are_bounded() {
    let flows: Vec<Value> = (0..=WORKLOADS_MAX)
        .map(|n| {
            let source = pod("default", "a", &format!("app-{n}"));
            with(egress(world(), tcp(443)), json!({ "source": source }))
        })
        .collect();
    let evidence = check(&flows, Skip::Workloads);
    assert_eq!(evidence.suggest(Names::Exact).len(), WORKLOADS_MAX);
}

#[test]
fn peers_are_bounded() {
    let flows: Vec<Value> = (0..=PEERS_MAX)
        .map(|n| egress(pod("default", "b", &format!("app-{n}")), tcp(80)))
        .collect();
    check(&flows, Skip::Peers);
}

#[test]
fn ports_and_icmp_types_are_bounded() {
    let flows: Vec<Value> = (1..=PORTS_MAX + 1)
        .map(|n| egress(world(), tcp(u16::try_from(n).unwrap())))
        .collect();
    let evidence = check(&flows, Skip::Ports);
    // More ports than one entry may have are several entries.
    let loaded = load(&text(&evidence));
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    let echo = |family: &str, kind| egress(world(), json!({ family: {"type": kind} }));
    let kinds = (19..=255).map(|kind| echo("ICMPv4", kind));
    let kinds = kinds.chain((5..).map(|kind| echo("ICMPv6", kind)));
    let flows: Vec<Value> = kinds.take(PORTS_MAX + 1).collect();
    check(&flows, Skip::Ports);
    let icmps = spec(&flows)["egress"][0]["icmps"].take();
    let fields = icmps.as_array().unwrap().iter();
    let lengths: Vec<usize> = fields
        .map(|it| it["fields"].as_array().unwrap().len())
        .collect();
    assert_eq!(lengths, [40, 40, 40, 40, 40, 40, 16]);
}

#[test]
fn names_are_bounded() {
    let flows: Vec<Value> = (0..=NAMES_MAX)
        .map(|n| query(&format!("n{n}.example.")))
        .collect();
    check(&flows, Skip::Names);
}

#[test]
fn requests_are_bounded() {
    let flows: Vec<Value> = (0..=REQUESTS_MAX)
        .map(|n| request("GET", &format!("http://b/{n}")))
        .collect();
    check(&flows, Skip::Requests);
}

#[test]
fn a_whole_set_stays_within_what_one_policy_file_may_hold() {
    // One workload, then a peer and a port each.
    let flows: Vec<Value> = (0..FACTS_MAX / 2 + 2)
        .map(|n| {
            let source = pod("default", "a", &format!("app-{}", n / PEERS_MAX));
            let mut to = pod("other", "b", &format!("app-{n}"));
            for key in ["tier", "part-of", "component", "version", "instance"] {
                to["labels"]
                    .as_array_mut()
                    .unwrap()
                    .push(format!("k8s:{key}=x").into());
            }
            let port = u16::try_from(n + 1).unwrap();
            with(egress(to, tcp(port)), json!({ "source": source }))
        })
        .collect();
    let evidence = learn(&flows);
    let [(Skip::Facts, left_out)] = skipped(&evidence)[..] else {
        panic!("{:?}", skipped(&evidence));
    };
    assert!(left_out > 0);
    let loaded = load(&text(&evidence));
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
}

#[test]
fn answers_beyond_the_limit_are_forgotten() {
    let mut flows: Vec<Value> = (0..=ANSWERS_MAX)
        .map(|n| answer(&format!("n{n}.example."), 3, &[]))
        .collect();
    flows.push(query("good.example."));
    flows.push(query("n1.example."));
    flows.push(query(&format!("n{ANSWERS_MAX}.example.")));
    let text = text(&learn(&flows));
    assert!(!text.contains("matchName: n1.example"), "{text}");
    assert!(
        text.contains(&format!("matchName: n{ANSWERS_MAX}.example")),
        "{text}"
    );
}
