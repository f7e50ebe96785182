//! Which requests may be made, by everything that applies to a peer and a port together.

use std::sync::Arc;

use fqdn::Name;

use super::direction::Enforcement;
use super::endpoint::EndpointPolicy;
use super::item::CompiledItem;
use super::table::Known;
use super::{PeerRef, Snapshot};
use crate::http::{HeaderEffect, HeaderNote, HttpPermit, HttpRules, HttpVerdict, Path, Request};
use crate::l4::{L7Rules, PortRule};
use crate::rule::{Effect, Item, Peers};
use crate::{Direction, EndpointId, RuleId};

/// What may be asked by HTTP over one connection. Found once, when the connection is accepted.
#[derive(Debug)]
pub struct HttpAccess {
    /// The lists of all rules that apply, each with its rule.
    lists: Vec<(RuleId, Arc<HttpRules>)>,
    /// A rule that lets every request pass: it has no L7 part, or nothing is denied by default.
    opened_by: Option<RuleId>,
    is_denied: bool,
    /// What no rule allows is only told.
    is_audited: bool,
}

/// Whether a request may be made, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpDecision<'a> {
    /// It may.
    Allowed {
        /// The rule that allows it.
        rule: RuleId,
        /// What to change before it is forwarded, in order.
        effects: Vec<HeaderEffect<'a>>,
        /// What to tell of its headers.
        notes: Vec<HeaderNote<'a>>,
    },
    /// No rule lets it pass.
    Denied,
}

impl HttpAccess {
    /// Whether there are rules for requests.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        !self.lists.is_empty()
    }

    /// Whether a rule still allows something.
    #[must_use]
    pub fn allows_by(&self, rule: RuleId) -> bool {
        let is_list = self.lists.iter().any(|(of, _)| *of == rule);
        !self.is_denied && (is_list || self.opened_by() == Some(rule))
    }

    /// Whether what is no request may go on too, and by which rule.
    #[must_use]
    pub fn opened_by(&self) -> Option<RuleId> {
        let audited = self.is_audited.then_some(RuleId::NONE);
        self.opened_by.or(audited).filter(|_| !self.is_denied)
    }

    /// Judges a request by all lists together: each reading of its path must be allowed by one.
    #[must_use]
    pub fn judge<'a>(&'a self, request: &Request<'a>) -> HttpDecision<'a> {
        if self.is_denied {
            return HttpDecision::Denied;
        }
        let mut decision = self.by_one_list(request);
        if decision == HttpDecision::Denied
            && let Some(rule) = self.by_readings(request)
        {
            decision = allowed(rule);
        }
        match (decision, self.opened_by) {
            (HttpDecision::Denied, Some(rule)) => allowed(rule),
            (decision, _) => decision,
        }
    }

    /// The proof that a request may be made, if it may.
    #[must_use]
    pub fn permit<'a>(&'a self, request: &Request<'a>) -> Option<HttpPermit<'a>> {
        match self.judge(request) {
            HttpDecision::Allowed {
                rule,
                effects,
                notes,
            } => Some(HttpPermit::new(request, rule, (effects, notes))),
            HttpDecision::Denied if self.is_audited && !self.is_denied => {
                Some(HttpPermit::audited(request))
            }
            HttpDecision::Denied => None,
        }
    }

    /// Adds a list; the ports of an entry share theirs.
    fn add(&mut self, rule: RuleId, list: &Arc<HttpRules>) {
        if !self.lists.iter().any(|(_, other)| Arc::ptr_eq(other, list)) {
            self.lists.push((rule, Arc::clone(list)));
        }
    }

    /// By lists that allow all readings; what they do to headers is joined.
    fn by_one_list<'a>(&'a self, request: &Request<'a>) -> HttpDecision<'a> {
        let mut joined = HttpDecision::Denied;
        for (id, list) in &self.lists {
            let HttpVerdict::Allowed { effects, notes, .. } = list.judge(request) else {
                continue;
            };
            match &mut joined {
                HttpDecision::Denied => {
                    joined = HttpDecision::Allowed {
                        rule: *id,
                        effects,
                        notes,
                    };
                }
                HttpDecision::Allowed {
                    effects: all,
                    notes: told,
                    ..
                } => {
                    all.extend(effects);
                    told.extend(notes);
                }
            }
            if !self.lists.iter().any(|(_, list)| list.has_actions()) {
                break;
            }
        }
        joined
    }

    /// By several lists, each of which allows some readings.
    fn by_readings(&self, request: &Request<'_>) -> Option<RuleId> {
        let path = request.path.filter(|_| self.lists.len() > 1)?;
        let mut first = None;
        for reading in path.readings() {
            let path = Path::of_reading(reading);
            let request = Request {
                path: Some(&path),
                ..*request
            };
            let rule = self.lists.iter().find_map(|(id, list)| {
                let verdict = list.judge(&request);
                matches!(verdict, HttpVerdict::Allowed { .. }).then_some(*id)
            });
            first.get_or_insert(rule?);
        }
        first
    }
}

fn allowed<'a>(rule: RuleId) -> HttpDecision<'a> {
    HttpDecision::Allowed {
        rule,
        effects: Vec::new(),
        notes: Vec::new(),
    }
}

impl Snapshot {
    /// What may be asked by HTTP over a connection of an endpoint to (or, inbound, from) a peer, on a
    /// port of TCP. Whoever is unknown may ask nothing.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "what a connection is known by")]
    pub fn http_access(
        &self,
        endpoint: EndpointId,
        direction: Direction,
        peer: PeerRef<'_>,
        port: u16,
    ) -> HttpAccess {
        self.access((endpoint, direction), (peer, port), Within::Plain)
    }

    /// The same over a connection on which TLS is ended or begun here, to the server of this name. Rules
    /// that name their peers otherwise have no part in it: an address may be that of others too.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "what a connection is known by")]
    pub fn http_access_in_tls(
        &self,
        endpoint: EndpointId,
        direction: Direction,
        peer: (PeerRef<'_>, u16),
        name: &str,
    ) -> HttpAccess {
        self.access((endpoint, direction), peer, Within::Tls(name))
    }

    fn access(
        &self,
        (endpoint, direction): (EndpointId, Direction),
        (peer, port): (PeerRef<'_>, u16),
        within: Within<'_>,
    ) -> HttpAccess {
        let mut access = HttpAccess {
            lists: Vec::new(),
            opened_by: None,
            is_denied: true,
            is_audited: false,
        };
        let Some(policy) = self.endpoints.get(&endpoint) else {
            return access;
        };
        access.is_denied = false;
        let side = policy.direction(direction);
        access.is_audited = side.is_audited() || side.enforcement == Enforcement::Audited;
        if matches!(side.enforcement, Enforcement::Open | Enforcement::Observed) {
            access.opened_by = Some(RuleId::NONE);
        }
        if peer.identity() == Some(crate::Identity::HOST) && side.lets_host_in() {
            access.opened_by = Some(RuleId::NONE);
        }
        for (item, ports) in Self::applying((policy, direction), peer, port) {
            if item.item().effect == Effect::Deny {
                access.is_denied |= !item.prepared.audit && !side.is_audited();
                continue;
            }
            if item.item().fails_authentication {
                access.is_denied |= !side.is_audited();
                continue;
            }
            if !within.is_of(item.item()) {
                continue;
            }
            if ports.is_empty() {
                _ = access.opened_by.get_or_insert_with(|| item.id());
            }
            for index in ports {
                let rule = item.item().port_list().get(index);
                if !rule.is_some_and(|rule| within.is_through(rule)) {
                    continue;
                }
                match item.prepared.http.get(index) {
                    Some(Some(list)) => access.add(item.id(), list),
                    Some(None) | None => _ = access.opened_by.get_or_insert_with(|| item.id()),
                }
            }
        }
        access
    }

    /// The items that select a peer and are about a port of TCP, each with the indices of those of
    /// its ports that are; none where the item is about all ports of all protocols.
    pub(super) fn applying<'a>(
        (policy, direction): (&'a EndpointPolicy, Direction),
        peer: PeerRef<'_>,
        port: u16,
    ) -> Vec<(&'a CompiledItem, Vec<usize>)> {
        let side = policy.direction(direction);
        let named = side.named_ports(peer.identity());
        let applying = side.selecting_peer(peer).into_iter().filter_map(|item| {
            let list = item.item().port_list();
            if matches!(item.item().ports, crate::l4::Ports::Any) {
                return Some((item, Vec::new()));
            }
            let is_about = |rule: &PortRule| {
                let mut keys = rule.l4_keys(&named).into_iter();
                keys.any(|(protocol, ports)| protocol == TCP && ports.contains(port))
            };
            let ports = list.iter().enumerate().filter(|(_, rule)| is_about(rule));
            let ports: Vec<usize> = ports.map(|(index, _)| index).collect();
            (!ports.is_empty()).then_some((item, ports))
        });
        applying.collect()
    }

    pub(super) fn known(&self, peer: PeerRef<'_>) -> Option<Arc<Known>> {
        match peer {
            PeerRef::Known(identity) => self.known.get(&identity).cloned(),
            PeerRef::Learned(set) => Some(Arc::new(Known::outside(set.clone()))),
        }
    }
}

/// What the rules of a connection are asked about.
#[derive(Clone, Copy)]
enum Within<'a> {
    /// Requests on a connection without TLS of ours.
    Plain,
    /// Requests to the server of this name, whose TLS is begun here or ended.
    Tls(&'a str),
}

impl Within<'_> {
    /// Whether a rule is about them, by its peers.
    fn is_of(self, item: &Item) -> bool {
        match self {
            Self::Plain => true,
            Self::Tls(name) => item.has_name(name),
        }
    }

    /// Whether a rule is about them, by what it says of TLS.
    fn is_through(self, rule: &PortRule) -> bool {
        let Some(l7) = rule.l7.as_deref() else {
            return true;
        };
        let is_for_names = matches!(l7.rules, L7Rules::None) && !l7.server_names.is_empty();
        let is_in_tls = l7.terminating_tls.is_some() || l7.originating_tls.is_some();
        match self {
            Self::Plain | Self::Tls(_) if !is_in_tls => !is_for_names,
            Self::Plain => false,
            Self::Tls(name) => {
                let mut names = l7.server_names.iter();
                l7.server_names.is_empty() || names.any(|pattern| pattern.matches(name))
            }
        }
    }
}

impl Item {
    /// Whether its peers may be called so: they are selected by other means than names, or by this one.
    pub(super) fn has_name(&self, name: &str) -> bool {
        match &self.peers {
            Peers::Named(names) => Name::from_text(name).is_ok_and(|name| names.matches(&name)),
            Peers::Any | Peers::Nobody | Peers::Some(_) => true,
        }
    }
}

const TCP: u8 = 6;

impl L7Rules {
    /// Compiles HTTP rules, if it is that.
    ///
    /// # Errors
    /// What makes them too large.
    pub(super) fn compile_http(&self) -> Result<Option<Arc<HttpRules>>, String> {
        match self {
            Self::Http(rules) => HttpRules::compile(rules)
                .map(|rules| Some(Arc::new(rules)))
                .map_err(|error| error.to_string()),
            Self::Dns(_) | Self::None => Ok(None),
        }
    }
}
