//! Why a packet was dropped, and what else is counted.

/// Why a packet was dropped, with Hubble's numbers where it has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Drop {
    /// The frame's source MAC isn't the workload's.
    InvalidSourceMac = 130,
    /// The source address isn't the endpoint's.
    InvalidSourceIp = 132,
    /// No policy entry allows it.
    PolicyDenied = 133,
    /// Headers that don't fit together.
    InvalidPacket = 134,
    /// The transport header is cut short.
    TruncatedHeader = 135,
    /// Neither IP nor ARP.
    UnsupportedL3 = 139,
    /// The conntrack table is full: a new flow is refused, a live one is never evicted.
    CtInsertFailed = 155,
    /// IPv6 extension headers that can't be walked.
    InvalidExtensionHeader = 156,
    /// A fragment where only whole packets can be judged.
    Fragment = 157,
    /// The interface has no endpoint, or the endpoint no policy map.
    NoConfiguration = 165,
    /// A later fragment whose first one did not pass, or is forgotten, where no rule allows all ports.
    FragmentNotFound = 175,
    /// A message of neighbour discovery to somebody who never showed that he is on the link.
    ForbiddenIcmpv6 = 176,
    /// A datagram where over TCP a name is needed, which no proxy reads in it. Its sender is told by ICMP.
    NameHidden = 180,
    /// A deny rule.
    PolicyDeny = 181,
    /// A VLAN tag on an endpoint's interface.
    Vlan = 182,
    /// A rule allows it that fails its authentication (`test-always-fail`).
    AuthenticationRequired = 189,
    /// Side link: no valid kind and endpoint in the frame or mark.
    NoKind = 240,
    /// Side link: the endpoint of the frame isn't known.
    UnknownEndpoint = 241,
    /// Side link: no next hop is known for an upstream packet.
    NoNextHop = 242,
    /// Side link: an upstream packet that can't be an upstream flow (parse, map full).
    BadUpstream = 243,
    /// Side link: an answer addressed to a listener's port.
    UpstreamToListener = 244,
    /// Not addressed to the endpoint (flooded, multicast), under enforced ingress.
    NotForEndpoint = 245,
    /// The program of the interface is being attached anew.
    Closed = 247,
    /// The endpoint's share of the conntrack table is full: a new flow of this endpoint is refused.
    CtShareFull = 248,
    /// Cgroup: a packet for a proxy whose socket no hook has redirected there.
    NotRedirected = 249,
}

impl Drop {
    /// Every reason, with the word used in counters and logs.
    pub const ALL: [(Self, &'static str); 25] = [
        (Self::InvalidSourceMac, "invalid-source-mac"),
        (Self::InvalidSourceIp, "invalid-source-ip"),
        (Self::PolicyDenied, "policy-denied"),
        (Self::InvalidPacket, "invalid-packet"),
        (Self::TruncatedHeader, "truncated-header"),
        (Self::UnsupportedL3, "unsupported-l3"),
        (Self::CtInsertFailed, "ct-insert-failed"),
        (Self::InvalidExtensionHeader, "invalid-extension-header"),
        (Self::Fragment, "fragment"),
        (Self::NoConfiguration, "no-configuration"),
        (Self::FragmentNotFound, "fragment-not-found"),
        (Self::ForbiddenIcmpv6, "forbidden-icmpv6-message"),
        (Self::NameHidden, "name-hidden"),
        (Self::PolicyDeny, "policy-deny"),
        (Self::Vlan, "vlan"),
        (Self::AuthenticationRequired, "authentication-required"),
        (Self::NoKind, "no-kind"),
        (Self::UnknownEndpoint, "unknown-endpoint"),
        (Self::NoNextHop, "no-next-hop"),
        (Self::BadUpstream, "bad-upstream"),
        (Self::UpstreamToListener, "upstream-to-listener"),
        (Self::NotForEndpoint, "not-for-endpoint"),
        (Self::Closed, "closed"),
        (Self::CtShareFull, "ct-share-full"),
        (Self::NotRedirected, "not-redirected"),
    ];

    /// The word used in counters and logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(reason, _)| *reason == self)
            .map_or("unknown", |(_, word)| word)
    }

    /// The reason with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL
            .iter()
            .map(|(reason, _)| *reason)
            .find(|reason| *reason as u8 == number)
    }
}

/// Slots of [`crate::COUNTERS_MAP`] that aren't drop reasons. A drop counts in the slot of its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Counter {
    /// Events lost since the ring buffer was full.
    EventsLost = 0,
    /// Events not told since an endpoint's budget for the second was spent.
    EventsLimited = 1,
    /// Packets sent to the proxy.
    Redirected = 2,
    /// Answers of upstream flows caught for the proxy.
    Caught = 3,
    /// Upstream packets injected.
    Injected = 4,
    /// Packets handed to an endpoint.
    Delivered = 5,
    /// Datagrams whose sender was told that they are refused.
    Refused = 6,
}

/// Slots of the counter map: a slot for each `u8`.
pub const COUNTERS: usize = 256;

impl Counter {
    /// Every counter, with its word.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::EventsLost, "events-lost"),
        (Self::EventsLimited, "events-limited"),
        (Self::Redirected, "redirected"),
        (Self::Caught, "caught"),
        (Self::Injected, "injected"),
        (Self::Delivered, "delivered"),
        (Self::Refused, "refused"),
    ];
}
