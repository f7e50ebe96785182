//! The messages of Hubble's protocol as its JSON has them: fields by name and type, in the order in which they
//! are declared, which is the order in which they are written.

use crate::drop_reason::DropReason;
use crate::filter::IpVersion;
use crate::foreign::{AUTH_TYPES, CAPTURE_POINTS, TUNNELS, XLATE_POINTS, name_of, number_of};
use crate::lost::LOST_SOURCES;
use crate::message::MessageKind;
use crate::trace::TraceReason;
use crate::verdict::{Direction, Verdict};

/// A message's fields.
pub(crate) type Fields = &'static [(&'static str, Type)];

/// The type of a field.
#[derive(Clone, Copy)]
pub(crate) enum Type {
    /// A text.
    Text,
    /// A number of 32 bits.
    Number,
    /// The same, which may be negative, and says more by being 0 than by not being there.
    SignedOrNone,
    /// A number of 64 bits: a text in JSON.
    Long,
    /// True, or not there.
    Flag,
    /// True, false, or not there.
    FlagOrNone,
    /// A point in time.
    Time,
    /// One of an enum's values.
    Enum(&'static Enum),
    /// A message.
    Message(Fields),
    /// A list of texts.
    Texts,
    /// A list of messages.
    Messages(Fields),
    /// A message that says itself what it is; only who knows that can write it.
    Any,
}

impl Type {
    /// The fields into which a path goes; none of a value, nor of a list.
    pub(crate) const fn fields(self) -> Fields {
        if let Self::Message(fields) = self {
            return fields;
        }
        &[]
    }
}

/// The values of an enum.
pub(crate) struct Enum {
    /// The name of a number.
    pub(crate) name: fn(u32) -> Option<String>,
    /// The number of a name.
    pub(crate) number: fn(&str) -> Option<u32>,
}

/// A line of an exporter's or a server's.
pub(crate) const LINE: Fields = &[
    ("flow", Type::Message(FLOW)),
    ("lost_events", Type::Message(LOST)),
    ("node_name", Type::Text),
    ("time", Type::Time),
];

/// A flow.
pub(crate) const FLOW: Fields = &[
    ("time", Type::Time),
    ("uuid", Type::Text),
    ("emitter", Type::Message(EMITTER)),
    ("verdict", Type::Enum(&VERDICTS)),
    ("drop_reason", Type::Number),
    ("auth_type", Type::Enum(&AUTHS)),
    ("ethernet", Type::Message(PAIR)),
    ("IP", Type::Message(IP)),
    ("l4", Type::Message(L4)),
    ("tunnel", Type::Message(TUNNEL)),
    ("source", Type::Message(ENDPOINT)),
    ("destination", Type::Message(ENDPOINT)),
    ("Type", Type::Enum(&LAYERS)),
    ("node_name", Type::Text),
    ("node_labels", Type::Texts),
    ("source_names", Type::Texts),
    ("destination_names", Type::Texts),
    ("l7", Type::Message(L7)),
    ("reply", Type::Flag),
    ("event_type", Type::Message(EVENT_TYPE)),
    ("source_service", Type::Message(SERVICE)),
    ("destination_service", Type::Message(SERVICE)),
    ("traffic_direction", Type::Enum(&DIRECTIONS)),
    ("policy_match_type", Type::Number),
    ("trace_observation_point", Type::Enum(&TRACE_POINTS)),
    ("trace_reason", Type::Enum(&TRACE_REASONS)),
    ("file", Type::Message(FILE)),
    ("ip_trace_id", Type::Message(IP_TRACE)),
    ("drop_reason_desc", Type::Enum(&DROP_REASONS)),
    ("is_reply", Type::FlagOrNone),
    ("debug_capture_point", Type::Enum(&CAPTURES)),
    ("interface", Type::Message(INTERFACE)),
    ("proxy_port", Type::Number),
    ("trace_context", Type::Message(TRACE)),
    ("sock_xlate_point", Type::Enum(&XLATES)),
    ("socket_cookie", Type::Long),
    ("cgroup_id", Type::Long),
    ("Summary", Type::Text),
    ("extensions", Type::Any),
    ("egress_allowed_by", Type::Messages(POLICY)),
    ("ingress_allowed_by", Type::Messages(POLICY)),
    ("egress_denied_by", Type::Messages(POLICY)),
    ("ingress_denied_by", Type::Messages(POLICY)),
    ("policy_log", Type::Texts),
    ("aggregate", Type::Message(AGGREGATE)),
];

const LOST: Fields = &[
    ("source", Type::Enum(&LOSSES)),
    ("num_events_lost", Type::Long),
    ("cpu", Type::SignedOrNone),
    ("first", Type::Time),
    ("last", Type::Time),
];

const EMITTER: Fields = &[("name", Type::Text), ("version", Type::Text)];
const PAIR: Fields = &[("source", Type::Text), ("destination", Type::Text)];
const IP: Fields = &[
    ("source", Type::Text),
    ("source_xlated", Type::Text),
    ("destination", Type::Text),
    ("ipVersion", Type::Enum(&IP_VERSIONS)),
    ("encrypted", Type::Flag),
];
const L4: Fields = &[
    ("TCP", Type::Message(TCP)),
    ("UDP", Type::Message(PORTS)),
    ("ICMPv4", Type::Message(ICMP)),
    ("ICMPv6", Type::Message(ICMP)),
    ("SCTP", Type::Message(PORTS)),
    ("VRRP", Type::Message(VRRP)),
    ("IGMP", Type::Message(IGMP)),
];
const PORTS: Fields = &[
    ("source_port", Type::Number),
    ("destination_port", Type::Number),
];
const TCP: Fields = &[
    ("source_port", Type::Number),
    ("destination_port", Type::Number),
    ("flags", Type::Message(TCP_FLAGS)),
];
const TCP_FLAGS: Fields = &[
    ("FIN", Type::Flag),
    ("SYN", Type::Flag),
    ("RST", Type::Flag),
    ("PSH", Type::Flag),
    ("ACK", Type::Flag),
    ("URG", Type::Flag),
    ("ECE", Type::Flag),
    ("CWR", Type::Flag),
    ("NS", Type::Flag),
];
const ICMP: Fields = &[("type", Type::Number), ("code", Type::Number)];
const VRRP: Fields = &[
    ("type", Type::Number),
    ("vrid", Type::Number),
    ("priority", Type::Number),
];
const IGMP: Fields = &[("type", Type::Number), ("group_address", Type::Text)];
const TUNNEL: Fields = &[
    ("protocol", Type::Enum(&TUNNEL_PROTOCOLS)),
    ("IP", Type::Message(IP)),
    ("l4", Type::Message(L4)),
    ("vni", Type::Number),
];
const ENDPOINT: Fields = &[
    ("ID", Type::Number),
    ("identity", Type::Number),
    ("cluster_name", Type::Text),
    ("namespace", Type::Text),
    ("labels", Type::Texts),
    ("pod_name", Type::Text),
    ("workloads", Type::Messages(WORKLOAD)),
];
const WORKLOAD: Fields = &[("name", Type::Text), ("kind", Type::Text)];
const L7: Fields = &[
    ("type", Type::Enum(&MESSAGE_KINDS)),
    ("latency_ns", Type::Long),
    ("dns", Type::Message(DNS)),
    ("http", Type::Message(HTTP)),
];
const DNS: Fields = &[
    ("query", Type::Text),
    ("ips", Type::Texts),
    ("ttl", Type::Number),
    ("cnames", Type::Texts),
    ("observation_source", Type::Text),
    ("rcode", Type::Number),
    ("qtypes", Type::Texts),
    ("rrtypes", Type::Texts),
];
const HTTP: Fields = &[
    ("code", Type::Number),
    ("method", Type::Text),
    ("url", Type::Text),
    ("protocol", Type::Text),
    ("headers", Type::Messages(HEADER)),
];
const HEADER: Fields = &[("key", Type::Text), ("value", Type::Text)];
const EVENT_TYPE: Fields = &[("type", Type::Number), ("sub_type", Type::Number)];
const SERVICE: Fields = &[("name", Type::Text), ("namespace", Type::Text)];
const FILE: Fields = &[("name", Type::Text), ("line", Type::Number)];
const IP_TRACE: Fields = &[("trace_id", Type::Long), ("ip_option_type", Type::Number)];
const INTERFACE: Fields = &[("index", Type::Number), ("name", Type::Text)];
const TRACE: Fields = &[("parent", Type::Message(TRACE_PARENT))];
const TRACE_PARENT: Fields = &[("trace_id", Type::Text)];
const POLICY: Fields = &[
    ("name", Type::Text),
    ("namespace", Type::Text),
    ("labels", Type::Texts),
    ("revision", Type::Long),
    ("kind", Type::Text),
];
const AGGREGATE: Fields = &[
    ("ingress_flow_count", Type::Number),
    ("egress_flow_count", Type::Number),
    ("unknown_direction_flow_count", Type::Number),
];

/// The enum of a type of ours whose numbers are those of its variants.
macro_rules! of_type {
    ($type:ty) => {
        Enum {
            name: |number| {
                let value = <$type>::from_number(usize::try_from(number).ok()?)?;
                Some(value.name().to_owned())
            },
            number: |name| <$type>::from_name(name).map(|value| value as u32),
        }
    };
}

/// The enum of a table of ours.
macro_rules! of_table {
    ($table:expr) => {
        Enum {
            name: |number| name_of($table, number).map(ToOwned::to_owned),
            number: |name| number_of($table, name),
        }
    };
}

static VERDICTS: Enum = of_type!(Verdict);
static DIRECTIONS: Enum = of_type!(Direction);
static MESSAGE_KINDS: Enum = of_type!(MessageKind);
static TRACE_REASONS: Enum = of_type!(TraceReason);
static LOSSES: Enum = of_table!(LOST_SOURCES);
static IP_VERSIONS: Enum = of_type!(IpVersion);
static AUTHS: Enum = of_table!(AUTH_TYPES);
static TUNNEL_PROTOCOLS: Enum = of_table!(TUNNELS);
static CAPTURES: Enum = of_table!(CAPTURE_POINTS);
static XLATES: Enum = of_table!(XLATE_POINTS);
static LAYERS: Enum = of_table!(&[(0, "UNKNOWN_TYPE"), (1, "L3_L4"), (2, "L7"), (3, "SOCK")]);
static TRACE_POINTS: Enum = of_table!(&[
    (0, "UNKNOWN_POINT"),
    (1, "TO_PROXY"),
    (2, "TO_HOST"),
    (3, "TO_STACK"),
    (4, "TO_OVERLAY"),
    (5, "FROM_ENDPOINT"),
    (6, "FROM_PROXY"),
    (7, "FROM_HOST"),
    (8, "FROM_STACK"),
    (9, "FROM_OVERLAY"),
    (10, "FROM_NETWORK"),
    (11, "TO_NETWORK"),
    (12, "FROM_CRYPTO"),
    (13, "TO_CRYPTO"),
    (101, "TO_ENDPOINT"),
]);
static DROP_REASONS: Enum = Enum {
    name: |number| {
        let reason = DropReason::from_number(u8::try_from(number).ok()?);
        reason.name().map(ToOwned::to_owned)
    },
    number: |name| DropReason::from_name(name).map(|reason| reason.number().into()),
};
