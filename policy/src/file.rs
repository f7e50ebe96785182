//! Policy files: read whole, checked whole, refused by name and place.

mod conflict;
mod cursor;
mod format;
mod group;
mod http;
mod icmp;
mod item;
mod l7;
mod lint;
mod names;
mod network_policy;
mod object;
mod peer;
mod ports;
mod rule;
mod scope;
mod selector;
mod set_lint;
mod span;
mod take;
mod yaml;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::limits::FILE_BYTES_MAX;
use crate::problem::{Code, Problem};
use crate::rule::{Policy, PolicySet};
use cursor::{At, Report};
pub use format::format;
use group::Groups;
use yaml::{Node, Place, YamlError};

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

/// A file as YAML, and what was found in it.
struct File<'a> {
    path: &'a str,
    report: Report<'a>,
    documents: Vec<Node>,
}

/// Reads and checks policy files; all errors at once.
#[must_use]
pub fn load(sources: &[Source]) -> Loaded {
    let mut files: Vec<File<'_>> = sources.iter().map(parse).collect();
    // Policies refer to groups by name, whatever file has them.
    let mut groups = Groups::default();
    for File {
        report, documents, ..
    } in &mut files
    {
        for document in documents.iter() {
            groups.read_document(&At::root(document), report);
        }
    }
    let set = read_policies(&mut files, &groups);
    let mut reports: Vec<(&str, Report<'_>)> = files
        .into_iter()
        .map(|file| (file.path, file.report))
        .collect();
    for problem in conflict::find(&set) {
        problem.push_into(&mut reports);
    }
    if reports.iter().all(|(_, report)| report.errors() == 0) {
        for problem in set_lint::find(&set) {
            problem.push_into(&mut reports);
        }
    }
    let mut problems = Vec::new();
    for (_, report) in reports {
        let mut found = report.into_problems();
        found.sort_by_key(|problem| (problem.line, problem.column));
        problems.append(&mut found);
    }
    Loaded { set, problems }
}

fn parse(source: &Source) -> File<'_> {
    let mut report = Report::new(&source.path, &source.text);
    let bytes = source.text.len();
    let parsed = if bytes > FILE_BYTES_MAX {
        Err(YamlError {
            place: None,
            message: format!("{bytes} bytes; a policy file has at most {FILE_BYTES_MAX}"),
            is_limit: true,
        })
    } else {
        yaml::parse(&source.text)
    };
    let documents = parsed.unwrap_or_else(|error| {
        report.note_yaml(error);
        Vec::new()
    });
    File {
        path: &source.path,
        report,
        documents,
    }
}

fn read_policies(files: &mut [File<'_>], groups: &Groups) -> PolicySet {
    let mut policies: BTreeMap<_, Policy> = BTreeMap::new();
    for File {
        path,
        report,
        documents,
    } in files
    {
        let reader = object::Reader {
            file: Arc::from(*path),
            groups,
        };
        for document in documents.iter() {
            for policy in reader.read_document(&At::root(document), report) {
                let key = (policy.kind, policy.namespace.clone(), policy.name.clone());
                if let Some(first) = policies.get(&key) {
                    report.push(duplicate(report, first, &policy));
                    continue;
                }
                policies.insert(key, policy);
            }
        }
    }
    PolicySet {
        policies: policies.into_values().collect(),
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

#[cfg(test)]
mod tests;
