//! A flow filter, read: its patterns are ready to be tried.

use std::net::IpAddr;
use std::sync::Arc;

use regex::Regex;

use super::error::FilterError;
use super::flow_filter::{EventType, FlowFilter, IpVersion, PeerFilter};
use super::labels::LabelSelector;
use super::pattern::{NamePattern, NodePattern, PodPattern};
use crate::drop_reason::DropReason;
use crate::endpoint::{Endpoint, Workload};
use crate::flow::{Event, Flow, Interface};
use crate::foreign::{OtherL4, PartIp, Service};
use crate::packet::L4;
use crate::verdict::Verdict;

/// The terms; an empty list asks nothing.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    plain: FlowFilter,
    source: PeerTerms,
    destination: PeerTerms,
    source_xlated: Vec<Network>,
    protocols: Vec<Protocol>,
    statuses: Vec<StatusPattern>,
    queries: Vec<Regex>,
    paths: Vec<Regex>,
    urls: Vec<Regex>,
    nodes: Vec<NodePattern>,
    node_labels: Vec<LabelSelector>,
}

#[derive(Clone, Debug)]
struct PeerTerms {
    networks: Vec<Network>,
    pods: Vec<PodPattern>,
    names: Vec<NamePattern>,
    labels: Vec<LabelSelector>,
    services: Vec<PodPattern>,
    ports: Vec<u16>,
}

/// The fields of a peer, as errors name them.
struct PeerFields {
    ip: &'static str,
    fqdn: &'static str,
    label: &'static str,
    port: &'static str,
}

const SOURCE: PeerFields = PeerFields {
    ip: "source_ip",
    fqdn: "source_fqdn",
    label: "source_label",
    port: "source_port",
};

const DESTINATION: PeerFields = PeerFields {
    ip: "destination_ip",
    fqdn: "destination_fqdn",
    label: "destination_label",
    port: "destination_port",
};

/// Reads each value of a field.
fn each<T>(
    field: &'static str,
    values: &[String],
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, FilterError> {
    let read = |value: &String| {
        read(value).map_err(|problem| FilterError::BadField {
            field,
            value: value.clone(),
            problem,
        })
    };
    values.iter().map(read).collect()
}

impl Terms {
    pub(super) fn of(filter: &FlowFilter) -> Result<Self, FilterError> {
        let l7_only = [
            ("http status code", filter.http_status_code.is_empty()),
            ("http method", filter.http_method.is_empty()),
            ("http path", filter.http_path.is_empty()),
            ("http url", filter.http_url.is_empty()),
            ("http header", filter.http_header.is_empty()),
        ];
        let mut types = filter.event_type.iter();
        let is_l7 = types.len() == 0 || types.any(|asked| asked.number == Event::L7_NUMBER);
        if let Some((field, _)) = l7_only.iter().find(|(_, is_empty)| !is_empty && !is_l7) {
            return Err(FilterError::OnlyL7 { field });
        }
        each("cel_expression", &filter.cel_expression, |_| {
            Err::<(), _>("expressions of CEL are not implemented here".to_owned())
        })?;
        Ok(Self {
            source: PeerTerms::of(&filter.source, &SOURCE)?,
            destination: PeerTerms::of(&filter.destination, &DESTINATION)?,
            source_xlated: each("source_ip_xlated", &filter.source_ip_xlated, Network::of)?,
            protocols: each("protocol", &filter.protocol, Protocol::of)?,
            statuses: each(
                "http_status_code",
                &filter.http_status_code,
                StatusPattern::of,
            )?,
            queries: each("dns_query", &filter.dns_query, expression)?,
            paths: each("http_path", &filter.http_path, expression)?,
            urls: each("http_url", &filter.http_url, expression)?,
            nodes: each("node_name", &filter.node_name, NodePattern::of)?,
            node_labels: each("node_labels", &filter.node_labels, LabelSelector::parse)?,
            plain: filter.clone(),
        })
    }

    pub(super) fn matches(&self, flow: &Flow) -> bool {
        let ports = flow.l4.and_then(L4::ports);
        let (source_port, destination_port) = ports.unzip();
        let [source_ip, destination_ip] = flow.addresses().unwrap_or_default();
        let foreign = flow.foreign.as_deref();
        let source = Seen {
            endpoint: &flow.source,
            names: &flow.source_names,
            ip: source_ip,
            port: source_port,
            service: foreign.and_then(|foreign| foreign.source_service.as_ref()),
        };
        let destination = Seen {
            endpoint: &flow.destination,
            names: &flow.destination_names,
            ip: destination_ip,
            port: destination_port,
            service: foreign.and_then(|foreign| foreign.destination_service.as_ref()),
        };
        self.is_event(flow)
            && self.is_packet(flow)
            && self.is_l7(flow)
            && self.source.matches(&self.plain.source, &source)
            && self
                .destination
                .matches(&self.plain.destination, &destination)
    }

    fn is_event(&self, flow: &Flow) -> bool {
        let plain = &self.plain;
        let node_labels = flow.foreign.as_ref().map(|it| it.node_labels.as_slice());
        holds(&plain.verdict, |verdict| *verdict == flow.verdict)
            && holds(&plain.event_type, |asked| is_type(*asked, flow))
            && holds(&plain.traffic_direction, |direction| {
                *direction == flow.traffic_direction
            })
            && holds(&plain.drop_reason_desc, |reason| {
                is_dropped_for(*reason, flow)
            })
            && holds(&plain.reply, |asked| is_reply(flow) == Some(*asked))
            && holds(&plain.interface, |asked| is_interface(asked, flow))
            && holds(&plain.uuid, |asked| {
                flow.uuid.is_some_and(|uuid| uuid.to_string() == *asked)
            })
            && holds(&self.nodes, |node| node.matches(&flow.node_name))
            && holds(&self.node_labels, |selector| {
                selector.matches(node_labels.unwrap_or_default())
            })
    }

    fn is_packet(&self, flow: &Flow) -> bool {
        let plain = &self.plain;
        let foreign = flow.foreign.as_deref();
        let network = network_of(flow);
        let flags = match flow.l4 {
            Some(L4::Tcp { flags, .. }) => flags,
            _ => None,
        };
        let xlated = network.and_then(|it| it.source_xlated);
        let version = network.map_or(IpVersion::None, |it| it.version);
        let is_encrypted = network.is_some_and(|it| it.encrypted);
        holds(&self.source_xlated, |network| {
            xlated.is_some_and(|it| network.has(it))
        }) && holds(&self.protocols, |protocol| protocol.matches(flow))
            && holds(&plain.ip_version, |asked| *asked == version)
            && holds(&plain.tcp_flags, |asked| {
                flags.is_some_and(|flags| flags.contains(*asked))
            })
            && holds(&plain.encrypted, |asked| *asked == is_encrypted)
            && holds(&plain.trace_id, |asked| *flow.trace_id == **asked)
            && holds(&plain.ip_trace_id, |asked| {
                foreign.is_some_and(|foreign| foreign.ip_trace_id == *asked)
            })
    }

    fn is_l7(&self, flow: &Flow) -> bool {
        let plain = &self.plain;
        let dns = flow.dns();
        let http = flow.http();
        holds(&self.queries, |query| {
            dns.is_some_and(|dns| query.is_match(&dns.query))
        }) && holds(&self.statuses, |status| {
            http.is_some_and(|http| status.matches(http.code))
        }) && holds(&plain.http_method, |method| {
            http.is_some_and(|http| http.method.eq_ignore_ascii_case(method))
        }) && holds(&self.paths, |path| {
            http.is_some_and(|http| path.is_match(path_of(&http.url)))
        }) && holds(&self.urls, |url| {
            http.is_some_and(|http| url.is_match(&http.url))
        }) && holds(&plain.http_header, |header| {
            http.is_some_and(|http| http.headers.contains(header))
        })
    }
}

/// One peer of a flow.
struct Seen<'a> {
    endpoint: &'a Endpoint,
    names: &'a [Arc<str>],
    ip: Option<IpAddr>,
    port: Option<u16>,
    service: Option<&'a Service>,
}

impl PeerTerms {
    fn of(filter: &PeerFilter, fields: &PeerFields) -> Result<Self, FilterError> {
        let pods = |patterns: &[String]| patterns.iter().map(|it| PodPattern::of(it)).collect();
        Ok(Self {
            networks: each(fields.ip, &filter.ip, Network::of)?,
            pods: pods(&filter.pod),
            names: each(fields.fqdn, &filter.fqdn, NamePattern::of)?,
            labels: each(fields.label, &filter.label, LabelSelector::parse)?,
            services: pods(&filter.service),
            ports: each(fields.port, &filter.port, |text| {
                text.parse()
                    .map_err(|_| "not a port, 0 to 65535".to_owned())
            })?,
        })
    }

    fn matches(&self, plain: &PeerFilter, seen: &Seen<'_>) -> bool {
        let peer = seen.endpoint;
        let (namespace, service) = match seen.service {
            Some(service) => (&*service.namespace, &*service.name),
            None => ("", ""),
        };
        holds(&self.networks, |network| {
            seen.ip.is_some_and(|ip| network.has(ip))
        }) && holds(&self.pods, |pod| {
            pod.matches(&peer.namespace, &peer.pod_name)
        }) && holds(&self.names, |pattern| {
            seen.names.iter().any(|name| pattern.matches(name))
        }) && holds(&self.labels, |selector| selector.matches(&peer.labels))
            && holds(&self.services, |pattern| {
                pattern.matches(namespace, service)
            })
            && holds(&self.ports, |asked| seen.port == Some(*asked))
            && holds(&plain.identity, |identity| *identity == peer.identity)
            && holds(&plain.workload, |asked| {
                peer.workloads.iter().any(|it| is_workload(asked, it))
            })
            && holds(&plain.cluster_name, |cluster| {
                **cluster == *peer.cluster_name
            })
    }
}

fn holds<T>(asked: &[T], is_it: impl Fn(&T) -> bool) -> bool {
    asked.is_empty() || asked.iter().any(is_it)
}

fn is_type(asked: EventType, flow: &Flow) -> bool {
    let (number, sub_number) = flow.event_type();
    let same_sub = asked.sub_number.is_none_or(|asked| asked == sub_number);
    (asked.number == 0 || asked.number == number) && same_sub
}

/// The network layer, whole or what a mask left of it.
fn network_of(flow: &Flow) -> Option<PartIp> {
    let Some(ip) = flow.ip else {
        return flow.foreign.as_ref()?.part_ip;
    };
    Some(PartIp {
        source: Some(ip.source),
        source_xlated: ip.source_xlated,
        destination: Some(ip.destination),
        version: match ip.source {
            IpAddr::V4(_) => IpVersion::V4,
            IpAddr::V6(_) => IpVersion::V6,
        },
        encrypted: ip.encrypted,
    })
}

/// Of drops and of denied verdicts alike; nothing else has a reason.
fn is_dropped_for(reason: DropReason, flow: &Flow) -> bool {
    let told = flow.drop_reason().unwrap_or(DropReason::UNKNOWN);
    flow.verdict == Verdict::Dropped && told == reason
}

/// What was dropped answers nothing.
fn is_reply(flow: &Flow) -> Option<bool> {
    let dropped = (flow.verdict == Verdict::Dropped).then_some(false);
    flow.is_reply.or(dropped)
}

fn is_interface(asked: &Interface, flow: &Flow) -> bool {
    flow.interface.as_ref().is_some_and(|interface| {
        let same_index = asked.index == 0 || asked.index == interface.index;
        let same_name = asked.name.is_empty() || asked.name == interface.name;
        same_index && same_name
    })
}

fn is_workload(asked: &Workload, workload: &Workload) -> bool {
    let same_name = asked.name.is_empty() || asked.name == workload.name;
    let same_kind = asked.kind.is_empty() || asked.kind == workload.kind;
    same_name && same_kind
}

/// The path of a URL, without query and fragment.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("");
    path.split(['?', '#']).next().unwrap_or("")
}

fn expression(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| error.to_string())
}

/// An address, or all addresses of a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    fn of(text: &str) -> Result<Self, String> {
        let bad = || "not an address or a prefix".to_owned();
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(length) => length.parse().map_err(|_| bad())?,
            None => whole,
        };
        if length > whole {
            return Err("the prefix is longer than an address".to_owned());
        }
        Ok(Self { address, length })
    }

    fn has(self, address: IpAddr) -> bool {
        let is_same = |a: u128, b: u128, whole: u8| {
            let shift = u32::from(whole - self.length);
            a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
        };
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => is_same(u32::from(a).into(), u32::from(b).into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => is_same(a.into(), b.into(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// `404`, or the first digits and `+`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct StatusPattern {
    digits: String,
    is_prefix: bool,
}

impl StatusPattern {
    fn of(text: &str) -> Result<Self, String> {
        let bad = || "expected a status such as 404, or its first digits such as 4+".to_owned();
        let digits = text.strip_suffix('+').unwrap_or(text);
        let is_prefix = digits.len() < text.len();
        let is_first = digits.starts_with(['1', '2', '3', '4', '5']);
        let fits = match is_prefix {
            true => digits.len() < 3,
            false => digits.len() == 3,
        };
        let is_good = is_first && fits && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_good
            .then(|| Self {
                digits: digits.to_owned(),
                is_prefix,
            })
            .ok_or_else(bad)
    }

    /// Requests have no status.
    fn matches(&self, code: u32) -> bool {
        let code = code.to_string();
        match self.is_prefix {
            true => code.len() == 3 && code.starts_with(&self.digits),
            false => code == self.digits,
        }
    }
}

/// A value of `--protocol`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Icmpv4,
    Icmpv6,
    Dns,
    Http,
    Vrrp,
    Igmp,
    /// One that no flow of this model has.
    Foreign,
}

fn other_l4(flow: &Flow) -> Option<&OtherL4> {
    flow.foreign.as_deref()?.other_l4.as_ref()
}

impl Protocol {
    fn of(text: &str) -> Result<Self, String> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "sctp" => Self::Sctp,
            "icmp" => Self::Icmp,
            "icmpv4" => Self::Icmpv4,
            "icmpv6" => Self::Icmpv6,
            "dns" => Self::Dns,
            "http" => Self::Http,
            "vrrp" => Self::Vrrp,
            "igmp" => Self::Igmp,
            "kafka" => Self::Foreign,
            _ => {
                let known = "tcp, udp, icmp, icmpv4, icmpv6, sctp, vrrp, igmp, dns, http or kafka";
                return Err(format!("unknown protocol: expected {known}"));
            }
        })
    }

    fn matches(self, flow: &Flow) -> bool {
        match self {
            Self::Tcp => matches!(flow.l4, Some(L4::Tcp { .. })),
            Self::Udp => matches!(flow.l4, Some(L4::Udp { .. })),
            Self::Sctp => matches!(flow.l4, Some(L4::Sctp { .. })),
            Self::Icmp => matches!(flow.l4, Some(L4::Icmpv4 { .. } | L4::Icmpv6 { .. })),
            Self::Icmpv4 => matches!(flow.l4, Some(L4::Icmpv4 { .. })),
            Self::Icmpv6 => matches!(flow.l4, Some(L4::Icmpv6 { .. })),
            Self::Dns => flow.dns().is_some(),
            Self::Http => flow.http().is_some(),
            Self::Vrrp => matches!(other_l4(flow), Some(OtherL4::Vrrp { .. })),
            Self::Igmp => matches!(other_l4(flow), Some(OtherL4::Igmp { .. })),
            Self::Foreign => false,
        }
    }
}
