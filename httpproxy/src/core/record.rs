//! What is told of a connection: each request once, each response once, and how it ended where that
//! says more.
//!
//! Secrets are taken out and everything is cut to its bound and escaped before a record is made, so
//! that nothing later can leak them or be talked into a forged line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::http::{HeaderLine, HeaderNote, HttpPermit};
use policy::{Bound, RuleId};

use super::framing::BadBody;
use super::head::Version;
use super::head::refusal::BadHead;
use super::step::{Denied, Judge};
use crate::limits::{
    TOLD_FIELDS_MAX, TOLD_LINE_OCTETS_MAX, TOLD_URL_OCTETS_MAX, TOLD_VALUE_OCTETS_MAX,
};

/// One thing to tell.
#[derive(Clone, Debug)]
pub enum Told {
    /// A request was read to the end of its head and judged, or refused.
    Request(Arc<RequestRecord>),
    /// It was answered; at most once, interim responses are not told.
    Response(ResponseRecord),
    /// It ended in another way than with a complete response, or was a tunnel.
    Ended(EndRecord),
    /// Something that belongs to no request.
    Fault(Fault),
}

/// A request.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// When its head was complete.
    pub at: Instant,
    /// As sent, cut and escaped; empty if it could not be read.
    pub method: String,
    /// `scheme://host/path?query` as judged, cut and escaped; of a malformed request the beginning of
    /// its first line.
    pub url: String,
    /// Whether it had a query, which isn't told.
    pub is_query_hidden: bool,
    /// Absent if it could not be read.
    pub version: Option<Protocol>,
    /// The fields that went upstream, or would have; in order, secrets taken out.
    pub fields: Vec<(String, String)>,
    /// What was decided.
    pub verdict: Verdict,
}

impl RequestRecord {
    /// The host in its URL, with its port if it has one; empty if there is none.
    #[must_use]
    pub fn host(&self) -> &str {
        let place = self.url.split_once("://");
        let host = place.and_then(|(_, place)| place.split('/').next());
        host.unwrap_or_default()
    }
}

/// The protocol of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1, in this version.
    Http1(Version),
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// As Hubble writes it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Http1(version) => version.text(),
            Self::Http2 => "HTTP/2",
        }
    }
}

/// What was decided of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may go.
    Allowed {
        /// By which rule.
        rule: RuleId,
        /// What a rule that acts on headers found.
        notes: Vec<Note>,
        /// Policy denies it, and only audits.
        audited: bool,
    },
    /// It may not.
    Denied(Denied),
    /// It is no request.
    Malformed(BadHead),
    /// Its head took too long.
    TooSlow,
}

/// A header that wasn't as a rule with an action wants it, or what the host is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// It was missing: its name, and what was expected.
    Missing(String, String),
    /// It was taken out: its name, and what was there.
    Rejected(String, String),
    /// What was found of the host of a request that is bound to names.
    Host(Bound),
}

/// A response.
#[derive(Clone, Debug)]
pub struct ResponseRecord {
    /// What it answers.
    pub request: Arc<RequestRecord>,
    /// Its status.
    pub status: u16,
    /// Who made it.
    pub by: By,
    /// The version in its first line.
    pub version: Protocol,
    /// Its fields, in order, secrets taken out. Of answers of our own none.
    pub fields: Vec<(String, String)>,
    /// From the end of the request's head to here.
    pub latency: Duration,
}

impl ResponseRecord {
    /// That a request was answered now.
    pub(crate) fn new(
        request: &Arc<RequestRecord>,
        (status, by): (u16, By),
        (version, fields): (Protocol, Vec<(String, String)>),
        now: Instant,
    ) -> Self {
        Self {
            request: Arc::clone(request),
            status,
            by,
            version,
            fields,
            latency: now.saturating_duration_since(request.at),
        }
    }
}

/// Who made a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The server.
    Server,
    /// We did.
    Proxy(Why),
}

/// Why a response is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The request was denied.
    Denied,
    /// The request is malformed in its head.
    Malformed,
    /// Its body is malformed; its head went on.
    BadBody(BadBody),
    /// Its head took too long.
    TooSlow,
    /// There was no policy to ask.
    NoPolicy,
    /// The server can't be reached.
    Unreachable,
    /// The server closed the connection instead of answering.
    ServerGone,
    /// The server's response can't be read.
    BadResponse(BadHead),
    /// The server took too long.
    ServerSlow,
    /// The server has not shown that it is the one that is meant.
    Untrusted,
}

impl Why {
    /// The status of a request that was denied so, and why it is ours.
    pub(crate) const fn of(denied: Denied) -> (u16, Self) {
        match denied {
            Denied::NotAllowed | Denied::NameNotBound => (403, Self::Denied),
            Denied::OtherName => (421, Self::Denied),
            Denied::NoPolicy => (503, Self::NoPolicy),
        }
    }
}

/// How an exchange ended.
#[derive(Clone, Debug)]
pub struct EndRecord {
    /// Which one.
    pub request: Arc<RequestRecord>,
    /// How.
    pub end: End,
    /// Octets of content, or through the tunnel, from the client.
    pub sent: u64,
    /// The same to the client.
    pub received: u64,
    /// Whether a response was told: this is then what came of it, else it stands for one.
    pub is_answered: bool,
    /// From the end of the request's head to here.
    pub duration: Duration,
}

impl EndRecord {
    /// That an exchange ended now, and how many octets it took each way.
    pub(crate) fn new(
        request: &Arc<RequestRecord>,
        (end, sent, received): (End, u64, u64),
        (is_answered, now): (bool, Instant),
    ) -> Self {
        Self {
            request: Arc::clone(request),
            end,
            sent,
            received,
            is_answered,
            duration: now.saturating_duration_since(request.at),
        }
    }
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A tunnel was closed by its ends.
    TunnelClosed,
    /// Policy allows a tunnel no longer.
    Revoked,
    /// The client went away.
    ClientGone,
    /// The server went away.
    ServerGone,
    /// Nothing came for too long.
    Idle,
    /// The request's body is malformed.
    BadRequestBody(BadBody),
    /// The response's body is malformed.
    BadResponseBody(BadBody),
    /// The server can't be reached.
    Unreachable,
    /// The daemon ends.
    Stopped,
}

/// What is wrong with a connection beside its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The server sent what nobody had asked for: both sides are closed.
    Unasked,
    /// The server can't be reached, and no request was waiting.
    Unreachable,
    /// The client sent nothing at all.
    Empty,
}

/// What stands for a value that is never told.
pub const REDACTED: &str = "HUBBLE_REDACTED";

/// Fields whose values are never told.
const SECRETS: [&str; 5] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
];

impl Verdict {
    pub(crate) fn of_permit(permit: &HttpPermit<'_>) -> Self {
        let note = |note: &HeaderNote<'_>| match note {
            HeaderNote::Missing { name, expected } => {
                Note::Missing((*name).to_owned(), told_value(name, expected))
            }
            HeaderNote::Rejected { name, actual } => {
                Note::Rejected((*name).to_owned(), told_value(name, actual))
            }
        };
        let notes = permit.notes().iter().map(note);
        Self::Allowed {
            rule: permit.rule(),
            notes: notes.chain(permit.bound().map(Note::Host)).collect(),
            audited: permit.is_audited(),
        }
    }
}

/// Fields of a request as a record tells them: without what its policy keeps secret.
pub(crate) fn told_asked(lines: &[HeaderLine<'_>], judge: &dyn Judge) -> Vec<(String, String)> {
    told_fields(
        lines
            .iter()
            .map(|(name, value)| match judge.is_secret(name) {
                true => (*name, REDACTED.as_bytes()),
                false => (*name, *value),
            }),
    )
}

/// Fields as a record tells them.
pub(crate) fn told_fields<'a>(
    lines: impl Iterator<Item = HeaderLine<'a>>,
) -> Vec<(String, String)> {
    let told = lines.map(|(name, value)| (name.to_owned(), told_value(name, value)));
    told.take(TOLD_FIELDS_MAX).collect()
}

fn told_value(name: &str, value: &[u8]) -> String {
    let is_it = |secret: &&str| name.eq_ignore_ascii_case(secret);
    match SECRETS.iter().any(is_it) {
        true => REDACTED.to_owned(),
        false => bounded(value, TOLD_VALUE_OCTETS_MAX),
    }
}

/// A URL as a record tells it.
pub(crate) fn told_url((scheme, host): (&str, &str), path: &str) -> String {
    let (host, path) = (host.as_bytes(), path.as_bytes());
    let url = [scheme.as_bytes(), b"://", host, path].concat();
    bounded(&url, TOLD_URL_OCTETS_MAX)
}

/// The beginning of a line that could not be read.
pub(crate) fn told_line(line: &[u8]) -> String {
    bounded(line, TOLD_LINE_OCTETS_MAX)
}

/// Cut, and with everything escaped that isn't plain ASCII.
pub(crate) fn bounded(bytes: &[u8], max: usize) -> String {
    let kept = bytes.get(..max).unwrap_or(bytes);
    let mut out = String::with_capacity(kept.len());
    for byte in kept {
        match byte {
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    if kept.len() < bytes.len() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_cut_and_can_forge_no_line() {
        assert_eq!(bounded(b"a\r\nb\x1b[0m\xff", 99), r"a\x0d\x0ab\x1b[0m\xff");
        assert_eq!(bounded(b"abcd", 4), "abcd");
        assert_eq!(bounded(b"abcde", 4), "abcd…");
        let url = told_url(("http", "shop.test"), &"/".repeat(TOLD_URL_OCTETS_MAX));
        assert_eq!(url.chars().count(), TOLD_URL_OCTETS_MAX + 1);
        assert!(url.starts_with("http://shop.test//") && url.ends_with('…'));
        let line = told_line(&[0; TOLD_LINE_OCTETS_MAX + 1]);
        assert_eq!(line, format!("{}…", r"\x00".repeat(TOLD_LINE_OCTETS_MAX)));
    }

    #[test]
    fn secrets_are_never_told_and_fields_are_bounded() {
        let long = [b'v'; TOLD_VALUE_OCTETS_MAX + 1];
        let many = std::iter::repeat_n(("A", &long[..]), TOLD_FIELDS_MAX);
        let secrets = SECRETS.map(|name| (name, &b"s3cret"[..]));
        let upper = ("AUTHORIZATION", &b"s3cret"[..]);
        let told = told_fields(secrets.into_iter().chain([upper]).chain(many));
        assert_eq!(told.len(), TOLD_FIELDS_MAX);
        assert!(told[..6].iter().all(|(_, value)| value == REDACTED));
        assert!(told.iter().all(|(_, value)| !value.contains("s3cret")));
        assert_eq!(told[6].1.chars().count(), TOLD_VALUE_OCTETS_MAX + 1);
    }
}
