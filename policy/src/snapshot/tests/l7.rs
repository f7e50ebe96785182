//! Requests and server names (the reference's cases 76 to 86, 104 to 106).

use super::*;
use crate::http::{Path, Request};
use crate::{HttpDecision, PeerRef, SniDecision};

const HTTP: &str = "egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET, path: /public}]}}]}]";

fn may_ask(scene: &Scene, (to, method, path): (&str, &str, &str)) -> bool {
    let identity = scene.snapshot.identity_of(address(to));
    let peer = PeerRef::Known(identity);
    let access = scene
        .snapshot
        .http_access(subject(), Direction::Egress, peer, 80);
    let path = Path::parse(path.as_bytes()).unwrap();
    let request = Request {
        method,
        path: Some(&path),
        host: Some("web"),
        port: 80,
        headers: &[],
    };
    let allowed = matches!(access.judge(&request), HttpDecision::Allowed { .. });
    // The permit is for what was asked.
    let permitted = access.permit(&request).map(|permit| {
        assert_eq!(
            (permit.method(), permit.target()),
            (method, Some(path.normal()))
        );
        assert_eq!(permit.host(), Some("web"));
    });
    assert_eq!(permitted.is_some(), allowed);
    allowed
}

#[test]
fn requests_are_judged_by_every_list_that_applies() {
    let v2 = "egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{path: /v2/.*}]}}]}]";
    let plain = "egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]";
    let only_b = "egress: [{toEndpoints: [{matchLabels: {app: b}}]}]";
    let denied = "egressDeny: [{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]";
    let failing = "egress: [{toEntities: [all], authentication: {mode: test-always-fail}}]";
    let range = "egress: [{toPorts: [{ports: [{port: '80', endPort: 90, protocol: TCP}], rules: {http: [{path: /r}]}}]}]";
    let empty =
        "egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]";
    let open = "enableDefaultDeny: {egress: false}, egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{path: /a}]}}]}]";
    #[rustfmt::skip]
    let rows: &[(&[&str], &str, &str, &str, bool)] = &[
        (&[HTTP], W, "GET", "/public", true),
        (&[HTTP], W, "GET", "/public?x=1", false),
        (&[HTTP], W, "GET", "/public/", false),
        (&[HTTP], W, "GET", "/Public", false),
        (&[HTTP], W, "POST", "/public", false),
        (&[empty], W, "GET", "/x", true),
        (&[HTTP, v2], W, "POST", "/v2/a", true),
        (&[HTTP, v2], W, "POST", "/v3/a", false),
        (&[HTTP, plain], W, "DELETE", "/x", true),
        (&[HTTP, only_b], B, "DELETE", "/x", true),
        (&[HTTP, only_b], W, "DELETE", "/x", false),
        (&[HTTP, range], W, "POST", "/r", true),
        (&[HTTP, denied], W, "GET", "/public", false),
        (&[HTTP, failing], W, "GET", "/public", false),
        (&[open], W, "GET", "/b", true),
        (&[open, "egress: [{}]"], W, "GET", "/b", false),
        (&[open, "egress: [{}]"], W, "GET", "/a", true),
    ];
    for (policies, to, method, path, expected) in rows {
        let allowed = may_ask(&scene(policies), (to, method, path));
        assert_eq!(allowed, *expected, "{policies:?}: {method} {path} to {to}");
    }
    assert_eq!(scene(&[HTTP]).verdict(W, (TCP, 80)), "R / L4-Only");
    assert_eq!(scene(&[HTTP, denied]).verdict(W, (TCP, 80)), "D / L4-Only");
    assert_eq!(scene(&[open]).verdict(W, (TCP, 80)), "R / L4-Only");
}

#[test]
fn lists_allow_the_readings_of_a_path_together() {
    let one = |path: &str| {
        format!(
            "egress: [{{toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{{path: '{path}'}}]}}}}]}}]"
        )
    };
    let (raw, split) = (one("/a%2Fb"), one("/a/b"));
    let asked = (W, "GET", "/a%2Fb");
    assert!(!may_ask(&scene(&[&raw]), asked));
    assert!(!may_ask(&scene(&[&split]), asked));
    assert!(may_ask(&scene(&[&raw, &split]), asked));
}

#[test]
fn a_rule_with_server_names_opens_nothing_but_tls() {
    let named =
        "egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], serverNames: [x.io]}]}]";
    let plain = "egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]";
    let world =
        "egress: [{toEntities: [world], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]";
    for (policies, opened) in [
        (&[named][..], false),
        (&[named, plain], false), // names are joined, and one side without them opens nothing
        (&[plain], true),
        (&[named, world], true), // another peer
        (&[named, plain, "egress: [{toEntities: [world]}]"], true),
    ] {
        let scene = scene(policies);
        let peer = PeerRef::Known(scene.snapshot.identity_of(address(W)));
        let access = scene
            .snapshot
            .http_access(subject(), Direction::Egress, peer, 80);
        assert_eq!(access.opened_by().is_some(), opened, "{policies:?}");
        assert!(!access.has_rules());
    }
    assert!(!may_ask(&scene(&[named]), (W, "GET", "/")));
}

#[test]
fn server_names_are_judged_by_the_rules_of_a_peer_and_port() {
    let tls = |rest: &str| {
        format!("egress: [{{toPorts: [{{ports: [{{port: '443', protocol: TCP}}]{rest}}}]}}]")
    };
    let (x, y, plain) = (
        tls(", serverNames: [x.io]"),
        tls(", serverNames: [\"*.y.io\"]"),
        tls(""),
    );
    let all_of_b = "egress: [{toEndpoints: [{matchLabels: {app: b}}]}]".to_owned();
    let denied = SniDecision::Denied;
    #[rustfmt::skip]
    let rows: &[(&[&str], &str, Option<&str>, bool)] = &[
        (&[&x], W, Some("x.io"), true),
        (&[&x], W, Some("X.IO"), true),
        (&[&x], W, Some("y.io"), false),
        (&[&x], W, None, false),
        (&[&x, &y], W, Some("a.y.io"), true),
        (&[&x, &plain], W, Some("y.io"), false), // one side without names doesn't open them
        (&[&x, &plain], W, None, false),
        (&[&x, &all_of_b], B, Some("y.io"), true),
        (&[&x, &all_of_b], W, Some("y.io"), false),
        (&[&plain], W, Some("y.io"), true),
    ];
    for (policies, to, name, expected) in rows {
        let scene = scene(policies);
        let peer = PeerRef::Known(scene.snapshot.identity_of(address(to)));
        let decision = scene
            .snapshot
            .judge_sni(subject(), Direction::Egress, (peer, 443), *name);
        assert_eq!(
            decision != denied,
            *expected,
            "{policies:?}: {name:?} to {to}"
        );
    }
    assert_eq!(scene(&[&x]).verdict(W, (TCP, 443)), "R / L4-Only");
}
