//! Patterns of one literal suffix, found by how the label next to it must start or end.

use std::collections::HashMap;

use crate::pattern::{Glob, LabelGlob};

/// Up to so many patterns of a suffix are tried one by one: cheaper than any index.
const FEW_MAX: usize = 8;

/// Patterns with a star inside or several stars, and what each stands for.
pub(crate) struct GlobList<T> {
    few: Vec<(Glob, T)>,
    /// Absent as long as they are few.
    many: Option<Box<Index<T>>>,
}

/// More of them.
struct Index<T> {
    by_start: Affixes<T>,
    /// Those whose label next to the suffix starts with a star.
    by_end: Affixes<T>,
    /// Those where it also ends with one.
    others: Vec<(Glob, T)>,
}

/// Patterns by a literal end of a label.
struct Affixes<T> {
    /// The lengths that occur; a label has at most 63 octets.
    lengths: Vec<usize>,
    globs: HashMap<Box<[u8]>, Vec<(Glob, T)>>,
}

impl<T: Copy> GlobList<T> {
    pub(crate) fn new() -> Self {
        Self {
            few: Vec::new(),
            many: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.few.is_empty()
    }

    /// Adds a pattern; `next` is its label next to the suffix.
    pub(crate) fn insert(&mut self, glob: &Glob, next: &LabelGlob, value: T) {
        let entry = (glob.clone(), value);
        if self.few.len() < FEW_MAX {
            self.few.push(entry);
            return;
        }
        let many = self.many.get_or_insert_with(|| Box::new(Index::new()));
        if !next.start().is_empty() {
            many.by_start.insert(next.start(), entry);
        } else if !next.end().is_empty() {
            many.by_end.insert(next.end(), entry);
        } else {
            many.others.push(entry);
        }
    }

    /// The patterns that may match a name with this label next to the suffix; none without one.
    pub(crate) fn candidates<'a>(
        &'a self,
        label: Option<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a Glob, T)> {
        label.into_iter().flat_map(move |label| {
            let many = self.many.iter().flat_map(move |many| {
                let up_to = move |length| label.get(..length);
                let from = move |length| label.get(label.len().checked_sub(length)?..);
                let indexed = many.by_start.of(up_to).chain(many.by_end.of(from));
                indexed.chain(&many.others)
            });
            self.few
                .iter()
                .chain(many)
                .map(|(glob, value)| (glob, *value))
        })
    }
}

impl<T> Index<T> {
    fn new() -> Self {
        Self {
            by_start: Affixes::new(),
            by_end: Affixes::new(),
            others: Vec::new(),
        }
    }
}

impl<T> Affixes<T> {
    fn new() -> Self {
        Self {
            lengths: Vec::new(),
            globs: HashMap::new(),
        }
    }

    fn insert(&mut self, affix: &[u8], entry: (Glob, T)) {
        if !self.lengths.contains(&affix.len()) {
            self.lengths.push(affix.len());
        }
        self.globs.entry(affix.into()).or_default().push(entry);
    }

    fn of<'a>(
        &'a self,
        affix: impl Fn(usize) -> Option<&'a [u8]> + 'a,
    ) -> impl Iterator<Item = &'a (Glob, T)> {
        let affixes = self.lengths.iter().filter_map(move |length| affix(*length));
        affixes.filter_map(|affix| self.globs.get(affix)).flatten()
    }
}
