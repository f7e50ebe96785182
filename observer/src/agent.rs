//! The last things that the agent itself did, for readers of different speed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use flow::{AgentEvent, QueryError, Time};
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

/// Which agent events are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AgentQuery {
    /// How many; 0 for no limit. With `follow` it only says how far back to begin.
    pub number: u64,
    /// The oldest, not the newest.
    pub first: bool,
    /// And those that come.
    pub follow: bool,
    /// None before it.
    pub since: Option<Time>,
    /// None after it; the first one after it is the end.
    pub until: Option<Time>,
}

/// A query on its way through the agent's events.
#[derive(Debug)]
pub struct AgentReader {
    query: AgentQuery,
    /// Where it goes on; none before it has begun.
    place: Option<u64>,
    /// How many events are still wanted; none for no limit.
    left: Option<u64>,
    is_over: bool,
}

impl AgentReader {
    /// A reader that begins where its query says.
    ///
    /// # Errors
    /// A query that makes no sense.
    pub fn new(query: AgentQuery) -> Result<Self, QueryError> {
        if query.first && query.follow {
            return Err(QueryError::FirstWithFollow);
        }
        Ok(Self {
            query,
            place: None,
            left: (query.number > 0 && !query.follow).then_some(query.number),
            is_over: false,
        })
    }

    /// Whether nothing more is wanted.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.is_over
    }

    /// What is wanted of what came since.
    pub fn take(&mut self, ring: &AgentRing) -> Vec<(Time, Arc<AgentEvent>)> {
        if self.is_over {
            return Vec::new();
        }
        let (mut events, next) = ring.read_from(self.place.unwrap_or(0));
        if self.place.replace(next).is_none() {
            self.begin(&mut events);
        }
        let mut wanted = Vec::new();
        for (time, event) in events {
            self.is_over |= self.query.until.is_some_and(|until| time > until);
            if self.is_over {
                break;
            }
            wanted.push((time, event));
            if let Some(left) = &mut self.left {
                *left -= 1;
                self.is_over = *left == 0;
            }
        }
        self.is_over |= !self.query.follow;
        wanted
    }

    /// Of what is there, what it begins with.
    fn begin(&self, events: &mut Vec<(Time, Arc<AgentEvent>)>) {
        let AgentQuery {
            number,
            first,
            follow,
            since,
            ..
        } = self.query;
        if let Some(since) = since {
            events.retain(|(time, _)| *time >= since);
        } else if !first && (number > 0 || follow) {
            let number = usize::try_from(number).unwrap_or(usize::MAX);
            events.drain(..events.len().saturating_sub(number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times of the events that a query gives of events at 1, 2, 3, 4 and 5.
    fn times(query: AgentQuery) -> Vec<i128> {
        let ring = AgentRing::default();
        for nanos in 1..=5 {
            ring.push(Time::from_unix_nanos(nanos), AgentEvent::Started);
        }
        let mut reader = AgentReader::new(query).unwrap();
        let events = reader.take(&ring);
        assert_eq!(reader.is_over(), !query.follow);
        events.iter().map(|(time, _)| time.unix_nanos()).collect()
    }

    #[test]
    fn where_a_reader_begins_and_ends_is_by_hubbles_rules() {
        let none = AgentQuery::default;
        let at = |nanos| Some(Time::from_unix_nanos(nanos));
        let number = |number| AgentQuery { number, ..none() };
        assert_eq!(times(none()), [1, 2, 3, 4, 5]);
        assert_eq!(times(number(2)), [4, 5]);
        let first = true;
        assert_eq!(times(AgentQuery { first, ..number(2) }), [1, 2]);
        let since = at(3);
        assert_eq!(times(AgentQuery { since, ..none() }), [3, 4, 5]);
        assert_eq!(times(AgentQuery { since, ..number(2) }), [3, 4]);
        let until = at(3);
        assert_eq!(times(AgentQuery { until, ..none() }), [1, 2, 3]);
        assert_eq!(times(AgentQuery { until, ..number(2) }), [0; 0]);
        let follow = true;
        assert_eq!(times(AgentQuery { follow, ..none() }), [0; 0]);
        assert_eq!(
            times(AgentQuery {
                follow,
                ..number(1)
            }),
            [5]
        );
        let both = AgentQuery {
            first,
            follow,
            ..none()
        };
        assert!(AgentReader::new(both).is_err());
    }

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
