//! Endpoint files: one workload a document.

mod taken;

use std::collections::BTreeSet;
use std::path::PathBuf;

use policy::{Cast, EndpointId, LocalEndpoint, Peer, Service};

pub(crate) use super::document::Documents;
use super::document::{self, Document, Reader};
use super::held::Held;
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

/// Reads endpoint files.
///
/// # Errors
/// If a document can't be read: then none of the folder counts.
pub(crate) fn read(files: &[TextFile]) -> Result<Documents, Vec<String>> {
    document::read(files, Reader::Daemon)
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

/// Looks at the workloads that documents name, from the node's namespace.
pub(crate) fn look(documents: Documents, held: &Held) -> Roster {
    let mut roster = Roster {
        services: documents.services,
        ..Roster::default()
    };
    let mut named = BTreeSet::new();
    for (file, document) in documents.endpoints {
        let workload = document.workload();
        if document.remote {
            roster.peers.push(Peer {
                workload,
                addresses: document.addresses.unwrap_or_default(),
            });
            continue;
        }
        let (name, audit) = (document.full_name(), document.audit);
        named.insert(name.clone());
        match site(&document, (&name, held)) {
            Ok((site, faults)) => roster.found.push(Found {
                workload,
                site,
                audit,
                file,
                netns: document.netns,
                fault: (!faults.is_empty()).then(|| faults.join("; ")),
            }),
            Err(reason) => roster.refused.push(Refused { name, file, reason }),
        }
    }
    taken::refuse_shared(&mut roster, (held, &named));
    roster
}

/// Where a workload is found, and what is wrong with it although it is guarded.
fn site(document: &Document, held: (&str, &Held)) -> Result<(Site, Vec<String>), String> {
    if let Some(path) = &document.netns {
        let sighted = netns::look(path, held)?;
        return Ok((Site::Link(sighted.link), sighted.faults));
    }
    if let Some(interface) = &document.interface {
        let addresses = document.addresses.clone().unwrap_or_default();
        let sighted = netns::by_interface(interface, (document.mac(), addresses), held)?;
        return Ok((Site::Link(sighted.link), sighted.faults));
    }
    let cgroup = match (&document.cgroup, &document.unit) {
        (Some(path), _) => path.clone(),
        (None, Some(unit)) => cgroup::of_unit(unit)?,
        (None, None) => return Err("neither netns nor interface nor cgroup nor unit".to_owned()),
    };
    Ok((Site::Cgroup(cgroup::inspect(&cgroup)?), Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Roster, Vec<String>> {
        let documents = read(&[TextFile {
            path: "e.yaml".into(),
            text: text.to_owned(),
        }])?;
        Ok(look(documents, &Held::default()))
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
