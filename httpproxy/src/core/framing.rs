//! The body of a message: where it ends, and what of its framing is passed on.
//!
//! A chunked body is written anew with the same chunks: sizes in plain form, no extensions, and of
//! the trailers what may stand there. The octets of its chunks, and of other bodies, pass as they are.

use super::buffer::Buffer;
use super::bytes::is_value_byte;
use super::head::field::{Kind, read_field};
use super::head::refusal::BadHead;
use crate::limits::{
    BODY_BUFFER_OCTETS_MAX, BODY_EXTENSION_OCTETS_MAX, CHUNK_EXTENSION_OCTETS_MAX,
    CHUNK_SIZE_DIGITS_MAX, TRAILER_OCTETS_MAX, TRAILERS_MAX,
};

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// By its length.
    Length(u64),
    /// By a last chunk.
    Chunked,
    /// By the end of the connection.
    UntilEnd,
    /// It has none: what follows is no HTTP.
    Tunnel,
}

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// A chunk's size is no hexadecimal number.
    #[error("a chunk's size is malformed")]
    ChunkSize,
    /// A chunk of 2^63 octets or more, or with too many digits.
    #[error("a chunk's size is too large")]
    ChunkTooLarge,
    /// A byte that may not stand in an extension.
    #[error("a chunk's extension has a byte {0:#04x}")]
    Extension(u8),
    /// Too many octets of extensions.
    #[error("the chunks' extensions are too long")]
    ExtensionTooLong,
    /// A line doesn't end in CRLF.
    #[error("a line of the chunked body does not end in CR LF")]
    LineEnd,
    /// The octets of a chunk are followed by something else than its end.
    #[error("a chunk is longer than its size")]
    ChunkEnd,
    /// A trailer that is no field.
    #[error("a trailer is malformed: {0}")]
    Trailer(BadHead),
    /// Too many trailers, or too long.
    #[error("the trailers are too long")]
    TrailersTooLong,
    /// Another length than its Content-Length says, or frames that are not possible there.
    #[error("the body is not as its frames and its Content-Length say")]
    Frames,
    /// The connection ended within it.
    #[error("the body was cut")]
    Cut,
}

/// In which form a body is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// With the framing that it came with.
    AsFramed,
    /// Chunks joined: for a client that knows none.
    Joined,
    /// Not at all.
    Nothing,
}

/// A body that is being passed on.
#[derive(Debug)]
pub(crate) struct Body {
    state: State,
    written: Written,
    extension_octets: usize,
    trailer: Vec<u8>,
    /// Octets of content so far.
    octets: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilEnd,
    /// The head of a chunk, or its end.
    Line(Line),
    Chunk(u64),
    Trailers,
    Done,
}

/// Where in the framing of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Size {
        size: u64,
        digits: usize,
    },
    /// Spaces after a size.
    AfterSize {
        size: u64,
        octets: usize,
    },
    Extension {
        size: u64,
        octets: usize,
    },
    SizeEnd(u64),
    ChunkEnd,
    ChunkEndLf,
}

const FIRST: State = State::Line(Line::Size { size: 0, digits: 0 });

impl Body {
    pub(crate) const fn new(framing: Framing, written: Written) -> Self {
        let state = match framing {
            Framing::Length(0) | Framing::Tunnel => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => FIRST,
            Framing::UntilEnd => State::UntilEnd,
        };
        Self {
            state,
            written,
            extension_octets: 0,
            trailer: Vec::new(),
            octets: 0,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Octets of content that were passed.
    pub(crate) const fn octets(&self) -> u64 {
        self.octets
    }

    /// From now on it is read and thrown away.
    pub(crate) const fn discard(&mut self) {
        self.written = Written::Nothing;
    }

    /// How much is still to come, if that was announced.
    pub(crate) const fn left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            State::UntilEnd | State::Line(_) | State::Chunk(_) | State::Trailers => None,
        }
    }

    /// Passes on what it can, until it is done, the input is used up, or `out` is full. Tells how much
    /// of the input was used.
    pub(crate) fn pass(&mut self, input: &[u8], out: &mut Buffer) -> Result<usize, BadBody> {
        let mut rest = input;
        while let [first, after @ ..] = rest
            && !self.is_done()
            && out.len() < BODY_BUFFER_OCTETS_MAX
        {
            match self.state {
                State::Length(left) | State::Chunk(left) => {
                    let taken = self.content(left, rest, out);
                    rest = rest.get(taken..).unwrap_or_default();
                    self.passed(taken as u64);
                }
                State::UntilEnd => {
                    let taken = self.content(u64::MAX, rest, out);
                    rest = rest.get(taken..).unwrap_or_default();
                    self.passed(taken as u64);
                }
                State::Done => {}
                State::Trailers => {
                    rest = after;
                    self.trailer(*first, out)?;
                }
                State::Line(line) => {
                    rest = after;
                    self.state = self.line((line, *first), out)?;
                }
            }
        }
        Ok(input.len() - rest.len())
    }

    /// The input has ended.
    pub(crate) fn end(&mut self) -> Result<(), BadBody> {
        match self.state {
            State::UntilEnd | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            State::Length(_) | State::Line(_) | State::Chunk(_) | State::Trailers => {
                Err(BadBody::Cut)
            }
        }
    }

    /// How many octets may pass as they are, without being looked at.
    pub(crate) fn bulk(&self) -> u64 {
        match self.state {
            _ if self.written == Written::Nothing => 0,
            State::Length(left) | State::Chunk(left) => left,
            State::UntilEnd => u64::MAX,
            State::Line(_) | State::Trailers | State::Done => 0,
        }
    }

    /// Octets of content passed, here or past us.
    pub(crate) const fn passed(&mut self, count: u64) {
        self.octets = self.octets.saturating_add(count);
        self.state = match self.state {
            State::Length(left) if left <= count => State::Done,
            State::Length(left) => State::Length(left - count),
            State::Chunk(left) if left <= count => State::Line(Line::ChunkEnd),
            State::Chunk(left) => State::Chunk(left - count),
            state @ (State::UntilEnd | State::Line(_) | State::Trailers | State::Done) => state,
        };
    }

    fn content(&self, left: u64, input: &[u8], out: &mut Buffer) -> usize {
        let room = match self.written {
            Written::Nothing => usize::MAX,
            Written::AsFramed | Written::Joined => BODY_BUFFER_OCTETS_MAX - out.len(),
        };
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(room);
        let taken = input.get(..most).unwrap_or(input);
        if self.written != Written::Nothing {
            out.put(taken);
        }
        taken.len()
    }

    /// One octet of a chunk's head or end (RFC 9112 §7.1).
    fn line(&mut self, (line, byte): (Line, u8), out: &mut Buffer) -> Result<State, BadBody> {
        let next = match (line, byte) {
            (Line::Size { size, digits }, byte) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                if digits == CHUNK_SIZE_DIGITS_MAX || size >= 1 << 59 {
                    return Err(BadBody::ChunkTooLarge);
                }
                Line::Size {
                    size: size << 4 | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (Line::Size { digits: 0, .. }, _) => return Err(BadBody::ChunkSize),
            (Line::Size { size, .. }, b' ' | b'\t') => Line::AfterSize { size, octets: 1 },
            (Line::Size { size, .. }, b';') => Line::Extension { size, octets: 1 },
            (Line::Size { size, .. } | Line::AfterSize { size, .. }, b'\r') => Line::SizeEnd(size),
            (Line::Size { .. } | Line::AfterSize { .. } | Line::Extension { .. }, b'\n') => {
                return Err(BadBody::LineEnd);
            }
            (Line::AfterSize { size, octets }, b' ' | b'\t') => Line::AfterSize {
                size,
                octets: self.count_extension(octets)?,
            },
            (Line::AfterSize { size, octets }, b';') => Line::Extension {
                size,
                octets: self.count_extension(octets)?,
            },
            (Line::Size { .. } | Line::AfterSize { .. }, _) => return Err(BadBody::ChunkSize),
            (Line::Extension { size, .. }, b'\r') => Line::SizeEnd(size),
            (Line::Extension { size, octets }, byte) if is_value_byte(byte) => Line::Extension {
                size,
                octets: self.count_extension(octets)?,
            },
            (Line::Extension { .. }, byte) => return Err(BadBody::Extension(byte)),
            (Line::SizeEnd(0), b'\n') => return Ok(State::Trailers),
            (Line::SizeEnd(size), b'\n') => {
                if self.written == Written::AsFramed {
                    out.put(format!("{size:x}\r\n").as_bytes());
                }
                return Ok(State::Chunk(size));
            }
            (Line::SizeEnd(_), _) => return Err(BadBody::LineEnd),
            (Line::ChunkEnd, b'\r') => Line::ChunkEndLf,
            (Line::ChunkEndLf, b'\n') => {
                if self.written == Written::AsFramed {
                    out.put(b"\r\n");
                }
                return Ok(FIRST);
            }
            (Line::ChunkEnd | Line::ChunkEndLf, _) => return Err(BadBody::ChunkEnd),
        };
        Ok(State::Line(next))
    }

    /// Counts one octet more of a chunk's extension, which had so many.
    const fn count_extension(&mut self, octets: usize) -> Result<usize, BadBody> {
        self.extension_octets += 1;
        let is_long = octets >= CHUNK_EXTENSION_OCTETS_MAX;
        match is_long || self.extension_octets > BODY_EXTENSION_OCTETS_MAX {
            true => Err(BadBody::ExtensionTooLong),
            false => Ok(octets + 1),
        }
    }

    /// One octet of the trailer section. It is passed on when it is complete.
    fn trailer(&mut self, byte: u8, out: &mut Buffer) -> Result<(), BadBody> {
        self.trailer.push(byte);
        if self.trailer.len() > TRAILER_OCTETS_MAX {
            return Err(BadBody::TrailersTooLong);
        }
        if byte != b'\n' {
            return Ok(());
        }
        if !self.trailer.ends_with(b"\r\n") {
            return Err(BadBody::LineEnd);
        }
        let is_end = self.trailer == b"\r\n" || self.trailer.ends_with(b"\r\n\r\n");
        if !is_end {
            return Ok(());
        }
        let mut kept = b"0\r\n".to_vec();
        let lines = self.trailer.split_inclusive(|byte| *byte == b'\n');
        for (count, line) in lines.enumerate() {
            let Some(text) = line.strip_suffix(b"\r\n").filter(|text| !text.is_empty()) else {
                break; // the empty line
            };
            if count == TRAILERS_MAX {
                return Err(BadBody::TrailersTooLong);
            }
            let field = read_field(text, 0).map_err(BadBody::Trailer)?;
            if may_trail(field.kind, field.name.of(text)) {
                kept.extend_from_slice(line);
            }
        }
        kept.extend_from_slice(b"\r\n");
        if self.written == Written::AsFramed {
            out.put(&kept);
        }
        self.trailer = Vec::new();
        self.state = State::Done;
        Ok(())
    }
}

/// Whether a field may stand in a trailer section (RFC 9110 §6.5.1): nothing that says where a message
/// ends, where it goes or who sends it.
pub(crate) fn may_trail(kind: Kind, name: &[u8]) -> bool {
    let is_never = |other: &&[u8]| name.eq_ignore_ascii_case(other);
    let never: [&[u8]; 7] = [
        b"authorization",
        b"proxy-authorization",
        b"cookie",
        b"set-cookie",
        b"content-encoding",
        b"content-range",
        b"trailer",
    ];
    kind == Kind::Other && !never.iter().any(is_never)
}

#[cfg(test)]
mod tests;
