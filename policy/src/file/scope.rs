//! The items of a whole set side by side, for what only shows between them.

use std::collections::HashMap;
use std::sync::Arc;

use super::cursor::Report;
use super::yaml::Place;
use crate::Direction;
use crate::problem::{Code, Problem};
use crate::rule::{Item, Policy, PolicySet, Subject};

/// An item and whose it is.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) policy: &'a Policy,
    pub(super) item: &'a Item,
}

/// A problem of an item.
pub(super) struct Found {
    file: Arc<str>,
    place: Place,
    field: String,
    code: Code,
    message: String,
    help: Option<String>,
}

/// The items by subject and direction, in the order of the set. Whether other subjects have a
/// workload in common is only known with workloads at hand.
pub(super) fn groups(set: &PolicySet) -> Vec<Vec<Scope<'_>>> {
    let mut groups: Vec<Vec<Scope<'_>>> = Vec::new();
    let mut index: HashMap<(&Subject, Direction), usize> = HashMap::new();
    for policy in &set.policies {
        for rule in &policy.rules {
            for item in &rule.items {
                let key = (&rule.subject, item.direction);
                let place = *index.entry(key).or_insert(groups.len());
                if place == groups.len() {
                    groups.push(Vec::new());
                }
                if let Some(group) = groups.get_mut(place) {
                    group.push(Scope { policy, item });
                }
            }
        }
    }
    groups
}

impl Scope<'_> {
    /// A problem of a field of the item (the item itself if empty).
    pub(super) fn found(&self, field: &str, code: Code, message: String) -> Found {
        let lead = if field.is_empty() { "" } else { "." };
        Found {
            file: Arc::clone(&self.policy.file),
            place: Place {
                line: self.item.line,
                column: self.item.column,
            },
            field: format!("{}{lead}{field}", self.item.path),
            code,
            message,
            help: None,
        }
    }

    /// How messages about others name the item.
    pub(super) fn name(&self) -> String {
        let Policy {
            kind, name, file, ..
        } = self.policy;
        format!("{kind} {name:?} ({file}:{})", self.item.line)
    }
}

impl Found {
    pub(super) fn with_help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }

    /// Puts the problem into the report of its file.
    pub(super) fn push_into(self, reports: &mut [(&str, Report<'_>)]) {
        let own = reports.iter_mut().find(|(file, _)| **file == *self.file);
        if let Some((_, report)) = own {
            let problem = report.problem((self.place, &self.field), self.code, self.message);
            report.push(Problem {
                help: self.help,
                ..problem
            });
        }
    }
}
