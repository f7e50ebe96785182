//! Addresses that no answer may open, whatever its name.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A class of addresses that are never learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressClass {
    /// `connect` to it reaches the local host.
    Unspecified,
    /// The local host.
    Loopback,
    /// One link, not the network.
    LinkLocal,
    /// A cloud's metadata service.
    Metadata,
    /// Many receivers.
    Multicast,
    /// No unicast address: class E and broadcast.
    Reserved,
    /// The node's own.
    Node,
    /// A workload's: its identity comes from its labels.
    InCluster,
    /// An IPv4 address written as IPv6: Linux sends IPv4 packets for it.
    V4Mapped,
}

impl AddressClass {
    /// The stable word for events.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Metadata => "metadata",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
            Self::Node => "node",
            Self::InCluster => "in-cluster",
            Self::V4Mapped => "v4-mapped",
        }
    }
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The class of an address, or of one that a translator or a tunnel makes of it; none for one that is like
/// any other of the network.
#[must_use]
pub fn class_of(address: IpAddr) -> Option<AddressClass> {
    Owned::default().may_learn(address).err()
}

/// The addresses whose owners are known.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    pub(crate) node: HashSet<IpAddr>,
    pub(crate) workloads: HashSet<IpAddr>,
}

/// Metadata services, and those that hand out credentials to whoever asks from the machine.
pub const METADATA: [IpAddr; 14] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), // nearly all clouds
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),   // AWS, credentials of an ECS task
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),  // AWS, EKS Pod Identity
    IpAddr::V4(Ipv4Addr::new(169, 254, 42, 42)),   // Scaleway
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), // Alibaba
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),   // Azure, WireServer
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),     // Oracle Classic
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), // AWS
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)), // AWS, EKS Pod Identity
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), // Google
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)), // Scaleway
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)), // Oracle
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1)), // Akamai
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)), // OpenStack
];

impl Owned {
    /// Whether an answer may open the address.
    pub(crate) fn may_learn(&self, address: IpAddr) -> Result<(), AddressClass> {
        if self.node.contains(&address) {
            return Err(AddressClass::Node);
        }
        if self.workloads.contains(&address) {
            return Err(AddressClass::InCluster);
        }
        match address {
            IpAddr::V4(address) => class_v4(address).map_or(Ok(()), Err),
            IpAddr::V6(address) => {
                if let Some(class) = class_v6(address) {
                    return Err(class);
                }
                // An address that a translator or a tunnel makes into IPv4 is judged as that.
                embedded_v4(address)
                    .into_iter()
                    .flatten()
                    .try_for_each(|address| self.may_learn(IpAddr::V4(address)))
            }
        }
    }
}

fn class_v4(address: Ipv4Addr) -> Option<AddressClass> {
    let [first, ..] = address.octets();
    if METADATA.contains(&IpAddr::V4(address)) {
        return Some(AddressClass::Metadata);
    }
    match first {
        0 => Some(AddressClass::Unspecified),
        127 => Some(AddressClass::Loopback),
        169 if address.is_link_local() => Some(AddressClass::LinkLocal),
        224..=239 => Some(AddressClass::Multicast),
        240..=255 => Some(AddressClass::Reserved),
        _ => None,
    }
}

fn class_v6(address: Ipv6Addr) -> Option<AddressClass> {
    if address.is_unspecified() {
        Some(AddressClass::Unspecified)
    } else if address.is_loopback() {
        Some(AddressClass::Loopback)
    } else if METADATA.contains(&IpAddr::V6(address)) {
        Some(AddressClass::Metadata)
    } else if address.is_unicast_link_local() {
        Some(AddressClass::LinkLocal)
    } else if address.is_multicast() {
        Some(AddressClass::Multicast)
    } else if address.to_ipv4_mapped().is_some() {
        Some(AddressClass::V4Mapped)
    } else {
        None
    }
}

/// The IPv4 addresses that a packet to an IPv6 address may end at, by translators and tunnels that are known
/// everywhere (RFC 6052, 8215, 3056, 4380).
#[must_use]
pub fn embedded_v4(address: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let at = |octets: [u8; 4]| Some(Ipv4Addr::from(octets));
    match address.octets() {
        // v4-compatible, ::/96; and NAT64, 64:ff9b::/96 (RFC 6052).
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
        | [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] => [at([a, b, c, d]), None],
        // NAT64, 64:ff9b:1::/48 (RFC 8215): a translator may use it whole or a /96 of it.
        [0, 0x64, 0xff, 0x9b, 0, 1, a, b, _, c, d, _, e, f, g, h] => {
            let whole = [a, b, c, d];
            let last = [e, f, g, h];
            let is_set = |octets: &[u8; 4]| *octets != [0; 4];
            let whole_is_set = is_set(&whole);
            [
                Some(whole).filter(|_| whole_is_set).and_then(at),
                Some(last)
                    .filter(|last| is_set(last) || !whole_is_set)
                    .and_then(at),
            ]
        }
        // 6to4, 2002::/16 (RFC 3056).
        [0x20, 0x02, a, b, c, d, ..] => [at([a, b, c, d]), None],
        // Teredo, 2001::/32 (RFC 4380): the server, and the client with its bits turned.
        [0x20, 0x01, 0, 0, a, b, c, d, _, _, _, _, e, f, g, h] => {
            [at([a, b, c, d]), at([!e, !f, !g, !h])]
        }
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_known_by_its_word() {
        let owned = Owned {
            node: HashSet::from(["192.0.2.1".parse().unwrap()]),
            workloads: HashSet::from(["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]),
        };
        #[rustfmt::skip]
        let rows = [
            ("0.0.0.0", "unspecified"), ("0.1.2.3", "unspecified"), ("::", "unspecified"),
            ("127.0.0.1", "loopback"), ("127.9.9.9", "loopback"), ("::1", "loopback"),
            ("169.254.1.1", "link-local"), ("fe80::1", "link-local"), ("febf::1", "link-local"),
            ("169.254.169.254", "metadata"), ("fd00:ec2::254", "metadata"),
            ("169.254.170.2", "metadata"), ("169.254.170.23", "metadata"), ("fd00:ec2::23", "metadata"),
            ("fd20:ce::254", "metadata"), ("169.254.42.42", "metadata"), ("fd00:42::42", "metadata"),
            ("fd00:c1::a9fe:a9fe", "metadata"), ("fd00:a9fe:a9fe::1", "metadata"),
            ("fe80::a9fe:a9fe", "metadata"), ("192.0.0.192", "metadata"),
            ("100.100.100.200", "metadata"), ("168.63.129.16", "metadata"),
            ("169.254.170.3", "link-local"), ("fd00:ec2::24", ""), ("192.0.0.191", ""),
            ("224.0.0.1", "multicast"), ("239.255.255.255", "multicast"), ("ff02::1", "multicast"),
            ("240.0.0.1", "reserved"), ("255.255.255.255", "reserved"),
            ("192.0.2.1", "node"), ("10.0.0.2", "in-cluster"), ("fd00::2", "in-cluster"),
            ("::ffff:1.2.3.4", "v4-mapped"),
            ("::127.0.0.1", "loopback"), ("2002:7f00:1::", "loopback"), ("::10.0.0.2", "in-cluster"),
            ("64:ff9b::169.254.169.254", "metadata"), ("64:ff9b::192.0.2.1", "node"),
            ("64:ff9b:1::127.0.0.1", "loopback"), ("64:ff9b:1:7f00:0:100::", "loopback"),
            ("64:ff9b:1::", "unspecified"),
            ("2001:0:7f00:1::1", "loopback"), ("2001:0:808:808::80ff:fffe", "loopback"),
            ("8.8.8.8", ""), ("10.0.0.3", ""), ("172.16.0.1", ""), ("192.168.1.1", ""),
            ("100.64.0.1", ""), ("fc00::1", ""), ("2001:db8::1", ""), ("198.18.0.1", ""),
            ("::8.8.8.8", ""), ("64:ff9b::8.8.8.8", ""), ("64:ff9b:1::8.8.8.8", ""),
            ("2002:808:808::1", ""), ("2001:4860:4860::8888", ""), ("169.255.0.1", ""),
        ];
        for (address, word) in rows {
            let class = owned.may_learn(address.parse().unwrap()).err();
            assert_eq!(class.map_or("", AddressClass::word), word, "{address}");
        }
    }
}
