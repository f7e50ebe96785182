//! Reading a packet: Ethernet, IPv4 with options, IPv6 with extension headers, ports.
//!
//! Headers are copied with `bpf_skb_load_bytes`: it reads packets that aren't linear too, and the
//! copies are aligned.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes, programs::TcContext};
use bpf_redirect_common::{Address, Drop, EXTENSION_HEADERS_MAX};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;

pub const TCP_FIN: u8 = 0x01;
pub const TCP_SYN: u8 = 0x02;
pub const TCP_RST: u8 = 0x04;
pub const TCP_ACK: u8 = 0x10;

pub const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;
pub const ECHO_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Extension header: fragment (RFC 8200 §4.5).
const FRAGMENT: u8 = 44;

const ETH_LEN: u32 = 14;
const IPV6_LEN: u32 = 40;
const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;
const ETH_ARP: u16 = 0x0806;
const ETH_VLAN: u16 = 0x8100;
const ETH_QINQ: u16 = 0x88a8;

/// What is known of an IP packet. Ports in network byte order; in an ICMP echo, the id is the port of
/// who asks, and the request's type that of who answers. Laid out without holes: a function that the verifier
/// looks at by itself takes it as so many octets that are all known.
#[repr(C)]
pub struct Packet {
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    /// ICMP: type and code, as in the packet; 0 for the rest.
    pub icmp: u16,
    pub protocol: u8,
    pub tcp_flags: u8,
    pub family: u8,
    pub fragment: Fragment,
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    /// Always 0.
    pub reserved: u16,
}

const _: () = assert!(size_of::<Packet>() == 56);

impl Packet {
    /// One that is not read yet.
    pub const NONE: Self = Self {
        source: Address::NONE,
        destination: Address::NONE,
        source_port: 0,
        destination_port: 0,
        icmp: 0,
        protocol: 0,
        tcp_flags: 0,
        family: 0,
        fragment: Fragment::Whole,
        source_mac: [0; 6],
        destination_mac: [0; 6],
        reserved: 0,
    };

    /// Whether what was read is no packet that policy judges, but one by which hosts of a link find each other:
    /// ARP, neighbour discovery, multicast listener discovery. Of the latter two its addresses are known.
    #[inline(always)]
    pub fn is_neighbours(&self) -> bool {
        self.family == 0
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// A whole packet.
    Whole,
    /// The first of several: it has the ports.
    First,
    /// One without ports.
    Later,
}

#[repr(C)]
struct Ethernet {
    destination: [u8; 6],
    source: [u8; 6],
    kind: u16,
}

#[repr(C)]
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
struct Ipv6 {
    version_class_flow: u32,
    payload_length: u16,
    next: u8,
    hop_limit: u8,
    source: Address,
    destination: Address,
}

/// Reads the frame, over [`Packet::NONE`].
#[inline(always)]
pub fn parse(ctx: &TcContext, packet: &mut Packet) -> Result<(), Drop> {
    reason_of(read_frame(ctx.skb.skb, packet))
}

/// The same of a packet that begins with its IP header, as a cgroup's hooks get it.
#[inline(always)]
pub fn parse_ip(ctx: &TcContext, packet: &mut Packet) -> Result<(), Drop> {
    reason_of(read_ip(ctx.skb.skb, packet))
}

/// A function that the verifier looks at by itself, as `strongest` in `policy.rs`. What it wrote the verifier
/// takes for any octets: else it would follow every packet that it can tell apart by protocol, family and kind
/// of fragment through all that comes after. 0, or the number of a [`Drop`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_frame(skb: *mut __sk_buff, packet: *mut Packet) -> u32 {
    // SAFETY: the verifier takes it for a whole packet, or for nothing.
    let Some(packet) = (unsafe { packet.as_mut() }) else {
        return Drop::InvalidPacket as u32;
    };
    number_of(frame(&TcContext::new(skb), packet))
}

/// The same of a packet without a frame.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_ip(skb: *mut __sk_buff, packet: *mut Packet) -> u32 {
    // SAFETY: as in `read_frame`.
    let Some(packet) = (unsafe { packet.as_mut() }) else {
        return Drop::InvalidPacket as u32;
    };
    number_of(ip(&TcContext::new(skb), packet))
}

#[inline(always)]
fn number_of(read: Result<(), Drop>) -> u32 {
    match read {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn reason_of(number: u32) -> Result<(), Drop> {
    match number as u8 {
        0 => Ok(()),
        // SAFETY: made by `number_of`. Not matched one by one: the verifier would follow each.
        reason => Err(unsafe { core::mem::transmute::<u8, Drop>(reason) }),
    }
}

#[inline(always)]
fn frame(ctx: &TcContext, packet: &mut Packet) -> Result<(), Drop> {
    let ethernet: Ethernet = load(ctx, 0).ok_or(Drop::InvalidPacket)?;
    packet.source_mac = ethernet.source;
    packet.destination_mac = ethernet.destination;
    // SAFETY: the verifier knows `__sk_buff`; the field is plain.
    if unsafe { (*ctx.skb.skb).vlan_present } != 0 {
        return Err(Drop::Vlan);
    }
    match u16::from_be(ethernet.kind) {
        ETH_IPV4 => parse_ipv4(ctx, ETH_LEN, packet),
        ETH_IPV6 => parse_ipv6(ctx, ETH_LEN, packet),
        ETH_ARP => Ok(()),
        ETH_VLAN | ETH_QINQ => Err(Drop::Vlan),
        _ => Err(Drop::UnsupportedL3),
    }
}

#[inline(always)]
fn ip(ctx: &TcContext, packet: &mut Packet) -> Result<(), Drop> {
    let first: u8 = load(ctx, 0).ok_or(Drop::InvalidPacket)?;
    match first >> 4 {
        4 => parse_ipv4(ctx, 0, packet),
        6 => parse_ipv6(ctx, 0, packet),
        _ => Err(Drop::UnsupportedL3),
    }
}

#[inline(always)]
fn parse_ipv4(ctx: &TcContext, start: u32, packet: &mut Packet) -> Result<(), Drop> {
    let ip: Ipv4 = load(ctx, start).ok_or(Drop::InvalidPacket)?;
    let header = u32::from(ip.version_length & 0x0f) * 4;
    if ip.version_length >> 4 != 4 || header < 20 {
        return Err(Drop::InvalidPacket);
    }
    let bits = u16::from_be(ip.fragment);
    let fragment = match (bits & 0x1fff, bits & 0x2000) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        (_, _) => Fragment::Later,
    };
    packet.source = Address::from_ipv4_word(ip.source);
    packet.destination = Address::from_ipv4_word(ip.destination);
    packet.protocol = ip.protocol;
    packet.family = 4;
    packet.fragment = fragment;
    read_ports(ctx, start + header, packet)
}

#[inline(always)]
fn parse_ipv6(ctx: &TcContext, start: u32, packet: &mut Packet) -> Result<(), Drop> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;

    let ip: Ipv6 = load(ctx, start).ok_or(Drop::InvalidPacket)?;
    if ip.version_class_flow.to_be() >> 28 != 6 {
        return Err(Drop::InvalidPacket);
    }
    // In the tables such an address is an IPv4 one. On a wire it has no meaning (RFC 4291 §2.5.5.2).
    if is_mapped(ip.source) || is_mapped(ip.destination) {
        return Err(Drop::InvalidPacket);
    }
    let mut fragment = Fragment::Whole;
    let mut next = ip.next;
    let mut at = start + IPV6_LEN;
    let mut walked = 0;
    loop {
        let scale = match next {
            HOP_BY_HOP | ROUTING | DESTINATION => 8,
            AUTHENTICATION => 4,
            FRAGMENT => 0,
            _ => break,
        };
        if walked == EXTENSION_HEADERS_MAX || fragment == Fragment::Later {
            return Err(Drop::InvalidExtensionHeader);
        }
        walked += 1;
        // next header, length, fragment offset and flags
        let head: [u16; 2] = load(ctx, at).ok_or(Drop::InvalidExtensionHeader)?;
        let [next_length, offset] = [u16::from_be(head[0]), u16::from_be(head[1])];
        next = (next_length >> 8) as u8;
        let length = u32::from(next_length & 0xff);
        if scale == 0 {
            if offset & 0xfff8 != 0 {
                fragment = Fragment::Later;
                break;
            }
            if offset & 1 != 0 {
                fragment = Fragment::First;
            }
            at += 8;
        } else if scale == 4 {
            at += (length + 2) * 4;
        } else {
            at += (length + 1) * 8;
        }
    }
    packet.source = ip.source;
    packet.destination = ip.destination;
    packet.protocol = next;
    packet.family = 6;
    packet.fragment = fragment;
    if next == ICMPV6 && fragment == Fragment::Whole {
        let words: [u16; 1] = load(ctx, at).ok_or(Drop::TruncatedHeader)?;
        if is_of_link(&ip, kind(words[0])) {
            packet.icmp = words[0];
            packet.family = 0;
            return Ok(());
        }
    }
    read_ports(ctx, at, packet)
}

/// Whether a message of ICMPv6 is one that hosts of a link have for each other. Listener discovery leaves no
/// link (RFC 2710 §3, RFC 3810 §5), and neighbour discovery came over none (RFC 4861 §6.1, §7.1): others by
/// these numbers are judged as all that may come from anywhere.
#[inline(always)]
fn is_of_link(ip: &Ipv6, kind: u8) -> bool {
    let first = first_of(ip.destination);
    let is_group = first & 0xff00 == 0xff00;
    match kind {
        130..=132 | 143 => ip.hop_limit == 1 && is_group,
        133..=137 => ip.hop_limit == 255 && (!is_group || first & 0xff0f == 0xff02),
        _ => false,
    }
}

/// Whether what is sent to an address stays on the link, as [`is_of_link`] lets groups be: fe80::/10, ff00::/8.
#[inline(always)]
pub fn stays_on_link(address: Address) -> bool {
    let first = first_of(address);
    first & 0xffc0 == 0xfe80 || first & 0xff00 == 0xff00
}

/// The first 16 bits of an address.
#[inline(always)]
fn first_of(address: Address) -> u32 {
    u32::from_be(address.0[0]) >> 16
}

/// Whether an IPv6 address stands for an IPv4 one.
#[inline(always)]
pub fn is_mapped(address: Address) -> bool {
    let [a, b, c, _] = address.0;
    a | b | (c ^ 0xffff_u32.to_be()) == 0
}

/// Reads ports and flags of a packet that has them.
#[inline(always)]
fn read_ports(ctx: &TcContext, at: u32, packet: &mut Packet) -> Result<(), Drop> {
    if packet.fragment == Fragment::Later {
        return Ok(());
    }
    match packet.protocol {
        TCP => {
            let words: [u16; 7] = load(ctx, at).ok_or(Drop::TruncatedHeader)?;
            packet.source_port = words[0];
            packet.destination_port = words[1];
            packet.tcp_flags = u16::from_be(words[6]) as u8;
        }
        UDP | SCTP => {
            let words: [u16; 4] = load(ctx, at).ok_or(Drop::TruncatedHeader)?;
            packet.source_port = words[0];
            packet.destination_port = words[1];
        }
        ICMP | ICMPV6 => {
            let words: [u16; 3] = load(ctx, at).ok_or(Drop::TruncatedHeader)?;
            packet.icmp = words[0];
            (packet.source_port, packet.destination_port) = echo_ports(packet.protocol, words);
        }
        _ => {}
    }
    Ok(())
}

/// What tells echoes apart, in place of ports (RFC 792, RFC 4443 §4); 0 of what is none. The id tells
/// flows apart; who answers has the type of what was asked, so that a request of the other side is no
/// reply.
#[inline(always)]
fn echo_ports(protocol: u8, words: [u16; 3]) -> (u16, u16) {
    let [kind_code, _, id] = words;
    match (protocol, kind(kind_code)) {
        (ICMP, ECHO) => (id, u16::from(ECHO).to_be()),
        (ICMP, ECHO_REPLY) => (u16::from(ECHO).to_be(), id),
        (ICMPV6, ECHO_V6) => (id, u16::from(ECHO_V6).to_be()),
        (ICMPV6, ECHO_REPLY_V6) => (u16::from(ECHO_V6).to_be(), id),
        _ => (0, 0),
    }
}

/// The type of ICMP, of type and code as they stand in the packet.
#[inline(always)]
pub fn kind(kind_code: u16) -> u8 {
    (u16::from_be(kind_code) >> 8) as u8
}

/// What all fragments of a packet share. Read again where it is needed: few packets are fragments. Of
/// an IPv6 packet only where the fragment header comes first, as hosts send it.
#[inline(always)]
pub fn fragment_id(ctx: &TcContext, packet: &Packet) -> Option<u32> {
    if packet.family == 4 {
        let id: [u16; 1] = load(ctx, ETH_LEN + 4)?;
        return Some(u32::from(u16::from_be(id[0])));
    }
    let ip: Ipv6 = load(ctx, ETH_LEN)?;
    if ip.next != FRAGMENT {
        return None;
    }
    let id: [u16; 2] = load(ctx, ETH_LEN + IPV6_LEN + 4)?;
    Some(u32::from(u16::from_be(id[0])) << 16 | u32::from(u16::from_be(id[1])))
}

/// A packet that an ICMP error quotes.
pub struct Quoted {
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    /// ICMP: type and code.
    pub icmp: u16,
    pub protocol: u8,
}

/// What a whole ICMP packet quotes, if it is an error: not delivered, too big, time exceeded, bad
/// header (RFC 792: 3, 11, 12; RFC 4443: 1 to 4). Of IPv6 only without extension headers before ICMP, and
/// with none in what is quoted but that of a first fragment; the rest is judged by policy. A function of
/// its own: a program has a stack of 512 octets.
#[inline(never)]
pub fn quoted(ctx: &TcContext, packet: &Packet) -> Option<Quoted> {
    const ICMP_LEN: u32 = 8;
    if packet.fragment != Fragment::Whole {
        return None;
    }
    let (quoted, at) = match (packet.family, packet.protocol) {
        (4, ICMP) if matches!(kind(packet.icmp), 3 | 11 | 12) => {
            let outer: Ipv4 = load(ctx, ETH_LEN)?;
            let at = ETH_LEN + u32::from(outer.version_length & 0x0f) * 4 + ICMP_LEN;
            quoted_ipv4(ctx, at)?
        }
        (6, ICMPV6) if matches!(kind(packet.icmp), 1..=4) => {
            let outer: Ipv6 = load(ctx, ETH_LEN)?;
            if outer.next != ICMPV6 {
                return None;
            }
            quoted_ipv6(ctx, ETH_LEN + IPV6_LEN + ICMP_LEN)?
        }
        _ => return None,
    };
    let [source_port, destination_port] = load(ctx, at)?;
    let (icmp, (source_port, destination_port)) = match quoted.protocol {
        ICMP | ICMPV6 => {
            let [id]: [u16; 1] = load(ctx, at + 4)?;
            (
                source_port,
                echo_ports(quoted.protocol, [source_port, 0, id]),
            )
        }
        _ => (0, (source_port, destination_port)),
    };
    Some(Quoted {
        source_port,
        destination_port,
        icmp,
        ..quoted
    })
}

/// The quoted packet but for its ports, and where they are.
#[inline(always)]
fn quoted_ipv4(ctx: &TcContext, at: u32) -> Option<(Quoted, u32)> {
    let ip: Ipv4 = load(ctx, at)?;
    let header = u32::from(ip.version_length & 0x0f) * 4;
    // A later fragment has no ports.
    if ip.version_length >> 4 != 4 || header < 20 || u16::from_be(ip.fragment) & 0x1fff != 0 {
        return None;
    }
    let quoted = Quoted {
        source: Address::from_ipv4_word(ip.source),
        destination: Address::from_ipv4_word(ip.destination),
        source_port: 0,
        destination_port: 0,
        icmp: 0,
        protocol: ip.protocol,
    };
    Some((quoted, at + header))
}

/// The same of IPv6.
#[inline(always)]
fn quoted_ipv6(ctx: &TcContext, at: u32) -> Option<(Quoted, u32)> {
    let ip: Ipv6 = load(ctx, at)?;
    if ip.version_class_flow.to_be() >> 28 != 6 || is_mapped(ip.source) || is_mapped(ip.destination)
    {
        return None;
    }
    let mut at = at + IPV6_LEN;
    let mut protocol = ip.next;
    if protocol == FRAGMENT {
        let [next, offset]: [u16; 2] = load(ctx, at)?;
        if u16::from_be(offset) & 0xfff8 != 0 {
            return None;
        }
        protocol = kind(next);
        at += 8;
    }
    let quoted = Quoted {
        source: ip.source,
        destination: ip.destination,
        source_port: 0,
        destination_port: 0,
        icmp: 0,
        protocol,
    };
    Some((quoted, at))
}

/// Copies a `T` from the packet.
#[inline(always)]
pub fn load<T: Copyable>(ctx: &TcContext, at: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes `size_of::<T>()` bytes or fails.
    let code = unsafe {
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            at,
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
        )
    };
    if code != 0 {
        return None;
    }
    // SAFETY: the helper filled it, and any bytes are a valid `T` (see `Copyable`).
    Some(unsafe { value.assume_init() })
}

/// Types for which any bytes are a value.
pub trait Copyable: Sized {}
impl Copyable for u8 {}
impl<const N: usize> Copyable for [u8; N] {}
impl<const N: usize> Copyable for [u16; N] {}
impl Copyable for Ethernet {}
impl Copyable for Ipv4 {}
impl Copyable for Ipv6 {}
