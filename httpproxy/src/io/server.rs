//! The listener, and a task for each connection.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::{GateListener, set_up};

use super::connection::{Connection, KEEP_ALIVE};
use super::host::{Host, Proxy};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4_096;
/// How long connections that are cut may take to say so.
const CUT_WAIT: Duration = Duration::from_millis(250);

/// A timer that is earlier than all others of a worker costs a write to an eventfd, with a turn of the loop for it.
/// Those of connections are later than this one, which is always there.
const PULSE: Duration = Duration::from_secs(1);

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
            let listener = listener.into_std();
            // What it accepts is so from its first segment on.
            set_up(listener.as_fd(), KEEP_ALIVE.0, KEEP_ALIVE.1)?;
            servers.push(Self {
                proxy: Arc::clone(proxy),
                listener,
            });
        }
        Ok(servers)
    }

    /// The same with a socket that listens in a gate where this process is not.
    ///
    /// # Errors
    /// If it is no such socket.
    pub fn given(proxy: &Arc<Proxy<H>>, listener: OwnedFd, count: usize) -> io::Result<Vec<Self>> {
        let listener = GateListener::given(listener)?.into_std();
        set_up(listener.as_fd(), KEEP_ALIVE.0, KEEP_ALIVE.1)?;
        let one = |_| {
            Ok(Self {
                proxy: Arc::clone(proxy),
                listener: listener.try_clone()?,
            })
        };
        (0..count).map(one).collect()
    }

    /// The listening socket; each of those that share stands for all.
    #[must_use]
    pub fn socket(&self) -> &std::net::TcpListener {
        &self.listener
    }

    /// Serves until it is to stop, and then what is left for `rest`. Must run on a single-threaded runtime
    /// whose thread is in the gate: connections to servers are made on it.
    ///
    /// # Errors
    /// If the listener can't be used.
    pub async fn run(self, stages: Stages, rest: Duration) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let early = Tasks::new(&stages.drain);
        let late = Tasks::new(&stages.stop);
        let mut is_drained = false;
        let mut pulse = tokio::time::interval(PULSE);
        loop {
            let accepted = tokio::select! {
                biased;
                () = stages.stop.cancelled() => break,
                () = stages.drain.cancelled(), if !early.tracker.is_closed() => {
                    early.tracker.close();
                    continue;
                }
                () = early.tracker.wait(), if !is_drained => {
                    is_drained = true;
                    stages.drained.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                accepted = listener.accept() => accepted,
                _ = pulse.tick() => continue,
            };
            let Ok(accepted) = accepted else {
                // Out of descriptors, or a client that gave up: the next one may do better.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let tasks = if early.tracker.is_closed() {
                &late
            } else {
                &early
            };
            if let Some(connection) = Connection::open(&self.proxy, accepted, &tasks.ends) {
                tasks.tracker.spawn(connection.run());
            }
        }
        drop(listener);
        if early.tracker.is_closed() {
            // They had their time.
            early.ends.cut.cancel();
        }
        let end = tokio::time::Instant::now() + rest;
        early.end_by(end).await;
        late.end_by(end).await;
        Ok(())
    }
}

/// Connections that come to their end together.
struct Tasks {
    tracker: TaskTracker,
    ends: Ends,
}

/// When a connection is to end.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    /// As soon as it is in order.
    pub(super) stop: CancellationToken,
    /// At once.
    pub(super) cut: CancellationToken,
}

impl Tasks {
    fn new(stop: &CancellationToken) -> Self {
        Self {
            tracker: TaskTracker::new(),
            ends: Ends {
                stop: stop.clone(),
                cut: CancellationToken::new(),
            },
        }
    }

    /// Waits for their end, and brings it about when it is late.
    async fn end_by(&self, end: tokio::time::Instant) {
        self.tracker.close();
        if tokio::time::timeout_at(end, self.tracker.wait())
            .await
            .is_err()
        {
            self.ends.cut.cancel();
            // What doesn't end by that ends with the runtime.
            let _ = tokio::time::timeout(CUT_WAIT, self.tracker.wait()).await;
        }
    }
}

/// How the workers of a proxy come to their end, all together.
///
/// First they drain: each connection goes on to the end of what is under way, and new ones are served
/// too, since nobody else is there to do it. Then they stop.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    drain: CancellationToken,
    stop: CancellationToken,
    /// How many workers have nothing left of what was open when the drain began.
    drained: Arc<AtomicUsize>,
}

impl Stages {
    /// What is open is to come to its end.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// How many workers have nothing left of what was open then.
    #[must_use]
    pub fn drained(&self) -> usize {
        self.drained.load(Ordering::Relaxed)
    }

    /// All workers are to end.
    pub fn stop(&self) {
        self.stop.cancel();
        // After the other one: a worker that sees this sees that.
        self.drain.cancel();
    }
}
