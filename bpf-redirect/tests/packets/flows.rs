//! Flows that are known: packets in turn.

use std::net::IpAddr;

use bpf_redirect::Hook;
use bpf_redirect_common::{CtValue, Drop, FRAGMENTS_AGE_NS_MAX, FRAGMENTS_MAX, Match, Verdict};

use crate::common::{Bench, NEXT, Packet, SHOT, WORKLOAD_MAC, out, v4, v6};
use crate::table::Want::{By, Quiet, ToProxy, Unmatched};
use crate::table::*;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const SYN_ACK: u8 = 0x12;
const FIN_ACK: u8 = 0x11;
const RST: u8 = 0x04;

pub(crate) fn stories() -> Vec<Topic> {
    vec![
        tcp_story(v4(PEER)),
        tcp_story(v6(PEER.into())),
        other_story(),
        inbound_story(),
        unasked_replies(),
    ]
}

#[test]
fn a_flow_that_one_side_began_is_known_by_both_until_it_is_opened_anew() {
    let mut kernel = Kernel::new();
    for story in stories() {
        kernel.check_in_turn(&story);
        let left = kernel.bench.datapath.sweep_flows(|_, value| {
            assert_eq!(value.identity, SERVER);
            true
        });
        assert_eq!(left.unwrap(), 0);
    }
}

#[test]
fn tcp_states_follow_the_flags() {
    let syn = server(TCP, 80);
    let reply = syn.answer();
    let (local, peer) = (CtValue::LOCAL_CLOSED, CtValue::PEER_CLOSED);
    let steps: [(&str, Packet, bool, u8); 9] = [
        ("SYN", syn.clone(), true, 0),
        ("SYN ACK", reply.clone(), false, CtValue::ANSWERED),
        ("ACK", syn.clone().flags(ACK), true, CtValue::ANSWERED),
        (
            "FIN",
            syn.clone().flags(FIN_ACK),
            true,
            CtValue::ANSWERED | local,
        ),
        (
            "ACK of it",
            reply.clone().flags(ACK),
            false,
            CtValue::ANSWERED | local,
        ),
        (
            "its FIN",
            reply.clone().flags(FIN_ACK),
            false,
            CtValue::ANSWERED | local | peer,
        ),
        ("SYN anew", syn.clone(), true, 0),
        (
            "RST",
            reply.flags(RST | ACK),
            false,
            CtValue::ANSWERED | CtValue::CLOSED,
        ),
        ("SYN after it", syn, true, 0),
    ];
    let mut bench = Bench::with(&one_port());
    bench
        .datapath
        .set_prefixes(&[(v4(PEER), 32, SERVER)])
        .unwrap();
    for (what, packet, is_sent, state) in steps {
        let hook = if is_sent {
            Hook::FromEndpoint
        } else {
            Hook::ToEndpoint
        };
        let (code, _, _) = bench.datapath.try_packet(hook, &packet.bytes(), 0).unwrap();
        assert_eq!(code, NEXT, "{what}");
        let seen = std::cell::RefCell::new(Vec::new());
        let look = |_: &_, value: &CtValue| {
            seen.borrow_mut().push(value.state);
            false
        };
        bench.datapath.sweep_flows(look).unwrap();
        assert_eq!(*seen.borrow(), [state], "{what}");
    }
}

/// The proxy's own segments pass by their mark: the workload's say that it answered.
#[test]
fn a_redirected_flow_counts_as_answered_with_the_first_segment_that_says_so() {
    let entries = [
        egress(SERVER, (TCP, 80, 16), (Verdict::Redirect, 1)),
        egress(SERVER, (TCP, 443, 16), (Verdict::Allow, 2)),
    ];
    for (port, states) in [(80, [0, CtValue::ANSWERED]), (443, [0, 0])] {
        let mut bench = Bench::with(&entries);
        let prefixes = [(v4(PEER), 32, SERVER)];
        bench.datapath.set_prefixes(&prefixes).unwrap();
        let syn = server(TCP, port);
        for (packet, state) in [(syn.clone(), 0), (syn.flags(ACK), 1)] {
            let run = bench
                .datapath
                .try_packet(Hook::FromEndpoint, &packet.bytes(), 0);
            run.unwrap();
            let seen = std::cell::Cell::new(None);
            let look = |_: &_, value: &CtValue| {
                seen.set(Some(value.state));
                false
            };
            bench.datapath.sweep_flows(look).unwrap();
            assert_eq!(seen.get(), Some(states[state]), "{port}");
        }
    }
}

fn tcp_story(peer: IpAddr) -> Topic {
    let syn = out(peer, TCP, 80);
    let reply = syn.answer();
    let other = out(peer, TCP, 81);
    let rows = vec![
        received("a reply to nothing", &reply, DENIED),
        sent("SYN", &syn, allowed(1)),
        received("SYN ACK", &reply.clone().flags(SYN_ACK), Quiet),
        sent("ACK", &syn.clone().flags(ACK), Quiet),
        sent("data", &syn.clone().flags(0x18), Quiet),
        received("data", &reply.clone().flags(0x18), Quiet),
        received("from another port", &reply.clone().with_port(81), DENIED),
        received("SYN of the other side", &reply.clone().flags(SYN), DENIED),
        sent("SYN again", &syn, allowed(1)),
        sent("SYN and FIN", &syn.clone().flags(SYN | 0x01), allowed(1)),
        sent("no flags", &syn.clone().flags(0), Quiet),
        sent("all flags", &syn.clone().flags(0xff), Quiet),
        sent("FIN", &syn.clone().flags(FIN_ACK), Quiet),
        received("FIN", &reply.clone().flags(FIN_ACK), Quiet),
        sent("after the end", &syn.clone().flags(ACK), Quiet),
        sent("ACK of no flow", &other.clone().flags(ACK), DENIED),
        sent("SYN ACK of no flow", &other.clone().flags(SYN_ACK), DENIED),
        sent("RST of no flow", &other.flags(RST), DENIED),
        sent(
            "in the middle",
            &syn.clone().with_port(5).flags(ACK),
            allowed(1),
        ),
        received("its reply", &reply_to(&syn.clone().with_port(5)), Quiet),
    ];
    Topic::new(&one_port(), rows)
}

fn reply_to(packet: &Packet) -> Packet {
    packet.answer().flags(ACK)
}

fn other_story() -> Topic {
    let mut entries = one_port();
    entries.extend([
        egress(SERVER, (ICMP, 8, 16), (Verdict::Allow, 2)),
        egress(SERVER, (ICMPV6, 128, 16), (Verdict::Allow, 3)),
        egress(SERVER, (TCP, 53, 16), (Verdict::Redirect, 4)),
        egress(SERVER, (UDP, 53, 16), (Verdict::Redirect, 4)),
    ]);
    let mut rows = Vec::new();
    for protocol in [UDP, SCTP] {
        for packet in [server(protocol, 80), server_v6(protocol, 80)] {
            let what = format!("{protocol} {}", packet.destination);
            rows.push(received(
                format!("{what}: nothing asked"),
                &packet.answer(),
                DENIED,
            ));
            rows.push(sent(format!("{what}: first"), &packet, allowed(1)));
            rows.push(sent(format!("{what}: second"), &packet, Quiet));
            rows.push(received(format!("{what}: reply"), &packet.answer(), Quiet));
            let other = packet.clone().with_port(9);
            rows.push(received(
                format!("{what}: another port"),
                &other.answer(),
                DENIED,
            ));
            rows.extend(in_parts(&what, &packet));
        }
    }
    for (ping, rule) in [(server(ICMP, 8), 2), (server_v6(ICMPV6, 128), 3)] {
        let reply = ping.answer();
        let mut request = into(ping.destination, ping.protocol, ping.ports.1);
        request.ports = ping.ports;
        rows.push(received("an echo reply to nothing", &reply, DENIED));
        rows.push(sent("echo", &ping, allowed(rule)));
        rows.push(sent("echo again", &ping, Quiet));
        rows.push(received("echo reply", &reply, Quiet));
        rows.push(received("another id", &reply.with_port(9), DENIED));
        rows.push(received("the same id asked back", &request, DENIED));
        rows.push(sent("id 0", &ping.clone().with_port(0), allowed(rule)));
        rows.push(sent("id 0 again", &ping.with_port(0), allowed(rule)));
    }
    let query = server(TCP, 53);
    let redirect = By(Verdict::Redirect, Match::L3L4, 4);
    rows.push(sent("query by TCP", &query, redirect));
    rows.push(sent("more of it", &query.clone().flags(0x18), ToProxy));
    let part = query.clone().flags(0x18).fragment(0x2000);
    rows.push(sent("a fragment of it", &part, Want::Drop(Drop::Fragment)));
    rows.push(sent("query by UDP", &server(UDP, 53), ToProxy));
    rows.push(sent("another", &server(UDP, 53), ToProxy));
    Topic::new(&entries, rows)
}

/// What a known flow has in fragments, both ways: the later ones pass where the first one did.
fn in_parts(what: &str, packet: &Packet) -> Vec<Row> {
    let lost = Unmatched(Drop::FragmentNotFound);
    let mut rows = Vec::new();
    // No part of a packet that another protocol had; IPv6 tells them apart by their number alone.
    let from = if packet.protocol == UDP { 100 } else { 0 };
    for (id, way, packet) in [
        (1, sent as fn(_, &_, _) -> _, packet.clone()),
        (2, received, packet.answer()),
    ] {
        let part = |id: u8, later| part_of(&packet, (from + id, later));
        let (first, later) = (part(id, false), part(id, true));
        rows.push(way(format!("{what}: {id} later, too early"), &later, lost));
        rows.push(way(format!("{what}: {id} first"), &first, Quiet));
        rows.push(way(format!("{what}: {id} later"), &later, Quiet));
        let other = part(id + 10, true);
        rows.push(way(format!("{what}: {id} of another"), &other, lost));
        let mut stranger = packet.clone();
        let peer = if packet.source.is_ipv4() {
            v4(4)
        } else {
            v6(4)
        };
        match id {
            1 => stranger.destination = peer,
            _ => stranger.source = peer,
        }
        let stranger = part_of(&stranger, (from + id, true));
        rows.push(way(format!("{what}: {id} of a stranger"), &stranger, lost));
        // Its first one is denied, whatever else has this number.
        let other = part_of(&packet.clone().with_port(9), (from + id + 20, false));
        if id == 2 {
            rows.push(way(format!("{what}: {id} denied"), &other, DENIED));
            let later = part(id + 20, true);
            rows.push(way(format!("{what}: {id} after it"), &later, lost));
        }
    }
    rows
}

/// Beyond the bound the least recently used is forgotten, and after its time each is.
#[test]
fn fragments_are_remembered_for_a_while_and_so_many_at_a_time() {
    let mut bench = Bench::with(&one_port());
    let prefixes = [(v4(PEER), 32, SERVER)];
    bench.datapath.set_prefixes(&prefixes).unwrap();
    let mut run = |id: usize, field| {
        let mut part = server(UDP, 80).fragment(field);
        part.id = u16::try_from(id).unwrap();
        let run = bench
            .datapath
            .try_packet(Hook::FromEndpoint, &part.bytes(), 0);
        run.unwrap().0
    };
    for id in 0..FRAGMENTS_MAX + 1_024 {
        assert_eq!(run(id, 0x2000), NEXT, "{id}");
        assert_eq!(run(id, 0x0010), NEXT, "{id}");
    }
    assert_eq!(run(0, 0x0010), SHOT, "the oldest");
    let newest = FRAGMENTS_MAX + 1_023;
    std::thread::sleep(std::time::Duration::from_nanos(FRAGMENTS_AGE_NS_MAX));
    assert_eq!(run(newest, 0x0010), SHOT, "the newest, too late");
}

/// A part of a packet, by its number, the first or a later one.
fn part_of(packet: &Packet, (id, is_later): (u8, bool)) -> Packet {
    let mut part = packet.clone();
    part.id = id.into();
    if packet.source.is_ipv4() {
        return part.fragment(if is_later { 0x0010 } else { 0x2000 });
    }
    let offset = if is_later { 0x80 } else { 1 };
    part.with(44, &[packet.protocol, 0, 0, offset, 0, 0, 0, id])
}

/// Replies that a rule for their own type allows: each is judged, and none is a flow, which the other
/// side might answer.
fn unasked_replies() -> Topic {
    let (mut entries, mut rows) = (Vec::new(), Vec::new());
    for (request, kind) in [(server(ICMP, 8), 0), (server_v6(ICMPV6, 128), 129)] {
        let l4 = (request.protocol, kind, 16);
        entries.push(egress(SERVER, l4, (Verdict::Allow, 1)));
        entries.push(ingress(SERVER, l4, (Verdict::Allow, 1)));
        let mut to_it = into(request.destination, request.protocol, kind);
        to_it.ports.0 = request.ports.0;
        let mut from_it = request.clone();
        from_it.ports.1 = kind;
        // The request of which each would be the reply.
        let mut from_peer = into(request.destination, request.protocol, request.ports.1);
        from_peer.ports.0 = request.ports.0;
        for turn in 0..2 {
            rows.push(received(format!("a reply, {turn}"), &to_it, allowed(1)));
            rows.push(sent(format!("{turn}, sent"), &from_it, allowed(1)));
        }
        rows.push(sent("a request", &request, DENIED));
        rows.push(received("a request of the peer", &from_peer, DENIED));
    }
    Topic::new(&entries, rows)
}

/// A flow that the peer begins.
fn inbound_story() -> Topic {
    let mut rows = Vec::new();
    for (peer, protocol) in [
        (v4(PEER), TCP),
        (v6(PEER.into()), TCP),
        (v4(PEER), UDP),
        (v6(PEER.into()), SCTP),
    ] {
        let request = into(peer, protocol, 80);
        let mut reply = request.answer();
        reply.source_mac = WORKLOAD_MAC;
        let what = format!("{protocol} from {peer}");
        rows.push(sent(format!("{what}: a reply to nothing"), &reply, DENIED));
        rows.push(received(format!("{what}: request"), &request, allowed(1)));
        rows.push(sent(format!("{what}: reply"), &reply, Quiet));
        rows.push(received(
            format!("{what}: more"),
            &request.clone().flags(ACK),
            Quiet,
        ));
        let other = reply.clone().with_port(81);
        rows.push(sent(format!("{what}: from another port"), &other, DENIED));
        if protocol == TCP {
            rows.push(sent("SYN of its own", &reply.flags(SYN), DENIED));
        }
    }
    Topic::new(&one_port(), rows)
}
