//! What is wrong with a policy file, told so that its author can mend it.

use std::fmt;

use serde::Serialize;

use crate::rule::{Item, Policy};

/// One fault of one place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, as its caller names it.
    pub file: String,
    /// The line, from 1; 0 where there is no place.
    pub line: u32,
    /// The column in characters, from 1; 0 where there is no place.
    pub column: u32,
    /// The column after the last character of the key or value, in the same line; the next column
    /// where it goes over several lines or its end isn't known.
    pub end_column: u32,
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
    /// A problem of a rule of a policy, with the severity of its kind.
    pub(crate) fn of_item(policy: &Policy, item: &Item, code: Code, message: String) -> Self {
        Self {
            file: policy.file.to_string(),
            line: item.line,
            column: item.column,
            end_column: 0,
            severity: code.severity(),
            code,
            field: String::new(),
            message,
            help: None,
            snippet: String::new(),
        }
    }

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
    /// A secret with certificates that can't be used.
    Secret,
    /// Warning: a secret of `headerMatches` that can't be had.
    HeaderSecret,
    /// Warning: no server of a DNS rule can teach.
    NeverTeaches,
    /// Warning: no DNS rule can feed a `toFQDNs`.
    NeverFed,
    /// Warning: an option stands in for the DNS rule that a `toFQDNs` needs.
    ImpliedDns,
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
    /// Warning: TLS is ended, and what was in it goes on in plain text.
    PlainUpstream,
    /// Warning: an empty rule beside others of its direction.
    EmptyBeside,
    /// Warning: rules of a direction that `policyTypes` leaves out.
    PolicyTypes,
    /// Warning: a field that changes nothing where it stands.
    NoEffect,
    /// Warning: a name that DNS says doesn't exist.
    NameNotFound,
    /// Warning: a name to be opened that has no address in DNS.
    NameWithoutAddress,
    /// Warning: a name that DNS gives no answer about.
    NameUnanswered,
    /// Warning: a name that is an alias of one that may not be asked.
    AliasNotAskable,
    /// Warning: a name whose addresses stay open for longer than its TTL says.
    TtlBelowFloor,
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
            | Self::Duplicate
            | Self::Secret => Severity::Error,
            Self::HeaderSecret
            | Self::NeverTeaches
            | Self::NeverFed
            | Self::ImpliedDns
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
            | Self::PlainUpstream
            | Self::EmptyBeside
            | Self::PolicyTypes
            | Self::NoEffect
            | Self::NameNotFound
            | Self::NameWithoutAddress
            | Self::NameUnanswered
            | Self::AliasNotAskable
            | Self::TtlBelowFloor => Severity::Warning,
        }
    }

    /// Every kind of fault.
    pub const ALL: [Self; 34] = [
        Self::Yaml,
        Self::Limit,
        Self::UnknownField,
        Self::NotSupported,
        Self::WrongType,
        Self::InvalidValue,
        Self::Missing,
        Self::Conflict,
        Self::Duplicate,
        Self::Secret,
        Self::HeaderSecret,
        Self::NeverTeaches,
        Self::NeverFed,
        Self::ImpliedDns,
        Self::SelectsNothing,
        Self::NamespaceReplaced,
        Self::ShadowedByDeny,
        Self::OpenedByOther,
        Self::MissesApex,
        Self::PublicSuffix,
        Self::MatchesNoName,
        Self::MissesQuery,
        Self::PathWithoutSlash,
        Self::UnescapedDot,
        Self::HttpOnTlsPort,
        Self::PlainUpstream,
        Self::EmptyBeside,
        Self::PolicyTypes,
        Self::NoEffect,
        Self::NameNotFound,
        Self::NameWithoutAddress,
        Self::NameUnanswered,
        Self::AliasNotAskable,
        Self::TtlBelowFloor,
    ];

    /// What the kind of fault is, in one sentence.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Yaml => "The text is not YAML.",
            Self::Limit => "A named limit is exceeded.",
            Self::UnknownField => "There is no such field.",
            Self::NotSupported => "The field or value is Cilium's, but can't be enforced here.",
            Self::WrongType => "The value has the wrong YAML type.",
            Self::InvalidValue => "The field can't have this value.",
            Self::Missing => "Something that must be there is not.",
            Self::Conflict => "Parts exclude each other.",
            Self::Duplicate => "The same key or object stands twice.",
            Self::Secret => "A secret with certificates can't be used.",
            Self::HeaderSecret => "A secret that a header is compared with can't be had.",
            Self::NeverTeaches => "No server of a DNS rule can teach addresses.",
            Self::NeverFed => "No DNS rule can feed a `toFQDNs`.",
            Self::ImpliedDns => "An option stands in for the DNS rule of a `toFQDNs`.",
            Self::SelectsNothing => "A part selects or allows nothing.",
            Self::NamespaceReplaced => "The policy's own namespace replaces a namespace label.",
            Self::ShadowedByDeny => "A deny rule takes an allow rule back whole.",
            Self::OpenedByOther => "Another rule for the same peers and port opens L7 rules.",
            Self::MissesApex => "A pattern for the names below a domain misses the domain itself.",
            Self::PublicSuffix => "A pattern stands for everything below a public suffix.",
            Self::MatchesNoName => "No name in DNS is like the name or pattern.",
            Self::MissesQuery => "No request with a query string matches the HTTP path.",
            Self::PathWithoutSlash => "An HTTP path doesn't start with a slash.",
            Self::UnescapedDot => "A dot in an HTTP host stands for any character.",
            Self::HttpOnTlsPort => "HTTP rules stand on a port of TLS that nobody terminates.",
            Self::PlainUpstream => "TLS is ended, and what was in it goes on in plain text.",
            Self::EmptyBeside => "An empty rule stands beside others of its direction.",
            Self::PolicyTypes => "`policyTypes` leaves out a direction that has rules.",
            Self::NoEffect => "A field changes nothing where it stands.",
            Self::NameNotFound => "DNS says that a name doesn't exist.",
            Self::NameWithoutAddress => "A name to be opened has no address in DNS.",
            Self::NameUnanswered => "DNS gives no answer about a name.",
            Self::AliasNotAskable => "A name is an alias of one that may not be asked.",
            Self::TtlBelowFloor => "Addresses of a name stay open for longer than its TTL says.",
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
    /// `file:line:column: error: field: reason`, the source line, what is meant underlined, the help.
    /// `{:#}` is the same with the colours of a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paint = Paint::of(self.severity, f.alternate());
        let severity = paint.severity(&self.severity.to_string());
        write!(
            f,
            "{}:{}:{}: {severity}: ",
            self.file, self.line, self.column
        )?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&paint.strong(&self.message))?;
        if !self.snippet.is_empty() {
            self.underline(f, &paint)?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  {} {help}", paint.margin("help:"))?;
        }
        Ok(())
    }
}

impl Problem {
    fn underline(&self, f: &mut fmt::Formatter<'_>, paint: &Paint) -> fmt::Result {
        let size = |count: u32| usize::try_from(count).unwrap_or(1);
        let number = self.line.to_string();
        let empty = " ".repeat(number.len());
        let before = size(self.column).saturating_sub(1);
        // Tabs stay tabs, so that the caret stands below its character.
        let lead = self.snippet.chars().take(before);
        let lead: String = lead.map(|ch| if ch == '\t' { '\t' } else { ' ' }).collect();
        let carets = "^".repeat(size(self.end_column.saturating_sub(self.column)).max(1));
        write!(
            f,
            "\n{} {}\n{} {lead}{}",
            paint.margin(&format!("{number} |")),
            self.snippet,
            paint.margin(&format!("{empty} |")),
            paint.severity(&carets)
        )
    }
}

/// The colours of a message, if it has any.
struct Paint {
    /// Of the severity and the carets; absent where all is plain.
    severity: Option<&'static str>,
}

impl Paint {
    const RED: &'static str = "\x1b[1;31m";
    const YELLOW: &'static str = "\x1b[1;33m";
    const BLUE: &'static str = "\x1b[1;34m";
    const BOLD: &'static str = "\x1b[1m";
    const RESET: &'static str = "\x1b[0m";

    fn of(severity: Severity, coloured: bool) -> Self {
        let severity = match severity {
            Severity::Error => Self::RED,
            Severity::Warning => Self::YELLOW,
        };
        Self {
            severity: coloured.then_some(severity),
        }
    }

    fn severity(&self, text: &str) -> String {
        self.with(self.severity, text)
    }

    fn margin(&self, text: &str) -> String {
        self.with(Some(Self::BLUE), text)
    }

    fn strong(&self, text: &str) -> String {
        self.with(Some(Self::BOLD), text)
    }

    fn with(&self, colour: Option<&str>, text: &str) -> String {
        match (self.severity, colour) {
            (Some(_), Some(colour)) => format!("{colour}{text}{}", Self::RESET),
            (None, _) | (_, None) => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(column: u32, end_column: u32) -> Problem {
        Problem {
            file: "p.yaml".to_owned(),
            line: 12,
            column,
            end_column,
            severity: Severity::Error,
            code: Code::UnknownField,
            field: "spec.egres".to_owned(),
            message: "unknown field of a rule".to_owned(),
            help: Some("did you mean `egress`?".to_owned()),
            snippet: "\tegres: []".to_owned(),
        }
    }

    #[test]
    fn what_is_meant_is_underlined() {
        let expected = "p.yaml:12:2: error: spec.egres: unknown field of a rule\n\
                        12 | \tegres: []\n   | \t^^^^^\n  help: did you mean `egress`?";
        assert_eq!(problem(2, 7).to_string(), expected);
    }

    #[test]
    fn every_kind_of_fault_is_listed_once_in_its_order() {
        assert!(Code::ALL.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn an_unknown_end_is_one_caret() {
        for end_column in [0, 2, 3] {
            let text = problem(2, end_column).to_string();
            assert!(text.contains("| \t^\n"), "{text}");
        }
    }

    #[test]
    fn colours_add_nothing_but_colours() {
        let problem = problem(2, 7);
        let coloured = format!("{problem:#}");
        let mut plain = coloured.clone();
        for escape in [
            Paint::RED,
            Paint::YELLOW,
            Paint::BLUE,
            Paint::BOLD,
            Paint::RESET,
        ] {
            plain = plain.replace(escape, "");
        }
        assert_ne!(coloured, plain);
        assert_eq!(plain, problem.to_string());
    }
}
