//! What an earlier run left guarded: taken over, or let go. What may still be somebody's stays as it is.

use std::collections::{BTreeMap, BTreeSet};

use bpf_redirect::{Datapath, Inherited, Ledger};
use bpf_redirect_common::Address;
use policy::EndpointId;

use super::sightings::interfaces;
use super::{EndpointState, Guards, Place};
use crate::endpoints::{Found, Site};
use crate::remembered::Remembered;

/// What isn't let go: interfaces by index, and cgroups.
#[derive(Default)]
struct Spared {
    links: BTreeSet<u32>,
    cgroups: BTreeSet<u64>,
}

impl Guards {
    /// Nobody yet; endpoints that come take over what an earlier run left, if one did: its numbers and what
    /// it had learned.
    pub(crate) fn inheriting(inherited: Option<Inherited>, remembered: Remembered) -> Self {
        let Some(inherited) = inherited else {
            return Self::default();
        };
        let numbers = inherited.endpoints.values().map(|one| one.endpoint);
        let numbers = numbers.chain(inherited.cgroups.values().copied());
        Self {
            last_id: numbers.max().unwrap_or_default(),
            inherited,
            remembered,
            ..Self::default()
        }
    }

    /// The number of a new endpoint: the one that the kernel has for its link or cgroup, else the next; and
    /// whether an earlier run guards that.
    pub(super) fn number(&mut self, found: &Found) -> Option<(EndpointId, bool)> {
        let (is_inherited, known) = match &found.site {
            Site::Link(link) => {
                let known = self.inherited.endpoints.get(&link.ifindex);
                let own = known.filter(|one| one.workload_mac == link.workload_mac);
                let is_judged = known.is_some_and(|one| one.is_judged);
                (is_judged, own.map(|one| one.endpoint))
            }
            Site::Cgroup(cgroup) => {
                let known = self.inherited.cgroups.get(&cgroup.id);
                (known.is_some(), known.copied())
            }
        };
        let is_free = |id: &EndpointId| !self.by_id.contains_key(id);
        if let Some(id) = known.and_then(EndpointId::new).filter(is_free) {
            return Some((id, is_inherited));
        }
        let id = self.last_id.checked_add(1).and_then(EndpointId::new)?;
        self.last_id = id.get();
        Some((id, is_inherited))
    }

    /// Lets go what an earlier run left and nobody took: its workloads are gone. As long as there are
    /// workloads that can't be looked at, what is left may be theirs and stays as it is.
    pub(crate) fn drop_inheritance(&mut self, datapath: &mut Datapath) {
        if self.inherited == Inherited::default() {
            return;
        }
        let spared = self.spared();
        if let Err(error) = datapath.drop_other_links(&spared.links, &spared.cgroups) {
            tracing::warn!("links of an earlier run: {error}");
        }
        let inherited = std::mem::take(&mut self.inherited);
        let is_first = inherited.config.is_some();
        let mut kept = Inherited::default();
        for (ifindex, one) in inherited.endpoints {
            if spared.links.contains(&ifindex) {
                kept.endpoints.insert(ifindex, one);
            } else {
                let place = Place::Link(ifindex);
                self.forget((one.endpoint, place), &inherited.learned, datapath);
            }
        }
        for (cgroup, endpoint) in inherited.cgroups {
            if spared.cgroups.contains(&cgroup) {
                kept.cgroups.insert(cgroup, endpoint);
            } else {
                let place = Place::Cgroup(cgroup);
                self.forget((endpoint, place), &inherited.learned, datapath);
            }
        }
        if kept == Inherited::default() {
            self.remembered = Remembered::default();
        } else {
            kept.learned = inherited.learned;
            if is_first {
                tracing::warn!(
                    links = kept.endpoints.len(),
                    cgroups = kept.cgroups.len(),
                    "what an earlier run guards stays so: it may be of endpoints that can't be taken over yet"
                );
            }
        }
        self.inherited = kept;
    }

    /// What must not be let go: what an endpoint has that isn't attached yet, and, as long as an endpoint
    /// can't be looked at, what nobody took and is there still.
    fn spared(&self) -> Spared {
        let mut spared = Spared::default();
        let mut taken = Spared::default();
        for guarded in self.by_id.values() {
            let waits = guarded.is_inherited && guarded.state != EndpointState::Ready;
            match &guarded.found.site {
                Site::Link(link) if waits => spared.links.insert(link.ifindex),
                Site::Link(link) => taken.links.insert(link.ifindex),
                Site::Cgroup(cgroup) if waits => spared.cgroups.insert(cgroup.id),
                Site::Cgroup(cgroup) => taken.cgroups.insert(cgroup.id),
            };
        }
        if !self.refused.is_empty() {
            let there = interfaces();
            let links = self.inherited.endpoints.keys().copied();
            let is_there = |ifindex: &u32| there.as_ref().is_none_or(|all| all.contains(ifindex));
            spared.links.extend(links.filter(is_there));
            spared.cgroups.extend(self.inherited.cgroups.keys());
        }
        spared.links.retain(|one| !taken.links.contains(one));
        spared.cgroups.retain(|one| !taken.cgroups.contains(one));
        spared
    }

    /// Takes away what the kernel knows of an endpoint, unless it is one by now.
    fn forget(
        &self,
        (endpoint, place): (u32, Place),
        learned: &BTreeMap<u32, Vec<(Address, u32)>>,
        datapath: &mut Datapath,
    ) {
        if EndpointId::new(endpoint).is_some_and(|id| self.by_id.contains_key(&id)) {
            return;
        }
        let addresses = learned.get(&endpoint).cloned().unwrap_or_default();
        let forgotten = datapath
            .table(endpoint)
            .map(|table| Ledger::inherit(table, addresses).clear())
            .and_then(|_| place.forget(endpoint, datapath));
        if let Err(error) = forgotten {
            tracing::warn!("entries of an earlier run: {error}");
        }
    }
}
