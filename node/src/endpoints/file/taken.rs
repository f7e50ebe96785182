//! Who has which link, address and cgroup, so that no two endpoints have the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use super::Roster;
use crate::endpoints::held::Held;
use crate::endpoints::{Found, GuardedCgroup, GuardedLink, Refused, Site, cgroup};

/// Two endpoints with one address can't be told apart by their peers, and two on one link or in one cgroup
/// not at all: the second is refused, with both names. What is guarded already has what it had before
/// anybody else; what it takes of others meanwhile is not its own. A link-local address is each link's own.
pub(super) fn refuse_shared(roster: &mut Roster, (held, named): (&Held, &BTreeSet<String>)) {
    let mut taken = Taken::of(&roster.found, (held, named));
    let mut found = std::mem::take(&mut roster.found);
    // Stable: among equals the order of the files decides.
    found.sort_by_key(|found| held_addresses(found, held).is_none());
    for found in found {
        match taken.take(found, held) {
            Ok(found) => roster.found.push(found),
            Err(refused) => roster.refused.push(refused),
        }
    }
}

/// The addresses that a workload had when it was found at its link before; `None` for who is new there.
fn held_addresses<'a>(found: &Found, held: &'a Held) -> Option<&'a [IpAddr]> {
    let link = held.link_of(&found.workload.full_name(), found.link()?.ifindex)?;
    Some(&link.addresses)
}

/// What endpoints have, each with the name of who has it.
#[derive(Default)]
struct Taken {
    links: BTreeMap<u32, String>,
    addresses: BTreeMap<IpAddr, String>,
    cgroups: BTreeMap<PathBuf, String>,
}

impl Taken {
    /// What those who are guarded already have and had before, as long as a file names them.
    fn of(found: &[Found], (held, named): (&Held, &BTreeSet<String>)) -> Self {
        let is_named = |name: &String| named.contains(name);
        let cgroups = held.cgroups.iter().filter(|(_, name)| is_named(name));
        let mut taken = Self {
            cgroups: cgroups
                .map(|(path, name)| (path.clone(), name.clone()))
                .collect(),
            ..Self::default()
        };
        let mut sighted = BTreeSet::new();
        for found in found {
            if let (Some(link), Some(had)) = (found.link(), held_addresses(found, held)) {
                let name = found.workload.full_name();
                let still = link.addresses.iter().filter(|ip| had.contains(ip));
                taken.note(&name, (link.ifindex, still));
                sighted.insert(link.ifindex);
            }
        }
        for (ifindex, link) in &held.links {
            // Whoever can't be looked at goes on with all that it had.
            let owner = link.owner.as_ref().filter(|owner| is_named(owner));
            if let (Some(owner), false) = (owner, sighted.contains(ifindex)) {
                taken.note(owner, (*ifindex, link.addresses.iter()));
            }
        }
        taken
    }

    fn note<'a>(
        &mut self,
        name: &str,
        (ifindex, addresses): (u32, impl Iterator<Item = &'a IpAddr>),
    ) {
        self.links.entry(ifindex).or_insert_with(|| name.to_owned());
        for ip in addresses.filter(|ip| !is_link_local(**ip)) {
            self.addresses.entry(*ip).or_insert_with(|| name.to_owned());
        }
    }

    fn take(&mut self, mut found: Found, held: &Held) -> Result<Found, Refused> {
        let name = found.workload.full_name();
        let had = held_addresses(&found, held);
        let taken = match &mut found.site {
            Site::Cgroup(cgroup) => self.take_cgroup(&name, cgroup).map(|()| None),
            Site::Link(link) => self.take_link(&name, (link, had)),
        };
        match taken {
            Ok(fault) => {
                found.fault = match (found.fault.take(), fault) {
                    (Some(one), Some(other)) => Some(format!("{one}; {other}")),
                    (one, other) => one.or(other),
                };
                Ok(found)
            }
            Err(reason) => Err(Refused {
                name,
                file: found.file,
                reason,
            }),
        }
    }

    fn take_cgroup(&mut self, name: &str, one: &GuardedCgroup) -> Result<(), String> {
        for (path, other) in self.cgroups.iter().filter(|(_, other)| *other != name) {
            if let Some(what) = cgroup::clash(&one.path, path) {
                return Err(format!("{other} {what} ({})", path.display()));
            }
        }
        self.cgroups.insert(one.path.clone(), name.to_owned());
        Ok(())
    }

    /// Gives what is to be said of addresses that others have, which an endpoint that is held goes without.
    fn take_link(
        &mut self,
        name: &str,
        (link, had): (&mut GuardedLink, Option<&[IpAddr]>),
    ) -> Result<Option<String>, String> {
        let other = |owner: Option<&String>| owner.filter(|owner| *owner != name).cloned();
        if let Some(first) = other(self.links.get(&link.ifindex)) {
            return Err(format!("{first} has the same link"));
        }
        let owner_of = |ip: &IpAddr| other(self.addresses.get(ip));
        let first = link
            .addresses
            .iter()
            .find_map(|ip| Some((*ip, owner_of(ip)?)));
        let fault = match (first, had) {
            (None, _) => None,
            (Some((_, first)), None) => return Err(format!("{first} has the same address")),
            (Some((ip, first)), Some(had)) => {
                link.addresses.retain(|ip| owner_of(ip).is_none());
                if link.addresses.is_empty() {
                    link.addresses = had.to_vec();
                }
                Some(format!(
                    "it has {ip} too, which is {first}'s: what comes from there is dropped"
                ))
            }
        };
        let link = &*link;
        self.note(name, (link.ifindex, link.addresses.iter()));
        Ok(fault)
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use policy::{Labels, NamedPorts, Workload};

    use super::*;
    use crate::endpoints::held::HeldLink;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn found(name: &str, ifindex: u32, addresses: &[u8]) -> Found {
        Found {
            workload: Workload {
                namespace: "default".to_owned(),
                name: name.to_owned(),
                labels: Labels::default(),
                ports: NamedPorts::new(),
                owner: None,
            },
            site: Site::Link(GuardedLink {
                name: format!("v{name}"),
                ifindex,
                host_mac: [2; 6],
                workload_mac: [3; 6],
                mtu: 1_500,
                addresses: addresses.iter().map(|last| ip(*last)).collect(),
            }),
            audit: false,
            file: format!("{name}.yaml"),
            netns: None,
            fault: None,
        }
    }

    /// Alice at 7 with .2, bob at 8 with .3.
    fn held() -> Held {
        let link = |owner: &str, last| HeldLink {
            owner: Some(format!("default/{owner}")),
            addresses: vec![ip(last)],
        };
        Held {
            links: [(7, link("alice", 2)), (8, link("bob", 3))].into(),
            ..Held::default()
        }
    }

    fn judged(all: Vec<Found>, held: &Held) -> Roster {
        let names = ["alice", "bob", "carol"].map(|name| format!("default/{name}"));
        let mut roster = Roster {
            found: all,
            ..Roster::default()
        };
        refuse_shared(&mut roster, (held, &names.into()));
        roster
    }

    #[test]
    fn of_two_new_ones_the_second_is_refused() {
        for (second, reason) in [
            (
                found("bob", 8, &[4, 2]),
                "default/alice has the same address",
            ),
            (found("bob", 7, &[3]), "default/alice has the same link"),
        ] {
            let roster = judged(vec![found("alice", 7, &[2]), second], &Held::default());
            assert_eq!(roster.found.len(), 1);
            assert_eq!(roster.refused.first().unwrap().reason, reason);
        }
    }

    /// Alice is first in order, and must not put bob out by taking his address.
    #[test]
    fn nobody_takes_an_address_from_who_is_guarded() {
        for taker in [found("alice", 7, &[2, 3]), found("alice", 7, &[3])] {
            let roster = judged(vec![taker, found("bob", 8, &[3])], &held());
            assert!(roster.refused.is_empty(), "{:?}", roster.refused);
            let [alice, bob] = &roster.found[..] else {
                panic!("{roster:?}");
            };
            assert_eq!(alice.addresses(), [ip(2)]);
            assert!(alice.fault.as_ref().unwrap().contains("10.0.0.3"));
            assert_eq!((bob.addresses(), &bob.fault), (&[ip(3)][..], &None));
        }
        // Also not from one that can't be looked at.
        let roster = judged(vec![found("alice", 7, &[2, 3])], &held());
        assert_eq!(roster.found.first().unwrap().addresses(), [ip(2)]);
    }

    #[test]
    fn nobody_takes_a_link_from_who_is_guarded() {
        let roster = judged(vec![found("carol", 7, &[9])], &held());
        let refused = roster.refused.first().unwrap();
        assert_eq!(refused.reason, "default/alice has the same link");
        let roster = judged(
            vec![found("carol", 9, &[2]), found("alice", 7, &[2])],
            &held(),
        );
        let refused = roster.refused.first().unwrap();
        assert_eq!(refused.name, "default/carol");
        assert_eq!(roster.found.len(), 1);
    }

    #[test]
    fn an_address_that_went_is_free_for_others() {
        let all = vec![found("alice", 7, &[4]), found("bob", 8, &[3, 2])];
        let roster = judged(all, &held());
        assert!(roster.refused.is_empty());
        assert_eq!(roster.found.get(1).unwrap().addresses(), [ip(3), ip(2)]);
    }
}
