//! Values of the maps.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// Addresses of one endpoint; an endpoint with more is refused.
pub const ADDRESSES_PER_ENDPOINT_MAX: usize = 8;

/// Value of [`crate::CONFIG`]: what all five programs must agree on, and what outlives a program.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Config {
    /// [`crate::LAYOUT_VERSION`] of whoever wrote the maps.
    pub layout: u32,
    /// The node's end of the side link.
    pub side_link_ifindex: u32,
    /// Random; on a packet that the node's end injects at the endpoint's interface.
    pub inject_mark: u32,
    /// Random; on a packet that the node's end hands to the endpoint.
    pub client_mark: u32,
    /// An [`crate::Aggregation`].
    pub aggregation: u32,
    /// How often a flow that lives is told of, in the kernel's ticks; 0 is never.
    pub trace_ticks: u32,
}

/// Value of [`crate::EP_IF`]: the endpoint behind an interface.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EndpointIf {
    /// Its addresses; unused ones are all zero.
    pub addresses: [Address; ADDRESSES_PER_ENDPOINT_MAX],
    /// Its number.
    pub endpoint: u32,
    /// The workload's own MAC.
    pub workload_mac: [u8; 6],
    /// 1 until the programs of both its hooks are attached: they let everything pass till then. One of them
    /// alone would send flows to the proxy whose answers the other doesn't know.
    pub attaching: u8,
    /// Always 0.
    pub reserved: [u8; 5],
}

/// Value of [`crate::EP_ID`]: how to reach an endpoint.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EndpointLink {
    /// The host side of its link.
    pub ifindex: u32,
    /// The workload's own MAC.
    pub workload_mac: [u8; 6],
    /// The MAC of the host side.
    pub host_mac: [u8; 6],
}

/// Value of [`crate::NEXT_HOP`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct NextHop {
    /// The destination MAC that the workload itself used.
    pub mac: [u8; 6],
    /// Always 0.
    pub reserved: u16,
}

/// Value of [`crate::FRAGMENT`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FirstFragment {
    /// When it passed, in nanoseconds since boot.
    pub at: u64,
    /// The peer's identity.
    pub identity: u32,
    /// Always 0.
    pub reserved: u32,
}

/// Value of [`crate::CT`]. With its key it fits into what the kernel takes for an entry of 24 octets.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CtValue {
    /// The peer's identity when the flow was judged.
    pub identity: u32,
    /// The rule that decided.
    pub rule: u32,
    /// When a packet of either direction was seen last, or one that came up to [`CtValue::TICKS`] after
    /// it: the time since boot (`bpf_ktime_get_boot_ns`) without its low [`CtValue::SEEN_SHIFT`] bits.
    pub last_seen: u32,
    /// When that was noted, in the kernel's ticks: for [`crate::INGRESS`], for [`crate::EGRESS`].
    pub ticks: [u32; 2],
    /// A [`Verdict`].
    pub verdict: u8,
    /// TCP: bit 0 the endpoint's FIN or RST was seen, bit 1 the peer's, bit 2 an answer was seen.
    pub state: u8,
    /// Who began: [`crate::INGRESS`] the peer, [`crate::EGRESS`] the endpoint.
    pub direction: u8,
    /// TCP: which of FIN, SYN and RST (RFC 9293 §3.1) were seen: of ingress in the low half, of egress in
    /// the high one.
    pub flags: u8,
}

impl CtValue {
    /// How many ticks of the kernel (1 to 10 ms) a time stamp is good for: reading the clock costs as much
    /// as finding the entry.
    pub const TICKS: u32 = 256;
    /// `last_seen` counts 16.8 ms.
    pub const SEEN_SHIFT: u32 = 24;
    /// The endpoint has closed its half (FIN), or reset.
    pub const LOCAL_CLOSED: u8 = 1;
    /// The peer has closed its half (FIN), or reset.
    pub const PEER_CLOSED: u8 = 2;
    /// A packet of the other direction was seen.
    pub const ANSWERED: u8 = 4;
    /// Both halves are closed.
    pub const CLOSED: u8 = Self::LOCAL_CLOSED | Self::PEER_CLOSED;

    /// What `last_seen` says of a time, in nanoseconds since boot.
    #[inline(always)]
    #[must_use]
    pub const fn seen_at(ns: u64) -> u32 {
        (ns >> Self::SEEN_SHIFT) as u32
    }

    /// How long the flow is silent, in nanoseconds, up to a year; 0 if a packet came after `now`.
    #[must_use]
    pub const fn silent_ns(&self, now: u64) -> u64 {
        let units = Self::seen_at(now).wrapping_sub(self.last_seen);
        if units > u32::MAX / 2 {
            return 0;
        }
        (units as u64) << Self::SEEN_SHIFT
    }
}

/// Value of [`crate::SERVICES`]: what a flow to a virtual address is judged as.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ServiceValue {
    /// Whose identity it has.
    pub identity: u32,
    /// The endpoint that alone stands behind it, and reaches itself there; 0 if there is none.
    pub endpoint: u32,
    /// The backends' port, host byte order.
    pub port: u16,
    /// Always 0.
    pub reserved: u16,
}

/// Value of an endpoint's policy map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PolicyValue {
    /// The rule that made the entry; under [`crate::PolicyKey::lengths`] a bit for each length.
    pub rule: u32,
    /// A [`Verdict`].
    pub verdict: u8,
    /// Of [`Verdict::Redirect`]: which proxy. The larger number wins where several entries match.
    pub proxy: u8,
    /// Always 0.
    pub reserved: [u8; 2],
}

impl PolicyValue {
    /// What a rule says, and no proxy.
    #[must_use]
    pub const fn new(rule: u32, verdict: Verdict) -> Self {
        Self {
            rule,
            verdict: verdict as u8,
            proxy: 0,
            reserved: [0; 2],
        }
    }
}

/// Value of [`crate::EVENT_BUDGET`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EventBudget {
    /// When the running second began, nanoseconds since boot.
    pub since: u64,
    /// Events told in it.
    pub told: u64,
}

/// Value of [`crate::CG_ENDPOINT`] and [`crate::CG_ID`]: whose cgroup it is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CgroupEndpoint {
    /// The endpoint; 0 before it was written.
    pub endpoint: u32,
    /// Always 0.
    pub reserved: u32,
}

/// Value of [`crate::CG_LISTEN`]: ports of the DNS proxy on the node, on 127.0.0.1 and `::1`, in network
/// byte order; 0 where it doesn't listen.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Listeners {
    /// UDP on 127.0.0.1.
    pub udp4: u16,
    /// UDP on `::1`.
    pub udp6: u16,
    /// TCP on 127.0.0.1.
    pub tcp4: u16,
    /// TCP on `::1`.
    pub tcp6: u16,
}

/// Value of [`crate::CG_SOCKET`]: the DNS server that a redirected socket means.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SocketServer {
    /// Its address.
    pub server: Address,
    /// Its port, network byte order.
    pub port: u16,
    /// Always 0.
    pub reserved: u16,
}

/// Value of [`crate::CG_ASKER`]: in whose name a query goes on, and where to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AskerValue {
    /// The endpoint.
    pub endpoint: u32,
    /// The server that was meant.
    pub server: Address,
    /// Its port, network byte order.
    pub port: u16,
    /// Always 0.
    pub reserved: u16,
}

/// What policy says; the larger number wins where several entries match.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Verdict {
    /// Nothing allows it.
    Unmatched = 0,
    /// Nothing allows it; that is told, and it passes.
    AuditUnmatched = 1,
    /// Let it through.
    Allow = 2,
    /// A deny rule forbids it; that is told, and it passes.
    AuditDeny = 3,
    /// A datagram where over TCP a name is needed: it is dropped, and its sender told by ICMP.
    Refuse = 4,
    /// Send it to the proxy.
    Redirect = 5,
    /// A rule that allows it fails its authentication.
    FailAuthentication = 6,
    /// A deny rule forbids it.
    Deny = 7,
}

impl Verdict {
    /// The verdict with this number. An unknown number is `Deny`: it comes from a newer layout.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Unmatched,
            1 => Self::AuditUnmatched,
            2 => Self::Allow,
            3 => Self::AuditDeny,
            4 => Self::Refuse,
            5 => Self::Redirect,
            6 => Self::FailAuthentication,
            _ => Self::Deny,
        }
    }
}

/// Which entry decided; Hubble's numbers (`pkg/monitor/api`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Match {
    /// No entry.
    None = 0,
    /// Identity, any protocol.
    L3Only = 1,
    /// Identity, protocol, port.
    L3L4 = 2,
    /// Any identity, protocol, port.
    L4Only = 3,
    /// Any identity, any protocol.
    All = 4,
    /// Identity, protocol, any port.
    L3Proto = 5,
    /// Any identity, protocol, any port.
    ProtoOnly = 6,
}

const _: () = {
    assert!(size_of::<Config>() == 24);
    assert!(size_of::<EndpointIf>() == 144);
    assert!(size_of::<EndpointLink>() == 16);
    assert!(size_of::<NextHop>() == 8);
    assert!(size_of::<FirstFragment>() == 16);
    assert!(size_of::<CtValue>() == 24);
    assert!(size_of::<PolicyValue>() == 8);
    assert!(size_of::<ServiceValue>() == 12);
    assert!(size_of::<EventBudget>() == 16);
    assert!(size_of::<CgroupEndpoint>() == 8);
    assert!(size_of::<Listeners>() == 8);
    assert!(size_of::<SocketServer>() == 20);
    assert!(size_of::<AskerValue>() == 24);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_across_the_end_of_the_counter() {
        let value = |ns| CtValue {
            identity: 0,
            rule: 0,
            last_seen: CtValue::seen_at(ns),
            ticks: [0; 2],
            verdict: 0,
            state: 0,
            direction: 0,
            flags: 0,
        };
        let (second, end) = (1_000_000_000, 1 << (32 + CtValue::SEEN_SHIFT));
        for (seen, now, least) in [
            (0, 0, 0),
            (second, 181 * second, 179 * second),
            (end - second, end + 9 * second, 9 * second),
            (5 * second, 4 * second, 0),
        ] {
            let silent = value(seen).silent_ns(now);
            assert!(
                (least..=least + 2 * second).contains(&silent),
                "{seen} {now}: {silent}"
            );
        }
    }
}
