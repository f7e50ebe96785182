//! The programs: five hooks, one that drops everything, the search for a listener, and two yardsticks; and
//! the ten of a cgroup. Each entry point is one match: what passes, what is redirected, what is dropped,
//! and nothing else decides.
#![no_std]
#![no_main]

mod cgroup;
mod conntrack;
mod dns;
mod endpoint;
mod fragments;
mod hit;
mod learned;
mod listener;
mod maps;
mod neighbour;
mod packet;
mod policy;
mod refusal;
mod sidelink;
mod tell;
mod upstream;

use aya_ebpf::{
    macros::{cgroup_skb, cgroup_sock_addr, classifier, sk_lookup},
    programs::{SkBuffContext, SkLookupContext, SockAddrContext, TcContext},
};
use bpf_redirect_common::Drop;
use cgroup::Call;

/// No objection: the next program of the hook runs (`TCX_NEXT`, `TC_ACT_UNSPEC`).
const NEXT: i32 = -1;
/// The packet dies here (`TC_ACT_SHOT`).
const SHOT: i32 = 2;

/// A socket that was chosen is taken, else the kernel looks on by itself (`SK_PASS`).
const LOOK_ON: u32 = 1;

/// The packet goes elsewhere (`TC_ACT_REDIRECT`).
const REDIRECT: i32 = 7;

/// What becomes of a packet that isn't dropped. Like [`Drop`] a byte that is always written: what is left
/// open in a result the compiler may read before it looks whether it is there, and the verifier refuses.
#[repr(u8)]
pub enum Action {
    /// Goes on its way.
    Pass,
    /// Goes where `bpf_redirect` was told.
    Redirect,
}

/// Ingress of an endpoint's interface: what the workload sends.
#[classifier]
pub fn ng_from_ep(ctx: TcContext) -> i32 {
    finish(endpoint::from_endpoint(&ctx))
}

/// Egress of an endpoint's interface: what is sent to the workload.
#[classifier]
pub fn ng_to_ep(ctx: TcContext) -> i32 {
    finish(endpoint::to_endpoint(&ctx))
}

/// Ingress of the node's end of the side link: what comes out of the gate.
#[classifier]
pub fn ng_node_end(ctx: TcContext) -> i32 {
    finish(sidelink::deliver(&ctx))
}

/// Ingress of the gate's end: the frame's kind becomes the packet's mark.
#[classifier]
pub fn ng_gate_in(ctx: TcContext) -> i32 {
    finish(sidelink::enter_gate(&ctx))
}

/// Egress of the gate's end: the packet's mark becomes the frame's kind.
#[classifier]
pub fn ng_gate_out(ctx: TcContext) -> i32 {
    finish(sidelink::leave_gate(&ctx))
}

/// The gate, where a segment belongs to no connection there: which socket listens for it.
#[sk_lookup]
pub fn ng_listen(ctx: SkLookupContext) -> u32 {
    listener::choose(&ctx);
    LOOK_ON
}

/// Any hook, while the program that belongs there is being attached anew: nothing passes.
#[classifier]
pub fn ng_closed(_ctx: TcContext) -> i32 {
    finish(Err(Drop::Closed))
}

/// A yardstick for benchmarks: what a run costs by itself.
#[classifier]
pub fn ng_nothing(_ctx: TcContext) -> i32 {
    NEXT
}

/// A yardstick for benchmarks: one look-up in a hash.
#[classifier]
pub fn ng_look_up(ctx: TcContext) -> i32 {
    finish(endpoint::endpoint(&ctx).map(|_| Action::Pass))
}

/// A packet that a socket of the cgroup sends.
#[cgroup_skb(egress)]
pub fn ng_cg_egress(ctx: SkBuffContext) -> i32 {
    cgroup::finish(cgroup::egress(&TcContext::new(ctx.skb.skb)))
}

/// A packet that a socket of the cgroup gets.
#[cgroup_skb(ingress)]
pub fn ng_cg_ingress(ctx: SkBuffContext) -> i32 {
    cgroup::finish(cgroup::ingress(&TcContext::new(ctx.skb.skb)))
}

/// An IPv4 socket connects.
#[cgroup_sock_addr(connect4)]
pub fn ng_cg_connect4(ctx: SockAddrContext) -> i32 {
    cgroup::finish_call(cgroup::connect(&Call::<false>::read(&ctx)))
}

/// An IPv6 socket connects, to an address of IPv4 too.
#[cgroup_sock_addr(connect6)]
pub fn ng_cg_connect6(ctx: SockAddrContext) -> i32 {
    cgroup::finish_call(cgroup::connect(&Call::<true>::read(&ctx)))
}

/// A datagram to an address, over IPv4.
#[cgroup_sock_addr(sendmsg4)]
pub fn ng_cg_sendmsg4(ctx: SockAddrContext) -> i32 {
    cgroup::finish_call(cgroup::send(&Call::<false>::read(&ctx)))
}

/// A datagram to an address, over IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn ng_cg_sendmsg6(ctx: SockAddrContext) -> i32 {
    cgroup::finish_call(cgroup::send(&Call::<true>::read(&ctx)))
}

/// Who sent a datagram, as an IPv4 socket is told.
#[cgroup_sock_addr(recvmsg4)]
pub fn ng_cg_recvmsg4(ctx: SockAddrContext) -> i32 {
    cgroup::show(&Call::<false>::read(&ctx));
    1
}

/// Who sent a datagram, as an IPv6 socket is told.
#[cgroup_sock_addr(recvmsg6)]
pub fn ng_cg_recvmsg6(ctx: SockAddrContext) -> i32 {
    cgroup::show(&Call::<true>::read(&ctx));
    1
}

/// Who an IPv4 socket is connected to, as it is told.
#[cgroup_sock_addr(getpeername4)]
pub fn ng_cg_peer4(ctx: SockAddrContext) -> i32 {
    cgroup::show(&Call::<false>::read(&ctx));
    1
}

/// Who an IPv6 socket is connected to, as it is told.
#[cgroup_sock_addr(getpeername6)]
pub fn ng_cg_peer6(ctx: SockAddrContext) -> i32 {
    cgroup::show(&Call::<true>::read(&ctx));
    1
}

#[inline(always)]
fn finish(outcome: Result<Action, Drop>) -> i32 {
    match outcome {
        Ok(Action::Pass) => NEXT,
        Ok(Action::Redirect) => REDIRECT,
        Err(reason) => {
            tell::count(reason as u32);
            SHOT
        }
    }
}

/// The verifier refuses an endless loop that can be reached: a panic can't.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
