//! The documents of endpoint files, read and checked without a look at the node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use policy::{Frontend, L4Protocol, NamedPorts, Service, Workload};
use serde::Deserialize;
use serde_yaml::{Location, Spanned};

use super::{cgroup, labels_of};
use crate::files::TextFile;

/// Who reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Whoever guards the endpoints: addresses are read from the workload where that is possible.
    Daemon,
    /// A tool away from the node: a document may give all addresses, and need not say where it runs.
    Tool,
}

/// What a set of endpoint files says.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    /// Each with its file.
    pub(super) endpoints: Vec<(String, Document)>,
    pub(super) services: Vec<Service>,
}

/// One document of an endpoint file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    /// Absent in a document that holds services alone.
    name: Option<String>,
    #[serde(default = "default_namespace")]
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    pub(super) netns: Option<PathBuf>,
    pub(super) interface: Option<String>,
    pub(super) cgroup: Option<PathBuf>,
    /// A unit of systemd, by whose cgroup it is found.
    pub(super) unit: Option<String>,
    pub(super) addresses: Option<Vec<IpAddr>>,
    mac: Option<String>,
    #[serde(default)]
    pub(super) remote: bool,
    #[serde(default)]
    ports: BTreeMap<String, String>,
    workload: Option<Owner>,
    /// Whether its denials are told and let pass.
    #[serde(default)]
    pub(super) audit: bool,
    #[serde(default)]
    services: Vec<ServiceEntry>,
}

/// What a workload belongs to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    kind: String,
    name: String,
}

/// One of `services`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceEntry {
    name: String,
    #[serde(default = "default_namespace")]
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    vip: Option<IpAddr>,
    #[serde(default)]
    ports: Vec<ServicePort>,
    #[serde(default)]
    backends: Vec<IpAddr>,
}

/// One of a service's `ports`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServicePort {
    port: u16,
    #[serde(default = "default_protocol")]
    protocol: String,
    target: Option<u16>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn default_protocol() -> String {
    "TCP".to_owned()
}

/// Reads endpoint files.
///
/// # Errors
/// All faults of all files, if there is one.
pub(super) fn read(files: &[TextFile], reader: Reader) -> Result<Documents, Vec<String>> {
    let mut documents = Documents::default();
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
        for spanned in all {
            let (document, place) = (spanned.value, spanned.referenced);
            if let Err(reason) = document.check(reader) {
                errors.push(problem(&path, place, &reason));
            }
            for service in &document.services {
                let key = (true, format!("{}/{}", service.namespace, service.name));
                if let Some(first) = seen.insert(key.clone(), path.clone()) {
                    let reason = format!("service {} is in {first} already", key.1);
                    errors.push(problem(&path, place, &reason));
                }
                documents.services.push(service.to_service());
            }
            if document.name.is_none() {
                continue;
            }
            let name = document.full_name();
            if let Some(first) = seen.insert((false, name.clone()), path.clone()) {
                let reason = format!("endpoint {name} is in {first} already");
                errors.push(problem(&path, place, &reason));
            }
            documents.endpoints.push((path.clone(), document));
        }
    }
    if errors.is_empty() {
        Ok(documents)
    } else {
        Err(errors)
    }
}

/// The documents of a file, each with the place where it begins; or what is wrong with it, and where.
fn parse(text: &str) -> Result<Vec<Spanned<Document>>, (Location, String)> {
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

impl Document {
    /// `namespace/name`.
    pub(super) fn full_name(&self) -> String {
        let name = self.name.as_deref().unwrap_or_default();
        format!("{}/{name}", self.namespace)
    }

    /// What policy sees of it.
    pub(super) fn workload(&self) -> Workload {
        Workload {
            namespace: self.namespace.clone(),
            name: self.name.clone().unwrap_or_default(),
            labels: labels_of(&self.labels),
            ports: named_ports(&self.ports).unwrap_or_default(),
            owner: self.workload.as_ref().map(|owner| policy::Owner {
                kind: owner.kind.clone(),
                name: owner.name.clone(),
            }),
        }
    }

    /// The workload's own link-layer address, if it is given.
    pub(super) fn mac(&self) -> Option<[u8; 6]> {
        self.mac.as_deref().and_then(parse_mac)
    }

    /// What can be known to be wrong without a look at the node.
    fn check(&self, reader: Reader) -> Result<(), String> {
        self.services.iter().try_for_each(ServiceEntry::check)?;
        if self.name.is_none() {
            let is_bare = self.places() == 0 && !self.remote;
            return if !self.services.is_empty() && is_bare && self.addresses.is_none() {
                Ok(())
            } else {
                Err("missing field `name`".to_owned())
            };
        }
        let whole = self
            .check_place(reader)
            .and_then(|()| self.check_parts(reader));
        whole.map_err(|reason| format!("endpoint {}: {reason}", self.full_name()))
    }

    /// In how many ways it says where it runs.
    fn places(&self) -> usize {
        usize::from(self.netns.is_some())
            + usize::from(self.interface.is_some())
            + usize::from(self.cgroup.is_some())
            + usize::from(self.unit.is_some())
    }

    /// Whether it is the processes of a cgroup, in the node's own network.
    pub(super) fn is_in_cgroup(&self) -> bool {
        self.cgroup.is_some() || self.unit.is_some()
    }

    /// How it is found.
    fn check_place(&self, reader: Reader) -> Result<(), String> {
        match (self.remote, self.places()) {
            (true, 0) if self.addresses.is_some() => Ok(()),
            (true, 0) => Err("a remote endpoint needs addresses".to_owned()),
            (true, _) => Err(
                "a remote endpoint has neither netns nor interface nor cgroup nor unit".to_owned(),
            ),
            (false, 1) => Ok(()),
            (false, 0) if reader == Reader::Tool => Ok(()),
            (false, _) => Err(
                "exactly one of netns, interface, cgroup and unit is needed, or remote: true"
                    .to_owned(),
            ),
        }
    }

    fn check_parts(&self, reader: Reader) -> Result<(), String> {
        let name = self.name.as_deref().unwrap_or_default();
        if !is_plain(name) || !is_plain(&self.namespace) {
            return Err(
                "name and namespace are 1 to 253 characters without / and space".to_owned(),
            );
        }
        if self.interface.is_some() && self.addresses.is_none() {
            return Err("interface needs addresses".to_owned());
        }
        let given = self.addresses.is_some() || self.mac.is_some();
        if reader == Reader::Daemon && self.netns.is_some() && given {
            return Err("with netns, addresses and mac are read from the workload".to_owned());
        }
        if self.cgroup.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err("cgroup is an absolute path".to_owned());
        }
        if let Some(unit) = self.unit.as_ref().filter(|unit| !cgroup::is_unit(unit)) {
            return Err(format!(
                "unit: {unit:?} is no name of a .service, .scope or .slice"
            ));
        }
        if self.is_in_cgroup() && given {
            let key = if self.unit.is_some() {
                "unit"
            } else {
                "cgroup"
            };
            return Err(format!(
                "with {key}, addresses are the node's, and there is no mac"
            ));
        }
        if let Some(mac) = &self.mac {
            parse_mac(mac).ok_or_else(|| format!("mac: {mac:?} is not six hexadecimal octets"))?;
        }
        let owner = self.workload.as_ref();
        if owner.is_some_and(|owner| owner.kind.is_empty() || owner.name.is_empty()) {
            return Err("workload: kind and name are needed".to_owned());
        }
        named_ports(&self.ports).map(drop)
    }
}

impl ServiceEntry {
    fn check(&self) -> Result<(), String> {
        let name = format!("service {}/{}", self.namespace, self.name);
        if !is_plain(&self.name) || !is_plain(&self.namespace) {
            return Err(format!(
                "{name}: name and namespace are 1 to 253 characters without / and space"
            ));
        }
        if let Some(vip) = self.vip.filter(IpAddr::is_unspecified) {
            return Err(format!("{name}: vip: {vip} is nobody's address"));
        }
        if self.vip.is_some() && self.ports.is_empty() {
            return Err(format!("{name}: a vip needs ports"));
        }
        for port in &self.ports {
            if port.port == 0 || port.target == Some(0) {
                return Err(format!("{name}: ports: a port is 1 to 65535"));
            }
            protocol(&port.protocol).map_err(|reason| format!("{name}: ports: {reason}"))?;
        }
        Ok(())
    }

    fn to_service(&self) -> Service {
        Service {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            labels: labels_of(&self.labels),
            backends: self.backends.clone(),
            frontends: self.frontends().collect(),
        }
    }

    fn frontends(&self) -> impl Iterator<Item = Frontend> {
        let ports = self.ports.iter().filter_map(|port| {
            let protocol = protocol(&port.protocol).ok()?;
            Some((protocol, port.port, port.target.unwrap_or(port.port)))
        });
        let fronts = move |vip| {
            ports.clone().map(move |(protocol, port, target)| Frontend {
                vip,
                protocol,
                port,
                target,
            })
        };
        self.vip.into_iter().flat_map(fronts)
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= 253 && !text.contains(['/', ' ', '\n'])
}

/// `http: 8080/TCP`; names are compared in lower case, as in policies.
fn named_ports(ports: &BTreeMap<String, String>) -> Result<NamedPorts, String> {
    let mut named = NamedPorts::new();
    for (name, text) in ports {
        let (port, word) = text.split_once('/').unwrap_or((text, "TCP"));
        let port = port.parse().ok().filter(|port: &u16| *port > 0);
        let port =
            port.ok_or_else(|| format!("ports: {name}: {text:?} is no PORT/PROTOCOL as 8080/TCP"))?;
        let protocol = protocol(word).map_err(|reason| format!("ports: {name}: {reason}"))?;
        named.insert(name.to_ascii_lowercase().into(), (port, protocol));
    }
    Ok(named)
}

fn protocol(word: &str) -> Result<L4Protocol, String> {
    match word.to_ascii_uppercase().as_str() {
        "TCP" => Ok(L4Protocol::Tcp),
        "UDP" => Ok(L4Protocol::Udp),
        "SCTP" => Ok(L4Protocol::Sctp),
        _ => Err(format!("{word:?} is none of TCP, UDP, SCTP")),
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let octets = text.split(':').map(|octet| match octet.len() {
        2 => u8::from_str_radix(octet, 16).ok(),
        _ => None,
    });
    octets.collect::<Option<Vec<u8>>>()?.try_into().ok()
}
