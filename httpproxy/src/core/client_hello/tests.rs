//! ClientHellos octet by octet, each at every cut, beside what rustls makes of them.

use super::*;
use crate::testing::{Dice, Hello, check_corpus, records};

type Expected = Result<(Option<&'static str>, bool), Option<BadHello>>;

/// What the reader makes of bytes that come in pieces; `Err(None)`: not TLS.
fn read(bytes: &[u8], piece: usize) -> Option<Result<ClientHello, Option<BadHello>>> {
    let mut reader = ClientHelloReader::default();
    for bytes in bytes.chunks(piece.max(1)) {
        reader.push(bytes);
    }
    end_of(&reader)
}

fn end_of(reader: &ClientHelloReader) -> Option<Result<ClientHello, Option<BadHello>>> {
    match reader.state() {
        HelloState::Incomplete => None,
        HelloState::NotTls => Some(Err(None)),
        HelloState::Malformed(reason) => Some(Err(Some(reason))),
        HelloState::Hello(hello) => Some(Ok(hello.clone())),
    }
}

/// What rustls says: the name, or that it refuses.
fn rustls(bytes: &[u8]) -> Option<Result<Option<String>, ()>> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return Some(Err(()));
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                return Some(Ok(hello.server_name().map(str::to_owned)));
            }
            Ok(None) => {}
            Err(_) => return Some(Err(())),
        }
    }
    None
}

fn named(name: &str) -> Hello {
    Hello::default().name(name.as_bytes())
}

#[rustfmt::skip]
#[expect(clippy::too_many_lines, reason = "one row a line")]
fn rows() -> Vec<(&'static str, Vec<u8>, Expected)> {
    let name = Ok((Some("a.test"), false));
    let bad = |reason| Err(Some(reason));
    let long = |length: usize| {
        let mut name = "a.".repeat(length / 2 + 1);
        name.truncate(length);
        named(&name).one_record()
    };
    let twice = Hello::default().name(b"a.test").name(b"a.test");
    let entry = b"\0\0\x06a.test";
    let two = Hello::default().extension(0, &[&[0, 18][..], entry, entry].concat());
    let other_type = [&[0, 18, 1][..], &entry[1..], entry].concat();
    let lies = Hello::default().extension(0, &[&[0, 200][..], entry].concat());
    let grease = Hello::default().extension(0x2a2a, b"").name(b"a.test");
    let ech = named("a.test").extension(0xfe0d, &[0; 200]);
    let shares = named("a.test").extension(51, &[7; 1300]);
    let version_3_0 = records(&named("a.test").message(), 16_384, [3, 0]);
    let empty_first = [&[0x16, 3, 1, 0, 0][..], &named("a.test").one_record()].concat();
    let followed = [named("a.test").message(), vec![1]].concat();
    vec![
        ("T01", named("a.test").one_record(), name),
        ("T02", named("A.TEST").one_record(), name),
        ("T03", named("a.test.").one_record(), name),
        (
            "T04",
            Hello::default().extension(11, b"\x01\0").one_record(),
            Ok((None, false)),
        ),
        ("T05", named("10.0.0.1").one_record(), Ok((None, false))),
        ("T06", named("").one_record(), bad(BadHello::Name)),
        ("T07", two.one_record(), bad(BadHello::NameList)),
        ("T08", twice.one_record(), bad(BadHello::RepeatedExtension)),
        (
            "T09",
            Hello::default().extension(0, &other_type).one_record(),
            bad(BadHello::NameList),
        ),
        (
            "T11",
            records(&named("a.test").message(), 50, [3, 1]),
            name,
        ),
        (
            "T12",
            records(&named("a.test").message(), 1, [3, 1]),
            name,
        ),
        ("T13", shares.one_record(), name),
        ("T14", grease.one_record(), name),
        ("T15", ech.one_record(), Ok((Some("a.test"), true))),
        (
            "T16",
            named("a.test").padded(15 << 10).one_record(),
            name,
        ),
        (
            "T17",
            named("a.test").padded(20 << 10).one_record(),
            name,
        ),
        (
            "T18",
            Hello::default().name(b"\xc3\xa9.test").one_record(),
            bad(BadHello::Name),
        ),
        (
            "T19",
            Hello::default().name(b"a\0.test").one_record(),
            bad(BadHello::Name),
        ),
        (
            "T20",
            named("_a.test").one_record(),
            Ok((Some("_a.test"), false)),
        ),
        ("T21", named("*.test").one_record(), bad(BadHello::Name)),
        ("T22", lies.one_record(), bad(BadHello::Length)),
        ("T23", Hello::bare().one_record(), Ok((None, false))),
        ("T24", version_3_0, name),
        (
            "T25",
            b"\x80\x2e\x01\x03\x01\0\x15\0\0\0\x10".to_vec(),
            Err(None),
        ),
        (
            "T26",
            b"\x15\x03\x01\0\x02\x01\0".to_vec(),
            bad(BadHello::RecordType(0x15)),
        ),
        ("T28", long(255), bad(BadHello::Name)),
        ("T29", long(321), bad(BadHello::Name)),
        ("T30", empty_first, bad(BadHello::EmptyRecord)),
        (
            "longest name",
            long(SERVER_NAME_OCTETS_MAX),
            Ok((None, false)),
        ), // the name is below
        (
            "longest label",
            named(&"l".repeat(LABEL_OCTETS_MAX + 1)).one_record(),
            bad(BadHello::Name),
        ),
        (
            "empty label",
            named("a..test").one_record(),
            bad(BadHello::Name),
        ),
        ("a dot", named(".").one_record(), bad(BadHello::Name)),
        ("IPv6", named("::1").one_record(), bad(BadHello::Name)),
        ("plain HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Err(None)),
        (
            "another message",
            records(&[2, 0, 0, 0], 9, [3, 1]),
            bad(BadHello::MessageType(2)),
        ),
        (
            "more in the record",
            records(&followed, 16_384, [3, 1]),
            bad(BadHello::Trailing),
        ),
        (
            "no ALPN",
            named("a.test").extension(16, &[0, 0]).one_record(),
            bad(BadHello::Alpn),
        ),
        ("version 4", b"\x16\x04\x01\0\x01\x01".to_vec(), Err(None)),
    ]
}

#[test]
fn a_hello_names_its_server_at_any_cut() {
    for (id, bytes, expected) in rows() {
        let check = |found: Option<Result<ClientHello, Option<BadHello>>>, cut: &str| {
            let found = found.unwrap_or_else(|| panic!("{id} {cut}: incomplete"));
            let found = found.map(|hello| (hello.server_name, hello.ech));
            if id == "longest name" {
                let length = found.expect(id).0.map(|name| name.len());
                assert_eq!(length, Some(SERVER_NAME_OCTETS_MAX));
                return;
            }
            let expected = expected.map(|(name, ech)| (name.map(str::to_owned), ech));
            assert_eq!(found, expected, "{id} {cut}");
        };
        check(read(&bytes, bytes.len()), "whole");
        check(read(&bytes, 1), "octet by octet"); // T10
        for cut in 1..bytes.len() {
            let mut reader = ClientHelloReader::default();
            let (first, rest) = bytes.split_at(cut);
            let early = matches!(reader.push(first), HelloState::Hello(_));
            assert!(!early, "{id}: complete at {cut}");
            reader.push(rest);
            check(end_of(&reader), &format!("cut at {cut}"));
        }
    }
}

#[test]
fn rustls_reads_no_other_name() {
    for (id, bytes, _) in rows() {
        compare(id, &bytes);
    }
    let mut dice = Dice(7);
    for (id, bytes, _) in rows() {
        for _ in 0..if bytes.len() > 2000 { 20 } else { 300 } {
            let mut near = bytes.clone();
            dice.mutate(&mut near);
            compare(id, &near);
        }
    }
}

/// Where we read a name, rustls reads the same or refuses; what it accepts and we refuse is no loss.
fn compare(id: &str, bytes: &[u8]) {
    let (Some(Ok(ours)), Some(Ok(theirs))) = (read(bytes, bytes.len()), rustls(bytes)) else {
        return;
    };
    assert_eq!(ours.server_name, theirs, "{id}: {bytes:x?}");
}

#[test]
fn protocols_are_told_in_their_order_and_bounded() {
    let list = |count: u8| {
        let items: Vec<u8> = (0..count).flat_map(|number| [1, number]).collect();
        let length = u16::try_from(items.len()).unwrap().to_be_bytes();
        named("a.test")
            .extension(16, &[&length[..], &items].concat())
            .one_record()
    };
    let most = u8::try_from(ALPN_PROTOCOLS_MAX).unwrap();
    let hello = read(&list(most), 7).unwrap().unwrap();
    assert!(
        hello.alpn.iter().map(Vec::as_slice).eq((0..most)
            .map(|number| [number])
            .collect::<Vec<_>>()
            .iter()
            .map(<[u8; 1]>::as_slice))
    );
    assert_eq!(read(&list(most + 1), 7), Some(Err(Some(BadHello::Alpn))));
    let bytes = named("a.test")
        .extension(16, b"\0\x0c\x02h2\x08http/1.1")
        .one_record();
    let hello = read(&bytes, 1).unwrap().unwrap();
    assert_eq!(hello.alpn, [&b"h2"[..], b"http/1.1"]);
}

#[test]
fn a_hello_is_bounded_as_a_message_and_on_the_wire() {
    let message = |length: usize| {
        let hello = named("a.test");
        let rest = length - hello.message().len() - 4;
        hello.extension(21, &vec![0; rest]).message()
    };
    let most = message(HELLO_OCTETS_MAX - 32);
    let bytes = records(&most, RECORD_OCTETS_MAX, [3, 1]);
    assert!(bytes.len() <= HELLO_WIRE_OCTETS_MAX);
    assert!(matches!(read(&bytes, 1460), Some(Ok(_))));
    // The same in small records has too many octets.
    let bytes = records(&most, 100, [3, 1]);
    assert_eq!(read(&bytes, 1460), Some(Err(Some(BadHello::TooLong))));
    let head = [
        &[0x16, 3, 1, 0, 4, 1][..],
        &(HELLO_OCTETS_MAX as u32).to_be_bytes()[1..],
    ]
    .concat();
    assert_eq!(read(&head, 99), Some(Err(Some(BadHello::TooLong))));
    let long = u16::try_from(RECORD_OCTETS_MAX + 1).unwrap().to_be_bytes();
    let head = [&[0x16, 3, 1][..], &long].concat();
    let too_long = BadHello::RecordTooLong(RECORD_OCTETS_MAX + 1);
    assert_eq!(read(&head, 99), Some(Err(Some(too_long))));
}

#[test]
fn the_rows_are_the_corpus() {
    let rows = rows();
    check_corpus(
        "client_hello",
        rows.iter().map(|(id, bytes, _)| (*id, &**bytes)),
    );
}
