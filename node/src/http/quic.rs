//! The ports at which QUIC is judged by its server names: a thread for each that policy names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::JoinHandle;

use httpproxy::{Proxy, QuicServer};
use tokio_util::sync::CancellationToken;
use transport::NetNs;

use super::NodeHost;
use crate::serving;

/// The threads, by port, and the gate, in which they are.
pub(super) struct Ports {
    proxy: Arc<Proxy<NodeHost>>,
    gate: NetNs,
    open: BTreeMap<u16, Port>,
}

struct Port {
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl Ports {
    /// None yet.
    pub(super) fn new(proxy: Arc<Proxy<NodeHost>>, gate: NetNs) -> Self {
        Self {
            proxy,
            gate,
            open: BTreeMap::new(),
        }
    }

    /// Opens those that aren't open yet. What is sent to one that can't be opened is lost, and told by the
    /// kernel; it is tried again with the next policy.
    pub(super) fn open(&mut self, ports: &BTreeSet<u16>) {
        for port in ports {
            if self.open.contains_key(port) {
                continue;
            }
            match self.start(*port) {
                Ok(started) => _ = self.open.insert(*port, started),
                Err(error) => tracing::error!("QUIC can't be judged at port {port}: {error}"),
            }
        }
    }

    fn start(&self, port: u16) -> std::io::Result<Port> {
        let server = self.gate.run(|| QuicServer::open(&self.proxy, port))??;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let serve = move || server.run(stopped);
        let name = format!("quic-{port}");
        let thread = serving::spawn(name, &self.gate, "a thread of QUIC ended", serve)?;
        Ok(Port { stop, thread })
    }

    /// Ends those that no policy names any more, with what is open there.
    pub(super) fn close(&mut self, wanted: &BTreeSet<u16>) {
        let all = std::mem::take(&mut self.open).into_iter();
        let (kept, closed) = all.partition(|(port, _)| wanted.contains(port));
        self.open = kept;
        let closed: BTreeMap<u16, Port> = closed;
        closed.into_values().for_each(|port| port.stop.cancel());
    }

    pub(super) fn all_alive(&self) -> bool {
        let mut ports = self.open.values();
        ports.all(|port| !port.thread.is_finished())
    }

    /// Ends all.
    pub(super) fn stop(mut self) -> impl Iterator<Item = JoinHandle<()>> {
        let ports = std::mem::take(&mut self.open);
        ports.into_values().map(|port| {
            port.stop.cancel();
            port.thread
        })
    }
}
