//! By which addresses others know the node.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use observer::NodeAddresses;

use crate::daemon::own_addresses;

/// Addresses of the outside, of documents (RFC 5737, RFC 3849): nothing is sent to them.
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Those from which the node speaks to the outside, so not a bridge's of its own; where it has no way there, the
/// first of its addresses that more than one link can reach.
pub(super) fn of_node() -> NodeAddresses {
    let ways = OUTSIDE.map(|outside| source_to(outside).ok());
    let own = match ways {
        [Some(_), Some(_)] => Vec::new(),
        _ => own_addresses().unwrap_or_default(),
    };
    let all = ways.into_iter().flatten().chain(own);
    let mut addresses = NodeAddresses::default();
    for address in all.filter(|address| is_known(*address)) {
        match address {
            IpAddr::V4(v4) => addresses.v4 = addresses.v4.or(Some(v4)),
            IpAddr::V6(v6) => addresses.v6 = addresses.v6.or(Some(v6)),
        }
    }
    addresses
}

/// Whether others can know the node by it.
fn is_known(address: IpAddr) -> bool {
    let is_of_link = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !is_of_link && !address.is_loopback() && !address.is_unspecified()
}

/// The kernel's choice of an address for what is sent there.
#[expect(
    clippy::disallowed_methods,
    reason = "the kernel is asked for a way, and nothing is sent"
)]
fn source_to(outside: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match outside {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(SocketAddr::new(outside, 9))?;
    Ok(socket.local_addr()?.ip())
}
