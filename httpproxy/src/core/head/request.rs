//! The head of a request: what it asks, how long its body is, what of it ends at this hop.

use super::field::{Field, Kind};
use super::refusal::BadHead;
use super::{Search, Span, Version, read_fields};
use crate::core::bytes::{is_token, items};
use crate::core::framing::Framing;
use crate::core::host::Authority;

/// Reads the requests of a connection, one after the other.
#[derive(Debug, Default)]
pub(crate) struct RequestReader {
    search: Search,
    /// The fields of the request that was read last.
    pub(crate) fields: Vec<Field>,
}

/// A request's head that was found sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestHead {
    pub(crate) method: Span,
    pub(crate) target: Span,
    pub(crate) version: Version,
    /// Octets of the buffer that it takes, with empty lines before it.
    pub(crate) octets: usize,
    pub(crate) framing: Framing,
    pub(crate) host: Option<Span>,
    pub(crate) hop: Hop,
    /// Whether the client waits for a 100 before it sends the body.
    pub(crate) is_expecting: bool,
    /// Whether the connection may go on after the response, as far as the client is concerned.
    pub(crate) may_keep: bool,
    pub(crate) is_grpc: bool,
}

/// What the fields of this hop say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Hop {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    /// Connection names TE, Upgrade, or anything else that is there or not.
    pub(crate) names_te: bool,
    pub(crate) names_upgrade: bool,
    pub(crate) names_fields: bool,
    /// What TE says of trailers.
    pub(crate) te: Te,
}

/// What the TE field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Te {
    /// Nothing of trailers.
    #[default]
    None,
    /// That they are welcome, and nothing else.
    Trailers,
    /// That they are welcome, among other things, which end at this hop.
    Mixed,
}

impl RequestReader {
    /// Reads a head from the beginning of the buffer, once it is there whole.
    pub(crate) fn read(&mut self, buffer: &[u8]) -> Result<Option<RequestHead>, BadHead> {
        let check = |line: &[u8]| split_line(line, 0).map(drop);
        let Some(extent) = self.search.advance(buffer, check)? else {
            return Ok(None);
        };
        self.search = Search::default();
        let start = extent.start;
        let line = split_line(start.of(buffer), start.start())?;
        read_fields(buffer, extent, &mut self.fields)?;
        let hop = mark_hop(buffer, &mut self.fields)?;
        let host = host(buffer, &self.fields, line.version)?;
        let framing = framing(buffer, &self.fields, line.version)?;
        let may_keep = match line.version {
            Version::Http10 => hop.keep_alive && !hop.close,
            Version::Http11 => !hop.close,
        };
        let values = |kind| values(buffer, &self.fields, kind);
        Ok(Some(RequestHead {
            method: line.method,
            target: line.target,
            version: line.version,
            octets: extent.end,
            framing,
            host,
            hop,
            is_expecting: line.version == Version::Http11
                && values(Kind::Expect).any(|value| value.eq_ignore_ascii_case(b"100-continue")),
            may_keep,
            is_grpc: values(Kind::ContentType).any(is_grpc),
        }))
    }

    /// The start line, as far as it is there, for the record of a request that is refused.
    pub(crate) fn start_line<'b>(&self, buffer: &'b [u8]) -> &'b [u8] {
        let mut line = buffer;
        while let Some(rest) = line.strip_prefix(b"\r\n") {
            line = rest;
        }
        let end = line.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        line.get(..end.unwrap_or(line.len())).unwrap_or_default()
    }
}

/// The parts of a request line.
struct RequestLine {
    method: Span,
    target: Span,
    version: Version,
}

fn split_line(line: &[u8], at: usize) -> Result<RequestLine, BadHead> {
    let mut spaces = line.iter().enumerate().filter(|(_, byte)| **byte == b' ');
    let (Some((first, _)), Some((second, _)), None) = (spaces.next(), spaces.next(), spaces.next())
    else {
        return Err(BadHead::StartLine);
    };
    let part = |from, to| line.get(from..to).unwrap_or_default();
    let (method, target) = (part(0, first), part(first + 1, second));
    let is_target = !target.is_empty() && target.iter().all(u8::is_ascii_graphic);
    if !is_token(method) || !is_target {
        return Err(BadHead::StartLine);
    }
    let version = Version::read(part(second + 1, line.len()))?;
    Ok(RequestLine {
        method: Span::new(at, at + first),
        target: Span::new(at + first + 1, at + second),
        version,
    })
}

pub(crate) fn is_grpc(value: &[u8]) -> bool {
    let start = value.get(..16).unwrap_or_default();
    let next = value.get(16).copied();
    start.eq_ignore_ascii_case(b"application/grpc")
        && next.is_none_or(|byte| !byte.is_ascii_alphanumeric())
}

/// The values of all lines of a kind.
pub(crate) fn values<'b>(
    buffer: &'b [u8],
    fields: &[Field],
    kind: Kind,
) -> impl Iterator<Item = &'b [u8]> {
    let mine = fields.iter().filter(move |field| field.kind == kind);
    mine.map(|field| field.value.of(buffer))
}

/// Marks the fields that end at this hop (RFC 9110 §7.6.1): before anything is judged, so that what
/// Connection names is missing for the verdict and for the server alike.
pub(crate) fn mark_hop(buffer: &[u8], fields: &mut [Field]) -> Result<Hop, BadHead> {
    let mut hop = Hop::default();
    for index in 0..fields.len() {
        let connection = fields
            .get(index)
            .filter(|field| field.kind == Kind::Connection);
        let Some(connection) = connection.map(|field| field.value) else {
            continue;
        };
        for token in items(connection.of(buffer)) {
            match () {
                () if token.eq_ignore_ascii_case(b"close") => hop.close = true,
                () if token.eq_ignore_ascii_case(b"keep-alive") => hop.keep_alive = true,
                () if token.eq_ignore_ascii_case(b"te") => hop.names_te = true,
                () if token.eq_ignore_ascii_case(b"upgrade") => hop.names_upgrade = true,
                () if is_kept(token) || !is_token(token) => return Err(BadHead::Connection),
                () => {
                    hop.names_fields = true;
                    mark(buffer, fields, token);
                }
            }
        }
    }
    let is_trailers = |item: &[u8]| item.eq_ignore_ascii_case(b"trailers");
    let te = || values(buffer, fields, Kind::Te).flat_map(items);
    hop.te = match (te().any(is_trailers), te().all(is_trailers)) {
        (false, _) => Te::None,
        (true, true) => Te::Trailers,
        (true, false) => Te::Mixed,
    };
    for field in fields.iter_mut() {
        field.is_hop |= match field.kind {
            Kind::Connection | Kind::KeepAlive | Kind::ProxyConnection => true,
            Kind::Te | Kind::Upgrade | Kind::Http2Settings | Kind::TransferEncoding => true,
            Kind::Host | Kind::ContentLength | Kind::Expect => false,
            Kind::ContentType | Kind::AltSvc | Kind::Other => false,
        };
    }
    Ok(hop)
}

/// What Connection may not name.
fn is_kept(token: &[u8]) -> bool {
    let kept: [&[u8]; 4] = [b"host", b"content-length", b"authorization", b"cookie"];
    kept.iter().any(|name| token.eq_ignore_ascii_case(name))
}

fn mark(buffer: &[u8], fields: &mut [Field], name: &[u8]) {
    for field in fields {
        field.is_hop |= field.name.of(buffer).eq_ignore_ascii_case(name);
    }
}

fn host(buffer: &[u8], fields: &[Field], version: Version) -> Result<Option<Span>, BadHead> {
    let mut hosts = fields.iter().filter(|field| field.kind == Kind::Host);
    match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::Http10 => Ok(None),
        (None, _) => Err(BadHead::NoHost),
        (Some(_), Some(_)) => Err(BadHead::ManyHosts),
        (Some(host), None) => {
            Authority::read(host.value.of(buffer))?;
            Ok(Some(host.value))
        }
    }
}

/// How long the body is (RFC 9112 §6), where everything that two servers may read in two ways is
/// refused.
fn framing(buffer: &[u8], fields: &[Field], version: Version) -> Result<Framing, BadHead> {
    let length = content_length(buffer, fields)?;
    let encoding = transfer_encoding(buffer, fields)?;
    match (length, encoding) {
        (Some(_), Some(_)) => Err(BadHead::LengthAndEncoding),
        (None, Some(_)) if version == Version::Http10 => Err(BadHead::EncodingTooEarly),
        (None, Some(())) => Ok(Framing::Chunked),
        (Some(length), None) => Ok(Framing::Length(length)),
        (None, None) => Ok(Framing::Length(0)),
    }
}

/// The one Content-Length; a second one is refused even if it is the same.
fn content_length(buffer: &[u8], fields: &[Field]) -> Result<Option<u64>, BadHead> {
    let mut lengths = values(buffer, fields, Kind::ContentLength);
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(BadHead::ManyLengths),
        (Some(digits), None) => number(digits).map(Some).ok_or(BadHead::Length),
    }
}

/// A decimal number below 2^63, digits only.
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    let are_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let text = str::from_utf8(digits).ok().filter(|_| are_digits)?;
    text.parse()
        .ok()
        .filter(|number| i64::try_from(*number).is_ok())
}

/// Whether there is an encoding: exactly `chunked`, in one line.
pub(crate) fn transfer_encoding(buffer: &[u8], fields: &[Field]) -> Result<Option<()>, BadHead> {
    let mut lines = values(buffer, fields, Kind::TransferEncoding);
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    if lines.next().is_some() {
        return Err(BadHead::AmbiguousEncoding);
    }
    if line.eq_ignore_ascii_case(b"chunked") {
        return Ok(Some(()));
    }
    let is_chunked = |item: &&[u8]| item.eq_ignore_ascii_case(b"chunked");
    let (count, chunked) = (items(line).count(), items(line).filter(is_chunked).count());
    let is_last = items(line).last().is_some_and(|item| is_chunked(&item));
    match () {
        () if count == 0 || chunked > 1 || count == 1 && chunked == 1 => {
            Err(BadHead::AmbiguousEncoding)
        }
        () if chunked == 1 && !is_last => Err(BadHead::AmbiguousEncoding),
        () => Err(BadHead::UnknownEncoding),
    }
}
