//! The head of a response, as the server sent it.

use super::field::{Field, Kind};
use super::refusal::BadHead;
use super::request::{Hop, mark_hop, number, transfer_encoding, values};
use super::{Search, Span, Version, read_fields};
use crate::core::bytes::is_value_byte;
use crate::core::framing::Framing;

/// Reads the responses of a connection, one after the other.
#[derive(Debug, Default)]
pub(crate) struct ResponseReader {
    search: Search,
    /// The fields of the response that was read last.
    pub(crate) fields: Vec<Field>,
}

/// What a response answers, as far as its length depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Head,
    Connect,
    Other,
}

/// A response's head that was found sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    pub(crate) start: Span,
    pub(crate) version: Version,
    pub(crate) status: u16,
    pub(crate) octets: usize,
    pub(crate) framing: Framing,
    pub(crate) hop: Hop,
    /// Whether the connection may go on after it, as far as the server is concerned.
    pub(crate) may_keep: bool,
    /// Whether a Content-Length must not be passed on, since an encoding wins over it.
    pub(crate) drops_length: bool,
}

impl ResponseReader {
    /// Reads a head from the beginning of the buffer, once it is there whole.
    pub(crate) fn read(
        &mut self,
        buffer: &[u8],
        asked: Asked,
    ) -> Result<Option<ResponseHead>, BadHead> {
        let check = |line: &[u8]| split_line(line).map(drop);
        let Some(extent) = self.search.advance(buffer, check)? else {
            return Ok(None);
        };
        if self.search.has_leading_lines() {
            return Err(BadHead::StartLine);
        }
        self.search = Search::default();
        let (version, status) = split_line(extent.start.of(buffer))?;
        read_fields(buffer, extent, &mut self.fields)?;
        let hop = mark_hop(buffer, &mut self.fields)?;
        let read = framing(buffer, &mut self.fields, (version, status, asked))?;
        let kept = match version {
            Version::Http10 => hop.keep_alive && !hop.close,
            Version::Http11 => !hop.close,
        };
        Ok(Some(ResponseHead {
            start: extent.start,
            version,
            status,
            octets: extent.end,
            framing: read.framing,
            hop,
            may_keep: kept && !read.drops_length && read.framing != Framing::UntilEnd,
            drops_length: read.drops_length,
        }))
    }
}

/// The version and the status; the reason may be anything, or missing.
fn split_line(line: &[u8]) -> Result<(Version, u16), BadHead> {
    let (version, rest) = line.split_at_checked(8).ok_or(BadHead::StartLine)?;
    let version = Version::read(version)?;
    let (status, reason) = match *rest {
        [b' ', a, b, c, ref reason @ ..] => ([a, b, c], reason),
        _ => return Err(BadHead::Status),
    };
    let status = number(&status).and_then(|status| u16::try_from(status).ok());
    let status = status.filter(|status| (100..600).contains(status));
    let status = status.ok_or(BadHead::Status)?;
    match reason {
        [] => Ok((version, status)),
        [b' ', text @ ..] if text.iter().copied().all(is_value_byte) => Ok((version, status)),
        _ => Err(BadHead::StartLine),
    }
}

struct Framed {
    framing: Framing,
    drops_length: bool,
}

/// How long the body is (RFC 9112 §6.3).
fn framing(
    buffer: &[u8],
    fields: &mut [Field],
    (version, status, asked): (Version, u16, Asked),
) -> Result<Framed, BadHead> {
    let length = one_length(buffer, fields)?;
    let encoding = transfer_encoding(buffer, fields)?;
    let plain = |framing| {
        Ok(Framed {
            framing,
            drops_length: false,
        })
    };
    match (status, asked) {
        (101, _) | (200..300, Asked::Connect) => return plain(Framing::Tunnel),
        (100..200 | 204 | 304, _) | (_, Asked::Head) => return plain(Framing::Length(0)),
        (_, Asked::Connect | Asked::Other) => {}
    }
    match (length, encoding) {
        (_, Some(())) if version == Version::Http10 => Err(BadHead::EncodingTooEarly),
        (length, Some(())) => Ok(Framed {
            framing: Framing::Chunked,
            drops_length: length.is_some(),
        }),
        (Some(length), None) => plain(Framing::Length(length)),
        (None, None) => plain(Framing::UntilEnd),
    }
}

/// The length, if all lines that tell one tell the same; only the first of them is passed on.
fn one_length(buffer: &[u8], fields: &mut [Field]) -> Result<Option<u64>, BadHead> {
    let mut first = None;
    for digits in values(buffer, fields, Kind::ContentLength) {
        let length = number(digits).ok_or(BadHead::Length)?;
        if first.is_some_and(|first| first != length) {
            return Err(BadHead::ManyLengths);
        }
        first = Some(length);
    }
    let lengths = fields
        .iter_mut()
        .filter(|field| field.kind == Kind::ContentLength);
    for field in lengths.skip(1) {
        field.is_hop = true;
    }
    Ok(first)
}
