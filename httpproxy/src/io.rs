//! Sockets: connections that come redirected, and those in a client's name.

pub(crate) mod access;
mod bound;
mod connection;
mod detect;
pub(crate) mod host;
mod http1;
mod http2;
mod lane;
mod named;
mod places;
pub(crate) mod quic;
pub(crate) mod server;
mod stream;
pub(crate) mod tally;
mod terminate;
mod tunnel;

#[cfg(test)]
mod tests;
