//! Whose packets a workload may send, and which it gets that are not for it alone.

use std::net::{IpAddr, Ipv4Addr};

use bpf_redirect_common::{Drop, Verdict};

use crate::common::{GATEWAY_MAC, HOST_MAC, Packet, v4, v6};
use crate::table::Want::Quiet;
use crate::table::*;

pub(crate) fn topics() -> Vec<Topic> {
    let mut topics = vec![leases(), own_source()];
    topics.extend(flooded());
    topics
}

#[test]
fn a_workload_sends_from_its_own_addresses_and_gets_what_ingress_lets_in() {
    let mut kernel = Kernel::new();
    for topic in topics() {
        kernel.check(&topic);
    }
}

fn ipv4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

fn lease(source: IpAddr, destination: IpAddr, ports: (u16, u16)) -> Packet {
    let (from, to) = ports;
    Packet::new(source, destination, (UDP, from, to))
}

fn leases() -> Topic {
    let (none, all) = (ipv4(0, 0, 0, 0), ipv4(255, 255, 255, 255));
    let forged = Want::Drop(Drop::InvalidSourceIp);
    let asks = lease(none, all, (68, 67));
    let mut tcp = asks.clone();
    tcp.protocol = TCP;
    let rows = vec![
        sent("discover", &asks, Quiet),
        sent("from another port", &lease(none, all, (69, 67)), forged),
        sent("to another port", &lease(none, all, (68, 68)), forged),
        sent("the other way round", &lease(none, all, (67, 68)), forged),
        sent("to one server", &lease(none, v4(PEER), (68, 67)), forged),
        sent("to the subnet", &lease(none, v4(255), (68, 67)), forged),
        sent("from another address", &lease(v4(9), all, (68, 67)), forged),
        sent("by TCP", &tcp, forged),
        sent("in fragments", &asks.clone().fragment(0x2000), forged),
        sent(
            "with its own address",
            &lease(v4(2), v4(PEER), (68, 67)),
            DENIED,
        ),
        sent("the same to all", &lease(v4(2), all, (68, 67)), DENIED),
        received("offer to all", &lease(v4(PEER), all, (67, 68)), Quiet),
        received(
            "offer to the address",
            &lease(v4(PEER), v4(77), (67, 68)),
            Quiet,
        ),
        received(
            "offer from another port",
            &lease(v4(PEER), all, (66, 68)),
            Want::Drop(Drop::NotForEndpoint),
        ),
        received(
            "offer to another port",
            &lease(v4(PEER), all, (67, 67)),
            Want::Drop(Drop::NotForEndpoint),
        ),
        received(
            "offer in fragments",
            &lease(v4(PEER), all, (67, 68)).fragment(0x2000),
            Want::Drop(Drop::NotForEndpoint),
        ),
        received(
            "the same ports by IPv6",
            &lease(v6(PEER.into()), v6(77), (67, 68)),
            Want::Drop(Drop::NotForEndpoint),
        ),
        received(
            "offer to its own address",
            &lease(v4(PEER), v4(2), (67, 68)),
            DENIED,
        ),
    ];
    Topic::new(&one_port(), rows)
}

fn own_source() -> Topic {
    let (mut rows, forged) = (Vec::new(), Want::Drop(Drop::InvalidSourceIp));
    let from = |source: IpAddr, packet: &Packet| Packet {
        source,
        ..packet.clone()
    };
    rows.push(sent("its own", &server(TCP, 80), allowed(1)));
    rows.push(sent("its own v6", &server_v6(TCP, 80), allowed(1)));
    for source in [
        v4(3),
        v4(1),
        v4(255),
        ipv4(0, 0, 0, 0),
        ipv4(127, 0, 0, 1),
        ipv4(169, 254, 0, 1),
        ipv4(224, 0, 0, 1),
        ipv4(255, 255, 255, 255),
    ] {
        rows.push(sent(
            format!("from {source}"),
            &from(source, &server(TCP, 80)),
            forged,
        ));
    }
    for source in [
        "fd00::3",
        "::",
        "::1",
        "fe80::2",
        "ff02::1",
        "2001:db8::2",
        "::10.0.0.2",
    ] {
        let source = from(source.parse().unwrap(), &server_v6(TCP, 80));
        rows.push(sent(format!("from {}", source.source), &source, forged));
    }
    rows.extend(mapped_addresses());
    for mac in [
        HOST_MAC,
        GATEWAY_MAC,
        [0; 6],
        [0xff; 6],
        [2, 0, 0, 0, 1, 0x0a],
    ] {
        for (mut packet, what) in [(server(TCP, 80), "v4"), (server_v6(TCP, 80), "v6")] {
            packet.source_mac = mac;
            let want = Want::Drop(Drop::InvalidSourceMac);
            rows.push(sent(format!("{what} from {mac:x?}"), &packet, want));
            packet.source = packet.destination;
            rows.push(sent(
                format!("{what}, both forged: {mac:x?}"),
                &packet,
                want,
            ));
        }
    }
    let mut asks = lease(ipv4(0, 0, 0, 0), ipv4(255, 255, 255, 255), (68, 67));
    asks.source_mac = HOST_MAC;
    rows.push(sent(
        "a lease for another",
        &asks,
        Want::Drop(Drop::InvalidSourceMac),
    ));
    Topic::new(&one_port(), rows)
}

/// IPv4 addresses in IPv6 packets, which would be found in the tables.
fn mapped_addresses() -> Vec<Row> {
    let mut rows = Vec::new();
    for (source, destination) in [
        ("::ffff:10.0.0.2", "fd00::3"),
        ("fd00::2", "::ffff:10.0.0.3"),
        ("::ffff:10.0.0.2", "::ffff:10.0.0.3"),
    ] {
        let [source, destination]: [IpAddr; 2] =
            [source, destination].map(|text| text.parse().unwrap());
        let packet = Packet::new(source, destination, (TCP, 40_000, 80));
        let want = Want::Drop(Drop::InvalidPacket);
        rows.push(sent(format!("{source} to {destination}"), &packet, want));
        let answer = received(format!("{destination} to {source}"), &packet.answer(), want);
        rows.push(answer);
    }
    rows
}

/// What is not addressed to the endpoint, under each kind of ingress policy.
fn flooded() -> Vec<Topic> {
    let groups = [
        "10.0.0.9",
        "10.0.0.255",
        "224.0.0.251",
        "239.1.1.1",
        "255.255.255.255",
        "fd00::9",
        "ff02::1",
        "ff02::fb",
        "fe80::2",
        "::",
    ];
    let rows = |want| {
        let mut rows = Vec::new();
        for group in groups {
            let destination: IpAddr = group.parse().unwrap();
            let source = if destination.is_ipv4() {
                v4(PEER)
            } else {
                v6(PEER.into())
            };
            let packet = Packet::new(source, destination, (UDP, 5_353, 5_353));
            rows.push(received(format!("to {group}"), &packet, want));
        }
        rows
    };
    let closed = Want::Drop(Drop::NotForEndpoint);
    let all = (0, 0, 0);
    [
        (vec![ingress(0, all, (Verdict::Allow, 0))], Quiet),
        (vec![ingress(0, all, (Verdict::AuditUnmatched, 0))], Quiet),
        (vec![ingress(0, all, (Verdict::AuditDeny, 1))], Quiet),
        (vec![ingress(0, all, (Verdict::Deny, 1))], closed),
        (vec![ingress(SERVER, all, (Verdict::Allow, 1))], closed),
        (
            vec![ingress(0, (UDP, 5_353, 16), (Verdict::Allow, 1))],
            closed,
        ),
        (vec![], closed),
    ]
    .into_iter()
    .map(|(entries, want)| Topic::new(&entries, rows(want)))
    .collect()
}
