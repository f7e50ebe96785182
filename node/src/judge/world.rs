//! A set of policies compiled for the endpoints of files, and the parties that flows have.

use std::net::{IpAddr, Ipv6Addr};

use fqdn::Name;
use policy::{
    Cast, Compiler, Family, Identities, Identity, Label, Loaded, LocalEndpoint, Options, Peer,
    PolicySet, Problem, Snapshot, Workload,
};

use super::read::told;

/// Everything that a question is judged by.
pub(crate) struct World {
    pub(crate) policies: PolicySet,
    /// Warnings of the policies.
    pub(crate) warnings: Vec<Problem>,
    pub(crate) cast: Cast,
    pub(crate) snapshot: Snapshot,
}

/// Who is at one end of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    /// An endpoint of the files, by its index.
    Endpoint(usize),
    /// Somebody with this address.
    Address(IpAddr),
    /// Whoever is called so; its addresses are those that were learned.
    Name(Name),
}

/// Words for parties that have no address of their own in files; all but the world get one.
const ENTITIES: [&str; 7] = [
    "remote-node",
    "kube-apiserver",
    "health",
    "ingress",
    "init",
    "unmanaged",
    "host",
];

/// Addresses for documentation (RFC 5737, RFC 3849) and, if policy names those, others.
const OUTSIDE: [&str; 8] = [
    "203.0.113.1",
    "198.51.100.1",
    "192.0.2.1",
    "1.1.1.1",
    "93.184.216.34",
    "2001:db8::1",
    "3fff::1",
    "2606:4700::1",
];

impl World {
    /// Compiles policies for a cast. Who has no address gets one of a range that nobody uses.
    ///
    /// # Errors
    /// If the policies contradict each other or exceed a limit.
    pub(crate) fn new(loaded: Loaded, mut cast: Cast, options: Options) -> Result<Self, String> {
        for (number, endpoint) in (1..).zip(&mut cast.endpoints) {
            if endpoint.addresses.is_empty() {
                endpoint.addresses.push(spare_address(1, number));
            }
        }
        for (number, word) in (1..).zip(ENTITIES) {
            if word == "host" {
                cast.host_addresses.push(spare_address(2, number));
                continue;
            }
            cast.peers.push(Peer {
                workload: Workload {
                    namespace: String::new(),
                    name: word.to_owned(),
                    labels: [Label::reserved(word)].into_iter().collect(),
                    ports: policy::NamedPorts::new(),
                    owner: None,
                },
                addresses: vec![spare_address(2, number)],
            });
        }
        let mut identities = Identities::new();
        let inputs = (&loaded.set, &cast, options);
        let snapshot = Compiler::new()
            .build(1, inputs, &mut identities)
            .map_err(|problems| told(problems.iter()))?;
        Ok(Self {
            policies: loaded.set,
            warnings: loaded.problems,
            cast,
            snapshot,
        })
    }

    /// Who is meant by a word: `namespace/name`, an address, a reserved word, or a DNS name.
    ///
    /// # Errors
    /// If nobody is.
    pub(crate) fn party(&self, text: &str) -> Result<Party, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            let owner = self
                .endpoints()
                .position(|one| one.addresses.contains(&address));
            return Ok(owner.map_or(Party::Address(address), Party::Endpoint));
        }
        if let Some((namespace, name)) = text.split_once('/') {
            return self.workload(namespace, name).ok_or_else(|| {
                let known: Vec<String> = self
                    .endpoints()
                    .map(|one| one.workload.full_name())
                    .collect();
                let known = match known.is_empty() {
                    true => "the files have none".to_owned(),
                    false => format!("there are {}", shortened(&known)),
                };
                format!("no endpoint {text}; {known}")
            });
        }
        if text == "host" || ENTITIES.contains(&text) {
            return self
                .entity(text)
                .ok_or_else(|| format!("{text} has no address"));
        }
        if matches!(text, "world" | "world-ipv4" | "world-ipv6") {
            let family = match text {
                "world-ipv6" => Family::V6,
                _ => Family::V4,
            };
            return self
                .outside(family)
                .map(Party::Address)
                .ok_or_else(|| "policies name every outside address that was tried".to_owned());
        }
        if !text.contains('.') {
            return Err(format!(
                "{text:?} is nobody: give NAMESPACE/NAME, an address, a DNS name with a dot, or one \
                 of host, world, {}",
                ENTITIES
                    .iter()
                    .filter(|word| **word != "host")
                    .copied()
                    .collect::<Vec<_>>()
                    .join(", ")
            ));
        }
        Name::from_text(text)
            .map(Party::Name)
            .map_err(|error| format!("{text:?}: {error}"))
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &LocalEndpoint> {
        self.cast.endpoints.iter()
    }

    /// The endpoint behind an index.
    pub(crate) fn endpoint(&self, index: usize) -> Option<&LocalEndpoint> {
        self.cast.endpoints.get(index)
    }

    /// An address outside that no policy names.
    pub(crate) fn outside(&self, family: Family) -> Option<IpAddr> {
        let addresses = OUTSIDE
            .iter()
            .filter_map(|text| text.parse::<IpAddr>().ok());
        let mut plain = addresses.filter(|ip| self.snapshot.identity_of(*ip) == family.world());
        plain.next()
    }

    fn workload(&self, namespace: &str, name: &str) -> Option<Party> {
        let is_it = |one: &Workload| one.namespace == namespace && one.name == name;
        let endpoint = self.endpoints().position(|one| is_it(&one.workload));
        let peers = self.cast.peers.iter();
        let mut peers = peers.filter(|one| is_it(&one.workload) && !namespace.is_empty());
        let mut peer = || peers.find_map(|peer| peer.addresses.first().copied());
        endpoint
            .map(Party::Endpoint)
            .or_else(|| peer().map(Party::Address))
    }

    fn entity(&self, word: &str) -> Option<Party> {
        if word == "host" {
            return self
                .cast
                .host_addresses
                .first()
                .copied()
                .map(Party::Address);
        }
        let mut peers = self.cast.peers.iter();
        let peer =
            peers.find(|one| one.workload.namespace.is_empty() && one.workload.name == word)?;
        peer.addresses.first().copied().map(Party::Address)
    }

    /// What an identity of a peer is called in sentences.
    pub(crate) fn shown_address(&self, address: IpAddr) -> String {
        if self.cast.host_addresses.contains(&address) {
            return "host".to_owned();
        }
        let peers = self.cast.peers.iter();
        let mut owners = peers.filter(|peer| peer.addresses.contains(&address));
        let owner = owners.next().map(|peer| &peer.workload);
        match owner {
            Some(workload) if workload.namespace.is_empty() => workload.name.clone(),
            Some(workload) => workload.full_name(),
            None if self.is_world(address) => format!("{address} (world)"),
            None => address.to_string(),
        }
    }

    fn is_world(&self, address: IpAddr) -> bool {
        let identity = self.snapshot.identity_of(address);
        identity == Identity::WORLD_IPV4 || identity == Identity::WORLD_IPV6
    }
}

/// At most ten words of a list.
fn shortened(words: &[String]) -> String {
    const SHOWN_MAX: usize = 10;
    let mut text = words
        .iter()
        .take(SHOWN_MAX)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if words.len() > SHOWN_MAX {
        text.push_str(&format!(" and {} more", words.len() - SHOWN_MAX));
    }
    text
}

/// An address of a unique local range that is drawn for this (RFC 4193).
fn spare_address(range: u16, number: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(
        0xfd6e, 0x6761, 0x7465, range, 0, 0, 0, number,
    ))
}
