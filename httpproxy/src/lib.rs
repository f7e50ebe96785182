//! One HTTP exchange: read strictly, judged, forwarded as judged.
//!
//! The core decides: what the first bytes are ([`sniff`]), what a ClientHello says
//! ([`ClientHelloReader`]), and, on an HTTP/1 connection, what may go where ([`Connection`]). It knows
//! no socket and no clock; time is an argument, and who judges is one too ([`Judge`]). A request goes
//! upstream only with a [`policy::http::HttpPermit`], which only a policy's "yes" makes.
//!
//! Where a rule says so, TLS is ended here and begun anew to the server, with what [`tls`] holds.
#![forbid(unsafe_code)]

mod core;
pub mod fuzzing;
mod io;
pub mod limits;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod testing;
pub mod tls;
mod told;

pub use core::client_hello::{BadHello, ClientHello, ClientHelloReader, HelloState};
pub use core::exchange::{Connection, Leg, Wants, Way};
pub use core::framing::BadBody;
pub use core::head::Version;
pub use core::head::refusal::BadHead;
pub use core::quic::BadQuic;
pub use core::record::{
    By, End, EndRecord, Fault, Note, Protocol, REDACTED, RequestRecord, ResponseRecord, Told,
    Verdict, Why,
};
pub use core::sniff::{Looked, Sniffed, sniff, sniff_anything};
pub use core::step::{
    AltSvc, Closed, Connect, Denied, Ech, Judge, Now, Origin, Paths, Queries, Scheme, Settings,
    Source,
};
pub use io::access::{Party, Redirected, Scope};
pub use io::host::{Host, Proxy};
pub use io::quic::QuicServer;
pub use io::server::{HttpServer, Stages};
pub use io::tally::Counters;
pub use told::{Named, News, Refusal, Refused, Said, TunnelEnd, TunnelEnded};
