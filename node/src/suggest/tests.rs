//! From lines to policies: what is allowed, what is left out, and that it can be loaded.

mod bounds;
mod hostile;

use policy::{Loaded, Source};
use serde_json::{Value, json};

use super::*;
use crate::suggest::skip::Skip;

/// Hubble's golden events, of all kinds.
const CASES: &str = include_str!("data/cases.txt");

pub(super) fn learn(flows: &[Value]) -> Evidence {
    learn_in(Scope::default(), flows)
}

pub(super) fn learn_in(scope: Scope, flows: &[Value]) -> Evidence {
    let mut evidence = Evidence::new(scope);
    for flow in flows {
        match Line::parse(&json!({ "flow": flow }).to_string()).unwrap() {
            Line::Flow(record) => evidence.add(&record),
            line @ (Line::Lost(_) | Line::Other) => panic!("{line:?}"),
        }
    }
    evidence
}

pub(super) fn text(evidence: &Evidence) -> String {
    evidence.suggest(Names::Exact).join("---\n")
}

pub(super) fn load(text: &str) -> Loaded {
    let source = Source {
        path: "learned.yaml".to_owned(),
        text: text.to_owned(),
    };
    policy::load(&[source])
}

/// The documents as values.
pub(super) fn read(text: &str) -> Vec<Value> {
    let mut documents = vec![String::new()];
    for line in text.split_inclusive('\n') {
        // A name may end in dashes too.
        match (line, documents.last_mut()) {
            ("---\n", _) | (_, None) => documents.push(String::new()),
            (line, Some(document)) => document.push_str(line),
        }
    }
    documents
        .iter()
        .filter(|document| !document.is_empty())
        .map(|document| {
            serde_yaml::from_str(document).unwrap_or_else(|error| panic!("{document}: {error}"))
        })
        .collect()
}

/// The one policy's spec.
pub(super) fn spec(flows: &[Value]) -> Value {
    let mut documents = read(&text(&learn(flows)));
    assert_eq!(documents.len(), 1, "{documents:?}");
    documents.remove(0)["spec"].take()
}

pub(super) fn pod(namespace: &str, name: &str, app: &str) -> Value {
    json!({
        "namespace": namespace, "pod_name": name, "identity": 300,
        "labels": [format!("k8s:app={app}"),
                   format!("k8s:io.kubernetes.pod.namespace={namespace}")],
    })
}

fn world() -> Value {
    json!({"identity": 2, "labels": ["reserved:world"]})
}

fn dns_server() -> Value {
    pod("kube-system", "coredns-1", "dns")
}

/// A first packet of `default/a-1` to somebody at 192.0.2.1.
pub(super) fn egress(to: Value, l4: Value) -> Value {
    json!({
        "time": "2026-03-05T09:08:11Z", "verdict": "FORWARDED", "traffic_direction": "EGRESS",
        "IP": {"source": "10.0.0.1", "destination": "192.0.2.1"}, "l4": l4, "is_reply": false,
        "source": pod("default", "a-1", "a"), "destination": to, "event_type": {"type": 5},
    })
}

/// A first packet of somebody at 192.0.2.1 to `default/a-1`.
fn ingress(from: Value, l4: Value) -> Value {
    with(
        egress(json!({}), l4),
        json!({
            "traffic_direction": "INGRESS", "source": from, "destination": pod("default", "a-1", "a"),
            "IP": {"source": "192.0.2.1", "destination": "10.0.0.1"},
        }),
    )
}

/// With other values in some fields.
pub(super) fn with(mut flow: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else {
        panic!("an object");
    };
    flow.as_object_mut().unwrap().extend(fields);
    flow
}

pub(super) fn tcp(port: u16) -> Value {
    json!({"TCP": {"source_port": 4000, "destination_port": port, "flags": {"SYN": true}}})
}

fn udp(port: u16) -> Value {
    json!({"UDP": {"source_port": 4000, "destination_port": port}})
}

pub(super) fn query(name: &str) -> Value {
    let l7 = json!({"type": "REQUEST", "dns": {"query": name, "qtypes": ["A"]}});
    with(egress(dns_server(), udp(53)), json!({ "l7": l7 }))
}

/// An answer to `default/a-1`.
fn answer(name: &str, rcode: u32, ips: &[&str]) -> Value {
    let l7 = json!({"type": "RESPONSE", "dns": {"query": name, "rcode": rcode, "ips": ips}});
    with(
        egress(
            pod("default", "a-1", "a"),
            json!({"UDP": {"source_port": 53}}),
        ),
        json!({
            "l7": l7, "is_reply": true, "source": dns_server(),
        }),
    )
}

pub(super) fn request(method: &str, url: &str) -> Value {
    let l7 = json!({"type": "REQUEST", "http": {"method": method, "url": url}});
    with(
        egress(pod("default", "b-1", "b"), tcp(80)),
        json!({ "l7": l7 }),
    )
}

/// Flows that were not used, by reason.
pub(super) fn skipped(evidence: &Evidence) -> Vec<(Skip, u64)> {
    evidence
        .skipped()
        .iter()
        .map(|(skip, count)| (*skip, *count))
        .collect()
}

#[test]
fn the_golden_events_give_the_golden_policies() {
    let mut evidence = Evidence::default();
    let mut lost = 0;
    for line in CASES.lines() {
        match Line::parse(line).unwrap() {
            Line::Flow(record) => evidence.add(&record),
            Line::Lost(count) => lost += count,
            Line::Other => panic!("{line}"),
        }
    }
    assert_eq!(lost, 15);
    assert_eq!(text(&evidence), include_str!("data/cases.yaml"));
}

#[test]
fn a_bare_flow_and_other_spellings_are_read_alike() {
    let flow = egress(world(), tcp(443));
    let plain = Line::parse(&flow.to_string()).unwrap();
    assert_eq!(
        Line::parse(&json!({"flow": flow, "node_name": "n"}).to_string()).unwrap(),
        plain
    );
    let camel = flow.to_string();
    let camel = [
        ("traffic_direction", "trafficDirection"),
        ("is_reply", "isReply"),
        ("destination_port", "destinationPort"),
        ("source_port", "sourcePort"),
        ("pod_name", "podName"),
        ("\"EGRESS\"", "2"),
        ("\"FORWARDED\"", "1"),
        (":443", ":\"443\""),
    ]
    .into_iter()
    .fold(camel, |text, (from, to)| text.replace(from, to));
    assert_eq!(Line::parse(&camel).unwrap(), plain);
}

#[test]
fn lines_that_are_no_events_are_refused() {
    for bad in [
        "",
        "3",
        "[]",
        "{}",
        "{\"flow\":3}",
        "{\"node_name\":\"a\"}",
        "{\"flow\":{\"time\":3}}",
        "{\"flow\":{\"IP\":{\"source\":\"a\"}}}",
        "{\"flow\":{\"l4\":{\"TCP\":{\"destination_port\":65536}}}}",
        "{\"flow\":{\"l4\":{\"TCP\":{\"destination_port\":\"http\"}}}}",
    ] {
        assert!(Line::parse(bad).is_err(), "{bad}");
    }
    assert!(matches!(
        Line::parse("{\"node_status\":{}}"),
        Ok(Line::Other)
    ));
}

#[test]
fn what_was_learned_loads_and_names_each_kind_of_peer() {
    let world_named = json!({"destination_names": ["example.com", "www.example.com"]});
    let flows = [
        query("example.com."),
        query("www.example.com."),
        egress(dns_server(), udp(53)),
        with(egress(world(), tcp(443)), world_named),
        egress(world(), tcp(8443)),
        egress(pod("default", "b-1", "b"), tcp(80)),
        egress(pod("default", "b-2", "b"), tcp(80)),
        egress(
            json!({"identity": 1, "labels": ["reserved:host"]}),
            tcp(10250),
        ),
    ];
    let evidence = learn(&flows);
    let text = text(&evidence);
    let loaded = load(&text);
    assert!(loaded.problems.is_empty(), "{:?}\n{text}", loaded.problems);
    assert_eq!(loaded.set.len(), 1);
    assert_eq!(evidence.used(), 8);
    let spec = spec(&flows);
    assert_eq!(
        spec["endpointSelector"],
        json!({"matchLabels": {"k8s:app": "a"}})
    );
    let names = json!([{"matchName": "example.com"}, {"matchName": "www.example.com"}]);
    let expected = json!([
        {
            "toEndpoints": [{"matchLabels": {
                "k8s:io.kubernetes.pod.namespace": "kube-system", "k8s:app": "dns",
            }}],
            "toPorts": [{"ports": [{"port": "53", "protocol": "UDP"}], "rules": {"dns": names}}],
        },
        {
            "toEndpoints": [{"matchLabels": {"k8s:app": "b"}}],
            "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}],
        },
        {
            "toEntities": ["host"],
            "toPorts": [{"ports": [{"port": "10250", "protocol": "TCP"}]}],
        },
        {
            "toCIDR": ["192.0.2.1/32"],
            "toPorts": [{"ports": [{"port": "8443", "protocol": "TCP"}]}],
        },
        {"toFQDNs": names, "toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}]}]},
    ]);
    let mut egress = spec["egress"].clone();
    egress
        .as_array_mut()
        .unwrap()
        .sort_by_key(|rule| rule.to_string());
    let mut expected = expected;
    expected
        .as_array_mut()
        .unwrap()
        .sort_by_key(|rule| rule.to_string());
    assert_eq!(egress, expected);
}

#[test]
fn comments_tell_which_flows_asked() {
    let late = json!({"time": "2026-03-05T10:00:00.5Z", "destination_names": ["x.example"]});
    let early = json!({"destination_names": ["x.example"]});
    let flows = [
        with(egress(world(), tcp(443)), late),
        with(egress(world(), tcp(443)), early),
    ];
    let text = text(&learn(&flows));
    let expected = "    # 2 flows, 2026-03-05T09:08:11Z to 2026-03-05T10:00:00Z, e.g. default/a-1:4000 \
                    -> 192.0.2.1:443 (x.example)\n    # no DNS query for x.example was recorded";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn each_direction_is_the_policy_of_the_side_that_it_means() {
    let flows = [
        ingress(pod("other", "c-1", "c"), tcp(80)),
        ingress(world(), tcp(80)),
        ingress(json!({"identity": 1}), tcp(80)),
    ];
    let spec = spec(&flows);
    assert_eq!(spec["egress"], Value::Null);
    let ports = json!([{"ports": [{"port": "80", "protocol": "TCP"}]}]);
    let other = json!({"k8s:io.kubernetes.pod.namespace": "other", "k8s:app": "c"});
    let expected = json!([
        {"fromEndpoints": [{"matchLabels": other}], "toPorts": ports},
        {"fromEntities": ["host"], "toPorts": ports},
        {"fromCIDR": ["192.0.2.1/32"], "toPorts": ports},
    ]);
    assert_eq!(spec["ingress"], expected);
}

#[test]
fn icmp_is_a_rule_of_its_own_and_its_answers_none() {
    let echo = |kind: u8| egress(world(), json!({"ICMPv4": {"type": kind}}));
    let flows = [echo(8), echo(0), echo(3), egress(world(), tcp(80))];
    let spec = spec(&flows);
    let fields = json!([{"fields": [{"family": "IPv4", "type": 8}]}]);
    assert_eq!(
        spec["egress"][1],
        json!({"toCIDR": ["192.0.2.1/32"], "icmps": fields})
    );
    assert_eq!(spec["egress"][0]["icmps"], Value::Null);
    assert_eq!(skipped(&learn(&flows)), [(Skip::IcmpAnswer, 2)]);
}

#[test]
fn requests_are_rules_and_close_the_port_to_others() {
    let flows = [
        request("GET", "http://b/a.b?c=1"),
        request("GET", "http://b/a.b?c=1"),
        request("POST", "http://b/x"),
        egress(pod("default", "b-1", "b"), tcp(80)),
        egress(pod("default", "b-1", "b"), tcp(81)),
    ];
    let http = json!([
        {"method": "GET", "path": "/a\\.b\\?c=1"}, {"method": "POST", "path": "/x"},
    ]);
    let expected = json!([
        {"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": http}},
        {"ports": [{"port": "81", "protocol": "TCP"}]},
    ]);
    assert_eq!(spec(&flows)["egress"][0]["toPorts"], expected);
}

#[test]
fn only_what_was_allowed_counts_unless_denials_are_wanted() {
    let denied = |reason: u32| json!({"verdict": "DROPPED", "drop_reason": reason});
    let flow = || egress(world(), tcp(443));
    let flows = [
        with(flow(), denied(133)),
        with(
            flow(),
            json!({"verdict": "DROPPED", "drop_reason_desc": "POLICY_DENIED"}),
        ),
        with(query("evil.example."), json!({"verdict": "DROPPED"})),
        with(flow(), denied(181)),
        with(flow(), denied(132)),
        with(flow(), json!({"verdict": "ERROR"})),
        with(flow(), json!({"verdict": "TRACED"})),
        with(flow(), json!({"verdict": "NEW_WORD"})),
    ];
    let evidence = learn(&flows);
    assert_eq!(skipped(&evidence), [(Skip::Denied, 3), (Skip::Verdict, 5)]);
    assert_eq!(text(&evidence), "");
    let scope = Scope {
        includes_denied: true,
        ..Scope::default()
    };
    let evidence = learn_in(scope, &flows);
    assert_eq!(skipped(&evidence), [(Skip::Verdict, 5)]);
    assert!(text(&evidence).contains("evil.example"));
    for verdict in ["REDIRECTED", "AUDIT"] {
        let flow = with(flow(), json!({ "verdict": verdict }));
        assert_eq!(learn(&[flow]).used(), 1, "{verdict}");
    }
}

#[test]
fn replies_and_flows_of_no_side_never_count() {
    let syn_ack = json!({"TCP": {"source_port": 443, "destination_port": 4000,
                                 "flags": {"SYN": true, "ACK": true}}});
    let flows = [
        with(egress(world(), tcp(4000)), json!({"is_reply": true})),
        with(
            egress(world(), tcp(4000)),
            json!({"is_reply": null, "reply": true}),
        ),
        with(egress(world(), syn_ack), json!({"is_reply": null})),
        with(
            egress(world(), tcp(443)),
            json!({"trace_reason": "RELATED"}),
        ),
        with(egress(world(), tcp(443)), json!({"traceReason": 4})),
        answer("a.example.", 0, &["192.0.2.1"]),
        with(
            egress(world(), tcp(443)),
            json!({"traffic_direction": null}),
        ),
        with(
            egress(world(), tcp(443)),
            json!({"source": {"identity": 1}}),
        ),
        egress(json!({}), tcp(443)),
        egress(world(), json!({"VRRP": {"type": 1}})),
        egress(world(), Value::Null),
        egress(world(), tcp(0)),
    ];
    let expected = [
        (Skip::Reply, 6),
        (Skip::Direction, 1),
        (Skip::NotAWorkload, 1),
        (Skip::PeerUnknown, 1),
        (Skip::NoPort, 3),
    ];
    assert_eq!(skipped(&learn(&flows)), expected);
}

#[test]
fn a_name_of_a_search_list_is_left_out_and_a_failing_one_is_not() {
    let names = |flows: &[Value]| {
        let spec = spec(flows);
        let dns = &spec["egress"][0]["toPorts"][0]["rules"]["dns"];
        let names = dns.as_array().unwrap().iter();
        names
            .map(|item| item["matchName"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let queries = [
        "x.example.",
        "x.example.ns.svc.cluster.local.",
        "six.example.",
        "slow.example.",
    ]
    .map(query);
    assert_eq!(names(&queries).len(), 4);
    let answers = [
        answer("x.example.", 0, &[]),
        answer("x.example.", 0, &["192.0.2.1"]),
        answer("x.example.ns.svc.cluster.local.", 3, &[]),
        answer("six.example.", 0, &[]),
        answer("slow.example.", 2, &[]),
    ];
    let flows = [&answers[..], &queries].concat();
    assert_eq!(names(&flows), ["slow.example", "x.example"]);
    let told = "# left out, no answer had data: six.example, x.example.ns.svc.cluster.local\n";
    assert!(text(&learn(&flows)).contains(told));
    // Nothing would be left: a server whose port is open to no name.
    let flows = [query("six.example."), answer("six.example.", 0, &[])];
    assert_eq!(names(&flows), ["six.example"]);
}

#[test]
fn a_dns_server_of_the_world_is_told_by_address() {
    let named = json!({"destination_names": ["dns.example"], "destination": world()});
    let flows = [
        with(query("a.example."), named.clone()),
        with(egress(world(), udp(53)), named),
    ];
    let spec = spec(&flows);
    assert_eq!(spec["egress"].as_array().unwrap().len(), 1);
    assert_eq!(spec["egress"][0]["toCIDR"], json!(["192.0.2.1/32"]));
    let dns = json!({"dns": [{"matchName": "a.example"}]});
    assert_eq!(spec["egress"][0]["toPorts"][0]["rules"], dns);
}

#[test]
fn names_are_generalised_on_request_where_the_ports_are_the_same() {
    let to = |name: &str, port| {
        with(
            egress(world(), tcp(port)),
            json!({"destination_names": [name]}),
        )
    };
    let flows = [
        to("a.x.example", 443),
        to("b.x.example", 443),
        to("c.x.example", 443),
        to("d.x.example", 80),
        query("a.x.example."),
        query("b.x.example."),
        query("c.x.example."),
        query("other.example."),
    ];
    let evidence = learn(&flows);
    assert!(!text(&evidence).contains("matchPattern"));
    let general = evidence.suggest(Names::Generalised).join("---\n");
    let read = read(&general);
    let egress = &read[0]["spec"]["egress"];
    let dns = json!([{"matchName": "other.example"}, {"matchPattern": "*.x.example"}]);
    assert_eq!(egress[0]["toPorts"][0]["rules"]["dns"], dns);
    assert_eq!(egress[1]["toFQDNs"], json!([{"matchName": "d.x.example"}]));
    assert_eq!(
        egress[2]["toFQDNs"],
        json!([{"matchPattern": "*.x.example"}])
    );
    assert!(general.contains("# 3 flows"), "{general}");
    let loaded = load(&general);
    assert!(!loaded.has_errors(), "{:?}", loaded.problems);
}

#[test]
fn replicas_share_a_policy_and_names_of_policies_are_unique() {
    let of = |namespace: &str, name: &str, app: &str, workload: &str| {
        let mut pod = pod(namespace, name, app);
        pod["workloads"] = json!([{"name": workload, "kind": "Deployment"}]);
        with(egress(world(), tcp(443)), json!({ "source": pod }))
    };
    let flows = [
        of("default", "a-1", "a", "Shop_1"),
        of("default", "a-2", "a", "Shop_1"),
        of("default", "b-1", "b", "shop-1"),
        of("other", "b-1", "b", "shop-1"),
        of("default", "c-1", "c", "'#\n"),
    ];
    let text = text(&learn(&flows));
    let names: Vec<Value> = read(&text)
        .iter()
        .map(|policy| policy["metadata"].clone())
        .collect();
    let expected = [
        json!({"name": "learned-shop-1", "namespace": "default"}),
        json!({"name": "learned-shop-1-2", "namespace": "default"}),
        json!({"name": "learned-workload", "namespace": "default"}),
        json!({"name": "learned-shop-1", "namespace": "other"}),
    ];
    assert_eq!(names, expected);
    assert!(load(&text).problems.is_empty());
}

#[test]
fn a_pod_without_lasting_labels_is_told_by_what_is_left_with_a_remark() {
    let mut pod = pod("default", "a-1", "a");
    pod["labels"] = json!(["k8s:pod-template-hash=1"]);
    let flows = [with(egress(world(), tcp(443)), json!({ "source": pod }))];
    let labels = json!({"matchLabels": {"k8s:pod-template-hash": "1"}});
    assert_eq!(spec(&flows)["endpointSelector"], labels);
    assert!(text(&learn(&flows)).contains("# No label is left but"));
}

#[test]
fn only_the_workloads_in_scope_count() {
    let scope = Scope {
        namespace: Some("default".to_owned()),
        pod_prefix: Some("a".to_owned()),
        includes_denied: false,
    };
    let of = |namespace, name| {
        with(
            egress(world(), tcp(443)),
            json!({"source": pod(namespace, name, "a")}),
        )
    };
    let flows = [
        of("default", "a-1"),
        of("default", "b-1"),
        of("other", "a-1"),
    ];
    let evidence = learn_in(scope, &flows);
    assert_eq!(skipped(&evidence), [(Skip::OutOfScope, 2)]);
    assert_eq!(evidence.used(), 1);
}
