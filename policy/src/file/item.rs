//! One element of `ingress`, `ingressDeny`, `egress` or `egressDeny`.

use std::sync::Arc;

use fqdn::Everything;

use super::cursor::{At, Fields, Known, Report};
use super::object::Owner;
use super::peer::{self, PeerKind};
use super::{icmp, lint, names, ports};
use crate::Direction;
use crate::l4::Ports;
use crate::names::NameList;
use crate::problem::Code;
use crate::rule::{Effect, Entity, Item, PeerSelector, Peers};

/// Where an item stands.
pub(super) struct Context<'a> {
    pub(super) owner: &'a Owner<'a>,
    /// Whether its subjects have no namespace yet.
    pub(super) is_init: bool,
    /// Whether its subjects are nodes.
    pub(super) on_nodes: bool,
    pub(super) direction: Direction,
    pub(super) effect: Effect,
    pub(super) default_deny: bool,
    pub(super) log: Option<Arc<str>>,
}

/// What a list of peers in the file says.
#[derive(Default)]
struct PeerLists<'a> {
    /// Where the first of the lists stands; absent where no peer field is.
    at: Option<At<'a>>,
    /// `toFQDNs` and where it stands.
    names: Option<(At<'a>, Arc<NameList>)>,
    selectors: Vec<PeerSelector>,
}

const INGRESS_KINDS: [(&str, PeerKind); 6] = [
    ("fromEndpoints", PeerKind::Endpoints),
    ("fromCIDR", PeerKind::Cidr),
    ("fromCIDRSet", PeerKind::CidrSet),
    ("fromEntities", PeerKind::Entities),
    ("fromNodes", PeerKind::Nodes),
    ("fromGroups", PeerKind::Groups),
];

const EGRESS_KINDS: [(&str, PeerKind); 8] = [
    ("toEndpoints", PeerKind::Endpoints),
    ("toFQDNs", PeerKind::Names),
    ("toCIDR", PeerKind::Cidr),
    ("toCIDRSet", PeerKind::CidrSet),
    ("toEntities", PeerKind::Entities),
    ("toServices", PeerKind::Services),
    ("toNodes", PeerKind::Nodes),
    ("toGroups", PeerKind::Groups),
];

const INGRESS: Known = Known {
    object: "an ingress rule",
    read: &[
        "fromEndpoints",
        "fromCIDR",
        "fromCIDRSet",
        "fromEntities",
        "toPorts",
        "icmps",
        "authentication",
    ],
    refused: &[],
};

const INGRESS_DENY: Known = Known {
    object: "an ingress deny rule",
    read: &[
        "fromEndpoints",
        "fromCIDR",
        "fromCIDRSet",
        "fromEntities",
        "toPorts",
        "icmps",
    ],
    refused: &[],
};

const EGRESS: Known = Known {
    object: "an egress rule",
    read: &[
        "toEndpoints",
        "toFQDNs",
        "toCIDR",
        "toCIDRSet",
        "toEntities",
        "toServices",
        "toPorts",
        "icmps",
        "authentication",
    ],
    refused: &[],
};

const EGRESS_DENY: Known = Known {
    object: "an egress deny rule",
    read: &[
        "toEndpoints",
        "toCIDR",
        "toCIDRSet",
        "toEntities",
        "toServices",
        "toPorts",
        "icmps",
    ],
    refused: &[],
};

const AUTHENTICATION: Known = Known {
    object: "`authentication`",
    read: &["mode"],
    refused: &[],
};

impl Context<'_> {
    fn kinds(&self) -> &'static [(&'static str, PeerKind)] {
        match self.direction {
            Direction::Ingress => &INGRESS_KINDS,
            Direction::Egress => &EGRESS_KINDS,
        }
    }

    fn known(&self) -> &'static Known {
        match (self.direction, self.effect) {
            (Direction::Ingress, Effect::Allow) => &INGRESS,
            (Direction::Ingress, Effect::Deny) => &INGRESS_DENY,
            (Direction::Egress, Effect::Allow) => &EGRESS,
            (Direction::Egress, Effect::Deny) => &EGRESS_DENY,
        }
    }
}

/// Reads one item.
pub(super) fn read(at: &At<'_>, report: &mut Report<'_>, context: &Context<'_>) -> Option<Item> {
    let errors = report.errors();
    let mut fields = at.fields(report)?;
    if context.effect == Effect::Deny {
        refuse_in_deny(&mut fields, report);
    }
    check_combination(&fields, context.kinds(), report);
    let lists = read_peers(&mut fields, report, context);
    refuse_requires(&mut fields, report);
    let ports = read_ports(&mut fields, report, context);
    let authentication = fields.take("authentication");
    let fails_authentication =
        authentication.is_some_and(|at| read_authentication(&at, report) == Some(true));
    fields.finish(report, context.known());
    let has_ports = matches!(ports, Ports::List(_));
    let item = Item {
        direction: context.direction,
        effect: context.effect,
        line: at.node.place.line,
        column: at.node.place.column,
        path: at.path.to_string().into(),
        default_deny: context.default_deny,
        peers: merge_peers(&lists, has_ports),
        ports,
        log: context.log.clone(),
        fails_authentication,
    };
    if let Some((names, _)) = &lists.names
        && item.has_dns()
    {
        let message = "`toFQDNs` can't stand beside `rules.dns`: which server such a rule means \
                       would only be known from answers of that server";
        report.note_with_help(
            names,
            (Code::Conflict, message.to_owned()),
            "name the DNS server by `toEndpoints` or `toCIDR`, the names in another egress rule",
        );
    }
    if report.errors() > errors {
        return None;
    }
    lint::warn_of_item(
        &item,
        report,
        (lists.at.as_ref().unwrap_or(at), context.owner),
    );
    Some(item)
}

/// What the API gives to allow rules only.
fn refuse_in_deny(fields: &mut Fields<'_>, report: &mut Report<'_>) {
    let names = "a deny rule has no `toFQDNs`: names can only be allowed";
    let help = "deny addresses by `toCIDR` or `toEntities`; a name that no rule allows is closed";
    fields.refuse("toFQDNs", report, (names, help));
    let authentication = "a deny rule has no `authentication`";
    fields.refuse("authentication", report, (authentication, "take it out"));
}

fn check_combination(
    fields: &Fields<'_>,
    kinds: &[(&'static str, PeerKind)],
    report: &mut Report<'_>,
) {
    let held = kinds.iter().map(|(key, _)| *key);
    let held: Vec<&str> = held.filter(|key| fields.holds(key)).collect();
    if let [first, second, ..] = held.as_slice() {
        let message = format!(
            "combining {first} and {second} is not supported by Cilium's API: write one rule for \
             each"
        );
        fields.note_conflict(report, &message);
    }
}

fn read_peers<'a>(
    fields: &mut Fields<'a>,
    report: &mut Report<'_>,
    context: &Context<'_>,
) -> PeerLists<'a> {
    let mut lists = PeerLists::default();
    for (key, kind) in context.kinds() {
        let Some(list) = fields.take_list(key, report) else {
            continue;
        };
        if *kind == PeerKind::Names {
            let names = names::read_list(&list.items, report, Everything::PlainNames);
            lists.names = Some((list.at.clone(), names));
        }
        lists
            .selectors
            .extend(peer::read(*kind, &list, (report, context)));
        lists.at.get_or_insert(list.at);
    }
    lists
}

/// The API still has these fields, as lists without items.
fn refuse_requires(fields: &mut Fields<'_>, report: &mut Report<'_>) {
    for key in ["fromRequires", "toRequires"] {
        let Some(list) = fields.take_list(key, report) else {
            continue;
        };
        if !list.items.is_empty() {
            let message =
                format!("`{key}` was removed in Cilium 1.19: only an empty list is accepted");
            let help = "say it by the labels of the peers, or by a deny rule";
            report.note_with_help(&list.at, (Code::InvalidValue, message), help);
        }
    }
}

fn read_ports(fields: &mut Fields<'_>, report: &mut Report<'_>, context: &Context<'_>) -> Ports {
    let to_ports = fields.take_list("toPorts", report);
    let icmps = fields.take_list("icmps", report);
    let to_ports = to_ports.filter(|list| !list.items.is_empty());
    let icmps = icmps.filter(|list| !list.items.is_empty());
    match (to_ports, icmps) {
        (None, None) => Ports::Any,
        (Some(list), None) => Ports::List(ports::read(&list.items, report, context)),
        (None, Some(list)) => Ports::List(icmp::read(&list.items, report)),
        (Some(_), Some(_)) => {
            let message = "`icmps` and `toPorts` can't stand in one rule: write one rule for each";
            fields.note_conflict(report, message);
            Ports::Any
        }
    }
}

/// Whether every flow fails.
fn read_authentication(at: &At<'_>, report: &mut Report<'_>) -> Option<bool> {
    let mut fields = at.fields(report)?;
    let mode = fields.take("mode");
    if mode.is_none() {
        fields.note_missing(report, "no `mode`");
    }
    fields.finish(report, &AUTHENTICATION);
    let mode = mode?;
    match mode.text(report)? {
        "disabled" => Some(false),
        "test-always-fail" => Some(true),
        "required" => {
            let message = "mutual authentication (`mode: required`) is not supported".to_owned();
            let help = "take `authentication` out, or write `mode: disabled`";
            report.note_with_help(&mode, (Code::NotSupported, message), help);
            None
        }
        other => {
            let message = format!("{other:?} is no mode of authentication");
            let help = "the modes are disabled, required and test-always-fail";
            report.note_with_help(&mode, (Code::InvalidValue, message), help);
            None
        }
    }
}

/// An empty list selects nobody, and no list at all selects everybody, if there are ports.
fn merge_peers(lists: &PeerLists<'_>, has_ports: bool) -> Peers {
    if lists.at.is_none() {
        return if has_ports { Peers::Any } else { Peers::Nobody };
    }
    if let Some((_, names)) = lists.names.as_ref().filter(|(_, names)| names.len() > 0) {
        return Peers::Named(Arc::clone(names));
    }
    let is_entity = |peer: &PeerSelector, entity| *peer == PeerSelector::Entity(entity);
    let peers = lists.selectors.iter();
    if peers.clone().any(|peer| is_entity(peer, Entity::All)) {
        return Peers::Any;
    }
    let peers = peers.filter(|peer| !is_entity(peer, Entity::None));
    let peers: Vec<PeerSelector> = peers.cloned().collect();
    match peers.is_empty() {
        true => Peers::Nobody,
        false => Peers::Some(peers),
    }
}
