//! The cases of the policy reference, by number: who is subject, under which policies, with whom.
//!
//! Held elsewhere: 116 (replies and ICMP errors) by conntrack in the datapath. What is said inside
//! HTTP is in `requests`; server names (104, 106) are judged by `sni`, and here stands that the
//! flow gets there.

mod quic;
mod refused;
mod requests;

use super::*;
use crate::Proxy;

const RN: &str = "192.168.0.2";
const API: &str = "192.168.0.3";
const HL: &str = "192.168.0.4";
const BARE: &str = "10.2.0.9";
const DROPPED: &str = "D / none 133";

/// A policy's text: `CCNP ` before a clusterwide one, `KNP ` before the inside of a NetworkPolicy.
fn object(index: usize, text: &str) -> String {
    match text.strip_prefix("KNP ") {
        Some(spec) => format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: k{index}}}\nspec: {{podSelector: {{}}, {spec}}}\n"
        ),
        None => policy(index, text),
    }
}

fn loaded(policies: &[&str]) -> crate::Loaded {
    let texts = policies.iter().enumerate();
    let text = texts.map(|(index, text)| object(index, text)).collect();
    let path = "p.yaml".to_owned();
    load(&[Source { path, text }])
}

fn everybody() -> Cast {
    let mut cast = cast();
    for (name, at) in [("remote-node", RN), ("kube-apiserver", API), ("health", HL)] {
        let key = format!("reserved:{name}");
        cast.peers
            .push(peer(workload("kube-system", name, &[(&key, "")]), &[at]));
    }
    let b = workload("default", "b", &[("app", "b")]);
    cast.endpoints.push(LocalEndpoint {
        id: EndpointId::new(9).unwrap(),
        workload: b,
        addresses: vec![address("10.2.0.55")],
        audit: false,
        is_redirectable: true,
    });
    cast
}

/// The verdict as the reference writes it: `> address` is egress, `< address` ingress.
#[track_caller]
fn verdict(policies: &[&str], (id, mode): (u32, Mode), at: (&str, (u8, u16))) -> String {
    let options = Options {
        mode,
        ..Options::default()
    };
    verdict_by(policies, (id, options), at)
}

#[track_caller]
fn verdict_by(
    policies: &[&str],
    (id, options): (u32, Options),
    (to, l4): (&str, (u8, u16)),
) -> String {
    let loaded = loaded(policies);
    assert!(!loaded.has_errors(), "{policies:?}: {:#?}", loaded.problems);
    let mut identities = Identities::new();
    let mut cast = everybody();
    cast.endpoints.push(LocalEndpoint {
        id: EndpointId::new(10).unwrap(),
        workload: workload("default", "new", &[("reserved:init", "")]),
        addresses: vec![address("10.2.0.8")],
        audit: false,
        is_redirectable: true,
    });
    let snapshot = Compiler::new()
        .build(1, (&loaded.set, &cast, options), &mut identities)
        .unwrap();
    let (way, to) = to.split_once(' ').unwrap();
    let flow = FlowKey {
        direction: match way {
            ">" => Direction::Egress,
            _ => Direction::Ingress,
        },
        identity: snapshot.identity_of(address(to)),
        protocol: l4.0,
        port: l4.1,
    };
    let found = snapshot.judge(EndpointId::new(id).unwrap(), flow);
    let letter = match found.verdict {
        EntryVerdict::Allow => "A",
        EntryVerdict::Redirect(Proxy::Names) => "R names",
        EntryVerdict::Redirect(Proxy::Dns) => "R dns",
        EntryVerdict::Redirect(Proxy::Tls) => "R tls",
        EntryVerdict::Redirect(Proxy::Http) => "R http",
        EntryVerdict::Refuse => "refused",
        EntryVerdict::Deny => "D",
        EntryVerdict::AuditDefault => "audit",
        EntryVerdict::AuditDeny | EntryVerdict::FailAuthentication => {
            unreachable!("none of these policies")
        }
    };
    let reason = found.drop_reason().map(|reason| format!(" {reason}"));
    format!("{letter} / {}{}", found.matched, reason.unwrap_or_default())
}

type Row<'a> = (u32, &'a [&'a str], &'a str, (u8, u16), &'a str);

#[track_caller]
fn check(rows: &[Row<'_>]) {
    for (number, policies, to, l4, expected) in rows {
        let found = verdict(policies, (7, Mode::Default), (to, *l4));
        assert_eq!(found, *expected, "case {number}: {policies:?} {to} {l4:?}");
    }
}

const WEB: (u8, u16) = (TCP, 80);
const PING4: (u8, u16) = (1, 8);
const TO_B: &str = "egress: [{toEndpoints: [{matchLabels: {app: b}}]}]";
const TO_DEFAULT: &str = "egress: [{toEndpoints: [{}]}]";
const PORT80: &str = "egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]";
const ANY0: &str = "egress: [{toPorts: [{ports: [{port: '0'}]}]}]";

#[test]
#[rustfmt::skip]
fn empty_rules_and_peers() {
    let closed = "egress: [{}]";
    let empty = "egress: [{toEndpoints: [], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]";
    check(&[
        (1, &[], &format!("> {W}"), WEB, "A / all"),
        (1, &[], &format!("< {HOST}"), PING4, "A / all"),
        (2, &[closed], &format!("> {B}"), WEB, DROPPED),
        (3, &[closed], &format!("< {B}"), WEB, "A / all"),
        (4, &["ingress: [{}]"], &format!("< {B}"), WEB, DROPPED),
        (5, &["ingress: [{}]"], &format!("< {HOST}"), WEB, "A / L3-Only"),
        (7, &["ingress: [{}], egress: []"], &format!("> {W}"), WEB, "A / all"),
        (9, &[TO_DEFAULT], &format!("> {B}"), WEB, "A / L3-Only"),
        (10, &[TO_DEFAULT], &format!("> {O}"), WEB, DROPPED),
        (11, &[TO_DEFAULT], &format!("> {W}"), WEB, DROPPED),
        (11, &[TO_DEFAULT], &format!("> {HOST}"), WEB, DROPPED),
        (11, &[TO_DEFAULT], &format!("> {RN}"), WEB, DROPPED),
        (12, &["CCNP egress: [{toEndpoints: [{}]}]"], &format!("> {O}"), WEB, "A / L3-Only"),
        (13, &["CCNP egress: [{toEndpoints: [{}]}]"], &format!("> {W}"), WEB, DROPPED),
        (13, &["CCNP egress: [{toEndpoints: [{}]}]"], &format!("> {HOST}"), WEB, DROPPED),
        (14, &["egress: [{toEndpoints: []}]"], &format!("> {B}"), WEB, DROPPED),
        (15, &[empty], &format!("> {B}"), WEB, DROPPED),
    ]);
}

#[test]
#[rustfmt::skip]
fn ports_and_entities() {
    let l3proto = "egress: [{toEndpoints: [{matchLabels: {app: b}}], toPorts: [{ports: [{port: '0', protocol: TCP}]}]}]";
    let none = "egress: [{toEndpoints: [{matchLabels: {app: b}}], toPorts: [{}]}]";
    let to = |entity: &str| format!("egress: [{{toEntities: [{entity}]}}]");
    let range = "egress: [{toEntities: [world], toPorts: [{ports: [{port: '80', endPort: 90, protocol: TCP}]}]}]";
    let ping = "egress: [{icmps: [{fields: [{type: 8}]}]}]";
    check(&[
        (16, &[PORT80], &format!("> {W}"), WEB, "A / L4-Only"),
        (17, &[PORT80], &format!("> {HOST}"), WEB, "A / L4-Only"),
        (18, &[PORT80], &format!("> {W}"), (UDP, 80), DROPPED),
        (19, &["egress: [{toPorts: [{ports: [{port: '80'}]}]}]"], &format!("> {W}"), (UDP, 80), "A / L4-Only"),
        (20, &[ANY0], &format!("> {W}"), PING4, DROPPED),
        (21, &[ANY0], &format!("> {W}"), (TCP, 443), "A / Proto-Only"),
        (22, &[l3proto], &format!("> {B}"), (TCP, 9), "A / L3-Proto"),
        (23, &[none], &format!("> {B}"), WEB, DROPPED),
        (24, &[&to("all")], &format!("> {W}"), PING4, "A / all"),
        (25, &[&to("world")], &format!("> {W}"), WEB, "A / L3-Only"),
        (26, &[&to("world")], &format!("> {HOST}"), WEB, DROPPED),
        (26, &[&to("world")], &format!("> {B}"), WEB, DROPPED),
        (27, &[&to("cluster")], &format!("> {API}"), (TCP, 6443), "A / L3-Only"),
        (28, &[&to("remote-node")], &format!("> {API}"), WEB, "A / L3-Only"),
        (29, &[&to("kube-apiserver")], &format!("> {RN}"), WEB, DROPPED),
        (30, &[&to("none")], &format!("> {HL}"), WEB, DROPPED),
        (69, &[range], &format!("> {W}"), (TCP, 90), "A / L3-L4"),
        (69, &[range], &format!("> {W}"), (TCP, 91), DROPPED),
        (71, &[ping], &format!("> {W}"), PING4, "A / L4-Only"),
        (71, &[ping], "> 2001:db8::1", (58, 128), DROPPED),
    ]);
}

#[test]
#[rustfmt::skip]
fn prefixes() {
    let to = |prefix: &str| format!("egress: [{{toCIDR: [{prefix}]}}]");
    let (ten, bits, all) = (to("10.0.0.0/8"), to("10.1.2.3/8"), to("0.0.0.0/0"));
    let hole = "egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}]";
    check(&[
        (32, &[&ten], &format!("> {P}"), WEB, "A / L3-Only"),
        (33, &[&ten], &format!("> {B}"), WEB, DROPPED),
        (35, &[&bits], "> 10.200.0.1", WEB, "A / L3-Only"),
        (36, &[hole], &format!("> {P}"), WEB, DROPPED),
        (37, &[hole, &to("10.1.2.0/24")], &format!("> {P}"), WEB, "A / L3-Only"),
        (41, &[&all], &format!("> {HOST}"), WEB, DROPPED),
        (41, &[&all], &format!("> {RN}"), WEB, DROPPED),
        (41, &[&all], &format!("> {B}"), WEB, DROPPED),
    ]);
}

#[test]
#[rustfmt::skip]
fn denies_and_default_deny() {
    let (world, all) = ("egress: [{toEntities: [world]}]", "egress: [{toEntities: [all]}]");
    let to_b80 = "egress: [{toEndpoints: [{matchLabels: {app: b}}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]";
    let deny80 = "egressDeny: [{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]";
    let deny_world = "egressDeny: [{toEntities: [world]}]";
    let soft = "egressDeny: [{toEntities: [world]}], enableDefaultDeny: {egress: false}";
    check(&[
        (42, &[world, "egressDeny: [{toCIDR: [93.184.216.0/24]}]"], &format!("> {W}"), WEB, "D / L3-Only 181"),
        (43, &[to_b80, "egressDeny: [{toEntities: [all]}]"], &format!("> {B}"), WEB, "D / all 181"),
        (44, &[all, deny80], &format!("> {B}"), WEB, "D / L4-Only 181"),
        (45, &[all, deny80], &format!("> {B}"), (TCP, 81), "A / all"),
        (45, &[all, deny80], &format!("> {B}"), PING4, "A / all"),
        (46, &[deny_world], &format!("> {B}"), WEB, DROPPED),
        (47, &[soft], &format!("> {B}"), WEB, "A / all"),
        (48, &[soft], &format!("> {W}"), WEB, "D / L3-Only 181"),
        (49, &[soft, TO_B], &format!("> {O}"), WEB, DROPPED),
        (50, &["enableDefaultDeny: {egress: true}, ingress: [{}]"], &format!("> {W}"), WEB, "A / all"),
        (51, &["ingressDeny: [{fromEntities: [host]}]"], &format!("< {HOST}"), WEB, "D / L3-Only 181"),
    ]);
    let host = format!("< {HOST}");
    assert_eq!(verdict(&[], (7, Mode::Always), (&host, WEB)), DROPPED, "case 52");
    let b = format!("> {B}");
    assert_eq!(verdict(&["egress: [{}]"], (7, Mode::Never), (&b, WEB)), "A / all", "case 53");
    assert_eq!(verdict(&[], (10, Mode::Default), (&b, WEB)), DROPPED, "case 54");
    assert_eq!(verdict(&[], (10, Mode::Never), (&b, WEB)), "A / all", "case 54");
}

#[test]
#[rustfmt::skip]
fn selectors() {
    let by = |labels: &str| format!("egress: [{{toEndpoints: [{{matchLabels: {{{labels}}}}}]}}]");
    let exists = "egress: [{toEndpoints: [{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}]}]";
    let own = |key: &str| format!("endpointSelector: {{matchLabels: {{app: a, {key}: other}}}}, egress: [{{}}]");
    let not_b = "egress: [{toEndpoints: [{matchExpressions: [{key: app, operator: NotIn, values: [b]}]}]}]";
    check(&[
        (55, &[&by("'k8s:io.kubernetes.pod.namespace': other")], &format!("> {O}"), WEB, "A / L3-Only"),
        (56, &[&by("io.kubernetes.pod.namespace: other")], &format!("> {O}"), WEB, "A / L3-Only"),
        (57, &[exists], &format!("> {O}"), WEB, "A / L3-Only"),
        (57, &[exists], &format!("> {B}"), WEB, "A / L3-Only"),
        (58, &[&by("'k8s:io.cilium.k8s.namespace.labels.team': x")], &format!("> {O}"), WEB, "A / L3-Only"),
        (59, &[&own("'k8s:io.kubernetes.pod.namespace'")], &format!("> {W}"), WEB, DROPPED),
        (60, &[&own("io.kubernetes.pod.namespace")], &format!("> {W}"), WEB, "A / all"),
        (61, &[&by("'reserved:host': ''")], &format!("> {HOST}"), WEB, "A / L3-Only"),
        (64, &[not_b], &format!("> {BARE}"), WEB, "A / L3-Only"),
    ]);
}

/// What is redirected; what is said there is judged by `http` and `sni`.
#[test]
#[rustfmt::skip]
fn redirects() {
    let http = |rules: &str| format!("egress: [{{toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{rules}]}}}}]}}]");
    let (public, w) = (http("{method: GET, path: '/public'}"), format!("> {W}"));
    let inbound = "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{path: '/public'}]}}]}]";
    let header = http("{headers: ['X-My-Header: true']}");
    let (replace, log) = (http("{headerMatches: [{name: X, value: '1', mismatch: REPLACE}]}"), http("{headerMatches: [{name: X, value: '1', mismatch: LOG}]}"));
    let soft = format!("enableDefaultDeny: {{egress: false}}, {}", http("{path: /a}"));
    let tls = "egress: [{toFQDNs: [{matchName: x.io}], toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [x.io]}]}]";
    let names = "egress: [{toEntities: [world], toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [x.io]}]}]";
    let plain = "egress: [{toEntities: [world], toPorts: [{ports: [{port: '443', protocol: TCP}]}]}]";
    check(&[
        (75, &[&http("")], &w, WEB, "A / L4-Only"),
        (76, &[&http("{}")], &w, WEB, "R http / L4-Only"),
        (77, &[&public], &w, WEB, "R http / L4-Only"),
        (78, &[&public], &w, WEB, "R http / L4-Only"),
        (79, &[&public, &http("{path: '/v2/.*'}")], &w, WEB, "R http / L4-Only"),
        (80, &[&public, PORT80], &w, WEB, "R http / L4-Only"),
        (81, &[inbound, "ingress: [{fromEndpoints: [{matchLabels: {app: b}}]}]"], &format!("< {B}"), WEB, "R http / L4-Only"),
        (82, &[&public, "egressDeny: [{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]"], &w, WEB, "D / L4-Only 181"),
        (83, &[&header], &w, WEB, "R http / L4-Only"),
        (84, &[&replace], &w, WEB, "R http / L4-Only"),
        (85, &[&log], &w, WEB, "R http / L4-Only"),
        (86, &[&soft], &w, WEB, "R http / L4-Only"),
        (104, &[tls], &w, (TCP, 443), DROPPED),
        (106, &[names, plain], &w, (TCP, 443), "R tls / L3-L4"),
    ]);
    assert_eq!(scene_learned(tls, W, "x.io", (TCP, 443)), "R / L3-L4", "case 104");
}

fn scene_learned(policy: &str, to: &str, learned: &str, l4: (u8, u16)) -> String {
    scene(&[policy]).learned(to, &[learned], l4)
}

#[test]
fn questions_and_learned_names() {
    let rule = |rules: &str| dns_rule(UDP53, rules);
    let named = rule("{matchName: example.com}");
    let ask =
        |policies: &[&str], asked| scene(policies).ask(SERVER, L4Protocol::Udp, asked).is_ok();
    assert!(ask(&[&named], "Example.COM"), "case 87");
    assert!(!ask(&[&named], "www.example.com"), "case 88");
    assert!(!ask(&[&named], "example.com.evil.io"), "case 88");
    assert_eq!(
        scene(&[&named]).verdict(DNS, (TCP, 53)),
        "D / none",
        "case 89"
    );
    let server = "toEndpoints: [{matchLabels: {k8s:io.kubernetes.pod.namespace: kube-system}}]";
    let bare = format!("egress: [{{{server}}}]");
    assert!(!ask(&[&named, &bare], "other.com"), "case 90");
    let open = format!("egress: [{{{server}, toPorts: [{{ports: [{UDP53}]}}]}}]");
    assert!(ask(&[&named, &open], "other.com"), "case 91");
    let range =
        format!("egress: [{{{server}, toPorts: [{{ports: [{{port: '53', endPort: 54}}]}}]}}]");
    assert!(
        !ask(&[&named, &range], "other.com"),
        "section 7: a range is another entry"
    );
    assert_eq!(
        scene(&[&rule("")]).verdict(DNS, (UDP, 53)),
        "A / L3-L4",
        "case 92"
    );
    let exact = "egress: [{toFQDNs: [{matchName: example.com}]}]";
    assert_eq!(
        scene_learned(exact, W, "example.com", WEB),
        "A / L3-Only",
        "case 97"
    );
    assert_eq!(scene(&[exact]).verdict(W, WEB), "D / none", "case 98");
    let pattern = "egress: [{toFQDNs: [{matchPattern: '*.example.com'}]}]";
    assert_eq!(
        scene_learned(pattern, W, "example.com", WEB),
        "D / none",
        "case 99"
    );
    let pod = scene(&[exact]);
    assert!(pod.snapshot.may_learn(address(B)).is_err(), "case 102");
    assert_eq!(pod.verdict(B, WEB), "D / none", "case 102");
    let world = "egress: [{toEntities: [world]}]";
    assert_eq!(
        scene_learned(world, W, "example.com", WEB),
        "A / L3-Only",
        "case 103"
    );
}

#[test]
#[rustfmt::skip]
fn core_network_policies() {
    let from = |peers: &str| format!("KNP ingress: [{{from: [{peers}]}}]");
    let b = "podSelector: {matchLabels: {app: b}}";
    let (pods, both) = (from(&format!("{{{b}}}")), from(&format!("{{{b}, namespaceSelector: {{}}}}")));
    let either = from(&format!("{{{b}}}, {{namespaceSelector: {{matchLabels: {{team: x}}}}}}"));
    check(&[
        (107, &["KNP policyTypes: [Ingress]"], &format!("< {B}"), WEB, DROPPED),
        (107, &["KNP policyTypes: [Ingress]"], &format!("< {HOST}"), WEB, "A / L3-Only"),
        (108, &["KNP ingress: [{}]"], &format!("< {W}"), PING4, "A / all"),
        (109, &[&pods], &format!("< {B}"), WEB, "A / L3-Only"),
        (109, &[&pods], &format!("< {O}"), WEB, DROPPED),
        (110, &[&both], &format!("< {O}"), WEB, "A / L3-Only"),
        (111, &[&either], &format!("< {O}"), WEB, "A / L3-Only"),
        (112, &["KNP ingress: [{ports: [{port: 80}]}]"], &format!("< {W}"), (UDP, 80), DROPPED),
        (113, &[&from("{ipBlock: {cidr: 10.0.0.0/8}}")], &format!("< {B}"), WEB, DROPPED),
        (114, &["KNP policyTypes: [Egress], egress: [{}]", "egressDeny: [{toEntities: [world]}]"], &format!("> {W}"), WEB, "D / L3-Only 181"),
    ]);
    // Both sides are asked: the source's egress and the destination's ingress.
    let both = [TO_B, "endpointSelector: {matchLabels: {app: b}}, ingress: [{}]"];
    assert_eq!(verdict(&both, (7, Mode::Default), ("> 10.2.0.55", WEB)), "A / L3-Only", "case 115");
    let from_a = format!("< {A}");
    assert_eq!(verdict(&both, (9, Mode::Default), (&from_a, WEB)), DROPPED, "case 115");
}
