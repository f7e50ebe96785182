//! Every field of every message, by a reader of its own: the text of the protocol is compiled here, messages are
//! read by that and by no generated code, and what comes out is compared with the JSON that went in.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::OnceLock;

use flow::{AgentEndpoint, AgentEvent, LostSource, Recorded};
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor,
    SerializeOptions,
};
use serde_json::{Value, json};

use super::*;
use crate::proto::observer::{GetAgentEventsResponse, GetFlowsRequest};
use crate::question::{self, Wanted};
use crate::{answer, proto};

fn message(name: &str) -> MessageDescriptor {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        let texts = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
        let all = protox::compile(["observer/observer.proto"], [texts]).unwrap();
        DescriptorPool::from_file_descriptor_set(all).unwrap()
    });
    pool.get_message_by_name(name).unwrap()
}

/// What another reader sees in a message.
fn seen(name: &str, message: &impl prost::Message) -> Value {
    let octets = message.encode_to_vec();
    let kind = self::message(name);
    let message = DynamicMessage::decode(kind, &octets[..]).unwrap();
    let options = SerializeOptions::new().use_proto_field_name(true);
    let mut text = Vec::new();
    let mut json = serde_json::Serializer::new(&mut text);
    message.serialize_with_options(&mut json, &options).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// A text of JSON as another writer's message.
fn made<T: prost::Message + Default>(name: &str, json: &Value) -> T {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let message = DynamicMessage::deserialize_with_options(message(name), json, &options);
    T::decode(&message.unwrap().encode_to_vec()[..]).unwrap()
}

/// A policy, told apart by its number.
fn by(number: u32) -> Value {
    json!([{
        "name": format!("policy-{number}"), "namespace": format!("ns-{number}"), "kind": format!("kind-{number}"),
        "labels": [format!("label-{number}")], "revision": format!("{number}"),
    }])
}

fn endpoint(number: u32) -> Value {
    json!({
        "ID": number, "identity": number + 1, "cluster_name": format!("cluster-{number}"),
        "namespace": format!("ns-{number}"), "labels": [format!("label-{number}")],
        "pod_name": format!("pod-{number}"),
        "workloads": [{"name": format!("name-{number}"), "kind": format!("kind-{number}")}],
    })
}

/// A denied connection with all that any flow has: no value is there twice.
fn verdict() -> Value {
    const TEXT: &str = r#"{
        "time": "2026-03-05T09:07:01.037Z", "uuid": "00000000-0000-4000-8000-000000000007",
        "emitter": {"name": "emitter", "version": "1.2"}, "verdict": "DROPPED", "drop_reason": 133,
        "auth_type": "SPIRE",
        "ethernet": {"source": "00:00:00:00:00:01", "destination": "00:00:00:00:00:02"},
        "IP": {"source": "10.0.0.1", "source_xlated": "10.0.0.2", "destination": "10.0.0.3",
            "ipVersion": "IPv4", "encrypted": true},
        "l4": {"TCP": {"source_port": 11, "destination_port": 12, "flags": {"SYN": true}}},
        "tunnel": {"protocol": "GENEVE", "IP": {"source": "::1", "destination": "::2", "ipVersion": "IPv6"},
            "l4": {"UDP": {"source_port": 13, "destination_port": 14}}, "vni": 15},
        "Type": "L3_L4", "node_name": "node",
        "node_labels": ["node-label"], "source_names": ["source.name"],
        "destination_names": ["destination.name"], "reply": true, "event_type": {"type": 5, "sub_type": 16},
        "source_service": {"name": "service-1", "namespace": "service-2"},
        "destination_service": {"name": "service-3", "namespace": "service-4"},
        "traffic_direction": "EGRESS", "policy_match_type": 3, "file": {"name": "file.c", "line": 17},
        "ip_trace_id": {"trace_id": "18", "ip_option_type": 19}, "drop_reason_desc": "POLICY_DENIED",
        "is_reply": true, "debug_capture_point": "DBG_CAPTURE_SNAT_PRE",
        "interface": {"index": 40, "name": "veth"}, "proxy_port": 41,
        "trace_context": {"parent": {"trace_id": "abcdef"}},
        "sock_xlate_point": "SOCK_XLATE_POINT_POST_DIRECTION_FWD", "socket_cookie": "42",
        "cgroup_id": "43", "Summary": "in words",
        "policy_log": ["remark"],
        "aggregate": {"ingress_flow_count": 60, "egress_flow_count": 61, "unknown_direction_flow_count": 62}
    }"#;
    let mut flow: Value = TEXT.parse().unwrap();
    flow["source"] = endpoint(20);
    flow["destination"] = endpoint(30);
    for (number, key) in (50..).zip([
        "egress_allowed_by",
        "ingress_allowed_by",
        "egress_denied_by",
        "ingress_denied_by",
    ]) {
        flow[key] = by(number);
    }
    flow
}

fn with(mut flow: Value, key: &str, value: Value) -> Value {
    flow[key] = value;
    flow
}

/// Flows that have, together, each field of each message, and each name of each enum.
fn flows() -> Vec<Value> {
    let trace = json!({"verdict": "FORWARDED", "source": {}, "destination": {}, "Type": "L3_L4"});
    let l7 = |l7| json!({"source": {}, "destination": {}, "Type": "L7", "event_type": {"type": 129}, "l7": l7});
    let mut all = vec![
        verdict(),
        l7(json!({"type": "RESPONSE", "latency_ns": "1", "dns": {
            "query": "a.", "ips": ["10.0.0.9"], "ttl": 2, "cnames": ["b."], "observation_source": "agent",
            "rcode": 3, "qtypes": ["AAAA"], "rrtypes": ["CNAME", "A"]}})),
        l7(json!({"type": "REQUEST", "latency_ns": "1", "http": {
            "code": 2, "method": "GET", "url": "http://a/", "protocol": "HTTP/2",
            "headers": [{"key": "k", "value": "v"}]}})),
        l7(json!({"type": "SAMPLE"})),
    ];
    let l4 = [
        json!({"SCTP": {"source_port": 1, "destination_port": 2}}),
        json!({"UDP": {"source_port": 1, "destination_port": 2}}),
        json!({"ICMPv4": {"type": 3, "code": 4}}),
        json!({"ICMPv6": {"type": 5, "code": 6}}),
        json!({"VRRP": {"type": 1, "vrid": 2, "priority": 3}}),
        json!({"IGMP": {"type": 1, "group_address": "224.0.0.1"}}),
    ];
    all.extend(l4.map(|l4| with(verdict(), "l4", l4)));
    let flags = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "NS"];
    all.extend(flags.map(|flag| {
        let l4 = json!({"TCP": {"source_port": 1, "flags": {flag: true}}});
        with(verdict(), "l4", l4)
    }));
    for (key, name) in [
        ("verdict", "Verdict"),
        ("auth_type", "AuthType"),
        ("traffic_direction", "TrafficDirection"),
        ("debug_capture_point", "DebugCapturePoint"),
        ("sock_xlate_point", "SocketTranslationPoint"),
    ] {
        let names = values(name).into_iter().map(|(value, _)| value);
        all.extend(names.map(|value| with(verdict(), key, value.into())));
    }
    for (reason, number) in values("DropReason") {
        let drop = json!({"verdict": "DROPPED", "drop_reason": number, "source": {}, "destination": {},
            "Type": "L3_L4", "event_type": {"type": 1, "sub_type": number}, "drop_reason_desc": reason});
        all.push(drop);
    }
    for (point, number) in values("TraceObservationPoint") {
        let mut kind = json!({"type": 4});
        if point != "TO_ENDPOINT" {
            kind["sub_type"] = number.into();
        }
        let flow = with(trace.clone(), "event_type", kind);
        all.push(with(flow, "trace_observation_point", point.into()));
    }
    for (reason, _) in values("TraceReason") {
        let flow = with(trace.clone(), "event_type", json!({"type": 4}));
        let flow = with(flow, "trace_observation_point", "TO_ENDPOINT".into());
        all.push(with(flow, "trace_reason", reason.into()));
    }
    let socket = json!({"type": 7});
    all.push(with(
        with(trace, "event_type", socket),
        "Type",
        "SOCK".into(),
    ));
    all
}

/// The names and numbers of an enum, without zero.
fn values(name: &str) -> Vec<(String, i32)> {
    let pool = message("flow.Flow").parent_pool().clone();
    let values = pool.get_enum_by_name(&format!("flow.{name}")).unwrap();
    let values = values
        .values()
        .map(|it| (it.name().to_owned(), it.number()));
    values.filter(|(_, number)| *number != 0).collect()
}

fn read(flow: &Value) -> Flow {
    Flow::from_json(&flow.to_string()).unwrap_or_else(|error| panic!("{flow}: {error}"))
}

#[test]
fn each_field_arrives_as_itself() {
    for json in flows() {
        let line = json!({ "flow": json });
        let recorded = Recorded::parse(&line.to_string()).unwrap();
        let mut written = String::new();
        recorded.write_json(&FieldMask::ALL, &mut written);
        assert_eq!(written.parse::<Value>().unwrap(), line);
        let message = flow(&read(&json), &FieldMask::ALL);
        assert_eq!(
            without_words(seen("flow.Flow", &message)),
            without_words(json)
        );
    }
}

/// A flow without the words that are made of its other fields, unless they were told.
fn without_words(mut flow: Value) -> Value {
    if flow["Summary"] != "in words" {
        let fields = flow.as_object_mut().unwrap();
        fields.remove("Summary");
    }
    flow
}

/// Whether a path of a mask goes into a field.
fn goes_into(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let Kind::Message(inner) = field.kind() else {
        return None;
    };
    let is_ours = inner.package_name() == "flow";
    (is_ours && !field.is_list()).then_some(inner)
}

/// All paths, by the text of the protocol.
fn paths(message: &MessageDescriptor, before: &str, all: &mut Vec<String>) {
    for field in message.fields() {
        let path = format!("{before}{}", field.name());
        if let Some(inner) = goes_into(&field) {
            paths(&inner, &format!("{path}."), all);
        }
        all.push(path);
    }
}

#[test]
fn a_mask_leaves_each_field_alone() {
    let mut all = Vec::new();
    paths(&message("flow.Flow"), "", &mut all);
    assert!(all.len() > 150, "{}", all.len());
    let flows: Vec<_> = flows().iter().map(read).collect();
    for path in &all {
        let mask = FieldMask::new([path.as_str()]).unwrap_or_else(|error| panic!("{error}"));
        for one in &flows {
            let mut text = String::new();
            one.write_wanted_json(&mask, &mut text);
            let expected: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(seen("flow.Flow", &flow(one, &mask)), expected, "{path}");
        }
    }
}

/// Each field that there is, as `Message.field`.
fn fields_of(message: &MessageDescriptor, all: &mut BTreeSet<String>) {
    for field in message.fields() {
        let is_new = all.insert(format!("{}.{}", message.name(), field.name()));
        if let (Kind::Message(inner), true) = (field.kind(), is_new) {
            fields_of(&inner, all);
        }
    }
}

fn told(message: &MessageDescriptor, json: &Value, all: &mut BTreeSet<String>) {
    for (key, value) in json.as_object().into_iter().flatten() {
        let field = message.get_field_by_name(key).unwrap();
        all.insert(format!("{}.{}", message.name(), field.name()));
        let Kind::Message(inner) = field.kind() else {
            continue;
        };
        match value.as_array() {
            Some(items) => items.iter().for_each(|item| told(&inner, item, all)),
            None => told(&inner, value, all),
        }
    }
}

/// Nothing that the protocol has is left out of the tests above.
#[test]
fn no_field_is_left_out() {
    let (mut there, mut tried) = (BTreeSet::new(), BTreeSet::new());
    fields_of(&message("flow.Flow"), &mut there);
    for flow in flows() {
        told(&message("flow.Flow"), &flow, &mut tried);
    }
    let left: Vec<_> = there.difference(&tried).map(String::as_str).collect();
    let elsewhere = [
        "Any.type_url",
        "Any.value",
        "BoolValue.value",
        "Flow.extensions",
        "Timestamp.nanos",
        "Timestamp.seconds",
    ];
    assert_eq!(left, elsewhere);
}

#[test]
fn what_was_lost_and_what_the_agent_did_arrive_as_in_files() {
    let at = Time::from_unix_nanos(1_500_000_000);
    for number in 0..5 {
        let event = LostEvents {
            source: LostSource::from_number(number),
            cpu: Some(7),
            first: Some(Time::from_unix_nanos(1_000_000_000)),
            last: Some(at),
            ..LostEvents::in_ring(12)
        };
        let mut line = String::new();
        event.write_exporter_line("node", Some(at), &mut line);
        let message = answer::lost((at, &event), "node");
        let expected: Value = line.parse().unwrap();
        assert_eq!(seen("observer.GetFlowsResponse", &message), expected);
    }
    let endpoint = || AgentEndpoint {
        id: 7,
        labels: vec!["label".into()],
        pod_name: "pod".into(),
        namespace: "ns".into(),
    };
    let cidr = "10.0.0.0/24".to_owned();
    for event in [
        AgentEvent::Started,
        AgentEvent::PolicyUpdated {
            labels: vec!["label".into()],
            revision: 8,
            rule_count: 9,
        },
        AgentEvent::EndpointCreated(endpoint()),
        AgentEvent::EndpointDeleted(endpoint()),
        AgentEvent::IpcacheUpserted {
            cidr: cidr.clone(),
            identity: 10,
            old_identity: Some(0),
        },
        AgentEvent::IpcacheDeleted { cidr, identity: 11 },
    ] {
        let mut line = String::new();
        event.write_exporter_line("node", at, &mut line);
        let message: GetAgentEventsResponse = answer::agent_event((at, &event), "node");
        let expected: Value = line.parse().unwrap();
        assert_eq!(seen("observer.GetAgentEventsResponse", &message), expected);
    }
    let wanted = Wanted {
        mask: FieldMask::ALL,
        bare_policies: false,
    };
    let message = answer::flow(&read(&verdict()), &wanted);
    let expected =
        json!({"flow": verdict(), "node_name": "node", "time": "2026-03-05T09:07:01.037Z"});
    assert_eq!(seen("observer.GetFlowsResponse", &message), expected);
}

/// A filter with all fields, each with a value of its own.
fn filter() -> Value {
    const TEXT: &str = r#"{
        "source_ip": ["10.0.0.1"], "source_ip_xlated": ["10.0.0.2"], "source_pod": ["a/b"],
        "source_fqdn": ["a.example"], "source_label": ["a=b"], "source_service": ["c/d"],
        "source_workload": [{"name": "a", "kind": "b"}], "source_cluster_name": ["e"],
        "destination_ip": ["10.0.0.3"], "destination_pod": ["f/g"], "destination_fqdn": ["b.example"],
        "destination_label": ["c=d"], "destination_service": ["h/i"],
        "destination_workload": [{"name": "c", "kind": "d"}], "destination_cluster_name": ["j"],
        "traffic_direction": ["INGRESS", "EGRESS"], "verdict": ["DROPPED", "AUDIT"],
        "drop_reason_desc": ["POLICY_DENIED", "POLICY_DENY"], "interface": [{"index": 1, "name": "k"}],
        "event_type": [{"type": 129}, {"type": 4, "match_sub_type": true, "sub_type": 3}],
        "http_status_code": ["404"], "protocol": ["http"], "source_port": ["1"], "destination_port": ["2"],
        "reply": [true, false], "dns_query": ["l"], "source_identity": [3], "destination_identity": [4],
        "http_method": ["GET"], "http_path": ["/m"], "http_url": ["n"],
        "http_header": [{"key": "o", "value": "p"}],
        "tcp_flags": [{"FIN": true}, {"SYN": true}, {"RST": true}, {"PSH": true}, {"ACK": true},
            {"URG": true}, {"ECE": true}, {"CWR": true}, {"NS": true}],
        "node_name": ["q"], "node_labels": ["e=f"], "ip_version": ["IPv4", "IPv6"], "trace_id": ["r"],
        "ip_trace_id": ["5"], "uuid": ["s"], "encrypted": [false, true],
        "experimental": {"cel_expression": ["t"]}
    }"#;
    TEXT.parse().unwrap()
}

#[test]
fn each_field_of_a_filter_arrives_as_itself() {
    let (mut there, mut tried) = (BTreeSet::new(), BTreeSet::new());
    fields_of(&message("flow.FlowFilter"), &mut there);
    told(&message("flow.FlowFilter"), &filter(), &mut tried);
    assert_eq!(there, tried);
    let asked: proto::flow::FlowFilter = made("flow.FlowFilter", &filter());
    let expected = flow::FlowFilter::from_json(&filter().to_string()).unwrap();
    assert_eq!(question::filter(&asked).unwrap(), expected);
}

/// A newer client's: nothing here has that number.
#[test]
fn values_of_enums_that_nobody_knows_are_refused_in_filters() {
    for (field, number) in [
        ("verdict", 8),
        ("verdict", -1),
        ("drop_reason_desc", 300),
        ("ip_version", 3),
        ("traffic_direction", 3),
    ] {
        let request: GetFlowsRequest = made(
            "observer.GetFlowsRequest",
            &json!({"whitelist": [{field: [number]}]}),
        );
        let status = question::query(&request).unwrap_err();
        let expected = format!("invalid {field} filter {number}: ");
        assert!(status.message().starts_with(&expected), "{status:?}");
    }
    let request = json!({"whitelist": [{"verdict": [0], "traffic_direction": [0], "drop_reason_desc": [240]}]});
    let request: GetFlowsRequest = made("observer.GetFlowsRequest", &request);
    assert!(question::query(&request).is_ok());
}
