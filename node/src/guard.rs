//! The endpoints of this node: found, judged, attached.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bpf_redirect::{Attachment, Datapath, EndpointEntry, Hook, KernelTable, strangers};
use policy::{Cast, EndpointId, LocalEndpoint, Peer, Service};
use serde::Serialize;
use transport::Gate;

use crate::endpoints::file::Roster;
use crate::endpoints::{Found, Refused};
use crate::learner::Learner;

/// One guarded endpoint.
pub(crate) struct Guarded {
    pub(crate) found: Found,
    pub(crate) state: EndpointState,
    attachments: Vec<Attachment>,
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
}

/// The smallest MTU that the gate assumes where no endpoint says less.
const MTU_DEFAULT: u32 = 1_500;

impl Guards {
    /// Everybody that policy must know.
    pub(crate) fn cast(&self, host_addresses: Vec<IpAddr>) -> Cast {
        let endpoints = self.by_id.iter().map(|(id, guarded)| LocalEndpoint {
            id: *id,
            workload: guarded.found.workload.clone(),
            addresses: guarded.found.link.addresses.clone(),
            audit: guarded.found.audit,
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

    /// Takes a new roster in. Endpoints that are gone or have another link are let go; new ones get a
    /// number and wait for [`Guards::attach`]. Says whether anything is different.
    pub(crate) fn update(
        &mut self,
        roster: Roster,
        datapath: &mut Datapath,
        learner: &Learner<KernelTable>,
    ) -> bool {
        let mut different = roster.refused != self.refused
            || roster.peers != self.peers
            || roster.services != self.services;
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
                    .any(|found| is_same_link(found, &guarded.found))
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
                .position(|found| is_same_link(found, &guarded.found));
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
            }
        }
        wanted.sort_by(|a, b| a.workload.name.cmp(&b.workload.name));
        for found in wanted {
            let Some(id) = self.last_id.checked_add(1).and_then(EndpointId::new) else {
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
            self.last_id = id.get();
            self.by_id.insert(
                id,
                Guarded {
                    found,
                    state: EndpointState::Attaching,
                    attachments: Vec::new(),
                },
            );
        }
        different
    }

    /// Brings every endpoint that isn't there yet under its policy: tables first, then the program
    /// that judges what it sends, then the one that judges what it gets.
    pub(crate) fn attach(
        &mut self,
        datapath: &mut Datapath,
        learner: &Learner<KernelTable>,
        gate: &Gate,
    ) {
        for (id, guarded) in &mut self.by_id {
            if guarded.state != EndpointState::Attaching {
                continue;
            }
            guarded.state = match attach(*id, guarded, (datapath, learner, gate)) {
                Ok(()) => EndpointState::Ready,
                Err(error) => {
                    let name = &guarded.found.workload.name;
                    tracing::error!(endpoint = %name, "can't be guarded and is open: {error:#}");
                    for attachment in guarded.attachments.drain(..) {
                        let _ = attachment.detach();
                    }
                    learner.remove(*id);
                    EndpointState::Refused(format!("{error:#}"))
                }
            };
        }
        let smallest = self
            .by_id
            .values()
            .map(|guarded| guarded.found.link.mtu)
            .min();
        if let Err(error) = gate.set_default_mtu(smallest.unwrap_or(MTU_DEFAULT)) {
            tracing::error!("the gate's routes: {error}");
        }
    }

    /// Gives every endpoint the policy of the snapshot in force.
    pub(crate) fn reload(&self, learner: &Learner<KernelTable>) {
        for (id, guarded) in &self.by_id {
            if guarded.state != EndpointState::Ready {
                continue;
            }
            if let Err(error) = learner.reload(*id) {
                tracing::error!(endpoint = %guarded.found.workload.name, "keeps its old policy: {error}");
            }
        }
    }

    /// Takes all programs off.
    pub(crate) fn detach_all(&mut self) {
        for guarded in std::mem::take(&mut self.by_id).into_values() {
            detach(guarded);
        }
    }

    fn let_go(&mut self, id: EndpointId, datapath: &mut Datapath, learner: &Learner<KernelTable>) {
        let Some(guarded) = self.by_id.remove(&id) else {
            return;
        };
        let ifindex = guarded.found.link.ifindex;
        let name = guarded.found.workload.name.clone();
        detach(guarded);
        learner.remove(id);
        if let Err(error) = datapath.remove_endpoint(id.get(), ifindex) {
            tracing::warn!(endpoint = %name, "its entries: {error}");
        }
        tracing::info!(endpoint = %name, id = %id, "gone");
    }
}

fn is_same_link(a: &Found, b: &Found) -> bool {
    a.workload.name == b.workload.name
        && a.workload.namespace == b.workload.namespace
        && a.link.ifindex == b.link.ifindex
        && a.link.name == b.link.name
        && a.link.workload_mac == b.link.workload_mac
}

fn detach(guarded: Guarded) {
    for attachment in guarded.attachments {
        // The interface, and the program with it, may be gone.
        let _ = attachment.detach();
    }
}

fn attach(
    id: EndpointId,
    guarded: &mut Guarded,
    (datapath, learner, gate): (&mut Datapath, &Learner<KernelTable>, &Gate),
) -> anyhow::Result<()> {
    let link = &guarded.found.link;
    datapath.set_endpoint(&EndpointEntry {
        endpoint: id.get(),
        ifindex: link.ifindex,
        workload_mac: link.workload_mac,
        host_mac: link.host_mac,
        addresses: link.addresses.clone(),
    })?;
    gate.set_endpoint_mtu(&link.addresses, link.mtu)?;
    if !guarded.attachments.is_empty() {
        // Only its addresses or labels changed.
        return Ok(learner.reload(id)?);
    }
    let others = strangers(&link.name);
    anyhow::ensure!(
        others.is_empty(),
        "{} carries programs of another Namegate ({}): two on one link make a packet storm",
        link.name,
        others.join(", ")
    );
    learner.add(id, datapath.table(id.get())?)?;
    for hook in [Hook::FromEndpoint, Hook::ToEndpoint] {
        guarded
            .attachments
            .push(datapath.attach(hook, (&link.name, link.ifindex))?);
    }
    tracing::info!(endpoint = %guarded.found.workload.name, id = %id, interface = %link.name, "guarded");
    Ok(())
}

/// Shares a learner.
pub(crate) type SharedLearner = Arc<Learner<KernelTable>>;
