//! One DNS exchange: judged, forwarded, learned, released.
//!
//! The core decides: gates on raw bytes ([`gate_query`]), an [`Exchange`] that goes upstream only
//! with a permit, a table of what is outstanding ([`Pending`]), and a [`Learn`] between an answer's
//! addresses and its release. It knows no socket and no clock; time is an argument, and every step
//! appends its bytes to a buffer of the caller's. The way of one query is drawn in
//! `core/exchange.rs`.
#![forbid(unsafe_code)]

mod answer;
mod core;
mod ech;
mod frames;
pub mod fuzzing;
mod io;
pub mod limits;
mod question;
mod refuse;
#[cfg(test)]
mod testing;
mod walk;
mod words;

pub use answer::{
    Addresses, Answer, ChainName, Invalid, LearnedAddr, Matched, RecordTypes, Reject, Sent,
    matches, read_answer,
};
pub use core::exchange::{Action, Exchange, Forward, Held, Upstream};
pub use core::gates::{GateReason, Message, Opt, Query, Refusal, gate_query};
pub use core::learn::{Learn, Lesson, NotInstalled};
pub use core::local::Remark;
pub use core::outstanding::{Outstanding, Refused, Slot};
pub use core::pending::{Key, Member, Pending, Via};
pub use core::record::{AllowedBy, Ending, ErrorAnswers, ExchangeRecord, Outcome, Records, Told};
pub use core::release::{Arrived, Heard, Learned, Taught, Untaught, Withheld};
pub use core::step::{
    Case, DenyResponse, Encrypted, Fault, Https, OnTimeout, Origin, Reply, Settings, Step,
};
pub use core::tally::{Counters, Quirk};
pub use core::tunnels::{Seen, TunnelMode, Tunnels};
pub use frames::{FrameError, Frames, write_frame};
pub use io::host::{Host, Proxy, StandIns};
pub use io::tcp::{Handover, TcpServer};
pub use io::udp::{Own, OwnQuery, StopUdp, UdpWorker};
pub use io::waiting::{Kept, Waiting, WaitingFile, last_alive_ns, once_each};
pub use question::{Flags, HEADER_OCTETS, Header, RawQuestion, Rcode};
pub use refuse::{DnssecOk, Ede, OwnAnswer, Repeated, write_answer, write_truncated};
