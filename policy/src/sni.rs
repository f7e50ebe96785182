//! Names that a TLS client may say (SNI).

/// An item of `serverNames`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SniPattern {
    text: Box<str>,
}

/// Why a text is no item of `serverNames`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSniPattern {
    /// Nothing stands there.
    #[error("it is empty")]
    Empty,
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
        Ok(Self { text: text.into() })
    }

    /// As written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}
