//! The way of most packets: whole TCP or UDP over plain IP, of a flow that passes, with nothing to note or
//! tell. They are read in place and cost one look-up. Whatever else there is takes the long way, which says
//! the same of these. No function of its own: a call costs a tenth of it, and what this keeps on the stack is
//! done with before the long way begins.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_jiffies64};
use bpf_redirect_common::{
    Address, Aggregation, Config, CtKey, CtValue, EGRESS, EndpointIf, INGRESS, UpstreamKey,
    Verdict,
};

use crate::{
    dns,
    maps::CT,
    packet::{TCP, TCP_FIN, TCP_RST, TCP_SYN, UDP, is_mapped},
    upstream,
};

const ETH_IPV4: u16 = 0x0800_u16.to_be();
const ETH_IPV6: u16 = 0x86dd_u16.to_be();
/// Version 4, no options.
const PLAIN: u8 = 0x45;
/// More fragments, and the offset.
const FRAGMENT: u16 = 0x3fff_u16.to_be();
const ETH_LEN: usize = 14;

/// IPv4 and ports. Behind Ethernet's 14 octets its words are aligned: the kernel puts 2 before those.
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
    ports: Ports,
}

#[repr(C)]
struct Ipv6 {
    version_class_flow: u32,
    payload_length: u16,
    next: u8,
    hop_limit: u8,
    source: Address,
    destination: Address,
    ports: Ports,
}

/// The first octets of TCP and UDP alike.
#[repr(C)]
struct Ports {
    source: u16,
    destination: u16,
    /// Of UDP length and checksum, of TCP the sequence number.
    rest: u32,
}

/// Where TCP's flags stand.
const TCP_FLAGS: usize = 13;

/// Whether what the workload sends, or what is sent to it, belongs to a flow that passes, and nothing needs to be
/// noted.
#[inline(always)]
pub fn passes<const WAY: u8>(skb: *mut __sk_buff, config: &Config, endpoint: &EndpointIf) -> bool {
    // SAFETY: the verifier knows `__sk_buff`, and that the packet is read below its end.
    unsafe {
        let (data, end) = ((*skb).data as usize, (*skb).data_end as usize);
        if (*skb).vlan_present != 0 || data + ETH_LEN + size_of::<Ipv4>() > end {
            return false;
        }
        let [_, _, _, mac @ .., kind] = *(data as *const [u16; 7]);
        let own: *const [u16; 3] = (&raw const endpoint.workload_mac).cast();
        if WAY == EGRESS && mac != *own {
            return false;
        }
        let mut key = CtKey::of(endpoint.endpoint);
        let at = data + ETH_LEN;
        if kind == ETH_IPV4 {
            let ip = &*(at as *const Ipv4);
            if ip.version_length != PLAIN || ip.fragment & FRAGMENT != 0 {
                return false;
            }
            let ends = [ip.source, ip.destination].map(Address::from_ipv4_word);
            [key.local, key.peer] = turned::<WAY, _>(ends);
            key.protocol = ip.protocol;
            if !read_ports::<WAY>(&mut key, &ip.ports, end) {
                return false;
            }
        } else if kind == ETH_IPV6 && at + size_of::<Ipv6>() <= end {
            let ip = &*(at as *const Ipv6);
            if ip.version_class_flow & 0xf000_0000_u32.to_be() != 0x6000_0000_u32.to_be() {
                return false;
            }
            [key.local, key.peer] = turned::<WAY, _>([ip.source, ip.destination]);
            key.protocol = ip.next;
            let is_mapped = is_mapped(key.local) || is_mapped(key.peer);
            if is_mapped || !read_ports::<WAY>(&mut key, &ip.ports, end) {
                return false;
            }
        } else {
            return false;
        }
        is_own(endpoint, &key) && !is_proxys::<WAY>(&key) && is_quiet::<WAY>(config, &key)
    }
}

/// Source and destination as local and peer.
#[inline(always)]
fn turned<const WAY: u8, T>([source, destination]: [T; 2]) -> [T; 2] {
    if WAY == EGRESS { [source, destination] } else { [destination, source] }
}

/// Reads the ports of what may pass by its flow alone: no query, and no segment that says something of its
/// connection's state.
#[inline(always)]
unsafe fn read_ports<const WAY: u8>(key: &mut CtKey, ports: &Ports, end: usize) -> bool {
    [key.local_port, key.peer_port] = turned::<WAY, _>([ports.source, ports.destination]);
    match key.protocol {
        UDP => WAY == INGRESS || !dns::is_port(ports.destination),
        TCP => {
            let flags = core::ptr::from_ref(ports) as usize + TCP_FLAGS;
            if flags + 1 > end {
                return false;
            }
            // SAFETY: below the packet's end.
            unsafe { *(flags as *const u8) & (TCP_SYN | TCP_FIN | TCP_RST) == 0 }
        }
        _ => false,
    }
}

/// Whether the source is the endpoint's own; most have their first address.
#[inline(always)]
fn is_own(endpoint: &EndpointIf, key: &CtKey) -> bool {
    if key.local == Address::NONE {
        return false;
    }
    for mine in &endpoint.addresses {
        if *mine == key.local {
            return true;
        }
    }
    false
}

/// Whether the proxy asked for it, which goes before the flow.
#[inline(always)]
fn is_proxys<const WAY: u8>(key: &CtKey) -> bool {
    let answered = UpstreamKey {
        endpoint: key.endpoint,
        server_port: key.peer_port,
        local_port: key.local_port,
        server: key.peer,
    };
    WAY == INGRESS && upstream::is_there(&answered, key.protocol)
}

/// Whether the flow passes, and its entry says already all that this packet says.
#[inline(always)]
fn is_quiet<const WAY: u8>(config: &Config, key: &CtKey) -> bool {
    // SAFETY: plain integers that are read once; the entry lives until the program ends (RCU).
    let Some(value) = (unsafe { CT.get(key) }) else {
        return false;
    };
    let is_noted = value.direction == WAY || value.state & CtValue::ANSWERED != 0;
    // SAFETY: no arguments, no effects.
    let ticks = unsafe { bpf_jiffies64() as u32 };
    value.verdict == Verdict::Allow as u8
        && is_noted
        && ticks.wrapping_sub(value.ticks[WAY as usize]) < CtValue::TICKS
        && config.aggregation < Aggregation::Low as u32
}
