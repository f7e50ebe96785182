//! Ranges of ports and prefixes of addresses, at their ends and beside them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bpf_redirect_common::{Match, Verdict};

use crate::common::{out, v4, v6};
use crate::table::Want::By;
use crate::table::*;

pub(crate) fn topics() -> Vec<Topic> {
    vec![port_ranges(), port_prefixes(), address_prefixes()]
}

#[test]
fn ports_and_addresses_are_judged_by_the_prefix_that_holds_them() {
    let mut kernel = Kernel::new();
    for topic in topics() {
        kernel.check(&topic);
    }
}

/// The prefixes that a range of ports is made of.
fn range(first: u16, last: u16) -> Vec<(u16, u8)> {
    let mut parts = Vec::new();
    let (mut from, last) = (u32::from(first), u32::from(last));
    while from <= last {
        let fits = |bits: &u32| from % (1 << bits) == 0 && from + (1 << bits) - 1 <= last;
        let free = (0..=16).rev().find(fits).unwrap();
        parts.push((from as u16, 16 - free as u8));
        from += 1 << free;
    }
    parts
}

fn port_ranges() -> Topic {
    let ranges = [
        (0, 0, 1),
        (7, 7, 2),
        (80, 90, 3),
        (1, 65_535, 4),
        (0, 1_023, 5),
        (1_024, 65_535, 6),
        (1_023, 1_025, 7),
        (32_767, 32_768, 8),
        (65_535, 65_535, 9),
        (100, 127, 10),
    ];
    let (mut entries, mut rows) = (Vec::new(), Vec::new());
    let mut prefixes = Vec::new();
    for (first, last, rule) in ranges {
        let identity = 400 + rule;
        let peer = 100 + rule as u8;
        prefixes.push((v4(peer), 32, identity));
        for protocol in [TCP, UDP, SCTP] {
            for (port, bits) in range(first, last) {
                entries.push(egress(
                    identity,
                    (protocol, port, bits),
                    (Verdict::Allow, rule),
                ));
            }
        }
        let ports = [
            first.checked_sub(1),
            Some(first),
            Some(last),
            last.checked_add(1),
        ];
        for port in ports.into_iter().flatten().chain([first.midpoint(last)]) {
            let is_in = (first..=last).contains(&port);
            let want = if is_in { allowed(rule) } else { DENIED };
            for protocol in [TCP, UDP, SCTP] {
                let what = format!("{protocol} port {port} of {first} to {last}");
                rows.push(sent(what, &out(v4(peer), protocol, port), want));
            }
        }
    }
    let mut topic = Topic::new(&entries, rows);
    topic.prefixes.extend(prefixes);
    topic
}

fn port_prefixes() -> Topic {
    let (mut entries, mut rows, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
    for bits in 1..=16u8 {
        let (identity, rule) = (400 + u32::from(bits), u32::from(bits));
        prefixes.push((v6(100 + u16::from(bits)), 128, identity));
        let size = 1u32 << (16 - bits);
        let first = 0xa5a5 / size * size;
        entries.push(egress(
            identity,
            (TCP, first as u16, bits),
            (Verdict::Allow, rule),
        ));
        for port in [
            first.checked_sub(1),
            Some(first),
            Some(first + size - 1),
            Some(first + size),
        ] {
            let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else {
                continue;
            };
            let is_in = (first..first + size).contains(&u32::from(port));
            let want = if is_in { allowed(rule) } else { DENIED };
            let packet = out(v6(100 + u16::from(bits)), TCP, port);
            rows.push(sent(format!("port {port}, {bits} bits"), &packet, want));
        }
    }
    let mut topic = Topic::new(&entries, rows);
    topic.prefixes.extend(prefixes);
    topic
}

/// Each length of a chain of prefixes has an identity with a rule of its own: the longest one that
/// holds the address decides.
fn address_prefixes() -> Topic {
    const BASE: u32 = 0xac10_aaaa; // 172.16.170.170
    const BASE_V6: u128 = 0x2001_0db8_aaaa_5555_aaaa_5555_aaaa_5555;
    let (mut entries, mut rows, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
    let mut add = |base: IpAddr, beside: IpAddr, bits: u8| {
        let rule = u32::from(bits) + if base.is_ipv4() { 1 } else { 100 };
        prefixes.push((base, bits, 1_000 + rule));
        entries.push(egress(1_000 + rule, (0, 0, 0), (Verdict::Allow, rule)));
        let want = By(Verdict::Allow, Match::L3Only, rule);
        rows.push(sent(
            format!("{beside} of {base}/{bits}"),
            &out(beside, TCP, 9),
            want,
        ));
    };
    for bits in 0..=32u8 {
        let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
        let next = 1u32.checked_shl(31 - u32::from(bits.min(31))).unwrap_or(0);
        let beside = if bits == 32 { BASE } else { BASE ^ next };
        add(
            Ipv4Addr::from(BASE & mask).into(),
            Ipv4Addr::from(beside).into(),
            bits,
        );
    }
    for bits in (0..=128u8).step_by(4).chain([1, 63, 65, 127]) {
        let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
        let next = 1u128 << (127 - bits.min(127));
        let beside = if bits == 128 { BASE_V6 } else { BASE_V6 ^ next };
        add(
            Ipv6Addr::from(BASE_V6 & mask).into(),
            Ipv6Addr::from(beside).into(),
            bits,
        );
    }
    let mut topic = Topic::new(&entries, rows);
    topic.prefixes = prefixes;
    topic
}
