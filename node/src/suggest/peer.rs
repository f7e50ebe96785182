//! Who the other side of a flow is, in the words of a policy.

use std::net::IpAddr;

use super::names::written_name;
use super::record::Party;
use super::selector::{Selector, is_own};
use super::skip::Skip;

/// A peer of a rule. The order is that of the rules in a policy.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Peer {
    /// Pods, by labels.
    Endpoints(Selector),
    /// The host, another node, the API server…
    Entity(&'static str),
    /// An address of the world.
    Address(IpAddr),
    /// What a name resolves to.
    Name(String),
}

/// Which field of a rule a peer stands in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum PeerKind {
    Endpoints,
    Entities,
    Cidr,
    Fqdns,
}

impl Peer {
    pub(super) const fn kind(&self) -> PeerKind {
        match self {
            Self::Endpoints(_) => PeerKind::Endpoints,
            Self::Entity(_) => PeerKind::Entities,
            Self::Address(_) => PeerKind::Cidr,
            Self::Name(_) => PeerKind::Fqdns,
        }
    }
}

/// Fixed labels that are entities, the closest first: an API server is a node too.
const ENTITIES: [&str; 7] = [
    "kube-apiserver",
    "host",
    "remote-node",
    "health",
    "ingress",
    "init",
    "unmanaged",
];
const WORLDS: [&str; 3] = ["world", "world-ipv4", "world-ipv6"];

/// What the labels, or else the identity, say of a party.
enum Class {
    Entity(&'static str),
    World,
    Pod,
}

/// The peers that a flow asks for: one, or each of `names` where the other side is the world.
///
/// # Errors
/// If nothing of a policy stands for it.
pub(super) fn peers(party: &Party, names: &[String]) -> Result<Vec<Peer>, Skip> {
    match class(party).ok_or(Skip::PeerUnknown)? {
        Class::Entity(entity) => Ok(vec![Peer::Entity(entity)]),
        Class::Pod => match Selector::of(party) {
            Ok(selector) => Ok(vec![Peer::Endpoints(selector)]),
            Err(Skip::NotAWorkload) => Err(Skip::PeerUnknown),
            Err(skip) => Err(skip),
        },
        Class::World => {
            let names: Vec<_> = names.iter().filter_map(|name| written_name(name)).collect();
            if !names.is_empty() {
                return Ok(names.into_iter().map(Peer::Name).collect());
            }
            let address = party.address.ok_or(Skip::PeerUnknown)?;
            Ok(vec![Peer::Address(address)])
        }
    }
}

/// Whom a policy is about, if this is the side whose policy is meant.
///
/// # Errors
/// If it is no pod, or none that a policy can select.
pub(super) fn subject(party: &Party) -> Result<Selector, Skip> {
    match class(party) {
        Some(Class::Pod) => Selector::of(party),
        None if !party.pod.is_empty() => Err(Skip::NoLabels),
        Some(Class::Entity(_) | Class::World) | None => Err(Skip::NotAWorkload),
    }
}

fn class(party: &Party) -> Option<Class> {
    let has = |name: &str| {
        let mut labels = party.labels.iter();
        labels.any(|label| label.strip_prefix("reserved:") == Some(name))
    };
    if let Some(entity) = ENTITIES.into_iter().find(|name| has(name)) {
        return Some(Class::Entity(entity));
    }
    let is_learned = |label: &String| label.starts_with("cidr:") || label.starts_with("fqdn:");
    if WORLDS.into_iter().any(has) || party.labels.iter().any(is_learned) {
        return Some(Class::World);
    }
    if party.labels.iter().any(|label| is_own(label)) {
        return Some(Class::Pod);
    }
    if party.labels.is_empty() {
        class_of_identity(party.identity)
    } else {
        // Cilium's own labels alone are still a pod's.
        party
            .labels
            .iter()
            .any(|label| label.starts_with("k8s:"))
            .then_some(Class::Pod)
    }
}

/// The fixed numbers, and those that stand for addresses on one node.
fn class_of_identity(identity: u32) -> Option<Class> {
    match identity {
        1 => Some(Class::Entity("host")),
        3 => Some(Class::Entity("unmanaged")),
        4 => Some(Class::Entity("health")),
        5 => Some(Class::Entity("init")),
        6 => Some(Class::Entity("remote-node")),
        7 => Some(Class::Entity("kube-apiserver")),
        8 => Some(Class::Entity("ingress")),
        2 | 9 | 10 | 0x0100_0000..0x0200_0000 => Some(Class::World),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(identity: u32, labels: &[&str]) -> Party {
        Party {
            identity,
            address: "192.0.2.1".parse().ok(),
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            ..Party::default()
        }
    }

    #[test]
    fn peers_are_told_by_labels_and_else_by_number() {
        let address = Peer::Address("192.0.2.1".parse().unwrap());
        for (identity, labels, expected) in [
            (0, &["reserved:host"][..], Some(Peer::Entity("host"))),
            (
                0,
                &["reserved:remote-node", "reserved:kube-apiserver"],
                Some(Peer::Entity("kube-apiserver")),
            ),
            (0, &["reserved:ingress"], Some(Peer::Entity("ingress"))),
            (0, &["reserved:world"], Some(address.clone())),
            (
                0,
                &["cidr:192.0.2.1/32", "reserved:world-ipv4"],
                Some(address.clone()),
            ),
            (6, &[], Some(Peer::Entity("remote-node"))),
            (10, &[], Some(address.clone())),
            (16_777_217, &[], Some(address)),
            (0, &[], None),
            (41_012, &[], None),
            (0, &["reserved:what"], None),
            (300, &["k8s:app=a"], None), // a pod without a namespace
        ] {
            let peers = peers(&party(identity, labels), &[]);
            let expected = expected.map(|peer| vec![peer]).ok_or(Skip::PeerUnknown);
            assert_eq!(peers, expected, "{identity} {labels:?}");
        }
    }

    #[test]
    fn the_world_is_told_by_all_of_its_names_and_else_by_address() {
        let world = party(2, &["reserved:world"]);
        let names = ["B.example.", "a.example", "bad name"].map(str::to_owned);
        let expected = ["b.example", "a.example"].map(|name| Peer::Name(name.to_owned()));
        assert_eq!(peers(&world, &names), Ok(expected.to_vec()));
        let bad = ["a\nb".to_owned()];
        let address = Peer::Address("192.0.2.1".parse().unwrap());
        assert_eq!(peers(&world, &bad), Ok(vec![address]));
        let nowhere = Party {
            address: None,
            ..world
        };
        assert_eq!(peers(&nowhere, &[]), Err(Skip::PeerUnknown));
    }
}
