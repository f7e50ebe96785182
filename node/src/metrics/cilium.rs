//! What Cilium's agent tells of names and proxies, under its names, for dashboards and alerts that know those.
//! Only what is counted here too.

use std::fmt;
use std::sync::atomic::Ordering;

use super::{Figures, Page, Sources};

pub(super) fn page(sources: &Sources, page: &mut Page<'_>, figures: &Figures) -> fmt::Result {
    names(sources, page, figures)?;
    verdicts(sources, page)?;
    let counts = &sources.learner.counts;
    let help = "How long an answer was held for the datapath";
    let labels = [
        ("error", "allow"),
        ("protocol_l7", "dns"),
        ("scope", "dataplaneTime"),
    ];
    page.histogram(
        ("cilium_proxy_upstream_reply_seconds", help),
        (&labels, &counts.hold.read()),
    )?;
    let dns = sources.dns.iter();
    let late = dns.filter(|(_, reason, _)| *reason == "install-timeout");
    page.counter(
        (
            "cilium_proxy_datapath_update_timeout",
            "Answers that were not in the datapath in time",
        ),
        late.map(|(.., count)| count).sum(),
    )
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
