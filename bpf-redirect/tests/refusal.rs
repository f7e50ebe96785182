//! A datagram where over TCP a name is needed: its sender gets it back in an ICMP error, and nobody else
//! sees it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

mod common;

use std::net::IpAddr;

use bpf_redirect::Hook;
use bpf_redirect_common::{
    EGRESS, INGRESS, Kind, Mark, PolicyKey, PolicyValue, REFUSAL_MAC, Verdict,
};
use common::{Bench, ENDPOINT, NEXT, Packet, REDIRECT, SHOT, entry, out, v4, v6};

const UDP: u8 = 17;
const ETH: usize = 14;

fn run(bench: &mut Bench, hook: Hook, frame: &[u8]) -> (i32, Vec<u8>) {
    let (code, frame, _) = bench.datapath.try_packet(hook, frame, 0).unwrap();
    (code, frame)
}

fn refusing() -> Bench {
    Bench::new(&[
        entry(0, UDP, 443, Verdict::Refuse),
        entry(0, 0, 0, Verdict::Allow),
    ])
}

/// A datagram with so many octets.
fn datagram(to: IpAddr, octets: usize) -> Vec<u8> {
    let mut frame = out(to, UDP, 443).bytes();
    frame.extend(vec![0xab; octets]);
    let length = u16::try_from(frame.len() - ETH).unwrap();
    if to.is_ipv4() {
        frame[ETH + 2..ETH + 4].copy_from_slice(&length.to_be_bytes());
    } else {
        frame[ETH + 4..ETH + 6].copy_from_slice(&(length - 40).to_be_bytes());
    }
    frame
}

/// The sum that a checksum makes 0xffff (RFC 1071).
fn sum(parts: &[&[u8]]) -> u16 {
    let octets = parts.concat();
    let words = octets
        .chunks(2)
        .map(|two| u32::from(two[0]) << 8 | u32::from(two[1]));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

#[test]
fn a_refused_datagram_comes_back_as_an_error_about_itself() {
    for (server, octets) in [(v4(3), 0), (v4(3), 1_200), (v6(3), 0), (v6(3), 1_200)] {
        let mut bench = refusing();
        let sent = datagram(server, octets);
        let (code, frame) = run(&mut bench, Hook::FromEndpoint, &sent);
        assert_eq!(code, REDIRECT);
        let mark = Mark::new(Kind::Client, ENDPOINT).unwrap();
        assert_eq!(
            (&frame[..6], &frame[6..12]),
            (&REFUSAL_MAC[..], &mark.to_mac()[..])
        );
        assert_eq!(bench.count("name-hidden"), 1);

        let (code, error) = run(&mut bench, Hook::GateIn, &frame);
        assert_eq!(code, REDIRECT);
        assert_eq!(bench.count("refused"), 1);
        assert_eq!(
            error[6..12],
            mark.to_mac(),
            "it goes back to whom it came from"
        );
        let (ip, quoted) = (if server.is_ipv4() { 20 } else { 40 }, &sent[ETH..]);
        let (header, message) = error[ETH..].split_at(ip);
        assert_eq!(message[8..], quoted[..ip + 8]);
        let address = |at: usize| match ip {
            20 => IpAddr::from(<[u8; 4]>::try_from(&header[at..at + 4]).unwrap()),
            _ => IpAddr::from(<[u8; 16]>::try_from(&header[at..at + 16]).unwrap()),
        };
        let (ends, pseudo) = if ip == 20 {
            assert_eq!(sum(&[header]), 0xffff);
            assert_eq!((header[9], &message[..2]), (1, &[3, 3][..]));
            assert_eq!(usize::from(header[3]), error.len() - ETH);
            ((address(12), address(16)), Vec::new())
        } else {
            assert_eq!((header[6], &message[..2]), (58, &[1, 4][..]));
            assert_eq!(usize::from(header[5]), message.len());
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            let pseudo = [&header[8..40], &length[..], &[0, 0, 0, 58][..]].concat();
            ((address(8), address(24)), pseudo)
        };
        let own = if server.is_ipv4() { v4(2) } else { v6(2) };
        assert_eq!(ends, (server, own));
        assert_eq!(sum(&[message, &pseudo]), 0xffff);
        // Where the datagram's checksum was still to be filled in, the kernel does that to the error.
        let mut filled = message.to_vec();
        let checksum = match !sum(&[message]) {
            0 => 0xffff,
            checksum => checksum,
        };
        filled[6..8].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(sum(&[&filled, &pseudo]), 0xffff);
    }
}

#[test]
fn what_can_not_be_answered_dies_and_nothing_of_it_stays_in_the_gate() {
    let mut bench = refusing();
    let options = out(v4(3), UDP, 443).with(0, &[1, 1, 1, 0]).bytes();
    let extended = out(v6(3), UDP, 443)
        .with(60, &[17, 0, 1, 4, 0, 0, 0, 0])
        .bytes();
    for sent in [options, extended] {
        let (code, frame) = run(&mut bench, Hook::FromEndpoint, &sent);
        assert_eq!(code, REDIRECT);
        assert_eq!(run(&mut bench, Hook::GateIn, &frame).0, SHOT);
    }
    // Whatever is said to be refused: no socket gets it.
    for protocol in [6, 17, 132] {
        for port in [53, 443, 20_000] {
            let mut frame = out(v4(3), protocol, port).bytes();
            frame[..6].copy_from_slice(&REFUSAL_MAC);
            for kind in [Kind::Client, Kind::Upstream] {
                let mark = Mark::new(kind, ENDPOINT).unwrap();
                frame[6..12].copy_from_slice(&mark.to_mac());
                assert_ne!(run(&mut bench, Hook::GateIn, &frame).0, NEXT);
            }
        }
    }
    let fragment = out(v4(3), UDP, 443).fragment(0x2000).bytes();
    assert_eq!(run(&mut bench, Hook::FromEndpoint, &fragment).0, SHOT);
}

#[test]
fn a_refusal_is_stronger_than_an_allow_and_weaker_than_a_proxy_or_a_denial() {
    for (other, code) in [
        (Verdict::AuditUnmatched, REDIRECT),
        (Verdict::Allow, REDIRECT),
        (Verdict::AuditDeny, REDIRECT),
        (Verdict::Redirect, REDIRECT),
        (Verdict::FailAuthentication, SHOT),
        (Verdict::Deny, SHOT),
    ] {
        let mut bench = Bench::new(&[entry(0, UDP, 443, Verdict::Refuse), entry(0, 0, 0, other)]);
        let (got, frame) = run(&mut bench, Hook::FromEndpoint, &datagram(v4(3), 9));
        assert_eq!(got, code, "{other:?}");
        let refused = other < Verdict::Refuse;
        assert_eq!(frame[..6] == REFUSAL_MAC, refused, "{other:?}");
    }
}

#[test]
fn inbound_it_only_dies() {
    let refuse = PolicyKey::new(INGRESS, 0, UDP, (443, 16));
    let open = PolicyKey::new(EGRESS, 0, 0, (0, 0));
    let mut bench = Bench::with(&[
        (refuse, PolicyValue::new(5, Verdict::Refuse)),
        (open, PolicyValue::new(0, Verdict::Allow)),
    ]);
    let packet = Packet::new(v4(3), v4(2), (UDP, 40_000, 443));
    assert_eq!(run(&mut bench, Hook::ToEndpoint, &packet.bytes()).0, SHOT);
    assert_eq!(bench.count("name-hidden"), 1);
}
