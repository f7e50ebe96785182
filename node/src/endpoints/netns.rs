//! A look at a workload: its link, its MAC, its addresses.

use std::net::IpAddr;
use std::path::Path;

use bpf_redirect_common::ADDRESSES_PER_ENDPOINT_MAX;
use transport::{Link, NetNs, Netlink};

use super::GuardedLink;
use super::held::{Held, HeldLink};

/// A workload's link, and what is wrong although it is guarded.
#[derive(Debug)]
pub(super) struct Sighted {
    pub(super) link: GuardedLink,
    pub(super) faults: Vec<String>,
}

/// Looks into the network namespace of a workload that isn't guarded yet, from the node's.
///
/// # Errors
/// The reason why it can't be guarded: no namespace, the node's own, no veth to this node, or a
/// second way out.
pub(crate) fn inspect(path: &Path) -> Result<GuardedLink, String> {
    look(path, ("", &Held::default())).map(|sighted| sighted.link)
}

/// The same for an endpoint of this name. A link that is held stays its link: what the workload did to its
/// network meanwhile is only said.
///
/// # Errors
/// As there, and where its link is held, if that isn't in the namespace.
pub(super) fn look(path: &Path, (name, held): (&str, &Held)) -> Result<Sighted, String> {
    let shown = path.display();
    let ns = NetNs::open(path).map_err(|error| format!("{shown}: {error}"))?;
    let node = NetNs::current().map_err(|error| error.to_string())?;
    let same = |a: &NetNs, b: &NetNs| {
        a.inode()
            .ok()
            .is_some_and(|inode| b.inode().ok() == Some(inode))
    };
    if same(&ns, &node) {
        return Err(format!("{shown} is the node's own network namespace"));
    }
    let inside = ns.run(|| -> Result<_, String> {
        let netlink = Netlink::open().map_err(|error| error.to_string())?;
        let links = netlink.links().map_err(|error| error.to_string())?;
        let addresses = netlink.addresses().map_err(|error| error.to_string())?;
        let node_id = netlink.netns_id(&node).map_err(|error| error.to_string())?;
        Ok((links, addresses, node_id))
    });
    let (links, addresses, node_id) = inside.map_err(|error| format!("{shown}: {error}"))??;
    let of_own = |link: &Link| held.link_of(name, link.peer?);
    let is_held = |link: &&Link| leads_to(link, node_id) && of_own(link).is_some();
    let (own, mut faults) = match links.iter().find(is_held) {
        Some(own) => (own, astray(&links, own)),
        None => (the_one_link(&links, node_id)?, Vec::new()),
    };
    let workload_mac = own
        .mac
        .ok_or_else(|| format!("{} has no Ethernet address", own.name))?;
    let addresses: Vec<IpAddr> = addresses
        .into_iter()
        .filter(|(index, _)| *index == own.index)
        .map(|(_, ip)| ip)
        .collect();
    let host = host_link(|link| Some(link.index) == own.peer)?;
    if host.kind != "veth" || host.peer != Some(own.index) {
        return Err(format!(
            "{} on the node doesn't lead to {} of the workload",
            host.name, own.name
        ));
    }
    let (link, fault) = finish(&host, workload_mac, (addresses, of_own(own)))?;
    faults.extend(fault);
    Ok(Sighted { link, faults })
}

/// An endpoint known by the host side of its link.
///
/// # Errors
/// The reason why it can't be guarded.
pub(super) fn by_interface(
    name: &str,
    (mac, addresses): (Option<[u8; 6]>, Vec<IpAddr>),
    (endpoint, held): (&str, &Held),
) -> Result<Sighted, String> {
    let host = host_link(|link| link.name == name)?;
    let Some(mac) = mac else {
        return Err(format!("{name}: the workload's own mac is needed"));
    };
    match host.kind.as_str() {
        "veth" | "tun" => {
            let held = held.link_of(endpoint, host.index);
            let (link, fault) = finish(&host, mac, (addresses, held))?;
            let faults = fault.into_iter().collect();
            Ok(Sighted { link, faults })
        }
        other => Err(format!(
            "{name} is of type {other:?}, which Namegate can not guard"
        )),
    }
}

/// The workload's only link that is up. Another one would be a way round.
fn the_one_link(links: &[Link], node_id: Option<i32>) -> Result<&Link, String> {
    let mut up = links.iter().filter(|link| link.up && !link.loopback);
    let Some(own) = up.next() else {
        return Err("the workload has no link that is up".to_owned());
    };
    let others: Vec<&str> = up.map(|link| link.name.as_str()).collect();
    if !others.is_empty() {
        return Err(second_way(own, &others));
    }
    if own.kind != "veth" {
        return Err(format!(
            "{} is of type {:?}, which Namegate can not guard",
            own.name, own.kind
        ));
    }
    if !leads_to(own, node_id) {
        return Err(format!(
            "the other end of {} isn't in this network namespace",
            own.name
        ));
    }
    Ok(own)
}

/// Whether the other end of a veth is in the node's namespace.
fn leads_to(link: &Link, node_id: Option<i32>) -> bool {
    link.kind == "veth" && link.peer_netns_id.is_some() && link.peer_netns_id == node_id
}

/// What is wrong with the links of a workload one of whose links is guarded.
fn astray(links: &[Link], own: &Link) -> Vec<String> {
    let is_other = |link: &&Link| link.up && !link.loopback && link.index != own.index;
    let others = links.iter().filter(is_other).map(|link| link.name.as_str());
    let others: Vec<&str> = others.collect();
    let down = (!own.up).then(|| format!("{} is down", own.name));
    let second = (!others.is_empty()).then(|| second_way(own, &others));
    down.into_iter().chain(second).collect()
}

fn second_way(own: &Link, others: &[&str]) -> String {
    format!(
        "the workload has {} and also {}: a way that isn't guarded",
        own.name,
        others.join(", ")
    )
}

fn host_link(wanted: impl Fn(&Link) -> bool) -> Result<Link, String> {
    let netlink = Netlink::open().map_err(|error| error.to_string())?;
    let links = netlink.links().map_err(|error| error.to_string())?;
    links
        .into_iter()
        .find(wanted)
        .ok_or_else(|| "the host side of its link isn't there".to_owned())
}

fn finish(
    host: &Link,
    workload_mac: [u8; 6],
    (addresses, held): (Vec<IpAddr>, Option<&HeldLink>),
) -> Result<(GuardedLink, Option<String>), String> {
    let (addresses, fault) = match held {
        Some(held) => held.keep(&addresses),
        None => (guardable(addresses)?, None),
    };
    let host_mac = host
        .mac
        .ok_or_else(|| format!("{} has no Ethernet address", host.name))?;
    let link = GuardedLink {
        name: host.name.clone(),
        ifindex: host.index,
        host_mac,
        workload_mac,
        mtu: host.mtu,
        addresses,
    };
    Ok((link, fault))
}

/// The addresses of a workload that isn't guarded yet.
fn guardable(addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, String> {
    if addresses.is_empty() {
        return Err("it has no address yet".to_owned());
    }
    if addresses.len() > ADDRESSES_PER_ENDPOINT_MAX {
        return Err(format!(
            "it has {} addresses; at most {ADDRESSES_PER_ENDPOINT_MAX} are guarded",
            addresses.len()
        ));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, kind: &str, up: bool, netns_id: Option<i32>) -> Link {
        Link {
            index: 2,
            name: name.to_owned(),
            kind: kind.to_owned(),
            up,
            peer: Some(9),
            peer_netns_id: netns_id,
            ..Link::default()
        }
    }

    #[test]
    fn one_veth_to_this_node_is_guarded_and_links_that_are_down_are_no_way_out() {
        let links = [
            link("eth0", "veth", true, Some(0)),
            link("tunl0", "ipip", false, None),
        ];
        assert_eq!(the_one_link(&links, Some(0)).unwrap().name, "eth0");
    }

    #[test]
    fn of_a_link_that_is_guarded_it_is_said_what_is_wrong() {
        let own = link("eth0", "veth", true, Some(0));
        let down = link("eth0", "veth", false, Some(0));
        let second = Link {
            index: 3,
            ..link("net1", "veth", true, Some(0))
        };
        let idle = Link {
            up: false,
            ..second.clone()
        };
        assert_eq!(astray(&[own.clone(), idle], &own), [""; 0]);
        let faults = astray(&[second, down.clone()], &down);
        assert_eq!(faults.len(), 2);
        assert!(faults.iter().any(|fault| fault == "eth0 is down"));
        assert!(faults.iter().any(|fault| fault.contains("also net1")));
    }

    #[test]
    fn a_second_way_out_is_refused_by_name() {
        let links = [
            link("eth0", "veth", true, Some(0)),
            link("net1", "macvlan", true, Some(0)),
        ];
        assert!(the_one_link(&links, Some(0)).unwrap_err().contains("net1"));
        for (link, word) in [
            (link("eth0", "macvlan", true, Some(0)), "macvlan"),
            (
                link("eth0", "veth", true, Some(1)),
                "isn't in this network namespace",
            ),
            (
                link("eth0", "veth", true, None),
                "isn't in this network namespace",
            ),
            (link("eth0", "veth", false, Some(0)), "no link that is up"),
        ] {
            let error = the_one_link(std::slice::from_ref(&link), Some(0)).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
