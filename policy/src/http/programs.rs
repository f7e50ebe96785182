//! The expressions of one list, each compiled once, under one bound.

use std::collections::HashMap;
use std::sync::Arc;

use regex_automata::meta::Regex;
use regex_syntax::hir::literal::Extractor;
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::regex;
use crate::limits::{HTTP_PROGRAMS_MAX, REGEX_SIZE_MAX, REGEX_TEXT_MAX};

/// The most literals that an expression is taken apart into.
const LITERALS_MAX: usize = 32;

/// What is compiled so far.
#[derive(Default)]
pub(super) struct Programs {
    /// By what they were compiled from: tails are often the same.
    programs: HashMap<String, Arc<Regex>>,
    bytes: usize,
}

/// Why an expression can't be compiled.
#[derive(Debug)]
pub(super) enum Bad {
    /// It is none.
    Expression(String),
    /// All together are too large.
    Full,
}

impl Programs {
    /// Compiles an expression, or finds it.
    pub(super) fn compile(&mut self, hir: &Hir) -> Result<Arc<Regex>, Bad> {
        let key = hir.to_string();
        if let Some(known) = self.programs.get(&key) {
            return Ok(Arc::clone(known));
        }
        let program = Arc::new(regex::compile(hir).map_err(Bad::Expression)?);
        self.charge(&program)?;
        self.programs.insert(key, Arc::clone(&program));
        Ok(program)
    }

    /// Compiles many expressions into one; `None`: one so large pays for nobody.
    pub(super) fn compile_set(&mut self, hirs: &[Hir]) -> Result<Option<Regex>, Bad> {
        let Ok(program) = regex::compile_set(hirs, SET_SIZE_MAX) else {
            return Ok(None);
        };
        self.charge(&program)?;
        Ok(Some(program))
    }

    fn charge(&mut self, program: &Regex) -> Result<(), Bad> {
        self.bytes += program.memory_usage();
        match self.bytes > HTTP_PROGRAMS_MAX {
            true => Err(Bad::Full),
            false => Ok(()),
        }
    }
}

/// Bytes of expressions that are matched at once.
const SET_SIZE_MAX: usize = 16 * REGEX_SIZE_MAX;

/// One way to match an expression: a text that must stand at the start, and what follows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Branch {
    pub(super) prefix: Vec<u8>,
    pub(super) tail: BranchTail,
}

/// What follows the prefix of a branch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BranchTail {
    /// Any text of at least so many bytes (`.*`, `.+`).
    Any(usize),
    /// Nothing.
    End,
    /// What this matches.
    Rest(Hir),
    /// The text as a whole, prefix included, must match this: it looks around itself.
    Whole(Hir),
}

/// All ways to match an expression.
pub(super) fn branches(hir: &Hir) -> Vec<Branch> {
    let hir = bare(hir);
    if let Some(literals) = literals_of(&hir) {
        let exact = |prefix| Branch {
            prefix,
            tail: BranchTail::End,
        };
        return literals.into_iter().map(exact).collect();
    }
    if let HirKind::Alternation(list) = hir.kind()
        && list.len() <= LITERALS_MAX
    {
        return list.iter().map(|each| branch(&bare(each))).collect();
    }
    vec![branch(&hir)]
}

/// The texts that an expression matches, if they are few.
pub(super) fn literals_of(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    let hir = bare(hir);
    if !hir.properties().look_set().is_empty() {
        return None;
    }
    let mut extractor = Extractor::new();
    extractor.limit_total(LITERALS_MAX);
    extractor.limit_literal_len(REGEX_TEXT_MAX);
    let found = extractor.extract(&hir);
    let literals = found.literals().filter(|_| found.is_exact())?;
    Some(
        literals
            .iter()
            .map(|each| each.as_bytes().to_vec())
            .collect(),
    )
}

/// The branch of an expression that is bare.
fn branch(hir: &Hir) -> Branch {
    let parts = parts_of(hir);
    let is_literal = |part: &&Hir| matches!(part.kind(), HirKind::Literal(_));
    let literals = parts.iter().take_while(is_literal).count();
    let (literals, rest) = parts.split_at(literals);
    let mut prefix = Vec::new();
    for part in literals {
        if let HirKind::Literal(literal) = part.kind() {
            prefix.extend_from_slice(&literal.0);
        }
    }
    let tail = match rest {
        [] => BranchTail::End,
        [only] if any_of(only).is_some() => BranchTail::Any(any_of(only).unwrap_or(0)),
        rest => {
            let rest = Hir::concat(rest.to_vec());
            match rest.properties().look_set().is_empty() {
                true => BranchTail::Rest(rest),
                false => BranchTail::Whole(hir.clone()),
            }
        }
    };
    Branch { prefix, tail }
}

/// The expression without the groups around it, and without the anchors that a match of the whole text
/// has anyway.
fn bare(hir: &Hir) -> Hir {
    if let HirKind::Capture(group) = hir.kind() {
        return bare(&group.sub);
    }
    let mut parts = parts_of(hir);
    while let [first, rest @ ..] = parts
        && matches!(first.kind(), HirKind::Look(Look::Start))
    {
        parts = rest;
    }
    while let [rest @ .., last] = parts
        && matches!(last.kind(), HirKind::Look(Look::End))
    {
        parts = rest;
    }
    match parts {
        [only] if parts.len() < parts_of(hir).len() => bare(only),
        parts => Hir::concat(parts.to_vec()),
    }
}

fn parts_of(hir: &Hir) -> &[Hir] {
    match hir.kind() {
        HirKind::Concat(parts) => parts,
        HirKind::Empty
        | HirKind::Literal(_)
        | HirKind::Class(_)
        | HirKind::Look(_)
        | HirKind::Repetition(_)
        | HirKind::Capture(_)
        | HirKind::Alternation(_) => std::slice::from_ref(hir),
    }
}

/// How many bytes an expression asks for that takes any, without an upper bound.
fn any_of(hir: &Hir) -> Option<usize> {
    let HirKind::Repetition(repetition) = hir.kind() else {
        return None;
    };
    let HirKind::Class(Class::Bytes(class)) = repetition.sub.kind() else {
        return None;
    };
    let [range] = class.ranges() else {
        return None;
    };
    let takes_all = range.start() == 0 && range.end() >= 0x7f && repetition.max.is_none();
    takes_all.then_some(usize::try_from(repetition.min).ok()?)
}

/// An expression for a whole word: a method or a host.
#[derive(Debug)]
pub(super) enum Word {
    /// One of these.
    OneOf(Box<[Box<[u8]>]>),
    /// Whatever it matches.
    Match(Arc<Regex>),
}

impl Word {
    pub(super) fn compile(text: &str, programs: &mut Programs) -> Result<Self, Bad> {
        let hir = regex::parse(text).map_err(Bad::Expression)?;
        Ok(match literals_of(&hir) {
            Some(literals) => {
                Self::OneOf(literals.into_iter().map(Vec::into_boxed_slice).collect())
            }
            None => Self::Match(programs.compile(&hir)?),
        })
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::OneOf(texts) => texts.iter().any(|one| &**one == text.as_bytes()),
            Self::Match(program) => regex::is_match(program, text.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(text: &str) -> Vec<(String, &'static str)> {
        let hir = regex::parse(text).expect(text);
        let shape = |branch: Branch| {
            let tail = match branch.tail {
                BranchTail::Any(0) => ".*",
                BranchTail::Any(_) => ".+",
                BranchTail::End => "",
                BranchTail::Rest(_) => "rest",
                BranchTail::Whole(_) => "whole",
            };
            (String::from_utf8_lossy(&branch.prefix).into_owned(), tail)
        };
        branches(&hir).into_iter().map(shape).collect()
    }

    #[test]
    fn an_expression_is_taken_apart() {
        for (text, expected) in [
            ("/public", &[("/public", "")][..]),
            (r"^/a\.b$", &[("/a.b", "")]),
            ("/public/.*", &[("/public/", ".*")]),
            ("(/public/.+)", &[("/public/", ".+")]),
            ("/a|/b", &[("/a", ""), ("/b", "")]),
            ("^/a/.*$|^/b$", &[("/a/", ".*"), ("/b", "")]),
            ("^(/a/.*|/b)$", &[("/a/", ".*"), ("/b", "")]),
            ("(^/a/.*$)", &[("/a/", ".*")]),
            ("^$", &[("", "")]),
            ("(?m)^/a/.*", &[("", "whole")]),
            ("/v[12]", &[("/v1", ""), ("/v2", "")]),
            ("/items/[0-9]+", &[("/items/", "rest")]),
            (r"/items\b.*", &[("/items", "whole")]),
            ("/a.*b", &[("/a", "rest")]),
            (".*", &[("", ".*")]),
            ("", &[("", "")]),
            (r"[^\x00-\xff]", &[]),
            ("(?i)/a", &[("/A", ""), ("/a", "")]),
            ("P(UT|OST)", &[("PUT", ""), ("POST", "")]),
        ] {
            let found = shapes(text);
            let found: Vec<_> = found
                .iter()
                .map(|(prefix, tail)| (&**prefix, *tail))
                .collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn equal_tails_are_compiled_once() {
        let mut programs = Programs::default();
        for index in 0..100 {
            let hir = regex::parse(&format!("/svc{index}/[a-z]+")).expect("valid");
            for branch in branches(&hir) {
                let BranchTail::Rest(rest) = branch.tail else {
                    panic!("no tail");
                };
                programs.compile(&rest).expect("small");
            }
        }
        assert_eq!(programs.programs.len(), 1);
    }
}
