//! The endpoints of this node: found, judged, attached.

mod cgroup;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bpf_redirect::{
    Attachment, CgroupAttachment, Datapath, DatapathError, EndpointEntry, Hook, Inherited, Ledger,
    Pins, Table, strangers,
};
use policy::{Cast, EndpointId, LocalEndpoint, Peer, Service};
use serde::Serialize;
use transport::Gate;

use crate::clock;
use crate::daemon::{filters, set_right};
use crate::endpoints::file::Roster;
use crate::endpoints::{Found, GuardedLink, Refused, Site};
use crate::learner::{Heritage, Learner};
use crate::remembered::Remembered;

/// One guarded endpoint.
pub(crate) struct Guarded {
    pub(crate) found: Found,
    pub(crate) state: EndpointState,
    /// Whether its tables are written as they should be.
    is_prepared: bool,
    /// On its link, by the order of [`HOOKS`].
    attachments: Vec<Option<Attachment>>,
    /// On its cgroup.
    cgroup: Option<CgroupAttachment>,
}

impl Guarded {
    fn is_attached(&self) -> bool {
        !self.attachments.is_empty() || self.cgroup.is_some()
    }

    fn detach(&mut self) {
        for attachment in self.attachments.drain(..).flatten() {
            // The interface, and the program with it, may be gone.
            let _ = attachment.detach();
        }
        if let Some(attachment) = self.cgroup.take() {
            let _ = attachment.detach();
        }
    }
}

/// How far an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EndpointState {
    /// Its programs aren't attached yet: it is open.
    Attaching,
    /// Judged by policy, every packet.
    Ready,
    /// Can't be guarded; it is open.
    Refused(String),
}

/// All endpoints.
#[derive(Default)]
pub(crate) struct Guards {
    by_id: BTreeMap<EndpointId, Guarded>,
    pub(crate) refused: Vec<Refused>,
    pub(crate) peers: Vec<Peer>,
    services: Vec<Service>,
    /// Numbers only go up: a late packet of a gone endpoint is nobody's.
    last_id: u32,
    /// What an earlier run left, as long as nobody took it.
    inherited: Inherited,
    remembered: Remembered,
}

/// The smallest MTU that the gate assumes where no endpoint says less.
const MTU_DEFAULT: u32 = 1_500;

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

    /// Everybody that policy must know.
    pub(crate) fn cast(&self, host_addresses: Vec<IpAddr>) -> Cast {
        let endpoints = self.by_id.iter().map(|(id, guarded)| LocalEndpoint {
            id: *id,
            workload: guarded.found.workload.clone(),
            addresses: guarded.found.addresses().to_vec(),
            audit: guarded.found.audit,
            is_redirectable: guarded.found.link().is_some(),
        });
        Cast {
            endpoints: endpoints.collect(),
            peers: self.peers.clone(),
            services: self.services.clone(),
            host_addresses,
        }
    }

    /// The endpoints with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (EndpointId, &Guarded)> {
        self.by_id.iter().map(|(id, guarded)| (*id, guarded))
    }

    /// The endpoint with a number.
    pub(crate) fn get(&self, id: EndpointId) -> Option<&Guarded> {
        self.by_id.get(&id)
    }

    /// Takes a new roster in. Endpoints that are gone or have another link are let go; new ones get a
    /// number and wait for [`Guards::attach`]. Says whether anything is different.
    pub(crate) fn update(
        &mut self,
        roster: Roster,
        datapath: &mut Datapath,
        learner: &Learner<NodeTable>,
    ) -> bool {
        let mut different = roster.refused != self.refused
            || roster.peers != self.peers
            || roster.services != self.services;
        for new in roster
            .refused
            .iter()
            .filter(|one| !self.refused.contains(one))
        {
            tracing::error!(endpoint = %new.name, "can't be guarded and is open: {}", new.reason);
        }
        self.refused = roster.refused;
        self.peers = roster.peers;
        self.services = roster.services;
        let mut wanted = roster.found;
        let gone: Vec<EndpointId> = self
            .by_id
            .iter()
            .filter(|(_, guarded)| {
                !wanted
                    .iter()
                    .any(|found| is_same_site(found, &guarded.found))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            different = true;
            self.let_go(id, datapath, learner);
        }
        for guarded in self.by_id.values_mut() {
            let place = wanted
                .iter()
                .position(|found| is_same_site(found, &guarded.found));
            if let Some(found) = place.map(|place| wanted.swap_remove(place))
                && found != guarded.found
            {
                different = true;
                guarded.found = found;
                // Its tables are written again.
                guarded.state =
                    match std::mem::replace(&mut guarded.state, EndpointState::Attaching) {
                        EndpointState::Refused(reason) => EndpointState::Refused(reason),
                        EndpointState::Attaching | EndpointState::Ready => EndpointState::Attaching,
                    };
                guarded.is_prepared = false;
            }
        }
        wanted.sort_by(|a, b| a.workload.name.cmp(&b.workload.name));
        for found in wanted {
            let Some(id) = self.number(&found) else {
                let name = found.workload.full_name();
                let reason = "no endpoint number is left".to_owned();
                self.refused.push(Refused {
                    name,
                    file: found.file,
                    reason,
                });
                continue;
            };
            different = true;
            self.by_id.insert(
                id,
                Guarded {
                    found,
                    state: EndpointState::Attaching,
                    is_prepared: false,
                    attachments: Vec::new(),
                    cgroup: None,
                },
            );
        }
        different
    }

    /// The number of a new endpoint: the one that the kernel has for its link or cgroup, else the next.
    fn number(&mut self, found: &Found) -> Option<EndpointId> {
        let known = match &found.site {
            Site::Link(link) => {
                let known = self.inherited.endpoints.get(&link.ifindex);
                let own = known.filter(|one| one.workload_mac == link.workload_mac);
                own.map(|one| one.endpoint)
            }
            Site::Cgroup(cgroup) => self.inherited.cgroups.get(&cgroup.id).copied(),
        };
        if let Some(id) = known.and_then(EndpointId::new) {
            return Some(id);
        }
        let id = self.last_id.checked_add(1).and_then(EndpointId::new)?;
        self.last_id = id.get();
        Some(id)
    }

    /// Writes the tables of every endpoint that isn't guarded yet, or whose addresses changed: its
    /// programs judge by them from the first packet on.
    pub(crate) fn prepare(
        &mut self,
        datapath: &mut Datapath,
        learner: &Learner<NodeTable>,
        gate: &Gate,
    ) {
        for (id, guarded) in &mut self.by_id {
            if guarded.state != EndpointState::Attaching || guarded.is_prepared {
                continue;
            }
            let addresses = self.inherited.learned.remove(&id.get());
            let name = guarded.found.workload.full_name();
            let heritage = Heritage {
                pairs: self
                    .remembered
                    .of_endpoint(&name, (clock::wall(), clock::now())),
                addresses: addresses.unwrap_or_default(),
            };
            match prepare(*id, guarded, (datapath, learner, gate), &heritage) {
                Ok(()) => guarded.is_prepared = true,
                Err(error) => refuse(*id, guarded, learner, &error),
            }
        }
    }

    /// Lets go what an earlier run left and nobody took: its workloads are gone.
    pub(crate) fn drop_inheritance(&mut self, datapath: &mut Datapath) {
        let inherited = std::mem::take(&mut self.inherited);
        self.remembered = Remembered::default();
        if let Err(error) = datapath.drop_other_links() {
            tracing::warn!("links of an earlier run: {error}");
        }
        let links = inherited
            .endpoints
            .iter()
            .map(|(ifindex, one)| (one.endpoint, Place::Link(*ifindex)));
        let cgroups = inherited.cgroups.iter();
        let cgroups = cgroups.map(|(cgroup, endpoint)| (*endpoint, Place::Cgroup(*cgroup)));
        for (endpoint, place) in links.chain(cgroups) {
            if EndpointId::new(endpoint).is_some_and(|id| self.by_id.contains_key(&id)) {
                continue;
            }
            let addresses = inherited.learned.get(&endpoint).cloned();
            let forgotten = datapath
                .table(endpoint)
                .map(|table| Ledger::inherit(table, addresses.unwrap_or_default()).clear())
                .and_then(|_| place.forget(endpoint, datapath));
            if let Err(error) = forgotten {
                tracing::warn!("entries of an earlier run: {error}");
            }
        }
    }

    /// Whether an endpoint is a cgroup, whose queries come to the node itself.
    pub(crate) fn has_cgroup(&self) -> bool {
        self.by_id
            .values()
            .any(|guarded| matches!(guarded.found.site, Site::Cgroup(_)))
    }

    /// Brings every endpoint that isn't there yet under its policy, whose tables [`Guards::prepare`]
    /// wrote: first the program that judges what it sends, then the one that judges what it gets.
    pub(crate) fn attach(
        &mut self,
        datapath: &mut Datapath,
        learner: &Learner<NodeTable>,
        gate: &Gate,
    ) {
        for (id, guarded) in &mut self.by_id {
            if guarded.state != EndpointState::Attaching {
                continue;
            }
            match attach(*id, guarded, datapath) {
                Ok(()) => guarded.state = EndpointState::Ready,
                Err(error) => refuse(*id, guarded, learner, &error),
            }
        }
        self.set_default_mtu(gate);
    }

    fn set_default_mtu(&self, gate: &Gate) {
        let links = self.by_id.values().filter_map(|one| one.found.link());
        let mtus = links.map(|link| link.mtu);
        if let Err(error) = gate.set_default_mtu(mtus.min().unwrap_or(MTU_DEFAULT)) {
            tracing::error!("the gate's routes: {error}");
        }
    }

    /// Tells a gate that was made anew how large a packet each endpoint takes.
    pub(crate) fn set_mtus(&self, gate: &Gate) {
        for link in self.by_id.values().filter_map(|one| one.found.link()) {
            if let Err(error) = gate.set_endpoint_mtu(&link.addresses, link.mtu) {
                tracing::error!("the gate's routes: {error}");
            }
        }
        self.set_default_mtu(gate);
    }

    /// Gives every endpoint the policy of the snapshot in force.
    pub(crate) fn reload(&self, learner: &Learner<NodeTable>) {
        for (id, guarded) in &self.by_id {
            if guarded.state != EndpointState::Ready {
                continue;
            }
            if let Err(error) = learner.reload(*id) {
                tracing::error!(endpoint = %guarded.found.workload.name, "keeps its old policy: {error}");
            }
        }
    }

    /// Looks whether the programs of each endpoint are still the first of their hooks, and sets right
    /// what isn't so; says what it was.
    pub(crate) fn watch(&mut self, datapath: &mut Datapath) -> Vec<String> {
        let mut seen = Vec::new();
        for (id, guarded) in &mut self.by_id {
            if guarded.state != EndpointState::Ready {
                continue;
            }
            let link = match &guarded.found.site {
                Site::Link(link) => link,
                Site::Cgroup(cgroup) => {
                    let id = (*id, guarded.found.workload.full_name());
                    seen.extend(cgroup::watch(datapath, (id, cgroup), &mut guarded.cgroup));
                    continue;
                }
            };
            for (hook, attachment) in HOOKS.into_iter().zip(&mut guarded.attachments) {
                let place = (hook, (link.name.as_str(), link.ifindex));
                match set_right(datapath, place, attachment) {
                    Ok(what) => seen.extend(what),
                    Err(error) => {
                        let name = &guarded.found.workload.name;
                        seen.push(format!("{name} may be open: {error:#}"));
                    }
                }
            }
        }
        seen
    }

    /// Pins the programs of every cgroup in a folder, for a datapath without pins.
    pub(crate) fn pin_cgroups(&mut self, pins: &Pins) -> Result<(), DatapathError> {
        self.by_id.values_mut().try_for_each(|guarded| {
            match (&guarded.found.site, &mut guarded.cgroup) {
                (Site::Cgroup(cgroup), Some(attachment)) => attachment.pin(pins, cgroup.id),
                (Site::Cgroup(_) | Site::Link(_), _) => Ok(()),
            }
        })
    }

    /// Takes all programs off.
    pub(crate) fn detach_all(&mut self) {
        for mut guarded in std::mem::take(&mut self.by_id).into_values() {
            guarded.detach();
        }
    }

    fn let_go(&mut self, id: EndpointId, datapath: &mut Datapath, learner: &Learner<NodeTable>) {
        let Some(mut guarded) = self.by_id.remove(&id) else {
            return;
        };
        let name = guarded.found.workload.name.clone();
        guarded.detach();
        learner.remove(id);
        let place = match &guarded.found.site {
            Site::Link(link) => Place::Link(link.ifindex),
            Site::Cgroup(cgroup) => Place::Cgroup(cgroup.id),
        };
        if let Err(error) = place.forget(id.get(), datapath) {
            tracing::warn!(endpoint = %name, "its entries: {error}");
        }
        tracing::info!(endpoint = %name, id = %id, "gone");
    }
}

/// Where the kernel knows an endpoint by.
enum Place {
    /// The index of an interface.
    Link(u32),
    /// The number of a cgroup.
    Cgroup(u64),
}

impl Place {
    fn forget(&self, endpoint: u32, datapath: &mut Datapath) -> Result<(), DatapathError> {
        match self {
            Self::Link(ifindex) => datapath.remove_endpoint(endpoint, *ifindex),
            Self::Cgroup(id) => datapath.remove_cgroup(endpoint, *id),
        }
    }
}

fn is_same_site(a: &Found, b: &Found) -> bool {
    let is_same_place = match (&a.site, &b.site) {
        (Site::Link(a), Site::Link(b)) => {
            a.ifindex == b.ifindex && a.name == b.name && a.workload_mac == b.workload_mac
        }
        (Site::Cgroup(a), Site::Cgroup(b)) => a.id == b.id,
        (Site::Link(_), Site::Cgroup(_)) | (Site::Cgroup(_), Site::Link(_)) => false,
    };
    is_same_place
        && a.workload.name == b.workload.name
        && a.workload.namespace == b.workload.namespace
}

fn refuse(
    id: EndpointId,
    guarded: &mut Guarded,
    learner: &Learner<NodeTable>,
    error: &anyhow::Error,
) {
    let name = &guarded.found.workload.name;
    tracing::error!(endpoint = %name, "can't be guarded and is open: {error:#}");
    guarded.detach();
    learner.remove(id);
    guarded.state = EndpointState::Refused(format!("{error:#}"));
}

fn prepare(
    id: EndpointId,
    guarded: &Guarded,
    (datapath, learner, gate): (&mut Datapath, &Learner<NodeTable>, &Gate),
    heritage: &Heritage,
) -> anyhow::Result<()> {
    let Some(link) = guarded.found.link() else {
        return match guarded.is_attached() {
            true => Ok(learner.reload(id)?),
            false => Ok(learner.adopt(id, Box::new(datapath.table(id.get())?), heritage)?),
        };
    };
    let entry = entry(id, link);
    if guarded.is_attached() {
        datapath.set_endpoint(&entry)?;
    } else {
        datapath.announce_endpoint(&entry)?;
    }
    gate.set_endpoint_mtu(&link.addresses, link.mtu)?;
    if guarded.is_attached() {
        // Only its addresses or labels changed.
        return Ok(learner.reload(id)?);
    }
    if !HOOKS
        .iter()
        .any(|hook| datapath.has_link(*hook, link.ifindex))
    {
        let others = strangers(&link.name, filters(link.ifindex)?);
        anyhow::ensure!(
            others.is_empty(),
            "{} carries programs of another Namegate ({}): two on one link make a packet storm",
            link.name,
            others.join(", ")
        );
    }
    Ok(learner.adopt(id, Box::new(datapath.table(id.get())?), heritage)?)
}

fn entry(id: EndpointId, link: &GuardedLink) -> EndpointEntry {
    EndpointEntry {
        endpoint: id.get(),
        ifindex: link.ifindex,
        workload_mac: link.workload_mac,
        host_mac: link.host_mac,
        addresses: link.addresses.clone(),
    }
}

/// What an endpoint's interface carries, in the order in which it is attached.
const HOOKS: [Hook; 2] = [Hook::FromEndpoint, Hook::ToEndpoint];

fn attach(id: EndpointId, guarded: &mut Guarded, datapath: &mut Datapath) -> anyhow::Result<()> {
    if guarded.is_attached() {
        return Ok(());
    }
    let name = &guarded.found.workload.name;
    match &guarded.found.site {
        Site::Link(link) => {
            for hook in HOOKS {
                let attachment = datapath.attach(hook, (&link.name, link.ifindex))?;
                guarded.attachments.push(Some(attachment));
            }
            // Both at once: what one of them sends to the proxy the other has to catch the answers of.
            datapath.set_endpoint(&entry(id, link))?;
            tracing::info!(endpoint = %name, id = %id, interface = %link.name, "guarded");
        }
        Site::Cgroup(cgroup) => {
            guarded.cgroup = Some(datapath.attach_cgroup(cgroup::place(id, cgroup))?);
            let path = cgroup.path.display();
            tracing::info!(endpoint = %name, id = %id, cgroup = %path, "guarded");
            if let Some(bypass) = &cgroup.bypass {
                tracing::warn!(endpoint = %name, "{bypass}");
            }
        }
    }
    Ok(())
}

/// Where the ledger of an endpoint writes to.
pub(crate) type NodeTable = Box<dyn Table + Send>;

/// Shares a learner.
pub(crate) type SharedLearner = Arc<Learner<NodeTable>>;
