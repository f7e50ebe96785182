//! What endpoints have learned, as a list for people and programs; forgetting it, and making it known before
//! anybody asks.

mod load;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bpf_redirect_common::Address;
use fqdn::{Everything, Pattern};
use policy::EndpointId;
use serde_json::{Value, json};

use crate::clock;
use crate::daemon::Daemon;

pub(crate) use load::load;

/// Addresses that one answer lists, about 16 MB of text; of the rest it says how many they are.
const LISTED_MAX: usize = 200_000;

/// A name and what it opens.
struct Entry {
    name: String,
    /// The server that gave its last answer; `None` where an earlier daemon learned it.
    taught_by: Option<SocketAddr>,
    /// The rules whose `toFQDNs` name it, as `policy` and `file:line`.
    rules: Vec<(String, String)>,
    addresses: Vec<Opened>,
}

/// An address under a name.
struct Opened {
    ip: IpAddr,
    /// When it ends under this name.
    end: Option<Instant>,
    /// What the kernel takes it for; `None` where no `toFQDNs` rule selects its names.
    identity: Option<u32>,
}

/// The names and addresses of one endpoint, `NAMESPACE/NAME`, or of all.
pub(crate) fn list(daemon: &Daemon, endpoint: Option<&str>) -> Value {
    let wanted = match wanted(daemon, endpoint) {
        Ok(wanted) => wanted,
        Err(error) => return json!({ "error": error }),
    };
    let now = clock::now();
    let (mut names, mut listed, mut left_out) = (Vec::new(), 0, 0);
    for (id, endpoint) in wanted {
        for entry in entries(daemon, id) {
            listed += entry.addresses.len();
            if listed > LISTED_MAX {
                left_out += entry.addresses.len();
            } else {
                names.push(shown(&endpoint, &entry, now));
            }
        }
    }
    json!({ "names": names, "left_out": left_out })
}

/// The names and patterns of `toFQDNs` that are about one endpoint, `NAMESPACE/NAME`, or about all, each with the
/// names and addresses that it selects now.
pub(crate) fn selectors(daemon: &Daemon, endpoint: Option<&str>) -> Value {
    let wanted = match wanted(daemon, endpoint) {
        Ok(wanted) => wanted,
        Err(error) => return json!({ "error": error }),
    };
    let snapshot = daemon.learner.snapshot();
    let (mut selectors, mut listed, mut left_out) = (Vec::new(), 0, 0);
    for (id, endpoint) in wanted {
        let learned = daemon.learner.with_knowledge(id, |knowledge| {
            let cache = &knowledge.cache;
            let with_addresses =
                |name: &fqdn::Name| (name.clone(), cache.addresses_of(name).collect());
            let all = cache.names().map(with_addresses);
            all.collect::<Vec<(fqdn::Name, Vec<IpAddr>)>>()
        });
        let learned = learned.unwrap_or_default();
        for selector in snapshot.name_selectors_of(id) {
            let selected = learned
                .iter()
                .filter(|(name, _)| selector.pattern.matches(name));
            let names = selected.clone().count();
            let addresses: BTreeSet<IpAddr> = selected
                .flat_map(|(_, addresses)| addresses)
                .copied()
                .collect();
            listed += 1 + addresses.len();
            if listed > LISTED_MAX {
                left_out += 1;
                continue;
            }
            selectors.push(json!({
                "endpoint": endpoint,
                "selector": selector.text,
                "names": names,
                "addresses": addresses,
                "policy": selector.rule.policy(),
                "file": &*selector.rule.file,
                "line": selector.rule.line,
            }));
        }
    }
    json!({ "selectors": selectors, "left_out": left_out })
}

/// Forgets what one endpoint has learned, or all; of the names that a pattern matches, or of all.
pub(crate) fn clean(daemon: &Daemon, endpoint: Option<&str>, names: Option<&str>) -> Value {
    let pattern = names
        .map(|names| Pattern::parse(names, Everything::AnyName))
        .transpose();
    let (wanted, pattern) = match (wanted(daemon, endpoint), pattern) {
        (Ok(wanted), Ok(pattern)) => (wanted, pattern),
        (Err(error), _) => return json!({ "error": error }),
        (_, Err(error)) => return json!({ "error": format!("no pattern: {error}") }),
    };
    let is_wanted = |name: &fqdn::Name| pattern.as_ref().is_none_or(|one| one.matches(name));
    let forgotten = wanted
        .iter()
        .map(|(id, _)| daemon.learner.forget(*id, is_wanted));
    json!({ "forgotten": forgotten.sum::<usize>() })
}

/// The endpoint of this name, or all.
fn wanted(daemon: &Daemon, endpoint: Option<&str>) -> Result<Vec<(EndpointId, String)>, String> {
    let all = daemon.guards.iter();
    let wanted: Vec<(EndpointId, String)> = all
        .map(|(id, guarded)| (id, guarded.found.workload.full_name()))
        .filter(|(_, name)| endpoint.is_none_or(|wanted| wanted == name))
        .collect();
    match endpoint {
        Some(endpoint) if wanted.is_empty() => Err(format!(
            "no endpoint {endpoint}: `namegate endpoint list` shows them"
        )),
        _ => Ok(wanted),
    }
}

/// Copied under the endpoint's lock, so that it is held shortly; in the order of the names.
fn entries(daemon: &Daemon, endpoint: EndpointId) -> Vec<Entry> {
    let snapshot = daemon.learner.snapshot();
    let rules = |name: &fqdn::Name| -> Vec<_> {
        let rules = snapshot.rules_naming(endpoint, name);
        rules
            .map(|rule| (rule.policy(), format!("{}:{}", rule.file, rule.line)))
            .collect()
    };
    let copied = daemon.learner.with_knowledge(endpoint, |knowledge| {
        let (cache, ledger) = (&knowledge.cache, &knowledge.ledger);
        let opened = |name: &fqdn::Name, ip| Opened {
            ip,
            end: cache.expiry(name, ip),
            identity: ledger.identity_of(Address::from(ip)),
        };
        let entry = |name: &fqdn::Name| Entry {
            name: name.to_string(),
            taught_by: cache.given_by(name),
            rules: rules(name),
            addresses: cache
                .addresses_of(name)
                .map(|ip| opened(name, ip))
                .collect(),
        };
        cache.names().map(entry).collect::<Vec<_>>()
    });
    let mut entries = copied.unwrap_or_default();
    entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    entries
}

fn shown(endpoint: &str, entry: &Entry, now: Instant) -> Value {
    let addresses = entry.addresses.iter().map(|opened| {
        let left = opened.end.map(|end| end.saturating_duration_since(now));
        json!({
            "address": opened.ip,
            "expires_secs": left.map(|left| left.as_secs()),
            "identity": opened.identity,
        })
    });
    let rules = entry.rules.iter();
    let rules = rules.map(|(policy, place)| json!({ "policy": policy, "place": place }));
    json!({
        "endpoint": endpoint,
        "name": entry.name,
        "taught_by": entry.taught_by,
        "rules": rules.collect::<Vec<_>>(),
        "addresses": addresses.collect::<Vec<_>>(),
    })
}
