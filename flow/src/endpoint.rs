//! The two peers of a flow, and the policies that decided.

use std::sync::Arc;

/// One peer. Cloning shares all text, so that an endpoint's peer can be made once and put into each
/// of its flows.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Endpoint {
    /// The number on this node; 0 for everybody else.
    pub id: u32,
    /// The identity; 0 is not known.
    pub identity: u32,
    /// The cluster; empty when it is not told.
    pub cluster_name: Arc<str>,
    /// The namespace; empty outside of the cluster.
    pub namespace: Arc<str>,
    /// `source:key=value`, sorted.
    pub labels: Arc<[Arc<str>]>,
    /// The pod; empty where there is none.
    pub pod_name: Arc<str>,
    /// What made the pod; empty where that is not known.
    pub workloads: Arc<[Workload]>,
}

/// What made a pod, a Deployment for example.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Workload {
    /// Its name.
    pub name: Arc<str>,
    /// Its kind.
    pub kind: Arc<str>,
}

/// A policy that decided.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct PolicyRef {
    /// Its name.
    pub name: Arc<str>,
    /// Its namespace; empty for one of the whole cluster.
    pub namespace: Arc<str>,
    /// Its labels.
    pub labels: Arc<[Arc<str>]>,
    /// The revision of the whole policy set at that time; 0 when it is not told.
    pub revision: u64,
    /// `CiliumNetworkPolicy` for example.
    pub kind: Arc<str>,
}
