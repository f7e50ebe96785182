//! `toPorts`: ports, protocols and DNS rules.

use std::sync::Arc;

use fqdn::Everything;

use super::cursor::{At, Known, Report};
use super::egress::read_pattern;
use crate::L4Protocol;
use crate::l4::{L7, L7Rules, PortMatch, PortRule, Ports, RuleProtocol};
use crate::limits::PORTS_MAX;
use crate::problem::Code;
use crate::rule::FqdnSelector;

const ENTRY: Known = Known {
    object: "a `toPorts` entry",
    read: &["ports", "rules"],
    refused: &[
        ("serverNames", "`serverNames` (SNI) is not supported yet"),
        ("terminatingTLS", "TLS termination is not supported yet"),
        ("originatingTLS", "TLS termination is not supported yet"),
        (
            "listener",
            "`listener` (an Envoy of one's own) is not supported",
        ),
    ],
};

const PORT: Known = Known {
    object: "a port",
    read: &["port", "protocol"],
    refused: &[("endPort", "port ranges (`endPort`) are not supported yet")],
};

const RULES: Known = Known {
    object: "`rules`",
    read: &["dns"],
    refused: &[("http", "HTTP rules are not supported yet")],
};

/// The only port whose datagrams are taken for DNS.
const DNS_PORT: u16 = 53;
/// Protocols that Cilium knows behind an option of its own.
const EXTENDED: [&str; 7] = ["VRRP", "IGMP", "GRE", "IPIP", "IPV6", "ESP", "AH"];

/// Reads a `toPorts` that has entries.
pub(super) fn read(list: &At<'_>, report: &mut Report<'_>) -> Option<Ports> {
    let mut ports = Vec::new();
    for entry in list.items(report)? {
        read_entry(&entry, report, &mut ports);
    }
    Some(Ports::List(ports))
}

fn read_entry(at: &At<'_>, report: &mut Report<'_>, out: &mut Vec<PortRule>) {
    let Some(mut fields) = at.fields(report) else {
        return;
    };
    let list = fields.take("ports");
    let items = list.as_ref().and_then(|list| list.items(report));
    let items = items.unwrap_or_default();
    let rules = fields.take("rules");
    fields.finish(report, &ENTRY);
    let dns = rules.and_then(|rules| read_rules(&rules, report));
    if let Some(list) = list.as_ref().filter(|_| items.len() > PORTS_MAX) {
        let message = format!("{} ports; an entry takes at most {PORTS_MAX}", items.len());
        report.note(list, Code::Limit, message);
    }
    if let Some((dns_at, _)) = dns.as_ref().filter(|_| items.is_empty()) {
        report.note(dns_at, Code::Conflict, "`dns` needs `ports` beside it");
    }
    let l7 = dns.map(|(_, patterns)| {
        Arc::new(L7 {
            rules: L7Rules::Dns(patterns),
            server_names: Vec::new(),
            terminating_tls: None,
            originating_tls: None,
        })
    });
    for item in &items {
        let Some((port, protocol)) = read_port(item, report) else {
            continue;
        };
        if l7.is_some() {
            check_dns_port(item, report, (port, protocol));
        }
        out.push(PortRule {
            protocol,
            port: match port {
                0 => PortMatch::All,
                port => PortMatch::Range(port, port),
            },
            l7: l7.clone(),
        });
    }
}

/// Reads `rules`; an empty `dns` is no L7 at all.
fn read_rules<'a>(at: &At<'a>, report: &mut Report<'_>) -> Option<(At<'a>, Vec<FqdnSelector>)> {
    let mut fields = at.fields(report)?;
    if fields.has("http") && !fields.holds("http") {
        fields.tolerate(&["http"]);
    }
    let dns = fields.take("dns");
    if dns.as_ref().is_some_and(|dns| !dns.is_empty_list()) && fields.holds("http") {
        fields.note_conflict(report, "`dns` and `http` can't stand in one entry");
    }
    fields.finish(report, &RULES);
    let dns = dns?;
    let items = dns.items(report)?;
    let patterns = items
        .iter()
        .filter_map(|item| read_pattern(item, report, Everything::AnyName))
        .collect();
    (!items.is_empty()).then_some((dns, patterns))
}

fn read_port(at: &At<'_>, report: &mut Report<'_>) -> Option<(u16, RuleProtocol)> {
    let mut fields = at.fields(report)?;
    let port = match fields.take("port") {
        Some(at) => at
            .text(report)
            .and_then(|text| read_number(text, &at, report)),
        None => {
            fields.note_missing(report, "no `port`");
            None
        }
    };
    let protocol = match fields.take("protocol") {
        Some(at) => at
            .text(report)
            .and_then(|text| read_protocol(text, &at, report)),
        None => Some(RuleProtocol::Any),
    };
    fields.finish(report, &PORT);
    Some((port?, protocol?))
}

fn read_number(text: &str, at: &At<'_>, report: &mut Report<'_>) -> Option<u16> {
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = is_digits && (text == "0" || !text.starts_with('0'));
    if is_plain && let Ok(port) = text.parse::<u16>() {
        return Some(port);
    }
    if is_service_name(text) {
        report.note(at, Code::NotSupported, "named ports are not supported yet");
        return None;
    }
    let message = format!("{text:?} is no port");
    let help = "a decimal number from 0 (every port) to 65535, in quotes";
    report.note_with_help(at, (Code::InvalidValue, message), help);
    None
}

/// An IANA service name: at most 15 letters, digits and single inner dashes, one letter at least.
fn is_service_name(text: &str) -> bool {
    text.len() <= 15
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && text
            .split('-')
            .all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

fn read_protocol(text: &str, at: &At<'_>, report: &mut Report<'_>) -> Option<RuleProtocol> {
    let upper = text.to_ascii_uppercase();
    match upper.as_str() {
        "ANY" => return Some(RuleProtocol::Any),
        "TCP" => return Some(RuleProtocol::One(L4Protocol::Tcp)),
        "UDP" => return Some(RuleProtocol::One(L4Protocol::Udp)),
        "SCTP" => return Some(RuleProtocol::One(L4Protocol::Sctp)),
        _ => {}
    }
    if EXTENDED.contains(&upper.as_str()) {
        let message = format!("protocol {upper} is not supported yet");
        report.note(at, Code::NotSupported, message);
        return None;
    }
    let message = format!("{text:?} is no protocol of a port");
    let help = "the protocols are TCP, UDP, SCTP and ANY";
    report.note_with_help(at, (Code::InvalidValue, message), help);
    None
}

fn check_dns_port(at: &At<'_>, report: &mut Report<'_>, (port, protocol): (u16, RuleProtocol)) {
    if protocol == RuleProtocol::One(L4Protocol::Sctp) {
        report.note(
            at,
            Code::InvalidValue,
            "`dns` rules are for UDP and TCP, not for SCTP",
        );
    }
    match port {
        DNS_PORT => {}
        0 => report.note(at, Code::InvalidValue, "`dns` rules need a port, not \"0\""),
        _ => report.note(
            at,
            Code::NotSupported,
            "`dns` rules on a port other than 53 are not supported yet: only port 53 is redirected",
        ),
    }
}
