//! Flow filters as JSON, in and out: `--allowlist`, exporters, and what a client asks a daemon.

use std::fmt::Display;

use serde_json::{Map, Value};

use super::error::FilterError;
use super::flow_filter::{EventType, FlowFilter, IpVersion, PeerFilter};
use crate::drop_reason::DropReason;
use crate::endpoint::Workload;
use crate::flow::Interface;
use crate::http::HttpHeader;
use crate::json::Object;
use crate::packet::TcpFlags;
use crate::read::unsigned;
use crate::verdict::{Direction, Verdict};

impl FlowFilter {
    /// Appends the filter as a JSON object.
    pub fn write_json(&self, out: &mut String) {
        Object::write(out, |object| {
            write_peer(("source", &self.source), object);
            write_peer(("destination", &self.destination), object);
            object.strings("source_ip_xlated", &self.source_ip_xlated);
            object.names("verdict", &self.verdict, |it| it.name());
            object.list(
                "drop_reason_desc",
                &self.drop_reason_desc,
                |out, reason| match reason.name() {
                    Some(name) => crate::json::string(name, out),
                    None => out.push_str(&reason.number().to_string()),
                },
            );
            object.objects("interface", &self.interface, |interface, object| {
                object.number("index", interface.index);
                object.text("name", &interface.name);
            });
            object.objects("event_type", &self.event_type, |it, object| {
                object.number("type", it.number);
                object.flag("match_sub_type", it.sub_number.is_some());
                object.number("sub_type", it.sub_number.unwrap_or(0));
            });
            object.strings("http_status_code", &self.http_status_code);
            object.strings("protocol", &self.protocol);
            object.raws("reply", &self.reply);
            object.strings("dns_query", &self.dns_query);
            object.strings("http_method", &self.http_method);
            object.strings("http_path", &self.http_path);
            object.strings("http_url", &self.http_url);
            object.objects("http_header", &self.http_header, |header, object| {
                object.text("key", &header.key);
                object.text("value", &header.value);
            });
            object.objects("tcp_flags", &self.tcp_flags, |flags, object| {
                for (flag, name) in TcpFlags::JSON_ORDER {
                    object.flag(name, flags.contains(flag));
                }
            });
            object.strings("node_name", &self.node_name);
            object.strings("node_labels", &self.node_labels);
            object.names("ip_version", &self.ip_version, |it| it.name());
            object.strings("trace_id", &self.trace_id);
            let ids: Vec<_> = self.ip_trace_id.iter().map(u64::to_string).collect();
            object.strings("ip_trace_id", &ids);
            object.names("traffic_direction", &self.traffic_direction, |it| it.name());
            object.strings("uuid", &self.uuid);
            object.raws("encrypted", &self.encrypted);
            if !self.cel_expression.is_empty() {
                object.nested("experimental", |object| {
                    object.strings("cel_expression", &self.cel_expression);
                });
            }
        });
    }

    /// Reads a filter. Keys may be in lower camel case.
    ///
    /// # Errors
    ///
    /// What is not an object of JSON, a field that no filter has, or a value of another type.
    pub fn from_json(text: &str) -> Result<Self, FilterError> {
        let bad = |problem: String| FilterError::BadJson {
            text: text.to_owned(),
            problem,
        };
        let value = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
        read(&value).map_err(bad)
    }

    /// Reads filters one after another, with blanks between them or nothing: so Cilium's options have several in
    /// one text. An empty text has none.
    ///
    /// # Errors
    ///
    /// As for [`FlowFilter::from_json`], of the first that can't be read.
    pub fn all_from_json(text: &str) -> Result<Vec<Self>, FilterError> {
        let bad = |problem: String| FilterError::BadJson {
            text: text.to_owned(),
            problem,
        };
        let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let filters = values.map(|value| {
            let value = value.map_err(|error| bad(error.to_string()))?;
            read(&value).map_err(bad)
        });
        filters.collect()
    }
}

/// The fields of a peer have its side in front of their names.
fn write_peer((side, peer): (&str, &PeerFilter), object: &mut Object<'_>) {
    let strings = [
        ("ip", &peer.ip),
        ("pod", &peer.pod),
        ("fqdn", &peer.fqdn),
        ("label", &peer.label),
        ("service", &peer.service),
        ("port", &peer.port),
        ("cluster_name", &peer.cluster_name),
    ];
    for (name, values) in strings {
        object.strings(&format!("{side}_{name}"), values);
    }
    object.raws(&format!("{side}_identity"), &peer.identity);
    let key = format!("{side}_workload");
    object.objects(&key, &peer.workload, |workload, object| {
        object.text("name", &workload.name);
        object.text("kind", &workload.kind);
    });
}

impl Object<'_> {
    fn strings(&mut self, key: &str, values: &[String]) {
        self.list(key, values, |out, value| crate::json::string(value, out));
    }

    fn names<T>(&mut self, key: &str, values: &[T], name: impl Fn(&T) -> &'static str) {
        self.list(key, values, |out, value| {
            crate::json::string(name(value), out)
        });
    }

    fn raws(&mut self, key: &str, values: &[impl Display]) {
        self.list(key, values, |out, value| out.push_str(&value.to_string()));
    }

    fn objects<T>(&mut self, key: &str, values: &[T], fields: impl Fn(&T, &mut Object<'_>)) {
        self.list(key, values, |out, value| {
            Object::write(out, |object| fields(value, object));
        });
    }
}

fn read(value: &Value) -> Result<FlowFilter, String> {
    let mut filter = FlowFilter::default();
    for (key, value) in fields(value)? {
        let key = snake(key);
        let peer = [("source_", true), ("destination_", false)]
            .into_iter()
            .find_map(|(side, is_source)| Some((key.strip_prefix(side)?, is_source)));
        match peer {
            Some(("ip_xlated", true)) => filter.source_ip_xlated = strings(value)?,
            Some((name, true)) => read_peer(&mut filter.source, (name, &key), value)?,
            Some((name, false)) => read_peer(&mut filter.destination, (name, &key), value)?,
            None => read_field(&mut filter, &key, value)?,
        }
    }
    Ok(filter)
}

fn read_peer(
    peer: &mut PeerFilter,
    (name, key): (&str, &str),
    value: &Value,
) -> Result<(), String> {
    match name {
        "ip" => peer.ip = strings(value)?,
        "pod" => peer.pod = strings(value)?,
        "fqdn" => peer.fqdn = strings(value)?,
        "label" => peer.label = strings(value)?,
        "service" => peer.service = strings(value)?,
        "port" => peer.port = strings(value)?,
        "cluster_name" => peer.cluster_name = strings(value)?,
        "identity" => peer.identity = each(value, small)?,
        "workload" => {
            peer.workload = each(value, |it| {
                Some(Workload {
                    name: text_of(it, "name")?.into(),
                    kind: text_of(it, "kind")?.into(),
                })
            })?;
        }
        _ => return Err(format!("unknown field {key:?}")),
    }
    Ok(())
}

fn read_field(filter: &mut FlowFilter, key: &str, value: &Value) -> Result<(), String> {
    match key {
        "verdict" => filter.verdict = enums(value, Verdict::from_name, Verdict::from_number)?,
        "drop_reason_desc" => {
            let from_number = |it| u8::try_from(it).ok().map(DropReason::from_number);
            filter.drop_reason_desc = enums(value, DropReason::from_name, from_number)?;
        }
        "interface" => {
            filter.interface = each(value, |it| {
                Some(Interface {
                    index: it.get("index").map_or(Some(0), small)?,
                    name: text_of(it, "name")?.into(),
                })
            })?;
        }
        "event_type" => filter.event_type = each(value, event_type)?,
        "http_status_code" => filter.http_status_code = strings(value)?,
        "protocol" => filter.protocol = strings(value)?,
        "reply" => filter.reply = each(value, Value::as_bool)?,
        "dns_query" => filter.dns_query = strings(value)?,
        "http_method" => filter.http_method = strings(value)?,
        "http_path" => filter.http_path = strings(value)?,
        "http_url" => filter.http_url = strings(value)?,
        "http_header" => {
            filter.http_header = each(value, |it| {
                Some(HttpHeader {
                    key: text_of(it, "key")?.into(),
                    value: text_of(it, "value")?.into(),
                })
            })?;
        }
        "tcp_flags" => filter.tcp_flags = each(value, tcp_flags)?,
        "node_name" => filter.node_name = strings(value)?,
        "node_labels" => filter.node_labels = strings(value)?,
        "ip_version" => {
            filter.ip_version = enums(value, IpVersion::from_name, IpVersion::from_number)?;
        }
        "trace_id" => filter.trace_id = strings(value)?,
        "ip_trace_id" => filter.ip_trace_id = each(value, unsigned)?,
        "traffic_direction" => {
            filter.traffic_direction = enums(value, Direction::from_name, Direction::from_number)?;
        }
        "uuid" => filter.uuid = strings(value)?,
        "encrypted" => filter.encrypted = each(value, Value::as_bool)?,
        "experimental" => {
            for (key, value) in fields(value)? {
                match snake(key).as_str() {
                    "cel_expression" => filter.cel_expression = strings(value)?,
                    key => return Err(format!("unknown field {key:?}")),
                }
            }
        }
        key => return Err(format!("unknown field {key:?}")),
    }
    Ok(())
}

fn fields(value: &Value) -> Result<&Map<String, Value>, String> {
    value
        .as_object()
        .ok_or_else(|| format!("{value} is no object"))
}

/// `sourceIp` is `source_ip` too.
fn snake(key: &str) -> String {
    let mut snake = String::with_capacity(key.len());
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// A list, each of whose items can be read.
fn each<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>, String> {
    let items = value
        .as_array()
        .ok_or_else(|| format!("{value} is no list"))?;
    let read = |item: &Value| read(item).ok_or_else(|| format!("invalid value {item}"));
    items.iter().map(read).collect()
}

fn strings(value: &Value) -> Result<Vec<String>, String> {
    each(value, |item| item.as_str().map(str::to_owned))
}

fn enums<T>(
    value: &Value,
    from_name: impl Fn(&str) -> Option<T>,
    from_number: impl Fn(usize) -> Option<T>,
) -> Result<Vec<T>, String> {
    each(value, |item| match item.as_str() {
        Some(name) => from_name(name),
        None => from_number(usize::try_from(item.as_u64()?).ok()?),
    })
}

fn small(value: &Value) -> Option<u32> {
    u32::try_from(unsigned(value)?).ok()
}

/// A text of an object, empty where it is missing.
fn text_of<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.as_object()?.get(key).map_or(Some(""), Value::as_str)
}

fn event_type(value: &Value) -> Option<EventType> {
    let object = value.as_object()?;
    let either = |snake: &str, camel: &str| object.get(snake).or_else(|| object.get(camel));
    let asks_sub = either("match_sub_type", "matchSubType").map_or(Some(false), Value::as_bool)?;
    let sub_number = either("sub_type", "subType").map_or(Some(0), small)?;
    Some(EventType {
        number: object.get("type").map_or(Some(0), small)?,
        sub_number: asks_sub.then_some(sub_number),
    })
}

fn tcp_flags(value: &Value) -> Option<TcpFlags> {
    let object = value.as_object()?;
    let mut flags = TcpFlags::default();
    for (name, is_set) in object {
        let (flag, _) = TcpFlags::JSON_ORDER
            .into_iter()
            .find(|(_, it)| it == name)?;
        if is_set.as_bool()? {
            flags = flags.and(flag);
        }
    }
    Some(flags)
}
