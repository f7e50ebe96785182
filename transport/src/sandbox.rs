//! The network of one command: a namespace with one link, which ends in a node that has no way out. What
//! the command reaches, a proxy reaches for it from elsewhere. Held by descriptors alone: nothing is named
//! on the machine, and all of it ends with its last process.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bpf_redirect_common::GATE_MAC;

use crate::private::{MAIN_TABLE, no_tentative_addresses};
use crate::{LinkError, NetNs, Netlink, Route, Veth, sys};

/// The command's address: link-local, so that it is nobody's elsewhere; the same for each command, since
/// nothing routes to it.
pub const SANDBOX_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);
/// The command's IPv6 address, of a prefix that was drawn once.
pub const SANDBOX_V6: Ipv6Addr = Ipv6Addr::new(0xfd6e, 0x6761, 0x7465, 0, 0, 0, 0, 2);

/// The command's gateway, by which it means the machine.
pub const SANDBOX_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Next hops that nobody has: without neighbour resolution none has to answer.
const GATEWAYS: (Ipv4Addr, Ipv6Addr) =
    (SANDBOX_GATEWAY, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
/// As the side link's: what is sent here goes no further as a packet.
const MTU: u32 = 65_535;
/// The node's end of the link.
pub(crate) const NODE_END: &str = "command";

/// The namespaces.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The node's: no address, no route, no way out.
    pub node: NetNs,
    /// The command's.
    pub inside: NetNs,
}

impl Sandbox {
    /// Makes both, and the link.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`.
    pub fn create() -> Result<Self, LinkError> {
        let (node, inside) = (NetNs::create()?, NetNs::create()?);
        node.run(|| join(&inside))??;
        inside.run(furnish)??;
        Ok(Self { node, inside })
    }

    /// The same with the calling thread's namespace as the node's, for packets that go on there as the kernel
    /// has it: without neighbour resolution a frame is sent to its sender's own address, so both ends have one.
    ///
    /// # Errors
    /// Without privilege over it.
    pub(crate) fn create_here() -> Result<Self, LinkError> {
        let (node, inside) = (NetNs::current()?, NetNs::create()?);
        join(&inside)?;
        let netlink = Netlink::open()?;
        netlink.set_mac(netlink.link(NODE_END)?.index, GATE_MAC)?;
        inside.run(furnish)??;
        inside.run(|| -> Result<(), LinkError> {
            let netlink = Netlink::open()?;
            netlink.set_mac(netlink.link("eth0")?.index, GATE_MAC)
        })??;
        Ok(Self { node, inside })
    }
}

/// Makes the link, on a thread in the node's namespace.
fn join(inside: &NetNs) -> Result<(), LinkError> {
    let netlink = Netlink::open()?;
    netlink.up(netlink.link("lo")?.index)?;
    netlink.add_veth(&Veth {
        name: NODE_END,
        peer: "eth0",
        peer_ns: inside,
        peer_mac: None,
        peer_index: None,
        mtu: MTU,
        arp: false,
    })?;
    fs::write(
        format!("/proc/sys/net/ipv6/conf/{NODE_END}/disable_ipv6"),
        "1",
    )?;
    netlink.up(netlink.link(NODE_END)?.index)?;
    Ok(())
}

fn furnish() -> Result<(), LinkError> {
    no_tentative_addresses()?;
    fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0")?;
    let netlink = Netlink::open()?;
    netlink.up(netlink.link("lo")?.index)?;
    let link = netlink.link("eth0")?.index;
    netlink.add_address(link, IpAddr::V4(SANDBOX_V4), 32)?;
    netlink.add_address(link, IpAddr::V6(SANDBOX_V6), 128)?;
    netlink.up(link)?;
    let (v4, v6) = (IpAddr::V4(GATEWAYS.0), IpAddr::V6(GATEWAYS.1));
    let everywhere = (
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    );
    for (to, via) in [
        ((v4, 32), None),
        ((everywhere.0, 0), Some(v4)),
        ((everywhere.1, 0), Some(v6)),
    ] {
        netlink.add_route(&Route {
            to,
            via,
            link,
            table: MAIN_TABLE,
            local: false,
            mtu: None,
        })?;
    }
    Ok(())
}

/// Moves the calling thread into a mount namespace of its own. To be called by a process of one thread.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub fn unshare_mounts() -> io::Result<()> {
    sys::unshare_mounts()
}
