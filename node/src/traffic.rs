//! Who talks to whom, and who asks for which names: flows gathered for people, for `top` and `report`. No
//! clock, no files.
//!
//! A pair counts by the verdict on its connections and by what was refused inside of them; the drop of a
//! packet whose verdict was told already does not count again, and neither do answers and traces.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flow::{DropReason, Endpoint, Event, Flow, L4, MessageKind, Time, Verdict};

/// Pairs that are kept; flows of further ones are counted as left out.
pub(crate) const PAIRS_MAX: usize = 10_000;
/// Names that are kept; questions for further ones are counted as left out.
pub(crate) const NAMES_MAX: usize = 10_000;

/// What was gathered.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) pairs: BTreeMap<Pair, PairFigures>,
    pub(crate) names: BTreeMap<Arc<str>, NameFigures>,
    /// Flows of any kind.
    pub(crate) flows: u64,
    /// Flows of pairs and names that had no room.
    pub(crate) left_out: u64,
    /// The first and the last time that was told.
    pub(crate) span: Option<(Time, Time)>,
}

/// Who talks to whom.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Pair {
    pub(crate) from: Arc<str>,
    pub(crate) to: Arc<str>,
    pub(crate) how: How,
}

/// What is spoken between them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum How {
    Tcp(u16),
    Udp(u16),
    Sctp(u16),
    Icmp,
    /// Questions for names.
    Dns,
    /// Requests, at a port.
    Http(u16),
    Other,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "{port}/TCP"),
            Self::Udp(port) => write!(f, "{port}/UDP"),
            Self::Sctp(port) => write!(f, "{port}/SCTP"),
            Self::Icmp => f.write_str("ICMP"),
            Self::Dns => f.write_str("DNS"),
            Self::Http(port) => write!(f, "{port}/HTTP"),
            Self::Other => f.write_str("other"),
        }
    }
}

/// How often something passed, and how often not.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Tally {
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
}

impl Tally {
    fn add(&mut self, is_denied: bool) {
        match is_denied {
            true => self.denied += 1,
            false => self.allowed += 1,
        }
    }

    pub(crate) const fn all(self) -> u64 {
        self.allowed + self.denied
    }
}

/// A count, and how much of it is new.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) total: Tally,
    /// Since the last turn.
    fresh: Tally,
    /// Between the last two turns.
    pub(crate) last: Tally,
    /// Turns without anything.
    idle: u32,
}

impl Counted {
    fn add(&mut self, is_denied: bool) {
        self.total.add(is_denied);
        self.fresh.add(is_denied);
    }

    /// Says whether it was silent for fewer turns than this.
    fn turn(&mut self, idle_max: u32) -> bool {
        self.last = std::mem::take(&mut self.fresh);
        self.idle = match self.last.all() {
            0 => self.idle.saturating_add(1),
            _ => 0,
        };
        self.idle < idle_max
    }
}

/// What is known of a pair.
#[derive(Clone, Debug, Default)]
pub(crate) struct PairFigures {
    pub(crate) counted: Counted,
    /// How long responses took.
    pub(crate) latency: Latency,
}

/// What is known of a name.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameFigures {
    pub(crate) counted: Counted,
    /// Answers that were none: SERVFAIL and the like, but not that the name isn't there.
    pub(crate) failed: u64,
    /// How long answers took.
    pub(crate) latency: Latency,
}

/// Times, each kept as its power of two of microseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latency {
    counts: [u64; Self::POWERS],
    pub(crate) max: Duration,
}

impl Latency {
    /// Up to 2^30 µs, a quarter of an hour.
    pub(crate) const POWERS: usize = 31;

    /// Counts one; 0 is none that was told: Cilium has no times for DNS.
    fn add(&mut self, ns: u64) {
        if ns == 0 {
            return;
        }
        let micros = (ns / 1_000).max(1);
        let power = usize::try_from(micros.ilog2()).unwrap_or(usize::MAX);
        if let Some(count) = self.counts.get_mut(power.min(Self::POWERS - 1)) {
            *count += 1;
        }
        self.max = self.max.max(Duration::from_nanos(ns));
    }

    /// The time that this share of them, in percent, did not exceed, to the power of two above it. None
    /// without any.
    pub(crate) fn percentile(&self, percent: u64) -> Option<Duration> {
        let all: u64 = self.counts.iter().sum();
        let wanted = (all * percent).div_ceil(100);
        let mut seen = 0;
        for (power, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return Some(Duration::from_micros(2 << power).min(self.max));
            }
        }
        None
    }

    /// Upper bounds, and how many are below them and above the one before.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (Duration, u64)> {
        let steps = self.counts.iter().enumerate();
        steps.map(|(power, count)| (Duration::from_micros(2 << power), *count))
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.max = self.max.max(other.max);
    }
}

impl Traffic {
    /// Counts a flow. Gives the pair, where something was denied to it.
    pub(crate) fn add(&mut self, flow: &Flow) -> Option<Pair> {
        self.flows += 1;
        if let Some(time) = flow.time {
            let (first, last) = self.span.unwrap_or((time, time));
            self.span = Some((first.min(time), last.max(time)));
        }
        if let Event::Dns(dns) = &flow.event {
            let name = dns.query.strip_suffix('.').unwrap_or(&dns.query);
            self.add_name(name, flow);
        }
        let is_denied = matches!(flow.verdict, Verdict::Dropped | Verdict::Error);
        let pair = pair_of(flow)?;
        let Some(figures) = room(&mut self.pairs, &pair, PAIRS_MAX) else {
            self.left_out += 1;
            return None;
        };
        if flow.is_reply == Some(true) {
            figures
                .latency
                .add(flow.http().map_or(0, |http| http.latency_ns));
            return None;
        }
        figures.counted.add(is_denied);
        is_denied.then_some(pair)
    }

    fn add_name(&mut self, name: &str, flow: &Flow) {
        let Some(dns) = flow.dns() else { return };
        let Some(figures) = room(&mut self.names, &Arc::from(name), NAMES_MAX) else {
            self.left_out += 1;
            return;
        };
        if dns.kind == MessageKind::Response {
            /// RFC 1035, section 4.1.1: NXDOMAIN.
            const NO_SUCH_NAME: u32 = 3;
            figures.failed += u64::from(![0, NO_SUCH_NAME].contains(&dns.rcode));
            figures.latency.add(dns.latency_ns);
        } else {
            figures.counted.add(flow.verdict == Verdict::Dropped);
        }
    }

    /// Begins another turn, and forgets who was silent for so many.
    pub(crate) fn turn(&mut self, idle_max: u32) {
        self.pairs.retain(|_, one| one.counted.turn(idle_max));
        self.names.retain(|_, one| one.counted.turn(idle_max));
    }

    /// All pairs together.
    pub(crate) fn sum(&self, of: impl Fn(&Counted) -> Tally) -> Tally {
        let mut sum = Tally::default();
        for tally in self.pairs.values().map(|one| of(&one.counted)) {
            sum.allowed += tally.allowed;
            sum.denied += tally.denied;
        }
        sum
    }
}

/// What is kept under a key; none where there is no room for a new one.
fn room<'a, K: Ord + Clone, V: Default>(
    all: &'a mut BTreeMap<K, V>,
    key: &K,
    max: usize,
) -> Option<&'a mut V> {
    if all.len() >= max && !all.contains_key(key) {
        return None;
    }
    Some(all.entry(key.clone()).or_default())
}

/// The pair that a flow counts for; none for what tells nothing new.
fn pair_of(flow: &Flow) -> Option<Pair> {
    let is_reply = flow.is_reply == Some(true);
    let port = match (flow.l4.and_then(L4::ports), is_reply) {
        (Some((port, _)), true) | (Some((_, port)), false) => port,
        (None, _) => 0,
    };
    let how = match &flow.event {
        Event::Http(_) => How::Http(port),
        // An answer is told of the name.
        Event::Dns(_) if is_reply => return None,
        Event::Dns(_) => How::Dns,
        Event::Drop { reason } if is_told(*reason) => return None,
        Event::PolicyVerdict { .. } | Event::Drop { .. } => by_packet(flow.l4, port),
        Event::OtherL7 { .. } => How::Other,
        Event::Trace { .. } | Event::Other { .. } => return None,
    };
    let source = who(
        &flow.source,
        &flow.source_names,
        flow.ip.map(|ip| ip.source),
    );
    let target = flow.ip.map(|ip| ip.destination);
    let destination = who(&flow.destination, &flow.destination_names, target);
    let (from, to) = match is_reply {
        true => (destination, source),
        false => (source, destination),
    };
    Some(Pair { from, to, how })
}

/// Whether the verdict on the same packet has told it.
pub(crate) fn is_told(reason: DropReason) -> bool {
    [DropReason::POLICY_DENIED, DropReason::POLICY_DENY].contains(&reason)
}

/// What a packet speaks, at a port where it has one.
pub(crate) fn by_packet(l4: Option<L4>, port: u16) -> How {
    match l4 {
        Some(L4::Tcp { .. }) => How::Tcp(port),
        Some(L4::Udp { .. }) => How::Udp(port),
        Some(L4::Sctp { .. }) => How::Sctp(port),
        Some(L4::Icmpv4 { .. } | L4::Icmpv6 { .. }) => How::Icmp,
        None => How::Other,
    }
}

/// A peer by the best name that there is: pod, name that was looked up, reserved identity, address.
fn who(endpoint: &Endpoint, names: &[Arc<str>], ip: Option<IpAddr>) -> Arc<str> {
    if !endpoint.pod_name.is_empty() {
        return format!("{}/{}", endpoint.namespace, endpoint.pod_name).into();
    }
    if let Some(name) = names.first() {
        return Arc::clone(name);
    }
    let mut labels = endpoint.labels.iter();
    let reserved = labels.find_map(|label| label.strip_prefix("reserved:"));
    match (reserved.filter(|name| !name.starts_with("world")), ip) {
        (Some(name), _) => name.into(),
        (None, Some(ip)) => ip.to_string().into(),
        (None, None) => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flow::{Direction, Dns, Http, Ip, RecordType, TracePoint, TraceReason};

    fn between(from: &str, to: (&str, &str), event: Event, verdict: Verdict) -> Flow {
        let pod = |name: &str| Endpoint {
            namespace: "a".into(),
            pod_name: name.into(),
            ..Endpoint::default()
        };
        Flow {
            ip: Some(Ip::new([10, 0, 0, 2].into(), to.1.parse().unwrap())),
            l4: Some(L4::Tcp {
                source_port: 4_000,
                destination_port: 80,
                flags: None,
            }),
            source: pod(from),
            destination_names: (!to.0.is_empty())
                .then(|| to.0.into())
                .into_iter()
                .collect(),
            is_reply: Some(false),
            traffic_direction: Direction::Egress,
            ..Flow::new(event, verdict)
        }
    }

    fn judged(to: (&str, &str), verdict: Verdict) -> Flow {
        let event = Event::PolicyVerdict {
            match_type: 1,
            drop_reason: None,
        };
        between("x", to, event, verdict)
    }

    fn swapped(flow: Flow) -> Flow {
        Flow {
            source: flow.destination.clone(),
            destination: flow.source.clone(),
            source_names: flow.destination_names.clone(),
            destination_names: Vec::new(),
            ip: flow.ip.map(|ip| Ip::new(ip.destination, ip.source)),
            l4: Some(L4::Tcp {
                source_port: 80,
                destination_port: 4_000,
                flags: None,
            }),
            is_reply: Some(true),
            ..flow
        }
    }

    #[test]
    fn a_pair_counts_by_verdicts_and_not_twice() {
        let mut traffic = Traffic::default();
        let web = ("web.test", "192.0.2.1");
        let drop = |reason| between("x", web, Event::Drop { reason }, Verdict::Dropped);
        let trace = Event::Trace {
            point: TracePoint::TO_STACK,
            reason: TraceReason::New,
        };
        assert_eq!(traffic.add(&judged(web, Verdict::Forwarded)), None);
        assert!(traffic.add(&judged(web, Verdict::Dropped)).is_some());
        for flow in [
            drop(DropReason::POLICY_DENIED),
            drop(DropReason::INVALID_SOURCE_IP),
            between("x", web, trace, Verdict::Forwarded),
            judged(("", "192.0.2.9"), Verdict::Forwarded),
        ] {
            traffic.add(&flow);
        }
        let rows = traffic.pairs.iter().map(|(pair, one)| {
            let total = one.counted.total;
            (
                &*pair.from,
                &*pair.to,
                pair.how.to_string(),
                (total.allowed, total.denied),
            )
        });
        assert_eq!(
            rows.collect::<Vec<_>>(),
            [
                ("a/x", "192.0.2.9", "80/TCP".to_owned(), (1, 0)),
                ("a/x", "web.test", "80/TCP".to_owned(), (1, 2)),
            ]
        );
        assert_eq!(traffic.flows, 6);
        assert_eq!(
            traffic.sum(|one| one.total),
            Tally {
                allowed: 2,
                denied: 2
            }
        );
    }

    #[test]
    fn requests_and_responses_are_of_one_pair() {
        let http = |kind, latency_ns| {
            Event::Http(Http {
                kind,
                latency_ns,
                code: 200,
                method: "GET".into(),
                url: "http://web.test/".into(),
                protocol: "HTTP/1.1".into(),
                headers: Vec::new(),
            })
        };
        let mut traffic = Traffic::default();
        let web = ("web.test", "192.0.2.1");
        traffic.add(&between(
            "x",
            web,
            http(MessageKind::Request, 0),
            Verdict::Forwarded,
        ));
        let response = between(
            "x",
            web,
            http(MessageKind::Response, 5_000_000),
            Verdict::Forwarded,
        );
        traffic.add(&swapped(response));
        let (pair, figures) = traffic.pairs.first_key_value().unwrap();
        assert_eq!(
            (&*pair.from, &*pair.to, pair.how),
            ("a/x", "web.test", How::Http(80))
        );
        assert_eq!(traffic.pairs.len(), 1);
        assert_eq!(figures.counted.total.all(), 1);
        assert_eq!(figures.latency.max, Duration::from_millis(5));
    }

    #[test]
    fn names_have_questions_failures_and_times() {
        let mut traffic = Traffic::default();
        let server = ("", "192.0.2.53");
        let kind = RecordType::Number(1);
        let query = Dns::request("web.test.".into(), kind.clone());
        traffic.add(&between(
            "x",
            server,
            Event::Dns(query.clone()),
            Verdict::Forwarded,
        ));
        traffic.add(&between("x", server, Event::Dns(query), Verdict::Dropped));
        for (rcode, millis) in [(0, 1), (3, 2), (2, 900)] {
            let mut answer = Dns::response("web.test.".into(), kind.clone(), rcode);
            answer.latency_ns = millis * 1_000_000;
            traffic.add(&swapped(between(
                "x",
                server,
                Event::Dns(answer),
                Verdict::Forwarded,
            )));
        }
        let figures = &traffic.names["web.test"];
        assert_eq!(
            figures.counted.total,
            Tally {
                allowed: 1,
                denied: 1
            }
        );
        assert_eq!(figures.failed, 1);
        let mut untold = Dns::response("web.test.".into(), kind, 0);
        untold.latency_ns = 0;
        let untold = between("x", server, Event::Dns(untold), Verdict::Forwarded);
        traffic.add(&swapped(untold));
        let figures = &traffic.names["web.test"];
        let latency = &figures.latency;
        assert_eq!(latency.percentile(50), Some(Duration::from_micros(2_048)));
        assert_eq!(latency.percentile(99), Some(Duration::from_millis(900)));
        assert_eq!(Latency::default().percentile(99), None);
    }

    #[test]
    fn what_is_silent_is_forgotten_and_what_has_no_room_is_counted() {
        let mut traffic = Traffic::default();
        for number in 0..=PAIRS_MAX {
            let ip = format!("198.18.{}.{}", number / 250, number % 250);
            traffic.add(&judged(("", &ip), Verdict::Forwarded));
        }
        assert_eq!((traffic.pairs.len(), traffic.left_out), (PAIRS_MAX, 1));
        traffic.turn(2);
        assert_eq!(traffic.sum(|one| one.last).allowed, PAIRS_MAX as u64);
        traffic.turn(2);
        assert_eq!(traffic.sum(|one| one.last).allowed, 0);
        assert_eq!(traffic.pairs.len(), PAIRS_MAX);
        traffic.turn(2);
        assert_eq!(traffic.pairs.len(), 0);
        for number in 0..=NAMES_MAX {
            let query = Dns::request(format!("n{number}.test.").into(), RecordType::Number(1));
            traffic.add(&between(
                "x",
                ("", "192.0.2.53"),
                Event::Dns(query),
                Verdict::Forwarded,
            ));
        }
        assert_eq!((traffic.names.len(), traffic.left_out), (NAMES_MAX, 2));
    }
}
