//! Headers of every form: options, extension headers, fragments, frames cut short, and what is no IP
//! packet.

use bpf_redirect::Hook;
use bpf_redirect_common::{Drop, EXTENSION_HEADERS_MAX, Match, Verdict};

use crate::common::{out, v4};
use crate::table::Want::{By, Quiet, ToProxy, Unmatched};
use crate::table::*;

pub(crate) fn topics() -> Vec<Topic> {
    vec![
        ipv4_options(),
        extension_headers(),
        truncated(),
        frames(),
        fragments(),
    ]
}

#[test]
fn ports_are_found_behind_every_header_or_the_packet_is_dropped() {
    let mut kernel = Kernel::new();
    for topic in topics() {
        kernel.check(&topic);
    }
}

fn ipv4_options() -> Topic {
    let mut rows = Vec::new();
    for words in 0..=10 {
        // What stands in the options looks like a header to port 80, the real one goes to 81.
        let decoy = [0x9c, 0x40, 0x00, 0x50].repeat(words);
        let packet = server(TCP, 80).with(0, &decoy);
        rows.push(sent(
            format!("{words} words of options"),
            &packet,
            allowed(1),
        ));
        let packet = server(TCP, 81).with(0, &decoy);
        rows.push(sent(format!("{words} words, port 81"), &packet, DENIED));
    }
    for words in 0..5 {
        let mut frame = server(TCP, 80).bytes();
        frame[14] = 0x40 | words;
        let want = Want::Drop(Drop::InvalidPacket);
        rows.push(raw(format!("a header of {words} words"), frame, want));
    }
    for words in 12..=15 {
        let mut frame = server(TCP, 80).bytes();
        frame[14] = 0x40 | words;
        let want = Want::Drop(Drop::TruncatedHeader);
        rows.push(raw(format!("{words} words, and no more"), frame, want));
    }
    for version in (0..16).filter(|version| *version != 4) {
        let mut frame = server(TCP, 80).bytes();
        frame[14] = version << 4 | 5;
        rows.push(raw(
            format!("version {version}"),
            frame,
            Want::Drop(Drop::InvalidPacket),
        ));
    }
    Topic::new(&one_port(), rows)
}

/// An extension header of so many octets.
fn header(next: u8, octets: usize) -> Vec<u8> {
    let mut header = vec![0; octets];
    header[0] = next;
    header[1] = (octets / 8 - 1) as u8;
    header
}

/// An authentication header counts in words of four.
fn authentication(next: u8, octets: usize) -> Vec<u8> {
    let mut header = vec![0; octets];
    header[0] = next;
    header[1] = (octets / 4 - 2) as u8;
    header
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

fn extension_headers() -> Topic {
    let mut rows = Vec::new();
    for kind in [HOP_BY_HOP, ROUTING, DESTINATION] {
        for octets in [8, 16, 24, 256, 1_024] {
            for (port, want) in [(80, allowed(1)), (81, DENIED)] {
                let packet = server_v6(TCP, port).with(kind, &header(TCP, octets));
                rows.push(sent(
                    format!("{kind}, {octets} octets, {port}"),
                    &packet,
                    want,
                ));
            }
        }
    }
    for octets in [12, 16, 24, 44] {
        let packet = server_v6(UDP, 80).with(AUTHENTICATION, &authentication(UDP, octets));
        rows.push(sent(format!("AH, {octets} octets"), &packet, allowed(1)));
    }
    let atomic = server_v6(UDP, 80).with(FRAGMENT, &[UDP, 0, 0, 0, 0, 0, 0, 7]);
    rows.push(sent("the only fragment", &atomic, allowed(1)));
    // Up to the limit and beyond.
    for kind in [HOP_BY_HOP, ROUTING, DESTINATION, AUTHENTICATION, FRAGMENT] {
        for count in [2, EXTENSION_HEADERS_MAX, EXTENSION_HEADERS_MAX + 1, 20] {
            let one = |next| match kind {
                AUTHENTICATION => authentication(next, 12),
                FRAGMENT => vec![next, 0, 0, 0, 0, 0, 0, 7],
                _ => header(next, 8),
            };
            let mut chain = one(kind).repeat(count - 1);
            chain.extend(one(TCP));
            let want = match count > EXTENSION_HEADERS_MAX {
                true => Want::Drop(Drop::InvalidExtensionHeader),
                false => allowed(1),
            };
            let packet = server_v6(TCP, 80).with(kind, &chain);
            rows.push(sent(format!("{count} of {kind}"), &packet, want));
        }
    }
    let mixed = [
        header(DESTINATION, 16),
        header(ROUTING, 8),
        header(AUTHENTICATION, 24),
        authentication(TCP, 24),
    ];
    let packet = server_v6(TCP, 80).with(HOP_BY_HOP, &mixed.concat());
    rows.push(sent("one of each", &packet, allowed(1)));
    // What isn't walked is a protocol: mobility, HIP, shim6, ESP, none.
    for kind in [135, 139, 140, 50, 59] {
        let packet = server_v6(TCP, 80).with(kind, &header(TCP, 8));
        rows.push(sent(format!("{kind} isn't walked"), &packet, DENIED));
    }
    let mut long = server_v6(TCP, 80)
        .with(DESTINATION, &header(TCP, 8))
        .bytes();
    long[14 + 40 + 1] = 255;
    let want = Want::Drop(Drop::TruncatedHeader);
    rows.push(raw("a header longer than the packet", long, want));
    for version in (0..16).filter(|version| *version != 6) {
        let mut frame = server_v6(TCP, 80).bytes();
        frame[14] = version << 4;
        rows.push(raw(
            format!("v6 version {version}"),
            frame,
            Want::Drop(Drop::InvalidPacket),
        ));
    }
    Topic::new(&one_port(), rows)
}

/// From the end of the IP header on: a shorter packet the kernel doesn't run (`EINVAL`).
fn truncated() -> Topic {
    let mut rows = Vec::new();
    // Protocol, octets of its header that are read.
    for (protocol, needed) in [(TCP, 14), (UDP, 8), (SCTP, 8)] {
        for (packet, ip) in [(server(protocol, 80), 20), (server_v6(protocol, 80), 40)] {
            let whole = packet.bytes();
            for length in 14 + ip..=14 + ip + needed {
                let want = match length == 14 + ip + needed {
                    true => allowed(1),
                    false => Want::Drop(Drop::TruncatedHeader),
                };
                let what = format!("{protocol}, IP header of {ip}, {length} octets");
                rows.push(raw(what, whole[..length].to_vec(), want));
            }
        }
    }
    for (packet, ip) in [(server(ICMP, 8), 20), (server_v6(ICMPV6, 128), 40)] {
        for length in 14 + ip..14 + ip + 6 {
            let frame = packet.bytes()[..length].to_vec();
            rows.push(raw(
                format!("echo, {length} octets"),
                frame,
                Want::Drop(Drop::TruncatedHeader),
            ));
        }
    }
    let chain = [header(ROUTING, 8), header(TCP, 8)].concat();
    let whole = server_v6(TCP, 80).with(DESTINATION, &chain).bytes();
    for length in 54..54 + 16 + 14 {
        let reason = match length {
            ..66 => Drop::InvalidExtensionHeader,
            // The heads of both headers are there.
            _ => Drop::TruncatedHeader,
        };
        rows.push(raw(
            format!("a chain, {length} octets"),
            whole[..length].to_vec(),
            Want::Drop(reason),
        ));
    }
    Topic::new(&one_port(), rows)
}

// What is no IP packet, and what no policy is asked about.

fn frames() -> Topic {
    let mut rows = Vec::new();
    let kinds = [
        (0x0806, Quiet),
        (0x8100, Want::Drop(Drop::Vlan)),
        (0x88a8, Want::Drop(Drop::Vlan)),
        (0x9100, Want::Drop(Drop::UnsupportedL3)),
        (0x8035, Want::Drop(Drop::UnsupportedL3)),
        (0x8137, Want::Drop(Drop::UnsupportedL3)),
        (0x8847, Want::Drop(Drop::UnsupportedL3)),
        (0x8863, Want::Drop(Drop::UnsupportedL3)),
        (0x8864, Want::Drop(Drop::UnsupportedL3)),
        (0x888e, Want::Drop(Drop::UnsupportedL3)),
        (0x88cc, Want::Drop(Drop::UnsupportedL3)),
        (0x9000, Want::Drop(Drop::UnsupportedL3)),
        (0x0026, Want::Drop(Drop::UnsupportedL3)),
        (0x0000, Want::Drop(Drop::UnsupportedL3)),
    ];
    for (kind, want) in kinds {
        let mut frame = server(TCP, 80).bytes();
        frame[12..14].copy_from_slice(&u16::to_be_bytes(kind));
        for hook in [Hook::FromEndpoint, Hook::ToEndpoint] {
            let frame = frame.clone();
            let what = format!("{kind:#06x} at {hook:?}");
            rows.push(Row {
                what,
                hook,
                frame,
                want,
            });
        }
    }
    rows.push(sent("ICMPv6 135 in IPv4", &server(ICMPV6, 135), DENIED));
    Topic::new(&one_port(), rows)
}

fn fragments() -> Topic {
    let entries = [
        egress(SERVER, (UDP, 80, 16), (Verdict::Allow, 1)),
        egress(SERVER, (UDP, 53, 16), (Verdict::Redirect, 2)),
        egress(SERVER, (TCP, 53, 16), (Verdict::Redirect, 2)),
        egress(SERVER, (TCP, 0, 0), (Verdict::Allow, 3)),
        egress(WORLD, (0, 0, 0), (Verdict::Allow, 4)),
        egress(WORLD, (UDP, 53, 16), (Verdict::Deny, 5)),
        ingress(SERVER, (UDP, 80, 16), (Verdict::Allow, 6)),
    ];
    let fragment = Want::Drop(Drop::Fragment);
    let lost = Unmatched(Drop::FragmentNotFound);
    let (proto, all) = (
        By(Verdict::Allow, Match::L3Proto, 3),
        By(Verdict::Allow, Match::L3Only, 4),
    );
    let mut rows = Vec::new();
    // Field, whether it is the first part or a later one.
    for (field, part) in [
        (0x0000, 0),
        (0x4000, 0),
        (0x8000, 0),
        (0x2000, 1),
        (0x6000, 1),
        (0xa000, 1),
        (0x2001, 2),
        (0x0001, 2),
        (0x1fff, 2),
        (0x3fff, 2),
        (0x4001, 2),
    ] {
        let pick = |wants: [Want; 3]| wants[part];
        let mut row = |protocol, port, wants| {
            let packet = server(protocol, port).fragment(field);
            let what = format!("{protocol} {port}, fragment field {field:#06x}");
            rows.push(sent(what, &packet, pick(wants)));
        };
        row(UDP, 80, [allowed(1), allowed(1), lost]);
        row(UDP, 81, [DENIED, DENIED, lost]);
        row(UDP, 53, [ToProxy, fragment, lost]);
        row(
            TCP,
            53,
            [By(Verdict::Redirect, Match::L3L4, 2), fragment, proto],
        );
        row(TCP, 9, [proto, proto, proto]);
        let deny = By(Verdict::Deny, Match::L3L4, 5);
        let packet = out(v4(200), UDP, 53).fragment(field);
        let what = format!("denied port, fragment field {field:#06x}");
        rows.push(sent(what, &packet, pick([deny, deny, all])));
        let packet = into(v4(PEER), UDP, 80).fragment(field);
        let allow = By(Verdict::Allow, Match::L3L4, 6);
        let what = format!("in, fragment field {field:#06x}");
        rows.push(received(what, &packet, pick([allow, allow, lost])));
    }
    // No row continues another one's packet.
    for (id, row) in (1_u16..).zip(&mut rows) {
        row.frame[18..20].copy_from_slice(&id.to_be_bytes());
    }
    rows.extend(fragments_v6());
    Topic::new(&entries, rows)
}

fn fragments_v6() -> Vec<Row> {
    let fragment = Want::Drop(Drop::Fragment);
    let lost = Unmatched(Drop::FragmentNotFound);
    let proto = By(Verdict::Allow, Match::L3Proto, 3);
    let (mut rows, mut id) = (Vec::new(), 0);
    // Offset and "more" of an IPv6 fragment header, with two bits that nobody sets between them.
    for (field, part) in [
        (0, 0),
        (1, 1),
        (6, 0),
        (7, 1),
        (8, 2),
        (9, 2),
        (0xfff8, 2),
        (0xffff, 2),
    ] {
        let [high, low] = u16::to_be_bytes(field);
        let mut row = |protocol, port, wants: [Want; 3]| {
            id += 1;
            let head = [protocol, 0, high, low, 0, 0, 0, id];
            let packet = server_v6(protocol, port).with(FRAGMENT, &head);
            let what = format!("v6 {protocol} {port}, fragment field {field:#06x}");
            rows.push(sent(what, &packet, wants[part]));
        };
        row(UDP, 80, [allowed(1), allowed(1), lost]);
        row(UDP, 53, [ToProxy, fragment, lost]);
        row(TCP, 9, [proto, proto, proto]);
    }
    rows
}
