//! The filter flags of `hubble observe`, collected until they are flow filters.
//!
//! Flags of one kind are alternatives, different flags must all hold. Where a flag means either peer,
//! there are two filters: the left one asks the source, the right one the destination.

mod table;

pub use self::table::{FILTER_FLAGS, FilterFlag};
use super::error::FilterError;
use super::flow_filter::{EventType, FlowFilter, IpVersion, PeerFilter};
use super::terms::Terms;
use crate::drop_reason::DropReason;
use crate::endpoint::Workload;
use crate::flow::{Event, Interface};
use crate::http::HttpHeader;
use crate::packet::TcpFlags;
use crate::reserved;
use crate::trace::TracePoint;
use crate::verdict::{Direction, Verdict};

/// Flags, those after `--not` apart.
#[derive(Clone, Default, Debug)]
pub struct FilterFlags {
    allow: Flags,
    deny: Flags,
}

/// One list of flags, and the filters that they are.
#[derive(Clone, Default, Debug)]
struct Flags {
    given: Vec<(&'static str, String)>,
    left: FlowFilter,
    right: FlowFilter,
    whole: Vec<FlowFilter>,
}

impl FilterFlags {
    /// Adds a flag, with or without its dashes: `flags.allow("--pod", "shop/cart")`. A flag without a
    /// value takes "".
    ///
    /// # Errors
    ///
    /// A flag that is not known, a value that it can't have, or a flag that goes not with an earlier
    /// one. The flags are then as they were.
    pub fn allow(&mut self, flag: &str, value: &str) -> Result<(), FilterError> {
        self.allow.add(flag, value)
    }

    /// Adds a flag that came after `--not`: flows for which all such flags hold are not shown.
    ///
    /// # Errors
    ///
    /// As for [`FilterFlags::allow`].
    pub fn deny(&mut self, flag: &str, value: &str) -> Result<(), FilterError> {
        self.deny.add(flag, value)
    }

    /// Adds whole filters to those that allow: `--allowlist`.
    ///
    /// # Errors
    ///
    /// See [`FlowFilter::all_from_json`].
    pub fn allow_json(&mut self, text: &str) -> Result<(), FilterError> {
        self.allow.whole.extend(FlowFilter::all_from_json(text)?);
        Ok(())
    }

    /// Adds whole filters to those that deny: `--denylist`.
    ///
    /// # Errors
    ///
    /// See [`FlowFilter::all_from_json`].
    pub fn deny_json(&mut self, text: &str) -> Result<(), FilterError> {
        self.deny.whole.extend(FlowFilter::all_from_json(text)?);
        Ok(())
    }

    /// The filters that allow, and those that deny.
    #[must_use]
    pub fn filters(&self) -> (Vec<FlowFilter>, Vec<FlowFilter>) {
        (self.allow.filters(), self.deny.filters())
    }

    /// Whether a flag of this name is one of a filter's.
    #[must_use]
    pub fn knows(flag: &str) -> bool {
        known(flag).is_some()
    }
}

impl Flags {
    fn filters(&self) -> Vec<FlowFilter> {
        let mut filters = Vec::new();
        if !self.given.is_empty() {
            filters.push(self.left.clone());
        }
        if self.left != self.right {
            filters.push(self.right.clone());
        }
        filters.extend(self.whole.iter().cloned());
        filters
    }

    fn add(&mut self, flag: &str, value: &str) -> Result<(), FilterError> {
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
        added.check_values(flag, value)?;
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

    /// What only the reader of the filter finds is told as the flag's that was added.
    fn check_values(&self, flag: &'static str, value: &str) -> Result<(), FilterError> {
        for filter in [&self.left, &self.right] {
            match Terms::of(filter) {
                Err(FilterError::BadField { problem, .. }) => {
                    return Err(bad(flag, value, problem));
                }
                terms => terms.map(drop)?,
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_lines, reason = "one line for each flag")]
    fn put(&mut self, flag: &'static str, value: &str) -> Result<(), FilterError> {
        let need = |expected: &str| bad(flag, value, format!("expected {expected}"));
        let own = value.to_owned();
        match flag {
            "verdict" => {
                let verdict = Verdict::from_name(value).ok_or_else(|| need(VERDICTS))?;
                self.both(|it| it.verdict.push(verdict));
            }
            "type" => {
                let kind = event_type(value).ok_or_else(|| need(TYPES))?;
                self.both(|it| it.event_type.push(kind));
            }
            "traffic-direction" => {
                let direction = match value.to_ascii_lowercase().as_str() {
                    "ingress" => Direction::Ingress,
                    "egress" => Direction::Egress,
                    _ => return Err(need("ingress or egress")),
                };
                self.both(|it| it.traffic_direction.push(direction));
            }
            "drop-reason-desc" => {
                let reason = DropReason::from_name(value).ok_or_else(|| need("a drop reason"))?;
                self.both(|it| it.drop_reason_desc.push(reason));
            }
            "tcp-flags" => {
                let flags = tcp_flags(value).ok_or_else(|| need(TCP_FLAGS))?;
                self.both(|it| it.tcp_flags.push(flags));
            }
            "ipv4" => self.both(|it| it.ip_version.push(IpVersion::V4)),
            "ipv6" => self.both(|it| it.ip_version.push(IpVersion::V6)),
            "ip-version" => {
                let version = match value.to_ascii_lowercase().as_str() {
                    "none" => IpVersion::None,
                    "v4" | "ipv4" | "4" => IpVersion::V4,
                    "v6" | "ipv6" | "6" => IpVersion::V6,
                    _ => return Err(need("none, v4 or v6")),
                };
                self.both(|it| it.ip_version.push(version));
            }
            "http-header" => {
                let (key, value) = value.split_once(':').ok_or_else(|| need("name:value"))?;
                let header = HttpHeader {
                    key: key.into(),
                    value: value.into(),
                };
                self.both(|it| it.http_header.push(header.clone()));
            }
            "uuid" => {
                let is_one = value.parse::<crate::Uuid>().is_ok();
                is_one
                    .then_some(())
                    .ok_or_else(|| need("the uuid of a flow"))?;
                self.both(|it| it.uuid.push(own.clone()));
            }
            "ip-trace-id" => {
                let id = value.parse().ok().filter(|id| *id != 0);
                let id = id.ok_or_else(|| need("a number greater than 0"))?;
                self.both(|it| it.ip_trace_id.push(id));
            }
            "interface" => {
                let name = value.into();
                let interface = Interface { index: 0, name };
                self.both(|it| it.interface.push(interface.clone()));
            }
            "encrypted" => self.both(|it| it.encrypted.push(true)),
            "unencrypted" => self.both(|it| it.encrypted.push(false)),
            "protocol" => self.both(|it| it.protocol.push(own.clone())),
            "http-status" => self.both(|it| it.http_status_code.push(own.clone())),
            "http-method" => self.both(|it| it.http_method.push(own.clone())),
            "http-path" => self.both(|it| it.http_path.push(own.clone())),
            "http-url" => self.both(|it| it.http_url.push(own.clone())),
            "trace-id" => self.both(|it| it.trace_id.push(own.clone())),
            "node-name" => self.both(|it| it.node_name.push(own.clone())),
            "node-label" => self.both(|it| it.node_labels.push(own.clone())),
            "snat-ip" => self.both(|it| it.source_ip_xlated.push(own.clone())),
            "cel-expression" => self.both(|it| it.cel_expression.push(own.clone())),
            flag => self.put_peers(flag, value)?,
        }
        Ok(())
    }

    /// Flags that mean a peer.
    fn put_peers(&mut self, flag: &'static str, value: &str) -> Result<(), FilterError> {
        let name = ["from-", "to-"]
            .into_iter()
            .find_map(|side| flag.strip_prefix(side))
            .unwrap_or(flag);
        let own = value.to_owned();
        match name {
            "ip" => self.peers(flag, |peer| peer.ip.push(own.clone())),
            "fqdn" => self.peers(flag, |peer| peer.fqdn.push(own.clone())),
            "label" => self.peers(flag, |peer| peer.label.push(own.clone())),
            "service" => self.peers(flag, |peer| peer.service.push(own.clone())),
            "port" => self.peers(flag, |peer| peer.port.push(own.clone())),
            "cluster" => self.peers(flag, |peer| peer.cluster_name.push(own.clone())),
            "workload" => {
                let (kind, name) = value.split_once('/').unwrap_or(("", value));
                let (kind, name) = (kind.into(), name.into());
                let workload = Workload { name, kind };
                self.peers(flag, |peer| peer.workload.push(workload.clone()));
            }
            "identity" => {
                let identity = reserved::number(value).or_else(|| value.parse().ok());
                let expected = "expected a number or the name of a reserved identity";
                let identity = identity.ok_or_else(|| bad(flag, value, expected.to_owned()))?;
                self.peers(flag, |peer| peer.identity.push(identity));
            }
            _ => {} // pods and namespaces, which become filters together
        }
        Ok(())
    }

    fn both(&mut self, put: impl Fn(&mut FlowFilter)) {
        put(&mut self.left);
        put(&mut self.right);
    }

    /// The peers that a flag means: both sides' source, both sides' destination, or the left's source
    /// and the right's destination.
    fn peers(&mut self, flag: &str, put: impl Fn(&mut PeerFilter)) {
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

    /// Makes the pods' fields anew from all flags of pods and namespaces.
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
        self.left.source.pod = pods(&left_source, &any_from);
        self.left.destination.pod = pods(&to_pods, &to);
        self.right.source.pod = pods(&from_pods, &from);
        self.right.destination.pod = pods(&right_destination, &any_to);
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

fn bad(flag: &'static str, value: &str, problem: String) -> FilterError {
    FilterError::BadValue {
        flag,
        value: value.to_owned(),
        problem,
    }
}

/// The flag of this name, with or without dashes, short or long.
fn known(flag: &str) -> Option<&'static str> {
    let name = flag.trim_start_matches('-');
    let mut letters = name.chars();
    let short = letters.next().filter(|_| letters.next().is_none());
    FILTER_FLAGS
        .iter()
        .find(|known| known.name == name || (short.is_some() && known.short == short))
        .map(|known| known.name)
}

/// Pods that don't say their namespace are meant in each of the namespaces; namespaces without a pod
/// are meant whole.
fn pods(pods: &[String], namespaces: &[String]) -> Vec<String> {
    let whole = [String::new()];
    let pods = if pods.is_empty() && !namespaces.is_empty() {
        &whole
    } else {
        pods
    };
    let in_each = |pod: &String| match namespaces {
        [] => vec![pod.clone()],
        _ if pod.contains('/') => vec![pod.clone()],
        each => each
            .iter()
            .map(|namespace| format!("{namespace}/{pod}"))
            .collect(),
    };
    pods.iter().flat_map(in_each).collect()
}

/// `drop`, `drop:133`, `trace:to-stack`, `4:3`, by number or name.
fn event_type(text: &str) -> Option<EventType> {
    let (name, sub_name) = match text.split_once(':') {
        Some((name, sub_name)) => (name, Some(sub_name)),
        None => (text, None),
    };
    let number = match name {
        "drop" => Event::DROP_NUMBER,
        "debug" => 2,
        "capture" => Event::CAPTURE_NUMBER,
        "trace" => Event::TRACE_NUMBER,
        "policy-verdict" => Event::POLICY_VERDICT_NUMBER,
        "recorder" => 6,
        "trace-sock" => Event::SOCK_NUMBER,
        "l7" => Event::L7_NUMBER,
        "agent" => 130,
        name => name.parse::<u8>().ok()?.into(),
    };
    let sub_number = |sub_name: &str| {
        let point = TracePoint::from_name(sub_name).filter(|_| number == Event::TRACE_NUMBER);
        match point {
            Some(point) => Some(point.number().into()),
            None => sub_name.parse::<u8>().ok().map(u32::from),
        }
    };
    let sub_number = match sub_name {
        Some(sub_name) => Some(sub_number(sub_name)?),
        None => None,
    };
    Some(EventType { number, sub_number })
}

/// `SYN,ACK`; case is ignored.
fn tcp_flags(text: &str) -> Option<TcpFlags> {
    text.split(',')
        .try_fold(TcpFlags::default(), |flags, name| {
            let named = |(_, known): &(TcpFlags, &str)| known.eq_ignore_ascii_case(name);
            let (flag, _) = TcpFlags::JSON_ORDER.into_iter().find(named)?;
            Some(flags.and(flag))
        })
}

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
    &["ip", "from-ip"],
    &["ip", "to-ip"],
    &["label", "from-label"],
    &["label", "to-label"],
    &["service", "from-service"],
    &["service", "to-service"],
    &["workload", "from-workload"],
    &["workload", "to-workload"],
    &["cluster", "from-cluster"],
    &["cluster", "to-cluster"],
    &["port", "to-port"],
    &["port", "from-port"],
    &["identity", "to-identity"],
    &["identity", "from-identity"],
];

const VERDICTS: &str =
    "FORWARDED, DROPPED, ERROR, AUDIT, REDIRECTED, TRACED, TRANSLATED or VERDICT_UNKNOWN";
const TCP_FLAGS: &str = "FIN, SYN, RST, PSH, ACK, URG, ECE, CWR or NS, several with commas between";
const TYPES: &str = "l7, drop, policy-verdict, trace or another type, by name or number, and \
    perhaps a sub type after a colon";
