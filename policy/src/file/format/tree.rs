//! A file as it is written: keys, values, comments and blank lines, in their order.

/// All documents of a file.
#[derive(Debug, Default)]
pub(super) struct Text {
    pub(super) documents: Vec<Document>,
    /// What follows the last document's end mark.
    pub(super) foot: Vec<Line>,
    /// How many comments there are.
    pub(super) comments: usize,
}

/// One document.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// What stands before its `---`.
    pub(super) head: Vec<Line>,
    /// Whether it begins with `---`.
    pub(super) is_marked: bool,
    /// The comment on the line of its `---`.
    pub(super) beside: Option<String>,
    /// Comments of the document rather than of its first key: a blank line parts them.
    pub(super) top: Vec<Line>,
    /// Its value; absent where there is none.
    pub(super) root: Option<Entry>,
    /// What follows its value.
    pub(super) foot: Vec<Line>,
}

/// A line without a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Blank,
    /// With its `#`.
    Comment(String),
}

/// A member of a mapping, an item of a list, or the root.
#[derive(Debug)]
pub(super) struct Entry {
    /// The lines above it.
    pub(super) above: Vec<Line>,
    /// Absent for an item and the root.
    pub(super) key: Option<Scalar>,
    pub(super) content: Content,
    /// The comment on its line.
    pub(super) beside: Option<String>,
}

/// A value.
#[derive(Debug)]
pub(super) enum Content {
    Scalar(Scalar),
    List(Entries),
    Map(Entries),
}

/// What a list or a mapping holds.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) all: Vec<Entry>,
    /// The lines after the last.
    pub(super) foot: Vec<Line>,
}

/// A text, number, boolean or nothing.
#[derive(Clone, Debug)]
pub(super) struct Scalar {
    /// Without quotes and escapes.
    pub(super) value: String,
    pub(super) style: Style,
}

/// How a scalar is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Nothing stands there.
    Absent,
    Plain,
    Quoted,
    Literal,
    /// With its lines as they stand in the file.
    Folded(Vec<String>),
}

impl Content {
    /// The entries of a list or mapping that has any.
    pub(super) fn entries(&self) -> Option<&Entries> {
        match self {
            Self::List(entries) | Self::Map(entries) => {
                Some(entries).filter(|entries| !entries.all.is_empty())
            }
            Self::Scalar(_) => None,
        }
    }

    /// The same, to be changed.
    pub(super) fn entries_mut(&mut self) -> Option<&mut Entries> {
        match self {
            Self::List(entries) | Self::Map(entries) => {
                Some(entries).filter(|entries| !entries.all.is_empty())
            }
            Self::Scalar(_) => None,
        }
    }
}
