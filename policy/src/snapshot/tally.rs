//! What a snapshot has, in numbers.

use std::collections::{BTreeMap, BTreeSet};

use fqdn::Pattern;

use super::Snapshot;
use super::item::L4Key;
use crate::verdict::{EntryVerdict, Proxy};
use crate::{Direction, EndpointId, RuleOrigin};

/// One name or pattern of `toFQDNs` that is about an endpoint.
#[derive(Debug)]
pub struct NameSelector<'a> {
    /// As it is written.
    pub text: &'a str,
    /// What it stands for.
    pub pattern: Pattern,
    /// Its rule.
    pub rule: &'a RuleOrigin,
}

impl Snapshot {
    /// The names and patterns of `toFQDNs` that are about an endpoint, in the order of its rules.
    pub fn name_selectors_of(
        &self,
        endpoint: EndpointId,
    ) -> impl Iterator<Item = NameSelector<'_>> {
        let items = self.endpoints.get(&endpoint).into_iter();
        let items = items.flat_map(|policy| policy.egress.items.iter());
        let lists = items.filter_map(|item| Some((item, item.item().names()?)));
        lists.flat_map(|(item, list)| {
            list.texts().filter_map(|text| {
                Some(NameSelector {
                    text,
                    pattern: list.pattern(text)?,
                    rule: &item.prepared.origin,
                })
            })
        })
    }

    /// Ports of endpoints that are led to a proxy, by which: those that rules judge by what is said there. A port
    /// counts once for each endpoint and direction.
    #[must_use]
    pub fn redirects(&self) -> BTreeMap<Proxy, usize> {
        let mut all = BTreeSet::<(Proxy, EndpointId, Direction, L4Key)>::new();
        for (id, policy) in &self.endpoints {
            for direction in [&policy.ingress, &policy.egress] {
                let keys = direction.items.iter();
                let keys = keys.flat_map(|item| direction.keys_of(item, None));
                all.extend(keys.filter_map(|(key, verdict)| match verdict {
                    EntryVerdict::Redirect(proxy) => Some((proxy, *id, direction.direction, key)),
                    EntryVerdict::AuditDefault
                    | EntryVerdict::Allow
                    | EntryVerdict::AuditDeny
                    | EntryVerdict::Refuse
                    | EntryVerdict::FailAuthentication
                    | EntryVerdict::Deny => None,
                }));
            }
        }
        let mut counts = BTreeMap::new();
        for (proxy, ..) in all {
            *counts.entry(proxy).or_default() += 1;
        }
        counts
    }

    /// How many different names and patterns `toFQDNs` of rules have that select an endpoint.
    #[must_use]
    pub fn name_selectors(&self) -> usize {
        let policies = self.endpoints.values();
        let items = policies.flat_map(|policy| policy.egress.items.iter());
        let texts = items.filter_map(|item| item.item().names());
        texts
            .flat_map(|list| list.texts())
            .collect::<BTreeSet<_>>()
            .len()
    }
}
