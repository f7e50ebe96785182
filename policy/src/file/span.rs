//! Where the keys and values of a file end.

use std::collections::BTreeMap;

use granit_parser::{Event, Marker, Parser, StructureStyle};

use super::yaml::Place;
use crate::limits::FILE_DEPTH_MAX;

/// The last column of whatever begins and ends in one line, by its place.
///
/// Kept apart from the tree, since a problem may come up long after the tree is gone.
#[derive(Debug, Default)]
pub(super) struct Spans {
    ends: BTreeMap<(u32, u32), u32>,
}

impl Spans {
    /// Reads a text as far as it is YAML.
    #[expect(clippy::wildcard_enum_match_arm, reason = "not our enum")]
    pub(super) fn of(text: &str) -> Self {
        let options = granit_parser::options! {
            emit_comments: false,
            flow_nesting_limit: FILE_DEPTH_MAX,
            block_nesting_limit: FILE_DEPTH_MAX,
        };
        let mut spans = Self::default();
        // Where the open flow collections begin; nothing for a block.
        let mut open = Vec::new();
        let events = Parser::new_from_str_with_options(text, options);
        for (event, span) in events.map_while(Result::ok) {
            match event {
                Event::Scalar(..) | Event::Alias(..) => spans.add(span.start, span.end),
                Event::SequenceStart(style, ..) | Event::MappingStart(style, ..) => {
                    open.push((style == StructureStyle::Flow).then_some(span.start));
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    if let Some(start) = open.pop().flatten() {
                        spans.add(start, span.end);
                    }
                }
                _ => {}
            }
        }
        spans
    }

    /// The column after the end of what begins at a place.
    pub(super) fn end_column(&self, place: Place) -> u32 {
        let next = place.column.saturating_add(u32::from(place.line > 0));
        let end = self.ends.get(&(place.line, place.column)).copied();
        end.unwrap_or(next)
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
        let spans = Spans::of(text);
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
        let spans = Spans::of(text);
        for (line, column) in [(1, 4), (3, 4), (6, 3), (7, 4), (9, 1)] {
            assert_eq!(spans.end_column(Place { line, column }), column + 1);
        }
        assert_eq!(spans.end_column(Place { line: 0, column: 0 }), 0);
    }
}
