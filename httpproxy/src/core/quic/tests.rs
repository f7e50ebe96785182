//! Clients that are honest, and clients that are not.

mod connections;

use rustls::quic::Version;

use super::seal::Sealer;
use super::*;
use crate::limits::QUIC_CONNECTION_ID_OCTETS_MAX;
use crate::testing::{Dice, Hello, check_corpus};

const ORIGINAL: &[u8] = b"original";
const SERVERS: &[u8] = b"server's";

fn hello(name: &str) -> Vec<u8> {
    Hello::default().name(name.as_bytes()).message()
}

/// A CRYPTO frame.
fn crypto(at: usize, octets: &[u8]) -> Vec<u8> {
    let number = |number: usize| (u32::try_from(number).unwrap() | 0x8000_0000).to_be_bytes();
    [&[6][..], &number(at), &number(octets.len()), octets].concat()
}

fn client(version: Version) -> Sealer {
    Sealer::new(version, ORIGINAL)
}

fn named(name: &str) -> Heard {
    Heard::Hello(ClientHello {
        server_name: Some(name.to_owned()),
        ..ClientHello::default()
    })
}

/// A flow on which `a.test` is permitted, and its client, which knows the server's connection ID.
fn permitted() -> (QuicFlow, Sealer) {
    let (mut flow, mut client) = (QuicFlow::default(), client(Version::V1));
    let datagram = client.datagram(&crypto(0, &hello("a.test")));
    assert_eq!(flow.push(&datagram), named("a.test"));
    flow.permit();
    client.destination = SERVERS.to_vec();
    (flow, client)
}

/// A long packet that isn't opened.
fn other(client: &Sealer, kind: u8) -> Vec<u8> {
    [&client.head(kind)[..], &[0x40, 40], &[5; 40]].concat()
}

fn short() -> Vec<u8> {
    [&[0x47][..], SERVERS, &[9; 60]].concat()
}

/// What an ACK of the server's first packet is.
const ACK: &[u8] = &[2, 0, 0, 0, 0];

#[test]
fn the_packet_of_the_rfc_names_its_server() {
    // RFC 9001 §A.2: its payload is sealed here, and comes out as there: the seal is over all of it.
    let text = "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868\
        04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578\
        616d706c652e636f6dff01000100000a00080006001d00170018001000070005\
        04616c706e000500050100000000003300260024001d00209370b2c9caa47fba\
        baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400\
        0d0010000e0403050306030203080408050806002d00020101001c0002400100\
        3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000\
        75300901100f088394c8f03e51570806048000ffff";
    let octet = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    let mut frames: Vec<u8> = (0..text.len()).step_by(2).map(octet).collect();
    frames.resize(1162, 0);
    let original = b"\x83\x94\xc8\xf0\x3e\x51\x57\x08";
    let head = [b"\xc3\0\0\0\x01\x08", &original[..], b"\0\0\x44\x9e"].concat();
    let mut sealer = Sealer::new(Version::V1, original);
    sealer.number = 2;
    let datagram = sealer.seal([head, vec![0, 0, 0, 2]].concat(), 18, &frames);
    let datagram = datagram.unwrap();
    assert_eq!(datagram.len(), 1200);
    assert_eq!(
        datagram[..34],
        *b"\xc0\0\0\0\x01\x08\x83\x94\xc8\xf0\x3e\x51\x57\x08\0\0\x44\x9e\x7b\x9a\xec\x34\
          \xd1\xb1\xc9\x8d\xd7\x68\x9f\xb8\xec\x11\xd2\x42"
    );
    let seal = b"\xe2\x21\xaf\x44\x86\0\x18\xab\x08\x56\x97\x2e\x19\x4c\xd9\x34";
    assert!(datagram.ends_with(seal));
    let expected = ClientHello {
        server_name: Some("example.com".to_owned()),
        alpn: vec![b"alpn".to_vec()],
        ech: false,
    };
    assert_eq!(QuicFlow::default().push(&datagram), Heard::Hello(expected));
}

#[test]
fn both_versions_are_read_and_one_goes_on_in_the_other() {
    for (version, other) in [(Version::V1, Version::V2), (Version::V2, Version::V1)] {
        let (mut flow, mut client) = (QuicFlow::default(), client(version));
        let datagram = client.datagram(&crypto(0, &hello("A.test")));
        assert_eq!(flow.push(&datagram), named("a.test"));
        flow.permit();
        assert_eq!(flow.push(&datagram), Heard::Pass);
        // RFC 9369 §4.1: the server has chosen the other version.
        client.version = other;
        client.destination = SERVERS.to_vec();
        assert_eq!(flow.push(&client.datagram(ACK)), Heard::Pass);
        let second = client.datagram(&crypto(hello("a.test").len(), &hello("evil.test")));
        assert_eq!(flow.push(&second), Heard::Drop(BadQuic::SecondHello));
    }
}

#[test]
fn a_hello_in_any_pieces_is_one_hello() {
    let message = hello("a.test");
    let mut dice = Dice(3);
    for _ in 0..100 {
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < message.len() {
            let end = (at + 6 + dice.below(20)).min(message.len());
            let before = at - dice.below(at.min(5) + 1);
            let between: &[u8] = [&[0, 0][..], &[1], ACK, &[]][dice.below(4)];
            pieces.push([between, &crypto(before, &message[before..end])].concat());
            at = end;
        }
        for index in (1..pieces.len()).rev() {
            pieces.swap(index, dice.below(index + 1));
        }
        let (mut flow, mut client) = (QuicFlow::default(), client(Version::V1));
        let (last, first) = pieces.split_last().unwrap();
        for piece in first.chunks(1 + dice.below(first.len())) {
            assert_eq!(flow.push(&client.datagram(&piece.concat())), Heard::Hold);
        }
        assert_eq!(flow.push(&client.datagram(last)), named("a.test"));
    }
}

#[test]
fn a_hello_of_two_datagrams_waits_for_both_in_each_order() {
    let message = Hello::default().padded(1_500).name(b"a.test").message();
    let (start, end) = message.split_at(1_000);
    for turn in [false, true] {
        let (mut flow, mut client) = (QuicFlow::default(), client(Version::V1));
        let mut datagrams = [(0, start), (1_000, end)].map(|(at, octets)| {
            let frame = crypto(at, octets);
            client.datagram(&frame)
        });
        if turn {
            datagrams.reverse();
        }
        assert_eq!(flow.push(&datagrams[0]), Heard::Hold);
        // It is said again, and what may come before the answer.
        assert_eq!(flow.push(&datagrams[0]), Heard::Hold);
        assert_eq!(flow.push(&other(&client, 1)), Heard::Hold);
        assert_eq!(flow.push(&datagrams[1]), named("a.test"));
        // Nobody has judged yet.
        for datagram in [&datagrams[0], &other(&client, 1), &short()] {
            assert_eq!(flow.push(datagram), Heard::Hold);
        }
        flow.permit();
        for datagram in [&datagrams[1], &other(&client, 2), &short()] {
            assert_eq!(flow.push(datagram), Heard::Pass);
        }
    }
}

#[test]
fn what_is_said_again_is_what_was_judged() {
    let (mut flow, mut client) = permitted();
    let again = client.datagram(&crypto(20, &hello("a.test")[20..]));
    assert_eq!(flow.push(&again), Heard::Pass);
    // What went on may have been lost.
    let evil = client.datagram(&crypto(0, &hello("b.test")));
    assert_eq!(flow.push(&evil), Heard::Drop(BadQuic::Conflict));
    // Whoever does so has lied.
    assert_eq!(flow.push(&again), Heard::Drop(BadQuic::Conflict));
    assert_eq!(flow.push(&short()), Heard::Drop(BadQuic::Conflict));
    // The same in one packet.
    let both = [crypto(0, &hello("a.test")), crypto(0, &hello("b.test"))].concat();
    let datagram = self::client(Version::V1).datagram(&both);
    let heard = QuicFlow::default().push(&datagram);
    assert_eq!(heard, Heard::Drop(BadQuic::Conflict));
}

#[test]
fn packets_in_one_datagram_are_all_read() {
    let message = hello("a.test");
    let early = |client: &Sealer| other(client, 1);
    for cut in [0, 30] {
        let (mut flow, mut client) = (QuicFlow::default(), client(Version::V1));
        let (start, end) = message.split_at(cut);
        let first = client.packet(&[crypto(0, start), vec![0; 30]].concat());
        let second = client.datagram(&crypto(cut, end));
        let datagram = [early(&client), first, early(&client), second, short()].concat();
        assert_eq!(flow.push(&datagram), named("a.test"));
    }
    // Of different destinations (RFC 9000 §12.2).
    let mut client = client(Version::V1);
    let mut one = client.datagram(&crypto(0, &message));
    let mut other = Sealer::new(Version::V1, b"other one");
    one.extend(other.packet(&[&crypto(0, &hello("evil.test"))[..], &[0; 30]].concat()));
    let heard = QuicFlow::default().push(&one);
    assert_eq!(heard, Heard::Drop(BadQuic::Malformed));
    // Of one destination, and two connections.
    let (mut flow, mut client) = permitted();
    let mut new = Sealer::new(Version::V1, SERVERS);
    let evil = new.datagram(&crypto(0, &hello("evil.test")));
    let both = [client.datagram(ACK), evil].concat();
    assert_eq!(flow.push(&both), Heard::Drop(BadQuic::Malformed));
}

#[test]
fn a_second_hello_names_the_same_server() {
    let (first, same) = (hello("a.test"), Hello::default().name(b"A.test").padded(9));
    let same = same.message();
    let after = first.len();
    let (mut flow, mut client) = permitted();
    let start = client.datagram(&crypto(after, &same[..40]));
    assert_eq!(flow.push(&start), Heard::Hold);
    assert_eq!(flow.push(&short()), Heard::Hold);
    let end = client.datagram(&crypto(after + 40, &same[40..]));
    assert_eq!(flow.push(&end), Heard::Pass);
    assert_eq!(flow.push(&short()), Heard::Pass);
    // Beyond it there is nothing.
    let third = client.datagram(&crypto(after + same.len(), &same));
    assert_eq!(flow.push(&third), Heard::Drop(BadQuic::Trailing));

    let second = |octets: &[u8], at| {
        let (mut flow, mut client) = permitted();
        flow.push(&client.datagram(&crypto(at, octets)))
    };
    assert_eq!(second(&same, after), Heard::Pass);
    assert_eq!(second(&same, after + 1), Heard::Hold);
    let other = hello("b.test");
    assert_eq!(second(&other, after), Heard::Drop(BadQuic::SecondHello));
    let none = Hello::default().message();
    assert_eq!(second(&none, after), Heard::Drop(BadQuic::SecondHello));
    let finished = BadQuic::Hello(BadHello::MessageType(20));
    assert_eq!(second(&[20, 0, 0, 0], after), Heard::Drop(finished));
    // A first one and a gap, or more.
    for at in [after, after + 9] {
        let both = [crypto(0, &first), crypto(at, &same)].concat();
        let datagram = self::client(Version::V1).datagram(&both);
        let heard = QuicFlow::default().push(&datagram);
        assert_eq!(heard, Heard::Drop(BadQuic::Trailing));
    }
    let (mut flow, mut client) = (QuicFlow::default(), self::client(Version::V1));
    let datagram = client.datagram(&crypto(0, &first));
    assert_eq!(flow.push(&datagram), named("a.test"));
    let datagram = client.datagram(&crypto(after, &same));
    assert_eq!(flow.push(&datagram), Heard::Drop(BadQuic::Trailing));
}

#[test]
fn a_flow_begins_with_an_initial_of_a_known_version() {
    let heard = |datagram: &[u8]| QuicFlow::default().push(datagram);
    let mut client = client(Version::V1);
    for datagram in [short(), other(&client, 1), other(&client, 2), Vec::new()] {
        assert_eq!(heard(&datagram), Heard::Drop(BadQuic::NotInitial));
    }
    let good = client.datagram(&crypto(0, &hello("a.test")));
    for version in [2, 0xff00_001d, 0x5130_3530, 0x0a0a_0a0a_u32] {
        let mut unknown = good.clone();
        unknown[1..5].copy_from_slice(&version.to_be_bytes());
        assert_eq!(heard(&unknown), Heard::Drop(BadQuic::UnknownVersion));
        let behind = [&good[..], &unknown].concat();
        assert_eq!(heard(&behind), Heard::Drop(BadQuic::UnknownVersion));
        let (mut flow, _) = permitted();
        assert_eq!(flow.push(&unknown), Heard::Drop(BadQuic::UnknownVersion));
    }
    let mut negotiation = good.clone();
    negotiation[1..5].fill(0);
    assert_eq!(heard(&negotiation), Heard::Drop(BadQuic::Malformed));
    for version in [Version::V1, Version::V2] {
        let retry = other(&self::client(version), 3);
        assert_eq!(heard(&retry), Heard::Drop(BadQuic::Malformed));
    }
    // Its version says which keys it has.
    let mut other = good;
    other[0] = other[0] & 0xcf | 0x10;
    other[1..5].copy_from_slice(&0x6b33_43cf_u32.to_be_bytes());
    assert_eq!(heard(&other), Heard::Drop(BadQuic::Sealed));
}

#[test]
fn a_bit_that_a_server_may_ignore_hides_no_hello() {
    let mut client = client(Version::V1);
    let mut head = client.head(0);
    head[0] &= !0x40;
    head.extend_from_slice(&[0, 0x44, 0xa0]);
    let number_at = head.len();
    head.extend_from_slice(&[0; 4]);
    let mut frames = crypto(0, &hello("a.test"));
    frames.resize(0x4a0 - 20, 0);
    let datagram = client.seal(head, number_at, &frames).unwrap();
    assert_eq!(QuicFlow::default().push(&datagram), named("a.test"));
}

#[test]
fn no_part_and_no_flaw_of_a_datagram_passes() {
    let mut client = client(Version::V1);
    let good = client.datagram(&crypto(0, &hello("a.test")));
    let good = [&good[..], &other(&client, 1)].concat();
    for octets in 0..good.len() {
        let heard = QuicFlow::default().push(&good[..octets]);
        let is_whole = octets == 1_200;
        assert_eq!(heard == named("a.test"), is_whole, "{octets}");
        assert!(is_whole || matches!(heard, Heard::Drop(_)), "{octets}");
    }
    for at in 0..1_200 {
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        let heard = QuicFlow::default().push(&flipped);
        assert!(matches!(heard, Heard::Drop(_)), "{at}: {heard:?}");
        let is_in_the_seal = at >= 30;
        assert!(
            !is_in_the_seal || heard == Heard::Drop(BadQuic::Sealed),
            "{at}"
        );
        let (mut flow, _) = permitted();
        let heard = flow.push(&flipped);
        assert!(matches!(heard, Heard::Drop(_)), "{at}: {heard:?}");
    }
    let mut dice = Dice(11);
    for _ in 0..2_000 {
        let mut near = good.clone();
        dice.mutate(&mut near);
        assert_ne!(QuicFlow::default().push(&near), Heard::Pass);
    }
}

#[test]
fn small_datagrams_hold_no_initial() {
    let mut client = client(Version::V1);
    let frames = [crypto(0, &hello("a.test")), vec![0; 50]].concat();
    let packet = client.packet(&frames);
    let short = vec![0; 1_199 - packet.len()];
    let datagram = [&packet[..], &short].concat();
    let heard = QuicFlow::default().push(&datagram);
    assert_eq!(heard, Heard::Drop(BadQuic::TooShort));
    let datagram = [&datagram[..], &[0]].concat();
    assert_eq!(QuicFlow::default().push(&datagram), named("a.test"));
    let (mut flow, mut client) = permitted();
    let ack = client.packet(&[ACK, &[0; 20]].concat());
    assert_eq!(flow.push(&ack), Heard::Drop(BadQuic::TooShort));
}

#[test]
fn other_frames_are_refused() {
    for kind in [4, 5, 7, 8, 0x18, 0x1d, 0x1e, 0x30] {
        let datagram = client(Version::V1).datagram(&[kind]);
        let heard = QuicFlow::default().push(&datagram);
        assert_eq!(heard, Heard::Drop(BadQuic::Malformed), "{kind}");
        let (mut flow, mut client) = permitted();
        let heard = flow.push(&client.datagram(&[kind]));
        assert_eq!(heard, Heard::Drop(BadQuic::Malformed), "{kind}");
    }
    let mut client = client(Version::V1);
    let mut head = client.head(0);
    head[0] |= 4; // reserved
    head.extend_from_slice(&[0, 0x44, 0xa0]);
    let number_at = head.len();
    head.extend_from_slice(&[0; 4]);
    let datagram = client.seal(head, number_at, &[0; 0x4a0 - 20]).unwrap();
    let heard = QuicFlow::default().push(&datagram);
    assert_eq!(heard, Heard::Drop(BadQuic::Malformed));
}

#[test]
fn lengths_that_lie_are_malformed() {
    let heard = |datagram: &[u8]| QuicFlow::default().push(datagram);
    let client = client(Version::V1);
    let rest = [7; 1_300];
    let initial = |rest: &[&[u8]]| [&[client.head(0)][..], &[rest.concat()]].concat().concat();
    for lie in [
        initial(&[&[0x7f, 0xff], &rest]),    // the token's
        initial(&[&[0xff; 8], &rest]),       // the same
        initial(&[&[0, 0x45, 0x15], &rest]), // the packet's
        initial(&[&[0, 19], &rest[..19]]),   // shorter than its sample
        initial(&[&[0]]),
    ] {
        assert_eq!(heard(&lie), Heard::Drop(BadQuic::Malformed));
    }
    let long = [7; QUIC_CONNECTION_ID_OCTETS_MAX + 1];
    let mut sealer = Sealer::new(Version::V1, &long);
    let datagram = sealer.datagram(&crypto(0, &hello("a.test")));
    assert_eq!(heard(&datagram), Heard::Drop(BadQuic::Malformed));
    for octets in [0, 1, 7, QUIC_CONNECTION_ID_OCTETS_MAX] {
        let mut sealer = Sealer::new(Version::V1, &long[..octets]);
        let datagram = sealer.datagram(&crypto(0, &hello("a.test")));
        assert_eq!(heard(&datagram), named("a.test"));
    }
}

#[test]
fn a_flow_has_bounds() {
    let heard = |frames: &[u8]| QuicFlow::default().push(&client(Version::V1).datagram(frames));
    let long = crypto(QUIC_CRYPTO_OCTETS_MAX - 1, &[1]);
    assert_eq!(heard(&long), Heard::Hold);
    let long = crypto(QUIC_CRYPTO_OCTETS_MAX - 1, &[1, 2]);
    assert_eq!(heard(&long), Heard::Drop(BadQuic::TooLong));
    let pieces = |count| -> Vec<u8> {
        let all = (0..count).map(|piece| crypto(1 + piece * 2, &[1]));
        all.flatten().collect()
    };
    assert_eq!(heard(&pieces(QUIC_SEGMENTS_MAX)), Heard::Hold);
    let scattered = pieces(QUIC_SEGMENTS_MAX + 1);
    assert_eq!(heard(&scattered), Heard::Drop(BadQuic::TooScattered));
    let mut client = client(Version::V1);
    let early = other(&client, 1);
    for (packets, is_fit) in [(QUIC_PACKETS_MAX - 1, true), (QUIC_PACKETS_MAX, false)] {
        let datagram = client.datagram(&crypto(0, &hello("a.test")));
        let datagram = [datagram, early.repeat(packets)].concat();
        let expected = match is_fit {
            true => named("a.test"),
            false => Heard::Drop(BadQuic::TooManyPackets),
        };
        assert_eq!(QuicFlow::default().push(&datagram), expected);
    }
}

#[test]
fn a_hello_that_is_wrong_is_refused_for_good() {
    let wrong = Hello::default().name(b"a.test").name(b"b.test").message();
    let (mut flow, mut client) = (QuicFlow::default(), client(Version::V1));
    let reason = BadQuic::Hello(BadHello::RepeatedExtension);
    let datagram = client.datagram(&crypto(0, &wrong));
    assert_eq!(flow.push(&datagram), Heard::Drop(reason));
    flow.permit();
    assert_eq!(flow.push(&short()), Heard::Drop(reason));
}

#[test]
fn packet_numbers_are_followed() {
    let (mut flow, mut client) = permitted();
    client.number = u32::MAX - 1;
    for _ in 0..2 {
        assert_eq!(flow.push(&client.datagram(ACK)), Heard::Pass);
    }
}

#[test]
fn what_rustls_says_is_read() {
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    for version in [Version::V1, Version::V2] {
        let mut config = config.clone();
        config.alpn_protocols = vec![b"h3".to_vec()];
        let name = "Shop.Test".try_into().unwrap();
        let mut tls =
            rustls::quic::ClientConnection::new(config.into(), version, name, vec![1, 2, 0x40, 9])
                .unwrap();
        let mut message = Vec::new();
        assert!(tls.write_hs(&mut message).is_none());
        let (mut flow, mut client) = (QuicFlow::default(), client(version));
        let (start, end) = message.split_at(100);
        assert_eq!(flow.push(&client.datagram(&crypto(100, end))), Heard::Hold);
        let Heard::Hello(hello) = flow.push(&client.datagram(&crypto(0, start))) else {
            panic!("no hello");
        };
        assert_eq!(hello.server_name.as_deref(), Some("shop.test"));
        assert_eq!(hello.alpn, [b"h3"]);
    }
}

#[test]
fn datagrams_and_frames_are_the_corpus() {
    let message = hello("a.test");
    let whole = crypto(0, &message);
    let (start, end) = (crypto(0, &message[..50]), crypto(50, &message[50..]));
    let evil = crypto(0, &hello("evil.test"));
    let second = crypto(message.len(), &message);
    // As the door reads them: what kind of packet, how long, its frames.
    let packets = |packets: &[(u8, &[u8])]| -> Vec<u8> {
        let packet = |(flags, frames): &(u8, &[u8])| {
            let octets = u16::try_from(frames.len()).unwrap().to_be_bytes();
            [&[*flags][..], &octets, frames].concat()
        };
        packets.iter().flat_map(packet).collect()
    };
    let close = [0x1c, 0x41, 0x28, 6, 2, b'n', b'o'];
    let cases = [
        ("v1", client(Version::V1).datagram(&whole)),
        ("v2", client(Version::V2).datagram(&whole)),
        ("permitted", packets(&[(4, &whole), (6, ACK), (7, ACK)])),
        ("two packets", packets(&[(0, &end), (4, &start), (4, &end)])),
        (
            "second hello",
            packets(&[(4, &whole), (6, &second), (6, ACK)]),
        ),
        ("another name later", packets(&[(4, &whole), (6, &evil)])),
        (
            "another connection",
            packets(&[(4, &whole), (12, &evil), (6, ACK)]),
        ),
        (
            "not permitted",
            packets(&[(0, &whole), (0, ACK), (8, &evil)]),
        ),
        ("closed", packets(&[(4, &whole), (6, &close)])),
    ];
    let cases = cases.iter().map(|(case, bytes)| (*case, &bytes[..]));
    check_corpus("quic_initial", cases);
}
