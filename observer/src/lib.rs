//! Flows for those who watch: Hubble's Observer, Peer and health services by gRPC, on a unix socket and, if
//! that is wanted, on TCP with TLS on both sides.
//!
//! A reader is asked for by its client, never pushed to: who is slow falls behind in the ring, loses what
//! is overwritten there, and is told how much. Nobody waits for it. A [`FlowSink`], which
//! tells flows to a file, a collector of logs or the journal, has a queue and a thread of its own for the
//! same reason.
#![forbid(unsafe_code)]

mod agent;
mod answer;
mod convert;
pub mod limits;
mod metrics;
mod peer;
pub mod proto;
mod question;
mod ring;
mod scrape;
mod seats;
mod serve;
mod service;
mod sink;

pub use agent::{AgentQuery, AgentReader, AgentRing};
pub use metrics::{BadChoice, DEFAULT_METRICS, FlowMetrics, MetricChoice};
pub use ring::{Figures, SharedRing};
pub use scrape::{MetricsForm, MetricsServer, Pages};
pub use serve::{ServeError, Server, Tls, clear_socket};
pub use service::{Node, NodeAddresses};
pub use sink::{
    Aggregate, Collector, CollectorError, Export, FileTarget, FlowSink, SinkFigures, Target,
};
