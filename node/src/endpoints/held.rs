//! What is guarded already. Nothing that a workload does to its own network takes it out again: a look at
//! it asks here first.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use bpf_redirect_common::ADDRESSES_PER_ENDPOINT_MAX;

/// The links and cgroups that are guarded already.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// Links, by the index of the host side.
    pub(crate) links: BTreeMap<u32, HeldLink>,
    /// Cgroups, each with the name of whose it is.
    pub(crate) cgroups: BTreeMap<PathBuf, String>,
}

/// A link that is guarded already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeldLink {
    /// The name of whose it is; `None` of an earlier run, of which the kernel knows no names.
    pub(crate) owner: Option<String>,
    /// The addresses from which its workload may send.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Held {
    /// The link with this host side, if it is held and may be this endpoint's.
    pub(crate) fn link_of(&self, name: &str, ifindex: u32) -> Option<&HeldLink> {
        let link = self.links.get(&ifindex)?;
        let is_own = link.owner.as_deref().is_none_or(|owner| owner == name);
        is_own.then_some(link)
    }
}

impl HeldLink {
    /// Those of its workload's addresses that it goes on with: what it had first, what is new as long as
    /// there is room, and what it had where nothing is left; beside them what is to be said of the others.
    pub(super) fn keep(&self, has: &[IpAddr]) -> (Vec<IpAddr>, Option<String>) {
        if has.is_empty() {
            let fault = "it has no address".to_owned();
            return (self.addresses.clone(), Some(fault));
        }
        let had = self.addresses.iter().filter(|ip| has.contains(ip));
        let new = has.iter().filter(|ip| !self.addresses.contains(ip));
        let kept = had.chain(new).take(ADDRESSES_PER_ENDPOINT_MAX);
        let kept: Vec<IpAddr> = kept.copied().collect();
        let fault = (has.len() > kept.len()).then(|| {
            format!(
                "it has {} addresses; at most {ADDRESSES_PER_ENDPOINT_MAX} are guarded, and what comes from the others is dropped",
                has.len()
            )
        });
        (kept, fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(last: impl IntoIterator<Item = u8>) -> Vec<IpAddr> {
        let of = |last| IpAddr::from([10, 0, 0, last]);
        last.into_iter().map(of).collect()
    }

    #[test]
    fn an_endpoint_keeps_the_addresses_that_it_had_first() {
        let held = HeldLink {
            owner: None,
            addresses: ips([2, 3]),
        };
        for (has, expected, says) in [
            (ips([2, 3]), ips([2, 3]), None),
            (ips([3, 2]), ips([2, 3]), None),
            (ips([9, 3]), ips([3, 9]), None),
            (ips([9]), ips([9]), None),
            (ips([]), ips([2, 3]), Some("no address")),
            (ips(4..=11), ips(4..=11), None),
            (ips(3..=11), ips(3..=10), Some("9 addresses; at most 8")),
            (
                ips([20, 21, 22, 23, 24, 25, 26, 3, 2]),
                ips([2, 3, 20, 21, 22, 23, 24, 25]),
                Some("9 addresses"),
            ),
        ] {
            let (kept, fault) = held.keep(&has);
            assert_eq!(kept, expected, "{has:?}");
            assert_eq!(fault.is_some(), says.is_some(), "{has:?}: {fault:?}");
            let fault = fault.unwrap_or_default();
            assert!(fault.contains(says.unwrap_or_default()), "{fault}");
        }
    }

    #[test]
    fn a_link_may_be_its_owners_alone() {
        let link = |owner: Option<&str>| HeldLink {
            owner: owner.map(str::to_owned),
            addresses: Vec::new(),
        };
        let links = [(7, link(Some("default/a"))), (8, link(None))];
        let held = Held {
            links: links.into(),
            ..Held::default()
        };
        assert!(held.link_of("default/a", 7).is_some());
        assert!(held.link_of("default/b", 7).is_none());
        assert!(held.link_of("default/b", 8).is_some());
        assert!(held.link_of("default/a", 9).is_none());
    }
}
