//! A list of rules in the form that requests are judged by.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::asked::Asked;
use super::headers::{HeaderEffect, HeaderLine, HeaderMatches, HeaderNote};
use super::index::{PathIndex, PathIndexBuilder};
use super::programs::{Bad, Programs, Word};
use super::{HttpRule, Path, regex};
use crate::limits::{HTTP_PROGRAMS_MAX, HTTP_RULES_MAX};

/// Rules of which one must match a request. An empty list allows nothing.
///
/// However many there are, a request is compared with few: an index of the paths' beginnings finds
/// those whose path matches, and only of them method, host and headers are tried.
#[derive(Debug)]
pub struct HttpRules {
    pub(super) rules: Box<[Rule]>,
    pub(super) paths: PathIndex,
    /// By the number of a path: the rules that have it, in order.
    pub(super) by_path: Box<[Vec<usize>]>,
    /// The rules without a path, in order.
    pub(super) pathless: Vec<usize>,
    pub(super) has_hosts: bool,
    pub(super) has_actions: bool,
    /// Headers that are compared with secrets, in lower case.
    secret_headers: Box<[Box<str>]>,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) method: Option<Arc<Word>>,
    pub(super) host: Option<Arc<Word>>,
    pub(super) headers: HeaderMatches,
}

/// Why a list of rules can't be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHttpRules {
    /// More than [`HTTP_RULES_MAX`].
    #[error("{0} HTTP rules are too many; {HTTP_RULES_MAX} are possible")]
    TooMany(usize),
    /// More than [`HTTP_PROGRAMS_MAX`].
    #[error("the regular expressions are too large together: over {HTTP_PROGRAMS_MAX} bytes")]
    TooLarge,
    /// An expression that [`check_regex`](super::check_regex) refuses.
    #[error("HTTP rule {index}: {reason}")]
    Regex {
        /// The number of the rule, from 0.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// What is judged of a request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// The path with its query; `None` for CONNECT to an authority, which rules with a path never
    /// match.
    pub path: Option<&'a Path<'a>>,
    /// The host, as sent, with a port if there is one; `None` if there was no host at all (HTTP/1.0),
    /// which rules with a host never match.
    pub host: Option<&'a str>,
    /// The port that the connection was made to, which a host may name or leave out.
    pub port: u16,
    /// The lines of the head, without those that end at this hop.
    pub headers: &'a [HeaderLine<'a>],
}

impl Request<'_> {
    /// Whether it asks for a tunnel to an authority, which only a rule with a method allows.
    pub(super) fn is_tunnel(&self) -> bool {
        self.path.is_none() && self.method == "CONNECT"
    }
}

/// Whether a request may be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpVerdict<'a> {
    /// It may.
    Allowed {
        /// The first rule that matches, as a number from 0; of a path with many readings, in its
        /// normal form.
        rule: usize,
        /// What to change before it is forwarded, in order.
        effects: Vec<HeaderEffect<'a>>,
        /// What to tell of its headers.
        notes: Vec<HeaderNote<'a>>,
    },
    /// No rule matches; or one reading of its path is matched by none.
    Denied,
}

/// Gives the value of a secret (namespace, name), if it can be had.
pub type Secrets<'s> = &'s dyn Fn(&str, &str) -> Option<Box<[u8]>>;

impl HttpRules {
    /// Compiles rules, none of whose secrets is known.
    ///
    /// # Errors
    /// If there are too many, or an expression is none or too large.
    pub fn compile(rules: &[HttpRule]) -> Result<Self, BadHttpRules> {
        Self::compile_with(rules, &|_, _| None)
    }

    /// Compiles rules with the values of their secrets. A rule whose secret isn't known and that has no
    /// value beside it never matches; nor does one with a value that no header line can hold.
    ///
    /// # Errors
    /// If there are too many, or an expression is none or too large.
    pub fn compile_with(rules: &[HttpRule], secrets: Secrets<'_>) -> Result<Self, BadHttpRules> {
        if rules.len() > HTTP_RULES_MAX {
            return Err(BadHttpRules::TooMany(rules.len()));
        }
        let mut compiler = Compiler::default();
        let compiled = rules.iter().enumerate().map(|(index, rule)| {
            compiler
                .add(index, rule, secrets)
                .map_err(|bad| bad_rule(index, bad))
        });
        let compiled = compiled.collect::<Result<Box<[Rule]>, _>>()?;
        let paths = compiler.paths.build(&mut compiler.programs);
        let paths = paths.map_err(|(number, bad)| {
            let first = compiler.by_path.get(number).and_then(|list| list.first());
            bad_rule(first.copied().unwrap_or_default(), bad)
        })?;
        Ok(Self {
            has_hosts: compiled.iter().any(|rule| rule.host.is_some()),
            has_actions: compiled.iter().any(|rule| rule.headers.has_actions()),
            secret_headers: secret_headers(rules),
            rules: compiled,
            paths,
            by_path: compiler.by_path.into(),
            pathless: compiler.pathless,
        })
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none, so that nothing is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a header is compared with a secret, so that its value may be one.
    pub(crate) fn is_secret(&self, header: &str) -> bool {
        let mut names = self.secret_headers.iter();
        names.any(|name| name.eq_ignore_ascii_case(header))
    }

    /// Whether a rule does something to headers.
    pub(crate) fn has_actions(&self) -> bool {
        self.has_actions
    }

    /// Judges a request. Where no rule has an action on headers, nothing is allocated for a path with
    /// one reading and a host in lower case, but by paths of which many begin alike.
    #[must_use]
    pub fn judge<'a>(&'a self, request: &Request<'a>) -> HttpVerdict<'a> {
        let asked = Asked::new(self, request);
        let verdict = match self.has_actions {
            true => asked.run(),
            false => asked.rule().map(|rule| HttpVerdict::Allowed {
                rule,
                effects: Vec::new(),
                notes: Vec::new(),
            }),
        };
        verdict.unwrap_or(HttpVerdict::Denied)
    }
}

fn secret_headers(rules: &[HttpRule]) -> Box<[Box<str>]> {
    let headers = rules.iter().flat_map(|rule| &rule.headers);
    let secret = headers.filter(|header| header.secret.is_some());
    let names: BTreeSet<&str> = secret.map(|header| &*header.name).collect();
    names.into_iter().map(Into::into).collect()
}

fn bad_rule(index: usize, bad: Bad) -> BadHttpRules {
    match bad {
        Bad::Expression(reason) => BadHttpRules::Regex { index, reason },
        Bad::Full => BadHttpRules::TooLarge,
    }
}

#[derive(Default)]
struct Compiler<'r> {
    programs: Programs,
    words: HashMap<&'r str, Arc<Word>>,
    paths: PathIndexBuilder,
    /// The numbers of paths by what is written.
    numbers: HashMap<&'r str, usize>,
    by_path: Vec<Vec<usize>>,
    pathless: Vec<usize>,
}

impl<'r> Compiler<'r> {
    fn add(&mut self, index: usize, rule: &'r HttpRule, secrets: Secrets<'_>) -> Result<Rule, Bad> {
        match rule.path.as_deref() {
            None => self.pathless.push(index),
            Some(path) => {
                let number = self.path_number(path)?;
                if let Some(list) = self.by_path.get_mut(number) {
                    list.push(index);
                }
            }
        }
        Ok(Rule {
            method: self.word(rule.method.as_deref())?,
            host: self.word(rule.host.as_deref())?,
            headers: HeaderMatches::compile(&rule.headers, secrets),
        })
    }

    fn path_number(&mut self, path: &'r str) -> Result<usize, Bad> {
        if let Some(number) = self.numbers.get(path) {
            return Ok(*number);
        }
        let hir = regex::parse(path).map_err(Bad::Expression)?;
        let number = self.by_path.len();
        self.paths.add(number, &hir, &mut self.programs)?;
        self.numbers.insert(path, number);
        self.by_path.push(Vec::new());
        Ok(number)
    }

    fn word(&mut self, text: Option<&'r str>) -> Result<Option<Arc<Word>>, Bad> {
        let Some(text) = text else { return Ok(None) };
        if let Some(known) = self.words.get(text) {
            return Ok(Some(Arc::clone(known)));
        }
        let word = Arc::new(Word::compile(text, &mut self.programs)?);
        self.words.insert(text, Arc::clone(&word));
        Ok(Some(word))
    }
}
