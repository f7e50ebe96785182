//! What of a connection's rules is bound to names, and TLS judged by it.

use std::sync::Arc;

use super::endpoint::EndpointPolicy;
use super::{HttpAccess, PeerRef, Snapshot, SniDecision};
use crate::binding::name_in;
use crate::{Bound, Direction, EndpointId, NameBinding, RuleId, TlsDenied, TlsPermit};

/// The rules of a connection that allow only what is called by a name, and the names.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Rules without an L7 part.
    open: Vec<(RuleId, NameBinding)>,
    /// All `toFQDNs` of this endpoint that are about this port of TCP; absent where nothing is bound.
    allowed: Option<(Arc<EndpointPolicy>, u16)>,
}

impl Names {
    /// A rule lets everything pass that is called by a name.
    pub(super) fn open(&mut self, rule: RuleId, binding: NameBinding) {
        self.open.push((rule, binding));
    }

    /// Once all rules are known: whether one of them is bound, and whether another one opens all.
    pub(super) fn bind(
        &mut self,
        (is_bound, is_opened): (bool, bool),
        policy: &Arc<EndpointPolicy>,
        port: u16,
    ) {
        match is_opened {
            true => self.open.clear(),
            false if is_bound => {
                self.allowed = Some((Arc::clone(policy), port));
            }
            false => {}
        }
    }

    /// Whether something is bound.
    pub(super) fn is_bound(&self) -> bool {
        self.allowed.is_some()
    }

    pub(super) fn opens_by(&self, rule: RuleId) -> bool {
        self.open.iter().any(|(of, _)| *of == rule)
    }

    /// The rule without an L7 part that is bound least strictly.
    pub(super) fn weakest(&self) -> Option<(RuleId, NameBinding)> {
        self.open
            .iter()
            .min_by_key(|(_, binding)| *binding)
            .copied()
    }

    /// The rule that opens what is bound at most so strictly.
    pub(super) fn open_at(&self, most: NameBinding) -> Option<RuleId> {
        let weakest = self.weakest().filter(|(_, binding)| *binding <= most);
        weakest.map(|(rule, _)| rule)
    }

    /// Whether a server name or host is one of the names; nothing is bound to nothing.
    pub(super) fn hold(&self, host: Option<&str>) -> bool {
        let Some((policy, port)) = &self.allowed else {
            return true;
        };
        let name = host.and_then(name_in);
        name.is_some_and(|name| policy.may_be_named(&name, *port))
    }
}

impl Snapshot {
    /// The proof that a TLS connection may go on, by the name that its client says (`None`: it says
    /// none), if it may. `access` is that of the same connection.
    ///
    /// # Errors
    /// Why it may not.
    #[expect(clippy::too_many_arguments, reason = "what a connection is known by")]
    pub fn permit_tls(
        &self,
        at: (EndpointId, Direction),
        to: (PeerRef<'_>, u16),
        access: &HttpAccess,
        name: Option<&str>,
    ) -> Result<TlsPermit, TlsDenied> {
        let judge = |most, opened| match (self.sni_by_bindings(at, to, (name, most)), opened) {
            (SniDecision::Allowed(Some(rule)), _)
            | (SniDecision::Allowed(None), Some(rule))
            | (SniDecision::Denied, Some(rule @ RuleId::NONE)) => Ok(rule),
            (SniDecision::Denied, _) => Err(TlsDenied::Name),
            (SniDecision::Allowed(None), None) => Err(TlsDenied::Requests),
        };
        let fits = access.names.hold(name);
        let bound = access.names.is_bound();
        for mode in NameBinding::ALL.into_iter().filter(|_| bound) {
            match judge(mode, access.opened_at(mode)) {
                Ok(_) if mode == NameBinding::Enforce && !fits => return Err(TlsDenied::NotBound),
                Ok(rule) => return Ok(TlsPermit::new(rule, Bound::found(mode, fits))),
                Err(_) => {}
            }
        }
        let rule = judge(NameBinding::Enforce, access.opened_by())?;
        Ok(TlsPermit::new(rule, None))
    }
}
