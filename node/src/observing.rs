//! The thread on which flows are served to those who watch.

mod addresses;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Result;
use observer::{AgentRing, MetricsServer, Node, Pages, Server, SharedRing, Tls};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use transport::NetNs;

use crate::clock;
use crate::serving;

/// By which ways flows may be watched.
#[derive(Clone, Debug)]
pub(crate) struct Observing {
    /// The node's name.
    pub(crate) node_name: Arc<str>,
    /// The unix socket.
    pub(crate) socket: PathBuf,
    /// The address on TCP, with its certificates.
    pub(crate) tcp: Option<(SocketAddr, Tls)>,
    /// Whether every field mask is obeyed to the letter.
    pub(crate) exact_masks: bool,
    /// Where metrics are served by HTTP.
    pub(crate) metrics: Option<SocketAddr>,
}

/// The running thread.
pub(crate) struct ObserverThread {
    stop: CancellationToken,
    thread: JoinHandle<()>,
    socket: PathBuf,
}

impl ObserverThread {
    /// Opens the sockets and serves.
    ///
    /// # Errors
    /// If a socket can't be made, or a certificate not be used.
    pub(crate) fn start(
        ways: Observing,
        (flows, agent): (Arc<SharedRing>, Arc<AgentRing>),
        pages: Option<Pages>,
    ) -> Result<Self> {
        let node = Node {
            name: ways.node_name,
            version: env!("CARGO_PKG_VERSION").into(),
            flows,
            agent,
            exact_masks: ways.exact_masks,
            now: clock::now,
            time_of_day: || clock::time_of_day(clock::now()),
            addresses: addresses::of_node,
        };
        let mut servers = vec![Server::unix(node.clone(), &ways.socket)?];
        if let Some((address, tls)) = &ways.tcp {
            servers.push(Server::tcp(node, *address, tls)?);
        }
        for server in &servers {
            tracing::info!(address = %server.address(), "flows can be watched");
        }
        let metrics = ways.metrics.zip(pages);
        let metrics = metrics.map(|(address, pages)| MetricsServer::open(address, pages));
        let metrics = metrics.transpose()?;
        if let Some(metrics) = &metrics {
            tracing::info!(address = %metrics.address(), "metrics can be read");
        }
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = serving::spawn(
            "observer".to_owned(),
            &NetNs::current()?,
            "flows can't be watched any more",
            move || serve(servers, metrics, stopped),
        )?;
        Ok(Self {
            stop,
            thread,
            socket: ways.socket,
        })
    }

    /// Ends all streams and takes the socket's file away.
    pub(crate) fn stop(self) {
        self.stop.cancel();
        if self.thread.join().is_err() {
            tracing::error!("the observer's thread panicked");
        }
        let _ = std::fs::remove_file(self.socket);
    }
}

async fn serve(
    servers: Vec<Server>,
    metrics: Option<MetricsServer>,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut all = JoinSet::new();
    if let Some(metrics) = metrics {
        all.spawn(metrics.run(stop.clone().cancelled_owned()));
    }
    for server in servers {
        all.spawn(server.run(stop.clone().cancelled_owned()));
    }
    while let Some(ended) = all.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    Ok(())
}
