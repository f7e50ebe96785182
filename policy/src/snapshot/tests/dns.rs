//! Questions on other ports than 53.

use super::*;
use crate::limits::DNS_PORTS_MAX;

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
