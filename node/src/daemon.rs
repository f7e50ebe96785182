//! The daemon without its files and signals: what is built in which order, how a policy comes into
//! force, and how it ends.

mod agent;
mod assembly;
mod departed;
mod ending;
mod figures;
mod kept;
mod losses;
mod sweep;
mod vigil;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bpf_redirect::{Attachment, Datapath, HookMode, Journal, Loader, Pins};
use bpf_redirect_common::Aggregation;
use dnsproxy::StandIns;
use flow::{Interface, Redaction};
use fqdn_cache::Lifetimes;
use httpproxy::tls::TlsSecrets;
use ipnet::IpNet;
use observer::{Export, MetricChoice, SharedRing};
use policy::{Compiler, Identities, Options, PolicySet, Problem};
use transport::{Gate, LinkError, NetNs, Netlink};

use crate::clock;
use crate::cluster::Cluster;
use crate::datapath::{Carriage, prefixes, services};
use crate::directory::Directory;
use crate::endpoints::file::Roster;
use crate::exporters::Exporters;
use crate::flows::{FlowThread, NewsSink, news};
use crate::guard::{Guards, SharedLearner};
use crate::http::HttpThreads;
use crate::instance::{Instance, Lock};
use crate::keeper::{self, Keeper};
use crate::learner::{Scruples, Terms};
use crate::live::Review;
use crate::metrics::{Draft, Metrics, PolicyTally, Sources};
use crate::proxy::DnsThreads;
use crate::remembered::Remembered;
use crate::secrets::Secrets;
use crate::status::EventThread;
use crate::tell::Teller;
use crate::upstream::UpstreamSource;

use agent::AgentNews;
pub(crate) use assembly::make_teller;
use assembly::{kept, make, open_lately, open_pins, recall, start_exporters};
use departed::Departed;
pub(crate) use ending::Ending;
use figures::Tallies;
use kept::Learned;
use vigil::Interference;
pub(crate) use vigil::{filters, set_right};

/// What a daemon is made with.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) instance: Instance,
    /// The cluster that flows tell.
    pub(crate) cluster: Cluster,
    /// Where programs, maps, links and the gate outlive the process; `None`: they end with it.
    pub(crate) pins: Option<PathBuf>,
    /// `None`: what the kernel has.
    pub(crate) hook_mode: Option<HookMode>,
    /// Who gets flows without asking for them: a file, a collector, the journal.
    pub(crate) exports: Vec<Export>,
    /// A file that names further files.
    pub(crate) flow_logs: Option<PathBuf>,
    /// Metrics of flows that are counted; `None`: nothing is.
    pub(crate) metrics: Option<Vec<MetricChoice>>,
    /// Whether names and proxies are told by the names of Cilium's metrics too.
    pub(crate) cilium_metrics: bool,
    /// What is not told of HTTP messages.
    pub(crate) redaction: Redaction,
    /// Flows that are kept for those who come later.
    pub(crate) flows_max: usize,
    /// How much is told of packets that pass.
    pub(crate) aggregation: Aggregation,
    /// How policy is enforced.
    pub(crate) enforcement: Options,
    /// How HTTP connections are treated.
    pub(crate) http: httpproxy::Settings,
    /// How long a learned address is open.
    pub(crate) lifetimes: Lifetimes,
    /// How long an answer waits for the datapath.
    pub(crate) install_wait: Duration,
    /// Which addresses no answer opens.
    pub(crate) scruples: Scruples,
    /// Whether names that are in use are asked for again before they end.
    pub(crate) dns_refresh: bool,
    /// How the DNS proxy answers and forwards.
    pub(crate) dns: dnsproxy::Settings,
    /// The addresses of public resolvers, for the policy that an option stands for.
    pub(crate) encrypted_resolvers: Arc<[IpNet]>,
    /// Where this namespace has no way out: from where the proxies ask in its place.
    pub(crate) outside: Option<Outside>,
    /// Elsewhere: whose address the servers of names see.
    pub(crate) dns_source: UpstreamSource,
    /// And whose the servers of HTTP and TLS.
    pub(crate) http_source: UpstreamSource,
    /// How traffic gets to where policy lets it.
    pub(crate) carriage: Carriage,
}

/// The namespace from which servers are called for workloads that can't reach them, with its addresses.
#[derive(Clone, Debug)]
pub(crate) struct Outside {
    pub(crate) ns: NetNs,
    /// Servers of names that a workload asks by other addresses.
    pub(crate) stand_ins: StandIns,
}

impl Setup {
    /// The node's own addresses; the side link has none.
    pub(crate) fn node_addresses(&self) -> Result<Vec<IpAddr>> {
        match &self.outside {
            Some(outside) => Ok(outside.ns.run(own_addresses)??),
            None => Ok(own_addresses()?),
        }
    }
}

/// A running daemon, all parts of it, in the network namespace of the thread that started it.
pub(crate) struct Daemon {
    setup: Setup,
    _lock: Lock,
    /// Who keeps what it listens on, where that outlives it.
    pub(crate) keeper: Option<Keeper>,
    pub(crate) datapath: Datapath,
    pub(crate) learner: SharedLearner,
    pub(crate) guards: Guards,
    pub(crate) dns: DnsThreads,
    pub(crate) http: HttpThreads,
    pub(crate) news: NewsSink,
    pub(crate) flow_ring: Arc<SharedRing>,
    /// What the daemon itself did, as Hubble tells it.
    pub(crate) agent: AgentNews,
    /// The last writes to the maps.
    pub(crate) journal: Arc<Journal>,
    teller: Arc<Teller>,
    event_thread: EventThread,
    flow_thread: FlowThread,
    pub(crate) exporters: Exporters,
    /// What is counted for Prometheus.
    pub(crate) metrics: Option<Metrics>,
    gate: Gate,
    /// By the order of [`SIDE_LINK_HOOKS`].
    side_link: Vec<Option<Attachment>>,
    pub(crate) interference: Interference,
    /// Where others route by programs of their own, in words.
    pub(crate) routers: BTreeSet<String>,
    /// Endpoints whose names are asked for on the host.
    pub(crate) resolved_on_host: BTreeSet<String>,
    policies: PolicySet,
    /// What the TLS contexts of those name.
    secrets: Arc<TlsSecrets>,
    compiler: Compiler,
    /// The number of policies in force.
    pub(crate) policy_count: usize,
    host_addresses: Vec<IpAddr>,
    /// The ports beside 53 at which names are asked.
    dns_ports: BTreeSet<u16>,
    /// The ports of UDP beside 53 that the kernel knows as a proxy's.
    known_ports: BTreeSet<u16>,
    /// Whether what an earlier run guards is to be taken over yet.
    pub(crate) has_heir: bool,
    /// Flows in the table at the last sweep.
    pub(crate) flows: usize,
    /// Names that were asked for again.
    pub(crate) refreshed: usize,
    /// What is counted for others to read.
    tallies: Tallies,
    /// Endpoints whose series can still be read.
    departed: Departed,
}

impl Daemon {
    /// Builds everything but endpoints: the gate, the programs, the proxy, in the order in which
    /// nothing is lost.
    ///
    /// # Errors
    /// With an exit code where one is promised; what was made is taken away again.
    pub(crate) fn start(
        loader: Loader,
        (setup, mut keeper): (Setup, Option<Keeper>),
        mut identities: Identities,
        mut remembered: Remembered,
    ) -> Result<Self> {
        // Before anything is made that would have to be taken away.
        let exporters = start_exporters(&setup)?;
        let lock = take_lock()?;
        let (pins, inherited) = open_pins(&setup)?;
        let has_heir = inherited.is_some();
        let lately = open_lately(keeper.as_mut(), &mut remembered)?;
        recall(&remembered, inherited.as_ref(), &mut identities);
        let (news, queue) = news();
        let kernel = (pins, inherited.as_ref().and_then(|one| one.config));
        let proxies = (&news, &mut keeper);
        let made = make(&setup, (loader, has_heir), (kernel, proxies), identities)?;
        let (gate, (mut datapath, learner, (dns, http)), (side_link, routers)) = made;
        lately.into_iter().for_each(|one| learner.note_in(one));
        let guards = Guards::inheriting(inherited, remembered);
        let journal = Arc::new(Journal::new(clock::boot_ns));
        datapath.keep_journal(Arc::clone(&journal));
        let teller = make_teller(&setup, &learner);
        let flow_ring = Arc::new(SharedRing::new(setup.flows_max, clock::now()));
        let made_with = (Arc::clone(&teller), Arc::clone(&flow_ring));
        let draft = setup.metrics.as_deref().map(Draft::new);
        let counted = draft.as_ref().map(|draft| Arc::clone(&draft.flows));
        let flow_thread = FlowThread::start(queue, made_with, (exporters.shared(), counted))?;
        let event_thread = EventThread::start(datapath.events()?, news.clone())?;
        if let Some(keeper) = &mut keeper {
            keeper.keep(kept(&dns, &learner)?);
        }
        let sources = || Sources {
            dns: Arc::clone(&dns.counters),
            http: http.counters(),
            learner: Arc::clone(&learner),
            news: news.clone(),
            ring: Arc::clone(&flow_ring),
            exporters: exporters.shared(),
        };
        let metrics = draft.map(|draft| draft.finish(sources(), setup.cilium_metrics));
        Ok(Self {
            host_addresses: setup.node_addresses()?,
            setup,
            _lock: lock,
            keeper,
            dns_ports: BTreeSet::new(),
            known_ports: assembly::known_ports(&datapath, has_heir)?,
            tallies: Tallies::new(&datapath),
            datapath,
            learner,
            guards,
            has_heir,
            dns,
            http,
            news,
            flow_ring,
            agent: AgentNews::started(exporters.shared()),
            journal,
            teller,
            event_thread,
            flow_thread,
            exporters,
            metrics,
            gate,
            side_link: side_link.into_iter().map(Some).collect(),
            interference: Interference::default(),
            routers,
            resolved_on_host: BTreeSet::new(),
            policies: PolicySet::default(),
            secrets: Arc::default(),
            compiler: Compiler::new(),
            policy_count: 0,
            flows: 0,
            refreshed: 0,
            departed: Departed::default(),
        })
    }

    /// The instance.
    pub(crate) fn instance(&self) -> &Instance {
        &self.setup.instance
    }

    /// Where its maps are pinned.
    pub(crate) fn pins(&self) -> Option<&Path> {
        self.setup.pins.as_deref()
    }

    /// Takes other policies with the secrets that they name, which come into force with [`Daemon::enforce`].
    pub(crate) fn set_policies(&mut self, policies: PolicySet, secrets: Secrets) {
        self.policies = policies;
        self.secrets = secrets.tls;
        self.compiler.set_secrets(secrets.headers);
    }

    /// Takes of other options what can change, from the next [`Daemon::enforce`] on: how it judges, how names
    /// are asked, and what is learned.
    pub(crate) fn take(&mut self, other: Setup) {
        let setup = &mut self.setup;
        setup.enforcement = other.enforcement;
        setup.dns_refresh = other.dns_refresh;
        self.dns.set_settings(other.dns);
        self.learner.set_terms(Terms {
            lifetimes: other.lifetimes,
            install_wait: other.install_wait,
            scruples: other.scruples,
        });
    }

    /// Takes another roster, which comes under policy with [`Daemon::enforce`]. Says whether anything is
    /// different.
    pub(crate) fn set_roster(&mut self, roster: Roster) -> bool {
        self.guards
            .update(roster, &mut self.datapath, &self.learner)
    }

    /// Looks at the node's own addresses again. Says whether they are different.
    pub(crate) fn look_at_node(&mut self) -> bool {
        let Ok(addresses) = self.setup.node_addresses() else {
            return false;
        };
        let differs = addresses != self.host_addresses;
        self.host_addresses = addresses;
        differs
    }

    /// Compiles the policies for everybody there is and puts the result into force: policy maps, then
    /// the address table, then the endpoints that weren't attached yet.
    ///
    /// # Errors
    /// If a limit is exceeded; what was in force stays.
    pub(crate) fn enforce(&mut self) -> Result<(), Vec<Problem>> {
        let cast = self.guards.cast(self.host_addresses.clone());
        let revision = self.learner.snapshot().revision() + 1;
        let mut options = self.setup.enforcement;
        if options.quic == policy::Quic::Sni && self.http.is_from_node() {
            // What is judged there is sent on in the workload's name, which such a node's routing doesn't take back.
            options.quic = policy::Quic::Refuse;
        }
        let inputs = (&self.policies, &cast, options);
        let compiler = &mut self.compiler;
        let snapshot = self
            .learner
            .with_identities(|identities| compiler.build(revision, inputs, identities))?;
        self.policy_count = self.policies.len();
        if self.setup.cilium_metrics {
            self.tallies.policy = PolicyTally::of(&snapshot);
        }
        let (table, fronts) = (prefixes(&snapshot), services(&snapshot));
        let before = self.teller.directory();
        let directory = Directory::new(&snapshot, (&cast, &self.setup.cluster), &before);
        let links = self.guards.iter().filter_map(|(id, guarded)| {
            let link = guarded.found.link()?;
            let (index, name) = (link.ifindex, link.name.as_str().into());
            Some((id.get(), Interface { index, name }))
        });
        self.teller.set_directory(directory.with_interfaces(links));
        let ports = (snapshot.dns_ports(), snapshot.quic_ports());
        self.open_ports(&ports);
        // Before any policy map is replaced, and so before a query can have one replaced.
        if let Err(error) = self.datapath.shift_addresses(&table, &fronts) {
            tracing::error!("while policy changes, addresses may be judged by both: {error}");
        }
        // Before the rules that name them.
        self.http.set_secrets(Arc::clone(&self.secrets));
        self.learner.set_snapshot(snapshot);
        self.guards.reload(&self.learner);
        self.guards
            .prepare(&mut self.datapath, &self.learner, &self.gate);
        if let Err(error) = self.datapath.settle_addresses(&table, &fronts) {
            tracing::error!("addresses or virtual addresses are not all known: {error}");
        }
        self.end_flows();
        self.close_ports(&ports);
        if let Err(error) = self.listen_on_node() {
            tracing::error!("cgroups ask for names in vain: {error:#}");
        }
        let links = (self.guards.iter()).filter_map(|(_, guarded)| guarded.found.link());
        let endpoints = links.flat_map(|link| link.addresses.iter().copied());
        self.http.policy_changed(endpoints.collect());
        self.guards
            .attach(&mut self.datapath, &self.learner, &self.gate);
        self.has_heir = false;
        self.guards.drop_inheritance(&mut self.datapath);
        self.agent.addresses(&table);
        let rules = self.policies.rule_count();
        let gone = self.agent.enforced(revision, rules, &self.guards);
        self.departed.add(clock::now(), gone);
        // Not before there is a policy to judge by, and before it what an earlier run had learned is known:
        // until then queries wait.
        if let Err(error) = self.dns.serve() {
            tracing::error!("names are asked in vain: {error}");
        }
        tracing::info!(revision, policies = self.policy_count, "policy in force");
        Ok(())
    }

    /// Has names be asked, and QUIC be judged, at these ports too, before a policy is in force that says so.
    fn open_ports(&mut self, (dns, quic): &(BTreeSet<u16>, BTreeSet<u16>)) {
        self.dns.open_ports(dns);
        self.http.open_quic(quic);
        let wanted = dns.iter().chain(quic);
        let all = self.known_ports.iter().chain(wanted).copied().collect();
        self.know_ports(all);
    }

    /// No more at others, once no policy in force names them.
    fn close_ports(&mut self, (dns, quic): &(BTreeSet<u16>, BTreeSet<u16>)) {
        self.know_ports(dns.union(quic).copied().collect());
        self.dns.close_ports(dns);
        self.http.close_quic(quic);
        self.dns_ports.clone_from(dns);
    }

    fn know_ports(&mut self, ports: BTreeSet<u16>) {
        if self.known_ports == ports {
            return;
        }
        match self.datapath.set_dns_ports(&ports) {
            Ok(()) => self.known_ports = ports,
            // Replies to them are not seen as a proxy's affair; tried again with the next policy.
            Err(error) => tracing::error!("the ports of the proxies are not all known: {error}"),
        }
    }

    /// Opens what could not be opened before.
    pub(crate) fn look_at_ports(&mut self) {
        if self.dns.has_ports(&self.dns_ports) {
            return;
        }
        self.dns.open_ports(&self.dns_ports);
        if let Err(error) = self.dns.serve() {
            tracing::error!("names are asked in vain: {error}");
        }
    }

    /// Lets the proxy listen on the node once there is a cgroup that will ask it.
    fn listen_on_node(&mut self) -> Result<()> {
        if self.dns.is_on_node() || !self.guards.has_cgroup() {
            return Ok(());
        }
        let before = self.datapath.listeners()?;
        let dns = &mut self.dns;
        let after = match &self.setup.outside {
            Some(outside) => outside.ns.run(|| dns.listen_on_node(before))?,
            None => dns.listen_on_node(before),
        }?;
        if let Some(keeper) = &mut self.keeper {
            keeper.keep(kept(&self.dns, &self.learner)?);
        }
        Ok(self.datapath.set_listeners(after)?)
    }

    /// Takes away what has expired, and says when to call next at the latest.
    pub(crate) fn expire(&self) -> Option<Instant> {
        loop {
            let now = clock::now();
            match self.learner.expire(now) {
                Some(next) if next <= now => {}
                next => return next,
            }
        }
    }

    /// Forgets the flows that live on an allow that is gone: their next packet is judged as a new one.
    fn end_flows(&mut self) {
        let snapshot = self.learner.snapshot();
        let review = Review::new(&self.learner, &snapshot);
        match self
            .datapath
            .sweep_flows(|key, value| review.ends(key, value))
        {
            Ok(left) => self.flows = left,
            Err(error) => tracing::error!("flows of the old policy go on: {error}"),
        }
    }

    /// How often something new was learned or forgotten, and how often only repeated.
    pub(crate) fn learned_counts(&self) -> (u64, u64) {
        let counts = &self.learner.counts;
        let changes = [
            &counts.installed,
            &counts.expired,
            &counts.evicted,
            &counts.forgotten,
        ];
        let changes = changes.map(|count| count.load(Ordering::Relaxed));
        let revision = self.learner.snapshot().revision();
        (
            changes.iter().sum::<u64>() + revision,
            counts.refreshed.load(Ordering::Relaxed),
        )
    }

    /// What the next daemon needs to know of.
    pub(crate) fn learned(&self) -> Learned {
        Learned::new(&self.guards, &self.learner)
    }
}

/// Takes away all that an instance leaves on a node, whether its daemon lived or not. Without pins
/// nothing of it outlives its daemon but the side link. Says whether something was there.
///
/// # Errors
/// If something can't be removed, or a daemon uses it; the error names it.
pub(crate) fn take_away(instance: &Instance, pins: Option<&Path>) -> Result<bool> {
    let Some(dir) = pins else {
        return remove_side_link(instance);
    };
    let pins = Pins::find(dir)?;
    let had_pins = pins.is_some();
    if let Some(pins) = pins {
        pins.remove()?;
    }
    let had_keeper = keeper::end(instance);
    let had_gate = remove_gate(instance)?;
    Ok(had_pins || had_keeper || had_gate)
}

/// The side link, and the gate with its pin; whether one was there.
fn remove_gate(instance: &Instance) -> Result<bool> {
    let had_link = remove_side_link(instance)?;
    let pin = instance.gate_pin();
    let had_pin = pin.exists();
    NetNs::unpin(&pin).context("the gate's namespace")?;
    Ok(had_link || had_pin)
}

fn remove_side_link(instance: &Instance) -> Result<bool> {
    let names = instance.side_link();
    let netlink = Netlink::open()?;
    let links = netlink.links()?;
    let was_there = links.iter().any(|link| link.name == names.node);
    if was_there {
        // A clsact filter has no pin; it would go on sending into a link that is gone.
        for link in &links {
            bpf_redirect::remove_filters(&link.name);
        }
    }
    Gate::remove(&names)?;
    Ok(was_there)
}

/// One daemon for each network namespace.
fn take_lock() -> Result<Lock> {
    Lock::take().map_err(|holder| {
        let who = holder.map_or_else(
            || "another process".to_owned(),
            |pid| format!("process {pid}"),
        );
        anyhow::anyhow!(
            "{who} guards this network namespace already; one Namegate is enough for all of it"
        )
    })
}

/// The addresses of the network namespace, sorted.
///
/// # Errors
/// If the kernel refuses to tell them.
pub(crate) fn own_addresses() -> Result<Vec<IpAddr>, LinkError> {
    let mut addresses: Vec<IpAddr> = Netlink::open()?
        .addresses()?
        .into_iter()
        .map(|(_, ip)| ip)
        .collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}
