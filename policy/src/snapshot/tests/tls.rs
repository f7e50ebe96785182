//! Rules that end TLS, and those beside them.

use fqdn::Name;

use super::*;
use crate::http::{Path, Request};
use crate::{HttpAccess, HttpDecision, LabelSet, PeerRef, SniDecision, TlsLeg, TlsRule};

/// Egress to these peers on port 443, with this L7 part.
fn tls(peers: &str, rest: &str) -> String {
    format!("egress: [{{{peers}toPorts: [{{ports: [{{port: '443', protocol: TCP}}]{rest}}}]}}]")
}

const ENDED: &str = ", terminatingTLS: {secret: {namespace: web, name: own}}";
const BEGUN: &str = ", originatingTLS: {secret: {namespace: web, name: roots}}";
const PATH_A: &str = ", rules: {http: [{path: /a}]}";
const A: &str = "toFQDNs: [{matchName: a.test}], ";
const B_TEST: &str = "toFQDNs: [{matchName: b.test}], ";

fn asks(access: &HttpAccess, path: &str) -> bool {
    let path = Path::parse(path.as_bytes()).unwrap();
    let decision = access.judge(&Request {
        method: "GET",
        path: Some(&path),
        host: Some("a.test"),
        port: 443,
        headers: &[],
    });
    matches!(decision, HttpDecision::Allowed { .. })
}

fn learned(scene: &Scene) -> LabelSet {
    let names = ["a.test", "b.test"].map(|name| Name::from_text(name).unwrap());
    scene
        .snapshot
        .learned_labels(subject(), names.iter(), address(W))
}

fn rules(scene: &Scene, peer: PeerRef<'_>) -> Vec<TlsRule> {
    scene
        .snapshot
        .tls_rules(subject(), Direction::Egress, (peer, 443))
}

#[test]
fn a_rule_that_ends_tls_lets_none_pass_as_it_came() {
    for rest in [
        format!("{ENDED}{PATH_A}"),
        format!("{ENDED}{BEGUN}{PATH_A}"),
        format!("{BEGUN}{PATH_A}"),
        ENDED.to_owned(),
        format!("{ENDED}, serverNames: [a.test]"),
    ] {
        let scene = scene(&[&tls("", &rest)]);
        let snapshot = &scene.snapshot;
        let peer = PeerRef::Known(snapshot.identity_of(address(W)));
        let at = (subject(), Direction::Egress);
        let plain = snapshot.http_access(at.0, at.1, peer, 443);
        assert!(plain.opened_by().is_none() && !plain.has_rules(), "{rest}");
        let passes = snapshot.judge_sni(at.0, at.1, (peer, 443), Some("a.test"));
        assert!(!matches!(passes, SniDecision::Allowed(Some(_))), "{rest}");
        let inside = snapshot.http_access_in_tls(at.0, at.1, (peer, 443), "a.test");
        assert!(asks(&inside, "/a"), "{rest}");
        assert_eq!(asks(&inside, "/b"), !rest.contains("rules"), "{rest}");
        let other = snapshot.http_access_in_tls(at.0, at.1, (peer, 443), "b.test");
        assert_eq!(asks(&other, "/a"), !rest.contains("serverNames"), "{rest}");
        let [rule] = &rules(&scene, peer)[..] else {
            panic!("{rest}");
        };
        assert!(rule.covers("a.test"));
        assert_eq!(rule.covers("b.test"), !rest.contains("serverNames"));
        assert_eq!(rule.originating.is_some(), rest.contains("originatingTLS"));
    }
}

#[test]
fn on_a_shared_address_each_name_has_its_own_rules() {
    let (a, b) = (tls(A, &format!("{ENDED}{BEGUN}{PATH_A}")), tls(B_TEST, ""));
    let scene = scene(&[&a, &b]);
    let labels = learned(&scene);
    let peer = PeerRef::Learned(&labels);
    let snapshot = &scene.snapshot;
    let found = rules(&scene, peer);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].covers("a.test") && found[0].covers("A.test"));
    assert!(!found[0].covers("b.test") && !found[0].covers("") && !found[0].covers("10.0.0.1"));
    let inside =
        |name| snapshot.http_access_in_tls(subject(), Direction::Egress, (peer, 443), name);
    assert!(asks(&inside("a.test"), "/a"));
    assert!(
        !asks(&inside("a.test"), "/b"),
        "the other rule opens its own name alone"
    );
    let plain = snapshot.http_access(subject(), Direction::Egress, peer, 443);
    assert!(plain.opened_by().is_some(), "the other one passes");
}

#[test]
fn names_of_rules_beside_each_other_pass_or_are_ended() {
    let ended = tls(A, &format!("{ENDED}{BEGUN}{PATH_A}"));
    let named = tls(B_TEST, ", serverNames: [b.test]");
    let scene = scene(&[&ended, &named]);
    let labels = learned(&scene);
    let at = (PeerRef::Learned(&labels), 443);
    let judge = |name| {
        let snapshot = &scene.snapshot;
        snapshot.judge_sni(subject(), Direction::Egress, at, name)
    };
    assert!(matches!(
        judge(Some("b.test")),
        SniDecision::Allowed(Some(_))
    ));
    assert_eq!(
        judge(Some("a.test")),
        SniDecision::Denied,
        "it does not pass as it came"
    );
    assert_eq!(judge(None), SniDecision::Denied);
    let found = rules(&scene, at.0);
    assert!(found.iter().any(|rule| rule.covers("a.test")));
    assert!(!found.iter().any(|rule| rule.covers("b.test")));
}

#[test]
fn the_parts_of_a_rule_may_stand_in_two_policies() {
    let (ended, begun) = (tls(A, &format!("{ENDED}{PATH_A}")), tls(A, BEGUN));
    let scene = scene(&[&ended, &begun]);
    let labels = learned(&scene);
    let found = rules(&scene, PeerRef::Learned(&labels));
    assert_eq!(found.len(), 2);
    for rule in found {
        assert!(rule.terminating.is_some() && rule.originating.is_some());
    }
}

#[test]
fn what_is_said_of_one_name_of_a_rule_is_not_lost_on_another() {
    for ended_at in ["b.test, a.test", "a.test, b.test"] {
        let names = ended_at
            .split(", ")
            .map(|name| format!("{{matchName: {name}}}"));
        let both = format!("toFQDNs: [{}], ", names.collect::<Vec<_>>().join(", "));
        let (ended, begun) = (tls(&both, &format!("{ENDED}{PATH_A}")), tls(A, BEGUN));
        let scene = scene(&[&ended, &begun]);
        let labels = learned(&scene);
        let found = rules(&scene, PeerRef::Learned(&labels));
        let about = |name: &str| {
            let about = found.iter().filter(|rule| rule.covers(name));
            about
                .map(|rule| rule.originating.is_some())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            about("a.test"),
            [true, true],
            "{ended_at}: no rule lets it go on in plain text"
        );
        assert_eq!(about("b.test"), [false], "{ended_at}");
    }
}

#[test]
fn every_place_that_names_a_secret_is_found() {
    let both = tls(
        "",
        &format!(
            "{ENDED}, originatingTLS: {{secret: {{namespace: pki, name: r}}, trustedCA: all.pem}}"
        ),
    );
    let set = set_of(&[&both, "egress: [{}]"]);
    let uses = set.tls_uses();
    let said: Vec<_> = uses
        .iter()
        .map(|one| (one.leg, one.context.secret()))
        .collect();
    assert_eq!(
        said,
        [
            (TlsLeg::Client, ("web", "own")),
            (TlsLeg::Server, ("pki", "r"))
        ]
    );
    let parts = (uses[0].context.certificate(), uses[0].context.private_key());
    assert_eq!(parts, ("tls.crt", "tls.key"));
    assert_eq!(uses[0].context.trusted_ca(), "ca.crt");
    assert_eq!(uses[1].context.trusted_ca(), "all.pem");
    let text = uses[1].problem("it is gone").to_string();
    for part in ["p.yaml:", "error", "originatingTLS", "pki/r", "it is gone"] {
        assert!(text.contains(part), "{text}");
    }
}
