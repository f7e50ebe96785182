//! Flows that somebody made up to get more into a policy than was seen.

use proptest::prelude::*;

use super::*;

/// Texts that mean something to YAML, to a regular expression or to a terminal.
const NASTY: [&str; 16] = [
    "a\nspec: {endpointSelector: {}}",
    "a\r\n---\nkind: CiliumClusterwideNetworkPolicy",
    "# a",
    "a # b",
    "a: b",
    "'",
    "\"",
    "\\",
    "*",
    "{}",
    "\u{85}x",
    "\u{2028}x",
    "\u{1b}[2J",
    "\u{0}",
    "&a",
    "true",
];

#[test]
fn names_that_no_policy_can_hold_are_refused_and_open_nothing() {
    for nasty in NASTY {
        let flows = [
            query(&format!("{nasty} .example.")),
            egress(dns_server(), udp(53)),
        ];
        let evidence = learn(&flows);
        assert_eq!(skipped(&evidence), [(Skip::BadName, 1)], "{nasty:?}");
        // The port was asked for names, so it is not opened whole.
        assert_eq!(text(&evidence), "");
        let kept = [&flows[..], &[query("good.example.")]].concat();
        let dns = json!([{"matchName": "good.example"}]);
        assert_eq!(spec(&kept)["egress"][0]["toPorts"][0]["rules"]["dns"], dns);
    }
}

#[test]
fn requests_that_no_policy_can_hold_are_refused_and_open_nothing() {
    for nasty in ["/a b", "/a\n", "/\u{2028}", "/\u{0}", "nothing"] {
        let flows = [
            request("GET", nasty),
            egress(pod("default", "b-1", "b"), tcp(80)),
        ];
        let evidence = learn(&flows);
        assert_eq!(skipped(&evidence), [(Skip::BadRequest, 1)], "{nasty:?}");
        assert_eq!(text(&evidence), "");
    }
}

#[test]
fn a_path_is_written_as_it_was_and_matches_nothing_else() {
    for (path, expression) in [
        ("/a'b", "/a'b"),
        ("/a\"b", "/a\"b"),
        ("/.*", "/\\.\\*"),
        ("/a#b", "/a"),
        ("/:a", "/:a"),
        ("/a|/b", "/a\\|/b"),
        ("/{}[]", "/\\{\\}\\[\\]"),
        ("/\\d", "/\\\\d"),
    ] {
        let spec = spec(&[request("GET", path)]);
        let http = &spec["egress"][0]["toPorts"][0]["rules"]["http"];
        assert_eq!(http, &json!([{"method": "GET", "path": expression}]));
    }
}

#[test]
fn text_of_flows_never_leaves_its_comment() {
    for nasty in NASTY.iter().filter(|nasty| **nasty != "true") {
        let mut source = pod("default", nasty, "a");
        source["workloads"] = json!([{ "name": nasty }]);
        let fields = json!({"source": source, "destination_names": [nasty]});
        let flows = [with(egress(world(), tcp(443)), fields)];
        let text = text(&learn(&flows));
        assert!(
            text.is_ascii() && !text.contains(['\u{1b}', '\u{0}', '\r']),
            "{text:?}"
        );
        let plain = [egress(world(), tcp(443))];
        assert_eq!(spec(&flows), spec(&plain), "{text}");
    }
}

#[test]
fn labels_and_namespaces_that_no_policy_can_hold_are_refused() {
    for nasty in NASTY.iter().filter(|nasty| **nasty != "true") {
        let bad_label = pod("default", "b-1", nasty);
        let mut bad_namespace = pod("default", "b-1", "b");
        bad_namespace["namespace"] = json!(nasty);
        for bad in [bad_label, bad_namespace] {
            let flows = [
                egress(bad.clone(), tcp(80)),
                with(egress(world(), tcp(80)), json!({ "source": bad })),
            ];
            let evidence = learn(&flows);
            assert_eq!(skipped(&evidence), [(Skip::BadLabel, 2)], "{nasty:?}");
            assert_eq!(text(&evidence), "");
        }
    }
}

/// Any text, and often one that means something.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => ".{0,12}",
        2 => proptest::sample::select(&NASTY[..]).prop_map(str::to_owned),
        3 => "[a-z0-9.-]{1,12}",
        1 => "(true|null|y|1e3|0x1|~|-|::1|10)",
    ]
}

fn any_party() -> impl Strategy<Value = Value> {
    let label = prop_oneof![
        4 => any_text().prop_map(|value| format!("k8s:app={value}")),
        1 => any_text().prop_map(|key| format!("k8s:{key}=x")),
        1 => any_text(),
        2 => Just("reserved:world".to_owned()),
        1 => Just("reserved:host".to_owned()),
    ];
    let labels = proptest::collection::vec(label, 0..3);
    let identity = prop_oneof![0_u32..12, Just(300_u32), Just(0x0100_0001_u32)];
    (any_text(), any_text(), any_text(), labels, identity).prop_map(
        |(namespace, pod, workload, labels, identity)| {
            json!({
                "namespace": namespace, "pod_name": pod, "labels": labels, "identity": identity,
                "workloads": [{"name": workload}],
            })
        },
    )
}

fn any_flow() -> impl Strategy<Value = Value> {
    let l4 = prop_oneof![
        any::<u16>().prop_map(tcp),
        any::<u16>().prop_map(udp),
        any::<u8>().prop_map(|kind| json!({"ICMPv4": {"type": kind}})),
        Just(udp(53)),
        Just(tcp(80)),
    ];
    let l7 = prop_oneof![
        2 => Just(Value::Null),
        1 => any_text().prop_map(|name| json!({"type": "REQUEST", "dns": {"query": name}})),
        1 => (any_text(), any_text()).prop_map(
            |(method, url)| json!({"type": "REQUEST", "http": {"method": method, "url": url}})
        ),
        1 => any_text().prop_map(
            |path| json!({"type": "REQUEST", "http": {"method": "GET", "url": format!("/{path}")}})
        ),
    ];
    let names = proptest::collection::vec(any_text(), 0..3);
    let direction = proptest::sample::select(vec!["EGRESS", "INGRESS"]);
    let good = prop_oneof![Just(None), Just(Some(pod("default", "a-1", "a")))];
    let parties = (any_party(), any_party(), good);
    (l4, l7, names, direction, parties).prop_map(|(l4, l7, names, direction, parties)| {
        let (first, second, good) = parties;
        with(
            egress(second, l4),
            json!({
                "l7": l7, "destination_names": names, "traffic_direction": direction,
                "source": good.unwrap_or(first),
            }),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_flows_give_policies_of_known_shape(
        flows in proptest::collection::vec(any_flow(), 1..6),
    ) {
        let evidence = learn(&flows);
        for how in [Names::Exact, Names::Generalised] {
            let documents = evidence.suggest(how);
            let text = documents.join("---\n");
            prop_assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..0x7f).contains(&byte)));
            let read = read(&text);
            prop_assert_eq!(read.len(), documents.len());
            for policy in &read {
                check_shape(policy);
            }
        }
    }

    #[test]
    fn any_line_is_read_or_refused(line in ".{0,200}") {
        let _ = Line::parse(&line);
    }
}

/// No peer is missing, no list is empty, no port is every port.
fn check_shape(policy: &Value) {
    assert_eq!(policy["kind"], "CiliumNetworkPolicy");
    let labels = policy["spec"]["endpointSelector"]["matchLabels"].as_object();
    assert!(labels.is_some_and(|labels| !labels.is_empty()), "{policy}");
    for way in ["egress", "ingress"] {
        for rule in policy["spec"][way].as_array().into_iter().flatten() {
            let rule = rule.as_object().unwrap();
            assert_eq!(rule.len(), 2, "{policy}");
            for (field, list) in rule {
                assert!(!list.as_array().unwrap().is_empty(), "{field}: {policy}");
            }
            let entries = rule.get("toPorts").and_then(Value::as_array);
            for entry in entries.into_iter().flatten() {
                let ports = entry["ports"].as_array().unwrap();
                assert!(!ports.is_empty() && ports.iter().all(|port| port["port"] != "0"));
                for rules in entry.get("rules").and_then(Value::as_object).into_iter() {
                    assert_eq!(rules.len(), 1, "{policy}");
                    let mut lists = rules.values();
                    assert!(
                        lists.all(|list| !list.as_array().unwrap().is_empty()),
                        "{policy}"
                    );
                }
            }
        }
    }
}
