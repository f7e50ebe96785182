//! The words in the brackets of a printed line. The server writes them, every printer only echoes.

pub(crate) mod icmp;

use std::fmt::{Display, Write};
use std::net::IpAddr;

use crate::dns::{Dns, rcode_text};
use crate::flow::{Event, Flow};
use crate::http::Http;
use crate::message::MessageKind;
use crate::packet::{L4, TcpFlags};

/// The summary of a flow, from its other fields. It holds no control character as long as names are
/// in presentation form.
pub(crate) fn of(flow: &Flow) -> String {
    match &flow.event {
        Event::Dns(dns) => match dns.kind {
            MessageKind::Request | MessageKind::Sample | MessageKind::Unknown => dns_query(dns),
            MessageKind::Response => dns_answer(dns),
        },
        Event::Http(http) => http_message(http),
        Event::PolicyVerdict { .. } | Event::Drop { .. } | Event::Trace { .. } => packet(flow),
        // Only their teller knows.
        Event::OtherL7 { .. } | Event::Other { .. } => String::new(),
    }
}

/// The latency in whole milliseconds.
fn http_message(http: &Http) -> String {
    let Http {
        protocol,
        method,
        url,
        code,
        ..
    } = http;
    // What could not be read as a request has its line for a URL.
    let space = if method.is_empty() { "" } else { " " };
    match http.kind {
        MessageKind::Request | MessageKind::Sample | MessageKind::Unknown => {
            format!("{protocol} {method}{space}{url}")
        }
        MessageKind::Response => {
            let latency_ms = http.latency_ns / 1_000_000;
            format!("{protocol} {code} {latency_ms}ms ({method}{space}{url})")
        }
    }
}

fn packet(flow: &Flow) -> String {
    match (flow.l4, flow.ip.map(|ip| ip.source)) {
        (Some(L4::Tcp { flags, .. }), _) => tcp(flags.unwrap_or_default()),
        (Some(L4::Udp { .. }), _) => "UDP".to_owned(),
        (Some(L4::Sctp { .. }), _) => "SCTP".to_owned(),
        (Some(L4::Icmpv4 { kind, code }), _) => icmp::v4(kind, code),
        (Some(L4::Icmpv6 { kind, code }), _) => icmp::v6(kind, code),
        (None, Some(IpAddr::V4(_))) => "IPv4".to_owned(),
        (None, Some(IpAddr::V6(_))) => "IPv6".to_owned(),
        (None, None) => "Ethernet".to_owned(),
    }
}

/// `TCP Flags: SYN, ACK`; with a trailing blank for none.
fn tcp(flags: TcpFlags) -> String {
    let order = [
        (TcpFlags::SYN, "SYN"),
        (TcpFlags::ACK, "ACK"),
        (TcpFlags::RST, "RST"),
        (TcpFlags::FIN, "FIN"),
        (TcpFlags::PSH, "PSH"),
        (TcpFlags::URG, "URG"),
        (TcpFlags::ECE, "ECE"),
        (TcpFlags::CWR, "CWR"),
        (TcpFlags::NS, "NS"),
    ];
    let set = order.into_iter().filter(|(flag, _)| flags.contains(*flag));
    format!("TCP Flags: {}", joined(set.map(|(_, name)| name), ", "))
}

fn dns_query(dns: &Dns) -> String {
    format!("DNS Query {} {}", dns.query, joined(&dns.qtypes, ","))
}

fn dns_answer(dns: &Dns) -> String {
    let mut answer = "DNS Answer ".to_owned();
    if dns.rcode != 0 {
        answer.push_str("RCode: ");
        answer.push_str(rcode_text(dns.rcode));
    } else {
        if !dns.ips.is_empty() {
            quote(&joined(&dns.ips, ","), &mut answer);
        }
        if !dns.cnames.is_empty() {
            answer.push_str(if dns.ips.is_empty() {
                "CNAMEs: "
            } else {
                " CNAMEs: "
            });
            quote(&joined(&dns.cnames, ","), &mut answer);
        }
    }
    let source = if dns.observation_source == "proxy" {
        "Proxy"
    } else {
        "Query"
    };
    let (query, types) = (&dns.query, joined(&dns.qtypes, ","));
    write!(answer, " TTL: {} ({source} {query} {types})", dns.ttl).ok();
    answer
}

fn joined<T: Display>(items: impl IntoIterator<Item = T>, between: &str) -> String {
    let mut text = String::new();
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            text.push_str(between);
        }
        write!(text, "{item}").ok();
    }
    text
}

/// Appends the text in double quotes as Go's `%q` has it.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if c.is_ascii_control() => {
                write!(out, "\\x{:02x}", u32::from(c)).ok();
            }
            c if c.is_control() => {
                write!(out, "\\u{:04x}", u32::from(c)).ok();
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_without_a_method_has_no_space_for_it() {
        for (method, url, expected) in [
            (
                "GET",
                "http://h/p",
                [
                    "HTTP/1.1 GET http://h/p",
                    "HTTP/1.1 400 12ms (GET http://h/p)",
                ],
            ),
            (
                "",
                "GET /p",
                ["HTTP/1.1 GET /p", "HTTP/1.1 400 12ms (GET /p)"],
            ),
        ] {
            let kinds = [MessageKind::Request, MessageKind::Response];
            let told = kinds.map(|kind| {
                http_message(&Http {
                    kind,
                    latency_ns: 12_900_000,
                    code: 400,
                    method: method.into(),
                    url: url.into(),
                    protocol: "HTTP/1.1".into(),
                    headers: Vec::new(),
                })
            });
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn quotes_are_as_go_has_them() {
        let mut out = String::new();
        quote("a\\.b\"\n\x1b\u{85}é", &mut out);
        assert_eq!(out, "\"a\\\\.b\\\"\\n\\x1b\\u0085é\"");
    }
}
