//! Which expressions for paths match a path, without trying them all.
//!
//! An expression is kept under the text that it must begin with. The texts stand in order, each knows
//! the longest other one that it begins with: those that a path begins with are then found with one
//! binary search. Whatever shares such a text is tried in turn if few, else at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex_automata::meta::Regex;
use regex_syntax::hir::Hir;

use super::programs::{Bad, BranchTail, Programs, branches};
use super::regex;

/// Expressions under one text up to which they are tried in turn.
const IN_TURN_MAX: usize = 8;

/// Expressions for paths.
#[derive(Debug, Default)]
pub(super) struct PathIndex {
    /// In order of their prefixes.
    nodes: Box<[Node]>,
}

/// All expressions that begin with one text.
#[derive(Debug)]
struct Node {
    prefix: Box<[u8]>,
    /// The node with the longest prefix that this one's begins with.
    parent: Option<usize>,
    singles: Box<[Single]>,
    many: Option<Many>,
}

#[derive(Debug)]
struct Single {
    /// The number of the expression.
    number: usize,
    tail: Tail,
}

#[derive(Debug)]
enum Tail {
    Any(usize),
    End,
    Rest(Arc<Regex>),
    Whole(Arc<Regex>),
}

/// Tails that are matched at once.
#[derive(Debug)]
struct Many {
    program: Regex,
    numbers: Box<[usize]>,
}

/// What looks for expressions.
pub(super) trait Search {
    /// Whether it matters if the expression with this number matches.
    fn wants(&self, number: usize) -> bool;

    /// Told of each that matches; of one with alternatives perhaps more than once.
    fn found(&mut self, number: usize);
}

impl PathIndex {
    /// Tells of the expressions that match a path.
    pub(super) fn search(&self, path: &str, search: &mut impl Search) {
        let path = path.as_bytes();
        // The texts between one that the path begins with and the path all begin with that one.
        let after = self.nodes.partition_point(|node| &*node.prefix <= path);
        let mut next = after.checked_sub(1);
        while let Some(node) = next.and_then(|index| self.nodes.get(index)) {
            if let Some(rest) = path.strip_prefix(&*node.prefix) {
                node.search(path, rest, search);
            }
            next = node.parent;
        }
    }
}

impl Node {
    fn search(&self, path: &[u8], rest: &[u8], search: &mut impl Search) {
        for single in &self.singles {
            if search.wants(single.number) && single.tail.matches(path, rest) {
                search.found(single.number);
            }
        }
        let Some(many) = &self.many else { return };
        let wanted = many.numbers.iter().any(|number| search.wants(*number));
        if !wanted || !regex::is_match(&many.program, rest) {
            return; // nothing was allocated
        }
        for pattern in regex::matches_of(&many.program, rest).iter() {
            if let Some(number) = many.numbers.get(pattern.as_usize()) {
                search.found(*number);
            }
        }
    }
}

impl Tail {
    fn matches(&self, path: &[u8], rest: &[u8]) -> bool {
        match self {
            Self::Any(min) => rest.len() >= *min,
            Self::End => rest.is_empty(),
            Self::Rest(program) => regex::is_match(program, rest),
            Self::Whole(program) => regex::is_match(program, path),
        }
    }
}

/// An index that is being built.
#[derive(Default)]
pub(super) struct PathIndexBuilder {
    nodes: BTreeMap<Vec<u8>, Draft>,
}

#[derive(Default)]
struct Draft {
    singles: Vec<Single>,
    rests: Vec<(usize, Hir)>,
}

impl PathIndexBuilder {
    /// Adds an expression under its number.
    pub(super) fn add(
        &mut self,
        number: usize,
        hir: &Hir,
        programs: &mut Programs,
    ) -> Result<(), Bad> {
        for branch in branches(hir) {
            let tail = match branch.tail {
                BranchTail::Any(min) => Tail::Any(min),
                BranchTail::End => Tail::End,
                BranchTail::Whole(hir) => Tail::Whole(programs.compile(&hir)?),
                BranchTail::Rest(hir) => {
                    let node = self.nodes.entry(branch.prefix).or_default();
                    node.rests.push((number, hir));
                    continue;
                }
            };
            let node = self.nodes.entry(branch.prefix).or_default();
            node.singles.push(Single { number, tail });
        }
        Ok(())
    }

    /// Ends it; an error comes with the number of an expression.
    pub(super) fn build(self, programs: &mut Programs) -> Result<PathIndex, (usize, Bad)> {
        let mut nodes: Vec<Node> = Vec::with_capacity(self.nodes.len());
        // Those that the last prefix begins with, itself included.
        let mut open: Vec<usize> = Vec::new();
        for (prefix, draft) in self.nodes {
            while let Some(last) = open.last().and_then(|index| nodes.get(*index))
                && !prefix.starts_with(&last.prefix)
            {
                open.pop();
            }
            let parent = open.last().copied();
            open.push(nodes.len());
            nodes.push(draft.build(prefix, parent, programs)?);
        }
        Ok(PathIndex {
            nodes: nodes.into(),
        })
    }
}

impl Draft {
    fn build(
        mut self,
        prefix: Vec<u8>,
        parent: Option<usize>,
        programs: &mut Programs,
    ) -> Result<Node, (usize, Bad)> {
        let mut many = None;
        if self.rests.len() > IN_TURN_MAX {
            let (numbers, hirs): (Vec<_>, Vec<_>) = self.rests.iter().cloned().unzip();
            let program = programs.compile_set(&hirs);
            let program = program.map_err(|bad| (numbers.first().copied().unwrap_or(0), bad))?;
            many = program.map(|program| Many {
                program,
                numbers: numbers.into(),
            });
        }
        if many.is_none() {
            for (number, hir) in self.rests {
                let tail = programs.compile(&hir).map_err(|bad| (number, bad))?;
                self.singles.push(Single {
                    number,
                    tail: Tail::Rest(tail),
                });
            }
        }
        Ok(Node {
            prefix: prefix.into(),
            parent,
            singles: self.singles.into(),
            many,
        })
    }
}
