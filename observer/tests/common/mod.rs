//! What tests of the services share.

use std::sync::Arc;
use std::time::Instant;

use flow::Time;
use observer::{AgentRing, Node, NodeAddresses, SharedRing};

/// A node that nothing is known of.
pub(crate) fn node() -> Node {
    Node {
        name: "node-1".into(),
        version: "0.3.0".into(),
        flows: Arc::new(SharedRing::new(8, Instant::now())),
        agent: Arc::new(AgentRing::default()),
        exact_masks: false,
        now: Instant::now,
        time_of_day: || Time::from_unix_nanos(0),
        addresses: NodeAddresses::default,
    }
}
