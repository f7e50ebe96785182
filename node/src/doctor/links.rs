//! Others on the links of endpoints and of the node, and a resolver that goes round them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bpf_redirect::{chain, is_ours};
use transport::{LinkError, Netlink};

use super::Finding;
use crate::endpoints::file::Roster;
use crate::endpoints::{Found, Site};

const PROGRAMS: &str = "programs";
const RESOLVERS: &str = "resolvers";
/// How the programs of those who route packets by BPF are called.
const BY_BPF: [(&str, &str); 2] = [("cil_", "Cilium"), ("cali_", "Calico")];

/// A program on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Program {
    name: String,
    ingress: bool,
    /// By tcx; else by a filter of clsact, which runs after all tcx programs.
    tcx: bool,
}

/// Programs of others on the links of endpoints, and of Cilium and Calico anywhere.
pub(super) fn programs(roster: &Roster) -> Vec<Finding> {
    judged(roster).unwrap_or_else(|error| {
        let text = format!("the links of this node can't be looked at: {error}");
        vec![Finding::fail(PROGRAMS, text, "run doctor as root")]
    })
}

fn judged(roster: &Roster) -> Result<Vec<Finding>, LinkError> {
    let netlink = Netlink::open()?;
    let mut findings = Vec::new();
    for link in netlink.links()? {
        let all = programs_on(&netlink, (&link.name, link.index))?;
        let of_endpoint = roster
            .found
            .iter()
            .find(|found| found.link().is_some_and(|own| own.ifindex == link.index));
        match of_endpoint {
            Some(found) => {
                let name = found.workload.full_name();
                findings.extend(on_endpoint((&name, &link.name), &all));
            }
            None => findings.extend(by_bpf(&link.name, &all)),
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(PROGRAMS, "none of others is in the way"));
    }
    Ok(findings)
}

/// In the order in which they run, for each direction.
fn programs_on(netlink: &Netlink, (name, index): (&str, u32)) -> Result<Vec<Program>, LinkError> {
    let tcx = chain(name).into_iter().map(|seat| Program {
        name: seat.program,
        ingress: seat.ingress,
        tcx: true,
    });
    let filters = netlink.filters(index)?.into_iter();
    let filters = filters.map(|filter| Program {
        name: filter.program.unwrap_or(filter.kind),
        ingress: filter.ingress,
        tcx: false,
    });
    Ok(tcx.chain(filters).collect())
}

/// Who runs before ours may send a packet on without us; who runs after ours gets what we let pass.
fn on_endpoint((endpoint, interface): (&str, &str), all: &[Program]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for ingress in [true, false] {
        let side = if ingress { "ingress" } else { "egress" };
        let mut before = all.iter().filter(|one| one.ingress == ingress);
        let others: Vec<&Program> = before
            .by_ref()
            .take_while(|one| !is_ours(&one.name))
            .collect();
        // Whether one of ours stopped the walk.
        let is_guarded = all
            .iter()
            .any(|one| one.ingress == ingress && is_ours(&one.name));
        for other in others {
            let (name, by) = (&other.name, if other.tcx { "tcx" } else { "clsact" });
            let whose = whose(name);
            findings.push(if is_guarded {
                Finding::fail(
                    PROGRAMS,
                    format!("{name}{whose} runs before ours on {side} of {interface}, {endpoint} ({by}): what it sends on is not judged"),
                    "take it off, or start the daemon: it goes in front again by itself",
                )
            } else {
                Finding::warn(
                    PROGRAMS,
                    format!("{name}{whose} is on {side} of {interface}, {endpoint} ({by})"),
                    "ours will run before it; what it does to packets is not known here",
                )
            });
        }
        findings.extend(
            before
                .filter(|one| !whose(&one.name).is_empty())
                .map(|one| {
                    Finding::warn(
                        PROGRAMS,
                        format!(
                            "{}{} runs after ours on {side} of {interface}, {endpoint}",
                            one.name,
                            whose(&one.name)
                        ),
                        CHAINED,
                    )
                }),
        );
    }
    findings
}

const CHAINED: &str = "a network that routes by BPF may take the proxy's queries for its own; try it before you rely on it";

/// Cilium or Calico on a link that is no endpoint's: told once for each link.
fn by_bpf(interface: &str, all: &[Program]) -> Option<Finding> {
    let one = all.iter().find(|one| !whose(&one.name).is_empty())?;
    let text = format!("{}{} is on {interface}", one.name, whose(&one.name));
    Some(Finding::warn(PROGRAMS, text, CHAINED))
}

fn whose(program: &str) -> String {
    let known = BY_BPF
        .iter()
        .find(|(prefix, _)| program.starts_with(prefix));
    known.map_or_else(String::new, |(_, owner)| format!(" of {owner}"))
}

/// Containers whose names Docker asks for from the host: no query of theirs passes their link. And cgroups
/// whose processes have names resolved by another one.
pub(super) fn resolvers(namespaces: &[(String, PathBuf)], roster: &Roster) -> Vec<Finding> {
    let mut wanted: BTreeMap<(u64, u64), &str> = BTreeMap::new();
    for (endpoint, path) in namespaces {
        wanted.extend(inode(path).map(|inode| (inode, endpoint.as_str())));
    }
    let mut findings: Vec<Finding> = roster.found.iter().filter_map(bypassed).collect();
    for (inode, text) in resolv_confs(&wanted.keys().copied().collect()) {
        if let Some(endpoint) = wanted.get(&inode)
            && is_resolved_on_host(&text)
        {
            findings.push(Finding::warn(
                RESOLVERS,
                format!(
                    "Docker resolves the names of {endpoint} on the host: its queries are not judged, and nothing is learned from them"
                ),
                "give the container a DNS server that is no loopback address: --dns, or \"dns\" in daemon.json",
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            RESOLVERS,
            "no endpoint's names are resolved by another process on the host",
        ));
    }
    findings
}

fn bypassed(found: &Found) -> Option<Finding> {
    let Site::Cgroup(cgroup) = &found.site else {
        return None;
    };
    let text = format!(
        "{} for {}: its queries are not judged, and nothing is learned from them",
        cgroup.bypass.as_deref()?,
        found.workload.full_name()
    );
    let help = "hide the resolver's socket from its processes, and let them ask a DNS server";
    Some(Finding::warn(RESOLVERS, text, help))
}

/// Docker's own comment names the servers that it asks, and those that it asks from the host.
fn is_resolved_on_host(resolv_conf: &str) -> bool {
    let mut comments = resolv_conf.lines().filter(|line| line.starts_with('#'));
    comments.any(|line| line.contains("ExtServers:") && line.contains("host("))
}

/// The resolver's file of each of these network namespaces, as some process in it sees it.
fn resolv_confs(wanted: &BTreeSet<(u64, u64)>) -> BTreeMap<(u64, u64), String> {
    let mut found = BTreeMap::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        let Some(inode) = inode(&path.join("ns/net")).filter(|inode| wanted.contains(inode)) else {
            continue;
        };
        // A process that has just ended has none; another one may.
        if !found.contains_key(&inode)
            && let Ok(text) = std::fs::read_to_string(path.join("root/etc/resolv.conf"))
        {
            found.insert(inode, text);
        }
    }
    found
}

fn inode(namespace: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(namespace).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn program(name: &str, ingress: bool, tcx: bool) -> Program {
        Program {
            name: name.to_owned(),
            ingress,
            tcx,
        }
    }

    #[test]
    fn who_runs_before_ours_fails_and_who_runs_after_is_told_of_if_it_routes() {
        let ours = program("ng_from_ep", true, true);
        for (all, expected) in [
            (vec![ours.clone()], vec![]),
            (vec![ours.clone(), program("meter", true, true)], vec![]),
            (
                vec![ours.clone(), program("cil_from_host", true, false)],
                vec![Status::Warn],
            ),
            (
                vec![program("meter", true, true), ours.clone()],
                vec![Status::Fail],
            ),
            (vec![program("meter", true, true)], vec![Status::Warn]),
            (
                vec![ours.clone(), program("meter", false, false)],
                vec![Status::Warn],
            ),
        ] {
            let findings = on_endpoint(("default/a", "veth1"), &all);
            let statuses: Vec<Status> = findings.iter().map(|one| one.status).collect();
            assert_eq!(statuses, expected, "{all:?}");
        }
        assert!(by_bpf("eth0", &[program("cali_to_hep", true, false)]).is_some());
        assert!(by_bpf("eth0", &[program("meter", true, false)]).is_none());
    }

    #[test]
    fn dockers_comment_tells_who_asks() {
        for (text, expected) in [
            (
                "nameserver 127.0.0.11\noptions ndots:0\n\n# Based on host file: '/etc/resolv.conf'\n# ExtServers: [host(127.0.0.53)]\n",
                true,
            ),
            (
                "nameserver 127.0.0.11\n# ExtServers: [9.9.9.9 host(127.0.0.1)]\n",
                true,
            ),
            ("nameserver 127.0.0.11\n# ExtServers: [9.9.9.9]\n", false),
            ("nameserver 9.9.9.9\n", false),
        ] {
            assert_eq!(is_resolved_on_host(text), expected, "{text}");
        }
    }
}
