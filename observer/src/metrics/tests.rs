use std::net::IpAddr;

use super::*;
use crate::limits::SERIES_MAX;
use flow::{Endpoint, Ip, TracePoint, TraceReason, Workload};

/// What is told of flows by these choices.
fn text(choices: &str, flows: &[Flow]) -> String {
    let mut registry = Registry::default();
    let metrics = FlowMetrics::new(&MetricChoice::read_all(choices).unwrap(), &mut registry);
    flows.iter().for_each(|flow| metrics.see(flow));
    let mut text = String::new();
    prometheus_client::encoding::prometheus_text::encode(&mut text, &registry).unwrap();
    text
}

/// The samples of a metric, sorted, without its own name.
fn samples(text: &str, metric: &str) -> Vec<String> {
    let of = |line: &str| line.strip_prefix(metric).map(str::to_owned);
    let mut samples: Vec<_> = text.lines().filter_map(of).collect();
    samples.retain(|line| line.starts_with(['{', ' ']));
    samples.sort();
    samples
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tcp(flags: TcpFlags) -> Option<L4> {
    Some(L4::Tcp {
        source_port: 40_000,
        destination_port: 443,
        flags: Some(flags),
    })
}

/// From a workload to the world.
fn outward(event: Event, verdict: Verdict) -> Flow {
    Flow {
        ip: Some(Ip::new(ip("10.0.0.2"), ip("198.51.100.7"))),
        l4: tcp(TcpFlags::SYN),
        source: Endpoint {
            identity: 300,
            namespace: "shop".into(),
            pod_name: "cart-1".into(),
            labels: ["k8s:app=cart".into()].into(),
            workloads: [Workload {
                name: "cart".into(),
                kind: "Deployment".into(),
            }]
            .into(),
            ..Endpoint::default()
        },
        destination: Endpoint {
            identity: 9,
            labels: ["reserved:world-ipv4".into()].into(),
            ..Endpoint::default()
        },
        destination_names: vec!["api.example.com".into()],
        traffic_direction: Direction::Egress,
        is_reply: Some(false),
        ..Flow::new(event, verdict)
    }
}

fn judged(verdict: Verdict) -> Flow {
    let event = Event::PolicyVerdict {
        match_type: 2,
        drop_reason: (verdict == Verdict::Dropped).then_some(DropReason::POLICY_DENIED),
    };
    outward(event, verdict)
}

/// A packet to the world.
fn trace(l4: Option<L4>) -> Flow {
    let event = Event::Trace {
        point: TracePoint::TO_STACK,
        reason: TraceReason::New,
    };
    Flow {
        l4,
        ..outward(event, Verdict::Forwarded)
    }
}

/// What comes back for a flow.
fn answering(flow: Flow) -> Flow {
    Flow {
        source: flow.destination.clone(),
        destination: flow.source.clone(),
        source_names: flow.destination_names.clone(),
        destination_names: Vec::new(),
        is_reply: Some(true),
        ..flow
    }
}

fn query(name: &str, verdict: Verdict) -> Flow {
    outward(
        Event::Dns(Dns::request(name.into(), RecordType::Number(1))),
        verdict,
    )
}

fn response(rcode: u32) -> Flow {
    let dns = Dns::response("a.example.".into(), RecordType::Number(1), rcode);
    let has_data = rcode == 0;
    answering(outward(
        Event::Dns(Dns {
            latency_ns: 3_000_000,
            ips: if has_data {
                vec![ip("198.51.100.7"), ip("198.51.100.8")]
            } else {
                Vec::new()
            },
            rrtypes: if has_data {
                vec![
                    RecordType::Number(5),
                    RecordType::Number(1),
                    RecordType::Number(1),
                ]
            } else {
                Vec::new()
            },
            ..dns
        }),
        Verdict::Forwarded,
    ))
}

fn http(method: &str, code: u32) -> Flow {
    let is_answer = code > 0;
    let kind = if is_answer {
        MessageKind::Response
    } else {
        MessageKind::Request
    };
    let flow = outward(
        Event::Http(Http {
            kind,
            latency_ns: 30_000_000,
            code,
            method: method.into(),
            url: "http://shop/".into(),
            protocol: "HTTP/1.1".into(),
            headers: Vec::new(),
        }),
        Verdict::Forwarded,
    );
    if is_answer { answering(flow) } else { flow }
}

#[test]
fn every_flow_is_counted_by_what_it_is() {
    let trace = Event::Trace {
        point: TracePoint::TO_STACK,
        reason: TraceReason::New,
    };
    let drop = Event::Drop {
        reason: DropReason::POLICY_DENIED,
    };
    let flows = [
        query("a.example.", Verdict::Forwarded),
        http("GET", 0),
        judged(Verdict::Forwarded),
        judged(Verdict::Forwarded),
        outward(drop, Verdict::Dropped),
        Flow {
            l4: None,
            ..outward(trace, Verdict::Forwarded)
        },
    ];
    assert_eq!(
        samples(&text("flow", &flows), "hubble_flows_processed_total"),
        [
            r#"{protocol="DNS",type="L7",subtype="DNS",verdict="FORWARDED"} 1"#,
            r#"{protocol="HTTP",type="L7",subtype="HTTP",verdict="FORWARDED"} 1"#,
            r#"{protocol="TCP",type="Drop",subtype="",verdict="DROPPED"} 1"#,
            r#"{protocol="TCP",type="PolicyVerdict",subtype="",verdict="FORWARDED"} 2"#,
            r#"{protocol="Unknown L4",type="Trace",subtype="to-stack",verdict="FORWARDED"} 1"#,
        ]
    );
}

#[test]
fn dns_is_counted_by_question_and_answer() {
    let aaaa = Event::Dns(Dns::request("a.example.".into(), RecordType::Number(28)));
    let flows = [
        query("a.example.", Verdict::Forwarded),
        query("b\\\"\\010.example.", Verdict::Dropped),
        outward(aaaa, Verdict::Forwarded),
        response(0),
        response(3),
    ];
    let plain = text("dns", &flows);
    let rows = |metric| samples(&plain, metric);
    assert_eq!(
        rows("hubble_dns_queries_total"),
        [
            r#"{rcode="",qtypes="A",ips_returned="0"} 1"#,
            r#"{rcode="",qtypes="AAAA",ips_returned="0"} 1"#,
            r#"{rcode="Policy denied",qtypes="A",ips_returned="0"} 1"#,
        ]
    );
    assert_eq!(
        rows("hubble_dns_responses_total"),
        [
            r#"{rcode="No Error",qtypes="A",ips_returned="2"} 1"#,
            r#"{rcode="Non-Existent Domain",qtypes="A",ips_returned="0"} 1"#,
        ]
    );
    assert_eq!(
        rows("hubble_dns_response_types_total"),
        [
            r#"{type="A",qtypes="A"} 2"#,
            r#"{type="CNAME",qtypes="A"} 1"#
        ]
    );
    let times = rows("namegate_dns_exchange_seconds_bucket");
    assert!(
        times.contains(&r#"{verdict="FORWARDED",le="0.0025"} 0"#.to_owned()),
        "{times:?}"
    );
    assert!(
        times.contains(&r#"{verdict="FORWARDED",le="0.005"} 2"#.to_owned()),
        "{times:?}"
    );
    let named = text("dns:query;ignoreAAAA", &flows);
    assert_eq!(
        samples(&named, "hubble_dns_queries_total"),
        [
            r#"{rcode="",qtypes="A",ips_returned="0",query="a.example."} 1"#,
            r#"{rcode="Policy denied",qtypes="A",ips_returned="0",query="b\\\"\\010.example."} 1"#,
        ]
    );
}

#[test]
fn drops_are_counted_once_for_each_event() {
    let drop = |reason| outward(Event::Drop { reason }, Verdict::Dropped);
    let flows = [
        judged(Verdict::Dropped),
        drop(DropReason::POLICY_DENIED),
        drop(DropReason::from_number(240)),
        query("a.", Verdict::Dropped),
        judged(Verdict::Forwarded),
    ];
    assert_eq!(
        samples(&text("drop", &flows), "hubble_drop_total"),
        [
            r#"{reason="240",protocol="TCP"} 1"#,
            r#"{reason="DROP_REASON_UNKNOWN",protocol="DNS"} 1"#,
            r#"{reason="POLICY_DENIED",protocol="TCP"} 2"#,
        ]
    );
}

#[test]
fn http_is_counted_in_either_way() {
    let flows = [
        http("GET", 0),
        http("GET", 200),
        http("GET", 0),
        http("GET", 403),
        http("X\"1", 200),
    ];
    let v2 = text("httpV2", &flows);
    let requests = "hubble_http_requests_total";
    assert_eq!(
        samples(&v2, requests),
        [
            r#"{method="GET",protocol="HTTP/1.1",status="200",reporter="client"} 1"#,
            r#"{method="GET",protocol="HTTP/1.1",status="403",reporter="client"} 1"#,
            r#"{method="other",protocol="HTTP/1.1",status="200",reporter="client"} 1"#,
        ]
    );
    let seconds = "hubble_http_request_duration_seconds";
    let sums = samples(&v2, &format!("{seconds}_sum"));
    assert!(
        sums.contains(&r#"{method="GET",reporter="client"} 0.06"#.to_owned()),
        "{sums:?}"
    );
    let v1 = text("http", &flows);
    assert_eq!(
        samples(&v1, requests),
        [r#"{method="GET",protocol="HTTP/1.1",reporter="client"} 2"#]
    );
    assert_eq!(samples(&v1, "hubble_http_responses_total").len(), 3);
    let context = "httpV2:sourceContext=workload-name;destinationContext=dns|reserved-identity";
    let row = &samples(&text(context, &[http("GET", 200)]), requests)[0];
    assert!(
        row.contains(r#"source="cart",destination="api.example.com""#),
        "{row}"
    );
}

#[test]
fn verdicts_flags_ports_and_icmp_are_counted() {
    let echo = Some(L4::Icmpv4 { kind: 8, code: 0 });
    let mut from_host = judged(Verdict::Forwarded);
    from_host.source.labels = ["reserved:host".into()].into();
    let flows = [
        judged(Verdict::Forwarded),
        judged(Verdict::Dropped),
        judged(Verdict::Redirected),
        from_host,
        query("a.", Verdict::Dropped),
        trace(tcp(TcpFlags::SYN.and(TcpFlags::ACK))),
        trace(tcp(TcpFlags::FIN.and(TcpFlags::ACK))),
        trace(echo),
    ];
    let all = text(
        "policy port-distribution tcp icmp flows-to-world:port;syn-only",
        &flows,
    );
    assert_eq!(
        samples(&all, "hubble_policy_verdicts_total"),
        [
            r#"{direction="egress",match="l3-l4",action="dropped"} 1"#,
            r#"{direction="egress",match="l3-l4",action="forwarded"} 1"#,
            r#"{direction="egress",match="l3-l4",action="redirected"} 1"#,
            r#"{direction="egress",match="l7/dns",action="dropped"} 1"#,
        ]
    );
    assert_eq!(
        samples(&all, "hubble_port_distribution_total"),
        [
            r#"{protocol="ICMPv4",port="0"} 1"#,
            r#"{protocol="TCP",port="443"} 5"#
        ]
    );
    assert_eq!(
        samples(&all, "hubble_tcp_flags_total"),
        [
            r#"{flag="FIN",family="IPv4"} 1"#,
            r#"{flag="SYN",family="IPv4"} 3"#,
            r#"{flag="SYN-ACK",family="IPv4"} 1"#,
        ]
    );
    assert_eq!(
        samples(&all, "hubble_icmp_total"),
        [r#"{family="IPv4",type="EchoRequest"} 1"#]
    );
    // SYNs alone; the query was denied, but not by a packet's verdict.
    assert_eq!(
        samples(&all, "hubble_flows_to_world_total"),
        [
            r#"{protocol="TCP",verdict="DROPPED",port="443"} 1"#,
            r#"{protocol="TCP",verdict="FORWARDED",port="443"} 3"#,
            r#"{protocol="TCP",verdict="REDIRECTED",port="443"} 1"#,
        ]
    );
}

/// A packet of which nobody knows whether it answers may well be one that asks.
#[test]
fn to_the_world_goes_all_but_what_is_known_to_answer() {
    let seen = |is_reply| Flow {
        is_reply,
        ..trace(tcp(TcpFlags::SYN))
    };
    let udp = L4::Udp {
        source_port: 40_000,
        destination_port: 443,
    };
    let flows = [
        seen(None),
        seen(Some(false)),
        seen(Some(true)),
        trace(tcp(TcpFlags::ACK)),
        trace(Some(udp)),
    ];
    let counted = |options: &str| {
        let all = text(&format!("flows-to-world{options}"), &flows);
        samples(&all, "hubble_flows_to_world_total")
    };
    let tcp = |count| format!(r#"{{protocol="TCP",verdict="FORWARDED"}} {count}"#);
    let udp = r#"{protocol="UDP",verdict="FORWARDED"} 1"#.to_owned();
    assert_eq!(counted(""), [tcp(3), udp]);
    assert_eq!(counted(":syn-only"), [tcp(2)]);
}

#[test]
fn who_is_meant_is_told_as_the_options_say() {
    let labels = |options: &str| {
        let rows = samples(
            &text(&format!("drop:{options}"), &[judged(Verdict::Dropped)]),
            "hubble_drop_total",
        );
        rows[0].split_once("TCP\",").unwrap().1.to_owned()
    };
    for (options, expected) in [
        ("sourceContext=pod", r#"source="shop/cart-1"} 1"#),
        (
            "sourceContext=identity|pod;destinationContext=ip",
            r#"source="300",destination="198.51.100.7"} 1"#,
        ),
        (
            "destinationContext=pod|reserved-identity",
            r#"destination="reserved:world-ipv4"} 1"#,
        ),
        (
            "sourceContext=app;sourceEgressContext=workload",
            r#"source="shop/cart"} 1"#,
        ),
        ("sourceIngressContext=pod", r#"source=""} 1"#),
        (
            "labelsContext=source_workload_kind,destination_ip,traffic_direction",
            r#"source_workload_kind="Deployment",destination_ip="198.51.100.7",traffic_direction="egress"} 1"#,
        ),
    ] {
        assert_eq!(labels(options), expected, "{options}");
    }
}

#[test]
fn what_can_not_be_chosen_is_named() {
    for (text, said) in [
        ("dns nope", "\"nope\" is no metric"),
        ("flow:query", "flow has no option \"query\""),
        ("dns:querry", "dns has no option \"querry\""),
        ("dns:sourceContext=pods", "\"pods\" is no context"),
        ("dns:labelsContext=source_id", "\"source_id\" is no label"),
        ("http httpV2", "http and httpV2 exclude each other"),
        ("dns dns:query", "dns and dns exclude each other"),
    ] {
        let error = MetricChoice::read_all(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    assert!(MetricChoice::read_all(DEFAULT_METRICS).is_ok());
    assert_eq!(MetricChoice::read_all("  "), Ok(Vec::new()));
}

#[test]
fn series_beyond_the_bound_are_one_and_sums_stay_true() {
    let mut registry = Registry::default();
    let choices = MetricChoice::read_all("dns:query").unwrap();
    let metrics = FlowMetrics::new(&choices, &mut registry);
    for number in 0..SERIES_MAX + 5 {
        metrics.see(&query(&format!("n{number}."), Verdict::Forwarded));
    }
    metrics.see(&query("n0.", Verdict::Forwarded));
    assert_eq!(metrics.folded(), 5);
    let mut text = String::new();
    prometheus_client::encoding::prometheus_text::encode(&mut text, &registry).unwrap();
    let rows = samples(&text, "hubble_dns_queries_total");
    assert_eq!(rows.len(), SERIES_MAX + 1);
    let other = r#"{rcode="other",qtypes="other",ips_returned="other",query="other"} 5"#;
    assert!(rows.iter().any(|row| row == other));
    assert!(rows.iter().any(|row| row.ends_with("query=\"n0.\"} 2")));
}

#[test]
fn series_that_name_a_pod_go_with_it_and_make_room() {
    let mut registry = Registry::default();
    let choices = "flow:sourceContext=pod|namespace drop:labelsContext=source_pod \
                   httpV2:sourceContext=pod dns:destinationContext=pod tcp";
    let metrics = FlowMetrics::new(&MetricChoice::read_all(choices).unwrap(), &mut registry);
    let other = |flow: Flow| Flow {
        source: Endpoint {
            pod_name: "cart-2".into(),
            ..flow.source.clone()
        },
        ..flow
    };
    for flow in [judged(Verdict::Dropped), judged(Verdict::Forwarded)] {
        metrics.see(&other(flow.clone()));
        metrics.see(&flow);
    }
    metrics.see(&http("GET", 200));
    metrics.see(&response(0));
    let text = || {
        let mut text = String::new();
        prometheus_client::encoding::prometheus_text::encode(&mut text, &registry).unwrap();
        text
    };
    let naming = |pod: &str| text().matches(pod).count();
    let before = (naming("cart-1"), naming("cart-2"));
    assert!(before.0 > before.1 && before.1 > 2, "{}", text());
    metrics.forget("elsewhere", "cart-1");
    assert_eq!((naming("cart-1"), naming("cart-2")), before);
    metrics.forget("shop", "cart-1");
    assert_eq!((naming("cart-1"), naming("cart-2")), (0, before.1));
    assert!(text().contains("hubble_tcp_flags_total{"), "others stay");
    // It begins anew where a pod of that name is there again.
    metrics.see(&judged(Verdict::Dropped));
    assert!(text().contains(r#"source_pod="cart-1"} 1"#), "{}", text());
    for number in 0..2 * SERIES_MAX {
        let pod = format!("cart-{number}");
        let flow = judged(Verdict::Dropped);
        metrics.see(&Flow {
            source: Endpoint {
                pod_name: pod.as_str().into(),
                ..flow.source.clone()
            },
            ..flow
        });
        metrics.forget("shop", &pod);
    }
    assert_eq!(metrics.folded(), 0);
}

#[test]
fn a_time_is_told_with_the_trace_of_its_request_if_that_is_wanted() {
    let flow = Flow {
        trace_id: "0af7651916cd43dd8448eb211c80319c".into(),
        time: Some(Time::from_unix_nanos(1_700_000_000_500_000_000)),
        ..http("GET", 200)
    };
    let open = |choices: &str| {
        let mut registry = Registry::default();
        let choices = MetricChoice::read_all(choices).unwrap();
        FlowMetrics::new(&choices, &mut registry).see(&flow);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    };
    let told = "# {traceID=\"0af7651916cd43dd8448eb211c80319c\"} 0.03 1700000000.5";
    assert!(open("httpV2:exemplars=true").contains(told));
    assert!(!open("httpV2").contains("traceID"));
    // The form of old has no place for it.
    assert!(!text("httpV2:exemplars=true", std::slice::from_ref(&flow)).contains("traceID"));
}
