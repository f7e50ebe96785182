//! The listener, and a task for each connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::GateListener;

use super::connection::Connection;
use super::host::{Host, Proxy};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4_096;

/// One of those who share the redirected connections, ready to run in the namespace that its listener
/// was made in.
pub struct HttpServer<H: Host> {
    proxy: Arc<Proxy<H>>,
    listener: std::net::TcpListener,
}

impl<H: Host> HttpServer<H> {
    /// Makes `count` of them in the calling thread's namespace, which must be the gate.
    ///
    /// # Errors
    /// If a socket can't be made.
    pub fn open(proxy: &Arc<Proxy<H>>, count: usize) -> io::Result<Vec<Self>> {
        let mut port = 0;
        let mut servers = Vec::new();
        for _ in 0..count {
            let listener = GateListener::bind_shared(port, BACKLOG)?;
            port = listener.port()?;
            servers.push(Self {
                proxy: Arc::clone(proxy),
                listener: listener.into_std(),
            });
        }
        Ok(servers)
    }

    /// The listening socket; each of those that share stands for all.
    #[must_use]
    pub fn socket(&self) -> &std::net::TcpListener {
        &self.listener
    }

    /// Serves until `stop`, and then until what is open is over or `drain` is. Must run on a
    /// single-threaded runtime whose thread is in the gate: connections to servers are made on it.
    ///
    /// # Errors
    /// If the listener can't be used.
    pub async fn run(self, stop: CancellationToken, drain: Duration) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors, or a client that gave up: the next one may do better.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            if let Some(connection) = Connection::open(&self.proxy, stream, &stop) {
                tasks.spawn(connection.run());
            }
        }
        drop(listener);
        tasks.close();
        // What is still open after the drain ends with the runtime.
        let _ = tokio::time::timeout(drain, tasks.wait()).await;
        Ok(())
    }
}
