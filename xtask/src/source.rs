//! Rust text, read just well enough to tell code, comments and string literals apart.

use std::path::{Path, PathBuf};

/// A file of the repository.
#[derive(Debug)]
pub(crate) struct File {
    /// From the root, with `/`.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
}

/// The code of a text, line for line, without comments; string literals stand apart.
#[derive(Debug, PartialEq)]
pub(crate) struct Code {
    /// The text with comments and what stands in literals blanked.
    pub(crate) plain: String,
    /// Each string literal with its line, counted from 1.
    pub(crate) literals: Vec<(usize, String)>,
}

impl File {
    /// Whether it is a test from its first line on.
    pub(crate) fn is_test(&self) -> bool {
        let in_tests = self
            .path
            .split('/')
            .rev()
            .skip(1)
            .any(|part| part == "tests");
        in_tests || self.path.ends_with("/tests.rs") || self.path.ends_with("/testing.rs")
    }

    /// Lines before the tests at the end; 0 where all of it is tests.
    pub(crate) fn lines_before_tests(&self) -> usize {
        if self.is_test() {
            return 0;
        }
        let lines: Vec<&str> = self.text.lines().collect();
        let starts_tests = |pair: &[&str]| {
            let [first, second] = pair else { return false };
            *first == "#[cfg(test)]" && second.starts_with("mod ") && second.ends_with('{')
        };
        lines
            .windows(2)
            .position(starts_tests)
            .unwrap_or(lines.len())
    }

    /// What of it only tests see.
    pub(crate) fn test_text(&self) -> &str {
        if self.is_test() {
            return &self.text;
        }
        self.text
            .find("\n#[cfg(test)]\nmod ")
            .and_then(|at| self.text.get(at..))
            .unwrap_or_default()
    }
}

/// Every text file below a folder, sorted by path; build products and corpora are left out.
pub(crate) fn files(root: &Path) -> std::io::Result<Vec<File>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                if !["target", ".git", "corpus", "artifacts"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                found.push(File {
                    path: relative(root, &path),
                    text,
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// A path from the root, with `/`.
pub(crate) fn relative(root: &Path, path: &Path) -> String {
    let path: PathBuf = path.strip_prefix(root).unwrap_or(path).to_path_buf();
    path.to_string_lossy().replace('\\', "/")
}

/// Reads Rust text.
pub(crate) fn code(text: &str) -> Code {
    let mut reader = Reader {
        rest: text,
        line: 1,
        code: Code {
            plain: String::with_capacity(text.len()),
            literals: Vec::new(),
        },
    };
    while !reader.rest.is_empty() {
        reader.step();
    }
    reader.code
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    code: Code,
}

impl<'a> Reader<'a> {
    fn step(&mut self) {
        let rest = self.rest;
        if rest.starts_with("//") {
            self.blank(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.blank(block_comment(rest));
        } else if let Some((open, close)) = raw_string(rest, &self.code.plain) {
            self.literal(open, &close);
        } else if rest.starts_with('"') {
            self.string();
        } else if let Some(length) = char_literal(rest) {
            self.blank(length);
        } else {
            self.keep();
        }
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .unwrap_or((self.rest, ""));
        self.rest = rest;
        self.line += taken.matches('\n').count();
        taken
    }

    fn keep(&mut self) {
        let length = self.rest.chars().next().map_or(0, char::len_utf8);
        let taken = self.take(length);
        self.code.plain.push_str(taken);
    }

    fn blank(&mut self, length: usize) {
        let taken = self.take(length);
        let blanks = taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' });
        self.code.plain.extend(blanks);
    }

    fn literal(&mut self, open: usize, close: &str) {
        let body = self.rest.get(open..).unwrap_or_default();
        let length = body.find(close).unwrap_or(body.len());
        let inside = body.get(..length).unwrap_or_default().to_owned();
        self.code.literals.push((self.line, inside));
        self.blank(open + length + close.len());
    }

    fn string(&mut self) {
        let mut escaped = false;
        let end = self.rest.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let end = end.map_or(self.rest.len(), |(at, _)| at);
        let inside = self.rest.get(1..end).unwrap_or_default().to_owned();
        self.code.literals.push((self.line, inside));
        self.blank(end + 1);
    }
}

/// Length of a comment that may hold others.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(here) = rest.get(at..).filter(|here| !here.is_empty()) {
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Where a raw string's body begins, and what ends it.
fn raw_string(rest: &str, before: &str) -> Option<(usize, String)> {
    if before.ends_with(|c: char| c.is_alphanumeric() || c == '_') && !before.ends_with('b') {
        return None;
    }
    let hashes = rest.strip_prefix('r')?;
    let count = hashes.len() - hashes.trim_start_matches('#').len();
    hashes.get(count..)?.strip_prefix('"')?;
    Some((count + 2, format!("\"{}", "#".repeat(count))))
}

/// Length of a character literal; a lifetime is none.
fn char_literal(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    if body.starts_with('\\') {
        let tail = body.get(2..)?;
        return Some(2 + 1 + tail.find('\'')? + 1);
    }
    let first = body.chars().next()?;
    body.get(first.len_utf8()..)?.strip_prefix('\'')?;
    Some(first.len_utf8() + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_stand_apart() {
        let read = code(
            "let a = \"x \\\" // y\"; // unsafe\n/* a /* b */ c */ r#\"q\"z\"# 'a' '\\'' &'b d",
        );
        assert_eq!(
            read.literals,
            [(1, "x \\\" // y".to_owned()), (2, "q\"z".to_owned())]
        );
        let words: Vec<_> = read.plain.split_whitespace().collect();
        assert_eq!(words, ["let", "a", "=", ";", "&'b", "d"]);
    }

    #[test]
    fn lines_stop_at_the_tests() {
        let mut file = File {
            path: "a/src/b.rs".to_owned(),
            text: "one\n\n#[cfg(test)]\nmod tests {\n}\n".to_owned(),
        };
        assert_eq!(file.lines_before_tests(), 2);
        assert!(file.test_text().contains("mod tests"));
        file.path = "a/src/b/tests/c.rs".to_owned();
        assert_eq!(file.lines_before_tests(), 0);
    }
}
