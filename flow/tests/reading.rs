//! What the reader takes, what it refuses, and what comes back of what was written.

use std::net::IpAddr;

use flow::limits::LINE_OCTETS_MAX;
use flow::{
    AgentEndpoint, AgentEvent, AgentLine, Direction, Dns, Event, FieldMask, Filter, Flow,
    FlowFilter, L4, Line, NodeStatus, Printer, ReadError, RecordType, Recorded, TcpFlags, Time,
    Verdict,
};
use proptest::prelude::*;

fn flow_of(text: &str) -> Flow {
    Flow::from_json(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn other_kinds_of_flows_are_kept_as_they_are() {
    for text in [
        r#"{"Type":"L3_L4","event_type":{"type":3,"sub_type":4},"debug_capture_point":"DBG_CAPTURE_DELIVERY"}"#,
        r#"{"verdict":"DROPPED"}"#,
        r#"{"Type":"L7","l7":{"type":"SAMPLE","latency_ns":"3"},"event_type":{"type":129}}"#,
        r#"{"tunnel":{"protocol":"VXLAN","IP":{"source":"10.0.0.1","destination":"10.0.0.2","ipVersion":"IPv4"},"l4":{"UDP":{"source_port":7,"destination_port":8472}},"vni":9},"aggregate":{"egress_flow_count":3}}"#,
    ] {
        let mut written = String::new();
        flow_of(text).write_json(&mut written);
        let written = written.replace(r#""source":{},"destination":{},"#, "");
        assert_eq!(written, text);
    }
}

#[test]
fn lines_that_are_no_events_are_refused() {
    for text in ["", "nope", "[]", "7", "{\"flow\":"] {
        assert!(
            matches!(Line::parse(text), Err(ReadError::NotJson { .. })),
            "{text}"
        );
    }
    assert_eq!(Line::parse(r#"{"x":{}}"#), Err(ReadError::NotAnEvent));
    for (text, kind) in [
        (r#"{"agent_event":{}}"#, "agent_event"),
        (r#"{"agentEvent":{"type":"AGENT_STARTED"}}"#, "agent_event"),
        (r#"{"node_status":{},"node_name":"n"}"#, "node_status"),
    ] {
        let error = Err(ReadError::OtherEvent { kind });
        assert_eq!(Line::parse(text), error);
    }
}

#[test]
fn bad_values_are_named_by_field() {
    for (text, field) in [
        (r#"{"event_type":{"type":1},"time":"yesterday"}"#, "time"),
        (r#"{"event_type":{"type":1},"IP":{"source":"x"}}"#, "source"),
        (
            r#"{"event_type":{"type":1},"l4":{"UDP":{"source_port":65536}}}"#,
            "source_port",
        ),
        (
            r#"{"event_type":{"type":1},"source":{"labels":[1]}}"#,
            "labels",
        ),
        (r#"{"event_type":{"type":1},"is_reply":1}"#, "is_reply"),
        (r#"{"event_type":{"type":-1}}"#, "type"),
    ] {
        let error = Flow::from_json(text).expect_err(text);
        let ReadError::BadValue { field: named, .. } = error else {
            panic!("{text}: {error}")
        };
        assert_eq!(named, field);
    }
}

#[test]
fn reader_is_as_tolerant_as_protobuf() {
    let flow = flow_of(
        r#"{"eventType":{"type":"5"},"isReply":false,"verdict":1,"trafficDirection":"SIDEWAYS",
        "policyMatchType":"3","invented":{"x":1},"nodeName":null,
        "l4":{"TCP":{"sourcePort":"7","destination_port":8,"flags":{"SYN":true,"ACK":false}}}}"#,
    );
    assert_eq!(flow.verdict, Verdict::Forwarded);
    assert_eq!(flow.is_reply, Some(false));
    assert_eq!(flow.traffic_direction, Direction::Unknown);
    assert!(matches!(
        flow.event,
        Event::PolicyVerdict { match_type: 3, .. }
    ));
    let flags = Some(TcpFlags::SYN);
    assert_eq!(
        flow.l4,
        Some(L4::Tcp {
            source_port: 7,
            destination_port: 8,
            flags
        })
    );
    assert_eq!(
        flow_of(r#"{"event_type":{"type":1},"verdict":"FROBBED"}"#).verdict,
        Verdict::Unknown
    );
}

#[test]
fn no_prefix_of_a_line_makes_the_reader_panic() {
    for line in include_str!("data/cases.txt").lines().step_by(5) {
        let (_, case) = line.split_once('\t').unwrap();
        for end in 0..case.len() {
            assert!(Line::parse(&case[..end]).is_err());
        }
        assert!(Line::parse(case).is_ok());
    }
}

#[test]
fn long_lines_are_cut_below_the_bound_and_say_so() {
    let mut dns = Dns::response("many.example.".into(), RecordType::Number(1), 0);
    dns.ips = (0..5000u32)
        .map(|it| IpAddr::from(it.to_be_bytes()))
        .collect();
    dns.rrtypes = vec![RecordType::Number(1); 5000];
    let flow = Flow::new(Event::Dns(dns), Verdict::Forwarded);
    let mut line = "before".to_owned();
    flow.write_exporter_line(&mut line);
    let line = line.strip_prefix("before").unwrap();
    assert!(line.len() <= LINE_OCTETS_MAX);
    let Ok(Line::Flow(read)) = Line::parse(line) else {
        panic!("{line}")
    };
    assert_eq!(read.dns().unwrap().ips.len(), 64);
    assert_eq!(read.policy_log, ["lists cut to 64 items".into()]);
}

#[test]
fn line_at_the_bound_is_whole() {
    let line_of = |octets: usize| {
        let dns = Dns::request("a.".into(), RecordType::Number(1));
        let summary = Some("x".repeat(octets).into());
        let mut line = String::new();
        Flow {
            summary,
            ..Flow::new(Event::Dns(dns), Verdict::Forwarded)
        }
        .write_exporter_line(&mut line);
        line
    };
    let rest = line_of(1).len() - 1;
    assert_eq!(line_of(LINE_OCTETS_MAX - rest).len(), LINE_OCTETS_MAX);
    assert!(line_of(LINE_OCTETS_MAX - rest + 1).len() < 1000);
}

/// A flow with every field that the golden cases don't have, keys in Hubble's order.
const RARE: &str = concat!(
    r#"{"flow":{"verdict":"AUDIT","drop_reason":2,"auth_type":"TEST_ALWAYS_FAIL","#,
    r#""IP":{"source":"2001:db8::1","source_xlated":"2001:db8::3","destination":"2001:db8::2","#,
    r#""ipVersion":"IPv6","encrypted":true},"l4":{"TCP":{"destination_port":443,"#,
    r#""flags":{"FIN":true,"PSH":true,"NS":true}}},"source":{"identity":5,"cluster_name":"blue","#,
    r#""namespace":"a"},"destination":{},"Type":"L3_L4","source_names":["a.example"],"#,
    r#""event_type":{"type":5},"file":{"name":"to_endpoint","line":77},"drop_reason_desc":2,"#,
    r#""is_reply":false,"interface":{"index":3,"name":"veth\u003c1\u003e"},"proxy_port":10001,"#,
    r#""Summary":"TCP Flags: FIN, PSH, NS","egress_allowed_by":[{"name":"p","revision":"18446744073709551615"}],"#,
    r#""ingress_allowed_by":[{"kind":"k"}],"egress_denied_by":[{"labels":["x=y"]}],"#,
    r#""ingress_denied_by":[{"namespace":"n"}],"policy_log":["a \u0026 b"]}}"#,
);

#[test]
fn rare_fields_have_their_place_and_come_back() {
    let Ok(Line::Flow(read)) = Line::parse(RARE) else {
        panic!("{:?}", Line::parse(RARE))
    };
    let mut line = String::new();
    Flow {
        summary: None,
        ..*read
    }
    .write_exporter_line(&mut line);
    assert_eq!(line, RARE);
}

/// Names in presentation form at their longest: each octet is four characters.
fn worst_name() -> String {
    "\\000".repeat(250) + "."
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_comes_back(text in ".*", node in "\\PC*") {
        let dns = Dns::request(text.as_str().into(), RecordType::Number(28));
        let node_name = node.as_str().into();
        let flow = Flow { node_name, ..Flow::new(Event::Dns(dns), Verdict::Dropped) };
        let mut line = String::new();
        flow.write_exporter_line(&mut line);
        prop_assert!(!line.contains(['\n', '\r']));
        let Ok(Line::Flow(read)) = Line::parse(&line) else { panic!("{line}") };
        prop_assert_eq!(&read.dns().unwrap().query, &flow.dns().unwrap().query);
        prop_assert_eq!(&read.node_name, &flow.node_name);
        prop_assert_eq!(read.summary(), flow.summary());
    }

    /// Names, URLs and methods are what a client or a server writes.
    #[test]
    fn our_own_line_holds_no_control_character(octets in proptest::collection::vec(any::<u8>(), 0..40)) {
        let label: String = octets.iter().map(|octet| match octet {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => char::from(*octet).to_string(),
            octet => format!("\\{octet:03}"),
        }).collect();
        let mut dns = Dns::response(format!("{label}.").into(), RecordType::Number(5), 0);
        dns.cnames = vec![format!("{label}.").into()];
        let flow = Flow::new(Event::Dns(dns), Verdict::Forwarded);
        prop_assert!(!flow.summary().contains(char::is_control), "{:?}", flow.summary());
    }

    #[test]
    fn worst_answers_stay_within_the_bound(cnames in 0usize..400, ips in 0usize..400, names in 0usize..60) {
        let mut dns = Dns::response(worst_name().into(), RecordType::Number(1), 0);
        dns.cnames = vec![worst_name().into(); cnames];
        dns.ips = vec!["2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap(); ips];
        let mut flow = Flow::new(Event::Dns(dns), Verdict::Forwarded);
        flow.source_names = vec![worst_name().into(); names];
        flow.source.labels = vec!["k8s:label=value".into(); names].into();
        let mut line = String::new();
        flow.write_exporter_line(&mut line);
        prop_assert!(line.len() <= LINE_OCTETS_MAX);
    }
}

/// What only other agents tell of a packet is read, filtered by, masked and written again.
#[test]
fn transports_of_others_are_kept() {
    for (protocol, l4, part) in [
        (
            "vrrp",
            r#"{"VRRP":{"type":1,"vrid":7,"priority":100}}"#,
            ("l4.VRRP.vrid", r#"{"l4":{"VRRP":{"vrid":7}}}"#),
        ),
        (
            "igmp",
            r#"{"IGMP":{"type":22,"group_address":"224.0.0.9"}}"#,
            (
                "l4.IGMP.group_address",
                r#"{"l4":{"IGMP":{"group_address":"224.0.0.9"}}}"#,
            ),
        ),
    ] {
        let text = format!(
            r#"{{"verdict":"DROPPED","l4":{l4},"source":{{}},"destination":{{}},"Type":"L3_L4","event_type":{{"type":1}},"Summary":"x"}}"#
        );
        let flow = Flow::from_json(&text).unwrap();
        let mut written = String::new();
        flow.write_json(&mut written);
        assert_eq!(written, text);
        for (other, is_it) in [
            ("vrrp", protocol == "vrrp"),
            ("igmp", protocol == "igmp"),
            ("tcp", false),
        ] {
            let filter = FlowFilter {
                protocol: vec![other.into()],
                ..FlowFilter::default()
            };
            let filter = Filter::new(&[filter], &[]).unwrap();
            assert_eq!(filter.matches(&flow), is_it, "{protocol} {other}");
        }
        let (path, expected) = part;
        let mut masked = String::new();
        flow.write_wanted_json(&FieldMask::new([path]).unwrap(), &mut masked);
        assert_eq!(masked, expected);
    }
}

#[test]
fn what_only_newer_agents_trace_keeps_its_name() {
    for (number, point) in [(12, "FROM_CRYPTO"), (13, "TO_CRYPTO")] {
        for reason in ["REOPENED", "SRV6_ENCAP", "SRV6_DECAP", "ENCRYPT_OVERLAY"] {
            let text = format!(
                r#"{{"verdict":"FORWARDED","source":{{}},"destination":{{}},"Type":"L3_L4","event_type":{{"type":4,"sub_type":{number}}},"trace_observation_point":"{point}","trace_reason":"{reason}"}}"#
            );
            let (flow, mut written) = (flow_of(&text), String::new());
            flow.write_json(&mut written);
            assert_eq!(written, text);
            let mut line = String::new();
            Printer::default().write_event(&flow, &mut line);
            let name = point.to_lowercase().replace('_', "-");
            assert!(line.contains(&name), "{line}");
        }
    }
}

#[test]
fn the_first_field_that_no_event_has_is_found() {
    for (text, unknown) in [
        (
            r#"{"flow":{"time":null,"l7":{"dns":{"qtypes":["A"]}}},"nodeName":"n"}"#,
            None,
        ),
        (
            r#"{"flow":{"isReply":true,"source":{"podName":"x","labels":["a"]}}}"#,
            None,
        ),
        (
            r#"{"flow":{"extensions":{"x":1},"egress_denied_by":[{"x":1}]}}"#,
            None,
        ),
        (r#"{"lost_events":{"x":1}}"#, None),
        (r#"{"flow":{},"cluster":"x"}"#, Some("cluster")),
        (r#"{"flow":{"ext_error":7}}"#, Some("flow.ext_error")),
        (
            r#"{"flow":{"l4":{"SCTP":{"chunk":1}}}}"#,
            Some("flow.l4.SCTP.chunk"),
        ),
    ] {
        let found = Recorded::parse(text).unwrap().unknown_field();
        assert_eq!(found.as_deref(), unknown, "{text}");
    }
    for line in include_str!("data/cases.txt").lines() {
        let (_, case) = line.split_once('\t').unwrap();
        let found = Recorded::parse(case).unwrap().unknown_field();
        assert_eq!(found, None, "{line}");
    }
}

/// As the stock command prints them.
#[test]
fn what_a_relay_tells_of_nodes_is_a_line() {
    let line = |state: &str, nodes: &[String], message: &str| {
        let names = serde_json::to_string(nodes).unwrap();
        let text = format!(
            r#"{{"node_status":{{"state_change":"{state}","node_names":{names},"message":"{message}"}},"node_name":"relay","time":"2026-03-05T09:07:01.5Z"}}"#
        );
        let mut line = String::new();
        let status = NodeStatus::parse(&text).unwrap();
        Printer::default().write_node_status(&status, &mut line);
        line.strip_prefix("Mar  5 09:07:01.500 [relay]: ")
            .unwrap()
            .to_owned()
    };
    let two = ["b".to_owned(), "a\u{1b}[2J".to_owned()];
    for (state, expected) in [
        ("NODE_UNAVAILABLE", "2 nodes are unavailable: b, a^[[2J"),
        ("NODE_CONNECTED", "Receiving flows from 2 nodes: b, a^[[2J"),
        ("NODE_GONE", "2 nodes removed from cluster: b, a^[[2J"),
        ("NODE_ERROR", "Error \"no \\n way\" on 2 nodes: b, a^[[2J"),
    ] {
        assert_eq!(line(state, &two, "no \\n way"), expected);
    }
    let many: Vec<_> = (0..20).map(|number| format!("node-{number:02}")).collect();
    let expected =
        "20 nodes are unavailable: node-00, node-01, node-02, node-03, node-04 (and 15 more)";
    assert_eq!(line("NODE_UNAVAILABLE", &many, ""), expected);
    let long = ["x".repeat(80), "y".to_owned()];
    let expected = format!("2 nodes are unavailable: {} (and 1 more)", long[0]);
    assert_eq!(line("NODE_UNAVAILABLE", &long, ""), expected);
    assert!(NodeStatus::parse(r#"{"flow":{}}"#).is_err());
}

#[test]
fn what_an_agent_did_is_read_back_and_is_a_line() {
    let endpoint = AgentEndpoint {
        id: 7,
        labels: vec!["k8s:app=a".into()],
        pod_name: "shop-1".into(),
        namespace: "default".into(),
    };
    let upserted = |old_identity| AgentEvent::IpcacheUpserted {
        cidr: "10.0.0.0/24".to_owned(),
        identity: 9,
        old_identity,
    };
    let updated = AgentEvent::PolicyUpdated {
        labels: vec!["a".into(), "b".into()],
        revision: 7,
        rule_count: 3,
    };
    for (event, expected) in [
        (
            AgentEvent::Started,
            "AGENT_STARTED (start time: Jan  1 00:00:01.500)",
        ),
        (
            updated,
            "POLICY_UPDATED (labels: [a,b], revision: 7, count: 3)",
        ),
        (
            AgentEvent::EndpointCreated(endpoint.clone()),
            "ENDPOINT_CREATED (id: 7, namespace: default, pod name: shop-1)",
        ),
        (
            AgentEvent::EndpointDeleted(AgentEndpoint::default()),
            "ENDPOINT_DELETED (id: 0)",
        ),
        (
            upserted(Some(0)),
            "IPCACHE_UPSERTED (cidr: 10.0.0.0/24, identity: 9, old identity: 0, encrypt key: 0)",
        ),
        (
            upserted(None),
            "IPCACHE_UPSERTED (cidr: 10.0.0.0/24, identity: 9, encrypt key: 0)",
        ),
        (
            AgentEvent::IpcacheDeleted {
                cidr: "::/0".to_owned(),
                identity: 10,
            },
            "IPCACHE_DELETED (cidr: ::/0, identity: 10, encrypt key: 0)",
        ),
    ] {
        let time = Time::from_unix_nanos(1_500_000_000);
        let (mut text, mut line) = (String::new(), String::new());
        event.write_exporter_line("node-1", time, &mut text);
        let read = AgentLine::parse(&text).unwrap();
        assert_eq!((&read.event, read.time), (&event, Some(time)), "{text}");
        let printer = Printer {
            node_name: true,
            ..Printer::default()
        };
        printer.write_agent(&read, &mut line);
        assert_eq!(line, format!("Jan  1 00:00:01.500 [node-1]: {expected}"));
    }
    assert!(AgentLine::parse(r#"{"agent_event":{"type":"SERVICE_DELETED"}}"#).is_err());
}
