//! The DNS proxy's threads in the gate.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use bpf_redirect::{Askers, Installed, KernelTable};
use bpf_redirect_common::Listeners;
use dnsproxy::{
    Counters, Host, Learn, Lesson, NotInstalled, Proxy, Settings, StopUdp, TcpServer, Told,
    UdpWorker,
};
use policy::{Denial, DnsPermit, EndpointId, L4Protocol, Question};
use tokio_util::sync::CancellationToken;
use transport::{Gate, NetNs};

use crate::clock;
use crate::flows::{News, NewsSink};
use crate::learner::Learner;
use crate::serving::{self, DRAIN};

/// The node, as the proxy sees it.
struct NodeHost {
    learner: Arc<Learner<KernelTable>>,
    askers: Askers,
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

    fn asker(
        &self,
        client: SocketAddr,
        protocol: L4Protocol,
        id: [u8; 2],
    ) -> Option<(EndpointId, SocketAddr)> {
        let asker = self.askers.find(client, protocol.number(), id)?;
        Some((EndpointId::new(asker.endpoint)?, asker.server))
    }

    fn tell(&self, told: Told) {
        self.news.tell(News::Exchange(Box::new(told)));
    }
}

/// The running threads.
pub(crate) struct DnsThreads {
    pub(crate) counters: Arc<Counters>,
    proxy: Arc<Proxy<NodeHost>>,
    /// Whether it listens on the node too.
    is_on_node: bool,
    stops: Vec<StopUdp>,
    stop_tcp: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl DnsThreads {
    /// Opens all sockets in the gate and starts the threads: when this returns, queries are heard.
    ///
    /// # Errors
    /// If a socket can't be made.
    pub(crate) fn start(
        gate: &Gate,
        (learner, settings): (&Arc<Learner<KernelTable>>, Settings),
        (news, askers): (NewsSink, Askers),
    ) -> std::io::Result<Self> {
        let proxy = Arc::new(Proxy::new(
            NodeHost {
                learner: Arc::clone(learner),
                askers,
                news,
            },
            settings,
            gate.gate_end.index,
        ));
        let counters = Arc::clone(&proxy.counters);
        let (workers, server) = gate.ns.run(|| {
            let workers: Vec<_> = (0..serving::workers())
                .map(|_| UdpWorker::open(Arc::clone(&proxy)))
                .collect::<Result<_, _>>()?;
            Ok::<_, std::io::Error>((workers, TcpServer::open(Arc::clone(&proxy))?))
        })??;
        let mut all = Self {
            counters,
            proxy,
            is_on_node: false,
            stops: Vec::new(),
            stop_tcp: CancellationToken::new(),
            threads: Vec::new(),
        };
        for (number, worker) in workers.into_iter().enumerate() {
            all.start_udp(format!("dns-udp-{number}"), &gate.ns, worker)?;
        }
        all.start_tcp("dns-tcp".to_owned(), &gate.ns, server)?;
        Ok(all)
    }

    /// Listens on the node too, in the calling thread's namespace, for endpoints that are cgroups: on
    /// loopback addresses, at the ports that an earlier run had where they are free. Gives the ports.
    ///
    /// # Errors
    /// If a socket can't be made. Without IPv6 on the node there is none of it here.
    pub(crate) fn listen_on_node(&mut self, before: Listeners) -> std::io::Result<Listeners> {
        let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        let ns = NetNs::current()?;
        let mut after = Listeners::default();
        for (name, ip, port, is_needed) in [
            ("dns-udp-node4", v4, (before.udp4, &mut after.udp4), true),
            ("dns-udp-node6", v6, (before.udp6, &mut after.udp6), false),
        ] {
            let open = |listen| UdpWorker::open_on_node(Arc::clone(&self.proxy), listen);
            match at_port(ip, port.0, open) {
                Ok(worker) => {
                    *port.1 = worker.port().to_be();
                    self.start_udp(name.to_owned(), &ns, worker)?;
                }
                Err(error) if is_needed => return Err(error),
                Err(_) => {}
            }
        }
        for (name, ip, port, is_needed) in [
            ("dns-tcp-node4", v4, (before.tcp4, &mut after.tcp4), true),
            ("dns-tcp-node6", v6, (before.tcp6, &mut after.tcp6), false),
        ] {
            let open = |listen| TcpServer::open_on_node(Arc::clone(&self.proxy), listen);
            match at_port(ip, port.0, open) {
                Ok(server) => {
                    *port.1 = server.port()?.to_be();
                    self.start_tcp(name.to_owned(), &ns, server)?;
                }
                Err(error) if is_needed => return Err(error),
                Err(_) => {}
            }
        }
        self.is_on_node = true;
        Ok(after)
    }

    /// Whether [`DnsThreads::listen_on_node`] was called.
    pub(crate) fn is_on_node(&self) -> bool {
        self.is_on_node
    }

    fn start_udp(
        &mut self,
        name: String,
        ns: &NetNs,
        worker: UdpWorker<NodeHost>,
    ) -> std::io::Result<()> {
        self.stops.push(worker.stopper());
        let ns = ns.clone();
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            // Renewed pool sockets are made on this thread.
            let ended = ns.enter().and_then(|()| worker.run(DRAIN));
            if let Err(error) = ended {
                tracing::error!("a DNS worker ended: {error}");
            }
        });
        self.threads.push(thread?);
        Ok(())
    }

    fn start_tcp(
        &mut self,
        name: String,
        ns: &NetNs,
        server: TcpServer<NodeHost>,
    ) -> std::io::Result<()> {
        let stop = self.stop_tcp.clone();
        let serve = move || server.run(stop, DRAIN);
        let thread = serving::spawn(name, ns, "DNS over TCP ended", serve);
        self.threads.push(thread?);
        Ok(())
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

/// Opens at the port of an earlier run (network byte order) if it is free, since sockets are connected to
/// it, else at one that the kernel chooses.
fn at_port<T>(
    ip: IpAddr,
    before: u16,
    open: impl Fn(SocketAddr) -> std::io::Result<T>,
) -> std::io::Result<T> {
    let again = match u16::from_be(before) {
        0 => None,
        port => open(SocketAddr::new(ip, port)).ok(),
    };
    again.map_or_else(|| open(SocketAddr::new(ip, 0)), Ok)
}
