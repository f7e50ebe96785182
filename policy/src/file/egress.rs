//! One item of `egress`: its peers.

use fqdn::{Everything, Pattern};
use ipnet::IpNet;

use super::cursor::{At, Fields, Known, Report};
use super::object::Owner;
use super::{ports, selector};
use crate::Direction;
use crate::l4::Ports;
use crate::problem::Code;
use crate::rule::{CidrSelector, Effect, Entity, FqdnSelector, Item, PeerSelector, Peers};

const EGRESS: Known = Known {
    object: "an egress rule",
    read: &["toEndpoints", "toFQDNs", "toCIDR", "toEntities", "toPorts"],
    refused: &[
        (
            "toCIDRSet",
            "`toCIDRSet` is not supported yet: use `toCIDR`",
        ),
        ("toServices", "`toServices` is not supported yet"),
        ("toGroups", "`toGroups` is not supported yet"),
        ("toNodes", "`toNodes` is not supported yet"),
        (
            "toRequires",
            "`toRequires` was removed from the API in 1.19",
        ),
        ("icmps", "`icmps` is not supported yet"),
        (
            "authentication",
            "mutual authentication is not supported yet",
        ),
    ],
};

const FQDN_ITEM: Known = Known {
    object: "a name selector",
    read: &["matchName", "matchPattern"],
    refused: &[],
};

/// The fields that name peers, of which one may have elements.
const PEER_FIELDS: [&str; 8] = [
    "toEndpoints",
    "toFQDNs",
    "toCIDR",
    "toCIDRSet",
    "toEntities",
    "toServices",
    "toGroups",
    "toNodes",
];

/// Reads one item.
pub(super) fn read(
    at: &At<'_>,
    report: &mut Report<'_>,
    (owner, subject_is_init): (&Owner<'_>, bool),
) -> Option<Item> {
    let errors = report.errors();
    let mut fields = at.fields(report)?;
    check_combination(&fields, report);
    let mut lists = Vec::new();
    let mut read_list = |key: &str, read_item: &mut ReadItem<'_>, report: &mut Report<'_>| {
        let list = fields.take(key)?;
        let items = list.items(report)?;
        let peers = items.iter().filter_map(|item| read_item(item, report));
        lists.push(peers.collect::<Vec<_>>());
        Some(list)
    };
    let endpoints = read_list(
        "toEndpoints",
        &mut |item, report| {
            let selector = selector::read_peer(item, report, (owner, subject_is_init));
            selector.map(PeerSelector::Labels)
        },
        report,
    );
    let names = read_list(
        "toFQDNs",
        &mut |item, report| read_name(item, report).map(PeerSelector::Name),
        report,
    );
    let cidrs = read_list("toCIDR", &mut read_cidr, report);
    let entities = read_list("toEntities", &mut read_entity, report);
    let peer_at = endpoints.or_else(|| names.clone()).or(cidrs).or(entities);
    let port_list = fields.take("toPorts");
    if fields.has("toRequires") && !fields.holds("toRequires") {
        fields.tolerate(&["toRequires"]); // the API still has it, as a list without items
    }
    fields.finish(report, &EGRESS);
    let ports = match &port_list {
        Some(list) if !list.is_empty_list() => ports::read(list, report)?,
        Some(_) | None => Ports::Any,
    };
    let has_ports = matches!(ports, Ports::List(_));
    let rule = Item {
        direction: Direction::Egress,
        effect: Effect::Allow,
        line: at.node.place.line,
        column: at.node.place.column,
        default_deny: true,
        log: None,
        fails_authentication: false,
        peers: merge_peers(lists, has_ports),
        ports,
    };
    if let Some(names) = &names
        && rule.has_dns()
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
    warn(&rule, report, (at, peer_at.as_ref(), owner));
    Some(rule)
}

type ReadItem<'f> = dyn FnMut(&At<'_>, &mut Report<'_>) -> Option<PeerSelector> + 'f;

fn check_combination(fields: &Fields<'_>, report: &mut Report<'_>) {
    let held = PEER_FIELDS.iter().filter(|key| fields.holds(key));
    let held: Vec<&str> = held.copied().collect();
    if let [first, second, ..] = held.as_slice() {
        let message = format!("combining {first} and {second} is not supported by Cilium's API");
        fields.note_conflict(report, &message);
    }
}

/// One kind of peers has elements, or none has: then an empty list selects nobody, and no list at
/// all selects everybody, if there are ports.
fn merge_peers(lists: Vec<Vec<PeerSelector>>, has_ports: bool) -> Peers {
    if lists.is_empty() {
        return if has_ports { Peers::Any } else { Peers::Nobody };
    }
    let mut peers: Vec<PeerSelector> = lists.into_iter().flatten().collect();
    if peers
        .iter()
        .any(|peer| matches!(peer, PeerSelector::Entity(Entity::All)))
    {
        return Peers::Any;
    }
    peers.retain(|peer| !matches!(peer, PeerSelector::Entity(Entity::None)));
    if peers.is_empty() {
        Peers::Nobody
    } else {
        Peers::Some(peers)
    }
}

fn read_name(at: &At<'_>, report: &mut Report<'_>) -> Option<FqdnSelector> {
    read_pattern(at, report, Everything::PlainNames)
}

/// Reads `{matchName}` or `{matchPattern}`.
pub(super) fn read_pattern(
    at: &At<'_>,
    report: &mut Report<'_>,
    everything: Everything,
) -> Option<FqdnSelector> {
    let mut fields = at.fields(report)?;
    let name = fields.take("matchName");
    let pattern = fields.take("matchPattern");
    if name.is_some() == pattern.is_some() {
        let message = "exactly one of `matchName` and `matchPattern`";
        fields.note_conflict(report, message);
    }
    fields.finish(report, &FQDN_ITEM);
    let parsed = match (&name, &pattern) {
        (Some(at), None) => at.text(report).map(|text| (at, text, Pattern::exact(text))),
        (None, Some(at)) => at
            .text(report)
            .map(|text| (at, text, Pattern::parse(text, everything))),
        (Some(_), Some(_)) | (None, None) => None,
    };
    let (at, text, parsed) = parsed?;
    match parsed {
        Ok(pattern) => Some(FqdnSelector {
            text: text.into(),
            pattern,
        }),
        Err(error) => {
            let what = if name.is_some() { "name" } else { "pattern" };
            let message = format!("{text:?} is no {what}: {error}");
            report.note(at, Code::InvalidValue, message);
            None
        }
    }
}

fn read_cidr(at: &At<'_>, report: &mut Report<'_>) -> Option<PeerSelector> {
    let text = at.text(report)?;
    if let Ok(prefix) = text.parse::<IpNet>() {
        return Some(PeerSelector::Cidr(CidrSelector {
            prefix: prefix.trunc(),
            except: Vec::new(),
        }));
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

fn read_entity(at: &At<'_>, report: &mut Report<'_>) -> Option<PeerSelector> {
    let text = at.text(report)?;
    let known = Entity::WORDS.iter().find(|(word, _)| *word == text);
    if let Some((_, entity)) = known {
        return Some(PeerSelector::Entity(*entity));
    }
    let words = Entity::WORDS.map(|(word, _)| word).join(", ");
    let message = format!("unsupported entity {text:?}");
    let help = format!("the entities are {words}; case matters");
    report.note_with_help(at, (Code::InvalidValue, message), help);
    None
}

/// Warns of what is legal, but likely not what was meant.
fn warn(
    rule: &Item,
    report: &mut Report<'_>,
    (at, peer_at, owner): (&At<'_>, Option<&At<'_>>, &Owner<'_>),
) {
    let at = peer_at.unwrap_or(at);
    if matches!(&rule.ports, Ports::List(ports) if ports.is_empty()) {
        report.note(
            at,
            Code::SelectsNothing,
            "no entry of `toPorts` has `ports`: nothing is allowed",
        );
    }
    let can_teach = match &rule.peers {
        Peers::Any => false,
        Peers::Nobody => return,
        Peers::Some(peers) => peers.iter().any(PeerSelector::may_teach),
    };
    if rule.has_dns() && !can_teach {
        let message = format!(
            "the DNS rule of policy {:?} never teaches: addresses are learned only from servers \
             that a rule names, so no `toFQDNs` opens by their answers",
            owner.name
        );
        report.note_with_help(
            at,
            (Code::NeverTeaches, message),
            "name the servers by the value of a label, by `host` or `kube-apiserver`, or by a \
             prefix of at least /24 (IPv6 /64)",
        );
    }
}
