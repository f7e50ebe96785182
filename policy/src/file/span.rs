//! Where the keys and values of a file end.

use std::collections::BTreeMap;

use granit_parser::{Event, Marker, Parser, StrInput, StructureStyle};

use super::yaml::Place;
use crate::limits::FILE_DEPTH_MAX;

/// The last column of whatever begins and ends in one line, by its place.
///
/// Kept apart from the tree, since a problem may come up long after the tree is gone. Read on demand
/// and no further: the first problems of a long file are what people look at.
pub(super) struct Spans<'a> {
    ends: BTreeMap<(u32, u32), u32>,
    /// The rest of the text.
    events: Parser<'a, StrInput<'a>>,
    /// Where the open flow collections begin; nothing for a block.
    open: Vec<Option<Marker>>,
    /// The line, from 1, up to which all that begins there is in `ends`.
    known_to: u32,
}

impl<'a> Spans<'a> {
    /// Nothing is read yet.
    pub(super) fn new(text: &'a str) -> Self {
        let options = granit_parser::options! {
            emit_comments: false,
            flow_nesting_limit: FILE_DEPTH_MAX,
            block_nesting_limit: FILE_DEPTH_MAX,
        };
        Self {
            ends: BTreeMap::new(),
            events: Parser::new_from_str_with_options(text, options),
            open: Vec::new(),
            known_to: 0,
        }
    }

    /// The column after the end of what begins at a place.
    pub(super) fn end_column(&mut self, place: Place) -> u32 {
        self.read_to(place.line);
        let next = place.column.saturating_add(u32::from(place.line > 0));
        let end = self.ends.get(&(place.line, place.column)).copied();
        end.unwrap_or(next)
    }

    /// Reads on until all is known that begins in a line, or to where the text is no YAML.
    #[expect(clippy::wildcard_enum_match_arm, reason = "not our enum")]
    fn read_to(&mut self, line: u32) {
        while self.known_to < line {
            let Some(Ok((event, span))) = self.events.next() else {
                self.known_to = u32::MAX;
                return;
            };
            match event {
                Event::Scalar(..) | Event::Alias(..) => self.add(span.start, span.end),
                Event::SequenceStart(style, ..) | Event::MappingStart(style, ..) => {
                    let is_flow = style == StructureStyle::Flow;
                    self.open.push(is_flow.then_some(span.start));
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    if let Some(start) = self.open.pop().flatten() {
                        self.add(start, span.end);
                    }
                }
                _ => {}
            }
            // What is open, and begins in one line with its end, ends before the next line.
            let begun = u32::try_from(span.start.line()).unwrap_or(u32::MAX);
            self.known_to = self.known_to.max(begun.saturating_sub(1));
        }
    }

    fn add(&mut self, start: Marker, end: Marker) {
        if start.line() != end.line() || start.col() >= end.col() {
            return;
        }
        let numbers = [start.line(), start.col() + 1, end.col() + 1].map(u32::try_from);
        if let [Ok(line), Ok(column), Ok(after)] = numbers {
            // What ends first is the innermost: a key, not the mapping that it begins.
            self.ends.entry((line, column)).or_insert(after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, meant: &str) {
        let mut spans = Spans::new(text);
        let lines = (1..).zip(text.lines());
        let found = lines.filter_map(|(line, text)| Some((line, text, text.find(meant)?)));
        let (line, text, start) = found.into_iter().next().unwrap();
        let column = u32::try_from(text[..start].chars().count() + 1).unwrap();
        let after = column + u32::try_from(meant.chars().count()).unwrap();
        assert_eq!(spans.end_column(Place { line, column }), after, "{meant}");
    }

    #[test]
    fn keys_values_and_flow_collections_have_an_end() {
        let text = "- port: 53 # c\n  'it''s': \"a \\\" b\"\n  k: [\"x\", {é: 'y'}]\n- *a\n";
        for meant in [
            "port",
            "53",
            "'it''s'",
            "\"a \\\" b\"",
            "[\"x\", {é: 'y'}]",
            "{é: 'y'}",
            "'y'",
        ] {
            check(text, meant);
        }
    }

    #[test]
    fn what_goes_over_lines_or_is_no_yaml_has_one_column() {
        let text = "a: [1,\n  2]\nb: one\n  two\nc: |\n  text\nd: }\n";
        let mut spans = Spans::new(text);
        for (line, column) in [(1, 4), (3, 4), (6, 3), (7, 4), (9, 1)] {
            assert_eq!(spans.end_column(Place { line, column }), column + 1);
        }
        assert_eq!(spans.end_column(Place { line: 0, column: 0 }), 0);
    }
}
