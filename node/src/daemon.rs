//! The daemon without its files and signals: what is built in which order, how a policy comes into
//! force, and how it ends.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result};
use bpf_redirect::{
    Attachment, Datapath, DatapathError, Hook, HookMode, Inherited, PinError, Pins, inspect,
};
use bpf_redirect_common::Config;
use fqdn_cache::Lifetimes;
use policy::{Compiler, Identities, Options, PolicySet, Problem};
use transport::{Gate, LinkError, NetNs, Netlink};

use crate::clock;
use crate::datapath::prefixes;
use crate::directory::Directory;
use crate::endpoints::file::Roster;
use crate::exit::{BAD_CONFIG, Exit, NO_PERMISSION};
use crate::flows::{FlowRing, FlowThread, NewsSink, news};
use crate::guard::{Guards, SharedLearner};
use crate::instance::{Instance, Lock};
use crate::learner::Learner;
use crate::live::{Review, is_over};
use crate::proxy::DnsThreads;
use crate::remembered::{PAIRS_MAX, Remembered, remembered_names};
use crate::status::EventThread;
use crate::tell::Teller;
use crate::vigil::{Interference, set_right};

/// What a daemon is made with.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) instance: Instance,
    /// Where programs, maps, links and the gate outlive the process; `None`: they end with it.
    pub(crate) pins: Option<PathBuf>,
    /// `None`: what the kernel has.
    pub(crate) hook_mode: Option<HookMode>,
    /// A file that gets every flow.
    pub(crate) flow_log: Option<PathBuf>,
    /// How policy is enforced.
    pub(crate) enforcement: Options,
    /// How long a learned address is open.
    pub(crate) lifetimes: Lifetimes,
}

/// A running daemon, all parts of it, in the network namespace of the thread that started it.
pub(crate) struct Daemon {
    setup: Setup,
    _lock: Lock,
    pub(crate) datapath: Datapath,
    pub(crate) learner: SharedLearner,
    pub(crate) guards: Guards,
    pub(crate) dns: DnsThreads,
    pub(crate) news: NewsSink,
    pub(crate) flow_ring: Arc<FlowRing>,
    teller: Arc<Teller>,
    event_thread: EventThread,
    flow_thread: FlowThread,
    gate: Gate,
    /// By the order of [`SIDE_LINK_HOOKS`].
    side_link: Vec<Option<Attachment>>,
    pub(crate) interference: Interference,
    policies: PolicySet,
    compiler: Compiler,
    /// The number of policies in force.
    pub(crate) policy_count: usize,
    host_addresses: Vec<IpAddr>,
    /// Whether what an earlier run guards is to be taken over yet.
    pub(crate) has_heir: bool,
    /// Flows in the table at the last sweep.
    pub(crate) flows: usize,
}

impl Daemon {
    /// Builds everything but endpoints: the gate, the programs, the proxy, in the order in which
    /// nothing is lost.
    ///
    /// # Errors
    /// With an exit code where one is promised; what was made is taken away again.
    pub(crate) fn start(
        setup: Setup,
        mut identities: Identities,
        remembered: Remembered,
    ) -> Result<Self> {
        let lock = Lock::take().map_err(|holder| {
            let who = holder.map_or_else(
                || "another process".to_owned(),
                |pid| format!("process {pid}"),
            );
            anyhow::anyhow!(
                "{who} guards this network namespace already; one Namegate is enough for all of it"
            )
        })?;
        let (pins, inherited) = open_pins(&setup)?;
        let has_heir = inherited.is_some();
        let inherited = inherited.unwrap_or_default();
        if has_heir {
            remembered.number(&mut identities);
            identities.pass_over(inherited.last_identity);
        }
        let (news, queue) = news();
        let parts = open_gate(&setup, has_heir).and_then(|gate| {
            let kernel = (pins, inherited.config);
            let parts = build(&setup, &gate, (kernel, &news), identities)?;
            Ok((gate, parts))
        });
        let (gate, (datapath, learner, dns, side_link)) = match parts {
            Ok(parts) => parts,
            Err(error) => {
                // Nothing is guarded yet: leave nothing behind. What an earlier run guards stays so.
                if !has_heir {
                    let _ = take_away(&setup);
                }
                return Err(error);
            }
        };
        let guards = match has_heir {
            true => Guards::inheriting(inherited, remembered),
            false => Guards::default(),
        };
        let teller = Arc::new(Teller::new(Arc::clone(&learner), &node_name()));
        let flow_ring = Arc::new(FlowRing::default());
        let made_with = (Arc::clone(&teller), Arc::clone(&flow_ring));
        let flow_thread = FlowThread::start(queue, made_with, setup.flow_log.as_deref())
            .context("the flow log")?;
        let event_thread = EventThread::start(datapath.events()?, news.clone())?;
        Ok(Self {
            setup,
            _lock: lock,
            datapath,
            learner,
            guards,
            has_heir,
            dns,
            news,
            flow_ring,
            teller,
            event_thread,
            flow_thread,
            gate,
            side_link: side_link.into_iter().map(Some).collect(),
            interference: Interference::default(),
            policies: PolicySet::default(),
            compiler: Compiler::new(),
            policy_count: 0,
            host_addresses: own_addresses()?,
            flows: 0,
        })
    }

    /// The instance.
    pub(crate) fn instance(&self) -> &Instance {
        &self.setup.instance
    }

    /// Takes other policies, which come into force with [`Daemon::enforce`].
    pub(crate) fn set_policies(&mut self, policies: PolicySet) {
        self.policies = policies;
    }

    /// Takes another roster, which comes under policy with [`Daemon::enforce`]. Says whether anything is
    /// different.
    pub(crate) fn set_roster(&mut self, roster: Roster) -> bool {
        self.guards
            .update(roster, &mut self.datapath, &self.learner)
    }

    /// Looks at the node's own addresses again. Says whether they are different.
    pub(crate) fn look_at_node(&mut self) -> bool {
        let Ok(addresses) = own_addresses() else {
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
        let inputs = (&self.policies, &cast, self.setup.enforcement);
        let compiler = &mut self.compiler;
        let snapshot = self
            .learner
            .with_identities(|identities| compiler.build(revision, inputs, identities))?;
        self.policy_count = self.policies.len();
        let table = prefixes(&snapshot);
        self.teller
            .set_directory(Directory::new(&snapshot, &cast, &self.teller.directory()));
        self.learner.set_snapshot(snapshot);
        self.guards.reload(&self.learner);
        self.guards
            .prepare(&mut self.datapath, &self.learner, &self.gate);
        if let Err(error) = self.datapath.set_prefixes(&table) {
            tracing::error!("the address table is not complete: {error}");
        }
        self.end_flows();
        self.guards
            .attach(&mut self.datapath, &self.learner, &self.gate);
        if std::mem::take(&mut self.has_heir) {
            self.guards.drop_inheritance(&mut self.datapath);
        }
        tracing::info!(revision, policies = self.policy_count, "policy in force");
        Ok(())
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

    /// Forgets the flows that are over.
    pub(crate) fn sweep(&mut self) {
        let now = clock::boot_ns();
        match self
            .datapath
            .sweep_flows(|key, value| is_over(key, value, now))
        {
            Ok(left) => self.flows = left,
            Err(error) => tracing::error!("the flow table can't be swept: {error}"),
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

    /// The side link: its programs, and the pair itself, which is made anew if it is gone.
    pub(crate) fn watch_side_link(&mut self) -> Vec<String> {
        let mut seen = Vec::new();
        match self.mend_side_link() {
            Ok(what) => seen.extend(what),
            Err(error) => seen.push(format!(
                "the side link can't be made anew, and all that is redirected is lost: {error:#}"
            )),
        }
        let ends = [
            &self.gate.node_end,
            &self.gate.gate_end,
            &self.gate.gate_end,
        ];
        for ((hook, end), attachment) in SIDE_LINK_HOOKS
            .into_iter()
            .zip(ends)
            .zip(&mut self.side_link)
        {
            let place = (hook, (end.name.as_str(), end.index));
            let mut look = || set_right(&mut self.datapath, place, attachment);
            let looked = match hook {
                Hook::NodeEnd => look(),
                _ => self.gate.ns.run(look).map_err(Into::into).flatten(),
            };
            match looked {
                Ok(what) => seen.extend(what),
                Err(error) => seen.push(format!("the side link: {error:#}")),
            }
        }
        seen
    }

    /// Makes the pair anew if somebody deleted it. The proxy's sockets live on in the gate.
    fn mend_side_link(&mut self) -> Result<Option<String>> {
        let name = &self.gate.node_end.name;
        match Netlink::open()?.link(name) {
            Ok(link) if link.index == self.gate.node_end.index => return Ok(None),
            Ok(_) | Err(LinkError::Missing(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let what = format!("{name} was deleted: what is redirected was lost until now; it is back");
        // The pins of links that are on no interface are replaced.
        self.side_link.clear();
        self.gate.mend(&self.setup.instance.side_link())?;
        self.datapath.set_side_link(self.gate.node_end.index)?;
        let links = attach_side_link(&mut self.datapath, &self.gate)?;
        self.side_link = links.into_iter().map(Some).collect();
        self.guards.set_mtus(&self.gate);
        Ok(Some(what))
    }

    /// How often something new was learned or forgotten, and how often only repeated.
    pub(crate) fn learned_counts(&self) -> (u64, u64) {
        let counts = &self.learner.counts;
        let changes = [&counts.installed, &counts.expired, &counts.evicted];
        let changes = changes.map(|count| count.load(Ordering::Relaxed));
        let revision = self.learner.snapshot().revision();
        (
            changes.iter().sum::<u64>() + revision,
            counts.refreshed.load(Ordering::Relaxed),
        )
    }

    /// What the next daemon needs to know of what was learned.
    pub(crate) fn remember(&self) -> Remembered {
        let mut room = PAIRS_MAX;
        let mut endpoints = BTreeMap::new();
        for (id, guarded) in self.guards.iter() {
            let names = self.learner.with_knowledge(id, |knowledge| {
                remembered_names(&knowledge.cache, clock::now(), &mut room)
            });
            endpoints.insert(
                guarded.found.workload.full_name(),
                names.unwrap_or_default(),
            );
        }
        if room == 0 {
            tracing::warn!(
                "more than {PAIRS_MAX} addresses are learned: the rest would not outlive a restart"
            );
        }
        self.learner
            .with_identities(|identities| Remembered::new(clock::wall(), identities, endpoints))
    }

    /// Ends the threads. Enforcement stays where it is pinned; with `detach` everything is taken away.
    ///
    /// # Errors
    /// If something can't be taken away.
    pub(crate) fn end(mut self, detach: bool) -> Result<()> {
        if detach {
            // First the programs, so that workloads talk directly again; then what they led to.
            self.guards.detach_all();
        }
        self.dns.stop();
        self.event_thread.stop();
        self.flow_thread.stop();
        if detach || self.setup.pins.is_none() {
            for attachment in self.side_link.into_iter().flatten() {
                let _ = attachment.detach();
            }
            drop(self.datapath);
            take_away(&self.setup)?;
        }
        Ok(())
    }
}

type Parts = (Datapath, SharedLearner, DnsThreads, Vec<Attachment>);

/// What the side link carries: one program on the node's end, two on the gate's.
const SIDE_LINK_HOOKS: [Hook; 3] = [Hook::NodeEnd, Hook::GateIn, Hook::GateOut];

fn attach_side_link(datapath: &mut Datapath, gate: &Gate) -> Result<Vec<Attachment>> {
    let node_end = (gate.node_end.name.as_str(), gate.node_end.index);
    let gate_end = (gate.gate_end.name.as_str(), gate.gate_end.index);
    let mut side_link = vec![datapath.attach(Hook::NodeEnd, node_end)?];
    let attached = gate.ns.run(|| -> Result<_, DatapathError> {
        Ok([
            datapath.attach(Hook::GateIn, gate_end)?,
            datapath.attach(Hook::GateOut, gate_end)?,
        ])
    })??;
    side_link.extend(attached);
    Ok(side_link)
}

type Kernel = (Option<Pins>, Option<Config>);

/// The gate of an earlier run, else a new one.
fn open_gate(setup: &Setup, has_heir: bool) -> Result<Gate> {
    let (names, pin) = (setup.instance.side_link(), setup.instance.gate_pin());
    if has_heir {
        if let Some(gate) = Gate::find(&names, &pin) {
            return Ok(gate);
        }
        tracing::warn!("the gate of the earlier run is gone and is made anew");
        remove_side_link(setup)?;
    }
    let gate = Gate::create(&names).map_err(|error| without_privilege("the gate", &error))?;
    if setup.pins.is_some() {
        gate.ns.pin(&pin).context("pinning the gate's namespace")?;
    }
    Ok(gate)
}

fn build(
    setup: &Setup,
    gate: &Gate,
    ((pins, config), news): (Kernel, &NewsSink),
    mut identities: Identities,
) -> Result<Parts> {
    let node_end = gate.node_end.index;
    let mut datapath = match (pins, config) {
        (Some(pins), Some(config)) => Datapath::take_over(node_end, pins, config),
        (pins, _) => {
            let mode = setup.hook_mode.unwrap_or_else(HookMode::probe);
            Datapath::load(node_end, mode, pins)
        }
    }
    .map_err(bpf_refused)?;
    let (policies, cast) = (PolicySet::default(), policy::Cast::default());
    let inputs = (&policies, &cast, Options::default());
    let nothing = Compiler::new()
        .build(0, inputs, &mut identities)
        .map_err(|_| anyhow::anyhow!("an empty policy can't be compiled"))?;
    let lifetimes = setup.lifetimes;
    let learner: SharedLearner = Arc::new(Learner::new(nothing, identities, lifetimes, clock::now));
    let side_link = attach_side_link(&mut datapath, gate)?;
    let dns = DnsThreads::start(gate, &learner, news.clone()).context("the DNS sockets")?;
    Ok((datapath, learner, dns, side_link))
}

/// Opens the pins, and what an earlier run of this instance left there to be taken over. Filters have
/// no links: what they left is removed, and said.
fn open_pins(setup: &Setup) -> Result<(Option<Pins>, Option<Inherited>)> {
    let Some(dir) = &setup.pins else {
        return Ok((None, None));
    };
    let pins = Pins::open(dir).map_err(|error| match error {
        PinError::NoBpffs { .. } => Exit::with(NO_PERMISSION, error),
        PinError::InUse { .. } | PinError::Create { .. } | PinError::Remove { .. } => error.into(),
    })?;
    let mode = setup.hook_mode.unwrap_or_else(HookMode::probe);
    if pins.has_links() && mode == HookMode::Tcx {
        let inherited = inspect(&pins).map_err(|error| {
            let dir = dir.display();
            Exit::with(
                BAD_CONFIG,
                format!("an earlier run's pins in {dir} can't be taken over: {error}; what they enforce stays, and `namegate detach` takes it away"),
            )
        })?;
        let endpoints = inherited.endpoints.len();
        tracing::info!(endpoints, pins = %dir.display(), "taking over from an earlier run");
        return Ok((Some(pins), Some(inherited)));
    }
    if pins.in_use() {
        tracing::warn!(
            pins = %dir.display(),
            "an earlier run left its programs: they are removed, and the endpoints are open until they are guarded anew"
        );
    }
    pins.clear()?;
    remove_side_link(setup)?;
    pins.create()
        .map_err(|error| Exit::with(NO_PERMISSION, error))?;
    Ok((Some(pins), None))
}

/// Takes away all that an instance leaves on a node, whether its daemon lived or not.
///
/// # Errors
/// If something can't be removed, or a daemon uses it; the error names it.
pub(crate) fn take_away(setup: &Setup) -> Result<()> {
    if let Some(dir) = &setup.pins
        && let Some(pins) = Pins::find(dir)?
    {
        pins.remove()?;
    }
    remove_side_link(setup)
}

fn remove_side_link(setup: &Setup) -> Result<()> {
    let names = setup.instance.side_link();
    let netlink = Netlink::open()?;
    let links = netlink.links()?;
    if links.iter().any(|link| link.name == names.node) {
        // A clsact filter has no pin; it would go on sending into a link that is gone.
        for link in &links {
            bpf_redirect::remove_filters(&link.name);
        }
    }
    Gate::remove(&names)?;
    if setup.pins.is_some() {
        NetNs::unpin(&setup.instance.gate_pin()).context("the gate's namespace")?;
    }
    Ok(())
}

/// The node's name in events.
pub(crate) fn node_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The node's own addresses; the side link has none.
fn own_addresses() -> Result<Vec<IpAddr>, LinkError> {
    let mut addresses: Vec<IpAddr> = Netlink::open()?
        .addresses()?
        .into_iter()
        .map(|(_, ip)| ip)
        .collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

/// A failure that a missing privilege explains ends with 77.
fn without_privilege(what: &str, error: &LinkError) -> anyhow::Error {
    const EPERM: i32 = 1;
    const EOPNOTSUPP: i32 = 95;
    if matches!(error.errno(), Some(EPERM | EOPNOTSUPP)) {
        return Exit::with(
            NO_PERMISSION,
            format!(
                "{what} can't be made: {error}; Namegate needs root, or CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON"
            ),
        );
    }
    anyhow::anyhow!("{what} can't be made: {error}")
}

/// The kernel refused BPF itself: it lacks a privilege or a feature, and a restart won't help.
fn bpf_refused(error: DatapathError) -> anyhow::Error {
    if !matches!(
        error,
        DatapathError::Load(_) | DatapathError::Program { .. }
    ) {
        return error.into();
    }
    let text = error.to_string();
    // The verifier's log follows in further lines.
    let first = text.lines().next().unwrap_or_default();
    tracing::debug!("{text}");
    Exit::with(
        NO_PERMISSION,
        format!(
            "the kernel refuses the datapath: {first}; Linux 6.1 with BTF is needed, and CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        ),
    )
}
