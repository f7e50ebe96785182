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

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
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

/// Reads and checks policy files; all errors at once.
#[must_use]
pub fn load(sources: &[Source]) -> Loaded {
    Loader::default().load(sources)
}

/// Reads policy files again and again: a file whose text did not change is not read anew, and its
/// policies are the same ones, so that a [`Compiler`](crate::Compiler) need not compile them again.
#[derive(Debug, Default)]
pub struct Loader {
    files: HashMap<String, Kept>,
    /// The keys of [`Fingerprint`]s.
    keys: [RandomState; 2],
    /// The CIDR groups that `files` was read with.
    groups: Groups,
    /// See [`Loader::with_lookup`].
    lookup: Option<Arc<Policy>>,
}

/// Stands for a text that need not be kept: 128 bits under keys that nobody else knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint([u64; 2]);

/// What a file said.
#[derive(Debug)]
struct Kept {
    text: Fingerprint,
    policies: Vec<Arc<Policy>>,
    problems: Vec<Problem>,
}

/// A file as YAML, and what was found in it.
struct File<'a> {
    source: &'a Source,
    report: Report<'a>,
    content: Content,
}

enum Content {
    /// As it was at the last load.
    Same,
    Documents(Vec<Node>),
}

impl Loader {
    /// A loader that has read nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with a policy that holds for workloads alone whose rules have `toFQDNs` and no DNS rule:
    /// it says which servers they ask. Whom it selects isn't looked at.
    ///
    /// # Errors
    /// If it is no valid policy.
    pub fn with_lookup(self, source: Source) -> Result<Self, Vec<Problem>> {
        let loaded = load(&[source]);
        match loaded.set.policies.into_iter().next() {
            Some(lookup) if loaded.problems.is_empty() => Ok(Self {
                lookup: Some(lookup),
                ..self
            }),
            _ => Err(loaded.problems),
        }
    }

    /// Reads and checks policy files; all errors at once.
    #[must_use]
    pub fn load(&mut self, sources: &[Source]) -> Loaded {
        let mut files: Vec<File<'_>> = sources.iter().map(|source| self.open(source)).collect();
        self.read_groups(&mut files);
        let mut policies: BTreeMap<_, Arc<Policy>> = BTreeMap::new();
        let mut kept = HashMap::new();
        let mut reports: Vec<(&str, Report<'_>)> = Vec::new();
        for file in files {
            let (source, mut report) = (file.source, file.report);
            let one = self.read(source, file.content, &mut report);
            for policy in &one.policies {
                let key = (policy.kind, policy.namespace.clone(), policy.name.clone());
                match policies.entry(key) {
                    Entry::Occupied(first) => report.push(duplicate(&report, first.get(), policy)),
                    Entry::Vacant(place) => {
                        place.insert(Arc::clone(policy));
                    }
                }
            }
            kept.insert(source.path.clone(), one);
            reports.push((&source.path, report));
        }
        self.files = kept;
        let mut set = PolicySet {
            policies: policies.into_values().collect(),
            lookup: None,
        };
        let has_names = set.items().any(|(_, _, item)| item.names().is_some());
        set.lookup = self.lookup.clone().filter(|_| has_names);
        let problems = check_set(&set, reports);
        Loaded { set, problems }
    }

    fn fingerprint(&self, source: &Source) -> Fingerprint {
        let keys = self.keys.each_ref();
        Fingerprint(keys.map(|keys| keys.hash_one(&source.text)))
    }

    fn open<'a>(&self, source: &'a Source) -> File<'a> {
        let kept = self.files.get(&source.path);
        if kept.is_some_and(|kept| kept.text == self.fingerprint(source)) {
            return File {
                source,
                report: Report::new(&source.path, &source.text),
                content: Content::Same,
            };
        }
        parse(source)
    }

    /// Policies refer to groups by name, whatever file has them: where groups are, or were, all files
    /// are read.
    fn read_groups(&mut self, files: &mut [File<'_>]) {
        let names_groups = |text: &str| text.contains("CiliumCIDRGroup");
        let has_groups = files.iter().any(|file| names_groups(&file.source.text));
        if !has_groups && self.groups.is_empty() {
            return;
        }
        self.files.clear();
        self.groups = Groups::default();
        for file in files {
            if matches!(file.content, Content::Same) {
                *file = parse(file.source);
            }
            if let Content::Documents(documents) = &file.content {
                for document in documents {
                    self.groups
                        .read_document(&At::root(document), &mut file.report);
                }
            }
        }
    }

    fn read(&mut self, source: &Source, content: Content, report: &mut Report<'_>) -> Kept {
        let documents = match (content, self.files.remove(&source.path)) {
            (Content::Same, Some(kept)) => {
                for problem in &kept.problems {
                    report.push(problem.clone());
                }
                return kept;
            }
            (Content::Same, None) => Vec::new(), // twice the same path: the second says nothing new
            (Content::Documents(documents), _) => documents,
        };
        let reader = object::Reader {
            file: Arc::from(&*source.path),
            groups: &self.groups,
        };
        let policies = documents
            .iter()
            .flat_map(|document| reader.read_document(&At::root(document), report))
            .map(Arc::new)
            .collect();
        Kept {
            text: self.fingerprint(source),
            policies,
            problems: report.problems().to_vec(),
        }
    }
}

/// What no file shows alone; gives the problems of all files, by file and place.
fn check_set(set: &PolicySet, mut reports: Vec<(&str, Report<'_>)>) -> Vec<Problem> {
    for problem in conflict::find(set) {
        problem.push_into(&mut reports);
    }
    if reports.iter().all(|(_, report)| report.errors() == 0) {
        for problem in set_lint::find(set) {
            problem.push_into(&mut reports);
        }
    }
    let mut problems = Vec::new();
    for (_, report) in reports {
        let mut found = report.into_problems();
        found.sort_by_key(|problem| (problem.line, problem.column));
        problems.append(&mut found);
    }
    problems
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
        source,
        report,
        content: Content::Documents(documents),
    }
}

fn duplicate(report: &Report<'_>, first: &Policy, second: &Policy) -> Problem {
    let place = Place {
        line: second.line,
        column: 1,
    };
    let message = format!(
        "{} is here twice, first in {}:{}",
        second.full_name(),
        first.file,
        first.line
    );
    report.problem((place, &"metadata.name"), Code::Duplicate, message)
}

#[cfg(test)]
mod tests;
