//! Lines as they were recorded: by an exporter with a mask, by one that counts what is alike, by a newer agent.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::collections::BTreeSet;

use flow::{
    FieldMask, Filter, FilterFlags, Line, LostEvents, LostSource, Printer, Recorded, TracePoint,
};
use serde_json::Value;

/// The golden cases, as text.
fn cases() -> impl Iterator<Item = &'static str> {
    let lines = include_str!("data/cases.txt").lines();
    lines.map(|line| line.split_once('\t').unwrap().1)
}

fn rewritten(text: &str, mask: &FieldMask) -> String {
    let read = Recorded::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let mut out = String::new();
    read.write_json(mask, &mut out);
    out
}

/// The line of a flow in `-o compact`, behind its time.
fn compact(flow: &str) -> String {
    let Ok(Line::Flow(flow)) = Line::parse(&format!("{{\"flow\":{flow}}}")) else {
        panic!("{flow}")
    };
    let mut out = String::new();
    Printer::default().write_event(&flow, &mut out);
    out
}

#[test]
fn what_was_recorded_whole_is_written_as_hubble_writes_it() {
    let expected = include_str!("data/expected.json.txt").lines();
    for (case, expected) in cases().zip(expected) {
        let (_, expected) = expected.split_once('\t').unwrap();
        assert_eq!(rewritten(case, &FieldMask::ALL), expected);
    }
}

/// The paths of all fields of an object, but for what is in lists.
fn paths(object: &Value, path: &str, all: &mut BTreeSet<String>) {
    let Some(object) = object.as_object() else {
        return;
    };
    for (key, value) in object {
        let path = format!("{path}{key}");
        paths(value, &format!("{path}."), all);
        all.insert(path);
    }
}

/// Two writers, one of our own flows and one of recorded lines, agree on what any field of any flow is.
#[test]
fn what_a_mask_left_comes_back_to_the_byte() {
    let mut all = BTreeSet::new();
    for case in cases() {
        let case: Value = serde_json::from_str(case).unwrap();
        paths(&case["flow"], "", &mut all);
    }
    assert!(all.len() > 90, "{all:?}");
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    // Each field alone, and beside others.
    let alone = all.iter().map(|path| vec![*path]);
    let beside = all.windows(7).step_by(3).map(|paths| {
        let few = paths.iter().step_by(2).copied();
        few.collect::<Vec<_>>()
    });
    for paths in alone.chain(beside) {
        let mask = FieldMask::new(paths.iter().copied()).unwrap();
        for case in cases() {
            let Ok(Line::Flow(flow)) = Line::parse(case) else {
                continue;
            };
            let mut exported = String::new();
            flow.write_wanted_line(&mask, &mut exported);
            assert_eq!(rewritten(case, &mask), exported, "{paths:?}");
            assert_eq!(rewritten(&exported, &FieldMask::ALL), exported, "{paths:?}");
        }
    }
}

/// What no flow of ours has is written as protobuf's JSON has it, whatever form it had.
#[test]
fn a_line_is_written_in_one_form() {
    for (text, expected) in [
        // Lower camel case, numbers as texts and texts as numbers, the order of declaration.
        (
            r#"{"time":"2026-03-05T09:07:01.50Z","nodeName":"n","flow":{"socketCookie":7,"isReply":false,"proxyPort":"80","eventType":{"subType":3,"type":9}}}"#,
            r#"{"flow":{"event_type":{"type":9,"sub_type":3},"is_reply":false,"proxy_port":80,"socket_cookie":"7"},"node_name":"n","time":"2026-03-05T09:07:01.500Z"}"#,
        ),
        // Zero values are left out, empty messages are not.
        (
            r#"{"flow":{"verdict":"VERDICT_UNKNOWN","drop_reason":0,"auth_type":0,"reply":false,"uuid":"","source_names":[],"IP":{},"l4":{},"l7":{},"tunnel":{},"trace_context":{"parent":{}},"ip_trace_id":{},"source":null}}"#,
            r#"{"flow":{"IP":{},"l4":{},"tunnel":{},"l7":{},"ip_trace_id":{},"trace_context":{"parent":{}}}}"#,
        ),
        // Of enums: names of numbers that have one, numbers that don't, no names that nobody knows.
        (
            r#"{"flow":{"verdict":2,"Type":1,"trace_observation_point":101,"drop_reason_desc":133,"auth_type":1,"traffic_direction":2,"trace_reason":4,"debug_capture_point":4,"sock_xlate_point":1,"tunnel":{"protocol":2},"IP":{"ipVersion":2},"l7":{"type":1}}}"#,
            r#"{"flow":{"verdict":"DROPPED","auth_type":"SPIRE","IP":{"ipVersion":"IPv6"},"tunnel":{"protocol":"GENEVE"},"Type":"L3_L4","l7":{"type":"REQUEST"},"traffic_direction":"EGRESS","trace_observation_point":"TO_ENDPOINT","trace_reason":"RELATED","drop_reason_desc":"POLICY_DENIED","debug_capture_point":"DBG_CAPTURE_DELIVERY","sock_xlate_point":"SOCK_XLATE_POINT_PRE_DIRECTION_FWD"}}"#,
        ),
        (
            r#"{"flow":{"verdict":77,"Type":9,"trace_observation_point":55,"drop_reason":240,"drop_reason_desc":240,"auth_type":8,"traffic_direction":7,"trace_reason":66,"debug_capture_point":99,"tunnel":{"protocol":5},"IP":{"ipVersion":6},"l7":{"type":9}}}"#,
            r#"{"flow":{"verdict":77,"drop_reason":240,"auth_type":8,"IP":{"ipVersion":6},"tunnel":{"protocol":5},"Type":9,"l7":{"type":9},"traffic_direction":7,"trace_observation_point":55,"trace_reason":66,"drop_reason_desc":240,"debug_capture_point":99}}"#,
        ),
        (
            r#"{"flow":{"verdict":"FROBBED","Type":"L9","uuid":"00000000-0000-4000-8000-000000000007","ext_error":7,"l4":{"SCTP":{"chunk":1,"source_port":5}},"source":{"mood":"good"}},"cluster":"x"}"#,
            r#"{"flow":{"uuid":"00000000-0000-4000-8000-000000000007","l4":{"SCTP":{"source_port":5}},"source":{}}}"#,
        ),
        // What is counted of flows that are alike.
        (
            r#"{"flow":{"verdict":"DROPPED","aggregate":{"unknown_direction_flow_count":1,"egress_flow_count":"3"}}}"#,
            r#"{"flow":{"verdict":"DROPPED","aggregate":{"egress_flow_count":3,"unknown_direction_flow_count":1}}}"#,
        ),
        (
            r#"{"lost_events":{"cpu":0,"source":9,"num_events_lost":12,"last":null},"flow":null}"#,
            r#"{"lost_events":{"source":9,"num_events_lost":"12","cpu":0}}"#,
        ),
        (
            r#"{"flow":{"Summary":"a<b>&\u2028","policy_log":["\u0001"]}}"#,
            r#"{"flow":{"Summary":"a\u003cb\u003e\u0026\u2028","policy_log":["\u0001"]}}"#,
        ),
    ] {
        assert_eq!(rewritten(text, &FieldMask::ALL), expected);
        assert_eq!(rewritten(expected, &FieldMask::ALL), expected);
    }
}

/// As the stock command's printer has it: a field that isn't there is the zero value.
#[test]
fn what_a_mask_left_is_printed() {
    for (flow, expected) in [
        (
            r#"{"IP":{"source":"10.0.0.1"},"verdict":"FORWARDED"}"#,
            "10.0.0.1 (unknown) <>  (unknown) UNKNOWN FORWARDED ()",
        ),
        (
            r#"{"IP":{"destination":"::1","ipVersion":"IPv6"},"l4":{"TCP":{"destination_port":80}},"is_reply":false}"#,
            " (unknown) -> [::1]:80 (unknown) UNKNOWN VERDICT_UNKNOWN ()",
        ),
        // Ports without addresses, and names without them.
        (
            r#"{"IP":{},"l4":{"UDP":{"source_port":7}},"destination":{"pod_name":"p","namespace":"n"}}"#,
            ":7 (unknown) <> n/p (unknown) UNKNOWN VERDICT_UNKNOWN ()",
        ),
        // There is a network layer: nothing of the link layer is shown.
        (
            r#"{"IP":{"ipVersion":"IPv4"},"ethernet":{"source":"00:00:00:00:00:01","destination":"00:00:00:00:00:02"}}"#,
            " (unknown) <>  (unknown) UNKNOWN VERDICT_UNKNOWN ()",
        ),
        (
            r#"{"ethernet":{"destination":"00:00:00:00:00:02"},"l4":{"UDP":{"source_port":7}}}"#,
            " (unknown) <> 00:00:00:00:00:02 (unknown) UNKNOWN VERDICT_UNKNOWN ()",
        ),
        // Without the type of the event a verdict is as any other.
        (
            r#"{"verdict":"DROPPED","policy_match_type":1,"traffic_direction":"EGRESS","auth_type":"SPIRE","Summary":"UDP"}"#,
            " (unknown) <>  (unknown) UNKNOWN DROPPED (UDP; Auth: SPIRE)",
        ),
        (
            r#"{"verdict":"DROPPED","event_type":{"type":1},"drop_reason_desc":"POLICY_DENIED"}"#,
            " (unknown) <>  (unknown) Success DROPPED ()",
        ),
        (
            r#"{"l7":{"dns":{"query":"a."}},"verdict":"FORWARDED"}"#,
            " (unknown) <>  (unknown) dns-unknown_l7_type  FORWARDED ()",
        ),
    ] {
        assert_eq!(compact(flow), expected, "{flow}");
    }
}

/// As Go prints an enum's value that has no name.
#[test]
fn what_a_newer_agent_tells_is_printed_by_number() {
    let ends = " (unknown) <>  (unknown)";
    for (flow, expected) in [
        (r#"{"verdict":77}"#, "UNKNOWN 77 ()"),
        (r#"{"verdict":-1}"#, "UNKNOWN -1 ()"),
        (
            r#"{"verdict":77,"event_type":{"type":5},"traffic_direction":9,"auth_type":7}"#,
            "policy-verdict:none 9 77 (; Auth: 7)",
        ),
        (
            r#"{"verdict":"DROPPED","event_type":{"type":1,"sub_type":240}}"#,
            "240, 0 DROPPED ()",
        ),
        (
            r#"{"verdict":"DROPPED","event_type":{"type":1,"sub_type":389}}"#,
            "Policy denied DROPPED ()",
        ),
        (
            r#"{"event_type":{"type":4,"sub_type":99}}"#,
            "99 VERDICT_UNKNOWN ()",
        ),
        (
            r#"{"event_type":{"type":3},"debug_capture_point":33}"#,
            "33 VERDICT_UNKNOWN ()",
        ),
        (
            r#"{"event_type":{"type":7},"sock_xlate_point":33}"#,
            "33 VERDICT_UNKNOWN ()",
        ),
        (
            r#"{"event_type":{"type":200}}"#,
            "UNKNOWN VERDICT_UNKNOWN ()",
        ),
        (
            r#"{"l7":{"type":9,"http":{}}}"#,
            "http-9 VERDICT_UNKNOWN ()",
        ),
    ] {
        assert_eq!(compact(flow), format!("{ends} {expected}"), "{flow}");
    }
    assert_eq!(TracePoint::from_number(99).name(), None);
    let source = LostSource::from_number(9);
    let lost = LostEvents {
        source,
        ..LostEvents::in_ring(3)
    };
    let mut line = String::new();
    Printer::default().write_loss(&lost, &mut line);
    assert_eq!(line, "EVENTS LOST: 9 CPU(0) 3");
}

/// Filters see what is there and not what it must have been.
#[test]
fn what_a_mask_left_is_filtered() {
    for (flow, flags, is_wanted) in [
        (
            r#"{"IP":{"source":"10.0.0.1"}}"#,
            ["from-ip", "10.0.0.0/8"],
            true,
        ),
        (
            r#"{"IP":{"source":"10.0.0.1"}}"#,
            ["to-ip", "10.0.0.0/8"],
            false,
        ),
        (
            r#"{"IP":{"source":"10.0.0.1","ipVersion":"IPv4"}}"#,
            ["ip-version", "v4"],
            true,
        ),
        (
            r#"{"IP":{"source":"10.0.0.1"}}"#,
            ["ip-version", "v4"],
            false,
        ),
        (r#"{"l7":{"dns":{}}}"#, ["type", "l7"], false),
        (r#"{"l7":{"dns":{}}}"#, ["protocol", "dns"], true),
        (
            r#"{"event_type":{"type":129},"l7":{"dns":{}}}"#,
            ["type", "l7"],
            true,
        ),
        (
            r#"{"verdict":"DROPPED","drop_reason_desc":"POLICY_DENIED"}"#,
            ["drop-reason-desc", "POLICY_DENIED"],
            true,
        ),
        (r#"{"verdict":77}"#, ["verdict", "DROPPED"], false),
    ] {
        let Ok(Line::Flow(read)) = Line::parse(&format!("{{\"flow\":{flow}}}")) else {
            panic!("{flow}")
        };
        let [flag, value] = flags;
        let mut asked = FilterFlags::default();
        asked.allow(flag, value).unwrap();
        let (allow, deny) = asked.filters();
        let filter = Filter::new(&allow, &deny).unwrap();
        assert_eq!(filter.matches(&read), is_wanted, "{flow} {flags:?}");
    }
}
