//! Random trees, written in random ways.

use proptest::prelude::*;

use super::super::format;
use super::{check, source};

#[derive(Clone, Debug)]
enum Tree {
    Word(&'static str),
    Text(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

/// Plain scalars, of all types.
const WORDS: [&str; 12] = [
    "", "~", "null", "true", "no", "5", "1.50", "0x1f", "-7", "word", "k8s:app", "a b",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,5}",
        "[-a-z0-9:#*'\"\\\\ \n\t.%@&!|>{},?=~é\u{7}\u{2028}\\[\\]]{0,8}",
        "( ?[a-z]{1,3}\n{1,2}){1,4}",
        Just("2026-01-31".to_owned()),
        Just("--- a".to_owned()),
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        proptest::sample::select(&WORDS[..]).prop_map(Tree::Word),
        text().prop_map(Tree::Text),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        let key = prop_oneof![
            text(),
            proptest::sample::select(
                &["kind", "apiVersion", "metadata", "spec", "egress", "name"][..]
            )
            .prop_map(str::to_owned)
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Tree::List),
            proptest::collection::btree_map(key, inner, 0..5)
                .prop_map(|map| Tree::Map(map.into_iter().collect())),
        ]
    })
}

/// Writes a tree in a way that the choices say.
struct Scribe {
    out: String,
    choices: Vec<u8>,
    next: usize,
    comments: usize,
}

impl Scribe {
    fn choose(&mut self, of: u8) -> u8 {
        let choice = self.choices[self.next % self.choices.len()];
        self.next += 1;
        choice % of
    }

    fn comment(&mut self) -> String {
        self.comments += 1;
        format!("# c{}", self.comments)
    }

    fn end_line(&mut self) {
        if self.choose(4) == 0 {
            let comment = self.comment();
            self.out.push_str(&format!(" {comment}"));
        }
        self.out.push('\n');
    }

    /// Blank lines and comments, not always in the column that they should have.
    fn lines(&mut self, indent: usize) {
        if self.choose(5) == 0 {
            self.out.push('\n');
        }
        for _ in 0..self.choose(3).saturating_sub(1) {
            let indent = match self.choose(4) {
                0 => indent + 2,
                1 => indent.saturating_sub(2),
                _ => indent,
            };
            let comment = self.comment();
            self.out
                .push_str(&format!("{}{comment}\n", " ".repeat(indent)));
        }
        if self.choose(8) == 0 {
            self.out.push('\n');
        }
    }

    fn quoted(&mut self, text: &str) -> String {
        let is_simple = text.chars().all(|ch| !ch.is_control() && ch != '\u{2028}');
        if is_simple && self.choose(2) == 0 {
            return format!("'{}'", text.replace('\'', "''"));
        }
        let escaped = text.chars().map(|ch| match ch {
            '"' | '\\' => format!("\\{ch}"),
            _ if ch.is_control() || ch == '\u{2028}' => format!("\\u{:04x}", u32::from(ch)),
            _ => ch.to_string(),
        });
        format!("\"{}\"", escaped.collect::<String>())
    }

    fn flow(&mut self, tree: &Tree, indent: usize) {
        let (marks, count) = match tree {
            Tree::Word(word) => {
                return self.out.push_str(if word.is_empty() { "~" } else { word });
            }
            Tree::Text(text) => {
                let text = self.quoted(text);
                return self.out.push_str(&text);
            }
            Tree::List(items) => (['[', ']'], items.len()),
            Tree::Map(members) => (['{', '}'], members.len()),
        };
        self.out.push(marks[0]);
        for index in 0..count {
            if self.choose(4) == 0 {
                self.end_line();
                self.lines(indent + 2);
                self.out.push_str(&" ".repeat(indent + 2));
            }
            match tree {
                Tree::List(items) => self.flow(&items[index], indent + 2),
                Tree::Map(members) => {
                    let (key, value) = &members[index];
                    let key = self.quoted(key);
                    self.out.push_str(&format!("{key}: "));
                    self.flow(value, indent + 2);
                }
                Tree::Word(_) | Tree::Text(_) => {}
            }
            self.out
                .push_str(if index + 1 < count { ", " } else { " " });
        }
        if self.choose(4) == 0 {
            self.end_line();
            self.lines(indent + 2);
            self.out.push_str(&" ".repeat(indent + 1));
        }
        self.out.push(marks[1]);
    }

    /// A value after a key or a dash.
    fn value(&mut self, tree: &Tree, indent: usize) {
        let step = usize::from(self.choose(3)) + 1;
        let is_block = match tree {
            Tree::Word(_) => false,
            Tree::Text(text) => {
                let is_literal = text.ends_with('\n')
                    && text.chars().all(|ch| ch == '\n' || ch.is_ascii_lowercase())
                    && !text.starts_with('\n');
                if is_literal && self.choose(2) == 0 {
                    let header = if text.ends_with("\n\n") { " |+" } else { " |" };
                    self.out.push_str(header);
                    self.end_line();
                    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
                        self.out
                            .push_str(&format!("{}{line}\n", " ".repeat(indent + step)));
                    }
                    return;
                }
                false
            }
            Tree::List(items) => !items.is_empty() && self.choose(3) > 0,
            Tree::Map(members) => !members.is_empty() && self.choose(3) > 0,
        };
        if is_block {
            self.end_line();
            return self.block(tree, indent + step);
        }
        if !matches!(tree, Tree::Word("")) {
            self.out.push(' ');
            self.flow(tree, indent);
        }
        self.end_line();
    }

    fn block(&mut self, tree: &Tree, indent: usize) {
        match tree {
            Tree::Word(_) | Tree::Text(_) => {
                self.out.push_str(&" ".repeat(indent));
                self.flow(tree, indent);
                self.end_line();
            }
            Tree::List(items) => {
                for item in items {
                    self.lines(indent);
                    self.out.push_str(&format!("{}-", " ".repeat(indent)));
                    self.value(item, indent);
                }
            }
            Tree::Map(members) => {
                for (key, value) in members {
                    self.lines(indent);
                    let key = self.quoted(key);
                    self.out.push_str(&format!("{}{key}:", " ".repeat(indent)));
                    self.value(value, indent);
                }
            }
        }
        self.lines(indent);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_written_in_any_way_keeps_its_meaning_and_its_comments(
        trees in proptest::collection::vec(tree(), 1..3),
        choices in proptest::collection::vec(any::<u8>(), 1..200),
    ) {
        let mut scribe = Scribe { out: String::new(), choices, next: 0, comments: 0 };
        for tree in &trees {
            scribe.lines(0);
            scribe.out.push_str("---");
            scribe.end_line();
            scribe.block(tree, 0);
        }
        check(&scribe.out);
    }

    #[test]
    fn any_text_is_refused_or_keeps_its_meaning_and_its_comments(
        text in "([ab\\-?:,#!|>{}'\"\\[\\]\n \t1~]|\n  |\n- | # c|a: |- |\n# c\n|---\n|'a'|\\[|\\]|: ){0,24}",
    ) {
        if format(&source(&text)).is_ok() {
            check(&text);
        }
    }
}
