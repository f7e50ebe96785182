//! One `spec` of a Cilium policy: its subject and its four lists.

use std::sync::Arc;

use super::cursor::{At, Fields, Known, Report};
use super::item::{self, Context};
use super::lint;
use super::object::Owner;
use super::selector;
use crate::Direction;
use crate::limits::LOG_VALUE_MAX;
use crate::problem::Code;
use crate::rule::{Effect, Item, PolicyKind, Rule, Subject};

const RULE: Known = Known {
    object: "a rule",
    read: &[
        "endpointSelector",
        "nodeSelector",
        "ingress",
        "ingressDeny",
        "egress",
        "egressDeny",
        "enableDefaultDeny",
        "labels",
        "description",
        "log",
    ],
    refused: &[],
};

const DEFAULT_DENY: Known = Known {
    object: "`enableDefaultDeny`",
    read: &["ingress", "egress"],
    refused: &[],
};

const LOG: Known = Known {
    object: "`log`",
    read: &["value"],
    refused: &[],
};

const LABEL: Known = Known {
    object: "a label of a rule",
    read: &["key", "value", "source"],
    refused: &[],
};

/// The lists that make a rule judge a direction.
const LISTS: [(&str, Direction, Effect); 4] = [
    ("ingress", Direction::Ingress, Effect::Allow),
    ("ingressDeny", Direction::Ingress, Effect::Deny),
    ("egress", Direction::Egress, Effect::Allow),
    ("egressDeny", Direction::Egress, Effect::Deny),
];

/// `enableDefaultDeny` as written.
#[derive(Clone, Copy, Default)]
struct DefaultDeny {
    ingress: Option<bool>,
    egress: Option<bool>,
}

impl DefaultDeny {
    fn of(self, direction: Direction) -> Option<bool> {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// Reads one `spec`.
pub(super) fn read(at: &At<'_>, report: &mut Report<'_>, owner: &Owner<'_>) -> Option<Rule> {
    let errors = report.errors();
    let mut fields = at.fields(report)?;
    check_directions(&fields, report);
    let subject = read_subject(&mut fields, report, owner);
    if let Some(description) = fields.take("description") {
        description.text(report);
    }
    if let Some(labels) = fields.take_list("labels", report) {
        for label in &labels.items {
            check_label(label, report);
        }
    }
    let default_deny = read_default_deny(&mut fields, report);
    let log = fields.take("log").and_then(|log| read_log(&log, report));
    let (is_init, on_nodes) = match &subject {
        Some(Subject::Endpoints(selector)) => (selector.has_key("reserved", "init"), false),
        Some(Subject::Nodes(_)) => (false, true),
        None => (false, false),
    };
    let mut items: Vec<Option<Arc<Item>>> = Vec::new();
    let mut directions = Vec::new();
    for (key, direction, effect) in LISTS {
        let Some(list) = fields.take_list(key, report) else {
            continue;
        };
        let context = Context {
            owner,
            is_init,
            on_nodes,
            direction,
            effect,
            default_deny: default_deny.of(direction).unwrap_or(true),
            log: log.clone(),
        };
        let read = list.items.iter();
        items.extend(read.map(|item| item::read(item, report, &context).map(Arc::new)));
        directions.push((direction, list.items));
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        let lists = directions.iter().filter(|(of, _)| *of == direction);
        let elements: Vec<&At<'_>> = lists.flat_map(|(_, elements)| elements).collect();
        lint::warn_of_empty_beside(&elements, report);
    }
    fields.finish(report, &RULE);
    let items: Vec<Arc<Item>> = items.into_iter().collect::<Option<_>>()?;
    let subject = subject.filter(|_| report.errors() == errors)?;
    warn_of_idle_default_deny(at, report, (default_deny, &items));
    Some(Rule { subject, items })
}

fn check_directions(fields: &Fields<'_>, report: &mut Report<'_>) {
    if !LISTS.iter().any(|(key, _, _)| fields.holds(key)) {
        let message = "the rule has no direction: one of `ingress`, `ingressDeny`, `egress`, \
                       `egressDeny` must have an element (`[{}]` is the element that allows \
                       nothing and closes its direction)";
        fields.note_missing(report, message);
    }
}

fn read_subject(
    fields: &mut Fields<'_>,
    report: &mut Report<'_>,
    owner: &Owner<'_>,
) -> Option<Subject> {
    match (fields.take("endpointSelector"), fields.take("nodeSelector")) {
        (Some(at), None) => selector::read_subject(&at, report, owner).map(Subject::Endpoints),
        (None, Some(at)) if owner.kind == PolicyKind::CiliumNetworkPolicy => {
            let message = "a CiliumNetworkPolicy can't have a `nodeSelector`".to_owned();
            let help = "policies for nodes are of kind CiliumClusterwideNetworkPolicy";
            report.note_with_help(&at, (Code::Conflict, message), help);
            None
        }
        (None, Some(at)) => selector::read_plain(&at, report).map(Subject::Nodes),
        (Some(_), Some(_)) => {
            fields.note_conflict(report, "both `endpointSelector` and `nodeSelector`");
            None
        }
        (None, None) => {
            let message = match owner.kind {
                PolicyKind::CiliumClusterwideNetworkPolicy => {
                    "no `endpointSelector` and no `nodeSelector` (`endpointSelector: {}` selects \
                     every workload)"
                }
                PolicyKind::CiliumNetworkPolicy | PolicyKind::NetworkPolicy => {
                    "no `endpointSelector` (`endpointSelector: {}` selects every workload of the \
                     namespace)"
                }
            };
            fields.note_missing(report, message);
            None
        }
    }
}

fn read_default_deny(fields: &mut Fields<'_>, report: &mut Report<'_>) -> DefaultDeny {
    let read = fields.take("enableDefaultDeny").and_then(|at| {
        let mut fields = at.fields(report)?;
        let ingress = fields.take("ingress").and_then(|at| at.flag(report));
        let egress = fields.take("egress").and_then(|at| at.flag(report));
        fields.finish(report, &DEFAULT_DENY);
        Some(DefaultDeny { ingress, egress })
    });
    read.unwrap_or_default()
}

/// `enableDefaultDeny` acts through the elements of its direction.
fn warn_of_idle_default_deny(
    at: &At<'_>,
    report: &mut Report<'_>,
    (default_deny, items): (DefaultDeny, &[Arc<Item>]),
) {
    for (direction, word) in [
        (Direction::Ingress, "ingress"),
        (Direction::Egress, "egress"),
    ] {
        let has_items = items.iter().any(|item| item.direction == direction);
        if default_deny.of(direction) == Some(true) && !has_items {
            let message = format!(
                "`enableDefaultDeny.{word}: true` changes nothing: the rule has no `{word}` element"
            );
            let help = format!("`{word}: [{{}}]` closes the direction");
            report.note_with_help(at, (Code::NoEffect, message), help);
        }
    }
}

fn read_log(at: &At<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    let mut fields = at.fields(report)?;
    let value = fields.take("value");
    fields.finish(report, &LOG);
    let value = value?;
    let text = value.text(report)?;
    let length = text.chars().count();
    if length > LOG_VALUE_MAX {
        let message = format!("{length} characters; `log.value` has at most {LOG_VALUE_MAX}");
        report.note(&value, Code::InvalidValue, message);
    }
    if text.chars().any(char::is_control) {
        let message = "`log.value` may have printable characters only";
        report.note(&value, Code::InvalidValue, message);
    }
    (!text.is_empty()).then(|| text.into())
}

/// Labels of a rule say nothing about what is allowed, but must be labels.
fn check_label(at: &At<'_>, report: &mut Report<'_>) {
    use super::yaml::Value;
    match &at.node.value {
        Value::Text(text) => {
            let key = text.split('=').next().unwrap_or_default();
            let key = key.split_once(':').map_or(key, |(_, key)| key);
            if key.is_empty() {
                let message = format!("{text:?} is no label: it has no key");
                let help = "a label is \"source:key=value\", or a mapping with key, value, source";
                report.note_with_help(at, (Code::InvalidValue, message), help);
            }
        }
        Value::Map(_) => {
            let Some(mut fields) = at.fields(report) else {
                return;
            };
            fields.require_word("key", report);
            fields.take_text("value", report);
            fields.take_text("source", report);
            fields.finish(report, &LABEL);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::List(_) => {
            at.expected(report, "a label (a mapping, or \"source:key=value\")");
        }
    }
}
