//! `spec` of Kubernetes' own NetworkPolicy, in the same model as Cilium's rules.

use std::sync::Arc;

use ipnet::IpNet;

use super::cursor::{At, Fields, Known, Report};
use super::object::Owner;
use super::peer::{check_holes, read_prefix};
use super::ports::{is_service_name, read_range};
use super::selector::{Keys, read_requirements};
use super::take::List;
use super::yaml::Value;
use crate::l4::{PortMatch, PortRule, Ports, RuleProtocol};
use crate::problem::Code;
use crate::rule::{CidrSelector, Effect, Item, PeerSelector, Peers, Rule, Subject};
use crate::selector::{Condition, Requirement, SelectorKey};
use crate::{Direction, L4Protocol, Selector};

const SPEC: Known = Known {
    object: "a NetworkPolicy's `spec`",
    read: &["podSelector", "policyTypes", "ingress", "egress"],
    refused: &[],
};

const INGRESS: Known = Known {
    object: "an ingress rule",
    read: &["from", "ports"],
    refused: &[],
};

const EGRESS: Known = Known {
    object: "an egress rule",
    read: &["to", "ports"],
    refused: &[],
};

const PEER: Known = Known {
    object: "a peer",
    read: &["podSelector", "namespaceSelector", "ipBlock"],
    refused: &[],
};

const BLOCK: Known = Known {
    object: "an `ipBlock`",
    read: &["cidr", "except"],
    refused: &[],
};

const PORT: Known = Known {
    object: "a port",
    read: &["port", "endPort", "protocol"],
    refused: &[],
};

/// The directions that a policy closes to what it doesn't allow.
struct Isolation {
    ingress: bool,
    egress: bool,
    /// Whether the text says so, rather than the API's default.
    is_written: bool,
}

/// Reads `spec`.
pub(super) fn read(at: &At<'_>, report: &mut Report<'_>, owner: &Owner<'_>) -> Option<Rule> {
    let errors = report.errors();
    let mut fields = at.fields(report)?;
    let namespace = owner.namespace.unwrap_or_default();
    let subject = match fields.take("podSelector") {
        Some(at) => read_requirements(&at, report, (Keys::Pod, None)),
        None => {
            let message = "no `podSelector` (`podSelector: {}` selects every pod of the namespace)";
            fields.note_missing(report, message);
            None
        }
    };
    let ingress = fields.take_list("ingress", report);
    let egress = fields.take_list("egress", report);
    let isolation = read_isolation(&mut fields, report, egress.as_ref());
    fields.finish(report, &SPEC);
    let mut items = Vec::new();
    for (direction, list, is_isolated) in [
        (Direction::Ingress, &ingress, isolation.ingress),
        (Direction::Egress, &egress, isolation.egress),
    ] {
        let elements = list
            .as_ref()
            .map(|list| list.items.as_slice())
            .unwrap_or_default();
        let mut read: Vec<Item> = elements
            .iter()
            .filter_map(|element| read_item(element, report, (namespace, direction)))
            .collect();
        if !is_isolated {
            warn_of_ignored(list.as_ref(), report, (direction, &isolation));
            continue;
        }
        warn_of_moot(elements, report);
        if elements.is_empty() {
            let place = list.as_ref().map_or(at, |list| &list.at);
            read.push(closed(place, direction));
        }
        items.extend(read.into_iter().map(Arc::new));
    }
    if report.errors() > errors {
        return None;
    }
    let mut subject = Selector::new(subject?);
    subject.confine_subject(namespace);
    Some(Rule {
        subject: Subject::Endpoints(subject),
        items,
    })
}

/// Which directions are isolated, by the API's rules where the text leaves it open.
fn read_isolation(
    fields: &mut Fields<'_>,
    report: &mut Report<'_>,
    egress: Option<&List<'_>>,
) -> Isolation {
    let types = fields.take_list("policyTypes", report);
    let types = types.map(|list| list.items).unwrap_or_default();
    if types.is_empty() {
        return Isolation {
            ingress: true,
            egress: egress.is_some_and(|list| !list.items.is_empty()),
            is_written: false,
        };
    }
    let mut isolation = Isolation {
        ingress: false,
        egress: false,
        is_written: true,
    };
    for item in types {
        let Some(text) = item.text(report) else {
            continue;
        };
        match text {
            "Ingress" => isolation.ingress = true,
            "Egress" => isolation.egress = true,
            other => {
                let message = format!("{other:?} is no policy type");
                let help = "the types are Ingress and Egress; case matters";
                report.note_with_help(&item, (Code::InvalidValue, message), help);
            }
        }
    }
    isolation
}

/// Rules of a direction that is not isolated say nothing.
fn warn_of_ignored(
    list: Option<&List<'_>>,
    report: &mut Report<'_>,
    (direction, isolation): (Direction, &Isolation),
) {
    let Some(list) = list else {
        return;
    };
    let (field, word) = match direction {
        Direction::Ingress => ("ingress", "Ingress"),
        Direction::Egress => ("egress", "Egress"),
    };
    if !list.items.is_empty() {
        let message = format!("`{field}` is ignored: `policyTypes` does not have {word}");
        let help = format!("add {word} to `policyTypes`, or take `{field}` out");
        report.note_with_help(&list.at, (Code::PolicyTypes, message), help);
    } else if !isolation.is_written {
        let message = format!("an empty `{field}` without `policyTypes` closes nothing");
        let help = format!("to close the direction: `policyTypes: [Ingress, {word}]`");
        report.note_with_help(&list.at, (Code::PolicyTypes, message), help);
    }
}

/// An empty rule allows everything here, whatever stands beside it.
fn warn_of_moot(elements: &[At<'_>], report: &mut Report<'_>) {
    if elements.len() < 2 {
        return;
    }
    if let Some(at) = elements.iter().find(|at| at.is_empty_map()) {
        let message = "an empty rule of a NetworkPolicy allows everything: the others of the list \
                       change nothing"
            .to_owned();
        let help = "take it out, or take the others out";
        report.note_with_help(at, (Code::EmptyBeside, message), help);
    }
}

/// What closes a direction that no element opens.
fn closed(at: &At<'_>, direction: Direction) -> Item {
    item(at, direction, (Peers::Nobody, Ports::Any))
}

fn item(at: &At<'_>, direction: Direction, (peers, ports): (Peers, Ports)) -> Item {
    Item {
        direction,
        effect: Effect::Allow,
        line: at.node.place.line,
        column: at.node.place.column,
        path: at.path.to_string().into(),
        default_deny: true,
        peers,
        ports,
        log: None,
        fails_authentication: false,
    }
}

fn read_item(
    at: &At<'_>,
    report: &mut Report<'_>,
    (namespace, direction): (&str, Direction),
) -> Option<Item> {
    let mut fields = at.fields(report)?;
    let (key, known) = match direction {
        Direction::Ingress => ("from", &INGRESS),
        Direction::Egress => ("to", &EGRESS),
    };
    let peers = fields
        .take_list(key, report)
        .filter(|list| !list.items.is_empty());
    let ports = fields
        .take_list("ports", report)
        .filter(|list| !list.items.is_empty());
    fields.finish(report, known);
    let peers = match peers {
        None => Peers::Any,
        Some(list) => {
            let items = list.items.iter();
            let read = items.filter_map(|item| read_peer(item, report, namespace));
            Peers::Some(read.collect())
        }
    };
    let ports = match ports {
        None => Ports::Any,
        Some(list) => {
            let items = list.items.iter();
            Ports::List(items.filter_map(|item| read_port(item, report)).collect())
        }
    };
    Some(item(at, direction, (peers, ports)))
}

fn read_peer(at: &At<'_>, report: &mut Report<'_>, namespace: &str) -> Option<PeerSelector> {
    let mut fields = at.fields(report)?;
    let pods = fields.take("podSelector");
    let namespaces = fields.take("namespaceSelector");
    let block = fields.take("ipBlock");
    fields.finish(report, &PEER);
    match (&pods, &namespaces, &block) {
        (None, None, None) => {
            let message = "an empty peer: one of `podSelector`, `namespaceSelector`, `ipBlock`";
            report.note(at, Code::Missing, message);
            return None;
        }
        (None, None, Some(block)) => return read_block(block, report).map(PeerSelector::Cidr),
        (_, _, None) => {}
        (_, _, Some(_)) => {
            let message = "`ipBlock` can't stand beside another selector in one peer: write one \
                           peer for each";
            report.note(at, Code::Conflict, message);
            return None;
        }
    }
    let mut requirements = Vec::new();
    for (selector, keys) in [(&pods, Keys::Pod), (&namespaces, Keys::Namespace)] {
        if let Some(at) = selector {
            requirements.extend(read_requirements(at, report, (keys, None))?);
        }
    }
    if namespaces.is_some() {
        // Pods only: a namespace's missing label must not take in the world.
        requirements.push(Requirement {
            key: SelectorKey::namespace(),
            condition: Condition::Exists,
        });
        return Some(PeerSelector::Labels(Selector::new(requirements)));
    }
    let mut selector = Selector::new(requirements);
    selector.confine_subject(namespace);
    Some(PeerSelector::Labels(selector))
}

fn read_block(at: &At<'_>, report: &mut Report<'_>) -> Option<CidrSelector> {
    let mut fields = at.fields(report)?;
    let cidr = fields.take("cidr");
    if cidr.is_none() {
        fields.note_missing(report, "no `cidr`");
    }
    let except = fields.take_list("except", report);
    fields.finish(report, &BLOCK);
    let items = except.map(|list| list.items).unwrap_or_default();
    let holes: Vec<(At<'_>, IpNet)> = items
        .into_iter()
        .filter_map(|item| read_prefix(&item, report).map(|hole| (item, hole)))
        .collect();
    let prefix = read_prefix(&cidr?, report)?;
    check_holes(prefix, &holes, report);
    Some(CidrSelector {
        prefix,
        except: holes.into_iter().map(|(_, hole)| hole).collect(),
    })
}

fn read_port(at: &At<'_>, report: &mut Report<'_>) -> Option<PortRule> {
    let mut fields = at.fields(report)?;
    let port_at = fields.take("port");
    let end_at = fields.take("endPort");
    let protocol = match fields.take("protocol") {
        None => Some(L4Protocol::Tcp),
        Some(at) => at.text(report).and_then(|text| match text {
            "TCP" => Some(L4Protocol::Tcp),
            "UDP" => Some(L4Protocol::Udp),
            "SCTP" => Some(L4Protocol::Sctp),
            other => {
                let message = format!("{other:?} is no protocol of a NetworkPolicy");
                let help = "the protocols are TCP, UDP and SCTP; absent is TCP";
                report.note_with_help(&at, (Code::InvalidValue, message), help);
                None
            }
        }),
    };
    fields.finish(report, &PORT);
    let port = match &port_at {
        None => PortMatch::All,
        Some(at) => read_number(at, report)?,
    };
    let port = match &end_at {
        None => port,
        Some(at) if port_at.is_none() => {
            report.note(at, Code::Conflict, "`endPort` needs a `port` beside it");
            return None;
        }
        Some(at) => {
            let end = at.number(u16::MAX, report)?;
            read_range(port, (at, end), report)?
        }
    };
    Some(PortRule {
        protocol: RuleProtocol::One(protocol?),
        port,
        l7: None,
    })
}

/// A number without quotes, or a name.
fn read_number(at: &At<'_>, report: &mut Report<'_>) -> Option<PortMatch> {
    match &at.node.value {
        Value::Number(text) => {
            if let Ok(port) = text.parse::<u16>()
                && port > 0
            {
                return Some(PortMatch::Range(port, port));
            }
            let message = format!("{text} is no port: a number from 1 to 65535");
            report.note(at, Code::InvalidValue, message);
        }
        Value::Text(text) if is_service_name(text) => {
            return Some(PortMatch::Named(text.to_ascii_lowercase().into()));
        }
        Value::Text(text) => {
            let message = format!("{text:?} is no name of a port");
            let help = match text.parse::<u16>() {
                Ok(port) => format!("in a NetworkPolicy a number stands without quotes: {port}"),
                Err(_) => {
                    "at most 15 letters, digits and single dashes, one letter at least".into()
                }
            };
            report.note_with_help(at, (Code::InvalidValue, message), help);
        }
        Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => {
            at.expected(report, "a number or a name of a port");
        }
    }
    None
}
