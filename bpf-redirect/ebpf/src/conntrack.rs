//! Flows that were judged. Keyed by endpoint and by who began, so that one endpoint's entry never
//! answers for another's.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns};
use bpf_redirect_common::{Address, CtKey, CtValue, Drop, EGRESS, INGRESS, Verdict};

use crate::{
    maps::CT,
    packet::{Fragment, ICMP, ICMPV6, Packet, SCTP, TCP, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, UDP},
};

/// A packet as one endpoint sees it.
pub struct Tuple {
    key: CtKey,
    flags: u8,
    /// Which way this packet goes.
    way: u8,
}

impl Tuple {
    /// The tuple of a packet going `way`; `None` for what has no flow (other protocols, later
    /// fragments, ICMP errors).
    #[inline(always)]
    pub fn of(endpoint: u32, way: u8, packet: &Packet) -> Option<Self> {
        match packet.protocol {
            TCP | UDP | SCTP => {}
            // Only echoes have an id, and 0 is one that no common program uses.
            ICMP | ICMPV6 if packet.source_port != 0 && packet.destination_port != 0 => {}
            _ => return None,
        }
        if packet.fragment == Fragment::Later {
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
            way,
        })
    }

    /// Whether this packet opens a TCP connection; it is always judged anew.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.key.protocol == TCP && self.flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }

    /// The verdict of the flow that this packet belongs to, and a note that it lives.
    #[inline(always)]
    pub fn known(&mut self) -> Option<Verdict> {
        if self.opens() {
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

    /// Remembers the flow that this packet opened.
    ///
    /// A full table refuses the new flow and evicts nothing.
    #[inline(always)]
    pub fn remember(&mut self, identity: u32, rule: u32, verdict: Verdict) -> Result<(), Drop> {
        self.key.direction = self.way;
        let value = fresh(identity, rule, verdict);
        CT.insert(&self.key, &value, 0).map_err(|_| Drop::CtInsertFailed)
    }

    /// Remembers a connection of the proxy to the workload, unless it has the tuple of the peer's own,
    /// which was judged.
    #[inline(always)]
    pub fn remember_redirected(mut self) -> Result<(), Drop> {
        self.key.direction = self.way;
        if CT.get_ptr(&self.key).is_some() {
            return Ok(());
        }
        let value = fresh(0, 0, Verdict::Redirect);
        CT.insert(&self.key, &value, 0).map_err(|_| Drop::CtInsertFailed)
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
