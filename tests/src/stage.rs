//! One guarded workload, and a server elsewhere: what most tests of a daemon need.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{Daemon, Node, Running, TcpSink, Workload};

/// What the server knows, below `example.com`.
const ZONE: &str = "web 60 IN A 198.18.0.1\nother 60 IN A 198.18.0.2\n";

/// A node with the workload `alice`, and a DNS server elsewhere that also accepts connections to port
/// 80 of each of its addresses.
pub struct Stage {
    /// The node.
    pub node: Node,
    /// The workload.
    pub alice: Workload,
    /// Where the server is.
    pub world: Workload,
    _servers: (Running, TcpSink),
}

impl Stage {
    /// Builds it.
    ///
    /// # Errors
    /// Without root, or if a program is missing.
    pub fn new() -> Result<Self> {
        let node = Node::new()?;
        let alice = node.workload("alice", 2)?;
        let world = node.elsewhere()?;
        let servers = (
            Running::knot(&world.ns, ZONE)?,
            TcpSink::serve(&world.ns, 80)?,
        );
        Ok(Self {
            node,
            alice,
            world,
            _servers: servers,
        })
    }

    /// A daemon, not started, that will guard alice; with this policy, unless it is empty.
    ///
    /// # Errors
    /// If its files can't be written.
    pub fn daemon(&self, policy: &str) -> Result<Daemon<'_>> {
        Daemon::guarding(&self.node, &self.alice, policy)
    }

    /// What `dig +short` tells alice. On a machine that is emulated she asks again where she is told
    /// nothing: the kernel may not be told of a first answer in time there, which is a SERVFAIL.
    ///
    /// # Errors
    /// If dig can't be run.
    pub fn asks(&self, name: &str) -> Result<String> {
        let ask = || self.alice.dig(IpAddr::V4(self.world.v4), &["+short", name]);
        let mut told = ask()?;
        for _ in 1..crate::patience() {
            if !told.is_empty() {
                break;
            }
            told = ask()?;
        }
        Ok(told)
    }

    /// Whether alice's connection is accepted within a moment.
    ///
    /// # Errors
    /// If that is no address and port.
    pub fn reaches(&self, to: &str) -> Result<bool> {
        let to: SocketAddr = to.parse().context("an address and a port")?;
        let wait = Duration::from_millis(700) * crate::patience();
        let connect = || TcpStream::connect_timeout(&to, wait).is_ok();
        Ok(self.alice.ns.run(connect)?)
    }
}
