//! Redirected connections, in both directions: which of their segments are the proxy's, and how each
//! leg says whose it is.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

mod common;

use std::net::IpAddr;

use bpf_redirect::Hook;
use bpf_redirect_common::{GATE_MAC, INGRESS, Kind, Mark, PolicyKey, PolicyValue, Verdict};
use common::{
    Bench, ENDPOINT, HOST_MAC, NEXT, Packet, REDIRECT, SHOT, WORKLOAD_MAC, entry, open_ingress,
    out, v4, v6, workload,
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK: u8 = 0x10;
const SYN_ACK: u8 = 0x12;
/// The MAC from which a peer's frames come.
const PEER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];

type Entry = (PolicyKey, PolicyValue);

fn inbound(protocol: u8, port: u16, verdict: Verdict) -> Entry {
    let key = PolicyKey::new(INGRESS, 0, protocol, (port, 16));
    (key, PolicyValue::new(6, verdict))
}

fn run(bench: &mut Bench, hook: Hook, packet: &Packet) -> (i32, Vec<u8>) {
    let (code, frame, _) = bench.datapath.try_packet(hook, &packet.bytes(), 0).unwrap();
    (code, frame)
}

/// The packet goes over the side link, as of this leg.
fn to_gate(bench: &mut Bench, hook: Hook, packet: &Packet, kind: Kind) {
    let (code, frame) = run(bench, hook, packet);
    assert_eq!(code, REDIRECT, "{packet:?}");
    let mark = Mark::new(kind, ENDPOINT).unwrap();
    assert_eq!(
        (&frame[..6], &frame[6..12]),
        (&GATE_MAC[..], &mark.to_mac()[..])
    );
}

/// What the node's end does with what the proxy sends on a leg: the MACs that it gets.
fn from_gate(bench: &mut Bench, packet: &Packet, kind: Kind) -> ([u8; 6], [u8; 6]) {
    let packet = Packet {
        source_mac: Mark::new(kind, ENDPOINT).unwrap().to_mac(),
        destination_mac: GATE_MAC,
        ..packet.clone()
    };
    let (code, frame) = run(bench, Hook::NodeEnd, &packet);
    assert_eq!(code, REDIRECT, "{packet:?}");
    (
        frame[..6].try_into().unwrap(),
        frame[6..12].try_into().unwrap(),
    )
}

/// A peer's connection to the endpoint's port 80.
fn from_peer(peer: IpAddr) -> Packet {
    let own = if peer.is_ipv4() { v4(2) } else { v6(2) };
    Packet {
        source_mac: PEER_MAC,
        destination_mac: WORKLOAD_MAC,
        ..Packet::new(peer, own, (TCP, 50_000, 80))
    }
}

fn peers() -> [IpAddr; 2] {
    [v4(9), v6(9)]
}

#[test]
fn inbound_all_legs_go_by_the_gate_and_the_answers_go_back_where_the_peer_came_from() {
    for peer in peers() {
        let mut bench = Bench::with(&[inbound(TCP, 80, Verdict::Redirect)]);
        let syn = from_peer(peer);
        to_gate(&mut bench, Hook::ToEndpoint, &syn, Kind::Upstream);
        // The proxy answers the peer as the endpoint …
        let answer = syn.answer().flags(SYN_ACK);
        let macs = from_gate(&mut bench, &answer, Kind::Upstream);
        assert_eq!(macs, (PEER_MAC, WORKLOAD_MAC), "{peer}");
        to_gate(
            &mut bench,
            Hook::ToEndpoint,
            &syn.clone().flags(ACK),
            Kind::Upstream,
        );
        // … and opens its own connection to the endpoint as the peer.
        let macs = from_gate(&mut bench, &syn, Kind::Client);
        assert_eq!(macs, (WORKLOAD_MAC, HOST_MAC), "{peer}");
        let answered = Packet {
            source_mac: WORKLOAD_MAC,
            destination_mac: HOST_MAC,
            ..answer
        };
        to_gate(&mut bench, Hook::FromEndpoint, &answered, Kind::Client);
    }
}

#[test]
fn inbound_the_proxys_connection_may_have_another_port_than_the_peers() {
    for peer in peers() {
        let mut bench = Bench::with(&[inbound(TCP, 80, Verdict::Redirect)]);
        to_gate(
            &mut bench,
            Hook::ToEndpoint,
            &from_peer(peer),
            Kind::Upstream,
        );
        let own = from_peer(peer).with_port(20_000);
        let answer = Packet {
            source_mac: WORKLOAD_MAC,
            destination_mac: HOST_MAC,
            ..own.answer().flags(SYN_ACK)
        };
        let (code, _) = run(&mut bench, Hook::FromEndpoint, &answer);
        assert_eq!(
            code, SHOT,
            "the endpoint's own, to somebody that it may not reach"
        );
        from_gate(&mut bench, &own.clone().flags(ACK), Kind::Client);
        let (code, _) = run(&mut bench, Hook::FromEndpoint, &answer);
        assert_eq!(code, SHOT, "only what opens a connection is remembered");
        from_gate(&mut bench, &own, Kind::Client);
        to_gate(&mut bench, Hook::FromEndpoint, &answer, Kind::Client);
    }
}

#[test]
fn inbound_only_tcp_is_redirected() {
    let mut bench = Bench::with(&[inbound(UDP, 80, Verdict::Redirect)]);
    for peer in peers() {
        let packet = Packet {
            protocol: UDP,
            ..from_peer(peer)
        };
        assert_eq!(run(&mut bench, Hook::ToEndpoint, &packet).0, SHOT);
    }
    assert_eq!(bench.count("policy-denied"), 2);
}

/// Else a server that the proxy talks to could open a connection to the gate's listener.
#[test]
fn what_opens_a_connection_is_no_answer() {
    for peer in peers() {
        let mut bench = Bench::with(&[entry(0, TCP, 80, Verdict::Redirect)]);
        let syn = out(peer, TCP, 80);
        to_gate(&mut bench, Hook::FromEndpoint, &syn, Kind::Client);
        from_gate(&mut bench, &syn, Kind::Upstream);
        let answer = syn.answer();
        to_gate(&mut bench, Hook::ToEndpoint, &answer, Kind::Upstream);
        let (code, _) = run(&mut bench, Hook::ToEndpoint, &answer.flags(0x02));
        assert_eq!(code, SHOT, "{peer}");
        assert_eq!(bench.count("policy-denied"), 1);
    }
}

/// Else whoever the workload believes to talk to could talk to it past the proxy.
#[test]
fn what_is_sent_to_a_redirected_flow_never_reaches_the_workload() {
    for peer in peers() {
        let mut bench = Bench::new(&[entry(0, TCP, 80, Verdict::Redirect)]);
        let syn = out(peer, TCP, 80);
        to_gate(&mut bench, Hook::FromEndpoint, &syn, Kind::Client);
        // No flow of the proxy's is known: it has another port, or was forgotten.
        to_gate(&mut bench, Hook::ToEndpoint, &syn.answer(), Kind::Upstream);
    }
}

#[test]
fn a_tuple_that_was_the_proxys_is_the_workloads_once_it_is_let_through() {
    for peer in peers() {
        let mut bench = Bench::new(&[entry(0, TCP, 80, Verdict::Redirect)]);
        let syn = out(peer, TCP, 80);
        to_gate(&mut bench, Hook::FromEndpoint, &syn, Kind::Client);
        from_gate(&mut bench, &syn, Kind::Upstream);
        let reload = |bench: &mut Bench, entries: Vec<Entry>| {
            bench.ledger.reload(entries, &[], |_| Vec::new()).unwrap();
            bench.datapath.sweep_flows(|_, _| true).unwrap();
        };
        reload(
            &mut bench,
            vec![entry(0, TCP, 80, Verdict::Allow), open_ingress()],
        );
        assert_eq!(run(&mut bench, Hook::FromEndpoint, &syn).0, NEXT);
        assert_eq!(
            run(&mut bench, Hook::ToEndpoint, &syn.answer()).0,
            NEXT,
            "{peer}"
        );

        // The same of what a peer begins.
        let syn = from_peer(peer);
        reload(&mut bench, vec![inbound(TCP, 80, Verdict::Redirect)]);
        to_gate(&mut bench, Hook::ToEndpoint, &syn, Kind::Upstream);
        from_gate(&mut bench, &syn.answer(), Kind::Upstream);
        reload(&mut bench, vec![inbound(TCP, 80, Verdict::Allow)]);
        assert_eq!(run(&mut bench, Hook::ToEndpoint, &syn).0, NEXT);
        let more = syn.flags(ACK);
        assert_eq!(run(&mut bench, Hook::ToEndpoint, &more).0, NEXT, "{peer}");
    }
}

/// One program alone would send flows to the proxy whose answers nobody catches.
#[test]
fn an_endpoint_that_is_only_announced_passes_all_and_one_that_is_judged_stays_so() {
    let mut bench = Bench::with(&[
        entry(0, TCP, 80, Verdict::Redirect),
        inbound(TCP, 81, Verdict::Allow),
    ]);
    let hooks = [
        (Hook::FromEndpoint, out(v4(9), TCP, 80), REDIRECT),
        (Hook::FromEndpoint, out(v6(9), UDP, 80), SHOT),
        (Hook::ToEndpoint, from_peer(v4(9)), SHOT),
    ];
    let judged = |bench: &mut Bench, is_judged: bool| {
        for (hook, packet, judgement) in &hooks {
            let code = if is_judged { *judgement } else { NEXT };
            assert_eq!(run(bench, *hook, packet).0, code, "{packet:?}");
        }
    };
    judged(&mut bench, true);
    let endpoint = workload(ENDPOINT);
    bench.datapath.announce_endpoint(&endpoint).unwrap();
    judged(&mut bench, true);
    bench
        .datapath
        .remove_endpoint(ENDPOINT, endpoint.ifindex)
        .unwrap();
    bench.datapath.announce_endpoint(&endpoint).unwrap();
    judged(&mut bench, false);
    bench.datapath.announce_endpoint(&endpoint).unwrap();
    judged(&mut bench, false);
    bench.datapath.set_endpoint(&endpoint).unwrap();
    judged(&mut bench, true);
}
