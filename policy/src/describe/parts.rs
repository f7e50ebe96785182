//! Rules for programs: the facts behind the words.

use ipnet::IpNet;
use serde::Serialize;

use crate::http::HttpRule;
use crate::l4::{L7, L7Rules, PortMatch, PortRule, Ports, RuleProtocol};
use crate::names::NameList;
use crate::record_type_word;
use crate::rule::{Item, PeerSelector, Peers, ServiceName};
use crate::selector::{Condition, Selector};

/// Whom and what a rule is about, for programs. A part that limits nothing is `null`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleParts {
    /// `null` is everybody, empty is nobody.
    peers: Option<Vec<Peer>>,
    /// `null` is every port and protocol, empty is none.
    ports: Option<Vec<Port>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Peer {
    Labels(Vec<Requirement>),
    Entity(&'static str),
    Cidr {
        prefix: String,
        except: Vec<String>,
    },
    /// As written.
    Fqdn(String),
    Service {
        name: Option<String>,
        labels: Option<Vec<Requirement>>,
        /// `null` is every namespace.
        namespace: Option<String>,
    },
}

/// A condition on one key, in the words of Kubernetes' `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Requirement {
    /// `null` is any source.
    source: Option<String>,
    key: String,
    operator: &'static str,
    values: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Port {
    protocols: Vec<&'static str>,
    /// The first port; `null` is every port, or one that has a name, or ICMP.
    port: Option<u16>,
    /// The last one.
    end_port: Option<u16>,
    /// What its owner calls it.
    port_name: Option<String>,
    icmp_type: Option<u16>,
    /// `null` is anything that may be said.
    l7: Option<Said>,
}

/// What may be said; each part that is not `null` limits it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Said {
    dns: Option<Vec<Asked>>,
    http: Option<Vec<Request>>,
    server_names: Option<Vec<String>>,
}

/// A name or pattern that may be asked for; alone where it may be asked for every type of record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Asked {
    Whole(String),
    Limited { name: String, types: Vec<String> },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Request {
    method: Option<String>,
    path: Option<String>,
    host: Option<String>,
    /// Names alone: a value may be a secret.
    headers: Vec<String>,
}

impl RuleParts {
    pub(super) fn of(item: &Item) -> Self {
        Self {
            peers: match &item.peers {
                Peers::Any => None,
                Peers::Nobody => Some(Vec::new()),
                Peers::Some(peers) => Some(peers.iter().map(Peer::of).collect()),
                Peers::Named(names) => {
                    let names = names.texts().map(str::to_owned);
                    Some(names.map(Peer::Fqdn).collect())
                }
            },
            ports: match &item.ports {
                Ports::Any => None,
                Ports::List(list) => Some(list.iter().map(Port::of).collect()),
            },
        }
    }
}

impl Peer {
    fn of(selector: &PeerSelector) -> Self {
        match selector {
            PeerSelector::Labels(selector) => Self::Labels(requirements(selector)),
            PeerSelector::Entity(entity) => Self::Entity(entity.word()),
            PeerSelector::Cidr(cidr) => Self::Cidr {
                prefix: cidr.prefix.to_string(),
                except: cidr.except.iter().map(IpNet::to_string).collect(),
            },
            PeerSelector::Service(service) => {
                let (name, labels) = match &service.service {
                    ServiceName::Exact(name) => (Some(name.to_string()), None),
                    ServiceName::Labels(selector) => (None, Some(requirements(selector))),
                };
                Self::Service {
                    name,
                    labels,
                    namespace: service.namespace.as_deref().map(str::to_owned),
                }
            }
        }
    }
}

fn requirements(selector: &Selector) -> Vec<Requirement> {
    let one = |one: &crate::selector::Requirement| {
        let (operator, values) = match &one.condition {
            Condition::In(values) => ("In", Some(values)),
            Condition::NotIn(values) => ("NotIn", Some(values)),
            Condition::Exists => ("Exists", None),
            Condition::DoesNotExist => ("DoesNotExist", None),
        };
        let values = values.into_iter().flatten();
        Requirement {
            source: one.key.source.as_deref().map(str::to_owned),
            key: one.key.key.to_string(),
            operator,
            values: values.map(ToString::to_string).collect(),
        }
    };
    selector.requirements().iter().map(one).collect()
}

impl Port {
    fn of(rule: &PortRule) -> Self {
        let is_icmp = matches!(rule.protocol, RuleProtocol::Icmp(_));
        let (range, name) = match &rule.port {
            PortMatch::All => (None, None),
            PortMatch::Range(first, last) => (Some((*first, *last)), None),
            PortMatch::Named(name) => (None, Some(name.to_string())),
        };
        let ports = range.filter(|_| !is_icmp);
        let protocols = rule.protocol_numbers().iter();
        Self {
            protocols: protocols.map(|number| protocol(*number)).collect(),
            port: ports.map(|(first, _)| first),
            end_port: ports.map(|(_, last)| last),
            port_name: name,
            icmp_type: range.filter(|_| is_icmp).map(|(first, _)| first),
            l7: rule.l7.as_deref().map(Said::of),
        }
    }
}

/// The protocol of a number that rules have.
const fn protocol(number: u8) -> &'static str {
    match number {
        6 => "TCP",
        17 => "UDP",
        132 => "SCTP",
        1 => "ICMP",
        _ => "ICMPv6",
    }
}

impl Said {
    fn of(l7: &L7) -> Self {
        let (dns, http) = match &l7.rules {
            L7Rules::None => (None, None),
            L7Rules::Dns(names) => (Some(Asked::all(names)), None),
            L7Rules::Http(rules) => (None, Some(rules.iter().map(Request::of).collect())),
        };
        let names = l7.server_names.iter().map(|name| name.text().to_owned());
        Self {
            dns,
            http,
            server_names: (!l7.server_names.is_empty()).then(|| names.collect()),
        }
    }
}

impl Asked {
    fn all(names: &NameList) -> Vec<Self> {
        let of = |(at, text): (u32, &str)| match names.types_of(at) {
            [] => Self::Whole(text.to_owned()),
            types => Self::Limited {
                name: text.to_owned(),
                types: types.iter().copied().map(record_type_word).collect(),
            },
        };
        (0..).zip(names.texts()).map(of).collect()
    }
}

impl Request {
    fn of(rule: &HttpRule) -> Self {
        let owned = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        let headers = rule.headers.iter();
        Self {
            method: owned(&rule.method),
            path: owned(&rule.path),
            host: owned(&rule.host),
            headers: headers.map(|header| header.name.to_string()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{Label, Labels, Source, load};

    /// The parts of the one item of `egress`.
    fn parts(item: &str) -> Value {
        let text = format!(
            "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: p, namespace: here}},
             spec: {{endpointSelector: {{}}, egress: [{item}]}}}}"
        );
        let path = "p.yaml".to_owned();
        let loaded = load(&[Source { path, text }]);
        assert!(!loaded.has_errors(), "{:?}", loaded.problems);
        let labels: Labels = [Label::new("k8s", "io.kubernetes.pod.namespace", "here")]
            .into_iter()
            .collect();
        let rules = loaded.set.rules_for(&labels);
        serde_json::to_value(&rules[0].parts).unwrap()
    }

    #[test]
    fn every_kind_of_peer_has_a_form() {
        let here = json!({"source": "k8s", "key": "io.kubernetes.pod.namespace",
            "operator": "In", "values": ["here"]});
        let app = json!({"source": null, "key": "app", "operator": "NotIn", "values": ["u", "v"]});
        #[rustfmt::skip]
        let rows = [
            ("{}", json!([])),
            ("{toEntities: [all]}", json!(null)),
            ("{toEndpoints: [{matchExpressions: [{key: app, operator: NotIn, values: [v, u]}]}]}",
                json!([{"labels": [app, here]}])),
            ("{toEntities: [host, world]}", json!([{"entity": "host"}, {"entity": "world"}])),
            ("{toCIDR: [10.0.0.0/8]}", json!([{"cidr": {"prefix": "10.0.0.0/8", "except": []}}])),
            ("{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}",
                json!([{"cidr": {"prefix": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}])),
            ("{toFQDNs: [{matchPattern: '*.x.io'}]}", json!([{"fqdn": "*.x.io"}])),
            ("{toServices: [{k8sService: {serviceName: db}}]}",
                json!([{"service": {"name": "db", "labels": null, "namespace": null}}])),
        ];
        for (item, expected) in rows {
            assert_eq!(parts(item)["peers"], expected, "{item}");
        }
    }

    #[test]
    fn every_kind_of_port_has_a_form() {
        let tcp = |port: u16, l7: Value| json!({"protocols": ["TCP"], "port": port, "end_port": port, "l7": l7});
        let request = json!({"method": null, "path": "/a", "host": null, "headers": ["x-key"]});
        #[rustfmt::skip]
        let rows = [
            ("[{ports: [{port: '80', endPort: 90, protocol: TCP}]}]",
                json!({"protocols": ["TCP"], "port": 80, "end_port": 90})),
            ("[{ports: [{port: '80'}]}]",
                json!({"protocols": ["TCP", "UDP", "SCTP"], "port": 80, "end_port": 80})),
            ("[{ports: [{port: '0', protocol: UDP}]}]", json!({"protocols": ["UDP"]})),
            ("[{ports: [{port: web, protocol: TCP}]}]", json!({"protocols": ["TCP"], "port_name": "web"})),
            ("[], icmps: [{fields: [{type: 8}]}]", json!({"protocols": ["ICMP"], "icmp_type": 8})),
            ("[], icmps: [{fields: [{family: IPv6, type: 128}]}]",
                json!({"protocols": ["ICMPv6"], "icmp_type": 128})),
            // No DNS over SCTP.
            ("[{ports: [{port: '53'}], rules: {dns: [{matchPattern: '*.x.io'}]}}]",
                json!({"protocols": ["TCP", "UDP"], "port": 53, "end_port": 53,
                    "l7": {"dns": ["*.x.io"], "http": null, "server_names": null}})),
            ("[{ports: [{port: '5353', protocol: UDP}], rules: {dns: [{matchName: a.io, types: [AAAA, A]}, {matchName: b.io}]}}]",
                json!({"protocols": ["UDP"], "port": 5353, "end_port": 5353,
                    "l7": {"dns": [{"name": "a.io", "types": ["A", "AAAA"]}, "b.io"], "http": null, "server_names": null}})),
            ("[{ports: [{port: '443', protocol: TCP}], serverNames: [api.x.io]}]",
                tcp(443, json!({"dns": null, "http": null, "server_names": ["api.x.io"]}))),
            ("[{ports: [{port: '80', protocol: TCP}], rules: {http: [{path: /a, headers: ['X-Key: secret']}]}}]",
                tcp(80, json!({"dns": null, "http": [request], "server_names": null}))),
        ];
        for (ports, expected) in rows {
            let mut whole = json!({"protocols": null, "port": null, "end_port": null,
                "port_name": null, "icmp_type": null, "l7": null});
            let fields = expected.as_object().unwrap().clone();
            whole.as_object_mut().unwrap().extend(fields);
            let item = format!("{{toEntities: [host], toPorts: {ports}}}");
            assert_eq!(parts(&item)["ports"], json!([whole]), "{item}");
        }
        for (item, expected) in [
            ("{toEntities: [host]}", Value::Null),
            ("{toEntities: [host], toPorts: [{}]}", json!([])),
        ] {
            assert_eq!(parts(item)["ports"], expected, "{item}");
        }
    }
}
