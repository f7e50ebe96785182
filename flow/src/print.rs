//! The lines that `hubble observe` prints, in each of its forms.

mod beside;
mod forms;

pub use self::forms::Table;

use std::borrow::Cow;
use std::fmt::{Display, Write};
use std::sync::Arc;

use crate::endpoint::Endpoint;
use crate::flow::{Event, Flow};
use crate::foreign::{AUTH_TYPES, CAPTURE_POINTS, Names, Service, XLATE_WORDS, name_of};
use crate::lost::LostEvents;
use crate::message::MessageKind;
use crate::reserved;
use crate::time::{Time, TimeFormat};
use crate::verdict::{Verdict, match_type_name};

/// How to print; the default is the stock command's, without colour.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Printer {
    /// Addresses in place of pods and names: `--numeric`, the inverse of `--ip-translation`.
    pub numeric: bool,
    /// `--time-format`.
    pub time_format: TimeFormat,
    /// `--color always`.
    pub color: bool,
    /// `--print-node-name`.
    pub node_name: bool,
    /// `--print-policy-names`.
    pub policy_names: bool,
}

impl Printer {
    /// Appends the flow's line, `-o compact`, without a newline.
    pub fn write(&self, flow: &Flow, out: &mut String) {
        self.write_time(flow.time, out);
        if self.node_name {
            out.push_str(" [");
            escape(&flow.node_name, out);
            out.push(']');
        }
        out.push_str(": ");
        self.write_event(flow, out);
    }

    /// Appends what follows the time in that line: who, what, and what became of it.
    pub fn write_event(&self, flow: &Flow, out: &mut String) {
        let (source, destination) = (source(flow), destination(flow));
        let (left, arrow, right) = match flow.is_reply {
            None => (source, "<>", destination),
            Some(false) => (source, "->", destination),
            Some(true) => (destination, "<-", source),
        };
        self.write_peer(&left, out);
        out.push(' ');
        out.push_str(arrow);
        out.push(' ');
        self.write_peer(&right, out);
        out.push(' ');
        write_type(flow, out);
        out.push(' ');
        self.write_verdict(flow, out);
        out.push_str(" (");
        self.write_summary(flow, out);
        out.push(')');
    }

    fn write_summary(&self, flow: &Flow, out: &mut String) {
        let ip_trace_id = flow.foreign.as_ref().map_or(0, |it| it.ip_trace_id);
        if ip_trace_id != 0 {
            write!(out, "IP Trace ID: {ip_trace_id}; ").ok();
        }
        escape(&flow.summary(), out);
        self.write_auth(flow.foreign.as_ref().map_or(0, |it| it.auth_type), out);
    }

    /// Appends the line that tells of lost events, without a newline.
    pub fn write_lost(&self, lost: &LostEvents, time: Option<Time>, out: &mut String) {
        self.write_time(time, out);
        out.push(' ');
        self.write_loss(lost, out);
    }

    /// Appends what follows the time in that line.
    pub fn write_loss(&self, lost: &LostEvents, out: &mut String) {
        let (source, cpu) = (lost.source, lost.cpu.unwrap_or(0));
        write!(out, "EVENTS LOST: {source} CPU({cpu}) {}", lost.count).ok();
        self.write_span(lost, out);
    }

    fn write_span(&self, lost: &LostEvents, out: &mut String) {
        if let (Some(first), Some(last)) = (lost.first, lost.last) {
            out.push_str(" (first: ");
            self.time_format.write(first, out);
            out.push_str(", last: ");
            self.time_format.write(last, out);
            out.push(')');
        }
    }

    fn write_time(&self, time: Option<Time>, out: &mut String) {
        match time {
            Some(time) => self.time_format.write(time, out),
            None => out.push_str("N/A"),
        }
    }

    fn write_peer(&self, peer: &Peer<'_>, out: &mut String) {
        let is_told = !self.host(peer).is_empty() || peer.address.port.is_some();
        let color = Some(Color::Cyan).filter(|_| is_told);
        self.colored(color, out, |out| self.write_host(peer, out));
        out.push(' ');
        self.colored(Some(Color::Magenta), out, |out| {
            match reserved::name(peer.endpoint.identity) {
                Some(name) => write!(out, "({name})"),
                None => write!(out, "(ID:{})", peer.endpoint.identity),
            }
            .ok();
        });
    }

    fn write_host(&self, peer: &Peer<'_>, out: &mut String) {
        let host = self.host(peer);
        let Some(port) = peer.address.port else {
            return escape(&host, out);
        };
        let (open, close) = if host.contains(':') {
            ("[", "]")
        } else {
            ("", "")
        };
        out.push_str(open);
        escape(&host, out);
        out.push_str(close);
        out.push(':');
        self.colored(Some(Color::Yellow), out, |out| {
            write!(out, "{port}").ok();
        });
    }

    /// Pod, else service, else names, else address; an address of the link layer is never translated. The
    /// namespace of a service stands before that of its pod.
    fn host(&self, peer: &Peer<'_>) -> String {
        let address = &peer.address;
        if self.numeric || address.is_bare {
            return address.text.clone();
        }
        let endpoint = peer.endpoint;
        let (service, of_service) = match peer.service {
            Some(service) => (&*service.name, &*service.namespace),
            None => ("", ""),
        };
        let namespace = match of_service {
            "" => &*endpoint.namespace,
            namespace => namespace,
        };
        let name = match &*endpoint.pod_name {
            "" => service,
            pod => pod,
        };
        if !name.is_empty() {
            let slash = if namespace.is_empty() { "" } else { "/" };
            return format!("{namespace}{slash}{name}");
        }
        if address.names.is_empty() {
            return address.text.clone();
        }
        address.names.join(",")
    }

    fn write_verdict(&self, flow: &Flow, out: &mut String) {
        let is_policy = matches!(flow.event, Event::PolicyVerdict { .. });
        let word = if is_policy {
            flow.verdict.policy_word()
        } else {
            flow.verdict.name()
        };
        let number = flow.foreign.as_ref().map_or(0, |it| it.nameless.verdict);
        let word = or_number(word, number);
        self.colored(verdict_color(flow.verdict), out, |out| out.push_str(&word));
        if !(is_policy && self.policy_names) {
            return;
        }
        let named = |name: &str, kind: &str| !name.is_empty() && !kind.is_empty();
        let policies = flow
            .deciding_policies()
            .iter()
            .filter(|by| named(&by.name, &by.kind));
        for (at, policy) in policies.enumerate() {
            out.push_str(if at == 0 { " BY " } else { ", " });
            escape(&policy.name, out);
            out.push_str(" (");
            escape(&policy.kind, out);
            out.push(')');
        }
    }

    fn write_auth(&self, auth_type: u32, out: &mut String) {
        const SPIRE: u32 = 1;
        const TEST_ALWAYS_FAIL: u32 = 2;
        let color = match auth_type {
            0 => return,
            SPIRE => Some(Color::Green),
            TEST_ALWAYS_FAIL => Some(Color::Red),
            _ => None,
        };
        out.push_str("; Auth: ");
        let name = named(AUTH_TYPES, auth_type);
        self.colored(color, out, |out| out.push_str(&name));
    }

    fn colored(&self, color: Option<Color>, out: &mut String, write: impl FnOnce(&mut String)) {
        let Some(color) = color.filter(|_| self.color) else {
            return write(out);
        };
        out.push_str(match color {
            Color::Red => "\x1b[31m",
            Color::Green => "\x1b[32m",
            Color::Yellow => "\x1b[33m",
            Color::Magenta => "\x1b[35m",
            Color::Cyan => "\x1b[36m",
        });
        write(out);
        out.push_str("\x1b[0m");
    }
}

#[derive(Clone, Copy)]
enum Color {
    Red,
    Green,
    Yellow,
    Magenta,
    Cyan,
}

const fn verdict_color(verdict: Verdict) -> Option<Color> {
    match verdict {
        Verdict::Forwarded | Verdict::Redirected => Some(Color::Green),
        Verdict::Dropped | Verdict::Error => Some(Color::Red),
        Verdict::Audit | Verdict::Traced | Verdict::Translated => Some(Color::Yellow),
        Verdict::Unknown => None,
    }
}

/// One side of the arrow.
struct Peer<'a> {
    endpoint: &'a Endpoint,
    service: Option<&'a Service>,
    address: Address<'a>,
}

#[derive(Default)]
struct Address<'a> {
    /// Empty where none is told.
    text: String,
    names: &'a [Arc<str>],
    /// None for protocols without ports, and for port 0.
    port: Option<u16>,
    /// No name stands for it: it is of the link layer, or there is none.
    is_bare: bool,
}

fn source(flow: &Flow) -> Peer<'_> {
    let foreign = flow.foreign.as_deref();
    let port = flow.l4.and_then(|l4| l4.ports()).map(|(source, _)| source);
    Peer {
        endpoint: &flow.source,
        service: foreign.and_then(|foreign| foreign.source_service.as_ref()),
        address: address(flow, |[source, _]| source, (&flow.source_names, port)),
    }
}

fn destination(flow: &Flow) -> Peer<'_> {
    let foreign = flow.foreign.as_deref();
    let ports = flow.l4.and_then(|l4| l4.ports());
    let port = ports.map(|(_, destination)| destination);
    let names = &flow.destination_names;
    Peer {
        endpoint: &flow.destination,
        service: foreign.and_then(|foreign| foreign.destination_service.as_ref()),
        address: address(flow, |[_, destination]| destination, (names, port)),
    }
}

/// The address of one end: of the network layer, else of the link layer.
fn address<'a>(
    flow: &Flow,
    end: fn([Option<String>; 2]) -> Option<String>,
    (names, port): (&'a [Arc<str>], Option<u16>),
) -> Address<'a> {
    fn texts<T: Display>(ends: [Option<T>; 2]) -> [Option<String>; 2] {
        ends.map(|end| end.map(|address| address.to_string()))
    }
    if let Some(ends) = flow.addresses() {
        return Address {
            text: end(texts(ends)).unwrap_or_default(),
            names,
            port: port.filter(|port| *port != 0),
            is_bare: false,
        };
    }
    Address {
        text: flow
            .mac_addresses()
            .and_then(|ends| end(texts(ends)))
            .unwrap_or_default(),
        is_bare: true,
        ..Address::default()
    }
}

/// The word of an enum's value, or the number of one that has none.
fn or_number(word: &str, number: i32) -> Cow<'_, str> {
    match number {
        0 => Cow::Borrowed(word),
        number => Cow::Owned(number.to_string()),
    }
}

/// The same by a table.
fn named(names: Names, number: u32) -> Cow<'static, str> {
    match name_of(names, number) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(number.to_string()),
    }
}

fn write_type(flow: &Flow, out: &mut String) {
    let nameless = flow.foreign.as_ref().map(|it| it.nameless);
    let nameless = nameless.unwrap_or_default();
    let kind_of = |kind: MessageKind| or_number(kind.name(), nameless.message).to_lowercase();
    match &flow.event {
        Event::Dns(dns) => {
            write!(out, "dns-{} ", kind_of(dns.kind)).ok();
            escape(&dns.observation_source, out);
        }
        Event::Http(http) => {
            write!(out, "http-{}", kind_of(http.kind)).ok();
        }
        Event::PolicyVerdict { match_type, .. } => {
            let direction = or_number(flow.traffic_direction.name(), nameless.direction);
            let matched = match_type_name(*match_type);
            write!(out, "policy-verdict:{matched} {direction}").ok();
        }
        Event::Drop { reason } => match reason.text() {
            Some(text) => out.push_str(text),
            None => {
                write!(out, "{}, 0", reason.number()).ok();
            }
        },
        Event::Trace { point, .. } => match point.name() {
            Some(name) => out.push_str(name),
            None => {
                write!(out, "{}", point.number()).ok();
            }
        },
        Event::OtherL7 { kind, .. } => {
            write!(out, "l7-{}", kind_of(*kind)).ok();
        }
        Event::Other { number, .. } => out.push_str(&other_type(*number, flow)),
    }
}

fn other_type(number: u32, flow: &Flow) -> Cow<'static, str> {
    let foreign = flow.foreign.as_deref();
    match number {
        Event::CAPTURE_NUMBER => {
            let point = foreign.map_or(0, |foreign| foreign.debug_capture_point);
            named(CAPTURE_POINTS, point)
        }
        Event::SOCK_NUMBER => {
            let point = foreign.map_or(0, |foreign| foreign.sock_xlate_point);
            named(XLATE_WORDS, point)
        }
        _ => Cow::Borrowed("UNKNOWN"),
    }
}

/// Appends text from an event so that it can't steer a terminal: ESC and CR become visible.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\x1b' => out.push_str("^["),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
}
