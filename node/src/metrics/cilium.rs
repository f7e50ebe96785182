//! What Cilium's agent tells of names and proxies, under its names, for dashboards and alerts that know those.
//! Only what is counted here too.

use std::fmt;
use std::sync::atomic::Ordering;

use policy::{Proxy, Snapshot};

use super::{Figures, Page, Sources};
use crate::learner::Exchanges;

/// What is in force, in numbers.
#[derive(Clone, Default, Debug)]
pub(crate) struct PolicyTally {
    /// Different names and patterns of `toFQDNs`.
    selectors: usize,
    /// Ports that are led to a proxy, by what is spoken there.
    redirects: Vec<(&'static str, usize)>,
}

impl PolicyTally {
    /// Of a snapshot.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let redirects = snapshot.redirects();
        let count = |proxy: Proxy| redirects.get(&proxy).copied().unwrap_or_default();
        let words = [
            ("dns", Proxy::Dns),
            ("http", Proxy::Http),
            ("tls", Proxy::Tls),
        ];
        Self {
            selectors: snapshot.name_selectors(),
            redirects: words.map(|(word, proxy)| (word, count(proxy))).into(),
        }
    }
}

pub(super) fn page(sources: &Sources, page: &mut Page<'_>, figures: &Figures) -> fmt::Result {
    names(sources, page, figures)?;
    verdicts(sources, page)?;
    in_force(page, &figures.tally)?;
    waits(sources, page)?;
    for (fault, name, help) in [
        (
            "install-timeout",
            "cilium_proxy_datapath_update_timeout",
            "Answers that were not in the datapath in time",
        ),
        (
            "outstanding",
            "cilium_fqdn_semaphore_rejected",
            "Queries beyond those that may wait at once",
        ),
    ] {
        let dns = sources.dns.iter();
        let of = dns.filter(|(metric, reason, _)| *metric == DNS_FAULTS && *reason == fault);
        page.counter((name, help), of.map(|(.., count)| count).sum())?;
    }
    Ok(())
}

/// How long names took: as a whole, and in the datapath. Cilium's other scopes are of steps that no query takes here,
/// or of which nobody notes the time.
fn waits(sources: &Sources, page: &mut Page<'_>) -> fmt::Result {
    let counts = &sources.learner.counts;
    let Exchanges {
        answered,
        denied,
        late,
        faulty,
    } = &counts.exchanges;
    let rows = [
        ("allow", "totalTime", answered),
        ("denied", "totalTime", denied),
        ("timeout", "totalTime", late),
        ("proxyErr", "totalTime", faulty),
        ("allow", "dataplaneTime", &counts.hold),
    ];
    let rows = rows.map(|(error, scope, times)| {
        let labels = [("error", error), ("protocol_l7", "dns"), ("scope", scope)];
        (labels, times.read())
    });
    let help = "From a query to its answer, and how long that was held for the datapath";
    page.histogram(("cilium_proxy_upstream_reply_seconds", help), &rows)
}

const DNS_FAULTS: &str = "dns_faults_total";

fn in_force(page: &mut Page<'_>, tally: &PolicyTally) -> fmt::Result {
    let help = "Different names and patterns of toFQDNs";
    page.gauge(("cilium_fqdn_selectors", help), tally.selectors)?;
    let rows = tally.redirects.iter();
    let rows = rows.map(|(protocol, count)| ([("protocol", *protocol)], *count));
    let help = "Ports of endpoints that are led to a proxy";
    page.gauges(("cilium_proxy_redirects", help), rows)
}

fn names(sources: &Sources, page: &mut Page<'_>, figures: &Figures) -> fmt::Result {
    for (at, name, help) in [
        (
            0,
            "cilium_fqdn_active_names",
            "Names that an endpoint has learned",
        ),
        (
            1,
            "cilium_fqdn_active_ips",
            "Addresses that an endpoint has learned",
        ),
        (
            3,
            "cilium_fqdn_alive_zombie_connections",
            "Addresses that no name opens any more, to which connections live on",
        ),
    ] {
        let rows = figures.learned.iter().map(|(endpoint, counts)| {
            let count = counts.get(at).copied().unwrap_or_default();
            ([("endpoint", endpoint.as_str())], count)
        });
        page.gauges((name, help), rows)?;
    }
    let counts = &sources.learner.counts;
    let gone = [&counts.expired, &counts.evicted];
    page.counter(
        ("cilium_fqdn_gc_deletions", "Addresses that lost their name"),
        gone.iter().map(|count| count.load(Ordering::Relaxed)).sum(),
    )
}

/// Requests by what became of them. What was told malformed is no request that was received.
fn verdicts(sources: &Sources, page: &mut Page<'_>) -> fmt::Result {
    let (mut dns, mut http) = ([0; 3], [0; 3]);
    for (name, reason, count) in sources.dns.iter() {
        let [forwarded, denied, broken] = &mut dns;
        match (name, reason) {
            ("dns_exchanges_total", "denied") => *denied += count,
            ("dns_exchanges_total", "malformed") => *broken += count,
            // Answered here, or never sent on.
            ("dns_exchanges_total", "local" | "endpoint-gone" | "abandoned") => {}
            ("dns_exchanges_total", _) => *forwarded += count,
            _ => {}
        }
    }
    for (name, reason, count) in sources.http.iter() {
        let [forwarded, denied, broken] = &mut http;
        match (name, reason) {
            ("http_requests_total", "forwarded") => *forwarded += count,
            ("http_requests_total", "denied") => *denied += count,
            ("http_requests_total", _) => *broken += count,
            _ => {}
        }
    }
    let rows = [("fqdn", dns), ("http", http)].into_iter();
    let rows = rows.flat_map(|(proxy, [forwarded, denied, broken])| {
        let received = forwarded + denied;
        let counts = [
            ("received", received),
            ("forwarded", forwarded),
            ("denied", denied),
            ("parse_errors", broken),
        ];
        counts.map(|(rule, count)| ([("rule", rule), ("proxy_type", proxy)], count))
    });
    let help = "Requests by what became of them";
    page.counters(("cilium_policy_l7", help), rows)
}
