//! Who guards a command that has no privileges: the proxies alone, which serve the sockets that were handed
//! out. Every connection is judged when it is accepted, each question when it is read.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use bpf_redirect::NoTable;
use observer::SharedRing;
use policy::{Cast, Compiler, EndpointId, Identities, LocalEndpoint, PolicySet};
use transport::{DropLog, Listening, SANDBOX_V4, SANDBOX_V6, SPLICE_ENDPOINT};

use super::surroundings::Resolver;
use super::{Guard, Options, Rules, network};
use crate::clock;
use crate::daemon::{Setup, make_teller};
use crate::directory::Directory;
use crate::exit::{EXEC_FAILED, Exit};
use crate::exporters::Exporters;
use crate::flows::{FlowThread, NewsSink, news};
use crate::guard::SharedLearner;
use crate::http::{HttpThreads, tell_dropped};
use crate::judge::read::told;
use crate::learner::{Heritage, Learner};
use crate::proxy::DnsThreads;
use crate::tell::Teller;

/// The parts of a daemon that are needed where the kernel judges nothing.
pub(super) struct Spliced {
    pub(super) flow_ring: Arc<SharedRing>,
    learner: SharedLearner,
    dns: DnsThreads,
    http: HttpThreads,
    flow_thread: FlowThread,
    exporters: Exporters,
    news: NewsSink,
    endpoint: EndpointId,
    dropped: DropLog,
}

impl Spliced {
    /// Serves these sockets.
    ///
    /// # Errors
    /// If policies contradict each other, or a thread can't be made.
    pub(super) fn start(
        setup: &Setup,
        (options, rules, resolver): (&Options, &Rules, &Resolver),
        listening: Listening,
    ) -> Result<Self> {
        let outside = setup.outside.as_ref().context("a namespace outside")?;
        let exporters = Exporters::start(setup.exports.clone(), None, setup.cluster.node_name())?;
        let (news, queue) = news();
        let endpoint = EndpointId::new(SPLICE_ENDPOINT).context("a number")?;
        let (learner, teller) = learn(setup, endpoint, (options, rules, resolver))?;
        let flow_ring = Arc::new(SharedRing::new(setup.flows_max, clock::now()));
        let made_with = (teller, Arc::clone(&flow_ring));
        let flow_thread = FlowThread::start(queue, made_with, (exporters.shared(), None))?;
        let sockets = (listening.dns_udp, listening.dns_tcp);
        let with = (&learner, setup.dns.clone(), outside);
        let mut dns = DnsThreads::with_sockets(sockets, with, news.clone())?;
        let names = dns
            .handover
            .clone()
            .context("nobody takes names over TCP")?;
        let own = (news.clone(), names, setup.http.clone());
        let http = HttpThreads::with_socket((listening.tcp, &outside.ns), &learner, own)?;
        dns.serve()?;
        Ok(Self {
            flow_ring,
            learner,
            dns,
            http,
            flow_thread,
            exporters,
            news,
            endpoint,
            dropped: DropLog::given(listening.dropped),
        })
    }

    fn tell_dropped(&self) {
        for packet in self.dropped.read() {
            let own = [IpAddr::from(SANDBOX_V4), SANDBOX_V6.into()];
            let whose = (self.endpoint, own.contains(&packet.source));
            tell_dropped((&self.learner, &self.news), whose, &packet);
        }
    }
}

impl Guard for Spliced {
    fn expire(&mut self) {
        self.tell_dropped();
        while self
            .learner
            .expire(clock::now())
            .is_some_and(|next| next <= clock::now())
        {}
    }

    /// A flow is a connection of a proxy, and over with it.
    fn sweep(&mut self) {}

    fn all_alive(&self) -> bool {
        self.dns.all_alive() && self.http.all_alive()
    }

    fn end(self) -> Result<()> {
        self.tell_dropped();
        self.http.begin_stop();
        self.dns.stop();
        self.http.stop();
        self.flow_thread.stop();
        self.exporters.stop();
        Ok(())
    }
}

/// What is in force from the first query on.
fn learn(
    setup: &Setup,
    id: EndpointId,
    (options, rules, resolver): (&Options, &Rules, &Resolver),
) -> Result<(SharedLearner, Arc<Teller>)> {
    let mut identities = Identities::new();
    let mut compiler = Compiler::new();
    let cast = Cast {
        endpoints: vec![LocalEndpoint {
            id,
            workload: network::command(options),
            addresses: vec![SANDBOX_V4.into(), SANDBOX_V6.into()],
            audit: false,
            is_redirectable: true,
        }],
        peers: vec![network::server(resolver)],
        host_addresses: setup.node_addresses()?,
        ..Cast::default()
    };
    let mut build = |revision, policies: &PolicySet| {
        let inputs = (policies, &cast, setup.enforcement);
        let built = compiler.build(revision, inputs, &mut identities);
        built.map_err(|problems| Exit::with(EXEC_FAILED, told(problems.iter())))
    };
    let snapshot = build(1, &rules.set)?;
    let ports = snapshot.dns_ports();
    anyhow::ensure!(
        ports.is_empty(),
        "names are asked at port 53 alone here; a rule names {ports:?}"
    );
    let learner = Learner::new(snapshot, identities, setup.lifetimes, clock::now)
        .with_install_wait(setup.install_wait)
        .with_scruples(setup.scruples.clone())
        .with_carriage(setup.carriage);
    let learner: SharedLearner = Arc::new(learner);
    let teller = make_teller(setup, &learner);
    let snapshot = learner.snapshot();
    let everybody = (&cast, &setup.cluster);
    teller.set_directory(Directory::new(&snapshot, everybody, &teller.directory()));
    learner.adopt(id, Box::new(NoTable), &Heritage::default())?;
    Ok((learner, teller))
}
