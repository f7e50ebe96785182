//! `toFQDNs` without a DNS rule: names are asked of the servers that the loader was told.

use super::*;
use crate::Loader;

const NAMES: &str = "egress: [{toFQDNs: [{matchName: a.io}]}]";
const ELSEWHERE: &str = "9.9.9.9:53";

fn servers() -> Source {
    let rule =
        "{matchLabels: {\"k8s:io.kubernetes.pod.namespace\": kube-system, k8s-app: kube-dns}}";
    let spec = format!(
        "CCNP enableDefaultDeny: {{egress: false, ingress: false}}, egress: [{{toEndpoints: [{rule}], toPorts: [{{ports: [{{port: \"53\", protocol: ANY}}], rules: {{dns: [{{matchPattern: '*'}}]}}}}]}}]"
    );
    let path = "--servers".to_owned();
    let text = policy(0, &spec).replace("{matchLabels: {app: a}}, enable", "{}, enable");
    Source { path, text }
}

fn scene_of(policies: &[&str]) -> Scene {
    let texts = policies.iter().enumerate();
    let text: String = texts.map(|(index, text)| policy(index, text)).collect();
    let path = "p.yaml".to_owned();
    let mut loader = Loader::new().with_lookup(servers()).unwrap();
    let loaded = loader.load(&[Source { path, text }]);
    assert!(!loaded.has_errors(), "{:#?}", loaded.problems);
    let (mut identities, mut compiler) = (Identities::new(), Compiler::new());
    let inputs = (&loaded.set, &cast(), Options::default());
    let snapshot = compiler.build(3, inputs, &mut identities).unwrap();
    Scene {
        snapshot,
        identities,
        compiler,
    }
}

fn teaches(scene: &Scene, server: &str) -> bool {
    let server = server.parse().unwrap();
    scene.snapshot.may_teach(subject(), server, L4Protocol::Udp)
}

#[test]
fn names_alone_suffice() {
    let scene = scene_of(&[NAMES]);
    for name in ["a.io", "other.io", "x.y.z"] {
        for protocol in [L4Protocol::Udp, L4Protocol::Tcp] {
            assert!(scene.ask(SERVER, protocol, name).is_ok(), "{name}");
        }
        let refused = scene.ask(ELSEWHERE, L4Protocol::Udp, name);
        assert_eq!(refused, Err(SERVER_DENIED));
    }
    assert!(teaches(&scene, SERVER) && !teaches(&scene, ELSEWHERE));
    let rule = scene.ask(SERVER, L4Protocol::Udp, "a.io").unwrap();
    assert_eq!(&*scene.snapshot.rule(rule).unwrap().file, "--servers");
    // Nothing else opens.
    for (to, l4) in [
        (DNS, (TCP, 80)),
        (DNS, (UDP, 54)),
        (W, (UDP, 53)),
        (B, (UDP, 53)),
    ] {
        assert_eq!(scene.verdict(to, l4), "D / none", "{to} {l4:?}");
    }
}

#[test]
fn no_other_verdict_differs() {
    let plain = "egress: [{toEndpoints: [{}]}]";
    let own = dns_rule(UDP53, "{matchName: b.io}");
    let denied = "egressDeny: [{toEndpoints: [{matchLabels: {\"k8s:io.kubernetes.pod.namespace\": kube-system, k8s-app: kube-dns}}]}]";
    for set in [
        &[][..],
        &[plain],
        &[NAMES, &own],
        &["CCNP egress: [{}]"],
        &["egress: [{toFQDNs: []}]"],
        &["endpointSelector: {matchLabels: {app: x}}, egress: [{toFQDNs: [{matchName: a.io}]}]"],
        &[NAMES, denied],
    ] {
        let (with, without) = (scene_of(set), scene(set));
        for to in [DNS, W, B, HOST] {
            for l4 in [(UDP, 53), (TCP, 53), (TCP, 80)] {
                assert_eq!(
                    with.verdict(to, l4),
                    without.verdict(to, l4),
                    "{set:?} {to}"
                );
            }
        }
        for name in ["a.io", "b.io", "c.io"] {
            let asked = |scene: &Scene| scene.ask(SERVER, L4Protocol::Udp, name).map(drop);
            assert_eq!(asked(&with), asked(&without), "{set:?} {name}");
        }
        let judges = |scene: &Scene| {
            let server = SERVER.parse().unwrap();
            let snapshot = &scene.snapshot;
            snapshot.judges_dns(subject(), server, L4Protocol::Udp) && teaches(scene, SERVER)
        };
        assert_eq!(judges(&with), judges(&without), "{set:?}");
    }
}

#[test]
fn a_plain_rule_for_the_server_is_redirected_and_learned_from() {
    let plain = "egress: [{toEndpoints: [{matchLabels: {\"k8s:io.kubernetes.pod.namespace\": kube-system}}]}]";
    let scene = scene_of(&[NAMES, plain]);
    assert!(scene.verdict(DNS, (UDP, 53)).starts_with('R'));
    assert!(scene.verdict(DNS, (TCP, 80)).starts_with('A'));
    assert!(scene.ask(SERVER, L4Protocol::Udp, "any.io").is_ok() && teaches(&scene, SERVER));
    // Where the policy closes nothing, nothing is closed, and names are learned all the same.
    let open = "enableDefaultDeny: {egress: false}, egress: [{toFQDNs: [{matchName: a.io}]}]";
    let scene = scene_of(&[open]);
    assert!(scene.verdict(W, (TCP, 80)).starts_with('A'));
    assert!(teaches(&scene, SERVER));
}

#[test]
fn who_is_asked_must_be_a_policy() {
    let mut wrong = servers();
    wrong.text = wrong.text.replace("'*'", "'a b'");
    assert!(!Loader::new().with_lookup(wrong).unwrap_err().is_empty());
}

#[test]
fn what_is_in_force_is_counted_once() {
    let port = |port: u16, rules: &str| {
        format!("toPorts: [{{ports: [{{port: \"{port}\", protocol: TCP}}], {rules}}}]")
    };
    let dns = port(53, "rules: {dns: [{matchPattern: '*'}]}");
    let http = port(80, "rules: {http: [{method: GET}]}");
    let tls = port(443, "serverNames: [a.io]");
    let names = "toFQDNs: [{matchName: a.io}, {matchPattern: '*.b.io'}]";
    let scene = scene(&[
        &format!("egress: [{{toEntities: [world], {dns}}}, {{{names}, {http}}}]"),
        &format!("egress: [{{toEndpoints: [{{}}], {dns}}}, {{{names}, {tls}}}]"),
        &format!("egress: [{{toFQDNs: [{{matchName: c.io}}]}}], ingress: [{{{http}}}]"),
        // Of nobody who is here.
        &format!(
            "endpointSelector: {{matchLabels: {{app: x}}}}, egress: [{{toFQDNs: [{{matchName: d.io}}], {http}}}]"
        ),
    ]);
    assert_eq!(scene.snapshot.name_selectors(), 3);
    let ids = scene.snapshot.endpoints.keys();
    let mut told: Vec<String> = ids
        .flat_map(|id| scene.snapshot.name_selectors_of(*id))
        .map(|one| format!("{} {}", one.text, one.rule.name))
        .collect();
    told.sort();
    assert_eq!(told.len(), 5, "{told:?}");
    assert!(
        told[0].starts_with("*.b.io ") && told[4].starts_with("c.io "),
        "{told:?}"
    );
    let redirects: Vec<_> = scene.snapshot.redirects().into_iter().collect();
    let expected = [
        (crate::Proxy::Dns, 1),
        (crate::Proxy::Tls, 1),
        (crate::Proxy::Http, 2),
    ];
    assert_eq!(redirects, expected);
}
