//! The hooks of a cgroup: what its sockets connect to, send, and get. The programs are attached to the
//! cgroup, and the kernel runs them for the sockets that were made in it or below, whoever uses them.
//!
//! Egress judges every packet, and is what holds. The hooks of addresses only lead queries to the DNS
//! proxy of the node, hide that from the socket, and refuse a connection before its first packet.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_socket_cookie, bpf_set_retval},
    programs::{SockAddrContext, TcContext},
};
use bpf_redirect_common::{
    Address, AskerKey, AskerValue, Counter, Drop, EGRESS, INGRESS, Listeners,
    SocketServer, TracePoint, TraceReason, Verdict,
};

use crate::{
    Action,
    conntrack::Tuple,
    dns,
    endpoint::{Received, judged, received, remember, trace, trace_known},
    maps::{CG_ASKER, CG_ENDPOINT, CG_LISTEN, CG_SOCKET, CONFIG},
    neighbour,
    packet::{Fragment, Packet, TCP, TCP_SYN, UDP, load, parse_ip},
    tell::{self, Place, count},
};

const LOOPBACK_V4: Address = Address::from_ipv4_word(0x7f00_0001_u32.to_be());
const LOOPBACK_V6: Address = Address([0, 0, 0, 1_u32.to_be()]);
/// Interface index of `lo`, in every network namespace.
const LOOPBACK: u32 = 1;

/// A socket and the address in the call: of `connect`, `sendmsg`, `recvmsg`, `getpeername`. `V6`: by the
/// hook for IPv6 sockets, whose addresses may be mapped ones of IPv4.
pub struct Call<const V6: bool> {
    sock_addr: *mut bpf_sock_addr,
    protocol: u8,
    address: Address,
    /// Network byte order.
    port: u16,
}

impl<const V6: bool> Call<V6> {
    #[inline(always)]
    pub fn read(ctx: &SockAddrContext) -> Self {
        let sock_addr = ctx.sock_addr;
        // SAFETY: the verifier knows `bpf_sock_addr`, and which fields each hook may read. Volatile, since
        // it takes reads of one field at a time.
        unsafe {
            let address = if V6 {
                let word = |at: usize| addr_of!((*sock_addr).user_ip6[at]).read_volatile();
                Address([word(0), word(1), word(2), word(3)])
            } else {
                Address::from_ipv4_word(addr_of!((*sock_addr).user_ip4).read_volatile())
            };
            Self {
                sock_addr,
                protocol: addr_of!((*sock_addr).protocol).read_volatile() as u8,
                address,
                port: addr_of!((*sock_addr).user_port).read_volatile() as u16,
            }
        }
    }

    /// Puts another address in its place.
    #[inline(always)]
    fn replace(&self, address: Address, port: u16) {
        let [a, b, c, d] = address.0;
        // SAFETY: as above; these fields may be written.
        unsafe {
            if V6 {
                addr_of_mut!((*self.sock_addr).user_ip6[0]).write_volatile(a);
                addr_of_mut!((*self.sock_addr).user_ip6[1]).write_volatile(b);
                addr_of_mut!((*self.sock_addr).user_ip6[2]).write_volatile(c);
                addr_of_mut!((*self.sock_addr).user_ip6[3]).write_volatile(d);
            } else {
                addr_of_mut!((*self.sock_addr).user_ip4).write_volatile(d);
            }
            addr_of_mut!((*self.sock_addr).user_port).write_volatile(u32::from(port));
        }
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the context of the program.
        unsafe { bpf_get_socket_cookie(self.sock_addr.cast()) }
    }

    /// What will be sent: a first packet, from an address that isn't chosen yet.
    #[inline(always)]
    fn packet(&self) -> Packet {
        let is_v4 = is_v4(self.address);
        // The kernel takes no address for this host.
        let destination = match (self.address, is_v4) {
            (Address::NONE, _) => LOOPBACK_V6,
            (address, true) if address.0[3] == 0 => LOOPBACK_V4,
            (address, _) => address,
        };
        Packet {
            source: if is_v4 { Address::from_ipv4_word(0) } else { Address::NONE },
            destination,
            destination_port: self.port,
            protocol: self.protocol,
            tcp_flags: if self.protocol == TCP { TCP_SYN } else { 0 },
            family: if is_v4 { 4 } else { 6 },
            ..Packet::NONE
        }
    }
}

#[inline(always)]
fn is_v4(address: Address) -> bool {
    let [a, b, c, _] = address.0;
    a | b | (c ^ 0x0000_ffff_u32.to_be()) == 0
}

/// `connect`: a query's connection goes to the proxy, another one is judged. Of a datagram socket only the
/// former: it sends nothing yet, and programs connect one to see which address they would send from.
#[inline(always)]
pub fn connect<const V6: bool>(call: &Call<V6>) -> Result<(), Drop> {
    match call.protocol {
        TCP => {}
        UDP => return send(call),
        _ => return Ok(()),
    }
    let place = Place { endpoint: endpoint()?, direction: EGRESS };
    let packet = call.packet();
    if is_redirected(call) {
        return Ok(());
    }
    let (identity, judgement) = judged(&place, &packet, packet.destination)?;
    match judgement.verdict {
        // Told of by egress, where its first packet is seen.
        Verdict::Allow | Verdict::AuditUnmatched | Verdict::AuditDeny => Ok(()),
        Verdict::Redirect => {
            redirect(call, &place, &packet)?;
            tell::judged(&place, &packet, identity, &judgement);
            Ok(())
        }
        Verdict::Unmatched | Verdict::Refuse | Verdict::Deny | Verdict::FailAuthentication => {
            tell::judged(&place, &packet, identity, &judgement);
            Err(judgement.reason(Fragment::Whole))
        }
    }
}

/// `sendmsg` with an address: a query goes to the proxy. The rest egress judges in the same call.
#[inline(always)]
pub fn send<const V6: bool>(call: &Call<V6>) -> Result<(), Drop> {
    if !dns::is_port(call.port) {
        return Ok(());
    }
    let place = Place { endpoint: endpoint()?, direction: EGRESS };
    let packet = call.packet();
    let (_, judgement) = judged(&place, &packet, packet.destination)?;
    match judgement.verdict {
        Verdict::Redirect => redirect(call, &place, &packet),
        Verdict::Allow
        | Verdict::AuditUnmatched
        | Verdict::AuditDeny
        | Verdict::Unmatched
        | Verdict::Refuse
        | Verdict::Deny
        | Verdict::FailAuthentication => Ok(()),
    }
}

/// `recvmsg` and `getpeername`: the socket sees the server that it meant.
#[inline(always)]
pub fn show<const V6: bool>(call: &Call<V6>) {
    // Asked for here too, so that the storage comes with the first program that is attached, which is one of
    // these: by none that judges is it found empty.
    if endpoint().is_err() || !is_listener(call.protocol, call.address, call.port) {
        return;
    }
    // SAFETY: plain integers; a torn read is an address that was asked a moment ago or is now.
    let Some(server) = (unsafe { CG_SOCKET.get(&call.cookie()) }) else {
        return;
    };
    if V6 || is_v4(server.server) {
        call.replace(server.server, server.port);
    }
}

/// Whether another program of ours on the same cgroup has redirected the call already: while a daemon
/// takes over from another one there are two.
#[inline(always)]
fn is_redirected<const V6: bool>(call: &Call<V6>) -> bool {
    is_listener(call.protocol, call.address, call.port)
        // SAFETY: only whether it is there.
        && unsafe { CG_SOCKET.get(&call.cookie()) }.is_some()
}

/// Leads a call to the proxy, and remembers for whom it was meant.
#[inline(always)]
fn redirect<const V6: bool>(call: &Call<V6>, place: &Place, packet: &Packet) -> Result<(), Drop> {
    let (loopback, port) = listener(packet.protocol, packet.family == 4);
    if port == 0 || !dns::is_port(packet.destination_port) {
        return Err(tell::dropped(place, packet, Drop::NotRedirected));
    }
    let server =
        SocketServer { server: packet.destination, port: packet.destination_port, reserved: 0 };
    if CG_SOCKET.insert(&call.cookie(), &server, 0).is_err() {
        return Err(tell::dropped(place, packet, Drop::NotRedirected));
    }
    call.replace(loopback, port);
    Ok(())
}

/// Where the proxy listens for a protocol and family; port 0 where it doesn't.
#[inline(always)]
fn listener(protocol: u8, is_v4: bool) -> (Address, u16) {
    let ports = match CG_LISTEN.get(0) {
        Some(ports) => *ports,
        None => Listeners { udp4: 0, udp6: 0, tcp4: 0, tcp6: 0 },
    };
    let port = match (protocol, is_v4) {
        (UDP, true) => ports.udp4,
        (UDP, false) => ports.udp6,
        (TCP, true) => ports.tcp4,
        (TCP, false) => ports.tcp6,
        _ => 0,
    };
    (if is_v4 { LOOPBACK_V4 } else { LOOPBACK_V6 }, port)
}

#[inline(always)]
fn is_listener(protocol: u8, address: Address, port: u16) -> bool {
    let (loopback, own) = listener(protocol, is_v4(address));
    own != 0 && own == port && loopback == address
}

/// Every packet that a socket of the cgroup sends, whatever kind of socket it is.
#[inline(always)]
pub fn egress(ctx: &TcContext) -> Result<Action, Drop> {
    let place = Place { endpoint: endpoint()?, direction: EGRESS };
    let mut packet = Packet::NONE;
    parse_ip(ctx, &mut packet).map_err(|reason| tell::dropped(&place, &packet, reason))?;
    if packet.is_neighbours() {
        // By a raw socket: nobody shows a socket that he is on a link.
        neighbour::sent(&place, &mut packet)?;
        return Ok(Action::Pass);
    }
    if is_listener(packet.protocol, packet.destination, packet.destination_port) {
        return ask(ctx, &place, &packet);
    }
    let config = CONFIG.get(0).ok_or(Drop::NoConfiguration)?;
    let tuple = Tuple::of(place.endpoint, EGRESS, &packet);
    let known = tuple.as_ref().and_then(|tuple| tuple.known(config));
    if let Some(known) = &known
        && !dns::may_ask(known, &packet)
    {
        trace_known((&place, &packet), TracePoint::ToStack, known);
        return Ok(Action::Pass);
    }
    let (identity, judgement) = judged(&place, &packet, packet.destination)?;
    if let Some(known) = &known
        && judgement.verdict != Verdict::Redirect
    {
        trace_known((&place, &packet), TracePoint::ToStack, known);
        return Ok(Action::Pass);
    }
    match judgement.verdict {
        Verdict::Allow | Verdict::AuditUnmatched | Verdict::AuditDeny => {
            tell::judged(&place, &packet, identity, &judgement);
            if let Some(tuple) = &tuple {
                let decision = (judgement.rule, Verdict::Allow);
                remember(tuple, (&place, &packet), identity, decision)?;
            }
            let seen = (TracePoint::ToStack, TraceReason::New);
            trace(config, (&place, &packet), identity, seen);
            Ok(Action::Pass)
        }
        // By a raw socket, or one that was connected before the cgroup was guarded.
        Verdict::Redirect => Err(tell::dropped(&place, &packet, Drop::NotRedirected)),
        // The call fails, which is answer enough to what is refused.
        Verdict::Unmatched | Verdict::Refuse | Verdict::Deny | Verdict::FailAuthentication => {
            tell::judged(&place, &packet, identity, &judgement);
            Err(judgement.reason(packet.fragment))
        }
    }
}

/// What a socket of the cgroup gets.
#[inline(always)]
pub fn ingress(ctx: &TcContext) -> Result<Action, Drop> {
    let place = Place { endpoint: endpoint()?, direction: INGRESS };
    let mut packet = Packet::NONE;
    parse_ip(ctx, &mut packet).map_err(|reason| tell::dropped(&place, &packet, reason))?;
    if packet.is_neighbours() {
        return Ok(Action::Pass);
    }
    // SAFETY: the verifier knows `__sk_buff`.
    let came_by = unsafe { (*ctx.skb.skb).ifindex };
    if came_by == LOOPBACK && is_listener(packet.protocol, packet.source, packet.source_port) {
        return Ok(Action::Pass);
    }
    // Errors about a socket's flow are the kernel's: only raw sockets get them as packets.
    let config = CONFIG.get(0).ok_or(Drop::NoConfiguration)?;
    match received(config, &place, &packet, None)? {
        Received::Pass(_) => Ok(Action::Pass),
        // The proxy takes no connections in a cgroup's place.
        Received::Proxys | Received::ToProxy => Err(Drop::NotRedirected),
    }
}

/// A packet to the proxy: who sent it, and to whom, is remembered under what the proxy sees of it.
#[inline(always)]
fn ask(ctx: &TcContext, place: &Place, packet: &Packet) -> Result<Action, Drop> {
    // SAFETY: the context of the program.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    // SAFETY: plain integers; a torn read is an address that was asked a moment ago or is now.
    let Some(server) = (unsafe { CG_SOCKET.get(&cookie) }) else {
        // Not by way of a DNS server's address: the proxy is nobody that can be talked to.
        return Err(tell::dropped(place, packet, Drop::NotRedirected));
    };
    let id = match packet.protocol {
        UDP => load(ctx, payload(ctx, packet)?).ok_or(Drop::TruncatedHeader)?,
        _ if packet.tcp_flags & TCP_SYN == 0 => return Ok(Action::Pass),
        _ => [0_u16],
    };
    let key = AskerKey {
        source: packet.source,
        source_port: packet.source_port,
        id: id[0],
        protocol: u32::from(packet.protocol),
    };
    let asker = AskerValue {
        endpoint: place.endpoint,
        server: server.server,
        port: server.port,
        reserved: 0,
    };
    if CG_ASKER.insert(&key, &asker, 0).is_err() {
        return Err(tell::dropped(place, packet, Drop::NotRedirected));
    }
    count(Counter::Redirected as u32);
    Ok(Action::Pass)
}

/// Where a datagram's payload begins.
#[inline(always)]
fn payload(ctx: &TcContext, packet: &Packet) -> Result<u32, Drop> {
    const UDP_LEN: u32 = 8;
    const IPV6_LEN: u32 = 40;
    const IPV6_NEXT: u32 = 6;
    if packet.family == 4 {
        let first: u8 = load(ctx, 0).ok_or(Drop::InvalidPacket)?;
        return Ok(u32::from(first & 0x0f) * 4 + UDP_LEN);
    }
    // On loopback with extension headers: nothing asks for names in this way.
    match load::<u8>(ctx, IPV6_NEXT) {
        Some(UDP) => Ok(IPV6_LEN + UDP_LEN),
        _ => Err(Drop::InvalidExtensionHeader),
    }
}

/// Whose cgroup the running program is attached to; nobody's, before that was written.
#[inline(always)]
fn endpoint() -> Result<u32, Drop> {
    // SAFETY: the kernel has it as long as the program runs; a word that is read once.
    match unsafe { (*CG_ENDPOINT.get_ptr()).endpoint } {
        0 => Err(Drop::NoConfiguration),
        endpoint => Ok(endpoint),
    }
}

/// Ends a hook of packets.
#[inline(always)]
pub fn finish(outcome: Result<Action, Drop>) -> i32 {
    match outcome {
        Ok(_) => 1,
        Err(reason) => {
            count(reason as u32);
            0
        }
    }
}

/// Ends a hook that may refuse a call.
#[inline(always)]
pub fn finish_call(outcome: Result<(), Drop>) -> i32 {
    const EACCES: i32 = 13;
    match outcome {
        Ok(()) => 1,
        Err(reason) => {
            count(reason as u32);
            // SAFETY: a plain number; without it the call fails with EPERM.
            unsafe { bpf_set_retval(-EACCES) };
            0
        }
    }
}
