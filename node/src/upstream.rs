//! From whose address servers are asked and called in a workload's name.

use std::collections::BTreeSet;

use clap::ValueEnum;

/// Whose address a server sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UpstreamSource {
    /// The workload's; the node's where Cilium or Calico routes by BPF, which hands a workload what belongs to
    /// the proxy.
    Auto,
    /// The workload's own.
    Endpoint,
    /// The node's. A server that is an endpoint of this node still sees the workload over HTTP.
    Node,
}

impl UpstreamSource {
    /// Whether it is the node's, where these route by programs of their own.
    pub(crate) fn is_node(self, routers: &BTreeSet<String>) -> bool {
        match self {
            Self::Auto => !routers.is_empty(),
            Self::Endpoint => false,
            Self::Node => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_itself_it_is_the_nodes_where_others_route_by_programs() {
        let (none, some) = (
            BTreeSet::new(),
            BTreeSet::from(["cil_from_container".into()]),
        );
        for (source, without, with) in [
            (UpstreamSource::Auto, false, true),
            (UpstreamSource::Endpoint, false, false),
            (UpstreamSource::Node, true, true),
        ] {
            assert_eq!(source.is_node(&none), without, "{source:?}");
            assert_eq!(source.is_node(&some), with, "{source:?}");
        }
    }
}
