//! The cast: pods on a bridge, the cluster's DNS server, and the Internet behind the node.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use anyhow::{Context, Result};
use policy::Workload;
use transport::{HostLink, NetNs, PrivateHost, PrivateNode};

use super::servers::{self, Servers};
use crate::endpoints::file::Roster;
use crate::endpoints::{Found, Site, labels_of, netns};

/// A pod of the story.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod {
    pub(super) name: &'static str,
    namespace: &'static str,
    label: (&'static str, &'static str),
    /// `v1`, `v2` …, where several versions run side by side.
    version: Option<&'static str>,
    /// The last octet of its address.
    last: u8,
}

/// Everybody on the bridge.
pub(super) const PODS: [Pod; 8] = [
    Pod {
        namespace: "kube-system",
        ..Pod::new("coredns", ("k8s-app", "kube-dns"), 10)
    },
    Pod::new("internal-client", ("app", "internal-client"), 11),
    Pod::new("productpage-v1", ("app", "productpage"), 12),
    Pod::new("details-v1", ("app", "details"), 13),
    Pod {
        version: Some("v1"),
        ..Pod::new("reviews-v1", ("app", "reviews"), 14)
    },
    Pod {
        version: Some("v2"),
        ..Pod::new("reviews-v2", ("app", "reviews"), 15)
    },
    Pod {
        version: Some("v3"),
        ..Pod::new("reviews-v3", ("app", "reviews"), 16)
    },
    Pod::new("ratings-v1", ("app", "ratings"), 17),
];

impl Pod {
    const fn new(name: &'static str, label: (&'static str, &'static str), last: u8) -> Self {
        Self {
            name,
            namespace: "default",
            label,
            version: None,
            last,
        }
    }

    /// Its IPv4 address.
    pub(super) const fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, self.last)
    }

    fn v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(self.last))
    }

    fn named(name: &str) -> Result<&'static Self> {
        PODS.iter()
            .find(|pod| pod.name == name)
            .with_context(|| format!("no pod {name}"))
    }
}

/// The cluster's DNS server.
pub(super) const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
const GATEWAY: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 0, 0, 1),
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
);
/// The documentation's networks stand for the Internet.
const INTERNET: [(IpAddr, u8); 3] = [
    (IpAddr::V4(Ipv4Addr::new(198, 51, 100, 0)), 24),
    (IpAddr::V4(Ipv4Addr::new(203, 0, 113, 0)), 24),
    (
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0)),
        32,
    ),
];

/// Namespaces, links and servers.
pub(super) struct Stage {
    pub(super) node: PrivateNode,
    hosts: Vec<(&'static Pod, PrivateHost)>,
    _internet: PrivateHost,
    _servers: Servers,
}

impl Stage {
    /// Builds all of it.
    pub(super) fn build() -> Result<Self> {
        let node = PrivateNode::create((GATEWAY.0, 24), (GATEWAY.1, 64))?;
        let mut hosts = Vec::new();
        for pod in &PODS {
            let name = format!(
                "v{}",
                pod.name.get(..pod.name.len().min(14)).unwrap_or(pod.name)
            );
            let link = HostLink {
                name: &name,
                v4: (pod.v4(), 24),
                v6: (pod.v6(), 64),
            };
            hosts.push((pod, node.add_host_on_bridge(&link, GATEWAY)?));
        }
        let (near, far) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        let near6 = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1);
        let far6 = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2);
        let internet = node.add_host(&HostLink {
            name: "uplink",
            v4: (far, 24),
            v6: (far6, 64),
        })?;
        node.route_to(
            &internet,
            &[(IpAddr::V4(near), 24), (IpAddr::V6(near6), 64)],
            &INTERNET,
        )?;
        internet.route_by((near, near6))?;
        internet.own_all_of(&INTERNET)?;
        let servers = servers::start(&internet.ns, |name| {
            hosts
                .iter()
                .find(|(pod, _)| pod.name == name)
                .map(|(_, host)| host.ns.clone())
        })?;
        Ok(Self {
            node,
            hosts,
            _internet: internet,
            _servers: servers,
        })
    }

    /// A pod's namespace.
    pub(super) fn ns(&self, name: &str) -> Result<&NetNs> {
        let pod = Pod::named(name)?;
        let host = self.hosts.iter().find(|(other, _)| other.name == pod.name);
        Ok(&host.with_context(|| format!("no host {name}"))?.1.ns)
    }

    /// The pods as endpoints; called from the node's namespace.
    pub(super) fn roster(&self) -> Result<Roster> {
        let mut roster = Roster::default();
        for (pod, host) in &self.hosts {
            let path = PathBuf::from(format!("/proc/self/fd/{}", host.ns.as_fd().as_raw_fd()));
            let link = netns::inspect(&path).map_err(anyhow::Error::msg)?;
            let (key, value) = pod.label;
            let mut pairs = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            pairs.extend(
                pod.version
                    .map(|version| ("version".to_owned(), version.to_owned())),
            );
            let labels = labels_of(&pairs);
            let workload = Workload {
                namespace: pod.namespace.to_owned(),
                name: pod.name.to_owned(),
                labels,
                ports: policy::NamedPorts::new(),
                owner: None,
            };
            roster.found.push(Found {
                workload,
                site: Site::Link(link),
                audit: false,
                file: "the demo".to_owned(),
                netns: None,
                fault: None,
            });
        }
        Ok(roster)
    }

    /// Names the namespaces for `ip netns exec`; the node's comes last, after `before_last`.
    /// If anything fails no name is left.
    pub(super) fn give_names(&self, before_last: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut given = Vec::new();
        let mut give = |ns: &NetNs, path: PathBuf| -> Result<()> {
            ns.pin(&path)
                .with_context(|| format!("the name {}", path.display()))?;
            given.push(path);
            Ok(())
        };
        let outcome = self
            .hosts
            .iter()
            .try_for_each(|(pod, host)| give(&host.ns, name_path(pod.name)))
            .and_then(|()| before_last())
            .and_then(|()| give(&self.node.ns, name_of_node()));
        if outcome.is_err() {
            for path in &given {
                NetNs::unpin(path).with_context(|| path.display().to_string())?;
            }
        }
        outcome
    }
}

const NAMES: &str = "/run/netns";
const NAME_PREFIX: &str = "namegate-demo-";

fn name_path(name: &str) -> PathBuf {
    PathBuf::from(NAMES).join(format!("{NAME_PREFIX}{name}"))
}

/// The name of the node's namespace.
pub(super) fn name_of_node() -> PathBuf {
    name_path("node")
}

/// Every name that a demo gave.
fn names() -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(NAMES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(NAMES),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.context(NAMES)?;
        if entry.file_name().to_string_lossy().starts_with(NAME_PREFIX) {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

/// Whether a demo gave names that nobody took away.
pub(super) fn has_names() -> Result<bool> {
    Ok(!names()?.is_empty())
}

/// Takes every name away that a demo gave; says how many.
pub(super) fn forget_names() -> Result<usize> {
    let names = names()?;
    for path in &names {
        NetNs::unpin(path).with_context(|| path.display().to_string())?;
    }
    Ok(names.len())
}
