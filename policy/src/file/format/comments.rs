//! Comments that wait for what they belong to, and blank lines.

use granit_parser::Marker;

use super::tree::Line;

/// The comments that were read and have no place yet.
pub(super) struct Comments<'a> {
    lines: Vec<&'a str>,
    kept: Vec<Kept>,
}

struct Kept {
    text: String,
    line: usize,
    column: usize,
    found: Found,
    /// Whether a blank line stands above it.
    is_parted: bool,
}

/// What stands before a comment in its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Alone,
    /// The dash of an item that begins in a later line.
    Dash,
    /// A key or value.
    Beside,
}

impl<'a> Comments<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            lines: text.trim_start_matches('\u{feff}').lines().collect(),
            kept: Vec::new(),
        }
    }

    /// Whether a line may be a directive.
    pub(super) fn has_directive(&self) -> bool {
        self.lines.iter().any(|line| line.starts_with('%'))
    }

    /// The lines from one to that before a place.
    pub(super) fn lines(&self, first: usize, end: Marker) -> impl Iterator<Item = &'a str> {
        let count = end.line().saturating_sub(first);
        let lines = self.lines.iter().copied();
        lines.skip(first.saturating_sub(1)).take(count)
    }

    /// Where the items of a block list begin that is said to begin at a place. For the value of a key,
    /// and where a comment follows the first dash, that place is the first item's.
    pub(super) fn dash_column(&self, at: Marker, is_value: bool) -> usize {
        let line = self.line(at.line());
        if !is_value && line.chars().nth(at.col()) == Some('-') {
            return at.col();
        }
        line.chars().take_while(|&ch| ch == ' ').count()
    }

    pub(super) fn found(&self, at: Marker) -> Found {
        let line = self.line(at.line());
        let before: String = line.chars().take(at.col()).collect();
        let mut words = before.split_whitespace();
        match words.clone().next() {
            None | Some("...") => Found::Alone,
            Some(_) if words.all(|word| word == "-" || word == "?") => Found::Dash,
            Some(_) => Found::Beside,
        }
    }

    pub(super) fn keep(&mut self, text: &str, at: Marker, found: Found) {
        self.kept.push(Kept {
            text: text.to_owned(),
            line: at.line(),
            column: at.col(),
            found,
            is_parted: found == Found::Alone && self.is_blank(at.line().saturating_sub(1)),
        });
    }

    /// All that wait.
    pub(super) fn all(&mut self) -> Vec<Line> {
        self.first(self.kept.len())
    }

    /// Those at the front that begin to the right of a column.
    pub(super) fn right_of(&mut self, column: usize) -> Vec<Line> {
        let kept = self.kept.iter();
        let count = kept.take_while(|kept| kept.column > column).count();
        self.first(count)
    }

    /// Those before a value that begins in a line; the one beside its dash apart, if it is the last.
    pub(super) fn before(&mut self, line: usize) -> (Vec<Line>, Option<String>) {
        let is_before = |kept: &&Kept| kept.line < line || kept.found == Found::Dash;
        let count = self.kept.iter().take_while(is_before).count();
        let mut lines = self.first_kept(count);
        let dash = lines.pop_if(|kept| kept.found == Found::Dash);
        (to_lines(lines), dash.map(|kept| kept.text))
    }

    /// A blank line, if one stands above the line that begins with this.
    pub(super) fn blank_above(&self, at: Marker) -> Option<Line> {
        let before = self.line(at.line()).chars().take(at.col());
        let begins = before.into_iter().all(|ch| " -?\t".contains(ch));
        (begins && self.is_blank(at.line().saturating_sub(1))).then_some(Line::Blank)
    }

    fn first(&mut self, count: usize) -> Vec<Line> {
        to_lines(self.first_kept(count))
    }

    fn first_kept(&mut self, count: usize) -> Vec<Kept> {
        self.kept.drain(..count).collect()
    }

    fn line(&self, number: usize) -> &'a str {
        let index = number.checked_sub(1);
        let line = index.and_then(|index| self.lines.get(index));
        line.copied().unwrap_or_default()
    }

    fn is_blank(&self, number: usize) -> bool {
        number > 0 && number <= self.lines.len() && self.line(number).trim().is_empty()
    }
}

fn to_lines(kept: Vec<Kept>) -> Vec<Line> {
    let lines = kept.into_iter().flat_map(|kept| {
        let blank = kept.is_parted.then_some(Line::Blank);
        blank.into_iter().chain([Line::Comment(kept.text)])
    });
    lines.collect()
}
