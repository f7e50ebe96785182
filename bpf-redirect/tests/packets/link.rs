//! How hosts of a link find each other: no policy is about it, and nothing leaves the link by it.

use std::net::IpAddr;

use bpf_redirect_common::{Drop, NEIGHBOURS_MAX};

use crate::common::{HOST_MAC, NEXT, Packet, SHOT, out, v6};
use crate::table::Want::Quiet;
use crate::table::*;

/// Multicast listener discovery, and neighbour discovery.
const LISTENERS: [u8; 4] = [130, 131, 132, 143];
const NEIGHBOURS: std::ops::RangeInclusive<u8> = 133..=137;

pub(crate) fn stories() -> Vec<Topic> {
    vec![within_the_link(), off_the_link(), who_showed_himself()]
}

#[test]
fn a_workload_finds_its_neighbours_and_reaches_nobody_else_by_it() {
    for topic in stories() {
        Kernel::new().check_in_turn(&topic);
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A message of ICMPv6 of a type, with a hop limit.
fn message(destination: &str, kind: u8, hops: u8) -> Packet {
    out(address(destination), ICMPV6, kind.into()).hops(hops)
}

/// The same to the workload.
fn arriving(source: &str, kind: u8, hops: u8) -> Packet {
    into(address(source), ICMPV6, kind.into()).hops(hops)
}

fn within_the_link() -> Topic {
    let mut rows = Vec::new();
    for kind in NEIGHBOURS {
        for to in ["fe80::1", "febf::1", "ff02::1", "ff02::1:ff00:3", "ff12::9"] {
            let what = format!("{kind} to {to}");
            rows.push(sent(what, &message(to, kind, 255), Quiet));
        }
        let from = |source| arriving(source, kind, 255);
        rows.push(received(format!("{kind}"), &from("fe80::1"), Quiet));
        let mut to_all = from("fe80::1");
        to_all.destination = address("ff02::1");
        rows.push(received(format!("{kind} to all"), &to_all, Quiet));
        // Before it has an address (RFC 4862 §5.4.2).
        let mut nobody = message("ff02::1:ff00:3", kind, 255);
        nobody.source = address("::");
        rows.push(sent(format!("{kind} of nobody yet"), &nobody, Quiet));
    }
    for kind in LISTENERS {
        for to in ["ff02::16", "ff02::2", "ff05::1:3", "ff0e::9"] {
            let what = format!("{kind} to {to}");
            rows.push(sent(what, &message(to, kind, 1), Quiet));
        }
        let mut query = arriving("fe80::1", kind, 1);
        query.destination = address("ff02::1");
        rows.push(received(format!("{kind}"), &query, Quiet));
    }
    let alert = message("ff02::16", 143, 1).with(0, &[ICMPV6, 0, 5, 2, 0, 0, 1, 0]);
    rows.push(sent("a report with router alert", &alert, Quiet));
    let arp = |mac| {
        let mut arp = server(TCP, 80);
        arp.source_mac = mac;
        let mut frame = arp.bytes();
        frame[12..14].copy_from_slice(&[0x08, 0x06]);
        frame
    };
    rows.push(raw("ARP", arp(server(TCP, 80).source_mac), Quiet));
    let stranger = Want::Drop(Drop::InvalidSourceMac);
    rows.push(raw("ARP of another station", arp(HOST_MAC), stranger));
    let mut other = message("ff02::1", 135, 255);
    other.source_mac = HOST_MAC;
    rows.push(sent("a neighbour of another station", &other, stranger));
    Topic::new(&one_port(), rows)
}

/// What a router would pass on is judged, or refused.
fn off_the_link() -> Topic {
    let (mut rows, forbidden) = (Vec::new(), Want::Drop(Drop::ForbiddenIcmpv6));
    for kind in NEIGHBOURS {
        for to in ["fd00::3", "2001:db8::1", "fec0::1", "::1"] {
            let what = format!("{kind} to {to}");
            rows.push(sent(what, &message(to, kind, 255), forbidden));
        }
        let routed = message("ff0e::1", kind, 255);
        rows.push(sent(format!("{kind} to a group"), &routed, DENIED));
        for hops in [0, 1, 64, 254] {
            let far = message("fd00::3", kind, hops);
            rows.push(sent(format!("{kind} with {hops}"), &far, DENIED));
            let near = message("fe80::1", kind, hops);
            rows.push(sent(format!("{kind} near with {hops}"), &near, DENIED));
            let from = arriving("fd00::3", kind, hops);
            rows.push(received(format!("{kind} passed on, {hops}"), &from, DENIED));
        }
        let first = message("ff02::1", kind, 255).with(44, &[ICMPV6, 0, 0, 1, 0, 0, 0, kind]);
        rows.push(sent(
            format!("{kind} in fragments (RFC 6980)"),
            &first,
            DENIED,
        ));
        rows.push(sent(
            format!("ICMPv6 {kind} in IPv4"),
            &server(ICMPV6, kind.into()),
            DENIED,
        ));
    }
    for kind in LISTENERS {
        for hops in [0, 2, 64, 255] {
            let what = format!("{kind} with {hops}");
            rows.push(sent(what, &message("ff02::16", kind, hops), DENIED));
        }
        let to_one = message("fd00::3", kind, 1);
        rows.push(sent(format!("{kind} to one"), &to_one, DENIED));
        let from = arriving("fd00::3", kind, 1);
        rows.push(received(format!("{kind} to it alone"), &from, DENIED));
    }
    for kind in [129, 138, 142, 144] {
        for hops in [1, 255] {
            let what = format!("{kind} with {hops}");
            rows.push(sent(what, &message("ff02::1", kind, hops), DENIED));
        }
    }
    Topic::new(&one_port(), rows)
}

/// Who sends such a message is on the link: no router passes one on.
fn who_showed_himself() -> Topic {
    let (mut rows, forbidden) = (Vec::new(), Want::Drop(Drop::ForbiddenIcmpv6));
    let asks = |to| message(to, 135, 255);
    rows.push(sent("to a stranger", &asks("fd00::9"), forbidden));
    let far = arriving("fd00::9", 136, 254);
    rows.push(received("a router passed it on", &far, DENIED));
    rows.push(sent("still a stranger", &asks("fd00::9"), forbidden));
    rows.push(received("an answer", &arriving("fd00::9", 136, 255), Quiet));
    rows.push(sent("to a neighbour", &asks("fd00::9"), Quiet));
    rows.push(sent(
        "an answer to him",
        &message("fd00::9", 136, 255),
        Quiet,
    ));
    rows.push(sent("to his neighbour", &asks("fd00::10"), forbidden));
    let far = message("fd00::9", 135, 64);
    rows.push(sent("to him as to anybody", &far, DENIED));
    Topic::new(&one_port(), rows)
}

/// Beyond the bound the least recently used is forgotten, and the newest is known.
#[test]
fn more_neighbours_than_are_remembered_forget_the_oldest() {
    let mut kernel = Kernel::new();
    let mut run = |hook, packet: &Packet| {
        let run = kernel.bench.datapath.try_packet(hook, &packet.bytes(), 0);
        run.unwrap().0
    };
    let most = u16::try_from(NEIGHBOURS_MAX).unwrap() + 2_048;
    let of = |number: u16| v6(0x1000 + number).to_string();
    for number in 0..most {
        let from = arriving(&of(number), 136, 255);
        assert_eq!(run(bpf_redirect::Hook::ToEndpoint, &from), NEXT);
        let to = message(&of(number), 135, 255);
        assert_eq!(run(bpf_redirect::Hook::FromEndpoint, &to), NEXT, "{number}");
    }
    let oldest = message(&of(0), 135, 255);
    assert_eq!(run(bpf_redirect::Hook::FromEndpoint, &oldest), SHOT);
}
