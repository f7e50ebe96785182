//! The HTTP proxy's threads in the gate.

mod admission;
mod quic;

pub(crate) use admission::tell_dropped;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use bpf_redirect::{Datapath, Listening};
use bpf_redirect_common::Address;
use dnsproxy::Handover;
use httpproxy::tls::TlsSecrets;
use httpproxy::{
    Closed, Counters, Host, HttpServer, Party, Proxy, Redirected, Scope, Settings, Source, Stages,
};
use policy::{Direction, EndpointId, Identity, L4Protocol, LabelSet, Snapshot};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use transport::{Gate, NetNs};

use crate::clock;
use crate::flows::{News, NewsSink};
use crate::guard::SharedLearner;
use crate::serving::{self, DRAIN};

/// The node, as the proxy sees it.
struct NodeHost {
    learner: SharedLearner,
    news: NewsSink,
    endpoints: ArcSwap<BTreeSet<IpAddr>>,
    names: Handover,
    secrets: ArcSwap<TlsSecrets>,
    judging: Judging,
}

/// Who judges by whom a connection is and to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Judging {
    /// The kernel's programs: what comes here was let through by them.
    Datapath,
    /// Nobody before it came here.
    Proxy,
}

impl Host for NodeHost {
    fn now(&self) -> Instant {
        clock::now()
    }

    fn scope(&self, redirected: &Redirected, seen: &mut Option<LabelSet>) -> Scope {
        let snapshot = self.learner.snapshot();
        let service = match redirected.direction {
            Direction::Egress => snapshot.frontend(redirected.server, redirected.protocol),
            Direction::Ingress => None,
        };
        let (parties, port) = match service {
            Some(one) => {
                let backends = one.backends.iter().map(|backend| Party::Known(*backend));
                (backends.collect(), one.frontend.target)
            }
            None => {
                let party = self.party(&snapshot, (redirected.endpoint, redirected.peer()), seen);
                (vec![party], redirected.server.port())
            }
        };
        Scope {
            snapshot,
            parties,
            port,
            secrets: self.secrets.load_full(),
        }
    }

    fn admits(&self, redirected: &Redirected) -> bool {
        match self.judging {
            Judging::Datapath => true,
            Judging::Proxy => admission::admits((&self.learner, &self.news), redirected),
        }
    }

    fn divert(&self, redirected: &Redirected, client: TcpStream) -> Option<TcpStream> {
        let Redirected {
            endpoint,
            server,
            direction,
            protocol: _,
            client: _,
        } = *redirected;
        let snapshot = self.learner.snapshot();
        if direction != Direction::Egress || !snapshot.judges_dns(endpoint, server, L4Protocol::Tcp)
        {
            return Some(client);
        }
        // A socket that can't be taken out of this runtime is closed.
        if let Ok(client) = client.into_std() {
            self.names.give(client);
        }
        None
    }

    fn is_endpoint(&self, address: IpAddr) -> bool {
        self.endpoints.load().contains(&address)
    }

    fn names(&self, redirected: &Redirected) -> Vec<String> {
        let ip = match redirected.direction {
            Direction::Egress => redirected.server.ip(),
            Direction::Ingress => return Vec::new(), // a client has no name to verify
        };
        let names = self
            .learner
            .with_knowledge(redirected.endpoint, |knowledge| {
                let names = knowledge.cache.names_of(ip).map(|name| {
                    let text = name.to_string();
                    text.strip_suffix('.').unwrap_or(&text).to_owned()
                });
                names.collect()
            });
        names.unwrap_or_default()
    }

    fn wall(&self) -> SystemTime {
        clock::wall()
    }

    fn tell(&self, news: httpproxy::News) {
        self.news.tell(News::Http(news));
    }
}

impl NodeHost {
    fn new(learner: &SharedLearner, (news, names): (NewsSink, Handover), judging: Judging) -> Self {
        Self {
            learner: Arc::clone(learner),
            news,
            endpoints: ArcSwap::default(),
            names,
            secrets: ArcSwap::default(),
            judging,
        }
    }

    /// As the datapath sees it: what the endpoint learned first, then the longest prefix.
    fn party(
        &self,
        snapshot: &Snapshot,
        (endpoint, peer): (EndpointId, SocketAddr),
        seen: &mut Option<LabelSet>,
    ) -> Party {
        let identity = self.learner.with_knowledge(endpoint, |knowledge| {
            knowledge.ledger.identity_of(Address::from(peer.ip()))
        });
        let identity = identity.flatten().map(Identity::from_number);
        let labels = identity.and_then(|identity| {
            self.learner
                .with_identities(|identities| identities.labels_of(identity).cloned())
        });
        if labels.is_some() {
            *seen = labels;
        }
        match seen {
            Some(labels) => Party::Learned(labels.clone()),
            None => Party::Known(snapshot.identity_of(peer.ip())),
        }
    }
}

/// From where servers are called.
pub(crate) enum Calling {
    /// The gate, in the client's name.
    Gate,
    /// The node; its endpoints from the gate all the same.
    Node(NetNs),
    /// Another namespace, all of them.
    Outside(NetNs),
}

impl Calling {
    /// Whether servers see the node.
    pub(crate) const fn is_from_node(&self) -> bool {
        matches!(self, Self::Node(_))
    }
}

/// The running threads.
pub(crate) struct HttpThreads {
    proxy: Arc<Proxy<NodeHost>>,
    stages: Stages,
    threads: Vec<JoinHandle<()>>,
    /// Where QUIC is judged; none where there is no gate that this process can enter.
    quic: Option<quic::Ports>,
    /// What brings connections here; none where sockets are all that there is.
    _listening: Option<Listening>,
}

impl HttpThreads {
    /// Opens the sockets in the gate and starts the threads, in the namespace from which servers are called:
    /// when this returns, connections that are redirected are accepted.
    ///
    /// # Errors
    /// If a socket or a thread can't be made, or the kernel refuses.
    pub(crate) fn start(
        (gate, calling): (&Gate, Calling),
        datapath: &mut Datapath,
        learner: &SharedLearner,
        (news, names, mut settings): (NewsSink, Handover, Settings),
    ) -> Result<Self> {
        raise_descriptors();
        let host = NodeHost::new(learner, (news, names), Judging::Datapath);
        if calling.is_from_node() {
            settings.source = Source::Node(Closed::default());
        }
        let proxy = Proxy::new(host, gate.gate_end.index, settings);
        let (proxy, ns) = match calling {
            Calling::Gate => (proxy, gate.ns.clone()),
            Calling::Outside(ns) => (proxy, ns),
            Calling::Node(ns) => (proxy.calling_from_node(gate.ns.clone()), ns),
        };
        let proxy = Arc::new(proxy);
        let servers = gate
            .ns
            .run(|| HttpServer::open(&proxy, serving::workers()))??;
        let first = servers.first().context("a machine without cores")?;
        let listening = datapath.listen(&gate.ns, first.socket())?;
        let quic = quic::Ports::new(Arc::clone(&proxy), gate.ns.clone());
        let mut all = Self::serve(proxy, (servers, &ns), Some(listening))?;
        all.quic = Some(quic);
        Ok(all)
    }

    /// With a socket that listens in a gate which this process can't enter, and where nothing judges a
    /// connection before it comes here.
    ///
    /// # Errors
    /// If a thread can't be made.
    pub(crate) fn with_socket(
        (socket, ns): (OwnedFd, &NetNs),
        learner: &SharedLearner,
        (news, names, settings): (NewsSink, Handover, Settings),
    ) -> Result<Self> {
        raise_descriptors();
        let host = NodeHost::new(learner, (news, names), Judging::Proxy);
        let proxy = Arc::new(Proxy::new(host, 0, settings));
        let servers = HttpServer::given(&proxy, socket, serving::workers())?;
        Self::serve(proxy, (servers, ns), None)
    }

    fn serve(
        proxy: Arc<Proxy<NodeHost>>,
        (servers, ns): (Vec<HttpServer<NodeHost>>, &NetNs),
        listening: Option<Listening>,
    ) -> Result<Self> {
        let stages = Stages::default();
        let mut threads = Vec::new();
        for (number, server) in servers.into_iter().enumerate() {
            let stages = stages.clone();
            let serve = move || server.run(stages, DRAIN);
            let name = format!("http-{number}");
            let thread = serving::spawn(name, ns, "an HTTP worker ended", serve)?;
            threads.push(thread);
        }
        Ok(Self {
            proxy,
            stages,
            threads,
            quic: None,
            _listening: listening,
        })
    }

    /// Whether servers see the node, not the workload.
    pub(crate) fn is_from_node(&self) -> bool {
        matches!(self.proxy.settings.source, Source::Node(_))
    }

    /// What is counted.
    pub(crate) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.proxy.counters)
    }

    /// Takes other certificates. Connections go on with those that they began with.
    pub(crate) fn set_secrets(&self, secrets: Arc<TlsSecrets>) {
        self.proxy.host.secrets.store(secrets);
    }

    /// Says that another policy is in force, and which addresses are endpoints' here.
    pub(crate) fn policy_changed(&self, endpoints: BTreeSet<IpAddr>) {
        self.proxy.host.endpoints.store(Arc::new(endpoints));
        self.proxy.policy_changed();
    }

    /// Has QUIC be judged at these ports too, before a policy is in force that says so.
    pub(crate) fn open_quic(&mut self, ports: &BTreeSet<u16>) {
        if let Some(quic) = &mut self.quic {
            quic.open(ports);
        }
    }

    /// No more at others, once no policy in force names them.
    pub(crate) fn close_quic(&mut self, ports: &BTreeSet<u16>) {
        if let Some(quic) = &mut self.quic {
            quic.close(ports);
        }
    }

    /// Whether every thread still runs.
    pub(crate) fn all_alive(&self) -> bool {
        let of_quic = self.quic.as_ref().is_none_or(quic::Ports::all_alive);
        of_quic && self.threads.iter().all(|thread| !thread.is_finished())
    }

    /// Brings what is open to its end, and goes on serving.
    pub(crate) fn drain(&self) {
        self.stages.drain();
    }

    /// Whether nothing is left of what was open when the drain began.
    pub(crate) fn is_drained(&self) -> bool {
        self.stages.drained() == self.threads.len()
    }

    /// Accepts nothing more, and doesn't wait.
    pub(crate) fn begin_stop(&self) {
        self.stages.stop();
    }

    /// Accepts nothing more, lets what is open go on for a moment, and ends.
    pub(crate) fn stop(self) {
        self.stages.stop();
        let of_quic = self.quic.into_iter().flat_map(quic::Ports::stop);
        for thread in of_quic.chain(self.threads) {
            if thread.join().is_err() {
                tracing::error!("an HTTP thread panicked");
            }
        }
    }
}

/// Each connection needs two descriptors; as many are taken as may be.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(
            "the limit of descriptors stays at {:?}: {error}",
            limit.current
        );
    }
}
