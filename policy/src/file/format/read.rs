//! From the parser's events to a [`Text`].

use std::collections::BTreeSet;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, StructureStyle};

use super::Refusal;
use super::comments::{Comments, Found};
use super::tree::{Content, Document, Entries, Entry, Line, Scalar, Style, Text};
use crate::file::yaml::Place;
use crate::limits::FILE_DEPTH_MAX;
use crate::problem::Code;

/// Reads a text.
pub(super) fn read(text: &str) -> Result<Text, Refusal> {
    let options = granit_parser::options! {
        emit_comments: true,
        max_buffered_comment_events: usize::MAX,
        flow_nesting_limit: FILE_DEPTH_MAX,
        block_nesting_limit: FILE_DEPTH_MAX,
    };
    let mut reader = Reader::new(text);
    for result in Parser::new_from_str_with_options(text, options) {
        let (event, span) = result.map_err(|error| {
            let message = error.info().to_owned();
            refusal(*error.marker(), Code::Yaml, message)
        })?;
        reader.take(event, span)?;
    }
    let foot = reader.comments.all();
    Ok(Text {
        documents: reader.documents,
        foot,
        comments: reader.seen,
    })
}

struct Reader<'a> {
    text: &'a str,
    comments: Comments<'a>,
    documents: Vec<Document>,
    /// The lists and mappings that are open, the innermost last.
    open: Vec<Frame>,
    /// How many comments were read.
    seen: usize,
}

/// A list or mapping that is being read.
struct Frame {
    head: Head,
    is_map: bool,
    is_flow: bool,
    /// Where its entries begin.
    column: usize,
    entries: Vec<Entry>,
    /// The keys so far.
    keys: BTreeSet<String>,
    /// The key whose value comes next.
    pending: Option<Head>,
}

/// What is known of an entry before its value.
#[derive(Default)]
struct Head {
    above: Vec<Line>,
    key: Option<Scalar>,
    beside: Option<String>,
}

pub(super) fn refusal(at: Marker, code: Code, message: impl Into<String>) -> Refusal {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Refusal {
        place: Place {
            line: number(at.line()),
            column: number(at.col() + 1),
        },
        code,
        message: message.into(),
    }
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            comments: Comments::new(text),
            documents: Vec::new(),
            open: Vec::new(),
            seen: 0,
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "not our enum")]
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Refusal> {
        match event {
            Event::DocumentStart(is_marked, version) => {
                if version.is_some() || self.comments.has_directive() {
                    let message = "a file with directives (`%YAML`, `%TAG`) is not formatted";
                    return Err(refusal(span.start, Code::NotSupported, message));
                }
                self.start_document(is_marked);
            }
            Event::DocumentEnd => {
                let foot = self.comments.all();
                if let Some(document) = self.documents.last_mut() {
                    document.foot = foot;
                }
            }
            Event::Comment(..) => self.comment(span),
            Event::Scalar(value, style, anchor, tag) => {
                refuse(anchor, tag.is_some(), span)?;
                let scalar = self.scalar(value.into_owned(), style, span);
                self.scalar_entry(scalar, span)?;
            }
            Event::SequenceStart(style, anchor, tag) => {
                refuse(anchor, tag.is_some(), span)?;
                self.start(false, style, span)?;
            }
            Event::MappingStart(style, anchor, tag) => {
                refuse(anchor, tag.is_some(), span)?;
                self.start(true, style, span)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(_) => return refuse(1, false, span),
            _ => {}
        }
        Ok(())
    }

    fn start_document(&mut self, is_marked: bool) {
        let mut document = Document {
            is_marked,
            ..Document::default()
        };
        if is_marked {
            document.head = self.comments.all();
        }
        self.documents.push(document);
    }

    fn scalar(&self, value: String, style: ScalarStyle, span: Span) -> Scalar {
        let style = match style {
            ScalarStyle::Plain if span.start.index() == span.end.index() => Style::Absent,
            ScalarStyle::Plain => Style::Plain,
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
            ScalarStyle::Literal => Style::Literal,
            ScalarStyle::Folded => {
                let lines = self.comments.lines(span.start.line(), span.end);
                Style::Folded(lines.map(str::to_owned).collect())
            }
        };
        Scalar { value, style }
    }

    /// A key, or a value that is no list or mapping.
    fn scalar_entry(&mut self, scalar: Scalar, span: Span) -> Result<(), Refusal> {
        if let Some(frame) = self.open.last()
            && frame.is_map
            && frame.pending.is_none()
        {
            if scalar.style == Style::Absent {
                let message = "a key that is empty is not formatted";
                return Err(refusal(span.start, Code::NotSupported, message));
            }
            return self.key(scalar, span);
        }
        let mut head = self.head(span.start);
        // Those between a key and its value.
        let (between, dash) = self.comments.before(span.start.line());
        head.above.extend(between);
        head.above.extend(dash.map(Line::Comment));
        self.push(head, Content::Scalar(scalar));
        Ok(())
    }

    fn key(&mut self, key: Scalar, span: Span) -> Result<(), Refusal> {
        let above = self.above(span.start);
        let Some(frame) = self.open.last_mut() else {
            return Ok(());
        };
        if !frame.keys.insert(key.value.clone()) {
            let message = format!("the key `{}` stands twice", key.value);
            return Err(refusal(span.start, Code::Duplicate, message));
        }
        frame.pending = Some(Head {
            above,
            key: Some(key),
            beside: None,
        });
        Ok(())
    }

    /// What is known of the entry whose value begins here.
    fn head(&mut self, at: Marker) -> Head {
        if let Some(frame) = self.open.last_mut()
            && let Some(head) = frame.pending.take()
        {
            return head;
        }
        if self.open.is_empty() {
            // The lines above the root are those above its first entry.
            return Head::default();
        }
        let (mut above, beside) = self.comments.before(at.line());
        above.extend(self.comments.blank_above(at));
        Head {
            above: self.without_top(above),
            key: None,
            beside,
        }
    }

    fn start(&mut self, is_map: bool, style: StructureStyle, span: Span) -> Result<(), Refusal> {
        let is_key = |frame: &Frame| frame.is_map && frame.pending.is_none();
        if self.open.last().is_some_and(is_key) {
            let message = "a key that is a list or a mapping is not formatted";
            return Err(refusal(span.start, Code::NotSupported, message));
        }
        let head = self.head(span.start);
        let is_value = self.open.last().is_some_and(|frame| frame.is_map);
        let column = match is_map {
            true => span.start.col(),
            false => self.comments.dash_column(span.start, is_value),
        };
        self.open.push(Frame {
            head,
            is_map,
            is_flow: style == StructureStyle::Flow,
            column,
            entries: Vec::new(),
            keys: BTreeSet::new(),
            pending: None,
        });
        Ok(())
    }

    fn end(&mut self) {
        let Some(frame) = self.open.pop() else {
            return;
        };
        let mut head = frame.head;
        let foot = match self.open.last() {
            Some(parent) if !frame.is_flow => self.comments.right_of(parent.column),
            Some(_) | None => self.comments.all(),
        };
        let mut entries = Entries {
            all: frame.entries,
            foot,
        };
        if entries.all.is_empty() {
            head.above.append(&mut entries.foot);
        }
        let content = if frame.is_map {
            Content::Map(entries)
        } else {
            Content::List(entries)
        };
        self.push(head, content);
    }

    fn push(&mut self, head: Head, content: Content) {
        let entry = Entry {
            above: head.above,
            key: head.key,
            content,
            beside: head.beside,
        };
        match (self.open.last_mut(), self.documents.last_mut()) {
            (Some(frame), _) => frame.entries.push(entry),
            (None, Some(document)) => document.set_root(entry),
            (None, None) => {}
        }
    }

    /// The lines above an entry that begins here.
    fn above(&mut self, at: Marker) -> Vec<Line> {
        let mut above = self.comments.all();
        above.extend(self.comments.blank_above(at));
        self.without_top(above)
    }

    /// Parts from the lines above the very first entry those of the document.
    fn without_top(&mut self, mut above: Vec<Line>) -> Vec<Line> {
        let is_first = self.open.len() == 1 && self.open.iter().all(|f| f.entries.is_empty());
        let Some(document) = self.documents.last_mut().filter(|_| is_first) else {
            return above;
        };
        let last = above.iter().rposition(|line| *line == Line::Blank);
        let count = last.map_or(0, |index| index + 1);
        document.top.extend(above.drain(..count));
        above
    }

    fn comment(&mut self, span: Span) {
        self.seen += 1;
        let text = span.slice(self.text).unwrap_or_default().trim_end();
        let found = self.comments.found(span.start);
        match self.spot().filter(|_| found == Found::Beside) {
            None => self.comments.keep(text, span.start, found),
            Some((_, beside)) if beside.is_none() => *beside = Some(text.to_owned()),
            Some((above, _)) => above.push(Line::Comment(text.to_owned())),
        }
    }

    /// The lines above what was read last, and the comment beside it.
    fn spot(&mut self) -> Option<(&mut Vec<Line>, &mut Option<String>)> {
        let Some(frame) = self.open.last_mut() else {
            let document = self.documents.last_mut()?;
            return Some(match &mut document.root {
                Some(root) => (&mut root.above, &mut root.beside),
                None if document.is_marked => (&mut document.top, &mut document.beside),
                None => return None,
            });
        };
        Some(match (&mut frame.pending, frame.entries.last_mut()) {
            (Some(head), _) => (&mut head.above, &mut head.beside),
            (None, Some(entry)) => (&mut entry.above, &mut entry.beside),
            (None, None) => (&mut frame.head.above, &mut frame.head.beside),
        })
    }
}

impl Document {
    /// Nothing, in a document of comments, is no value to be written.
    fn set_root(&mut self, mut root: Entry) {
        self.top.append(&mut root.above);
        let is_absent = match &root.content {
            Content::Scalar(scalar) => scalar.style == Style::Absent,
            Content::List(_) | Content::Map(_) => false,
        };
        if !is_absent {
            self.root = Some(root);
        }
    }
}

/// Refuses what would have to move with what it stands for.
fn refuse(anchor: usize, has_tag: bool, span: Span) -> Result<(), Refusal> {
    let what = match (anchor, has_tag) {
        (0, false) => return Ok(()),
        (0, true) => "tags (`!!str`)",
        (_, _) => "anchors or aliases (`&a`, `*a`)",
    };
    let message = format!("a file with {what} is not formatted");
    Err(refusal(span.start, Code::NotSupported, message))
}
