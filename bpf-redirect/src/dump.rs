//! The entries of the maps in words.
//!
//! [`SHAPES`] is the one place that knows how key and value of each map are read; a map of another
//! version has no shape.

mod cgroup;
mod service;

use std::fmt;
use std::net::IpAddr;

use aya::maps::{Map, MapError};
use bpf_redirect_common as common;
use bpf_redirect_common::{
    Address, Aggregation, AskerKey, AskerValue, CgroupEndpoint, Config, Counter, CtKey, CtValue,
    Drop, EGRESS, EndpointAddress, EndpointIf, EndpointLink, EventBudget, FirstFragment,
    FragmentKey, Listeners, NextHop, PolicyKey, PolicyValue, SocketServer, UpstreamKey, Verdict,
};
use zerocopy::FromBytes;

use crate::pinned;

/// One thing that an entry says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// Whatever there is: a policy entry that doesn't look at it.
    Any,
    /// A number, in host byte order.
    Number(u64),
    /// A word.
    Word(&'static str),
    /// An address.
    Address(IpAddr),
    /// Addresses.
    Addresses(Vec<IpAddr>),
    /// A prefix.
    Prefix(IpAddr, u8),
    /// Numbers from the first to the last.
    Range(u16, u16),
    /// An Ethernet address.
    Mac([u8; 6]),
}

/// An entry: what it says, each under its name.
pub type Row = Vec<(&'static str, Field)>;

/// The name of the field that holds an endpoint's number.
pub const ENDPOINT: &str = "endpoint";

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Word(word) => f.write_str(word),
            Self::Address(ip) => write!(f, "{ip}"),
            Self::Addresses(all) => {
                let texts: Vec<String> = all.iter().map(IpAddr::to_string).collect();
                f.write_str(&texts.join(" "))
            }
            Self::Prefix(ip, len) => write!(f, "{ip}/{len}"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::Mac([a, b, c, d, e, g]) => {
                write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
            }
        }
    }
}

/// A key and its value, as the kernel has them.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

type ReadPairs = fn(Map, Option<u32>) -> Result<Vec<Pair>, MapError>;
type Count = fn(Map) -> Result<usize, MapError>;
type Readers = (Option<ReadPairs>, Option<Count>);

/// How the entries of a map are read.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// Its pairs, of one endpoint alone where the map has a part for each; `None` for a ring.
    pub(crate) pairs: Option<ReadPairs>,
    /// How many entries it has; `None` where that says nothing.
    pub(crate) count: Option<Count>,
    pub(crate) key: fn(&[u8]) -> Option<Row>,
    /// `now` is in nanoseconds since boot.
    pub(crate) value: fn(&[u8], now: u64) -> Option<Row>,
}

/// A hash map of keys and values of these types.
macro_rules! hash {
    ($key:ty => $value:ty) => {
        (
            Some(pinned::hash::<{ size_of::<$key>() }, { size_of::<$value>() }>),
            Some(pinned::count::<{ size_of::<$key>() }, { size_of::<$value>() }>),
        )
    };
}

impl Shape {
    const fn new(
        name: &'static str,
        (pairs, count): Readers,
        key: fn(&[u8]) -> Option<Row>,
        value: fn(&[u8], u64) -> Option<Row>,
    ) -> Self {
        Self {
            name,
            pairs,
            count,
            key,
            value,
        }
    }

    /// An entry in words; one without a value has its key alone.
    pub(crate) fn row(&self, (key, value): (&[u8], &[u8]), now: u64) -> Option<Row> {
        let mut row = (self.key)(key)?;
        if !value.is_empty() {
            row.extend((self.value)(value, now)?);
        }
        Some(row)
    }
}

/// Every map of this version.
pub(crate) const SHAPES: [Shape; 24] = [
    Shape::new(
        common::CONFIG,
        (Some(pinned::single::<{ size_of::<Config>() }>), None),
        nothing,
        config,
    ),
    Shape::new(
        common::EP_IF,
        hash!(u32 => EndpointIf),
        |key| number("interface", key),
        endpoint_if,
    ),
    Shape::new(
        common::EP_ID,
        hash!(u32 => EndpointLink),
        |key| number(ENDPOINT, key),
        endpoint_link,
    ),
    Shape::new(
        common::NEXT_HOP,
        hash!(EndpointAddress => NextHop),
        endpoint_address,
        next_hop,
    ),
    Shape::new(
        common::UP_UDP,
        hash!(UpstreamKey => u32),
        upstream,
        |_, _| Some(Row::new()),
    ),
    Shape::new(
        common::UP_TCP,
        hash!(UpstreamKey => u32),
        upstream,
        |_, _| Some(Row::new()),
    ),
    Shape::new(
        common::UP_FRAGMENT,
        hash!(FragmentKey => u64),
        fragment,
        |value, now| Some(vec![("age_secs", secs_since(read(value)?, now))]),
    ),
    Shape::new(
        common::FRAGMENT,
        hash!(FragmentKey => FirstFragment),
        fragment,
        first_fragment,
    ),
    Shape::new(
        common::NEIGHBOUR,
        hash!(EndpointAddress => u32),
        endpoint_address,
        |_, _| Some(Row::new()),
    ),
    Shape::new(common::CT, hash!(CtKey => CtValue), flow, flow_state),
    Shape::new(
        common::CT_USE,
        hash!(u32 => u64),
        |key| number(ENDPOINT, key),
        |value, _| wide("flows", value),
    ),
    Shape::new(
        common::LEARNED,
        hash!(EndpointAddress => u32),
        endpoint_address,
        identity,
    ),
    Shape::new(
        common::IPCACHE,
        (Some(pinned::prefixes), Some(pinned::count_prefixes)),
        prefix,
        identity,
    ),
    Shape::new(
        common::POLICY,
        (Some(pinned::policies), Some(pinned::count_policies)),
        policy_key,
        policy_value,
    ),
    Shape::new(
        common::SERVICES,
        hash!(common::ServiceKey => common::ServiceValue),
        service::key,
        service::value,
    ),
    Shape::new(
        common::DNS_PORTS,
        (Some(pinned::dns_ports), None),
        |key| number("port", key),
        |_, _| None,
    ),
    Shape::new(common::EVENTS, (None, None), nothing, |_, _| None),
    Shape::new(
        common::EVENT_BUDGET,
        hash!(u32 => EventBudget),
        |key| number(ENDPOINT, key),
        budget,
    ),
    Shape::new(
        common::COUNTERS_MAP,
        (Some(pinned::counters), None),
        counter,
        |value, _| wide("count", value),
    ),
    Shape::new(
        common::CG_ENDPOINT,
        (Some(pinned::storage), None),
        |key| wide("cgroup", key),
        cgroup::cgroup_endpoint,
    ),
    Shape::new(
        common::CG_ID,
        hash!(u64 => CgroupEndpoint),
        |key| wide("cgroup", key),
        cgroup::cgroup_endpoint,
    ),
    Shape::new(
        common::CG_LISTEN,
        (Some(pinned::single::<{ size_of::<Listeners>() }>), None),
        nothing,
        cgroup::listeners,
    ),
    Shape::new(
        common::CG_SOCKET,
        hash!(u64 => SocketServer),
        |key| wide("cookie", key),
        cgroup::socket_server,
    ),
    Shape::new(
        common::CG_ASKER,
        hash!(AskerKey => AskerValue),
        cgroup::asker,
        cgroup::asked,
    ),
];

/// The shape of the map with this name, in capitals or small letters.
pub(crate) fn shape_of(name: &str) -> Option<&'static Shape> {
    const ALL: &[Shape] = &SHAPES;
    ALL.iter()
        .find(|shape| shape.name.eq_ignore_ascii_case(name))
}

fn read<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_bytes(bytes).ok()
}

fn nothing(_: &[u8]) -> Option<Row> {
    Some(Row::new())
}

fn number(name: &'static str, bytes: &[u8]) -> Option<Row> {
    let number: u32 = read(bytes)?;
    Some(vec![(name, Field::Number(number.into()))])
}

fn wide(name: &'static str, bytes: &[u8]) -> Option<Row> {
    Some(vec![(name, Field::Number(read(bytes)?))])
}

fn identity(bytes: &[u8], _: u64) -> Option<Row> {
    number("identity", bytes)
}

fn config(bytes: &[u8], _: u64) -> Option<Row> {
    let Config {
        layout,
        side_link_ifindex,
        inject_mark,
        client_mark,
        aggregation,
        trace_ticks: _,
    } = read(bytes)?;
    let of = |number: u32| Field::Number(number.into());
    Some(vec![
        ("layout", of(layout)),
        ("side_link_interface", of(side_link_ifindex)),
        ("inject_mark", of(inject_mark)),
        ("client_mark", of(client_mark)),
        ("monitor_aggregation", aggregation_word(aggregation)),
    ])
}

fn endpoint_if(bytes: &[u8], _: u64) -> Option<Row> {
    let EndpointIf {
        addresses,
        endpoint,
        workload_mac,
        attaching,
        reserved: _,
    } = read(bytes)?;
    let used = addresses.into_iter().filter(|one| *one != Address::NONE);
    let addresses = Field::Addresses(used.map(IpAddr::from).collect());
    let mut row = vec![
        (ENDPOINT, Field::Number(endpoint.into())),
        ("workload_mac", Field::Mac(workload_mac)),
        ("addresses", addresses),
    ];
    if attaching != 0 {
        row.push(("attaching", Field::Number(attaching.into())));
    }
    Some(row)
}

fn endpoint_link(bytes: &[u8], _: u64) -> Option<Row> {
    let EndpointLink {
        ifindex,
        workload_mac,
        host_mac,
    } = read(bytes)?;
    Some(vec![
        ("interface", Field::Number(ifindex.into())),
        ("workload_mac", Field::Mac(workload_mac)),
        ("host_mac", Field::Mac(host_mac)),
    ])
}

fn endpoint_address(bytes: &[u8]) -> Option<Row> {
    let EndpointAddress { endpoint, address } = read(bytes)?;
    // `::` is the last unicast next hop: it serves every address.
    let address = if address == Address::NONE {
        Field::Any
    } else {
        Field::Address(address.into())
    };
    Some(vec![
        (ENDPOINT, Field::Number(endpoint.into())),
        ("address", address),
    ])
}

fn next_hop(bytes: &[u8], _: u64) -> Option<Row> {
    let NextHop { mac, reserved: _ } = read(bytes)?;
    Some(vec![("mac", Field::Mac(mac))])
}

fn upstream(bytes: &[u8]) -> Option<Row> {
    let UpstreamKey {
        endpoint,
        server_port,
        local_port,
        server,
    } = read(bytes)?;
    Some(vec![
        (ENDPOINT, Field::Number(endpoint.into())),
        ("server", Field::Address(server.into())),
        ("server_port", port(server_port)),
        ("proxy_port", port(local_port)),
    ])
}

fn fragment(bytes: &[u8]) -> Option<Row> {
    let FragmentKey {
        endpoint,
        id,
        source,
        destination,
        protocol,
    } = read(bytes)?;
    let protocol = match u8::try_from(protocol).ok()? {
        0 => Field::Any,
        number => protocol_word(number),
    };
    Some(vec![
        (ENDPOINT, Field::Number(endpoint.into())),
        ("source", Field::Address(source.into())),
        ("destination", Field::Address(destination.into())),
        ("protocol", protocol),
        ("id", Field::Number(id.into())),
    ])
}

fn first_fragment(bytes: &[u8], now: u64) -> Option<Row> {
    let FirstFragment { at, identity, .. } = read(bytes)?;
    Some(vec![
        ("identity", Field::Number(identity.into())),
        ("age_secs", secs_since(at, now)),
    ])
}

fn flow(bytes: &[u8]) -> Option<Row> {
    let CtKey {
        endpoint,
        local_port,
        peer_port,
        local,
        peer,
        protocol,
        asker: _,
        reserved: _,
    } = read(bytes)?;
    Some(vec![
        (ENDPOINT, Field::Number(endpoint.into())),
        ("protocol", protocol_word(protocol)),
        ("local", Field::Address(local.into())),
        ("local_port", port(local_port)),
        ("peer", Field::Address(peer.into())),
        ("peer_port", port(peer_port)),
    ])
}

fn flow_state(bytes: &[u8], now: u64) -> Option<Row> {
    let value: CtValue = read(bytes)?;
    let CtValue {
        identity,
        rule,
        last_seen: _,
        ticks: _,
        verdict,
        state,
        direction,
        flags: _,
    } = value;
    let idle_secs = value.silent_ns(now) / 1_000_000_000;
    Some(vec![
        ("direction", direction_word(direction)),
        ("identity", Field::Number(identity.into())),
        ("verdict", verdict_word(verdict)),
        ("rule", Field::Number(rule.into())),
        ("state", state_word(state)),
        ("idle_secs", Field::Number(idle_secs)),
    ])
}

fn prefix(bytes: &[u8]) -> Option<Row> {
    let (bits, octets) = bytes.split_first_chunk()?;
    let bits = u8::try_from(u32::from_ne_bytes(*bits)).ok()?;
    let ip = IpAddr::from(Address::from_octets(read(octets)?));
    // An IPv4 address lies in `::ffff:0:0/96`; what is shorter than that is no prefix of IPv4.
    let prefix = match (ip, bits.checked_sub(96)) {
        (IpAddr::V4(_), Some(len)) => Field::Prefix(ip, len),
        (IpAddr::V4(v4), None) => Field::Prefix(v4.to_ipv6_mapped().into(), bits),
        (IpAddr::V6(_), _) => Field::Prefix(ip, bits),
    };
    Some(vec![("prefix", prefix)])
}

/// The endpoint, then its map's key. What tells the lengths of ports that there are is no entry.
fn policy_key(bytes: &[u8]) -> Option<Row> {
    let (endpoint, key) = bytes.split_first_chunk()?;
    let endpoint = Field::Number(u32::from_ne_bytes(*endpoint).into());
    let mut row = vec![(ENDPOINT, endpoint)];
    if key.is_empty() {
        return Some(row);
    }
    let key: PolicyKey = read(key)?;
    if key.is_lengths() {
        return None;
    }
    let any_or = |is_any: bool, field: Field| if is_any { Field::Any } else { field };
    let identity = Field::Number(key.identity.into());
    row.extend([
        ("direction", direction_word(key.direction())),
        ("identity", any_or(key.identity == 0, identity)),
        (
            "protocol",
            any_or(key.protocol == 0, protocol_word(key.protocol)),
        ),
        ("port", ports(u16::from_be(key.port), key.port_bits())),
    ]);
    Some(row)
}

/// The ports, or types of ICMP, that share their first bits.
fn ports(first: u16, bits: u8) -> Field {
    match bits {
        0 => Field::Any,
        1..16 => Field::Range(first, first | u16::MAX >> bits),
        _ => Field::Number(first.into()),
    }
}

fn policy_value(bytes: &[u8], _: u64) -> Option<Row> {
    let PolicyValue {
        rule,
        verdict,
        proxy: _,
        reserved: _,
    } = read(bytes)?;
    Some(vec![
        ("verdict", verdict_word(verdict)),
        ("rule", Field::Number(rule.into())),
    ])
}

fn budget(bytes: &[u8], now: u64) -> Option<Row> {
    let EventBudget { since, told } = read(bytes)?;
    Some(vec![
        ("told", Field::Number(told)),
        ("age_secs", secs_since(since, now)),
    ])
}

fn counter(bytes: &[u8]) -> Option<Row> {
    let slot: u32 = read(bytes)?;
    let drop = Drop::ALL.iter().find(|(reason, _)| *reason as u32 == slot);
    let other = Counter::ALL
        .iter()
        .find(|(counter, _)| *counter as u32 == slot);
    let (word, kind) = drop
        .map(|(_, word)| (*word, "drop"))
        .or_else(|| other.map(|(_, word)| (*word, "count")))?;
    Some(vec![
        ("name", Field::Word(word)),
        ("kind", Field::Word(kind)),
    ])
}

/// From network byte order.
fn port(port: u16) -> Field {
    Field::Number(u16::from_be(port).into())
}

fn secs_since(then: u64, now: u64) -> Field {
    const SECOND_NS: u64 = 1_000_000_000;
    Field::Number(now.saturating_sub(then) / SECOND_NS)
}

fn direction_word(direction: u8) -> Field {
    let is_out = direction == EGRESS;
    Field::Word(if is_out { "egress" } else { "ingress" })
}

/// A protocol without a word keeps its number.
fn protocol_word(protocol: u8) -> Field {
    Field::Word(match protocol {
        1 => "ICMP",
        6 => "TCP",
        17 => "UDP",
        58 => "ICMPv6",
        132 => "SCTP",
        number => return Field::Number(number.into()),
    })
}

fn verdict_word(number: u8) -> Field {
    Field::Word(match Verdict::from_number(number) {
        Verdict::Unmatched => "unmatched",
        Verdict::AuditUnmatched => "audit-unmatched",
        Verdict::Allow => "allow",
        Verdict::AuditDeny => "audit-deny",
        Verdict::Refuse => "refuse",
        Verdict::Redirect => "redirect",
        Verdict::FailAuthentication => "fail-authentication",
        Verdict::Deny => "deny",
    })
}

fn aggregation_word(number: u32) -> Field {
    let all = [
        (Aggregation::Off, "off"),
        (Aggregation::Maximum, "maximum"),
        (Aggregation::Medium, "medium"),
        (Aggregation::Low, "low"),
        (Aggregation::None, "none"),
    ];
    let word = all.into_iter().find(|(one, _)| *one as u32 == number);
    Field::Word(word.map_or("unknown", |(_, word)| word))
}

fn state_word(state: u8) -> Field {
    Field::Word(if state & CtValue::CLOSED == CtValue::CLOSED {
        "closed"
    } else if state & CtValue::CLOSED != 0 {
        "closing"
    } else if state & CtValue::ANSWERED != 0 {
        "answered"
    } else {
        "unanswered"
    })
}

#[cfg(test)]
mod tests {
    use bpf_redirect_common::INGRESS;
    use zerocopy::IntoBytes;

    use super::*;

    /// An entry in one line, `name=field`.
    fn shown(map: &str, key: &[u8], value: &[u8]) -> String {
        let shape = shape_of(map).unwrap();
        let row = shape.row((key, value), 90_000_000_000).unwrap();
        let fields: Vec<String> = row
            .iter()
            .map(|(name, field)| format!("{name}={field}"))
            .collect();
        fields.join(" ")
    }

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    /// The key of a policy entry with the endpoint before it.
    fn policy_key_of(endpoint: u32, key: PolicyKey) -> Vec<u8> {
        [endpoint.as_bytes(), key.as_bytes()].concat()
    }

    #[test]
    fn a_flow_is_told_with_ports_in_host_order_and_words() {
        let key = CtKey {
            endpoint: 3,
            local_port: 40_000u16.to_be(),
            peer_port: 443u16.to_be(),
            local: address("10.0.0.2"),
            peer: address("2001:db8::1"),
            protocol: 6,
            asker: 0,
            reserved: 0,
        };
        let value = CtValue {
            last_seen: CtValue::seen_at(59_900_000_000),
            identity: 16_777_217,
            rule: 4,
            verdict: Verdict::Allow as u8,
            state: CtValue::ANSWERED,
            direction: EGRESS,
            flags: 0,
            ticks: [0; 2],
        };
        assert_eq!(
            shown(common::CT, key.as_bytes(), value.as_bytes()),
            "endpoint=3 protocol=TCP local=10.0.0.2 local_port=40000 peer=2001:db8::1 \
             peer_port=443 direction=egress identity=16777217 verdict=allow rule=4 state=answered idle_secs=30"
        );
    }

    #[test]
    fn what_a_policy_entry_does_not_look_at_is_any() {
        let value = |verdict| PolicyValue::new(2, verdict);
        let key = |identity, ports, protocol, direction| {
            PolicyKey::new(direction, identity, protocol, ports)
        };
        for (key, verdict, expected) in [
            (
                key(0, (0, 0), 0, INGRESS),
                Verdict::Unmatched,
                "direction=ingress identity=any protocol=any port=any verdict=unmatched rule=2",
            ),
            (
                key(9, (53, 16), 17, EGRESS),
                Verdict::Redirect,
                "direction=egress identity=9 protocol=UDP port=53 verdict=redirect rule=2",
            ),
            (
                key(9, (0, 0), 47, EGRESS),
                Verdict::AuditDeny,
                "direction=egress identity=9 protocol=47 port=any verdict=audit-deny rule=2",
            ),
            (
                key(9, (8_080, 12), 6, INGRESS),
                Verdict::FailAuthentication,
                "direction=ingress identity=9 protocol=TCP port=8080-8095 verdict=fail-authentication rule=2",
            ),
        ] {
            let text = shown(
                common::POLICY,
                &policy_key_of(7, key),
                value(verdict).as_bytes(),
            );
            assert_eq!(text, format!("endpoint=7 {expected}"));
        }
        let lengths = policy_key_of(7, PolicyKey::lengths(EGRESS));
        let shape = shape_of(common::POLICY).unwrap();
        assert_eq!(shape.row((&lengths, &[0; 8]), 0), None, "it is no entry");
    }

    #[test]
    fn who_has_which_address_is_told() {
        let mac = [2, 0, 0, 0, 0, 0x1f];
        let mut addresses = [Address::NONE; common::ADDRESSES_PER_ENDPOINT_MAX];
        addresses[0] = address("10.0.0.2");
        addresses[1] = address("fd00::2");
        let interface = EndpointIf {
            addresses,
            endpoint: 1,
            workload_mac: mac,
            attaching: 0,
            reserved: [0; 5],
        };
        let of = |endpoint, ip: &str| EndpointAddress {
            endpoint,
            address: address(ip),
        };
        let lpm = |bits: u32, ip: &str| [bits.as_bytes(), &address(ip).octets()].concat();
        for (map, key, value, expected) in [
            (
                common::EP_IF,
                8u32.as_bytes(),
                interface.as_bytes(),
                "interface=8 endpoint=1 workload_mac=02:00:00:00:00:1f addresses=10.0.0.2 fd00::2",
            ),
            (
                common::LEARNED,
                of(1, "198.18.0.1").as_bytes(),
                16_777_217u32.as_bytes(),
                "endpoint=1 address=198.18.0.1 identity=16777217",
            ),
            (
                common::IPCACHE,
                &lpm(104, "10.0.0.0"),
                256u32.as_bytes(),
                "prefix=10.0.0.0/8 identity=256",
            ),
            (
                common::IPCACHE,
                &lpm(0, "::"),
                10u32.as_bytes(),
                "prefix=::/0 identity=10",
            ),
        ] {
            assert_eq!(shown(map, key, value), expected, "{map}");
        }
    }

    #[test]
    fn what_the_programs_remember_is_told() {
        let mac = [2, 0, 0, 0, 0, 0x1f];
        let last_hop = EndpointAddress {
            endpoint: 1,
            address: Address::NONE,
        };
        let upstream = UpstreamKey {
            endpoint: 1,
            server_port: 53u16.to_be(),
            local_port: 20_000u16.to_be(),
            server: address("9.9.9.9"),
        };
        let hop = NextHop { mac, reserved: 0 };
        let neighbour = EndpointAddress {
            endpoint: 1,
            address: address("fd00::1"),
        };
        let budget = EventBudget {
            since: 88_000_000_000,
            told: 5,
        };
        for (map, key, value, expected) in [
            (
                common::NEXT_HOP,
                last_hop.as_bytes(),
                hop.as_bytes(),
                "endpoint=1 address=any mac=02:00:00:00:00:1f",
            ),
            (
                common::UP_UDP,
                upstream.as_bytes(),
                0u32.as_bytes(),
                "endpoint=1 server=9.9.9.9 server_port=53 proxy_port=20000",
            ),
            (
                common::NEIGHBOUR,
                neighbour.as_bytes(),
                1u32.as_bytes(),
                "endpoint=1 address=fd00::1",
            ),
            (
                common::EVENT_BUDGET,
                1u32.as_bytes(),
                budget.as_bytes(),
                "endpoint=1 told=5 age_secs=2",
            ),
            (
                common::CT_USE,
                3u32.as_bytes(),
                12u64.as_bytes(),
                "endpoint=3 flows=12",
            ),
            (
                common::COUNTERS_MAP,
                (Drop::PolicyDenied as u32).as_bytes(),
                7u64.as_bytes(),
                "name=policy-denied kind=drop count=7",
            ),
        ] {
            assert_eq!(shown(map, key, value), expected, "{map}");
        }
    }

    #[test]
    fn first_fragments_are_told() {
        let part = FragmentKey {
            endpoint: 1,
            id: 77,
            source: address("9.9.9.9"),
            destination: address("10.0.0.2"),
            protocol: 17,
        };
        let first = FirstFragment {
            at: 88_000_000_000,
            identity: 9,
            reserved: 0,
        };
        for (map, key, value, expected) in [
            (
                common::UP_FRAGMENT,
                part.as_bytes(),
                89_000_000_000u64.as_bytes(),
                "endpoint=1 source=9.9.9.9 destination=10.0.0.2 protocol=UDP id=77 age_secs=1",
            ),
            (
                common::FRAGMENT,
                part.as_bytes(),
                first.as_bytes(),
                "endpoint=1 source=9.9.9.9 destination=10.0.0.2 protocol=UDP id=77 identity=9 age_secs=2",
            ),
        ] {
            assert_eq!(shown(map, key, value), expected, "{map}");
        }
    }

    #[test]
    fn what_has_another_size_is_no_entry() {
        for shape in &SHAPES {
            let row = shape.row((&[0; 3], &[0; 3]), 0);
            assert!(row.is_none(), "{}", shape.name);
        }
    }
}
