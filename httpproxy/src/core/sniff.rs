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

/// How far a line was looked at that may become a request line: nothing of it is looked at twice, however
/// small the pieces are in which it comes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Looked {
    blanks: usize,
    word: usize,
    /// Octets behind the word in which there is neither an end of the line nor a version.
    rest: usize,
}

/// The same of what may be anything: all that some server could take for TLS or a request is said to be
/// that, however it is written, and whoever reads it then refuses what isn't. `Other` is what none could.
/// `looked` is that of the shorter prefixes of the same connection.
#[must_use]
pub fn sniff_anything(prefix: &[u8], looked: &mut Looked) -> Sniffed {
    if prefix.starts_with(PREFACE) {
        return Sniffed::H2;
    }
    if PREFACE.starts_with(prefix) {
        return Sniffed::NeedMore;
    }
    match prefix {
        // Servers don't look at the version of the first record (RFC 8446 §5.1).
        [0x16, ..] | [0x14..=0x18, 3, ..] => Sniffed::Tls,
        [0x14..=0x18] => Sniffed::NeedMore,
        // An SSL 2 hello for TLS, which names no server.
        [0x80..=0xff, _, 1, 3, 0..=4, ..] | [0x80..=0xff, _, 1, 0, 2, ..] => Sniffed::Tls,
        [0x80..=0xff] | [0x80..=0xff, _] | [0x80..=0xff, _, 1] | [0x80..=0xff, _, 1, 0 | 3] => {
            Sniffed::NeedMore
        }
        _ => request_line(prefix, looked),
    }
}

/// Whether a text begins with a request line: a word and a blank, and `HTTP/` in the same line. A GET did
/// without it once.
fn request_line(prefix: &[u8], looked: &mut Looked) -> Sniffed {
    let after = |octets: usize| prefix.get(octets..).unwrap_or_default();
    let more = after(looked.blanks).iter();
    looked.blanks += more.take_while(|byte| is_blank(**byte)).count();
    let more = after(looked.blanks + looked.word).iter();
    looked.word += more.take_while(|byte| is_token_byte(**byte)).count();
    let (word, rest) = after(looked.blanks)
        .split_at_checked(looked.word)
        .unwrap_or_default();
    match rest.first() {
        None if looked.blanks > 0 || !word.is_empty() => Sniffed::NeedMore,
        Some(byte) if !word.is_empty() && is_blank(*byte) && !matches!(*byte, b'\r' | b'\n') => {
            // A version may have begun in what was looked at.
            let from = looked.rest.saturating_sub(VERSION.len() - 1);
            let new = rest.get(from..).unwrap_or_default();
            let end = new.iter().position(|byte| *byte == b'\n');
            let line = new.get(..end.unwrap_or(new.len())).unwrap_or_default();
            looked.rest = rest.len();
            let mut parts = line.windows(VERSION.len());
            let is_request = word.eq_ignore_ascii_case(b"GET")
                || parts.any(|part| part.eq_ignore_ascii_case(VERSION));
            match (is_request, end) {
                (true, _) => Sniffed::Http1,
                (false, None) => Sniffed::NeedMore,
                (false, Some(_)) => Sniffed::Other,
            }
        }
        Some(_) | None => Sniffed::Other,
    }
}

const VERSION: &[u8] = b"HTTP/";

/// What somebody takes for white space, before a request and between its parts.
const fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | 0x1c..=0x1f | b' ' | 0x85 | 0xa0)
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
    fn whatever_a_server_could_take_for_tls_or_a_request_is_said_to_be_one() {
        use Sniffed::{H2, Http1, NeedMore, Other, Tls};
        for (sent, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Http1),
            (b"get / http/1.1\n", Http1),
            (b"GET /\r\n", Http1),
            (b"GET\t/", Http1),
            (b"\n \r\x0b\x85GET / HTTP/1.1\r\n", Http1),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Http1),
            (b"X-1!~ \xff HTTP/9", Http1),
            (b"POST /a\rb HTTP/1.1", Http1),
            (PREFACE, H2),
            (b"POST /", NeedMore),
            (b"HELLO", NeedMore),
            (b"\r\n", NeedMore),
            (b"", NeedMore),
            (b"OPTIONS rtsp://a/b RTSP/1.0\r\n", Other),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Other),
            (b"SSH-2.0-x\n", Other),
            (b"EHLO a.test\r\n", Other),
            (b"QUIT\r\nGET / HTTP/1.1\r\n", Other),
            (b"*1\r\n$4\r\nPING\r\n", Other),
            (b"{\"a\": \"HTTP/1.1\"}", Other),
            (b"\x16\x03\x01\x02\x00\x01", Tls),
            (b"\x16\x0f\xff", Tls),
            (b"\x15\x03\x01\x00\x02", Tls),
            (b"\x14\x03\x03\x00\x01\x01", Tls),
            (b"\x80\x2e\x01\x03\x01", Tls),
            (b"\x80\x2e\x01\x00\x02", Tls),
            (b"\xff\xfd\x18", Other),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Other), // PostgreSQL
            (b"\x10\x0c\x00\x04MQTT", Other),
            (b"\x13BitTorrent protocol", Other),
        ] {
            let name = String::from_utf8_lossy(sent);
            let at_once = |sent: &[u8]| sniff_anything(sent, &mut Looked::default());
            assert_eq!(at_once(sent), expected, "{name:?}");
            let mut looked = Looked::default();
            for cut in 0..=sent.len() {
                let early = at_once(&sent[..cut]);
                let holds = early == NeedMore || early == expected;
                assert!(holds, "{name:?} cut at {cut}: {early:?}");
                // What was looked at before changes nothing.
                let piece = sniff_anything(&sent[..cut], &mut looked);
                assert_eq!(piece, early, "{name:?} by octets, {cut}");
                if piece != NeedMore {
                    break;
                }
            }
            assert!(sniff(sent) != Tls || expected == Tls, "{name:?}");
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
