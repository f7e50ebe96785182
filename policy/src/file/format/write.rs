//! The printed form: blocks, two spaces, items in the column of their list's key.

use super::scalar::{self, Written};
use super::tree::{Content, Document, Entries, Entry, Line, Text};

/// Prints a file.
pub(super) fn write(text: &Text) -> String {
    let mut writer = Writer::default();
    for (index, document) in text.documents.iter().enumerate() {
        writer.document(document, index > 0);
    }
    writer.lines(&text.foot, 0);
    writer.out
}

#[derive(Default)]
struct Writer {
    out: String,
    /// Whether a blank line may come next: not at the start of a block, not after another one, and not
    /// after a text that would take it for its own.
    may_part: bool,
}

impl Writer {
    fn document(&mut self, document: &Document, is_later: bool) {
        self.lines(&document.head, 0);
        if document.is_marked || is_later {
            self.line(0, &with_comment("---".to_owned(), document.beside.as_ref()));
            self.may_part = false;
        }
        self.lines(&document.top, 0);
        if let Some(root) = &document.root {
            self.root(root);
        }
        self.lines(&document.foot, 0);
    }

    fn root(&mut self, root: &Entry) {
        self.lines(&root.above, 0);
        match root.content.entries() {
            Some(entries) => self.entries(entries, 0, false),
            None => self.value("", root, 0),
        }
    }

    fn lines(&mut self, lines: &[Line], indent: usize) {
        for line in lines {
            match line {
                Line::Comment(text) => self.line(indent, text),
                Line::Blank if self.may_part => {
                    self.out.push('\n');
                    self.may_part = false;
                }
                Line::Blank => {}
            }
        }
    }

    fn line(&mut self, indent: usize, text: &str) {
        self.out.push_str(&" ".repeat(indent));
        self.out.push_str(text);
        self.out.push('\n');
        self.may_part = true;
    }

    /// The entries of a block; the first one in the line of a dash if `is_inline`.
    fn entries(&mut self, entries: &Entries, indent: usize, is_inline: bool) {
        for (index, entry) in entries.all.iter().enumerate() {
            if index > 0 || !is_inline {
                self.lines(&entry.above, indent);
                self.out.push_str(&" ".repeat(indent));
            }
            self.entry(entry, indent);
        }
        self.lines(&entries.foot, indent);
    }

    /// One entry, from its column on.
    fn entry(&mut self, entry: &Entry, indent: usize) {
        let start = match &entry.key {
            Some(key) => format!("{}:", scalar::key(key)),
            None => "-".to_owned(),
        };
        let Some(inner) = entry.content.entries() else {
            return self.value(&start, entry, indent);
        };
        if entry.key.is_none() {
            self.out.push_str("- ");
            return self.entries(inner, indent + 2, true);
        }
        self.line(0, &with_comment(start, entry.beside.as_ref()));
        self.may_part = false;
        let deeper = match &entry.content {
            Content::List(_) => 0,
            Content::Map(_) | Content::Scalar(_) => 2,
        };
        self.entries(inner, indent + deeper, false);
    }

    /// A value that goes into the line of its key or dash, and perhaps some lines below.
    fn value(&mut self, start: &str, entry: &Entry, indent: usize) {
        let written = match &entry.content {
            Content::Scalar(scalar) => scalar::value(scalar),
            Content::List(_) => Written::Line("[]".to_owned()),
            Content::Map(_) => Written::Line("{}".to_owned()),
        };
        let (text, block) = match written {
            Written::Line(text) => (text, None),
            Written::Block(header, lines) => (header, Some(lines)),
        };
        let space = if start.is_empty() || text.is_empty() {
            ""
        } else {
            " "
        };
        let line = format!("{start}{space}{text}");
        self.line(0, &with_comment(line, entry.beside.as_ref()));
        for line in block.iter().flatten() {
            let indent = if line.is_empty() { 0 } else { indent + 2 };
            self.line(indent, line);
        }
        self.may_part = block.is_none() || !text.ends_with('+');
    }
}

fn with_comment(text: String, comment: Option<&String>) -> String {
    match comment {
        Some(comment) if text.is_empty() => comment.clone(),
        Some(comment) => format!("{text} {comment}"),
        None => text,
    }
}
