//! Whom selectors stand for, with the namespace rules of their policy.

use super::*;
use crate::rule::{PeerSelector, Subject};
use crate::{Label, Labels};

/// Workloads `default/a`, `default/b`, `other/b` (namespace label `team=x`), then the host, the
/// world and a workload without a namespace yet.
fn everybody() -> [Labels; 6] {
    let workload = |namespace: &str, app: &str| -> Labels {
        let own = [Label::new("k8s", "app", app)];
        own.into_iter()
            .chain(crate::selector::namespace_labels(namespace))
            .collect()
    };
    let mut other = workload("other", "b");
    other.insert(Label::new(
        "k8s",
        "io.cilium.k8s.namespace.labels.team",
        "x",
    ));
    let reserved = |name: &str| -> Labels { [Label::reserved(name)].into_iter().collect() };
    [
        workload("default", "a"),
        workload("default", "b"),
        other,
        reserved("host"),
        reserved("world-ipv4"),
        reserved("init"),
    ]
}

/// Who of everybody is selected, by a letter each, in their order.
fn selected(selects: impl Fn(&Labels) -> bool) -> String {
    let letters = everybody().into_iter().zip("abohwi".chars());
    letters
        .filter(|(labels, _)| selects(labels))
        .map(|(_, letter)| letter)
        .collect()
}

fn peers(text: &str) -> String {
    let set = loads(text).set;
    let item = &set.policies[0].rules[0].items[0];
    let [PeerSelector::Labels(selector)] = item.peer_list() else {
        panic!("{text}: {item:?}");
    };
    selected(|labels| selector.matches(labels))
}

fn subjects(text: &str) -> String {
    let set = loads(text).set;
    let Subject::Endpoints(selector) = &set.policies[0].rules[0].subject else {
        panic!("{text}");
    };
    selected(|labels| selector.matches(labels))
}

fn clusterwide(text: &str) -> String {
    text.replace("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy")
}

#[test]
fn peers_are_of_the_policys_namespace_unless_they_name_one() {
    let namespace = "io.kubernetes.pod.namespace";
    let rows = [
        ("{}".to_owned(), "ab", "abo"),
        ("{matchLabels: {app: b}}".to_owned(), "b", "bo"),
        ("{matchLabels: {\"any:app\": b}}".to_owned(), "b", "bo"),
        ("{matchLabels: {\"container:app\": b}}".to_owned(), "", ""),
        (
            format!("{{matchLabels: {{\"k8s:{namespace}\": other}}}}"),
            "o",
            "o",
        ),
        (format!("{{matchLabels: {{{namespace}: other}}}}"), "o", "o"),
        (
            format!("{{matchExpressions: [{{key: {namespace}, operator: Exists}}]}}"),
            "abo",
            "abo",
        ),
        (
            "{matchLabels: {\"k8s:io.cilium.k8s.namespace.labels.team\": x}}".to_owned(),
            "o",
            "o",
        ),
        (
            "{matchLabels: {\"reserved:host\": \"\"}}".to_owned(),
            "h",
            "h",
        ),
        ("{matchLabels: {$host: \"\"}}".to_owned(), "h", "h"),
        (
            "{matchExpressions: [{key: app, operator: NotIn, values: [b]}]}".to_owned(),
            "a",
            "a",
        ),
        (
            "{matchExpressions: [{key: app, operator: DoesNotExist}]}".to_owned(),
            "",
            "",
        ),
    ];
    for (direction, field) in [("egress", "toEndpoints"), ("ingressDeny", "fromEndpoints")] {
        for (peer, own, all) in &rows {
            let text = cnp(&format!("{direction}: [{{{field}: [{peer}]}}]"));
            assert_eq!(peers(&text), *own, "{peer}");
            assert_eq!(peers(&clusterwide(&text)), *all, "{peer}, clusterwide");
        }
    }
    let init = clusterwide(&cnp("egress: [{toEndpoints: [{}]}]"));
    let init = init.replace("{app: a}", "{\"reserved:init\": \"\"}");
    assert_eq!(
        peers(&init),
        "abohwi",
        "the subject has no namespace to go by"
    );
}

#[test]
fn subjects_are_of_the_policys_namespace() {
    let namespace = "io.kubernetes.pod.namespace";
    for (subject, own, all) in [
        ("{}".to_owned(), "ab", "abohwi"),
        ("{matchLabels: {app: b}}".to_owned(), "b", "bo"),
        (
            format!("{{matchLabels: {{\"k8s:{namespace}\": other}}}}"),
            "ab",
            "o",
        ),
        (format!("{{matchLabels: {{{namespace}: other}}}}"), "", "o"),
        (
            format!(
                "{{matchExpressions: [{{key: \"k8s:{namespace}\", operator: In, values: [other]}}]}}"
            ),
            "",
            "o",
        ),
    ] {
        let text = cnp("egress: [{}]").replace("{matchLabels: {app: a}}", &subject);
        assert_eq!(subjects(&text), own, "{subject}");
        assert_eq!(subjects(&clusterwide(&text)), all, "{subject}, clusterwide");
    }
}
