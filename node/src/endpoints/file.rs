//! Endpoint files: one workload a document.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use policy::{Cast, EndpointId, LocalEndpoint, Peer, Service};

use super::document::{self, Document, Documents, Reader};
use super::{Found, Refused, Site, cgroup, netns};
use crate::files::TextFile;

/// What the endpoint folder says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Roster {
    /// Workloads of this node.
    pub(crate) found: Vec<Found>,
    /// Workloads that aren't on this node.
    pub(crate) peers: Vec<Peer>,
    /// What `toServices` selects among.
    pub(crate) services: Vec<Service>,
    /// Workloads of this node that can't be guarded.
    pub(crate) refused: Vec<Refused>,
}

/// Reads endpoint files and looks at the workloads that they name, from the node's namespace.
///
/// # Errors
/// If a document can't be read: then none of the folder counts.
pub(crate) fn read(files: &[TextFile]) -> Result<Roster, Vec<String>> {
    document::read(files, Reader::Daemon).map(take)
}

/// Reads endpoint files for a tool, without a look at the node: the workloads that have no addresses
/// in their documents have none. Endpoints are numbered in order.
///
/// # Errors
/// If a document can't be read.
pub(crate) fn describe(files: &[TextFile]) -> Result<Cast, Vec<String>> {
    let documents = document::read(files, Reader::Tool)?;
    let mut cast = Cast {
        services: documents.services,
        ..Cast::default()
    };
    for (number, (_, document)) in (1..).zip(documents.endpoints) {
        let (workload, audit) = (document.workload(), document.audit);
        let is_redirectable = !document.is_in_cgroup();
        let addresses = document.addresses.unwrap_or_default();
        let is_workload = !workload
            .labels
            .iter()
            .any(|label| label.source() == "reserved");
        match EndpointId::new(number) {
            Some(id) if is_workload || !document.remote => cast.endpoints.push(LocalEndpoint {
                id,
                workload,
                addresses,
                audit,
                is_redirectable,
            }),
            Some(_) | None => cast.peers.push(Peer {
                workload,
                addresses,
            }),
        }
    }
    Ok(cast)
}

/// The network namespaces that endpoint files name, each with its endpoint; none, if a document can't
/// be read.
pub(crate) fn namespaces(files: &[TextFile]) -> Vec<(String, PathBuf)> {
    let documents = document::read(files, Reader::Daemon).unwrap_or_default();
    let all = documents.endpoints.into_iter();
    all.filter_map(|(_, document)| {
        let name = document.full_name();
        Some((name, document.netns?))
    })
    .collect()
}

fn take(documents: Documents) -> Roster {
    let mut roster = Roster {
        services: documents.services,
        ..Roster::default()
    };
    for (file, document) in documents.endpoints {
        let workload = document.workload();
        if document.remote {
            roster.peers.push(Peer {
                workload,
                addresses: document.addresses.unwrap_or_default(),
            });
            continue;
        }
        let (name, mac, audit) = (document.full_name(), document.mac(), document.audit);
        match site(&document, mac) {
            Ok(site) => roster.found.push(Found {
                workload,
                site,
                audit,
                file,
                netns: document.netns,
            }),
            Err(reason) => roster.refused.push(Refused { name, file, reason }),
        }
    }
    refuse_shared(&mut roster);
    roster
}

/// Where a workload is found.
fn site(document: &Document, mac: Option<[u8; 6]>) -> Result<Site, String> {
    if let Some(path) = &document.netns {
        return netns::inspect(path).map(Site::Link);
    }
    if let Some(interface) = &document.interface {
        let addresses = document.addresses.clone().unwrap_or_default();
        return netns::by_interface(interface, mac, addresses).map(Site::Link);
    }
    let cgroup = match (&document.cgroup, &document.unit) {
        (Some(path), _) => path.clone(),
        (None, Some(unit)) => cgroup::of_unit(unit)?,
        (None, None) => return Err("neither netns nor interface nor cgroup nor unit".to_owned()),
    };
    cgroup::inspect(&cgroup).map(Site::Cgroup)
}

/// Two endpoints with one address can't be told apart by their peers, and two on one link or in one cgroup
/// not at all: the second is refused, with both names. A link-local address is each link's own.
fn refuse_shared(roster: &mut Roster) {
    let mut taken = Taken::default();
    for found in std::mem::take(&mut roster.found) {
        let name = found.workload.full_name();
        match taken.take(&name, &found.site) {
            Ok(()) => roster.found.push(found),
            Err(reason) => roster.refused.push(Refused {
                name,
                file: found.file,
                reason,
            }),
        }
    }
}

/// What endpoints have, each with the name of who has it.
#[derive(Default)]
struct Taken {
    links: BTreeMap<u32, String>,
    addresses: BTreeMap<IpAddr, String>,
    cgroups: BTreeMap<PathBuf, String>,
}

impl Taken {
    fn take(&mut self, name: &str, site: &Site) -> Result<(), String> {
        let link = match site {
            Site::Link(link) => link,
            Site::Cgroup(one) => {
                for (path, other) in &self.cgroups {
                    if let Some(what) = cgroup::clash(&one.path, path) {
                        return Err(format!("{other} {what} ({})", path.display()));
                    }
                }
                self.cgroups.insert(one.path.clone(), name.to_owned());
                return Ok(());
            }
        };
        let addresses = || link.addresses.iter();
        if let Some(first) = self.links.get(&link.ifindex) {
            return Err(format!("{first} has the same link"));
        }
        if let Some(first) = addresses().find_map(|ip| self.addresses.get(ip)) {
            return Err(format!("{first} has the same address"));
        }
        self.links.insert(link.ifindex, name.to_owned());
        let routed = addresses().filter(|ip| !is_link_local(**ip));
        self.addresses
            .extend(routed.map(|ip| (*ip, name.to_owned())));
        Ok(())
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Roster, Vec<String>> {
        read(&[TextFile {
            path: "e.yaml".into(),
            text: text.to_owned(),
        }])
    }

    #[test]
    fn a_remote_endpoint_gives_labels_to_addresses() {
        let roster = read_text(
            "name: kube-dns\nnamespace: kube-system\nremote: true\naddresses: [10.0.0.9, 'fd00::9']\n\
             labels: {k8s-app: kube-dns, 'container:x': y}\n",
        )
        .unwrap();
        let peer = roster.peers.first().unwrap();
        assert_eq!(peer.addresses.len(), 2);
        assert_eq!(
            peer.workload.labels.to_sorted_text(),
            "container:x=y;k8s:k8s-app=kube-dns;"
        );
    }

    #[test]
    fn what_an_endpoint_file_may_not_say() {
        for (text, reason) in [
            (
                "name: a\n",
                "exactly one of netns, interface, cgroup and unit",
            ),
            ("name: a\nnetns: /x\ninterface: v\n", "exactly one"),
            ("name: a\nremote: true\n", "needs addresses"),
            (
                "name: a\nremote: true\nnetns: /x\naddresses: [10.0.0.1]\n",
                "neither netns nor interface",
            ),
            ("name: a\ninterface: v\n", "interface needs addresses"),
            (
                "name: a\ninterface: v\naddresses: [10.0.0.1]\nmac: 1:2\n",
                "six hexadecimal octets",
            ),
            ("name: a/b\nnetns: /x\n", "without / and space"),
            (
                "name: a\nnetns: /x\naddresses: [10.0.0.1]\n",
                "read from the workload",
            ),
            ("name: a\nremote: true\naddresses: [10.0.0]\n", "e.yaml"),
            ("name: a\nnetns: /x\ncgroup: /y\n", "exactly one"),
            ("name: a\ncgroup: y\n", "cgroup is an absolute path"),
            (
                "name: a\nunit: nginx\n",
                "unit: \"nginx\" is no name of a .service",
            ),
            ("name: a\nunit: x.service\ncgroup: /y\n", "exactly one"),
            (
                "name: a\nunit: x.service\naddresses: [10.0.0.1]\n",
                "with unit, addresses are the node's",
            ),
            (
                "name: a\ncgroup: /y\naddresses: [10.0.0.1]\n",
                "with cgroup, addresses are the node's",
            ),
            (
                "name: a\nremote: true\ncgroup: /y\naddresses: [10.0.0.1]\n",
                "neither netns nor interface nor cgroup",
            ),
            ("name: a\nnetns: /x\nports: {http: x}\n", "PORT/PROTOCOL"),
            (
                "name: a\nnetns: /x\nports: {http: 80/ICMP}\n",
                "none of TCP",
            ),
            ("services: [{name: a, ports: [{port: 0}]}]\n", "1 to 65535"),
            (
                "services: [{name: a}, {name: a}]\n",
                "service default/a is in",
            ),
            (
                "name: a\nnetns: /x\nworkload: {kind: '', name: b}\n",
                "workload",
            ),
            (
                "name: a\nremote: true\naddresses: [10.0.0.1]\n---\nname: a\nremote: true\naddresses: [10.0.0.2]\n",
                "already",
            ),
        ] {
            let errors = read_text(text).unwrap_err().join("\n");
            assert!(errors.contains(reason), "{text}: {errors}");
        }
    }

    #[test]
    fn an_error_names_its_place_in_one_line() {
        for (text, expected) in [
            (
                "name: a\nnetsn: /x\n",
                "e.yaml:2:1: error: unknown field `netsn`, expected one of",
            ),
            (
                "name: a\nnetns: /x\n---\nname: b\n",
                "e.yaml:4:1: error: endpoint default/b: exactly one of netns, interface, cgroup and unit",
            ),
            ("name: a\nlabels: [x]\nnetns: /x\n", "e.yaml:2:9: error: "),
            ("name: [\n", "e.yaml:"),
            (
                "labels: {a: b}\nnetns: /x\n",
                "e.yaml:1:1: error: missing field `name`",
            ),
        ] {
            let errors = read_text(text).unwrap_err();
            assert_eq!(errors.len(), 1, "{errors:?}");
            let error = errors.first().unwrap();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn a_workload_that_is_not_there_is_refused_by_name() {
        let roster = read_text("name: gone\nnetns: /nowhere\n").unwrap();
        let refused = roster.refused.first().unwrap();
        assert_eq!(refused.name, "default/gone");
        assert!(refused.reason.contains("/nowhere"), "{}", refused.reason);
    }

    #[test]
    fn a_tool_reads_without_a_look_at_the_node() {
        let text = "name: a\nnetns: /nowhere\naddresses: [10.0.0.2]\nports: {HTTP: 8080/tcp}\naudit: true\n\
                    workload: {kind: Deployment, name: a}\n---\nname: b\nremote: true\naddresses: [10.0.0.3]\n\
                    ---\nname: n\nremote: true\naddresses: [192.0.2.1]\nlabels: {'reserved:remote-node': ''}\n\
                    ---\nservices: [{name: dns, namespace: kube-system, vip: 10.96.0.10, backends: [10.0.0.9],\n\
                    ports: [{port: 53, protocol: UDP, target: 53}]}]\n";
        let file = TextFile {
            path: "e.yaml".into(),
            text: text.to_owned(),
        };
        let cast = describe(&[file]).unwrap();
        let names: Vec<_> = cast
            .endpoints
            .iter()
            .map(|one| one.workload.name.as_str())
            .collect();
        assert_eq!(names, ["a", "b"]);
        let first = cast.endpoints.first().unwrap();
        assert!(first.audit);
        let port = first.workload.ports.get("http").unwrap();
        assert_eq!(*port, (8080, policy::L4Protocol::Tcp));
        let owner = first.workload.owner.as_ref().unwrap();
        assert_eq!((&*owner.kind, &*owner.name), ("Deployment", "a"));
        assert_eq!(cast.peers.len(), 1);
        assert_eq!(cast.services.first().unwrap().backends.len(), 1);
        // The daemon reads a netns itself.
        assert!(read_text("name: a\nnetns: /x\naddresses: [10.0.0.2]\n").is_err());
    }
}
