//! Who there is in the cases: a few workloads, nodes, services and addresses outside.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests are set here"
)]

use std::net::IpAddr;

use fqdn::Name;

use crate::{
    Cast, EndpointId, L4Protocol, Label, LocalEndpoint, NamedPorts, Peer, Service, Workload,
};

/// The endpoint that most policies select.
pub const A: &str = "10.2.0.4";
/// A workload of its namespace, `app: b`.
pub const B: &str = "10.2.0.5";
/// A workload of another namespace.
pub const O: &str = "10.3.0.5";
/// The DNS server of the cluster.
pub const DNS: &str = "10.4.0.53";
/// An address outside.
pub const W: &str = "93.184.216.34";
/// An address outside of which prefixes hold much.
pub const P: &str = "10.1.2.3";
/// The node.
pub const HOST: &str = "192.168.0.1";

/// The address with this text.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The name with this text.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

pub(crate) fn workload(namespace: &str, name: &str, labels: &[(&str, &str)]) -> Workload {
    let labels = labels
        .iter()
        .map(|(key, value)| Label::from_key(key, value));
    Workload {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: labels.collect(),
        ports: NamedPorts::new(),
        owner: None,
    }
}

pub(crate) fn peer(workload: Workload, addresses: &[&str]) -> Peer {
    Peer {
        workload,
        addresses: addresses.iter().map(|text| address(text)).collect(),
    }
}

/// The endpoint with the address [`A`].
pub(crate) fn subject() -> EndpointId {
    EndpointId::new(7).unwrap()
}

/// The setting of the reference's cases.
pub(crate) fn cast() -> Cast {
    let team = "io.cilium.k8s.namespace.labels.team";
    Cast {
        endpoints: vec![LocalEndpoint {
            id: subject(),
            workload: workload("default", "a", &[("app", "a")]),
            addresses: vec![address(A), address("fd00::4")],
            audit: false,
            is_redirectable: true,
        }],
        peers: vec![
            peer(workload("default", "b", &[("app", "b")]), &[B, "fd00::5"]),
            peer(workload("default", "bare", &[]), &["10.2.0.9"]),
            peer(workload("other", "b", &[("app", "b"), (team, "x")]), &[O]),
            peer(
                workload("kube-system", "dns", &[("k8s-app", "kube-dns")]),
                &[DNS],
            ),
        ],
        services: Vec::new(),
        host_addresses: vec![address(HOST)],
    }
}

/// Addresses of others.
pub const ADDRESSES: [&str; 16] = [
    B,
    O,
    DNS,
    W,
    P,
    HOST,
    "10.2.0.9",
    "10.2.0.6",
    "192.168.0.2",
    "192.168.0.3",
    "192.168.0.4",
    "10.200.0.1",
    "10.1.3.9",
    "172.16.0.9",
    "2001:db8::1",
    "2a00::1",
];
/// Protocols and ports, or types of ICMP, that the random policies name, and some beside them.
pub const L4: [(u8, u16); 19] = [
    (6, 80),
    (6, 80),
    (6, 443),
    (6, 53),
    (17, 53),
    (17, 53),
    (17, 54),
    (17, 80),
    (17, 443),
    (132, 80),
    (132, 53),
    (6, 85),
    (6, 8080),
    (6, 444),
    (1, 8),
    (1, 0),
    (58, 128),
    (58, 2),
    (47, 0),
];
/// Names that are asked for.
pub const ASKED: [&str; 5] = [
    "example.com",
    "www.example.com",
    "a.b.example.com",
    "x.org",
    "com",
];

/// The setting of the cases with more in it: nodes, ports with names, services, more endpoints.
#[must_use]
pub fn crowd() -> Cast {
    let mut cast = cast();
    let ports = |list: &[(&str, u16, L4Protocol)]| -> NamedPorts {
        let named = list
            .iter()
            .map(|(name, port, protocol)| ((*name).into(), (*port, *protocol)));
        named.collect()
    };
    cast.endpoints[0].workload.ports =
        ports(&[("web", 80, L4Protocol::Tcp), ("dns", 53, L4Protocol::Udp)]);
    let endpoint = |id, workload, at: &str| LocalEndpoint {
        id: EndpointId::new(id).unwrap(),
        workload,
        addresses: vec![address(at)],
        audit: id == 9,
        is_redirectable: id != 8,
    };
    cast.endpoints.extend([
        endpoint(8, workload("default", "c", &[("app", "c")]), "10.2.0.7"),
        endpoint(9, workload("other", "a", &[("app", "a")]), "10.3.0.7"),
        endpoint(
            10,
            workload("default", "new", &[("reserved:init", "")]),
            "10.2.0.8",
        ),
        endpoint(11, workload("default", "a2", &[("app", "a")]), "10.2.0.3"),
    ]);
    cast.peers[0].workload.ports = ports(&[("web", 8080, L4Protocol::Tcp)]);
    cast.peers[3].workload.ports = ports(&[("dns", 53, L4Protocol::Udp)]);
    let mut twin = peer(workload("default", "b2", &[("app", "b")]), &["10.2.0.6"]);
    twin.workload.ports = ports(&[("web", 80, L4Protocol::Tcp), ("dns", 53, L4Protocol::Tcp)]);
    cast.peers.push(twin);
    for (name, at) in [
        ("remote-node", "192.168.0.2"),
        ("kube-apiserver", "192.168.0.3"),
        ("health", "192.168.0.4"),
    ] {
        let labels = [(format!("reserved:{name}"), "")];
        let labels = labels.each_ref().map(|(key, value)| (key.as_str(), *value));
        cast.peers
            .push(peer(workload("kube-system", name, &labels), &[at]));
    }
    let service = |name: &str, backend: &str| Service {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        labels: [Label::from_key("kind", "svc")].into_iter().collect(),
        backends: vec![address(backend)],
        frontends: Vec::new(),
    };
    cast.services = vec![service("out", "172.16.0.9"), service("b", B)];
    cast
}
