mod again;
mod examples;
mod hostile;
mod model;
mod network;
mod rejects;
mod selectors;
mod warnings;

use proptest::prelude::*;

use super::*;
use crate::limits::PORTS_MAX;

/// A policy of namespace `default` whose `spec` is the given flow mapping's inside.
fn cnp(spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p}}\nspec: {{endpointSelector: {{matchLabels: {{app: a}}}}, {spec}}}\n"
    )
}

fn source(path: &str, text: &str) -> Source {
    Source {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

#[track_caller]
fn load_one(text: &str) -> Loaded {
    load(&[source("p.yaml", text)])
}

/// The text must be refused with exactly one error of this code, at this field, for this reason.
#[track_caller]
fn refused(text: &str, code: Code, field: &str, reason: &str) {
    let loaded = load_one(text);
    let errors: Vec<&Problem> = loaded.problems.iter().filter(|p| p.is_error()).collect();
    let [error] = errors.as_slice() else {
        panic!("one error for {text}, not {errors:#?}");
    };
    let got = (error.code, error.field.as_str());
    assert_eq!(got, (code, field), "{error}");
    let whole = format!("{} {}", error.message, error.help.as_deref().unwrap_or(""));
    assert!(whole.contains(reason), "{reason:?} in {whole:?}");
    assert!(error.line > 0 && error.column > 0, "{error}");
    assert!(loaded.set.is_empty());
}

#[track_caller]
fn loads(text: &str) -> Loaded {
    let loaded = load_one(text);
    assert!(!loaded.has_errors(), "{text}: {:#?}", loaded.problems);
    loaded
}

#[track_caller]
fn warns(text: &str, code: Code) -> String {
    let loaded = loads(text);
    let found = loaded.problems.iter().find(|problem| problem.code == code);
    found
        .unwrap_or_else(|| panic!("{code:?} for {text}"))
        .to_string()
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn what_cilium_rejects_is_refused_by_name() {
    use Code::{Conflict, InvalidValue, Limit, Missing, UnknownField, WrongType};
    let item = |text: &str| cnp(&format!("egress: [{{{text}}}]"));
    let port = |text: &str| item(&format!("toPorts: [{{ports: [{text}]}}]"));
    let ports = |count: usize| port(&vec!["{port: \"1\"}"; count].join(","));
    let at = "spec.egress[0]";
    let port_at = "spec.egress[0].toPorts[0].ports[0]";
    #[rustfmt::skip]
    let rows: Vec<(String, Code, String, &str)> = vec![
        (cnp("egress: []"), Missing, "spec".into(), "no direction"),
        (cnp(""), Missing, "spec".into(), "no direction"),
        (item("toEntities: [World]"), InvalidValue, format!("{at}.toEntities[0]"), "unsupported entity"),
        (item("toCIDR: [10.0.0.1]"), InvalidValue, format!("{at}.toCIDR[0]"), "10.0.0.1/32"),
        (item("toCIDR: [10.0.0.0/33]"), InvalidValue, format!("{at}.toCIDR[0]"), "no address prefix"),
        (item("toEndpoints: [{}], toEntities: [world]"), Conflict, at.into(), "combining toEndpoints and toEntities"),
        (item("toEndpoints: [{matchExpressions: [{key: a, operator: in, values: [b]}]}]"), InvalidValue,
            format!("{at}.toEndpoints[0].matchExpressions[0].operator"), "no operator"),
        (item("toEndpoints: [{matchExpressions: [{key: a, operator: In}]}]"), InvalidValue,
            format!("{at}.toEndpoints[0].matchExpressions[0].operator"), "needs `values`"),
        (item("toEndpoints: [{matchExpressions: [{key: a, operator: Exists, values: [b]}]}]"), InvalidValue,
            format!("{at}.toEndpoints[0].matchExpressions[0].operator"), "takes no `values`"),
        (item("toEndpoints: [{matchLabels: {\"a:b:c\": d}}]"), InvalidValue,
            format!("{at}.toEndpoints[0].matchLabels.a:b:c"), "more than one colon"),
        (item("toEndpoints: [{matchLabels: {a: 'b c'}}]"), InvalidValue,
            format!("{at}.toEndpoints[0].matchLabels.a"), "no label value"),
        (ports(PORTS_MAX + 1), Limit, format!("{at}.toPorts[0].ports"), "at most 40"),
        (port("{port: \"80-90\"}"), InvalidValue, format!("{port_at}.port"), "no port"),
        (port("{port: \"65536\"}"), InvalidValue, format!("{port_at}.port"), "no port"),
        (port("{port: \"010\"}"), InvalidValue, format!("{port_at}.port"), "no port"),
        (port("{port: \"\"}"), InvalidValue, format!("{port_at}.port"), "no port"),
        (port("{port: \"abcdefghijklmnop\"}"), InvalidValue, format!("{port_at}.port"), "no port"),
        (port("{}"), Missing, port_at.into(), "no `port`"),
        (port("{port: 53}"), WrongType, format!("{port_at}.port"), "quote it: \"53\""),
        (port("{port: \"80\", protocol: icmp}"), InvalidValue, format!("{port_at}.protocol"), "no protocol"),
        (item("toPorts: [{rules: {dns: [{matchName: a.b}]}}]"), Conflict, format!("{at}.toPorts[0].rules.dns"), "needs `ports`"),
        (item("toPorts: [{ports: [{port: \"0\"}], rules: {dns: [{matchName: a.b}]}}]"), InvalidValue, port_at.into(), "not \"0\""),
        (item("toPorts: [{ports: [{port: \"53\", protocol: SCTP}], rules: {dns: [{matchName: a.b}]}}]"), InvalidValue, port_at.into(), "SCTP"),
        (item("toFQDNs: [{matchName: a.b, matchPattern: a.b}]"), Conflict, format!("{at}.toFQDNs[0]"), "exactly one"),
        (item("toFQDNs: [{}]"), Conflict, format!("{at}.toFQDNs[0]"), "exactly one"),
        (item("toFQDNs: [{matchName: a.b}], toCIDR: [10.0.0.0/8]"), Conflict, at.into(), "combining toFQDNs and toCIDR"),
        (item("toFQDNs: [{matchName: '*.x.io'}]"), InvalidValue, format!("{at}.toFQDNs[0].matchName"), "matchPattern"),
        (item("toFQDNs: [{matchName: 'ex ample'}]"), InvalidValue, format!("{at}.toFQDNs[0].matchName"), "(character 3)"),
        (item("toFQDNs: [{matchName: 'b\u{fc}cher.de'}]"), InvalidValue, format!("{at}.toFQDNs[0].matchName"), "A-label"),
        (item("toFQDNs: [{matchName: a.b}], toPorts: [{ports: [{port: \"53\"}], rules: {dns: [{matchName: a.b}]}}]"),
            Conflict, format!("{at}.toFQDNs"), "beside `rules.dns`"),
        (item("toEndpoints: {}"), WrongType, format!("{at}.toEndpoints"), "a list is expected"),
        (item("toEndpoints: [{matchLabels: {app: yes}}]"), WrongType, format!("{at}.toEndpoints[0].matchLabels.app"), "boolean"),
        (item("toPorts: [{ports: [{port: \"53\"}], rules: {kafka: [{}]}}]"), UnknownField, format!("{at}.toPorts[0].rules.kafka"), "unknown field"),
        (item("toFqdns: [{matchName: a.b}]"), UnknownField, format!("{at}.toFqdns"), "did you mean `toFQDNs`?"),
        (cnp("egress: [{}], egres: [{}]"), UnknownField, "spec.egres".into(), "did you mean `egress`?"),
        (cnp("nodeSelector: {}, egress: [{}]").replace("endpointSelector: {matchLabels: {app: a}}, ", "endpointSelector: {}, endpointSelector: {}, ")
            .replace("nodeSelector: {}, ", ""), Code::Duplicate, "spec.endpointSelector".into(), "twice"),
        (cnp("egress: [{}]").replace("cilium.io/v2", "cilium.io/v1"), InvalidValue, "apiVersion".into(), "cilium.io/v2"),
        (cnp("egress: [{}]").replace("name: p", "name: \"\""), Missing, "metadata".into(), "no `name`"),
        (cnp("egress: [{}]").replace("spec:", "spek:"), Missing, String::new(), "empty policy"),
        (cnp("egress: [{}]").replace("endpointSelector: {matchLabels: {app: a}}, ", ""), Missing, "spec".into(), "no `endpointSelector`"),
        ("[1]".into(), WrongType, String::new(), "a mapping is expected"),
        ("a: 1".into(), Missing, String::new(), "no `kind`"),
    ];
    for (text, code, field, reason) in rows {
        if reason == "empty policy" {
            assert!(
                load_one(&text)
                    .problems
                    .iter()
                    .any(|p| p.message.contains(reason))
            );
            continue;
        }
        refused(&text, code, &field, reason);
    }
    loads(&ports(PORTS_MAX));
}

#[test]
fn what_namegate_lacks_is_refused_by_name() {
    #[rustfmt::skip]
    let rows: &[(&str, &str, &str)] = &[
        ("egress: [{toGroups: [{}]}]", "spec.egress[0].toGroups", "groups of a cloud provider"),
        ("ingress: [{fromGroups: [{}]}]", "spec.ingress[0].fromGroups", "groups of a cloud provider"),
        ("egress: [{toNodes: [{}]}]", "spec.egress[0].toNodes", "node labels are off"),
        ("ingressDeny: [{fromNodes: [{}]}]", "spec.ingressDeny[0].fromNodes", "node labels are off"),
        ("egress: [{toEntities: [all], authentication: {mode: required}}]", "spec.egress[0].authentication.mode", "mutual authentication"),
        ("egress: [{toPorts: [{ports: [{port: \"0\", protocol: GRE}]}]}]", "spec.egress[0].toPorts[0].ports[0].protocol", "extended protocols"),
        ("egress: [{toPorts: [{ports: [{protocol: vrrp}]}]}]", "spec.egress[0].toPorts[0].ports[0].protocol", "port must be specified"),
        ("egress: [{toPorts: [{ports: [{port: \"80\"}], listener: {name: a}}]}]", "spec.egress[0].toPorts[0].listener", "listener"),
        ("ingress: [{fromCIDRSet: [{cidrGroupRef: office}]}]", "spec.ingress[0].fromCIDRSet[0].cidrGroupRef", "\"office\""),
        ("egress: [{toCIDRSet: [{cidrGroupSelector: {matchLabels: {a: b}}}]}]", "spec.egress[0].toCIDRSet[0].cidrGroupSelector", "no CIDR group"),
    ];
    for (spec, field, reason) in rows {
        refused(&cnp(spec), Code::NotSupported, field, reason);
    }
    let other = cnp("egress: [{}]").replace("CiliumNetworkPolicy", "Deployment");
    refused(&other, Code::NotSupported, "kind", "NetworkPolicy");
}

#[test]
fn all_errors_of_all_documents_come_at_once() {
    let bad = cnp(
        "ingress: [{fromEntities: [x]}], egress: [{toCIDR: [1.2.3.4], toPorts: [{ports: [{port: 1}]}]}]",
    );
    let text = format!("{bad}---\n{}---\n{bad}", cnp("egress: [{}]"));
    let loaded = load_one(&text);
    assert_eq!(loaded.problems.len(), 6, "{:#?}", loaded.problems);
    assert_eq!(loaded.set.len(), 1, "the valid one stays in the set");
}

#[test]
fn a_problem_shows_the_place() {
    let text = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: p\nspec:\n  endpointSelector: {}\n  egress:\n  - toPorts:\n    - ports:\n      - port: 53\n";
    let loaded = load_one(text);
    let shown = loaded.problems.first().unwrap().to_string();
    assert_eq!(
        shown,
        "p.yaml:10:15: error: spec.egress[0].toPorts[0].ports[0].port: a string is expected here, \
         not a number\n10 |       - port: 53\n   |               ^^\n  help: quote it: \"53\""
    );
}

#[test]
fn an_unquoted_star_gets_the_hint() {
    for (line, hint) in [
        ("matchPattern: *.b.com", "\"*.b.com\""),
        ("matchPattern: *", "\"*\""),
        ("x: [a, *.c]", "\"*.c\""),
        ("- *.d", "\"*.d\""),
    ] {
        let loaded = load_one(&format!("{line}\n"));
        let problem = loaded.problems.first().unwrap();
        assert_eq!(problem.code, Code::Yaml);
        let help = problem.help.as_deref();
        assert_eq!(
            help,
            Some(format!("quote the pattern: {hint}").as_str()),
            "{line}"
        );
    }
}

#[test]
fn a_file_over_the_limit_is_refused_unread() {
    let loaded = load_one(&"#".repeat(FILE_BYTES_MAX + 1));
    assert_eq!(loaded.problems.first().unwrap().code, Code::Limit);
    loads(&"#".repeat(FILE_BYTES_MAX));
}

#[test]
fn the_same_object_twice_names_both_places() {
    let text = cnp("egress: [{}]");
    let clusterwide = text.replace("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy");
    let named = text.replace("{name: p}", "{name: p, namespace: default}");
    let loaded = load(&[
        source("a.yaml", &text),
        source("b.yaml", &format!("{clusterwide}---\n{named}")),
    ]);
    let [problem] = loaded.problems.as_slice() else {
        panic!("one problem: {:#?}", loaded.problems);
    };
    assert_eq!(
        (problem.code, problem.file.as_str(), problem.line),
        (Code::Duplicate, "b.yaml", 6)
    );
    assert!(problem.message.contains("a.yaml:1"), "{problem}");
    assert_eq!(loaded.set.len(), 2);
}

#[test]
fn lists_specs_and_tolerated_metadata_load() {
    let object = "apiVersion: cilium.io/v2\n  kind: CiliumClusterwideNetworkPolicy\n  metadata: {name: NAME, uid: x, labels: {a: b}, annotations: {c: d}}\n  specs:\n  - {endpointSelector: {}, egress: [{}], ingress: [], description: d, labels: [{key: k}]}\n  - {endpointSelector: {}, egress: [{toEntities: [all, none, world-ipv4, ingress, cluster-mesh]}]}\n  status: {}\n";
    let text = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}- {}---\n---\n# nothing\n",
        object.replace("NAME", "x"),
        object.replace("NAME", "z")
    );
    let loaded = loads(&text);
    assert_eq!(loaded.set.len(), 2);
    assert_eq!(loaded.set.iter().next().unwrap().place(), ("p.yaml", 4));
}

#[test]
fn what_is_legal_but_likely_wrong_is_warned_of() {
    let dns = |peers: &str| {
        cnp(&format!(
            "egress: [{{{peers}toPorts: [{{ports: [{{port: \"53\", protocol: ANY}}], rules: {{dns: [{{matchPattern: \"*\"}}]}}}}]}}]"
        ))
    };
    for peers in [
        "",
        "toEntities: [all], ",
        "toEntities: [world], ",
        "toCIDR: [0.0.0.0/0, 10.0.0.0/23, \"2001:db8::/63\"], ",
        "toEndpoints: [{}], ",
        "toEndpoints: [{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}], ",
    ] {
        let text = warns(&dns(peers), Code::NeverTeaches);
        assert!(text.contains("\"p\""), "{text}");
    }
    for peers in [
        "toEntities: [host], ",
        "toCIDR: [10.0.0.0/24], ",
        "toCIDR: [\"2001:db8::/64\"], ",
        "toEndpoints: [{matchLabels: {k8s-app: kube-dns}}], ",
    ] {
        assert!(loads(&dns(peers)).problems.is_empty(), "{peers}");
    }
    warns(
        &cnp("egress: [{toFQDNs: [{matchPattern: '*.b.com'}]}]"),
        Code::NeverFed,
    );
    warns(
        &cnp("egress: [{toEntities: [world], toPorts: [{}]}]"),
        Code::SelectsNothing,
    );
    let other = cnp("egress: [{}]").replace("app: a", "\"k8s:io.kubernetes.pod.namespace\": other");
    warns(&other, Code::NamespaceReplaced);
}

#[test]
fn policies_of_ciliums_documentation_load() {
    for text in [
        examples::DNS_MATCHNAME,
        examples::DNS,
        examples::DENY_ALL_EGRESS,
        examples::DEFAULT_DENY,
        examples::CIDR,
    ] {
        assert!(loads(text).problems.is_empty(), "{text}");
    }
}

#[test]
fn a_key_that_is_no_string_is_refused_by_its_place() {
    let text = examples::DNS.replacen("spec:", "? [spec]\n:", 1);
    let loaded = load_one(&text);
    assert!(loaded.has_errors());
    for problem in &loaded.problems {
        assert!(problem.line > 0 && problem.column > 0, "{problem}");
    }
    assert!(
        loaded
            .problems
            .iter()
            .any(|problem| problem.to_string().contains("[…]")),
        "{:?}",
        loaded.problems
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// A damaged file is loaded or refused; every error has a place.
    #[test]
    fn damage_is_told_with_a_place(at in 0..900usize, cut in 0..6usize, put in "[-:{}\\[\\]*&!|>'\"%@`,? \n\ta1]{0,4}") {
        let text = examples::DNS;
        let at = at.min(text.len() - 1);
        let end = (at + cut).min(text.len());
        let text = format!("{}{put}{}", &text[..at], &text[end..]);
        let loaded = load_one(&text);
        prop_assert!(loaded.has_errors() || loaded.set.len() <= 1);
        for problem in &loaded.problems {
            prop_assert!(problem.line > 0 && problem.column > 0, "{problem}");
        }
    }
}
