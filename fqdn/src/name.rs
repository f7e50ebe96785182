//! A domain name in its normal form.

use std::fmt;

use smallvec::{SmallVec, smallvec};

/// The longest name on the wire, with length bytes and the root byte (RFC 1035 §3.1).
pub const NAME_OCTETS_MAX: usize = 255;
/// The longest label (RFC 1035 §3.1).
pub const LABEL_OCTETS_MAX: usize = 63;

/// A domain name in wire form, ASCII letters folded to lower case, uncompressed, root included.
///
/// Equality is byte equality. Any octet is legal in a label (RFC 2181 §11); octets from 0x80 up are
/// kept and compared exactly (RFC 4343).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(SmallVec<[u8; INLINE_OCTETS]>);

/// A name that is no longer costs no allocation: those of services in clusters are not, and few others.
const INLINE_OCTETS: usize = 48;

/// Why bytes or text are not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// The name ends before its root byte.
    Truncated,
    /// A length byte with one of the two top bits set: a pointer or a reserved label type.
    LabelType(u8),
    /// A label over 63 octets, or a name over 255.
    TooLong,
    /// Text only: an empty label inside the name (`a..b`, `.a`).
    EmptyLabel,
    /// Text only: a bad escape, or a byte that must be escaped.
    Text,
}

impl Name {
    /// The root name.
    #[must_use]
    pub fn root() -> Self {
        Self(smallvec![0])
    }

    /// Reads an uncompressed name at the start of `bytes`; also gives its length on the wire.
    ///
    /// # Errors
    /// If the name is truncated, too long, or holds a pointer or a reserved label type.
    pub fn from_wire(bytes: &[u8]) -> Result<(Self, usize), NameError> {
        let mut buf = [0u8; NAME_OCTETS_MAX];
        let len = Self::read_wire(bytes, &mut buf)?;
        let wire = buf.get(..len).ok_or(NameError::TooLong)?;
        Ok((Self(SmallVec::from_slice(wire)), len))
    }

    /// Copies the lower-cased wire form into `buf` without allocating; gives its length.
    ///
    /// # Errors
    /// As [`Name::from_wire`].
    pub fn read_wire(bytes: &[u8], buf: &mut [u8; NAME_OCTETS_MAX]) -> Result<usize, NameError> {
        let mut at = 0usize;
        loop {
            let len = *bytes.get(at).ok_or(NameError::Truncated)?;
            if len & 0xC0 != 0 {
                return Err(NameError::LabelType(len));
            }
            let end = at + 1 + usize::from(len);
            if end > NAME_OCTETS_MAX {
                return Err(NameError::TooLong);
            }
            let label = bytes.get(at..end).ok_or(NameError::Truncated)?;
            let target = buf.get_mut(at..end).ok_or(NameError::TooLong)?;
            for (to, from) in target.iter_mut().zip(label) {
                *to = from.to_ascii_lowercase();
            }
            at = end;
            if len == 0 {
                return Ok(at);
            }
        }
    }

    /// A name from labels in reading order, the root not among them.
    ///
    /// # Errors
    /// If a label is empty or too long, or the whole is over 255 octets.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, NameError> {
        let mut wire = Vec::with_capacity(64);
        for label in labels {
            if label.is_empty() {
                return Err(NameError::EmptyLabel);
            }
            let len = u8::try_from(label.len()).map_err(|_| NameError::TooLong)?;
            if label.len() > LABEL_OCTETS_MAX {
                return Err(NameError::TooLong);
            }
            wire.push(len);
            wire.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        wire.push(0);
        if wire.len() > NAME_OCTETS_MAX {
            return Err(NameError::TooLong);
        }
        Ok(Self(SmallVec::from_slice(&wire)))
    }

    /// Reads presentation form (RFC 4343 §2.1 escapes); the trailing dot is optional.
    ///
    /// # Errors
    /// If a label is empty or too long, or an escape is malformed.
    pub fn from_text(text: &str) -> Result<Self, NameError> {
        if text == "." {
            return Ok(Self::root());
        }
        let mut labels: Vec<Vec<u8>> = vec![Vec::new()];
        let mut bytes = text.bytes();
        let mut ended_with_dot = false;
        while let Some(byte) = bytes.next() {
            ended_with_dot = false;
            let octet = match byte {
                b'.' => {
                    labels.push(Vec::new());
                    ended_with_dot = true;
                    continue;
                }
                b'\\' => unescape(&mut bytes)?,
                b'"' | b'(' | b')' | b';' | b'@' | b'$' | 0..=0x20 | 0x7F.. => {
                    return Err(NameError::Text);
                }
                plain => plain,
            };
            if let Some(label) = labels.last_mut() {
                label.push(octet);
            }
        }
        if ended_with_dot {
            labels.pop();
        }
        Self::from_labels(labels.iter().map(Vec::as_slice))
    }

    /// The wire form: lower-cased, uncompressed, with the root byte.
    #[must_use]
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels in reading order, without the root.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
        // At most 127 labels fit into 255 octets; offsets are kept on the stack.
        let mut starts = [0u8; 128];
        let mut count = 0usize;
        let mut at = 0usize;
        while let Some(len) = self.0.get(at).copied().filter(|len| *len != 0) {
            if let Some(slot) = starts.get_mut(count) {
                *slot = u8::try_from(at).unwrap_or(u8::MAX);
            }
            count += 1;
            at += 1 + usize::from(len);
        }
        (0..count).map(move |i| {
            let start = usize::from(starts.get(i).copied().unwrap_or(0));
            let len = usize::from(self.0.get(start).copied().unwrap_or(0));
            self.0.get(start + 1..start + 1 + len).unwrap_or(&[])
        })
    }

    /// Whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// Whether `self` ends in `suffix` at a label boundary; a name is a suffix of itself.
    #[must_use]
    pub fn ends_with(&self, suffix: &Self) -> bool {
        self.ends_with_wire(suffix.as_wire())
    }

    /// The same of a suffix in wire form, with the root byte; capitals in it match nothing.
    #[must_use]
    pub fn ends_with_wire(&self, suffix: &[u8]) -> bool {
        let mut at = 0usize;
        loop {
            let Some(rest) = self.0.get(at..) else {
                return false;
            };
            if rest == suffix {
                return true;
            }
            match rest.first() {
                None | Some(0) => return false,
                Some(len) => at += 1 + usize::from(*len),
            }
        }
    }
}

/// Reads what follows a backslash: one octet as itself, or three decimal digits.
fn unescape(bytes: &mut std::str::Bytes<'_>) -> Result<u8, NameError> {
    let first = bytes.next().ok_or(NameError::Text)?;
    if !first.is_ascii_digit() {
        return if first < 0x80 {
            Ok(first)
        } else {
            Err(NameError::Text)
        };
    }
    let mut value = u16::from(first - b'0');
    for _ in 0..2 {
        let digit = bytes
            .next()
            .filter(u8::is_ascii_digit)
            .ok_or(NameError::Text)?;
        value = value * 10 + u16::from(digit - b'0');
    }
    u8::try_from(value).map_err(|_| NameError::Text)
}

impl fmt::Display for Name {
    /// Presentation form with the trailing dot; for text only, never for matching.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Spelled(&self.0).fmt(f)
    }
}

/// A name in wire form, uncompressed, as somebody spelt it: for text only, in which its capitals are told.
#[derive(Clone, Copy)]
pub struct Spelled<'a>(pub &'a [u8]);

impl fmt::Display for Spelled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut is_root = true;
        while let Some((len, behind)) = rest.split_first()
            && *len != 0
        {
            let Some((label, after)) = behind.split_at_checked(usize::from(*len)) else {
                return Ok(());
            };
            write_label(label, f)?;
            (rest, is_root) = (after, false);
        }
        if is_root { f.write_str(".") } else { Ok(()) }
    }
}

/// Writes a label and its dot.
fn write_label(label: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in label {
        match byte {
            b'.' | b'\\' => write!(f, "\\{}", char::from(*byte))?,
            b'"' | b';' | b'@' | b'$' | b'(' | b')' | 0..=0x20 | 0x7F.. => {
                write!(f, "\\{byte:03}")?;
            }
            plain => write!(f, "{}", char::from(*plain))?,
        }
    }
    f.write_str(".")
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the name ends before its root byte"),
            Self::LabelType(byte) => write!(f, "label type 0x{byte:02x} is not a plain label"),
            Self::TooLong => f.write_str("a label over 63 octets or a name over 255"),
            Self::EmptyLabel => f.write_str("an empty label"),
            Self::Text => f.write_str("a character that a name can't hold unescaped"),
        }
    }
}

impl std::error::Error for NameError {}

#[cfg(test)]
mod tests;
