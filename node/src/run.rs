//! `namegate run`: a daemon with its files, its signals and its control socket.

mod reload;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use policy::{Code, Feature, Loader, PolicySet, Problem, Source};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::clock;
use crate::control::{self, Command, Request};
use crate::daemon::{Daemon, Ending, Setup};
use crate::endpoints::file::{self, Documents};
use crate::exit::{BAD_CONFIG, Exit};
use crate::files::{TextFile, read_folder};
use crate::judge::read::told;
use crate::keeper::{Keeper, Manager};
use crate::metrics::Metrics;
use crate::observing::{ObserverThread, Observing};
use crate::presets::{self, DnsServers};
use crate::remembered::Unwritten;
use crate::secrets::{self, Secrets};
use crate::state::{StateDir, Writer};
use crate::watch::FolderWatch;
pub(crate) use reload::RELOADED;

/// The options of `namegate run`.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) setup: Setup,
    pub(crate) policy_dirs: Vec<PathBuf>,
    pub(crate) endpoint_dir: PathBuf,
    pub(crate) tls_secrets: Option<PathBuf>,
    /// Who is asked for names where no rule says it.
    pub(crate) dns_servers: DnsServers,
    pub(crate) state_dir: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) observing: Observing,
    pub(crate) detach_on_exit: bool,
    /// How long HTTP connections that are open may go on after a signal.
    pub(crate) drain: Duration,
    /// Who started it.
    pub(crate) manager: Manager,
    /// How much is logged.
    pub(crate) log: String,
    /// What all options say, by the keys of a configuration.
    pub(crate) settled: BTreeMap<String, Vec<String>>,
    /// What it would be started with if it were started now; or all that is wrong with the configuration.
    pub(crate) again: fn() -> Result<Self, Vec<String>>,
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
/// How often workloads are looked at for new addresses, and interfaces for other people's programs.
const TICK: Duration = Duration::from_millis(750);
/// How late an address may close after its end.
const EXPIRY_STEP: Duration = Duration::from_millis(250);
/// How many ticks lie between two sweeps of the flow table.
const TICKS_PER_SWEEP: u32 = 13;
/// How long what is open may take to end where everything is taken away within two seconds of a signal: what
/// then still lives has [`crate::serving::DRAIN`].
const DETACH_DRAIN: Duration = Duration::from_millis(300);
/// How often it is looked whether all has drained.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// A daemon that is run by files.
pub(crate) struct Service {
    options: Options,
    loader: Loader,
    pub(crate) daemon: Daemon,
    pub(crate) state: StateDir,
    pub(crate) writer: Writer,
    kept_identities: BTreeMap<String, u32>,
    /// Why they couldn't be kept the last time.
    pub(crate) identities_fault: Option<String>,
    /// What was learned, as it was last kept: its count of changes and of refreshes, and when.
    kept_learned: (u64, u64, Instant),
    /// Problems of the policy files as they are; the set in force is older if one is an error.
    pub(crate) policy_problems: Vec<Problem>,
    /// Faults of the endpoint folder as it is.
    pub(crate) endpoint_problems: Vec<String>,
    /// How much is logged, as the configuration or a command said last.
    pub(crate) log_level: String,
    /// Faults of the configuration as it is; what was read before goes on.
    pub(crate) config_problems: Vec<String>,
    /// Keys of it that are other ones by now and wait for the next start.
    pub(crate) config_waits: Vec<String>,
}

/// Why the daemon ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// By a signal: enforcement stays, unless an option says otherwise.
    Signal,
    /// By command: everything is taken away.
    Detach,
}

/// Runs the daemon to its end.
///
/// # Errors
/// With an exit code where one is promised: 77 for a missing privilege or kernel feature, 78 for
/// files that can't be used.
pub(crate) fn run(options: Options) -> Result<()> {
    let (wake, woken) = mpsc::channel();
    watch_signals(&wake)?;
    let mut service = Service::start(options)?;
    let control = control::Server::start(
        &service.options.socket,
        wake.clone(),
        (
            Arc::clone(&service.daemon.flow_ring),
            service.daemon.agent.ring(),
            Arc::clone(&service.daemon.journal),
        ),
        Arc::clone(&service.options.observing.node_name),
    )?;
    let observer = ObserverThread::start(
        service.options.observing.clone(),
        (
            Arc::clone(&service.daemon.flow_ring),
            service.daemon.agent.ring(),
        ),
        service.daemon.metrics.as_ref().map(Metrics::pages),
    )?;
    let _watch = service.watch_folders(&wake)?;
    service.say_ready()?;
    let outcome = service.serve(&woken);
    control.close();
    observer.stop();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let detach = match &outcome {
        Ok(End::Detach) => true,
        Ok(End::Signal) => service.options.detach_on_exit,
        Err(_) => false,
    };
    let Service { daemon, writer, .. } = service;
    daemon.end(Ending::of(detach), |learned| writer.end(learned))?;
    outcome.map(drop)
}

impl Service {
    fn start(options: Options) -> Result<Self> {
        let kernel = bpf_redirect::Loader::start();
        let unusable = || {
            Exit::with(
                BAD_CONFIG,
                "the policies can't be used; no endpoint is guarded by them",
            )
        };
        let mut loader = options.loader()?;
        let (policies, mut problems) =
            read_policies(&options.policy_dirs, options.preset(), &mut loader)?;
        options.keep_true(&mut problems);
        let secrets = read_secrets(&policies, &options, &mut problems);
        say_problems(&problems);
        if problems.iter().any(Problem::is_error) {
            return Err(unusable());
        }
        let endpoints = read_endpoints(&options.endpoint_dir)
            .map_err(|errors| Exit::with(BAD_CONFIG, errors.join("\nnamegate: ")))?;
        let state = StateDir::open(&options.state_dir).map_err(|error| {
            Exit::with(
                BAD_CONFIG,
                format!("--state-dir {}: {error}", options.state_dir.display()),
            )
        })?;
        let keeper = Keeper::open(&options.setup.instance, options.manager.clone());
        let mut daemon = Daemon::start(
            kernel,
            (options.setup.clone(), Some(keeper)),
            state.identities(),
            state.remembered(),
        )?;
        daemon.set_policies(policies, secrets);
        daemon.set_roster(file::look(endpoints, &daemon.guards.held()));
        let lately = daemon.learner.lately().cloned();
        let mut service = Self {
            log_level: options.log.clone(),
            options,
            loader,
            daemon,
            writer: state.writer(lately).context("the thread that writes")?,
            state,
            kept_identities: BTreeMap::new(),
            identities_fault: None,
            kept_learned: (0, 0, clock::now()),
            policy_problems: problems,
            endpoint_problems: Vec::new(),
            config_problems: Vec::new(),
            config_waits: Vec::new(),
        };
        match service.daemon.enforce() {
            Ok(()) => {
                service.keep_identities();
                // Who routes by programs it has looked at itself.
                service.daemon.watch_resolvers();
                service.publish();
                Ok(service)
            }
            Err(problems) => {
                say_problems(&problems);
                // What an earlier run guards stays guarded by its policies.
                let has_heir = service.daemon.has_heir;
                service.daemon.end(Ending::of(!has_heir), drop)?;
                Err(unusable())
            }
        }
    }

    fn keep_identities(&mut self) {
        let dump = self
            .daemon
            .learner
            .with_identities(|identities| identities.dump());
        if dump == self.kept_identities {
            return;
        }
        match self.state.keep(&dump) {
            Ok(()) => {
                self.kept_identities = dump;
                self.identities_fault = None;
            }
            Err(error) => {
                if self.identities_fault.is_none() {
                    tracing::error!("the numbers of label sets can't be kept: {error}");
                }
                self.identities_fault = Some(error.to_string());
            }
        }
    }

    /// Keeps what was learned: at most once a second where something is new, and now and then where
    /// only its time is.
    fn keep_learned(&mut self, now: Instant) {
        let (changes, refreshes) = self.daemon.learned_counts();
        let (kept_changes, kept_refreshes, when) = self.kept_learned;
        let age = now.saturating_duration_since(when);
        let lately = self.daemon.learner.lately();
        let unwritten = Unwritten {
            has_changes: changes != kept_changes,
            has_refreshes: refreshes != kept_refreshes,
            is_filling: lately.is_some_and(|lately| lately.is_filling()),
            has_failed: self.writer.fault().is_some(),
        };
        if unwritten.is_due(age) && self.writer.is_free() {
            let learned = self.daemon.learned();
            self.writer.offer(|| learned.gather());
            self.kept_learned = (changes, refreshes, now);
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
        let deep = self.options.tls_secrets.as_deref();
        FolderWatch::start(&dirs, deep, wake.clone()).context("watching the folders")
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
        let watchdog = sd_notify::watchdog_enabled().map(|period| period / 2);
        let mut next_sign = watchdog.map(|_| clock::now());
        let mut next_tick = clock::now() + TICK;
        let mut next_expiry = clock::now() + EXPIRY_STEP;
        let mut ends_by: Option<Instant> = None;
        loop {
            let mut next = next_tick.min(next_expiry);
            if ends_by.is_some() {
                next = next.min(clock::now() + DRAIN_STEP);
            }
            let end = match woken.recv_timeout(next.saturating_duration_since(clock::now())) {
                Ok(Wake::FilesChanged) => self.settle(woken),
                Ok(Wake::Reload) => {
                    self.reload();
                    None
                }
                Ok(Wake::Stop) => Some(End::Signal),
                Ok(Wake::Control(request)) => self.answer(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(End::Signal),
            };
            let now = clock::now();
            match (end, ends_by) {
                (Some(End::Signal), None) => ends_by = Some(self.drain(now)),
                (Some(end), _) => return Ok(end),
                (None, Some(by)) if now >= by || self.daemon.http.is_drained() => {
                    return Ok(End::Signal);
                }
                (None, _) => {}
            }
            if let (Some(period), true) = (watchdog, next_sign.is_some_and(|at| now >= at)) {
                // As often as expiry lets it, which is often enough for a watchdog of a second.
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                next_sign = Some(now + period);
            }
            if now >= next_expiry {
                self.daemon.expire();
                self.keep_learned(now);
                next_expiry = now + EXPIRY_STEP;
            }
            if now >= next_tick {
                next_tick = now + TICK;
                ticks = ticks.wrapping_add(1);
                self.tick(ticks)?;
            }
        }
    }

    /// Says in numbers how it is, where somebody may ask.
    fn publish(&self) {
        if let Some(metrics) = &self.daemon.metrics {
            let errors = self.policy_problems.iter().filter(|it| it.is_error());
            let problems = [errors.count(), self.endpoint_problems.len()];
            metrics.publish(self.daemon.figures(problems));
        }
    }

    /// What is done every now and then.
    fn tick(&mut self, ticks: u32) -> Result<()> {
        self.look_again();
        self.daemon.watch();
        self.daemon.look_at_ports();
        self.daemon.exporters.look_again();
        self.daemon.forget_departed(clock::now());
        self.daemon.tell_losses();
        self.publish();
        if ticks.is_multiple_of(TICKS_PER_SWEEP) {
            self.daemon.sweep();
            self.daemon.watch_surroundings();
            if self.identities_fault.is_some() {
                self.keep_identities();
            }
        }
        anyhow::ensure!(self.daemon.dns.all_alive(), "a DNS thread is dead");
        anyhow::ensure!(self.daemon.http.all_alive(), "an HTTP thread is dead");
        Ok(())
    }

    /// Lets what is open come to its end; until when.
    fn drain(&self, now: Instant) -> Instant {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        let at_most = match self.options.detach_on_exit {
            true => self.options.drain.min(DETACH_DRAIN),
            false => self.options.drain,
        };
        tracing::info!(?at_most, "HTTP connections come to their end");
        self.daemon.http.drain();
        now + at_most
    }

    /// Waits until the folders are quiet, or have been busy for long enough, then reads them.
    fn settle(&mut self, woken: &Receiver<Wake>) -> Option<End> {
        let latest = clock::now() + SETTLE_MAX;
        let mut quiet_at = clock::now() + SETTLE;
        let mut is_asked = false;
        loop {
            let wait = quiet_at.min(latest).saturating_duration_since(clock::now());
            match woken.recv_timeout(wait) {
                Ok(Wake::FilesChanged) => quiet_at = clock::now() + SETTLE,
                Ok(Wake::Reload) => is_asked = true,
                Ok(Wake::Stop) => return Some(End::Signal),
                Ok(Wake::Control(request)) => {
                    if let Some(end) = self.answer(request) {
                        return Some(end);
                    }
                }
                Err(_) if is_asked => {
                    self.reload();
                    return None;
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
        let answer = if let Command::LogLevel { level: Some(level) } = request.command() {
            self.set_log_level(level.clone())
        } else {
            crate::status::answer(self, request.command())
        };
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
            Ok(endpoints) => {
                self.endpoint_problems = Vec::new();
                self.set_endpoints(endpoints);
            }
        }
        let preset = self.options.preset();
        match read_policies(&self.options.policy_dirs, preset, &mut self.loader) {
            Err(error) => tracing::error!("policies stay as they are: {error:#}"),
            Ok((policies, mut problems)) => {
                self.options.keep_true(&mut problems);
                let secrets = read_secrets(&policies, &self.options, &mut problems);
                say_problems(&problems);
                let refused = problems.iter().any(Problem::is_error);
                self.policy_problems = problems;
                if refused {
                    tracing::error!("the last good policies stay in force");
                } else {
                    self.daemon.set_policies(policies, secrets);
                }
            }
        }
        self.enforce();
    }

    /// Looks for addresses that came or went, of workloads and of the node.
    fn look_again(&mut self) {
        let node_differs = self.daemon.look_at_node();
        let Ok(endpoints) = read_endpoints(&self.options.endpoint_dir) else {
            return;
        };
        if self.set_endpoints(endpoints) || node_differs {
            self.enforce();
        }
    }

    /// Looks at the workloads that files name. Says whether anything is different.
    fn set_endpoints(&mut self, endpoints: Documents) -> bool {
        let roster = file::look(endpoints, &self.daemon.guards.held());
        self.daemon.set_roster(roster)
    }

    fn enforce(&mut self) {
        match self.daemon.enforce() {
            Ok(()) => self.keep_identities(),
            Err(problems) => {
                say_problems(&problems);
                tracing::error!("the last good policies stay in force");
                self.policy_problems = problems;
            }
        }
    }
}

/// Reads the secrets that policies name; what can't be used is one more problem.
fn read_secrets(set: &PolicySet, options: &Options, problems: &mut Vec<Problem>) -> Secrets {
    let dir = options.tls_secrets.as_deref();
    let (headers, missing) = secrets::read_headers(set, dir);
    problems.extend(missing);
    let tls = secrets::read(set, dir).map(Arc::new);
    let tls = tls.unwrap_or_else(|found| {
        problems.extend(found);
        Arc::default()
    });
    Secrets { tls, headers }
}

impl Options {
    /// The policy that options stand for.
    fn preset(&self) -> Option<Source> {
        presets::of(self.setup.dns.encrypted, &self.setup.encrypted_resolvers)
    }

    /// Where it is said who teaches, what rules say of that decides nothing.
    fn keep_true(&self, problems: &mut Vec<Problem>) {
        if self.setup.scruples.trusted_servers.is_some() {
            let of_teachers = [Code::NeverTeaches, Code::NeverFed];
            problems.retain(|problem| !of_teachers.contains(&problem.code));
        }
    }

    fn loader(&self) -> Result<Loader> {
        let loader = self.dns_servers.loader();
        loader.map_err(|problems| Exit::with(BAD_CONFIG, told(problems.iter())))
    }
}

/// Reads the policy folders, and beside them a policy that an option stands for.
///
/// # Errors
/// If a folder or file can't be read at all.
pub(crate) fn read_policies(
    dirs: &[PathBuf],
    preset: Option<Source>,
    loader: &mut Loader,
) -> Result<(PolicySet, Vec<Problem>)> {
    let mut sources: Vec<Source> = preset.into_iter().collect();
    for dir in dirs {
        let files = read_folder(dir)
            .map_err(|error| Exit::with(BAD_CONFIG, of_folder(&error, "--policy-dir")))?;
        sources.extend(files.into_iter().map(TextFile::into_source));
    }
    let mut loaded = loader.load(&sources);
    loaded.problems.extend(loaded.set.lacking(ENFORCED));
    Ok((loaded.set, loaded.problems))
}

/// The parts of the language that this daemon enforces, beside those that need nothing special; a
/// set with another one is refused whole.
pub(crate) const ENFORCED: &[Feature] = &[
    Feature::Ingress,
    Feature::Icmp,
    Feature::PortRange,
    Feature::Http,
    Feature::ServerNames,
    Feature::Tls,
    Feature::Authentication,
];

fn read_endpoints(dir: &Path) -> Result<Documents, Vec<String>> {
    file::read(&read_folder(dir).map_err(|error| vec![of_folder(&error, "--endpoint-dir")])?)
}

/// The fault of a folder; one that isn't there, with what to do.
fn of_folder(error: &io::Error, option: &str) -> String {
    match error.kind() == io::ErrorKind::NotFound {
        true => format!("{error}; make it, or name another by {option}"),
        false => error.to_string(),
    }
}

fn say_problems(problems: &[Problem]) {
    let mut stderr = io::stderr().lock();
    for problem in problems {
        let _ = writeln!(stderr, "{problem}");
    }
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
