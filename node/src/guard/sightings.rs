//! Endpoints as they are found, look by look. One that is guarded stays so as long as a file names it and its
//! interface or cgroup is there: what its workload does to its own network is told, and opens nothing.

use std::collections::BTreeSet;

use bpf_redirect::Datapath;
use policy::EndpointId;
use transport::Netlink;

use super::{Guarded, Guards, NodeTable, cgroup};
use crate::endpoints::file::Roster;
use crate::endpoints::held::{Held, HeldLink};
use crate::endpoints::{Found, Refused, Site};
use crate::learner::Learner;

impl Guards {
    /// What is guarded already, for the next look at the workloads.
    pub(crate) fn held(&self) -> Held {
        let mut held = Held::default();
        let judged = self.inherited.endpoints.iter();
        for (ifindex, one) in judged.filter(|(_, one)| one.is_judged) {
            let addresses = one.addresses.clone();
            let owner = None;
            held.links.insert(*ifindex, HeldLink { owner, addresses });
        }
        for guarded in self.by_id.values().filter(|one| one.is_guarded()) {
            let name = guarded.found.workload.full_name();
            match &guarded.found.site {
                Site::Link(link) => {
                    let (owner, addresses) = (Some(name), link.addresses.clone());
                    held.links
                        .insert(link.ifindex, HeldLink { owner, addresses });
                }
                Site::Cgroup(cgroup) => {
                    held.cgroups.insert(cgroup.path.clone(), name);
                }
            }
        }
        if let Some(there) = interfaces() {
            held.links.retain(|ifindex, _| there.contains(ifindex));
        }
        held
    }

    /// Takes a new roster in. Endpoints that no file names any more, or that are gone, are let go; new ones
    /// get a number and wait for [`Guards::attach`]. Says whether anything is different.
    pub(crate) fn update(
        &mut self,
        roster: Roster,
        datapath: &mut Datapath,
        learner: &Learner<NodeTable>,
    ) -> bool {
        let mut different = roster.peers != self.peers || roster.services != self.services;
        self.peers = roster.peers;
        self.services = roster.services;
        let (mut found, mut refused) = (roster.found, roster.refused);
        let unseen = self.unseen(&found, &refused);
        different |= self.sight(&mut found);
        let there = interfaces();
        for (id, why) in unseen {
            let Some(guarded) = self.by_id.get_mut(&id) else {
                continue;
            };
            match why.filter(|_| guarded.is_guarded() && guarded.is_there(there.as_ref())) {
                Some(why) => {
                    let name = guarded.found.workload.full_name();
                    refused.retain(|one| one.name != name);
                    guarded.note_fault(Some(why));
                }
                None => {
                    different = true;
                    self.let_go(id, datapath, learner);
                }
            }
        }
        different |= self.take_in(found, &mut refused);
        different |= refused != self.refused;
        for new in refused.iter().filter(|one| !self.refused.contains(one)) {
            tracing::error!(endpoint = %new.name, "can't be guarded and is open: {}", new.reason);
        }
        self.refused = refused;
        different
    }

    /// Those that were not found, each with the reason where a file names it.
    fn unseen(&self, found: &[Found], refused: &[Refused]) -> Vec<(EndpointId, Option<String>)> {
        let is_seen = |guarded: &Guarded| {
            found
                .iter()
                .any(|found| is_same_site(found, &guarded.found))
        };
        let unseen = self.by_id.iter().filter(|(_, guarded)| !is_seen(guarded));
        unseen
            .map(|(id, guarded)| (*id, why_unseen(guarded, found, refused)))
            .collect()
    }

    /// Takes what is known out of `found`, and writes down what changed of it. Says whether anything did.
    fn sight(&mut self, found: &mut Vec<Found>) -> bool {
        let mut different = false;
        for guarded in self.by_id.values_mut() {
            let is_it = |found: &Found| is_same_site(found, &guarded.found);
            let Some(place) = found.iter().position(is_it) else {
                continue;
            };
            let mut seen = found.swap_remove(place);
            guarded.note_fault(seen.fault.take());
            if seen != guarded.found {
                different = true;
                guarded.found = seen;
                // Its tables are written again, while its programs go on.
                guarded.is_prepared = false;
            }
        }
        different
    }

    /// Gives new endpoints their numbers; says whether there were any.
    fn take_in(&mut self, mut new: Vec<Found>, refused: &mut Vec<Refused>) -> bool {
        let mut different = false;
        new.sort_by(|a, b| a.workload.name.cmp(&b.workload.name));
        for mut found in new {
            let Some((id, is_inherited)) = self.number(&found) else {
                refused.push(Refused {
                    name: found.workload.full_name(),
                    file: found.file,
                    reason: "no endpoint number is left".to_owned(),
                });
                continue;
            };
            different = true;
            let fault = found.fault.take();
            let mut guarded = Guarded::new(found, is_inherited);
            guarded.note_fault(fault);
            self.by_id.insert(id, guarded);
        }
        different
    }
}

impl Guarded {
    /// Keeps what is wrong with it although it is guarded; what is new is said.
    fn note_fault(&mut self, fault: Option<String>) {
        if self.fault == fault {
            return;
        }
        let name = self.found.workload.full_name();
        match &fault {
            Some(fault) => tracing::error!(endpoint = %name, "stays guarded, but: {fault}"),
            None => tracing::info!(endpoint = %name, "is as it should be again"),
        }
        self.fault = fault;
    }

    /// Whether the kernel still has where it is guarded.
    fn is_there(&self, interfaces: Option<&BTreeSet<u32>>) -> bool {
        match &self.found.site {
            Site::Link(link) => interfaces.is_none_or(|all| all.contains(&link.ifindex)),
            Site::Cgroup(site) => cgroup::is_there(site, self.cgroup.as_ref()),
        }
    }
}

/// Why an endpoint wasn't found although a file names it; `None`: no file does, or one says that it is
/// elsewhere.
fn why_unseen(guarded: &Guarded, found: &[Found], refused: &[Refused]) -> Option<String> {
    let (old, name) = (&guarded.found, guarded.found.workload.full_name());
    if let Some(refused) = refused.iter().find(|one| one.name == name) {
        return Some(refused.reason.clone());
    }
    // The file says what it said, and somebody else is there: the one before goes on until it ends.
    let path = old.netns.as_ref()?;
    let named = found.iter().find(|one| one.workload.full_name() == name);
    let new = named.filter(|one| one.netns.as_ref() == Some(path))?;
    let (before, now) = (old.link()?, new.link()?);
    Some(format!(
        "{} is another namespace by now, with {}; {} stays guarded until it is gone",
        path.display(),
        now.name,
        before.name
    ))
}

fn is_same_site(a: &Found, b: &Found) -> bool {
    let is_same_place = match (&a.site, &b.site) {
        (Site::Link(a), Site::Link(b)) => a.ifindex == b.ifindex,
        (Site::Cgroup(a), Site::Cgroup(b)) => a.id == b.id,
        (Site::Link(_), Site::Cgroup(_)) | (Site::Cgroup(_), Site::Link(_)) => false,
    };
    is_same_place
        && a.workload.name == b.workload.name
        && a.workload.namespace == b.workload.namespace
}

/// The indices of the node's interfaces; `None` where they can't be read, which proves nothing gone.
pub(super) fn interfaces() -> Option<BTreeSet<u32>> {
    let links = Netlink::open().and_then(|netlink| netlink.links());
    let links = links.inspect_err(|error| tracing::warn!("the node's interfaces: {error}"));
    Some(links.ok()?.into_iter().map(|link| link.index).collect())
}
