//! Which requests may be made and which servers named, by everything that applies to a peer and a
//! port together.

use std::sync::Arc;

use super::direction::Enforcement;
use super::endpoint::EndpointPolicy;
use super::item::CompiledItem;
use super::table::Known;
use super::{PeerRef, Snapshot};
use crate::http::{HeaderEffect, HeaderNote, HttpPermit, HttpRules, HttpVerdict, Path, Request};
use crate::l4::{L7Rules, PortRule};
use crate::rule::{Effect, PeerKey, PeerSelector, Peers};
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

/// Whether a TLS connection may go on, by the server name that its client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SniDecision {
    /// It may; the rule is absent where no rule judges names.
    Allowed(Option<RuleId>),
    /// Names are judged, and this one (or none) is not among them.
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
            if ports.is_empty() {
                _ = access.opened_by.get_or_insert_with(|| item.id());
            }
            for index in ports {
                if item
                    .item()
                    .port_list()
                    .get(index)
                    .is_some_and(names_servers)
                {
                    continue; // it is about TLS alone
                }
                match item.prepared.http.get(index) {
                    Some(Some(list)) => access.add(item.id(), list),
                    Some(None) | None => _ = access.opened_by.get_or_insert_with(|| item.id()),
                }
            }
        }
        access
    }

    /// Whether a TLS connection may go on, by the name that its client says (`None`: it says none).
    ///
    /// Names of rules with the same peer and port are joined, and such a rule without names doesn't
    /// open them; a rule with another peer or port that also applies does.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "what a connection is known by")]
    pub fn judge_sni(
        &self,
        endpoint: EndpointId,
        direction: Direction,
        (peer, port): (PeerRef<'_>, u16),
        name: Option<&str>,
    ) -> SniDecision {
        let Some(policy) = self.endpoints.get(&endpoint) else {
            return SniDecision::Denied;
        };
        let applying = Self::applying((policy, direction), peer, port);
        let known = self.known(peer);
        let mut groups: Vec<SniGroup<'_>> = Vec::new();
        let mut opened = false;
        for (item, ports) in applying {
            if item.item().effect == Effect::Deny {
                continue;
            }
            opened |= ports.is_empty();
            let rules = ports
                .into_iter()
                .filter_map(|index| item.item().port_list().get(index));
            for rule in rules {
                for peer in selectors_of(item, known.as_deref()) {
                    join(&mut groups, (peer, rule), item.id());
                }
            }
        }
        let judged = groups.iter().filter(|group| group.judges);
        if judged.clone().next().is_none() {
            return SniDecision::Allowed(None);
        }
        let by_name = judged.flat_map(|group| &group.rules).find(|(_, rule)| {
            let patterns = rule.l7.as_deref().map(|l7| &*l7.server_names);
            let mut patterns = patterns.unwrap_or_default().iter();
            name.is_some_and(|name| patterns.any(|pattern| pattern.matches(name)))
        });
        match by_name {
            Some((rule, _)) => SniDecision::Allowed(Some(*rule)),
            None if opened || groups.iter().any(|group| !group.judges) => {
                SniDecision::Allowed(None)
            }
            None => SniDecision::Denied,
        }
    }

    /// The items that select a peer and are about a port of TCP, each with the indices of those of
    /// its ports that are; none where the item is about all ports of all protocols.
    fn applying<'a>(
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

    fn known(&self, peer: PeerRef<'_>) -> Option<Arc<Known>> {
        match peer {
            PeerRef::Known(identity) => self.known.get(&identity).cloned(),
            PeerRef::Learned(set) => Some(Arc::new(Known::outside(set.clone()))),
        }
    }
}

fn names_servers(rule: &PortRule) -> bool {
    let l7 = rule.l7.as_deref();
    l7.is_some_and(|l7| matches!(l7.rules, L7Rules::None) && !l7.server_names.is_empty())
}

/// The selectors and names of an item that select a peer.
fn selectors_of<'a>(item: &'a CompiledItem, peer: Option<&Known>) -> Vec<PeerKey<'a>> {
    let selects = |selector: &&PeerSelector| {
        matches!(selector, PeerSelector::Service(_))
            || peer.is_some_and(|peer| selector.selects(peer.view()))
    };
    let outside = peer.and_then(|peer| peer.outside.as_ref());
    let is_named = |text: &&str| outside.is_some_and(|set| set.has_selector(text));
    match &item.item().peers {
        Peers::Any | Peers::Nobody => vec![PeerKey::Everybody],
        Peers::Some(peers) => peers
            .iter()
            .filter(selects)
            .map(PeerKey::Selector)
            .collect(),
        Peers::Named(names) => names.texts().filter(is_named).map(PeerKey::Name).collect(),
    }
}

const TCP: u8 = 6;

/// Port rules of one peer selector, protocol and port, whose names are joined.
struct SniGroup<'a> {
    peer: PeerKey<'a>,
    rules: Vec<(RuleId, &'a PortRule)>,
    judges: bool,
}

fn join<'a>(groups: &mut Vec<SniGroup<'a>>, (peer, rule): (PeerKey<'a>, &'a PortRule), id: RuleId) {
    let names = rule.l7.as_deref().map(|l7| &*l7.server_names);
    let judges = names.is_some_and(|names| !names.is_empty());
    let same = groups.iter_mut().find(|group| {
        let first = group.rules.first().map(|(_, first)| *first);
        group.peer == peer && first.is_some_and(|first| first.port == rule.port)
    });
    match same {
        Some(group) => {
            group.rules.push((id, rule));
            group.judges |= judges;
        }
        None => groups.push(SniGroup {
            peer,
            rules: vec![(id, rule)],
            judges,
        }),
    }
}

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
