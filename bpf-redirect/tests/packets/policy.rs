//! Which entry decides, by verdict and form, for each kind of protocol and in both directions.

use bpf_redirect_common::{Match, Verdict};

use crate::common::{out, v4, v6};
use crate::table::Want::By;
use crate::table::*;

pub(crate) fn topics() -> Vec<Topic> {
    let mut topics = vec![
        icmp_types(),
        other_protocols(),
        audit_and_authentication(),
        ingress_policy(),
        strangers(),
    ];
    topics.extend(pairs());
    topics.extend(proxies());
    topics
}

#[test]
fn the_stronger_entry_decides_and_of_equal_ones_the_closer() {
    let mut kernel = Kernel::new();
    for topic in topics() {
        kernel.check(&topic);
    }
}

/// Forms of entries that are about TCP port 53 of the server, the strongest first.
const FORMS: [(u32, (u8, u16, u8), Match); 10] = [
    (SERVER, (TCP, 53, 16), Match::L3L4),
    (0, (TCP, 53, 16), Match::L4Only),
    (SERVER, (TCP, 48, 13), Match::L3L4),
    (0, (TCP, 48, 13), Match::L4Only),
    (SERVER, (TCP, 0, 1), Match::L3L4),
    (0, (TCP, 0, 1), Match::L4Only),
    (SERVER, (TCP, 0, 0), Match::L3Proto),
    (0, (TCP, 0, 0), Match::ProtoOnly),
    (SERVER, (0, 0, 0), Match::L3Only),
    (0, (0, 0, 0), Match::All),
];

/// The verdicts of entries, the strongest first.
const VERDICTS: [Verdict; 6] = [
    Verdict::Deny,
    Verdict::FailAuthentication,
    Verdict::Redirect,
    Verdict::AuditDeny,
    Verdict::Allow,
    Verdict::AuditUnmatched,
];

/// Two entries for one packet, the one that decides first.
fn pairs() -> Vec<Topic> {
    let mut topics = Vec::new();
    let mut add = |winner: (usize, Verdict), loser: (usize, Verdict)| {
        let [entries, reversed] = [egress, ingress].map(|entry| {
            [(winner, 1), (loser, 2)].map(|((form, verdict), rule)| {
                let (identity, l4, _) = FORMS[form];
                entry(identity, l4, (verdict, rule))
            })
        });
        let (form, verdict) = winner;
        let what = format!("{winner:?} over {loser:?}");
        let want = By(verdict, FORMS[form].2, 1);
        let rows = vec![
            sent(what.clone(), &server(TCP, 53), want),
            received(what, &into(v4(PEER), TCP, 53), want),
        ];
        topics.push(Topic::new(&[entries, reversed].concat(), rows));
    };
    // The stronger verdict, though its entry is the widest and the other the closest.
    for (index, strong) in VERDICTS.iter().enumerate() {
        for weak in &VERDICTS[index + 1..] {
            add((9, *strong), (0, *weak));
        }
    }
    // Of equal verdicts the closer form.
    for close in 0..FORMS.len() {
        for wide in close + 1..FORMS.len() {
            add((close, Verdict::Allow), (wide, Verdict::Allow));
        }
    }
    topics
}

/// Of two redirects the stronger proxy's decides, though it is the wider one.
fn proxies() -> Vec<Topic> {
    let pairs = [(2, 1), (3, 1), (3, 2)];
    let topics = pairs.map(|(strong, weak)| {
        let mut entries = [
            egress(0, (TCP, 0, 0), (Verdict::Redirect, 1)),
            egress(SERVER, (TCP, 53, 16), (Verdict::Redirect, 2)),
        ];
        entries[0].1.proxy = strong;
        entries[1].1.proxy = weak;
        let want = By(Verdict::Redirect, Match::ProtoOnly, 1);
        let what = format!("proxy {strong} over {weak}");
        Topic::new(&entries, vec![sent(what, &server(TCP, 53), want)])
    });
    topics.into()
}

// Protocols.

fn icmp_types() -> Topic {
    let entries = [
        egress(SERVER, (ICMP, 8, 16), (Verdict::Allow, 1)),
        egress(SERVER, (ICMPV6, 128, 16), (Verdict::Allow, 2)),
        egress(WORLD, (ICMP, 0, 16), (Verdict::Allow, 3)),
        egress(WORLD_V6, (ICMPV6, 0, 0), (Verdict::Allow, 4)),
        ingress(SERVER, (ICMP, 8, 16), (Verdict::Deny, 5)),
        ingress(SERVER, (ICMP, 0, 0), (Verdict::Allow, 6)),
    ];
    let mut rows = Vec::new();
    for kind in [0, 3, 5, 7, 8, 9, 11, 12, 13, 128, 255] {
        let by = |one: u16, rule| if kind == one { allowed(rule) } else { DENIED };
        rows.push(sent(format!("type {kind}"), &server(ICMP, kind), by(8, 1)));
        let world = out(v4(200), ICMP, kind);
        rows.push(sent(
            format!("type {kind} where 0 is allowed"),
            &world,
            by(0, 3),
        ));
        let want = match kind {
            8 => By(Verdict::Deny, Match::L3L4, 5),
            _ => By(Verdict::Allow, Match::L3Proto, 6),
        };
        rows.push(received(
            format!("type {kind}"),
            &into(v4(PEER), ICMP, kind),
            want,
        ));
    }
    for kind in [0, 1, 2, 3, 4, 8, 127, 128, 129, 138, 144, 255] {
        let want = if kind == 128 { allowed(2) } else { DENIED };
        rows.push(sent(
            format!("v6 type {kind}"),
            &server_v6(ICMPV6, kind),
            want,
        ));
        let want = By(Verdict::Allow, Match::L3Proto, 4);
        rows.push(sent(
            format!("v6 type {kind}"),
            &out(v6(200), ICMPV6, kind),
            want,
        ));
    }
    // A family's ICMP in the other one's packets is judged by its own number.
    rows.push(sent("ICMP in IPv6", &server_v6(ICMP, 8), allowed(1)));
    rows.push(sent("ICMPv6 in IPv4", &server(ICMPV6, 128), allowed(2)));
    let mut code = server(ICMP, 8).bytes();
    code[14 + 20 + 1] = 77;
    rows.push(raw("the code doesn't count", code, allowed(1)));
    Topic::new(&entries, rows)
}

fn other_protocols() -> Topic {
    let entries = [
        egress(SERVER, (TCP, 0, 0), (Verdict::Allow, 1)),
        egress(SERVER, (UDP, 0, 0), (Verdict::Allow, 1)),
        egress(WORLD, (0, 0, 0), (Verdict::Allow, 2)),
        egress(WORLD, (TCP, 0, 0), (Verdict::Deny, 3)),
        egress(WORLD_V6, (0, 0, 0), (Verdict::Allow, 2)),
        ingress(0, (0, 0, 0), (Verdict::Allow, 4)),
    ];
    let mut rows = Vec::new();
    let all = By(Verdict::Allow, Match::L3Only, 2);
    // IPIP, IGP, DCCP, IPv6 in IP, RSVP, GRE, ESP, no next header, OSPF, PIM, VRRP, UDP-Lite, 253, reserved
    for protocol in [4, 9, 33, 41, 46, 47, 50, 59, 89, 103, 112, 136, 253, 255] {
        rows.push(sent(format!("{protocol}"), &server(protocol, 0), DENIED));
        rows.push(sent(
            format!("{protocol} v6"),
            &server_v6(protocol, 0),
            DENIED,
        ));
        rows.push(sent(
            format!("{protocol} allowed"),
            &out(v4(200), protocol, 0),
            all,
        ));
        rows.push(sent(
            format!("{protocol} allowed v6"),
            &out(v6(200), protocol, 0),
            all,
        ));
    }
    // A header here, and no protocol: AH is walked in IPv6 alone.
    rows.push(sent("AH", &out(v4(200), 51, 0), all));
    rows.push(sent("protocol 0", &server(0, 0), DENIED));
    rows.push(sent("protocol 0 allowed", &out(v4(200), 0, 0), all));
    let want = By(Verdict::Allow, Match::All, 4);
    rows.push(received("protocol 0", &into(v4(200), 0, 0), want));
    let want = By(Verdict::Deny, Match::L3Proto, 3);
    rows.push(sent("a denied protocol", &out(v4(200), TCP, 9), want));
    Topic::new(&entries, rows)
}

fn audit_and_authentication() -> Topic {
    let entry = [egress, ingress];
    let entries = entry.map(|entry| {
        [
            entry(0, (0, 0, 0), (Verdict::AuditUnmatched, 1)),
            entry(SERVER, (TCP, 22, 16), (Verdict::AuditDeny, 2)),
            entry(0, (UDP, 0, 0), (Verdict::AuditDeny, 3)),
            entry(SERVER, (TCP, 443, 16), (Verdict::FailAuthentication, 4)),
            entry(0, (SCTP, 0, 0), (Verdict::FailAuthentication, 5)),
            entry(SERVER, (TCP, 80, 16), (Verdict::Allow, 6)),
        ]
    });
    let told = By(Verdict::AuditUnmatched, Match::None, 1);
    let wants = [
        (TCP, 9, told),
        (47, 0, told),
        (TCP, 22, By(Verdict::AuditDeny, Match::L3L4, 2)),
        (UDP, 22, By(Verdict::AuditDeny, Match::ProtoOnly, 3)),
        (TCP, 443, By(Verdict::FailAuthentication, Match::L3L4, 4)),
        (
            SCTP,
            9,
            By(Verdict::FailAuthentication, Match::ProtoOnly, 5),
        ),
        (TCP, 80, allowed(6)),
    ];
    let mut rows = Vec::new();
    for (protocol, port, want) in wants {
        for peer in [v4(PEER), v6(PEER.into())] {
            let what = format!("{protocol} {port} {peer}");
            rows.push(sent(&what, &out(peer, protocol, port), want));
            rows.push(received(what, &into(peer, protocol, port), want));
        }
    }
    Topic::new(&entries.concat(), rows)
}

fn ingress_policy() -> Topic {
    let entries = [
        egress(0, (0, 0, 0), (Verdict::Allow, 1)),
        ingress(SERVER, (TCP, 80, 16), (Verdict::Allow, 2)),
        ingress(SERVER, (TCP, 8_080, 16), (Verdict::Redirect, 3)),
        ingress(0, (UDP, 64, 10), (Verdict::Allow, 4)),
        ingress(WORLD, (0, 0, 0), (Verdict::Deny, 5)),
    ];
    let deny = By(Verdict::Deny, Match::L3Only, 5);
    let rows = vec![
        received("allowed", &into(v4(PEER), TCP, 80), allowed(2)),
        received("allowed v6", &into(v6(PEER.into()), TCP, 80), allowed(2)),
        received("another port", &into(v4(PEER), TCP, 81), DENIED),
        received("port 0", &into(v4(PEER), TCP, 0), DENIED),
        received("another protocol", &into(v4(PEER), SCTP, 80), DENIED),
        received("before the range", &into(v4(PEER), UDP, 63), DENIED),
        received(
            "its first",
            &into(v4(PEER), UDP, 64),
            By(Verdict::Allow, Match::L4Only, 4),
        ),
        received(
            "its last",
            &into(v4(PEER), UDP, 127),
            By(Verdict::Allow, Match::L4Only, 4),
        ),
        received("behind it", &into(v4(PEER), UDP, 128), DENIED),
        received("denied", &into(v4(9), TCP, 80), deny),
        received("denied before allowed", &into(v4(9), UDP, 64), deny),
        received("v6 of the world", &into(v6(9), TCP, 80), DENIED),
        received(
            "to a proxy that isn't there",
            &into(v4(PEER), TCP, 8_080),
            By(Verdict::Redirect, Match::L3L4, 3),
        ),
        sent(
            "egress is its own",
            &server(TCP, 81),
            By(Verdict::Allow, Match::All, 1),
        ),
    ];
    Topic::new(&entries, rows)
}

/// Peers that no prefix holds: only entries for everybody are about them.
fn strangers() -> Topic {
    let entries = [
        egress(0, (TCP, 80, 16), (Verdict::Allow, 1)),
        egress(0, (UDP, 0, 0), (Verdict::Allow, 2)),
        ingress(0, (0, 0, 0), (Verdict::Allow, 3)),
    ];
    let rows = vec![
        sent(
            "one port",
            &server(TCP, 80),
            By(Verdict::Allow, Match::L4Only, 1),
        ),
        sent(
            "any port",
            &server(UDP, 9),
            By(Verdict::Allow, Match::ProtoOnly, 2),
        ),
        sent("nothing", &server(TCP, 81), DENIED),
        received(
            "anything",
            &into(v4(PEER), TCP, 9),
            By(Verdict::Allow, Match::All, 3),
        ),
    ];
    let mut topic = Topic::new(&entries, rows);
    topic.prefixes.clear();
    topic
}
