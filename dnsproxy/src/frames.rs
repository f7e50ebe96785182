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
