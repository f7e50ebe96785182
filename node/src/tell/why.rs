//! Why an address is closed that a name could have opened.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bpf_redirect_common::{EGRESS, Event as KernelEvent};
use dnsproxy::{Outcome, Told};
use flow::DropReason;
use policy::{Direction, EndpointId, FlowKey, Identity};

use super::Teller;
use crate::clock;

/// What names say of an address that no rule opens.
#[derive(Default)]
pub(super) struct Closed {
    /// The last names that the endpoint knew for it.
    pub(super) names: Vec<Arc<str>>,
    pub(super) remark: Option<Arc<str>>,
}

impl Teller {
    /// Why a flow was denied that names could have opened: their time ended, or nobody asked for them.
    /// Nothing is said where other names of the address live, or none could open it.
    pub(super) fn why_closed(&self, event: &KernelEvent) -> Closed {
        let is_unmatched = DropReason::from_number(event.reason) == DropReason::POLICY_DENIED;
        let Some(endpoint) = EndpointId::new(event.endpoint) else {
            return Closed::default();
        };
        let address = IpAddr::from(event.destination);
        let snapshot = self.learner.snapshot();
        if !is_unmatched
            || event.direction != EGRESS
            || !snapshot.opens_by_name(endpoint)
            || snapshot.may_learn(address).is_err()
        {
            return Closed::default();
        }
        let closed = self.learner.with_knowledge(endpoint, |knowledge| {
            if knowledge.cache.names_of(address).next().is_some() {
                return Closed::default();
            }
            let ended = knowledge.cache.ended(address);
            let Some((last, end)) = ended.first() else {
                return Closed {
                    names: Vec::new(),
                    remark: Some(NEVER_RESOLVED.into()),
                };
            };
            let names = ended.iter().map(|(name, _)| *name);
            let labels = snapshot.learned_labels(endpoint, names, address);
            let flow = FlowKey {
                direction: Direction::Egress,
                identity: Identity::from_number(event.identity),
                protocol: event.protocol,
                port: u16::from_be(event.destination_port),
            };
            let was_open = snapshot
                .judge_learned(endpoint, &labels, flow)
                .verdict
                .passes();
            let ago = clock::now().saturating_duration_since(*end).as_secs();
            let remark = || format!("{NAME_EXPIRED}: {} ended {ago} s ago", text(last)).into();
            Closed {
                names: ended.iter().map(|(name, _)| text(name)).collect(),
                remark: was_open.then(remark),
            }
        });
        closed.unwrap_or_default()
    }

    /// Counts how long an exchange took, if its client was told something, or was to wait in vain.
    pub(super) fn count_exchange(&self, told: &Told) {
        let exchanges = &self.learner.counts.exchanges;
        let times = match &told.outcome {
            Outcome::Answered(_) => &exchanges.answered,
            Outcome::Denied { .. } => &exchanges.denied,
            Outcome::Timeout { .. } => &exchanges.late,
            Outcome::ServFail(_) => &exchanges.faulty,
            Outcome::Malformed(_)
            | Outcome::Local(_)
            | Outcome::Superseded
            | Outcome::ClientGone
            | Outcome::EndpointGone
            | Outcome::Abandoned => return,
        };
        if let Some(latency) = told.latency {
            times.note(latency);
        }
    }

    /// Why an answer opened nothing, or not all that it names.
    pub(super) fn why_unlearned(&self, told: &Told) -> Option<Arc<str>> {
        let Outcome::Answered(answer) = &told.outcome else {
            return None;
        };
        let origin = told.origin;
        let asked = (origin.endpoint, origin.server, origin.protocol);
        let addresses = answer.addresses.iter().map(|learned| learned.ip);
        let why = self.learner.why_unlearned(asked, addresses);
        why.map(Arc::from)
    }

    /// Counts a denial of what a name had opened.
    pub(super) fn count_closed(&self, remark: Option<&Arc<str>>) {
        if remark.is_some_and(|remark| remark.starts_with(NAME_EXPIRED)) {
            let count = &self.learner.counts.name_expired;
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A name as flows tell it.
pub(super) fn text(name: &fqdn::Name) -> Arc<str> {
    let text = name.to_string();
    text.strip_suffix('.').unwrap_or(&text).into()
}

/// The name that would have let it pass has ended.
const NAME_EXPIRED: &str = "name-expired";
/// The endpoint never learned a name of this address, as far as is remembered.
const NEVER_RESOLVED: &str = "never-resolved";
