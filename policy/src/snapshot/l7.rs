//! Which requests may be made, by everything that applies to a peer and a port together.

use std::sync::Arc;

use super::bound::Names;
use super::direction::Enforcement;
use super::endpoint::EndpointPolicy;
use super::item::CompiledItem;
use super::table::Known;
use super::{PeerRef, Snapshot};
use crate::binding::name_in;
use crate::http::{
    HeaderEffect, HeaderNote, HeaderSecrets, HttpPermit, HttpRules, HttpVerdict, Path, Request,
};
use crate::l4::{L7Rules, PortRule};
use crate::rule::{Effect, Item, Peers};
use crate::{Bound, Direction, EndpointId, NameBinding, RuleId};

/// What may be asked by HTTP over one connection. Found once, when the connection is accepted.
#[derive(Debug)]
pub struct HttpAccess {
    /// The lists of all rules that apply.
    lists: Vec<List>,
    /// A rule that lets every request pass: it has no L7 part, or nothing is denied by default.
    opened_by: Option<RuleId>,
    /// What rules let pass that are bound to names.
    pub(super) names: Names,
    /// Whether there is a policy of the endpoint's at all.
    is_known: bool,
    is_denied: bool,
    /// What no rule allows is only told.
    is_audited: bool,
}

/// The list of a rule.
#[derive(Debug)]
struct List {
    rule: RuleId,
    rules: Arc<HttpRules>,
    /// How strictly it is bound to names.
    binding: NameBinding,
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
        /// What was found, where the connection is bound to names.
        bound: Option<Bound>,
    },
    /// Its host, or the want of one, is none of the names that it is bound to.
    NotBound,
    /// No rule lets it pass.
    Denied,
}

impl HttpAccess {
    /// Whether requests are judged.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        !self.lists.is_empty() || self.bound_by().is_some()
    }

    /// Whether there is a policy for the endpoint. Without one it may ask nothing, which nobody has decided.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.is_known
    }

    /// Whether a rule compares a header with a secret, so that its value is told to nobody.
    #[must_use]
    pub fn is_secret(&self, header: &str) -> bool {
        let mut lists = self.lists.iter();
        lists.any(|list| list.rules.is_secret(header))
    }

    /// Whether something is bound to names.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.names.is_bound()
    }

    /// Whether a rule still allows something.
    #[must_use]
    pub fn allows_by(&self, rule: RuleId) -> bool {
        let is_list = self.lists.iter().any(|list| list.rule == rule);
        let is_open = self.opened_by() == Some(rule) || self.names.opens_by(rule);
        !self.is_denied && (is_list || is_open)
    }

    /// Whether what is neither a request nor TLS may go on though its rules bind names, since it says
    /// none: by which rule, and how strictly.
    #[must_use]
    pub fn bound_by(&self) -> Option<(RuleId, NameBinding)> {
        self.names.weakest().filter(|_| !self.is_denied)
    }

    /// Whether what is no request may go on too, and by which rule.
    #[must_use]
    pub fn opened_by(&self) -> Option<RuleId> {
        let audited = self.is_audited.then_some(RuleId::NONE);
        self.opened_by.or(audited).filter(|_| !self.is_denied)
    }

    /// The rule by which all may go on that is bound to names at most so strictly.
    pub(super) fn opened_at(&self, most: NameBinding) -> Option<RuleId> {
        let opened = self.opened_by.or_else(|| self.names.open_at(most));
        opened.filter(|_| !self.is_denied)
    }

    /// Judges a request by all lists together: each reading of its path must be allowed by one.
    #[must_use]
    pub fn judge<'a>(&'a self, request: &Request<'a>) -> HttpDecision<'a> {
        if self.is_denied {
            return HttpDecision::Denied;
        }
        if !self.names.is_bound() {
            return self.by_bindings(request, NameBinding::Enforce);
        }
        let fits = self.names.hold(request.host);
        let allows = |most: &NameBinding| self.by_bindings(request, *most) != HttpDecision::Denied;
        let Some(mode) = NameBinding::ALL.into_iter().find(allows) else {
            return HttpDecision::Denied;
        };
        if mode == NameBinding::Enforce && !fits {
            return HttpDecision::NotBound;
        }
        // Under a name that fits all rules act.
        let most = match fits {
            true => NameBinding::Enforce,
            false => mode,
        };
        let mut decision = self.by_bindings(request, most);
        if let HttpDecision::Allowed { bound, .. } = &mut decision {
            *bound = Bound::found(mode, fits);
        }
        decision
    }

    /// Judges by the rules that are bound to names at most so strictly.
    fn by_bindings<'a>(&'a self, request: &Request<'a>, most: NameBinding) -> HttpDecision<'a> {
        let mut decision = self.by_one_list(request, most);
        if decision == HttpDecision::Denied
            && let Some(rule) = self.by_readings(request, most)
        {
            decision = allowed(rule);
        }
        match (
            decision,
            self.opened_by.or_else(|| self.names.open_at(most)),
        ) {
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
                bound,
            } => Some(HttpPermit::new(request, rule, (effects, notes)).bound_by(bound)),
            HttpDecision::Denied if self.is_audited && !self.is_denied => {
                Some(HttpPermit::audited(request))
            }
            HttpDecision::Denied | HttpDecision::NotBound => None,
        }
    }

    /// Adds a list; the ports of an entry share theirs.
    fn add(&mut self, (rule, binding): (RuleId, NameBinding), list: &Arc<HttpRules>) {
        let is_same = |other: &List| Arc::ptr_eq(&other.rules, list);
        if !self.lists.iter().any(is_same) {
            self.lists.push(List {
                rule,
                rules: Arc::clone(list),
                binding,
            });
        }
    }

    /// A rule lets everything pass, under its names where it is bound to them.
    fn open(&mut self, rule: RuleId, binding: NameBinding) {
        match binding {
            NameBinding::Off => _ = self.opened_by.get_or_insert(rule),
            NameBinding::Audit | NameBinding::Enforce => self.names.open(rule, binding),
        }
    }

    fn lists_at(&self, most: NameBinding) -> impl Iterator<Item = &List> + Clone {
        self.lists.iter().filter(move |list| list.binding <= most)
    }

    /// By lists that allow all readings; what they do to headers is joined.
    fn by_one_list<'a>(&'a self, request: &Request<'a>, most: NameBinding) -> HttpDecision<'a> {
        let mut joined = HttpDecision::Denied;
        for list in self.lists_at(most) {
            let HttpVerdict::Allowed { effects, notes, .. } = list.rules.judge(request) else {
                continue;
            };
            match &mut joined {
                HttpDecision::Denied | HttpDecision::NotBound => {
                    joined = HttpDecision::Allowed {
                        rule: list.rule,
                        effects,
                        notes,
                        bound: None,
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
            if !self.lists.iter().any(|list| list.rules.has_actions()) {
                break;
            }
        }
        joined
    }

    /// By several lists, each of which allows some readings.
    fn by_readings(&self, request: &Request<'_>, most: NameBinding) -> Option<RuleId> {
        let path = request.path.filter(|_| self.lists.len() > 1)?;
        let mut first = None;
        for reading in path.readings() {
            let path = Path::of_reading(reading);
            let request = Request {
                path: Some(&path),
                ..*request
            };
            let rule = self.lists_at(most).find_map(|list| {
                let verdict = list.rules.judge(&request);
                matches!(verdict, HttpVerdict::Allowed { .. }).then_some(list.rule)
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
        bound: None,
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
            names: Names::default(),
            is_known: false,
            is_denied: true,
            is_audited: false,
        };
        let Some(policy) = self.endpoints.get(&endpoint) else {
            return access;
        };
        (access.is_known, access.is_denied) = (true, false);
        let side = policy.direction(direction);
        access.is_audited = side.is_audited() || side.enforcement == Enforcement::Audited;
        if matches!(side.enforcement, Enforcement::Open | Enforcement::Observed) {
            access.opened_by = Some(RuleId::NONE);
        }
        if peer.identity() == Some(crate::Identity::HOST) && side.lets_host_in() {
            access.opened_by = Some(RuleId::NONE);
        }
        let mut is_bound = false;
        let applying = Self::applying((policy, direction), peer, port);
        let needs_name = self.needs_name(&applying, peer);
        for (item, ports) in applying {
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
            let binding = side.binding_of(item);
            is_bound |= binding > NameBinding::Off;
            if ports.is_empty() {
                access.open(item.id(), binding);
            }
            for index in ports {
                let rule = item.item().port_list().get(index);
                if !rule.is_some_and(|rule| within.is_through(rule)) {
                    continue;
                }
                if matches!(within, Within::Plain)
                    && rule.is_some_and(|rule| needs_name(item, rule))
                {
                    continue;
                }
                match item.prepared.http.get(index) {
                    Some(Some(list)) => access.add((item.id(), binding), list),
                    Some(None) | None => access.open(item.id(), binding),
                }
            }
        }
        access
            .names
            .bind((is_bound, access.opened_by.is_some()), policy, port);
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
            let ports = list.iter().enumerate();
            let ports = ports.filter(|(_, rule)| rule.is_about_tcp(port, &named));
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
            Peers::Named(names) => name_in(name).is_some_and(|name| names.matches(&name)),
            Peers::Any | Peers::Nobody | Peers::Some(_) => true,
        }
    }
}

impl L7Rules {
    /// Compiles HTTP rules, if it is that.
    ///
    /// # Errors
    /// What makes them too large.
    pub(super) fn compile_http(
        &self,
        secrets: &HeaderSecrets,
    ) -> Result<Option<Arc<HttpRules>>, String> {
        let secret = |namespace: &str, name: &str| secrets.of(namespace, name);
        match self {
            Self::Http(rules) => HttpRules::compile_with(rules, &secret)
                .map(|rules| Some(Arc::new(rules)))
                .map_err(|error| error.to_string()),
            Self::Dns(_) | Self::None => Ok(None),
        }
    }
}
