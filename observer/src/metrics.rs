//! Flows as numbers: the metrics of Hubble, by its names and labels (and one of ours), for Prometheus.
//!
//! A flow is counted by whoever made it, and nobody waits: a series that is there is found and counted
//! under a lock that a scrape shares. The number of series is bounded; what is beyond is counted in one whose
//! labels all say `other`, so that sums stay true.

mod choice;
mod labels;
mod series;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flow::{
    Direction, Dns, DropReason, Event, Flow, Http, L4, MessageKind, RecordType, TcpFlags, Time,
    Verdict, match_type_name, rcode_text,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use choice::{BadChoice, MetricChoice};
use choice::{Context, Metric, MetricFlag};
use labels::{Label, NONE, Value};
use series::{Counts, Forgetful, OTHER, Series};

/// What is counted unless an option says otherwise.
pub const DEFAULT_METRICS: &str = "dns drop flow flows-to-world httpV2 icmp policy tcp";

/// The metrics of flows.
#[derive(Debug)]
pub struct FlowMetrics {
    all: Vec<Counting>,
    exchanges: Series<Histogram>,
    folded: Arc<AtomicU64>,
}

/// One metric that was chosen.
#[derive(Debug)]
enum Counting {
    Dns(DnsCounts),
    Drop(Counts),
    Flow(Counts),
    ToWorld(WorldCounts),
    Http(HttpCounts),
    HttpV2(HttpCounts),
    Icmp(Counts),
    Policy(Counts),
    Ports(Counts),
    Tcp(Counts),
}

#[derive(Debug)]
struct DnsCounts {
    queries: Counts,
    responses: Counts,
    types: Counts,
    with_query: bool,
    ignore_aaaa: bool,
}

#[derive(Debug)]
struct WorldCounts {
    counts: Counts,
    any_drop: bool,
    with_port: bool,
    syn_only: bool,
}

#[derive(Debug)]
struct HttpCounts {
    requests: Counts,
    /// Those of httpV2 are its requests.
    responses: Counts,
    times: Series<Times>,
    /// Whether a time is told with the trace of its request.
    exemplars: bool,
}

/// Times, some of them with the trace that they belong to.
type Times = HistogramWithExemplars<[(&'static str, String); 1]>;

impl FlowMetrics {
    /// What was chosen, put into a registry.
    #[must_use]
    pub fn new(choices: &[MetricChoice], registry: &mut Registry) -> Self {
        let folded = Arc::<AtomicU64>::default();
        let mut shop = Shop {
            registry,
            folded: &folded,
        };
        let all = choices
            .iter()
            .map(|choice| Counting::new(choice, &mut shop));
        let all = all.collect();
        let exchanges = Series::new(shop.folded, &Context::default(), dns_times);
        registry.register(
            "namegate_dns_exchange_seconds",
            "From a query to what its client was answered",
            exchanges.family.clone(),
        );
        Self {
            all,
            exchanges,
            folded,
        }
    }

    /// Counts a flow.
    pub fn see(&self, flow: &Flow) {
        for counting in &self.all {
            counting.see(flow);
        }
        if let Some(dns) = flow.dns()
            && dns.kind == MessageKind::Response
        {
            let verdict = ("verdict", Value::Word(flow.verdict.name()));
            self.exchanges
                .with(flow, [verdict, NONE, NONE, NONE], |times| {
                    times.observe(seconds(dns.latency_ns));
                });
        }
    }

    /// Takes away the series that name a pod, once it is gone.
    pub fn forget(&self, namespace: &str, pod: &str) {
        for counting in &self.all {
            for series in counting.series() {
                series.forget((namespace, pod));
            }
        }
    }

    /// How often a flow was counted under `other`, since its metric had
    /// [`SERIES_MAX`](crate::limits::SERIES_MAX) series.
    #[must_use]
    pub fn folded(&self) -> u64 {
        self.folded.load(Ordering::Relaxed)
    }
}

/// Where series are made.
struct Shop<'a> {
    registry: &'a mut Registry,
    folded: &'a Arc<AtomicU64>,
}

impl Shop<'_> {
    fn counts(&mut self, choice: &MetricChoice, name: &str, help: &str) -> Counts {
        let counts = Series::new(self.folded, &choice.context, Counter::default);
        self.registry.register(name, help, counts.family.clone());
        counts
    }

    fn http_times(&mut self, choice: &MetricChoice) -> Series<Times> {
        let times = Series::new(self.folded, &choice.context, http_times);
        self.registry.register(
            "hubble_http_request_duration_seconds",
            "From the end of a request's head to the head of its response",
            times.family.clone(),
        );
        times
    }
}

impl Counting {
    fn new(choice: &MetricChoice, shop: &mut Shop<'_>) -> Self {
        let mut counts = |name: &str, help: &str| shop.counts(choice, name, help);
        match choice.metric {
            Metric::Dns => Self::Dns(DnsCounts {
                queries: counts("hubble_dns_queries", "DNS queries"),
                responses: counts("hubble_dns_responses", "DNS responses"),
                types: counts("hubble_dns_response_types", "Records of DNS responses"),
                with_query: choice.has(MetricFlag::Query),
                ignore_aaaa: choice.has(MetricFlag::IgnoreAaaa),
            }),
            Metric::Drop => Self::Drop(counts("hubble_drop", "Drops")),
            Metric::Flow => Self::Flow(counts("hubble_flows_processed", "Flows")),
            Metric::ToWorld => Self::ToWorld(WorldCounts {
                counts: counts("hubble_flows_to_world", "Flows to the world outside"),
                any_drop: choice.has(MetricFlag::AnyDrop),
                with_port: choice.has(MetricFlag::Port),
                syn_only: choice.has(MetricFlag::SynOnly),
            }),
            Metric::Http => Self::Http(HttpCounts {
                requests: counts("hubble_http_requests", "HTTP requests"),
                responses: counts("hubble_http_responses", "HTTP responses"),
                times: shop.http_times(choice),
                exemplars: false,
            }),
            Metric::HttpV2 => {
                let requests = counts("hubble_http_requests", "HTTP requests with a response");
                Self::HttpV2(HttpCounts {
                    responses: requests.by_request(),
                    requests,
                    times: shop.http_times(choice).by_request(),
                    exemplars: choice.has(MetricFlag::Exemplars),
                })
            }
            Metric::Icmp => Self::Icmp(counts("hubble_icmp", "ICMP messages")),
            Metric::Policy => Self::Policy(counts("hubble_policy_verdicts", "Verdicts of policy")),
            Metric::Ports => Self::Ports(counts("hubble_port_distribution", "Flows by port")),
            Metric::Tcp => Self::Tcp(counts("hubble_tcp_flags", "TCP flags")),
        }
    }

    /// Everything that it counts by.
    fn series(&self) -> Vec<&dyn Forgetful> {
        match self {
            Self::Dns(dns) => vec![&dns.queries, &dns.responses, &dns.types],
            Self::ToWorld(world) => vec![&world.counts],
            Self::Http(http) | Self::HttpV2(http) => {
                vec![&http.requests, &http.responses, &http.times]
            }
            Self::Drop(counts)
            | Self::Flow(counts)
            | Self::Icmp(counts)
            | Self::Policy(counts)
            | Self::Ports(counts)
            | Self::Tcp(counts) => vec![counts],
        }
    }

    fn see(&self, flow: &Flow) {
        match self {
            Self::Dns(dns) => dns.see(flow),
            Self::Drop(counts) => see_drop(counts, flow),
            Self::Flow(counts) => see_flow(counts, flow),
            Self::ToWorld(world) => world.see(flow),
            Self::Http(http) => http.see(flow),
            Self::HttpV2(http) => http.see_both(flow),
            Self::Icmp(counts) => see_icmp(counts, flow),
            Self::Policy(counts) => see_policy(counts, flow),
            Self::Ports(counts) => see_port(counts, flow),
            Self::Tcp(counts) => see_flags(counts, flow),
        }
    }
}

impl DnsCounts {
    fn see(&self, flow: &Flow) {
        let Some(dns) = flow.dns() else { return };
        if self.ignore_aaaa && dns.qtypes == [RecordType::Number(AAAA)] {
            return;
        }
        let qtypes = || ("qtypes", Value::of_types(&dns.qtypes));
        let query = || match self.with_query {
            true => ("query", Value::Text(Arc::clone(&dns.query))),
            false => NONE,
        };
        let ips = ("ips_returned", count(dns.ips.len()));
        if flow.is_reply == Some(true) {
            let rcode = ("rcode", rcode(dns));
            self.responses.add(flow, [rcode, qtypes(), ips, query()]);
            for kind in &dns.rrtypes {
                let kind = ("type", Value::Type(kind.clone()));
                self.types.add(flow, [kind, qtypes(), query(), NONE]);
            }
        } else {
            let is_denied = flow.verdict == Verdict::Dropped;
            let rcode = if is_denied { "Policy denied" } else { "" };
            let rcode = ("rcode", Value::Word(rcode));
            self.queries.add(flow, [rcode, qtypes(), ips, query()]);
        }
    }
}

impl WorldCounts {
    fn see(&self, flow: &Flow) {
        let mut labels = flow.destination.labels.iter();
        let Some(l4) = flow.l4 else { return };
        if !labels.any(|label| label.starts_with("reserved:world")) {
            return;
        }
        let is_counted = match flow.verdict == Verdict::Dropped {
            true => self.any_drop || flow.drop_reason() == Some(DropReason::POLICY_DENIED),
            // Of a reply it is the client's port that would be counted.
            false => flow.is_reply != Some(true),
        };
        let flags = match l4 {
            L4::Tcp { flags, .. } => flags.unwrap_or_default(),
            L4::Udp { .. } | L4::Sctp { .. } | L4::Icmpv4 { .. } | L4::Icmpv6 { .. } => {
                TcpFlags::default()
            }
        };
        let opens = flags.contains(TcpFlags::SYN) && flow.is_reply != Some(true);
        if !is_counted || self.syn_only && !opens {
            return;
        }
        let port = match l4.ports() {
            Some((_, port)) if self.with_port => ("port", Value::Number(port.into())),
            None if self.with_port => ("port", Value::Word("")),
            Some(_) | None => NONE,
        };
        let verdict = ("verdict", Value::Word(flow.verdict.name()));
        let protocol = ("protocol", protocol(flow));
        self.counts.add(flow, [protocol, verdict, port, NONE]);
    }
}

impl HttpCounts {
    /// By `http`: requests and responses apart.
    fn see(&self, flow: &Flow) {
        let Some(http) = flow.http() else { return };
        if flow.is_reply == Some(true) {
            self.see_response(flow, http);
        } else {
            let labels = [method(http), version(http), reporter(flow), NONE];
            self.requests.add(flow, labels);
        }
    }

    /// By `httpV2`: requests once they are answered.
    fn see_both(&self, flow: &Flow) {
        if let Some(http) = flow.http().filter(|_| flow.is_reply == Some(true)) {
            self.see_response(flow, http);
        }
    }

    fn see_response(&self, flow: &Flow, http: &Http) {
        let status = ("status", Value::Number(http.code));
        let labels = [method(http), version(http), status, reporter(flow)];
        self.responses.add(flow, labels);
        if http.code == 0 {
            return; // there was no response: it took no time
        }
        let labels = [method(http), reporter(flow), NONE, NONE];
        let latency = seconds(http.latency_ns);
        let is_traced = self.exemplars && !flow.trace_id.is_empty();
        let trace = is_traced.then(|| [("traceID", flow.trace_id.to_string())]);
        self.times.with(flow, labels, |times| {
            times.observe(latency, trace, flow.time.and_then(wall));
        });
    }
}

fn see_drop(counts: &Counts, flow: &Flow) {
    if flow.verdict != Verdict::Dropped {
        return;
    }
    let reason = flow.drop_reason().unwrap_or(DropReason::UNKNOWN);
    let reason = match reason.name() {
        Some(name) => Value::Word(name),
        None => Value::Number(reason.number().into()),
    };
    counts.add(
        flow,
        [("reason", reason), ("protocol", protocol(flow)), NONE, NONE],
    );
}

fn see_flow(counts: &Counts, flow: &Flow) {
    let (kind, sub) = match &flow.event {
        Event::Dns(_) => ("L7", "DNS"),
        Event::Http(_) => ("L7", "HTTP"),
        Event::OtherL7 { .. } => ("L7", ""),
        Event::PolicyVerdict { .. } => ("PolicyVerdict", ""),
        Event::Drop { .. } => ("Drop", ""),
        Event::Trace { point, .. } => ("Trace", point.name().unwrap_or_default()),
        Event::Other { .. } => ("Unknown", ""),
    };
    counts.add(
        flow,
        [
            ("protocol", protocol(flow)),
            ("type", Value::Word(kind)),
            ("subtype", Value::Word(sub)),
            ("verdict", Value::Word(flow.verdict.name())),
        ],
    );
}

/// Whether it went on.
fn passed(flow: &Flow) -> bool {
    matches!(flow.verdict, Verdict::Forwarded | Verdict::Redirected)
}

fn see_icmp(counts: &Counts, flow: &Flow) {
    let (family, is_v6, kind, code) = match flow.l4.filter(|_| passed(flow)) {
        Some(L4::Icmpv4 { kind, code }) => ("IPv4", false, kind, code),
        Some(L4::Icmpv6 { kind, code }) => ("IPv6", true, kind, code),
        Some(L4::Tcp { .. } | L4::Udp { .. } | L4::Sctp { .. }) | None => return,
    };
    let kind = Value::Icmp { is_v6, kind, code };
    counts.add(
        flow,
        [("family", Value::Word(family)), ("type", kind), NONE, NONE],
    );
}

fn see_policy(counts: &Counts, flow: &Flow) {
    let matched = match &flow.event {
        Event::Dns(_) => "l7/dns",
        Event::Http(_) => "l7/http",
        Event::PolicyVerdict { match_type, .. } => {
            let mut labels = flow.source.labels.iter();
            // The node itself may always come in.
            if labels.any(|label| &**label == "reserved:host") {
                return;
            }
            match_type_name(*match_type)
        }
        Event::OtherL7 { .. } | Event::Drop { .. } | Event::Trace { .. } | Event::Other { .. } => {
            return;
        }
    };
    counts.add(
        flow,
        [
            ("direction", Value::Lower(flow.traffic_direction.name())),
            ("match", Value::Lower(matched)),
            ("action", Value::Lower(flow.verdict.name())),
            NONE,
        ],
    );
}

fn see_port(counts: &Counts, flow: &Flow) {
    let Some(l4) = flow
        .l4
        .filter(|_| passed(flow) && flow.is_reply == Some(false))
    else {
        return;
    };
    let port = l4.ports().map_or(0, |(_, port)| port);
    let port = ("port", Value::Number(port.into()));
    counts.add(flow, [("protocol", protocol(flow)), port, NONE, NONE]);
}

fn see_flags(counts: &Counts, flow: &Flow) {
    let (
        Some(L4::Tcp {
            flags: Some(flags), ..
        }),
        Some(ip),
    ) = (flow.l4.filter(|_| passed(flow)), flow.ip)
    else {
        return;
    };
    let family = if ip.source.is_ipv4() { "IPv4" } else { "IPv6" };
    let opens = match flags.contains(TcpFlags::ACK) {
        true => "SYN-ACK",
        false => "SYN",
    };
    for (flag, name) in [
        (TcpFlags::FIN, "FIN"),
        (TcpFlags::SYN, opens),
        (TcpFlags::RST, "RST"),
    ] {
        if flags.contains(flag) {
            let labels = [
                ("flag", Value::Word(name)),
                ("family", Value::Word(family)),
                NONE,
                NONE,
            ];
            counts.add(flow, labels);
        }
    }
}

const AAAA: u16 = 28;

/// Hubble's word for what is spoken.
fn protocol(flow: &Flow) -> Value {
    Value::Word(match (&flow.event, flow.l4) {
        (Event::Dns(_), _) => "DNS",
        (Event::Http(_), _) => "HTTP",
        (Event::OtherL7 { .. }, _) => "Unknown L7",
        (_, Some(L4::Tcp { .. })) => "TCP",
        (_, Some(L4::Udp { .. })) => "UDP",
        (_, Some(L4::Icmpv4 { .. })) => "ICMPv4",
        (_, Some(L4::Icmpv6 { .. })) => "ICMPv6",
        (_, Some(L4::Sctp { .. })) => "SCTP",
        (_, None) => "Unknown L4",
    })
}

fn rcode(dns: &Dns) -> Value {
    Value::Word(match dns.rcode {
        0 => "No Error",
        other => rcode_text(other),
    })
}

/// A client may call its method as it likes; only those of RFC 9110, and PATCH, have series of their own.
fn method(http: &Http) -> Label {
    const METHODS: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    let mut known = METHODS.into_iter();
    let method = known.find(|known| *known == &*http.method).unwrap_or(OTHER);
    ("method", Value::Word(method))
}

fn version(http: &Http) -> Label {
    ("protocol", Value::Text(Arc::clone(&http.protocol)))
}

fn reporter(flow: &Flow) -> Label {
    let who = match flow.traffic_direction {
        Direction::Egress => "client",
        Direction::Ingress => "server",
        Direction::Unknown => "unknown",
    };
    ("reporter", Value::Word(who))
}

fn count(number: usize) -> Value {
    Value::Number(u32::try_from(number).unwrap_or(u32::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "a time for people")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn wall(time: Time) -> Option<SystemTime> {
    let since = u64::try_from(time.unix_nanos()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_nanos(since))
}

fn http_times() -> Times {
    HistogramWithExemplars::new(HTTP_BUCKETS.into_iter())
}

fn dns_times() -> Histogram {
    Histogram::new(DNS_BUCKETS)
}

/// Hubble's, in seconds: the defaults of Prometheus' library for Go.
const HTTP_BUCKETS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// In seconds, from an answer of the same node to one that came with the last try.
const DNS_BUCKETS: [f64; 11] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 5.0,
];

#[cfg(test)]
mod tests;
