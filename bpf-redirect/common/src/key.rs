//! Keys of the maps.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IPv6 address, or an IPv4 one as `::ffff:a.b.c.d`, in network byte order. Words, not bytes: the
/// BPF backend copies and compares them four octets at a time.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// `::`, which stands for "no address" in the tables.
    pub const NONE: Self = Self([0; 4]);

    /// An IPv4 address, as `::ffff:a.b.c.d`; `word` is in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn from_ipv4_word(word: u32) -> Self {
        Self([0, 0, 0x0000_ffff_u32.to_be(), word])
    }

    /// The address with these octets.
    #[must_use]
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }

    /// The octets.
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        let [w, x, y, z] = self.0;
        let ([a, b, c, d], [e, f, g, h]) = (w.to_ne_bytes(), x.to_ne_bytes());
        let ([i, j, k, l], [m, n, o, p]) = (y.to_ne_bytes(), z.to_ne_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(ip: core::net::IpAddr) -> Self {
        Self::from_octets(match ip {
            core::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            core::net::IpAddr::V6(v6) => v6.octets(),
        })
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        Self::V6(address.octets().into()).to_canonical()
    }
}

/// Key of [`crate::LEARNED`], [`crate::NEXT_HOP`] and [`crate::NEIGHBOUR`]: an address as seen by one endpoint.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EndpointAddress {
    /// The endpoint.
    pub endpoint: u32,
    /// The address; all zero in `NEXT_HOP` is the endpoint's last unicast next hop.
    pub address: Address,
}

/// Key of [`crate::UP_UDP`] and [`crate::UP_TCP`]: an upstream flow of the proxy.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct UpstreamKey {
    /// In whose name the proxy asks.
    pub endpoint: u32,
    /// The server's port, network byte order.
    pub server_port: u16,
    /// The proxy's own port, network byte order.
    pub local_port: u16,
    /// The server.
    pub server: Address,
}

/// Key of [`crate::UP_FRAGMENT`] and [`crate::FRAGMENT`]: what the fragments of one packet share.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FragmentKey {
    /// The endpoint.
    pub endpoint: u32,
    /// The packet's id, host byte order.
    pub id: u32,
    /// Who sent it.
    pub source: Address,
    /// Whom it is for.
    pub destination: Address,
    /// IPv4: the protocol. IPv6: 0, fragments may differ in it (RFC 8200 §4.5).
    pub protocol: u32,
}

/// Key of [`crate::SERVICES`]: a virtual address and port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ServiceKey {
    /// The virtual address.
    pub vip: Address,
    /// The service's port, network byte order.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Always 0.
    pub reserved: u8,
}

/// Key of [`crate::CT`]: a flow as one endpoint sees it, the same for packets of both directions.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CtKey {
    /// The endpoint.
    pub endpoint: u32,
    /// The endpoint's port, network byte order. Of an ICMP echo: the id where the endpoint asks, the
    /// request's type where it answers.
    pub local_port: u16,
    /// The peer's port, in the same way.
    pub peer_port: u16,
    /// The endpoint's address.
    pub local: Address,
    /// The peer's address.
    pub peer: Address,
    /// IANA protocol number.
    pub protocol: u8,
    /// Of an ICMP echo who asked: [`crate::INGRESS`] the peer, [`crate::EGRESS`] the endpoint. Of the rest
    /// 0: their ports say which packets belong together.
    pub asker: u8,
    /// Always 0.
    pub reserved: u16,
}

impl CtKey {
    /// A key of an endpoint that says nothing else yet.
    #[inline(always)]
    #[must_use]
    pub const fn of(endpoint: u32) -> Self {
        Self {
            endpoint,
            local_port: 0,
            peer_port: 0,
            local: Address::NONE,
            peer: Address::NONE,
            protocol: 0,
            asker: 0,
            reserved: 0,
        }
    }
}

/// Key of [`crate::CG_ASKER`]: a query as the DNS proxy on the node gets it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AskerKey {
    /// Where it comes from.
    pub source: Address,
    /// Its port, network byte order.
    pub source_port: u16,
    /// Of a datagram the first two octets: the message's id, network byte order. Of a connection 0.
    pub id: u16,
    /// IANA protocol number.
    pub protocol: u32,
}

/// Key of an endpoint's policy map. 0 in `identity` or `protocol` means any.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PolicyKey {
    /// The peer's identity.
    pub identity: u32,
    /// The first bits of the destination port, or of the type of ICMP, the rest 0; network byte order.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// How many bits of the port count, 0 to 16; the top bit is the direction.
    pub scope: u8,
}

impl PolicyKey {
    const DIRECTION_SHIFT: u8 = 7;
    /// No peer has this identity.
    const NOBODY: u32 = u32::MAX;

    /// The key of an entry for the ports that share their first `bits` bits with `port` (host byte
    /// order): 0 is every port, or a protocol without ports, 16 is one.
    #[inline(always)]
    #[must_use]
    pub const fn new(direction: u8, identity: u32, protocol: u8, port: (u16, u8)) -> Self {
        let (port, bits) = port;
        let bits = if bits > 16 { 16 } else { bits };
        let kept = (0xffff_0000_u32 >> bits) as u16;
        Self {
            identity,
            port: (port & kept).to_be(),
            protocol,
            scope: direction << Self::DIRECTION_SHIFT | bits,
        }
    }

    /// The entry whose `rule` says which lengths of ports a direction has: bit N is set where some
    /// entry has N bits. A length that isn't there is not asked for.
    #[inline(always)]
    #[must_use]
    pub const fn lengths(direction: u8) -> Self {
        Self::new(direction, Self::NOBODY, 0, (0, 0))
    }

    /// Whether this is no entry but says which lengths there are.
    #[must_use]
    pub const fn is_lengths(&self) -> bool {
        self.identity == Self::NOBODY
    }

    /// [`crate::INGRESS`] or [`crate::EGRESS`].
    #[must_use]
    pub const fn direction(&self) -> u8 {
        self.scope >> Self::DIRECTION_SHIFT
    }

    /// How many bits of the port count.
    #[must_use]
    pub const fn port_bits(&self) -> u8 {
        self.scope & 0x1f
    }
}

const _: () = {
    assert!(size_of::<EndpointAddress>() == 20);
    assert!(size_of::<UpstreamKey>() == 24);
    assert!(size_of::<FragmentKey>() == 44);
    assert!(size_of::<CtKey>() == 44);
    assert!(size_of::<PolicyKey>() == 8);
    assert!(size_of::<ServiceKey>() == 20);
    assert!(size_of::<AskerKey>() == 24);
};
