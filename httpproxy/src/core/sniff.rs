//! What the first bytes of a connection are.

use super::bytes::is_token_byte;
use crate::limits::LEADING_LINES_MAX;

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// A TLS handshake record.
    Tls,
    /// The preface of HTTP/2 with prior knowledge, all of it.
    H2,
    /// What may be a request line.
    Http1,
    /// Nothing that a proxy for HTTP or TLS has to do with.
    Other,
    /// Too little to say: read on. At most 24 octets are needed.
    NeedMore,
}

/// How HTTP/2 begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Looks at a growing prefix of a connection. It never takes back what it said of a shorter one.
#[must_use]
pub fn sniff(prefix: &[u8]) -> Sniffed {
    if prefix.starts_with(PREFACE) {
        return Sniffed::H2;
    }
    if PREFACE.starts_with(prefix) {
        return Sniffed::NeedMore;
    }
    match prefix {
        [0x16] | [0x16, 3] => Sniffed::NeedMore,
        [0x16, 3, 0..=4, ..] => Sniffed::Tls,
        _ => http1(prefix, LEADING_LINES_MAX),
    }
}

/// Empty lines may stand before a request line.
fn http1(prefix: &[u8], lines: usize) -> Sniffed {
    match prefix {
        [] | [b'\r'] => Sniffed::NeedMore,
        [b'\r', b'\n', rest @ ..] if lines > 0 => http1(rest, lines - 1),
        [first, ..] if is_token_byte(*first) => Sniffed::Http1,
        _ => Sniffed::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_known_by_its_first_octets_at_any_cut() {
        for (sent, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Sniffed::Http1),
            (b"\r\nGET / HTTP/1.1\r\n", Sniffed::Http1),
            (b"PRI /x HTTP/1.1\r\n", Sniffed::Http1),
            (b"PRI * HTTP/1.1\r\n", Sniffed::Http1),
            (b"P", Sniffed::NeedMore),
            (b"PUT / HTTP/1.1\r\n", Sniffed::Http1),
            (PREFACE, Sniffed::H2),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Sniffed::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Sniffed::Http1),
            (b"\x16\x03\x01\x02\x00\x01", Sniffed::Tls),
            (b"\x16\x03\x03", Sniffed::Tls),
            (b"\x16\x03\x00", Sniffed::Tls),
            (b"\x16\x03", Sniffed::NeedMore),
            (b"\x16\x02\x00", Sniffed::Other),
            (b"\x15\x03\x01\x00\x02", Sniffed::Other),
            (b"\x80\x2e\x01\x03\x01", Sniffed::Other), // SSLv2
            (b"\x00\x00\x00\x01", Sniffed::Other),
            (b"\n", Sniffed::Other),
            (b" GET / HTTP/1.1\r\n", Sniffed::Other),
            (b"\rG", Sniffed::Other),
            (b"", Sniffed::NeedMore),
            (b"\xff\xfd\x18", Sniffed::Other), // telnet
        ] {
            let name = String::from_utf8_lossy(sent);
            assert_eq!(sniff(sent), expected, "{name}");
            for cut in 0..sent.len() {
                let early = sniff(&sent[..cut]);
                let holds = early == Sniffed::NeedMore || early == expected;
                assert!(holds, "{name} cut at {cut}: {early:?}");
            }
        }
    }

    #[test]
    fn empty_lines_before_a_request_are_bounded() {
        let lines = b"\r\n".repeat(LEADING_LINES_MAX);
        assert_eq!(sniff(&lines), Sniffed::NeedMore);
        assert_eq!(sniff(&[&lines[..], b"G"].concat()), Sniffed::Http1);
        assert_eq!(sniff(&[&lines[..], b"\r\nG"].concat()), Sniffed::Other);
    }
}
