//! The daemon: what is built in which order, what wakes it, and how it ends.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use anyhow::{Context, Result};
use bpf_redirect::{Attachment, Datapath, DatapathError, Hook, HookMode, PinError, Pins};
use policy::{PolicySet, Problem, RuleIds, Snapshot, Source};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use transport::{Gate, LinkError, NetNs, Netlink};

use crate::clock;
use crate::control::{self, Request};
use crate::datapath::prefixes;
use crate::endpoints::file::{self, Roster};
use crate::exit::{BAD_CONFIG, Exit, NO_PERMISSION};
use crate::files::read_folder;
use crate::guard::{Guards, SharedLearner};
use crate::instance::{Instance, Lock};
use crate::learner::Learner;
use crate::proxy::DnsThreads;
use crate::state::StateDir;
use crate::status::{EventCounts, EventThread};
use crate::watch::FolderWatch;

/// The options of `namegate run`.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) instance: Instance,
    pub(crate) policy_dirs: Vec<PathBuf>,
    pub(crate) endpoint_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) bpf_dir: PathBuf,
    /// `None`: what the kernel has.
    pub(crate) hook_mode: Option<HookMode>,
    pub(crate) detach_on_exit: bool,
}

/// What the daemon waits for.
pub(crate) enum Wake {
    /// A watched folder changed.
    FilesChanged,
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT.
    Stop,
    /// A command came in.
    Control(Request),
}

/// Changes of files that come together are one change.
const SETTLE: Duration = Duration::from_millis(150);
/// A folder that never rests is read all the same.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// How often workloads are looked at for new addresses, and the flow table is swept.
const TICK: Duration = Duration::from_secs(2);
/// How many ticks lie between two sweeps.
const TICKS_PER_SWEEP: u32 = 5;

/// A running daemon, all parts of it.
pub(crate) struct Daemon {
    pub(crate) options: Options,
    _lock: Lock,
    pub(crate) datapath: Datapath,
    pub(crate) learner: SharedLearner,
    pub(crate) guards: Guards,
    pub(crate) dns: DnsThreads,
    pub(crate) events: Arc<EventCounts>,
    event_thread: EventThread,
    gate: Gate,
    side_link: Vec<Attachment>,
    state: StateDir,
    kept_identities: BTreeMap<String, u32>,
    policies: PolicySet,
    rule_ids: RuleIds,
    /// The number of policies in force.
    pub(crate) policy_count: usize,
    /// Problems of the files as they are; the set in force is older if one is an error.
    pub(crate) policy_problems: Vec<Problem>,
    /// Faults of the endpoint folder as it is.
    pub(crate) endpoint_problems: Vec<String>,
    host_addresses: Vec<IpAddr>,
    /// Flows in the table at the last sweep.
    pub(crate) flows: usize,
}

/// Runs the daemon to its end.
///
/// # Errors
/// With an exit code where one is promised: 77 for a missing privilege or kernel feature, 78 for
/// files that can't be used.
pub(crate) fn run(options: Options) -> Result<()> {
    let (wake, woken) = mpsc::channel();
    watch_signals(&wake)?;
    let mut daemon = Daemon::start(options)?;
    let control = control::Server::start(&daemon.options.socket, wake.clone())?;
    let _watch = daemon.watch_folders(&wake)?;
    daemon.say_ready()?;
    let outcome = daemon.serve(&woken);
    control.close();
    daemon.end(outcome)
}

/// Why the daemon ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Enforcement stays.
    Leave,
    /// Everything is taken away.
    Detach,
}

impl Daemon {
    fn start(options: Options) -> Result<Self> {
        let (policies, problems) = read_policies(&options.policy_dirs)?;
        if problems.iter().any(Problem::is_error) {
            say_problems(&problems);
            return Err(Exit::new(
                BAD_CONFIG,
                "the policies can't be used; no endpoint is guarded",
            ));
        }
        say_problems(&problems);
        let roster = read_endpoints(&options.endpoint_dir)
            .map_err(|errors| Exit::new(BAD_CONFIG, errors.join("\nnamegate: ")))?;
        let state = StateDir::open(&options.state_dir).map_err(|error| {
            Exit::new(
                BAD_CONFIG,
                format!("{}: {error}", options.state_dir.display()),
            )
        })?;
        let lock = Lock::take().map_err(|holder| {
            let who = holder.map_or_else(
                || "another process".to_owned(),
                |pid| format!("process {pid}"),
            );
            anyhow::anyhow!(
                "{who} guards this network namespace already; one Namegate is enough for all of it"
            )
        })?;
        let pins = clear_pins(&options)?;
        let gate = Gate::create(&options.instance.side_link())
            .map_err(|error| without_privilege("the gate", &error))?;
        let parts = build(&options, &gate, pins, state.identities());
        let (mut datapath, learner, dns, side_link) = match parts {
            Ok(parts) => parts,
            Err(error) => {
                // Nothing is guarded yet: leave nothing behind.
                let _ = Gate::remove(&options.instance.side_link());
                let _ = NetNs::unpin(&options.instance.gate_pin());
                return Err(error);
            }
        };
        let events = Arc::new(EventCounts::default());
        let event_thread = EventThread::start(datapath.events()?, Arc::clone(&events))?;
        let mut guards = Guards::default();
        guards.update(roster, &mut datapath, &learner);
        let mut daemon = Self {
            _lock: lock,
            datapath,
            learner,
            guards,
            dns,
            events,
            event_thread,
            gate,
            side_link,
            state,
            kept_identities: BTreeMap::new(),
            policies,
            rule_ids: RuleIds::new(),
            policy_count: 0,
            policy_problems: problems,
            endpoint_problems: Vec::new(),
            host_addresses: Vec::new(),
            flows: 0,
            options,
        };
        daemon.host_addresses = own_addresses()?;
        daemon.enforce().map_err(|problems| {
            say_problems(&problems);
            Exit::new(
                BAD_CONFIG,
                "the policies can't be used; no endpoint is guarded",
            )
        })?;
        Ok(daemon)
    }

    /// Compiles the policies for everybody there is and puts the result into force.
    fn enforce(&mut self) -> Result<(), Vec<Problem>> {
        let cast = self.guards.cast(self.host_addresses.clone());
        let revision = self.learner.snapshot().revision() + 1;
        let (policies, rule_ids) = (&self.policies, &mut self.rule_ids);
        let snapshot = self.learner.with_identities(|identities| {
            Snapshot::build(revision, policies, &cast, identities, rule_ids)
        })?;
        self.policy_count = self.policies.len();
        self.keep_identities();
        let table = prefixes(&snapshot);
        self.learner.set_snapshot(snapshot);
        self.guards.reload(&self.learner);
        if let Err(error) = self.datapath.set_prefixes(&table) {
            tracing::error!("the address table is not complete: {error}");
        }
        self.guards
            .attach(&mut self.datapath, &self.learner, &self.gate);
        tracing::info!(revision, policies = self.policy_count, "policy in force");
        Ok(())
    }

    fn keep_identities(&mut self) {
        let dump = self.learner.with_identities(|identities| identities.dump());
        if dump == self.kept_identities {
            return;
        }
        match self.state.keep(&dump) {
            Ok(()) => self.kept_identities = dump,
            Err(error) => tracing::error!("the numbers of label sets can't be kept: {error}"),
        }
    }

    fn watch_folders(&self, wake: &Sender<Wake>) -> Result<FolderWatch> {
        let mut dirs: Vec<&Path> = self
            .options
            .policy_dirs
            .iter()
            .map(PathBuf::as_path)
            .collect();
        dirs.push(&self.options.endpoint_dir);
        FolderWatch::start(&dirs, wake.clone()).context("watching the folders")
    }

    fn say_ready(&self) -> Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "ready")
            .and_then(|()| stdout.flush())
            .context("saying ready")?;
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        Ok(())
    }

    /// Waits for what comes and does it.
    fn serve(&mut self, woken: &Receiver<Wake>) -> Result<End> {
        let mut ticks = 0u32;
        let mut next_tick = clock::now() + TICK;
        loop {
            let end = match woken.recv_timeout(next_tick.saturating_duration_since(clock::now())) {
                Ok(Wake::FilesChanged) => self.settle(woken),
                Ok(Wake::Reload) => {
                    self.reload_files();
                    None
                }
                Ok(Wake::Stop) => Some(self.end_of_signal()),
                Ok(Wake::Control(request)) => self.answer(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(End::Leave),
            };
            if let Some(end) = end {
                return Ok(end);
            }
            if clock::now() >= next_tick {
                next_tick = clock::now() + TICK;
                ticks = ticks.wrapping_add(1);
                self.tick(ticks)?;
            }
        }
    }

    /// What is done every now and then.
    fn tick(&mut self, ticks: u32) -> Result<()> {
        self.look_again();
        if ticks.is_multiple_of(TICKS_PER_SWEEP) {
            self.sweep();
        }
        anyhow::ensure!(self.dns.all_alive(), "a DNS thread is dead");
        Ok(())
    }

    fn end_of_signal(&self) -> End {
        if self.options.detach_on_exit {
            End::Detach
        } else {
            End::Leave
        }
    }

    /// Waits until the folders are quiet, or have been busy for long enough, then reads them.
    fn settle(&mut self, woken: &Receiver<Wake>) -> Option<End> {
        let latest = clock::now() + SETTLE_MAX;
        let mut quiet_at = clock::now() + SETTLE;
        loop {
            let wait = quiet_at.min(latest).saturating_duration_since(clock::now());
            match woken.recv_timeout(wait) {
                Ok(Wake::FilesChanged | Wake::Reload) => quiet_at = clock::now() + SETTLE,
                Ok(Wake::Stop) => return Some(self.end_of_signal()),
                Ok(Wake::Control(request)) => {
                    if let Some(end) = self.answer(request) {
                        return Some(end);
                    }
                }
                Err(_) => {
                    self.reload_files();
                    return None;
                }
            }
        }
    }

    fn answer(&mut self, request: Request) -> Option<End> {
        let end = request.is_detach().then_some(End::Detach);
        let answer = crate::status::answer(self, request.command());
        request.reply(answer);
        end
    }

    /// Reads all files. What can't be used is said, and the last good set stays in force.
    fn reload_files(&mut self) {
        match read_endpoints(&self.options.endpoint_dir) {
            Err(errors) => {
                for error in &errors {
                    tracing::error!("endpoints stay as they are: {error}");
                }
                self.endpoint_problems = errors;
            }
            Ok(roster) => {
                self.endpoint_problems = Vec::new();
                self.guards
                    .update(roster, &mut self.datapath, &self.learner);
            }
        }
        match read_policies(&self.options.policy_dirs) {
            Err(error) => tracing::error!("policies stay as they are: {error:#}"),
            Ok((policies, problems)) => {
                say_problems(&problems);
                let refused = problems.iter().any(Problem::is_error);
                self.policy_problems = problems;
                if refused {
                    tracing::error!("the last good policies stay in force");
                } else {
                    self.policies = policies;
                }
            }
        }
        self.enforce_or_say();
    }

    /// Looks for addresses that came or went, of workloads and of the node.
    fn look_again(&mut self) {
        let host_addresses = own_addresses().unwrap_or_else(|_| self.host_addresses.clone());
        let host_differs = host_addresses != self.host_addresses;
        self.host_addresses = host_addresses;
        let Ok(roster) = read_endpoints(&self.options.endpoint_dir) else {
            return;
        };
        let differs = self
            .guards
            .update(roster, &mut self.datapath, &self.learner);
        if differs || host_differs {
            self.enforce_or_say();
        }
    }

    fn enforce_or_say(&mut self) {
        if let Err(problems) = self.enforce() {
            say_problems(&problems);
            tracing::error!("the last good policies stay in force");
            self.policy_problems = problems;
        }
    }

    fn sweep(&mut self) {
        let Ok(now) = crate::status::boot_time_ns() else {
            return;
        };
        match self
            .datapath
            .sweep_flows(|key, value| crate::status::is_over(key, value, now))
        {
            Ok(left) => self.flows = left,
            Err(error) => tracing::error!("the flow table can't be swept: {error}"),
        }
    }

    fn end(mut self, outcome: Result<End>) -> Result<()> {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        let detach = matches!(outcome, Ok(End::Detach));
        if detach {
            // First the programs, so that workloads talk directly again; then what they led to.
            self.guards.detach_all();
        }
        self.dns.stop();
        self.event_thread.stop();
        if detach {
            for attachment in self.side_link {
                let _ = attachment.detach();
            }
            drop(self.datapath);
            take_away(&self.options)?;
        }
        outcome.map(|_| ())
    }
}

type Parts = (Datapath, SharedLearner, DnsThreads, Vec<Attachment>);

/// Programs, maps, sockets: everything but the endpoints, in the order in which nothing is lost.
fn build(
    options: &Options,
    gate: &Gate,
    pins: Pins,
    identities: policy::Identities,
) -> Result<Parts> {
    gate.ns
        .pin(&options.instance.gate_pin())
        .context("pinning the gate's namespace")?;
    let mode = options.hook_mode.unwrap_or_else(HookMode::probe);
    let mut datapath =
        Datapath::load(gate.node_end.index, mode, Some(pins)).map_err(bpf_refused)?;
    let mut identities = identities;
    let mut rule_ids = RuleIds::new();
    let nothing = Snapshot::build(
        0,
        &PolicySet::default(),
        &policy::Cast::default(),
        &mut identities,
        &mut rule_ids,
    )
    .map_err(|_| anyhow::anyhow!("an empty policy can't be compiled"))?;
    let learner: SharedLearner = Arc::new(Learner::new(
        nothing,
        identities,
        fqdn_cache::Lifetimes::default(),
        clock::now,
    ));
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
    let dns = DnsThreads::start(gate, &learner).context("the DNS sockets")?;
    Ok((datapath, learner, dns, side_link))
}

/// Removes what an earlier run of this instance left, and says what that meant.
fn clear_pins(options: &Options) -> Result<Pins> {
    let pins = Pins::open(&options.bpf_dir).map_err(|error| match error {
        PinError::NoBpffs { .. } => Exit::new(NO_PERMISSION, error),
        PinError::Create { .. } | PinError::Remove { .. } => error.into(),
    })?;
    if pins.in_use() {
        tracing::warn!(
            pins = %options.bpf_dir.display(),
            "an earlier run left its programs: they are removed, and the endpoints are open until they are guarded anew"
        );
    }
    take_away(options)?;
    pins.create()
        .map_err(|error| Exit::new(NO_PERMISSION, error))?;
    Ok(pins)
}

/// Takes away all that an instance leaves on a node, whether its daemon lives or not.
///
/// # Errors
/// If something can't be removed; the error names it.
pub(crate) fn take_away(options: &Options) -> Result<()> {
    if let Some(pins) = Pins::find(&options.bpf_dir) {
        pins.remove()?;
    }
    let names = options.instance.side_link();
    let netlink = Netlink::open()?;
    if netlink.links()?.iter().any(|link| link.name == names.node) {
        // A clsact filter has no pin; it would go on sending into a link that is gone.
        for link in netlink.links()? {
            bpf_redirect::remove_filters(&link.name);
        }
    }
    Gate::remove(&names)?;
    NetNs::unpin(&options.instance.gate_pin()).context("the gate's namespace")?;
    Ok(())
}

/// Reads the policy folders.
///
/// # Errors
/// If a folder or file can't be read at all.
pub(crate) fn read_policies(dirs: &[PathBuf]) -> Result<(PolicySet, Vec<Problem>)> {
    let mut sources = Vec::new();
    for dir in dirs {
        let files = read_folder(dir).map_err(|error| Exit::new(BAD_CONFIG, error))?;
        sources.extend(files.into_iter().map(|file| Source {
            path: file.path.display().to_string(),
            text: file.text,
        }));
    }
    let loaded = policy::load(&sources);
    Ok((loaded.set, loaded.problems))
}

fn read_endpoints(dir: &Path) -> Result<Roster, Vec<String>> {
    file::read(&read_folder(dir).map_err(|error| vec![error.to_string()])?)
}

fn say_problems(problems: &[Problem]) {
    let mut stderr = io::stderr().lock();
    for problem in problems {
        let _ = writeln!(stderr, "{problem}");
    }
}

/// The node's own addresses; those of the side link don't exist.
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

fn watch_signals(wake: &Sender<Wake>) -> Result<()> {
    let mut signals =
        signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM]).context("signals")?;
    let wake = wake.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                let what = if signal == SIGHUP {
                    Wake::Reload
                } else {
                    Wake::Stop
                };
                if wake.send(what).is_err() {
                    break;
                }
            }
        })?;
    Ok(())
}

/// A failure that a missing privilege explains ends with 77.
fn without_privilege(what: &str, error: &LinkError) -> anyhow::Error {
    const EPERM: i32 = 1;
    const EOPNOTSUPP: i32 = 95;
    if matches!(error.errno(), Some(EPERM | EOPNOTSUPP)) {
        return Exit::new(
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
    Exit::new(
        NO_PERMISSION,
        format!(
            "the kernel refuses the datapath: {first}; Linux 6.1 with BTF is needed, and CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        ),
    )
}
