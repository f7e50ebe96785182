//! Which servers a TLS client may name, and whose TLS is ended here.

use std::ptr;
use std::sync::Arc;

use fqdn::Pattern;

use super::item::CompiledItem;
use super::table::Known;
use super::{PeerRef, Snapshot};
use crate::binding::name_in;
use crate::l4::{L7, PortRule};
use crate::rule::{Effect, PeerKey, PeerSelector, Peers};
use crate::sni::SniPattern;
use crate::tls::TlsContext;
use crate::{Direction, EndpointId, NameBinding, RuleId};

/// Whether a TLS connection may go on as it came, by the server name that its client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SniDecision {
    /// It may; the rule is absent where no rule judges names.
    Allowed(Option<RuleId>),
    /// Names are judged, and this one (or none) is not among them.
    Denied,
}

/// A rule that ends a client's TLS, or begins TLS to the server.
#[derive(Clone, Debug)]
pub struct TlsRule {
    /// Which.
    pub rule: RuleId,
    /// `None`: the client speaks without TLS.
    pub terminating: Option<Arc<TlsContext>>,
    /// `None`: the server is spoken to without TLS.
    pub originating: Option<Arc<TlsContext>>,
    /// `serverNames`, its own and those that are joined with them; empty is no judgement of names.
    server_names: Vec<SniPattern>,
    /// Which of the names that it is about these contexts are for; `None`: its peers are selected otherwise.
    named: Option<Vec<Pattern>>,
}

impl TlsRule {
    /// Whether the rule is about a server that is called so.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        let mut names = self.server_names.iter();
        let is_named = self.named.as_ref().is_none_or(|patterns| {
            let mut patterns = patterns.iter();
            name_in(name).is_some_and(|name| patterns.any(|pattern| pattern.matches(&name)))
        });
        is_named && (self.server_names.is_empty() || names.any(|pattern| pattern.matches(name)))
    }

    /// Whether it says the same of TLS.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.terminating == other.terminating && self.originating == other.originating
    }
}

impl Snapshot {
    /// Whether a TLS connection may go on as it came, by the name that its client says (`None`: it says
    /// none).
    ///
    /// Names of rules with the same peer and port are joined, and such a rule without names doesn't
    /// open them; a rule with another peer or port that also applies does. A rule that ends TLS lets
    /// none go on.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "what a connection is known by")]
    pub fn judge_sni(
        &self,
        endpoint: EndpointId,
        direction: Direction,
        peer: (PeerRef<'_>, u16),
        name: Option<&str>,
    ) -> SniDecision {
        let at = (endpoint, direction);
        self.sni_by_bindings(at, peer, (name, NameBinding::Enforce))
    }

    /// The same, where only rules allow that are bound to names at most so strictly.
    pub(super) fn sni_by_bindings(
        &self,
        (endpoint, direction): (EndpointId, Direction),
        peer: (PeerRef<'_>, u16),
        (name, most): (Option<&str>, NameBinding),
    ) -> SniDecision {
        let policy = self.endpoints.get(&endpoint);
        let groups = self.sni_groups((endpoint, direction), peer);
        let (Some(policy), Some((groups, open))) = (policy, groups) else {
            return SniDecision::Denied;
        };
        let side = policy.direction(direction);
        let allows = |item: &CompiledItem| side.binding_of(item) <= most;
        let judged = groups.iter().filter(|group| group.judges);
        if judged.clone().next().is_none() {
            return SniDecision::Allowed(None);
        }
        let by_name = judged.flat_map(Group::passing).find(|(item, rule)| {
            let mut patterns = server_names(rule).iter();
            allows(item) && name.is_some_and(|name| patterns.any(|pattern| pattern.matches(name)))
        });
        let lets_all_pass =
            |group: &Group<'_>| !group.judges && group.passing().any(|(item, _)| allows(item));
        match by_name {
            Some((item, _)) => SniDecision::Allowed(Some(item.id())),
            None if open.into_iter().any(allows) || groups.iter().any(lets_all_pass) => {
                SniDecision::Allowed(None)
            }
            None => SniDecision::Denied,
        }
    }

    /// The rules that end TLS on a connection or begin it, in the order of the rules.
    #[must_use]
    pub fn tls_rules(
        &self,
        endpoint: EndpointId,
        direction: Direction,
        peer: (PeerRef<'_>, u16),
    ) -> Vec<TlsRule> {
        let groups = self.sni_groups((endpoint, direction), peer);
        let (groups, _) = groups.unwrap_or_default();
        let mut found: Vec<TlsRule> = Vec::new();
        for group in &groups {
            // Those that are about the same peers and port are one rule, wherever its parts stand.
            let context = |of: fn(&L7) -> Option<&Arc<TlsContext>>| {
                let mut rules = group.rules.iter();
                rules.find_map(|(_, rule)| rule.l7.as_deref().and_then(of).cloned())
            };
            let terminating = context(|l7| l7.terminating_tls.as_ref());
            let originating = context(|l7| l7.originating_tls.as_ref());
            if terminating.is_none() && originating.is_none() {
                continue;
            }
            let names = group.rules.iter().flat_map(|(_, rule)| server_names(rule));
            let names: Vec<SniPattern> = names.cloned().collect();
            for (item, rule) in &group.rules {
                if rule.l7.is_none() {
                    continue;
                }
                let new = TlsRule {
                    rule: item.id(),
                    terminating: terminating.clone(),
                    originating: originating.clone(),
                    server_names: names.clone(),
                    named: group.pattern_in(item).map(|pattern| vec![pattern]),
                };
                let is_same = |one: &&mut TlsRule| {
                    let same_names = one.server_names == new.server_names;
                    one.rule == new.rule && same_names && one.is_like(&new)
                };
                match found.iter_mut().find(is_same) {
                    Some(one) => one.named.iter_mut().zip(new.named).for_each(|(all, more)| {
                        all.extend(more);
                    }),
                    None => found.push(new),
                }
            }
        }
        found
    }

    /// What applies to a connection, by peer selector and port; and the rules for all ports that do.
    fn sni_groups<'a>(
        &'a self,
        (endpoint, direction): (EndpointId, Direction),
        (peer, port): (PeerRef<'_>, u16),
    ) -> Option<(Vec<Group<'a>>, Vec<&'a CompiledItem>)> {
        let policy = self.endpoints.get(&endpoint)?;
        let known = self.known(peer);
        let applying = Self::applying((policy, direction), peer, port);
        let allowing = applying.iter();
        let allowing = allowing.filter(|(item, _)| item.item().effect != Effect::Deny);
        let open = allowing.filter(|(_, ports)| ports.is_empty());
        let open = open.map(|(item, _)| *item).collect();
        Some((groups_of(&applying, known.as_deref()), open))
    }

    /// Whether a port rule among these lets pass only what says a name, though it asks for none: wherever
    /// it selects the peer, another one with the same selector and port has `serverNames`.
    pub(super) fn needs_name<'a>(
        &self,
        applying: &[(&'a CompiledItem, Vec<usize>)],
        peer: PeerRef<'_>,
    ) -> impl Fn(&CompiledItem, &PortRule) -> bool + use<'a> {
        let mut rules = applying.iter().flat_map(port_rules);
        let judges = rules.any(|(_, rule)| !server_names(rule).is_empty());
        // Most connections have no such rule, and nothing is made for them.
        let known = judges.then(|| self.known(peer)).flatten();
        let groups = match judges {
            true => groups_of(applying, known.as_deref()),
            false => Vec::new(),
        };
        // What stands in a group, and whether that asks for names.
        let mut standing: Vec<(RuleId, &PortRule, bool)> = Vec::new();
        for Group { rules, judges, .. } in groups {
            standing.extend(rules.iter().map(|(item, rule)| (item.id(), *rule, judges)));
        }
        move |item, rule| {
            let is_own =
                |(id, one, _): &&(RuleId, &PortRule, bool)| *id == item.id() && ptr::eq(*one, rule);
            let mut own = standing.iter().filter(is_own).peekable();
            own.peek().is_some() && own.all(|(.., judges)| *judges)
        }
    }
}

fn port_rules<'a>(
    (item, ports): &(&'a CompiledItem, Vec<usize>),
) -> impl Iterator<Item = (&'a CompiledItem, &'a PortRule)> {
    let item = *item;
    let rules = ports
        .iter()
        .filter_map(|index| item.item().port_list().get(*index));
    rules.map(move |rule| (item, rule))
}

/// The port rules that allow something, joined.
fn groups_of<'a>(
    applying: &[(&'a CompiledItem, Vec<usize>)],
    known: Option<&Known>,
) -> Vec<Group<'a>> {
    let mut groups = Vec::new();
    let allowing = applying.iter();
    let allowing = allowing.filter(|(item, _)| item.item().effect != Effect::Deny);
    for (item, rule) in allowing.flat_map(port_rules) {
        for peer in selectors_of(item, known) {
            join(&mut groups, peer, (item, rule));
        }
    }
    groups
}

/// Port rules of one peer selector, protocol and port, whose names are joined.
struct Group<'a> {
    peer: PeerKey<'a>,
    rules: Vec<(&'a CompiledItem, &'a PortRule)>,
    judges: bool,
}

impl<'a> Group<'a> {
    /// The name or pattern that the peer is, as the item reads it.
    fn pattern_in(&self, item: &CompiledItem) -> Option<Pattern> {
        match (self.peer, &item.item().peers) {
            (PeerKey::Name(text), Peers::Named(names)) => names.pattern(text),
            _ => None,
        }
    }

    /// Those that let TLS pass as it came.
    fn passing(&self) -> impl Iterator<Item = &(&'a CompiledItem, &'a PortRule)> {
        self.rules.iter().filter(|(_, rule)| {
            let l7 = rule.l7.as_deref();
            l7.is_none_or(|l7| l7.terminating_tls.is_none())
        })
    }
}

fn join<'a>(
    groups: &mut Vec<Group<'a>>,
    peer: PeerKey<'a>,
    (item, rule): (&'a CompiledItem, &'a PortRule),
) {
    let judges = !server_names(rule).is_empty();
    let same = groups.iter_mut().find(|group| {
        let first = group.rules.first().map(|(_, first)| *first);
        group.peer == peer && first.is_some_and(|first| first.port == rule.port)
    });
    match same {
        Some(group) => {
            group.rules.push((item, rule));
            group.judges |= judges;
        }
        None => groups.push(Group {
            peer,
            rules: vec![(item, rule)],
            judges,
        }),
    }
}

fn server_names(rule: &PortRule) -> &[SniPattern] {
    let names = rule.l7.as_deref().map(|l7| &*l7.server_names);
    names.unwrap_or_default()
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
