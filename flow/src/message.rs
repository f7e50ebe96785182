//! Which way a message of a proxy goes.

/// Which way a message goes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum MessageKind {
    /// Not told.
    #[default]
    Unknown,
    /// To the server.
    Request,
    /// From the server, or made by us in its place.
    Response,
    /// Neither: another agent took a sample.
    Sample,
}

impl MessageKind {
    /// The name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "REQUEST",
            Self::Response => "RESPONSE",
            Self::Sample => "SAMPLE",
            Self::Unknown => "UNKNOWN_L7_TYPE",
        }
    }

    /// The kind of this name, case counts.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind of this number.
    #[must_use]
    pub fn from_number(number: usize) -> Option<Self> {
        Self::ALL.get(number).copied()
    }

    const ALL: [Self; 4] = [Self::Unknown, Self::Request, Self::Response, Self::Sample];
}
