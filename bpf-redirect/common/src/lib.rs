//! What the kernel programs and user space share: map names, sizes, keys and values, frame kinds,
//! drop reasons and events.
//!
//! `no_std`, and without aya: it must not know who loads a program or who runs one. Every type is
//! `repr(C)` without padding; ports are in network byte order, addresses are 16 bytes with IPv4 as
//! `::ffff:a.b.c.d`.
#![no_std]
#![forbid(unsafe_code)]

mod drop;
mod event;
mod key;
mod kind;
mod map;
mod value;

pub use drop::{COUNTERS, Counter, Drop};
pub use event::{Aggregation, Event, EventKind, TracePoint, TraceReason};
pub use key::{
    Address, AskerKey, CtKey, EndpointAddress, FragmentKey, PolicyKey, ServiceKey, UpstreamKey,
};
pub use kind::{GATE_MAC, Kind, MAC_PREFIX, Mark, REFUSAL_MAC};
pub use map::*;
pub use value::{
    ADDRESSES_PER_ENDPOINT_MAX, AskerValue, CgroupEndpoint, Config, CtValue, EndpointIf,
    EndpointLink, EventBudget, FirstFragment, Listeners, Match, NextHop, PolicyValue, ServiceValue,
    SocketServer, Verdict,
};
