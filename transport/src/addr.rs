//! Addresses that say whose they are: mixing up client, server and proxy does not compile.

use std::fmt;
use std::net::SocketAddr;

/// The workload that asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClientAddr(pub SocketAddr);

/// Where the workload's packet was going when it was redirected.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OrigDstAddr(pub SocketAddr);

/// Where an answer came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UpstreamAddr(pub SocketAddr);

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for OrigDstAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for UpstreamAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
