//! One packet for each verdict of each program, run by the kernel (`BPF_PROG_TEST_RUN`): what the
//! program returned, and under which reason it counted.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

mod common;

use std::cell::Cell;
use std::net::IpAddr;

use bpf_redirect::Hook;
use bpf_redirect_common::{
    CT_MAX, CT_PER_ENDPOINT_MAX, CtValue, GATE_MAC, Kind, Mark, ServiceKey, ServiceValue, Verdict,
};
use common::{
    Bench, ENDPOINT, GATEWAY_MAC, HOST_MAC, NEXT, Packet, REDIRECT, SHOT, WORKLOAD_MAC, entry,
    open_ingress, out, v4, v6,
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SERVER: u32 = 300;

/// Runs a packet and checks the code and that exactly `reason` counted one more.
fn check(bench: &mut Bench, hook: Hook, packet: &Packet, want: (i32, &str)) {
    let (code, reason) = want;
    let before = bench.datapath.counters().unwrap();
    let (got, _, _) = bench.datapath.try_packet(hook, &packet.bytes(), 0).unwrap();
    let after = bench.datapath.counters().unwrap();
    let was = |name: &str| {
        before
            .iter()
            .find(|counter| counter.name == name)
            .map_or(0, |c| c.value)
    };
    let drops: Vec<&str> = after
        .iter()
        .filter(|counter| counter.drop && counter.value > was(counter.name))
        .map(|c| c.name)
        .collect();
    assert_eq!(got, code, "drops: {drops:?}");
    let wanted: Vec<&str> = if reason.is_empty() {
        vec![]
    } else {
        vec![reason]
    };
    assert_eq!(drops, wanted);
}

/// DNS goes to the proxy, TCP 80 of the server is open, all else is denied.
fn guarded() -> Bench {
    let mut bench = Bench::new(&[
        entry(SERVER, UDP, 53, Verdict::Redirect),
        entry(SERVER, TCP, 53, Verdict::Redirect),
        entry(SERVER, TCP, 80, Verdict::Allow),
    ]);
    let prefixes = [
        (v4(3), 32, SERVER),
        (v6(3), 128, SERVER),
        (v4(0), 24, 9),
        (v6(0), 64, 10),
    ];
    bench.datapath.set_prefixes(&prefixes).unwrap();
    bench
}

#[test]
fn an_allowed_flow_passes_and_so_do_its_replies() {
    for server in [v4(3), v6(3)] {
        let mut bench = guarded();
        let syn = out(server, TCP, 80);
        check(&mut bench, Hook::FromEndpoint, &syn, (NEXT, ""));
        check(&mut bench, Hook::ToEndpoint, &syn.answer(), (NEXT, ""));
        check(
            &mut bench,
            Hook::FromEndpoint,
            &syn.clone().flags(0x10),
            (NEXT, ""),
        );
    }
}

/// Most packets of a known flow are read in place and pass by one look-up; what makes one special counts all
/// the same.
#[test]
fn a_packet_of_a_known_flow_is_no_less_looked_at() {
    const ACK: u8 = 0x10;
    for server in [v4(3), v6(3)] {
        let mut bench = guarded();
        let syn = out(server, TCP, 80);
        check(&mut bench, Hook::FromEndpoint, &syn, (NEXT, ""));
        let known = syn.flags(ACK);
        check(&mut bench, Hook::FromEndpoint, &known, (NEXT, ""));
        let with_mac = |source_mac| Packet {
            source_mac,
            ..known.clone()
        };
        let from = |source| Packet {
            source,
            ..known.clone()
        };
        let foreign = if server.is_ipv4() { v4(9) } else { v6(9) };
        let to = |destination| Packet {
            destination,
            ..known.clone()
        };
        for (packet, want) in [
            (with_mac(HOST_MAC), (SHOT, "invalid-source-mac")),
            (from(foreign), (SHOT, "invalid-source-ip")),
            (to(foreign), (SHOT, "policy-denied")),
            (known.clone().flags(0x02).with_port(40_001), (NEXT, "")),
        ] {
            check(&mut bench, Hook::FromEndpoint, &packet, want);
        }
        // Cut short: no flags, and then no ports.
        for octets in [7, 14] {
            let whole = known.bytes();
            let cut = &whole[..whole.len() - octets];
            let (code, _, _) = bench
                .datapath
                .try_packet(Hook::FromEndpoint, cut, 0)
                .unwrap();
            assert_eq!(code, SHOT, "{server} without {octets}");
        }
        // What the proxy asked for goes before the flow that has the same tuple.
        check(
            &mut bench,
            Hook::ToEndpoint,
            &known.answer().flags(ACK),
            (NEXT, ""),
        );
        let mark = Mark::new(Kind::Upstream, ENDPOINT).unwrap();
        let asked = (SHOT, "no-next-hop"); // which is noted before
        check(&mut bench, Hook::NodeEnd, &with_mac(mark.to_mac()), asked);
        check(
            &mut bench,
            Hook::ToEndpoint,
            &known.answer().flags(ACK),
            (REDIRECT, ""),
        );
    }
}

#[test]
fn the_end_of_a_known_flow_is_noted_and_what_is_forgotten_is_judged_anew() {
    const ACK: u8 = 0x10;
    for server in [v4(3), v6(3)] {
        let mut bench = guarded();
        let syn = out(server, TCP, 80);
        check(&mut bench, Hook::FromEndpoint, &syn, (NEXT, ""));
        let known = syn.flags(ACK);
        check(&mut bench, Hook::FromEndpoint, &known, (NEXT, ""));
        let end = known.clone().flags(ACK | 0x01);
        check(&mut bench, Hook::FromEndpoint, &end, (NEXT, ""));
        let closed = Cell::new(0);
        bench
            .datapath
            .sweep_flows(|_, value| {
                closed.set(closed.get() + (value.state & CtValue::LOCAL_CLOSED));
                true
            })
            .unwrap();
        assert_eq!(closed.get(), CtValue::LOCAL_CLOSED, "{server}");
        bench
            .ledger
            .reload(vec![open_ingress()], &[], |_| Vec::new())
            .unwrap();
        check(
            &mut bench,
            Hook::FromEndpoint,
            &known,
            (SHOT, "policy-denied"),
        );
    }
}

/// Where it alone stands behind a service's address it reaches itself, by no entry; another one's address is
/// judged.
#[test]
fn what_an_endpoint_sends_to_itself_passes() {
    for (own, others) in [(v4(30), v4(31)), (v6(30), v6(31))] {
        let mut bench = guarded();
        let service = |vip: IpAddr, port: u16, endpoint| {
            let key = ServiceKey {
                vip: vip.into(),
                port: port.to_be(),
                protocol: TCP,
                reserved: 0,
            };
            let value = ServiceValue {
                identity: SERVER,
                endpoint,
                port: 8_080,
                reserved: 0,
            };
            (key, value)
        };
        let services = [
            service(own, 80, ENDPOINT),
            service(others, 80, ENDPOINT + 1),
            service(others, 81, 0),
        ];
        bench.datapath.set_services(&services).unwrap();
        let denied = (SHOT, "policy-denied");
        for (to, port, want) in [
            (own, 80, (NEXT, "")),
            (own, 81, denied),
            (others, 80, denied),
            (others, 81, denied),
        ] {
            check(&mut bench, Hook::FromEndpoint, &out(to, TCP, port), want);
        }
        let answer = out(own, TCP, 80).answer();
        check(&mut bench, Hook::ToEndpoint, &answer, (NEXT, ""));
    }
}

/// Whoever sends to it from its own address: where it reaches itself the node puts its own in that place, or nothing
/// would be answered.
#[test]
fn what_comes_to_an_endpoint_from_its_own_address_is_judged_as_anybodys() {
    for peer in [v4(3), v6(3)] {
        for protocol in [TCP, UDP] {
            let mut bench = guarded();
            bench
                .ledger
                .reload(Vec::new(), &[], |_| Vec::new())
                .unwrap();
            let mut packet = out(peer, protocol, 80);
            packet.destination = packet.source;
            check(
                &mut bench,
                Hook::ToEndpoint,
                &packet,
                (SHOT, "policy-denied"),
            );
        }
    }
}

#[test]
fn what_no_entry_allows_is_denied() {
    for server in [v4(3), v6(3)] {
        let mut bench = guarded();
        check(
            &mut bench,
            Hook::FromEndpoint,
            &out(server, TCP, 81),
            (SHOT, "policy-denied"),
        );
        check(
            &mut bench,
            Hook::FromEndpoint,
            &out(server, UDP, 80),
            (SHOT, "policy-denied"),
        );
        check(
            &mut bench,
            Hook::FromEndpoint,
            &out(server, if server.is_ipv4() { 1 } else { 58 }, 8),
            (SHOT, "policy-denied"),
        );
    }
    let mut bench = guarded();
    check(
        &mut bench,
        Hook::FromEndpoint,
        &out(v4(4), TCP, 80),
        (SHOT, "policy-denied"),
    );
}

#[test]
fn a_deny_entry_beats_a_longer_allow() {
    let mut bench = Bench::new(&[
        entry(SERVER, TCP, 80, Verdict::Allow),
        entry(0, 0, 0, Verdict::Deny),
    ]);
    bench.datapath.set_prefixes(&[(v4(3), 32, SERVER)]).unwrap();
    check(
        &mut bench,
        Hook::FromEndpoint,
        &out(v4(3), TCP, 80),
        (SHOT, "policy-deny"),
    );
}

#[test]
fn dns_is_redirected_with_kind_and_endpoint_in_the_frame() {
    for (server, protocol) in [(v4(3), UDP), (v4(3), TCP), (v6(3), UDP), (v6(3), TCP)] {
        let mut bench = guarded();
        let query = out(server, protocol, 53);
        let (code, frame, _) = bench
            .datapath
            .try_packet(Hook::FromEndpoint, &query.bytes(), 0)
            .unwrap();
        assert_eq!(code, REDIRECT);
        assert_eq!(frame[..6], GATE_MAC);
        assert_eq!(
            frame[6..12],
            Mark::new(Kind::Client, ENDPOINT).unwrap().to_mac()
        );
        assert_eq!(
            frame[12..],
            query.bytes()[12..],
            "nothing but the MACs changed"
        );
        assert_eq!(bench.count("redirected"), 1);
    }
}

#[test]
fn a_redirected_tcp_flow_stays_with_its_proxy() {
    let mut bench = guarded();
    let syn = out(v4(3), TCP, 53);
    check(&mut bench, Hook::FromEndpoint, &syn, (REDIRECT, ""));
    check(
        &mut bench,
        Hook::FromEndpoint,
        &syn.flags(0x18),
        (REDIRECT, ""),
    );
}

#[test]
fn a_udp_query_makes_no_conntrack_entry() {
    let mut bench = guarded();
    for port in 40_000..40_050 {
        check(
            &mut bench,
            Hook::FromEndpoint,
            &out(v4(3), UDP, 53).with_port(port),
            (REDIRECT, ""),
        );
    }
    assert_eq!(bench.datapath.sweep_flows(|_, _| false).unwrap(), 0);
}

#[test]
fn a_forged_source_is_dropped_before_anything_else() {
    let mut bench = guarded();
    let mut forged = out(v4(3), TCP, 80);
    forged.source = v4(9);
    check(
        &mut bench,
        Hook::FromEndpoint,
        &forged,
        (SHOT, "invalid-source-ip"),
    );
    let mut forged = out(v6(3), UDP, 53);
    forged.source = v6(9);
    check(
        &mut bench,
        Hook::FromEndpoint,
        &forged,
        (SHOT, "invalid-source-ip"),
    );
    let mut forged = out(v4(3), TCP, 80);
    forged.source_mac = GATEWAY_MAC;
    check(
        &mut bench,
        Hook::FromEndpoint,
        &forged,
        (SHOT, "invalid-source-mac"),
    );
}

#[test]
fn an_inbound_flow_is_remembered_so_that_its_replies_pass() {
    for peer in [v4(4), v6(4)] {
        let mut bench = guarded();
        let mut request = out(peer, TCP, 9_999).answer();
        request.ports = (50_000, 8_080);
        request.tcp_flags = 0x02;
        check(
            &mut bench,
            Hook::FromEndpoint,
            &request.answer(),
            (SHOT, "policy-denied"),
        );
        check(&mut bench, Hook::ToEndpoint, &request, (NEXT, ""));
        check(
            &mut bench,
            Hook::FromEndpoint,
            &request.answer(),
            (NEXT, ""),
        );
        // Its own connection to the same port of the same peer is another flow.
        check(
            &mut bench,
            Hook::FromEndpoint,
            &request.answer().flags(0x02),
            (SHOT, "policy-denied"),
        );
    }
}

#[test]
fn a_learned_address_is_open_for_this_endpoint_alone() {
    let mut bench = guarded();
    let server = v4(77);
    check(
        &mut bench,
        Hook::FromEndpoint,
        &out(server, TCP, 443),
        (SHOT, "policy-denied"),
    );
    bench.learn(
        server,
        16_777_300,
        &[entry(16_777_300, 0, 0, Verdict::Allow)],
    );
    check(
        &mut bench,
        Hook::FromEndpoint,
        &out(server, TCP, 443),
        (NEXT, ""),
    );
    check(
        &mut bench,
        Hook::FromEndpoint,
        &out(v4(78), TCP, 443),
        (SHOT, "policy-denied"),
    );
}

#[test]
fn what_cannot_be_parsed_is_dropped_with_its_reason() {
    let whole = out(v4(3), TCP, 80).bytes();
    let ether = |kind: [u8; 2]| {
        let mut frame = whole.clone();
        frame[12..14].copy_from_slice(&kind);
        frame
    };
    let mut version = whole.clone();
    version[14] = 0x65;
    let mut short_header = whole.clone();
    short_header[14] = 0x44;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("IPX", ether([0x81, 0x37]), "unsupported-l3"),
        ("VLAN", ether([0x81, 0x00]), "vlan"),
        ("QinQ", ether([0x88, 0xa8]), "vlan"),
        ("IP version 6 in an IPv4 frame", version, "invalid-packet"),
        ("IPv4 header of 16 bytes", short_header, "invalid-packet"),
        (
            "TCP header cut",
            whole[..14 + 20 + 10].to_vec(),
            "truncated-header",
        ),
        (
            "UDP header cut",
            out(v4(3), UDP, 80).bytes()[..14 + 20 + 6].to_vec(),
            "truncated-header",
        ),
    ];
    for (name, frame, reason) in cases {
        let mut bench = guarded();
        let (code, _, _) = bench
            .datapath
            .try_packet(Hook::FromEndpoint, &frame, 0)
            .unwrap();
        assert_eq!((code, bench.count(reason)), (SHOT, 1), "{name}");
    }
}

#[test]
fn options_and_extension_headers_are_walked() {
    let mut bench = guarded();
    let mut optioned = out(v4(3), TCP, 80);
    optioned.extra = vec![1; 8];
    check(&mut bench, Hook::FromEndpoint, &optioned, (NEXT, ""));
    // hop-by-hop, then destination options, then TCP
    let mut extended = out(v6(3), TCP, 81);
    extended.extra_kind = 0;
    extended.extra = vec![60, 0, 1, 4, 0, 0, 0, 0, TCP, 0, 1, 4, 0, 0, 0, 0];
    check(
        &mut bench,
        Hook::FromEndpoint,
        &extended,
        (SHOT, "policy-denied"),
    );
    extended.ports.1 = 80;
    check(&mut bench, Hook::FromEndpoint, &extended, (NEXT, ""));
    // one header more than is walked
    let mut endless = out(v6(3), TCP, 80);
    endless.extra_kind = 60;
    endless.extra = [60, 0, 1, 4, 0, 0, 0, 0].repeat(7);
    endless.extra[48] = TCP;
    check(
        &mut bench,
        Hook::FromEndpoint,
        &endless,
        (SHOT, "invalid-extension-header"),
    );
}

#[test]
fn a_fragmented_query_is_refused_and_so_are_parts_without_ports() {
    let mut bench = guarded();
    let mut first = out(v4(3), UDP, 53);
    first.fragment = 0x2000;
    check(&mut bench, Hook::FromEndpoint, &first, (SHOT, "fragment"));
    let mut later = out(v4(3), UDP, 53);
    later.fragment = 0x0010;
    let lost = (SHOT, "fragment-not-found");
    check(&mut bench, Hook::FromEndpoint, &later, lost);
    let mut first = out(v6(3), UDP, 53);
    first.extra_kind = 44;
    first.extra = vec![UDP, 0, 0, 1, 0, 0, 0, 7];
    check(&mut bench, Hook::FromEndpoint, &first, (SHOT, "fragment"));
}

#[test]
fn an_endpoint_without_a_policy_map_is_closed() {
    let mut bench = guarded();
    bench.ledger.clear();
    let (code, _, _) = bench
        .datapath
        .try_packet(Hook::FromEndpoint, &out(v4(3), TCP, 80).bytes(), 0)
        .unwrap();
    assert_eq!(code, SHOT);
    bench
        .datapath
        .remove_endpoint(ENDPOINT, common::LOOPBACK)
        .unwrap();
    let (code, _, _) = bench
        .datapath
        .try_packet(Hook::FromEndpoint, &out(v4(3), TCP, 80).bytes(), 0)
        .unwrap();
    assert_eq!(code, SHOT, "an interface that nobody knows");
}

#[test]
fn an_open_endpoint_passes_all_and_remembers_inbound_flows() {
    let mut bench = Bench::new(&[entry(0, 0, 0, Verdict::Allow)]);
    for packet in [
        out(v4(3), TCP, 80),
        out(v4(3), UDP, 53),
        out(v6(9), 58, 128),
        out(v4(9), 47, 0),
    ] {
        check(&mut bench, Hook::FromEndpoint, &packet, (NEXT, ""));
    }
}

#[test]
fn an_injected_packet_passes_once_and_loses_its_mark() {
    let mut bench = guarded();
    let mark = bench.datapath.config().inject_mark;
    let denied = out(v4(9), TCP, 9).bytes();
    let (code, _, left) = bench
        .datapath
        .try_packet(Hook::FromEndpoint, &denied, mark)
        .unwrap();
    assert_eq!((code, left), (NEXT, 0));
    let mark = bench.datapath.config().client_mark;
    let (code, _, left) = bench
        .datapath
        .try_packet(Hook::ToEndpoint, &denied, mark)
        .unwrap();
    assert_eq!((code, left), (NEXT, 0));
}

/// A frame on the side link.
fn framed(packet: &Packet, mark: Option<Mark>) -> Vec<u8> {
    let mut frame = packet.bytes();
    if let Some(mark) = mark {
        frame[..6].copy_from_slice(&GATE_MAC);
        frame[6..12].copy_from_slice(&mark.to_mac());
    }
    frame
}

#[test]
fn the_nodes_end_hands_the_client_leg_to_the_endpoint() {
    let mut bench = guarded();
    let mark = Mark::new(Kind::Client, ENDPOINT);
    let answer = out(v4(3), UDP, 53).answer();
    let (code, frame, left) = bench
        .datapath
        .try_packet(Hook::NodeEnd, &framed(&answer, mark), 0)
        .unwrap();
    assert_eq!(code, REDIRECT);
    assert_eq!(
        (&frame[..6], &frame[6..12]),
        (&WORKLOAD_MAC[..], &HOST_MAC[..])
    );
    assert_eq!(left, bench.datapath.config().client_mark);
}

#[test]
fn the_nodes_end_injects_the_upstream_leg_and_its_answer_is_caught() {
    for (server, protocol) in [(v4(3), UDP), (v6(3), TCP)] {
        let mut bench = guarded();
        let mark = Mark::new(Kind::Upstream, ENDPOINT);
        let upstream = out(server, protocol, 53).with_port(12_345);
        // Before the workload ever sent anything there is no next hop.
        let (code, _, _) = bench
            .datapath
            .try_packet(Hook::NodeEnd, &framed(&upstream, mark), 0)
            .unwrap();
        assert_eq!((code, bench.count("no-next-hop")), (SHOT, 1));
        check(
            &mut bench,
            Hook::FromEndpoint,
            &out(server, protocol, 53),
            (REDIRECT, ""),
        );
        let (code, frame, left) = bench
            .datapath
            .try_packet(Hook::NodeEnd, &framed(&upstream, mark), 0)
            .unwrap();
        assert_eq!(code, REDIRECT);
        assert_eq!(
            (&frame[..6], &frame[6..12]),
            (&GATEWAY_MAC[..], &WORKLOAD_MAC[..])
        );
        assert_eq!(left, bench.datapath.config().inject_mark);

        let answer = upstream.answer();
        let (code, frame, _) = bench
            .datapath
            .try_packet(Hook::ToEndpoint, &answer.bytes(), 0)
            .unwrap();
        assert_eq!(code, REDIRECT);
        assert_eq!(frame[6..12], mark.unwrap().to_mac());
        assert_eq!(bench.count("caught"), 1);
        // From another port of the server, to the same local port: the workload's own.
        check(
            &mut bench,
            Hook::ToEndpoint,
            &answer.clone().with_port(54),
            (NEXT, ""),
        );
        assert_eq!(bench.count("caught"), 1);
    }
}

#[test]
fn frames_without_a_kind_die_on_the_side_link() {
    let mut bench = guarded();
    let packet = out(v4(3), UDP, 53);
    for hook in [Hook::NodeEnd, Hook::GateIn, Hook::GateOut] {
        check(&mut bench, hook, &packet, (SHOT, "no-kind"));
    }
    let stranger = framed(&packet, Mark::new(Kind::Client, 99));
    assert_eq!(
        bench
            .datapath
            .try_packet(Hook::NodeEnd, &stranger, 0)
            .unwrap()
            .0,
        SHOT
    );
    assert_eq!(bench.count("unknown-endpoint"), 1);
}

#[test]
fn the_gates_end_turns_mac_into_mark_and_back() {
    let mut bench = guarded();
    let mark = Mark::new(Kind::Client, ENDPOINT);
    let query = framed(&out(v4(3), UDP, 53), mark);
    let (code, _, left) = bench.datapath.try_packet(Hook::GateIn, &query, 0).unwrap();
    assert_eq!((code, left), (NEXT, mark.unwrap().number()));
    let (code, frame, _) = bench
        .datapath
        .try_packet(
            Hook::GateOut,
            &out(v4(3), UDP, 53).bytes(),
            mark.unwrap().number(),
        )
        .unwrap();
    assert_eq!(code, NEXT);
    assert_eq!(frame[6..12], mark.unwrap().to_mac());
}

#[test]
fn an_upstream_answer_never_meets_a_listener() {
    let mut bench = guarded();
    let mark = Mark::new(Kind::Upstream, ENDPOINT);
    for (peer, protocol) in [(v4(3), UDP), (v6(3), TCP)] {
        let answer = framed(&out(peer, protocol, 53), mark);
        assert_eq!(
            bench
                .datapath
                .try_packet(Hook::GateIn, &answer, 0)
                .unwrap()
                .0,
            SHOT
        );
    }
    assert_eq!(bench.count("upstream-to-listener"), 2);
    // So does one at a further port, over UDP: over TCP the listener there takes a server's leg too.
    for (ports, protocol, expected) in [
        (&[][..], UDP, NEXT),
        (&[12_345], UDP, SHOT),
        (&[12_345], TCP, NEXT),
        (&[12_344], UDP, NEXT),
    ] {
        let ports = ports.iter().copied().collect();
        bench.datapath.set_dns_ports(&ports).unwrap();
        let answer = framed(&out(v4(3), protocol, 12_345), mark);
        let run = bench.datapath.try_packet(Hook::GateIn, &answer, 0);
        assert_eq!(run.unwrap().0, expected, "{ports:?} {protocol}");
    }
    assert_eq!(bench.count("upstream-to-listener"), 3);
}

#[test]
fn a_full_conntrack_table_refuses_new_flows_and_keeps_live_ones() {
    let mut bench = Bench::new(&[
        entry(0, 0, 0, Verdict::Allow),
        entry(0, UDP, 53, Verdict::Redirect),
        entry(0, TCP, 53, Verdict::Redirect),
        entry(0, TCP, 22, Verdict::Deny),
    ]);
    let live = out(v4(3), TCP, 80);
    check(&mut bench, Hook::FromEndpoint, &live, (NEXT, ""));
    for index in 1..CT_MAX {
        // Four endpoints, none of which has more than its share.
        if index % CT_PER_ENDPOINT_MAX == 0 {
            bench.be(ENDPOINT + u32::try_from(index / CT_PER_ENDPOINT_MAX).unwrap());
        }
        let [_, server, high, low] = u32::try_from(index).unwrap().to_be_bytes();
        let packet = out(v4(100 + server), UDP, u16::from_be_bytes([high, low]));
        let packet = packet.with_port(9).bytes();
        let run = bench.datapath.try_packet(Hook::FromEndpoint, &packet, 0);
        assert_eq!(
            run.unwrap().0,
            if low == 53 && high == 0 {
                REDIRECT
            } else {
                NEXT
            }
        );
    }
    // Port 53 of each server made no entry.
    bench.be(ENDPOINT + 10);
    for port in 1..=CT_MAX / 65_536 {
        let packet = out(v4(200), UDP, 1_000 + u16::try_from(port).unwrap());
        check(&mut bench, Hook::FromEndpoint, &packet, (NEXT, ""));
    }
    let refused = (SHOT, "ct-insert-failed");
    let inbound = out(v4(3), TCP, 9_999).answer().flags(0x02);
    for (hook, packet, want) in [
        (Hook::FromEndpoint, out(v4(9), TCP, 80), refused),
        (Hook::FromEndpoint, out(v6(9), UDP, 80), refused),
        (Hook::FromEndpoint, out(v4(9), 132, 80), refused),
        (Hook::FromEndpoint, out(v4(9), 1, 8), refused),
        (Hook::FromEndpoint, out(v4(9), TCP, 53), refused),
        (Hook::ToEndpoint, inbound, refused),
        // What needs no entry goes on, and what is denied is denied.
        (Hook::FromEndpoint, out(v4(9), UDP, 53), (REDIRECT, "")),
        (Hook::FromEndpoint, out(v4(9), 47, 0), (NEXT, "")),
        (
            Hook::FromEndpoint,
            out(v4(9), TCP, 22),
            (SHOT, "policy-deny"),
        ),
    ] {
        check(&mut bench, hook, &packet, want);
    }
    // So do live flows, and may be opened anew.
    bench.be(ENDPOINT);
    for (hook, packet) in [
        (Hook::FromEndpoint, live.clone().flags(0x10)),
        (Hook::ToEndpoint, live.answer()),
        (Hook::FromEndpoint, live),
    ] {
        check(&mut bench, hook, &packet, (NEXT, ""));
    }
}

/// A datagram from a server's port 53 opens no way round the proxy, and takes no answer from a caller.
#[test]
fn what_goes_to_a_servers_port_53_is_a_query_whoever_spoke_first() {
    let mut bench = guarded();
    let allowed = out(v4(3), UDP, 53);
    let denied = out(v4(4), UDP, 53);
    let caller = out(v4(4), UDP, 54);
    for packet in [&allowed, &denied, &caller] {
        check(&mut bench, Hook::ToEndpoint, &packet.answer(), (NEXT, ""));
    }
    check(&mut bench, Hook::FromEndpoint, &allowed, (REDIRECT, ""));
    // Who may not be asked may be answered.
    check(&mut bench, Hook::FromEndpoint, &denied, (NEXT, ""));
    check(&mut bench, Hook::FromEndpoint, &caller, (NEXT, ""));
    // Over TCP a connection is one side's.
    let call = out(v4(3), TCP, 53);
    check(
        &mut bench,
        Hook::ToEndpoint,
        &call.answer().flags(0x02),
        (NEXT, ""),
    );
    check(
        &mut bench,
        Hook::FromEndpoint,
        &call.clone().flags(0x12),
        (NEXT, ""),
    );
    check(
        &mut bench,
        Hook::FromEndpoint,
        &call.flags(0x02),
        (REDIRECT, ""),
    );
}

#[test]
fn a_port_that_a_rule_names_is_as_port_53_as_long_as_one_does() {
    for server in [v4(3), v6(3)] {
        let mut bench = Bench::new(&[entry(0, UDP, 5_353, Verdict::Redirect)]);
        let asked = out(server, UDP, 5_353);
        check(&mut bench, Hook::ToEndpoint, &asked.answer(), (NEXT, ""));
        let ports = |ports: &[u16]| ports.iter().copied().collect();
        // The second time by the short way.
        for (known, expected) in [
            (&[][..], NEXT),
            (&[53, 5_353], REDIRECT),
            (&[5_352, 5_354], NEXT),
        ] {
            bench.datapath.set_dns_ports(&ports(known)).unwrap();
            assert_eq!(bench.datapath.dns_ports().unwrap(), ports(known));
            for _ in 0..2 {
                check(&mut bench, Hook::FromEndpoint, &asked, (expected, ""));
            }
        }
    }
}

/// A flood of one endpoint must leave the others room for theirs.
#[test]
fn an_endpoint_has_its_share_of_flows_and_no_more() {
    let mut bench = Bench::new(&[
        entry(0, TCP, 0, Verdict::Allow),
        entry(0, UDP, 53, Verdict::Redirect),
        entry(0, TCP, 53, Verdict::Redirect),
    ]);
    let from = |index: usize, port| {
        let [_, _, high, low] = u32::try_from(index).unwrap().to_be_bytes();
        out(v4(3), TCP, port).with_port(u16::from_be_bytes([high, low]))
    };
    // Each twice: what is opened anew is no new flow.
    for index in (1..=CT_PER_ENDPOINT_MAX).flat_map(|index| [index, index]) {
        let flood = from(index, 53).bytes();
        let run = bench.datapath.try_packet(Hook::FromEndpoint, &flood, 0);
        assert_eq!(run.unwrap().0, REDIRECT, "{index}");
    }
    let refused = (SHOT, "ct-share-full");
    let beyond = from(CT_PER_ENDPOINT_MAX + 1, 53);
    check(&mut bench, Hook::FromEndpoint, &beyond, refused);
    check(&mut bench, Hook::FromEndpoint, &from(1, 80), refused);
    let asked = out(v4(3), UDP, 53);
    check(&mut bench, Hook::FromEndpoint, &asked, (REDIRECT, ""));
    let opened = from(1, 53);
    check(&mut bench, Hook::FromEndpoint, &opened, (REDIRECT, ""));

    bench.be(ENDPOINT + 1);
    check(&mut bench, Hook::FromEndpoint, &from(1, 80), (NEXT, ""));
    bench.be(ENDPOINT);
    check(&mut bench, Hook::FromEndpoint, &beyond, refused);

    // A sweep gives back what is over, of each endpoint its own.
    let over = |port: u16| port == 1u16.to_be();
    let left = bench
        .datapath
        .sweep_flows(|key, _| key.endpoint == ENDPOINT && over(key.local_port));
    assert_eq!(left.unwrap(), CT_PER_ENDPOINT_MAX);
    check(&mut bench, Hook::FromEndpoint, &beyond, (REDIRECT, ""));
    check(&mut bench, Hook::FromEndpoint, &from(1, 80), refused);
}

#[test]
fn an_icmp_event_names_type_and_code() {
    let mut bench = guarded();
    let mut events = bench.datapath.events().unwrap();
    check(
        &mut bench,
        Hook::FromEndpoint,
        &out(v4(3), 1, 8),
        (SHOT, "policy-denied"),
    );
    let mut seen = Vec::new();
    events.drain(|event| seen.push(u16::from_be(event.source_port)));
    assert_eq!(seen, [0x0800, 0x0800], "echo request, verdict and drop");
}

#[test]
fn events_tell_the_two_ends_of_the_frame() {
    for server in [v4(3), v6(3)] {
        let mut bench = guarded();
        let mut events = bench.datapath.events().unwrap();
        let allowed = out(server, TCP, 80);
        let denied = out(server, TCP, 81);
        let stranger = Packet {
            source_mac: HOST_MAC,
            ..allowed.clone()
        };
        check(&mut bench, Hook::FromEndpoint, &allowed, (NEXT, ""));
        for (packet, why) in [
            (&denied, "policy-denied"),
            (&stranger, "invalid-source-mac"),
        ] {
            check(&mut bench, Hook::FromEndpoint, packet, (SHOT, why));
        }
        let mut seen = Vec::new();
        events.drain(|event| {
            seen.push((event.kind, event.source_mac, event.destination_mac));
            assert_eq!(event.reserved, 0);
        });
        let to = allowed.destination_mac;
        let expected = [
            (1, WORKLOAD_MAC, to),
            (1, WORKLOAD_MAC, to),
            (2, WORKLOAD_MAC, to),
            (2, HOST_MAC, to),
        ];
        assert_eq!(seen, expected);
    }
}

#[test]
fn events_tell_of_verdicts_and_drops_up_to_the_limit() {
    let mut bench = guarded();
    let mut events = bench.datapath.events().unwrap();
    check(
        &mut bench,
        Hook::FromEndpoint,
        &out(v4(3), TCP, 80),
        (NEXT, ""),
    );
    check(
        &mut bench,
        Hook::FromEndpoint,
        &out(v4(3), TCP, 81),
        (SHOT, "policy-denied"),
    );
    let mut seen = Vec::new();
    events.drain(|event| {
        seen.push((
            event.kind,
            event.verdict,
            event.matched,
            event.reason,
            event.identity,
        ))
    });
    assert_eq!(
        seen,
        [
            (1, Verdict::Allow as u8, 2, 0, SERVER),
            (1, 0, 0, 133, SERVER),
            (2, 0, 0, 133, SERVER)
        ]
    );

    let denied = out(v4(3), TCP, 81).bytes();
    for _ in 0..bpf_redirect_common::EVENTS_PER_SECOND_MAX {
        bench
            .datapath
            .try_packet(Hook::FromEndpoint, &denied, 0)
            .unwrap();
    }
    let mut told = 0;
    events.drain(|_| told += 1);
    let limited = bench.count("events-limited");
    assert!(limited > 0, "the budget of one second is spent");
    assert_eq!(
        told + limited,
        2 * bpf_redirect_common::EVENTS_PER_SECOND_MAX,
        "each is told or counted"
    );
}
