//! Whole nodes in network namespaces, for tests: a node with a bridge, workloads, a server elsewhere,
//! and the real daemon on it.
//!
//! Everything is held by descriptors and by processes that end with the test: nothing is named on
//! the machine, and twenty nodes can run side by side.
#![forbid(unsafe_code)]
#![expect(
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "helpers of tests: a JSON value that isn't there is null, a log is wanted"
)]

mod asker;
mod asking;
mod authority;
mod cgroup;
mod daemon;
pub mod ended;
mod exchange;
mod exec;
mod flood;
mod node;
mod raw;
mod server;
mod stage;
mod steps;
mod topology;
mod web;

pub use asker::{Asker, Told};
pub use asking::Asking;
pub use authority::{Authority, Issued};
pub use cgroup::Cgroup;
pub use daemon::{Daemon, internet, patience, policy, wait_for};
pub use exchange::{WWW, exchange, exchange_at, seen_by};
pub use exec::{Caller, ExecStage, USER};
pub use flood::Flood;
pub use node::{Node, Workload, in_ns, must_be_equal, need_root};
pub use raw::RawTcp;
pub use server::{Answers, BIG_OCTETS, Running, TcpEcho, TcpSink, read_frame};
pub use stage::Stage;
pub use steps::{Step, each_step};
pub use topology::Tunnel;
pub use web::{Web, about, about_alice, asked, observed, read_head};
