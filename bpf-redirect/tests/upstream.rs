//! What of the traffic to a workload is the proxy's: fragments of the answers that it waits for, errors
//! about what it sent, and nothing else.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

mod common;

use std::net::IpAddr;
use std::time::Duration;

use bpf_redirect::Hook;
use bpf_redirect_common::{
    FRAGMENTS_AGE_NS_MAX, GATE_MAC, Kind, Mark, UPSTREAM_FRAGMENTS_MAX, Verdict,
};
use common::{Bench, ENDPOINT, NEXT, Packet, REDIRECT, SHOT, entry, icmp_error, out, v4, v6};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// An endpoint in whose name the proxy asked this server; gives the answer that is awaited. Nothing
/// else may come in.
fn asked(server: IpAddr, protocol: u8) -> (Bench, Packet) {
    let redirect = entry(0, protocol, 53, Verdict::Redirect);
    let mut bench = Bench::new(&[redirect]);
    let query = out(server, protocol, 53);
    assert_eq!(
        run(&mut bench, Hook::FromEndpoint, &query.bytes()).0,
        REDIRECT
    );
    let upstream = query.with_port(12_345);
    let mut frame = upstream.bytes();
    frame[..6].copy_from_slice(&GATE_MAC);
    frame[6..12].copy_from_slice(&mark().to_mac());
    assert_eq!(run(&mut bench, Hook::NodeEnd, &frame).0, REDIRECT);
    bench
        .ledger
        .reload(vec![redirect], &[], |_| Vec::new())
        .unwrap();
    (bench, upstream.answer())
}

fn mark() -> Mark {
    Mark::new(Kind::Upstream, ENDPOINT).unwrap()
}

fn run(bench: &mut Bench, hook: Hook, packet: &[u8]) -> (i32, Vec<u8>) {
    let (code, frame, _) = bench.datapath.try_packet(hook, packet, 0).unwrap();
    (code, frame)
}

/// What becomes of a packet to the workload; whatever is taken to the gate says whose it is.
fn sent_to(bench: &mut Bench, packet: &Packet) -> i32 {
    let (code, frame) = run(bench, Hook::ToEndpoint, &packet.bytes());
    if code == REDIRECT {
        assert_eq!(
            (&frame[..6], &frame[6..12]),
            (&GATE_MAC[..], &mark().to_mac()[..])
        );
    }
    code
}

/// A packet's first fragment, and a later one.
fn fragments(packet: &Packet, id: u16) -> [Packet; 2] {
    [(0x2000, 1), (0x0010, 0x0080)].map(|(v4, v6): (u16, u16)| {
        let mut part = packet.clone();
        part.id = id;
        if packet.source.is_ipv4() {
            part.fragment = v4;
        } else {
            let ([a, b], [c, d]) = (v6.to_be_bytes(), id.to_be_bytes());
            part.extra_kind = 44;
            part.extra = vec![packet.protocol, 0, a, b, 0, 0, c, d];
        }
        part
    })
}

#[test]
fn later_fragments_of_an_answer_follow_the_first_to_the_gate() {
    for (server, protocol) in [(v4(3), UDP), (v6(3), UDP), (v4(3), TCP), (v6(3), TCP)] {
        let (mut bench, answer) = asked(server, protocol);
        let [first, later] = fragments(&answer, 7);
        for part in [&first, &later, &later] {
            assert_eq!(sent_to(&mut bench, part), REDIRECT, "{server} {protocol}");
        }
        assert_eq!(bench.count("caught"), 3);
    }
}

#[test]
fn an_ipv6_fragment_may_name_another_next_header_than_the_first() {
    let (mut bench, answer) = asked(v6(3), UDP);
    let [mut first, mut later] = fragments(&answer, 7);
    // Destination options stand between the fragment header and UDP, in the first alone.
    first.extra[0] = 60;
    first.extra.extend([UDP, 0, 1, 4, 0, 0, 0, 0]);
    later.extra[0] = 60;
    assert_eq!(sent_to(&mut bench, &first), REDIRECT);
    assert_eq!(sent_to(&mut bench, &later), REDIRECT);
}

/// It has no ports: whether it belongs to an answer can't be known.
#[test]
fn a_later_fragment_that_follows_no_first_one_is_judged_by_the_ingress_policy() {
    for server in [v4(3), v6(3)] {
        let (mut bench, answer) = asked(server, UDP);
        let [first, later] = fragments(&answer, 7);
        assert_eq!(sent_to(&mut bench, &later), SHOT, "before its first");
        assert_eq!(bench.count("fragment-not-found"), 1);
        assert_eq!(sent_to(&mut bench, &first), REDIRECT);
        assert_eq!(sent_to(&mut bench, &later), REDIRECT);
        let strangers = [
            fragments(&answer, 8)[1].clone(),
            Packet {
                source: if server.is_ipv4() { v4(4) } else { v6(4) },
                ..later.clone()
            },
        ];
        for stranger in &strangers {
            assert_eq!(sent_to(&mut bench, stranger), SHOT, "{server}");
        }
        let mut other_protocol = later.clone();
        other_protocol.protocol = TCP;
        if server.is_ipv4() {
            assert_eq!(sent_to(&mut bench, &other_protocol), SHOT);
        }
        std::thread::sleep(Duration::from_nanos(FRAGMENTS_AGE_NS_MAX));
        assert_eq!(sent_to(&mut bench, &later), SHOT, "too late");
    }
}

#[test]
fn fragments_of_the_workloads_own_flow_stay_with_it_also_under_an_id_that_an_answer_had() {
    for server in [v4(3), v6(3)] {
        let (mut bench, answer) = asked(server, UDP);
        bench
            .ledger
            .reload(vec![common::open_ingress()], &[], |_| Vec::new())
            .unwrap();
        let [first, later] = fragments(&answer, 7);
        assert_eq!(sent_to(&mut bench, &first), REDIRECT);
        let [own, _] = fragments(&answer.clone().with_port(54), 7);
        assert_eq!(sent_to(&mut bench, &own), NEXT);
        assert_eq!(sent_to(&mut bench, &later), NEXT);
    }
}

/// Beyond the bound the least recently used is forgotten, and the newest always works.
#[test]
fn more_answers_in_fragments_than_are_remembered_forget_the_oldest() {
    let (mut bench, answer) = asked(v4(3), UDP);
    for id in 0..u16::try_from(UPSTREAM_FRAGMENTS_MAX).unwrap() + 512 {
        for part in fragments(&answer, id) {
            assert_eq!(sent_to(&mut bench, &part), REDIRECT, "{id}");
        }
    }
    assert_eq!(sent_to(&mut bench, &fragments(&answer, 0)[1]), SHOT);
}

/// Types that are errors, and others.
fn kinds(server: IpAddr) -> (&'static [u8], &'static [u8]) {
    if server.is_ipv4() {
        (&[3, 11, 12], &[0, 4, 5, 8, 13])
    } else {
        (&[1, 2, 3, 4], &[100, 128, 129, 138])
    }
}

#[test]
fn an_icmp_error_about_what_the_proxy_sent_goes_to_the_gate() {
    for (server, protocol) in [(v4(3), UDP), (v6(3), UDP), (v4(3), TCP), (v6(3), TCP)] {
        let (mut bench, answer) = asked(server, protocol);
        let (errors, others) = kinds(server);
        for kind in errors {
            let (code, frame) = run(
                &mut bench,
                Hook::ToEndpoint,
                &icmp_error(&answer.answer(), *kind),
            );
            assert_eq!(code, REDIRECT, "{server} {protocol} {kind}");
            assert_eq!(frame[6..12], mark().to_mac());
        }
        for kind in others {
            let other = icmp_error(&answer.answer(), *kind);
            let (code, _) = run(&mut bench, Hook::ToEndpoint, &other);
            assert_eq!(code, SHOT, "{server} {protocol} {kind}");
        }
        assert_eq!(bench.count("caught"), errors.len() as u64);
    }
}

#[test]
fn an_icmp_error_about_anything_else_is_judged_by_the_ingress_policy() {
    for server in [v4(3), v6(3)] {
        let (mut bench, answer) = asked(server, UDP);
        let sent = answer.answer();
        let kind = kinds(server).0[0];
        let changed = |change: &dyn Fn(&mut Packet)| {
            let mut packet = sent.clone();
            change(&mut packet);
            icmp_error(&packet, kind)
        };
        let mut of_another = icmp_error(&sent, kind);
        let quoted_source_at = if server.is_ipv4() {
            14 + 28 + 12
        } else {
            14 + 48 + 8
        };
        of_another[quoted_source_at] ^= 1;
        let ports_end = icmp_error(&sent, kind).len() - 8;
        let cases = [
            (
                "the workload's own port",
                changed(&|packet| packet.ports.0 = 40_000),
            ),
            (
                "another port of the server",
                changed(&|packet| packet.ports.1 = 54),
            ),
            (
                "another server",
                changed(&|packet| {
                    packet.destination = if server.is_ipv4() { v4(4) } else { v6(4) };
                }),
            ),
            (
                "the same ports of TCP",
                changed(&|packet| packet.protocol = TCP),
            ),
            ("what another address sent", of_another),
            (
                "a quote without both ports",
                icmp_error(&sent, kind)[..ports_end - 2].to_vec(),
            ),
        ];
        for (name, packet) in cases {
            let (code, _) = run(&mut bench, Hook::ToEndpoint, &packet);
            assert_eq!(code, SHOT, "{server}: {name}");
        }
        assert_eq!(
            (bench.count("caught"), bench.count("policy-denied")),
            (0, 6)
        );
    }
    let (mut bench, answer) = asked(v4(3), UDP);
    let mut later = answer.answer();
    later.fragment = 0x0010;
    let (code, _) = run(&mut bench, Hook::ToEndpoint, &icmp_error(&later, 3));
    assert_eq!(
        code, SHOT,
        "what a later fragment has in the place of ports"
    );
}
