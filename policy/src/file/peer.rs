//! The kinds of peers.

use ipnet::IpNet;

use super::cursor::{At, Known, Report};
use super::item::Context;
use super::selector;
use super::take::List;
use crate::problem::Code;
use crate::rule::{CidrSelector, Entity, PeerSelector, ServiceName, ServiceSelector};

/// What a list of peers holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerKind {
    Endpoints,
    Cidr,
    CidrSet,
    Entities,
    Services,
    Names,
    Nodes,
    Groups,
}

const CIDR_SET: Known = Known {
    object: "an item of a CIDR set",
    read: &["cidr", "cidrGroupRef", "cidrGroupSelector", "except"],
    refused: &[],
};

const SERVICE: Known = Known {
    object: "an item of `toServices`",
    read: &["k8sService", "k8sServiceSelector"],
    refused: &[],
};

const SERVICE_NAME: Known = Known {
    object: "`k8sService`",
    read: &["serviceName", "namespace"],
    refused: &[],
};

const SERVICE_SELECTOR: Known = Known {
    object: "`k8sServiceSelector`",
    read: &["selector", "namespace"],
    refused: &[],
};

/// Reads the items of a peer list.
pub(super) fn read(
    kind: PeerKind,
    list: &List<'_>,
    (report, context): (&mut Report<'_>, &Context<'_>),
) -> Vec<PeerSelector> {
    let refuse = |report: &mut Report<'_>, why: &str| {
        if !list.items.is_empty() {
            report.note(&list.at, Code::NotSupported, why);
        }
        Vec::new()
    };
    let items = list.items.iter();
    match kind {
        PeerKind::Endpoints => {
            let scope = (context.owner, context.is_init);
            let selectors = items.filter_map(|item| selector::read_peer(item, report, scope));
            selectors.map(PeerSelector::Labels).collect()
        }
        PeerKind::Cidr => items
            .filter_map(|item| read_prefix(item, report))
            .map(|prefix| {
                PeerSelector::Cidr(CidrSelector {
                    prefix,
                    except: Vec::new(),
                })
            })
            .collect(),
        PeerKind::CidrSet => items
            .flat_map(|item| read_cidr_set(item, report, context))
            .map(PeerSelector::Cidr)
            .collect(),
        PeerKind::Entities => {
            let entities = items.filter_map(|item| read_entity(item, report));
            entities.map(PeerSelector::Entity).collect()
        }
        PeerKind::Services => {
            let services = items.filter_map(|item| read_service(item, report));
            services.map(PeerSelector::Service).collect()
        }
        PeerKind::Names => Vec::new(), // no selectors: `item` reads them
        PeerKind::Nodes => refuse(
            report,
            "selecting nodes by their labels is not supported: node labels are off; the entities \
             `host` and `remote-node` name nodes",
        ),
        PeerKind::Groups => refuse(
            report,
            "groups of a cloud provider (`fromGroups`, `toGroups`) are not supported; a \
             `cidrGroupRef` in a CIDR set names a CiliumCIDRGroup",
        ),
    }
}

/// Reads a prefix; host bits are cut off.
pub(super) fn read_prefix(at: &At<'_>, report: &mut Report<'_>) -> Option<IpNet> {
    let text = at.text(report)?;
    if let Ok(prefix) = text.parse::<IpNet>() {
        return Some(prefix.trunc());
    }
    let message = format!("{text:?} is no address prefix");
    let help = match text.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => format!("write the length: {text}/32"),
        Ok(std::net::IpAddr::V6(_)) => format!("write the length: {text}/128"),
        Err(_) => "an address, a slash and a length, as 10.0.0.0/8".to_owned(),
    };
    report.note_with_help(at, (Code::InvalidValue, message), help);
    None
}

/// Reads an item of a CIDR set; a group is as many selectors as it has prefixes.
fn read_cidr_set(at: &At<'_>, report: &mut Report<'_>, context: &Context<'_>) -> Vec<CidrSelector> {
    let Some(mut fields) = at.fields(report) else {
        return Vec::new();
    };
    let cidr = fields.take("cidr");
    let group = fields.take("cidrGroupRef");
    let labels = fields.take("cidrGroupSelector");
    let except = fields.take_list("except", report);
    let given = [&cidr, &group, &labels]
        .iter()
        .filter(|at| at.is_some())
        .count();
    if given != 1 {
        let message = "exactly one of `cidr`, `cidrGroupRef` and `cidrGroupSelector`";
        fields.note_conflict(report, message);
    }
    fields.finish(report, &CIDR_SET);
    let holes = except.map(|list| list.items).unwrap_or_default();
    let holes: Vec<(At<'_>, IpNet)> = holes
        .into_iter()
        .filter_map(|item| read_prefix(&item, report).map(|hole| (item, hole)))
        .collect();
    let except: Vec<IpNet> = holes.iter().map(|(_, hole)| *hole).collect();
    match (cidr, group, labels) {
        (Some(cidr), None, None) => {
            let Some(prefix) = read_prefix(&cidr, report) else {
                return Vec::new();
            };
            check_holes(prefix, &holes, report);
            vec![CidrSelector { prefix, except }]
        }
        (None, Some(group), None) => match group.text(report) {
            Some(name) => context
                .owner
                .groups
                .by_name((name, &except), &group, report),
            None => Vec::new(),
        },
        (None, None, Some(labels)) => match selector::read_plain(&labels, report) {
            Some(selector) => {
                let groups = context.owner.groups;
                groups.by_labels((&selector, &except), &labels, report)
            }
            None => Vec::new(),
        },
        _ => Vec::new(), // told above
    }
}

/// Every hole must lie in the prefix that it is a hole of.
pub(super) fn check_holes(prefix: IpNet, holes: &[(At<'_>, IpNet)], report: &mut Report<'_>) {
    for (at, hole) in holes {
        if !prefix.contains(hole) {
            let message = format!("{hole} is not inside {prefix}");
            let help = "`except` takes prefixes that lie in the item's own prefix";
            report.note_with_help(at, (Code::InvalidValue, message), help);
        }
    }
    if let Some((at, _)) = holes.iter().find(|(_, hole)| *hole == prefix) {
        let message = format!("the hole is all of {prefix}: the item selects nothing");
        let help = "name a part of the prefix";
        report.note_with_help(at, (Code::SelectsNothing, message), help);
    }
}

fn read_entity(at: &At<'_>, report: &mut Report<'_>) -> Option<Entity> {
    let text = at.text(report)?;
    let known = Entity::WORDS.iter().find(|(word, _)| *word == text);
    if let Some((_, entity)) = known {
        return Some(*entity);
    }
    let words = Entity::WORDS.map(|(word, _)| word).join(", ");
    let message = format!("unsupported entity {text:?}");
    let help = format!("the entities are {words}; case matters");
    report.note_with_help(at, (Code::InvalidValue, message), help);
    None
}

/// Reads `{k8sService}` or `{k8sServiceSelector}`; the selector wins.
fn read_service(at: &At<'_>, report: &mut Report<'_>) -> Option<ServiceSelector> {
    let mut fields = at.fields(report)?;
    let by_name = fields.take("k8sService");
    let by_labels = fields.take("k8sServiceSelector");
    if by_name.is_none() && by_labels.is_none() {
        fields.note_missing(report, "no `k8sService` and no `k8sServiceSelector`");
    }
    fields.finish(report, &SERVICE);
    let named = by_name.and_then(|at| {
        let mut fields = at.fields(report)?;
        let name = fields.require_word("serviceName", report);
        let namespace = fields.take_word("namespace", report);
        fields.finish(report, &SERVICE_NAME);
        Some(ServiceSelector {
            namespace: namespace.map(Into::into),
            service: ServiceName::Exact(name?.into()),
        })
    });
    let labelled = by_labels.and_then(|at| {
        let mut fields = at.fields(report)?;
        let selector = fields.take("selector");
        if selector.is_none() {
            fields.note_missing(report, "no `selector`");
        }
        let namespace = fields.take_word("namespace", report);
        fields.finish(report, &SERVICE_SELECTOR);
        let selector = selector::read_plain(&selector?, report)?;
        Some(ServiceSelector {
            namespace: namespace.map(Into::into),
            service: ServiceName::Labels(selector),
        })
    });
    labelled.or(named)
}
