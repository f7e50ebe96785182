//! Names that a TLS client may say (SNI).

use std::net::IpAddr;

use crate::limits::SNI_PATTERN_MAX;

/// An item of `serverNames`: a name, or a pattern of names.
///
/// `*` alone stands for any name; `**` as a whole label for one or more labels, wherever it stands; any
/// other star for zero or more of `[-a-z0-9_]`. Case doesn't matter. These are the rules of Cilium's
/// proxy, but an empty label, and so an empty one under a star, is never matched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SniPattern {
    text: Box<str>,
    /// The text in lower case.
    lower: Box<str>,
}

/// Why a text is no item of `serverNames`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSniPattern {
    /// Nothing stands there.
    #[error("it is empty")]
    Empty,
    /// More than a server name may have.
    #[error("it is longer than {SNI_PATTERN_MAX} characters")]
    TooLong,
    /// A character that is in no server name.
    #[error("{0:?} can't stand in a server name; letters, digits, `-`, `_`, `.` and `*` can")]
    Character(char),
    /// Three stars or more in a row.
    #[error("more than two stars stand in a row")]
    Stars,
    /// Nothing stands before a dot.
    #[error("a label is empty")]
    EmptyLabel,
    /// The name of the root stands at the end, which clients never say.
    #[error("it ends in a dot; server names have none")]
    TrailingDot,
}

impl SniPattern {
    /// Reads an item.
    ///
    /// # Errors
    /// If it can't be a server name or a pattern of some.
    pub fn parse(text: &str) -> Result<Self, BadSniPattern> {
        if text.is_empty() {
            return Err(BadSniPattern::Empty);
        }
        let known = |c: char| c.is_ascii() && (is_name_byte(c as u8) || c == '.' || c == '*');
        if let Some(character) = text.chars().find(|c| !known(*c)) {
            return Err(BadSniPattern::Character(character));
        }
        if text.len() > SNI_PATTERN_MAX {
            return Err(BadSniPattern::TooLong);
        }
        if text.contains("***") {
            return Err(BadSniPattern::Stars);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.split('.').any(str::is_empty) {
            return Err(BadSniPattern::EmptyLabel);
        }
        if name.len() < text.len() {
            return Err(BadSniPattern::TrailingDot);
        }
        Ok(Self {
            text: text.into(),
            lower: text.to_ascii_lowercase().into(),
        })
    }

    /// As written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a name that a client said is one of the pattern's. A dot at its end is passed over; an
    /// address is no name, nor is nothing.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.split('.').any(str::is_empty) || name.parse::<IpAddr>().is_ok() {
            return false;
        }
        &*self.lower == "*" || (has_name_bytes(name) && matches_labels(&self.lower, name))
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn has_name_bytes(name: &str) -> bool {
    name.bytes().all(|byte| is_name_byte(byte) || byte == b'.')
}

/// Compares label by label. It goes back to the last `**` only: an earlier one could take no more than
/// the last one can.
fn matches_labels(pattern: &str, name: &str) -> bool {
    let mut wanted = pattern.split('.');
    let mut labels = name.split('.');
    // What follows the last `**`, and the labels from behind the last one that it took.
    let mut retry = None;
    loop {
        let matched = match (wanted.next(), labels.next()) {
            (None, None) => return true,
            (Some("**"), Some(_)) => {
                retry = Some((wanted.clone(), labels.clone()));
                true
            }
            (Some(label), Some(text)) => matches_label(label.as_bytes(), text.as_bytes()),
            (Some(_), None) => return false,
            (None, Some(_)) => false,
        };
        if matched {
            continue;
        }
        let Some((tail, mut rest)) = retry.take() else {
            return false;
        };
        if rest.next().is_none() {
            return false;
        }
        wanted = tail.clone();
        labels = rest.clone();
        retry = Some((tail, rest));
    }
}

/// Compares a label, whose stars stand for any number of bytes, in the same way.
fn matches_label(mut pattern: &[u8], mut text: &[u8]) -> bool {
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, text) {
            ([], []) => return true,
            ([b'*', tail @ ..], _) => {
                retry = Some((tail, text));
                pattern = tail;
                continue;
            }
            ([wanted, tail @ ..], [byte, rest @ ..]) if *wanted == byte.to_ascii_lowercase() => {
                (pattern, text) = (tail, rest);
                continue;
            }
            _ => {}
        }
        let Some((tail, [_, rest @ ..])) = retry else {
            return false;
        };
        retry = Some((tail, rest));
        (pattern, text) = (tail, rest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex_automata::meta::Regex;

    use super::*;

    #[test]
    fn a_pattern_matches_as_cilium_says() {
        for (pattern, name, expected) in [
            ("a.test", "A.test", true),
            ("A.Test", "a.tEST", true),
            ("a.test", "a.test.", true),
            ("a.test", "a.test..", false),
            ("a.test", "a.testx", false),
            ("*.a.test", "x.a.test", true),
            ("*.a.test", "x.y.a.test", false),
            ("*.a.test", "a.test", false),
            ("*.a.test", ".a.test", false),
            ("**.a.test", "x.y.a.test", true),
            ("**.a.test", "x.a.test", true),
            ("**.a.test", "a.test", false),
            ("**.a.test", "x.a.test.b", false),
            ("a.**.test", "a.b.c.test", true),
            ("a.**.test", "a.test", false),
            ("**.a.**", "x.a.a.y", true),
            ("**.a.**", "a.a.a", true),
            ("**.a.**", "a.a", false),
            ("**.**", "a", false),
            ("**.b*.c", "b1.c.bx.c", true),
            ("w*.a.test", "w.a.test", true),
            ("w*.a.test", "www.a.test", true),
            ("w*.a.test", "w.x.a.test", false),
            ("a**b.test", "axyb.test", true),
            ("a**b.test", "a.x.b.test", false),
            ("a*b*c", "abcbc", true),
            ("_a.test", "_A.test", true),
            ("*", "a", true),
            ("*", "a.test", true),
            ("*", "a!b.test", true),
            ("**", "a!b.test", false),
            ("**", "a.b", true),
            ("*", "", false),
            ("*", ".", false),
            ("*", "10.0.0.1", false),
            ("*", "::1", false),
            ("**", "10.0.0.1", false),
            ("10.0.0.*", "10.0.0.1", false),
        ] {
            let parsed = SniPattern::parse(pattern).expect(pattern);
            assert_eq!(parsed.matches(name), expected, "{pattern} {name}");
            assert_eq!(parsed.text(), pattern);
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (pattern, expected) in [
            ("", BadSniPattern::Empty),
            ("a..b", BadSniPattern::EmptyLabel),
            (".a", BadSniPattern::EmptyLabel),
            (".", BadSniPattern::EmptyLabel),
            ("a.", BadSniPattern::TrailingDot),
            ("*.", BadSniPattern::TrailingDot),
            ("***.a", BadSniPattern::Stars),
            ("a***", BadSniPattern::Stars),
            ("a b", BadSniPattern::Character(' ')),
            ("é.test", BadSniPattern::Character('é')),
            ("a:443", BadSniPattern::Character(':')),
        ] {
            assert_eq!(SniPattern::parse(pattern), Err(expected), "{pattern}");
        }
        assert!(SniPattern::parse(&"a".repeat(SNI_PATTERN_MAX)).is_ok());
        let long = SniPattern::parse(&"a".repeat(SNI_PATTERN_MAX + 1));
        assert_eq!(long, Err(BadSniPattern::TooLong));
    }

    #[test]
    fn many_stars_take_no_time() {
        let stars = SniPattern::parse(&"**.a.".repeat(50)[..249]).expect("valid");
        assert!(!stars.matches(&format!("{}b", "a.".repeat(120))));
        let stars = SniPattern::parse(&"*a".repeat(127)).expect("valid");
        assert!(!stars.matches(&"a".repeat(126)));
    }

    /// The pattern as a regular expression, by the letter of the rules.
    fn oracle(pattern: &str) -> Regex {
        let labels = pattern.split('.').map(|label| match label {
            "**" => r"[-a-z0-9_]+(?:\.[-a-z0-9_]+)*".to_owned(),
            label => label.replace('*', "[-a-z0-9_]*"),
        });
        let labels: Vec<String> = labels.collect();
        Regex::new(&format!("^(?:{})$", labels.join(r"\."))).expect("a valid oracle")
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_its_expression_does(
            pattern in r"(\*\*|[ab*]{1,3})(\.(\*\*|[ab*]{1,3})){0,4}",
            names in proptest::collection::vec(r"[abA]{1,3}(\.[abA]{1,3}){0,5}", 8),
        ) {
            let Ok(parsed) = SniPattern::parse(&pattern) else {
                prop_assert!(pattern.contains("***"));
                return Ok(());
            };
            let oracle = oracle(&pattern);
            for name in names {
                let expected = oracle.is_match(&name.to_ascii_lowercase()) || pattern == "*";
                prop_assert_eq!(parsed.matches(&name), expected, "{} {}", pattern, name);
            }
        }
    }
}
