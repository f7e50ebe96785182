//! Flows that are alike in some fields: counted, and told once in each interval.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flow::{Direction, FieldMask, Flow, Time};

use crate::limits::GROUPS_MAX;

/// Which flows are alike, and how often they are told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Aggregate {
    /// Flows whose fields of these are equal are alike.
    pub fields: FieldMask,
    /// How long they are counted before they are told.
    pub interval: Duration,
}

/// The flows of an interval.
pub(super) struct Groups<'a> {
    by: &'a Aggregate,
    /// By the fields that are equal, as JSON.
    groups: BTreeMap<String, Group>,
    /// When they are told, in nanoseconds of Unix' time.
    due: i128,
}

struct Group {
    /// The last of them stands for all.
    last: Arc<Flow>,
    /// How many went in, went out, and of how many that is not known.
    counts: [u32; 3],
}

impl<'a> Groups<'a> {
    pub(super) fn new(by: &'a Aggregate, now: Time) -> Self {
        Self {
            by,
            groups: BTreeMap::new(),
            due: now.unix_nanos() + nanos(by.interval),
        }
    }

    /// How long nothing is to be told yet. A clock that is set back doesn't make an interval longer.
    pub(super) fn wait(&mut self, now: Time) -> Duration {
        let now = now.unix_nanos();
        self.due = self.due.min(now + nanos(self.by.interval));
        let left = u64::try_from(self.due - now).unwrap_or(0);
        Duration::from_nanos(left)
    }

    /// Counts a flow; gives back one that is told by itself, since there are [`GROUPS_MAX`] groups without it.
    pub(super) fn take(&mut self, flow: Arc<Flow>) -> Option<Flow> {
        let mut key = String::new();
        flow.write_wanted_json(&self.by.fields, &mut key);
        let is_full = self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&key);
        if is_full {
            let mut one = Group::of(flow);
            one.count();
            return Some(one.told());
        }
        let group = self.groups.entry(key);
        let group = group.or_insert_with(|| Group::of(Arc::clone(&flow)));
        group.last = flow;
        group.count();
        None
    }

    /// Tells one flow of each group, in the order of what is equal in them, and begins anew.
    pub(super) fn tell(&mut self, now: Time, mut tell: impl FnMut(&Flow)) {
        for group in std::mem::take(&mut self.groups).into_values() {
            tell(&group.told());
        }
        self.due = now.unix_nanos() + nanos(self.by.interval);
    }
}

impl Group {
    const fn of(last: Arc<Flow>) -> Self {
        let counts = [0; 3];
        Self { last, counts }
    }

    /// Counts its last flow.
    fn count(&mut self) {
        let [inbound, outbound, unknown] = &mut self.counts;
        let count = match self.last.traffic_direction {
            Direction::Ingress => inbound,
            Direction::Egress => outbound,
            Direction::Unknown => unknown,
        };
        *count = count.saturating_add(1);
    }

    fn told(self) -> Flow {
        let mut flow = Arc::unwrap_or_clone(self.last);
        let mut foreign = flow.foreign.take().unwrap_or_default();
        foreign.aggregate = Some(self.counts);
        flow.foreign = Some(foreign);
        flow
    }
}

fn nanos(interval: Duration) -> i128 {
    i128::try_from(interval.as_nanos()).unwrap_or(i128::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flow::{DropReason, Event, Verdict};

    fn flow(number: u8, direction: Direction, at: i128) -> Arc<Flow> {
        let reason = DropReason::from_number(number);
        Arc::new(Flow {
            traffic_direction: direction,
            time: Some(Time::from_unix_nanos(at)),
            ..Flow::new(Event::Drop { reason }, Verdict::Dropped)
        })
    }

    fn by(paths: &[&str]) -> Aggregate {
        Aggregate {
            fields: FieldMask::new(paths.iter().copied()).unwrap(),
            interval: Duration::from_secs(10),
        }
    }

    fn told(groups: &mut Groups<'_>, at: i128) -> Vec<(u8, i128, [u32; 3])> {
        let mut told = Vec::new();
        groups.tell(Time::from_unix_nanos(at), |flow| {
            let number = flow.drop_reason().unwrap().number();
            let counts = flow.foreign.as_ref().unwrap().aggregate.unwrap();
            told.push((number, flow.time.unwrap().unix_nanos(), counts));
        });
        told
    }

    #[test]
    fn what_is_equal_in_the_fields_is_told_once_with_the_count_of_each_direction() {
        let by = by(&["event_type"]);
        let mut groups = Groups::new(&by, Time::from_unix_nanos(0));
        for (number, direction, at) in [
            (181, Direction::Egress, 1),
            (133, Direction::Ingress, 2),
            (133, Direction::Egress, 3),
            (133, Direction::Egress, 4),
            (133, Direction::Unknown, 5),
        ] {
            assert!(groups.take(flow(number, direction, at)).is_none());
        }
        let expected = [(133, 5, [1, 2, 1]), (181, 1, [0, 1, 0])];
        assert_eq!(told(&mut groups, 10), expected);
        assert_eq!(told(&mut groups, 20), [], "it began anew");
    }

    #[test]
    fn an_interval_is_no_longer_than_it_is_though_the_clock_is_set_back() {
        let by = by(&["verdict"]);
        let at = |secs: i128| Time::from_unix_nanos(secs * 1_000_000_000);
        let mut groups = Groups::new(&by, at(1_000));
        assert_eq!(groups.wait(at(1_004)), Duration::from_secs(6));
        assert_eq!(groups.wait(at(500)), Duration::from_secs(10));
        assert_eq!(groups.wait(at(510)), Duration::ZERO);
        groups.tell(at(511), |_| {});
        assert_eq!(groups.wait(at(511)), Duration::from_secs(10));
    }

    #[test]
    fn beyond_the_bound_a_flow_is_told_by_itself() {
        let by = by(&["time"]);
        let mut groups = Groups::new(&by, Time::from_unix_nanos(0));
        let at = |number: usize| i128::try_from(number).unwrap();
        for number in 0..GROUPS_MAX {
            let one = flow(133, Direction::Egress, at(number));
            assert!(groups.take(one).is_none());
        }
        let one = groups.take(flow(133, Direction::Ingress, at(GROUPS_MAX)));
        let aggregate = one.unwrap().foreign.unwrap().aggregate;
        assert_eq!(aggregate, Some([1, 0, 0]));
        // Those that are there still count.
        assert!(groups.take(flow(133, Direction::Egress, 7)).is_none());
        let told = told(&mut groups, 10);
        assert_eq!(told.len(), GROUPS_MAX);
        assert_eq!(told.iter().map(|(.., counts)| counts[1]).max(), Some(2));
    }
}
