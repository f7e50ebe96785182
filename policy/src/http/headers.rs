//! The header part of a rule: what must be there, and what is done where it isn't.

use std::borrow::Cow;
use std::hint::black_box;

use super::{HeaderRule, Mismatch, Secrets};

/// A line of a request's head: its name, in any case, and its value.
pub type HeaderLine<'a> = (&'a str, &'a [u8]);

/// A change to make to an allowed request before it is forwarded, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderEffect<'a> {
    /// Append a line.
    Add {
        /// Its name, in lower case.
        name: &'a str,
        /// Its value.
        value: &'a [u8],
    },
    /// Take out all lines of this name.
    Delete {
        /// Their name, in lower case.
        name: &'a str,
    },
    /// Take out all lines of this name and append one.
    Replace {
        /// Its name, in lower case.
        name: &'a str,
        /// Its value.
        value: &'a [u8],
    },
}

/// A header that wasn't as a rule with an action wants it: to be told with the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderNote<'a> {
    /// What was expected is not there.
    Missing {
        /// The header, in lower case.
        name: &'a str,
        /// What was expected: empty if any value was, [`REDACTED`] if it is a secret.
        expected: &'a [u8],
    },
    /// What is there was taken out.
    Rejected {
        /// The header, in lower case.
        name: &'a str,
        /// What was there, its lines joined by commas.
        actual: Cow<'a, [u8]>,
    },
}

/// What stands in a note for a value that came from a secret.
pub const REDACTED: &[u8] = b"[redacted]";

/// What the actions of rules did.
#[derive(Debug)]
pub(super) struct Edited<'a> {
    /// The lines as they are by now: a later rule sees what an earlier one did.
    pub(super) lines: Vec<HeaderLine<'a>>,
    pub(super) effects: Vec<HeaderEffect<'a>>,
    pub(super) notes: Vec<HeaderNote<'a>>,
}

/// The header part of one rule.
#[derive(Debug)]
pub(super) struct HeaderMatches {
    /// Without all of these the rule doesn't match.
    required: Box<[HeaderMatch]>,
    /// These never keep it from matching.
    actions: Box<[HeaderMatch]>,
    /// Whether a value can't be known, so that the rule never matches.
    never: bool,
}

#[derive(Debug)]
struct HeaderMatch {
    name: Box<str>,
    /// `None`: any value.
    value: Option<Box<[u8]>>,
    is_secret: bool,
    mismatch: Mismatch,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Match,
    Other,
    Missing,
}

impl HeaderMatches {
    pub(super) fn compile(rules: &[HeaderRule], secrets: Secrets<'_>) -> Self {
        let compiled: Option<Vec<_>> = rules
            .iter()
            .map(|rule| HeaderMatch::compile(rule, secrets))
            .collect();
        let never = compiled.is_none();
        let (required, actions): (Vec<_>, Vec<_>) = compiled
            .unwrap_or_default()
            .into_iter()
            .partition(|each| each.mismatch == Mismatch::Fail);
        Self {
            required: required.into(),
            actions: actions.into(),
            never,
        }
    }

    pub(super) fn has_actions(&self) -> bool {
        !self.actions.is_empty()
    }

    /// Whether the rule matches, as far as headers go.
    pub(super) fn matches(&self, lines: &[HeaderLine<'_>]) -> bool {
        let is_there = |each: &HeaderMatch| each.find(lines) == Found::Match;
        !self.never && self.required.iter().all(is_there)
    }

    /// Runs the actions of a rule that matches.
    pub(super) fn run<'a>(&'a self, edited: &mut Edited<'a>) {
        for action in &self.actions {
            action.run(edited);
        }
    }
}

impl HeaderMatch {
    fn compile(rule: &HeaderRule, secrets: Secrets<'_>) -> Option<Self> {
        let secret = rule.secret.as_ref();
        let secret_value = secret.and_then(|(namespace, name)| secrets(namespace, name));
        let is_secret = secret_value.is_some();
        let inline = rule.value.as_ref().map(|value| value.as_bytes().into());
        let value = secret_value.or(inline);
        let is_unknown = secret.is_some() && value.is_none();
        let ends_line = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
        let is_broken = value
            .as_ref()
            .is_some_and(|value| value.iter().any(ends_line));
        (!is_unknown && !is_broken).then(|| Self {
            name: rule.name.clone(),
            value,
            is_secret,
            mismatch: rule.mismatch,
        })
    }

    /// Compares all lines of this name, joined by commas, in a time that tells nothing of the value.
    fn find(&self, lines: &[HeaderLine<'_>]) -> Found {
        let mut values = self.values(lines).peekable();
        if values.peek().is_none() {
            return Found::Missing;
        }
        let Some(expected) = self.value.as_deref() else {
            return Found::Match;
        };
        let mut differs = 0_u8;
        let mut length = 0_usize;
        let mut compare = |byte: u8| {
            differs |= byte ^ expected.get(length).copied().unwrap_or(!byte);
            length += 1;
        };
        for (index, value) in values.enumerate() {
            if index > 0 {
                compare(b',');
            }
            value.iter().copied().for_each(&mut compare);
        }
        match black_box(differs) == 0 && length == expected.len() {
            true => Found::Match,
            false => Found::Other,
        }
    }

    fn values<'l>(&self, lines: &[HeaderLine<'l>]) -> impl Iterator<Item = &'l [u8]> {
        let mine = |line: &&HeaderLine<'l>| line.0.eq_ignore_ascii_case(&self.name);
        lines.iter().filter(mine).map(|line| line.1)
    }

    fn run<'a>(&'a self, edited: &mut Edited<'a>) {
        let found = self.find(&edited.lines);
        if found == Found::Match {
            return;
        }
        let (name, value) = (&*self.name, self.value.as_deref().unwrap_or_default());
        let missing = HeaderNote::Missing {
            name,
            expected: if self.is_secret { REDACTED } else { value },
        };
        match self.mismatch {
            Mismatch::Fail => {} // stands among those required
            Mismatch::Log => edited.notes.push(missing),
            Mismatch::Add => {
                edited.notes.push(missing);
                edited.lines.push((name, value));
                edited.effects.push(HeaderEffect::Add { name, value });
            }
            Mismatch::Delete if found == Found::Missing => {}
            Mismatch::Delete => {
                self.reject(edited);
                edited.effects.push(HeaderEffect::Delete { name });
            }
            Mismatch::Replace => {
                if found == Found::Other {
                    self.reject(edited);
                }
                edited.notes.push(missing);
                edited.lines.push((name, value));
                edited.effects.push(HeaderEffect::Replace { name, value });
            }
        }
    }

    fn reject<'a>(&'a self, edited: &mut Edited<'a>) {
        let values: Vec<&'a [u8]> = self.values(&edited.lines).collect();
        let actual = match values.as_slice() {
            [only] => Cow::Borrowed(*only),
            values => Cow::Owned(values.join(&b',')),
        };
        let name = &*self.name;
        edited.notes.push(HeaderNote::Rejected { name, actual });
        edited
            .lines
            .retain(|line| !line.0.eq_ignore_ascii_case(name));
    }
}
