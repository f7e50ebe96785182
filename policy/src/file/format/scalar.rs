//! How a scalar is written: plain where that is safe, else quoted or as a block.

use granit_parser::{Event, Parser};

use super::tree::{Scalar, Style};

/// What follows a key or a dash.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    Line(String),
    /// The header of a block, and its lines without their indentation.
    Block(String, Vec<String>),
}

/// A key.
pub(super) fn key(key: &Scalar) -> String {
    match key.style {
        Style::Plain if is_plain(&key.value) => key.value.clone(),
        Style::Absent | Style::Plain | Style::Quoted | Style::Literal | Style::Folded(_) => {
            text(&key.value)
        }
    }
}

/// A value.
pub(super) fn value(scalar: &Scalar) -> Written {
    let value = scalar.value.as_str();
    match &scalar.style {
        Style::Absent => Written::Line(String::new()),
        Style::Plain if is_plain(value) => Written::Line(value.to_owned()),
        Style::Plain | Style::Quoted => Written::Line(text(value)),
        Style::Literal => literal(value),
        Style::Folded(lines) => folded(lines, value).unwrap_or_else(|| literal(value)),
    }
}

/// A string: plain, unless that would not be YAML or not be a string.
fn text(value: &str) -> String {
    if is_plain(value) && !is_other(value) {
        value.to_owned()
    } else {
        quoted(value)
    }
}

fn quoted(value: &str) -> String {
    let is_simple = value.chars().all(is_printable);
    if is_simple && value.contains(['"', '\\']) {
        return format!("'{}'", value.replace('\'', "''"));
    }
    let mut out = String::from("\"");
    for ch in value.chars() {
        match ch {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            _ if is_printable(ch) => out.push(ch),
            _ if u32::from(ch) <= 0xff => out.push_str(&format!("\\x{:02x}", u32::from(ch))),
            _ if u32::from(ch) <= 0xffff => out.push_str(&format!("\\u{:04x}", u32::from(ch))),
            _ => out.push_str(&format!("\\U{:08x}", u32::from(ch))),
        }
    }
    out.push('"');
    out
}

/// The text as a `|` block, or quoted where no such block can hold it.
fn literal(value: &str) -> Written {
    let body = value.trim_end_matches('\n');
    let first = body.lines().find(|line| !line.is_empty());
    let can = |ch| ch == '\n' || ch == '\t' || is_printable(ch);
    // A block's indentation is that of its first line, which may thus not begin with a blank.
    let is_clear = first.is_some_and(|line| !line.starts_with([' ', '\t']));
    if !is_clear || body.ends_with([' ', '\t']) || !value.chars().all(can) {
        return Written::Line(quoted(value));
    }
    let header = match value.len() - body.len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    };
    let text = value.strip_suffix('\n').unwrap_or(value);
    let lines = text.split('\n').map(str::to_owned).collect();
    Written::Block(header.to_owned(), lines)
}

/// A `>` block with the line breaks that it has, if the value stays the same so.
fn folded(lines: &[String], value: &str) -> Option<Written> {
    let depth = |line: &String| line.len() - line.trim_start_matches(' ').len();
    let first = lines.iter().find(|line| !line.trim().is_empty())?;
    let indent = depth(first);
    let mut body: Vec<String> = lines
        .iter()
        .map(|line| line.get(indent..).unwrap_or_default().to_owned())
        .collect();
    while body.last().is_some_and(String::is_empty) {
        body.pop();
    }
    let header = match value.len() - value.trim_end_matches('\n').len() {
        0 => ">-",
        1 => ">",
        _ => return None,
    };
    let text = body.iter().map(|line| match line.as_str() {
        "" => "\n".to_owned(),
        line => format!("  {line}\n"),
    });
    let text = format!("{header}\n{}", text.collect::<String>());
    (parsed(&format!("k: {text}")).as_deref() == Some(value))
        .then(|| Written::Block(header.to_owned(), body))
}

/// The value of the only key of a text.
#[expect(clippy::wildcard_enum_match_arm, reason = "not our enum")]
fn parsed(text: &str) -> Option<String> {
    let events = Parser::new_from_str(text).map_while(Result::ok);
    let scalars = events.filter_map(|(event, _)| match event {
        Event::Scalar(value, ..) => Some(value.into_owned()),
        _ => None,
    });
    scalars.take(2).nth(1)
}

/// Whether a text may stand without quotes in a block mapping or list, and be read as one scalar.
fn is_plain(value: &str) -> bool {
    let starts = |ch| !",[]{}#&*!|>'\"%@`?:- \t".contains(ch);
    let mut chars = value.chars();
    let begins = match chars.next() {
        None => false,
        // `- ` is an item, `---` a document.
        Some('-') => chars.next().is_some_and(|next| !"- \t".contains(next)),
        Some(first) => starts(first),
    };
    begins
        && !value.starts_with("...")
        && !value.ends_with([' ', ':'])
        && !value.contains(": ")
        && !value.contains(" #")
        && value.chars().all(is_printable)
}

/// Whether it stands for itself in a quoted scalar, in YAML 1.1 and 1.2.
fn is_printable(ch: char) -> bool {
    let is_break = matches!(ch, '\u{85}' | '\u{2028}' | '\u{2029}');
    !ch.is_control() && !is_break && !matches!(ch, '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// Whether some reader of YAML 1.1 or 1.2 takes a plain text for something other than a string.
fn is_other(value: &str) -> bool {
    let word = value.to_ascii_lowercase();
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(&word);
    let is_word = matches!(
        word.as_str(),
        "~" | "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n" | "=" | "<<"
    );
    let is_unbounded = matches!(unsigned, ".inf" | ".nan" | "inf" | "nan" | "infinity");
    let is_based = ["0x", "0o", "0b"]
        .into_iter()
        .any(|base| unsigned.starts_with(base));
    // Decimals, exponents, sexagesimals, dates; an address has too many points.
    let starts = unsigned.starts_with(|ch: char| ch.is_ascii_digit() || ch == '.');
    let is_decimal = starts
        && unsigned
            .chars()
            .all(|ch| ch.is_ascii_digit() || "_.:e+-".contains(ch))
        && unsigned.matches('.').count() <= 1;
    is_word || is_unbounded || is_based || is_decimal || is_date(&word)
}

/// Whether it begins as `2026-01-31` does.
fn is_date(word: &str) -> bool {
    let mut parts = word.splitn(3, '-');
    let [year, month, day] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    year.len() == 4
        && all_digits(year)
        && month.len() <= 2
        && all_digits(month)
        && day.starts_with(|ch: char| ch.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_quoted_only_where_it_must_be() {
        let bare =
            "a|k8s:app|10.0.0.0/8|10.0.0.1|/public|GET|a b|-a|a,b|a#b|x*|it's|é|v1.2.3|a/b.c_d";
        for bare in bare.split('|').chain(["GET|HEAD"]) {
            assert_eq!(text(bare), bare);
        }
        let must = "|53|0|1.5|-1|+1|1e3|0x1f|1_000|1:30|2026-01-31|2026-01-31T00:00:00Z|yes|No|ON|off|\
                    y|true|null|~|.inf|NaN|*|*.a|&a|!a|a: b|a #b|a:| a|a |-|- a|---|...|?|%a|@a|::1|\
                    [a|{a|<<|=";
        for must in must.split('|') {
            assert_eq!(text(must), format!("\"{must}\""));
        }
        for (value, written) in [
            ("a\\.b*: c", "'a\\.b*: c'"),
            ("\"a\"", "'\"a\"'"),
            ("\"it's\"", "'\"it''s\"'"),
            ("a\tb", "\"a\\tb\""),
            ("a\n\"", "\"a\\n\\\"\""),
            ("\u{7}\u{2028}\u{feff}", "\"\\x07\\u2028\\ufeff\""),
        ] {
            assert_eq!(text(value), written);
        }
    }

    #[test]
    fn a_block_keeps_its_end() {
        for (value, header, lines) in [
            ("a", "|-", &["a"][..]),
            ("a\n", "|", &["a"]),
            ("a\n\n b\n\n", "|+", &["a", "", " b", ""]),
        ] {
            let lines = lines.iter().map(|&line| line.to_owned()).collect();
            assert_eq!(literal(value), Written::Block(header.to_owned(), lines));
        }
        for value in ["", "\n", " a\n", "a\r\n", "\n\ta"] {
            assert_eq!(literal(value), Written::Line(quoted(value)));
        }
    }
}
