//! The octets of CRYPTO frames, put where they belong (RFC 9000 §7.5, §19.6).

use std::ops::Range;

use super::BadQuic;
use super::frames::Crypto;
use crate::limits::{QUIC_CRYPTO_OCTETS_MAX, QUIC_SEGMENTS_MAX};

/// All that a client said in the Initials of a connection.
///
/// It stays for as long as the flow: what goes on may be lost on its way, and what is then said again
/// must be what was judged.
#[derive(Default)]
pub(super) struct CryptoStream {
    octets: Vec<u8>,
    /// Which of them came: in order, none of them touching the next.
    came: Vec<Range<usize>>,
}

impl CryptoStream {
    /// Puts the octets of a frame; what came before must be the same.
    pub(super) fn put(&mut self, frame: Crypto<'_>) -> Result<(), BadQuic> {
        let at = usize::try_from(frame.at).map_err(|_| BadQuic::TooLong)?;
        let end = at.saturating_add(frame.octets.len());
        if end > QUIC_CRYPTO_OCTETS_MAX {
            return Err(BadQuic::TooLong);
        }
        if frame.octets.is_empty() {
            return Ok(());
        }
        for old in &self.came {
            let both = old.start.max(at)..old.end.min(end);
            let again = frame
                .octets
                .get(both.start - at..both.end.saturating_sub(at));
            let is_apart = both.start >= both.end;
            if !is_apart && self.octets.get(both) != again {
                return Err(BadQuic::Conflict);
            }
        }
        if end > self.octets.len() {
            self.octets.resize(end, 0);
        }
        if let Some(place) = self.octets.get_mut(at..end) {
            place.copy_from_slice(frame.octets);
        }
        self.note(at..end)
    }

    fn note(&mut self, new: Range<usize>) -> Result<(), BadQuic> {
        let before = self.came.partition_point(|old| old.end < new.start);
        let touched = self.came.partition_point(|old| old.start <= new.end);
        let of_touched = self.came.get(before..touched).unwrap_or_default();
        let start = of_touched.first().map_or(new.start, |old| old.start);
        let end = of_touched.last().map_or(new.end, |old| old.end);
        let joined = start.min(new.start)..end.max(new.end);
        self.came.splice(before..touched, [joined]);
        match self.came.len() > QUIC_SEGMENTS_MAX {
            true => Err(BadQuic::TooScattered),
            false => Ok(()),
        }
    }

    /// How many octets there are from the start without a gap.
    pub(super) fn whole(&self) -> usize {
        let first = self.came.first().filter(|first| first.start == 0);
        first.map_or(0, |first| first.end)
    }

    /// Those from a place up to the first gap.
    pub(super) fn from(&self, at: usize) -> &[u8] {
        self.octets.get(at..self.whole()).unwrap_or_default()
    }

    /// Where the last octet ends.
    pub(super) const fn end(&self) -> usize {
        self.octets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Dice;

    fn put(stream: &mut CryptoStream, at: usize, octets: &[u8]) -> Result<(), BadQuic> {
        stream.put(Crypto {
            at: at as u64,
            octets,
        })
    }

    #[test]
    fn pieces_in_any_order_make_one_text() {
        let text: Vec<u8> = (0..200).collect();
        let mut dice = Dice(7);
        for _ in 0..200 {
            let mut stream = CryptoStream::default();
            let mut has = [false; 200];
            while stream.whole() < text.len() {
                let at = dice.below(text.len());
                let end = (at + dice.below(20)).min(text.len());
                put(&mut stream, at, &text[at..end]).unwrap();
                has[at..end].fill(true);
                let whole = has.iter().take_while(|has| **has).count();
                assert_eq!(stream.from(0), &text[..whole]);
                let last = has.iter().rposition(|has| *has);
                assert_eq!(stream.end(), last.map_or(0, |last| last + 1));
            }
            assert_eq!(stream.came, vec![0..200]);
        }
    }

    #[test]
    fn what_is_said_again_is_the_same() {
        let mut stream = CryptoStream::default();
        put(&mut stream, 2, b"cdef").unwrap();
        put(&mut stream, 8, b"ij").unwrap();
        for (at, octets) in [(0, &b"abx"[..]), (5, b"x"), (5, b"fghx"), (9, b"xx")] {
            assert_eq!(put(&mut stream, at, octets), Err(BadQuic::Conflict), "{at}");
        }
        put(&mut stream, 0, b"abcdefghijkl").unwrap();
        assert_eq!(stream.from(3), b"defghijkl");
    }

    #[test]
    fn it_has_bounds() {
        let mut stream = CryptoStream::default();
        let last = QUIC_CRYPTO_OCTETS_MAX - 1;
        put(&mut stream, last, b"a").unwrap();
        for (at, octets) in [(last, &b"ab"[..]), (last + 1, b"b"), (last + 2, b"")] {
            assert_eq!(put(&mut stream, at, octets), Err(BadQuic::TooLong));
        }
        let at = (1 << 62) - 1;
        let octets = b"a";
        assert_eq!(stream.put(Crypto { at, octets }), Err(BadQuic::TooLong));
        let mut stream = CryptoStream::default();
        for segment in 0..QUIC_SEGMENTS_MAX {
            put(&mut stream, segment * 2, b"a").unwrap();
        }
        put(&mut stream, 1, b"a").unwrap();
        put(&mut stream, QUIC_SEGMENTS_MAX * 2, b"a").unwrap();
        let end = QUIC_SEGMENTS_MAX * 2 + 2;
        assert_eq!(put(&mut stream, end, b"a"), Err(BadQuic::TooScattered));
    }
}
