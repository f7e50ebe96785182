//! Who there is on the command's node: the command, and the server of names.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use anyhow::Result;
use policy::{NamedPorts, Peer, Workload};
use transport::Sandbox;

use super::Options;
use super::rules::RESOLVER;
use super::surroundings::Resolver;
use crate::endpoints::file::Roster;
use crate::endpoints::{Found, GuardedCgroup, Site, labels_of, netns};

/// The namespace and name of the command, for policies and flows.
const NAMESPACE: &str = "default";

/// Both; called from the node's namespace.
///
/// # Errors
/// If the link can't be guarded.
pub(super) fn roster(
    (options, resolver): (&Options, &Resolver),
    sandbox: &Sandbox,
) -> Result<Roster> {
    let path = PathBuf::from(format!(
        "/proc/self/fd/{}",
        sandbox.inside.as_fd().as_raw_fd()
    ));
    let link = netns::inspect(&path).map_err(anyhow::Error::msg)?;
    Ok(of_site(Site::Link(link), (options, resolver)))
}

/// Both, where the command is a cgroup.
pub(super) fn roster_on_host(
    (options, resolver): (&Options, &Resolver),
    cgroup: GuardedCgroup,
) -> Roster {
    of_site(Site::Cgroup(cgroup), (options, resolver))
}

fn of_site(site: Site, (options, resolver): (&Options, &Resolver)) -> Roster {
    Roster {
        found: vec![Found {
            workload: command(options),
            site,
            audit: false,
            file: "namegate exec".to_owned(),
            netns: None,
            fault: None,
        }],
        peers: vec![server(resolver)],
        ..Roster::default()
    }
}

/// The command.
pub(super) fn command(options: &Options) -> Workload {
    Workload {
        namespace: NAMESPACE.to_owned(),
        name: name_of(options),
        labels: labels_of(&labels(options)),
        ports: NamedPorts::new(),
        owner: None,
    }
}

/// The server of names.
pub(super) fn server(resolver: &Resolver) -> Peer {
    let (namespace, (key, value)) = RESOLVER;
    let workload = Workload {
        namespace: namespace.to_owned(),
        name: "resolver".to_owned(),
        labels: labels_of(&BTreeMap::from([(key.to_owned(), value.to_owned())])),
        ports: NamedPorts::new(),
        owner: None,
    };
    Peer {
        workload,
        addresses: resolver.servers.clone(),
    }
}

/// What was asked for; else one by which a policy that was learned knows it again.
fn labels(options: &Options) -> BTreeMap<String, String> {
    match options.labels.is_empty() {
        true => BTreeMap::from([("app".to_owned(), name_of(options))]),
        false => options.labels.iter().cloned().collect(),
    }
}

/// The program's name without its folder.
pub(super) fn name_of(options: &Options) -> String {
    let program = options.command.first().map(PathBuf::from);
    let name = program.as_deref().and_then(std::path::Path::file_name);
    name.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
