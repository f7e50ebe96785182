//! Who there is: the workloads of this node, those of others, and the node itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::selector::namespace_labels;
use crate::{EndpointId, L4Protocol, Label, Labels};

/// A workload, on this node or another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its own labels; those of its namespace come on top.
    pub labels: Labels,
    /// What it calls its ports.
    pub ports: NamedPorts,
    /// What it belongs to, if that is known; no verdict depends on it.
    pub owner: Option<Owner>,
}

/// What a workload belongs to, a Deployment for example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The kind of that.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Ports by the names that a workload gives them.
pub type NamedPorts = BTreeMap<Box<str>, (u16, L4Protocol)>;

impl Workload {
    /// `namespace/name`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// All labels that policy sees: its own, and those it has by being in its namespace. Who has a
    /// label `reserved:<name>` is no workload of a namespace (a node, a health check), and has those.
    #[must_use]
    pub fn full_labels(&self) -> Labels {
        let reserved = self.labels.iter().filter(|label| label.is_reserved());
        let mut reserved: Labels = reserved.cloned().collect();
        if !reserved.is_empty() {
            if reserved.has_reserved("kube-apiserver") {
                reserved.insert(Label::reserved("remote-node"));
            }
            return reserved;
        }
        let mut labels = self.labels.clone();
        for label in namespace_labels(&self.namespace) {
            labels.insert(label);
        }
        labels
    }
}

/// A workload of this node, which policy guards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// Its number.
    pub id: EndpointId,
    /// What it is.
    pub workload: Workload,
    /// Its addresses, link-local ones too.
    pub addresses: Vec<IpAddr>,
    /// Whether its denials are told and let pass.
    pub audit: bool,
    /// Whether its flows can be led to the proxy for requests and names: a cgroup's can't.
    pub is_redirectable: bool,
}

/// A workload that is not on this node: it gives labels to addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it is.
    pub workload: Workload,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A service: a name for some backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its own labels, for `k8sServiceSelector`.
    pub labels: Labels,
    /// Where it ends.
    pub backends: Vec<IpAddr>,
    /// What workloads send to in place of a backend.
    pub frontends: Vec<Frontend>,
}

/// A virtual address and port of a service (a ClusterIP): the node sends on to a backend what is sent
/// there, after policy has judged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frontend {
    /// The virtual address.
    pub vip: IpAddr,
    /// The protocol.
    pub protocol: L4Protocol,
    /// The service's port.
    pub port: u16,
    /// The backends' port: the one that rules mean.
    pub target: u16,
}

/// Everybody that a snapshot knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cast {
    /// The workloads of this node.
    pub endpoints: Vec<LocalEndpoint>,
    /// Workloads elsewhere.
    pub peers: Vec<Peer>,
    /// What `toServices` selects among.
    pub services: Vec<Service>,
    /// The node's own addresses; they win over a workload's (a host-network pod is the host).
    pub host_addresses: Vec<IpAddr>,
}

impl Cast {
    /// All workloads with their addresses, peers first: where two claim an address, the endpoint
    /// of this node has it.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = (&Workload, &[IpAddr])> {
        let peers = self.peers.iter();
        let peers = peers.map(|peer| (&peer.workload, peer.addresses.as_slice()));
        let endpoints = self.endpoints.iter();
        peers.chain(endpoints.map(|one| (&one.workload, one.addresses.as_slice())))
    }
}
