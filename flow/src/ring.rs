//! The last flows, for readers of different speed.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::flow::Flow;
use crate::limits::RING_FLOWS_MAX;
use crate::lost::Losses;

/// The last flows, oldest first. Every flow has a place that never changes, so that a reader that was
/// overtaken learns how many it missed.
#[derive(Debug)]
pub struct Ring {
    flows: VecDeque<Arc<Flow>>,
    flows_max: usize,
    /// Flows pushed since the start; the place of the next one.
    seen: u64,
    before: Losses,
}

/// A reader's place: that of the next flow it has not read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cursor(u64);

/// What a reader gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// The flows, oldest first.
    pub flows: Vec<Arc<Flow>>,
    /// Where to go on.
    pub cursor: Cursor,
    /// Flows that went away between the reader's place and the first of these.
    pub lost: u64,
    /// What was lost before the ring since the start.
    pub before: Losses,
}

impl Default for Ring {
    fn default() -> Self {
        Self::new(RING_FLOWS_MAX)
    }
}

impl Ring {
    /// A ring that keeps this many flows, at least one.
    #[must_use]
    pub fn new(flows_max: usize) -> Self {
        Self {
            flows: VecDeque::new(),
            flows_max: flows_max.max(1),
            seen: 0,
            before: Losses::default(),
        }
    }

    /// Events were lost that would have become flows of it.
    pub fn lose(&mut self, more: Losses) {
        self.before = self.before.and(more);
    }

    /// What was lost before it since the start.
    #[must_use]
    pub const fn losses(&self) -> Losses {
        self.before
    }

    /// Adds a flow; beyond the bound the oldest goes.
    pub fn push(&mut self, flow: impl Into<Arc<Flow>>) {
        if self.flows.len() == self.flows_max {
            self.flows.pop_front();
        }
        self.flows.push_back(flow.into());
        self.seen += 1;
    }

    /// The place of the nth flow from the end that is wanted, or of the oldest where there are fewer.
    #[must_use]
    pub fn place_of_last(&self, n: u64, is_wanted: impl Fn(&Flow) -> bool) -> Cursor {
        let mut found = 0;
        for (at, flow) in self.flows.iter().enumerate().rev() {
            found += u64::from(is_wanted(flow));
            if found == n {
                return Cursor(self.start().0 + at as u64);
            }
        }
        self.start()
    }

    /// The place of the oldest flow.
    #[must_use]
    pub fn start(&self) -> Cursor {
        Cursor(self.seen - self.flows.len() as u64)
    }

    /// The place of the next flow to come.
    #[must_use]
    pub const fn end(&self) -> Cursor {
        Cursor(self.seen)
    }

    /// At most `max` flows from the cursor on. A reader that was overtaken goes on at the oldest.
    #[must_use]
    pub fn read_from(&self, cursor: Cursor, max: usize) -> Batch {
        let start = self.start();
        let from = cursor.clamp(start, self.end());
        let lost = from.0.saturating_sub(cursor.0);
        let skipped = usize::try_from(from.0 - start.0).unwrap_or(usize::MAX);
        let flows: Vec<_> = self.flows.iter().skip(skipped).take(max).cloned().collect();
        Batch {
            cursor: Cursor(from.0 + flows.len() as u64),
            flows,
            lost,
            before: self.before,
        }
    }

    /// How many flows are here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether no flow is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// How many flows can be here.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.flows_max
    }

    /// How many flows were ever pushed.
    #[must_use]
    pub const fn seen(&self) -> u64 {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drop_reason::DropReason;
    use crate::flow::Event;
    use crate::verdict::Verdict;

    fn flow(number: u8) -> Flow {
        Flow::new(
            Event::Drop {
                reason: DropReason::from_number(number),
            },
            Verdict::Dropped,
        )
    }

    fn numbers(flows: &[Arc<Flow>]) -> Vec<u8> {
        flows
            .iter()
            .filter_map(|flow| flow.drop_reason())
            .map(DropReason::number)
            .collect()
    }

    fn ring(flows_max: usize, pushed: u8) -> Ring {
        let mut ring = Ring::new(flows_max);
        for number in 0..pushed {
            ring.push(flow(number));
        }
        ring
    }

    #[test]
    fn ring_keeps_the_last_ones_only() {
        let ring = ring(3, 5);
        let last = |n| ring.read_from(ring.place_of_last(n, |_| true), 9).flows;
        assert_eq!(numbers(&last(2)), [3, 4]);
        assert_eq!(numbers(&last(9)), [2, 3, 4]);
        assert_eq!((ring.len(), ring.capacity(), ring.seen()), (3, 3, 5));
    }

    #[test]
    fn default_ring_ends_at_its_limit() {
        let mut ring = Ring::default();
        for _ in 0..=RING_FLOWS_MAX {
            ring.push(flow(1));
        }
        assert_eq!(
            (ring.len(), ring.seen()),
            (RING_FLOWS_MAX, RING_FLOWS_MAX as u64 + 1)
        );
        assert_eq!(ring.read_from(Cursor(0), 1).lost, 1);
    }

    #[test]
    fn follower_reads_in_steps_and_misses_nothing_when_it_keeps_up() {
        let mut ring = ring(4, 2);
        let first = ring.read_from(ring.start(), 1);
        assert_eq!((numbers(&first.flows), first.lost), (vec![0], 0));
        ring.push(flow(2));
        let second = ring.read_from(first.cursor, 9);
        assert_eq!((numbers(&second.flows), second.lost), (vec![1, 2], 0));
        assert_eq!(second.cursor, ring.end());
        let third = ring.read_from(second.cursor, 9);
        assert_eq!((numbers(&third.flows), third.lost), (vec![], 0));
    }

    #[test]
    fn lost_flows_are_counted_to_the_flow_and_only_once() {
        let mut ring = ring(3, 1);
        let cursor = ring.start();
        for number in 1..8 {
            ring.push(flow(number));
        }
        let read = ring.read_from(cursor, 2);
        assert_eq!((numbers(&read.flows), read.lost), (vec![5, 6], 5));
        let read = ring.read_from(read.cursor, 2);
        assert_eq!((numbers(&read.flows), read.lost), (vec![7], 0));
    }

    #[test]
    fn two_readers_of_different_speed_do_not_meet() {
        let mut ring = Ring::new(10);
        let (mut slow, mut fast) = (ring.start(), ring.start());
        let (mut slow_total, mut fast_total) = (0, 0);
        for number in 0..100 {
            ring.push(flow(number));
            let read = ring.read_from(fast, 10);
            assert_eq!(read.lost, 0);
            (fast, fast_total) = (read.cursor, fast_total + read.flows.len() as u64);
            if number % 25 == 24 {
                let read = ring.read_from(slow, 10);
                (slow, slow_total) = (
                    read.cursor,
                    slow_total + read.lost + read.flows.len() as u64,
                );
            }
        }
        assert_eq!((fast_total, slow_total), (100, 100));
    }

    #[test]
    fn cursor_past_the_end_waits_at_the_end() {
        let ring = ring(3, 2);
        let read = ring.read_from(Cursor(77), 5);
        assert_eq!(
            (read.flows.len(), read.cursor, read.lost),
            (0, ring.end(), 0)
        );
    }
}
