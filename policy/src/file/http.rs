//! One rule of `http`.

use super::cursor::{At, Fields, Known, Report};
use super::l7::read_secret;
use super::lint;
use super::object::Owner;
use crate::http::{HeaderRule, HttpRule, Mismatch, check_regex};
use crate::problem::Code;

const HTTP: Known = Known {
    object: "an `http` rule",
    read: &["method", "path", "host", "headers", "headerMatches"],
    refused: &[],
};

const HEADER_MATCH: Known = Known {
    object: "an item of `headerMatches`",
    read: &["name", "value", "secret", "mismatch"],
    refused: &[],
};

/// Reads one rule.
pub(super) fn read(at: &At<'_>, report: &mut Report<'_>, owner: &Owner<'_>) -> Option<HttpRule> {
    let mut fields = at.fields(report)?;
    let method = read_regex("method", &mut fields, report);
    let path_at = fields.take("path");
    let path = path_at.as_ref().and_then(|at| regex_at(at, report));
    let host_at = fields.take("host");
    let host = host_at.as_ref().and_then(|at| regex_at(at, report));
    let mut headers = Vec::new();
    if let Some(list) = fields.take_list("headers", report) {
        let items = list.items.iter();
        headers.extend(items.filter_map(|item| read_header(item, report)));
    }
    if let Some(list) = fields.take_list("headerMatches", report) {
        let items = list.items.iter();
        headers.extend(items.filter_map(|item| read_header_match(item, report, owner)));
    }
    fields.finish(report, &HTTP);
    if let (Some(at), Some(path)) = (&path_at, &path) {
        lint::warn_of_path(at, report, path);
    }
    if let (Some(at), Some(host)) = (&host_at, &host) {
        lint::warn_of_host(at, report, host);
    }
    Some(HttpRule {
        method,
        path,
        host,
        headers,
    })
}

fn read_regex(key: &str, fields: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Box<str>> {
    let at = fields.take(key)?;
    regex_at(&at, report)
}

/// A regular expression; an empty one is as good as absent.
fn regex_at(at: &At<'_>, report: &mut Report<'_>) -> Option<Box<str>> {
    let text = at.text(report).filter(|text| !text.is_empty())?;
    if let Err(reason) = check_regex(text) {
        let message = format!("{text:?} is no regular expression: {reason}");
        report.note(at, Code::InvalidValue, message);
        return None;
    }
    Some(text.into())
}

/// Reads an item of `headers`: `Name: value`, or a name that must be there.
fn read_header(at: &At<'_>, report: &mut Report<'_>) -> Option<HeaderRule> {
    let text = at.text(report)?;
    let (name, value) = match text.split_once(' ') {
        Some((name, value)) => (name.trim_matches(':'), Some(value)),
        None => (text, None),
    };
    Some(HeaderRule {
        name: header_name(name, at, report)?,
        value: value.map(Into::into),
        secret: None,
        mismatch: Mismatch::Fail,
    })
}

fn read_header_match(
    at: &At<'_>,
    report: &mut Report<'_>,
    owner: &Owner<'_>,
) -> Option<HeaderRule> {
    let mut fields = at.fields(report)?;
    let name_at = fields.take("name");
    if name_at.is_none() {
        fields.note_missing(report, "no `name`");
    }
    let value = fields.take_word("value", report);
    let secret = fields.take("secret");
    let mismatch = match fields.take("mismatch") {
        Some(at) => at
            .text(report)
            .and_then(|text| read_mismatch(text, &at, report)),
        None => Some(Mismatch::Fail),
    };
    fields.finish(report, &HEADER_MATCH);
    let name_at = name_at?;
    let name = name_at.text(report)?;
    let secret = match secret {
        Some(secret) => Some(read_secret(&secret, report, owner.namespace)?),
        None => None,
    };
    Some(HeaderRule {
        name: header_name(name, &name_at, report)
            .filter(|name| may_match((name, mismatch), &name_at, report))?,
        value: value.map(Into::into),
        secret,
        mismatch: mismatch?,
    })
}

/// Whether a header may be looked at with an action: not what says where a request goes or ends, and
/// nothing that is about one hop alone may be changed.
fn may_match(
    (name, mismatch): (&str, Option<Mismatch>),
    at: &At<'_>,
    report: &mut Report<'_>,
) -> bool {
    const NEVER: [&str; 4] = ["host", "content-length", "transfer-encoding", "connection"];
    const HOP: [&str; 6] = [
        "te",
        "upgrade",
        "expect",
        "keep-alive",
        "proxy-connection",
        "http2-settings",
    ];
    let edits = matches!(
        mismatch,
        Some(Mismatch::Add | Mismatch::Delete | Mismatch::Replace)
    );
    if edits && HOP.contains(&name) {
        let message = format!("{name:?} is about one hop alone, and can't be changed by a rule");
        let help = "it may be compared: without an action, or with LOG";
        report.note_with_help(at, (Code::InvalidValue, message), help);
        return false;
    }
    if !name.starts_with(':') && !NEVER.contains(&name) {
        return true;
    }
    let message = format!("{name:?} says where a request goes or ends, and is no header to act on");
    let help = "`method`, `path` and `host` of the rule are for that";
    report.note_with_help(at, (Code::InvalidValue, message), help);
    false
}

fn read_mismatch(text: &str, at: &At<'_>, report: &mut Report<'_>) -> Option<Mismatch> {
    Some(match text {
        "" => Mismatch::Fail,
        "LOG" => Mismatch::Log,
        "ADD" => Mismatch::Add,
        "DELETE" => Mismatch::Delete,
        "REPLACE" => Mismatch::Replace,
        other => {
            let message = format!("{other:?} is no action on a mismatch");
            let help = "the actions are LOG, ADD, DELETE and REPLACE; without one the rule fails";
            report.note_with_help(at, (Code::InvalidValue, message), help);
            return None;
        }
    })
}

/// The name of a header in lower case (a token of RFC 9110 §5.6.2, or a pseudo-header).
fn header_name(name: &str, at: &At<'_>, report: &mut Report<'_>) -> Option<Box<str>> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let word = name.strip_prefix(':').unwrap_or(name);
    if word.is_empty() || !word.bytes().all(token) {
        let message = format!("{name:?} is no name of a header");
        let help = "write \"Name: value\", or only the name of a header that must be there";
        report.note_with_help(at, (Code::InvalidValue, message), help);
        return None;
    }
    Some(name.to_ascii_lowercase().into())
}
