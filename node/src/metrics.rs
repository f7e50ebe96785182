//! What the daemon counts, as Prometheus reads it: flows by Hubble's names, everything else by `namegate_…`.
//!
//! A scrape reads counters and what the main thread last published; it asks no thread and takes no lock that
//! the way of a query needs.

mod cilium;
mod page;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bpf_redirect::CounterValue;
use bpf_redirect_common::{CT_MAX, ENDPOINTS_MAX};
use observer::{FlowMetrics, MetricChoice, MetricsForm, Pages, SharedRing};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::{prometheus_text, text as open_text};
use prometheus_client::registry::Registry;

use crate::clock;
use crate::exporters::SharedExporters;
use crate::flows::NewsSink;
use crate::guard::SharedLearner;
pub(crate) use cilium::PolicyTally;
use page::Page;

/// After how long without a sign of the main thread the daemon counts as ill. A large set of policies takes
/// seconds to compile.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// All metrics of a daemon.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    counted: Arc<FlowMetrics>,
    figures: Arc<ArcSwap<Figures>>,
    scrapers_refused: Arc<AtomicU64>,
}

/// What the main thread publishes at each of its ticks.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) at: Instant,
    pub(crate) revision: u64,
    pub(crate) policies: usize,
    pub(crate) rules: usize,
    /// Problems of the policy files that keep them from coming into force, and faults of endpoint files.
    pub(crate) problems: [usize; 2],
    /// Endpoints that are attaching, ready, guarded though something is wrong, and refused.
    pub(crate) endpoints: [usize; 4],
    /// Of each endpoint: its name, names and addresses that it has learned, addresses that are open, and those
    /// that are not, but have connections since the time when they were.
    pub(crate) learned: Vec<(String, [usize; 4])>,
    /// What is in force; only where Cilium's names are wanted.
    pub(crate) tally: PolicyTally,
    /// Flows in the kernel's table at the last sweep.
    pub(crate) flows: usize,
    pub(crate) identities: usize,
    pub(crate) asked_again: usize,
    pub(crate) interference: u64,
    /// Programs of others that route by BPF, and endpoints whose names are asked for on the host.
    pub(crate) surroundings: [usize; 2],
    /// None where the kernel's map can't be read.
    pub(crate) kernel: Option<Vec<CounterValue>>,
}

impl Figures {
    /// Of a daemon that has just begun.
    pub(crate) fn none() -> Self {
        Self {
            at: clock::now(),
            revision: 0,
            policies: 0,
            rules: 0,
            problems: [0; 2],
            endpoints: [0; 4],
            learned: Vec::new(),
            tally: PolicyTally::default(),
            flows: 0,
            identities: 0,
            asked_again: 0,
            interference: 0,
            surroundings: [0; 2],
            kernel: None,
        }
    }

    fn kernel(&self) -> &[CounterValue] {
        self.kernel.as_deref().unwrap_or_default()
    }

    /// A counter of the kernel by its word.
    fn kernel_count(&self, word: &str) -> u64 {
        let mut all = self.kernel().iter();
        all.find(|one| one.name == word).map_or(0, |one| one.value)
    }
}

/// Where the numbers come from.
pub(crate) struct Sources {
    pub(crate) dns: Arc<dnsproxy::Counters>,
    pub(crate) http: Arc<httpproxy::Counters>,
    pub(crate) learner: SharedLearner,
    pub(crate) news: NewsSink,
    pub(crate) ring: Arc<SharedRing>,
    pub(crate) exporters: SharedExporters,
}

/// The metrics of flows that are made before all sources are there.
pub(crate) struct Draft {
    registry: Registry,
    pub(crate) flows: Arc<FlowMetrics>,
}

impl Draft {
    /// With the chosen metrics of flows.
    pub(crate) fn new(choices: &[MetricChoice]) -> Self {
        let mut registry = Registry::default();
        let flows = Arc::new(FlowMetrics::new(choices, &mut registry));
        Self { registry, flows }
    }

    /// With everything else; of some of it by Cilium's names too, if that is wanted.
    pub(crate) fn finish(mut self, sources: Sources, with_cilium: bool) -> Metrics {
        let figures = Arc::new(ArcSwap::from_pointee(Figures::none()));
        let scrapers_refused = Arc::<AtomicU64>::default();
        self.registry.register_collector(Box::new(Own {
            sources,
            counted: Arc::clone(&self.flows),
            figures: Arc::clone(&figures),
            scrapers_refused: Arc::clone(&scrapers_refused),
            with_cilium,
        }));
        Metrics {
            registry: Arc::new(self.registry),
            counted: self.flows,
            figures,
            scrapers_refused,
        }
    }
}

impl Metrics {
    /// Takes newer figures.
    pub(crate) fn publish(&self, figures: Figures) {
        self.figures.store(Arc::new(figures));
    }

    /// All metrics as text.
    pub(crate) fn text(&self, form: MetricsForm) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = match form {
            MetricsForm::Prometheus => prometheus_text::encode(&mut text, &self.registry),
            MetricsForm::OpenMetrics => open_text::encode(&mut text, &self.registry),
        };
        text
    }

    /// Takes away the series that name a pod, once it is gone.
    pub(crate) fn forget(&self, namespace: &str, pod: &str) {
        self.counted.forget(namespace, pod);
    }

    /// What scrapers and probes are served.
    pub(crate) fn pages(&self) -> Pages {
        let (texts, figures) = (self.clone(), Arc::clone(&self.figures));
        let of_ready = Arc::clone(&self.figures);
        Pages {
            metrics: Box::new(move |form| texts.text(form)),
            fault: Box::new(move || fault(&figures.load(), clock::now())),
            unready: Box::new(move || unready(&of_ready.load())),
            refused: Arc::clone(&self.scrapers_refused),
        }
    }
}

fn fault(figures: &Figures, now: Instant) -> Option<String> {
    let age = now.saturating_duration_since(figures.at);
    let secs = age.as_secs();
    (age > SILENCE_MAX).then(|| format!("the main thread was last heard {secs} s ago"))
}

/// What keeps a daemon from guarding all that it is to guard, as `status` has it.
fn unready(figures: &Figures) -> Option<String> {
    let ([policies, files], [attaching, _, faulty, refused]) =
        (figures.problems, figures.endpoints);
    if figures.revision == 0 {
        return Some("no policy is in force yet".to_owned());
    }
    let lacks = [
        (policies, "errors in policy files"),
        (files, "faults in endpoint files"),
        (refused, "endpoints that are refused"),
        (faulty, "endpoints that are guarded as they were"),
        (attaching, "endpoints that are being attached"),
    ];
    let lacks = lacks.iter().filter(|(count, _)| *count > 0);
    let told: Vec<String> = lacks
        .map(|(count, what)| format!("{what}: {count}"))
        .collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// The metrics that are no flows'.
struct Own {
    sources: Sources,
    counted: Arc<FlowMetrics>,
    figures: Arc<ArcSwap<Figures>>,
    scrapers_refused: Arc<AtomicU64>,
    /// Whether some of it is told by Cilium's names too.
    with_cilium: bool,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").finish_non_exhaustive()
    }
}

impl Collector for Own {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let figures = self.figures.load();
        let mut page = Page::of(encoder);
        self.proxies(&mut page)?;
        self.learning(&mut page, &figures)?;
        kernel(&mut page, &figures)?;
        state(&mut page, &figures)?;
        self.events(&mut page, &figures)?;
        self.limits(&mut page, &figures)?;
        match self.with_cilium {
            true => cilium::page(&self.sources, &mut page, &figures),
            false => Ok(()),
        }
    }
}

impl Own {
    /// What both proxies count, by their own words.
    fn proxies(&self, page: &mut Page<'_>) -> fmt::Result {
        let all = self.sources.dns.iter().chain(self.sources.http.iter());
        let all: Vec<_> = all.collect();
        for group in all.chunk_by(|a, b| a.0 == b.0) {
            let Some((name, ..)) = group.first() else {
                continue;
            };
            let name = name.strip_suffix("_total").unwrap_or(name);
            let rows = group
                .iter()
                .map(|(_, reason, value)| ([("reason", *reason)], *value));
            let help = "What the proxy counts under this name, by reason";
            page.counters((&format!("namegate_{name}"), help), rows)?;
        }
        Ok(())
    }

    fn learning(&self, page: &mut Page<'_>, figures: &Figures) -> fmt::Result {
        let counts = &self.sources.learner.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let answers = [
            ("installed", read(&counts.installed)),
            ("refreshed", read(&counts.refreshed)),
            ("untrusted-server", read(&counts.untrusted_server)),
        ];
        page.words(
            (
                "namegate_learned_answers",
                "Answers, by what became of their addresses",
            ),
            "result",
            &answers,
        )?;
        let addresses = [
            ("evicted", read(&counts.evicted)),
            ("expired", read(&counts.expired)),
            ("unlearned", read(&counts.unlearned)),
        ];
        page.words(
            (
                "namegate_unlearned_addresses",
                "Addresses that lost a name or got none",
            ),
            "reason",
            &addresses,
        )?;
        page.counter(
            (
                "namegate_name_expired",
                "New flows that were denied since the name that opened them had ended",
            ),
            read(&counts.name_expired),
        )?;
        page.counter(
            (
                "namegate_dns_asked_again",
                "Names in use that were asked for again",
            ),
            u64::try_from(figures.asked_again).unwrap_or(u64::MAX),
        )?;
        let hold = counts.hold.read();
        page.histogram(
            (
                "namegate_dns_hold_seconds",
                "How long an answer was held for the datapath",
            ),
            &[([], hold)],
        )?;
        known(page, figures)
    }

    /// Flows, and what got lost on their way, by Hubble's words.
    fn events(&self, page: &mut Page<'_>, figures: &Figures) -> fmt::Result {
        page.counter(
            ("namegate_flows_seen", "Flows that were told"),
            self.sources.ring.seen(),
        )?;
        let lost = [
            (
                "perf_event_ring_buffer",
                figures.kernel_count("events-lost"),
            ),
            ("observer_events_queue", self.sources.news.lost()),
            ("hubble_ring_buffer", self.sources.ring.overtaken()),
        ];
        page.words(
            ("hubble_lost_events", "Events that were lost, by where"),
            "source",
            &lost,
        )?;
        let exporters = self.sources.exporters.load();
        let figures = |of: fn(&observer::SinkFigures) -> u64| {
            let all = exporters.iter();
            all.map(move |one| ([("exporter", one.name.as_str())], of(&one.sink.figures())))
        };
        page.counters(
            (
                "namegate_exported_flows",
                "Flows, and events of the agent in files, that arrived where they are told",
            ),
            figures(|one| one.written),
        )?;
        page.counters(
            (
                "namegate_export_lost_flows",
                "Flows, and events of the agent, that a file, a collector or the journal did not get",
            ),
            figures(|one| one.lost),
        )
    }

    /// Every bound that is hit and counted, by its name.
    fn limits(&self, page: &mut Page<'_>, figures: &Figures) -> fmt::Result {
        let exporters = self.sources.exporters.load();
        let lost = exporters.iter().map(|one| one.sink.figures().lost).sum();
        let learned = &self.sources.learner.counts.evicted;
        let http = |word: &str| {
            let mut all = self.sources.http.iter();
            let found = all.find(|(name, reason, _)| *name == HTTP_CONNECTIONS && *reason == word);
            found.map_or(0, |(.., value)| value)
        };
        let dns = |word: &str| {
            let of = self.sources.dns.iter();
            let of = of.filter(|(_, reason, _)| *reason == word);
            of.map(|(.., value)| value).sum::<u64>()
        };
        let rows = [
            ("ct-share", figures.kernel_count("ct-share-full")),
            ("ct-table", figures.kernel_count("ct-insert-failed")),
            ("dns-buffers", dns("buffer-full")),
            (
                "dns-connections",
                dns("connection-refused") + dns("connection-replaced"),
            ),
            ("dns-error-answers", dns("error-answer-left-out")),
            ("dns-not-noted", dns("not-noted")),
            ("dns-told", dns("told-lost")),
            ("event-budget", figures.kernel_count("events-limited")),
            ("event-ring", figures.kernel_count("events-lost")),
            ("flow-file", lost),
            ("flow-queue", self.sources.news.lost()),
            ("flow-ring", self.sources.ring.overtaken()),
            ("fqdn-cache", learned.load(Ordering::Relaxed)),
            ("fqdn-cache-full", dns("too-many")),
            ("http-connections", http("full")),
            ("metric-series", self.counted.folded()),
            ("observers", self.sources.ring.turned_away()),
            ("scrapers", self.scrapers_refused.load(Ordering::Relaxed)),
        ];
        page.words(
            (
                "namegate_limit_hits",
                "How often a bound was hit, by its name",
            ),
            "limit",
            &rows,
        )
    }
}

const HTTP_CONNECTIONS: &str = "http_connections_total";

/// What the programs in the kernel count.
fn kernel(page: &mut Page<'_>, figures: &Figures) -> fmt::Result {
    let (drops, packets): (Vec<_>, Vec<_>) = figures.kernel().iter().partition(|one| one.drop);
    let rows = |all: Vec<&CounterValue>| {
        let row = |one: &&CounterValue| (one.name, one.value);
        all.iter().map(row).collect::<Vec<_>>()
    };
    page.words(
        ("namegate_datapath_drops", "Packets that were dropped"),
        "reason",
        &rows(drops),
    )?;
    page.words(
        (
            "namegate_datapath",
            "What the datapath counts that is no drop",
        ),
        "what",
        &rows(packets),
    )?;
    page.gauge(
        (
            "namegate_datapath_readable",
            "Whether the kernel's counters could be read",
        ),
        usize::from(figures.kernel.is_some()),
    )?;
    page.gauge(
        (
            "namegate_conntrack_entries",
            "Flows in the kernel's table at the last sweep",
        ),
        figures.flows,
    )?;
    page.gauge(
        (
            "namegate_conntrack_entries_max",
            "Flows that have room there",
        ),
        CT_MAX,
    )
}

/// What others do on this node.
fn surroundings(page: &mut Page<'_>, figures: &Figures) -> fmt::Result {
    let situations = ["routed-by-bpf", "resolved-on-host"].into_iter();
    let rows = situations
        .zip(figures.surroundings)
        .map(|(situation, count)| ([("situation", situation)], count));
    page.gauges(
        (
            "namegate_surroundings",
            "What on this node may lead around the gate, as `status` says it",
        ),
        rows,
    )
}

/// How the daemon is.
fn state(page: &mut Page<'_>, figures: &Figures) -> fmt::Result {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.gauges(
        ("namegate_build_info", "The version"),
        std::iter::once((version, 1)),
    )?;
    let revision = usize::try_from(figures.revision).unwrap_or(usize::MAX);
    page.gauge(
        ("namegate_policy_revision", "The revision in force"),
        revision,
    )?;
    page.gauge(("namegate_policies", "Policies in force"), figures.policies)?;
    page.gauge(("namegate_policy_rules", "Rules in force"), figures.rules)?;
    let [policy, endpoint] = figures.problems;
    let problems = [
        ([("files", "policy")], policy),
        ([("files", "endpoint")], endpoint),
    ];
    page.gauges(
        (
            "namegate_file_problems",
            "Faults that keep files from coming into force",
        ),
        problems.into_iter(),
    )?;
    let states = ["attaching", "ready", "faulty", "refused"].into_iter();
    let rows = states
        .zip(figures.endpoints)
        .map(|(state, count)| ([("state", state)], count));
    page.gauges(("namegate_endpoints", "Endpoints by state"), rows)?;
    surroundings(page, figures)?;
    page.gauge(
        ("namegate_endpoints_max", "Endpoints that have room"),
        ENDPOINTS_MAX,
    )?;
    page.counter(
        (
            "namegate_interference",
            "How often others' changes were set right",
        ),
        figures.interference,
    )
}

/// How much the endpoints know.
fn known(page: &mut Page<'_>, figures: &Figures) -> fmt::Result {
    for (at, name, help) in [
        (
            0,
            "namegate_fqdn_active_names",
            "Names that an endpoint has learned",
        ),
        (
            1,
            "namegate_fqdn_active_ips",
            "Addresses that an endpoint has learned",
        ),
        (
            2,
            "namegate_open_ips",
            "Learned addresses that are open in the kernel",
        ),
    ] {
        let rows = figures.learned.iter().map(|(endpoint, counts)| {
            let count = counts.get(at).copied().unwrap_or_default();
            ([("endpoint", endpoint.as_str())], count)
        });
        page.gauges((name, help), rows)?;
    }
    page.gauge(
        ("namegate_identities", "Identities of this node"),
        figures.identities,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_main_thread_that_is_silent_is_a_fault() {
        let figures = Figures::none();
        let after = |secs| fault(&figures, figures.at + Duration::from_secs(secs));
        assert_eq!(after(SILENCE_MAX.as_secs()), None);
        let said = after(SILENCE_MAX.as_secs() + 1).unwrap();
        assert!(said.contains("31 s ago"), "{said}");
    }
}
