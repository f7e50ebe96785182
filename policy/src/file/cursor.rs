//! A walk over a YAML tree that notes every fault and goes on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use super::span::Spans;
use super::yaml::{Member, Node, Place, Value, YamlError};
use crate::limits::{FILE_DEPTH_MAX, FILE_NODES_MAX, SNIPPET_BYTES_MAX};
use crate::problem::{Code, Problem};

/// Up to so many members of a mapping are compared one by one: cheaper than any index.
const FEW_MEMBERS: usize = 8;

/// Collects the problems of one file.
pub(super) struct Report<'a> {
    file: &'a str,
    lines: Vec<&'a str>,
    /// Where tokens end, as far as the last problem.
    spans: RefCell<Spans<'a>>,
    problems: Vec<Problem>,
    /// How many of the problems are errors.
    errors: usize,
}

/// A value, with the path that leads to it.
#[derive(Clone)]
pub(super) struct At<'a> {
    pub(super) node: &'a Node,
    pub(super) path: Path<'a>,
}

/// The way to a value from the top of its document, written out only where it is told.
#[derive(Clone, Default)]
pub(super) struct Path<'a>(Option<Rc<Step<'a>>>);

struct Step<'a> {
    before: Path<'a>,
    last: Last<'a>,
}

enum Last<'a> {
    Key(&'a str),
    Index(usize),
}

/// The members of a mapping, of which each is asked for once; the rest is refused by name.
pub(super) struct Fields<'a> {
    path: Path<'a>,
    place: Place,
    rest: Vec<&'a Member>,
}

/// The fields that an object has: those that are read, and those that this release refuses.
pub(super) struct Known {
    /// What the object is called in messages.
    pub(super) object: &'static str,
    pub(super) read: &'static [&'static str],
    /// Cilium's fields that can't be enforced, with the reason.
    pub(super) refused: &'static [(&'static str, &'static str)],
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self {
            file,
            lines: text.lines().collect(),
            spans: RefCell::new(Spans::new(text)),
            problems: Vec::new(),
            errors: 0,
        }
    }

    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    /// How the problems of other places name this one.
    pub(super) fn name_of(&self, at: &At<'_>) -> String {
        format!("{}:{}", self.file, at.node.place.line)
    }

    /// A problem at a place, not yet noted.
    pub(super) fn problem(
        &self,
        (place, path): (Place, &dyn fmt::Display),
        code: Code,
        message: String,
    ) -> Problem {
        let index = usize::try_from(place.line).unwrap_or(0).checked_sub(1);
        let line = index.and_then(|index| self.lines.get(index));
        let line = line.filter(|line| line.len() <= SNIPPET_BYTES_MAX);
        Problem {
            file: self.file.to_owned(),
            line: place.line,
            column: place.column,
            end_column: self.spans.borrow_mut().end_column(place),
            severity: code.severity(),
            code,
            field: path.to_string(),
            message,
            help: None,
            snippet: line.copied().unwrap_or_default().trim_end().to_owned(),
        }
    }

    pub(super) fn push(&mut self, problem: Problem) {
        self.errors += usize::from(problem.is_error());
        self.problems.push(problem);
    }

    /// Notes a problem of a value.
    pub(super) fn note(&mut self, at: &At<'_>, code: Code, message: impl Into<String>) {
        let problem = self.problem((at.node.place, &at.path), code, message.into());
        self.push(problem);
    }

    /// Notes a problem of a value, and what to do about it.
    pub(super) fn note_with_help(
        &mut self,
        at: &At<'_>,
        (code, message): (Code, String),
        help: impl Into<String>,
    ) {
        let problem = self.problem((at.node.place, &at.path), code, message);
        self.push(Problem {
            help: Some(help.into()),
            ..problem
        });
    }

    /// Notes why the whole file could not be read.
    pub(super) fn note_yaml(&mut self, error: YamlError) {
        let place = error.place.unwrap_or(Place { line: 0, column: 0 });
        let code = if error.is_limit {
            Code::Limit
        } else {
            Code::Yaml
        };
        let mut problem = self.problem((place, &""), code, error.message);
        if error.is_limit {
            problem.help = Some(format!(
                "at most {FILE_NODES_MAX} YAML nodes (aliases count as often as they are used) and \
                 a depth of {FILE_DEPTH_MAX} in one file"
            ));
        } else if let Some(star) = unquoted_star(&problem.snippet) {
            let length = u32::try_from(star.chars().count()).unwrap_or(1);
            problem.help = Some(format!("quote the pattern: \"{star}\""));
            problem.end_column = problem.column + length;
        }
        self.push(problem);
    }
}

/// The word after `: ` or `- ` that starts with a star, which YAML takes for an alias.
fn unquoted_star(line: &str) -> Option<&str> {
    let from_star = |(index, _)| {
        let lead = line.get(..index)?.trim_end_matches(' ');
        let starts_value = lead.ends_with([':', '-', '[', ',']) && lead.len() < index
            || lead.ends_with(['[', ',']);
        let rest = line.get(index..)?;
        let end = rest.find([' ', ',', ']', '}', '#']).unwrap_or(rest.len());
        starts_value.then(|| rest.get(..end)).flatten()
    };
    line.match_indices('*').find_map(from_star)
}

impl<'a> At<'a> {
    pub(super) fn root(node: &'a Node) -> Self {
        Self {
            node,
            path: Path::default(),
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node.value, Value::Null)
    }

    pub(super) fn is_empty_list(&self) -> bool {
        matches!(&self.node.value, Value::List(items) if items.is_empty())
    }

    /// The members, if it is a mapping; a key that stands twice is refused.
    pub(super) fn fields(&self, report: &mut Report<'_>) -> Option<Fields<'a>> {
        let Value::Map(members) = &self.node.value else {
            self.expected(report, "a mapping");
            return None;
        };
        let mut fields = Fields {
            path: self.path.clone(),
            place: self.node.place,
            rest: Vec::with_capacity(members.len()),
        };
        let mut seen = BTreeMap::new();
        for (index, member) in members.iter().enumerate() {
            let first = match index < FEW_MEMBERS {
                true => members.iter().take(index).find(|one| one.key == member.key),
                false => {
                    if index == FEW_MEMBERS {
                        // From the last to the first, so that the first place stays.
                        let before = members.iter().take(index).rev();
                        seen = before.map(|one| (one.key.as_str(), one)).collect();
                    }
                    let first = seen.get(member.key.as_str()).copied();
                    seen.entry(&member.key).or_insert(member);
                    first
                }
            };
            let Some(first) = first else {
                fields.rest.push(member);
                continue;
            };
            let message = format!("the key stands twice, first in line {}", first.place.line);
            let path = fields.path.key(&member.key);
            report.push(report.problem((member.place, &path), Code::Duplicate, message));
        }
        Some(fields)
    }

    /// The items, if it is a list.
    pub(super) fn items(&self, report: &mut Report<'_>) -> Option<Vec<Self>> {
        let Value::List(items) = &self.node.value else {
            self.expected(report, "a list");
            return None;
        };
        let items = items.iter().enumerate().map(|(index, node)| Self {
            node,
            path: self.path.index(index),
        });
        Some(items.collect())
    }

    /// The text, if it is a string.
    pub(super) fn text(&self, report: &mut Report<'_>) -> Option<&'a str> {
        let Value::Text(text) = &self.node.value else {
            self.expected(report, "a string");
            return None;
        };
        Some(text)
    }

    pub(super) fn expected(&self, report: &mut Report<'_>, what: &str) {
        let found = self.node.value.kind();
        let fault = (
            Code::WrongType,
            format!("{what} is expected here, not {found}"),
        );
        match &self.node.value {
            Value::Number(number) if what == "a string" => {
                report.note_with_help(self, fault, format!("quote it: \"{number}\""));
            }
            Value::Bool(_) if what == "a string" => {
                report.note_with_help(
                    self,
                    fault,
                    "quote it: YAML reads the bare word as a boolean",
                );
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_) => report.note(self, fault.0, fault.1),
        }
    }
}

impl<'a> Fields<'a> {
    /// The value of a field; absent if null.
    pub(super) fn take(&mut self, key: &str) -> Option<At<'a>> {
        let index = self.rest.iter().position(|member| member.key == key)?;
        let member = self.rest.swap_remove(index);
        let at = At {
            node: &member.node,
            path: self.path.key(&member.key),
        };
        (!at.is_null()).then_some(at)
    }

    /// Whether a field stands there, null or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.rest.iter().any(|member| member.key == key)
    }

    /// Whether a field that is refused anyway holds anything: neither null nor an empty list.
    pub(super) fn holds(&self, key: &str) -> bool {
        self.rest.iter().any(|member| {
            let at = At::root(&member.node);
            member.key == key && !at.is_null() && !at.is_empty_list()
        })
    }

    /// Drops fields that say nothing about what is allowed.
    pub(super) fn tolerate(&mut self, keys: &[&str]) {
        self.rest
            .retain(|member| !keys.contains(&member.key.as_str()));
    }

    /// Every member that is left, in the order of the file.
    pub(super) fn take_rest(self) -> Vec<(&'a Member, At<'a>)> {
        let at = |member: &'a Member| At {
            node: &member.node,
            path: self.path.key(&member.key),
        };
        self.rest
            .iter()
            .map(|member| (*member, at(member)))
            .collect()
    }

    /// Notes that something is missing in the mapping.
    pub(super) fn note_missing(&self, report: &mut Report<'_>, message: &str) {
        let problem = report.problem((self.place, &self.path), Code::Missing, message.to_owned());
        report.push(problem);
    }

    /// Notes that parts of the mapping exclude each other.
    pub(super) fn note_conflict(&self, report: &mut Report<'_>, message: &str) {
        let problem = report.problem((self.place, &self.path), Code::Conflict, message.to_owned());
        report.push(problem);
    }

    /// Refuses by name whatever was not taken.
    pub(super) fn finish(mut self, report: &mut Report<'_>, known: &Known) {
        self.rest
            .sort_by_key(|member| (member.place.line, member.place.column));
        for member in &self.rest {
            let path = self.path.key(&member.key);
            let refused = known.refused.iter().find(|(name, _)| *name == member.key);
            if let Some((_, reason)) = refused {
                if !matches!(member.node.value, Value::Null) {
                    let reason = (*reason).to_owned();
                    report.push(report.problem((member.place, &path), Code::NotSupported, reason));
                }
                continue;
            }
            let message = format!("unknown field of {}", known.object);
            let problem = report.problem((member.place, &path), Code::UnknownField, message);
            let help = Some(known.help(&member.key));
            report.push(Problem { help, ..problem });
        }
    }
}

impl<'a> Path<'a> {
    /// The way to a member.
    pub(super) fn key(&self, key: &'a str) -> Self {
        self.step(Last::Key(key))
    }

    /// The way to an item.
    pub(super) fn index(&self, index: usize) -> Self {
        self.step(Last::Index(index))
    }

    fn step(&self, last: Last<'a>) -> Self {
        let before = self.clone();
        Self(Some(Rc::new(Step { before, last })))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(step) = &self.0 else {
            return Ok(());
        };
        step.before.fmt(f)?;
        match step.last {
            Last::Key(key) if step.before.0.is_none() => f.write_str(key),
            Last::Key(key) => write!(f, ".{key}"),
            Last::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl Known {
    fn help(&self, wrong: &str) -> String {
        let refused = self.refused.iter().map(|(name, _)| name);
        let alike = self
            .read
            .iter()
            .chain(refused)
            .find(|name| name.eq_ignore_ascii_case(wrong) || is_near(name, wrong));
        let turned = self.read.iter().find(|name| is_turned(name, wrong));
        match (alike, turned) {
            (Some(name), _) => format!("did you mean `{name}`?"),
            (None, Some(name)) => format!("in this direction the field is `{name}`"),
            (None, None) => format!("its fields are {}", self.read.join(", ")),
        }
    }
}

/// Whether two words name the same peers of the two directions.
fn is_turned(right: &str, wrong: &str) -> bool {
    let kind = |word| str::strip_prefix(word, "from").or_else(|| str::strip_prefix(word, "to"));
    kind(right).is_some_and(|right| kind(wrong) == Some(right))
}

/// Whether two words differ by one letter too many, too few or other.
fn is_near(right: &str, wrong: &str) -> bool {
    let same = |(a, b): &(u8, u8)| a == b;
    let front = right.bytes().zip(wrong.bytes()).take_while(same).count();
    let back = right.bytes().rev().zip(wrong.bytes().rev());
    let back = back.take_while(same).count();
    let longer = right.len().max(wrong.len());
    right.len().abs_diff(wrong.len()) <= 1 && front + back + 1 >= longer && longer > 3
}
