//! The side link: every frame on it says of which kind it is and which endpoint it belongs to.

use aya_ebpf::{
    bindings::BPF_F_RECOMPUTE_CSUM,
    helpers::generated::{bpf_redirect, bpf_skb_store_bytes},
    programs::TcContext,
};
use bpf_redirect_common::{
    Address, Config, Counter, DNS_PORT, Drop, EndpointAddress, GATE_MAC, INGRESS, Kind, Mark, NextHop,
    REFUSAL_MAC,
};

use crate::{
    Action,
    conntrack::Tuple,
    dns,
    maps::{CONFIG, EP_ID, NEXT_HOP},
    packet::{Fragment, Packet, TCP, UDP, load, parse},
    refusal,
    tell::count,
    upstream,
};

/// `bpf_redirect`: hand the packet to the interface's receive path.
const INTO_INTERFACE: u64 = 1;

/// Sends a workload's packet to the proxy and remembers where the workload sent it.
#[inline(always)]
pub fn to_proxy(
    ctx: &TcContext,
    config: &Config,
    endpoint: u32,
    packet: &Packet,
) -> Result<Action, Drop> {
    // A group address is no next hop.
    if packet.destination_mac[0] & 1 == 0 {
        let hop = NextHop {
            mac: packet.destination_mac,
            reserved: 0,
        };
        remember_hop(
            EndpointAddress {
                endpoint,
                address: packet.destination,
            },
            hop,
        );
        remember_hop(
            EndpointAddress {
                endpoint,
                address: Address::NONE,
            },
            hop,
        );
    }
    count(Counter::Redirected as u32);
    to_side_link(ctx, config, (Kind::Client, endpoint), GATE_MAC)
}

/// Sends what a peer sends to a workload to the proxy, and remembers from where it came: the proxy's
/// answers go back that way, as the workload's.
#[inline(always)]
pub fn to_proxy_inbound(
    ctx: &TcContext,
    config: &Config,
    endpoint: u32,
    packet: &Packet,
) -> Result<Action, Drop> {
    if packet.source_mac[0] & 1 == 0 {
        let hop = NextHop { mac: packet.source_mac, reserved: 0 };
        remember_hop(EndpointAddress { endpoint, address: packet.source }, hop);
    }
    count(Counter::Redirected as u32);
    to_side_link(ctx, config, (Kind::Upstream, endpoint), GATE_MAC)
}

/// Sends the answer of an upstream flow to the proxy.
#[inline(always)]
pub fn to_gate(
    ctx: &TcContext,
    config: &Config,
    kind: Kind,
    endpoint: u32,
) -> Result<Action, Drop> {
    count(Counter::Caught as u32);
    to_side_link(ctx, config, (kind, endpoint), GATE_MAC)
}

/// Sends a workload's datagram to where it becomes an error about itself.
#[inline(always)]
pub fn to_refusal(ctx: &TcContext, config: &Config, endpoint: u32) -> Result<Action, Drop> {
    to_side_link(ctx, config, (Kind::Client, endpoint), REFUSAL_MAC)
}

#[inline(always)]
fn to_side_link(
    ctx: &TcContext,
    config: &Config,
    (kind, endpoint): (Kind, u32),
    to: [u8; 6],
) -> Result<Action, Drop> {
    let mark = Mark::new(kind, endpoint).ok_or(Drop::NoKind)?;
    set_macs(ctx, to, mark.to_mac())?;
    Ok(redirect(config.side_link_ifindex, 0))
}

/// The node's end: delivers by kind.
#[inline(always)]
pub fn deliver(ctx: &TcContext) -> Result<Action, Drop> {
    let mark = Mark::from_mac(source_mac(ctx)?).ok_or(Drop::NoKind)?;
    let config = CONFIG.get(0).ok_or(Drop::NoConfiguration)?;
    let endpoint = mark.endpoint();
    // SAFETY: read only; user space replaces whole entries.
    let link = unsafe { EP_ID.get(&endpoint) }.ok_or(Drop::UnknownEndpoint)?;
    match mark.kind() {
        Kind::Client => {
            if is_tcp(ctx) {
                remember_inbound(ctx, endpoint)?;
            }
            set_macs(ctx, link.workload_mac, link.host_mac)?;
            ctx.set_mark(config.client_mark);
            count(Counter::Delivered as u32);
            Ok(redirect(link.ifindex, 0))
        }
        Kind::Upstream => {
            let mut packet = Packet::NONE;
            parse(ctx, &mut packet)?;
            if packet.is_neighbours() {
                return Err(Drop::BadUpstream);
            }
            if packet.fragment != Fragment::Later {
                upstream::remember(endpoint, &packet)?;
            }
            let hop = next_hop(endpoint, packet.destination).ok_or(Drop::NoNextHop)?;
            set_macs(ctx, hop, link.workload_mac)?;
            ctx.set_mark(config.inject_mark);
            count(Counter::Injected as u32);
            Ok(redirect(link.ifindex, INTO_INTERFACE))
        }
    }
}

/// Remembers a connection that the proxy opens to the workload in a peer's name: what the workload
/// answers is the proxy's, from whichever port it came.
#[inline(always)]
fn remember_inbound(ctx: &TcContext, endpoint: u32) -> Result<(), Drop> {
    let mut packet = Packet::NONE;
    parse(ctx, &mut packet)?;
    if packet.is_neighbours() {
        return Err(Drop::BadUpstream);
    }
    match Tuple::of(endpoint, INGRESS, &packet) {
        Some(tuple) if tuple.opens_tcp() => tuple.remember_redirected(),
        Some(_) | None => Ok(()),
    }
}

/// Whether a packet of the gate's own kernel is TCP: it writes no extension headers.
#[inline(always)]
fn is_tcp(ctx: &TcContext) -> bool {
    // From the Ethernet type to the IPv4 protocol; in IPv6 the next header stands before it.
    let Some(words) = load::<[u16; 6]>(ctx, 12) else {
        return false;
    };
    match u16::from_be(words[0]) {
        0x0800 => words[5].to_be() as u8 == TCP,
        0x86dd => (words[4].to_be() >> 8) as u8 == TCP,
        _ => false,
    }
}

/// The gate's end, inwards: MAC into mark. What has no kind, and an answer that would meet a
/// listener, dies here. What is refused goes back.
#[inline(always)]
pub fn enter_gate(ctx: &TcContext) -> Result<Action, Drop> {
    let mark = Mark::from_mac(source_mac(ctx)?).ok_or(Drop::NoKind)?;
    let to: [u8; 6] = load(ctx, 0).ok_or(Drop::InvalidPacket)?;
    if to == REFUSAL_MAC {
        return refusal::answer(ctx, mark);
    }
    if mark.kind() == Kind::Upstream {
        let mut packet = Packet::NONE;
        parse(ctx, &mut packet)?;
        if packet.is_neighbours() {
            return Err(Drop::BadUpstream);
        }
        let is_listener = match packet.protocol {
            UDP => dns::is_port(packet.destination_port),
            // At the other ports all that is redirected has one listener, which takes a server's leg too.
            _ => packet.destination_port == DNS_PORT.to_be(),
        };
        if is_listener {
            return Err(Drop::UpstreamToListener);
        }
    }
    ctx.set_mark(mark.number());
    Ok(Action::Pass)
}

/// The gate's end, outwards: mark into MAC.
#[inline(always)]
pub fn leave_gate(ctx: &TcContext) -> Result<Action, Drop> {
    // SAFETY: the verifier knows `__sk_buff`.
    let number = unsafe { (*ctx.skb.skb).mark };
    let mark = Mark::from_number(number).ok_or(Drop::NoKind)?;
    store(ctx, 6, &mark.to_mac())?;
    Ok(Action::Pass)
}

/// Sends the packet to an interface once the program ends.
#[inline(always)]
pub fn redirect(ifindex: u32, flags: u64) -> Action {
    // SAFETY: a helper with plain arguments; it refuses flags that it doesn't know, and has none such.
    unsafe { bpf_redirect(ifindex, flags) };
    Action::Redirect
}

#[inline(always)]
fn next_hop(endpoint: u32, destination: Address) -> Option<[u8; 6]> {
    let key = EndpointAddress {
        endpoint,
        address: destination,
    };
    let last = EndpointAddress {
        endpoint,
        address: Address::NONE,
    };
    // SAFETY: six bytes that are copied at once.
    unsafe { NEXT_HOP.get(&key).or_else(|| NEXT_HOP.get(&last)) }.map(|hop| hop.mac)
}

#[inline(always)]
fn remember_hop(key: EndpointAddress, hop: NextHop) {
    // SAFETY: six bytes that are compared at once.
    if unsafe { NEXT_HOP.get(&key) }.is_none_or(|known| known.mac != hop.mac) {
        // The table is an LRU: a failed write means that the answer finds another next hop or none.
        let _ = NEXT_HOP.insert(&key, &hop, 0);
    }
}

#[inline(always)]
fn source_mac(ctx: &TcContext) -> Result<[u8; 6], Drop> {
    load(ctx, 6).ok_or(Drop::InvalidPacket)
}

#[inline(always)]
fn set_macs(ctx: &TcContext, destination: [u8; 6], source: [u8; 6]) -> Result<(), Drop> {
    let [a, b, c, d, e, f] = destination;
    let [g, h, i, j, k, l] = source;
    store(ctx, 0, &[a, b, c, d, e, f, g, h, i, j, k, l])
}

/// Writes a value over the packet; a checksum that a card has made of it follows.
#[inline(always)]
pub fn store_over<T>(ctx: &TcContext, at: u32, value: &T) -> Result<(), Drop> {
    let (from, length) = (core::ptr::from_ref(value), size_of::<T>() as u32);
    // SAFETY: the helper checks the range.
    let code = unsafe {
        bpf_skb_store_bytes(ctx.skb.skb.cast(), at, from.cast(), length, BPF_F_RECOMPUTE_CSUM.into())
    };
    if code == 0 {
        Ok(())
    } else {
        Err(Drop::InvalidPacket)
    }
}

#[inline(always)]
fn store<const N: usize>(ctx: &TcContext, at: u32, bytes: &[u8; N]) -> Result<(), Drop> {
    // SAFETY: the helper checks the range, and makes the packet writable.
    let code =
        unsafe { bpf_skb_store_bytes(ctx.skb.skb.cast(), at, bytes.as_ptr().cast(), N as u32, 0) };
    if code == 0 {
        Ok(())
    } else {
        Err(Drop::InvalidPacket)
    }
}
