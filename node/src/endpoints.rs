//! Who lives on this node, by files.

pub(crate) mod cgroup;
mod document;
pub(crate) mod file;
pub(crate) mod held;
pub(crate) mod netns;

use std::net::IpAddr;
use std::path::PathBuf;

use policy::{Label, Labels, Workload};

/// A workload that was found, and how to guard it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) workload: Workload,
    pub(crate) site: Site,
    /// Whether its denials are told and let pass.
    pub(crate) audit: bool,
    /// The file that names it.
    pub(crate) file: String,
    /// Its network namespace; `None` where only the host side of its link is known.
    pub(crate) netns: Option<PathBuf>,
    /// What is wrong with it although it is guarded; `None` for what isn't guarded yet.
    pub(crate) fault: Option<String>,
}

/// Where a workload is guarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    /// At its link to this node.
    Link(GuardedLink),
    /// At the sockets of its processes.
    Cgroup(GuardedCgroup),
}

impl Found {
    /// Its link, if it has one of its own.
    pub(crate) fn link(&self) -> Option<&GuardedLink> {
        match &self.site {
            Site::Link(link) => Some(link),
            Site::Cgroup(_) => None,
        }
    }

    /// Its addresses; the processes of a cgroup have those of the node.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        self.link().map_or(&[], |link| &link.addresses)
    }
}

/// The cgroup of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuardedCgroup {
    pub(crate) path: PathBuf,
    /// The inode of its directory, which is the kernel's number for it.
    pub(crate) id: u64,
    /// Who else resolves names for its processes, unseen.
    pub(crate) bypass: Option<String>,
}

/// The one link of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuardedLink {
    /// The host side.
    pub(crate) name: String,
    pub(crate) ifindex: u32,
    pub(crate) host_mac: [u8; 6],
    pub(crate) workload_mac: [u8; 6],
    /// Bytes.
    pub(crate) mtu: u32,
    pub(crate) addresses: Vec<IpAddr>,
}

/// A workload that can't be guarded, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// `namespace/name`.
    pub(crate) name: String,
    pub(crate) file: String,
    pub(crate) reason: String,
}

/// Labels as an endpoint file gives them: a key without a source is Kubernetes'.
pub(crate) fn labels_of(pairs: &std::collections::BTreeMap<String, String>) -> Labels {
    let mut labels = Labels::default();
    for (key, value) in pairs {
        labels.insert(match key.split_once(':') {
            Some((source, key)) => Label::new(source, key, value),
            None => Label::new("k8s", key, value),
        });
    }
    labels
}
