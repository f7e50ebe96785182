//! HTTP rules: which requests may be made.

mod asked;
mod headers;
mod index;
mod path;
mod permit;
mod programs;
mod regex;
mod rules;
mod secrets;

#[cfg(test)]
mod tests;

pub use headers::{HeaderEffect, HeaderLine, HeaderNote, REDACTED};
pub use path::{BadPath, Path};
pub use permit::HttpPermit;
pub use regex::check_regex;
pub use rules::{BadHttpRules, HttpRules, HttpVerdict, Request, Secrets};
pub use secrets::{HeaderSecretUse, HeaderSecrets};

/// One rule of a list; all of its parts must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HttpRule {
    /// A regular expression for the whole method.
    pub method: Option<Box<str>>,
    /// A regular expression for the whole path, with its query.
    pub path: Option<Box<str>>,
    /// A regular expression for the whole host, with a port where the client sent one.
    pub host: Option<Box<str>>,
    /// Headers that must match.
    pub headers: Vec<HeaderRule>,
}

/// One header of a rule: an item of `headers` or of `headerMatches`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderRule {
    /// Its name, in lower case.
    pub name: Box<str>,
    /// What it must be, its lines joined by commas; `None`: it must be there. An empty value in
    /// `headerMatches` is none.
    pub value: Option<Box<str>>,
    /// A secret (namespace, name) whose only item is the value; wins over `value`.
    pub secret: Option<(Box<str>, Box<str>)>,
    /// What happens on a mismatch.
    pub mismatch: Mismatch,
}

/// What a header that does not match does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mismatch {
    /// The rule does not match.
    #[default]
    Fail,
    /// The rule matches, and the mismatch is told.
    Log,
    /// The header is added.
    Add,
    /// The wrong header is taken out.
    Delete,
    /// The header is set.
    Replace,
}
