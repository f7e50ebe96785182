//! A node of our own, for the demo and for tests: a network namespace with a bridge, and hosts on it.
//! Held by descriptors alone: nothing is named on the machine, and all of it ends with the process.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{LinkError, NetNs, Netlink, Route, Veth};

/// A node: a namespace with a bridge that forwards.
#[derive(Clone, Debug)]
pub struct PrivateNode {
    /// The namespace.
    pub ns: NetNs,
}

/// A host with one link to the node.
#[derive(Clone, Debug)]
pub struct PrivateHost {
    /// Its namespace.
    pub ns: NetNs,
    /// The node's side of its link.
    pub host_link: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

/// How a host is to be linked.
#[derive(Clone, Copy, Debug)]
pub struct HostLink<'a> {
    /// The node's side of the link, at most 15 characters.
    pub name: &'a str,
    /// Its IPv4 address and prefix length.
    pub v4: (Ipv4Addr, u8),
    /// Its IPv6 address and prefix length.
    pub v6: (Ipv6Addr, u8),
}

/// The name of the bridge.
pub const BRIDGE: &str = "br0";
/// The MAC of the bridge, as bridges of CNI and Docker have one of their own. Else it is that of a port, and
/// changes under those who know it when that port comes or goes (`br_stp_recalculate_bridge_id`).
const BRIDGE_MAC: [u8; 6] = [0x02, 0x6e, 0x67, 0, 0, 1];
/// The main routing table (`RT_TABLE_MAIN`).
pub(crate) const MAIN_TABLE: u32 = 254;
/// The table of what a namespace takes as its own (`RT_TABLE_LOCAL`).
const LOCAL_TABLE: u32 = 255;

impl PrivateNode {
    /// Makes a node whose bridge has these two addresses.
    ///
    /// # Errors
    /// Without root.
    pub fn create(v4: (Ipv4Addr, u8), v6: (Ipv6Addr, u8)) -> Result<Self, LinkError> {
        let ns = NetNs::create()?;
        ns.run(|| {
            no_tentative_addresses()?;
            let netlink = Netlink::open()?;
            netlink.up(netlink.link("lo")?.index)?;
            netlink.add_bridge(BRIDGE)?;
            let bridge = netlink.link(BRIDGE)?.index;
            netlink.set_mac(bridge, BRIDGE_MAC)?;
            netlink.add_address(bridge, IpAddr::V4(v4.0), v4.1)?;
            netlink.add_address(bridge, IpAddr::V6(v6.0), v6.1)?;
            netlink.up(bridge)?;
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
            Ok::<_, LinkError>(())
        })??;
        Ok(Self { ns })
    }

    /// Makes a host whose link is up at both ends; the node's end is in no bridge yet.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn add_host(&self, link: &HostLink<'_>) -> Result<PrivateHost, LinkError> {
        let ns = NetNs::create()?;
        ns.run(no_tentative_addresses)??;
        self.ns.run(|| {
            let netlink = Netlink::open()?;
            let veth = Veth {
                name: link.name,
                peer: "eth0",
                peer_ns: &ns,
                peer_mac: None,
                peer_index: None,
                mtu: 1_500,
                arp: true,
            };
            netlink.add_veth(&veth)?;
            netlink.up(netlink.link(link.name)?.index)
        })??;
        ns.run(|| {
            let netlink = Netlink::open()?;
            netlink.up(netlink.link("lo")?.index)?;
            let own = netlink.link("eth0")?.index;
            netlink.add_address(own, IpAddr::V4(link.v4.0), link.v4.1)?;
            netlink.add_address(own, IpAddr::V6(link.v6.0), link.v6.1)?;
            netlink.up(own)
        })??;
        Ok(PrivateHost {
            ns,
            host_link: link.name.to_owned(),
            v4: link.v4.0,
            v6: link.v6.0,
        })
    }

    /// Makes a host on the bridge, with the bridge as its gateway.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn add_host_on_bridge(
        &self,
        link: &HostLink<'_>,
        gateway: (Ipv4Addr, Ipv6Addr),
    ) -> Result<PrivateHost, LinkError> {
        let host = self.add_host(link)?;
        self.ns.run(|| {
            let netlink = Netlink::open()?;
            netlink.set_master(netlink.link(link.name)?.index, netlink.link(BRIDGE)?.index)
        })??;
        host.route_by(gateway)?;
        Ok(host)
    }

    /// Gives the node's end of a host's link addresses, and routes prefixes to the host.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn route_to(
        &self,
        host: &PrivateHost,
        own: &[(IpAddr, u8)],
        prefixes: &[(IpAddr, u8)],
    ) -> Result<(), LinkError> {
        self.ns.run(|| {
            let netlink = Netlink::open()?;
            let link = netlink.link(&host.host_link)?.index;
            for (ip, len) in own {
                netlink.add_address(link, *ip, *len)?;
            }
            for (to, len) in prefixes {
                let via = if to.is_ipv4() {
                    IpAddr::V4(host.v4)
                } else {
                    IpAddr::V6(host.v6)
                };
                netlink.add_route(&plain_route((*to, *len), Some(via), link))?;
            }
            Ok(())
        })?
    }
}

impl PrivateHost {
    /// Sends everything by a gateway.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn route_by(&self, (v4, v6): (Ipv4Addr, Ipv6Addr)) -> Result<(), LinkError> {
        self.ns.run(|| {
            let netlink = Netlink::open()?;
            let link = netlink.link("eth0")?.index;
            let (any4, any6) = (
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            );
            netlink.add_route(&plain_route((any4, 0), Some(IpAddr::V4(v4)), link))?;
            netlink.add_route(&plain_route((any6, 0), Some(IpAddr::V6(v6)), link))
        })?
    }

    /// Makes every address of these prefixes the host's own.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn own_all_of(&self, prefixes: &[(IpAddr, u8)]) -> Result<(), LinkError> {
        self.ns.run(|| {
            let netlink = Netlink::open()?;
            let lo = netlink.link("lo")?.index;
            for to in prefixes {
                let route = Route {
                    local: true,
                    table: LOCAL_TABLE,
                    ..plain_route(*to, None, lo)
                };
                netlink.add_route(&route)?;
            }
            Ok(())
        })?
    }
}

fn plain_route(to: (IpAddr, u8), via: Option<IpAddr>, link: u32) -> Route {
    Route {
        to,
        via,
        link,
        table: MAIN_TABLE,
        local: false,
        mtu: None,
    }
}

/// Without duplicate address detection, which takes a second and changes tables by itself.
pub(crate) fn no_tentative_addresses() -> io::Result<()> {
    for which in ["all", "default"] {
        fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0")?;
    }
    Ok(())
}
