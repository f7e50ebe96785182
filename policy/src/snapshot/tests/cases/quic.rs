//! Datagrams where over TCP a server name or request is judged.

use super::*;

const REFUSED: &str = "refused / L4-Only 180";

#[test]
#[rustfmt::skip]
fn datagrams_are_refused_where_tcp_needs_a_name() {
    let sni = "egress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [a.test]}]}]";
    let http = "egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]}]";
    let of_b = "egress: [{toEndpoints: [{matchLabels: {app: b}}], toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [a.test]}]}]";
    let range = "egress: [{toPorts: [{ports: [{port: '50', endPort: 60, protocol: TCP}], serverNames: [a.test]}]}]";
    let every = "egress: [{toPorts: [{ports: [{port: '0', protocol: TCP}], serverNames: [a.test]}]}]";
    let inbound = "ingress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [a.test]}]}]";
    let udp = "egress: [{toPorts: [{ports: [{port: '443', protocol: UDP}]}]}]";
    let dns = "egress: [{toPorts: [{ports: [{port: '53', protocol: UDP}]}]}]";
    let deny = "egressDeny: [{toPorts: [{ports: [{port: '443', protocol: UDP}]}]}]";
    let deny_tcp = "egressDeny: [{toPorts: [{ports: [{port: '443', protocol: TCP}]}]}]";
    let wide = "egress: [{toPorts: [{ports: [{port: '440', endPort: 450, protocol: TCP}]}, {ports: [{port: '443', protocol: UDP}]}]}]";
    let (to_b, to_w) = (format!("> {B}"), format!("> {W}"));
    check(&[
        (1, &[sni], &to_w, (17, 443), REFUSED),
        (2, &[http], &to_w, (17, 80), REFUSED),
        (3, &[sni], &to_w, (17, 444), DROPPED),
        (4, &[sni], &to_w, (132, 443), DROPPED),
        (5, &[sni, udp], &to_w, (17, 443), REFUSED),
        (6, &[sni, deny], &to_w, (17, 443), "D / L4-Only 181"),
        // TCP is denied there, whatever it names.
        (7, &[sni, deny_tcp, udp], &to_w, (17, 443), "A / L4-Only"),
        // A peer of which nothing needs a name.
        (8, &[of_b, udp], &to_w, (17, 443), "A / L4-Only"),
        (9, &[of_b, udp], &to_b, (17, 443), "refused / L3-L4 180"),
        // Who may say anything over TCP needs no name.
        (10, &[of_b, TO_B], &to_b, (17, 443), "A / L3-Only"),
        (11, &[sni, "egress: [{toEntities: [all]}]"], &to_w, (17, 443), "A / all"),
        (12, &[sni, wide], &to_w, (17, 443), "A / L4-Only"),
        // One peer of everybody to whom the rule applies: in doubt it is refused.
        (13, &[sni, TO_B], &to_b, (17, 443), REFUSED),
        // Names are asked at 53.
        (14, &[range, dns], &to_w, (17, 53), "A / L4-Only"),
        (15, &[range], &to_w, (17, 52), REFUSED),
        (16, &[range], &to_w, (17, 54), REFUSED),
        (17, &[every, dns], &to_w, (17, 53), "A / L4-Only"),
        (18, &[every], &to_w, (17, 443), REFUSED),
        (19, &[inbound, "ingress: [{toPorts: [{ports: [{port: '443', protocol: UDP}]}]}]"], &format!("< {B}"), (17, 443), "A / L4-Only"),
    ]);
}

fn by_name() -> Options {
    Options {
        quic: Quic::Sni,
        ..Options::default()
    }
}

const JUDGED: &str = "R tls / L4-Only";

#[test]
#[rustfmt::skip]
fn server_names_are_judged_in_datagrams_where_tcp_judges_them_alone() {
    let tcp = |port: &str, l7: &str| format!("egress: [{{toPorts: [{{ports: [{{port: {port}, protocol: TCP}}], {l7}}}]}}]");
    let names = "serverNames: [a.test]";
    let (sni, other) = (tcp("'443'", names), tcp("'444'", names));
    let http = tcp("'443'", "rules: {http: [{method: GET}]}");
    let of_b = |what: &str| format!("egress: [{{toEndpoints: [{{matchLabels: {{app: b}}}}], toPorts: [{{ports: [{{port: '443', protocol: TCP}}], {what}}}]}}]");
    let http_of_b = of_b("rules: {http: [{method: GET}]}");
    let range = tcp("'440', endPort: 450", names);
    let two = tcp("'443', endPort: 444", names);
    let udp = "egress: [{toPorts: [{ports: [{port: '443', protocol: UDP}]}]}]";
    let deny = "egressDeny: [{toPorts: [{ports: [{port: '443', protocol: UDP}]}]}]";
    let deny_tcp_of_b = "egressDeny: [{toEndpoints: [{matchLabels: {app: b}}], toPorts: [{ports: [{port: '443', protocol: TCP}]}]}]";
    let deny_b = "egressDeny: [{toEndpoints: [{matchLabels: {app: b}}]}]";
    let deny_both_of_b = "egressDeny: [{toEndpoints: [{matchLabels: {app: b}}], toPorts: [{ports: [{port: '443', protocol: TCP}, {port: '443', protocol: UDP}]}]}]";
    let at_53 = tcp("'53'", names);
    let dns_at = |port: u16| format!("egress: [{{toEndpoints: [{{matchLabels: {{k8s-app: kube-dns, k8s:io.kubernetes.pod.namespace: kube-system}}}}], toPorts: [{{ports: [{{port: '{port}', protocol: UDP}}], rules: {{dns: [{{matchPattern: '*'}}]}}}}]}}]");
    let of_other = format!("endpointSelector: {{matchLabels: {{app: b}}}}, {}", dns_at(443));
    let audited = format!("{sni}, enableDefaultDeny: {{egress: false}}");
    let inbound = "ingress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [a.test]}]}]";
    let (to_b, to_w, from_b) = (format!("> {B}"), format!("> {W}"), format!("< {B}"));
    let rows: &[Row<'_>] = &[
        (1, &[&sni], &to_w, (17, 443), JUDGED),
        (2, &[&sni], &to_w, (17, 444), DROPPED),
        (3, &[&sni, &other], &to_w, (17, 444), JUDGED),
        (4, &[&of_b(names)], &to_b, (17, 443), "R tls / L3-L4"),
        (5, &[&of_b(names)], &to_w, (17, 443), DROPPED),
        // Whatever else judges there, it can't in QUIC.
        (6, &[&http], &to_w, (17, 443), REFUSED),
        (8, &[&sni, &http_of_b], &to_b, (17, 443), REFUSED),
        (9, &[&http, &of_b(names)], &to_b, (17, 443), REFUSED),
        (10, &[&sni, deny_tcp_of_b], &to_b, (17, 443), REFUSED),
        (11, &[&sni, deny_b], &to_b, (17, 443), "D / L3-Only 181"),
        (12, &[&sni, deny_b], &to_w, (17, 443), JUDGED),
        (13, &[&sni, deny_both_of_b], &to_b, (17, 443), "D / L3-L4 181"),
        (14, &[&sni, deny_both_of_b], &to_w, (17, 443), JUDGED),
        // A range has no listener, however it is split.
        (15, &[&range], &to_w, (17, 443), REFUSED),
        (16, &[&two], &to_w, (17, 443), REFUSED),
        (17, &[&range, &sni], &to_w, (17, 443), JUDGED),
        (18, &[&range, &sni], &to_w, (17, 444), REFUSED),
        // A name is asked for also where a rule allows the port of UDP, or peers.
        (19, &[&sni, udp], &to_w, (17, 443), JUDGED),
        (20, &[&sni, TO_B], &to_b, (17, 443), JUDGED),
        (21, &[&sni, deny], &to_w, (17, 443), "D / L4-Only 181"),
        // Who may say anything over TCP needs no name.
        (22, &[&of_b(names), TO_B], &to_b, (17, 443), "A / L3-Only"),
        (23, &[&sni, "egress: [{toEntities: [all]}]"], &to_w, (17, 443), "A / all"),
        // Questions are judged there, whoever asks them.
        (24, &[&at_53], &to_w, (17, 53), DROPPED),
        (25, &[&sni, &dns_at(443)], &to_w, (17, 443), REFUSED),
        (26, &[&sni, &dns_at(443)], &format!("> {DNS}"), (17, 443), "R dns / L3-L4"),
        (27, &[&sni, &of_other], &to_w, (17, 443), REFUSED),
        (28, &[&sni, &dns_at(444)], &to_w, (17, 443), JUDGED),
        (29, &[&audited], &to_w, (17, 443), "A / all"),
        (30, &[inbound, "ingress: [{toPorts: [{ports: [{port: '443', protocol: UDP}]}]}]"], &from_b, (17, 443), "A / L4-Only"),
        (31, &[inbound], &from_b, (17, 443), DROPPED),
    ];
    for (number, policies, to, l4, expected) in rows {
        let found = verdict_by(policies, (7, by_name()), (to, *l4));
        assert_eq!(found, *expected, "case {number}: {policies:?} {to} {l4:?}");
        // Nothing else differs from where they are refused.
        let refused = verdict(policies, (7, Mode::Default), (to, *l4));
        let same = expected.replace("R tls", "refused");
        let same = if same == *expected { same } else { format!("{same} 180") };
        assert_eq!(refused, same, "case {number}");
    }
    let told = Options { audit: true, ..by_name() };
    assert_eq!(verdict_by(&[&sni], (7, told), (&to_w, (17, 443))), "audit / none");
}

/// What names open is judged as what prefixes open.
#[test]
fn server_names_are_judged_in_datagrams_to_learned_addresses() {
    let both = "egress: [{toFQDNs: [{matchName: a.test}], toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [a.test]}]}]";
    let names = "egress: [{toFQDNs: [{matchName: a.test}]}]";
    let http = "egress: [{toFQDNs: [{matchName: b.test}], toPorts: [{ports: [{port: '443', protocol: TCP}], rules: {http: [{method: GET}]}}]}]";
    let everybody =
        "egress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [a.test]}]}]";
    let bound = Options {
        name_binding: NameBinding::Enforce,
        ..by_name()
    };
    let rows: &[(&[&str], Options, &str, &str)] = &[
        (&[both], by_name(), "a.test", "R / L3-L4"),
        (&[both], by_name(), "b.test", "D / none"),
        (&[both], Options::default(), "a.test", "Q / L3-L4"),
        (&[both, http], by_name(), "a.test", "Q / L3-L4"),
        (&[both, http], by_name(), "b.test", "Q / L3-L4"),
        // The verdict for everybody holds for those whose requests are judged, too.
        (&[everybody, http], by_name(), "b.test", "Q / L4-Only"),
        // Names alone are bound to addresses, not to what QUIC says.
        (&[names], bound, "a.test", "Q / L3-L4"),
        (&[both], bound, "a.test", "R / L3-L4"),
    ];
    for (policies, options, learned, expected) in rows {
        let mut scene = scene_with(policies, *options);
        let found = scene.learned(W, &[learned], (17, 443));
        assert_eq!(found, *expected, "{policies:?} {learned}");
        let ports = scene.snapshot.quic_ports();
        assert_eq!(
            !ports.is_empty(),
            *options != Options::default() && *policies == [both]
        );
    }
}

/// By the rules for TCP, and those are told as what decides.
#[test]
fn what_names_are_judged_in_quic_is_said_by_the_rules_for_tcp() {
    let sni =
        "egress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [a.test]}]}]";
    let other = "egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]";
    let scene = scene_with(&[sni, other], by_name());
    let snapshot = &scene.snapshot;
    let flow = FlowKey {
        direction: Direction::Egress,
        identity: snapshot.identity_of(address(W)),
        protocol: 17,
        port: 443,
    };
    let peer = PeerRef::Known(flow.identity);
    let rules = snapshot.deciding_rules(subject(), peer, flow);
    assert_eq!(rules, [snapshot.judge(subject(), flow).rule]);
    assert_eq!(snapshot.quic_ports(), [443].into());
}

/// Listeners have an end; the port of HTTPS is the last to go without.
#[test]
fn beyond_the_ports_that_have_listeners_datagrams_are_refused() {
    use crate::limits::QUIC_PORTS_MAX;
    let of = |ports: &mut dyn Iterator<Item = usize>| {
        let ports: Vec<String> = ports
            .map(|port| format!("{{port: '{port}', protocol: TCP}}"))
            .collect();
        let ports = ports.join(", ");
        format!("egress: [{{toPorts: [{{ports: [{ports}], serverNames: [a.test]}}]}}]")
    };
    let policy = of(&mut (100..=100 + QUIC_PORTS_MAX).chain([443]));
    let scene = scene_with(&[&policy], by_name());
    let ports = scene.snapshot.quic_ports();
    let most = u16::try_from(QUIC_PORTS_MAX).unwrap();
    let expected: BTreeSet<u16> = (100..100 + most - 1).chain([443]).collect();
    assert_eq!(ports, expected);
    for port in (100..=100 + most).chain([443]) {
        let expected = match ports.contains(&port) {
            true => "R / L4-Only",
            false => "Q / L4-Only",
        };
        assert_eq!(scene.verdict(W, (17, port)), expected, "{port}");
    }
}
