//! Which metrics of flows are wanted, in the form of Cilium's `--hubble-metrics`:
//! `dns:query;ignoreAAAA drop:sourceContext=pod|ip flow`.

use std::sync::Arc;

use flow::{Direction, Endpoint, Flow};

use super::labels::{Label, Value};

/// One metric with its options.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetricChoice {
    pub(super) metric: Metric,
    pub(super) flags: Vec<MetricFlag>,
    pub(super) context: Context,
}

/// What an option can't be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadChoice {
    /// There is no such metric.
    #[error("{0:?} is no metric: {METRICS} are")]
    Metric(String),
    /// The metric has no such option.
    #[error("{metric} has no option {option:?}")]
    Option {
        /// The metric.
        metric: String,
        /// Its option.
        option: String,
    },
    /// There is no such context.
    #[error("{0:?} is no context: {CONTEXTS} are")]
    Context(String),
    /// There is no such label.
    #[error("{0:?} is no label of labelsContext")]
    Label(String),
    /// Two choices that would count under the same name.
    #[error("{0} and {1} exclude each other")]
    Twice(&'static str, &'static str),
}

const METRICS: &str =
    "dns, drop, flow, flows-to-world, http, httpV2, icmp, policy, port-distribution and tcp";
const CONTEXTS: &str = "identity, namespace, pod, pod-name, dns, ip, reserved-identity, workload, workload-name and app";

macro_rules! words {
    ($(#[$doc:meta])* $visibility:vis enum $name:ident { $($variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        $visibility enum $name { $($variant,)* }

        impl $name {
            const ALL: &[(Self, &'static str)] = &[$((Self::$variant, $word),)*];

            fn from_word(word: &str) -> Option<Self> {
                let mut all = Self::ALL.iter();
                all.find(|(_, known)| *known == word).map(|(one, _)| *one)
            }
        }
    };
}

/// The word of one of a closed list.
fn word_of<T: PartialEq>(all: &[(T, &'static str)], one: &T) -> &'static str {
    let mut all = all.iter();
    all.find(|(other, _)| other == one)
        .map_or("", |(_, word)| word)
}

words! {
    /// The metrics, by the name of their option.
    pub(super) enum Metric {
        Dns = "dns",
        Drop = "drop",
        Flow = "flow",
        ToWorld = "flows-to-world",
        Http = "http",
        HttpV2 = "httpV2",
        Icmp = "icmp",
        Policy = "policy",
        Ports = "port-distribution",
        Tcp = "tcp",
    }
}

words! {
    /// Options that say yes by being there.
    pub(super) enum MetricFlag {
        Query = "query",
        IgnoreAaaa = "ignoreAAAA",
        AnyDrop = "any-drop",
        Port = "port",
        SynOnly = "syn-only",
        Exemplars = "exemplars=true",
    }
}

words! {
    /// What tells who a peer is.
    enum Who {
        Identity = "identity",
        Namespace = "namespace",
        Pod = "pod",
        PodName = "pod-name",
        Dns = "dns",
        Ip = "ip",
        ReservedIdentity = "reserved-identity",
        Workload = "workload",
        WorkloadName = "workload-name",
        App = "app",
    }
}

words! {
    /// Labels that are added one by one.
    enum Added {
        SourceIp = "source_ip",
        SourceNamespace = "source_namespace",
        SourcePod = "source_pod",
        SourceWorkload = "source_workload",
        SourceWorkloadKind = "source_workload_kind",
        SourceApp = "source_app",
        DestinationIp = "destination_ip",
        DestinationNamespace = "destination_namespace",
        DestinationPod = "destination_pod",
        DestinationWorkload = "destination_workload",
        DestinationWorkloadKind = "destination_workload_kind",
        DestinationApp = "destination_app",
        TrafficDirection = "traffic_direction",
    }
}

impl Metric {
    fn word(self) -> &'static str {
        word_of(Self::ALL, &self)
    }

    const fn flags(self) -> &'static [MetricFlag] {
        match self {
            Self::Dns => &[MetricFlag::Query, MetricFlag::IgnoreAaaa],
            Self::ToWorld => &[MetricFlag::AnyDrop, MetricFlag::Port, MetricFlag::SynOnly],
            Self::HttpV2 => &[MetricFlag::Exemplars],
            Self::Drop
            | Self::Flow
            | Self::Http
            | Self::Icmp
            | Self::Policy
            | Self::Ports
            | Self::Tcp => &[],
        }
    }
}

/// A pod: its namespace and its name.
pub(super) type Pod = (Arc<str>, Arc<str>);

/// Labels that say who is meant.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Context {
    source: Side,
    destination: Side,
    added: Vec<Added>,
}

/// What tells of one side who it is: the first that says something.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Side {
    any: Vec<Who>,
    /// In place of `any`, for traffic of this direction.
    egress: Vec<Who>,
    ingress: Vec<Who>,
}

impl MetricChoice {
    /// Reads choices with blanks between.
    ///
    /// # Errors
    /// The first word that can't be used.
    pub fn read_all(text: &str) -> Result<Vec<Self>, BadChoice> {
        let mut all: Vec<Self> = Vec::new();
        for word in text.split_whitespace() {
            let one = Self::read(word)?;
            let both_http = |a, b| {
                matches!(
                    (a, b),
                    (Metric::Http, Metric::HttpV2) | (Metric::HttpV2, Metric::Http)
                )
            };
            let clashes =
                |other: &&Self| other.metric == one.metric || both_http(other.metric, one.metric);
            if let Some(other) = all.iter().find(clashes) {
                return Err(BadChoice::Twice(other.metric.word(), one.metric.word()));
            }
            all.push(one);
        }
        Ok(all)
    }

    fn read(word: &str) -> Result<Self, BadChoice> {
        let (name, options) = word.split_once(':').unwrap_or((word, ""));
        let metric = Metric::from_word(name).ok_or_else(|| BadChoice::Metric(name.to_owned()))?;
        let mut choice = Self {
            metric,
            flags: Vec::new(),
            context: Context::default(),
        };
        for option in options.split(';').filter(|option| !option.is_empty()) {
            let flag = MetricFlag::from_word(option).filter(|flag| metric.flags().contains(flag));
            match (flag, option.split_once('=')) {
                (Some(flag), _) => choice.flags.push(flag),
                (None, Some((name, value))) if choice.context.take(name, value)? => {}
                (None, _) => {
                    return Err(BadChoice::Option {
                        metric: name.to_owned(),
                        option: option.to_owned(),
                    });
                }
            }
        }
        Ok(choice)
    }

    pub(super) fn has(&self, flag: MetricFlag) -> bool {
        self.flags.contains(&flag)
    }
}

impl Context {
    /// Takes an option, if it is one of a context.
    fn take(&mut self, name: &str, value: &str) -> Result<bool, BadChoice> {
        let place = match name {
            "sourceContext" => &mut self.source.any,
            "sourceEgressContext" => &mut self.source.egress,
            "sourceIngressContext" => &mut self.source.ingress,
            "destinationContext" => &mut self.destination.any,
            "destinationEgressContext" => &mut self.destination.egress,
            "destinationIngressContext" => &mut self.destination.ingress,
            "labelsContext" => {
                let read = |word: &str| {
                    Added::from_word(word).ok_or_else(|| BadChoice::Label(word.to_owned()))
                };
                self.added = value.split(',').map(read).collect::<Result<_, _>>()?;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        let read =
            |word: &str| Who::from_word(word).ok_or_else(|| BadChoice::Context(word.to_owned()));
        *place = value.split('|').map(read).collect::<Result<_, _>>()?;
        Ok(true)
    }

    /// The pods that those labels name, so that they go with them.
    pub(super) fn pods(&self, flow: &Flow, is_swapped: bool) -> Vec<Pod> {
        let (source, destination) = sides(flow, is_swapped);
        let names = |side: &Side, label| side.names_pods() || self.added.contains(&label);
        let sides = [
            (source, names(&self.source, Added::SourcePod)),
            (destination, names(&self.destination, Added::DestinationPod)),
        ];
        let named = sides.into_iter().filter_map(|(party, is_named)| {
            let endpoint = party.endpoint;
            let is_pod = is_named && !endpoint.pod_name.is_empty();
            is_pod.then(|| (endpoint.namespace.clone(), endpoint.pod_name.clone()))
        });
        named.collect()
    }

    /// The labels of a flow. A response is told from its request's side where `is_swapped`.
    pub(super) fn labels(&self, flow: &Flow, is_swapped: bool) -> Vec<Label> {
        let sides = sides(flow, is_swapped);
        let mut labels = Vec::new();
        for (name, side, party) in [
            ("source", &self.source, &sides.0),
            ("destination", &self.destination, &sides.1),
        ] {
            if let Some(value) = side.value(party, flow.traffic_direction) {
                labels.push((name, value));
            }
        }
        let added = self.added.iter();
        labels.extend(added.map(|label| (label.word(), label.value(&sides, flow))));
        labels
    }
}

/// The source of a flow, or of the request that it answers, and the destination.
fn sides(flow: &Flow, is_swapped: bool) -> (Party<'_>, Party<'_>) {
    let (source, destination) = (Party::source(flow), Party::destination(flow));
    match is_swapped {
        true => (destination, source),
        false => (source, destination),
    }
}

impl Side {
    fn names_pods(&self) -> bool {
        let mut all = [&self.any, &self.egress, &self.ingress]
            .into_iter()
            .flatten();
        all.any(|who| matches!(who, Who::Pod | Who::PodName))
    }

    /// None where no option asks for it; an empty one where nobody knows.
    fn value(&self, party: &Party<'_>, direction: Direction) -> Option<Value> {
        let own = match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
            Direction::Unknown => &self.any,
        };
        let who = if own.is_empty() { &self.any } else { own };
        let is_asked = [&self.any, &self.egress, &self.ingress];
        if is_asked.iter().all(|who| who.is_empty()) {
            return None;
        }
        let mut values = who.iter().map(|who| who.value(party));
        let told = values.find(|value| !value.is_empty());
        Some(told.unwrap_or(Value::Word("")))
    }
}

/// One side of a flow.
struct Party<'a> {
    endpoint: &'a Endpoint,
    names: &'a [Arc<str>],
    ip: Option<std::net::IpAddr>,
}

impl<'a> Party<'a> {
    fn source(flow: &'a Flow) -> Self {
        Self {
            endpoint: &flow.source,
            names: &flow.source_names,
            ip: flow.ip.map(|ip| ip.source),
        }
    }

    fn destination(flow: &'a Flow) -> Self {
        Self {
            endpoint: &flow.destination,
            names: &flow.destination_names,
            ip: flow.ip.map(|ip| ip.destination),
        }
    }

    fn address(&self) -> Value {
        self.ip.map_or(Value::Word(""), Value::Address)
    }

    fn workload(&self) -> (Value, Value) {
        match self.endpoint.workloads.first() {
            Some(one) => (Value::Text(one.name.clone()), Value::Text(one.kind.clone())),
            None => (Value::Word(""), Value::Word("")),
        }
    }

    /// What the labels call the app: Kubernetes' recommended one first.
    fn app(&self) -> Value {
        const KEYS: [&str; 3] = ["k8s:app.kubernetes.io/name=", "k8s:k8s-app=", "k8s:app="];
        let labels = self.endpoint.labels.iter();
        let named = |key: &&str| labels.clone().find_map(|label| label.strip_prefix(*key));
        let name = KEYS.iter().find_map(named);
        name.map_or(Value::Word(""), |name| Value::Text(name.into()))
    }

    fn reserved(&self) -> Value {
        let mut labels = self.endpoint.labels.iter();
        let reserved = labels.find(|label| label.starts_with("reserved:"));
        reserved.map_or(Value::Word(""), |label| Value::Text(label.clone()))
    }
}

impl Who {
    fn value(self, party: &Party<'_>) -> Value {
        let endpoint = party.endpoint;
        let in_namespace = |name: &Arc<str>| match name.is_empty() {
            true => Value::Word(""),
            false => Value::InNamespace(endpoint.namespace.clone(), name.clone()),
        };
        match self {
            Self::Identity => Value::Number(endpoint.identity),
            Self::Namespace => Value::Text(endpoint.namespace.clone()),
            Self::Pod => in_namespace(&endpoint.pod_name),
            Self::PodName => Value::Text(endpoint.pod_name.clone()),
            Self::Dns => match party.names {
                [one] => Value::Text(one.clone()),
                several => Value::Texts(several.to_vec()),
            },
            Self::Ip => party.address(),
            Self::ReservedIdentity => party.reserved(),
            Self::Workload => match endpoint.workloads.first() {
                Some(one) => in_namespace(&one.name),
                None => Value::Word(""),
            },
            Self::WorkloadName => party.workload().0,
            Self::App => party.app(),
        }
    }
}

impl Added {
    fn word(self) -> &'static str {
        word_of(Self::ALL, &self)
    }

    fn value(self, (source, destination): &(Party<'_>, Party<'_>), flow: &Flow) -> Value {
        match self {
            Self::SourceIp => source.address(),
            Self::SourceNamespace => Value::Text(source.endpoint.namespace.clone()),
            Self::SourcePod => Value::Text(source.endpoint.pod_name.clone()),
            Self::SourceWorkload => source.workload().0,
            Self::SourceWorkloadKind => source.workload().1,
            Self::SourceApp => source.app(),
            Self::DestinationIp => destination.address(),
            Self::DestinationNamespace => Value::Text(destination.endpoint.namespace.clone()),
            Self::DestinationPod => Value::Text(destination.endpoint.pod_name.clone()),
            Self::DestinationWorkload => destination.workload().0,
            Self::DestinationWorkloadKind => destination.workload().1,
            Self::DestinationApp => destination.app(),
            Self::TrafficDirection => match flow.traffic_direction {
                Direction::Egress => Value::Word("egress"),
                Direction::Ingress => Value::Word("ingress"),
                Direction::Unknown => Value::Word("unknown"),
            },
        }
    }
}
