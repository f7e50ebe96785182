//! What a relay tells of the nodes behind it.

use std::sync::Arc;

use crate::time::Time;

/// Nodes that came, went or can't be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeStatus {
    /// What became of them.
    pub change: NodeChange,
    /// Which ones.
    pub nodes: Vec<Arc<str>>,
    /// Why, where something is wrong.
    pub message: Arc<str>,
    /// Who tells it.
    pub node_name: Arc<str>,
    /// When.
    pub time: Option<Time>,
}

/// What can become of a node.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum NodeChange {
    /// It is not known what.
    #[default]
    Unknown,
    /// Its flows come.
    Connected,
    /// It can't be reached.
    Unavailable,
    /// It is no node any more.
    Gone,
    /// Its flows can't be read.
    Error,
}

impl NodeChange {
    const ALL: [Self; 5] = [
        Self::Unknown,
        Self::Connected,
        Self::Unavailable,
        Self::Gone,
        Self::Error,
    ];

    /// The name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN_NODE_STATE",
            Self::Connected => "NODE_CONNECTED",
            Self::Unavailable => "NODE_UNAVAILABLE",
            Self::Gone => "NODE_GONE",
            Self::Error => "NODE_ERROR",
        }
    }

    /// The change of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|change| change.name() == name)
    }

    /// The change of this number.
    #[must_use]
    pub fn from_number(number: usize) -> Option<Self> {
        Self::ALL.get(number).copied()
    }

    /// Whether it is of interest only to who looks for a fault.
    #[must_use]
    pub const fn is_usual(self) -> bool {
        matches!(self, Self::Connected | Self::Gone)
    }
}
