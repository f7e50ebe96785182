//! The DNS proxy's threads in the gate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bpf_redirect::{Installed, KernelTable};
use dnsproxy::{
    Counters, Host, Learn, Lesson, NotInstalled, Proxy, Settings, StopUdp, TcpServer, Told,
    UdpWorker,
};
use policy::{Denial, DnsPermit, EndpointId, L4Protocol, Question};
use tokio_util::sync::CancellationToken;
use transport::Gate;

use crate::clock;
use crate::flows::{News, NewsSink};
use crate::learner::Learner;

/// The node, as the proxy sees it.
struct NodeHost {
    learner: Arc<Learner<KernelTable>>,
    news: NewsSink,
}

impl Learn for NodeHost {
    type Installed = Installed;

    fn learn(&self, now: Instant, lesson: Lesson) -> Result<Installed, NotInstalled> {
        self.learner.learn(now, &lesson)
    }
}

impl Host for NodeHost {
    fn now(&self) -> Instant {
        clock::now()
    }

    fn judge(
        &self,
        endpoint: EndpointId,
        (server, protocol): (SocketAddr, L4Protocol),
        question: &Question,
    ) -> Result<DnsPermit, Denial> {
        self.learner
            .snapshot()
            .judge_dns(endpoint, server, protocol, question)
    }

    fn tell(&self, told: Told) {
        self.news.tell(News::Exchange(Box::new(told)));
    }
}

/// The running threads.
pub(crate) struct DnsThreads {
    pub(crate) counters: Arc<Counters>,
    stops: Vec<StopUdp>,
    stop_tcp: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

/// UDP workers: one for each core, since each batches by itself; more gain nothing.
const WORKERS_MAX: usize = 4;
/// How long a stopping proxy waits for answers on their way.
const DRAIN: Duration = Duration::from_millis(1_500);

impl DnsThreads {
    /// Opens all sockets in the gate and starts the threads: when this returns, queries are heard.
    ///
    /// # Errors
    /// If a socket can't be made.
    pub(crate) fn start(
        gate: &Gate,
        learner: &Arc<Learner<KernelTable>>,
        news: NewsSink,
    ) -> std::io::Result<Self> {
        let proxy = Arc::new(Proxy::new(
            NodeHost {
                learner: Arc::clone(learner),
                news,
            },
            Settings::default(),
            gate.gate_end.index,
        ));
        let counters = Arc::clone(&proxy.counters);
        let count = std::thread::available_parallelism()
            .map_or(1, std::num::NonZero::get)
            .min(WORKERS_MAX);
        let (workers, server) = gate.ns.run(|| {
            let workers: Vec<_> = (0..count)
                .map(|_| UdpWorker::open(Arc::clone(&proxy)))
                .collect::<Result<_, _>>()?;
            Ok::<_, std::io::Error>((workers, TcpServer::open(Arc::clone(&proxy))?))
        })??;
        let mut threads = Vec::new();
        let mut stops = Vec::new();
        for (number, worker) in workers.into_iter().enumerate() {
            stops.push(worker.stopper());
            let ns = gate.ns.clone();
            threads.push(
                std::thread::Builder::new()
                    .name(format!("dns-udp-{number}"))
                    .spawn(move || {
                        // Renewed pool sockets are made on this thread.
                        let ended = ns.enter().and_then(|()| worker.run(DRAIN));
                        if let Err(error) = ended {
                            tracing::error!("a DNS worker ended: {error}");
                        }
                    })?,
            );
        }
        let stop_tcp = CancellationToken::new();
        let (ns, stop) = (gate.ns.clone(), stop_tcp.clone());
        threads.push(
            std::thread::Builder::new()
                .name("dns-tcp".to_owned())
                .spawn(move || {
                    let ended = ns.enter().and_then(|()| {
                        let runtime = tokio::runtime::Builder::new_current_thread()
                            .enable_all()
                            .build()?;
                        runtime.block_on(server.run(stop, DRAIN))
                    });
                    if let Err(error) = ended {
                        tracing::error!("DNS over TCP ended: {error}");
                    }
                })?,
        );
        Ok(Self {
            counters,
            stops,
            stop_tcp,
            threads,
        })
    }

    /// Whether every thread still runs.
    pub(crate) fn all_alive(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }

    /// Reads nothing more, answers what comes within the drain, and ends.
    pub(crate) fn stop(self) {
        self.stop_tcp.cancel();
        for stop in &self.stops {
            stop.stop();
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a DNS thread panicked");
            }
        }
    }
}
