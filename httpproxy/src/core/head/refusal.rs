//! Why a head is refused, and with which status.

use policy::http::BadPath;

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    /// The start line hasn't its three parts with one space between each.
    #[error("the start line is malformed")]
    StartLine,
    /// Too many empty lines before it.
    #[error("too many empty lines before the request")]
    LeadingLines,
    /// A start line that is too long.
    #[error("the request line is too long")]
    StartLineTooLong,
    /// The version isn't written as one.
    #[error("the version is malformed")]
    Version,
    /// A version that is neither 1.0 nor 1.1.
    #[error("the version is not supported")]
    VersionNotSupported,
    /// A line doesn't end in CRLF.
    #[error("a line does not end in CR LF")]
    LineEnd,
    /// A line begins with a space: a folded one.
    #[error("a line begins with a space")]
    Folded,
    /// A field line without a colon.
    #[error("a field line has no colon")]
    NoColon,
    /// A field's name is no token; also a space before the colon.
    #[error("a field's name is no token")]
    FieldName,
    /// A byte that may not stand in a value.
    #[error("a field's value has a byte {0:#04x}")]
    FieldValue(u8),
    /// The head is too long.
    #[error("the head is too long")]
    TooLong,
    /// Too many fields.
    #[error("the head has too many fields")]
    TooManyFields,
    /// A name or value is too long.
    #[error("a field is too long")]
    FieldTooLong,
    /// A message with a Content-Length and a Transfer-Encoding.
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndEncoding,
    /// More than one Content-Length.
    #[error("more than one Content-Length")]
    ManyLengths,
    /// A Content-Length that is no number, or too large.
    #[error("the Content-Length is no number")]
    Length,
    /// A Transfer-Encoding that says chunked more than once, not last, or in several lines.
    #[error("the Transfer-Encoding is ambiguous")]
    AmbiguousEncoding,
    /// A Transfer-Encoding that isn't chunked.
    #[error("the Transfer-Encoding is not known")]
    UnknownEncoding,
    /// A Transfer-Encoding in HTTP/1.0.
    #[error("HTTP/1.0 has no Transfer-Encoding")]
    EncodingTooEarly,
    /// HTTP/1.1 without a Host.
    #[error("no Host")]
    NoHost,
    /// More than one Host.
    #[error("more than one Host")]
    ManyHosts,
    /// A Host that is none.
    #[error("the Host is malformed")]
    Host,
    /// The target names another host than the Host field.
    #[error("the target's host is not the Host")]
    OtherHost,
    /// The target's form doesn't fit the method, or has another scheme than the connection.
    #[error("the target's form is not possible here")]
    TargetForm,
    /// The path is refused.
    #[error("{0}")]
    Path(#[from] BadPath),
    /// Connection names a field that doesn't end here.
    #[error("Connection names a field that is not of this hop")]
    Connection,
    /// CONNECT with a body.
    #[error("CONNECT with a body")]
    ConnectBody,
    /// A status that is no number from 100 to 599.
    #[error("the status is malformed")]
    Status,
    /// More interim responses than anybody needs.
    #[error("too many interim responses")]
    TooManyInterim,
    /// What HTTP/2 doesn't allow in a message.
    #[error("malformed as a message of HTTP/2")]
    Http2,
    /// It ended before its empty line.
    #[error("the head is incomplete")]
    Incomplete,
}

impl BadHead {
    /// The status of the answer to a request with such a head.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::StartLineTooLong => 414,
            Self::TooLong | Self::TooManyFields | Self::FieldTooLong => 431,
            Self::UnknownEncoding => 501,
            Self::VersionNotSupported => 505,
            Self::StartLine
            | Self::LeadingLines
            | Self::Version
            | Self::LineEnd
            | Self::Folded
            | Self::NoColon
            | Self::FieldName
            | Self::FieldValue(_)
            | Self::LengthAndEncoding
            | Self::ManyLengths
            | Self::Length
            | Self::AmbiguousEncoding
            | Self::EncodingTooEarly
            | Self::NoHost
            | Self::ManyHosts
            | Self::Host
            | Self::OtherHost
            | Self::TargetForm
            | Self::Path(_)
            | Self::Connection
            | Self::ConnectBody
            | Self::Status
            | Self::TooManyInterim
            | Self::Http2
            | Self::Incomplete => 400,
        }
    }
}
