//! Others on the links of endpoints and of the node, and a resolver that goes round them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bpf_redirect::{chain, is_ours};
use transport::{LinkError, Netlink};

use super::Finding;
use crate::endpoints::file::Roster;
use crate::endpoints::{Found, Site};
use crate::resolver::{HELP, RESOLVED_ON_HOST, resolved_on_host};

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

/// What follows from their being there.
pub(crate) const CHAINED: &str = "a network that routes by BPF may take the proxy's queries for its own; try it before you rely on it";

/// Where Cilium and Calico have programs on this node, each link once; nothing where the links can't be
/// looked at.
pub(crate) fn routers() -> Result<BTreeSet<String>, LinkError> {
    let netlink = Netlink::open()?;
    let mut all = BTreeSet::new();
    for link in netlink.links()? {
        let programs = programs_on(&netlink, (&link.name, link.index))?;
        all.extend(by_bpf(&link.name, &programs).map(|finding| finding.message));
    }
    Ok(all)
}

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

/// Endpoints whose queries pass no link: containers whose names Docker asks for from the host, and cgroups
/// whose processes have names resolved by another one.
pub(super) fn resolvers(namespaces: &[(String, PathBuf)], roster: &Roster) -> Vec<Finding> {
    let mut findings: Vec<Finding> = roster.found.iter().filter_map(bypassed).collect();
    let found = resolved_on_host(namespaces).into_iter();
    findings.extend(
        found.map(|endpoint| {
            Finding::warn(RESOLVERS, format!("{endpoint}: {RESOLVED_ON_HOST}"), HELP)
        }),
    );
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
        "{}: {}",
        found.workload.full_name(),
        cgroup.bypass.as_deref()?
    );
    let help = "hide the resolver's socket from its processes, and let them ask a DNS server";
    Some(Finding::warn(RESOLVERS, text, help))
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
}
