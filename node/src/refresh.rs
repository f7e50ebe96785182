//! Names that a workload is connected to are asked for again before they end, where that is wanted: a
//! program that looks a name up once and connects again hours later finds it open.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bpf_redirect_common::Address;
use dnsproxy::OwnQuery;
use fqdn::Name;
use fqdn_cache::Cache;
use policy::{EndpointId, Identity};

use crate::clock;
use crate::daemon::Daemon;

/// How long before its end a name is asked for again: three looks.
const BEFORE_END: Duration = Duration::from_secs(30);
/// Queries of one look; the rest waits for the next one.
const PER_LOOK_MAX: usize = 256;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// Addresses to which endpoints have live flows.
pub(crate) type Live = BTreeMap<EndpointId, BTreeSet<IpAddr>>;

/// A name to be asked for, and the record type.
type Due = (Name, u16);

/// The names that end soon and lead to an address that is in use, each once for a type.
fn due(cache: &Cache, live: &BTreeSet<IpAddr>, now: Instant) -> BTreeSet<(IpAddr, Due)> {
    let mut all = BTreeSet::new();
    for ip in live {
        let qtype = if ip.is_ipv4() { TYPE_A } else { TYPE_AAAA };
        for name in cache.names_of(*ip) {
            let ends_soon = |end: Instant| end > now && end <= now + BEFORE_END;
            if cache.expiry(name, *ip).is_some_and(ends_soon) {
                all.insert((*ip, (name.clone(), qtype)));
            }
        }
    }
    all
}

impl Daemon {
    /// Asks again for what is in use and ends soon. Gives how many queries were made.
    pub(crate) fn refresh(&self, live: &Live) -> usize {
        let mut asked = 0;
        for (endpoint, addresses) in live {
            for (server, (name, qtype)) in &self.due_of(*endpoint, addresses) {
                let Some(client) = self.client_of(*endpoint, *server) else {
                    continue;
                };
                // Where no rule names its port any more, nobody listens.
                let Some(own) = self.dns.own_at(server.port()) else {
                    continue;
                };
                let query = OwnQuery {
                    endpoint: *endpoint,
                    client,
                    server: server.ip(),
                    name,
                    qtype: *qtype,
                };
                if asked == PER_LOOK_MAX || !own.ask(&query) {
                    return asked;
                }
                asked += 1;
            }
        }
        asked
    }

    /// What is to be asked, each of the server that taught it: names that a rule names whole. Names under a
    /// pattern are too many, and may be anybody's.
    fn due_of(&self, endpoint: EndpointId, live: &BTreeSet<IpAddr>) -> BTreeSet<(SocketAddr, Due)> {
        let due = self.learner.with_knowledge(endpoint, |knowledge| {
            let in_full = |(ip, due): (IpAddr, Due)| {
                let identity = knowledge.ledger.identity_of(Address::from(ip))?;
                let server = knowledge.cache.given_by(&due.0)?;
                Some((identity, (server, due)))
            };
            let due = due(&knowledge.cache, live, clock::now());
            due.into_iter().filter_map(in_full).collect::<Vec<_>>()
        });
        let is_named = |(identity, (_, (name, _))): &(u32, (SocketAddr, Due))| {
            self.learner.with_identities(|identities| {
                let labels = identities.labels_of(Identity::from_number(*identity));
                let mut selectors = labels.into_iter().flat_map(|labels| labels.selectors());
                selectors.any(|one| Name::from_text(one).is_ok_and(|one| one == *name))
            })
        };
        let named = due.into_iter().flatten().filter(is_named);
        named.map(|(_, due)| due).collect()
    }

    /// From which of its addresses an endpoint asks a server.
    fn client_of(&self, endpoint: EndpointId, server: SocketAddr) -> Option<IpAddr> {
        let mut addresses = self.guards.get(endpoint)?.found.link()?.addresses.iter();
        addresses
            .find(|ip| ip.is_ipv4() == server.is_ipv4())
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use fqdn_cache::Lifetimes;

    use super::*;

    #[test]
    fn what_is_in_use_and_ends_soon_is_due() {
        let now = clock::now();
        let mut cache = Cache::new();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (name, address, secs) in [
            ("soon.io", "192.0.2.1", 29),
            ("other.io", "192.0.2.1", 29),
            ("soon.io", "2001:db8::1", 29),
            ("later.io", "192.0.2.2", 31),
            ("idle.io", "192.0.2.3", 29),
        ] {
            let name = Name::from_text(name).unwrap();
            let end = now + Duration::from_secs(secs);
            let given = Lifetimes::default().given(now);
            let addresses = [(ip(address), end)];
            let plan = cache.plan(&name, &addresses, given).unwrap();
            cache.commit(plan).unwrap();
        }
        let live = ["192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.9"];
        let live = live.map(ip).into_iter().collect();
        let due: Vec<_> = due(&cache, &live, now)
            .into_iter()
            .map(|(_, (name, qtype))| (name.to_string(), qtype))
            .collect();
        let name = |text: &str| Name::from_text(text).unwrap().to_string();
        assert_eq!(
            due,
            [
                (name("soon.io"), TYPE_A),
                (name("other.io"), TYPE_A),
                (name("soon.io"), TYPE_AAAA)
            ]
        );
        assert!(super::due(&cache, &live_of(&[]), now).is_empty());
    }

    fn live_of(all: &[IpAddr]) -> BTreeSet<IpAddr> {
        all.iter().copied().collect()
    }
}
