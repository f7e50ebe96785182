//! A second ClientHello: after a HelloRetryRequest (RFC 8446 §4.1.4) a client says one more, and it
//! must name the same server.

use super::{ClientHelloReader, HelloState};
use crate::limits::HELLO_WIRE_OCTETS_MAX;

/// Follows what a client says after its first ClientHello.
#[derive(Debug)]
pub(crate) struct SecondHello {
    /// What the first one named.
    server_name: Option<String>,
    reader: ClientHelloReader,
    /// The head of the record that is being read.
    head: Vec<u8>,
    /// Octets of the record that are still to come.
    left: usize,
    /// The beginning of the handshake message.
    start: Vec<u8>,
    octets: usize,
    /// Of them those before its first record.
    before: usize,
}

/// What is to be done with what was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    /// It may go.
    Pass,
    /// It waits for more: it may be the beginning of a ClientHello.
    Hold,
    /// It may go, and so may whatever follows.
    Over,
    /// It names another server, or is malformed.
    Cut,
}

const HANDSHAKE: u8 = 22;
/// Change of cipher, which is said for show, an alert, and early data that the server doesn't take.
const SKIPPED: [u8; 3] = [20, 21, 23];

/// By which a ClientHello is known: its kind, a length that servers take (OpenSSL up to 131,396 octets) and its
/// version. An encrypted message looks so once in a billion times.
const SHAPE_OCTETS: usize = 6;

impl SecondHello {
    pub(crate) fn new(server_name: Option<&str>) -> Self {
        Self {
            server_name: server_name.map(str::to_owned),
            reader: ClientHelloReader::default(),
            head: Vec::new(),
            left: 0,
            start: Vec::new(),
            octets: 0,
            before: 0,
        }
    }

    /// Takes the next octets.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Follow {
        while let [first, ..] = bytes {
            let taken = match (self.left, self.head.is_empty()) {
                // Nothing may stand between the records of one message (RFC 8446 §5.1).
                (0, true) if *first != HANDSHAKE && self.start.len() == SHAPE_OCTETS => {
                    return Follow::Cut;
                }
                (0, true) if *first != HANDSHAKE && !SKIPPED.contains(first) => {
                    return Follow::Over;
                }
                (0, _) => self.take_head(bytes),
                _ => match self.take_payload(bytes) {
                    Ok(taken) => taken,
                    Err(end) => return end,
                },
            };
            self.octets += taken;
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        let has_begun = !self.start.is_empty();
        match has_begun || self.head.first() == Some(&HANDSHAKE) {
            // As the first one.
            true if has_begun && self.octets - self.before > HELLO_WIRE_OCTETS_MAX => Follow::Cut,
            true => Follow::Hold,
            false if self.octets > HELLO_WIRE_OCTETS_MAX => Follow::Over,
            false => Follow::Pass,
        }
    }

    fn take_head(&mut self, bytes: &[u8]) -> usize {
        let wanted = 5 - self.head.len();
        let taken = bytes.get(..wanted).unwrap_or(bytes);
        self.head.extend_from_slice(taken);
        if let [_, _, _, high, low] = *self.head.as_slice() {
            self.left = usize::from(u16::from_be_bytes([high, low]));
            if self.left == 0 {
                self.head.clear();
            }
        }
        taken.len()
    }

    fn take_payload(&mut self, bytes: &[u8]) -> Result<usize, Follow> {
        let taken = bytes.get(..self.left).unwrap_or(bytes);
        self.left -= taken.len();
        let result = match self.head.first() {
            Some(&HANDSHAKE) => self.read(taken),
            _ => Ok(()),
        };
        if self.left == 0 {
            self.head.clear();
        }
        result.map(|()| taken.len())
    }

    /// Reads octets of a handshake record.
    fn read(&mut self, payload: &[u8]) -> Result<(), Follow> {
        if self.start.is_empty() {
            self.before = self.octets;
        }
        let wanted = SHAPE_OCTETS.saturating_sub(self.start.len());
        self.start.extend(payload.iter().take(wanted));
        // Another message: there was no HelloRetryRequest. Or an encrypted one, which looks like anything.
        if !matches!(
            self.start[..],
            [1] | [1, 0..=2]
                | [1, 0..=2, _]
                | [1, 0..=2, _, _]
                | [1, 0..=2, _, _, 3]
                | [1, 0..=2, _, _, 3, 3]
        ) {
            return Err(Follow::Over);
        }
        match self.reader.push_message(payload) {
            HelloState::Incomplete => Ok(()),
            HelloState::Hello(hello) if hello.server_name == self.server_name => Err(Follow::Over),
            HelloState::Malformed(_) if self.start.len() < SHAPE_OCTETS => Ok(()),
            HelloState::Hello(_) | HelloState::NotTls | HelloState::Malformed(_) => {
                Err(Follow::Cut)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Hello, records};

    const CHANGE: &[u8] = &[20, 3, 3, 0, 1, 1];
    const EARLY: &[u8] = &[23, 3, 3, 0, 3, 9, 9, 9];

    /// Pushed in one piece, octet by octet, and cut at every place.
    fn check(said: &[u8], expected: Follow) {
        for cut in 0..=said.len() {
            let mut second = SecondHello::new(Some("a.test"));
            let (first, then) = said.split_at(cut);
            let early = second.push(first);
            let end = match early {
                Follow::Over | Follow::Cut => early,
                Follow::Pass | Follow::Hold => second.push(then),
            };
            assert_eq!(end, expected, "cut at {cut}: {said:02x?}");
        }
        let mut second = SecondHello::new(Some("a.test"));
        let mut ends = said.chunks(1).map(|octet| second.push(octet));
        let end = ends.find(|end| matches!(end, Follow::Over | Follow::Cut));
        let is_end = matches!(expected, Follow::Over | Follow::Cut);
        assert_eq!(end, is_end.then_some(expected), "{said:02x?}");
    }

    #[test]
    fn a_second_hello_names_the_same_server_or_the_connection_is_cut() {
        let hello = |name: &[u8]| Hello::default().name(name);
        let same = hello(b"A.test").one_record();
        check(&same, Follow::Over);
        check(&[CHANGE, &same].concat(), Follow::Over);
        check(&[EARLY, CHANGE, &same].concat(), Follow::Over);
        check(
            &records(&hello(b"a.test").message(), 1, [3, 3]),
            Follow::Over,
        );
        let other = hello(b"evil.test").one_record();
        check(&other, Follow::Cut);
        check(&[CHANGE, EARLY, &other].concat(), Follow::Cut);
        check(
            &records(&hello(b"evil.test").message(), 7, [3, 3]),
            Follow::Cut,
        );
        check(&Hello::default().one_record(), Follow::Cut);
        check(&hello(b"a.test").name(b"a.test").one_record(), Follow::Cut);
        check(&same[..same.len() - 1], Follow::Hold);
    }

    #[test]
    fn however_long_it_is_and_in_whatever_pieces_it_comes_it_is_judged() {
        let end_of = |said: &[u8], piece| {
            let mut second = SecondHello::new(Some("a.test"));
            let mut ends = said.chunks(piece).map(|octets| second.push(octets));
            ends.find(|end| matches!(end, Follow::Over | Follow::Cut))
        };
        let long = |name: &[u8], octets| Hello::default().name(name).padded(octets);
        for octets in [11_000, 60_000] {
            for piece in [1, 7, 1_400] {
                let same = long(b"a.test", octets).one_record();
                assert_eq!(end_of(&same, piece), Some(Follow::Over), "{octets} {piece}");
                let other = long(b"evil.test", octets).one_record();
                assert_eq!(end_of(&other, piece), Some(Follow::Cut), "{octets} {piece}");
            }
        }
        // Records of one octet: more than is read of the first one.
        let many = records(&long(b"a.test", 20_000).message(), 1, [3, 3]);
        assert_eq!(end_of(&many, 1_400), Some(Follow::Cut));
        // It says that it is longer than the first one may be.
        check(&[22, 3, 3, 0, 6, 1, 1, 0, 0, 3, 3], Follow::Cut);
        // Another record within it.
        let cut = records(&long(b"a.test", 0).message(), 7, [3, 3]);
        check(&[&cut[..24], EARLY, &cut[24..]].concat(), Follow::Cut);
    }

    #[test]
    fn a_handshake_without_one_goes_its_way() {
        // TLS 1.3: what follows is encrypted.
        check(&[CHANGE, EARLY, EARLY].concat(), Follow::Pass);
        // TLS 1.2: a key, or at once an encrypted end, which looks like anything.
        check(&[22, 3, 3, 0, 4, 16, 0, 0, 0], Follow::Over);
        let end = |octets: [u8; 5]| [CHANGE, &[22, 3, 3, 0, 5], &octets].concat();
        check(&end([0, 0, 0, 0, 0]), Follow::Over);
        check(&end([1, 0, 0, 40, 7]), Follow::Over);
        // No TLS at all.
        check(b"GET / HTTP/1.1\r\n", Follow::Over);
    }

    #[test]
    fn what_comes_late_is_not_looked_at() {
        let mut second = SecondHello::new(None);
        let record = [&[23, 3, 3, 0x40, 0][..], &[0; 0x4000]].concat();
        let octets = HELLO_WIRE_OCTETS_MAX / record.len();
        for _ in 0..octets {
            assert_eq!(second.push(&record), Follow::Pass);
        }
        assert_eq!(second.push(&record), Follow::Over);
    }
}
