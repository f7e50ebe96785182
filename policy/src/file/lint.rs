//! Warnings of what is legal, but likely not what was meant, as one object shows it.

use std::borrow::Cow;
use std::cell::LazyCell;
use std::ops::Deref;

use fqdn::{Name, PatternSet};

use super::cursor::{At, Report};
use super::object::Owner;
use crate::Direction;
use crate::l4::{L7, L7Rules, PortMatch, PortRule, Ports};
use crate::limits::NAME_WARNINGS_MAX;
use crate::names::NameList;
use crate::problem::Code;
use crate::rule::{Effect, Item, PeerSelector, Peers};

/// The port of HTTP over TLS.
const HTTPS_PORT: u16 = 443;

/// Suffixes of more than one label under which anybody can have a name; a single label is one too.
const PUBLIC_SUFFIXES: [&str; 40] = [
    "ac.uk",
    "appspot.com",
    "azurewebsites.net",
    "blob.core.windows.net",
    "cloudapp.azure.com",
    "cloudfront.net",
    "co.id",
    "co.il",
    "co.in",
    "co.jp",
    "co.kr",
    "co.nz",
    "co.th",
    "co.uk",
    "co.za",
    "com.ar",
    "com.au",
    "com.br",
    "com.cn",
    "com.hk",
    "com.mx",
    "com.sg",
    "com.tr",
    "com.tw",
    "fly.dev",
    "github.io",
    "githubusercontent.com",
    "gitlab.io",
    "gov.uk",
    "herokuapp.com",
    "ne.jp",
    "net.au",
    "netlify.app",
    "ngrok.io",
    "or.jp",
    "org.au",
    "org.uk",
    "pages.dev",
    "vercel.app",
    "workers.dev",
];

/// Domains of a cluster and of reverse lookups: nobody means their apex.
const NO_APEX: [&str; 4] = ["local", "internal", "in-addr.arpa", "ip6.arpa"];

/// Warns of an item that allows nothing, or whose DNS rule teaches nobody.
pub(super) fn warn_of_item(
    item: &Item,
    report: &mut Report<'_>,
    (at, owner): (&At<'_>, &Owner<'_>),
) {
    if matches!(&item.ports, Ports::List(ports) if ports.is_empty()) {
        let done = match item.effect {
            Effect::Allow => "allowed",
            Effect::Deny => "denied",
        };
        let message = format!("no entry has `ports` (or `fields`): nothing is {done}");
        let help = "leave `toPorts` out for every port, or name the ports";
        report.note_with_help(at, (Code::SelectsNothing, message), help);
    }
    let can_teach = match &item.peers {
        Peers::Any | Peers::Named(_) => false,
        Peers::Nobody => return,
        Peers::Some(peers) => peers.iter().any(PeerSelector::may_teach),
    };
    if item.direction == Direction::Egress && item.has_dns() && !can_teach {
        let message = format!(
            "the DNS rule of policy {:?} never teaches: addresses are learned only from servers \
             that a rule names, so no `toFQDNs` opens by their answers",
            owner.name
        );
        report.note_with_help(
            at,
            (Code::NeverTeaches, message),
            "name the servers by the value of a label, by `host` or `kube-apiserver`, or by a \
             prefix of at least /24 (IPv6 /64)",
        );
    }
}

/// Warns of `{}` among other elements of a direction: it adds nothing to them.
pub(super) fn warn_of_empty_beside(elements: &[&At<'_>], report: &mut Report<'_>) {
    if elements.len() < 2 {
        return;
    }
    if let Some(at) = elements.iter().find(|at| at.is_empty_map()) {
        let message = "an empty rule beside others changes nothing: it selects nobody, and the \
                       others close the direction too"
            .to_owned();
        let help = "take it out; what allows everything is `fromEntities: [all]`, `toEntities: \
                    [all]`";
        report.note_with_help(at, (Code::EmptyBeside, message), help);
    }
}

/// What is likely wrong with a name or a pattern.
#[derive(Clone, Copy)]
enum NameFault {
    MatchesNoName,
    PublicSuffix,
    MissesApex,
}

/// Warns of names and patterns of one list, at most once for each; of a long list the first
/// [`NAME_WARNINGS_MAX`] are told, and how many there are more.
pub(super) fn warn_of_names(list: &NameList, places: &[&At<'_>], report: &mut Report<'_>) {
    let all = LazyCell::new(|| list.make_set());
    let named = places.iter().zip(list.texts());
    let faults = named.map(|(at, text)| (at, text, fault_of_name(&folded(text), &all)));
    let mut faults = faults.filter_map(|(at, text, fault)| Some((at, text, fault?)));
    for (at, text, fault) in faults.by_ref().take(NAME_WARNINGS_MAX) {
        let (code, message, help) = fault.words(text);
        report.note_with_help(at, (code, message), help);
    }
    if let Some((at, text, fault)) = faults.next() {
        let (code, message, help) = fault.words(text);
        let message = match faults.count() {
            0 => message,
            more => format!("{message}; and {more} more of this list are like that"),
        };
        report.note_with_help(at, (code, message), help);
    }
}

/// A name in lower case, without its optional final dot.
fn folded(text: &str) -> Cow<'_, str> {
    let text = text.trim_end_matches('.');
    match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => text.to_ascii_lowercase().into(),
        false => text.into(),
    }
}

/// What is likely wrong with a name or a pattern among `all` of its list.
fn fault_of_name(text: &str, all: &impl Deref<Target = PatternSet<u32>>) -> Option<NameFault> {
    let last = text.rsplit('.').next().unwrap_or_default();
    if !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(NameFault::MatchesNoName);
    }
    let parent = parent_domain(text)?;
    let is_below = |domain: &&str| {
        let rest = parent.strip_suffix(*domain);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if NO_APEX.iter().any(is_below) {
        return None;
    }
    if !parent.contains('.') || PUBLIC_SUFFIXES.contains(&parent) {
        return Some(NameFault::PublicSuffix);
    }
    let apex = Name::from_text(parent).ok()?;
    let is_missed = all.first_match(apex.as_wire()).is_none();
    is_missed.then_some(NameFault::MissesApex)
}

impl NameFault {
    /// Code, message and help.
    fn words(self, written: &str) -> (Code, String, String) {
        let text = folded(written);
        let parent = parent_domain(&text).unwrap_or_default();
        match self {
            Self::MatchesNoName => (
                Code::MatchesNoName,
                format!("no name ends in a number, so {written:?} matches nothing"),
                "addresses are written in `toCIDR`, as 10.0.0.1/32".to_owned(),
            ),
            Self::PublicSuffix => (
                Code::PublicSuffix,
                format!("{written:?} stands for names of anybody: {parent:?} is a public suffix"),
                "name the domains that are meant".to_owned(),
            ),
            Self::MissesApex => (
                Code::MissesApex,
                format!("{written:?} does not match {parent:?} itself"),
                format!("if it is meant too, add `matchName: {parent}`"),
            ),
        }
    }
}

/// The domain below which a pattern of the form `*.x` or `**.x` stands for everything.
fn parent_domain(text: &str) -> Option<&str> {
    let rest = text.strip_prefix('*')?.trim_start_matches('*');
    let domain = rest.strip_prefix('.')?;
    (!domain.is_empty() && !domain.contains('*')).then_some(domain)
}

/// Warns of a path that likely matches less than was meant.
pub(super) fn warn_of_path(at: &At<'_>, report: &mut Report<'_>, path: &str) {
    let start = path.trim_start_matches(['^', '(']);
    if start.starts_with(|ch: char| ch.is_ascii_alphanumeric()) {
        let message = format!("{path:?} has no leading slash, and every path starts with one");
        let help = format!("write \"/{}\"", path.trim_start_matches('^'));
        report.note_with_help(at, (Code::PathWithoutSlash, message), help);
        return;
    }
    let end = path.trim_end_matches(['$', ')', '?']);
    let is_open = end.ends_with(".*") || end.ends_with(".+");
    if !is_open && !path.contains("\\?") && !path.contains("[?") {
        let message = format!(
            "{path:?} must match the whole path with its query string: a request with `?…` is \
             refused"
        );
        let help = format!(
            "to take query strings: \"{}(\\\\?.*)?\"",
            path.trim_end_matches('$')
        );
        report.note_with_help(at, (Code::MissesQuery, message), help);
    }
}

/// Warns of a dot that stands for any character.
pub(super) fn warn_of_host(at: &At<'_>, report: &mut Report<'_>, host: &str) {
    if has_bare_dot(host) {
        let message = format!("{host:?} is a regular expression: its dot stands for any character");
        let help = "write `\\.` for a dot";
        report.note_with_help(at, (Code::UnescapedDot, message), help);
    }
}

/// Whether a dot stands there that is not escaped, in no class and not repeated.
fn has_bare_dot(regex: &str) -> bool {
    let mut rest = regex.chars().peekable();
    let mut in_class = false;
    while let Some(ch) = rest.next() {
        match ch {
            '\\' => {
                rest.next();
            }
            '[' => in_class = true,
            ']' => in_class = false,
            '.' if !in_class && !matches!(rest.peek(), Some('*' | '+' | '?' | '{')) => {
                return true;
            }
            _ => {}
        }
    }
    false
}

/// Warns of HTTP rules on a port where only TLS is to be seen.
pub(super) fn warn_of_tls_port(
    at: &At<'_>,
    report: &mut Report<'_>,
    (l7, rules): (&L7, &[PortRule]),
) {
    let is_https = |rule: &PortRule| match rule.port {
        PortMatch::Range(first, last) => (first..=last).contains(&HTTPS_PORT),
        PortMatch::All | PortMatch::Named(_) => false,
    };
    let is_blind = l7.terminating_tls.is_none() && matches!(l7.rules, L7Rules::Http(_));
    if is_blind && rules.iter().any(is_https) {
        let message = "`http` rules on port 443 without `terminatingTLS`: requests inside TLS \
                       can't be seen, so every connection fails"
            .to_owned();
        let help = "add `terminatingTLS`, or judge by `serverNames` in place of `rules`";
        report.note_with_help(at, (Code::HttpOnTlsPort, message), help);
    }
}
