//! The DNS proxy's threads in the gate.

mod ports;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bpf_redirect::{Askers, Installed};
use bpf_redirect_common::{DNS_PORT, Listeners};
use dnsproxy::limits::WAITING_AGE_MAX;
use dnsproxy::{
    Counters, Handover, Host, Kept, Learn, Lesson, NotInstalled, Own, Proxy, Settings, StopUdp,
    TcpServer, Told, UdpWorker, Waiting, WaitingFile, last_alive_ns, once_each,
};
use policy::{Denial, DnsPermit, EndpointId, L4Protocol, Question};
use tokio_util::sync::CancellationToken;
use transport::{Gate, NetNs};

use crate::clock;
use crate::daemon::Outside;
use crate::flows::{News, NewsSink};
use crate::guard::SharedLearner;
use crate::keeper::{self, Keeper};
use crate::serving::{self, DRAIN};

use ports::Ports;

/// The node, as the proxy sees it.
struct NodeHost {
    learner: SharedLearner,
    /// Who asked on the node; none where there is no datapath to note it.
    askers: Option<Askers>,
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

    fn boot_ns(&self) -> u64 {
        clock::boot_ns()
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
        let askers = self.askers.as_ref()?;
        let asker = askers.find(client, protocol.number(), id)?;
        Some((EndpointId::new(asker.endpoint)?, asker.server))
    }

    fn tell(&self, told: Told) {
        self.news.tell(News::Exchange(Box::new(told)));
    }
}

/// The threads, and what they listen on.
pub(crate) struct DnsThreads {
    pub(crate) counters: Arc<Counters>,
    proxy: Arc<Proxy<NodeHost>>,
    /// What an earlier daemon listened on for the node, until it is taken.
    left: Left,
    /// Whether it listens on the node too.
    is_on_node: bool,
    /// What waits for [`DnsThreads::serve`].
    ready: Vec<(String, NetNs, Ready)>,
    is_serving: bool,
    /// Where workers note what they have read, and what an earlier daemon's had.
    tables: Vec<Waiting>,
    /// Those in which it stands until workers of this process have noted it in theirs.
    left_tables: Vec<Waiting>,
    kept: Vec<Kept>,
    /// What the next daemon is to get, with its name.
    listeners: Vec<(&'static str, OwnedFd)>,
    stops: Vec<StopUdp>,
    stop_tcp: CancellationToken,
    threads: Vec<JoinHandle<()>>,
    /// By which the daemon asks in an endpoint's name, at port 53.
    own: Option<Own>,
    /// By which connections at other ports than 53 come in.
    pub(crate) handover: Option<Handover>,
    gate: NetNs,
    /// Where the threads are, and the sockets that ask servers: the gate, or the namespace outside.
    ns: NetNs,
    ports: Ports,
}

/// Sockets, and nobody who reads them yet.
enum Ready {
    Udp(Box<UdpWorker<NodeHost>>),
    Tcp(TcpServer<NodeHost>),
}

/// What an earlier daemon left.
#[derive(Default)]
struct Left {
    udp: Vec<OwnedFd>,
    tcp: Vec<OwnedFd>,
    /// On the node, of IPv4 and IPv6.
    udp_node: [Vec<OwnedFd>; 2],
    tcp_node: [Vec<OwnedFd>; 2],
    waiting: Option<OwnedFd>,
    /// Whether nobody has read for so long that whoever asked has given up.
    is_stale: bool,
}

impl Left {
    fn take(keeper: &mut Keeper) -> Self {
        Self {
            udp: keeper.take(keeper::DNS_UDP),
            tcp: keeper.take(keeper::DNS_TCP),
            udp_node: keeper::DNS_UDP_NODE.map(|name| keeper.take(name)),
            tcp_node: keeper::DNS_TCP_NODE.map(|name| keeper.take(name)),
            waiting: keeper.take(keeper::WAITING).pop(),
            is_stale: false,
        }
    }
}

/// How long after a worker's last sign of life it may have lived yet.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

impl DnsThreads {
    /// Opens all sockets in the gate, or takes those of an earlier daemon: when this returns, queries wait
    /// to be heard.
    ///
    /// # Errors
    /// If a socket can't be made.
    pub(crate) fn start(
        (gate, mut keeper): (&Gate, Option<&mut Keeper>),
        (learner, settings, outside): (&SharedLearner, Settings, Option<&Outside>),
        (news, askers): (NewsSink, Askers),
    ) -> std::io::Result<Self> {
        let host = NodeHost {
            learner: Arc::clone(learner),
            askers: Some(askers),
            news,
        };
        let proxy = Proxy::new(host, settings, gate.gate_end.index);
        let ns = outside.map_or(&gate.ns, |outside| &outside.ns);
        let mut all = Self::idle(asking(proxy, outside), (&gate.ns, ns));
        all.left = keeper.as_deref_mut().map(Left::take).unwrap_or_default();
        if keeper.is_some() {
            all.open_tables()?;
        }
        let left = (
            std::mem::take(&mut all.left.udp),
            std::mem::take(&mut all.left.tcp),
        );
        let count = left.0.len() + left.1.len();
        let (mut workers, server) = gate.ns.run(|| adopt(&all.proxy, left))?;
        if let Some(keeper) =
            keeper.filter(|_| workers.len() + usize::from(server.is_some()) < count)
        {
            tracing::warn!("what an earlier daemon listened on is of no use");
            keeper.forget();
        }
        let is_stale = all.left.is_stale;
        workers
            .iter_mut()
            .filter(|_| is_stale)
            .for_each(UdpWorker::forget_stale);
        let missing = serving::workers().saturating_sub(workers.len());
        for _ in 0..missing {
            workers.push(all.open_worker(DNS_PORT)?);
        }
        all.own = workers.first().map(UdpWorker::own);
        let ns = all.ns.clone();
        for (number, worker) in workers.into_iter().enumerate() {
            let name = format!("dns-udp-{number}");
            let ready = Ready::Udp(Box::new(worker));
            all.add((name, &ns), keeper::DNS_UDP, ready)?;
        }
        let open = || TcpServer::open(Arc::clone(&all.proxy));
        let server = server.map_or_else(|| gate.ns.run(open)?, Ok)?;
        all.handover = Some(server.handover());
        let ready = Ready::Tcp(server);
        all.add(("dns-tcp".to_owned(), &ns), keeper::DNS_TCP, ready)?;
        Ok(all)
    }

    /// With sockets that were opened in a gate which this process can't enter; it serves outside.
    ///
    /// # Errors
    /// If a socket for servers can't be made.
    pub(crate) fn with_sockets(
        (udp, tcp): (OwnedFd, OwnedFd),
        (learner, settings, outside): (&SharedLearner, Settings, &Outside),
        news: NewsSink,
    ) -> std::io::Result<Self> {
        let host = NodeHost {
            learner: Arc::clone(learner),
            askers: None,
            news,
        };
        let proxy = asking(Proxy::new(host, settings, 0), Some(outside));
        let ns = &outside.ns;
        let mut all = Self::idle(proxy, (ns, ns));
        let worker = UdpWorker::given(Arc::clone(&all.proxy), udp)?;
        all.own = Some(worker.own());
        let ready = Ready::Udp(Box::new(worker));
        all.add(("dns-udp".to_owned(), ns), keeper::DNS_UDP, ready)?;
        let server = TcpServer::given(Arc::clone(&all.proxy), tcp)?;
        all.handover = Some(server.handover());
        all.add(
            ("dns-tcp".to_owned(), ns),
            keeper::DNS_TCP,
            Ready::Tcp(server),
        )?;
        Ok(all)
    }

    /// Whether servers see the node, not the workload.
    pub(crate) fn is_from_node(&self) -> bool {
        self.proxy.asks_from_node()
    }

    /// Without sockets, for a gate and for where the threads will be.
    fn idle(proxy: Arc<Proxy<NodeHost>>, (gate, ns): (&NetNs, &NetNs)) -> Self {
        Self {
            counters: Arc::clone(&proxy.counters),
            proxy,
            left: Left::default(),
            is_on_node: false,
            ready: Vec::new(),
            is_serving: false,
            tables: Vec::new(),
            left_tables: Vec::new(),
            kept: Vec::new(),
            listeners: Vec::new(),
            stops: Vec::new(),
            stop_tcp: CancellationToken::new(),
            threads: Vec::new(),
            own: None,
            handover: None,
            gate: gate.clone(),
            ns: ns.clone(),
            ports: Ports::default(),
        }
    }

    /// A worker for a port of the gate, with its sockets for servers where its thread will be.
    fn open_worker(&self, port: u16) -> std::io::Result<UdpWorker<NodeHost>> {
        let open = || UdpWorker::open(Arc::clone(&self.proxy), (&self.gate, port));
        self.ns.run(open)?
    }

    /// Opens the memory in which workers note what they have read: that of an earlier daemon, with what it
    /// holds, else new one.
    fn open_tables(&mut self) -> std::io::Result<()> {
        let left = self.left.waiting.take();
        let file = match left.and_then(|file| WaitingFile::adopt(file).ok()) {
            Some(file) => file,
            None => WaitingFile::create()?,
        };
        self.listeners.push((keeper::WAITING, file.descriptor()?));
        self.tables = file.tables();
        let last_alive = last_alive_ns(&self.tables);
        let away = Duration::from_nanos(clock::boot_ns().saturating_sub(last_alive));
        self.left.is_stale = away > WAITING_AGE_MAX + SIGN_OF_LIFE;
        Ok(())
    }

    /// Looks what an earlier daemon had read and not answered. It stands where a next one finds it until
    /// workers have noted it elsewhere; one that was killed meanwhile left it twice.
    fn look_what_is_left(&mut self) {
        let now = clock::boot_ns();
        let workers = self.ready.iter();
        let workers = workers.filter(|(_, _, ready)| matches!(ready, Ready::Udp(_)));
        let needed = workers.count();
        for mut table in std::mem::take(&mut self.tables) {
            let kept = table.look(now);
            if kept.is_empty() {
                table.clear();
                self.tables.push(table);
            } else {
                self.left_tables.push(table);
                self.kept.extend(kept);
            }
        }
        self.kept = once_each(std::mem::take(&mut self.kept));
        while self.tables.len() < needed && self.clear_left() {}
        if !self.kept.is_empty() {
            tracing::info!(
                queries = self.kept.len(),
                "an earlier daemon had not answered all"
            );
        }
    }

    /// Makes one more table free for a worker.
    fn clear_left(&mut self) -> bool {
        let left = self.left_tables.pop().map(|mut table| {
            table.clear();
            self.tables.push(table);
        });
        left.is_some()
    }

    /// Listens on the node too, in the calling thread's namespace, for endpoints that are cgroups: on
    /// loopback addresses, at the ports that an earlier run had where they are free. Gives the ports.
    ///
    /// # Errors
    /// If a socket can't be made. Without IPv6 on the node there is none of it here.
    pub(crate) fn listen_on_node(&mut self, before: Listeners) -> std::io::Result<Listeners> {
        let ns = NetNs::current()?;
        let mut after = Listeners::default();
        let places = [
            (Ipv4Addr::LOCALHOST.into(), 0, true),
            (Ipv6Addr::LOCALHOST.into(), 1, false),
        ];
        let names = keeper::DNS_UDP_NODE.into_iter().zip(keeper::DNS_TCP_NODE);
        for ((ip, family, is_needed), (udp, tcp)) in places.into_iter().zip(names) {
            let ports = match family {
                0 => (before.udp4, &mut after.udp4),
                _ => (before.udp6, &mut after.udp6),
            };
            match self.open_udp_on_node((ip, family), ports.0) {
                Ok(worker) => {
                    *ports.1 = worker.port().to_be();
                    let ready = Ready::Udp(Box::new(worker));
                    self.add((udp.to_owned(), &ns), udp, ready)?;
                }
                Err(error) if is_needed => return Err(error),
                Err(_) => {}
            }
            let ports = match family {
                0 => (before.tcp4, &mut after.tcp4),
                _ => (before.tcp6, &mut after.tcp6),
            };
            match self.open_tcp_on_node((ip, family), ports.0) {
                Ok(server) => {
                    *ports.1 = server.port()?.to_be();
                    self.add((tcp.to_owned(), &ns), tcp, Ready::Tcp(server))?;
                }
                Err(error) if is_needed => return Err(error),
                Err(_) => {}
            }
        }
        self.is_on_node = true;
        Ok(after)
    }

    fn open_udp_on_node(
        &mut self,
        (ip, family): (IpAddr, usize),
        port: u16,
    ) -> std::io::Result<UdpWorker<NodeHost>> {
        let left = self.left.udp_node.get_mut(family).and_then(Vec::pop);
        let adopt = |socket| UdpWorker::adopt_on_node(Arc::clone(&self.proxy), (socket, ip));
        if let Some(mut worker) = left.and_then(|socket| adopt(socket).ok()) {
            if self.left.is_stale {
                worker.forget_stale();
            }
            return Ok(worker);
        }
        let open = |listen| UdpWorker::open_on_node(Arc::clone(&self.proxy), listen);
        at_port(ip, port, open)
    }

    fn open_tcp_on_node(
        &mut self,
        (ip, family): (IpAddr, usize),
        port: u16,
    ) -> std::io::Result<TcpServer<NodeHost>> {
        let left = self.left.tcp_node.get_mut(family).and_then(Vec::pop);
        let adopt = |socket| TcpServer::adopt_on_node(Arc::clone(&self.proxy), (socket, ip));
        if let Some(server) = left.and_then(|socket| adopt(socket).ok()) {
            return Ok(server);
        }
        let open = |listen| TcpServer::open_on_node(Arc::clone(&self.proxy), listen);
        at_port(ip, port, open)
    }

    /// What is to outlive the daemon, each with its name.
    ///
    /// # Errors
    /// If there are too many descriptors.
    pub(crate) fn listeners(&self) -> std::io::Result<Vec<(&'static str, OwnedFd)>> {
        let all = self.listeners.iter();
        all.map(|(name, fd)| Ok((*name, fd.try_clone()?))).collect()
    }

    /// Takes in sockets that somebody will read, at once or with [`DnsThreads::serve`].
    fn add(
        &mut self,
        (thread, ns): (String, &NetNs),
        name: &'static str,
        ready: Ready,
    ) -> std::io::Result<()> {
        let socket = match &ready {
            Ready::Udp(worker) => worker.socket(),
            Ready::Tcp(server) => server.socket(),
        };
        self.listeners.push((name, socket.try_clone_to_owned()?));
        self.ready.push((thread, ns.clone(), ready));
        if self.is_serving {
            self.serve()?;
        }
        Ok(())
    }

    /// Starts to read, what an earlier daemon had not answered first.
    ///
    /// # Errors
    /// If a thread can't be made.
    pub(crate) fn serve(&mut self) -> std::io::Result<()> {
        if !std::mem::replace(&mut self.is_serving, true) {
            self.look_what_is_left();
        }
        for (name, ns, ready) in std::mem::take(&mut self.ready) {
            match ready {
                Ready::Tcp(server) => self.start_tcp(name, &ns, server)?,
                Ready::Udp(mut worker) => {
                    if let Some(table) = self.tables.pop() {
                        worker.note_in(table);
                    }
                    let kept = std::mem::take(&mut self.kept).into_iter();
                    for kept in kept {
                        match worker.is_for(&kept) {
                            true => worker.ask_again(kept),
                            false => self.kept.push(kept),
                        }
                    }
                    self.start_udp(name, &ns, *worker)?;
                }
            }
        }
        while self.clear_left() {}
        self.serve_ports()
    }

    /// Asks and answers with other options from now on.
    pub(crate) fn set_settings(&self, settings: Settings) {
        self.proxy.set_settings(settings);
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
        self.threads.push(run_udp(name, ns, worker)?);
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
        self.threads.iter().all(|thread| !thread.is_finished()) && self.ports.all_alive()
    }

    /// Reads nothing more, answers what comes within the drain, and ends. What waits in a listener that is
    /// kept waits on.
    pub(crate) fn stop(self) {
        self.stop_tcp.cancel();
        for stop in &self.stops {
            stop.stop();
        }
        for thread in self.threads.into_iter().chain(self.ports.stop()) {
            if thread.join().is_err() {
                tracing::error!("a DNS thread panicked");
            }
        }
    }
}

/// Starts a worker's thread.
fn run_udp(
    name: String,
    ns: &NetNs,
    worker: UdpWorker<NodeHost>,
) -> std::io::Result<JoinHandle<()>> {
    let ns = ns.clone();
    std::thread::Builder::new().name(name).spawn(move || {
        // Renewed pool sockets are made on this thread.
        let ended = ns.enter().and_then(|()| worker.run(DRAIN));
        if let Err(error) = ended {
            tracing::error!("a DNS worker ended: {error}");
        }
    })
}

/// Shares a proxy that asks servers from where it is to.
fn asking(proxy: Proxy<NodeHost>, outside: Option<&Outside>) -> Arc<Proxy<NodeHost>> {
    Arc::new(match outside {
        Some(outside) => proxy.asking_from_node(outside.stand_ins.clone()),
        None => proxy,
    })
}

/// The workers and the server whose listeners an earlier daemon had, in the calling thread's namespace,
/// which must be the gate.
fn adopt(
    proxy: &Arc<Proxy<NodeHost>>,
    (udp, tcp): (Vec<OwnedFd>, Vec<OwnedFd>),
) -> (Vec<UdpWorker<NodeHost>>, Option<TcpServer<NodeHost>>) {
    let workers = udp
        .into_iter()
        .map(|one| UdpWorker::adopt(Arc::clone(proxy), one));
    let mut servers = tcp
        .into_iter()
        .map(|one| TcpServer::adopt(Arc::clone(proxy), one));
    (workers.flatten().collect(), servers.find_map(Result::ok))
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
