//! The parts of a daemon: made anew, or taken over from an earlier one.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context, Result};
use bpf_redirect::{
    Attachment, Datapath, DatapathError, Hook, HookMode, Inherited, Loader, PinError, Pins, inspect,
};
use bpf_redirect_common::Config;
use dnsproxy::StandIns;
use policy::{Compiler, Identities, Options, PolicySet};
use transport::{Gate, LinkError, NetNs};

use super::vigil::routers_around;
use super::{Outside, Setup, remove_gate, take_away};
use crate::clock;
use crate::exit::{BAD_CONFIG, Exit, NO_PERMISSION};
use crate::exporters::Exporters;
use crate::flows::NewsSink;
use crate::guard::SharedLearner;
use crate::http::{Calling, HttpThreads};
use crate::keeper::{self, Keeper};
use crate::lately::Lately;
use crate::learner::Learner;
use crate::proxy::DnsThreads;
use crate::remembered::Remembered;
use crate::tell::Teller;

type Parts = (Datapath, SharedLearner, (DnsThreads, HttpThreads));

/// What is attached to the side link, and who else routes by programs.
type Around = (Vec<Attachment>, BTreeSet<String>);

/// What the side link carries: one program on the node's end, two on the gate's.
pub(super) const SIDE_LINK_HOOKS: [Hook; 3] = [Hook::NodeEnd, Hook::GateIn, Hook::GateOut];

/// Attaches them; how one is attached, the caller knows.
pub(super) fn attach_side_link(
    gate: &Gate,
    mut attach: impl FnMut(Hook, (&str, u32)) -> Result<Attachment, DatapathError> + Send,
) -> Result<Vec<Attachment>> {
    let node_end = (gate.node_end.name.as_str(), gate.node_end.index);
    let gate_end = (gate.gate_end.name.as_str(), gate.gate_end.index);
    let mut side_link = vec![attach(Hook::NodeEnd, node_end)?];
    let attached = gate.ns.run(|| -> Result<_, DatapathError> {
        Ok([
            attach(Hook::GateIn, gate_end)?,
            attach(Hook::GateOut, gate_end)?,
        ])
    })??;
    side_link.extend(attached);
    Ok(side_link)
}

type Kernel = (Option<Pins>, Option<Config>);

type Proxies<'a> = (&'a NewsSink, &'a mut Option<Keeper>);

/// The gate, and what stands in it and at it. Where that fails nothing is left behind but what an earlier
/// run guards, which stays so.
pub(super) fn make(
    setup: &Setup,
    (loader, has_heir): (Loader, bool),
    (kernel, proxies): (Kernel, Proxies<'_>),
    identities: Identities,
) -> Result<(Gate, Parts, Around)> {
    let routers = routers_around(setup);
    let made =
        load(setup, (loader, has_heir), kernel, proxies.1.as_ref()).and_then(|(gate, datapath)| {
            let origins = Origins::of(setup, &routers)?;
            let mut parts = build(setup, (&gate, origins), (datapath, proxies), identities)?;
            let datapath = &mut parts.0;
            let side_link = attach_side_link(&gate, |hook, at| datapath.attach(hook, at))?;
            Ok((gate, parts, (side_link, routers)))
        });
    if made.is_err() && !has_heir {
        let _ = take_away(&setup.instance, setup.pins.as_deref());
    }
    made
}

/// The gate, and the programs, with those of its link in place or soon.
fn load(
    setup: &Setup,
    (loader, has_heir): (Loader, bool),
    (pins, config): Kernel,
    keeper: Option<&Keeper>,
) -> Result<(Gate, Datapath)> {
    let mode = hook_mode(setup)?;
    let pins = match (pins, config) {
        (Some(pins), Some(config)) => {
            let gate = open_gate(setup, has_heir, keeper)?;
            let heritage = (pins, config);
            // All of them, before the first takes the place of an earlier run's.
            let datapath = Datapath::take_over(loader, (gate.node_end.index, mode), heritage)
                .map_err(bpf_refused)?;
            return Ok((gate, datapath));
        }
        (pins, _) => pins,
    };
    let loaded = Datapath::load_meanwhile(loader, (mode, pins), |side| -> Result<_> {
        let gate = open_gate(setup, has_heir, keeper)?;
        side.set(gate.node_end.index)?;
        let [node_end, gate_end] = [&gate.node_end, &gate.gate_end];
        let at_gate = (gate_end.name.as_str(), gate_end.index);
        let ns = gate.ns.clone();
        side.attach_ahead(&[(Hook::NodeEnd, (&node_end.name, node_end.index))], || {
            Ok(())
        });
        side.attach_ahead(
            &[(Hook::GateIn, at_gate), (Hook::GateOut, at_gate)],
            move || ns.enter(),
        );
        Ok(gate)
    });
    let (datapath, gate) = loaded.map_err(bpf_refused)?;
    Ok((gate?, datapath))
}

/// The gate of an earlier run, else a new one.
fn open_gate(setup: &Setup, has_heir: bool, keeper: Option<&Keeper>) -> Result<Gate> {
    let (names, pin) = (setup.instance.side_link(), setup.instance.gate_pin());
    if has_heir {
        let has_listener = keeper.is_some_and(|keeper| keeper.has(keeper::DNS_TCP));
        match Gate::find(&names, &pin) {
            Some(gate) if has_listener || is_free(&gate)? => return Ok(gate),
            // It would share the queries with us, and nobody would read its share.
            Some(_) => tracing::warn!("somebody unknown listens in the gate: it is made anew"),
            None => tracing::warn!("the gate of the earlier run is gone and is made anew"),
        }
        // Who may not make one must not take the old one away; and what endpoints carry stays.
        NetNs::create().map_err(|error| without_privilege("the gate", &error.into()))?;
        Gate::remove(&names)?;
        NetNs::unpin(&pin).context("the gate's namespace")?;
    }
    let gate = Gate::create(&names).map_err(|error| without_privilege("the gate", &error))?;
    if setup.pins.is_some() {
        gate.ns.pin(&pin).context("pinning the gate's namespace")?;
    }
    Ok(gate)
}

/// The further ports of proxies that an earlier run's kernel knows; new maps have none.
pub(super) fn known_ports(datapath: &Datapath, has_heir: bool) -> Result<BTreeSet<u16>> {
    match has_heir {
        true => Ok(datapath.dns_ports()?),
        false => Ok(BTreeSet::new()),
    }
}

/// Whether nobody listens in the gate.
fn is_free(gate: &Gate) -> Result<bool> {
    let listen = || transport::GateListener::bind(bpf_redirect_common::DNS_PORT, 1);
    match gate.ns.run(listen)? {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn build(
    setup: &Setup,
    (gate, origins): (&Gate, Origins),
    (mut datapath, (news, keeper)): (Datapath, Proxies<'_>),
    mut identities: Identities,
) -> Result<Parts> {
    datapath.set_aggregation(setup.aggregation)?;
    let (policies, cast) = (PolicySet::default(), policy::Cast::default());
    let inputs = (&policies, &cast, Options::default());
    let nothing = Compiler::new()
        .build(0, inputs, &mut identities)
        .map_err(|_| anyhow::anyhow!("an empty policy can't be compiled"))?;
    let learner = Learner::new(nothing, identities, setup.lifetimes, clock::now);
    let learner: SharedLearner = Arc::new(
        learner
            .with_install_wait(setup.install_wait)
            .with_scruples(setup.scruples.clone())
            .with_carriage(setup.carriage),
    );
    let own = (news.clone(), datapath.askers()?);
    let with = (&learner, setup.dns.clone(), origins.dns.as_ref());
    let dns = DnsThreads::start((gate, keeper.as_mut()), with, own).context("the DNS sockets")?;
    let names = dns
        .handover
        .clone()
        .context("nobody takes names over TCP")?;
    let own = (news.clone(), names, setup.http.clone());
    let http = HttpThreads::start((gate, origins.http), &mut datapath, &learner, own)
        .context("the sockets for HTTP")?;
    Ok((datapath, learner, (dns, http)))
}

/// From where servers are asked and called, where it isn't the gate.
struct Origins {
    dns: Option<Outside>,
    http: Calling,
}

impl Origins {
    /// As it is said, where these route by programs of their own.
    fn of(setup: &Setup, routers: &BTreeSet<String>) -> Result<Self> {
        if let Some(outside) = &setup.outside {
            return Ok(Self {
                dns: Some(outside.clone()),
                http: Calling::Outside(outside.ns.clone()),
            });
        }
        let here = NetNs::current().context("the network namespace")?;
        let dns = setup.dns_source.is_node(routers).then(|| Outside {
            ns: here.clone(),
            stand_ins: StandIns::default(),
        });
        let http = match setup.http_source.is_node(routers) {
            true => Calling::Node(here),
            false => Calling::Gate,
        };
        for (what, is_node) in [
            ("names", dns.is_some()),
            ("HTTP and TLS", http.is_from_node()),
        ] {
            if is_node {
                tracing::info!("the servers of {what} see the node's address");
            }
        }
        Ok(Self { dns, http })
    }
}

/// How programs are attached: as it is said, else as the kernel can. Who takes a refusal for an old kernel
/// doesn't see what an earlier run attached.
fn hook_mode(setup: &Setup) -> Result<HookMode> {
    let mode = setup.hook_mode.map_or_else(HookMode::probe, Ok);
    mode.map_err(|error| refused(&error.to_string()))
}

/// Where answers are noted, if somebody keeps it: what an earlier daemon noted is remembered.
pub(super) fn open_lately(
    keeper: Option<&mut Keeper>,
    remembered: &mut Remembered,
) -> Result<Option<Arc<Lately>>> {
    let Some(keeper) = keeper else {
        return Ok(None);
    };
    let left = keeper.take(keeper::LATELY).pop();
    let (lately, notes) = Lately::open(left).context("memory for what is learned")?;
    let now = (clock::now(), clock::boot_ns());
    *remembered = std::mem::take(remembered).with_notes(notes, now);
    Ok(Some(Arc::new(lately)))
}

/// Gives the numbers that the kernel knows back to their sets, and none of them to others.
pub(super) fn recall(
    remembered: &Remembered,
    inherited: Option<&Inherited>,
    identities: &mut Identities,
) {
    if let Some(inherited) = inherited {
        remembered.number(identities);
        identities.pass_over(inherited.last_identity);
    }
}

/// What outlives the daemon, with its names.
pub(super) fn kept(
    dns: &DnsThreads,
    learner: &SharedLearner,
) -> Result<Vec<(&'static str, OwnedFd)>> {
    let mut kept = dns.listeners()?;
    if let Some(lately) = learner.lately() {
        kept.push((keeper::LATELY, lately.descriptor()?));
    }
    Ok(kept)
}

/// Opens the pins, and what an earlier run of this instance left there to be taken over. What it attached
/// in the other way (tcx, or filters) is removed, and said.
pub(super) fn open_pins(setup: &Setup) -> Result<(Option<Pins>, Option<Inherited>)> {
    let Some(dir) = &setup.pins else {
        return Ok((None, None));
    };
    let pins = Pins::open(dir).map_err(|error| match error {
        PinError::NoBpffs { .. } => Exit::with(NO_PERMISSION, error),
        PinError::Hides { .. } => {
            Exit::with(BAD_CONFIG, format!("--bpf-dir {}: {error}", dir.display()))
        }
        PinError::InUse { .. } | PinError::Create { .. } | PinError::Remove { .. } => error.into(),
    })?;
    let mode = hook_mode(setup)?;
    if pins.has_attachments(mode) {
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
    remove_gate(&setup.instance)?;
    pins.create()
        .map_err(|error| Exit::with(NO_PERMISSION, error))?;
    Ok((Some(pins), None))
}

/// A failure that a missing privilege explains ends with 77.
pub(super) fn without_privilege(what: &str, error: &LinkError) -> anyhow::Error {
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
    refused(first)
}

fn refused(why: &str) -> anyhow::Error {
    Exit::with(
        NO_PERMISSION,
        format!(
            "the kernel refuses the datapath: {why}; Linux 6.1 with BTF is needed, and CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        ),
    )
}

pub(crate) fn make_teller(setup: &Setup, learner: &SharedLearner) -> Arc<Teller> {
    let redaction = setup.redaction.clone();
    let node_name = setup.cluster.node_name();
    Arc::new(Teller::new(Arc::clone(learner), node_name, redaction))
}

pub(super) fn start_exporters(setup: &Setup) -> Result<Exporters> {
    let (exports, flow_logs) = (setup.exports.clone(), setup.flow_logs.clone());
    let started = Exporters::start(exports, flow_logs, setup.cluster.node_name());
    started.map_err(|error| Exit::with(BAD_CONFIG, format!("{error:#}")))
}
