//! What is wrong with a policy file, told so that its author can mend it.

use std::fmt;

use serde::Serialize;

/// One fault of one place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, as its caller names it.
    pub file: String,
    /// The line, from 1; 0 where there is no place.
    pub line: u32,
    /// The column in characters, from 1; 0 where there is no place.
    pub column: u32,
    /// Whether the object is refused.
    pub severity: Severity,
    /// The kind of fault.
    pub code: Code,
    /// The path of the field (`spec.egress[0].toPorts`); empty for a whole document.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where that is known.
    pub help: Option<String>,
    /// The source line; empty where there is none.
    #[serde(skip)]
    pub snippet: String,
}

impl Problem {
    /// Whether the object that it is about is refused.
    #[must_use]
    pub fn is_error(&self) -> bool {
        match self.severity {
            Severity::Error => true,
            Severity::Warning => false,
        }
    }
}

/// Whether a problem refuses the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The object is refused.
    Error,
    /// Legal, but likely not what was meant.
    Warning,
}

/// The kinds of fault; their words are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The text is not YAML.
    Yaml,
    /// A named limit.
    Limit,
    /// No such field.
    UnknownField,
    /// The field or value is Cilium's, but this release can't enforce it.
    NotSupported,
    /// A value of the wrong YAML type.
    WrongType,
    /// A value that the field can't have.
    InvalidValue,
    /// Something that must be there is not.
    Missing,
    /// Parts that exclude each other.
    Conflict,
    /// The same key or object twice.
    Duplicate,
    /// Warning: no server of a DNS rule can teach.
    NeverTeaches,
    /// Warning: no DNS rule can feed a `toFQDNs`.
    NeverFed,
    /// Warning: a part that selects or allows nothing.
    SelectsNothing,
    /// Warning: a namespace label that the policy's own namespace replaces.
    NamespaceReplaced,
    /// Warning: an allow rule that a deny rule takes back whole.
    ShadowedByDeny,
    /// Warning: L7 rules that another rule for the same peers and port opens.
    OpenedByOther,
    /// Warning: a pattern for the names below a domain, but not for the domain itself.
    MissesApex,
    /// Warning: a pattern for everything below a public suffix.
    PublicSuffix,
    /// Warning: a name or a pattern that no name in DNS is like.
    MatchesNoName,
    /// Warning: an HTTP path that no request with a query string matches.
    MissesQuery,
    /// Warning: an HTTP path that doesn't start with a slash.
    PathWithoutSlash,
    /// Warning: a dot in an HTTP host that stands for any character.
    UnescapedDot,
    /// Warning: HTTP rules on a port of TLS that nobody terminates.
    HttpOnTlsPort,
    /// Warning: an empty rule beside others of its direction.
    EmptyBeside,
    /// Warning: rules of a direction that `policyTypes` leaves out.
    PolicyTypes,
    /// Warning: a field that changes nothing where it stands.
    NoEffect,
}

impl Code {
    /// Whether such a fault refuses the object.
    pub(crate) fn severity(self) -> Severity {
        match self {
            Self::Yaml
            | Self::Limit
            | Self::UnknownField
            | Self::NotSupported
            | Self::WrongType
            | Self::InvalidValue
            | Self::Missing
            | Self::Conflict
            | Self::Duplicate => Severity::Error,
            Self::NeverTeaches
            | Self::NeverFed
            | Self::SelectsNothing
            | Self::NamespaceReplaced
            | Self::ShadowedByDeny
            | Self::OpenedByOther
            | Self::MissesApex
            | Self::PublicSuffix
            | Self::MatchesNoName
            | Self::MissesQuery
            | Self::PathWithoutSlash
            | Self::UnescapedDot
            | Self::HttpOnTlsPort
            | Self::EmptyBeside
            | Self::PolicyTypes
            | Self::NoEffect => Severity::Warning,
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Problem {
    /// `file:line:column: error: field: reason`, the source line, a caret, the help.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}: ",
            self.file, self.line, self.column, self.severity
        )?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        if !self.snippet.is_empty() {
            let number = self.line.to_string();
            let margin = " ".repeat(number.len());
            let before = usize::try_from(self.column).unwrap_or(1).saturating_sub(1);
            // Tabs stay tabs, so that the caret stands below its character.
            let lead = self.snippet.chars().take(before);
            let lead: String = lead.map(|ch| if ch == '\t' { '\t' } else { ' ' }).collect();
            write!(f, "\n{number} | {}\n{margin} | {lead}^", self.snippet)?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}
