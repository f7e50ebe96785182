//! The permit that forwarding a request needs.

use super::{HeaderEffect, HeaderNote, Path, Request};
use crate::{Bound, RuleId};

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
    audited: bool,
    bound: Option<Bound>,
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
            audited: false,
            bound: None,
        }
    }

    /// With what was found of its host, where the connection is bound to names.
    pub(crate) fn bound_by(self, bound: Option<Bound>) -> Self {
        Self {
            audited: bound.is_some_and(|bound| !bound.fits),
            bound,
            ..self
        }
    }

    /// The permit for a request that policy denies where it only audits.
    pub(crate) fn audited(request: &Request<'a>) -> Self {
        Self {
            audited: true,
            ..Self::new(request, RuleId::NONE, (Vec::new(), Vec::new()))
        }
    }

    /// Whether policy denies it, and only audits: it is forwarded and told as audited.
    #[must_use]
    pub const fn is_audited(&self) -> bool {
        self.audited
    }

    /// What was found of its host, where the connection is bound to names.
    #[must_use]
    pub const fn bound(&self) -> Option<Bound> {
        self.bound
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
