//! The endpoints of this node: found, judged, attached.

mod cgroup;
mod heritage;
mod sightings;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bpf_redirect::{
    Attachment, CgroupAttachment, Datapath, DatapathError, EndpointEntry, Hook, Inherited, Pins,
    Table, strangers,
};
use policy::{Cast, EndpointId, LocalEndpoint, Peer, Service};
use serde::Serialize;
use transport::Gate;

use crate::clock;
use crate::daemon::{filters, set_right};
use crate::endpoints::{Found, GuardedLink, Refused, Site};
use crate::learner::{Heritage, Learner};
use crate::remembered::Remembered;

/// One guarded endpoint.
pub(crate) struct Guarded {
    pub(crate) found: Found,
    pub(crate) state: EndpointState,
    /// What is wrong with it although it is guarded, as it was seen last.
    fault: Option<String>,
    /// Whether its tables are written as they should be.
    is_prepared: bool,
    /// Why what was last to be written or attached could not be. It is guarded as before, and it is tried again.
    trouble: Option<String>,
    /// Whether an earlier run guards it.
    is_inherited: bool,
    /// On its link, by the order of [`HOOKS`].
    attachments: Vec<Option<Attachment>>,
    /// On its cgroup.
    cgroup: Option<CgroupAttachment>,
}

impl Guarded {
    fn new(found: Found, is_inherited: bool) -> Self {
        Self {
            found,
            state: EndpointState::Attaching,
            fault: None,
            is_prepared: false,
            trouble: None,
            is_inherited,
            attachments: Vec::new(),
            cgroup: None,
        }
    }

    fn is_attached(&self) -> bool {
        !self.attachments.is_empty() || self.cgroup.is_some()
    }

    /// Whether its packets are judged already, by all programs of this run or by those of an earlier one.
    fn is_guarded(&self) -> bool {
        self.is_inherited || self.state == EndpointState::Ready
    }

    /// Why it isn't, or isn't quite, as it should be.
    pub(crate) fn reason(&self) -> Option<String> {
        let refused = match &self.state {
            EndpointState::Refused(reason) => Some(reason),
            EndpointState::Attaching | EndpointState::Ready => None,
        };
        let all: Vec<&str> = [refused, self.fault.as_ref(), self.trouble.as_ref()]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Writes its tables, if they aren't as they should be.
    fn prepare(
        &mut self,
        id: EndpointId,
        parts: (&mut Datapath, &Learner<NodeTable>, &Gate),
        (inherited, remembered): (&Inherited, &Remembered),
    ) {
        if self.is_prepared || matches!(self.state, EndpointState::Refused(_)) {
            return;
        }
        let learner = parts.1;
        let name = self.found.workload.full_name();
        let heritage = || {
            let learned = inherited.learned.get(&id.get());
            // Whoever has the same name, and isn't the one that asked, begins with nothing.
            let pairs = match inherited.has(id.get()) {
                true => remembered.of_endpoint(&name, (clock::wall(), clock::now())),
                false => Vec::new(),
            };
            Heritage {
                owner: name.clone(),
                pairs,
                addresses: learned.cloned().unwrap_or_default(),
            }
        };
        match prepare(id, self, parts, heritage) {
            Ok(()) => {
                self.is_prepared = true;
                self.trouble = None;
            }
            Err(error) => self.fail(id, learner, &error),
        }
    }

    /// Attaches its programs, once its tables are written.
    fn attach(&mut self, id: EndpointId, datapath: &mut Datapath, learner: &Learner<NodeTable>) {
        if self.state != EndpointState::Attaching || !self.is_prepared {
            return;
        }
        match attach(id, self, datapath) {
            Ok(()) => {
                self.state = EndpointState::Ready;
                self.trouble = None;
            }
            Err(error) => self.fail(id, learner, &error),
        }
    }

    /// What becomes of it where something could not be written or attached: if it is guarded it stays as it
    /// was, and it is tried again; else it is refused.
    fn fail(&mut self, id: EndpointId, learner: &Learner<NodeTable>, error: &anyhow::Error) {
        let (name, trouble) = (&self.found.workload.name, format!("{error:#}"));
        if !self.is_guarded() {
            tracing::error!(endpoint = %name, "can't be guarded and is open: {trouble}");
            self.detach();
            learner.remove(id);
            self.state = EndpointState::Refused(trouble);
            return;
        }
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::error!(endpoint = %name, "stays guarded as it was, and it is tried again: {trouble}");
        }
        self.trouble = Some(trouble);
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
    /// Its programs aren't attached yet: it is open, unless an earlier run guards it.
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

    /// Writes the tables of every endpoint that isn't guarded yet, or whose addresses changed: its
    /// programs judge by them from the first packet on.
    pub(crate) fn prepare(
        &mut self,
        datapath: &mut Datapath,
        learner: &Learner<NodeTable>,
        gate: &Gate,
    ) {
        let left = (&self.inherited, &self.remembered);
        for (id, guarded) in &mut self.by_id {
            guarded.prepare(*id, (datapath, learner, gate), left);
        }
    }

    /// Tries again what could not be written or attached at endpoints that are guarded already.
    pub(crate) fn try_again(
        &mut self,
        datapath: &mut Datapath,
        learner: &Learner<NodeTable>,
        gate: &Gate,
    ) {
        let left = (&self.inherited, &self.remembered);
        for (id, guarded) in &mut self.by_id {
            if guarded.trouble.is_some() {
                guarded.prepare(*id, (datapath, learner, gate), left);
                guarded.attach(*id, datapath, learner);
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
            guarded.attach(*id, datapath, learner);
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
            if !guarded.is_attached() {
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

fn prepare(
    id: EndpointId,
    guarded: &Guarded,
    (datapath, learner, gate): (&mut Datapath, &Learner<NodeTable>, &Gate),
    heritage: impl FnOnce() -> Heritage,
) -> anyhow::Result<()> {
    if let Some(link) = guarded.found.link() {
        prepare_link(id, (guarded, link), (datapath, gate))?;
    }
    // Only its addresses or labels changed, or the first try failed: what it knows stays known.
    if learner.knows(id) {
        return Ok(learner.reload(id)?);
    }
    let link = guarded.found.link().filter(|_| !guarded.is_attached());
    if let Some(link) = link {
        // They pass everything as yet, and take as long as the tables.
        let places = HOOKS.map(|hook| (hook, (link.name.as_str(), link.ifindex)));
        datapath.attach_ahead(&places, || Ok(()));
    }
    let table = datapath.table(id.get())?;
    let adopted = learner.adopt(id, Box::new(table), &heritage());
    if let (Err(_), Some(link)) = (&adopted, link) {
        datapath.give_up(link.ifindex);
    }
    Ok(adopted?)
}

fn prepare_link(
    id: EndpointId,
    (guarded, link): (&Guarded, &GuardedLink),
    (datapath, gate): (&mut Datapath, &Gate),
) -> anyhow::Result<()> {
    let is_ours = || {
        HOOKS
            .iter()
            .any(|hook| datapath.has_link(*hook, link.ifindex))
    };
    if !guarded.is_attached() && !is_ours() {
        let others = strangers(&link.name, filters(link.ifindex)?);
        anyhow::ensure!(
            others.is_empty(),
            "{} carries programs of another Namegate ({}): two on one link make a packet storm",
            link.name,
            others.join(", ")
        );
    }
    let entry = entry(id, link);
    if guarded.state == EndpointState::Ready {
        datapath.set_endpoint(&entry)?;
    } else {
        datapath.announce_endpoint(&entry)?;
    }
    // Nothing opens by a packet that is too large; a side link that is made anew is told again.
    if let Err(error) = gate.set_endpoint_mtu(&link.addresses, link.mtu) {
        let name = &guarded.found.workload.name;
        tracing::error!(endpoint = %name, "the gate's routes: {error}");
    }
    Ok(())
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
    let name = &guarded.found.workload.name;
    match &guarded.found.site {
        Site::Link(link) => {
            // The first may be there from a try before.
            for hook in HOOKS.into_iter().skip(guarded.attachments.len()) {
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
