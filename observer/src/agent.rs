//! The last things that the agent itself did, for readers of different speed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use flow::{AgentEvent, Time};
use tokio::sync::Notify;

use crate::limits::AGENT_EVENTS_MAX;

/// The last agent events.
#[derive(Debug, Default)]
pub struct AgentRing {
    state: Mutex<State>,
    pub(crate) more: Notify,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<(Time, Arc<AgentEvent>)>,
    seen: u64,
}

impl AgentRing {
    /// Adds an event; beyond [`AGENT_EVENTS_MAX`] the oldest goes.
    pub fn push(&self, time: Time, event: impl Into<Arc<AgentEvent>>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.events.len() == AGENT_EVENTS_MAX {
            state.events.pop_front();
        }
        state.events.push_back((time, event.into()));
        state.seen += 1;
        drop(state);
        self.more.notify_waiters();
    }

    /// The events from a place on, and the next place.
    #[must_use]
    pub fn read_from(&self, place: u64) -> (Vec<(Time, Arc<AgentEvent>)>, u64) {
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
