//! What the benchmarks share: one endpoint under a policy of many patterns, and what it learns.
//!
//! It measures nothing itself; README.md says what each benchmark's number means.
#![forbid(unsafe_code)]

pub mod datapath;
mod learning;
pub mod revisions;
mod scene;

pub use learning::{Learning, Memory};
pub use scene::{Scene, name, names, pattern, question, server, subject};
