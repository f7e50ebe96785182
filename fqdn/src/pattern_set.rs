//! Many patterns, looked up at once: the cost grows with the labels of the name, not with the
//! number of patterns.

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;

use crate::Name;
use crate::glob_list::GlobList;
use crate::pattern::{Everything, Glob, Pattern, Shape, is_plain};

/// A name has at most 127 labels: 255 octets, two for the shortest label.
const LABELS_MAX: usize = 127;

/// Patterns and what each stands for; built once, then only read.
pub struct PatternSet<T> {
    /// Values of patterns that are every name.
    any_name: Vec<T>,
    /// Values of patterns that are every name of plain labels.
    plain_names: Vec<T>,
    /// By whole names and by longest literal suffixes; their ancestors stand here too, with nothing.
    nodes: HashMap<Box<[u8]>, Node<T>>,
    /// The most labels that a key of `nodes` has: longer suffixes are not looked up.
    labels_max: usize,
}

/// One name as the end of patterns.
struct Node<T> {
    patterns: Patterns<T>,
    /// Whether a key of the set lies below.
    has_below: bool,
}

/// The patterns that end in one name. Mostly there is one, which then needs no memory of its own.
enum Patterns<T> {
    None,
    /// The name itself.
    Exact(T),
    /// `*.suffix`: one more label.
    Star(T),
    Many(Box<Many<T>>),
}

/// Several patterns of a suffix, or rarer ones.
struct Many<T> {
    /// The name itself.
    exact: Vec<T>,
    /// `*.suffix`: one more label.
    star: Vec<T>,
    /// `**.suffix`: one more label or several.
    deep: Vec<T>,
    /// Of another form.
    globs: GlobList<T>,
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
            nodes: HashMap::new(),
            labels_max: 0,
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
        let patterns = &mut self.node(name).patterns;
        match patterns {
            Patterns::None => *patterns = Patterns::Exact(value),
            Patterns::Exact(_) | Patterns::Star(_) | Patterns::Many(_) => {
                patterns.add(|many| many.exact.push(value));
            }
        }
    }

    fn insert_glob(&mut self, glob: &Glob, value: T) {
        let patterns = &mut self.node(&glob.suffix).patterns;
        match (glob.labels.as_slice(), &patterns) {
            ([label], Patterns::None) if glob.is_star() => *patterns = Patterns::Star(value),
            ([], _) => patterns.add(|many| many.deep.push(value)),
            ([_], _) if glob.is_star() => patterns.add(|many| many.star.push(value)),
            ([.., next], _) => patterns.add(|many| many.globs.insert(glob, next, value)),
        }
    }

    /// The node of a name, made with its ancestors where it is new.
    fn node(&mut self, name: &Name) -> &mut Node<T> {
        self.labels_max = self.labels_max.max(name.labels().count());
        let wire = name.as_wire();
        let mut child = wire;
        while let Some(parent) = parent_of(child) {
            match self.nodes.get_mut(parent) {
                Some(node) if node.has_below => break, // so have its own ancestors
                Some(node) => node.has_below = true,
                None => {
                    let mut node = Node::new();
                    node.has_below = true;
                    self.nodes.insert(parent.into(), node);
                }
            }
            child = parent;
        }
        self.nodes.entry(wire.into()).or_insert_with(Node::new)
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
        if let Some(node) = self.nodes.get(wire) {
            let exact = node.patterns.exact();
            exact.iter().copied().try_for_each(&mut visit)?;
        }
        for (depth, node) in self.path(&labels) {
            let front = labels.count - depth;
            let is_plain = labels.plain >= front;
            if front == 1 && is_plain {
                let star = node.patterns.star();
                star.iter().copied().try_for_each(&mut visit)?;
            }
            if let Patterns::Many(many) = &node.patterns {
                if front > 0 && is_plain {
                    many.deep.iter().copied().try_for_each(&mut visit)?;
                }
                for (glob, value) in many.globs.candidates(labels.front(depth).next()) {
                    if glob.matches_front(labels.front(depth)) {
                        visit(value)?;
                    }
                }
            }
        }
        if labels.plain == labels.count {
            self.plain_names.iter().copied().try_for_each(&mut visit)?;
        }
        self.any_name.iter().copied().try_for_each(visit)
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
        let Some(labels) = Labels::new(name.as_wire()) else {
            return false;
        };
        self.path(&labels).any(|(depth, node)| {
            let front = labels.count - depth;
            if front == 0 {
                return node.has_below || node.patterns.has_below();
            }
            let Patterns::Many(many) = &node.patterns else {
                return false;
            };
            let is_deep = !many.deep.is_empty() && labels.plain >= front;
            let mut globs = many.globs.candidates(labels.front(depth).next());
            is_deep || globs.any(|(glob, _)| glob.has_below(labels.front(depth)))
        })
    }

    /// Whether there is no pattern at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.any_name.is_empty() && self.plain_names.is_empty() && self.nodes.is_empty()
    }

    /// The nodes of the name's suffixes from the root down, each with its number of labels.
    fn path<'a>(&'a self, labels: &'a Labels<'a>) -> impl Iterator<Item = (usize, &'a Node<T>)> {
        // Every ancestor of a key is a key, so the first one that is none ends the walk.
        (0..=labels.count.min(self.labels_max)).map_while(|depth| {
            let suffix = labels.suffix(depth)?;
            self.nodes.get(suffix).map(|node| (depth, node))
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
            .field("nodes", &self.nodes.len())
            .finish_non_exhaustive()
    }
}

impl<T> Node<T> {
    fn new() -> Self {
        Self {
            patterns: Patterns::None,
            has_below: false,
        }
    }
}

impl<T: Copy> Patterns<T> {
    fn exact(&self) -> &[T] {
        match self {
            Self::None | Self::Star(_) => &[],
            Self::Exact(value) => std::slice::from_ref(value),
            Self::Many(many) => &many.exact,
        }
    }

    fn star(&self) -> &[T] {
        match self {
            Self::None | Self::Exact(_) => &[],
            Self::Star(value) => std::slice::from_ref(value),
            Self::Many(many) => &many.star,
        }
    }

    /// Whether names that one of them stands for lie below the suffix.
    fn has_below(&self) -> bool {
        match self {
            Self::None | Self::Exact(_) => false,
            Self::Star(_) => true,
            Self::Many(many) => {
                !many.star.is_empty() || !many.deep.is_empty() || !many.globs.is_empty()
            }
        }
    }

    /// Adds one more where there may be several.
    fn add(&mut self, add: impl FnOnce(&mut Many<T>)) {
        let mut many = match std::mem::replace(self, Self::None) {
            Self::Many(many) => many,
            few @ (Self::None | Self::Exact(_) | Self::Star(_)) => Box::new(Many {
                exact: few.exact().to_vec(),
                star: few.star().to_vec(),
                deep: Vec::new(),
                globs: GlobList::new(),
            }),
        };
        add(&mut many);
        *self = Self::Many(many);
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

    /// The last labels, in wire form.
    fn suffix(&self, labels: usize) -> Option<&'a [u8]> {
        if labels == 0 {
            return self.wire.get(self.wire.len().checked_sub(1)?..);
        }
        let first = self.starts.get(self.count.checked_sub(labels)?)?;
        self.wire.get(usize::from(*first)..)
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
