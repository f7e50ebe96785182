//! Policies and endpoints from files, compiled, and who is meant by a word on the command line.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use fqdn::Name;
use policy::{
    Cast, Compiler, EndpointId, Identities, Identity, Label, LabelSet, Labels, LocalEndpoint,
    NamedPorts, Options, Peer, PolicySet, Problem, Snapshot, Source, Workload,
};

use super::read;
use crate::cli::run::EnforcementMode;
use crate::endpoints::file::{Described, describe};
use crate::exit::{Exit, USAGE};
use crate::files::TextFile;

/// Which policies and endpoints are meant.
#[derive(Args, Clone, Debug)]
pub(super) struct SceneArgs {
    /// Policy files or folders; repeatable.
    #[arg(long, required = true, value_name = "FILE|DIR", num_args = 1..)]
    policy: Vec<PathBuf>,
    /// Endpoint files or folders, as `namegate run` reads them; nothing of the node is looked at.
    #[arg(long, value_name = "FILE|DIR", num_args = 1..)]
    endpoints: Vec<PathBuf>,
    /// Which endpoints are closed to what no rule allows.
    #[arg(long, value_enum, default_value = "default")]
    enforcement_mode: EnforcementMode,
    /// The local host gets no exception: it needs an ingress rule as others do.
    #[arg(long)]
    no_allow_localhost: bool,
    /// An address that a name has resolved to; repeatable.
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = parse_learned)]
    learn: Vec<(Name, IpAddr)>,
}

/// All files and folders.
///
/// # Errors
/// As wrong usage, if one can't be read.
pub(super) fn read_all(paths: &[PathBuf]) -> Result<Vec<TextFile>> {
    let mut files = Vec::new();
    for path in paths {
        files.extend(read(path).map_err(|error| Exit::with(USAGE, error))?);
    }
    Ok(files)
}

/// Reads `NAME=ADDRESS`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse_learned(text: &str) -> Result<(Name, IpAddr), String> {
    let wrong = || format!("{text:?} is not NAME=ADDRESS");
    let (name, address) = text.split_once('=').ok_or_else(wrong)?;
    let name = Name::from_text(name).map_err(|error| format!("{name:?}: {error}"))?;
    let address = address.parse().map_err(|_| wrong())?;
    Ok((name, address))
}

impl SceneArgs {
    /// Reads and compiles all of it.
    ///
    /// # Errors
    /// As wrong usage: a file that can't be read, or that is not valid.
    pub(super) fn load(&self) -> Result<Scene> {
        let sources = read_all(&self.policy)?.into_iter();
        let sources: Vec<Source> = sources
            .map(|file| Source {
                path: file.path.display().to_string(),
                text: file.text,
            })
            .collect();
        let files = read_all(&self.endpoints)?;
        let described = describe(&files).map_err(|errors| Exit::with(USAGE, errors.join("\n")))?;
        let options = Options {
            mode: self.enforcement_mode.into(),
            audit: false,
            allow_localhost: !self.no_allow_localhost,
        };
        Scene::new(&sources, (described, options), self.learn.clone())
    }
}

/// Everybody, under a set of policies.
pub(super) struct Scene {
    pub(super) snapshot: Snapshot,
    pub(super) set: PolicySet,
    /// Warnings about the policies.
    pub(super) problems: Vec<Problem>,
    by_name: BTreeMap<String, (Option<EndpointId>, IpAddr)>,
    pub(super) learned: Vec<(Name, IpAddr)>,
}

/// Somebody who was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Party {
    /// As it was named.
    pub(super) text: String,
    /// Whose policy can be asked.
    pub(super) endpoint: Option<EndpointId>,
    /// Where it is; several for a name of DNS.
    pub(super) addresses: Vec<IpAddr>,
}

/// Who is at the other end, as one endpoint sees it.
pub(super) enum Seen {
    Known(Identity),
    Learned(LabelSet),
}

/// From the prefix that leads nowhere (RFC 6666): addresses for who has none in the files. Policy never
/// selects a workload by its address, so any will do.
fn stand_in(number: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, number))
}

/// Peers that are no workload, by the word for them.
const ENTITIES: [&str; 7] = [
    "host",
    "remote-node",
    "kube-apiserver",
    "health",
    "ingress",
    "init",
    "unmanaged",
];
/// Some address outside, of the documentation's networks.
const OUTSIDE: [(&str, [u16; 8]); 3] = [
    ("world", [0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201]),
    ("world-ipv4", [0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201]),
    ("world-ipv6", [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
];

impl Scene {
    /// Compiles it.
    ///
    /// # Errors
    /// As wrong usage: policies that are not valid.
    pub(super) fn new(
        sources: &[Source],
        (described, options): (Vec<Described>, Options),
        learned: Vec<(Name, IpAddr)>,
    ) -> Result<Self> {
        let loaded = policy::load(sources);
        if loaded.has_errors() {
            return Err(Exit::with(USAGE, lines(&loaded.problems)));
        }
        let (cast, by_name) = cast(described);
        let mut identities = Identities::new();
        let snapshot = Compiler::new()
            .build(1, (&loaded.set, &cast, options), &mut identities)
            .map_err(|problems| Exit::with(USAGE, lines(&problems)))?;
        Ok(Self {
            snapshot,
            set: loaded.set,
            problems: loaded.problems,
            by_name,
            learned,
        })
    }

    /// The endpoints by name.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = (&str, EndpointId)> {
        let named = self.by_name.iter();
        named.filter_map(|(name, (id, _))| Some((name.as_str(), (*id)?)))
    }

    /// Who is meant by `NS/NAME`, an address, an entity or a name of DNS.
    ///
    /// # Errors
    /// As wrong usage, if nobody is.
    pub(super) fn party(&self, text: &str) -> Result<Party> {
        let party = |endpoint, addresses| Party {
            text: text.to_owned(),
            endpoint,
            addresses,
        };
        if let Ok(address) = text.parse::<IpAddr>() {
            let owner = self.by_name.values().find(|(_, own)| *own == address);
            let endpoint = owner.and_then(|(endpoint, _)| *endpoint);
            return Ok(party(endpoint, vec![address.to_canonical()]));
        }
        let in_default = format!("default/{text}");
        let named = self
            .by_name
            .get(text)
            .or_else(|| self.by_name.get(&in_default));
        if let Some((endpoint, address)) = named {
            return Ok(party(*endpoint, vec![*address]));
        }
        if let Some((_, groups)) = OUTSIDE.iter().find(|(word, _)| *word == text) {
            let address = IpAddr::V6(Ipv6Addr::from(*groups)).to_canonical();
            return Ok(party(None, vec![address]));
        }
        match Name::from_text(text) {
            Ok(name) if text.contains('.') => {
                let known = self.learned.iter().filter(|(other, _)| *other == name);
                Ok(party(None, known.map(|(_, address)| *address).collect()))
            }
            Ok(_) | Err(_) => {
                let names = self.by_name.keys().map(String::as_str);
                let names: Vec<&str> = names.filter(|name| name.contains('/')).collect();
                Err(Exit::with(
                    USAGE,
                    format!(
                        "nobody is called {text:?}: an address, a name of DNS with a dot, world, {}, or one of: {}",
                        ENTITIES.join(", "),
                        names.join(", ")
                    ),
                ))
            }
        }
    }

    /// What an address is to an endpoint, which may have learned it.
    pub(super) fn seen_by(&self, endpoint: EndpointId, address: IpAddr) -> Seen {
        let names = self.learned.iter().filter(|(_, known)| *known == address);
        let names: Vec<&Name> = names.map(|(name, _)| name).collect();
        if names.is_empty() || self.snapshot.may_learn(address).is_err() {
            return Seen::Known(self.snapshot.identity_of(address));
        }
        let names = names.into_iter();
        Seen::Learned(self.snapshot.learned_labels(endpoint, names, address))
    }
}

type ByName = BTreeMap<String, (Option<EndpointId>, IpAddr)>;

/// Everybody as a snapshot takes them. Every workload is an endpoint here, on whatever node it runs.
fn cast(described: Vec<Described>) -> (Cast, ByName) {
    let mut cast = Cast::default();
    let mut by_name = ByName::new();
    let mut number = 1_u16;
    for one in described {
        cast.services.extend(one.services);
        let Some(workload) = one.workload else {
            continue;
        };
        number = number.saturating_add(1);
        let mut addresses = one.addresses;
        addresses.push(stand_in(number));
        let name = format!("{}/{}", workload.namespace, workload.name);
        let first = addresses
            .first()
            .copied()
            .unwrap_or_else(|| stand_in(number));
        let is_reserved = workload
            .labels
            .iter()
            .any(|label| label.source() == "reserved");
        let is_init = workload.labels.has_reserved("init");
        let id = EndpointId::new(u32::from(number)).filter(|_| !is_reserved || is_init);
        by_name.insert(name, (id, first));
        match id {
            Some(id) => cast.endpoints.push(LocalEndpoint {
                id,
                workload,
                addresses,
                audit: one.audit,
            }),
            None => cast.peers.push(Peer {
                workload,
                addresses,
            }),
        }
    }
    add_entities(&mut cast, &mut by_name);
    (cast, by_name)
}

fn add_entities(cast: &mut Cast, by_name: &mut ByName) {
    for (number, entity) in (0xff00..).zip(ENTITIES) {
        let address = stand_in(number);
        if by_name.contains_key(entity) {
            continue;
        }
        by_name.insert(entity.to_owned(), (None, address));
        if entity == "host" {
            cast.host_addresses.push(address);
            continue;
        }
        let mut labels = Labels::default();
        labels.insert(Label::reserved(entity));
        cast.peers.push(Peer {
            workload: Workload {
                namespace: String::new(),
                name: entity.to_owned(),
                labels,
                ports: NamedPorts::new(),
            },
            addresses: vec![address],
        });
    }
}

fn lines(problems: &[Problem]) -> String {
    let errors = problems.iter().filter(|problem| problem.is_error());
    errors
        .map(Problem::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}
