//! An HTTP/2 request before a verdict, and what goes upstream by it.
//!
//! The engine has read frames and fields (RFC 9113 §8.2, §8.3); here is what it doesn't ask: one host,
//! the path in all of its readings, bounds. A request goes upstream only as a [`Permitted`], which is
//! made of what the permit says.

use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, DATE, HOST, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority as UriAuthority, PathAndQuery, Scheme as UriScheme};
use http::{HeaderMap, Method, Response, StatusCode, Uri};
use policy::http::{HeaderLine, HttpPermit, Path, Request};

use super::answer::{Shape, date, escape, grpc_code};
use super::bytes::is_padded;
use super::exchange::shape_of;
use super::forward::{edited, is_listed};
use super::frames::Flaws;
use super::framing::may_trail;
use super::head::field::{Kind, kind_of};
use super::head::refusal::BadHead;
use super::head::request::is_grpc;
use super::host::Authority;
use super::record::{
    Protocol, RequestRecord, Verdict, told_asked, told_fields, told_line, told_url,
};
use super::step::{Denied, Judge, Origin, Settings};
use crate::limits::{
    FIELD_NAME_OCTETS_MAX, FIELD_VALUE_OCTETS_MAX, FIELDS_MAX, START_LINE_OCTETS_MAX,
    TRAILER_OCTETS_MAX, TRAILERS_MAX,
};

/// What became of a request.
pub(crate) enum Asked {
    Allowed(Box<Permitted>, RequestRecord),
    Denied(RequestRecord, Denied),
    Malformed(RequestRecord, BadHead),
}

/// A request that may go upstream.
pub(crate) struct Permitted {
    request: http::Request<()>,
    pub(crate) sought: Sought,
}

/// What a request seeks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sought {
    /// A response.
    Response,
    /// A tunnel: CONNECT, with a protocol (RFC 8441) or without.
    Tunnel,
}

/// Where a request leads.
enum Target<'a> {
    Path(Path<'a>),
    /// The same by CONNECT.
    Upgrade(Path<'a>),
    Tunnel,
}

impl Permitted {
    /// The request for the server.
    pub(crate) fn into_request(self) -> http::Request<()> {
        self.request
    }

    /// Made of what a permit says: method, path and effects; host and scheme are the request's own.
    #[expect(clippy::needless_pass_by_value, reason = "one permit, one request")]
    fn new(
        permit: HttpPermit<'_>,
        (parts, origin, host): (&Parts, &Origin, &str),
        (lines, sought): (&[HeaderLine<'_>], Sought),
    ) -> Option<Self> {
        let mut uri = http::uri::Parts::default();
        uri.authority = Some(host.parse::<UriAuthority>().ok()?);
        if let Some(target) = permit.target() {
            uri.path_and_query = Some(target.parse::<PathAndQuery>().ok()?);
            let scheme = parts.uri.scheme().cloned();
            uri.scheme = Some(match scheme {
                Some(scheme) => scheme,
                None => origin.scheme.text().parse::<UriScheme>().ok()?,
            });
        }
        let mut request = http::Request::new(());
        *request.method_mut() = match sought {
            Sought::Tunnel => Method::CONNECT,
            Sought::Response => permit.method().parse().ok()?,
        };
        *request.uri_mut() = Uri::from_parts(uri).ok()?;
        *request.version_mut() = http::Version::HTTP_2;
        let headers = request.headers_mut();
        for (name, value) in edited(lines, permit.effects()) {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_bytes(value).ok()?);
        }
        if let Some(protocol) = parts.extensions.get::<::h2::ext::Protocol>() {
            request.extensions_mut().insert(protocol.clone());
        }
        Some(Self { request, sought })
    }
}

/// Judges a request.
pub(crate) fn ask(
    parts: &Parts,
    (settings, origin): (&Settings, &Origin),
    (judge, now): (&dyn Judge, Instant),
    flaws: Flaws,
) -> Asked {
    let (host, target) = match read(parts, settings, flaws) {
        Ok(read) => read,
        Err(bad) => return malformed(parts, (bad, now)),
    };
    let cookies = joined_cookies(&parts.headers);
    let lines = lines(&parts.headers, cookies.as_deref());
    let method = parts.method.as_str();
    let path = match &target {
        Target::Path(path) | Target::Upgrade(path) => Some(path),
        Target::Tunnel => None,
    };
    let request = |method| Request {
        method,
        path,
        host: Some(host),
        port: origin.original_destination.port(),
        headers: &lines,
    };
    let requests = [request(method), request("GET")];
    let record = |verdict, lines: &[HeaderLine<'_>]| RequestRecord {
        at: now,
        method: told_line(method.as_bytes()),
        url: url((host, path), (settings, origin)),
        is_query_hidden: path.is_some_and(|path| settings.queries.hide_of(path.normal())),
        version: Some(Protocol::Http2),
        fields: told_asked(lines, judge),
        verdict,
    };
    let [as_sent, as_get] = &requests;
    let permit = match &target {
        Target::Path(_) => judge.judge(as_sent),
        // A rule for a WebSocket was mostly written for its HTTP/1 form, which is a GET.
        Target::Upgrade(_) if is_upgrade(parts, settings) => {
            judge.judge(as_sent).or_else(|_| judge.judge(as_get))
        }
        Target::Tunnel if is_at(host, origin) => judge.judge(as_sent),
        Target::Upgrade(_) | Target::Tunnel => Err(Denied::NotAllowed),
    };
    let is_for = |permit: &HttpPermit<'_>| {
        let is_method = match &target {
            Target::Upgrade(_) => matches!(permit.method(), "CONNECT" | "GET"),
            Target::Path(_) | Target::Tunnel => permit.method() == method,
        };
        is_method && permit.host() == Some(host) && permit.target() == path.map(Path::normal)
    };
    let permit = match permit {
        Ok(permit) if is_for(&permit) => permit,
        Ok(_) => {
            return Asked::Denied(
                record(Verdict::Denied(Denied::NoPolicy), &lines),
                Denied::NoPolicy,
            );
        }
        Err(denied) => return Asked::Denied(record(Verdict::Denied(denied), &lines), denied),
    };
    let verdict = Verdict::of_permit(&permit);
    let record = match permit.effects() {
        [] => record(verdict, &lines),
        effects => record(verdict, &edited(&lines, effects)),
    };
    let sought = match &target {
        Target::Path(_) => Sought::Response,
        Target::Upgrade(_) | Target::Tunnel => Sought::Tunnel,
    };
    match Permitted::new(permit, (parts, origin, host), (&lines, sought)) {
        Some(permitted) => Asked::Allowed(Box::new(permitted), record),
        None => malformed(parts, (BadHead::TargetForm, now)),
    }
}

fn malformed(parts: &Parts, (bad, now): (BadHead, Instant)) -> Asked {
    let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let record = RequestRecord {
        at: now,
        method: String::new(),
        url: told_line(format!("{} {path}", parts.method).as_bytes()),
        is_query_hidden: false,
        version: Some(Protocol::Http2),
        fields: Vec::new(),
        verdict: Verdict::Malformed(bad),
    };
    Asked::Malformed(record, bad)
}

/// The host and the target, if both are sound.
fn read<'p>(
    parts: &'p Parts,
    settings: &Settings,
    flaws: Flaws,
) -> Result<(&'p str, Target<'p>), BadHead> {
    check_bounds(&parts.headers)?;
    if parts.headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
        return Err(BadHead::ManyLengths);
    }
    let host = host(parts)?;
    let is_known = |scheme: &UriScheme| *scheme == UriScheme::HTTP || *scheme == UriScheme::HTTPS;
    if !parts.uri.scheme().is_none_or(is_known) {
        return Err(BadHead::TargetForm);
    }
    if flaws.fragment {
        return Err(BadHead::Path(policy::http::BadPath::Fragment));
    }
    let is_connect = parts.method == Method::CONNECT;
    let Some(path) = parts.uri.path_and_query().map(PathAndQuery::as_str) else {
        let has_port = Authority::read(host.as_bytes())?.port.is_some();
        return match is_connect && has_port {
            true => Ok((host, Target::Tunnel)),
            false => Err(BadHead::TargetForm),
        };
    };
    if path.len() > START_LINE_OCTETS_MAX {
        return Err(BadHead::StartLineTooLong);
    }
    if path == "*" && parts.method != Method::OPTIONS {
        return Err(BadHead::TargetForm);
    }
    let path = settings.paths.parse(path.as_bytes());
    let path = path.map_err(BadHead::Path)?;
    Ok((
        host,
        match is_connect {
            true => Target::Upgrade(path),
            false => Target::Path(path),
        },
    ))
}

/// The one host: `:authority`, with which a Host field must agree (RFC 9113 §8.3.1), or that alone.
fn host(parts: &Parts) -> Result<&str, BadHead> {
    let mut fields = parts.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(BadHead::ManyHosts);
    }
    let field = field.map(|field| field.to_str().map_err(|_| BadHead::Host));
    let host = match (parts.uri.authority(), field.transpose()?) {
        (Some(authority), Some(field)) if !authority.as_str().eq_ignore_ascii_case(field) => {
            return Err(BadHead::OtherHost);
        }
        (Some(authority), _) => authority.as_str(),
        (None, Some(field)) => field,
        (None, None) => return Err(BadHead::NoHost),
    };
    Authority::read(host.as_bytes())?;
    Ok(host)
}

fn check_bounds(headers: &HeaderMap) -> Result<(), BadHead> {
    if headers.len() > FIELDS_MAX {
        return Err(BadHead::TooManyFields);
    }
    let is_long = |(name, value): (&HeaderName, &HeaderValue)| {
        name.as_str().len() > FIELD_NAME_OCTETS_MAX || value.len() > FIELD_VALUE_OCTETS_MAX
    };
    if headers.iter().any(is_long) {
        return Err(BadHead::FieldTooLong);
    }
    // RFC 9113 §8.2.1. Servers take such spaces off or not: it would not be what was judged.
    match headers.values().any(|value| is_padded(value.as_bytes())) {
        true => Err(BadHead::Http2),
        false => Ok(()),
    }
}

/// Whether an extended CONNECT is to something that may be had.
fn is_upgrade(parts: &Parts, settings: &Settings) -> bool {
    let protocol = parts.extensions.get::<::h2::ext::Protocol>();
    protocol.is_some_and(|protocol| is_listed(protocol.as_str().as_bytes(), &settings.upgrades))
}

fn is_at(host: &str, origin: &Origin) -> bool {
    Authority::read(host.as_bytes()).is_ok_and(|authority| origin.is_at(&authority))
}

/// What clients cut into several Cookie fields, as rules and servers mean it (RFC 9113 §8.2.3).
fn joined_cookies(headers: &HeaderMap) -> Option<Vec<u8>> {
    let cookies: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    (cookies.len() > 1).then(|| cookies.join(&b"; "[..]))
}

/// The fields that are judged, told and forwarded.
fn lines<'p>(headers: &'p HeaderMap, cookies: Option<&'p [u8]>) -> Vec<HeaderLine<'p>> {
    let passes = |(name, _): &(&HeaderName, &HeaderValue)| {
        let is_cookie = cookies.is_some() && *name == COOKIE;
        let is_hop = matches!(
            kind_of(name.as_str().as_bytes()),
            Kind::Host | Kind::Http2Settings
        );
        !is_cookie && !is_hop
    };
    let lines = headers.iter().filter(passes);
    let lines = lines.map(|(name, value)| (name.as_str(), value.as_bytes()));
    lines
        .chain(cookies.map(|value| (COOKIE.as_str(), value)))
        .collect()
}

fn url(
    (host, path): (&str, Option<&Path<'_>>),
    (settings, origin): (&Settings, &Origin),
) -> String {
    let path = path.map_or("", Path::normal);
    told_url((origin.scheme.text(), host), settings.queries.of(path))
}

/// The shape of our answers to a request.
pub(crate) fn shape(parts: &Parts) -> Shape {
    let kinds = parts.headers.get_all(CONTENT_TYPE).iter();
    let is_grpc = kinds.map(HeaderValue::as_bytes).any(is_grpc);
    shape_of(parts.method.as_str(), is_grpc)
}

/// An answer of our own; without a body it is all of it.
pub(crate) fn answer(
    (status, text): (u16, &str),
    shape: Shape,
    now: SystemTime,
) -> (Response<()>, Option<Bytes>) {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
    };
    match shape {
        Shape::Grpc => {
            set(CONTENT_TYPE, "application/grpc");
            set(HeaderName::from_static("grpc-status"), grpc_code(status));
            set(HeaderName::from_static("grpc-message"), &escape(text));
        }
        Shape::Whole | Shape::Head => {
            set(CONTENT_TYPE, "text/plain");
            set(CONTENT_LENGTH, &text.len().to_string());
        }
    }
    set(DATE, &date(now));
    *response.status_mut() = match shape {
        Shape::Grpc => StatusCode::OK,
        Shape::Whole | Shape::Head => {
            StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST)
        }
    };
    let body = (shape == Shape::Whole).then(|| Bytes::copy_from_slice(text.as_bytes()));
    (response, body)
}

/// The fields of a response, to be told.
pub(crate) fn told_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    told_fields(
        headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes())),
    )
}

/// Trailers as they are passed on: what may stand in those of HTTP/1 too. `None`: too many.
pub(crate) fn trailers(mut trailers: HeaderMap) -> Option<HeaderMap> {
    let octets = trailers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    if trailers.len() > TRAILERS_MAX || octets.sum::<usize>() > TRAILER_OCTETS_MAX {
        return None;
    }
    let names: Vec<HeaderName> = trailers.keys().cloned().collect();
    for name in names {
        let octets = name.as_str().as_bytes();
        if !may_trail(kind_of(octets), octets) {
            trailers.remove(name);
        }
    }
    Some(trailers)
}

#[cfg(test)]
mod tests;
