//! What other agents tell of a flow and ours don't, and what a mask left of one: kept, so that what was read is
//! shown as it was.

use std::net::IpAddr;
use std::sync::Arc;

use crate::drop_reason::DropReason;
use crate::filter::IpVersion;
use crate::packet::{Ip, L4, MacAddr};

/// The fields of Hubble's flow that no event of ours has, but for services. All are empty unless an agent set them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Foreign {
    /// `key=value` of the node.
    pub node_labels: Vec<Arc<str>>,
    /// The service that the source's address is.
    pub source_service: Option<Service>,
    /// The service that the destination's address is.
    pub destination_service: Option<Service>,
    /// The id that a packet carries in an option of its IP header; 0 for none.
    pub ip_trace_id: u64,
    /// The option that carries it.
    pub ip_option_type: u32,
    /// The packet around it.
    pub tunnel: Option<Tunnel>,
    /// Where a debug message was captured.
    pub debug_capture_point: u32,
    /// Where a socket's address was translated.
    pub sock_xlate_point: u32,
    /// The socket.
    pub socket_cookie: u64,
    /// The socket's cgroup.
    pub cgroup_id: u64,
    /// What the packet speaks, where only others tell it.
    pub other_l4: Option<OtherL4>,
    /// How many flows this one stands for: inbound, outbound, of unknown direction.
    pub aggregate: Option<[u32; 3]>,
    /// The authentication that policy asked of a connection: 0 none, 1 SPIRE, 2 the one that always fails.
    pub auth_type: u32,
    /// Type and sub type, where they are others than the event's own: a mask took them.
    pub event_type: Option<(u32, u32)>,
    /// Why it was dropped, where the event doesn't tell what it is.
    pub drop_reason: Option<DropReason>,
    /// A network layer that lacks an address.
    pub part_ip: Option<PartIp>,
    /// A link layer that lacks an address: the sender's and the receiver's.
    pub part_ethernet: Option<[Option<MacAddr>; 2]>,
    /// Numbers that have no name.
    pub nameless: Nameless,
}

/// What a mask left of a network layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartIp {
    /// Who sent the packet.
    pub source: Option<IpAddr>,
    /// The source after translation.
    pub source_xlated: Option<IpAddr>,
    /// Whom it was for.
    pub destination: Option<IpAddr>,
    /// The version, as it is told.
    pub version: IpVersion,
    /// Seen encrypted.
    pub encrypted: bool,
}

/// Values of enums that are newer than we are, by number; 0 where the value has a name.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Nameless {
    /// Of the verdict.
    pub verdict: i32,
    /// Of the direction.
    pub direction: i32,
    /// Of a message's kind.
    pub message: i32,
}

/// A protocol over IP that only other agents tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OtherL4 {
    /// Routers that stand in for each other.
    Vrrp {
        /// Its type.
        kind: u32,
        /// The virtual router.
        vrid: u32,
        /// Of the sender.
        priority: u32,
    },
    /// Who wants which multicast.
    Igmp {
        /// Its type.
        kind: u32,
        /// The multicast address.
        group: Arc<str>,
    },
}

/// A service by its name.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Service {
    /// Its name.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
}

/// The packet around a packet.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Tunnel {
    /// The protocol: 1 VXLAN, 2 GENEVE.
    pub protocol: u32,
    /// Its network layer.
    pub ip: Option<Ip>,
    /// Its transport layer.
    pub l4: Option<L4>,
    /// Its network identifier.
    pub vni: u32,
}

/// Names of an enum whose numbers have gaps.
pub(crate) type Names = &'static [(u32, &'static str)];

pub(crate) const AUTH_TYPES: Names = &[(0, "DISABLED"), (1, "SPIRE"), (2, "TEST_ALWAYS_FAIL")];

pub(crate) const TUNNELS: Names = &[(0, "UNKNOWN"), (1, "VXLAN"), (2, "GENEVE")];

pub(crate) const CAPTURE_POINTS: Names = &[
    (0, "DBG_CAPTURE_POINT_UNKNOWN"),
    (4, "DBG_CAPTURE_DELIVERY"),
    (5, "DBG_CAPTURE_FROM_LB"),
    (6, "DBG_CAPTURE_AFTER_V46"),
    (7, "DBG_CAPTURE_AFTER_V64"),
    (8, "DBG_CAPTURE_PROXY_PRE"),
    (9, "DBG_CAPTURE_PROXY_POST"),
    (10, "DBG_CAPTURE_SNAT_PRE"),
    (11, "DBG_CAPTURE_SNAT_POST"),
];

pub(crate) const XLATE_POINTS: Names = &[
    (0, "SOCK_XLATE_POINT_UNKNOWN"),
    (1, "SOCK_XLATE_POINT_PRE_DIRECTION_FWD"),
    (2, "SOCK_XLATE_POINT_POST_DIRECTION_FWD"),
    (3, "SOCK_XLATE_POINT_PRE_DIRECTION_REV"),
    (4, "SOCK_XLATE_POINT_POST_DIRECTION_REV"),
];

/// What a printer says for a point where a socket's address was translated.
pub(crate) const XLATE_WORDS: Names = &[
    (0, "SOCK_XLATE_POINT_UNKNOWN"),
    (1, "pre-xlate-fwd"),
    (2, "post-xlate-fwd"),
    (3, "pre-xlate-rev"),
    (4, "post-xlate-rev"),
];

pub(crate) fn name_of(names: Names, number: u32) -> Option<&'static str> {
    names
        .iter()
        .find(|(it, _)| *it == number)
        .map(|(_, name)| *name)
}

pub(crate) fn number_of(names: Names, name: &str) -> Option<u32> {
    names
        .iter()
        .find(|(_, it)| *it == name)
        .map(|(number, _)| *number)
}
