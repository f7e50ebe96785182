//! Label selectors, with the namespace rules of the policy that they stand in.

use std::collections::BTreeSet;

use super::cursor::{At, Known, Report};
use super::object::Owner;
use crate::label::{NAMESPACE_KEY, SOURCE_K8S};
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

/// Reads `endpointSelector`.
pub(super) fn read_subject(
    at: &At<'_>,
    report: &mut Report<'_>,
    owner: &Owner<'_>,
) -> Option<Selector> {
    let mut selector = read(at, report, owner.namespace)?;
    if let Some(namespace) = owner.namespace {
        selector.confine_subject(namespace);
    }
    Some(selector)
}

/// Reads an item of `toEndpoints`. `subject_is_init`: its subjects have no namespace yet.
pub(super) fn read_peer(
    at: &At<'_>,
    report: &mut Report<'_>,
    (owner, subject_is_init): (&Owner<'_>, bool),
) -> Option<Selector> {
    let mut selector = read(at, report, None)?;
    match owner.namespace {
        Some(namespace) => selector.confine_peer(namespace),
        None if subject_is_init => {}
        None => selector.confine_clusterwide_peer(),
    }
    Some(selector)
}

/// Reads a selector. A label that pins the namespace gives way to `own_namespace`, with a warning
/// where it differs.
fn read(at: &At<'_>, report: &mut Report<'_>, own_namespace: Option<&str>) -> Option<Selector> {
    let errors = report.errors();
    let mut fields = at.fields(report)?;
    let mut requirements = Vec::new();
    if let Some(labels) = fields.take("matchLabels")
        && let Some(members) = labels.fields(report)
    {
        for (member, at) in members.take_rest() {
            let key_at = At {
                node: &member.node,
                path: at.path.clone(),
            };
            let key = read_key(&member.key, &key_at, report);
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
    if let Some(expressions) = fields.take("matchExpressions") {
        for item in expressions.items(report).unwrap_or_default() {
            requirements.extend(read_expression(&item, report));
        }
    }
    fields.finish(report, &SELECTOR);
    (report.errors() == errors).then(|| Selector::new(requirements))
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

fn read_expression(at: &At<'_>, report: &mut Report<'_>) -> Option<Requirement> {
    let mut fields = at.fields(report)?;
    let key = match fields.take("key") {
        Some(at) => at.text(report).and_then(|text| read_key(text, &at, report)),
        None => {
            fields.note_missing(report, "no `key`");
            None
        }
    };
    let operator_at = fields.take("operator");
    if operator_at.is_none() {
        fields.note_missing(report, "no `operator`");
    }
    let values_at = fields.take("values");
    let mut values = BTreeSet::new();
    if let Some(list) = &values_at {
        for item in list.items(report).unwrap_or_default() {
            if let Some(text) = item.text(report) {
                check_value(text, &item, report);
                values.insert(text.into());
            }
        }
    }
    let condition = operator_at.and_then(|operator| {
        let word = operator.text(report)?;
        let empty = values_at.as_ref().is_none_or(At::is_empty_list);
        match (word, empty) {
            ("In", false) => Some(Condition::In(values)),
            ("NotIn", false) => Some(Condition::NotIn(values)),
            ("Exists", true) => Some(Condition::Exists),
            ("DoesNotExist", true) => Some(Condition::DoesNotExist),
            ("In" | "NotIn", true) => {
                report.note(
                    &operator,
                    Code::InvalidValue,
                    format!("{word} needs `values`"),
                );
                None
            }
            ("Exists" | "DoesNotExist", false) => {
                report.note(
                    &operator,
                    Code::InvalidValue,
                    format!("{word} takes no `values`"),
                );
                None
            }
            _ => {
                let message = format!("{word:?} is no operator");
                let help = "the operators are In, NotIn, Exists, DoesNotExist; case matters";
                report.note_with_help(&operator, (Code::InvalidValue, message), help);
                None
            }
        }
    });
    fields.finish(report, &EXPRESSION);
    Some(Requirement {
        key: key?,
        condition: condition?,
    })
}

fn read_key(text: &str, at: &At<'_>, report: &mut Report<'_>) -> Option<SelectorKey> {
    let reason = match SelectorKey::parse(text) {
        Ok(key) => return Some(key),
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

fn check_value(text: &str, at: &At<'_>, report: &mut Report<'_>) {
    if !is_label_word(text) {
        let message = format!(
            "{text:?} is no label value: at most 63 letters, digits, `-`, `_`, `.`, with a letter \
             or digit at both ends"
        );
        report.note(at, Code::InvalidValue, message);
    }
}
