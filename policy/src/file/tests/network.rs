//! Kubernetes' own NetworkPolicy, and CIDR groups.

use super::*;
use crate::l4::{PortMatch, Ports, RuleProtocol};
use crate::limits::GROUP_PREFIXES_MAX;
use crate::rule::{CidrSelector, Item, PeerSelector, Peers, Subject};
use crate::{Direction, L4Protocol, Label, Labels};

fn knp(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: ns}}\nspec: {{{spec}}}\n"
    )
}

#[track_caller]
fn items(spec: &str) -> Vec<Arc<Item>> {
    let set = loads(&knp(&format!("podSelector: {{}}, {spec}"))).set;
    set.items().map(|(_, _, item)| Arc::clone(item)).collect()
}

#[test]
fn directions_are_isolated_by_the_apis_defaults() {
    // Per item: the direction, and whether it is open to everybody.
    let of = |spec: &str| -> Vec<(Direction, bool)> {
        let items = items(spec);
        let shape = |item: &Arc<Item>| {
            assert!(item.default_deny);
            match (&item.peers, &item.ports) {
                (Peers::Any, Ports::Any) => (item.direction, true),
                (Peers::Nobody, Ports::Any) => (item.direction, false),
                other => panic!("{spec}: {other:?}"),
            }
        };
        items.iter().map(shape).collect()
    };
    use Direction::{Egress, Ingress};
    for (spec, expected) in [
        ("policyTypes: [Ingress]", vec![(Ingress, false)]),
        ("policyTypes: [Egress]", vec![(Egress, false)]),
        (
            "policyTypes: [Ingress, Egress]",
            vec![(Ingress, false), (Egress, false)],
        ),
        ("policyTypes: []", vec![(Ingress, false)]),
        ("ingress: []", vec![(Ingress, false)]),
        ("ingress: [{}]", vec![(Ingress, true)]),
        ("ingress: [{from: [], ports: []}]", vec![(Ingress, true)]),
        ("egress: [{}]", vec![(Ingress, false), (Egress, true)]),
        ("egress: [{}], policyTypes: [Egress]", vec![(Egress, true)]),
        ("egress: [], policyTypes: [Egress]", vec![(Egress, false)]),
        (
            "ingress: [{}], policyTypes: [Egress]",
            vec![(Egress, false)],
        ),
        ("egress: []", vec![(Ingress, false)]),
    ] {
        assert_eq!(of(spec), expected, "{spec}");
    }
    for spec in [
        "ingress: [{}], policyTypes: [Egress]",
        "egress: [{}], policyTypes: [Ingress]",
        "egress: []",
    ] {
        warns(
            &knp(&format!("podSelector: {{}}, {spec}")),
            Code::PolicyTypes,
        );
    }
    warns(
        &knp("podSelector: {}, ingress: [{}, {from: [{podSelector: {}}]}]"),
        Code::EmptyBeside,
    );
}

#[test]
fn peers_select_by_pod_and_namespace() {
    let labels = |namespace: &str, own: &[(&str, &str)]| -> Labels {
        let mut labels: Labels = own.iter().map(|(k, v)| Label::from_key(k, v)).collect();
        for label in crate::selector::namespace_labels(namespace) {
            labels.insert(label);
        }
        labels.insert(Label::new(
            "k8s",
            &format!("io.cilium.k8s.namespace.labels.team-{namespace}"),
            "x",
        ));
        labels
    };
    let selects = |peer: &str, labels: &Labels| {
        let items = items(&format!("ingress: [{{from: [{peer}]}}]"));
        items[0].peer_list().iter().any(|peer| {
            let PeerSelector::Labels(selector) = peer else {
                panic!("{peer:?}");
            };
            selector.matches(labels)
        })
    };
    let (own, other) = (
        labels("ns", &[("app", "b")]),
        labels("other", &[("app", "b")]),
    );
    let world: Labels = [Label::reserved("world-ipv4")].into_iter().collect();
    let foreign = labels("ns", &[("container:app", "b")]);
    for (peer, expected) in [
        (
            "{podSelector: {matchLabels: {app: b}}}",
            [true, false, false, false],
        ),
        ("{podSelector: {}}", [true, false, false, true]),
        (
            "{podSelector: {matchLabels: {app: b}}, namespaceSelector: {}}",
            [true, true, false, false],
        ),
        ("{namespaceSelector: {}}", [true, true, false, true]),
        (
            "{namespaceSelector: {matchLabels: {team-other: x}}}",
            [false, true, false, false],
        ),
        (
            "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}}}",
            [false, true, false, false],
        ),
        (
            "{namespaceSelector: {matchExpressions: [{key: team-other, operator: DoesNotExist}]}}",
            [true, false, false, true],
        ),
        (
            "{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [b]}]}}",
            [false, false, false, true],
        ),
        (
            "{podSelector: {matchLabels: {app: b}}}, {namespaceSelector: {matchLabels: {team-other: x}}}",
            [true, true, false, false],
        ),
    ] {
        let got = [&own, &other, &world, &foreign].map(|labels| selects(peer, labels));
        assert_eq!(got, expected, "{peer}");
    }
    let set = loads(&knp("podSelector: {matchLabels: {app: b}}")).set;
    let Subject::Endpoints(subject) = &set.policies[0].rules[0].subject else {
        panic!("workloads");
    };
    assert_eq!(
        [&own, &other, &foreign].map(|labels| subject.matches(labels)),
        [true, false, false]
    );
}

#[test]
fn blocks_and_ports() {
    let items = items(
        "egress: [{to: [{ipBlock: {cidr: 10.1.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 80}, {}, {port: http, protocol: UDP}, {port: 80, endPort: 90, protocol: SCTP}]}], policyTypes: [Egress]",
    );
    let [item] = items.as_slice() else {
        panic!("one item")
    };
    let expected = CidrSelector {
        prefix: "10.0.0.0/8".parse().unwrap(),
        except: vec!["10.1.0.0/16".parse().unwrap()],
    };
    assert_eq!(item.peer_list(), [PeerSelector::Cidr(expected)]);
    let ports: Vec<_> = item
        .port_list()
        .iter()
        .map(|rule| (rule.protocol, rule.port.clone()))
        .collect();
    let one = RuleProtocol::One;
    assert_eq!(
        ports,
        [
            (one(L4Protocol::Tcp), PortMatch::Range(80, 80)),
            (one(L4Protocol::Tcp), PortMatch::All),
            (one(L4Protocol::Udp), PortMatch::Named("http".into())),
            (one(L4Protocol::Sctp), PortMatch::Range(80, 90)),
        ]
    );
}

#[test]
fn what_kubernetes_rejects_is_refused() {
    use Code::{Conflict, InvalidValue, Missing, UnknownField, WrongType};
    let from = |text: &str| format!("podSelector: {{}}, ingress: [{{from: [{text}]}}]");
    let port = |text: &str| format!("podSelector: {{}}, ingress: [{{ports: [{text}]}}]");
    let (peer_at, port_at) = ("spec.ingress[0].from[0]", "spec.ingress[0].ports[0]");
    #[rustfmt::skip]
    let rows: Vec<(String, Code, String, &str)> = vec![
        ("ingress: [{}]".into(), Missing, "spec".into(), "no `podSelector`"),
        ("podSelector: {}, policyTypes: [ingress]".into(), InvalidValue, "spec.policyTypes[0]".into(), "Ingress and Egress"),
        ("podSelector: {}, egress: [{from: []}]".into(), UnknownField, "spec.egress[0].from".into(), "unknown field"),
        ("podSelector: {matchLabels: {\"k8s:a\": b}}".into(), InvalidValue, "spec.podSelector.matchLabels.k8s:a".into(), "no sources"),
        ("podSelector: {matchLabels: {$host: b}}".into(), InvalidValue, "spec.podSelector.matchLabels.$host".into(), "no sources"),
        (from("{}"), Missing, peer_at.into(), "an empty peer"),
        (from("{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}"), Conflict, peer_at.into(), "`ipBlock`"),
        (from("{ipBlock: {}}"), Missing, format!("{peer_at}.ipBlock"), "no `cidr`"),
        (from("{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/8]}}"), InvalidValue, format!("{peer_at}.ipBlock.except[0]"), "not inside"),
        (from("{podSelector: {}, endpointSelector: {}}"), UnknownField, format!("{peer_at}.endpointSelector"), "podSelector"),
        (port("{port: \"80\"}"), InvalidValue, format!("{port_at}.port"), "without quotes: 80"),
        (port("{port: 0}"), InvalidValue, format!("{port_at}.port"), "1 to 65535"),
        (port("{port: true}"), WrongType, format!("{port_at}.port"), "a number or a name"),
        (port("{port: 80, protocol: tcp}"), InvalidValue, format!("{port_at}.protocol"), "TCP, UDP and SCTP"),
        (port("{port: 80, endPort: 79}"), InvalidValue, format!("{port_at}.endPort"), "below"),
        (port("{endPort: 79}"), Conflict, format!("{port_at}.endPort"), "needs a `port`"),
        (port("{port: http, endPort: 79}"), InvalidValue, format!("{port_at}.endPort"), "named port"),
    ];
    for (spec, code, field, reason) in rows {
        refused(&knp(&spec), code, &field, reason);
    }
    let old = knp("podSelector: {}").replace("networking.k8s.io/v1", "extensions/v1beta1");
    refused(&old, InvalidValue, "apiVersion", "networking.k8s.io/v1");
}

fn group(name: &str, prefixes: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2alpha1\nkind: CiliumCIDRGroup\nmetadata: {{name: {name}, labels: {{zone: {name}}}}}\nspec: {{externalCIDRs: [{prefixes}]}}\n"
    )
}

#[track_caller]
fn cidrs(spec: &str, groups: &str) -> Vec<String> {
    let text = cnp(&format!("ingress: [{{fromCIDRSet: [{spec}]}}]"));
    // The group stands in a later file.
    let loaded = load(&[source("a.yaml", &text), source("b.yaml", groups)]);
    assert!(loaded.problems.is_empty(), "{:#?}", loaded.problems);
    let items = &loaded.set.policies[0].rules[0].items;
    let show = |peer: &PeerSelector| {
        let PeerSelector::Cidr(cidr) = peer else {
            panic!("{peer:?}");
        };
        format!("{}-{:?}", cidr.prefix, cidr.except)
    };
    items[0].peer_list().iter().map(show).collect()
}

#[test]
fn groups_stand_for_their_prefixes() {
    let one = group("one", "10.0.0.0/8, 192.168.1.5/24");
    let list = format!(
        "apiVersion: v1\nkind: List\nitems: [{{apiVersion: cilium.io/v2, kind: CiliumCIDRGroup, metadata: {{name: two}}, spec: {{externalCIDRs: [\"a::/16\"]}}}}]\n---\n{one}"
    );
    assert_eq!(
        cidrs("{cidrGroupRef: one}", &list),
        ["10.0.0.0/8-[]", "192.168.1.0/24-[]"]
    );
    assert_eq!(cidrs("{cidrGroupRef: two}", &list), ["a::/16-[]"]);
    let holes = "{cidrGroupRef: one, except: [10.1.0.0/16, 192.168.0.0/16]}";
    assert_eq!(cidrs(holes, &list), ["10.0.0.0/8-[10.1.0.0/16]"]);
    let selector = "{cidrGroupSelector: {matchExpressions: [{key: zone, operator: Exists}]}}";
    assert_eq!(cidrs(selector, &list).len(), 2);
    let by_name = "{cidrGroupSelector: {matchLabels: {\"cidrgroup:io.cilium.policy.cidrgroupname/two\": \"\"}}}";
    assert_eq!(cidrs(by_name, &list), ["a::/16-[]"]);
    assert!(cidrs("{cidrGroupRef: none}", &group("none", "")).is_empty());
}

#[test]
fn groups_are_checked() {
    use Code::{Conflict, Duplicate, InvalidValue, Missing, UnknownField};
    let good = group("one", "10.0.0.0/8");
    for (text, code, field) in [
        (
            group("one", "10.0.0.1"),
            InvalidValue,
            "spec.externalCIDRs[0]",
        ),
        (
            good.replace("externalCIDRs", "externalCidrs"),
            Missing,
            "spec",
        ),
        (good.replace("spec:", "spek:"), UnknownField, "spek"),
        (good.replace("v2alpha1", "v1"), InvalidValue, "apiVersion"),
        (good.replace("{name: one,", "{"), Missing, ""),
        (
            good.replace("{name: one,", "{name: one, namespace: x,"),
            Conflict,
            "metadata.namespace",
        ),
        (format!("{good}---\n{good}"), Duplicate, ""),
    ] {
        let loaded = load_one(&text);
        let found = |problem: &Problem| (problem.code, problem.field.as_str()) == (code, field);
        assert!(
            loaded.problems.iter().any(found),
            "{text}: {:#?}",
            loaded.problems
        );
        assert!(loaded.has_errors());
    }
}

#[test]
fn references_to_groups_have_a_bound() {
    let prefixes: Vec<String> = (0..1000)
        .map(|n| format!("10.{}.{}.0/24", n / 256, n % 256))
        .collect();
    let big = group("big", &prefixes.join(", "));
    let references = |count: usize| {
        let list = vec!["{cidrGroupRef: big}"; count].join(", ");
        format!(
            "{big}---\n{}",
            cnp(&format!("ingress: [{{fromCIDRSet: [{list}]}}]"))
        )
    };
    loads(&references(GROUP_PREFIXES_MAX / 1000));
    let at = "spec.ingress[0].fromCIDRSet[65].cidrGroupRef";
    refused(
        &references(GROUP_PREFIXES_MAX / 1000 + 9),
        Code::Limit,
        at,
        "GROUP_PREFIXES_MAX",
    );
}
