//! What a reader of the ring wants: where to begin, what to leave out, when to end. As Hubble's Observer
//! has it, to the order of the rules.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::filter::Filter;
use crate::flow::Flow;
use crate::lost::{Losses, LostEvents};
use crate::ring::{Batch, Cursor, Ring};
use crate::time::Time;

/// Which flows of a ring are wanted.
#[derive(Clone, Default, Debug)]
pub struct Query {
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
    /// Which of them.
    pub filter: Filter,
}

/// A query that makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QueryError {
    /// What is first never changes.
    #[error("first cannot be specified with follow")]
    FirstWithFollow,
}

/// A query on its way through the ring.
#[derive(Debug)]
pub struct Reader {
    query: Query,
    cursor: Cursor,
    /// How many flows are still wanted; none for no limit.
    left: Option<u64>,
    is_over: bool,
    lost: u64,
    /// What was lost before the ring, as far as it was taken in; and of that what is still to be told.
    before: Losses,
    untold: Losses,
    /// When it was first and last found that something was lost that is still to be told.
    found: Option<(Time, Time)>,
    told_at: Option<Instant>,
}

/// How often a reader is told of lost events.
pub const LOST_EVENTS_INTERVAL: Duration = Duration::from_secs(1);

impl Query {
    /// Whether the rules of time and the filter let a flow pass.
    #[must_use]
    pub fn wants(&self, flow: &Flow) -> bool {
        let is_early = self.since.is_some_and(|since| flow.time < Some(since));
        !is_early && self.filter.matches(flow)
    }

    /// Whether a flow is after the last that may be wanted.
    #[must_use]
    pub fn is_past(&self, flow: &Flow) -> bool {
        self.until.is_some_and(|until| flow.time > Some(until))
    }
}

impl Reader {
    /// A reader that begins where its query says, among what the ring holds.
    ///
    /// # Errors
    ///
    /// See [`QueryError`].
    pub fn new(query: Query, ring: &Ring) -> Result<Self, QueryError> {
        if query.first && query.follow {
            return Err(QueryError::FirstWithFollow);
        }
        let left = (query.number > 0 && !query.follow).then_some(query.number);
        Ok(Self {
            cursor: begin(&query, ring),
            left,
            query,
            is_over: false,
            lost: 0,
            before: ring.losses(),
            untold: Losses::default(),
            found: None,
            told_at: None,
        })
    }

    /// Where it goes on.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Whether it waits for what comes.
    #[must_use]
    pub const fn follows(&self) -> bool {
        self.query.follow
    }

    /// Whether nothing more is wanted.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Takes what was read at its cursor at this time of day, and gives what is wanted of it.
    pub fn take(&mut self, batch: Batch, at: Time) -> Vec<Arc<Flow>> {
        self.cursor = batch.cursor;
        self.lost += batch.lost;
        if batch.lost > 0 || batch.before != self.before {
            let first = self.found.map_or(at, |(first, _)| first);
            self.found = Some((first, at));
        }
        self.untold = self.untold.and(batch.before.since(self.before));
        self.before = batch.before;
        let mut wanted = Vec::new();
        for flow in batch.flows {
            if self.is_over || self.query.is_past(&flow) {
                self.is_over = true;
                break;
            }
            if !self.query.wants(&flow) {
                continue;
            }
            wanted.push(flow);
            if let Some(left) = &mut self.left {
                *left -= 1;
                self.is_over = *left == 0;
            }
        }
        wanted
    }

    /// What was lost since this was last told, by where, at most once in [`LOST_EVENTS_INTERVAL`]. Filters never
    /// hide it. Of what was lost before the ring, the reader is told what was lost since it began.
    pub fn lost(&mut self, now: Instant) -> Vec<LostEvents> {
        let is_due = self
            .told_at
            .is_none_or(|at| now.saturating_duration_since(at) >= LOST_EVENTS_INTERVAL);
        let is_nothing = self.lost == 0 && self.untold == Losses::default();
        if is_nothing || !is_due {
            return Vec::new();
        }
        self.told_at = Some(now);
        self.rest_lost()
    }

    /// The same at the end, whenever it was last told.
    pub fn rest_lost(&mut self) -> Vec<LostEvents> {
        let in_ring = std::mem::take(&mut self.lost);
        let in_ring = (in_ring > 0).then(|| LostEvents::in_ring(in_ring));
        let before = std::mem::take(&mut self.untold).events();
        let (first, last) = self.found.take().unzip();
        let found = |lost: LostEvents| LostEvents {
            first,
            last,
            ..lost
        };
        before.chain(in_ring).map(found).collect()
    }
}

fn begin(query: &Query, ring: &Ring) -> Cursor {
    let has_number = query.number > 0;
    match (query.first, query.since) {
        (_, Some(_)) | (true, None) => ring.start(),
        (false, None) if query.follow && !has_number => ring.end(),
        (false, None) if !has_number => ring.start(),
        (false, None) => ring.place_of_last(query.number, |flow| query.wants(flow)),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a start for a made-up clock")]
mod tests {
    use super::*;
    use crate::lost::LostSource;

    #[test]
    fn what_was_lost_before_the_ring_is_told_since_the_reader_began_once_a_second() {
        let mut ring = Ring::new(4);
        let lose = |ring: &mut Ring, kernel, queue| ring.lose(Losses { kernel, queue });
        lose(&mut ring, 100, 100);
        let query = Query {
            follow: true,
            ..Query::default()
        };
        let mut reader = Reader::new(query, &ring).unwrap();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut told = |ring: &Ring, millis| {
            let batch = ring.read_from(reader.cursor(), 8);
            let time = Time::from_unix_nanos(i128::from(millis));
            assert!(reader.take(batch, time).is_empty());
            let lost = reader.lost(at(millis)).into_iter();
            let millis = |time: Option<Time>| time.unwrap().unix_nanos();
            lost.map(|lost| {
                let found = (millis(lost.first), millis(lost.last));
                (lost.source, lost.count, found)
            })
            .collect::<Vec<_>>()
        };
        assert_eq!(told(&ring, 0), []);
        lose(&mut ring, 3, 0);
        let (kernel, queue) = (
            LostSource::PERF_EVENT_RING_BUFFER,
            LostSource::OBSERVER_EVENTS_QUEUE,
        );
        assert_eq!(told(&ring, 1), [(kernel, 3, (1, 1))]);
        lose(&mut ring, 1, 2);
        assert_eq!(told(&ring, 500), []);
        lose(&mut ring, 1, 0);
        assert_eq!(told(&ring, 900), []);
        let found = (500, 900);
        assert_eq!(told(&ring, 1_001), [(kernel, 2, found), (queue, 2, found)]);
        assert_eq!(told(&ring, 3_000), []);
    }

    #[test]
    fn a_reader_that_ends_is_told_of_what_it_lost_since_it_was_told_last() {
        let mut ring = Ring::new(1);
        let flow = || {
            let reason = crate::DropReason::POLICY_DENIED;
            Flow::new(crate::Event::Drop { reason }, crate::Verdict::Dropped)
        };
        ring.push(flow());
        let mut reader = Reader::new(Query::default(), &ring).unwrap();
        let now = Instant::now();
        let mut counts = Vec::new();
        for round in 1..=2 {
            (0..round + 1).for_each(|_| ring.push(flow()));
            let batch = ring.read_from(reader.cursor(), 8);
            let wanted = reader.take(batch, Time::from_unix_nanos(round));
            assert_eq!(wanted.len(), 1);
            counts.push(reader.lost(now).iter().map(|lost| lost.count).sum::<u64>());
        }
        assert_eq!(counts, [2, 0], "once a second");
        let rest = reader.rest_lost();
        assert_eq!(rest.len(), 1, "{rest:?}");
        assert_eq!(rest[0].count, 2);
        assert_eq!(rest[0].first, Some(Time::from_unix_nanos(2)));
        assert_eq!(reader.rest_lost(), []);
    }
}
