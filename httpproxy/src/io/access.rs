//! What one connection may do, under the policy that is in force now.

use std::net::SocketAddr;
use std::sync::Arc;

use policy::http::{HttpPermit, Request};
use policy::{
    Direction, EndpointId, HttpAccess, HttpDecision, Identity, LabelSet, NameBinding, PeerRef,
    RuleId, Snapshot, TlsDenied, TlsPermit,
};

use crate::core::step::{Denied as NotForwarded, Judge};

/// A connection that was redirected, as its endpoint's policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirected {
    /// Whose policy is asked.
    pub endpoint: EndpointId,
    /// Egress: the endpoint is the client. Ingress: it is the server.
    pub direction: Direction,
    /// Who connected.
    pub client: SocketAddr,
    /// To whom.
    pub server: SocketAddr,
}

impl Redirected {
    /// The side that policy selects.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        match self.direction {
            Direction::Egress => self.server,
            Direction::Ingress => self.client,
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub enum Party {
    /// Somebody of the address table.
    Known(Identity),
    /// An address that the endpoint has learned, by its labels.
    Learned(LabelSet),
}

impl Party {
    fn peer(&self) -> PeerRef<'_> {
        match self {
            Self::Known(identity) => PeerRef::Known(*identity),
            Self::Learned(labels) => PeerRef::Learned(labels),
        }
    }
}

/// What policy is asked about.
#[derive(Debug)]
pub struct Scope {
    /// The policy in force.
    pub snapshot: Arc<Snapshot>,
    /// Who may be reached: the peer, or each backend of a service.
    pub parties: Vec<Party>,
    /// The port that rules mean: a service's is its backends'.
    pub port: u16,
}

/// What may be done over a connection.
#[derive(Debug)]
pub(super) struct Access {
    scope: Scope,
    redirected: Redirected,
    requests: Vec<HttpAccess>,
}

/// What becomes of a connection that speaks neither TLS nor HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opaque {
    /// No rule looks into it.
    Allowed,
    /// Rules bind names, so strictly, and it says none.
    Bound(RuleId, NameBinding),
    Denied,
}

impl Access {
    pub(super) fn new(redirected: Redirected, scope: Scope) -> Self {
        let one = |party: &Party| {
            let Redirected {
                endpoint,
                direction,
                ..
            } = redirected;
            scope
                .snapshot
                .http_access(endpoint, direction, party.peer(), scope.port)
        };
        Self {
            requests: scope.parties.iter().map(one).collect(),
            redirected,
            scope,
        }
    }

    /// Whether there are rules for requests.
    pub(super) fn has_request_rules(&self) -> bool {
        self.requests.iter().any(HttpAccess::has_rules)
    }

    /// Whether a rule still allows something here.
    pub(super) fn has_rule(&self, rule: RuleId) -> bool {
        // Where names are bound it depends on the name too.
        let allows = |access: &HttpAccess| !access.is_bound() && access.allows_by(rule);
        !self.requests.is_empty() && self.requests.iter().all(allows)
    }

    /// Whether what is neither TLS nor HTTP may go on.
    pub(super) fn opaque(&self) -> Opaque {
        // Names are learned for addresses of which each is one party.
        if let [access] = &*self.requests
            && let Some((rule, mode)) = access.bound_by()
        {
            return Opaque::Bound(rule, mode);
        }
        match self.opened_by() {
            Some(_) => Opaque::Allowed,
            None => Opaque::Denied,
        }
    }

    /// By which rule everything may go on.
    pub(super) fn opened_by(&self) -> Option<RuleId> {
        let mut by = None;
        for access in &self.requests {
            let rule = access.opened_by()?;
            by.get_or_insert(rule);
        }
        by
    }

    /// Whether TLS to this server may go on: the proof is of the first who may be reached.
    pub(super) fn tls(&self, name: Option<&str>) -> Result<TlsPermit, TlsDenied> {
        let Redirected {
            endpoint,
            direction,
            ..
        } = self.redirected;
        let mut first = None;
        for (party, access) in self.scope.parties.iter().zip(&self.requests) {
            let to = (party.peer(), self.scope.port);
            let snapshot = &self.scope.snapshot;
            let permit = snapshot.permit_tls((endpoint, direction), to, access, name)?;
            first.get_or_insert(permit);
        }
        first.ok_or(TlsDenied::Name)
    }
}

impl Judge for Access {
    fn judge<'a>(&'a self, request: &Request<'a>) -> Result<HttpPermit<'a>, NotForwarded> {
        let mut permit = None;
        for access in &self.requests {
            let this = access
                .permit(request)
                .ok_or_else(|| match access.judge(request) {
                    HttpDecision::NotBound => NotForwarded::NameNotBound,
                    HttpDecision::Allowed { .. } | HttpDecision::Denied => NotForwarded::NotAllowed,
                })?;
            permit.get_or_insert(this);
        }
        permit.ok_or(NotForwarded::NotAllowed)
    }
}
