//! Label selectors, with the namespace rules of the policy that they stand in.

use std::collections::BTreeSet;

use super::cursor::{At, Known, Report};
use super::object::Owner;
use crate::label::{NAMESPACE_KEY, NAMESPACE_LABELS_PREFIX, SOURCE_K8S};
use crate::problem::Code;
use crate::selector::{Condition, KeyError, Requirement, Selector, SelectorKey, is_label_word};

const SELECTOR: Known = Known {
    object: "a label selector",
    read: &["matchLabels", "matchExpressions"],
    refused: &[],
};

const EXPRESSION: Known = Known {
    object: "a match expression",
    read: &["key", "operator", "values"],
    refused: &[],
};

/// What the keys of a selector mean.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// Cilium's: of any source, unless they name one.
    Cilium,
    /// Kubernetes': labels of pods.
    Pod,
    /// Kubernetes': labels of namespaces.
    Namespace,
}

/// Reads `endpointSelector`.
pub(super) fn read_subject(
    at: &At<'_>,
    report: &mut Report<'_>,
    owner: &Owner<'_>,
) -> Option<Selector> {
    let own = owner.namespace;
    let requirements = read_requirements(at, report, (Keys::Cilium, own))?;
    if let Some(own) = own
        && let Some(other) = requirements.iter().find(|part| is_elsewhere(part, own))
    {
        let message = format!(
            "the policy is about workloads of its own namespace, {own:?}, but this asks for \
             another {}: it selects nothing",
            other.key.key
        );
        let help = "take the namespace out, or put the policy into that namespace";
        report.note_with_help(at, (Code::SelectsNothing, message), help);
    }
    let mut selector = Selector::new(requirements);
    if let Some(namespace) = own {
        selector.confine_subject(namespace);
    }
    Some(selector)
}

/// Whether no workload of the namespace can have what is asked for.
fn is_elsewhere(part: &Requirement, namespace: &str) -> bool {
    let source = part.key.source.as_deref();
    if *part.key.key != *NAMESPACE_KEY || source.is_some_and(|source| source != SOURCE_K8S) {
        return false;
    }
    match &part.condition {
        Condition::In(values) => !values.contains(namespace),
        Condition::NotIn(values) => values.contains(namespace),
        Condition::Exists => false,
        Condition::DoesNotExist => true,
    }
}

/// Reads an item of `fromEndpoints` or `toEndpoints`. `subject_is_init`: its subjects have no
/// namespace yet.
pub(super) fn read_peer(
    at: &At<'_>,
    report: &mut Report<'_>,
    (owner, subject_is_init): (&Owner<'_>, bool),
) -> Option<Selector> {
    let mut selector = read_plain(at, report)?;
    match owner.namespace {
        Some(namespace) => selector.confine_peer(namespace),
        None if subject_is_init => {}
        None => selector.confine_clusterwide_peer(),
    }
    Some(selector)
}

/// Reads a selector of nodes, services or CIDR groups: no namespace is added.
pub(super) fn read_plain(at: &At<'_>, report: &mut Report<'_>) -> Option<Selector> {
    read_requirements(at, report, (Keys::Cilium, None)).map(Selector::new)
}

/// Reads what a selector asks for. A label that pins the namespace gives way to `own_namespace`,
/// with a warning where it differs.
pub(super) fn read_requirements(
    at: &At<'_>,
    report: &mut Report<'_>,
    (keys, own_namespace): (Keys, Option<&str>),
) -> Option<Vec<Requirement>> {
    let errors = report.errors();
    let mut fields = at.fields(report)?;
    let mut requirements = Vec::new();
    if let Some(labels) = fields.take("matchLabels")
        && let Some(members) = labels.fields(report)
    {
        for (member, at) in members.take_rest() {
            let key = read_key(&member.key, (&at, keys), report);
            let value = at.text(report);
            if let (Some(key), Some(value)) = (key, value) {
                check_value(value, &at, report);
                if let Some(own) = own_namespace
                    && key.is_own_namespace()
                {
                    warn_of_replaced(&at, report, (value, own));
                    continue;
                }
                let condition = Condition::In(BTreeSet::from([value.into()]));
                requirements.push(Requirement { key, condition });
            }
        }
    }
    if let Some(list) = fields.take_list("matchExpressions", report) {
        for item in &list.items {
            requirements.extend(read_expression(item, report, keys));
        }
    }
    fields.finish(report, &SELECTOR);
    (report.errors() == errors).then_some(requirements)
}

fn warn_of_replaced(at: &At<'_>, report: &mut Report<'_>, (value, own): (&str, &str)) {
    if value != own {
        let message = format!(
            "{SOURCE_K8S}:{NAMESPACE_KEY} is {own:?} in a policy of that namespace: {value:?} is \
             replaced"
        );
        report.note(at, Code::NamespaceReplaced, message);
    }
}

fn read_expression(at: &At<'_>, report: &mut Report<'_>, keys: Keys) -> Option<Requirement> {
    let mut fields = at.fields(report)?;
    let key = match fields.take("key") {
        Some(at) => at
            .text(report)
            .and_then(|text| read_key(text, (&at, keys), report)),
        None => {
            fields.note_missing(report, "no `key`");
            None
        }
    };
    let operator = fields.take("operator");
    if operator.is_none() {
        fields.note_missing(report, "no `operator`");
    }
    let list = fields.take_list("values", report);
    fields.finish(report, &EXPRESSION);
    let mut values = BTreeSet::new();
    let items = list.map(|list| list.items).unwrap_or_default();
    let is_listed = !items.is_empty();
    for item in items {
        if let Some(text) = item.text(report) {
            check_value(text, &item, report);
            values.insert(text.into());
        }
    }
    if is_listed && values.is_empty() {
        return None; // each was refused
    }
    let condition = read_condition(&operator?, report, values);
    Some(Requirement {
        key: key?,
        condition: condition?,
    })
}

fn read_condition(
    operator: &At<'_>,
    report: &mut Report<'_>,
    values: BTreeSet<Box<str>>,
) -> Option<Condition> {
    let word = operator.text(report)?;
    let message = match (word, values.is_empty()) {
        ("In", false) => return Some(Condition::In(values)),
        ("NotIn", false) => return Some(Condition::NotIn(values)),
        ("Exists", true) => return Some(Condition::Exists),
        ("DoesNotExist", true) => return Some(Condition::DoesNotExist),
        ("In" | "NotIn", true) => format!("{word} needs `values`"),
        ("Exists" | "DoesNotExist", false) => format!("{word} takes no `values`"),
        _ => {
            let message = format!("{word:?} is no operator");
            let help = "the operators are In, NotIn, Exists, DoesNotExist; case matters";
            report.note_with_help(operator, (Code::InvalidValue, message), help);
            return None;
        }
    };
    report.note(operator, Code::InvalidValue, message);
    None
}

fn read_key(
    text: &str,
    (at, keys): (&At<'_>, Keys),
    report: &mut Report<'_>,
) -> Option<SelectorKey> {
    let parsed = match keys {
        Keys::Pod | Keys::Namespace if text.contains([':', '$']) => {
            let message = format!("{text:?} is no label key: a NetworkPolicy names no sources");
            report.note(at, Code::InvalidValue, message);
            return None;
        }
        Keys::Cilium | Keys::Pod | Keys::Namespace => SelectorKey::parse(text),
    };
    let reason = match parsed {
        Ok(key) => return Some(with_source(key, keys)),
        Err(KeyError::TwoColons) => "more than one colon",
        Err(KeyError::Source) => "the source before the colon must be letters and digits",
        Err(KeyError::Prefix) => "what stands before the slash must be a DNS name in lower case",
        Err(KeyError::Name) => {
            "the name must be 1 to 63 letters, digits, `-`, `_`, `.`, with a letter or digit at \
             both ends"
        }
    };
    let message = format!("{text:?} is no label key: {reason}");
    report.note(at, Code::InvalidValue, message);
    None
}

/// The key as identities have it.
fn with_source(key: SelectorKey, keys: Keys) -> SelectorKey {
    match keys {
        Keys::Cilium => key,
        Keys::Pod => SelectorKey {
            source: Some(SOURCE_K8S.into()),
            key: key.key,
        },
        Keys::Namespace => SelectorKey {
            source: Some(SOURCE_K8S.into()),
            key: format!("{NAMESPACE_LABELS_PREFIX}{}", key.key).into(),
        },
    }
}

fn check_value(text: &str, at: &At<'_>, report: &mut Report<'_>) {
    if !is_label_word(text) {
        let message = format!(
            "{text:?} is no label value: at most 63 letters, digits, `-`, `_`, `.`, with a letter \
             or digit at both ends"
        );
        report.note(at, Code::InvalidValue, message);
    }
}
