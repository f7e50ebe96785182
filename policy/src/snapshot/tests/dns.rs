//! Questions by their type, and on other ports than 53.

use super::*;
use crate::limits::DNS_PORTS_MAX;

const NO_TYPE: Denial = Denial {
    reason: DenialReason::TypeNotAllowed,
    answer: DenyAnswer::NoData,
};

/// What is answered to a question for a type, by rule and by how many labels its pattern names.
#[expect(clippy::unwrap_in_result, reason = "the server is the test's own text")]
fn ask(scene: &Scene, asked: &str, qtype: u16) -> Result<Option<u8>, Denial> {
    let question = Question {
        name: name(asked),
        qtype,
        qclass: 1,
    };
    let server = SERVER.parse().unwrap();
    let verdict = scene
        .snapshot
        .judge_dns(subject(), server, L4Protocol::Udp, &question);
    verdict.map(|permit| permit.literal_labels())
}

/// A resolver with a search list puts a suffix behind the name first, and musl's ends there if the answer is
/// "no data": that one belongs to the names above an allowed one alone.
#[test]
fn a_name_with_a_search_suffix_does_not_exist_and_what_is_above_an_allowed_one_has_no_data() {
    let names = "{matchName: www.example.com}, {matchPattern: '*.shop.svc.cluster.local'}";
    let scene = scene(&[&dns_rule(UDP53, names)]);
    for (asked, expected) in [
        ("www.example.com.default.svc.cluster.local", NX),
        ("www.example.com.svc.cluster.local", NX),
        ("www.example.com.cluster.local", NX),
        ("www.example.com.shop.svc.cluster.local", NX),
        ("shop.svc.cluster.local", NODATA),
        ("svc.cluster.local", NODATA),
        ("cluster.local", NODATA),
        (".", NODATA),
    ] {
        assert_eq!(ask(&scene, asked, 1), Err(expected), "{asked}");
    }
    assert!(ask(&scene, "web.shop.svc.cluster.local", 1).is_ok());
}

#[test]
fn a_name_may_be_asked_for_some_types_alone() {
    const A: u16 = 1;
    const TXT: u16 = 16;
    const AAAA: u16 = 28;
    let names = "{matchName: a.io, types: [A, AAAA]}, {matchPattern: '*.b.io', types: [A]}, \
                 {matchName: x.b.io, types: [TYPE16]}, {matchName: c.io}";
    let scene = scene(&[&dns_rule(UDP53, names)]);
    for (asked, qtype, expected) in [
        ("a.io", A, Ok(None)),
        ("A.IO", AAAA, Ok(None)),
        ("a.io", TXT, Err(NO_TYPE)),
        ("www.a.io", A, Err(NX)),
        ("y.b.io", A, Ok(Some(2))),
        ("y.b.io", AAAA, Err(NO_TYPE)),
        // Each rule by itself: another one for the same name adds its types.
        ("x.b.io", A, Ok(Some(2))),
        ("x.b.io", TXT, Ok(None)),
        ("x.b.io", AAAA, Err(NO_TYPE)),
        ("b.io", TXT, Err(NODATA)),
        ("c.io", TXT, Ok(None)),
    ] {
        assert_eq!(ask(&scene, asked, qtype), expected, "{asked} {qtype}");
    }
    // What opens the port opens it for every type.
    let open = "egress: [{toPorts: [{ports: [{port: \"53\"}]}]}]";
    let both = self::scene(&[&dns_rule(UDP53, names), open]);
    assert_eq!(ask(&both, "a.io", TXT), Ok(Some(0)));
}

#[test]
fn names_may_be_asked_at_any_port_up_to_a_bound() {
    let at = |port: usize| {
        let ports = format!("{{port: \"{port}\", protocol: UDP}}");
        dns_rule(&ports, "{matchName: a.io}")
    };
    let rules: Vec<String> = (0..=DNS_PORTS_MAX).map(|n| at(53 + n)).collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let scene = scene(&rules);
    let last = u16::try_from(53 + DNS_PORTS_MAX).unwrap();
    let expected: Vec<u16> = (54..=last).collect();
    let found: Vec<u16> = scene.snapshot.dns_ports().into_iter().collect();
    assert_eq!(found, expected);
    for (server, protocol, expected) in [
        ("10.4.0.53:54", L4Protocol::Udp, true),
        ("10.4.0.53:54", L4Protocol::Tcp, false),
        ("10.4.0.53:52", L4Protocol::Udp, false),
        ("8.8.8.8:54", L4Protocol::Udp, false),
    ] {
        let server_at = server.parse().unwrap();
        let found = scene.snapshot.judges_dns(subject(), server_at, protocol);
        assert_eq!(found, expected, "{server} {protocol:?}");
        assert_eq!(scene.ask(server, protocol, "a.io").is_ok(), expected);
    }

    let text: String = (0..=DNS_PORTS_MAX + 1)
        .map(|n| policy(n, &at(53 + n)))
        .collect();
    let path = "p.yaml".to_owned();
    let loaded = load(&[Source { path, text }]);
    assert!(!loaded.has_errors(), "{:#?}", loaded.problems);
    let (cast, mut identities) = (cast(), Identities::new());
    let before = identities.local_count();
    let inputs = (&loaded.set, &cast, Options::default());
    let refused = Compiler::new().build(1, inputs, &mut identities);
    let message = refused.unwrap_err()[0].message.clone();
    assert!(message.contains("room for 16"), "{message}");
    assert_eq!(identities.local_count(), before);
}
