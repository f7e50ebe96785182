//! Flows that were judged. Keyed by endpoint and by who began, so that one endpoint's entry never
//! answers for another's.

use aya_ebpf::{
    bindings::{BPF_EXIST, BPF_NOEXIST},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns},
};
use bpf_redirect_common::{
    Address, CT_PER_ENDPOINT_MAX, CtKey, CtValue, Drop, EGRESS, INGRESS, Verdict,
};

use crate::{
    maps::{CT, CT_USE},
    packet::{
        ECHO, ECHO_V6, Fragment, ICMP, ICMPV6, Packet, Quoted, SCTP, TCP, TCP_ACK, TCP_FIN, TCP_RST,
        TCP_SYN, UDP, kind,
    },
};

/// A packet as one endpoint sees it.
pub struct Tuple {
    key: CtKey,
    flags: u8,
    /// Whether it may be the first of a flow: an echo's reply is none.
    opens: bool,
    /// Which way this packet goes.
    way: u8,
}

impl Tuple {
    /// The tuple of a packet going `way`; `None` for what has no flow (other protocols, later
    /// fragments, ICMP errors).
    #[inline(always)]
    pub fn of(endpoint: u32, way: u8, packet: &Packet) -> Option<Self> {
        let ports = (packet.source_port, packet.destination_port);
        if packet.fragment == Fragment::Later || !has_flow(packet.protocol, ports) {
            return None;
        }
        let (local, local_port, peer, peer_port) = if way == EGRESS {
            (packet.source, packet.source_port, packet.destination, packet.destination_port)
        } else {
            (packet.destination, packet.destination_port, packet.source, packet.source_port)
        };
        Some(Self {
            key: key(endpoint, packet.protocol, (local, local_port), (peer, peer_port)),
            flags: packet.tcp_flags,
            opens: match packet.protocol {
                ICMP => kind(packet.icmp) == ECHO,
                ICMPV6 => kind(packet.icmp) == ECHO_V6,
                _ => true,
            },
            way,
        })
    }

    /// Whether this packet opens a TCP connection; it is always judged anew.
    #[inline(always)]
    pub fn opens_tcp(&self) -> bool {
        self.key.protocol == TCP && self.flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }

    /// The verdict of the flow that this packet belongs to, and a note that it lives.
    #[inline(always)]
    pub fn known(&mut self) -> Option<Verdict> {
        if self.opens_tcp() {
            return None;
        }
        self.key.direction = self.way;
        if let Some(verdict) = self.touch(false) {
            return Some(verdict);
        }
        // The other side began: this is a reply, and replies need no rule.
        self.key.direction = if self.way == EGRESS { INGRESS } else { EGRESS };
        self.touch(true)
    }

    /// Whether the flow that [`Tuple::known`] found was begun by the other side.
    #[inline(always)]
    pub fn is_reply(&self) -> bool {
        self.key.direction != self.way
    }

    #[inline(always)]
    fn touch(&self, reply: bool) -> Option<Verdict> {
        let value = CT.get_ptr_mut(&self.key)?;
        let mut seen = if reply { CtValue::ANSWERED } else { 0 };
        if self.key.protocol == TCP {
            if self.flags & TCP_RST != 0 {
                seen |= CtValue::CLOSED;
            } else if self.flags & TCP_FIN != 0 {
                seen |= if self.way == EGRESS { CtValue::LOCAL_CLOSED } else { CtValue::PEER_CLOSED };
            }
        }
        // SAFETY: the entry lives until the program ends (RCU); racing CPUs lose a time stamp or a
        // flag that the next packet writes again.
        unsafe {
            let ticks = bpf_jiffies64() as u32;
            if ticks.wrapping_sub((*value).ticks) >= CtValue::TICKS {
                (*value).last_seen = bpf_ktime_get_boot_ns();
                (*value).ticks = ticks;
            }
            if (*value).state & seen != seen {
                (*value).state |= seen;
            }
            Some(Verdict::from_number((*value).verdict))
        }
    }

    /// Remembers the flow that this packet opened, if it can have opened one.
    #[inline(always)]
    pub fn remember(&mut self, identity: u32, rule: u32, verdict: Verdict) -> Result<(), Drop> {
        if !self.opens {
            return Ok(());
        }
        self.key.direction = self.way;
        self.insert(&fresh(identity, rule, verdict))
    }

    /// A full table, or a full share of the endpoint, refuses the new flow and evicts nothing.
    #[inline(always)]
    fn insert(&self, value: &CtValue) -> Result<(), Drop> {
        let used = used(self.key.endpoint)?;
        let mut refusal = Drop::CtShareFull;
        // SAFETY: the entry lives until the program ends (RCU); racing CPUs may count a few flows too
        // few, until the next sweep.
        if unsafe { *used } < CT_PER_ENDPOINT_MAX as u64 {
            if CT.insert(&self.key, value, BPF_NOEXIST.into()).is_ok() {
                // SAFETY: the same.
                unsafe { *used += 1 };
                return Ok(());
            }
            refusal = Drop::CtInsertFailed;
        }
        // A flow that is there may be opened anew.
        CT.insert(&self.key, value, BPF_EXIST.into()).map_err(|_| refusal)
    }

    /// Remembers a connection of the proxy to the workload, unless it has the tuple of the peer's own,
    /// which was judged.
    #[inline(always)]
    pub fn remember_redirected(mut self) -> Result<(), Drop> {
        self.key.direction = self.way;
        if CT.get_ptr(&self.key).is_some() {
            return Ok(());
        }
        self.insert(&fresh(0, 0, Verdict::Redirect))
    }
}

#[inline(always)]
fn fresh(identity: u32, rule: u32, verdict: Verdict) -> CtValue {
    CtValue {
        // SAFETY: no arguments, no effects.
        last_seen: unsafe { bpf_ktime_get_boot_ns() },
        identity,
        rule,
        verdict: verdict as u8,
        state: 0,
        reserved: [0; 2],
        // SAFETY: the same.
        ticks: unsafe { bpf_jiffies64() } as u32,
    }
}

/// Whether a flow passes that a quoted packet belongs to, which went `way`. The quote may be forged: it
/// makes no entry, and none lives longer by it.
#[inline(always)]
pub fn passes(endpoint: u32, way: u8, quoted: &Quoted) -> bool {
    if !has_flow(quoted.protocol, (quoted.source_port, quoted.destination_port)) {
        return false;
    }
    let source = (quoted.source, quoted.source_port);
    let destination = (quoted.destination, quoted.destination_port);
    let mut key = match way {
        EGRESS => key(endpoint, quoted.protocol, source, destination),
        _ => key(endpoint, quoted.protocol, destination, source),
    };
    for direction in [EGRESS, INGRESS] {
        key.direction = direction;
        // SAFETY: a byte that is read once.
        if let Some(value) = unsafe { CT.get(&key) } {
            // What the proxy has is between it and the workload.
            return value.verdict == Verdict::Allow as u8;
        }
    }
    false
}

/// Whether packets of this protocol, with these ports, are told apart by flows. Only echoes of ICMP have
/// an id, and 0 is one that no common program uses.
#[inline(always)]
fn has_flow(protocol: u8, ports: (u16, u16)) -> bool {
    match protocol {
        TCP | UDP | SCTP => true,
        ICMP | ICMPV6 => ports.0 != 0 && ports.1 != 0,
        _ => false,
    }
}

/// How many flows the endpoint has.
#[inline(always)]
fn used(endpoint: u32) -> Result<*mut u64, Drop> {
    if let Some(used) = CT_USE.get_ptr_mut(&endpoint) {
        return Ok(used);
    }
    // Another CPU may have been first.
    let _ = CT_USE.insert(&endpoint, &0, BPF_NOEXIST.into());
    CT_USE.get_ptr_mut(&endpoint).ok_or(Drop::CtInsertFailed)
}

#[inline(always)]
fn key(endpoint: u32, protocol: u8, local: (Address, u16), peer: (Address, u16)) -> CtKey {
    CtKey {
        endpoint,
        local_port: local.1,
        peer_port: peer.1,
        local: local.0,
        peer: peer.0,
        protocol,
        direction: 0,
        reserved: 0,
    }
}
