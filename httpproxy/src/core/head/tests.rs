//! Heads, whole and at every cut.

use super::request::{RequestHead, RequestReader};
use super::*;
use crate::core::framing::Framing;
use crate::testing::{Dice, check_corpus};

fn read(pieces: &[&[u8]]) -> Result<Option<RequestHead>, BadHead> {
    let mut reader = RequestReader::default();
    let mut buffer = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if let Some(head) = reader.read(&buffer)? {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

/// A head with these lines after its request line.
fn with(lines: &str) -> Vec<u8> {
    format!("GET /a HTTP/1.1\r\n{lines}\r\n").into_bytes()
}

fn check(sent: &[u8], expected: Result<Framing, BadHead>) {
    let name = String::from_utf8_lossy(&sent[..sent.len().min(80)]).into_owned();
    let found = |pieces: &[&[u8]]| {
        let head = read(pieces).map(|head| head.unwrap_or_else(|| panic!("{name}: incomplete")));
        head.map(|head| {
            assert_eq!(head.octets, sent.len(), "{name}");
            head.framing
        })
    };
    assert_eq!(found(&[sent, b"more"]), expected, "{name}");
    for cut in 1..sent.len().min(1500) {
        let (first, rest) = sent.split_at(cut);
        assert_eq!(found(&[first, rest, b""]), expected, "{name} cut at {cut}");
    }
}

#[rustfmt::skip]
fn rows() -> Vec<(Vec<u8>, Result<Framing, BadHead>)> {
    let none = Ok(Framing::Length(0));
    let host = |lines: &str| with(&format!("Host: a\r\n{lines}"));
    vec![
        (host(""), none),
        (host("A:b\r\nC: \t d\t \r\nE:\r\n"), none),
        (host("A: \x7f\r\n"), Err(BadHead::FieldValue(0x7f))),
        (host("A: b\rc\r\n"), Err(BadHead::FieldValue(b'\r'))),
        (host("A: b\0c\r\n"), Err(BadHead::FieldValue(0))),
        (host("A: b\r\n c\r\n"), Err(BadHead::Folded)),
        (host("A : b\r\n"), Err(BadHead::FieldName)),
        (host("A b\r\n"), Err(BadHead::NoColon)),
        (host(": b\r\n"), Err(BadHead::FieldName)),
        (host("A: b\n"), Err(BadHead::LineEnd)),
        (host("A(: b\r\n"), Err(BadHead::FieldName)),
        (host("Content-Length: 7\r\n"), Ok(Framing::Length(7))),
        (host("content-length: 9223372036854775807\r\n"), Ok(Framing::Length(i64::MAX as u64))),
        (host("Content-Length: 9223372036854775808\r\n"), Err(BadHead::Length)),
        (host("Content-Length: \r\n"), Err(BadHead::Length)),
        (host("Content-Length: -0\r\n"), Err(BadHead::Length)),
        (host("Content-Length: 2\r\nContent-Length: 2\r\n"), Err(BadHead::ManyLengths)),
        (host("Transfer-Encoding: cHunked\r\n"), Ok(Framing::Chunked)),
        (host("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n"), Err(BadHead::LengthAndEncoding)),
        (host("Transfer-Encoding:\r\n"), Err(BadHead::AmbiguousEncoding)),
        (host("Transfer-Encoding: chunked,\r\n"), Err(BadHead::AmbiguousEncoding)),
        (host("Transfer-Encoding: chunked, gzip\r\n"), Err(BadHead::AmbiguousEncoding)),
        (host("Transfer-Encoding: chunked, chunked\r\n"), Err(BadHead::AmbiguousEncoding)),
        (host("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), Err(BadHead::AmbiguousEncoding)),
        (host("Transfer-Encoding: gzip, chunked\r\n"), Err(BadHead::UnknownEncoding)),
        (host("Transfer-Encoding: identity\r\n"), Err(BadHead::UnknownEncoding)),
        (host("Connection: host\r\n"), Err(BadHead::Connection)),
        (host("Connection: close, Cookie\r\n"), Err(BadHead::Connection)),
        (host("Connection: a b\r\n"), Err(BadHead::Connection)),
        (host("Connection: close,, x\r\n"), none),
        (with(""), Err(BadHead::NoHost)),
        (b"GET /a HTTP/1.0\r\n\r\n".to_vec(), none),
        (b"GET /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), Err(BadHead::EncodingTooEarly)),
        (b"\r\n\r\nGET /a HTTP/1.0\r\n\r\n".to_vec(), none),
        (b"\nGET /a HTTP/1.0\r\n\r\n".to_vec(), Err(BadHead::StartLine)),
        (b"GET /a HTTP/1.0\n\n".to_vec(), Err(BadHead::LineEnd)),
        (b"GET /a HTTP/1.0\r\n\n".to_vec(), Err(BadHead::LineEnd)),
        (b"GET\t/a HTTP/1.0\r\n\r\n".to_vec(), Err(BadHead::StartLine)),
        (b"GET /a\r\n\r\n".to_vec(), Err(BadHead::StartLine)),
        (b"GET /a HTTP/1.1 \r\n\r\n".to_vec(), Err(BadHead::StartLine)),
        (b"GET  HTTP/1.1\r\n\r\n".to_vec(), Err(BadHead::StartLine)),
        (b"G@T /a HTTP/1.1\r\n\r\n".to_vec(), Err(BadHead::StartLine)),
        (b"GET /a HTTP/1.10\r\n\r\n".to_vec(), Err(BadHead::Version)),
        (b"GET /a HTTP/3.0\r\n\r\n".to_vec(), Err(BadHead::VersionNotSupported)),
        (b"GET /a HTTP/1.1\r\r\n\r\n".to_vec(), Err(BadHead::Version)),
    ]
}

#[test]
fn the_rows_are_the_corpus() {
    let rows = rows();
    let cases = rows.iter().map(|(sent, _)| ("head", &**sent));
    check_corpus("http_head", cases.clone());
    let and_next = rows
        .iter()
        .map(|(sent, _)| [&sent[..], &with("Host: a\r\n")].concat());
    let and_next: Vec<Vec<u8>> = and_next.collect();
    check_corpus(
        "http_connection",
        and_next.iter().map(|sent| ("requests", &**sent)),
    );
    check_corpus(
        "http_response",
        RESPONSES.iter().map(|sent| ("head", sent.as_bytes())),
    );
}

const RESPONSES: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
    "HTTP/1.0 304 Not Modified\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n",
    "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade, X\r\nX: 1\r\n\r\n",
    "HTTP/1.1 204 \r\n\r\n",
    "HTTP/1.1 200 OK\nContent-Length: 2\n\n",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: gzip\r\nTE: trailers\r\n\r\n",
];

/// What we accept, httparse accepts and reads alike; it may accept more.
#[test]
fn httparse_reads_the_same_wherever_we_read_something() {
    let mut dice = Dice(99);
    for (sent, _) in rows() {
        for round in 0..400 {
            let mut near = sent.clone();
            if round > 0 {
                dice.mutate(&mut near);
            }
            let mut reader = RequestReader::default();
            let Ok(Some(head)) = reader.read(&near) else {
                continue;
            };
            let name = String::from_utf8_lossy(&near).into_owned();
            let mut headers = [httparse::EMPTY_HEADER; FIELDS_MAX];
            let mut theirs = httparse::Request::new(&mut headers);
            let octets = theirs.parse(&near);
            assert_eq!(
                octets,
                Ok(httparse::Status::Complete(head.octets)),
                "{name}"
            );
            assert_eq!(
                theirs.method.map(str::as_bytes),
                Some(head.method.of(&near)),
                "{name}"
            );
            assert_eq!(
                theirs.path.map(str::as_bytes),
                Some(head.target.of(&near)),
                "{name}"
            );
            assert_eq!(theirs.headers.len(), reader.fields.len(), "{name}");
            for (field, header) in reader.fields.iter().zip(theirs.headers.iter()) {
                assert_eq!(field.name.of(&near), header.name.as_bytes(), "{name}");
                assert_eq!(field.value.of(&near), header.value, "{name}");
            }
        }
    }
}

#[test]
fn a_head_is_read_strictly_at_any_cut() {
    for (sent, expected) in rows() {
        check(&sent, expected);
    }
}

#[test]
fn a_head_is_bounded_in_each_way() {
    let line = |octets: usize| {
        let path = "a".repeat(octets - "GET / HTTP/1.1".len());
        format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
    };
    check(&line(START_LINE_OCTETS_MAX), Ok(Framing::Length(0)));
    check(
        &line(START_LINE_OCTETS_MAX + 1),
        Err(BadHead::StartLineTooLong),
    );
    let endless = vec![b'a'; START_LINE_OCTETS_MAX + 2];
    assert_eq!(read(&[&endless]), Err(BadHead::StartLineTooLong));

    let fields = |count: usize| with(&format!("Host: a\r\n{}", "A: 1\r\n".repeat(count - 1)));
    check(&fields(FIELDS_MAX), Ok(Framing::Length(0)));
    check(&fields(FIELDS_MAX + 1), Err(BadHead::TooManyFields));

    let name = |octets: usize| with(&format!("Host: a\r\n{}: 1\r\n", "n".repeat(octets)));
    check(
        &name(crate::limits::FIELD_NAME_OCTETS_MAX),
        Ok(Framing::Length(0)),
    );
    check(
        &name(crate::limits::FIELD_NAME_OCTETS_MAX + 1),
        Err(BadHead::FieldTooLong),
    );
    let value = |octets: usize| with(&format!("Host: a\r\nA: {}\r\n", "v".repeat(octets)));
    check(
        &value(crate::limits::FIELD_VALUE_OCTETS_MAX),
        Ok(Framing::Length(0)),
    );
    check(
        &value(crate::limits::FIELD_VALUE_OCTETS_MAX + 1),
        Err(BadHead::FieldTooLong),
    );

    let long = |octets: usize| {
        let mut lines = format!(
            "Host: a\r\n{}",
            format!("A: {}\r\n", "v".repeat(30_000)).repeat(2)
        );
        let rest = octets - with(&lines).len() - "A: \r\n".len();
        lines.push_str(&format!("A: {}\r\n", "v".repeat(rest)));
        with(&lines)
    };
    assert_eq!(long(HEAD_OCTETS_MAX).len(), HEAD_OCTETS_MAX);
    check(&long(HEAD_OCTETS_MAX), Ok(Framing::Length(0)));
    check(&long(HEAD_OCTETS_MAX + 1), Err(BadHead::TooLong));
    let endless = [&long(HEAD_OCTETS_MAX)[..HEAD_OCTETS_MAX - 2], b"A: endless"].concat();
    assert_eq!(read(&[&endless]), Err(BadHead::TooLong));

    let leading = |lines: usize| [&b"\r\n".repeat(lines)[..], &with("Host: a\r\n")].concat();
    check(&leading(LEADING_LINES_MAX), Ok(Framing::Length(0)));
    check(&leading(LEADING_LINES_MAX + 1), Err(BadHead::LeadingLines));
}
