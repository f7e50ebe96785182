//! The endpoints of this node, as a list and one by one, for people and programs.

use bpf_redirect::{PinnedMaps, chain, is_ours};
use bpf_redirect_common::POLICY;
use policy::{Direction, EndpointId, Enforcement};
use serde_json::{Value, json};
use transport::Netlink;

use crate::daemon::Daemon;
use crate::endpoints::{Found, GuardedCgroup, Site};
use crate::guard::{EndpointState, Guarded};
use crate::identities::texts;
use crate::resolver::RESOLVED_ON_HOST;
use crate::{clock, maps};

/// The first number for a set of workload labels; smaller ones are the node's and the world's.
const LABELS_MIN: u32 = policy::Identity::LABELS_MIN;

/// All endpoints, also those that can't be guarded.
pub(crate) fn endpoints(daemon: &Daemon) -> Vec<Value> {
    let guarded = daemon
        .guards
        .iter()
        .map(|(id, guarded)| summary(daemon, id, guarded));
    let refused = daemon.guards.refused.iter().map(|refused| {
        json!({ "name": refused.name, "state": "refused", "reason": refused.reason, "file": refused.file })
    });
    guarded.chain(refused).collect()
}

/// All that is known of one, by its number or `NAMESPACE/NAME`.
pub(crate) fn endpoint(daemon: &Daemon, wanted: &str) -> Value {
    let is_wanted = |id: EndpointId, guarded: &Guarded| {
        wanted.parse() == Ok(id.get()) || wanted == guarded.found.workload.full_name()
    };
    let found = daemon.guards.iter().find(|(id, one)| is_wanted(*id, one));
    if let Some((id, guarded)) = found {
        return details(daemon, id, guarded);
    }
    let mut all = endpoints(daemon).into_iter();
    let refused = all.find(|one| one.get("name").and_then(Value::as_str) == Some(wanted));
    refused.unwrap_or_else(
        || json!({ "error": format!("no endpoint {wanted}: `namegate endpoint list` shows them") }),
    )
}

fn summary(daemon: &Daemon, id: EndpointId, guarded: &Guarded) -> Value {
    let snapshot = daemon.learner.snapshot();
    let found = &guarded.found;
    let mut identities = found
        .addresses()
        .iter()
        .map(|ip| snapshot.identity_of(*ip).get());
    let identity = identities.find(|identity| *identity >= LABELS_MIN);
    let knowledge = daemon.learner.with_knowledge(id, |knowledge| {
        let (cache, ledger) = (&knowledge.cache, &knowledge.ledger);
        (
            cache.name_count(),
            cache.address_count(),
            ledger.addresses().count(),
        )
    });
    let (names, addresses, open) = knowledge.unwrap_or_default();
    let state = match &guarded.state {
        EndpointState::Attaching => "attaching",
        EndpointState::Ready => "ready",
        EndpointState::Refused(_) => "refused",
    };
    let is_enforced = snapshot.is_egress_enforced(id);
    let name = guarded.found.workload.full_name();
    let on_host = daemon.resolved_on_host.contains(&name);
    let warning = match cgroup_of(found) {
        Some(cgroup) => cgroup.bypass.as_deref(),
        None => on_host.then_some(RESOLVED_ON_HOST),
    };
    json!({
        "id": id.get(),
        "name": name,
        "state": state,
        "reason": guarded.reason(),
        "warning": warning,
        "identity": identity,
        "interface": found.link().map(|link| &link.name),
        "cgroup": cgroup_of(found).map(|cgroup| &cgroup.path),
        "addresses": found.addresses(),
        "egress": is_enforced.map(|enforced| if enforced { "enforced" } else { "open" }),
        "names": names,
        "learned_addresses": addresses,
        "open_addresses": open,
        "file": guarded.found.file,
    })
}

fn details(daemon: &Daemon, id: EndpointId, guarded: &Guarded) -> Value {
    let snapshot = daemon.learner.snapshot();
    let link = guarded.found.link();
    let followed = daemon
        .learner
        .with_knowledge(id, |knowledge| knowledge.revision())
        .flatten();
    let enforcement = |direction| snapshot.enforcement(id, direction).map(enforcement_word);
    let more = json!({
        "labels": texts(&guarded.found.workload.full_labels()),
        "audit": guarded.found.audit,
        "ifindex": link.map(|link| link.ifindex),
        "mtu": link.map(|link| link.mtu),
        "mac": link.map(|link| mac(link.workload_mac)),
        "host_mac": link.map(|link| mac(link.host_mac)),
        "cgroup_id": cgroup_of(&guarded.found).map(|cgroup| cgroup.id),
        "enforcement": {
            "ingress": enforcement(Direction::Ingress),
            "egress": enforcement(Direction::Egress),
        },
        "policy_revision": followed,
        "programs": match link {
            Some(link) => programs(&link.name, link.ifindex),
            None => guarded.cgroup_programs(),
        },
        "policy": policy(daemon, id),
    });
    let mut all = summary(daemon, id, guarded);
    if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
        all.extend(more);
    }
    all
}

fn cgroup_of(found: &Found) -> Option<&GuardedCgroup> {
    match &found.site {
        Site::Cgroup(cgroup) => Some(cgroup),
        Site::Link(_) => None,
    }
}

fn enforcement_word(enforcement: Enforcement) -> &'static str {
    match enforcement {
        Enforcement::Open => "open",
        Enforcement::Observed => "observed",
        Enforcement::Enforced => "enforced",
        Enforcement::Audited => "audited",
    }
}

/// The programs on an interface in the order in which they run, whoever attached them.
pub(crate) fn programs(interface: &str, ifindex: u32) -> Vec<Value> {
    let side = |ingress| if ingress { "ingress" } else { "egress" };
    let tcx = chain(interface).into_iter().map(|seat| {
        json!({
            "hook": side(seat.ingress),
            "by": "tcx",
            "program": seat.program,
            "id": seat.id,
            "ours": is_ours(&seat.program),
        })
    });
    let filters = Netlink::open().and_then(|netlink| netlink.filters(ifindex));
    let filters = filters.unwrap_or_default().into_iter().map(|filter| {
        let ours = filter.program.as_deref().is_some_and(is_ours);
        json!({
            "hook": side(filter.ingress),
            "by": "clsact",
            "program": filter.program.unwrap_or(filter.kind),
            "preference": filter.preference,
            "ours": ours,
        })
    });
    tcx.chain(filters).collect()
}

/// Its policy entries as the kernel has them; null where they can't be read.
fn policy(daemon: &Daemon, id: EndpointId) -> Value {
    let rows = daemon.pins().and_then(|dir| {
        let pinned = PinnedMaps::open(dir).ok()?;
        pinned
            .entries(POLICY, Some(id.get()), clock::boot_ns())
            .ok()
    });
    match rows {
        Some(rows) => rows.iter().map(maps::json).collect(),
        None => Value::Null,
    }
}

fn mac(mac: [u8; 6]) -> String {
    bpf_redirect::Field::Mac(mac).to_string()
}
