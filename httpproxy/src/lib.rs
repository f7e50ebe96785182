//! One HTTP exchange: read strictly, judged, forwarded as judged.
//!
//! The core decides: what the first bytes are ([`sniff`]), what a ClientHello says
//! ([`ClientHelloReader`]), and, on an HTTP/1 connection, what may go where. It knows no socket and no
//! clock; time is an argument.
#![forbid(unsafe_code)]

mod core;
mod io;
pub mod limits;
#[cfg(test)]
mod testing;
mod told;

pub use core::client_hello::{BadHello, ClientHello, ClientHelloReader, HelloState};
pub use core::sniff::{Sniffed, sniff};
pub use io::access::{Party, Redirected, Scope};
pub use io::host::{Host, Proxy};
pub use io::server::HttpServer;
pub use io::tally::Counters;
pub use told::{News, Refusal, Refused};
