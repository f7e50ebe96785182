//! Which flows of the kernel's table live on: none for ever, and none on an allow that is gone.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;

use bpf_redirect::Table;
use bpf_redirect_common::{CtKey, CtValue, EGRESS, Verdict};
use policy::{
    Decision, Direction, EndpointId, EntryVerdict, FlowKey, Identity, L4Protocol, RuleId, Snapshot,
};

use crate::learner::Learner;

/// How long a TCP flow may be silent; then its entry goes, and a later packet is judged anew.
const TCP_IDLE_NS: u64 = 6 * 3_600 * SECOND_NS;
/// How long a TCP flow that was never answered is remembered.
const TCP_UNANSWERED_NS: u64 = 60 * SECOND_NS;
/// How long a closed TCP flow is remembered, for late segments.
const TCP_CLOSED_NS: u64 = 10 * SECOND_NS;
/// How long a redirected one may be silent: the proxy asks after 300 s whether its peers live, and of its
/// connections not every end is seen.
const REDIRECTED_IDLE_NS: u64 = 900 * SECOND_NS;
/// How long any other flow may be silent; QUIC's usual idle time-out.
const OTHER_IDLE_NS: u64 = 180 * SECOND_NS;
const SECOND_NS: u64 = 1_000_000_000;
const TCP: u8 = 6;

/// Whether a flow's entry has outlived its time.
pub(crate) fn is_over(key: &CtKey, value: &CtValue, now: u64) -> bool {
    let limit = if key.protocol != TCP {
        OTHER_IDLE_NS
    } else if value.state & CtValue::CLOSED == CtValue::CLOSED {
        TCP_CLOSED_NS
    } else if value.state & CtValue::ANSWERED == 0 {
        TCP_UNANSWERED_NS
    } else if value.verdict == Verdict::Redirect as u8 {
        match value.state & CtValue::CLOSED {
            0 => REDIRECTED_IDLE_NS,
            _ => TCP_UNANSWERED_NS,
        }
    } else {
        TCP_IDLE_NS
    };
    value.silent_ns(now) > limit
}

/// Judges flows that were judged under an older policy.
pub(crate) struct Review<'a, T> {
    learner: &'a Learner<T>,
    snapshot: &'a Snapshot,
    /// Many flows are alike.
    judged: RefCell<HashMap<(EndpointId, FlowKey), Option<Decision>>>,
}

impl<'a, T: Table> Review<'a, T> {
    pub(crate) fn new(learner: &'a Learner<T>, snapshot: &'a Snapshot) -> Self {
        Self {
            learner,
            snapshot,
            judged: RefCell::default(),
        }
    }

    /// Whether policy lets a flow live no longer: its next packet is judged as a new one, and told.
    ///
    /// A name's time may have run out since; the connection lives on, as long as the rule stands that
    /// let it be opened, and no rule denies it.
    pub(crate) fn ends(&self, key: &CtKey, value: &CtValue) -> bool {
        let Some(endpoint) = EndpointId::new(key.endpoint) else {
            return false;
        };
        if self
            .snapshot
            .enforcement(endpoint, Direction::Egress)
            .is_none()
        {
            return false; // it is not under this snapshot yet, or not any more
        }
        let (direction, port) = match value.direction {
            EGRESS => (Direction::Egress, u16::from_be(key.peer_port)),
            _ => (Direction::Ingress, u16::from_be(key.local_port)),
        };
        let peer = IpAddr::from(key.peer);
        let frontend = match (value.direction, L4Protocol::from_number(key.protocol)) {
            (EGRESS, Some(protocol)) => self.snapshot.frontend((peer, port).into(), protocol),
            _ => None,
        };
        if frontend.is_some_and(|one| one.only == Some(endpoint)) {
            return false;
        }
        let port = frontend.map_or(port, |one| one.frontend.target);
        let flow = |identity| FlowKey {
            direction,
            identity,
            protocol: key.protocol,
            port, // of an echo the request's type stands there
        };
        let learned = self
            .learner
            .with_knowledge(endpoint, |knowledge| knowledge.ledger.identity_of(key.peer));
        let learned = learned.flatten().map(Identity::from_number);
        let now = match frontend {
            Some(one) => one.identity,
            None => learned.unwrap_or_else(|| self.snapshot.identity_of(peer)),
        };
        let is_redirected = value.verdict == Verdict::Redirect as u8;
        let lives = |decision: &Decision| {
            let is_redirect = matches!(decision.verdict, EntryVerdict::Redirect(_));
            decision.verdict.passes() && (is_redirected || !is_redirect)
        };
        let now = self.judge(endpoint, flow(now));
        match now {
            Some(now) if lives(&now) => return false,
            Some(now) if now.drop_reason() != Some(133) => return true,
            Some(_) | None => {}
        }
        match self.judge(endpoint, flow(Identity::from_number(value.identity))) {
            Some(then) => !lives(&then),
            None => self
                .snapshot
                .rule(RuleId::from_number(value.rule))
                .is_none(),
        }
    }

    /// `None` for an identity that nobody knows any more.
    fn judge(&self, endpoint: EndpointId, flow: FlowKey) -> Option<Decision> {
        let mut judged = self.judged.borrow_mut();
        let judge = || {
            if self.snapshot.labels_of(flow.identity).is_some() {
                return Some(self.snapshot.judge(endpoint, flow));
            }
            let labels = self
                .learner
                .with_identities(|identities| identities.past_labels_of(flow.identity).cloned())?;
            Some(self.snapshot.judge_learned(endpoint, &labels, flow))
        };
        *judged.entry((endpoint, flow)).or_insert_with(judge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf_redirect_common::Address;

    fn flow(protocol: u8, state: u8, age_secs: u64) -> bool {
        judged((protocol, Verdict::Allow), state, age_secs)
    }

    fn judged((protocol, verdict): (u8, Verdict), state: u8, age_secs: u64) -> bool {
        let key = CtKey {
            endpoint: 1,
            local_port: 1,
            peer_port: 1,
            local: Address::NONE,
            peer: Address::NONE,
            protocol,
            asker: 0,
            reserved: 0,
        };
        let now = 1_000_000 * SECOND_NS;
        let value = CtValue {
            last_seen: CtValue::seen_at(now - age_secs * SECOND_NS),
            identity: 0,
            rule: 0,
            verdict: verdict as u8,
            state,
            direction: EGRESS,
            flags: 0,
            ticks: [0; 2],
        };
        is_over(&key, &value, now)
    }

    #[test]
    fn flows_are_remembered_as_long_as_their_state_says() {
        // When a packet was seen is kept in units of 17 ms.
        for (protocol, state, lives, over) in [
            (TCP, CtValue::ANSWERED, 6 * 3_600, 6 * 3_600 + 1),
            (TCP, 0, 60, 61),
            (TCP, CtValue::CLOSED | CtValue::ANSWERED, 10, 11),
            (
                TCP,
                CtValue::ANSWERED | CtValue::LOCAL_CLOSED,
                3_600,
                6 * 3_600 + 1,
            ),
            (17, 0, 180, 181),
            (1, CtValue::ANSWERED, 180, 181),
        ] {
            assert!(!flow(protocol, state, lives - 1), "{protocol} {state}");
            assert!(flow(protocol, state, over), "{protocol} {state}");
        }
        for (state, lives, over) in [
            (CtValue::ANSWERED, 900, 901),
            (CtValue::ANSWERED | CtValue::LOCAL_CLOSED, 60, 61),
            (0, 60, 61),
            (CtValue::ANSWERED | CtValue::CLOSED, 10, 11),
        ] {
            let redirected = |age| judged((TCP, Verdict::Redirect), state, age);
            assert!(!redirected(lives - 1) && redirected(over), "{state}");
        }
    }
}
