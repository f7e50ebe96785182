//! Flows as the JSON that Hubble's exporter writes, to the byte: keys as declared in its protocol and
//! in that order, no zero values, 64-bit numbers as strings, Go's escapes.

use std::fmt::{Display, Write};
use std::net::IpAddr;
use std::sync::Arc;

use crate::dns::Dns;
use crate::drop_reason::DropReason;
use crate::endpoint::{Endpoint, PolicyRef};
use crate::flow::{Event, Flow};
use crate::foreign::{
    AUTH_TYPES, CAPTURE_POINTS, Foreign, Names, OtherL4, Service, TUNNELS, Tunnel, XLATE_POINTS,
    name_of,
};
use crate::http::Http;
use crate::limits::LINE_OCTETS_MAX;
use crate::mask::FieldMask;
use crate::message::MessageKind;
use crate::packet::{Ip, L4, TcpFlags};
use crate::time::Time;
use crate::trace::TraceReason;
use crate::verdict::{Direction, Verdict};

impl Flow {
    /// Appends the flow as a JSON object.
    pub fn write_json(&self, out: &mut String) {
        Object::write(out, |object| self.write_fields(object));
    }

    /// The same, with those fields alone that are wanted.
    pub fn write_wanted_json(&self, mask: &FieldMask, out: &mut String) {
        Object::write_wanted(out, mask, |object| self.write_fields(object));
    }

    /// Appends the exporter's line, `{"flow":…,"node_name":…,"time":…}`, without a newline. It has at
    /// most [`LINE_OCTETS_MAX`] octets: lists of a longer one are cut and `policy_log` says so.
    pub fn write_exporter_line(&self, out: &mut String) {
        self.write_wanted_line(&ALL, out);
    }

    /// The same, with those fields of the flow alone that are wanted.
    pub fn write_wanted_line(&self, mask: &FieldMask, out: &mut String) {
        let start = out.len();
        self.write_line(mask, out);
        for items_max in [64, 16, 4, 0] {
            if out.len() - start <= LINE_OCTETS_MAX {
                break;
            }
            out.truncate(start);
            self.cut(items_max).write_line(mask, out);
        }
    }

    fn write_line(&self, mask: &FieldMask, out: &mut String) {
        Object::write(out, |line| {
            line.masked("flow", mask, |object| self.write_fields(object));
            line.text("node_name", &self.node_name);
            line.time("time", self.time);
        });
    }

    fn write_fields(&self, object: &mut Object<'_>) {
        let none = Foreign::default();
        let foreign = self.foreign.as_deref().unwrap_or(&none);
        object.time("time", self.time);
        object.shown("uuid", self.uuid);
        if let Some(emitter) = &self.emitter {
            object.nested("emitter", |object| {
                object.text("name", &emitter.name);
                object.text("version", &emitter.version);
            });
        }
        object.name(
            "verdict",
            self.verdict.name(),
            self.verdict == Verdict::Unknown,
        );
        object.number(
            "drop_reason",
            self.drop_reason()
                .map_or(0, |reason| reason.number().into()),
        );
        object.enumerated("auth_type", AUTH_TYPES, foreign.auth_type);
        if let Some(ethernet) = self.ethernet {
            object.nested("ethernet", |object| {
                object.shown("source", Some(ethernet.source));
                object.shown("destination", Some(ethernet.destination));
            });
        }
        if let Some(ip) = self.ip {
            object.nested("IP", |object| ip_fields(ip, object));
        }
        match (self.l4, &foreign.other_l4) {
            (Some(l4), _) => object.nested("l4", |object| l4_fields(l4, object)),
            (None, Some(other)) => object.nested("l4", |object| other_l4_fields(other, object)),
            (None, None) => {}
        }
        if let Some(tunnel) = &foreign.tunnel {
            object.nested("tunnel", |object| tunnel_fields(tunnel, object));
        }
        // An event of which nothing is told has no peers.
        if self.event.layer().is_some() || self.source != Endpoint::default() {
            object.nested("source", |object| endpoint_fields(&self.source, object));
        }
        if self.event.layer().is_some() || self.destination != Endpoint::default() {
            object.nested("destination", |object| {
                endpoint_fields(&self.destination, object)
            });
        }
        self.write_event(object, foreign);
        self.write_sight(object, foreign);
        self.write_policies(object, foreign);
    }

    /// What happened, and whom it is about.
    fn write_event(&self, object: &mut Object<'_>, foreign: &Foreign) {
        object.shown("Type", self.event.layer());
        object.text("node_name", &self.node_name);
        object.texts("node_labels", &foreign.node_labels);
        object.texts("source_names", &self.source_names);
        object.texts("destination_names", &self.destination_names);
        match &self.event {
            Event::Dns(dns) => object.nested("l7", |object| l7_fields(dns, object)),
            Event::Http(http) => object.nested("l7", |object| http_fields(http, object)),
            Event::OtherL7 { kind, latency_ns } => object.nested("l7", |object| {
                message_fields((*kind, *latency_ns), object);
            }),
            Event::PolicyVerdict { .. }
            | Event::Drop { .. }
            | Event::Trace { .. }
            | Event::Other { .. } => {}
        }
        object.flag("reply", self.is_reply == Some(true));
        let (number, sub_number) = self.event_type();
        if (number, sub_number) != (0, 0) {
            object.nested("event_type", |object| {
                object.number("type", number);
                object.number("sub_type", sub_number);
            });
        }
        object.service("source_service", foreign.source_service.as_ref());
        object.service("destination_service", foreign.destination_service.as_ref());
        let direction = self.traffic_direction;
        object.name(
            "traffic_direction",
            direction.name(),
            direction == Direction::Unknown,
        );
        if let Event::PolicyVerdict { match_type, .. } = &self.event {
            object.number("policy_match_type", *match_type);
        }
        if let Event::Trace { point, reason } = &self.event {
            match point.json() {
                Ok(name) => object.name("trace_observation_point", &name, false),
                Err(number) => object.number("trace_observation_point", number.into()),
            }
            let is_unknown = *reason == TraceReason::Unknown;
            object.name("trace_reason", reason.name(), is_unknown);
        }
    }

    /// Where it was seen.
    fn write_sight(&self, object: &mut Object<'_>, foreign: &Foreign) {
        if let Some(file) = &self.file {
            object.nested("file", |object| {
                object.text("name", &file.name);
                object.number("line", file.line);
            });
        }
        if foreign.ip_trace_id != 0 {
            object.nested("ip_trace_id", |object| {
                object.long("trace_id", foreign.ip_trace_id);
                object.number("ip_option_type", foreign.ip_option_type);
            });
        }
        drop_reason_desc(self.drop_reason(), object);
        if let Some(is_reply) = self.is_reply {
            object.raw("is_reply", if is_reply { "true" } else { "false" });
        }
        let point = foreign.debug_capture_point;
        object.enumerated("debug_capture_point", CAPTURE_POINTS, point);
        if let Some(interface) = &self.interface {
            object.nested("interface", |object| {
                object.number("index", interface.index);
                object.text("name", &interface.name);
            });
        }
        object.number("proxy_port", self.proxy_port.into());
        if !self.trace_id.is_empty() {
            object.nested("trace_context", |object| {
                object.nested("parent", |object| object.text("trace_id", &self.trace_id));
            });
        }
        object.enumerated("sock_xlate_point", XLATE_POINTS, foreign.sock_xlate_point);
        object.long("socket_cookie", foreign.socket_cookie);
        object.long("cgroup_id", foreign.cgroup_id);
        object.text("Summary", &self.summary());
    }

    /// Who decided.
    fn write_policies(&self, object: &mut Object<'_>, foreign: &Foreign) {
        object.policies("egress_allowed_by", &self.egress_allowed_by);
        object.policies("ingress_allowed_by", &self.ingress_allowed_by);
        object.policies("egress_denied_by", &self.egress_denied_by);
        object.policies("ingress_denied_by", &self.ingress_denied_by);
        object.texts("policy_log", &self.policy_log);
        if let Some([ingress, egress, unknown]) = foreign.aggregate {
            object.nested("aggregate", |object| {
                object.number("ingress_flow_count", ingress);
                object.number("egress_flow_count", egress);
                object.number("unknown_direction_flow_count", unknown);
            });
        }
    }

    /// A copy whose lists have at most this many items, and that says so.
    fn cut(&self, items_max: usize) -> Self {
        let mut flow = self.clone();
        flow.summary = None;
        for endpoint in [&mut flow.source, &mut flow.destination] {
            endpoint.labels = endpoint.labels.iter().take(items_max).cloned().collect();
            endpoint.workloads = endpoint.workloads.iter().take(items_max).cloned().collect();
        }
        if let Event::Dns(dns) = &mut flow.event {
            dns.ips.truncate(items_max);
            dns.cnames.truncate(items_max);
            dns.qtypes.truncate(items_max.max(1));
            dns.rrtypes.truncate(items_max);
        }
        if let Event::Http(http) = &mut flow.event {
            http.headers.truncate(items_max);
        }
        flow.source_names.truncate(items_max);
        flow.destination_names.truncate(items_max);
        for policies in [
            &mut flow.egress_allowed_by,
            &mut flow.ingress_allowed_by,
            &mut flow.egress_denied_by,
            &mut flow.ingress_denied_by,
        ] {
            policies.truncate(items_max);
            for policy in policies {
                policy.labels = policy.labels.iter().take(items_max).cloned().collect();
            }
        }
        if let Some(foreign) = &mut flow.foreign {
            foreign.node_labels.truncate(items_max);
        }
        flow.policy_log.truncate(items_max);
        flow.policy_log
            .push(format!("lists cut to {items_max} items").into());
        flow
    }
}

fn ip_fields(ip: Ip, object: &mut Object<'_>) {
    object.shown("source", Some(ip.source));
    object.shown("source_xlated", ip.source_xlated);
    object.shown("destination", Some(ip.destination));
    let version = match ip.source {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    };
    object.name("ipVersion", version, false);
    object.flag("encrypted", ip.encrypted);
}

fn tunnel_fields(tunnel: &Tunnel, object: &mut Object<'_>) {
    object.enumerated("protocol", TUNNELS, tunnel.protocol);
    if let Some(ip) = tunnel.ip {
        object.nested("IP", |object| ip_fields(ip, object));
    }
    if let Some(l4) = tunnel.l4 {
        object.nested("l4", |object| l4_fields(l4, object));
    }
    object.number("vni", tunnel.vni);
}

fn l4_fields(l4: L4, object: &mut Object<'_>) {
    let ports = |object: &mut Object<'_>| {
        let (source, destination) = l4.ports().unwrap_or_default();
        object.number("source_port", source.into());
        object.number("destination_port", destination.into());
    };
    match l4 {
        L4::Tcp { flags, .. } => object.nested("TCP", |object| {
            ports(object);
            if let Some(flags) = flags {
                object.nested("flags", |object| {
                    for (flag, name) in TcpFlags::JSON_ORDER {
                        object.flag(name, flags.contains(flag));
                    }
                });
            }
        }),
        L4::Udp { .. } => object.nested("UDP", ports),
        L4::Sctp { .. } => object.nested("SCTP", ports),
        L4::Icmpv4 { kind, code } => object.nested("ICMPv4", |object| {
            object.number("type", kind.into());
            object.number("code", code.into());
        }),
        L4::Icmpv6 { kind, code } => object.nested("ICMPv6", |object| {
            object.number("type", kind.into());
            object.number("code", code.into());
        }),
    }
}

fn other_l4_fields(l4: &OtherL4, object: &mut Object<'_>) {
    match l4 {
        OtherL4::Vrrp {
            kind,
            vrid,
            priority,
        } => object.nested("VRRP", |object| {
            object.number("type", *kind);
            object.number("vrid", *vrid);
            object.number("priority", *priority);
        }),
        OtherL4::Igmp { kind, group } => object.nested("IGMP", |object| {
            object.number("type", *kind);
            object.text("group_address", group);
        }),
    }
}

fn endpoint_fields(endpoint: &Endpoint, object: &mut Object<'_>) {
    object.number("ID", endpoint.id);
    object.number("identity", endpoint.identity);
    object.text("cluster_name", &endpoint.cluster_name);
    object.text("namespace", &endpoint.namespace);
    object.texts("labels", &endpoint.labels);
    object.text("pod_name", &endpoint.pod_name);
    object.list("workloads", &endpoint.workloads, |out, workload| {
        Object::write(out, |object| {
            object.text("name", &workload.name);
            object.text("kind", &workload.kind);
        });
    });
}

/// What messages of all protocols have.
fn message_fields((kind, latency_ns): (MessageKind, u64), object: &mut Object<'_>) {
    object.name("type", kind.name(), kind == MessageKind::Unknown);
    object.long("latency_ns", latency_ns);
}

fn l7_fields(dns: &Dns, object: &mut Object<'_>) {
    message_fields((dns.kind, dns.latency_ns), object);
    object.nested("dns", |object| {
        object.text("query", &dns.query);
        object.list("ips", &dns.ips, |out, ip| string(&ip.to_string(), out));
        object.number("ttl", dns.ttl);
        object.texts("cnames", &dns.cnames);
        object.text("observation_source", &dns.observation_source);
        object.number("rcode", dns.rcode);
        object.list("qtypes", &dns.qtypes, |out, kind| {
            string(&kind.to_string(), out)
        });
        object.list("rrtypes", &dns.rrtypes, |out, kind| {
            string(&kind.to_string(), out)
        });
    });
}

fn http_fields(http: &Http, object: &mut Object<'_>) {
    message_fields((http.kind, http.latency_ns), object);
    object.nested("http", |object| {
        object.number("code", http.code);
        object.text("method", &http.method);
        object.text("url", &http.url);
        object.text("protocol", &http.protocol);
        object.list("headers", &http.headers, |out, header| {
            Object::write(out, |object| {
                object.text("key", &header.key);
                object.text("value", &header.value);
            });
        });
    });
}

/// By name, by number where there is no name, not at all when it is the zero value.
fn drop_reason_desc(reason: Option<DropReason>, object: &mut Object<'_>) {
    let Some(reason) = reason.filter(|reason| *reason != DropReason::UNKNOWN) else {
        return;
    };
    match reason.name() {
        Some(name) => object.name("drop_reason_desc", name, false),
        None => object.number("drop_reason_desc", reason.number().into()),
    }
}

/// A JSON object being written.
pub(crate) struct Object<'a> {
    out: &'a mut String,
    empty: bool,
    /// Which fields are wanted.
    mask: &'a FieldMask,
}

/// All of them.
static ALL: FieldMask = FieldMask::ALL;

impl Object<'_> {
    /// Appends an object with the fields that the closure writes.
    pub(crate) fn write(out: &mut String, fields: impl FnOnce(&mut Object<'_>)) {
        Object::write_wanted(out, &ALL, fields);
    }

    /// The same, with those fields alone that are wanted.
    fn write_wanted(out: &mut String, mask: &FieldMask, fields: impl FnOnce(&mut Object<'_>)) {
        out.push('{');
        let empty = true;
        fields(&mut Object { out, empty, mask });
        out.push('}');
    }

    /// Where the value of a field goes that is wanted.
    fn key(&mut self, key: &str) -> Option<&mut String> {
        self.mask.of(key)?;
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        self.out.push('"');
        self.out.push_str(key);
        self.out.push_str("\":");
        Some(self.out)
    }

    pub(crate) fn nested(&mut self, key: &str, fields: impl FnOnce(&mut Object<'_>)) {
        let Some(mask) = self.mask.of(key) else {
            return;
        };
        if let Some(out) = self.key(key) {
            Object::write_wanted(out, mask, fields);
        }
    }

    /// The same, of which those fields alone are wanted that another mask has.
    pub(crate) fn masked(
        &mut self,
        key: &str,
        mask: &FieldMask,
        fields: impl FnOnce(&mut Object<'_>),
    ) {
        if let Some(out) = self.key(key) {
            Object::write_wanted(out, mask, fields);
        }
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        if let Some(out) = self.key(key) {
            string(value, out);
        }
    }

    /// A value whose text needs no escape.
    pub(crate) fn shown(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value
            && let Some(out) = self.key(key)
        {
            write!(out, "\"{value}\"").ok();
        }
    }

    pub(crate) fn name(&mut self, key: &str, name: &str, is_zero: bool) {
        if !is_zero {
            self.shown(key, Some(name));
        }
    }

    /// By name, by number where there is no name, not at all when it is the zero value.
    pub(crate) fn enumerated(&mut self, key: &str, names: Names, number: u32) {
        match name_of(names, number) {
            Some(name) => self.name(key, name, number == 0),
            None => self.number(key, number),
        }
    }

    fn service(&mut self, key: &str, service: Option<&Service>) {
        let Some(service) = service else { return };
        self.nested(key, |object| {
            object.text("name", &service.name);
            object.text("namespace", &service.namespace);
        });
    }

    pub(crate) fn time(&mut self, key: &str, time: Option<Time>) {
        let Some(time) = time else { return };
        let Some(out) = self.key(key) else { return };
        out.push('"');
        time.write_json(out);
        out.push('"');
    }

    pub(crate) fn raw(&mut self, key: &str, value: impl Display) {
        if let Some(out) = self.key(key) {
            write!(out, "{value}").ok();
        }
    }

    pub(crate) fn flag(&mut self, key: &str, value: bool) {
        if value {
            self.raw(key, "true");
        }
    }

    pub(crate) fn number(&mut self, key: &str, value: u32) {
        if value != 0 {
            self.raw(key, value);
        }
    }

    /// 64-bit numbers are strings.
    pub(crate) fn long(&mut self, key: &str, value: u64) {
        self.shown(key, Some(value).filter(|value| *value != 0));
    }

    pub(crate) fn list<T>(&mut self, key: &str, items: &[T], write: impl Fn(&mut String, &T)) {
        if items.is_empty() {
            return;
        }
        let Some(out) = self.key(key) else { return };
        out.push('[');
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            write(out, item);
        }
        out.push(']');
    }

    pub(crate) fn texts(&mut self, key: &str, items: &[Arc<str>]) {
        self.list(key, items, |out, item| string(item, out));
    }

    fn policies(&mut self, key: &str, policies: &[PolicyRef]) {
        self.list(key, policies, |out, policy| {
            Object::write(out, |object| {
                object.text("name", &policy.name);
                object.text("namespace", &policy.namespace);
                object.texts("labels", &policy.labels);
                object.long("revision", policy.revision);
                object.text("kind", &policy.kind);
            });
        });
    }
}

/// Appends a JSON string with the escapes of Go's encoder.
pub(crate) fn string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                write!(out, "\\u{:04x}", u32::from(c)).ok();
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
