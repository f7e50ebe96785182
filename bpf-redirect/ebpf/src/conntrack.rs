//! Flows that were judged. Keyed by endpoint, so that one endpoint's entry never answers for another's, and
//! by what packets of both directions share, so that either finds it at once.

use aya_ebpf::{
    bindings::{BPF_EXIST, BPF_NOEXIST},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns},
};
use bpf_redirect_common::{
    Address, Aggregation, CT_PER_ENDPOINT_MAX, Config, CtKey, CtValue, Drop, EGRESS, INGRESS,
    TraceReason, Verdict,
};

use crate::{
    maps::{CT, CT_USE, on_stack},
    packet::{
        ECHO, ECHO_V6, Fragment, ICMP, ICMPV6, Packet, Quoted, SCTP, TCP, TCP_ACK, TCP_FIN,
        TCP_RST, TCP_SYN, UDP, kind,
    },
};

/// A packet as one endpoint sees it, without holes, as [`Packet`].
#[repr(C)]
pub struct Tuple {
    key: CtKey,
    flags: u8,
    /// Whether it may be the first of a flow: an echo's reply is none.
    opens: bool,
    /// Which way this packet goes.
    way: u8,
    /// Always 0.
    reserved: u8,
}

const _: () = assert!(size_of::<Tuple>() == 48);

/// What is known of a packet's flow.
pub struct Known {
    pub verdict: Verdict,
    /// The peer's identity when it was judged.
    pub identity: u32,
    /// Whether this packet answers.
    pub is_reply: bool,
    /// Whether this packet is told of.
    pub is_news: bool,
}

impl Known {
    #[inline(always)]
    pub fn reason(&self) -> TraceReason {
        if self.is_reply {
            TraceReason::Reply
        } else {
            TraceReason::Established
        }
    }
}

impl Tuple {
    /// The tuple of a packet going `way`; `None` for what has no flow (other protocols, later
    /// fragments, ICMP errors).
    #[inline(always)]
    pub fn of(endpoint: u32, way: u8, packet: &Packet) -> Option<Self> {
        let mut tuple = Self {
            key: CtKey::of(endpoint),
            flags: 0,
            opens: false,
            way,
            reserved: 0,
        };
        (tuple_of(packet, &mut tuple) != 0).then_some(tuple)
    }

    /// Whether this packet opens a TCP connection; it is always judged anew.
    #[inline(always)]
    pub fn opens_tcp(&self) -> bool {
        self.key.protocol == TCP && self.flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }

    /// What is known of the flow that this packet belongs to, and a note that it lives. A reply needs no
    /// rule.
    #[inline(always)]
    pub fn known(&self, config: &Config) -> Option<Known> {
        if self.opens_tcp() {
            return None;
        }
        let known = known_flow(self, config.aggregation, config.trace_ticks);
        if known as u8 == NOT_KNOWN {
            return None;
        }
        Some(Known {
            verdict: Verdict::from_number(known as u8),
            identity: (known >> 32) as u32,
            is_reply: known & IS_REPLY != 0,
            is_news: known & IS_NEWS != 0,
        })
    }

    /// Notes when the flow was seen, seldom; gives whether it is time to tell of this direction.
    #[inline(always)]
    unsafe fn is_due(&self, value: *mut CtValue, every: u32) -> bool {
        let way = usize::from(self.way == EGRESS);
        // SAFETY: no arguments, no effects; of the entry see `known_flow`.
        unsafe {
            let ticks = bpf_jiffies64() as u32;
            let before = (*value).ticks[way];
            if ticks.wrapping_sub(before) < CtValue::TICKS {
                return false;
            }
            (*value).last_seen = CtValue::seen_at(bpf_ktime_get_boot_ns());
            (*value).ticks[way] = ticks;
            every != 0 && ticks / every != before / every
        }
    }

    /// Notes what the packet says of the flow's state; gives whether no packet said it before.
    #[inline(always)]
    unsafe fn note(&self, value: *mut CtValue, is_reply: bool) -> bool {
        let mut state = if is_reply { CtValue::ANSWERED } else { 0 };
        let mut flags = 0;
        if self.key.protocol == TCP && self.flags & (TCP_SYN | TCP_FIN | TCP_RST) != 0 {
            flags = self.marks();
            if self.flags & TCP_RST != 0 {
                state |= CtValue::CLOSED;
            } else if self.flags & TCP_FIN != 0 {
                state |= if self.way == EGRESS {
                    CtValue::LOCAL_CLOSED
                } else {
                    CtValue::PEER_CLOSED
                };
            }
        }
        // SAFETY: see `known_flow`.
        unsafe {
            let is_new = (*value).state & state != state || (*value).flags & flags != flags;
            if is_new {
                (*value).state |= state;
                (*value).flags |= flags;
            } else if self.acknowledges()
                && (*value).verdict == Verdict::Redirect as u8
                && (*value).state & CtValue::ANSWERED == 0
            {
                // Nobody else says so: what the proxy sends to its clients passes by its mark.
                (*value).state |= CtValue::ANSWERED;
            }
            is_new
        }
    }

    /// Whether the packet says that the other side answered.
    #[inline(always)]
    fn acknowledges(&self) -> bool {
        self.key.protocol == TCP && self.flags & (TCP_SYN | TCP_ACK) == TCP_ACK
    }

    /// FIN, SYN and RST in the half of a byte that is this direction's.
    #[inline(always)]
    fn marks(&self) -> u8 {
        let flags = self.flags & (TCP_SYN | TCP_FIN | TCP_RST);
        if self.way == EGRESS {
            flags << 4
        } else {
            flags
        }
    }

    /// Remembers the flow that this packet opened, if it can have opened one.
    #[inline(always)]
    pub fn remember(&self, identity: u32, rule: u32, verdict: Verdict) -> Result<(), Drop> {
        if !self.opens {
            return Ok(());
        }
        // What the proxy has of the workload's, nobody takes away who sends from the server's address.
        if self.way == INGRESS && self.is_proxys(EGRESS) {
            return Ok(());
        }
        self.insert(identity, rule, verdict)
    }

    /// Remembers a connection of the proxy to the workload, unless it has the tuple of the peer's own,
    /// which was judged.
    #[inline(always)]
    pub fn remember_redirected(&self) -> Result<(), Drop> {
        if CT.get_ptr(&self.key).is_some() {
            return Ok(());
        }
        self.insert(0, 0, Verdict::Redirect)
    }

    /// Whether the flow was begun by the side that sends `way`, and is redirected.
    #[inline(always)]
    fn is_proxys(&self, way: u8) -> bool {
        // SAFETY: bytes that are read once.
        let known = unsafe { CT.get(&self.key) };
        known.is_some_and(|known| known.verdict == Verdict::Redirect as u8 && known.direction == way)
    }

    #[inline(always)]
    fn insert(&self, identity: u32, rule: u32, verdict: Verdict) -> Result<(), Drop> {
        match insert_flow(self, identity, rule, verdict as u32) {
            INSERTED => Ok(()),
            SHARE_FULL => Err(Drop::CtShareFull),
            _ => Err(Drop::CtInsertFailed),
        }
    }
}

/// Fills in the tuple of a packet of an endpoint that goes one way; gives 0 for what has no flow.
///
/// This and the next ones are functions that the verifier looks at by themselves, as `strongest` in
/// `policy.rs`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tuple_of(packet: *const Packet, tuple: *mut Tuple) -> u32 {
    // SAFETY: the verifier takes each for a whole one, or for nothing.
    let (Some(packet), Some(tuple)) = (unsafe { (packet.as_ref(), tuple.as_mut()) }) else {
        return 0;
    };
    let ports = (packet.source_port, packet.destination_port);
    if packet.fragment == Fragment::Later || !has_flow(packet.protocol, ports) {
        return 0;
    }
    let source = (packet.source, packet.source_port);
    let destination = (packet.destination, packet.destination_port);
    let about = (packet.protocol, packet.icmp);
    tuple.key = key((tuple.key.endpoint, tuple.way), about, source, destination);
    tuple.flags = packet.tcp_flags;
    tuple.opens = !matches!(packet.protocol, ICMP | ICMPV6) || asks(about);
    1
}

/// What no verdict is.
const NOT_KNOWN: u8 = u8::MAX;
/// Beside the verdict, and the identity from bit 32.
const IS_REPLY: u64 = 1 << 8;
const IS_NEWS: u64 = 1 << 9;

/// What is known of a packet's flow, in one number, and a note that it lives.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn known_flow(tuple: *const Tuple, aggregation: u32, trace_ticks: u32) -> u64 {
    // SAFETY: the verifier takes it for a whole tuple, or for nothing.
    let Some(tuple) = (unsafe { tuple.as_ref() }) else {
        return NOT_KNOWN.into();
    };
    let key = on_stack(&tuple.key);
    let Some(value) = CT.get_ptr_mut(&key) else {
        return NOT_KNOWN.into();
    };
    // SAFETY: the entry lives until the program ends (RCU); racing CPUs lose a time stamp or a flag that the
    // next packet writes again.
    unsafe {
        let is_reply = (*value).direction != tuple.way;
        let is_due = tuple.is_due(value, trace_ticks);
        let is_first = tuple.note(value, is_reply);
        let is_news = (aggregation >= LOW) | ((aggregation != OFF) & (is_due | is_first));
        u64::from((*value).verdict)
            | u64::from(is_reply) * IS_REPLY
            | u64::from(is_news) * IS_NEWS
            | u64::from((*value).identity) << 32
    }
}

/// What [`insert_flow`] gives; 0 if the kernel refuses.
const INSERTED: u32 = 1;
const SHARE_FULL: u32 = 2;

/// A full table, or a full share of the endpoint, refuses the new flow and evicts nothing.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn insert_flow(tuple: *const Tuple, identity: u32, rule: u32, verdict: u32) -> u32 {
    // SAFETY: as in `known_flow`.
    let Some(tuple) = (unsafe { tuple.as_ref() }) else {
        return 0;
    };
    // SAFETY: no arguments, no effects.
    let (now, ticks) = unsafe { (bpf_ktime_get_boot_ns(), bpf_jiffies64() as u32) };
    let value = CtValue {
        identity,
        rule,
        last_seen: CtValue::seen_at(now),
        ticks: [ticks; 2],
        verdict: verdict as u8,
        state: 0,
        direction: tuple.way,
        flags: if tuple.key.protocol == TCP { tuple.marks() } else { 0 },
    };
    let key = on_stack(&tuple.key);
    let Some(used) = used(key.endpoint) else {
        return 0;
    };
    let mut refusal = SHARE_FULL;
    // SAFETY: the entry lives until the program ends (RCU); racing CPUs may count a few flows too few, until
    // the next sweep.
    if unsafe { *used } < CT_PER_ENDPOINT_MAX as u64 {
        if CT.insert(&key, &value, BPF_NOEXIST.into()).is_ok() {
            // SAFETY: the same.
            unsafe { *used += 1 };
            return INSERTED;
        }
        refusal = 0;
    }
    // A flow that is there may be opened anew.
    match CT.insert(&key, &value, BPF_EXIST.into()) {
        Ok(()) => INSERTED,
        Err(_) => refusal,
    }
}

/// How many flows the endpoint has.
#[inline(always)]
fn used(endpoint: u32) -> Option<*mut u64> {
    if let Some(used) = CT_USE.get_ptr_mut(&endpoint) {
        return Some(used);
    }
    // Another CPU may have been first.
    let _ = CT_USE.insert(&endpoint, &0, BPF_NOEXIST.into());
    CT_USE.get_ptr_mut(&endpoint)
}

const OFF: u32 = Aggregation::Off as u32;
const LOW: u32 = Aggregation::Low as u32;

/// The identity of the peer of a flow that passes and that a quoted packet belongs to, which went `way`.
/// The quote may be forged: it makes no entry, and none lives longer by it.
#[inline(always)]
pub fn passing(endpoint: u32, way: u8, quoted: &Quoted) -> Option<u32> {
    if !has_flow(
        quoted.protocol,
        (quoted.source_port, quoted.destination_port),
    ) {
        return None;
    }
    let source = (quoted.source, quoted.source_port);
    let destination = (quoted.destination, quoted.destination_port);
    let key = key(
        (endpoint, way),
        (quoted.protocol, quoted.icmp),
        source,
        destination,
    );
    // SAFETY: plain integers that are read once.
    let value = unsafe { CT.get(&key) }?;
    // What the proxy has is between it and the workload.
    if value.verdict != Verdict::Allow as u8 {
        return None;
    }
    Some(value.identity)
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

/// Whether a packet of ICMP, by protocol and type, is an echo request.
#[inline(always)]
fn asks((protocol, icmp): (u8, u16)) -> bool {
    kind(icmp) == if protocol == ICMP { ECHO } else { ECHO_V6 }
}

/// The key of a packet going one way, by protocol and type of ICMP.
#[inline(always)]
fn key(
    (endpoint, way): (u32, u8),
    about: (u8, u16),
    source: (Address, u16),
    destination: (Address, u16),
) -> CtKey {
    let (local, peer) = if way == EGRESS {
        (source, destination)
    } else {
        (destination, source)
    };
    let (protocol, _) = about;
    let asker = match protocol {
        ICMP | ICMPV6 if asks(about) => way,
        ICMP | ICMPV6 => way ^ 1,
        _ => 0,
    };
    CtKey {
        endpoint,
        local_port: local.1,
        peer_port: peer.1,
        local: local.0,
        peer: peer.0,
        protocol,
        asker,
        reserved: 0,
    }
}

const _: () = assert!(EGRESS ^ 1 == INGRESS);
