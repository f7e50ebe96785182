//! From a head to a verdict: what is judged is what goes upstream.

use std::time::Instant;

use policy::http::{HeaderLine, Path, Request};

use crate::core::buffer::Buffer;
use crate::core::forward::{Passing, edited, write_request};
use crate::core::framing::Framing;
use crate::core::head::field::Field;
use crate::core::head::refusal::BadHead;
use crate::core::head::request::RequestHead;
use crate::core::head::response::Asked;
use crate::core::record::{Protocol, RequestRecord, Verdict, told_asked, told_url};
use crate::core::step::{Denied, Judge, Origin, Settings};
use crate::core::target::{Target, read_target};

/// What became of a request.
pub(super) enum Judged {
    /// Its head stands in the buffer for the server.
    Forwarded(RequestRecord, Sought),
    Denied(RequestRecord, Denied),
    Malformed(BadHead),
}

/// What a request that was forwarded seeks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sought {
    pub(super) asked: Asked,
    /// It may be upgraded.
    pub(super) upgrades: bool,
}

/// Judges a request, and writes its head for the server if it may go.
pub(super) fn ask(
    (buffer, fields): (&[u8], &[Field]),
    (head, settings, origin): (&RequestHead, &Settings, &Origin),
    (judge, now): (&dyn Judge, Instant),
    out: &mut Buffer,
) -> Judged {
    let method = head.method.text(buffer);
    let host = head.host.map(|host| host.text(buffer));
    let target = read_target(method, head.target.of(buffer), (host, origin.scheme));
    let target = match target {
        Ok(target) => target,
        Err(bad) => return Judged::Malformed(bad),
    };
    let path = match &target {
        Target::Tunnel(_) if head.framing != Framing::Length(0) => {
            return Judged::Malformed(BadHead::ConnectBody);
        }
        Target::Tunnel(_) => None,
        Target::Path(path) => match settings.paths.parse(path) {
            Ok(path) => Some(path),
            Err(bad) => return Judged::Malformed(BadHead::Path(bad)),
        },
    };
    let passing = Passing::of_request((buffer, fields), head, &settings.upgrades);
    let lines: Vec<HeaderLine<'_>> = passing.lines(buffer, fields).collect();
    let request = Request {
        method,
        path: path.as_ref(),
        host,
        port: origin.original_destination.port(),
        headers: &lines,
    };
    let record = |verdict, lines: &[HeaderLine<'_>]| RequestRecord {
        at: now,
        method: crate::core::record::told_line(method.as_bytes()),
        url: url((head.target.text(buffer), &request), (settings, origin)),
        is_query_hidden: path
            .as_ref()
            .is_some_and(|path| settings.queries.hide_of(path.normal())),
        version: Some(Protocol::Http1(head.version)),
        fields: told_asked(lines, judge),
        verdict,
    };
    let permit = match &target {
        Target::Tunnel(authority) if !origin.is_at(authority) => Err(Denied::NotAllowed),
        Target::Tunnel(_) | Target::Path(_) => judge.judge(&request),
    };
    let permit = permit.and_then(|permit| {
        let is_for = permit.method() == method
            && permit.host() == host
            && permit.target() == path.as_ref().map(Path::normal);
        if is_for {
            Ok(permit)
        } else {
            Err(Denied::NoPolicy)
        }
    });
    let permit = match permit {
        Ok(permit) => permit,
        Err(denied) => {
            return Judged::Denied(record(Verdict::Denied(denied), &lines), denied);
        }
    };
    let verdict = Verdict::of_permit(&permit);
    let record = match permit.effects() {
        [] => record(verdict, &lines),
        effects => record(verdict, &edited(&lines, effects)),
    };
    let asked = match method {
        "HEAD" => Asked::Head,
        "CONNECT" => Asked::Connect,
        _ => Asked::Other,
    };
    let upgrades = passing.upgrades();
    write_request(permit, (buffer, fields), (head, &passing), out);
    Judged::Forwarded(record, Sought { asked, upgrades })
}

fn url(
    (target, request): (&str, &Request<'_>),
    (settings, origin): (&Settings, &Origin),
) -> String {
    let host = request.host.unwrap_or_default();
    let Some(path) = request.path.map(Path::normal) else {
        return told_url((origin.scheme.text(), target), "");
    };
    told_url((origin.scheme.text(), host), settings.queries.of(path))
}
