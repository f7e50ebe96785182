//! A pattern of names as policy writes it, read once and matched on wire labels.
//!
//! The meaning is Cilium's: `*` stands for zero or more of `[-a-zA-Z0-9_]` inside one label, two or
//! more stars and a dot at the start stand for one or more whole labels, and stars alone stand for
//! all names.

use std::fmt;
use std::num::NonZeroU8;

use crate::name::{LABEL_OCTETS_MAX, NAME_OCTETS_MAX};
use crate::{Name, NameError};

/// The longest text of a name or a pattern in a policy, in characters (Cilium's CRD).
pub const PATTERN_TEXT_MAX: usize = 255;

/// One name, or a pattern of names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    pub(crate) shape: Shape,
}

/// What stars alone mean: it depends on the field that holds the pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Everything {
    /// In a `dns` rule: every valid name, whatever its octets.
    AnyName,
    /// In `toFQDNs`: names whose labels are of `[-a-zA-Z0-9_]`, and the root.
    PlainNames,
}

/// A pattern by how it is looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Shape {
    /// Stars alone.
    Everything(Everything),
    /// No star at all.
    Exact(Name),
    /// Stars somewhere.
    Glob(Glob),
}

/// A pattern with stars: a part in front, then literal labels up to the root.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Glob {
    /// Whether one or more whole labels stand in front of `labels` (`**.` at the start).
    pub(crate) deep: bool,
    /// What stands before the literal suffix, in reading order; the last of them has a star. Empty
    /// only if `deep`.
    pub(crate) labels: Vec<LabelGlob>,
    /// The longest literal suffix.
    pub(crate) suffix: Name,
}

/// One label of a pattern: literal octets and stars, never two stars in a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LabelGlob(Box<[u8]>);

/// Why a text is not a name or a pattern of policy; positions count characters from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// Nothing there.
    Empty,
    /// Over [`PATTERN_TEXT_MAX`] characters, or no name that short enough could match.
    TooLong,
    /// A label over 63 octets without its stars.
    LabelTooLong,
    /// A leading dot, or two dots in a row.
    EmptyLabel,
    /// A star in a name that must be exact.
    Star,
    /// A letter outside ASCII: DNS carries its A-label (`xn--…`).
    NotAscii(char, NonZeroU8),
    /// A character that no name of policy has.
    BadCharacter(char, NonZeroU8),
}

impl Pattern {
    /// Reads the text of a `matchName`: one name, without stars.
    ///
    /// # Errors
    /// If it holds a star or is not a name.
    pub fn exact(text: &str) -> Result<Self, PatternError> {
        check_characters(text)?;
        if text.contains('*') {
            return Err(PatternError::Star);
        }
        let shape = Shape::Exact(literal_name(&split_labels(text)?)?);
        Ok(Self { shape })
    }

    /// Reads the text of a `matchPattern`; `everything` is what stars alone mean there.
    ///
    /// # Errors
    /// If it holds a character, a label or a length that no pattern has.
    pub fn parse(text: &str, everything: Everything) -> Result<Self, PatternError> {
        check_characters(text)?;
        let labels = split_labels(text)?;
        if let [only] = labels.as_slice()
            && only.bytes().all(|byte| byte == b'*')
        {
            let shape = Shape::Everything(everything);
            return Ok(Self { shape });
        }
        let shape = match labels.iter().rposition(|label| label.contains('*')) {
            None => Shape::Exact(literal_name(&labels)?),
            Some(last_star) => Shape::Glob(Glob::new(&labels, last_star)?),
        };
        Ok(Self { shape })
    }

    /// Whether the pattern stands for `name`.
    #[must_use]
    pub fn matches(&self, name: &Name) -> bool {
        match &self.shape {
            Shape::Everything(Everything::AnyName) => true,
            Shape::Everything(Everything::PlainNames) => name.labels().all(is_plain),
            Shape::Exact(exact) => exact == name,
            Shape::Glob(glob) => {
                let kept = glob.suffix.labels().count();
                name.ends_with(&glob.suffix) && glob.matches_front(name.labels().rev().skip(kept))
            }
        }
    }

    /// The name, if the pattern is one.
    #[must_use]
    pub fn as_exact(&self) -> Option<&Name> {
        match &self.shape {
            Shape::Exact(name) => Some(name),
            Shape::Everything(_) | Shape::Glob(_) => None,
        }
    }
}

impl Glob {
    /// A glob from the labels of its text, of which `last_star` is the last with a star.
    fn new(labels: &[&str], last_star: usize) -> Result<Self, PatternError> {
        let deep = labels
            .first()
            .is_some_and(|first| first.len() > 1 && first.bytes().all(|byte| byte == b'*'));
        let (front, suffix) = labels.split_at(last_star + 1);
        let front = front.get(usize::from(deep)..).unwrap_or(&[]);
        let suffix = literal_name(suffix)?;
        let labels: Vec<LabelGlob> = front.iter().map(|label| LabelGlob::new(label)).collect();
        let mut octets = suffix.as_wire().len() + 2 * usize::from(deep);
        for label in labels.iter().map(LabelGlob::literal_octets) {
            if label > LABEL_OCTETS_MAX {
                return Err(PatternError::LabelTooLong);
            }
            octets += 1 + label;
        }
        if octets > NAME_OCTETS_MAX {
            return Err(PatternError::TooLong);
        }
        Ok(Self {
            deep,
            labels,
            suffix,
        })
    }

    /// Whether it is `*.suffix`.
    pub(crate) fn is_star(&self) -> bool {
        !self.deep && matches!(self.labels.as_slice(), [label] if label.is_star())
    }

    /// Whether the labels in front of the suffix match; they come from the right.
    pub(crate) fn matches_front<'a>(&self, mut labels: impl Iterator<Item = &'a [u8]>) -> bool {
        for glob in self.labels.iter().rev() {
            if !labels.next().is_some_and(|label| glob.matches(label)) {
                return false;
            }
        }
        let mut rest = 0usize;
        for label in labels {
            rest += 1;
            if !self.deep || !is_plain(label) {
                return false;
            }
        }
        self.deep == (rest > 0)
    }

    /// Whether names that match lie below the one whose labels in front of the suffix these are
    /// (from the right).
    pub(crate) fn has_below<'a>(&self, labels: impl Iterator<Item = &'a [u8]>) -> bool {
        let mut globs = self.labels.iter().rev();
        for label in labels {
            match globs.next() {
                Some(glob) if glob.matches(label) => {}
                Some(_) => return false,
                None if self.deep && is_plain(label) => {}
                None => return false,
            }
        }
        self.deep || globs.next().is_some()
    }
}

impl LabelGlob {
    fn new(text: &str) -> Self {
        let mut octets: Vec<u8> = text.bytes().map(|byte| byte.to_ascii_lowercase()).collect();
        octets.dedup_by(|next, byte| *next == b'*' && *byte == b'*');
        Self(octets.into())
    }

    fn literal_octets(&self) -> usize {
        self.0.iter().filter(|byte| **byte != b'*').count()
    }

    /// Whether this is a star and nothing else.
    fn is_star(&self) -> bool {
        *self.0 == *b"*"
    }

    /// The octets that the label must start with.
    pub(crate) fn start(&self) -> &[u8] {
        self.0.split(|byte| *byte == b'*').next().unwrap_or(&[])
    }

    /// The octets that the label must end with.
    pub(crate) fn end(&self) -> &[u8] {
        self.0.rsplit(|byte| *byte == b'*').next().unwrap_or(&[])
    }

    /// Whether the label matches. A star takes plain octets only, and so are all literals.
    pub(crate) fn matches(&self, label: &[u8]) -> bool {
        if !is_plain(label) {
            return false;
        }
        let mut pieces = self.0.split(|byte| *byte == b'*');
        let first = pieces.next().unwrap_or(&[]);
        let Some(mut rest) = label.strip_prefix(first) else {
            return false;
        };
        let Some(last) = pieces.next_back() else {
            return rest.is_empty();
        };
        for piece in pieces {
            let found = rest.windows(piece.len()).position(|window| window == piece);
            let Some(after) = found.and_then(|at| rest.get(at + piece.len()..)) else {
                return false;
            };
            rest = after;
        }
        rest.ends_with(last)
    }
}

/// Whether every octet of the label is one that a star stands for.
pub(crate) fn is_plain(label: &[u8]) -> bool {
    label
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn check_characters(text: &str) -> Result<(), PatternError> {
    if text.is_empty() {
        return Err(PatternError::Empty);
    }
    for (index, ch) in text.chars().enumerate() {
        let at = u8::try_from(index + 1).ok().and_then(NonZeroU8::new);
        let at = at.ok_or(PatternError::TooLong)?;
        match ch {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' | '*' => {}
            other if other.is_alphanumeric() && !other.is_ascii() => {
                return Err(PatternError::NotAscii(other, at));
            }
            other => return Err(PatternError::BadCharacter(other, at)),
        }
    }
    Ok(())
}

/// The labels of the text without its optional final dot.
fn split_labels(text: &str) -> Result<Vec<&str>, PatternError> {
    let labels: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    if labels.iter().any(|label| label.is_empty()) {
        return Err(PatternError::EmptyLabel);
    }
    Ok(labels)
}

fn literal_name(labels: &[&str]) -> Result<Name, PatternError> {
    if labels.iter().any(|label| label.len() > LABEL_OCTETS_MAX) {
        return Err(PatternError::LabelTooLong);
    }
    let labels = labels.iter().map(|label| label.as_bytes());
    Name::from_labels(labels).map_err(|error| match error {
        NameError::EmptyLabel => PatternError::EmptyLabel,
        NameError::TooLong | NameError::Truncated | NameError::LabelType(_) | NameError::Text => {
            PatternError::TooLong
        }
    })
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::TooLong => write!(
                f,
                "it is too long: at most {PATTERN_TEXT_MAX} characters, and the name at most \
                 {NAME_OCTETS_MAX} octets on the wire"
            ),
            Self::LabelTooLong => write!(f, "a label is over {LABEL_OCTETS_MAX} octets"),
            Self::EmptyLabel => f.write_str("it has an empty label (a leading or a double dot)"),
            Self::Star => f.write_str("a star stands only in matchPattern"),
            Self::NotAscii(ch, at) => write!(
                f,
                "{ch:?} (character {at}) is not ASCII: write the label as DNS carries it, the \
                 A-label (xn--…)"
            ),
            Self::BadCharacter(ch, at) => {
                write!(f, "{ch:?} (character {at}) can't stand in a name of policy")
            }
        }
    }
}

impl std::error::Error for PatternError {}
