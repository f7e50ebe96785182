//! The gate namespace and the side link that joins it to the node.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use bpf_redirect_common::GATE_MAC;

use crate::{Link, LinkError, NetNs, Netlink, Route, Veth};

/// The names of the side link's two ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SideLinkNames {
    /// In the node's namespace.
    pub node: String,
    /// In the gate.
    pub gate: String,
    /// The instance, as `ip link` shows it.
    pub alias: String,
}

impl SideLinkNames {
    /// The names for an instance: `ng` and eight digits of a hash, since a link's name has at most
    /// 15 characters; the instance itself is the alias.
    #[must_use]
    pub fn of_instance(instance: &str) -> Self {
        // FNV-1a, 32 bits: any fixed spread will do, a clash is refused by the kernel.
        let hash = instance.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        Self {
            node: format!("ng{hash:08x}h"),
            gate: format!("ng{hash:08x}g"),
            alias: format!("namegate {instance}"),
        }
    }
}

/// The namespace in which the proxies' client-facing sockets live.
#[derive(Clone, Debug)]
pub struct Gate {
    /// The namespace.
    pub ns: NetNs,
    /// The side link's end in the node's namespace.
    pub node_end: Link,
    /// Its end in the gate.
    pub gate_end: Link,
}

/// The side link's MTU, larger than any endpoint's: routes say how much each one takes.
const SIDE_LINK_MTU: u32 = 65_535;
/// The gate's table of what it takes as its own.
const LOCAL_TABLE: u32 = 2004;
/// The pool's ports are chosen by us; what the gate's kernel chooses (TCP) stays outside the usual
/// ephemeral range of workloads.
const LOCAL_PORTS: &str = "10000\t32767";

/// Sysctls of the gate. All are written: some are inherited from the host.
const SYSCTLS: [(&str, &str); 18] = [
    ("ipv4/tcp_syncookies", "1"), // a flood of SYNs leaves room for who means it; of IPv6 too
    ("ipv4/tcp_fwmark_accept", "1"), // an accepted socket carries the mark of its SYN
    ("ipv4/fwmark_reflect", "1"), // the kernel's own RSTs carry the mark of what they answer
    ("ipv6/fwmark_reflect", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/{gate}/rp_filter", "0"),
    ("ipv4/conf/all/src_valid_mark", "0"),
    ("ipv4/conf/default/src_valid_mark", "0"),
    ("ipv4/conf/{gate}/src_valid_mark", "0"),
    ("ipv4/conf/all/accept_local", "1"),
    ("ipv4/conf/{gate}/accept_local", "1"),
    ("ipv4/conf/{gate}/forwarding", "0"),
    ("ipv4/ip_local_port_range", LOCAL_PORTS),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/{gate}/accept_ra", "0"),
    ("ipv6/conf/{gate}/disable_ipv6", "0"),
    ("ipv6/conf/{gate}/accept_dad", "0"),
];

impl Gate {
    /// Makes the gate and joins it to the namespace of the calling thread. In that namespace one
    /// link appears, without an address; nothing else.
    ///
    /// # Errors
    /// If a name is taken, or the kernel refuses. What was made by then is taken away again.
    pub fn create(names: &SideLinkNames) -> Result<Self, LinkError> {
        Self::join(NetNs::create()?, names, None)
    }

    /// Joins the gate to the calling thread's namespace again, after somebody deleted the pair.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn mend(&mut self, names: &SideLinkNames) -> Result<(), LinkError> {
        Self::remove(names)?;
        // The proxy's sockets know the gate's end by its number.
        *self = Self::join(self.ns.clone(), names, Some(self.gate_end.index))?;
        Ok(())
    }

    fn join(ns: NetNs, names: &SideLinkNames, index: Option<u32>) -> Result<Self, LinkError> {
        let netlink = Netlink::open()?;
        netlink.add_veth(&Veth {
            name: &names.node,
            peer: &names.gate,
            peer_ns: &ns,
            peer_mac: Some(GATE_MAC),
            peer_index: index,
            mtu: SIDE_LINK_MTU,
            arp: false,
        })?;
        let node_end = netlink.link(&names.node)?;
        let finish = || {
            netlink.set_alias(node_end.index, &names.alias)?;
            netlink.no_ipv6_addresses(node_end.index)?;
            write_sysctl(&format!("ipv6/conf/{}/disable_ipv6", names.node), "1")?;
            let gate_end = ns.run(|| furnish(&names.gate))??;
            netlink.up(node_end.index)?;
            Ok(gate_end)
        };
        match finish() {
            Ok(gate_end) => Ok(Self {
                ns,
                node_end: node_end.clone(),
                gate_end,
            }),
            Err(error) => {
                let _ = netlink.delete(node_end.index);
                Err(error)
            }
        }
    }

    /// The gate of an earlier run, if its namespace is pinned and joined to the calling thread's.
    #[must_use]
    pub fn find(names: &SideLinkNames, pin: &Path) -> Option<Self> {
        let ns = NetNs::open(pin).ok()?;
        let node_end = Netlink::open().ok()?.link(&names.node).ok()?;
        let gate_end = ns.run(|| Netlink::open()?.link(&names.gate)).ok()?.ok()?;
        let is_pair =
            node_end.peer == Some(gate_end.index) && gate_end.peer == Some(node_end.index);
        is_pair.then_some(Self {
            ns,
            node_end,
            gate_end,
        })
    }

    /// Sets how large a packet the gate may send where no endpoint's own route says more: the
    /// smallest MTU of all endpoints.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_default_mtu(&self, mtu: u32) -> Result<(), LinkError> {
        let link = self.gate_end.index;
        self.ns
            .run(|| add_default_routes(&Netlink::open()?, link, mtu))?
    }

    /// Sets how large a packet an endpoint takes.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_endpoint_mtu(&self, addresses: &[IpAddr], mtu: u32) -> Result<(), LinkError> {
        let link = self.gate_end.index;
        self.ns.run(|| {
            let netlink = Netlink::open()?;
            for address in addresses {
                let prefix = if address.is_ipv4() { 32 } else { 128 };
                netlink.add_route(&Route {
                    to: (*address, prefix),
                    via: None,
                    link,
                    table: MAIN_TABLE,
                    local: false,
                    mtu: Some(mtu),
                })?;
            }
            Ok(())
        })?
    }

    /// Takes the side link away; the namespace goes with its last holder.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(names: &SideLinkNames) -> Result<(), LinkError> {
        let netlink = Netlink::open()?;
        match netlink.link(&names.node) {
            Ok(link) => netlink.delete(link.index),
            Err(LinkError::Missing(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The main routing table (`RT_TABLE_MAIN`).
const MAIN_TABLE: u32 = 254;
/// The MTU that is assumed until endpoints are known.
const DEFAULT_MTU: u32 = 1_500;

/// What is to be made is there already.
const EEXIST: i32 = 17;

/// Sets up the inside of the gate; runs there.
pub(crate) fn furnish(gate: &str) -> Result<Link, LinkError> {
    let netlink = Netlink::open()?;
    let link = netlink.link(gate)?;
    for (key, value) in SYSCTLS {
        write_sysctl(&key.replace("{gate}", gate), value)?;
    }
    let lo = netlink.link("lo")?;
    netlink.no_ipv6_addresses(link.index)?;
    netlink.up(lo.index)?;
    netlink.up(link.index)?;
    add_default_routes(&netlink, link.index, DEFAULT_MTU)?;
    let everything_is_ours = [
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0, lo.index),
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0, lo.index),
        // A link-local look-up demands the link that the packet came by.
        (
            IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)),
            10,
            link.index,
        ),
    ];
    for (to, prefix, index) in everything_is_ours {
        netlink.add_route(&Route {
            to: (to, prefix),
            via: None,
            link: index,
            table: LOCAL_TABLE,
            local: true,
            mtu: None,
        })?;
    }
    match netlink.add_rule(gate, LOCAL_TABLE, 10) {
        // A gate whose link was deleted keeps its rules.
        Err(error) if error.errno() != Some(EEXIST) => Err(error),
        Ok(()) | Err(_) => Ok(link),
    }
}

fn add_default_routes(netlink: &Netlink, link: u32, mtu: u32) -> Result<(), LinkError> {
    for any in [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ] {
        let route = Route {
            to: (any, 0),
            via: None,
            link,
            table: MAIN_TABLE,
            local: false,
            mtu: Some(mtu),
        };
        netlink.add_route(&route)?;
    }
    Ok(())
}

/// Writes below /proc/sys/net of the calling thread's namespace.
fn write_sysctl(key: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/net/{key}"), value)
        .map_err(|error| io::Error::new(error.kind(), format!("sysctl net/{key}={value}: {error}")))
}
