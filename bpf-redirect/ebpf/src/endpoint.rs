//! The two hooks of an endpoint's interface: its egress policy where it sends, its ingress policy
//! where it receives.

use aya_ebpf::{EbpfContext, programs::TcContext};
use bpf_redirect_common::{
    Address, Aggregation, Config, Drop, EGRESS, EndpointIf, INGRESS, Kind, ServiceKey,
    ServiceValue, TracePoint, TraceReason, Verdict,
};

use crate::{
    Action,
    conntrack::{self, Known, Tuple},
    dns,
    fragments,
    hit,
    learned,
    maps::{CONFIG, EP_IF, SERVICES},
    neighbour,
    packet::{Fragment, ICMP, ICMPV6, Packet, Quoted, SCTP, TCP, UDP, parse, quoted},
    policy::{Flow, Judgement, is_open, judge},
    sidelink,
    tell::{self, Place},
    upstream,
};

/// What the workload sends.
#[inline(always)]
pub fn from_endpoint(ctx: &TcContext) -> Result<Action, Drop> {
    let config = CONFIG.get(0).ok_or(Drop::NoConfiguration)?;
    if mark(ctx) == config.inject_mark && config.inject_mark != 0 {
        // From the proxy, in the workload's name: it was judged as a query.
        ctx.set_mark(0);
        return Ok(Action::Pass);
    }
    let endpoint = endpoint(ctx)?;
    if endpoint.attaching != 0 || hit::passes::<EGRESS>(ctx.skb.skb, config, endpoint) {
        return Ok(Action::Pass);
    }
    let place = Place {
        endpoint: endpoint.endpoint,
        direction: EGRESS,
    };
    let mut packet = Packet::NONE;
    parse(ctx, &mut packet).map_err(|reason| tell::dropped(&place, &packet, reason))?;
    if packet.source_mac != endpoint.workload_mac {
        return Err(tell::dropped(&place, &packet, Drop::InvalidSourceMac));
    }
    if packet.is_neighbours() {
        neighbour::sent(&place, &mut packet)?;
        return Ok(Action::Pass);
    }
    if !is_own(endpoint, packet.source) {
        if asks_for_lease(&packet) {
            return Ok(Action::Pass);
        }
        return Err(tell::dropped(&place, &packet, Drop::InvalidSourceIp));
    }

    if config.aggregation >= Aggregation::None as u32 {
        let seen = (TracePoint::FromEndpoint, TraceReason::Unknown);
        tell::traced(&place, &packet, 0, seen);
    }
    let tuple = Tuple::of(place.endpoint, EGRESS, &packet);
    let mut reply = None;
    if let Some(tuple) = &tuple {
        if let Some(known) = tuple.known(config) {
            let seen = (&place, &packet);
            match known.verdict {
                Verdict::Allow if dns::may_ask(&known, &packet) => reply = Some(known),
                Verdict::Redirect if packet.fragment != Fragment::Whole => {
                    return Err(tell::dropped(&place, &packet, Drop::Fragment));
                }
                Verdict::Redirect => {
                    trace_known(seen, TracePoint::ToProxy, &known);
                    return sidelink::to_proxy(ctx, config, place.endpoint, &packet);
                }
                // Flows that pass are remembered as allowed.
                _ => {
                    trace_known(seen, TracePoint::ToStack, &known);
                    return Ok(pass(ctx, &place, &packet, known.identity));
                }
            }
        }
    } else if let Some(identity) = continued(ctx, &place, &packet) {
        trace_part(config, (&place, &packet), identity, TracePoint::ToStack);
        return Ok(Action::Pass);
    } else if let Some(identity) = related_out(endpoint, &packet, quoted(ctx, &packet)) {
        let seen = (TracePoint::ToStack, TraceReason::Related);
        trace(config, (&place, &packet), identity, seen);
        return Ok(Action::Pass);
    }
    let (identity, judgement) = judged(&place, &packet, packet.destination)?;
    if let Some(known) = reply
        && judgement.verdict != Verdict::Redirect
    {
        trace_known((&place, &packet), TracePoint::ToStack, &known);
        return Ok(pass(ctx, &place, &packet, identity));
    }
    match judgement.verdict {
        Verdict::Allow | Verdict::AuditUnmatched | Verdict::AuditDeny => {
            tell::judged(&place, &packet, identity, &judgement);
            if let Some(tuple) = &tuple {
                upstream::forget(place.endpoint, &packet, EGRESS);
                remember(
                    tuple,
                    (&place, &packet),
                    identity,
                    (judgement.rule, Verdict::Allow),
                )?;
            }
            let seen = (TracePoint::ToStack, TraceReason::New);
            trace(config, (&place, &packet), identity, seen);
            Ok(pass(ctx, &place, &packet, identity))
        }
        Verdict::Redirect => {
            if packet.fragment != Fragment::Whole {
                return Err(tell::dropped(&place, &packet, Drop::Fragment));
            }
            // A UDP query makes no entry: fresh source ports must not fill the table. The proxy tells of it.
            if let (TCP, Some(tuple)) = (packet.protocol, &tuple) {
                tell::judged(&place, &packet, identity, &judgement);
                remember(
                    tuple,
                    (&place, &packet),
                    identity,
                    (judgement.rule, Verdict::Redirect),
                )?;
                let seen = (TracePoint::ToProxy, TraceReason::New);
                trace(config, (&place, &packet), identity, seen);
            } else if config.aggregation >= Aggregation::Low as u32 {
                let seen = (TracePoint::ToProxy, TraceReason::Unknown);
                tell::traced(&place, &packet, identity, seen);
            }
            sidelink::to_proxy(ctx, config, place.endpoint, &packet)
        }
        Verdict::Unmatched | Verdict::Refuse | Verdict::Deny | Verdict::FailAuthentication => {
            tell::judged(&place, &packet, identity, &judgement);
            let reason = judgement.reason(packet.fragment);
            if reason as u8 != Drop::NameHidden as u8 || packet.fragment != Fragment::Whole {
                return Err(reason);
            }
            tell::count(reason as u32);
            sidelink::to_refusal(ctx, config, place.endpoint)
        }
    }
}

/// What is sent to the workload.
#[inline(always)]
pub fn to_endpoint(ctx: &TcContext) -> Result<Action, Drop> {
    let config = CONFIG.get(0).ok_or(Drop::NoConfiguration)?;
    if mark(ctx) == config.client_mark && config.client_mark != 0 {
        // From the proxy to its client.
        ctx.set_mark(0);
        return Ok(Action::Pass);
    }
    let endpoint = endpoint(ctx)?;
    if endpoint.attaching != 0 || hit::passes::<INGRESS>(ctx.skb.skb, config, endpoint) {
        return Ok(Action::Pass);
    }
    let place = Place {
        endpoint: endpoint.endpoint,
        direction: INGRESS,
    };
    let mut packet = Packet::NONE;
    parse(ctx, &mut packet).map_err(|reason| tell::dropped(&place, &packet, reason))?;
    if packet.is_neighbours() {
        neighbour::received(place.endpoint, &packet);
        return Ok(Action::Pass);
    }
    if !is_own(endpoint, packet.destination) {
        // Flooded by a bridge, or multicast.
        return match is_lease_offer(&packet) || is_open(place.endpoint, INGRESS) {
            true => Ok(Action::Pass),
            false => Err(tell::dropped(&place, &packet, Drop::NotForEndpoint)),
        };
    }
    let quoted = quoted(ctx, &packet);
    if upstream::is_for_proxy(ctx, place.endpoint, &packet, quoted.as_ref()) {
        // Before conntrack and before the ingress policy: it was asked for by the proxy.
        return sidelink::to_gate(ctx, config, Kind::Upstream, place.endpoint);
    }
    if let Some(identity) = continued(ctx, &place, &packet) {
        trace_part(config, (&place, &packet), identity, TracePoint::ToEndpoint);
        return Ok(Action::Pass);
    }
    let related = related_in(endpoint, &packet, quoted);
    match received(config, &place, &packet, related)? {
        Received::Pass(identity) => Ok(pass(ctx, &place, &packet, identity)),
        Received::Proxys => sidelink::to_gate(ctx, config, Kind::Upstream, place.endpoint),
        Received::ToProxy => sidelink::to_proxy_inbound(ctx, config, place.endpoint, &packet),
    }
}

/// What becomes of a packet to an endpoint that isn't dropped.
pub enum Received {
    /// It may have it, from a peer with this identity.
    Pass(u32),
    /// It belongs to a flow of the proxy's.
    Proxys,
    /// It begins such a flow.
    ToProxy,
}

/// What reaches an endpoint: known flows pass, and errors about one, with its peer's identity; others by its
/// ingress policy.
#[inline(always)]
pub fn received(
    config: &Config,
    place: &Place,
    packet: &Packet,
    related: Option<u32>,
) -> Result<Received, Drop> {
    let tuple = Tuple::of(place.endpoint, INGRESS, packet);
    if let Some(tuple) = &tuple {
        if let Some(known) = tuple.known(config) {
            // Whichever side began: what is sent to such a flow of the workload is the proxy's.
            if known.verdict == Verdict::Redirect {
                if packet.fragment != Fragment::Whole {
                    return Err(tell::dropped(place, packet, Drop::Fragment));
                }
                trace_known((place, packet), TracePoint::ToProxy, &known);
                return Ok(Received::Proxys);
            }
            trace_known((place, packet), TracePoint::ToEndpoint, &known);
            return Ok(Received::Pass(known.identity));
        }
    } else if let Some(identity) = related.or_else(|| too_big(place, packet)) {
        let seen = (TracePoint::ToEndpoint, TraceReason::Related);
        trace(config, (place, packet), identity, seen);
        return Ok(Received::Pass(identity));
    }
    let (identity, judgement) = judged(place, packet, packet.source)?;
    match judgement.verdict {
        Verdict::Allow | Verdict::AuditUnmatched | Verdict::AuditDeny => {
            tell::judged(place, packet, identity, &judgement);
            // Remembered so that the replies pass under an egress policy that denies.
            if let Some(tuple) = &tuple {
                upstream::forget(place.endpoint, packet, INGRESS);
                remember(tuple, (place, packet), identity, (judgement.rule, Verdict::Allow))?;
            }
            let seen = (TracePoint::ToEndpoint, TraceReason::New);
            trace(config, (place, packet), identity, seen);
            Ok(Received::Pass(identity))
        }
        Verdict::Redirect => {
            if packet.fragment != Fragment::Whole {
                return Err(tell::dropped(place, packet, Drop::Fragment));
            }
            tell::judged(place, packet, identity, &judgement);
            let (TCP, Some(tuple)) = (packet.protocol, &tuple) else {
                // Inbound the proxy speaks nothing else.
                return Err(Drop::PolicyDenied);
            };
            remember(tuple, (place, packet), identity, (judgement.rule, Verdict::Redirect))?;
            let seen = (TracePoint::ToProxy, TraceReason::New);
            trace(config, (place, packet), identity, seen);
            Ok(Received::ToProxy)
        }
        Verdict::Unmatched | Verdict::Refuse | Verdict::Deny | Verdict::FailAuthentication => {
            tell::judged(place, packet, identity, &judgement);
            Err(judgement.reason(packet.fragment))
        }
    }
}

/// Lets a packet pass, and those that follow it as parts of the same.
#[inline(always)]
fn pass(ctx: &TcContext, place: &Place, packet: &Packet, identity: u32) -> Action {
    if packet.fragment == Fragment::First {
        fragments::begin(ctx, place.endpoint, packet, identity);
    }
    Action::Pass
}

/// The identity of the peer, if this is a later fragment of what passed.
#[inline(always)]
fn continued(ctx: &TcContext, place: &Place, packet: &Packet) -> Option<u32> {
    match packet.fragment {
        Fragment::Later => fragments::follows(ctx, place.endpoint, packet),
        Fragment::Whole | Fragment::First => None,
    }
}

/// Tells of such a fragment, where all packets are told.
#[inline(always)]
fn trace_part(
    config: &Config,
    (place, packet): (&Place, &Packet),
    identity: u32,
    point: TracePoint,
) {
    if config.aggregation >= Aggregation::Low as u32 {
        tell::traced(place, packet, identity, (point, TraceReason::Established));
    }
}

/// Tells of a packet of a known flow, if it is news.
#[inline(always)]
pub fn trace_known((place, packet): (&Place, &Packet), point: TracePoint, known: &Known) {
    if known.is_news {
        tell::traced(place, packet, known.identity, (point, known.reason()));
    }
}

/// Tells of a packet that is always news.
#[inline(always)]
pub fn trace(
    config: &Config,
    (place, packet): (&Place, &Packet),
    identity: u32,
    seen: (TracePoint, TraceReason),
) {
    if config.aggregation != Aggregation::Off as u32 {
        tell::traced(place, packet, identity, seen);
    }
}

/// If an ICMP error of the workload is about what a peer sent it in a flow that passes, the peer's
/// identity; the error goes to that peer and to nobody else.
#[inline(always)]
fn related_out(endpoint: &EndpointIf, packet: &Packet, quoted: Option<Quoted>) -> Option<u32> {
    let quoted = quoted?;
    if quoted.source != packet.destination || !is_own(endpoint, quoted.destination) {
        return None;
    }
    conntrack::passing(endpoint.endpoint, INGRESS, &quoted)
}

/// If an ICMP error to the workload, of whoever is on the way, is about what that address of it sent in a
/// flow that passes, the identity of that flow's peer.
#[inline(always)]
fn related_in(endpoint: &EndpointIf, packet: &Packet, quoted: Option<Quoted>) -> Option<u32> {
    let quoted = quoted?;
    if quoted.source != packet.destination {
        return None;
    }
    conntrack::passing(endpoint.endpoint, EGRESS, &quoted)
}

/// Who says that a packet of the workload's is too big for the path, if this packet says so: it passes whatever it
/// is about (policy has no word for it), since of what has no flow, as GRE, nothing else would tell of it.
#[inline(always)]
fn too_big(place: &Place, packet: &Packet) -> Option<u32> {
    // RFC 1191 §4: type 3, code 4.
    const TOO_BIG: u16 = 0x0304_u16.to_be();
    let is_whole = packet.fragment == Fragment::Whole;
    (packet.protocol == ICMP && packet.icmp == TOO_BIG && is_whole)
        .then(|| learned::identity(place.endpoint, packet.source))
}

/// Whose identity the other side has, and what the endpoint's policy says of the packet.
#[inline(always)]
pub fn judged(place: &Place, packet: &Packet, peer: Address) -> Result<(u32, Judgement), Drop> {
    let (identity, port) = match service(place, packet) {
        // It reaches itself, of which policy says nothing.
        Some(service) if service.endpoint == place.endpoint => {
            return Ok((service.identity, Judgement::OWN));
        }
        // A virtual address stands for its backends, and rules mean their port.
        Some(service) => (service.identity, Some(service.port)),
        None => (learned::identity(place.endpoint, peer), policy_port(packet)),
    };
    let flow = Flow {
        // The same of a peer that nothing is known of.
        identity: match identity {
            0 => NO_IDENTITY,
            identity => identity,
        },
        port,
        // In entries 0 stands for any protocol, so a packet that has it is of none.
        protocol: match packet.protocol {
            0 => NO_PROTOCOL,
            protocol => protocol,
        },
        direction: place.direction,
    };
    match judge(place.endpoint, &flow) {
        Some(judgement) => Ok((identity, judgement)),
        None => Err(tell::dropped(place, packet, Drop::NoConfiguration)),
    }
}

/// What a workload sends to a service's virtual address is judged as.
#[inline(always)]
fn service(place: &Place, packet: &Packet) -> Option<&'static ServiceValue> {
    if place.direction != EGRESS || packet.fragment == Fragment::Later {
        return None;
    }
    let key = ServiceKey {
        vip: packet.destination,
        port: packet.destination_port,
        protocol: packet.protocol,
        reserved: 0,
    };
    // SAFETY: read only; user space replaces whole entries.
    unsafe { SERVICES.get(&key) }
}

#[inline(always)]
pub fn remember(
    tuple: &Tuple,
    seen: (&Place, &Packet),
    identity: u32,
    decision: (u32, Verdict),
) -> Result<(), Drop> {
    let (rule, verdict) = decision;
    let (place, packet) = seen;
    tuple
        .remember(identity, rule, verdict)
        .map_err(|reason| tell::dropped(place, packet, reason))
}

/// Reserved (IANA): no entry names it.
const NO_PROTOCOL: u8 = 255;

/// Never given: no entry names it.
const NO_IDENTITY: u32 = u32::MAX - 1;

/// What policy entries name as a port: of ICMP the type, of a later fragment nothing.
#[inline(always)]
fn policy_port(packet: &Packet) -> Option<u16> {
    if packet.fragment == Fragment::Later {
        return None;
    }
    match packet.protocol {
        TCP | UDP | SCTP => Some(u16::from_be(packet.destination_port)),
        ICMP | ICMPV6 => Some(u16::from_be(packet.icmp) >> 8),
        _ => None,
    }
}

const LEASE_SERVER: u16 = 67u16.to_be();
const LEASE_CLIENT: u16 = 68u16.to_be();

/// Whether a workload asks the link for its first address (RFC 2131 §4.1): it has none to be judged by.
#[inline(always)]
fn asks_for_lease(packet: &Packet) -> bool {
    packet.protocol == UDP
        && packet.fragment == Fragment::Whole
        && packet.source_port == LEASE_CLIENT
        && packet.destination_port == LEASE_SERVER
        && packet.source == Address::from_ipv4_word(0)
        && packet.destination == Address::from_ipv4_word(u32::MAX)
}

/// Whether it is an answer to that, for an address that the workload doesn't have yet.
#[inline(always)]
fn is_lease_offer(packet: &Packet) -> bool {
    packet.protocol == UDP
        && packet.family == 4
        && packet.fragment == Fragment::Whole
        && packet.source_port == LEASE_SERVER
        && packet.destination_port == LEASE_CLIENT
}

#[inline(always)]
fn is_own(endpoint: &EndpointIf, address: Address) -> bool {
    if address == Address::NONE {
        return false;
    }
    let mut own = false;
    for mine in &endpoint.addresses {
        own |= *mine == address;
    }
    own
}

/// The endpoint behind the interface.
#[inline(always)]
pub fn endpoint(ctx: &TcContext) -> Result<&'static EndpointIf, Drop> {
    // SAFETY: the verifier knows `__sk_buff`; `ifindex` is the interface of the hook.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: read only; user space replaces whole entries.
    unsafe { EP_IF.get(&ifindex) }.ok_or(Drop::NoConfiguration)
}

#[inline(always)]
fn mark(ctx: &TcContext) -> u32 {
    // SAFETY: the verifier knows `__sk_buff`.
    unsafe { (*ctx.as_ptr().cast::<aya_ebpf::bindings::__sk_buff>()).mark }
}
