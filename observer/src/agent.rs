//! What the agent itself did: policies, endpoints, addresses.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use flow::Time;
use tokio::sync::Notify;

use crate::limits::AGENT_EVENTS_MAX;

/// Something that the agent did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AgentEvent {
    /// It started.
    Started,
    /// Another set of policies is in force.
    PolicyUpdated {
        /// Labels of the policies that changed.
        labels: Vec<Arc<str>>,
        /// The revision of the set.
        revision: u64,
        /// Rules in it.
        rule_count: i64,
    },
    /// An endpoint is guarded from now on.
    EndpointCreated(AgentEndpoint),
    /// An endpoint is guarded no longer.
    EndpointDeleted(AgentEndpoint),
    /// A prefix has another identity.
    IpcacheUpserted {
        /// The prefix.
        cidr: String,
        /// Its identity.
        identity: u32,
        /// The one that it had.
        old_identity: Option<u32>,
    },
    /// A prefix has no identity any more.
    IpcacheDeleted {
        /// The prefix.
        cidr: String,
        /// The one that it had.
        identity: u32,
    },
}

/// An endpoint, as agent events tell it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AgentEndpoint {
    /// Its number.
    pub id: u64,
    /// `source:key=value`.
    pub labels: Vec<Arc<str>>,
    /// Its pod.
    pub pod_name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
}

/// The last agent events.
#[derive(Debug, Default)]
pub struct AgentRing {
    state: Mutex<State>,
    pub(crate) more: Notify,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<(Time, AgentEvent)>,
    seen: u64,
}

impl AgentRing {
    /// Adds an event; beyond [`AGENT_EVENTS_MAX`] the oldest goes.
    pub fn push(&self, time: Time, event: AgentEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.events.len() == AGENT_EVENTS_MAX {
            state.events.pop_front();
        }
        state.events.push_back((time, event));
        state.seen += 1;
        drop(state);
        self.more.notify_waiters();
    }

    /// The events from a place on, and the next place.
    #[must_use]
    pub fn read_from(&self, place: u64) -> (Vec<(Time, AgentEvent)>, u64) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let start = state.seen - state.events.len() as u64;
        let skipped = usize::try_from(place.saturating_sub(start)).unwrap_or(usize::MAX);
        let events = state.events.iter().skip(skipped).cloned().collect();
        (events, state.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_bound_the_oldest_goes() {
        let ring = AgentRing::default();
        for number in 0..=AGENT_EVENTS_MAX {
            let time = Time::from_unix_nanos(i128::try_from(number).unwrap());
            ring.push(time, AgentEvent::Started);
        }
        let (events, next) = ring.read_from(0);
        assert_eq!(events.len(), AGENT_EVENTS_MAX);
        assert_eq!(events[0].0, Time::from_unix_nanos(1));
        assert_eq!(next, AGENT_EVENTS_MAX as u64 + 1);
        assert_eq!(ring.read_from(next).0.len(), 0);
    }
}
