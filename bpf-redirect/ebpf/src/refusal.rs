//! Telling a workload that its datagram was refused: ICMP "port unreachable" in the server's name, written
//! over the datagram in the gate, where the program's stack has room for it. No socket sees the datagram.

use core::ptr::null_mut;

use aya_ebpf::{
    helpers::generated::{bpf_csum_diff, bpf_skb_change_tail},
    programs::TcContext,
};
use bpf_redirect_common::{Address, Counter, Drop, Mark};

use crate::{
    Action,
    packet::{Copyable, ICMP, ICMPV6, UDP, load},
    sidelink::{redirect, store_over},
    tell::count,
};

const ETH_LEN: u32 = 14;
const ETH_IPV4: u16 = 0x0800_u16.to_be();
const ETH_IPV6: u16 = 0x86dd_u16.to_be();
/// Where UDP's checksum stands after its ports and length. The kernel may still have to fill it in.
const UDP_CHECKSUM: usize = 3;
const HOPS: u8 = 64;

/// An IPv4 header without options.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4 {
    version_length: u8,
    tos: u8,
    total_length: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6 {
    version_class_flow: u32,
    payload_length: u16,
    next: u8,
    hop_limit: u8,
    source: Address,
    destination: Address,
}

/// A header and the first octets of what it carries, which say whose it is.
#[repr(C)]
#[derive(Clone, Copy)]
struct Quoted<H> {
    ip: H,
    udp: [u16; 4],
}

impl Copyable for Quoted<Ipv4> {}
impl Copyable for Quoted<Ipv6> {}

/// RFC 792, RFC 4443 §3.1: type and code, checksum, four octets that nobody reads.
#[repr(C)]
struct Unreachable<H> {
    ip: H,
    kind_code: u16,
    checksum: u16,
    unused: [u16; 2],
    quoted: Quoted<H>,
}

/// What IPv6's checksums cover beside the message (RFC 8200 §8.1).
#[repr(C)]
struct Pseudo {
    source: Address,
    destination: Address,
    length: u32,
    next: u32,
}

/// Sends the datagram back as an error about itself. One with IPv4 options or IPv6 extension headers dies:
/// what asks for names has none.
#[inline(always)]
pub fn answer(ctx: &TcContext, mark: Mark) -> Result<Action, Drop> {
    let [kind]: [u16; 1] = load(ctx, 12).ok_or(Drop::InvalidPacket)?;
    match kind {
        ETH_IPV4 => over_ipv4(ctx)?,
        ETH_IPV6 => over_ipv6(ctx)?,
        _ => return Err(Drop::NameHidden),
    }
    ctx.set_mark(mark.number());
    count(Counter::Refused as u32);
    // SAFETY: the verifier knows `__sk_buff`; it is the interface of the hook.
    Ok(redirect(unsafe { (*ctx.skb.skb).ifindex }, 0))
}

#[inline(always)]
fn over_ipv4(ctx: &TcContext) -> Result<(), Drop> {
    const PLAIN: u8 = 0x45;
    const ICMP_LEN: usize = size_of::<Unreachable<Ipv4>>() - size_of::<Ipv4>();
    let quoted: Quoted<Ipv4> = load(ctx, ETH_LEN).ok_or(Drop::NameHidden)?;
    if quoted.ip.version_length != PLAIN || quoted.ip.protocol != UDP {
        return Err(Drop::NameHidden);
    }
    let mut error = Unreachable {
        ip: Ipv4 {
            version_length: PLAIN,
            tos: 0,
            total_length: (size_of::<Unreachable<Ipv4>>() as u16).to_be(),
            id: 0,
            fragment: 0,
            ttl: HOPS,
            protocol: ICMP,
            checksum: 0,
            source: quoted.ip.destination,
            destination: quoted.ip.source,
        },
        kind_code: 0x0303_u16.to_be(),
        checksum: 0,
        unused: [0; 2],
        quoted,
    };
    error.ip.checksum = !folded(sum((&raw const error.ip).cast(), size_of::<Ipv4>(), 0));
    let message = (&raw const error.kind_code).cast();
    error.checksum = !folded(sum(message, ICMP_LEN, 0));
    write(ctx, &error)
}

#[inline(always)]
fn over_ipv6(ctx: &TcContext) -> Result<(), Drop> {
    const ICMP_LEN: usize = size_of::<Unreachable<Ipv6>>() - size_of::<Ipv6>();
    let quoted: Quoted<Ipv6> = load(ctx, ETH_LEN).ok_or(Drop::NameHidden)?;
    if quoted.ip.next != UDP {
        return Err(Drop::NameHidden);
    }
    let pseudo = Pseudo {
        source: quoted.ip.destination,
        destination: quoted.ip.source,
        length: (ICMP_LEN as u32).to_be(),
        next: u32::from(ICMPV6).to_be(),
    };
    let seed = sum((&raw const pseudo).cast(), size_of::<Pseudo>(), 0);
    let mut error = Unreachable {
        ip: Ipv6 {
            version_class_flow: 0x6000_0000_u32.to_be(),
            payload_length: (ICMP_LEN as u16).to_be(),
            next: ICMPV6,
            hop_limit: HOPS,
            source: pseudo.source,
            destination: pseudo.destination,
        },
        kind_code: 0x0104_u16.to_be(),
        checksum: 0,
        unused: [0; 2],
        quoted,
    };
    // Where the datagram's own checksum was still to be filled in, that is done to the error, at the place
    // where UDP has it: the checksum holds before and after, if the sum of the pseudo header stands there.
    // With IPv4, which has none in ICMP, that is 0.
    error.unused[UDP_CHECKSUM - 2] = folded(seed);
    let message = (&raw const error.kind_code).cast();
    error.checksum = !folded(sum(message, ICMP_LEN, seed));
    write(ctx, &error)
}

/// Puts the error in the datagram's place.
#[inline(always)]
fn write<H>(ctx: &TcContext, error: &Unreachable<H>) -> Result<(), Drop> {
    let length = ETH_LEN + size_of::<Unreachable<H>>() as u32;
    // SAFETY: the helper checks the length; nothing points into the packet.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb.cast(), length, 0) } != 0 {
        return Err(Drop::NameHidden);
    }
    store_over(ctx, ETH_LEN, error)
}

/// The sum of 16-bit words, to be folded.
#[inline(always)]
fn sum(from: *const u32, length: usize, seed: u32) -> u32 {
    // SAFETY: the helper reads so many octets, a multiple of 4.
    let sum = unsafe { bpf_csum_diff(null_mut(), 0, from.cast_mut(), length as u32, seed) };
    sum as u32
}

#[inline(always)]
fn folded(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
