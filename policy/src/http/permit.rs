//! The permit that forwarding a request needs.

use super::{HeaderEffect, HeaderNote, Path, Request};
use crate::RuleId;

/// The proof that policy lets one request go upstream. Only a verdict makes it, forwarding consumes it,
/// and it can't be copied: one permit, one request (law 2). What goes upstream is its method, its path
/// and its effects.
#[derive(Debug, PartialEq, Eq)]
pub struct HttpPermit<'a> {
    method: &'a str,
    path: Option<&'a Path<'a>>,
    host: Option<&'a str>,
    rule: RuleId,
    effects: Vec<HeaderEffect<'a>>,
    notes: Vec<HeaderNote<'a>>,
}

impl<'a> HttpPermit<'a> {
    pub(crate) fn new(
        request: &Request<'a>,
        rule: RuleId,
        (effects, notes): (Vec<HeaderEffect<'a>>, Vec<HeaderNote<'a>>),
    ) -> Self {
        Self {
            method: request.method,
            path: request.path,
            host: request.host,
            rule,
            effects,
            notes,
        }
    }

    /// The method that may be used.
    #[must_use]
    pub const fn method(&self) -> &'a str {
        self.method
    }

    /// What may be asked for, in the form to forward; `None` for CONNECT to an authority.
    #[must_use]
    pub fn target(&self) -> Option<&'a str> {
        self.path.map(Path::normal)
    }

    /// Of which host.
    #[must_use]
    pub const fn host(&self) -> Option<&'a str> {
        self.host
    }

    /// The rule that allowed it.
    #[must_use]
    pub const fn rule(&self) -> RuleId {
        self.rule
    }

    /// What to change in its headers before it is forwarded, in order.
    #[must_use]
    pub fn effects(&self) -> &[HeaderEffect<'a>] {
        &self.effects
    }

    /// What to tell of its headers.
    #[must_use]
    pub fn notes(&self) -> &[HeaderNote<'a>] {
        &self.notes
    }
}
