//! Flags, collected until they are terms.

use super::error::FilterError;
use super::pattern::{NamePattern, PodPattern};
use super::terms::{PeerTerms, Protocol, Terms};
use crate::drop_reason::DropReason;
use crate::flow::{Event, Flow};
use crate::reserved;
use crate::trace::TracePoint;
use crate::verdict::{Direction, Verdict};

/// The flags given so far, and the terms that they are.
#[derive(Clone, Default, Debug)]
pub(super) struct Flags {
    given: Vec<(&'static str, String)>,
    left: Terms,
    right: Terms,
}

impl Flags {
    pub(super) const fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    pub(super) fn matches(&self, flow: &Flow) -> bool {
        !self.is_empty() && (self.left.matches(flow) || self.right.matches(flow))
    }

    pub(super) fn add(&mut self, flag: &str, value: &str) -> Result<(), FilterError> {
        let Some(flag) = known(flag) else {
            let flag = flag.trim_start_matches('-').to_owned();
            return Err(FilterError::UnknownFlag { flag });
        };
        self.check_combination(flag, value)?;
        let mut added = self.clone();
        added.given.push((flag, value.to_owned()));
        added.check_namespaces(flag, value)?;
        added.put(flag, value)?;
        added.put_pods();
        *self = added;
        Ok(())
    }

    fn check_combination(&self, flag: &'static str, value: &str) -> Result<(), FilterError> {
        for group in APART.iter().filter(|group| group.contains(&flag)) {
            let earlier =
                |(given, _): &&(&'static str, String)| *given != flag && group.contains(given);
            if let Some((earlier, _)) = self.given.iter().find(earlier) {
                return Err(FilterError::Combined {
                    flag,
                    value: value.to_owned(),
                    earlier,
                });
            }
        }
        Ok(())
    }

    /// A pod that says its namespace must be in every namespace that a flag says for its side.
    fn check_namespaces(&self, flag: &'static str, value: &str) -> Result<(), FilterError> {
        for (namespaces, pods) in [
            ("namespace", ["pod", "from-pod", "to-pod"].as_slice()),
            ("from-namespace", &["pod", "from-pod"]),
            ("to-namespace", &["pod", "to-pod"]),
        ] {
            for pod in pods.iter().flat_map(|flag| self.values(flag)) {
                let own = pod.split_once('/').map_or("", |(namespace, _)| namespace);
                let other = self
                    .values(namespaces)
                    .find(|it| !own.is_empty() && *it != own);
                if let Some(other) = other {
                    let (namespace, pod) = (other.to_owned(), pod.to_owned());
                    let value = value.to_owned();
                    return Err(FilterError::NamespaceConflict {
                        flag,
                        value,
                        namespace,
                        pod,
                    });
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, flag: &'static str, value: &str) -> Result<(), FilterError> {
        let bad = |expected| FilterError::BadValue {
            flag,
            value: value.to_owned(),
            expected,
        };
        match flag {
            "verdict" => {
                let verdict = Verdict::from_name(value);
                self.both(verdict.ok_or_else(|| bad(VERDICTS))?, |terms| {
                    &mut terms.verdicts
                });
            }
            "type" => {
                self.both(event_type(value).ok_or_else(|| bad(TYPES))?, |terms| {
                    &mut terms.types
                });
            }
            "protocol" => {
                let protocol = Protocol::of(value);
                self.both(protocol.ok_or_else(|| bad(PROTOCOLS))?, |terms| {
                    &mut terms.protocols
                });
            }
            "traffic-direction" => {
                let direction = match value.to_ascii_lowercase().as_str() {
                    "ingress" => Direction::Ingress,
                    "egress" => Direction::Egress,
                    _ => return Err(bad("ingress or egress")),
                };
                self.both(direction, |terms| &mut terms.directions);
            }
            "drop-reason-desc" => {
                let reason = DropReason::from_name(value).ok_or_else(|| bad("a drop reason"))?;
                self.both(reason, |terms| &mut terms.drop_reasons);
            }
            "uuid" => {
                let uuid = value.parse().map_err(|_| bad("the uuid of a flow"))?;
                self.both(uuid, |terms| &mut terms.uuids);
            }
            "fqdn" | "from-fqdn" | "to-fqdn" => {
                let expected = "a name, with * for any part of it";
                let pattern = NamePattern::of(value).ok_or_else(|| bad(expected))?;
                self.peers(flag, |peer| peer.names.push(pattern.clone()));
            }
            "port" | "from-port" | "to-port" => {
                let port = value.parse().map_err(|_| bad("a port, 0 to 65535"))?;
                self.peers(flag, |peer| peer.ports.push(port));
            }
            "identity" | "from-identity" | "to-identity" => {
                let expected = "a number or the name of a reserved identity";
                let identity = identity(value).ok_or_else(|| bad(expected))?;
                self.peers(flag, |peer| peer.identities.push(identity));
            }
            _ => {} // pods and namespaces, which become terms together
        }
        Ok(())
    }

    fn both<T: Clone>(&mut self, value: T, list: impl Fn(&mut Terms) -> &mut Vec<T>) {
        list(&mut self.left).push(value.clone());
        list(&mut self.right).push(value);
    }

    /// The peers that a flag means: both sides' source, both sides' destination, or the left's source
    /// and the right's destination.
    fn peers(&mut self, flag: &str, mut put: impl FnMut(&mut PeerTerms)) {
        if flag.starts_with("from-") {
            put(&mut self.left.source);
            put(&mut self.right.source);
        } else if flag.starts_with("to-") {
            put(&mut self.left.destination);
            put(&mut self.right.destination);
        } else {
            put(&mut self.left.source);
            put(&mut self.right.destination);
        }
    }

    /// Makes the pods' terms anew from all flags of pods and namespaces.
    fn put_pods(&mut self) {
        let any = self.namespaces(["namespace", "all-namespaces"]);
        let from = self.namespaces(["from-namespace", "from-all-namespaces"]);
        let to = self.namespaces(["to-namespace", "to-all-namespaces"]);
        let either: Vec<_> = self.values("pod").map(str::to_owned).collect();
        let from_pods: Vec<_> = self.values("from-pod").map(str::to_owned).collect();
        let to_pods: Vec<_> = self.values("to-pod").map(str::to_owned).collect();
        let left_source = [either.as_slice(), &from_pods].concat();
        let right_destination = [either.as_slice(), &to_pods].concat();
        let (any_from, any_to) = (
            [from.as_slice(), &any].concat(),
            [to.as_slice(), &any].concat(),
        );
        self.left.source.pods = patterns(&left_source, &any_from);
        self.left.destination.pods = patterns(&to_pods, &to);
        self.right.source.pods = patterns(&from_pods, &from);
        self.right.destination.pods = patterns(&right_destination, &any_to);
    }

    /// The namespaces that these flags name: the first flag by value, the second is any.
    fn namespaces(&self, [named, all]: [&str; 2]) -> Vec<String> {
        let all = self.values(all).map(|_| String::new());
        self.values(named).map(str::to_owned).chain(all).collect()
    }

    fn values(&self, flag: &str) -> impl Iterator<Item = &str> {
        self.given
            .iter()
            .filter(move |(given, _)| *given == flag)
            .map(|(_, value)| value.as_str())
    }
}

/// The flag of this name, with or without dashes, short or long.
pub(super) fn known(flag: &str) -> Option<&'static str> {
    let name = match flag.trim_start_matches('-') {
        "n" => "namespace",
        "A" => "all-namespaces",
        "t" => "type",
        name => name,
    };
    NAMES.iter().find(|known| **known == name).copied()
}

/// Pods that don't say their namespace are meant in each of the namespaces; namespaces without a pod
/// are meant whole.
fn patterns(pods: &[String], namespaces: &[String]) -> Vec<PodPattern> {
    let whole = [String::new()];
    let pods = if pods.is_empty() && !namespaces.is_empty() {
        &whole
    } else {
        pods
    };
    let in_each = |pod: &String| match namespaces {
        [] => vec![PodPattern::of(pod)],
        _ if pod.contains('/') => vec![PodPattern::of(pod)],
        each => each
            .iter()
            .map(|namespace| PodPattern::new(namespace, pod))
            .collect(),
    };
    pods.iter().flat_map(in_each).collect()
}

/// `drop`, `drop:133`, `trace:to-stack`, `4:3`, by number or name.
fn event_type(text: &str) -> Option<(u32, Option<u32>)> {
    let (name, sub_name) = match text.split_once(':') {
        Some((name, sub_name)) => (name, Some(sub_name)),
        None => (text, None),
    };
    let number = match name {
        "drop" => Event::DROP_NUMBER,
        "debug" => 2,
        "capture" => 3,
        "trace" => Event::TRACE_NUMBER,
        "policy-verdict" => Event::POLICY_VERDICT_NUMBER,
        "recorder" => 6,
        "trace-sock" => 7,
        "l7" => Event::L7_NUMBER,
        "agent" => 130,
        name => name.parse::<u8>().ok()?.into(),
    };
    let Some(sub_name) = sub_name else {
        return Some((number, None));
    };
    if number == Event::TRACE_NUMBER
        && let Some(point) = TracePoint::from_name(sub_name)
    {
        return Some((number, Some(point.number().into())));
    }
    Some((number, Some(sub_name.parse::<u8>().ok()?.into())))
}

fn identity(text: &str) -> Option<u32> {
    reserved::number(text).or_else(|| text.parse().ok())
}

const NAMES: &[&str] = &[
    "pod",
    "from-pod",
    "to-pod",
    "namespace",
    "from-namespace",
    "to-namespace",
    "all-namespaces",
    "from-all-namespaces",
    "to-all-namespaces",
    "fqdn",
    "from-fqdn",
    "to-fqdn",
    "port",
    "from-port",
    "to-port",
    "identity",
    "from-identity",
    "to-identity",
    "verdict",
    "type",
    "protocol",
    "traffic-direction",
    "drop-reason-desc",
    "uuid",
];

/// Flags of one group are not given together.
const APART: &[&[&str]] = &[
    &[
        "from-fqdn",
        "fqdn",
        "from-namespace",
        "namespace",
        "from-all-namespaces",
        "all-namespaces",
    ],
    &["from-fqdn", "fqdn", "from-pod", "pod"],
    &[
        "to-fqdn",
        "fqdn",
        "to-namespace",
        "namespace",
        "to-all-namespaces",
        "all-namespaces",
    ],
    &["to-fqdn", "fqdn", "to-pod", "pod"],
    &["to-pod", "namespace", "all-namespaces"],
    &["from-pod", "namespace", "all-namespaces"],
    &["port", "to-port"],
    &["port", "from-port"],
    &["identity", "to-identity"],
    &["identity", "from-identity"],
];

const VERDICTS: &str =
    "FORWARDED, DROPPED, ERROR, AUDIT, REDIRECTED, TRACED, TRANSLATED or VERDICT_UNKNOWN";
const PROTOCOLS: &str = "tcp, udp, icmp, icmpv4, icmpv6, sctp, vrrp, igmp, dns, http or kafka";
const TYPES: &str = "l7, drop, policy-verdict, trace or another type, by name or number, and \
    perhaps a sub type after a colon";
