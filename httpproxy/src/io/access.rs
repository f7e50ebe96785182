//! What one connection may do, under the policy that is in force now.

use std::net::SocketAddr;
use std::sync::Arc;

use policy::http::{HttpPermit, Request};
use policy::{
    Direction, EndpointId, EntryVerdict, FlowKey, HttpAccess, HttpDecision, Identity, L4Protocol,
    LabelSet, NameBinding, PeerRef, Proxy, RuleId, Snapshot, TlsDenied, TlsPermit, TlsRule,
};

use super::bound::Bound;
use crate::core::record::{RequestRecord, Verdict};
use crate::core::step::{Denied as NotForwarded, Ech, Judge, Paths, Scheme};
use crate::tls::TlsSecrets;

/// A connection that was redirected, as its endpoint's policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirected {
    /// Whose policy is asked.
    pub endpoint: EndpointId,
    /// Egress: the endpoint is the client. Ingress: it is the server.
    pub direction: Direction,
    /// TCP, or UDP for QUIC.
    pub protocol: L4Protocol,
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
    /// The certificates that its rules name.
    pub secrets: Arc<TlsSecrets>,
}

/// What may be done over a connection.
#[derive(Debug)]
pub(super) struct Access {
    scope: Scope,
    redirected: Redirected,
    requests: Vec<HttpAccess>,
    /// Where TLS is not the client's and the server's own affair: which server it was begun to.
    bound: Option<Arc<Bound>>,
    /// The rules that end TLS or begin it; once it is bound those that say the same of it.
    tls_rules: Vec<TlsRule>,
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
    pub(super) fn new(redirected: Redirected, scope: Scope, bound: Option<Arc<Bound>>) -> Self {
        let one = |party: &Party| {
            let Redirected {
                endpoint,
                direction,
                ..
            } = redirected;
            let snapshot = &scope.snapshot;
            match &bound {
                Some(bound) => {
                    let peer = (party.peer(), scope.port);
                    snapshot.http_access_in_tls(endpoint, direction, peer, &bound.name)
                }
                None => snapshot.http_access(endpoint, direction, party.peer(), scope.port),
            }
        };
        let mut access = Self {
            requests: scope.parties.iter().map(one).collect(),
            redirected,
            scope,
            tls_rules: Vec::new(),
            bound,
        };
        access.tls_rules = access.find_tls_rules();
        if let Some(bound) = &access.bound {
            access.tls_rules.retain(|rule| bound.rule.is_like(rule));
        }
        access
    }

    /// The rules that end TLS here or begin it.
    pub(super) fn tls_rules(&self) -> &[TlsRule] {
        &self.tls_rules
    }

    /// Whether TLS is to be begun for a client that speaks none.
    pub(super) fn begins_tls(&self) -> bool {
        let mut rules = self.tls_rules.iter();
        self.bound.is_none() && rules.any(|rule| rule.terminating.is_none())
    }

    /// Those that hold for each of the parties.
    fn find_tls_rules(&self) -> Vec<TlsRule> {
        if self.scope.secrets.is_empty() {
            return Vec::new(); // no rule in force names one
        }
        let Redirected {
            endpoint,
            direction,
            ..
        } = self.redirected;
        let of = |party: &Party| {
            let peer = (party.peer(), self.scope.port);
            self.scope.snapshot.tls_rules(endpoint, direction, peer)
        };
        let mut parties = self.scope.parties.iter();
        let mut rules = parties.next().map(of).unwrap_or_default();
        for party in parties {
            let others = of(party);
            rules.retain(|rule| others.iter().any(|other| other.is_like(rule)));
        }
        rules
    }

    /// The certificates.
    pub(super) fn secrets(&self) -> &TlsSecrets {
        &self.scope.secrets
    }

    /// What the client's requests are for.
    pub(super) fn scheme(&self) -> Scheme {
        match self.bound.as_ref().is_some_and(|bound| bound.is_in_tls()) {
            true => Scheme::Https,
            false => Scheme::Http,
        }
    }

    /// Whether a host is the one that TLS was begun to, or another one of the same rule.
    fn is_bound_to(&self, host: Option<&str>) -> bool {
        let (Some(bound), Some(host)) = (&self.bound, host) else {
            return true;
        };
        bound.is_for(host, &self.tls_rules)
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

    /// Whether a tunnel may go on that a request of this record has opened.
    pub(super) fn still_allows(&self, request: &RequestRecord, paths: Paths) -> bool {
        match &request.verdict {
            Verdict::Allowed { rule, .. } => {
                self.has_rule(*rule) || self.would_allow(request, paths)
            }
            Verdict::Denied(_) | Verdict::Malformed(_) | Verdict::TooSlow => false,
        }
    }

    /// Whether policy would allow a request again, by what is told of it. What was cut or taken out there
    /// fits no rule.
    fn would_allow(&self, request: &RequestRecord, paths: Paths) -> bool {
        if request.is_query_hidden {
            return false;
        }
        let place = request.url.split_once("://").map(|(_, place)| place);
        let Some((host, _)) = place.and_then(|place| place.split_once('/')) else {
            return false;
        };
        let path = place.and_then(|place| place.get(host.len()..));
        let Some(Ok(path)) = path.map(|path| paths.parse(path.as_bytes())) else {
            return false;
        };
        let lines = request.fields.iter();
        let lines: Vec<_> = lines
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let is_allowed = |method| {
            let request = Request {
                method,
                path: Some(&path),
                host: (!host.is_empty()).then_some(host),
                port: self.redirected.server.port(),
                headers: &lines,
            };
            self.judge(&request).is_ok()
        };
        // A CONNECT with a path is an extended one, which a rule for a GET allows too.
        is_allowed(&request.method) || request.method == "CONNECT" && is_allowed("GET")
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

    /// Whether a name counts, may hide another one, since its hello has an encrypted one too, and must not.
    pub(super) fn may_hide(&self, has_ech: bool, ech: Ech) -> bool {
        has_ech && ech == Ech::Refused && self.opaque() != Opaque::Allowed
    }

    /// Whether policy has datagrams to this server come here, so that the name in QUIC is judged: it may deny or
    /// refuse them where TLS over TCP may go on.
    pub(super) fn judges_quic(&self) -> bool {
        let Scope {
            snapshot,
            parties,
            port,
            ..
        } = &self.scope;
        let endpoint = self.redirected.endpoint;
        let flow = |identity| FlowKey {
            direction: self.redirected.direction,
            identity,
            protocol: self.redirected.protocol.number(),
            port: *port,
        };
        let decision = |party: &Party| match party {
            Party::Known(identity) => snapshot.judge(endpoint, flow(*identity)),
            Party::Learned(labels) => snapshot.judge_learned(endpoint, labels, flow(Identity::ANY)),
        };
        let mut decisions = parties.iter().map(decision);
        decisions.all(|one| one.verdict == EntryVerdict::Redirect(Proxy::Tls))
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
    fn is_secret(&self, header: &str) -> bool {
        let mut requests = self.requests.iter();
        requests.any(|access| access.is_secret(header))
    }

    fn judge<'a>(&'a self, request: &Request<'a>) -> Result<HttpPermit<'a>, NotForwarded> {
        if !self.is_bound_to(request.host) {
            return Err(NotForwarded::OtherName);
        }
        // Whoever isn't known yet, or any more, has no policy that could be asked.
        if self.requests.is_empty() || !self.requests.iter().all(HttpAccess::is_known) {
            return Err(NotForwarded::NoPolicy);
        }
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
