//! What leaves the house: flow events in Hubble's model, byte for byte.
//!
//! A [`Flow`] is one event: a DNS or HTTP request or response, a policy verdict, a drop or the trace of a
//! packet. It writes
//! itself as the JSON of Hubble's exporter and reads that back, [`Printer`] prints it as
//! `hubble observe` does, a [`Filter`] takes that command's flags, and a [`Ring`] keeps the last
//! ones for readers of different speed. This crate knows no socket, no file, no clock, and no other
//! crate of ours: whoever fills a `Flow` decides, here it is only told.
#![forbid(unsafe_code)]

mod agent;
mod dns;
mod drop_reason;
mod endpoint;
mod filter;
mod flow;
mod foreign;
mod http;
mod json;
pub mod limits;
mod lost;
mod mask;
mod message;
mod node_status;
mod packet;
mod print;
mod query;
mod read;
mod redact;
mod reserved;
mod ring;
mod schema;
mod summary;
mod time;
mod trace;
mod uuid;
mod verdict;

pub use agent::{AgentEndpoint, AgentEvent, AgentLine};
pub use dns::{Dns, NO_TTL, RecordType, rcode_text};
pub use drop_reason::DropReason;
pub use endpoint::{Endpoint, PolicyRef, Workload};
pub use filter::{
    EventType, FILTER_FLAGS, Filter, FilterError, FilterFlag, FilterFlags, FlowFilter, IpVersion,
    PeerFilter,
};
pub use flow::{Emitter, Event, FileInfo, Flow, Interface};
pub use foreign::{Foreign, Nameless, OtherL4, PartIp, Service, Tunnel};
pub use http::{Http, HttpHeader};
pub use lost::{Losses, LostEvents, LostSource};
pub use mask::{BadPath, FieldMask};
pub use message::MessageKind;
pub use node_status::{NodeChange, NodeStatus};
pub use packet::{BadMacAddr, Ethernet, Ip, L4, MacAddr, TcpFlags};
pub use print::{Printer, Table};
pub use query::{LOST_EVENTS_INTERVAL, Query, QueryError, Reader};
pub use read::{Line, ReadError, Recorded};
pub use redact::{HeaderLists, REDACTED, Redaction};
pub use ring::{Batch, Cursor, Ring};
pub use time::{Time, TimeFormat};
pub use trace::{TracePoint, TraceReason};
pub use uuid::{BadUuid, Uuid};
pub use verdict::{Direction, Verdict, match_type_name};
