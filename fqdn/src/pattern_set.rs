//! Many patterns, looked up at once: the cost grows with the labels of the name, not with the
//! number of patterns.

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;

use crate::Name;
use crate::pattern::{Everything, Glob, Pattern, Shape, is_plain};

/// A name has at most 127 labels: 255 octets, two for the shortest label.
const LABELS_MAX: usize = 127;

/// Patterns and what each stands for; built once, then only read.
pub struct PatternSet<T> {
    /// Values of patterns that are every name.
    any_name: Vec<T>,
    /// Values of patterns that are every name of plain labels.
    plain_names: Vec<T>,
    /// Whole names; the empty list marks a proper ancestor of one.
    exact: HashMap<Box<[u8]>, Vec<T>>,
    /// A trie over literal suffixes; `0` is the root of DNS.
    nodes: Vec<Node<T>>,
}

/// One literal suffix.
struct Node<T> {
    /// The next label to the left.
    children: HashMap<Box<[u8]>, usize>,
    /// `*.suffix`: one more label.
    one: Vec<T>,
    /// `**.suffix`: one or more.
    deep: Vec<T>,
    /// Patterns of another form whose longest literal suffix ends here.
    globs: Vec<(Glob, T)>,
    /// Whether some pattern's literal suffix ends below this node.
    has_below: bool,
}

/// The labels of one wire name, on the stack.
struct Labels<'a> {
    wire: &'a [u8],
    starts: [u8; LABELS_MAX],
    count: usize,
    /// How many labels from the left are plain.
    plain: usize,
}

impl<T: Copy> PatternSet<T> {
    /// A set without patterns.
    #[must_use]
    pub fn new() -> Self {
        Self {
            any_name: Vec::new(),
            plain_names: Vec::new(),
            exact: HashMap::new(),
            nodes: vec![Node::new()],
        }
    }

    /// Adds one pattern.
    pub fn insert(&mut self, pattern: &Pattern, value: T) {
        match &pattern.shape {
            Shape::Everything(Everything::AnyName) => self.any_name.push(value),
            Shape::Everything(Everything::PlainNames) => self.plain_names.push(value),
            Shape::Exact(name) => self.insert_exact(name, value),
            Shape::Glob(glob) => self.insert_glob(glob, value),
        }
    }

    /// Adds one exact name.
    pub fn insert_exact(&mut self, name: &Name, value: T) {
        let mut rest = name.as_wire();
        self.exact.entry(rest.into()).or_default().push(value);
        while let Some(parent) = parent_of(rest) {
            self.exact.entry(parent.into()).or_default();
            rest = parent;
        }
    }

    fn insert_glob(&mut self, glob: &Glob, value: T) {
        let mut at = 0usize;
        for label in glob.suffix.iter().rev() {
            let next = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else {
                return;
            };
            node.has_below = true;
            let child = *node.children.entry(label.clone()).or_insert(next);
            if child == next {
                self.nodes.push(Node::new());
            }
            at = child;
        }
        let Some(node) = self.nodes.get_mut(at) else {
            return;
        };
        match glob.labels.as_slice() {
            [] => node.deep.push(value),
            [label] if !glob.deep && label.is_star() => node.one.push(value),
            _ => node.globs.push((glob.clone(), value)),
        }
    }

    /// Calls `visit` with the value of each pattern that stands for the name, exact ones first, then
    /// by length of the literal suffix from the root down; stops when it says so. `wire` is a name
    /// in normal form; bytes that are none match nothing.
    pub fn visit<B>(
        &self,
        wire: &[u8],
        mut visit: impl FnMut(T) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let Some(labels) = Labels::new(wire) else {
            return ControlFlow::Continue(());
        };
        for value in self.exact.get(wire).into_iter().flatten() {
            visit(*value)?;
        }
        for (depth, node) in self.path(&labels) {
            let front = labels.count - depth;
            if labels.plain >= front && front > 0 {
                let one = if front == 1 { node.one.as_slice() } else { &[] };
                for value in one.iter().chain(&node.deep) {
                    visit(*value)?;
                }
            }
            for (glob, value) in &node.globs {
                if glob.matches_front(labels.front(depth)) {
                    visit(*value)?;
                }
            }
        }
        if labels.plain == labels.count {
            for value in &self.plain_names {
                visit(*value)?;
            }
        }
        for value in &self.any_name {
            visit(*value)?;
        }
        ControlFlow::Continue(())
    }

    /// The value of the first pattern, in the order of [`PatternSet::visit`], that stands for the
    /// name.
    #[must_use]
    pub fn first_match(&self, wire: &[u8]) -> Option<T> {
        self.visit(wire, ControlFlow::Break).break_value()
    }

    /// Whether names that the set allows lie below `name`: it is a proper ancestor of an exact name,
    /// of a pattern's literal suffix or of a name that a pattern stands for. "It does not exist"
    /// would deny those too (RFC 8020).
    #[must_use]
    pub fn is_ancestor_of_some(&self, name: &Name) -> bool {
        if self.exact.get(name.as_wire()).is_some_and(Vec::is_empty) {
            return true;
        }
        let Some(labels) = Labels::new(name.as_wire()) else {
            return false;
        };
        self.path(&labels).any(|(depth, node)| {
            let front = labels.count - depth;
            (front == 0 && (node.has_below || !node.one.is_empty()))
                || (!node.deep.is_empty() && labels.plain >= front)
                || node
                    .globs
                    .iter()
                    .any(|(glob, _)| glob.has_below(labels.front(depth)))
        })
    }

    /// Whether there is no pattern at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.any_name.is_empty()
            && self.plain_names.is_empty()
            && self.exact.is_empty()
            && self.nodes.iter().all(Node::is_empty)
    }

    /// The nodes of the name's suffixes from the root down, each with its number of labels.
    fn path<'a>(&'a self, labels: &'a Labels<'a>) -> impl Iterator<Item = (usize, &'a Node<T>)> {
        let mut next = self.nodes.first();
        let mut depth = 0usize;
        std::iter::from_fn(move || {
            let node = next?;
            let here = depth;
            next = labels
                .front(depth)
                .next()
                .and_then(|label| node.children.get(label))
                .and_then(|index| self.nodes.get(*index));
            depth += 1;
            Some((here, node))
        })
    }
}

impl<T: Copy> Default for PatternSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a, T: Copy> FromIterator<(&'a Pattern, T)> for PatternSet<T> {
    fn from_iter<I: IntoIterator<Item = (&'a Pattern, T)>>(patterns: I) -> Self {
        let mut set = Self::new();
        for (pattern, value) in patterns {
            set.insert(pattern, value);
        }
        set
    }
}

impl<T> fmt::Debug for PatternSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PatternSet")
            .field("exact", &self.exact.len())
            .field("nodes", &self.nodes.len())
            .finish_non_exhaustive()
    }
}

impl<T> Node<T> {
    fn new() -> Self {
        Self {
            children: HashMap::new(),
            one: Vec::new(),
            deep: Vec::new(),
            globs: Vec::new(),
            has_below: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.one.is_empty() && self.deep.is_empty() && self.globs.is_empty()
    }
}

impl<'a> Labels<'a> {
    /// The labels of a name in normal form; `None` if the bytes are not one whole name.
    fn new(wire: &'a [u8]) -> Option<Self> {
        let mut labels = Self {
            wire,
            starts: [0; LABELS_MAX],
            count: 0,
            plain: 0,
        };
        let mut at = 0usize;
        loop {
            let len = usize::from(*wire.get(at)?);
            if len == 0 {
                return (at + 1 == wire.len()).then_some(labels);
            }
            *labels.starts.get_mut(labels.count)? = u8::try_from(at).ok()?;
            let label = wire.get(at + 1..at + 1 + len)?;
            if labels.plain == labels.count && is_plain(label) {
                labels.plain += 1;
            }
            labels.count += 1;
            at += 1 + len;
        }
    }

    /// The labels from the right, without the last `skip`.
    fn front(&self, skip: usize) -> impl Iterator<Item = &'a [u8]> {
        let kept = self.count.saturating_sub(skip);
        let starts = self.starts.get(..kept).unwrap_or(&[]);
        starts.iter().rev().filter_map(|start| {
            let start = usize::from(*start);
            let len = usize::from(*self.wire.get(start)?);
            self.wire.get(start + 1..start + 1 + len)
        })
    }
}

/// The name without its first label; `None` for the root.
fn parent_of(wire: &[u8]) -> Option<&[u8]> {
    let len = usize::from(*wire.first()?);
    (len > 0).then(|| wire.get(len + 1..)).flatten()
}

#[cfg(test)]
mod tests;
