//! DNS messages out of a TCP stream: two octets of length before each (RFC 7766 §8).

use crate::limits::TCP_BUFFER_OCTETS_MAX;
use crate::question::HEADER_OCTETS;

/// The length before each message.
const LENGTH_OCTETS: usize = 2;

/// Cuts a stream into messages. Its buffer grows with what came, never with what a length
/// announces.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    /// Where the first octet stands that was not given out.
    at: usize,
}

/// A stream that can't go on; it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame too short for a header: nothing can be answered.
    #[error("a frame of {0} octets is shorter than a DNS header")]
    Short(u16),
    /// More was pushed than there was room for.
    #[error("more than the buffer may hold")]
    Overfull,
}

impl Frames {
    /// How many octets may be pushed.
    #[must_use]
    pub fn room(&self) -> usize {
        TCP_BUFFER_OCTETS_MAX.saturating_sub(self.waiting())
    }

    /// Takes octets from the stream.
    ///
    /// # Errors
    /// If they are more than [`Frames::room`].
    pub fn push(&mut self, octets: &[u8]) -> Result<(), FrameError> {
        if octets.len() > self.room() {
            return Err(FrameError::Overfull);
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(octets);
        Ok(())
    }

    /// The next whole message, if it is there.
    ///
    /// # Errors
    /// If a frame is shorter than a header; it stays, and so does the error.
    pub fn next_message(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let rest = self.buffer.get(self.at..).unwrap_or(&[]);
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_OCTETS>() else {
            return Ok(None);
        };
        let length = u16::from_be_bytes(*length);
        if usize::from(length) < HEADER_OCTETS {
            return Err(FrameError::Short(length));
        }
        let message = rest.get(..usize::from(length));
        if message.is_some() {
            self.at += LENGTH_OCTETS + usize::from(length);
        }
        Ok(message)
    }

    /// Whether a message has begun that is not whole: its time runs.
    #[must_use]
    pub fn is_amid(&self) -> bool {
        self.waiting() > 0
    }

    fn waiting(&self) -> usize {
        self.buffer.len().saturating_sub(self.at)
    }
}

/// Appends a message with its length; `false` if it is too long for a frame, then nothing is
/// appended.
#[must_use]
pub fn write_frame(message: &[u8], out: &mut Vec<u8>) -> bool {
    let Ok(length) = u16::try_from(message.len()) else {
        return false;
    };
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
    true
}

#[cfg(test)]
mod tests {
    use super::{FrameError, Frames, write_frame};
    use crate::limits::TCP_BUFFER_OCTETS_MAX;
    use crate::testing::{A, AAAA, Draft, check_corpus};

    fn framed(messages: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for message in messages {
            assert!(write_frame(message, &mut out));
        }
        out
    }

    /// A name, a stream, how many messages it gives, and how it ends.
    type Stream = (&'static str, Vec<u8>, usize, Result<(), FrameError>);

    fn streams() -> Vec<Stream> {
        let (a, aaaa) = (
            Draft::query(1, "good.com", A).0,
            Draft::query(2, "good.com", AAAA).0,
        );
        let short = |length: u16| [&framed(&[&a])[..], &length.to_be_bytes(), &[0; 11]].concat();
        vec![
            ("two frames in one segment", framed(&[&a, &aaaa]), 2, Ok(())),
            ("200 frames", framed(&[&a[..]; 200]), 200, Ok(())),
            ("length 0", short(0), 1, Err(FrameError::Short(0))),
            ("length 11", short(11), 1, Err(FrameError::Short(11))),
            ("length 65535 and no more", vec![0xFF; 2], 0, Ok(())),
            ("half a length", vec![0], 0, Ok(())),
            ("largest frame", framed(&[&[7; 65_535]]), 1, Ok(())),
        ]
    }

    /// How many messages a stream in pieces gives, and how it ends.
    fn cut(stream: &[u8], piece: usize) -> (usize, Result<(), FrameError>) {
        let mut frames = Frames::default();
        let mut count = 0;
        for octets in stream.chunks(piece) {
            frames.push(octets).unwrap();
            loop {
                match frames.next_message() {
                    Ok(Some(_)) => count += 1,
                    Ok(None) => break,
                    Err(error) => return (count, Err(error)),
                }
            }
        }
        (count, Ok(()))
    }

    #[test]
    fn a_stream_is_cut_the_same_in_whatever_pieces_it_comes() {
        for (case, stream, count, end) in streams() {
            for piece in [1, 2, 3, 29, 4096, stream.len()] {
                assert_eq!(cut(&stream, piece), (count, end), "{case} by {piece}");
            }
        }
    }

    #[test]
    fn the_streams_are_the_corpus() {
        let streams = streams();
        let small = streams
            .iter()
            .filter(|(_, stream, ..)| stream.len() < 10_000);
        check_corpus(
            "frames",
            small.map(|(case, stream, ..)| (*case, &stream[..])),
        );
    }

    #[test]
    fn the_buffer_grows_with_what_came_and_not_beyond_its_bound() {
        let mut frames = Frames::default();
        frames.push(&[0xFF, 0xFF]).unwrap();
        assert!(frames.buffer.capacity() < 1024);
        assert!(frames.is_amid());
        frames.push(&vec![0; frames.room()]).unwrap();
        assert_eq!(frames.buffer.len(), TCP_BUFFER_OCTETS_MAX);
        assert_eq!(frames.push(&[0]), Err(FrameError::Overfull));
        assert!(frames.next_message().unwrap().is_some());
        assert!(frames.push(&[0]).is_ok(), "what was given out makes room");
    }

    #[test]
    fn a_message_too_long_for_a_frame_is_not_framed() {
        let mut out = Vec::new();
        assert!(!write_frame(&vec![0; 65_536], &mut out));
        assert!(out.is_empty());
    }
}
