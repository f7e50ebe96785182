//! `toPorts`: ports and protocols, and how they go with L7.

use std::sync::Arc;

use super::cursor::{At, Known, Report};
use super::item::Context;
use super::{l7, lint};
use crate::L4Protocol;
use crate::l4::{L7, L7Rules, PortMatch, PortRule, RuleProtocol};
use crate::limits::PORTS_MAX;
use crate::problem::Code;
use crate::rule::Effect;

const ENTRY: Known = Known {
    object: "a `toPorts` entry",
    read: &[
        "ports",
        "rules",
        "serverNames",
        "terminatingTLS",
        "originatingTLS",
    ],
    refused: &[(
        "listener",
        "`listener` (an Envoy of one's own) is not supported",
    )],
};

const DENY_ENTRY: Known = Known {
    object: "a `toPorts` entry of a deny rule",
    read: &["ports"],
    refused: &[],
};

const PORT: Known = Known {
    object: "a port",
    read: &["port", "endPort", "protocol"],
    refused: &[],
};

/// Protocols that Cilium knows behind an option of its own.
const EXTENDED: [&str; 7] = ["VRRP", "IGMP", "GRE", "IPIP", "IPV6", "ESP", "AH"];

/// One port of an entry.
struct Port {
    protocol: RuleProtocol,
    port: PortMatch,
}

/// Reads the entries of `toPorts`.
pub(super) fn read(
    entries: &[At<'_>],
    report: &mut Report<'_>,
    context: &Context<'_>,
) -> Vec<PortRule> {
    let read = entries.iter();
    read.flat_map(|entry| read_entry(entry, report, context))
        .collect()
}

fn read_entry(at: &At<'_>, report: &mut Report<'_>, context: &Context<'_>) -> Vec<PortRule> {
    let Some(mut fields) = at.fields(report) else {
        return Vec::new();
    };
    let list = fields.take_list("ports", report);
    let l7 = match context.effect {
        Effect::Allow => l7::read(&mut fields, report, context),
        Effect::Deny => {
            let why = "a deny rule has only `ports` here: what it denies, it denies whole";
            let help = "allow the port with L7 rules that leave out what must not pass";
            for key in [
                "rules",
                "serverNames",
                "terminatingTLS",
                "originatingTLS",
                "listener",
            ] {
                fields.refuse(key, report, (why, help));
            }
            None
        }
    };
    let known = match context.effect {
        Effect::Allow => &ENTRY,
        Effect::Deny => &DENY_ENTRY,
    };
    fields.finish(report, known);
    let items = list
        .as_ref()
        .map(|list| list.items.as_slice())
        .unwrap_or_default();
    if let Some(list) = list.as_ref().filter(|_| items.len() > PORTS_MAX) {
        let message = format!("{} ports; an entry takes at most {PORTS_MAX}", items.len());
        report.note(&list.at, Code::Limit, message);
    }
    if let Some((at, l7)) = &l7
        && items.is_empty()
        && matches!(l7.rules, L7Rules::Dns(_))
    {
        report.note(at, Code::Conflict, "`dns` needs `ports` beside it");
    }
    let mut rules = Vec::new();
    for item in items {
        let Some(Port { protocol, port }) = read_port(item, report) else {
            continue;
        };
        if let Some((_, l7)) = &l7 {
            check_l7_port(item, report, ((&port, protocol), l7));
        }
        rules.push(PortRule {
            protocol,
            port,
            l7: l7.as_ref().map(|(_, l7)| Arc::clone(l7)),
        });
    }
    if let Some((at, l7)) = &l7 {
        lint::warn_of_tls_port(at, report, (l7, &rules));
    }
    rules
}

fn read_port(at: &At<'_>, report: &mut Report<'_>) -> Option<Port> {
    let errors = report.errors();
    let mut fields = at.fields(report)?;
    let port_at = fields.take("port");
    let end_at = fields.take("endPort");
    let protocol = match fields.take("protocol") {
        Some(at) => at.text(report).and_then(|text| {
            let is_bare = port_at.is_none();
            read_protocol(text, &at, (report, is_bare))
        }),
        None => Some(RuleProtocol::Any),
    };
    if port_at.is_none() && report.errors() == errors {
        let message = "no `port`: port must be specified (\"0\" is every port of the protocol)";
        fields.note_missing(report, message);
    }
    fields.finish(report, &PORT);
    let port = port_at.and_then(|at| {
        let text = at.text(report)?;
        read_number(text, &at, report)
    });
    let end = end_at.and_then(|at| at.number(u16::MAX, report).map(|end| (at, end)));
    let port = match (port?, end) {
        (port, None) => port,
        (port, Some((at, end))) => read_range(port, (&at, end), report)?,
    };
    Some(Port {
        protocol: protocol?,
        port,
    })
}

/// A port with its `endPort`.
pub(super) fn read_range(
    port: PortMatch,
    (at, end): (&At<'_>, u16),
    report: &mut Report<'_>,
) -> Option<PortMatch> {
    match port {
        PortMatch::All => {
            let message = "`endPort` changes nothing beside port \"0\": that is every port already"
                .to_owned();
            let help = "write the lowest port of the range as `port`, or take `endPort` out";
            report.note_with_help(at, (Code::NoEffect, message), help);
            Some(PortMatch::All)
        }
        PortMatch::Range(first, _) if first <= end => Some(PortMatch::Range(first, end)),
        PortMatch::Range(first, _) => {
            let message = format!("`endPort` {end} is below `port` {first}");
            let help =
                format!("a range is written from its lower end: port {end}, endPort {first}");
            report.note_with_help(at, (Code::InvalidValue, message), help);
            None
        }
        PortMatch::Named(name) => {
            let message = format!("`endPort` can't go with a named port ({name})");
            report.note(at, Code::InvalidValue, message);
            None
        }
    }
}

fn read_number(text: &str, at: &At<'_>, report: &mut Report<'_>) -> Option<PortMatch> {
    if text.is_empty() {
        let message = "\"\" is no port: port must be specified".to_owned();
        let help = "\"0\" is every port of the protocol";
        report.note_with_help(at, (Code::InvalidValue, message), help);
        return None;
    }
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = is_digits && (text == "0" || !text.starts_with('0'));
    if is_plain && let Ok(port) = text.parse::<u16>() {
        return Some(match port {
            0 => PortMatch::All,
            port => PortMatch::Range(port, port),
        });
    }
    if is_service_name(text) && !looks_like_hex(text) {
        return Some(PortMatch::Named(text.to_ascii_lowercase().into()));
    }
    let message = format!("{text:?} is no port");
    let help = match text.split_once('-') {
        Some((first, last)) if first.parse::<u16>().is_ok() && last.parse::<u16>().is_ok() => {
            format!("a range is written `port: \"{first}\", endPort: {last}`")
        }
        Some(_) | None => {
            "a decimal number from 0 (every port) to 65535 in quotes, or a service name of at most \
             15 letters, digits and single dashes"
                .to_owned()
        }
    };
    report.note_with_help(at, (Code::InvalidValue, message), help);
    None
}

/// A number of another base that Cilium takes for a name.
fn looks_like_hex(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let digits = ["0x", "0b", "0o"]
        .iter()
        .find_map(|base| lower.strip_prefix(base));
    digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// An IANA service name: at most 15 letters, digits and single inner dashes, one letter at least.
pub(super) fn is_service_name(text: &str) -> bool {
    text.len() <= 15
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && text
            .split('-')
            .all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// `is_bare`: no port stands beside it.
fn read_protocol(
    text: &str,
    at: &At<'_>,
    (report, is_bare): (&mut Report<'_>, bool),
) -> Option<RuleProtocol> {
    let upper = text.to_ascii_uppercase();
    match upper.as_str() {
        "ANY" => return Some(RuleProtocol::Any),
        "TCP" => return Some(RuleProtocol::One(L4Protocol::Tcp)),
        "UDP" => return Some(RuleProtocol::One(L4Protocol::Udp)),
        "SCTP" => return Some(RuleProtocol::One(L4Protocol::Sctp)),
        _ => {}
    }
    if EXTENDED.contains(&upper.as_str()) {
        let bare = if is_bare {
            ", and without them a port must be specified"
        } else {
            ""
        };
        let message = format!("protocol {upper}: extended protocols are not supported{bare}");
        report.note(at, Code::NotSupported, message);
        return None;
    }
    let message = format!("{text:?} is no protocol of a port");
    let help = match upper.as_str() {
        "ICMP" | "ICMPV6" => "ICMP is allowed by `icmps`, in a rule of its own",
        _ => "the protocols are TCP, UDP, SCTP and ANY",
    };
    report.note_with_help(at, (Code::InvalidValue, message), help);
    None
}

/// Refuses a port that the L7 rules of its entry can't go with.
fn check_l7_port(
    at: &At<'_>,
    report: &mut Report<'_>,
    ((port, protocol), l7): ((&PortMatch, RuleProtocol), &L7),
) {
    let is_tcp = protocol == RuleProtocol::One(L4Protocol::Tcp);
    let needs_tcp = |what: &str| (Code::Conflict, format!("{what} need `protocol: TCP`"));
    let tcp_help = "write `protocol: TCP` (absent is ANY)";
    match &l7.rules {
        L7Rules::None if is_tcp => {}
        L7Rules::None => {
            report.note_with_help(at, needs_tcp("`serverNames` and TLS"), tcp_help);
        }
        L7Rules::Http(_) => {
            if !is_tcp {
                report.note_with_help(at, needs_tcp("`http` rules"), tcp_help);
            }
            if *port == PortMatch::All {
                let message = "`http` rules need a port, not \"0\"";
                report.note(at, Code::InvalidValue, message);
            }
        }
        L7Rules::Dns(_) => {
            if protocol == RuleProtocol::One(L4Protocol::Sctp) {
                let message = "`dns` rules are for UDP and TCP, not for SCTP";
                report.note(at, Code::InvalidValue, message);
            }
            match port {
                PortMatch::All => {
                    let message = "`dns` rules need a port, not \"0\"";
                    report.note(at, Code::InvalidValue, message);
                }
                PortMatch::Range(first, last) if last > first => {
                    let message = "`dns` rules can't go with a range (`endPort`): write the ports \
                                   one by one";
                    report.note(at, Code::Conflict, message);
                }
                PortMatch::Range(..) | PortMatch::Named(_) => {}
            }
        }
    }
}
