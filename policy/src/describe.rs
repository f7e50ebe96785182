//! Rules in words, for those who read them; and a sample of everything that rules tell apart.

mod parts;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use crate::http::HttpRule;
use crate::l4::{L7Rules, PortMatch, PortRule, Ports, RuleProtocol};
use crate::label::{NAMESPACE_KEY, SOURCE_K8S};
use crate::rule::{
    Effect, Item, PeerSelector, Peers, Policy, PolicySet, RuleOrigin, ServiceName, Subject,
};
use crate::selector::{Condition, Requirement, Selector};
use crate::{Direction, Family, L4Protocol, Label, Labels};
pub use parts::RuleParts;

/// One rule in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleText {
    /// Where it stands.
    pub origin: RuleOrigin,
    /// Its direction.
    pub direction: Direction,
    /// Whether it denies; else it allows.
    pub denies: bool,
    /// Whether it closes its direction to what no rule allows.
    pub closes: bool,
    /// Whether its policy is only audited.
    pub audited: bool,
    /// Whom it is about; empty is nobody.
    pub peers: Vec<String>,
    /// What it is about, `80/TCP`; empty is nothing.
    pub ports: Vec<String>,
    /// What may be said there; empty is anything.
    pub said: Vec<String>,
    /// Peers, ports and what may be said, for programs.
    pub parts: RuleParts,
}

/// A sample of everything that the rules of a set tell apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// Protocol numbers and ports (or types of ICMP): each range's ends and what lies beside them.
    pub ports: BTreeSet<(u8, u16)>,
    /// An address of each prefix and hole.
    pub addresses: BTreeSet<IpAddr>,
    /// A name for each pattern of `toFQDNs`, `dns` and `serverNames`; stars stand for `x`.
    pub names: BTreeSet<String>,
    /// Method and path of each HTTP rule without special characters.
    pub requests: BTreeSet<(String, String)>,
    /// A namespace and labels for each selector of subjects and peers.
    pub workloads: BTreeMap<String, (String, Labels)>,
}

impl PolicySet {
    /// The rules that select a workload of these labels, in words.
    #[must_use]
    pub fn rules_for(&self, labels: &Labels) -> Vec<RuleText> {
        let selecting = self
            .items()
            .filter(|(_, rule, _)| rule.subject.selects(labels));
        selecting
            .map(|(policy, _, item)| text_of(policy, item))
            .collect()
    }

    /// A sample of everything that the rules tell apart.
    #[must_use]
    pub fn samples(&self) -> Samples {
        let mut samples = Samples::default();
        for (_, rule, item) in self.items() {
            if let Subject::Endpoints(selector) = &rule.subject {
                samples.add_workload(selector);
            }
            for peer in item.peer_list() {
                samples.add_peer(peer);
            }
            for name in item.names().iter().flat_map(|names| names.texts()) {
                samples.add_name(name);
            }
            for prefix in item.prefixes() {
                samples.addresses.insert(prefix.addr());
            }
            for port in item.port_list() {
                samples.add_port(port);
            }
        }
        samples
    }
}

impl Samples {
    /// Joins two.
    pub fn extend(&mut self, other: Self) {
        self.ports.extend(other.ports);
        self.addresses.extend(other.addresses);
        self.names.extend(other.names);
        self.requests.extend(other.requests);
        self.workloads.extend(other.workloads);
    }

    fn add_workload(&mut self, selector: &Selector) {
        let mut namespace = "default".to_owned();
        let mut labels = Labels::default();
        for requirement in selector.requirements() {
            let value = match &requirement.condition {
                Condition::In(values) => values.first().map_or("", |value| value),
                Condition::Exists => "x",
                Condition::NotIn(_) | Condition::DoesNotExist => continue,
            };
            let key = &requirement.key;
            if *key.key == *NAMESPACE_KEY {
                if matches!(requirement.condition, Condition::In(_)) {
                    namespace = value.to_owned();
                }
                continue;
            }
            let source = key.source.as_deref().unwrap_or(SOURCE_K8S);
            labels.insert(Label::new(source, &key.key, value));
        }
        let is_reserved = labels.iter().any(|label| label.source() == "reserved");
        if !is_reserved {
            self.workloads
                .insert(selector.to_string(), (namespace, labels));
        }
    }

    fn add_peer(&mut self, peer: &PeerSelector) {
        match peer {
            PeerSelector::Labels(selector) => self.add_workload(selector),
            PeerSelector::Entity(_) | PeerSelector::Cidr(_) | PeerSelector::Service(_) => {}
        }
    }

    fn add_name(&mut self, pattern: &str) {
        let mut name = String::new();
        for label in pattern.split('.') {
            let plain: String = label.chars().filter(|ch| *ch != '*').collect();
            let label = if plain.is_empty() {
                "x".to_owned()
            } else {
                plain
            };
            name = if name.is_empty() {
                label
            } else {
                name + "." + &label
            };
        }
        if !name.contains('.') {
            name.push_str(".test");
        }
        if !pattern.contains('*') {
            self.names.insert(format!("x.{name}"));
        }
        self.names.insert(name);
    }

    fn add_port(&mut self, port: &PortRule) {
        if let PortMatch::Range(first, last) = port.port {
            for number in port.protocol_numbers() {
                let beside = [
                    first.checked_sub(1),
                    Some(first),
                    Some(last),
                    last.checked_add(1),
                ];
                let is_icmp = matches!(port.protocol, RuleProtocol::Icmp(_));
                let real = beside
                    .into_iter()
                    .flatten()
                    .filter(|port| is_icmp || *port > 0);
                self.ports.extend(real.map(|port| (*number, port)));
            }
        }
        let Some(l7) = port.l7.as_deref() else { return };
        for name in &l7.server_names {
            self.add_name(name.text());
        }
        match &l7.rules {
            L7Rules::None => {}
            L7Rules::Dns(names) => names.texts().for_each(|name| self.add_name(name)),
            L7Rules::Http(rules) => {
                for rule in rules {
                    let is_plain =
                        |text: &str| !text.contains(['*', '+', '(', '[', '|', '\\', '?']);
                    let method = rule.method.as_deref().filter(|text| is_plain(text));
                    let path = rule.path.as_deref().filter(|text| is_plain(text));
                    let method = method.unwrap_or("GET").to_owned();
                    self.requests
                        .insert((method, path.unwrap_or("/").to_owned()));
                }
            }
        }
    }
}

fn text_of(policy: &Policy, item: &Item) -> RuleText {
    let mut said = Vec::new();
    for port in item.port_list() {
        said_through(port, &mut said);
    }
    RuleText {
        origin: RuleOrigin {
            kind: policy.kind,
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            file: policy.file.clone(),
            line: item.line,
            log: item.log.clone(),
        },
        direction: item.direction,
        denies: item.effect == Effect::Deny,
        closes: item.default_deny,
        audited: policy.audit,
        peers: match &item.peers {
            Peers::Any => vec!["everybody".to_owned()],
            Peers::Nobody => Vec::new(),
            Peers::Some(peers) => peers.iter().map(ToString::to_string).collect(),
            Peers::Named(names) => names
                .texts()
                .map(|name| format!("addresses of {name}"))
                .collect(),
        },
        ports: match &item.ports {
            Ports::Any => vec!["every port and protocol".to_owned()],
            Ports::List(list) => list.iter().map(ToString::to_string).collect(),
        },
        said,
        parts: RuleParts::of(item),
    }
}

/// The parts of what may be said, each once.
fn said_through(port: &PortRule, said: &mut Vec<String>) {
    let Some(l7) = port.l7.as_deref() else { return };
    let mut add = |text: String| {
        if !said.contains(&text) {
            said.push(text);
        }
    };
    match &l7.rules {
        L7Rules::None => {}
        L7Rules::Dns(names) => {
            let names: Vec<String> = names.described().collect();
            add(format!("questions for {}", names.join(", ")));
        }
        L7Rules::Http(rules) => {
            let rules: Vec<String> = rules.iter().map(request).collect();
            add(format!("requests {}", rules.join("; ")));
        }
    }
    if !l7.server_names.is_empty() {
        let names: Vec<&str> = l7.server_names.iter().map(|name| name.text()).collect();
        add(format!("TLS to servers named {}", names.join(", ")));
    }
}

fn request(rule: &HttpRule) -> String {
    let mut parts = vec![
        rule.method.as_deref().unwrap_or("ANY").to_owned(),
        rule.path.as_deref().unwrap_or("any path").to_owned(),
    ];
    parts.extend(rule.host.as_deref().map(|host| format!("of host {host}")));
    for header in &rule.headers {
        // The value may be a secret.
        parts.push(format!("with header {}", header.name));
    }
    parts.join(" ")
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_namespace = |one: &&Requirement| {
            *one.key.key == *NAMESPACE_KEY && matches!(one.condition, Condition::In(_))
        };
        let parts: Vec<String> = self
            .requirements()
            .iter()
            .filter(|one| !is_namespace(one))
            .map(ToString::to_string)
            .collect();
        let mut spaces = self.requirements().iter().filter(is_namespace);
        match parts.is_empty() {
            true => f.write_str("every workload")?,
            false => write!(f, "workloads with {}", parts.join(", "))?,
        }
        match spaces.next().map(|one| &one.condition) {
            Some(Condition::In(values)) => {
                let values: Vec<&str> = values.iter().map(|value| &**value).collect();
                write!(f, " in namespace {}", values.join(" or "))
            }
            Some(Condition::NotIn(_) | Condition::Exists | Condition::DoesNotExist) | None => {
                Ok(())
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self
            .key
            .source
            .as_deref()
            .filter(|source| *source != SOURCE_K8S);
        let source = source
            .map(|source| format!("{source}:"))
            .unwrap_or_default();
        let key = format!("{source}{}", self.key.key);
        let listed = |values: &BTreeSet<Box<str>>| {
            values
                .iter()
                .map(|value| &**value)
                .collect::<Vec<_>>()
                .join("|")
        };
        match &self.condition {
            Condition::In(values) => write!(f, "{key}={}", listed(values)),
            Condition::NotIn(values) => write!(f, "{key}!={}", listed(values)),
            Condition::Exists => f.write_str(&key),
            Condition::DoesNotExist => write!(f, "no {key}"),
        }
    }
}

impl fmt::Display for PeerSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Labels(selector) => selector.fmt(f),
            Self::Entity(entity) => f.write_str(entity.word()),
            Self::Cidr(cidr) => {
                write!(f, "{}", cidr.prefix)?;
                let holes: Vec<String> = cidr.except.iter().map(ToString::to_string).collect();
                match holes.is_empty() {
                    true => Ok(()),
                    false => write!(f, " (not {})", holes.join(", ")),
                }
            }
            Self::Service(service) => {
                match &service.service {
                    ServiceName::Exact(name) => write!(f, "service {name}")?,
                    ServiceName::Labels(selector) => write!(f, "services like {selector}")?,
                }
                match &service.namespace {
                    Some(namespace) => write!(f, " of {namespace}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl fmt::Display for PortRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            RuleProtocol::Any => "TCP, UDP and SCTP",
            RuleProtocol::One(L4Protocol::Tcp) => "TCP",
            RuleProtocol::One(L4Protocol::Udp) => "UDP",
            RuleProtocol::One(L4Protocol::Sctp) => "SCTP",
            RuleProtocol::Icmp(Family::V4) => "ICMP",
            RuleProtocol::Icmp(Family::V6) => "ICMPv6",
        };
        match (&self.port, self.protocol) {
            (PortMatch::Range(first, _), RuleProtocol::Icmp(_)) => {
                write!(f, "{protocol} type {first}")
            }
            (PortMatch::All, _) => write!(f, "every port of {protocol}"),
            (PortMatch::Named(name), RuleProtocol::Any) => write!(f, "{name}"),
            (PortMatch::Named(name), _) => write!(f, "{name}/{protocol}"),
            (PortMatch::Range(first, last), RuleProtocol::Any) if first == last => {
                write!(f, "{first}")
            }
            (PortMatch::Range(first, last), _) if first == last => write!(f, "{first}/{protocol}"),
            (PortMatch::Range(first, last), RuleProtocol::Any) => write!(f, "{first}-{last}"),
            (PortMatch::Range(first, last), _) => write!(f, "{first}-{last}/{protocol}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Source, load};

    const TEXT: &str = r#"{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: p},
        spec: {endpointSelector: {matchLabels: {app: a}}, egress: [
          {toEndpoints: [{matchExpressions: [{key: x, operator: NotIn, values: [w]}, {key: z, operator: Exists}]}],
           toPorts: [{ports: [{port: "80", endPort: 90, protocol: TCP}]}]},
          {toFQDNs: [{matchPattern: "*.x.io"}]},
          {toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}], icmps: [{fields: [{type: 8}]}]},
          {toPorts: [{ports: [{port: "81", protocol: TCP}], rules: {http: [{method: GET, path: /a}]}}]}]}}"#;

    fn set() -> PolicySet {
        let source = Source {
            path: "p.yaml".to_owned(),
            text: TEXT.to_owned(),
        };
        let loaded = load(&[source]);
        assert!(!loaded.has_errors(), "{:?}", loaded.problems);
        loaded.set
    }

    #[test]
    fn rules_have_words() {
        let mut labels = Labels::default();
        labels.insert(Label::new("k8s", "app", "a"));
        labels.insert(Label::new("k8s", NAMESPACE_KEY, "default"));
        let words: Vec<String> = set()
            .rules_for(&labels)
            .iter()
            .map(|rule| {
                let parts = [&rule.peers, &rule.ports, &rule.said];
                parts.map(|part| part.join("+")).join(" / ")
            })
            .collect();
        assert_eq!(
            words,
            [
                "workloads with x!=w, z in namespace default / 80-90/TCP / ",
                "addresses of *.x.io / every port and protocol / ",
                "10.0.0.0/8 (not 10.1.0.0/16) / ICMP type 8 / ",
                "everybody / 81/TCP / requests GET /a",
            ]
        );
        assert_eq!(set().rules_for(&Labels::default()), []);
    }

    #[test]
    fn samples_have_the_ends_of_everything() {
        let samples = set().samples();
        for port in [79, 80, 90, 91, 81, 82] {
            assert!(samples.ports.contains(&(6, port)), "{port}");
        }
        assert!(samples.ports.contains(&(1, 8)));
        assert!(samples.names.contains("x.x.io"));
        let addresses: Vec<String> = samples.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.0", "10.1.0.0"]);
        assert_eq!(samples.requests.len(), 1);
        assert_eq!(samples.workloads.len(), 2);
    }
}
