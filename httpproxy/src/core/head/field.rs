//! One field line, and what it is to this hop.

use super::Span;
use super::refusal::BadHead;
use crate::core::bytes::{is_token, is_token_byte, is_value_byte, trim};
use crate::limits::{FIELD_NAME_OCTETS_MAX, FIELD_VALUE_OCTETS_MAX};

/// A field line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: Span,
    /// Without the spaces around it.
    pub(crate) value: Span,
    /// All of it, with its line end.
    pub(crate) line: Span,
    pub(crate) kind: Kind,
    /// Whether it ends at this hop.
    pub(crate) is_hop: bool,
}

/// The fields that mean something to this hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    KeepAlive,
    ProxyConnection,
    Te,
    Upgrade,
    Http2Settings,
    Expect,
    ContentType,
    AltSvc,
    Other,
}

/// Reads a line without its end, which begins at `at` in the buffer.
pub(crate) fn read_field(line: &[u8], at: usize) -> Result<Field, BadHead> {
    if matches!(line, [b' ' | b'\t', ..]) {
        return Err(BadHead::Folded);
    }
    let length = line.iter().position(|byte| !is_token_byte(*byte));
    let (name, rest) = match length.and_then(|length| line.split_at_checked(length)) {
        Some((name, [b':', rest @ ..])) => (name, rest),
        Some(_) if line.contains(&b':') => return Err(BadHead::FieldName),
        Some(_) | None => return Err(BadHead::NoColon),
    };
    if !is_token(name) {
        return Err(BadHead::FieldName);
    }
    if let Some(byte) = rest.iter().find(|byte| !is_value_byte(**byte)) {
        return Err(BadHead::FieldValue(*byte));
    }
    let value = trim(rest);
    if name.len() > FIELD_NAME_OCTETS_MAX || value.len() > FIELD_VALUE_OCTETS_MAX {
        return Err(BadHead::FieldTooLong);
    }
    let before = rest.len() - trim_start(rest).len();
    let value_at = at + name.len() + 1 + before;
    Ok(Field {
        name: Span::new(at, at + name.len()),
        value: Span::new(value_at, value_at + value.len()),
        line: Span::new(at, at + line.len() + 2),
        kind: kind_of(name),
        is_hop: false,
    })
}

fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

pub(crate) fn kind_of(name: &[u8]) -> Kind {
    let kinds: &[(&str, Kind)] = match name.len() {
        2 => &[("te", Kind::Te)],
        4 => &[("host", Kind::Host)],
        6 => &[("expect", Kind::Expect)],
        7 => &[("upgrade", Kind::Upgrade), ("alt-svc", Kind::AltSvc)],
        10 => &[
            ("connection", Kind::Connection),
            ("keep-alive", Kind::KeepAlive),
        ],
        12 => &[("content-type", Kind::ContentType)],
        14 => &[
            ("content-length", Kind::ContentLength),
            ("http2-settings", Kind::Http2Settings),
        ],
        16 => &[("proxy-connection", Kind::ProxyConnection)],
        17 => &[("transfer-encoding", Kind::TransferEncoding)],
        _ => &[],
    };
    let is_it = |(text, _): &&(&str, Kind)| name.eq_ignore_ascii_case(text.as_bytes());
    kinds
        .iter()
        .find(is_it)
        .map_or(Kind::Other, |(_, kind)| *kind)
}
