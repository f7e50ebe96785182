//! CiliumNetworkPolicy files: read whole, checked whole, refused by name and place.

mod cursor;
mod egress;
mod format;
mod object;
mod ports;
mod selector;
mod span;
mod yaml;

use std::collections::BTreeMap;
use std::sync::Arc;

use fqdn::PatternSet;

use crate::l4::Ports;
use crate::limits::FILE_BYTES_MAX;
use crate::problem::{Code, Problem};
use crate::rule::{PeerSelector, Peers, Policy, PolicySet};
use cursor::{At, Report};
pub use format::format;
use yaml::{Place, YamlError};

/// One policy file.
#[derive(Clone, Debug)]
pub struct Source {
    /// How problems name the file.
    pub path: String,
    /// What stands in it: YAML, one or more documents.
    pub text: String,
}

/// What a set of files says.
#[derive(Debug)]
pub struct Loaded {
    /// The valid objects. Whoever enforces refuses the set if any problem is an error.
    pub set: PolicySet,
    /// Errors and warnings of all files, by file in the given order, then by place.
    pub problems: Vec<Problem>,
}

impl Loaded {
    /// Whether a problem is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }
}

/// Reads and checks policy files; all errors at once.
#[must_use]
pub fn load(sources: &[Source]) -> Loaded {
    let mut policies: BTreeMap<_, Policy> = BTreeMap::new();
    let mut problems = Vec::new();
    for source in sources {
        let mut report = Report::new(&source.path, &source.text);
        for policy in load_file(source, &mut report) {
            let key = (policy.kind, policy.namespace.clone(), policy.name.clone());
            if let Some(first) = policies.get(&key) {
                report.push(duplicate(&report, first, &policy));
                continue;
            }
            policies.insert(key, policy);
        }
        let mut found = report.into_problems();
        found.sort_by_key(|problem| (problem.line, problem.column));
        problems.append(&mut found);
    }
    let set = PolicySet {
        policies: policies.into_values().collect(),
    };
    if !problems.iter().any(Problem::is_error) {
        warn_of_unfed_names(&set, sources, &mut problems);
    }
    Loaded { set, problems }
}

fn load_file(source: &Source, report: &mut Report<'_>) -> Vec<Policy> {
    if source.text.len() > FILE_BYTES_MAX {
        let bytes = source.text.len();
        report.note_yaml(YamlError {
            place: None,
            message: format!("{bytes} bytes; a policy file has at most {FILE_BYTES_MAX}"),
            is_limit: true,
        });
        return Vec::new();
    }
    let file: Arc<str> = source.path.as_str().into();
    match yaml::parse(&source.text) {
        Ok(documents) => documents
            .iter()
            .flat_map(|document| object::read_document(&At::root(document), report, &file))
            .collect(),
        Err(error) => {
            report.note_yaml(error);
            Vec::new()
        }
    }
}

fn duplicate(report: &Report<'_>, first: &Policy, second: &Policy) -> Problem {
    let place = Place {
        line: second.line,
        column: 1,
    };
    let namespace = second.namespace.as_deref().map(|word| format!("{word}/"));
    let message = format!(
        "{} {}{} is here twice, first in {}:{}",
        second.kind,
        namespace.unwrap_or_default(),
        second.name,
        first.file,
        first.line
    );
    report.problem((place, "metadata.name"), Code::Duplicate, message)
}

/// Warns of a `toFQDNs` that no DNS rule of the whole set can feed: names are learned only from
/// answers to allowed questions.
fn warn_of_unfed_names(set: &PolicySet, sources: &[Source], problems: &mut Vec<Problem>) {
    let askable = askable_names(set);
    for source in sources {
        let report = Report::new(&source.path, &source.text);
        let policies = set.policies.iter();
        for policy in policies.filter(|policy| *policy.file == *source.path) {
            let rules = policy.rules.iter().flat_map(|rule| &rule.egress);
            for (egress, name) in rules.flat_map(|egress| egress.names().map(move |n| (egress, n)))
            {
                let fed = match name.pattern.as_exact() {
                    Some(exact) => askable.first_match(exact.as_wire()).is_some(),
                    None => !askable.is_empty(),
                };
                if fed {
                    continue;
                }
                let place = Place {
                    line: egress.line,
                    column: egress.column,
                };
                let message = format!(
                    "no DNS rule of the set lets {:?} of policy {:?} be asked of a server that \
                     teaches: it never opens",
                    name.text, policy.name
                );
                problems.push(report.problem((place, "toFQDNs"), Code::NeverFed, message));
            }
        }
    }
}

/// The names that some DNS rule lets be asked of a server that teaches.
fn askable_names(set: &PolicySet) -> PatternSet<()> {
    let rules = set.policies.iter().flat_map(|policy| &policy.rules);
    let mut askable = PatternSet::new();
    for egress in rules.flat_map(|rule| &rule.egress) {
        if let (Peers::Some(peers), Ports::List(ports)) = (&egress.peers, &egress.ports)
            && peers.iter().any(PeerSelector::may_teach)
        {
            let lists = ports.iter().filter_map(|port| port.dns.as_ref());
            for pattern in lists.flat_map(|list| list.iter()) {
                askable.insert(pattern, ());
            }
        }
    }
    askable
}

#[cfg(test)]
mod tests;
