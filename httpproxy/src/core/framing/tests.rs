//! Bodies, whole and at every cut.

use super::*;

/// What comes out of a body that comes in pieces, and what of the input was not its own.
fn pass(
    framing: Framing,
    written: Written,
    pieces: &[&[u8]],
) -> Result<(Vec<u8>, Vec<u8>), BadBody> {
    let mut body = Body::new(framing, written);
    let (mut out, mut rest) = (Buffer::default(), Vec::new());
    let mut got = Vec::new();
    for piece in pieces {
        let mut at = 0;
        while at < piece.len() && !body.is_done() {
            at += body.pass(&piece[at..], &mut out)?;
            got.extend_from_slice(out.bytes());
            out.clear();
        }
        rest.extend_from_slice(&piece[at..]);
    }
    if !body.is_done() {
        body.end()?;
    }
    Ok((got, rest))
}

/// What is sent, and what is passed on.
type Row = (&'static [u8], Result<&'static [u8], BadBody>);

/// Passes it whole and at every single cut, and octet by octet, with the same result.
fn check(sent: &[u8], written: Written, expected: &Result<&[u8], BadBody>) {
    let name = String::from_utf8_lossy(&sent[..sent.len().min(80)]).into_owned();
    let follows = [sent, b"NEXT"].concat();
    let with_next = expected.map(|bytes| (bytes.to_vec(), b"NEXT".to_vec()));
    let found = pass(Framing::Chunked, written, &[&follows]);
    assert_eq!(found, with_next, "{name}");
    let single: Vec<&[u8]> = follows.chunks(1).collect();
    assert_eq!(
        pass(Framing::Chunked, written, &single),
        with_next,
        "{name}"
    );
    for cut in 0..sent.len().min(2000) {
        let (first, rest) = follows.split_at(cut);
        let found = pass(Framing::Chunked, written, &[first, rest]);
        assert_eq!(found, with_next, "{name} cut at {cut}");
    }
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    (b"2\r\nab\r\n0\r\n\r\n", Ok(b"2\r\nab\r\n0\r\n\r\n")),
    (b"0\r\n\r\n", Ok(b"0\r\n\r\n")),
    (b"2;a=b\r\nab\r\n0;x=\"y\"\r\n\r\n", Ok(b"2\r\nab\r\n0\r\n\r\n")), // F19
    (b"2;a\nb\r\nab\r\n0\r\n\r\n", Err(BadBody::LineEnd)), // F20
    (b"2\nab\r\n0\r\n\r\n", Err(BadBody::LineEnd)), // F21
    (b"0x2\r\nab\r\n0\r\n\r\n", Err(BadBody::ChunkSize)), // F22
    (b"2 \r\nab\r\n0\r\n\r\n", Ok(b"2\r\nab\r\n0\r\n\r\n")), // F23
    (b"2 \t;a\r\nab\r\n0\r\n\r\n", Ok(b"2\r\nab\r\n0\r\n\r\n")),
    (b"2 3\r\nab\r\n0\r\n\r\n", Err(BadBody::ChunkSize)),
    (b"00000000000000002\r\nab\r\n0\r\n\r\n", Ok(b"2\r\nab\r\n0\r\n\r\n")), // F24
    (b"10000000000000002\r\nab\r\n0\r\n\r\n", Err(BadBody::ChunkTooLarge)), // F25
    (b"8000000000000000\r\nab", Err(BadBody::ChunkTooLarge)),
    (b"2\r\nabXX0\r\n\r\n", Err(BadBody::ChunkEnd)), // F26
    (b"2\r\nab\n0\r\n\r\n", Err(BadBody::ChunkEnd)),
    (b"2\r\nab\rX0\r\n\r\n", Err(BadBody::ChunkEnd)),
    (b"2\r\nab\r\n0\r\nX-T: 1\r\nContent-Length: 9\r\n\r\n", Ok(b"2\r\nab\r\n0\r\nX-T: 1\r\n\r\n")), // F27
    (b"0\r\nTransfer-Encoding: x\r\nHost: e\r\ncookie: a\r\nA:\r\n\r\n", Ok(b"0\r\nA:\r\n\r\n")),
    (b"0\r\nX T: 1\r\n\r\n", Err(BadBody::Trailer(BadHead::FieldName))),
    (b"0\r\nX-T\r\n\r\n", Err(BadBody::Trailer(BadHead::NoColon))),
    (b"0\r\n X: 1\r\n\r\n", Err(BadBody::Trailer(BadHead::Folded))),
    (b"0\r\nX: 1\n\r\n", Err(BadBody::LineEnd)),
    (b"\r\nab\r\n0\r\n\r\n", Err(BadBody::ChunkSize)),
    (b";a\r\n\r\n", Err(BadBody::ChunkSize)),
    (b"-1\r\n\r\n", Err(BadBody::ChunkSize)),
    (b"+2\r\nab\r\n0\r\n\r\n", Err(BadBody::ChunkSize)),
    (b" 2\r\nab\r\n0\r\n\r\n", Err(BadBody::ChunkSize)),
    (b"2\r\rab\r\n0\r\n\r\n", Err(BadBody::LineEnd)),
    (b"2;a\0\r\nab\r\n0\r\n\r\n", Err(BadBody::Extension(0))),
    (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
        Ok(b"a\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n")),
];

#[test]
fn the_rows_are_the_corpus() {
    crate::testing::check_corpus("http_chunked", ROWS.iter().map(|(sent, _)| ("body", *sent)));
}

#[test]
fn a_chunked_body_is_written_anew_with_the_same_chunks() {
    for (sent, expected) in ROWS {
        check(sent, Written::AsFramed, expected);
        check(sent, Written::Nothing, &expected.map(|_| &b""[..]));
    }
    let joined = b"2;a=b\r\nab\r\n3\r\ncde\r\n0\r\nX: 1\r\n\r\n";
    check(joined, Written::Joined, &Ok(b"abcde"));
}

#[test]
fn extensions_sizes_and_trailers_are_bounded() {
    let tail = b"\r\na\r\n0\r\n\r\n";
    let extended = |octets: usize| [b"1;", &vec![b'x'; octets - 1][..], tail].concat();
    check(
        &extended(CHUNK_EXTENSION_OCTETS_MAX),
        Written::AsFramed,
        &Ok(b"1\r\na\r\n0\r\n\r\n"),
    );
    let too_long = Err(BadBody::ExtensionTooLong);
    check(
        &extended(CHUNK_EXTENSION_OCTETS_MAX + 1),
        Written::AsFramed,
        &too_long,
    );
    let spaces = [b"1", &vec![b' '; CHUNK_EXTENSION_OCTETS_MAX + 1][..], tail].concat();
    check(&spaces, Written::AsFramed, &too_long);
    let many = b"1;0123456789\r\na\r\n".repeat(BODY_EXTENSION_OCTETS_MAX / 10 + 1);
    assert_eq!(
        pass(Framing::Chunked, Written::AsFramed, &[&many]),
        Err(BadBody::ExtensionTooLong)
    );
    let digits = |count: usize| [&vec![b'0'; count - 1][..], b"1", tail].concat();
    check(
        &digits(CHUNK_SIZE_DIGITS_MAX),
        Written::AsFramed,
        &Ok(b"1\r\na\r\n0\r\n\r\n"),
    );
    check(
        &digits(CHUNK_SIZE_DIGITS_MAX + 1),
        Written::AsFramed,
        &Err(BadBody::ChunkTooLarge),
    );

    let trailers = |count: usize| [b"0\r\n", &b"A: 1\r\n".repeat(count)[..], b"\r\n"].concat();
    let most = trailers(TRAILERS_MAX);
    check(&most, Written::AsFramed, &Ok(&most));
    check(
        &trailers(TRAILERS_MAX + 1),
        Written::AsFramed,
        &Err(BadBody::TrailersTooLong),
    );
    let long = [
        b"0\r\nA: ",
        &vec![b'x'; TRAILER_OCTETS_MAX][..],
        b"\r\n\r\n",
    ]
    .concat();
    let found = pass(Framing::Chunked, Written::AsFramed, &[&long]);
    assert_eq!(found, Err(BadBody::TrailersTooLong));
}

#[test]
fn a_body_ends_where_its_framing_says() {
    let framed = |framing, sent: &[u8]| pass(framing, Written::AsFramed, &[sent]);
    let parts = |a: &[u8], b: &[u8]| Ok((a.to_vec(), b.to_vec()));
    assert_eq!(framed(Framing::Length(3), b"abcd"), parts(b"abc", b"d"));
    assert_eq!(framed(Framing::Length(0), b"abcd"), parts(b"", b"abcd"));
    assert_eq!(framed(Framing::Length(5), b"abcd"), Err(BadBody::Cut));
    assert_eq!(framed(Framing::UntilEnd, b"abcd"), parts(b"abcd", b""));
    assert_eq!(framed(Framing::Chunked, b"2\r\nab"), Err(BadBody::Cut));
    assert_eq!(
        framed(Framing::Chunked, b"2\r\nab\r\n0\r\n"),
        Err(BadBody::Cut)
    );
}

#[test]
fn no_more_is_passed_than_a_slow_reader_may_hold() {
    let mut body = Body::new(Framing::UntilEnd, Written::AsFramed);
    let mut out = Buffer::default();
    let sent = vec![1; 3 * BODY_BUFFER_OCTETS_MAX];
    assert_eq!(body.pass(&sent, &mut out), Ok(BODY_BUFFER_OCTETS_MAX));
    assert_eq!(body.pass(&sent, &mut out), Ok(0));
    out.take(10);
    assert_eq!(body.pass(&sent, &mut out), Ok(10));
}
