//! The head of a message: its lines, read strictly.
//!
//! One grammar for requests and responses (RFC 9112 §2–5), with nothing of what recipients may
//! tolerate: lines end in CRLF, no line is folded, no space stands before a colon. What is read are
//! places in the caller's buffer, so that what is forwarded are the bytes as they came.

pub(crate) mod field;
pub(crate) mod refusal;
pub(crate) mod request;
pub(crate) mod response;

use self::field::{Field, read_field};
use self::refusal::BadHead;
use super::bytes::is_token_byte;
use crate::limits::{FIELDS_MAX, HEAD_OCTETS_MAX, LEADING_LINES_MAX, START_LINE_OCTETS_MAX};

/// A piece of a head, as a place in the buffer that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Heads are bounded far below what is told in 32 bits; beyond them a span is empty.
    pub(crate) fn new(start: usize, end: usize) -> Self {
        match (u32::try_from(start), u32::try_from(end)) {
            (Ok(start), Ok(end)) => Self { start, end },
            _ => Self::default(),
        }
    }

    /// The bytes that are meant.
    pub(crate) fn of(self, buffer: &[u8]) -> &[u8] {
        buffer
            .get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }

    /// The same as text, where only ASCII was let in.
    pub(crate) fn text(self, buffer: &[u8]) -> &str {
        str::from_utf8(self.of(buffer)).unwrap_or_default()
    }

    pub(crate) const fn start(self) -> usize {
        self.start as usize
    }

    pub(crate) const fn end(self) -> usize {
        self.end as usize
    }
}

/// The version of a message. There are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

impl Version {
    /// As it is written in a head.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
        }
    }

    pub(crate) fn read(bytes: &[u8]) -> Result<Self, BadHead> {
        match *bytes {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'] => Ok(Self::Http11),
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'] => Ok(Self::Http10),
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
                Err(BadHead::VersionNotSupported)
            }
            _ => Err(BadHead::Version),
        }
    }
}

/// Finds the end of a head in a growing buffer, without looking at a byte twice.
#[derive(Clone, Debug, Default)]
pub(crate) struct Search {
    /// Octets that were looked at.
    seen: usize,
    /// Where the line begins that is being looked at.
    line: usize,
    leading: usize,
    start: Option<Span>,
}

/// Where a head is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The start line, without its end.
    pub(crate) start: Span,
    /// The first octet after the empty line.
    pub(crate) end: usize,
}

impl Search {
    /// Looks at what is new. `check` judges the start line as soon as that is complete.
    pub(crate) fn advance(
        &mut self,
        buffer: &[u8],
        check: impl Fn(&[u8]) -> Result<(), BadHead>,
    ) -> Result<Option<Extent>, BadHead> {
        while let Some(rest) = buffer.get(self.seen..)
            && let Some(length) = rest.iter().position(|byte| *byte == b'\n')
        {
            let at = self.seen + length;
            let line = buffer.get(self.line..at).unwrap_or_default();
            let (next, has_cr) = (at + 1, line.ends_with(b"\r"));
            let text = line.strip_suffix(b"\r").unwrap_or(line);
            match self.start {
                None if text.is_empty() && has_cr => {
                    self.leading += 1;
                    if self.leading > LEADING_LINES_MAX {
                        return Err(BadHead::LeadingLines);
                    }
                }
                None => {
                    // In the order in which a line that comes octet by octet is looked at.
                    if !text.first().copied().is_some_and(is_token_byte) {
                        return Err(BadHead::StartLine);
                    }
                    if text.len() > START_LINE_OCTETS_MAX {
                        return Err(BadHead::StartLineTooLong);
                    }
                    check(text)?;
                    if !has_cr {
                        return Err(BadHead::LineEnd);
                    }
                    self.start = Some(Span::new(self.line, self.line + text.len()));
                }
                Some(start) if text.is_empty() => {
                    return match next - start.start() > HEAD_OCTETS_MAX {
                        true => Err(BadHead::TooLong),
                        false => Ok(Some(Extent { start, end: next })),
                    };
                }
                Some(_) => {}
            }
            (self.seen, self.line) = (next, next);
        }
        self.seen = buffer.len();
        self.incomplete(buffer)
    }

    /// Whether empty lines stood before the start line.
    pub(crate) const fn has_leading_lines(&self) -> bool {
        self.leading > 0
    }

    /// Whether what is there of a head that has no end yet may still become one.
    fn incomplete(&self, buffer: &[u8]) -> Result<Option<Extent>, BadHead> {
        let Some(start) = self.start else {
            let line = buffer.get(self.line..).unwrap_or_default();
            return match *line {
                [] | [b'\r'] => Ok(None),
                [first, ..] if !is_token_byte(first) => Err(BadHead::StartLine),
                _ if line.len() > START_LINE_OCTETS_MAX + 1 => Err(BadHead::StartLineTooLong),
                _ => Ok(None),
            };
        };
        match buffer.len() - start.start() > HEAD_OCTETS_MAX {
            true => Err(BadHead::TooLong),
            false => Ok(None),
        }
    }
}

/// Reads the field lines of a complete head into `fields`.
pub(crate) fn read_fields(
    buffer: &[u8],
    extent: Extent,
    fields: &mut Vec<Field>,
) -> Result<(), BadHead> {
    fields.clear();
    let mut at = extent.start.end() + 2;
    loop {
        let rest = buffer.get(at..extent.end).unwrap_or_default();
        if rest == b"\r\n" {
            return Ok(());
        }
        let length = rest.iter().position(|byte| *byte == b'\n');
        let line = rest.get(..length.ok_or(BadHead::LineEnd)?);
        let line = line.and_then(|line| line.strip_suffix(b"\r"));
        let field = read_field(line.ok_or(BadHead::LineEnd)?, at)?;
        if fields.len() == FIELDS_MAX {
            return Err(BadHead::TooManyFields);
        }
        at = field.line.end();
        fields.push(field);
    }
}

#[cfg(test)]
mod tests;
