//! Name binding: what only `toFQDNs` allow must be called by a name that they allow.

use super::*;
use crate::http::Request;
use crate::{Bound, HttpDecision, NameBinding, TlsDenied};

/// What the subject learned for ok.test.
const OK: &str = "192.0.2.7";
const NAMED: &str = "egress: [{toFQDNs: [{matchName: ok.test}]}]";
const ON_443: &str =
    "egress: [{toFQDNs: [{matchName: ok.test}], toPorts: [{ports: [{port: '443'}]}]}]";
const TWO: &str = "egress: [{toFQDNs: [{matchName: two.test}]}]";

fn scene_of(policies: &[&str], name_binding: NameBinding) -> Scene {
    let options = Options {
        name_binding,
        ..Options::default()
    };
    scene_with(policies, options)
}

fn labels(scene: &Scene, names: &[&str]) -> LabelSet {
    let names: Vec<Name> = names.iter().map(|text| name(text)).collect();
    let snapshot = &scene.snapshot;
    snapshot.learned_labels(subject(), names.iter(), address(OK))
}

/// Policies, protocol and port, what is expected when bound and when not.
type PortRow<'a> = (&'a [&'a str], (u8, u16), &'a str, &'a str);

/// Policies with their annotations, what holds at the node, whether it can be redirected, what binds.
type ModeRow<'a> = (&'a [(&'a str, &'a str)], Options, bool, Option<NameBinding>);

/// What becomes of TLS to this server, and of a request of this host: `Ok` is what was found.
type Said = Result<Option<Bound>, TlsDenied>;

fn said(scene: &Scene, port: u16, name: Option<&str>) -> (Said, Said) {
    let labels = labels(scene, &["ok.test"]);
    let (peer, at) = (PeerRef::Learned(&labels), (subject(), Direction::Egress));
    let access = scene.snapshot.http_access(at.0, at.1, peer, port);
    let tls = scene.snapshot.permit_tls(at, (peer, port), &access, name);
    let path = crate::http::Path::parse(b"/a").unwrap();
    let request = Request {
        method: "GET",
        path: Some(&path),
        host: name,
        port,
        headers: &[],
    };
    let of_request = match access.judge(&request) {
        HttpDecision::NotBound => Err(TlsDenied::NotBound),
        HttpDecision::Denied => Err(TlsDenied::Name),
        HttpDecision::Allowed { bound, .. } => Ok(bound),
    };
    let permitted = access.permit(&request).map(|permit| permit.bound());
    assert_eq!(permitted, of_request.ok());
    (tls.map(|permit| permit.bound()), of_request)
}

#[test]
fn a_name_must_be_one_that_the_rules_for_the_port_allow() {
    const FITS: Said = Ok(Some(Bound {
        mode: NameBinding::Enforce,
        fits: true,
    }));
    const NOT: Said = Err(TlsDenied::NotBound);
    let star = "egress: [{toFQDNs: [{matchPattern: '*.test'}]}]";
    let two_on_80 =
        "egress: [{toFQDNs: [{matchName: two.test}], toPorts: [{ports: [{port: '80'}]}]}]";
    let by_cidr = "egress: [{toCIDR: [192.0.2.0/24]}]";
    let by_world = "egress: [{toEntities: [world], toPorts: [{ports: [{port: '443'}]}]}]";
    #[rustfmt::skip]
    let rows: &[(&[&str], u16, Option<&str>, Said)] = &[
        (&[NAMED], 443, Some("ok.test"), FITS),
        (&[NAMED], 443, Some("evil.test"), NOT),
        (&[NAMED], 443, None, NOT),
        (&[NAMED], 443, Some("OK.TEST."), FITS),
        (&[NAMED], 443, Some("192.0.2.7"), NOT),
        (&[NAMED], 443, Some("a.ok.test"), NOT),
        (&[ON_443], 443, Some("ok.test"), FITS),
        (&[ON_443], 443, Some("evil.test"), NOT),
        (&[NAMED, TWO], 443, Some("two.test"), FITS), // never looked up here
        (&[NAMED, two_on_80], 443, Some("two.test"), NOT), // on another port
        (&[NAMED, two_on_80], 80, Some("two.test"), FITS),
        (&[star], 443, Some("evil.test"), FITS),
        (&[star], 443, Some("evil.example"), NOT),
        (&[star], 443, None, NOT),
        // Whoever allows the address by something else asks for no name.
        (&[NAMED, by_cidr], 443, Some("evil.test"), Ok(None)),
        (&[NAMED, by_cidr], 443, None, Ok(None)),
        (&[NAMED, by_world], 443, Some("evil.test"), Ok(None)),
        (&[NAMED, by_world], 80, Some("evil.test"), NOT),
    ];
    for (policies, port, name, expected) in rows {
        let scene = scene_of(policies, NameBinding::Enforce);
        let found = said(&scene, *port, *name);
        assert_eq!(
            found,
            (*expected, *expected),
            "{policies:?} {port} {name:?}"
        );
        let open = said(&scene_of(policies, NameBinding::Off), *port, *name);
        assert_eq!(open, (Ok(None), Ok(None)), "{policies:?} {port} {name:?}");
        let audited = said(&scene_of(policies, NameBinding::Audit), *port, *name);
        let expected = match expected {
            Ok(None) => Ok(None),
            Ok(Some(_)) | Err(_) => Ok(Some(Bound {
                mode: NameBinding::Audit,
                fits: expected.is_ok(),
            })),
        };
        assert_eq!(
            audited,
            (expected, expected),
            "{policies:?} {port} {name:?}"
        );
    }
}

#[test]
fn only_tcp_that_nothing_else_lets_pass_goes_to_the_proxy() {
    let by_cidr =
        "egress: [{toCIDR: [192.0.2.0/24], toPorts: [{ports: [{port: '80', endPort: 90}]}]}]";
    let everybody = "egress: [{toPorts: [{ports: [{port: '443', protocol: TCP}]}]}]";
    let denied = "egressDeny: [{toCIDR: [192.0.2.0/24], toPorts: [{ports: [{port: '443'}]}]}]";
    let observed =
        "enableDefaultDeny: {egress: false}, egress: [{toFQDNs: [{matchName: ok.test}]}]";
    #[rustfmt::skip]
    let rows: &[PortRow<'_>] = &[
        (&[NAMED], (TCP, 443), "R / L3-L4", "A / L3-Only"),
        (&[NAMED], (TCP, 1), "R / L3-L4", "A / L3-Only"),
        (&[NAMED], (TCP, 65_535), "R / L3-L4", "A / L3-Only"),
        (&[NAMED], (TCP, 53), "A / L3-Only", "A / L3-Only"),
        (&[NAMED], (UDP, 80), "A / L3-Only", "A / L3-Only"),
        (&[NAMED], PING, "A / L3-Only", "A / L3-Only"),
        (&[ON_443], (TCP, 443), "R / L3-L4", "A / L3-L4"),
        (&[ON_443], (TCP, 80), "D / none", "D / none"),
        (&[NAMED, by_cidr], (TCP, 79), "R / L3-L4", "A / L3-Only"),
        (&[NAMED, by_cidr], (TCP, 80), "A / L3-L4", "A / L3-L4"),
        (&[NAMED, by_cidr], (TCP, 90), "A / L3-L4", "A / L3-L4"),
        (&[NAMED, by_cidr], (TCP, 91), "R / L3-L4", "A / L3-Only"),
        (&[NAMED, everybody], (TCP, 443), "A / L4-Only", "A / L4-Only"),
        (&[NAMED, denied], (TCP, 443), "D / L3-L4", "D / L3-L4"),
        (&[observed], (TCP, 443), "A / all", "A / all"),
    ];
    for (policies, l4, bound, off) in rows {
        for (binding, expected) in [
            (NameBinding::Enforce, bound),
            (NameBinding::Audit, bound),
            (NameBinding::Off, off),
        ] {
            let mut scene = scene_of(policies, binding);
            let found = scene.learned(OK, &["ok.test"], *l4);
            assert_eq!(found, *expected, "{policies:?} {l4:?} {binding:?}");
        }
    }
}

/// QUIC hides the name.
#[test]
fn datagrams_to_the_port_of_quic_are_refused_where_a_name_is_asked_for() {
    let by_cidr = "egress: [{toCIDR: [192.0.2.0/24], toPorts: [{ports: [{port: '443'}]}]}]";
    let on_80 = "egress: [{toFQDNs: [{matchName: ok.test}], toPorts: [{ports: [{port: '80'}]}]}]";
    let everybody = "egress: [{toPorts: [{ports: [{port: '443', protocol: TCP}]}]}]";
    let requests = "egress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], rules: {http: [{path: /a}]}}]}]";
    #[rustfmt::skip]
    let rows: &[(&[&str], u16, NameBinding, &str)] = &[
        // A rule for requests beside it doesn't take away that the port is open.
        (&[NAMED, everybody, requests], 443, NameBinding::Enforce, "A / L3-Only"),
        (&[NAMED, requests], 443, NameBinding::Enforce, "Q / L4-Only"),
        (&[NAMED], 443, NameBinding::Enforce, "Q / L3-L4"),
        (&[NAMED], 443, NameBinding::Audit, "A / L3-Only"),
        (&[NAMED], 443, NameBinding::Off, "A / L3-Only"),
        (&[NAMED], 444, NameBinding::Enforce, "A / L3-Only"),
        (&[ON_443], 443, NameBinding::Enforce, "Q / L3-L4"),
        (&[on_80], 80, NameBinding::Enforce, "A / L3-L4"),
        (&[NAMED, by_cidr], 443, NameBinding::Enforce, "A / L3-L4"),
    ];
    for (policies, port, binding, expected) in rows {
        let mut scene = scene_of(policies, *binding);
        let found = scene.learned(OK, &["ok.test"], (UDP, *port));
        assert_eq!(found, *expected, "{policies:?} {port} {binding:?}");
    }
}

#[test]
fn the_least_strict_rule_decides_and_a_policy_says_otherwise_than_the_node() {
    let build = |policies: &[(&str, &str)], options: Options, redirectable: bool| {
        let texts = policies
            .iter()
            .enumerate()
            .map(|(index, (annotations, text))| {
                let name = format!("{{name: p{index}}}");
                let with = format!("{{name: p{index}, annotations: {{{annotations}}}}}");
                policy(index, text).replace(&name, &with)
            });
        let loaded = load(&[Source {
            path: "p.yaml".to_owned(),
            text: texts.collect(),
        }]);
        assert!(!loaded.has_errors(), "{:#?}", loaded.problems);
        let mut cast = cast();
        cast.endpoints[0].is_redirectable = redirectable;
        let (mut identities, mut compiler) = (Identities::new(), Compiler::new());
        let snapshot = compiler.build(3, (&loaded.set, &cast, options), &mut identities);
        Scene {
            snapshot: snapshot.unwrap(),
            identities,
            compiler,
        }
    };
    let (off, audit, enforce) = (
        "namegate.io/name-binding: 'off'",
        "namegate.io/name-binding: audit",
        "namegate.io/name-binding: enforce",
    );
    let told = "namegate.io/name-binding: enforce, namegate.io/audit: 'true'";
    let node = |name_binding, audit| Options {
        name_binding,
        audit,
        ..Options::default()
    };
    let (slack, strict) = (
        node(NameBinding::Off, false),
        node(NameBinding::Enforce, false),
    );
    let found = |mode| Some((mode, mode != NameBinding::Enforce));
    #[rustfmt::skip]
    let rows: &[ModeRow<'_>] = &[
        (&[("", NAMED)], slack, true, None),
        (&[(enforce, NAMED)], slack, true, Some(NameBinding::Enforce)),
        (&[(audit, NAMED)], slack, true, Some(NameBinding::Audit)),
        (&[(off, NAMED)], strict, true, None),
        (&[(audit, NAMED), ("", NAMED)], strict, true, Some(NameBinding::Audit)),
        (&[(off, NAMED), ("", NAMED)], strict, true, None),
        (&[(off, TWO), ("", NAMED)], strict, true, Some(NameBinding::Enforce)),
        // What is only audited refuses nothing.
        (&[(told, NAMED)], slack, true, Some(NameBinding::Audit)),
        (&[("", NAMED)], node(NameBinding::Enforce, true), true, Some(NameBinding::Audit)),
        // Where nobody can look it is refused, or not looked at.
        (&[("", NAMED)], strict, false, Some(NameBinding::Enforce)),
        (&[(audit, NAMED)], strict, false, None),
    ];
    for (policies, options, redirectable, expected) in rows {
        let mut scene = build(policies, *options, *redirectable);
        let is_redirected = scene.learned(OK, &["ok.test"], (TCP, 443)).starts_with('R');
        assert_eq!(is_redirected, expected.is_some(), "{policies:?}");
        let (tls, _) = said(&scene, 443, Some("evil.test"));
        let mode = match tls {
            Ok(bound) => bound.map(|bound| (bound.mode, !bound.fits)),
            Err(denied) => {
                assert_eq!(denied, TlsDenied::NotBound);
                Some((NameBinding::Enforce, false))
            }
        };
        assert_eq!(mode, expected.and_then(found), "{policies:?}");
    }
}

#[test]
fn rules_for_requests_and_server_names_ask_for_the_name_too() {
    let http = "egress: [{toFQDNs: [{matchName: ok.test}, {matchName: two.test}], toPorts: [{ports: [{port: '443', protocol: TCP}], rules: {http: [{path: /a}]}}]}]";
    let sni = "egress: [{toFQDNs: [{matchName: ok.test}], toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: ['*.test']}]}]";
    let of_all = "egress: [{toEntities: [world], toPorts: [{ports: [{port: '443', protocol: TCP}], rules: {http: [{path: /a}]}}]}]";
    let fits = Some(Bound {
        mode: NameBinding::Enforce,
        fits: true,
    });
    let of_request =
        |policies: &[&str], name| said(&scene_of(policies, NameBinding::Enforce), 443, name).1;
    assert_eq!(of_request(&[http], Some("two.test")), Ok(fits));
    assert_eq!(
        of_request(&[http], Some("evil.test")),
        Err(TlsDenied::NotBound)
    );
    assert_eq!(of_request(&[http, of_all], Some("evil.test")), Ok(None));
    let of_tls =
        |policies: &[&str], name| said(&scene_of(policies, NameBinding::Enforce), 443, name).0;
    assert_eq!(of_tls(&[http], Some("ok.test")), Err(TlsDenied::Requests));
    assert_eq!(of_tls(&[sni], Some("ok.test")), Ok(fits));
    assert_eq!(of_tls(&[sni], Some("evil.test")), Err(TlsDenied::NotBound));
    assert_eq!(of_tls(&[sni], Some("evil.example")), Err(TlsDenied::Name));
    assert_eq!(of_tls(&[sni], None), Err(TlsDenied::Name));
}
