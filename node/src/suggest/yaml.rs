//! YAML, line by line. Text from flows stands in it as scalars that are quoted where they must be,
//! and in comments that can't end early.

use super::limits::COMMENT_OCTETS_MAX;

/// A text of YAML.
#[derive(Default)]
pub(super) struct Yaml {
    text: String,
}

impl Yaml {
    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// A line of our own words.
    pub(super) fn line(&mut self, indent: usize, words: &str) {
        self.indent(indent);
        self.text.push_str(words);
        self.text.push('\n');
    }

    /// `key: value`, where both may come from a flow. `lead` is `- ` for the first of an item.
    pub(super) fn pair(&mut self, indent: usize, lead: &str, (key, value): (&str, &str)) {
        let line = format!("{lead}{}: {}", scalar(key), scalar(value));
        self.line(indent, &line);
    }

    /// An item of a list.
    pub(super) fn item(&mut self, indent: usize, value: &str) {
        let line = format!("- {}", scalar(value));
        self.line(indent, &line);
    }

    /// A comment on one line, whatever is in it.
    pub(super) fn comment(&mut self, indent: usize, words: &str) {
        let harmless = |letter: char| {
            if letter == ' ' || letter.is_ascii_graphic() {
                letter
            } else {
                '?'
            }
        };
        self.indent(indent);
        self.text.push_str("# ");
        let cut = words.chars().take(COMMENT_OCTETS_MAX).map(harmless);
        self.text.extend(cut);
        if words.chars().nth(COMMENT_OCTETS_MAX).is_some() {
            self.text.push_str("...");
        }
        self.text.push('\n');
    }

    fn indent(&mut self, indent: usize) {
        self.text.extend(std::iter::repeat_n(' ', indent));
    }
}

/// Words that a reader of YAML 1.1 takes for something else than a string.
const TAKEN: [&str; 13] = [
    "y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "infinity", "none",
];

/// A string: bare where that can be nothing else, in single quotes where it is plain ASCII, else in
/// double quotes with escapes.
fn scalar(text: &str) -> String {
    if is_bare(text) {
        return text.to_owned();
    }
    if text
        .bytes()
        .all(|byte| byte == b' ' || byte.is_ascii_graphic())
    {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            ' ' => out.push(' '),
            _ if letter.is_ascii_graphic() => out.push(letter),
            _ if u32::from(letter) <= 0xffff => {
                out.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            _ => out.push_str(&format!("\\U{:08x}", u32::from(letter))),
        }
    }
    out.push('"');
    out
}

fn is_bare(text: &str) -> bool {
    let is_inner =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/' | b':');
    text.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && text.ends_with(|letter: char| letter.is_ascii_alphanumeric())
        && text.bytes().all(is_inner)
        && !TAKEN.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back_as_they_were_and_as_strings() {
        for text in [
            "",
            "a",
            "80",
            "true",
            "Yes",
            "~",
            "null",
            "1e3",
            "0x1f",
            ".inf",
            "-",
            "- a",
            "a: b",
            "a #b",
            "'",
            "''",
            "\"",
            "\\",
            "{a}",
            "[a]",
            "&a",
            "*a",
            "!a",
            "|",
            ">",
            "%a",
            "@a",
            "`a",
            "a:",
            ":a",
            " a ",
            "a\nb",
            "a\r\nb",
            "a\tb",
            "\u{0}",
            "\u{7f}",
            "\u{85}",
            "\u{2028}",
            "\u{feff}",
            "ü",
            "🦀",
            "k8s:app",
            "---",
            "...",
            "2026-03-05",
            "12:30:45",
            "/a\\.b\\?c='1'",
            "a,b",
            "?",
            "? a",
            "<<",
            "=",
            "0o17",
            "1_000",
            "+1",
            "nan",
        ] {
            let mut yaml = Yaml::default();
            yaml.pair(0, "", ("key", text));
            yaml.pair(0, "", (text, "value"));
            yaml.line(0, "list:");
            yaml.item(0, text);
            let yaml = yaml.into_text();
            let read: serde_json::Value =
                serde_yaml::from_str(&yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"));
            assert_eq!(read["key"].as_str(), Some(text), "{yaml}");
            assert_eq!(read[text].as_str(), Some("value"), "{yaml}");
            assert_eq!(read["list"][0].as_str(), Some(text), "{yaml}");
        }
    }

    #[test]
    fn nothing_comes_out_of_a_comment() {
        for words in [
            "a\nspec: {}",
            "a\r\n- b",
            "a\u{85}b",
            "a\u{2028}b",
            "\u{0}\u{1b}[31m",
            "# '\"",
        ] {
            let mut yaml = Yaml::default();
            yaml.comment(2, words);
            let text = yaml.into_text();
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(text.starts_with("  # ") && text.is_ascii());
            assert!(
                text.trim_end()
                    .bytes()
                    .all(|byte| (b' '..0x7f).contains(&byte))
            );
        }
    }

    #[test]
    fn a_long_comment_is_cut() {
        let mut yaml = Yaml::default();
        yaml.comment(0, &"ä".repeat(COMMENT_OCTETS_MAX + 1));
        let expected = format!("# {}...\n", "?".repeat(COMMENT_OCTETS_MAX));
        assert_eq!(yaml.into_text(), expected);
    }
}
