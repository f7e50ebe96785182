//! `namegate demo`: the story of a small shop's pods, told on a node of its own.
//!
//! Real sockets and real packets: a private node namespace with a bridge, a namespace for each pod, an
//! authoritative DNS server and HTTP servers in them, and the daemon itself. All of it is held by
//! descriptors, so that it ends with the process, however that ends.

mod client;
mod kept;
mod servers;
mod stage;
mod steps;
mod voice;

use std::time::Duration;

use anyhow::{Context, Result};
use bpf_redirect::Loader;
use bpf_redirect_common::Aggregation;
use fqdn_cache::Lifetimes;
use policy::{Identities, Problem, Source};

use crate::cluster::Cluster;
use crate::daemon::{Daemon, Ending, Setup};
use crate::exit::{Exit, NO_PERMISSION};
use crate::instance::Instance;
use crate::learner::{INSTALL_WAIT, Scruples};
use crate::remembered::Remembered;
use crate::upstream::UpstreamSource;
pub(crate) use kept::{clean, is_to_stay, tell_and_leave};
use stage::Stage;
use steps::STEPS;
use voice::Voice;

/// How the story is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Wait for Enter after each step.
    pub(crate) step: bool,
    /// Give the namespaces names afterwards and stay, out of sight, until `demo --clean`.
    pub(crate) keep: bool,
    /// Colours, for a terminal.
    pub(crate) color: bool,
}

/// Tells the story.
///
/// # Errors
/// Without root, or where the kernel lacks something; or if a step ended otherwise than it should.
pub(crate) fn run(options: Options) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Exit::with(
            NO_PERMISSION,
            "the demo needs root: it makes network namespaces and loads BPF programs",
        ));
    }
    let mut voice = Voice::new(options);
    voice.say_opening()?;
    let stage = Stage::build().map_err(|error| Exit::with(NO_PERMISSION, format!("{error:#}")))?;
    let node = stage.node.ns.clone();
    node.run(|| tell(&stage, &mut voice, options))
        .context("the demo's node")?
}

/// Runs on a thread in the node's namespace.
fn tell(stage: &Stage, voice: &mut Voice, options: Options) -> Result<()> {
    if options.keep {
        kept::end_with_parent()?;
    }
    let instance = Instance::parse("demo").map_err(anyhow::Error::msg)?;
    let mut daemon = Daemon::start(
        Loader::start(),
        (
            Setup {
                instance,
                cluster: Cluster::default(),
                pins: None,
                hook_mode: None,
                exports: Vec::new(),
                flow_logs: None,
                metrics: None,
                cilium_metrics: false,
                redaction: flow::Redaction::default(),
                flows_max: flow::limits::RING_FLOWS_MAX,
                // The story has a line for each verdict.
                aggregation: Aggregation::Off,
                enforcement: policy::Options::default(),
                http: httpproxy::Settings::default(),
                // Seconds are seconds here: nothing is added to a name's own TTL.
                lifetimes: Lifetimes {
                    floor: Duration::ZERO,
                    grace: Duration::ZERO,
                    ..Lifetimes::default()
                },
                install_wait: INSTALL_WAIT,
                scruples: Scruples::default(),
                dns_refresh: false,
                dns: dnsproxy::Settings::default(),
                encrypted_resolvers: std::sync::Arc::default(),
                outside: None,
                dns_source: UpstreamSource::Endpoint,
                http_source: UpstreamSource::Endpoint,
                carriage: crate::datapath::Carriage::Direct,
            },
            None,
        ),
        Identities::new(),
        Remembered::default(),
    )?;
    daemon.set_roster(stage.roster()?);
    let mut outcome = Ok(());
    for step in STEPS {
        outcome = tell_step(step, (stage, &mut daemon), voice);
        if outcome.is_err() {
            break;
        }
    }
    if outcome.is_ok() && options.keep {
        outcome = kept::stay(stage, &daemon, voice);
    }
    daemon.end(Ending::Removed, drop)?;
    outcome?;
    if options.keep {
        return Ok(());
    }
    voice.say_closing()
}

fn tell_step(
    step: &steps::Step,
    (stage, daemon): (&Stage, &mut Daemon),
    voice: &mut Voice,
) -> Result<()> {
    voice.say_step(step)?;
    let loaded = policy::load(&[Source {
        path: "demo.yaml".to_owned(),
        text: step.policies.concat(),
    }]);
    let errors: Vec<String> = loaded
        .problems
        .iter()
        .filter(|problem| problem.is_error())
        .map(Problem::to_string)
        .collect();
    anyhow::ensure!(
        errors.is_empty(),
        "step {}: {}",
        step.number,
        errors.join("\n")
    );
    daemon.set_policies(loaded.set, crate::secrets::Secrets::default());
    daemon
        .enforce()
        .map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    let since = daemon.flow_ring.end();
    let seen = (step.act)(stage, daemon, voice).with_context(|| format!("step {}", step.number))?;
    voice.say_flows(&daemon.flow_ring, since, step.shown)?;
    anyhow::ensure!(
        seen == step.expected,
        "step {} ended otherwise than it should: {seen:?} instead of {:?}",
        step.number,
        step.expected
    );
    voice.pause()
}
