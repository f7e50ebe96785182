//! What the daemon says of itself, and what it does with the kernel's events and flows.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bpf_redirect::{EventReader, HookMode};
use observer::MetricsForm;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use serde_json::{Value, json};

use crate::control::Command;
use crate::daemon::Daemon;
use crate::flows::{News, NewsSink};
use crate::run::Service;
use crate::{identities, learned, listed};

/// How long the kernel's events gather, once one came after a rest. Of a connection there are several, each of
/// which would else wake a thread. The ring holds more than 11,000.
const EVENTS_GATHER: Duration = Duration::from_millis(5);

/// The thread that reads the kernel's events.
pub(crate) struct EventThread {
    stop: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl EventThread {
    /// Starts reading.
    ///
    /// # Errors
    /// If the thread can't be made.
    pub(crate) fn start(mut reader: EventReader, news: NewsSink) -> std::io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let waiter = reader.waiter()?;
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || {
                loop {
                    let mut fds = [
                        PollFd::new(&waiter, PollFlags::IN),
                        PollFd::new(&*stopped, PollFlags::IN),
                    ];
                    if let Err(error) = poll(&mut fds, None)
                        && error != rustix::io::Errno::INTR
                    {
                        tracing::error!("kernel events can't be read any more: {error}");
                        return;
                    }
                    let [_, stop] = &fds;
                    let is_stopped = !stop.revents().is_empty();
                    // Who waits for nothing is not woken: the kernel wakes a reader that has read all.
                    if !is_stopped {
                        std::thread::sleep(EVENTS_GATHER);
                    }
                    reader.drain(|event| news.tell(News::Kernel(*event)));
                    if is_stopped {
                        return;
                    }
                }
            })?;
        Ok(Self { stop, thread })
    }

    /// Tells what waits, and ends the thread.
    pub(crate) fn stop(self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        let _ = self.thread.join();
    }
}

/// The answer to a command.
pub(crate) fn answer(service: &Service, command: &Command) -> Value {
    match command {
        Command::Status => status(service),
        Command::Endpoints => json!({ "endpoints": listed::endpoints(&service.daemon) }),
        Command::Endpoint { endpoint } => listed::endpoint(&service.daemon, endpoint),
        Command::Identities { number } => identities::list(&service.daemon, *number),
        Command::FqdnCache { endpoint } => learned::list(&service.daemon, endpoint.as_deref()),
        Command::FqdnSelectors { endpoint } => {
            learned::selectors(&service.daemon, endpoint.as_deref())
        }
        Command::Metrics => match &service.daemon.metrics {
            Some(metrics) => json!({ "metrics": metrics.text(MetricsForm::Prometheus) }),
            None => json!({ "error": "it was started without --metrics-addr" }),
        },
        Command::FqdnClean { endpoint, names } => {
            learned::clean(&service.daemon, endpoint.as_deref(), names.as_deref())
        }
        Command::FqdnLoad { endpoint, names } => {
            learned::load(&service.daemon, endpoint.as_deref(), names)
        }
        Command::LogLevel { level: None } => json!({ "log_level": service.log_level }),
        // Changed by the service itself; it never gets here.
        Command::LogLevel { level: Some(_) } => json!({ "error": "it is a change" }),
        Command::Detach => json!({ "detaching": true }),
        // Answered by its own connection; it never gets here.
        Command::Observe(_) | Command::AgentEvents(_) | Command::MapEvents { .. } => {
            json!({ "error": "it is a stream" })
        }
    }
}

/// What was counted at all, by what and why.
fn grouped<'a>(
    counted: impl Iterator<Item = (&'a str, &'a str, u64)>,
) -> BTreeMap<&'a str, BTreeMap<&'a str, u64>> {
    let mut all: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for (name, reason, value) in counted.filter(|(_, _, value)| *value > 0) {
        all.entry(name).or_default().insert(reason, value);
    }
    all
}

/// Whose address servers see.
const fn whose(is_from_node: bool) -> &'static str {
    match is_from_node {
        true => "node",
        false => "endpoint",
    }
}

/// Why something can't be kept for the next start.
fn state_faults(service: &Service) -> Vec<String> {
    let numbers = service.identities_fault.as_ref();
    let numbers = numbers.map(|fault| format!("the numbers of label sets: {fault}"));
    let learned = service.writer.fault();
    let learned = learned.map(|fault| format!("what was learned: {fault}"));
    numbers.into_iter().chain(learned).collect()
}

fn status(service: &Service) -> Value {
    let daemon = &service.daemon;
    let snapshot = daemon.learner.snapshot();
    let (counters, readable) = match daemon.datapath.counters() {
        Ok(counters) => (counters, true),
        Err(_) => (Vec::new(), false),
    };
    let drops: u64 = counters
        .iter()
        .filter(|counter| counter.drop)
        .map(|counter| counter.value)
        .sum();
    let counters: BTreeMap<&str, u64> = counters
        .iter()
        .map(|counter| (counter.name, counter.value))
        .collect();
    let dns = grouped(daemon.dns.counters.iter());
    let counted = daemon.http.counters();
    let http = grouped(counted.iter());
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "instance": daemon.instance().name(),
        "policy": {
            "revision": snapshot.revision(),
            "policies": daemon.policy_count,
            "rules": snapshot.rules().count(),
            "problems": service.policy_problems,
        },
        "log_level": service.log_level,
        "endpoints": listed::endpoints(daemon),
        "endpoint_problems": service.endpoint_problems,
        "config": {
            "problems": service.config_problems,
            "waits_for_restart": service.config_waits,
        },
        "state_refused": service.state.refused(),
        "state_faults": state_faults(service),
        "dns": dns,
        "upstream_source": {
            "dns": whose(daemon.dns.is_from_node()),
            "http": whose(daemon.http.is_from_node()),
        },
        "listeners": daemon.keeper.as_ref().map(|keeper| json!({
            "kept": keeper.count(),
            "by": keeper.who(),
        })),
        "http": http,
        "learning": learning(daemon),
        "datapath": {
            "hooks": match daemon.datapath.mode() { HookMode::Tcx => "tcx", HookMode::Clsact => "clsact" },
            "readable": readable,
            "flows": daemon.flows,
            "drops": drops,
            "counters": counters,
            "routers": daemon.routers,
            "interference": { "count": daemon.interference.count, "last": daemon.interference.last },
        },
        "flows": {
            "seen": daemon.flow_ring.seen(),
            "lost": daemon.news.lost(),
            "files": files(daemon),
            "files_fault": daemon.exporters.fault,
        },
    })
}

/// The files of flows, and what became of those.
fn files(daemon: &Daemon) -> Vec<Value> {
    let all = daemon.exporters.shared().load_full();
    let told = all.iter().map(|one| {
        let figures = one.sink.figures();
        json!({
            "name": one.name,
            "path": one.sink.place(),
            "written": figures.written,
            "lost": figures.lost,
            "fault": figures.fault,
        })
    });
    told.collect()
}

/// What the answers taught, in numbers.
fn learning(daemon: &Daemon) -> Value {
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let learning = &daemon.learner.counts;
    json!({
        "installed": read(&learning.installed),
        "refreshed": read(&learning.refreshed),
        "untrusted_server": read(&learning.untrusted_server),
        "unlearned": read(&learning.unlearned),
        "evicted": read(&learning.evicted),
        "expired": read(&learning.expired),
        "name_expired": read(&learning.name_expired),
        "forgotten": read(&learning.forgotten),
        "unnoted": read(&learning.unnoted),
        "left_out": learning.left_out.load(Ordering::Relaxed),
        "hold": learning.hold.to_json(),
        "asked_again": daemon.refreshed,
        "identities": daemon.learner.with_identities(|identities| identities.local_count()),
    })
}
