//! Verdicts, directions and the other small enums, by Hubble's names and numbers.

/// What became of the packet or the message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Verdict {
    /// Nobody said, or said a word that we don't know.
    #[default]
    Unknown,
    /// It went on.
    Forwarded,
    /// It ended here, by policy or because it was wrong.
    Dropped,
    /// The proxy failed.
    Error,
    /// Policy would have dropped it; audit mode let it go on.
    Audit,
    /// It went to a proxy.
    Redirected,
    /// Seen at a socket.
    Traced,
    /// Translated at a socket.
    Translated,
}

impl Verdict {
    const ALL: [Self; 8] = [
        Self::Unknown,
        Self::Forwarded,
        Self::Dropped,
        Self::Error,
        Self::Audit,
        Self::Redirected,
        Self::Traced,
        Self::Translated,
    ];

    /// The name in JSON, in flags, and in print of all but policy verdict events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "VERDICT_UNKNOWN",
            Self::Forwarded => "FORWARDED",
            Self::Dropped => "DROPPED",
            Self::Error => "ERROR",
            Self::Audit => "AUDIT",
            Self::Redirected => "REDIRECTED",
            Self::Traced => "TRACED",
            Self::Translated => "TRANSLATED",
        }
    }

    /// The word that a policy verdict event prints.
    #[must_use]
    pub const fn policy_word(self) -> &'static str {
        match self {
            Self::Forwarded | Self::Redirected => "ALLOWED",
            Self::Dropped | Self::Error => "DENIED",
            Self::Audit => "AUDITED",
            Self::Unknown | Self::Traced | Self::Translated => self.name(),
        }
    }

    /// The verdict of this name, case counts.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.name() == name)
    }

    /// The verdict of this number.
    #[must_use]
    pub fn from_number(number: usize) -> Option<Self> {
        Self::ALL.get(number).copied()
    }
}

/// Which way the traffic goes, seen from the endpoint whose policy was asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Direction {
    /// Not known.
    #[default]
    Unknown,
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

impl Direction {
    const ALL: [Self; 3] = [Self::Unknown, Self::Ingress, Self::Egress];

    /// The name in JSON and in print.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "TRAFFIC_DIRECTION_UNKNOWN",
            Self::Ingress => "INGRESS",
            Self::Egress => "EGRESS",
        }
    }

    /// The direction of this name, case counts.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|direction| direction.name() == name)
    }

    /// The direction of this number.
    #[must_use]
    pub fn from_number(number: usize) -> Option<Self> {
        Self::ALL.get(number).copied()
    }
}

/// What a policy verdict event prints for a match type's number.
#[must_use]
pub const fn match_type_name(number: u32) -> &'static str {
    match number {
        0 => "none",
        1 => "L3-Only",
        2 => "L3-L4",
        3 => "L4-Only",
        4 => "all",
        5 => "L3-Proto",
        6 => "Proto-Only",
        _ => "unknown",
    }
}
