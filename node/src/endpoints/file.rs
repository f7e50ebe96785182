//! Endpoint files: one workload a document.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use policy::{L4Protocol, Peer, Service, Workload};
use serde::Deserialize;
use serde_yaml::{Location, Spanned};

use super::{Found, Refused, labels_of, netns};
use crate::files::TextFile;

/// One document of an endpoint file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointFile {
    /// Absent where the document only lists services.
    name: Option<String>,
    #[serde(default = "default_namespace")]
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    netns: Option<PathBuf>,
    interface: Option<String>,
    addresses: Option<Vec<IpAddr>>,
    mac: Option<String>,
    #[serde(default)]
    remote: bool,
    /// What it calls its ports: `http: 8080/TCP`.
    #[serde(default)]
    ports: BTreeMap<String, String>,
    /// Its denials are told and let pass.
    #[serde(default)]
    audit: bool,
    #[serde(default)]
    services: Vec<ServiceFile>,
}

/// A service, where no cluster has one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceFile {
    name: String,
    #[serde(default = "default_namespace")]
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    backends: Vec<IpAddr>,
    /// The address that stands for the backends.
    vip: Option<IpAddr>,
    #[expect(
        dead_code,
        reason = "read so that it may stand there; policy names the target"
    )]
    #[serde(default)]
    ports: Vec<ServicePort>,
}

/// A port of a service, and where it ends.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "see `ServiceFile::ports`")]
struct ServicePort {
    port: u16,
    protocol: Option<String>,
    target: Option<u16>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

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
    documents(files, (check, check_services)).map(take)
}

/// Reads endpoint files as a description of who there is, without a look at a node.
///
/// # Errors
/// If a document can't be read.
pub(crate) fn describe(files: &[TextFile]) -> Result<Vec<Described>, Vec<String>> {
    let described = documents(files, (check_names, check_bare))?.into_iter();
    Ok(described
        .map(|(_, document)| Described {
            workload: document.workload(),
            addresses: document.addresses.clone().unwrap_or_default(),
            audit: document.audit,
            services: document.services(),
        })
        .collect())
}

/// What a document of an endpoint file says.
pub(crate) struct Described {
    /// Absent where it only lists services.
    pub(crate) workload: Option<Workload>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) audit: bool,
    pub(crate) services: Vec<Service>,
}

type Check = fn(&EndpointFile) -> Result<(), String>;

fn documents(
    files: &[TextFile],
    (check, check_alone): (Check, Check),
) -> Result<Vec<(String, EndpointFile)>, Vec<String>> {
    let mut documents = Vec::new();
    let mut errors = Vec::new();
    let mut seen = BTreeMap::new();
    for file in files {
        let path = file.path.display().to_string();
        let all = match parse(&file.text) {
            Ok(all) => all,
            Err((place, reason)) => {
                errors.push(problem(&path, place, &reason));
                continue;
            }
        };
        for Spanned {
            value: document,
            referenced: place,
            ..
        } in all
        {
            let Some(own) = &document.name else {
                match check_alone(&document) {
                    Ok(()) => documents.push((path.clone(), document)),
                    Err(reason) => errors.push(problem(&path, place, &reason)),
                }
                continue;
            };
            let name = format!("{}/{own}", document.namespace);
            if let Some(first) = seen.insert(name.clone(), path.clone()) {
                let reason = format!("endpoint {name} is in {first} already");
                errors.push(problem(&path, place, &reason));
            }
            if let Err(reason) = check(&document) {
                errors.push(problem(&path, place, &format!("endpoint {name}: {reason}")));
            }
            documents.push((path.clone(), document));
        }
    }
    if errors.is_empty() {
        Ok(documents)
    } else {
        Err(errors)
    }
}

/// The documents of a file, each with the place where it begins; or what is wrong with it, and where.
fn parse(text: &str) -> Result<Vec<Spanned<EndpointFile>>, (Location, String)> {
    let options = serde_yaml::options! { with_snippet: false };
    serde_yaml::from_multiple_with_options(text, options).map_err(|error| {
        let rendered = error.render();
        let reason = rendered.lines().next().unwrap_or_default();
        // The place stands in front of the problem.
        let reason = reason.split(" at line ").next().unwrap_or(reason);
        (
            error.location().unwrap_or(Location::UNKNOWN),
            reason.to_owned(),
        )
    })
}

/// In the form in which problems of policy files are told.
fn problem(path: &str, place: Location, reason: &str) -> String {
    let (line, column) = (place.line().max(1), place.column().max(1));
    format!("{path}:{line}:{column}: error: {reason}")
}

/// Without a name there is nothing but services.
fn check_services(document: &EndpointFile) -> Result<(), String> {
    check_bare(document)?;
    check_vips(document)
}

/// A daemon knows backends only, so far.
fn check_vips(document: &EndpointFile) -> Result<(), String> {
    match document
        .services
        .iter()
        .find(|service| service.vip.is_some())
    {
        Some(service) => Err(format!(
            "service {}/{}: `vip` is not mapped to its backends yet: list the backends alone",
            service.namespace, service.name
        )),
        None => Ok(()),
    }
}

fn check_bare(document: &EndpointFile) -> Result<(), String> {
    let is_bare = document.netns.is_none()
        && document.interface.is_none()
        && document.labels.is_empty()
        && document.addresses.is_none()
        && document.ports.is_empty();
    if document.services.is_empty() || !is_bare {
        return Err("missing field `name`".to_owned());
    }
    Ok(())
}

/// What is wrong with what a workload is called and calls its ports.
fn check_names(document: &EndpointFile) -> Result<(), String> {
    let is_plain =
        |text: &str| !text.is_empty() && text.len() <= 253 && !text.contains(['/', ' ', '\n']);
    let name = document.name.as_deref().unwrap_or_default();
    if !is_plain(name) || !is_plain(&document.namespace) {
        return Err("name and namespace are 1 to 253 characters without / and space".to_owned());
    }
    for (name, port) in &document.ports {
        parse_port(port).ok_or_else(|| {
            format!("ports: {name}: {port:?} is no port: write 8080/TCP, the protocol in capitals")
        })?;
    }
    Ok(())
}

/// `8080/TCP`; without a protocol it is TCP.
fn parse_port(text: &str) -> Option<(u16, L4Protocol)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
    let protocol = match protocol {
        "TCP" => L4Protocol::Tcp,
        "UDP" => L4Protocol::Udp,
        "SCTP" => L4Protocol::Sctp,
        _ => return None,
    };
    let number = number.parse().ok().filter(|number| *number != 0)?;
    Some((number, protocol))
}

impl EndpointFile {
    fn workload(&self) -> Option<Workload> {
        let ports = self.ports.iter();
        let ports = ports
            .filter_map(|(name, port)| Some((name.to_ascii_lowercase().into(), parse_port(port)?)));
        Some(Workload {
            namespace: self.namespace.clone(),
            name: self.name.clone()?,
            labels: labels_of(&self.labels),
            ports: ports.collect(),
        })
    }

    fn services(&self) -> Vec<Service> {
        let services = self.services.iter();
        services
            .map(|service| Service {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
                labels: labels_of(&service.labels),
                backends: service.backends.clone(),
            })
            .collect()
    }
}

/// What can be known to be wrong without a look at the node.
fn check(document: &EndpointFile) -> Result<(), String> {
    check_names(document)?;
    check_vips(document)?;
    let places = usize::from(document.netns.is_some()) + usize::from(document.interface.is_some());
    match (document.remote, places) {
        (true, 0) if document.addresses.is_some() => Ok(()),
        (true, 0) => Err("a remote endpoint needs addresses".to_owned()),
        (true, _) => Err("a remote endpoint has neither netns nor interface".to_owned()),
        (false, 1) => Ok(()),
        (false, _) => {
            Err("exactly one of netns and interface is needed, or remote: true".to_owned())
        }
    }?;
    if document.interface.is_some() && document.addresses.is_none() {
        return Err("interface needs addresses".to_owned());
    }
    if document.netns.is_some() && (document.addresses.is_some() || document.mac.is_some()) {
        return Err("with netns, addresses and mac are read from the workload".to_owned());
    }
    if let Some(mac) = &document.mac {
        parse_mac(mac).ok_or_else(|| format!("mac: {mac:?} is not six hexadecimal octets"))?;
    }
    Ok(())
}

fn take(documents: Vec<(String, EndpointFile)>) -> Roster {
    let mut roster = Roster::default();
    for (file, document) in documents {
        roster.services.extend(document.services());
        let Some(workload) = document.workload() else {
            continue;
        };
        if document.remote {
            roster.peers.push(Peer {
                workload,
                addresses: document.addresses.unwrap_or_default(),
            });
            continue;
        }
        let link = match (&document.netns, &document.interface) {
            (Some(path), _) => netns::inspect(path),
            (None, Some(interface)) => {
                let mac = document.mac.as_deref().and_then(parse_mac);
                netns::by_interface(interface, mac, document.addresses.unwrap_or_default())
            }
            (None, None) => Err("neither netns nor interface".to_owned()),
        };
        let name = format!("{}/{}", workload.namespace, workload.name);
        match link {
            Ok(link) => roster.found.push(Found {
                workload,
                link,
                audit: document.audit,
                file,
            }),
            Err(reason) => roster.refused.push(Refused { name, file, reason }),
        }
    }
    refuse_shared(&mut roster);
    roster
}

/// Two endpoints with one address can't be told apart by their peers, and two on one link not at all:
/// the second is refused, with both names. A link-local address is each link's own.
fn refuse_shared(roster: &mut Roster) {
    let mut links: BTreeMap<u32, String> = BTreeMap::new();
    let mut addresses: BTreeMap<IpAddr, String> = BTreeMap::new();
    for found in std::mem::take(&mut roster.found) {
        let name = format!("{}/{}", found.workload.namespace, found.workload.name);
        let first = links
            .get(&found.link.ifindex)
            .map(|first| (first, "link"))
            .or_else(|| {
                found
                    .link
                    .addresses
                    .iter()
                    .find_map(|ip| Some((addresses.get(ip)?, "address")))
            });
        if let Some((first, what)) = first {
            let reason = format!("{first} has the same {what}");
            roster.refused.push(Refused {
                name,
                file: found.file,
                reason,
            });
            continue;
        }
        links.insert(found.link.ifindex, name.clone());
        let routed = found
            .link
            .addresses
            .iter()
            .filter(|ip| !is_link_local(**ip));
        addresses.extend(routed.map(|ip| (*ip, name.clone())));
        roster.found.push(found);
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let octets: Vec<u8> = text
        .split(':')
        .map(|octet| {
            if octet.len() == 2 {
                u8::from_str_radix(octet, 16).ok()
            } else {
                None
            }
        })
        .collect::<Option<_>>()?;
    octets.try_into().ok()
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
    fn services_stand_beside_endpoints_or_alone() {
        let roster = read_text(
            "name: a\nremote: true\naddresses: [10.0.0.9]\nports: {HTTP: 8080/TCP, dns: 53/UDP}\n\
             services: [{name: web, backends: [10.0.0.9]}]\n---\n\
             services: [{name: dns, namespace: kube-system, backends: [10.0.0.53], labels: {a: b}}]\n",
        )
        .unwrap();
        let names: Vec<&str> = roster.services.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["web", "dns"]);
        let ports = &roster.peers.first().unwrap().workload.ports;
        assert_eq!(ports.get("http"), Some(&(8080, L4Protocol::Tcp)));
        assert_eq!(ports.get("dns"), Some(&(53, L4Protocol::Udp)));
    }

    #[test]
    fn what_an_endpoint_file_may_not_say() {
        for (text, reason) in [
            ("name: a\n", "exactly one of netns and interface"),
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
            ("name: a\nnetns: /x\nports: {http: 8080/tcp}\n", "8080/TCP"),
            (
                "services: [{name: s, vip: 10.96.0.1, ports: [{port: 53, protocol: UDP, target: 53}]}]\n",
                "not mapped",
            ),
            (
                "services: [{name: s, backend: [10.0.0.1]}]\n",
                "unknown field",
            ),
            (
                "ports: {http: 8080/TCP}\nservices: [{name: s}]\n",
                "missing field `name`",
            ),
            (
                "name: a\nnetns: /x\naddresses: [10.0.0.1]\n",
                "read from the workload",
            ),
            ("name: a\nremote: true\naddresses: [10.0.0]\n", "e.yaml"),
            ("name: a\nnetns: /x\ncgroup: /y\n", "cgroup"),
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
                "e.yaml:4:1: error: endpoint default/b: exactly one of netns and interface",
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
}
